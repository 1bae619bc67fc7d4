import { LogCorruption } from './corruption.ts';
import { recordSizeAt } from './index-file.ts';
import { checkRecord, readRecord } from './record.ts';
import { BLOCK_BYTES, SEGMENT_HEADER_BYTES } from './segment.ts';
import { isSkipped } from './tail.ts';
import type { LogCursor, LogRecord } from './types.ts';
import { type Block, type LogView, readBlock, type Segment } from './view.ts';

const NOTHING: readonly LogRecord[] = [];

/**
 * A reading position in the log: from the tail when it holds the next record, from segments otherwise. All that
 * decides is the seq, so the seam between the two is nowhere to be seen. Its disk place is a shortcut that is thrown
 * away whenever it does not fit the seq. Holds at most one block and a share in one descriptor.
 */
class Cursor implements LogCursor {
  seq: number;
  readonly #view: LogView;
  readonly #includeSkipped: boolean;
  #closed = false;
  /** Where the record after #placeSeq stands on disk; null when the cursor was not on disk last. */
  #segment: Segment | null = null;
  #fd = -1;
  #block: Block | null = null;
  /** Position of the block in the segment. */
  #blockAt = 0;
  /** Next record in the block. */
  #at = 0;
  #placeSeq = 0;
  /** Memory that every block is read into; null: each has its own. */
  readonly #room: Uint8Array | null;

  constructor(view: LogView, seq: number, includeSkipped: boolean, reusesMemory: boolean) {
    this.#room = reusesMemory ? new Uint8Array(BLOCK_BYTES) : null;
    this.#view = view;
    this.seq = seq;
    this.#includeSkipped = includeSkipped;
  }

  get inTail(): boolean {
    return this.seq >= this.#view.lastSeq || this.seq + 1 >= this.#view.tail.firstSeq;
  }

  next(maxBytes: number): readonly LogRecord[] | 'behind' {
    if (this.#closed) throw new Error('the cursor is closed');
    const view = this.#view;
    for (;;) {
      const wanted = this.seq + 1;
      if (wanted < view.oldestSeq) {
        this.#leaveDisk();
        return 'behind';
      }
      if (wanted > view.lastSeq) {
        this.#leaveDisk();
        return NOTHING;
      }
      if (wanted >= view.tail.firstSeq) {
        this.#leaveDisk();
        const read = view.tail.read(wanted, maxBytes, this.#includeSkipped ? null : view.skipped);
        view.counters.tailReads++;
        this.seq = read.reached;
        return read.records;
      }
      const records = this.#fromDisk(wanted, maxBytes);
      // All of the block was skipped: go on, [] would mean the end.
      if (records.length > 0) return records;
    }
  }

  close(): void {
    this.#closed = true;
    this.#leaveDisk();
  }

  /** Records of at most one block, from `wanted` on, which is on disk. */
  #fromDisk(wanted: number, maxBytes: number): readonly LogRecord[] {
    if (this.#segment === null || this.#placeSeq !== this.seq) this.#seek(wanted);
    else if (this.#block === null || this.#at >= this.#block.end) this.#nextBlock();
    const segment = this.#segment!;
    const { bytes, view, end } = this.#block!;
    const skipped = this.#includeSkipped ? null : this.#view.skipped.didHashes;
    const records: LogRecord[] = [];
    let given = 0;
    let seq = wanted;
    let at = this.#at;
    while (at < end) {
      const size = recordSizeAt(view, at);
      if (given > 0 && given + size > maxBytes) break;
      const damage = checkRecord(bytes, view, at, end, seq, this.#view.seed);
      if (damage !== null) throw new LogCorruption(segment.path, this.#blockAt + at, damage);
      const record = readRecord(bytes, view, at);
      if (skipped === null || !isSkipped(skipped, record.didHash, record.kind)) {
        records.push(record);
        given += size;
      }
      at += size;
      seq++;
    }
    this.#at = at;
    this.seq = seq - 1;
    this.#placeSeq = this.seq;
    return records;
  }

  /** Finds `wanted` by the sparse index and at most one block (two where a record spans them). */
  #seek(wanted: number): void {
    const segment = this.#enter(this.#view.segmentOf(wanted));
    let { seq, position } = this.#view.indexOf(segment).positionOfSeq(wanted);
    for (;;) {
      const block = readBlock(this.#view, segment, this.#fd, position, this.#room);
      let at = 0;
      while (seq < wanted && at < block.end) {
        const damage = checkRecord(block.bytes, block.view, at, block.end, seq, this.#view.seed);
        if (damage !== null) throw new LogCorruption(segment.path, position + at, damage);
        at += recordSizeAt(block.view, at);
        seq++;
      }
      if (at < block.end) {
        this.#block = block;
        this.#blockAt = position;
        this.#at = at;
        return;
      }
      position += block.end;
      if (position >= segment.bytes) throw new LogCorruption(segment.path, position, 'segment size');
    }
  }

  /** The block after the one that was read to its end, in this segment or the next. */
  #nextBlock(): void {
    let segment = this.#segment!;
    let position = this.#block === null ? this.#blockAt : this.#blockAt + this.#block.end;
    this.#block = null;
    if (position >= segment.bytes) {
      if (segment.lastSeq !== this.seq) throw new LogCorruption(segment.path, position, 'seq not continuous');
      segment = this.#enter(this.#view.segmentOf(this.seq + 1));
      position = SEGMENT_HEADER_BYTES;
    }
    this.#blockAt = position;
    this.#block = readBlock(this.#view, segment, this.#fd, position, this.#room);
    this.#at = 0;
  }

  #enter(segment: Segment): Segment {
    this.#leaveDisk();
    this.#fd = this.#view.acquire(segment);
    this.#segment = segment;
    return segment;
  }

  #leaveDisk(): void {
    if (this.#segment === null) return;
    this.#view.release(this.#segment);
    this.#segment = null;
    this.#block = null;
    this.#fd = -1;
  }
}

export const createCursor = (
  view: LogView,
  seq: number,
  includeSkipped: boolean,
  reusesMemory: boolean,
): LogCursor => new Cursor(view, seq, includeSkipped, reusesMemory);
