import type { Kind } from '../firehose/types.ts';
import type { Damage } from './corruption.ts';
import type { LogEntry, LogRecord } from './types.ts';

/**
 * One record of the log. All numbers are unsigned, little-endian and unaligned; records follow one another
 * without padding.
 *
 *   offset  bytes
 *        0      8  checksum: XXH3-64, seeded with the log's seed, of the bytes [8, 52 + frame length)
 *        8      4  frame length, at least 1
 *       12      4  host id
 *       16      8  seq
 *       24      8  log time, µs since the epoch
 *       32      8  upstream seq
 *       40      8  DID hash, 53 bits (did-hash.ts)
 *       48      1  kind (KIND of firehose/types.ts)
 *       49      1  flags: bit 0 = first record of a group commit; bit 1 = a commit that does not follow on the one before
 *       50      2  number of ops
 *       52      …  the frame as a consumer gets it
 *
 * XXH3 because it costs 0.17 µs per 3.5 KB against 0.37 for CRC-32, at 64 bits instead of 32.
 *
 * The seed is a random number of each log, kept in its segment headers: without it, a frame could hold bytes that look
 * like a record of ours, which the search behind damage would take for one.
 *
 * A group is written only after the group before it is durable. So a valid record with the group flag proves that
 * everything before it once was durable: recovery can tell a torn tail (cut it off) from damage (stop).
 */
export const RECORD_HEADER_BYTES = 52;
export const FLAG_GROUP_START = 1;
export const FLAG_DISCONTINUITY = 2;

/** No frame is larger (frames are at most 5 MB, and a splice adds at most 8 bytes): a larger length is damage. */
export const MAX_LOGGED_FRAME_BYTES = 5_000_016;
export const MAX_LOGGED_RECORD_BYTES = RECORD_HEADER_BYTES + MAX_LOGGED_FRAME_BYTES;

const TWO_32 = 4_294_967_296;

/** Reads an unsigned 64-bit little-endian integer; exact up to 2^53 − 1. */
export const getUint53 = (view: DataView, at: number): number =>
  view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;

/** Writes an integer of 0…2^53 − 1 as unsigned 64-bit little-endian. */
export const setUint53 = (view: DataView, at: number, value: number): void => {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, (value / TWO_32) >>> 0, true);
};

/** Bytes of the minimal CBOR encoding of an unsigned integer. */
export const cborUintBytes = (value: number): number =>
  value < 24 ? 1 : value < 0x100 ? 2 : value < 0x10000 ? 3 : value < TWO_32 ? 5 : 9;

/** Writes the minimal CBOR encoding (RFC 8949, section 4.2.1) of an unsigned integer. */
export const writeCborUint = (view: DataView, at: number, value: number): void => {
  if (value < 24) view.setUint8(at, value);
  else if (value < 0x100) view.setUint16(at, 0x1800 | value);
  else if (value < 0x10000) {
    view.setUint8(at, 0x19);
    view.setUint16(at + 1, value);
  } else if (value < TWO_32) {
    view.setUint8(at, 0x1a);
    view.setUint32(at + 1, value);
  } else {
    view.setUint8(at, 0x1b);
    view.setUint32(at + 1, (value / TWO_32) >>> 0);
    view.setUint32(at + 5, value >>> 0);
  }
};

/** Bytes the record of this entry takes under this seq. */
export const recordBytes = (entry: LogEntry, seq: number): number =>
  RECORD_HEADER_BYTES + entry.frame.length - (entry.seqEnd - entry.seqStart) + cborUintBytes(seq);

/**
 * Writes one record of `size` (= recordBytes) at `at`. The frame is copied once, its seq value replaced on the way;
 * the entry's frame is left as it was.
 */
export const writeRecord = (
  bytes: Uint8Array,
  view: DataView,
  at: number,
  size: number,
  entry: LogEntry,
  seq: number,
  timeUs: number,
  flags: number,
  seed: bigint,
): void => {
  const { frame, seqStart } = entry;
  const body = at + RECORD_HEADER_BYTES;
  // The frame is set so that what follows the seq is in its place, then what precedes it is moved back: no views.
  // It may start before the body by the bytes the seq shrinks (at most 8): inside our own header, written below.
  const shift = size - RECORD_HEADER_BYTES - frame.length;
  bytes.set(frame, body + shift);
  if (shift !== 0) bytes.copyWithin(body, body + shift, body + shift + seqStart);
  writeCborUint(view, body + seqStart, seq);

  view.setUint32(at + 8, size - RECORD_HEADER_BYTES, true);
  view.setUint32(at + 12, entry.hostId, true);
  setUint53(view, at + 16, seq);
  setUint53(view, at + 24, timeUs);
  setUint53(view, at + 32, entry.upstreamSeq);
  setUint53(view, at + 40, entry.didHash);
  view.setUint8(at + 48, entry.kind);
  view.setUint8(at + 49, flags);
  view.setUint16(at + 50, entry.opCount, true);
  view.setBigUint64(at, Bun.hash.xxHash3(bytes.subarray(at + 8, at + size), seed) as bigint, true);
};

/** Frame length of the record at `at`; not checked. */
export const frameLengthAt = (view: DataView, at: number): number => view.getUint32(at + 8, true);
export const seqAt = (view: DataView, at: number): number => getUint53(view, at + 16);
export const timeUsAt = (view: DataView, at: number): number => getUint53(view, at + 24);
export const flagsAt = (view: DataView, at: number): number => view.getUint8(at + 49);

/** How long after a record the next one is at the earliest, µs: each op of a commit has a log time of its own. */
export const timeRoomUs = (opCount: number): number => Math.max(opCount, 1);

/**
 * Checks the record at `at` within [at, end): null when it is whole, what is wrong otherwise.
 * `seq` is the seq it must have.
 */
export const checkRecord = (
  bytes: Uint8Array,
  view: DataView,
  at: number,
  end: number,
  seq: number,
  seed: bigint,
): Damage | null => {
  if (end - at < RECORD_HEADER_BYTES) return 'record cut off';
  const length = frameLengthAt(view, at);
  if (length === 0 || length > MAX_LOGGED_FRAME_BYTES) return 'record length';
  const size = RECORD_HEADER_BYTES + length;
  if (size > end - at) return 'record cut off';
  if (view.getBigUint64(at, true) !== (Bun.hash.xxHash3(bytes.subarray(at + 8, at + size), seed) as bigint))
    return 'record checksum';
  return seqAt(view, at) === seq ? null : 'seq not continuous';
};

/** Makes the record at `at`, which was checked; its frame is a view of `bytes`. */
export const readRecord = (bytes: Uint8Array, view: DataView, at: number): LogRecord => {
  const body = at + RECORD_HEADER_BYTES;
  return {
    seq: getUint53(view, at + 16),
    timeUs: getUint53(view, at + 24),
    hostId: view.getUint32(at + 12, true),
    upstreamSeq: getUint53(view, at + 32),
    kind: view.getUint8(at + 48) as Kind,
    opCount: view.getUint16(at + 50, true),
    didHash: getUint53(view, at + 40),
    frame: bytes.subarray(body, body + view.getUint32(at + 8, true)),
    discontinuity: (flagsAt(view, at) & FLAG_DISCONTINUITY) !== 0,
  };
};
