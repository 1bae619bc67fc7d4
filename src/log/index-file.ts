import path from 'node:path';
import { type LogFiles, readFully } from './files.ts';
import { frameLengthAt, getUint53, RECORD_HEADER_BYTES, seqAt, setUint53, timeUsAt } from './record.ts';
import { SEGMENT_HEADER_BYTES, scanRecords } from './segment.ts';

/**
 * The sparse index of one segment: the place of one record about every STEP_BYTES, so that finding a seq or a time
 * costs at most one block. In memory for the segment being written; beside a closed segment as NAME.idx, which is
 * only a shortcut: whatever is wrong with it, it is rebuilt from the segment.
 *
 * File: u64 first seq, u64 segment size, u64 number of entries, entries of (u64 seq, u64 log time µs, u64 position),
 * u64 XXH3-64 of all before.
 */
export interface SparseIndex {
  readonly length: number;
  /** Notes a record; kept only when it is far enough from the one noted before. */
  note(seq: number, timeUs: number, position: number): void;
  /** Position of the last noted record with seq ≤ the given one. */
  positionOfSeq(seq: number): { readonly seq: number; readonly position: number };
  /** The last noted record with log time < the given one; the first one when there is none. */
  positionOfTime(timeUs: number): { readonly seq: number; readonly position: number };
  encode(firstSeq: number, segmentBytes: number): Uint8Array;
}

/** Half a block, so that what is searched for is in the block that is read (but for records larger than that). */
const STEP_BYTES = 128 * 1024;

export const createSparseIndex = (firstSeq: number): SparseIndex => {
  const seqs: number[] = [];
  const times: number[] = [];
  const positions: number[] = [];

  const last = (values: readonly number[], below: number): number => {
    let low = 0;
    let high = values.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (values[middle]! < below) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  };
  const entry = (index: number) =>
    index < 0
      ? { seq: seqs[0] ?? firstSeq, position: positions[0] ?? SEGMENT_HEADER_BYTES }
      : { seq: seqs[index]!, position: positions[index]! };

  return {
    get length() {
      return seqs.length;
    },
    note: (seq, timeUs, position) => {
      const before = positions.length === 0 ? -STEP_BYTES : positions[positions.length - 1]!;
      if (position - before < STEP_BYTES) return;
      seqs.push(seq);
      times.push(timeUs);
      positions.push(position);
    },
    positionOfSeq: (seq) => entry(last(seqs, seq + 1)),
    positionOfTime: (timeUs) => entry(last(times, timeUs)),
    encode: (firstSeq, segmentBytes) => {
      const bytes = new Uint8Array(32 + 24 * seqs.length);
      const view = new DataView(bytes.buffer);
      setUint53(view, 0, firstSeq);
      setUint53(view, 8, segmentBytes);
      setUint53(view, 16, seqs.length);
      for (let i = 0; i < seqs.length; i++) {
        setUint53(view, 24 + 24 * i, seqs[i]!);
        setUint53(view, 32 + 24 * i, times[i]!);
        setUint53(view, 40 + 24 * i, positions[i]!);
      }
      view.setBigUint64(bytes.length - 8, Bun.hash.xxHash3(bytes.subarray(0, -8)) as bigint, true);
      return bytes;
    },
  };
};

/** The index in these bytes; null unless it is whole and of exactly this segment. */
export const decodeSparseIndex = (
  bytes: Uint8Array,
  firstSeq: number,
  segmentBytes: number,
): SparseIndex | null => {
  if (bytes.length < 32 || (bytes.length - 32) % 24 !== 0) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const entries = (bytes.length - 32) / 24;
  if (view.getBigUint64(bytes.length - 8, true) !== (Bun.hash.xxHash3(bytes.subarray(0, -8)) as bigint))
    return null;
  if (getUint53(view, 0) !== firstSeq || getUint53(view, 8) !== segmentBytes) return null;
  if (getUint53(view, 16) !== entries) return null;
  const index = createSparseIndex(firstSeq);
  for (let i = 0; i < entries; i++) {
    const at = 24 + 24 * i;
    index.note(getUint53(view, at), getUint53(view, at + 8), getUint53(view, at + 16));
  }
  return index;
};

export const indexName = (segmentName: string): string => segmentName.replace(/\.seg$/, '.idx');

/** Reads the index beside a closed segment; null when it is absent or not of use. */
export const readIndexFile = (
  files: LogFiles,
  segmentPath: string,
  firstSeq: number,
  segmentBytes: number,
): SparseIndex | null => {
  let fd: number;
  try {
    fd = files.open(path.join(path.dirname(segmentPath), indexName(path.basename(segmentPath))), 'read');
  } catch {
    return null;
  }
  try {
    const bytes = new Uint8Array(files.size(fd));
    return decodeSparseIndex(
      bytes.subarray(0, readFully(files, fd, bytes, bytes.length, 0)),
      firstSeq,
      segmentBytes,
    );
  } finally {
    files.close(fd);
  }
};

/** Writes the index of a closed segment. Not synced: a torn one is rebuilt. A failure is not worth a stop. */
export const writeIndexFile = (
  files: LogFiles,
  segmentPath: string,
  firstSeq: number,
  segmentBytes: number,
  index: SparseIndex,
): void => {
  try {
    const fd = files.open(
      path.join(path.dirname(segmentPath), indexName(path.basename(segmentPath))),
      'write',
    );
    try {
      const bytes = index.encode(firstSeq, segmentBytes);
      files.truncate(fd, 0);
      let done = 0;
      while (done < bytes.length) done += files.write(fd, bytes, done, bytes.length - done, done);
    } finally {
      files.close(fd);
    }
  } catch {
    // Disk full, most likely. The index is built from the segment when it is wanted.
  }
};

/** Builds the index by reading the whole segment; stops at damage (a reader of that place will report it). */
export const buildIndex = (
  files: LogFiles,
  fd: number,
  segmentBytes: number,
  firstSeq: number,
  seed: bigint,
): SparseIndex => {
  const index = createSparseIndex(firstSeq);
  scanRecords(
    files,
    fd,
    SEGMENT_HEADER_BYTES,
    segmentBytes,
    firstSeq,
    0,
    seed,
    (_bytes, view, at, position) => {
      index.note(seqAt(view, at), timeUsAt(view, at), position);
    },
  );
  return index;
};

export const recordSizeAt = (view: DataView, at: number): number =>
  RECORD_HEADER_BYTES + frameLengthAt(view, at);
