/**
 * A batch as one buffer, so that it can be handed to another thread without copying or cloning objects.
 * Private to weir: both ends are always of the same build.
 */
import { latin1 } from '../firehose/cbor.ts';
import type { Kind } from '../firehose/types.ts';
import { REASONS, type Reason } from '../reasons.ts';
import type { HostProgress, IngestBatch, IngestRejection, VerifiedEvent } from './types.ts';

/** Fixed part of an event: see the writes below. */
const EVENT_HEAD_BYTES = 40;
const BATCH_HEAD_BYTES = 24;
const PROGRESS_BYTES = 16;
const DIGEST_BYTES = 32;

const HAS_DIGESTS = 1;
const HAS_PREV_DATA = 2;
const HAS_SINCE = 4;
const HAS_STATUS = 8;
const HAS_HANDLE = 16;
const ACTIVE = 32;

const NO_REASON = 255;
const reasonNumbers = new Map<Reason, number>(REASONS.map((reason, number) => [reason, number]));

const eventBytes = (event: VerifiedEvent): number =>
  EVENT_HEAD_BYTES +
  event.did.length +
  event.rev.length +
  (event.since?.length ?? 0) +
  (event.status === null ? 0 : Buffer.byteLength(event.status)) +
  (event.handle === null ? 0 : Buffer.byteLength(event.handle)) +
  (event.data === null ? 0 : 2 * DIGEST_BYTES) +
  (event.prevData === null ? 0 : DIGEST_BYTES) +
  event.frame.length;

/** Encodes a batch into memory that `take` gives: at least as many bytes as it is asked for, whatever is in them. */
export const encodeBatch = <Memory extends ArrayBufferLike>(
  batch: IngestBatch,
  take: (bytes: number) => Memory,
): Memory => {
  const rejections = batch.rejections.length === 0 ? '' : JSON.stringify(batch.rejections);
  const rejectionsBytes = Buffer.byteLength(rejections);
  let total = BATCH_HEAD_BYTES + PROGRESS_BYTES * batch.progress.length + rejectionsBytes;
  for (let index = 0; index < batch.events.length; index++) total += eventBytes(batch.events[index]!);
  const memory = take(total);
  const bytes = Buffer.from(memory);
  bytes.writeUInt32LE(batch.events.length, 0);
  bytes.writeUInt32LE(batch.progress.length, 4);
  bytes.writeUInt32LE(rejectionsBytes, 8);
  bytes.writeDoubleLE(batch.bytes, 16);
  let at = BATCH_HEAD_BYTES;
  for (const { hostId, cursor, held } of batch.progress) {
    bytes.writeUInt32LE(hostId, at);
    bytes.writeDoubleLE(cursor, at + 4);
    bytes.writeUInt32LE(held, at + 12);
    at += PROGRESS_BYTES;
  }
  at += bytes.write(rejections, at, 'utf8');
  for (let index = 0; index < batch.events.length; index++) {
    const event = batch.events[index]!;
    let flags = event.active ? ACTIVE : 0;
    let end = at + EVENT_HEAD_BYTES;
    end += bytes.write(event.did, end, 'latin1');
    end += bytes.write(event.rev, end, 'latin1');
    if (event.since !== null) {
      flags |= HAS_SINCE;
      end += bytes.write(event.since, end, 'latin1');
    }
    let statusBytes = 0;
    if (event.status !== null) {
      flags |= HAS_STATUS;
      statusBytes = bytes.write(event.status, end, 'utf8');
      end += statusBytes;
    }
    let handleBytes = 0;
    if (event.handle !== null) {
      flags |= HAS_HANDLE;
      handleBytes = bytes.write(event.handle, end, 'utf8');
      end += handleBytes;
    }
    if (event.data !== null) {
      flags |= HAS_DIGESTS;
      bytes.write(event.commit!, end, 'latin1');
      bytes.write(event.data, end + DIGEST_BYTES, 'latin1');
      end += 2 * DIGEST_BYTES;
    }
    if (event.prevData !== null) {
      flags |= HAS_PREV_DATA;
      end += bytes.write(event.prevData, end, 'latin1');
    }
    bytes.writeUInt32LE(event.hostId, at);
    bytes[at + 4] = event.kind;
    bytes[at + 5] = flags;
    bytes.writeUInt16LE(event.opCount, at + 6);
    bytes.writeDoubleLE(event.upstreamSeq, at + 8);
    bytes.writeUInt32LE(event.seqStart, at + 16);
    bytes.writeUInt32LE(event.seqEnd, at + 20);
    bytes.writeUInt32LE(event.frame.length, at + 24);
    bytes.writeUInt16LE(event.did.length, at + 28);
    bytes[at + 30] = event.rev.length;
    bytes[at + 31] = event.since?.length ?? 0;
    bytes.writeUInt16LE(statusBytes, at + 32);
    bytes.writeUInt16LE(handleBytes, at + 34);
    bytes[at + 36] = event.lenient === null ? NO_REASON : reasonNumbers.get(event.lenient)!;
    bytes.set(event.frame, end);
    at = end + event.frame.length;
  }
  return memory;
};

/** Decodes what `encodeBatch` made. Frames are views of the memory. */
export const decodeBatch = (memory: ArrayBufferLike): IngestBatch => {
  const bytes = Buffer.from(memory);
  const eventCount = bytes.readUInt32LE(0);
  const progressCount = bytes.readUInt32LE(4);
  const rejectionsBytes = bytes.readUInt32LE(8);
  let at = BATCH_HEAD_BYTES;
  const progress: HostProgress[] = [];
  for (let index = 0; index < progressCount; index++) {
    progress.push({
      hostId: bytes.readUInt32LE(at),
      cursor: bytes.readDoubleLE(at + 4),
      held: bytes.readUInt32LE(at + 12),
    });
    at += PROGRESS_BYTES;
  }
  const rejections: IngestRejection[] =
    rejectionsBytes === 0 ? [] : JSON.parse(bytes.toString('utf8', at, at + rejectionsBytes));
  at += rejectionsBytes;
  const events: VerifiedEvent[] = [];
  for (let index = 0; index < eventCount; index++) {
    const flags = bytes[at + 5]!;
    const frameBytes = bytes.readUInt32LE(at + 24);
    const lenient = bytes[at + 36]!;
    let end = at + EVENT_HEAD_BYTES;
    const ascii = (length: number): string => {
      end += length;
      return latin1(bytes, end - length, end);
    };
    const utf8 = (length: number): string => {
      end += length;
      return bytes.toString('utf8', end - length, end);
    };
    const did = ascii(bytes.readUInt16LE(at + 28));
    const rev = ascii(bytes[at + 30]!);
    const since = flags & HAS_SINCE ? ascii(bytes[at + 31]!) : null;
    const status = flags & HAS_STATUS ? utf8(bytes.readUInt16LE(at + 32)) : null;
    const handle = flags & HAS_HANDLE ? utf8(bytes.readUInt16LE(at + 34)) : null;
    const commit = flags & HAS_DIGESTS ? ascii(DIGEST_BYTES) : null;
    const data = flags & HAS_DIGESTS ? ascii(DIGEST_BYTES) : null;
    const prevData = flags & HAS_PREV_DATA ? ascii(DIGEST_BYTES) : null;
    events.push({
      hostId: bytes.readUInt32LE(at),
      kind: bytes[at + 4] as Kind,
      opCount: bytes.readUInt16LE(at + 6),
      upstreamSeq: bytes.readDoubleLE(at + 8),
      seqStart: bytes.readUInt32LE(at + 16),
      seqEnd: bytes.readUInt32LE(at + 20),
      did,
      rev,
      since,
      status,
      handle,
      commit,
      data,
      prevData,
      lenient: lenient === NO_REASON ? null : REASONS[lenient]!,
      active: (flags & ACTIVE) !== 0,
      frame: bytes.subarray(end, end + frameBytes),
    });
    at = end + frameBytes;
  }
  return { events, rejections, progress, bytes: bytes.readDoubleLE(16) };
};
