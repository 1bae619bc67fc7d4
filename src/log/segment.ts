import type { Damage } from './corruption.ts';
import { type LogFiles, readFully } from './files.ts';
import {
  checkRecord,
  FLAG_GROUP_START,
  flagsAt,
  frameLengthAt,
  getUint53,
  MAX_LOGGED_RECORD_BYTES,
  RECORD_HEADER_BYTES,
  seqAt,
  setUint53,
  timeUsAt,
} from './record.ts';

/**
 * A segment is one file of the log, named by its first seq: a header, then records. Numbers as in record.ts.
 *
 *   offset  bytes
 *        0      8  magic: 'weirlog' and a newline
 *        8      4  version, 1
 *       12      4  seed of the record checksums: random, the same in all segments of a log
 *       16      8  first seq
 *       24      8  first seq of the segment before; 0 for the first segment of a log
 *       32      8  size of the segment before, bytes
 *       40      8  log time of the last record before this segment, µs; 0 when there was none
 *       48      8  earliest log time a record of this segment may have, µs
 *       56      8  checksum: XXH3-64 of the bytes [0, 56)
 *
 * The header is durable before the first record is written. It repeats what is known of the segment before, so that
 * reading all headers proves that none is missing or cut short, without reading the records.
 */
export const SEGMENT_HEADER_BYTES = 64;
const SEGMENT_VERSION = 1;
const MAGIC = new TextEncoder().encode('weirlog\n');

export interface SegmentHeader {
  readonly seed: number;
  readonly firstSeq: number;
  readonly previousFirstSeq: number;
  readonly previousBytes: number;
  readonly previousTimeUs: number;
  readonly earliestTimeUs: number;
}

/** Reads of segments are of this size: large enough for disk speed, small enough for 1,000 readers. */
export const BLOCK_BYTES = 256 * 1024;

/** The file name of the segment that starts with this seq; names sort like seqs. */
export const segmentName = (firstSeq: number): string => `${String(firstSeq).padStart(16, '0')}.seg`;

/** First seq by file name; null when it is not a segment's name. */
export const seqOfSegmentName = (name: string): number | null => {
  const match = /^(\d{16})\.seg$/.exec(name);
  return match === null ? null : Number(match[1]);
};

export const encodeSegmentHeader = (header: SegmentHeader): Uint8Array => {
  const bytes = new Uint8Array(SEGMENT_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  view.setUint32(8, SEGMENT_VERSION, true);
  view.setUint32(12, header.seed, true);
  setUint53(view, 16, header.firstSeq);
  setUint53(view, 24, header.previousFirstSeq);
  setUint53(view, 32, header.previousBytes);
  setUint53(view, 40, header.previousTimeUs);
  setUint53(view, 48, header.earliestTimeUs);
  view.setBigUint64(56, Bun.hash.xxHash3(bytes.subarray(0, 56)) as bigint, true);
  return bytes;
};

/** The header, or null when the bytes are not one. */
export const decodeSegmentHeader = (bytes: Uint8Array): SegmentHeader | null => {
  if (bytes.length < SEGMENT_HEADER_BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, SEGMENT_HEADER_BYTES);
  for (let i = 0; i < MAGIC.length; i++) if (bytes[i] !== MAGIC[i]) return null;
  if (view.getBigUint64(56, true) !== (Bun.hash.xxHash3(bytes.subarray(0, 56)) as bigint)) return null;
  if (view.getUint32(8, true) !== SEGMENT_VERSION) return null;
  return {
    seed: view.getUint32(12, true),
    firstSeq: getUint53(view, 16),
    previousFirstSeq: getUint53(view, 24),
    previousBytes: getUint53(view, 32),
    previousTimeUs: getUint53(view, 40),
    earliestTimeUs: getUint53(view, 48),
  };
};

/** Reads the header of an open segment; null when it is not one. */
export const readSegmentHeader = (files: LogFiles, fd: number): SegmentHeader | null => {
  const bytes = new Uint8Array(SEGMENT_HEADER_BYTES);
  return decodeSegmentHeader(bytes.subarray(0, readFully(files, fd, bytes, bytes.length, 0)));
};

/** Where a scan stopped: after the last whole record, and why if not at the end. */
export interface ScanEnd {
  /** Position after the last whole record. */
  readonly end: number;
  /** The seq the next record would have. */
  readonly nextSeq: number;
  /** What is wrong with the bytes at `end`; null when they end there. */
  readonly damage: Damage | null;
}

/** Called for each whole record; `at` is its place in `bytes`, `position` its place in the file. */
export type RecordVisitor = (bytes: Uint8Array, view: DataView, at: number, position: number) => void;

/**
 * Reads records in order from `position` to `size`, checks each (checksum, seq, log time strictly increasing from
 * `afterTimeUs`), and stops at the first that is not whole.
 */
export const scanRecords = (
  files: LogFiles,
  fd: number,
  position: number,
  size: number,
  firstSeq: number,
  afterTimeUs: number,
  seed: bigint,
  visit: RecordVisitor,
): ScanEnd => {
  let bytes = new Uint8Array(BLOCK_BYTES);
  let view = new DataView(bytes.buffer);
  let seq = firstSeq;
  let lastTimeUs = afterTimeUs;
  while (position < size) {
    const length = readFully(files, fd, bytes, Math.min(bytes.length, size - position), position);
    const atEnd = length < bytes.length || position + length >= size;
    let at = 0;
    let damage: Damage | null = null;
    while (at < length) {
      damage = checkRecord(bytes, view, at, length, seq, seed);
      if (damage === null && timeUsAt(view, at) <= lastTimeUs) damage = 'log time not increasing';
      if (damage !== null) break;
      visit(bytes, view, at, position + at);
      lastTimeUs = timeUsAt(view, at);
      at += RECORD_HEADER_BYTES + frameLengthAt(view, at);
      seq++;
    }
    position += at;
    if (damage === null) continue;
    if (damage !== 'record cut off' || atEnd) return { end: position, nextSeq: seq, damage };
    if (at === 0) {
      // One record is larger than the buffer.
      bytes = new Uint8Array(MAX_LOGGED_RECORD_BYTES);
      view = new DataView(bytes.buffer);
    }
  }
  return { end: position, nextSeq: seq, damage: null };
};

/** A whole record found behind damage. */
export interface FoundRecord {
  readonly position: number;
  readonly seq: number;
  readonly groupStart: boolean;
}

/** Seqs further ahead than this cannot stand behind damage in the same segment (a segment holds far fewer). */
const MAX_SEQ_JUMP = 2 ** 32;

/**
 * Searches [position, size) byte by byte for the next whole record with a seq ≥ `minSeq`; with `groupStartOnly`,
 * for one that starts a group. null when there is none. Only used once damage was found.
 */
export const findRecord = (
  files: LogFiles,
  fd: number,
  position: number,
  size: number,
  minSeq: number,
  groupStartOnly: boolean,
  seed: bigint,
): FoundRecord | null => {
  const bytes = new Uint8Array(Math.min(size - position, BLOCK_BYTES + MAX_LOGGED_RECORD_BYTES));
  const view = new DataView(bytes.buffer);
  while (position < size) {
    const length = readFully(files, fd, bytes, Math.min(bytes.length, size - position), position);
    if (length < RECORD_HEADER_BYTES) return null;
    const last = position + length >= size ? length - RECORD_HEADER_BYTES : BLOCK_BYTES - 1;
    for (let at = 0; at <= last; at++) {
      const seq = seqAt(view, at);
      if (seq < minSeq || seq > minSeq + MAX_SEQ_JUMP) continue;
      const groupStart = (flagsAt(view, at) & FLAG_GROUP_START) !== 0;
      if (groupStartOnly && !groupStart) continue;
      if (checkRecord(bytes, view, at, length, seq, seed) === null)
        return { position: position + at, seq, groupStart };
    }
    position += last + 1;
  }
  return null;
};
