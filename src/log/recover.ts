import path from 'node:path';
import { LogCorruption } from './corruption.ts';
import { type LogFiles, readFully } from './files.ts';
import { createSparseIndex, type SparseIndex } from './index-file.ts';
import { seqAt, timeRoomUs, timeUsAt } from './record.ts';
import {
  BLOCK_BYTES,
  findRecord,
  readSegmentHeader,
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
  scanRecords,
  segmentName,
  seqOfSegmentName,
} from './segment.ts';

/**
 * What a log directory holds after whatever ended the last writer. A tail that was never durable is cut off and
 * counted; anything else that is not as written stops the start.
 */
export interface RecoveredSegment {
  readonly path: string;
  readonly header: SegmentHeader;
  readonly bytes: number;
  readonly lastSeq: number;
  /** Log time of its last record or, when it has none, of the last one before it. */
  readonly lastTimeUs: number;
}

export interface Recovered {
  /** Oldest first; the last one goes on being written. Empty for a new log. */
  readonly segments: readonly RecoveredSegment[];
  /** Of the last segment. */
  readonly index: SparseIndex;
  /** Log time of the last segment's first record, µs; 0 when it holds none. */
  readonly firstTimeUs: number;
  /** Earliest log time of the next record, µs. */
  readonly nextTimeUs: number;
  readonly truncatedTailBytes: number;
}

/** First seqs of the segments in the directory, ascending. */
export const listSegments = (files: LogFiles, dir: string): number[] =>
  files
    .list(dir)
    .map(seqOfSegmentName)
    .filter((seq) => seq !== null)
    .sort((a, b) => a - b);

/** Whether everything from `position` on is zero: a file that was extended, but whose bytes never came. */
const isZeroFrom = (files: LogFiles, fd: number, position: number, size: number): boolean => {
  const bytes = new Uint8Array(BLOCK_BYTES);
  while (position < size) {
    const length = readFully(files, fd, bytes, Math.min(bytes.length, size - position), position);
    if (length === 0) return true;
    for (let i = 0; i < length; i++) if (bytes[i] !== 0) return false;
    position += length;
  }
  return true;
};

/**
 * Checks that `header` is of the segment named by `firstSeq` and follows the one before it; throws LogCorruption.
 */
export const checkChain = (
  file: string,
  firstSeq: number,
  header: SegmentHeader,
  before: { readonly header: SegmentHeader; readonly path: string; readonly bytes: number } | null,
): void => {
  if (header.firstSeq !== firstSeq)
    throw new LogCorruption(file, 16, 'segment header', `its header says first seq ${header.firstSeq}`);
  if (before === null) return;
  if (header.seed !== before.header.seed)
    throw new LogCorruption(file, 12, 'segment header', 'it is of another log');
  if (header.previousFirstSeq !== before.header.firstSeq)
    throw new LogCorruption(
      file,
      24,
      'segment missing',
      `${segmentName(header.previousFirstSeq)} should stand between ${path.basename(before.path)} and this one`,
    );
  if (header.previousBytes !== before.bytes)
    throw new LogCorruption(
      before.path,
      Math.min(before.bytes, header.previousBytes),
      'segment size',
      `${before.bytes} bytes, not ${header.previousBytes}`,
    );
};

/**
 * Reads all segment headers and the whole newest segment, cuts off a torn tail. When it returns, all that is left is
 * durable. The caller holds the lock.
 */
export const recover = async (
  files: LogFiles,
  dir: string,
  warn: (message: string) => void,
): Promise<Recovered> => {
  const firstSeqs = listSegments(files, dir);
  const segments: RecoveredSegment[] = [];
  let truncatedTailBytes = 0;
  let index = createSparseIndex(1);
  let firstTimeUs = 0;
  let nextTimeUs = 0;

  for (let i = 0; i < firstSeqs.length; i++) {
    const firstSeq = firstSeqs[i]!;
    const newest = i === firstSeqs.length - 1;
    const file = path.join(dir, segmentName(firstSeq));
    const before = segments[segments.length - 1] ?? null;
    const fd = files.open(file, newest ? 'write' : 'read');
    try {
      const size = files.size(fd);
      const header = readSegmentHeader(files, fd);
      if (header === null) {
        // A header is durable before the first record: without one, a file is either a creation cut short or damaged.
        const torn = newest && (size <= SEGMENT_HEADER_BYTES || isZeroFrom(files, fd, 0, size));
        if (!torn) throw new LogCorruption(file, 0, 'segment header');
        warn(`log: ${file} was being created when the process ended; removed (${size} bytes, no records)`);
        truncatedTailBytes += size;
        files.remove(file);
        await files.syncDirectory(dir);
        firstSeqs.pop();
        if (before !== null) {
          // The segment before is the newest again: look at it as such.
          segments.pop();
          i -= 2;
          continue;
        }
        if (firstSeq !== 1)
          throw new LogCorruption(
            file,
            0,
            'segment header',
            'and no segment before it is left to go on from',
          );
        break;
      }
      checkChain(file, firstSeq, header, before);
      // What a header tells of the segment before: its last seq and time, without reading it.
      if (before !== null)
        segments[segments.length - 1] = {
          ...before,
          lastSeq: firstSeq - 1,
          lastTimeUs: header.previousTimeUs,
        };
      if (!newest) {
        segments.push({ path: file, header, bytes: size, lastSeq: firstSeq - 1, lastTimeUs: 0 });
        continue;
      }

      index = createSparseIndex(firstSeq);
      nextTimeUs = header.earliestTimeUs;
      let lastTimeUs = header.previousTimeUs;
      const seed = BigInt(header.seed);
      const { end, nextSeq, damage } = scanRecords(
        files,
        fd,
        SEGMENT_HEADER_BYTES,
        size,
        firstSeq,
        lastTimeUs,
        seed,
        (_bytes, view, at, position) => {
          lastTimeUs = timeUsAt(view, at);
          nextTimeUs = lastTimeUs + timeRoomUs(view.getUint16(at + 50, true));
          if (firstTimeUs === 0) firstTimeUs = lastTimeUs;
          index.note(seqAt(view, at), lastTimeUs, position);
        },
      );
      if (damage !== null) {
        const proof = findRecord(files, fd, end, size, nextSeq + 1, true, seed);
        if (proof !== null)
          throw new LogCorruption(
            file,
            end,
            damage,
            `it was durable: a later group of records, with seq ${proof.seq}, stands at byte ${proof.position}`,
          );
        warn(
          `log: ${file} ends in ${size - end} bytes that were never durable (${damage} at byte ${end}); cut off, ` +
            `next seq ${nextSeq}`,
        );
        truncatedTailBytes += size - end;
        files.truncate(fd, end);
      }
      // What a killed writer left in the page cache is whole, but perhaps not durable yet.
      await files.syncData(fd);
      segments.push({ path: file, header, bytes: end, lastSeq: nextSeq - 1, lastTimeUs });
    } finally {
      files.close(fd);
    }
  }
  await files.syncDirectory(dir);
  return { segments, index, firstTimeUs, nextTimeUs, truncatedTailBytes };
};
