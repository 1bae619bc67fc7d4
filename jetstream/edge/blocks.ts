/**
 * Stretches of the log in memory, as events that clients share: read once, located once, each message made once,
 * whoever wants it and whether live or catching up. It promises: at most so many bytes and blocks, those used longest
 * ago going first; blocks never overlap; nothing of a skipped DID is given out once the log says that it is skipped.
 */
import type { LogCursor, LogReader, LogRecord } from '../../src/log/types.ts';
import { Item } from './item.ts';
import type { Codec, JetstreamCounters, JetstreamLimits } from './types.ts';

/** Beside its frame, rounded up. */
const RECORD_OVERHEAD_BYTES = 256;
/** Of an event that was located, rounded up. */
const ITEM_OVERHEAD_BYTES = 768;

/** One record, and its events once somebody looked at them. */
export class Entry {
  readonly record: LogRecord;
  items: readonly Item[] | null = null;

  constructor(record: LogRecord) {
    this.record = record;
  }
}

/** All records from one seq to another that are to be seen. */
export class Block {
  readonly fromSeq: number;
  readonly toSeq: number;
  readonly entries: readonly Entry[];
  bytes = 0;
  isCached = false;

  constructor(fromSeq: number, toSeq: number, records: readonly LogRecord[]) {
    this.fromSeq = fromSeq;
    this.toSeq = toSeq;
    this.entries = records.map((record) => {
      this.bytes += record.frame.length + RECORD_OVERHEAD_BYTES;
      return new Entry(record);
    });
  }

  /** Index of the first entry with seq ≥ the given one. */
  indexOf(seq: number): number {
    const { entries } = this;
    let low = 0;
    let high = entries.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (entries[middle]!.record.seq < seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

export interface Blocks {
  /**
   * The block that holds `seq`. 'behind': it has left the window. null: there is nothing from there to the end of the
   * log that is to be seen. Throws when the log is damaged.
   */
  at(seq: number): Block | 'behind' | null;
  /** Whether `at` would find a block in the cache. */
  holds(seq: number): boolean;
  /** The events of an entry of this block. */
  items(block: Block, entry: Entry): readonly Item[];
  /** Notes that something was made that the block now holds. */
  grow(block: Block, bytes: number): void;
  /** Forgets everything, and gives reading positions back to the log. */
  clear(): void;
  readonly heldBytes: number;
  readonly size: number;
}

export const createBlocks = (options: {
  readonly log: LogReader;
  readonly readEvents: Codec['readEvents'];
  readonly limits: Pick<JetstreamLimits, 'blockBytes' | 'maxCacheBytes' | 'maxBlocks' | 'maxLogCursors'>;
  readonly counters: JetstreamCounters;
}): Blocks => {
  const { log, readEvents, limits, counters } = options;
  /** By their seqs, which never overlap. */
  let blocks: Block[] = [];
  /** The same ones, used longest ago first. */
  const byUse = new Set<Block>();
  let heldBytes = 0;
  let skippedVersion = log.skippedVersion;
  /** By the seq they have come to, opened longest ago first. */
  const cursors = new Map<number, LogCursor>();

  /** Index of the last block with fromSeq ≤ seq, −1 when there is none. */
  const find = (seq: number): number => {
    let low = 0;
    let high = blocks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (blocks[middle]!.fromSeq <= seq) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  };

  const drop = (block: Block): void => {
    block.isCached = false;
    byUse.delete(block);
    blocks.splice(find(block.fromSeq), 1);
    heldBytes -= block.bytes;
    counters.blocksDropped++;
  };

  const trim = (keep: Block): void => {
    while (heldBytes > limits.maxCacheBytes || blocks.length > limits.maxBlocks) {
      const [oldest] = byUse;
      if (oldest === undefined || oldest === keep) return;
      drop(oldest);
    }
  };

  const clear = (): void => {
    for (const block of blocks) block.isCached = false;
    blocks = [];
    byUse.clear();
    heldBytes = 0;
    for (const cursor of cursors.values()) cursor.close();
    cursors.clear();
  };

  const takeCursor = (seq: number): LogCursor => {
    const cursor = cursors.get(seq);
    if (cursor === undefined) return log.openCursor(seq);
    cursors.delete(seq);
    return cursor;
  };

  const keepCursor = (cursor: LogCursor): void => {
    if (cursors.has(cursor.seq)) {
      cursor.close();
      return;
    }
    cursors.set(cursor.seq, cursor);
    if (cursors.size <= limits.maxLogCursors) return;
    const [seq, oldest] = cursors.entries().next().value!;
    cursors.delete(seq);
    oldest.close();
  };

  /** Reads a block that begins at `seq` and ends before the next one that is held. */
  const read = (seq: number, nextIndex: number): Block | 'behind' | null => {
    const cursor = takeCursor(seq - 1);
    let records: readonly LogRecord[] | 'behind';
    try {
      records = cursor.next(limits.blockBytes);
    } catch (error) {
      cursor.close();
      throw error;
    }
    if (records === 'behind') {
      cursor.close();
      return 'behind';
    }
    const reached = cursor.seq;
    if (records.length === 0) {
      cursor.close();
      return null;
    }
    keepCursor(cursor);
    counters.blocksRead++;
    const end = blocks[nextIndex]?.fromSeq ?? Number.POSITIVE_INFINITY;
    if (reached < end) return new Block(seq, reached, records);
    return new Block(
      seq,
      end - 1,
      records.filter((record) => record.seq < end),
    );
  };

  return {
    at(seq) {
      if (log.skippedVersion !== skippedVersion) {
        skippedVersion = log.skippedVersion;
        clear();
      }
      if (seq < log.oldestSeq) return 'behind';
      if (seq > log.lastSeq) return null;
      const index = find(seq);
      const held = blocks[index];
      if (held !== undefined && seq <= held.toSeq) {
        counters.blocksShared++;
        byUse.delete(held);
        byUse.add(held);
        trim(held);
        return held;
      }
      const block = read(seq, index + 1);
      if (block === 'behind' || block === null) return block;
      block.isCached = true;
      blocks.splice(index + 1, 0, block);
      byUse.add(block);
      heldBytes += block.bytes;
      trim(block);
      return block;
    },
    holds(seq) {
      const held = blocks[find(seq)];
      return held !== undefined && seq <= held.toSeq;
    },
    items(block, entry) {
      if (entry.items !== null) return entry.items;
      const items = readEvents(entry.record).map((event) => new Item(event, block));
      entry.items = items;
      const bytes = items.length * ITEM_OVERHEAD_BYTES;
      block.bytes += bytes;
      if (block.isCached) heldBytes += bytes;
      return items;
    },
    grow(block, bytes) {
      block.bytes += bytes;
      // What was dropped is in use for this turn at most.
      if (block.isCached) heldBytes += bytes;
    },
    clear,
    get heldBytes() {
      return heldBytes;
    },
    get size() {
      return blocks.length;
    },
  };
};
