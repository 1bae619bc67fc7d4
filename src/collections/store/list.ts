/**
 * The lists of repos, in chunks. Pure.
 *
 * A list holds (position, account number, mask), by position. Each collection has two: the pairs that are there, and the
 * places that were left. A chunk is one row of at most MAX_CHUNK_BYTES, so that it fits a page of the file; its key
 * is (list, base), where base is at most the first position and greater than the last one of the chunk before.
 * An entry is three varints: the distance from the position before (the first: from the base), the account number,
 * and a mask of the other collections that the account had when it came to this one. By the mask a walk over several
 * collections knows of most entries at once whether it has told of the account before.
 */
import { read, readVarint, varintBytes, writeVarint } from './varint.ts';

/** What a page of the file (PAGE_BYTES) holds of one row, without an overflow page. */
export const MAX_CHUNK_BYTES = 1_990;
/** A chunk that shrank below goes into the one before it, when both fit into twice that. */
export const SMALL_CHUNK_BYTES = 500;

/** List of the pairs of a collection. */
export const listOf = (collection: number): number => collection * 2;
/** List of the places that were left in it. */
export const leftListOf = (collection: number): number => collection * 2 + 1;

/**
 * The widespread collections have fixed numbers, their places here from 1 on, and a bit of the mask each; of any other
 * collections that an account had, bit 0 tells only that there were some. Never renumber.
 */
export const WIDESPREAD: readonly string[] = [
  'app.bsky.actor.profile',
  'app.bsky.graph.follow',
  'app.bsky.feed.like',
  'app.bsky.feed.post',
  'app.bsky.feed.repost',
  'app.bsky.graph.block',
  'chat.bsky.actor.declaration',
  'app.bsky.feed.threadgate',
  'app.bsky.feed.postgate',
  'app.bsky.graph.list',
  'app.bsky.graph.listitem',
  'app.bsky.graph.starterpack',
  'app.bsky.notification.declaration',
];
export const OTHERS_BIT = 1;
/** The bit of a collection. */
export const maskBit = (collection: number): number =>
  collection <= WIDESPREAD.length ? 1 << collection : OTHERS_BIT;

export interface Entries {
  positions: number[];
  accounts: number[];
  masks: number[];
}

export const noEntries = (): Entries => ({ positions: [], accounts: [], masks: [] });

/** All entries of a chunk. */
export function decodeChunk(base: number, bytes: Uint8Array, length = bytes.length): Entries {
  const positions: number[] = [];
  const accounts: number[] = [];
  const masks: number[] = [];
  let position = base;
  let at = 0;
  while (at < length) {
    position += readVarint(bytes, at);
    positions.push(position);
    accounts.push(readVarint(bytes, read.end));
    masks.push(readVarint(bytes, read.end));
    at = read.end;
  }
  return { positions, accounts, masks };
}

export function chunkBytes(base: number, entries: Entries, from: number, to: number): number {
  const { positions, accounts, masks } = entries;
  let size = 0;
  let before = base;
  for (let index = from; index < to; index++) {
    size +=
      varintBytes(positions[index]! - before) + varintBytes(accounts[index]!) + varintBytes(masks[index]!);
    before = positions[index]!;
  }
  return size;
}

/** The chunk of the entries [from, to). */
export function encodeChunk(
  base: number,
  entries: Entries,
  from = 0,
  to = entries.positions.length,
): Uint8Array {
  const bytes = new Uint8Array(chunkBytes(base, entries, from, to));
  let before = base;
  let at = 0;
  for (let index = from; index < to; index++) {
    const position = entries.positions[index]!;
    at = writeVarint(bytes, at, position - before);
    at = writeVarint(bytes, at, entries.accounts[index]!);
    at = writeVarint(bytes, at, entries.masks[index]!);
    before = position;
  }
  return bytes;
}

/** Index of the first position ≥ `position`. */
export function lowerBound(positions: readonly number[], position: number): number {
  let low = 0;
  let high = positions.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (positions[middle]! < position) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The last chunk of a list, which grows. */
export interface Tail {
  readonly base: number;
  bytes: Uint8Array;
  length: number;
  last: number;
  /** To be written. */
  changed: boolean;
}

export const newTail = (position: number): Tail => ({
  base: position,
  bytes: new Uint8Array(32),
  length: 0,
  last: position,
  changed: true,
});

export function tailOf(base: number, stored: Uint8Array): Tail {
  let last = base;
  let at = 0;
  while (at < stored.length) {
    last += readVarint(stored, at);
    readVarint(stored, read.end);
    readVarint(stored, read.end);
    at = read.end;
  }
  const bytes = new Uint8Array(Math.min(MAX_CHUNK_BYTES, stored.length * 2 + 32));
  bytes.set(stored);
  return { base, bytes, length: stored.length, last, changed: false };
}

/** Appends an entry. @returns false when the chunk is full */
export function append(tail: Tail, position: number, account: number, mask: number): boolean {
  const distance = position - tail.last;
  const length = tail.length + varintBytes(distance) + varintBytes(account) + varintBytes(mask);
  if (length > MAX_CHUNK_BYTES) return false;
  if (length > tail.bytes.length) {
    const bytes = new Uint8Array(Math.min(MAX_CHUNK_BYTES, Math.max(length, tail.bytes.length * 2)));
    bytes.set(tail.bytes.subarray(0, tail.length));
    tail.bytes = bytes;
  }
  const at = writeVarint(tail.bytes, writeVarint(tail.bytes, tail.length, distance), account);
  writeVarint(tail.bytes, at, mask);
  tail.length = length;
  tail.last = position;
  tail.changed = true;
  return true;
}
