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

/** It begins with this many, 1.5 MB: a small network must not touch the memory of a large one. */
const FIRST_PAIRS = 65_536;

/** @param size pairs at most, a power of two of at least 4; each takes 24 bytes */
export const createSeenPairs = (size: number): SeenPairs => {
  if (size < WAYS || !Number.isInteger(Math.log2(size))) throw new Error('the size must be a power of two');
  let pairs = Math.min(size, FIRST_PAIRS);
  let table = new Uint32Array(pairs * FIELDS);
  let mask = pairs / WAYS - 1;
  let used = 0;
  let turn = 0;

  /** Where the set of a did:plc (its first two words) and a collection begins. */
  const setAt = (first: number, second: number, collection: number): number => {
    // A did:plc is the beginning of a hash; the collection is stirred in.
    let hash = first ^ Math.imul(second, 0x9e3779b1) ^ Math.imul(collection, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    hash ^= hash >>> 13;
    return (hash & mask) * (WAYS * FIELDS);
  };
  const find = (collection: number): number => {
    const from = setAt(words[0]!, words[1]!, collection);
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
  /** A place of the set at `from`: a free one, else that of a pair that is forgotten. */
  const placeIn = (from: number): number => {
    for (let at = from; at < from + WAYS * FIELDS; at += FIELDS) if (table[at + 4] === 0) return at;
    turn = (turn + 1) & (WAYS - 1);
    return from + turn * FIELDS;
  };
  /** Twice the size. Each set becomes two, so that none of what is remembered is forgotten. */
  const grow = (): void => {
    const before = table;
    pairs *= 2;
    table = new Uint32Array(pairs * FIELDS);
    mask = pairs / WAYS - 1;
    for (let at = 0; at < before.length; at += FIELDS) {
      if (before[at + 4] === 0) continue;
      const to = placeIn(setAt(before[at]!, before[at + 1]!, before[at + 4]!));
      for (let field = 0; field < FIELDS; field++) table[to + field] = before[at + field]!;
    }
  };
  return {
    has(collection, hostId) {
      const at = find(collection);
      return at >= 0 && table[at + 5] === hostId;
    },
    add(collection, hostId) {
      let at = find(collection);
      if (at < 0) {
        if (used * 2 >= pairs && pairs < size) grow();
        at = placeIn(setAt(words[0]!, words[1]!, collection));
        if (table[at + 4] === 0) used++;
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
      if (at < 0) return;
      table.fill(0, at, at + FIELDS);
      used--;
    },
    clear() {
      table.fill(0);
      used = 0;
    },
  };
};
