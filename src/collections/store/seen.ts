/**
 * Pairs that need no look into the file: the repo is shown, has the collection, and lives at that host. Exact (whole
 * did:plc and numbers are compared), bounded: a set-associative table that forgets the older of what falls together.
 */
import { words } from './did.ts';

const WAYS = 4;
const FIELDS = 6;

export interface SeenPairs {
  /** Of the did:plc in `words`. Collection numbers begin at 1. */
  has(collection: number, hostId: number): boolean;
  add(collection: number, hostId: number): void;
  remove(collection: number): void;
  clear(): void;
}

/** @param size pairs, a power of two of at least 4; each takes 24 bytes */
export const createSeenPairs = (size: number): SeenPairs => {
  const sets = size / WAYS;
  if (!Number.isInteger(Math.log2(sets))) throw new Error('the size must be a power of two');
  const table = new Uint32Array(size * FIELDS);
  const mask = sets - 1;
  let turn = 0;

  const setAt = (collection: number): number => {
    // A did:plc is the beginning of a hash; the collection is stirred in.
    let hash = words[0]! ^ Math.imul(words[1]!, 0x9e3779b1) ^ Math.imul(collection, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    hash ^= hash >>> 13;
    return (hash & mask) * (WAYS * FIELDS);
  };
  const find = (collection: number): number => {
    const from = setAt(collection);
    for (let at = from; at < from + WAYS * FIELDS; at += FIELDS)
      if (
        table[at] === words[0] &&
        table[at + 1] === words[1] &&
        table[at + 2] === words[2] &&
        table[at + 3] === words[3] &&
        table[at + 4] === collection
      )
        return at;
    return -1;
  };
  return {
    has(collection, hostId) {
      const at = find(collection);
      return at >= 0 && table[at + 5] === hostId;
    },
    add(collection, hostId) {
      let at = find(collection);
      if (at < 0) {
        turn = (turn + 1) & (WAYS - 1);
        at = setAt(collection) + turn * FIELDS;
        table[at] = words[0]!;
        table[at + 1] = words[1]!;
        table[at + 2] = words[2]!;
        table[at + 3] = words[3]!;
        table[at + 4] = collection;
      }
      table[at + 5] = hostId;
    },
    remove(collection) {
      const at = find(collection);
      if (at >= 0) table.fill(0, at, at + FIELDS);
    },
    clear: () => {
      table.fill(0);
    },
  };
};
