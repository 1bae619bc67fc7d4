/**
 * The lists of repos in the file. Appends go into the last chunk of a list, which is kept in memory until `flush`;
 * removals and insertions rewrite one chunk, or two.
 */
import type { Database } from 'bun:sqlite';
import {
  append,
  chunkBytes,
  decodeChunk,
  type Entries,
  encodeChunk,
  lowerBound,
  MAX_CHUNK_BYTES,
  newTail,
  noEntries,
  SMALL_CHUNK_BYTES,
  type Tail,
  tailOf,
} from './list.ts';
import { CollectionIndexError } from './problem.ts';

/** Last chunks kept in memory, at most 4 KB each. */
const MAX_TAILS = 8_192;

const KEY = '((?1 << 40) | ?2)';
const BASE = '(key & ((1 << 40) - 1))';

interface ChunkRow {
  readonly base: number;
  readonly entries: Uint8Array;
}

export interface Chunks {
  /** Adds an entry at the end: `position` is greater than any in the list. */
  append(list: number, position: number, account: number, mask: number): void;
  /** Adds an entry where it belongs. */
  insert(list: number, position: number, account: number, mask: number): void;
  /** @returns the mask of the entry. @throws CollectionIndexError when there is no entry at the position */
  remove(list: number, position: number): number;
  /** Takes a bit out of the mask of an entry. */
  clearBit(list: number, position: number, bit: number): void;
  /** The first entry of a list. */
  first(list: number): { readonly position: number; readonly account: number } | null;
  /** Writes what is in memory only; before the transaction ends. */
  flush(): void;
  /** Forgets what is in memory: somebody else wrote, or the transaction was rolled back. */
  forget(): void;
}

export const createChunks = (db: Database): Chunks => {
  const selectLast = db.query<ChunkRow, [number]>(
    `select ${BASE} as base, entries from chunks where key >= (?1 << 40) and key < ((?1 + 1) << 40) order by key desc limit 1`,
  );
  const selectAt = db.query<ChunkRow, [number, number]>(
    `select ${BASE} as base, entries from chunks where key >= (?1 << 40) and key <= ${KEY} order by key desc limit 1`,
  );
  const selectFirst = db.query<ChunkRow, [number]>(
    `select ${BASE} as base, entries from chunks where key >= (?1 << 40) and key < ((?1 + 1) << 40) order by key limit 1`,
  );
  const upsert = db.query<null, [number, number, Uint8Array]>(`replace into chunks values (${KEY}, ?3)`);
  const drop = db.query<null, [number, number]>(`delete from chunks where key = ${KEY}`);
  const tails = new Map<number, Tail>();

  const writeTail = (list: number, tail: Tail): void => {
    if (!tail.changed) return;
    upsert.run(list, tail.base, tail.bytes.subarray(0, tail.length));
    tail.changed = false;
  };
  /** Before a chunk of the list is changed in the file. */
  const release = (list: number): void => {
    const tail = tails.get(list);
    if (tail === undefined) return;
    writeTail(list, tail);
    tails.delete(list);
  };
  const write = (list: number, base: number, entries: Entries): void => {
    const { positions } = entries;
    if (chunkBytes(base, entries, 0, positions.length) <= MAX_CHUNK_BYTES) {
      upsert.run(list, base, encodeChunk(base, entries));
      return;
    }
    const middle = positions.length >> 1;
    upsert.run(list, base, encodeChunk(base, entries, 0, middle));
    upsert.run(list, positions[middle]!, encodeChunk(positions[middle]!, entries, middle));
  };

  /** The chunk of an entry, from the file. */
  const find = (list: number, position: number): { base: number; entries: Entries; index: number } => {
    release(list);
    const row = selectAt.get(list, position);
    const entries = row === null ? noEntries() : decodeChunk(row.base, row.entries);
    const index = lowerBound(entries.positions, position);
    if (row === null || entries.positions[index] !== position)
      throw new CollectionIndexError(`the collection index is damaged: list ${list} lacks ${position}`);
    return { base: row.base, entries, index };
  };

  return {
    append(list, position, account, mask) {
      let tail = tails.get(list);
      if (tail === undefined) {
        const row = selectLast.get(list);
        tail = row === null ? newTail(position) : tailOf(row.base, row.entries);
        tails.set(list, tail);
      }
      if (append(tail, position, account, mask)) return;
      writeTail(list, tail);
      tail = newTail(position);
      tails.set(list, tail);
      append(tail, position, account, mask);
    },
    insert(list, position, account, mask) {
      release(list);
      const row = selectAt.get(list, position);
      const entries = row === null ? noEntries() : decodeChunk(row.base, row.entries);
      const index = lowerBound(entries.positions, position);
      entries.positions.splice(index, 0, position);
      entries.accounts.splice(index, 0, account);
      entries.masks.splice(index, 0, mask);
      write(list, row?.base ?? position, entries);
    },
    clearBit(list, position, bit) {
      const { base, entries, index } = find(list, position);
      entries.masks[index]! &= ~bit;
      write(list, base, entries);
    },
    remove(list, position) {
      const { base, entries, index } = find(list, position);
      const mask = entries.masks[index]!;
      entries.positions.splice(index, 1);
      entries.accounts.splice(index, 1);
      entries.masks.splice(index, 1);
      if (entries.positions.length === 0) {
        drop.run(list, base);
        return mask;
      }
      const size = chunkBytes(base, entries, 0, entries.positions.length);
      const before = size < SMALL_CHUNK_BYTES && base > 0 ? selectAt.get(list, base - 1) : null;
      // Only where it leaves room: chunks that are split and merged in turn would be a waste.
      if (before === null || before.entries.length + size > 2 * SMALL_CHUNK_BYTES) {
        write(list, base, entries);
        return mask;
      }
      const merged = decodeChunk(before.base, before.entries);
      for (const each of entries.positions) merged.positions.push(each);
      for (const each of entries.accounts) merged.accounts.push(each);
      for (const each of entries.masks) merged.masks.push(each);
      drop.run(list, base);
      write(list, before.base, merged);
      return mask;
    },
    first(list) {
      release(list);
      const row = selectFirst.get(list);
      if (row === null) return null;
      const { positions, accounts } = decodeChunk(row.base, row.entries);
      return { position: positions[0]!, account: accounts[0]! };
    },
    flush() {
      for (const [list, tail] of tails) writeTail(list, tail);
      if (tails.size > MAX_TAILS) tails.clear();
    },
    forget: () => tails.clear(),
  };
};
