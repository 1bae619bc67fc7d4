import { LogCorruption } from './corruption.ts';
import { createCursor } from './cursor.ts';
import { type LogFiles, readFully } from './files.ts';
import { buildIndex, readIndexFile, recordSizeAt, type SparseIndex, writeIndexFile } from './index-file.ts';
import { checkRecord, MAX_LOGGED_RECORD_BYTES, RECORD_HEADER_BYTES, timeUsAt } from './record.ts';
import { BLOCK_BYTES } from './segment.ts';
import type { Skipped, Tail, TailPart } from './tail.ts';
import type { LogReader } from './types.ts';

/**
 * What readers know of the log: segments up to a durable position, and the tail. Knows nothing of the writer, who
 * only tells it what became durable (`publish`), which segments came (`addSegment`) and which went (`dropOldest`);
 * a reader in another process would be told the same by messages.
 */
export interface Segment {
  readonly path: string;
  readonly firstSeq: number;
  /** Of the newest durable record in it; firstSeq − 1 when it holds none. */
  lastSeq: number;
  /** Durable size. */
  bytes: number;
  /** Log time of the newest durable record at or before its end, µs; 0 when there is none. */
  lastTimeUs: number;
  /** null: not loaded. */
  index: SparseIndex | null;
  /** No more records will come. */
  closed: boolean;
  /** Read descriptor, shared by the cursors that stand in this segment; −1 when not open. */
  fd: number;
  users: number;
}

/** Indexes of closed segments kept in memory at a time: 24 KiB each for 256 MiB segments. */
export const MAX_LOADED_INDEXES = 256;

export interface LogView extends LogReader {
  readonly files: LogFiles;
  /** Of the record checksums. */
  readonly seed: bigint;
  readonly segments: readonly Segment[];
  readonly tail: Tail;
  readonly skipped: Skipped;
  readonly counters: { diskReads: number; tailReads: number };
  /** The segment that holds `seq`, which must be in [oldestSeq, lastSeq]. */
  segmentOf(seq: number): Segment;
  indexOf(segment: Segment): SparseIndex;
  acquire(segment: Segment): number;
  release(segment: Segment): void;
  addSegment(segment: Segment): void;
  /** Takes the oldest segment out of the window. Its file may be removed at once: open descriptors stay valid. */
  dropOldest(): Segment;
  /** These records, at the end of the newest segment, are durable. */
  publish(parts: readonly TailPart[], segmentBytes: number, lastSeq: number, lastTimeUs: number): void;
  close(): void;
}

export const createView = (files: LogFiles, seed: bigint, tail: Tail, initial: Segment[]): LogView => {
  const segments = initial;
  const newest = (): Segment => segments[segments.length - 1]!;
  const skipped: Skipped = { didHashes: new Set(), version: 1 };
  const counters = { diskReads: 0, tailReads: 0 };
  const listeners: ((lastSeq: number) => void)[] = [];
  const loadedIndexes: Segment[] = [];

  /** The last segment for which `before` holds; −1 when it holds for none. It must hold for a prefix. */
  const lastWhere = (before: (segment: Segment) => boolean): number => {
    let low = 0;
    let high = segments.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (before(segments[middle]!)) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  };

  const view: LogView = {
    files,
    seed,
    segments,
    tail,
    skipped,
    counters,
    get oldestSeq() {
      return segments[0]!.firstSeq;
    },
    get lastSeq() {
      return newest().lastSeq;
    },
    get lastTimeUs() {
      return newest().lastTimeUs;
    },
    segmentOf: (seq) => segments[lastWhere((segment) => segment.firstSeq <= seq)]!,
    indexOf: (segment) => {
      if (segment.index !== null) return segment.index;
      let index = readIndexFile(files, segment.path, segment.firstSeq, segment.bytes);
      if (index === null) {
        const fd = view.acquire(segment);
        try {
          index = buildIndex(files, fd, segment.bytes, segment.firstSeq, seed);
        } finally {
          view.release(segment);
        }
        if (segment.closed) writeIndexFile(files, segment.path, segment.firstSeq, segment.bytes, index);
      }
      segment.index = index;
      loadedIndexes.push(segment);
      if (loadedIndexes.length > MAX_LOADED_INDEXES) loadedIndexes.shift()!.index = null;
      return index;
    },
    acquire: (segment) => {
      if (segment.users === 0) segment.fd = files.open(segment.path, 'read');
      segment.users++;
      return segment.fd;
    },
    release: (segment) => {
      if (--segment.users > 0) return;
      files.close(segment.fd);
      segment.fd = -1;
    },
    addSegment: (segment) => {
      const before = newest();
      before.closed = true;
      if (before.index !== null) {
        loadedIndexes.push(before);
        if (loadedIndexes.length > MAX_LOADED_INDEXES) loadedIndexes.shift()!.index = null;
      }
      segments.push(segment);
    },
    dropOldest: () => segments.shift()!,
    publish: (parts, segmentBytes, lastSeq, lastTimeUs) => {
      const segment = newest();
      segment.bytes = segmentBytes;
      segment.lastSeq = lastSeq;
      segment.lastTimeUs = lastTimeUs;
      for (const part of parts) tail.push(part);
      for (const listener of listeners.slice()) {
        try {
          listener(lastSeq);
        } catch (error) {
          // A listener's own fault must not cost the others the news; it still ends the process.
          queueMicrotask(() => {
            throw error;
          });
        }
      }
    },
    openCursor: (seq, options) =>
      createCursor(view, seq, options?.includeSkipped === true, options?.reusesMemory === true),
    seqBeforeTime: (timeUs) => {
      if (timeUs > view.lastTimeUs) return view.lastSeq;
      // All segments that end before the time, then the next one.
      const segment = segments[lastWhere((candidate) => candidate.lastTimeUs < timeUs) + 1]!;
      let { seq, position } = view.indexOf(segment).positionOfTime(timeUs);
      const fd = view.acquire(segment);
      try {
        while (position < segment.bytes) {
          const block = readBlock(view, segment, fd, position);
          for (let at = 0; at < block.end; at += recordSizeAt(block.view, at), seq++) {
            const damage = checkRecord(block.bytes, block.view, at, block.end, seq, seed);
            if (damage !== null) throw new LogCorruption(segment.path, position + at, damage);
            if (timeUsAt(block.view, at) >= timeUs) return seq - 1;
          }
          position += block.end;
        }
      } finally {
        view.release(segment);
      }
      // Only an empty segment, whose records all precede it, gets here.
      return segment.lastSeq;
    },
    onDurable: (listener) => {
      listeners.push(listener);
      return () => {
        const at = listeners.indexOf(listener);
        if (at >= 0) listeners.splice(at, 1);
      };
    },
    setSkippedDids: (didHashes) => {
      skipped.didHashes = new Set(didHashes);
      skipped.version++;
    },
    close: () => {
      listeners.length = 0;
    },
  };
  return view;
};

/** Whole records read from a segment: [0, end) of `bytes`. */
export interface Block {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** End of the last record that is whole by its length; not yet checked. */
  readonly end: number;
}

/** Unzeroed: all of it is read over, and only what was read is looked at. */
const allocate = (length: number): Uint8Array => {
  const buffer = Buffer.allocUnsafeSlow(length);
  return new Uint8Array(buffer.buffer, buffer.byteOffset, length);
};

/**
 * Reads about BLOCK_BYTES of records at `position` of a segment, or the one record there when it is larger. Never
 * past what is durable. The bytes are the reader's to keep; with `room`, which is BLOCK_BYTES long, they stand in it
 * whenever they fit.
 */
export const readBlock = (
  view: LogView,
  segment: Segment,
  fd: number,
  position: number,
  room: Uint8Array | null = null,
): Block => {
  view.counters.diskReads++;
  let want = BLOCK_BYTES;
  for (;;) {
    const limit = Math.min(want, segment.bytes - position);
    const bytes = room !== null && limit <= room.length ? room.subarray(0, limit) : allocate(limit);
    const length = readFully(view.files, fd, bytes, limit, position);
    if (length < limit) throw new LogCorruption(segment.path, position + length, 'segment size');
    const data = new DataView(bytes.buffer, bytes.byteOffset, limit);
    let end = 0;
    let next = 0;
    while (length - end >= RECORD_HEADER_BYTES) {
      next = recordSizeAt(data, end);
      if (next === RECORD_HEADER_BYTES || next > MAX_LOGGED_RECORD_BYTES) {
        // The damage may be in the length of a record before, whose check will tell: give those out first.
        if (end > 0) break;
        throw new LogCorruption(segment.path, position, 'record length');
      }
      if (next > length - end) break;
      end += next;
    }
    if (end > 0) return { bytes, view: data, end };
    if (position + Math.max(next, RECORD_HEADER_BYTES) > segment.bytes)
      throw new LogCorruption(segment.path, position, 'record cut off');
    want = next;
  }
};
