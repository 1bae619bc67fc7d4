/**
 * Records of the log on their way to the thread of the index: one stretch of shared memory.
 * Pure.
 *
 *   8  seq of the last record that it stands for, also of those left out   float64
 *   8  log time of that record, µs                                         float64
 *   8  length of all this in bytes; the memory may be longer               float64
 *   then per record: 4 host id · 4 frame length · 4 flags (bit 0 = discontinuity) · the frame
 *
 * Little-endian. Records of kinds that tell the index nothing are left out.
 */
import { KIND } from '../firehose/types.ts';
import type { LogRecord } from '../log/types.ts';

const HEADER_BYTES = 24;
const RECORD_BYTES = 12;

export interface BatchRecord {
  readonly hostId: number;
  readonly discontinuity: boolean;
  readonly frame: Uint8Array;
}

const isTelling = ({ kind }: LogRecord): boolean =>
  kind === KIND.commit || kind === KIND.account || kind === KIND.sync;

/** Bytes of the batch of these records. */
export const batchBytes = (records: readonly LogRecord[]): number => {
  let size = HEADER_BYTES;
  for (const record of records) if (isTelling(record)) size += RECORD_BYTES + record.frame.length;
  return size;
};

/** Copies records, at least one, into memory of at least `batchBytes`. */
export const encodeBatch = (records: readonly LogRecord[], memory: SharedArrayBuffer): void => {
  const bytes = new Uint8Array(memory);
  const view = new DataView(memory);
  const last = records[records.length - 1]!;
  view.setFloat64(0, last.seq, true);
  view.setFloat64(8, last.timeUs, true);
  let at = HEADER_BYTES;
  for (const record of records) {
    if (!isTelling(record)) continue;
    view.setUint32(at, record.hostId, true);
    view.setUint32(at + 4, record.frame.length, true);
    view.setUint32(at + 8, record.discontinuity === true ? 1 : 0, true);
    bytes.set(record.frame, at + RECORD_BYTES);
    at += RECORD_BYTES + record.frame.length;
  }
  view.setFloat64(16, at, true);
};

/** Frames are views of `memory`. */
export const decodeBatch = (
  memory: SharedArrayBuffer,
): { readonly seq: number; readonly timeUs: number; readonly records: readonly BatchRecord[] } => {
  const view = new DataView(memory);
  const records: BatchRecord[] = [];
  const size = view.getFloat64(16, true);
  for (let at = HEADER_BYTES; at < size; ) {
    const length = view.getUint32(at + 4, true);
    records.push({
      hostId: view.getUint32(at, true),
      discontinuity: (view.getUint32(at + 8, true) & 1) !== 0,
      frame: new Uint8Array(memory, at + RECORD_BYTES, length),
    });
    at += RECORD_BYTES + length;
  }
  return { seq: view.getFloat64(0, true), timeUs: view.getFloat64(8, true), records };
};
