/**
 * One account of the index: its status, its host, and its places. Pure.
 *
 * A place is where one collection of the account stands in the order of first sight: a global position that is given
 * once and never again. An account that is shown has a place in each of its collections and, under collection 0,
 * in the list of all repos. When it is hidden its places are given up (only the collections are kept), and when it
 * is back it is given new ones at the end, like a repo added anew: whoever walks the list and passed the old places
 * while it was hidden would never have seen it otherwise.
 *
 * A pair that was removed may leave its place behind (`leftAt` > 0): see placesStart.
 */
import type { HiddenReason } from '../types.ts';
import { maskBit } from './list.ts';
import { read, readVarint, varintBytes, writeVarint } from './varint.ts';

/** The list of all repos, as if it were a collection. */
export const ALL = 0;

/** Statuses as they are stored. Never renumber. */
export const STATUSES = [
  'active',
  'deleted',
  'takendown',
  'deactivated',
  'suspended',
  'desynchronized',
  'throttled',
  'pds_gone',
  'unknown_status',
] as const satisfies readonly ('active' | HiddenReason)[];
export const ACTIVE = 0;
export const DELETED = STATUSES.indexOf('deleted');
export const PDS_GONE = STATUSES.indexOf('pds_gone');

/** The stored number of a reason; of anything unknown that of 'unknown_status'. */
export const statusCode = (reason: string | null): number => {
  if (reason === null) return ACTIVE;
  const code = STATUSES.indexOf(reason as HiddenReason);
  return code > 0 ? code : STATUSES.length - 1;
};

export interface Place {
  readonly collection: number;
  /** 0 while the account is hidden. */
  position: number;
  /** 0: the pair is there. Else it was removed when positions had come so far: every later place is ≥ leftAt. */
  leftAt: number;
}

export interface Account {
  /** Key in the table of accounts. */
  key: number;
  readonly did: string;
  /** Number under which lists know it: even = did:plc, odd = another DID. */
  readonly number: number;
  status: number;
  /** The log has told of it: what others list of its status counts less. */
  told: boolean;
  hostId: number;
  /** The log told of it at that host. */
  isHostTold: boolean;
  /** By position (while it is hidden, in the order of old). */
  places: Place[];
  changed: boolean;
}

const STATUS_BITS = 15;
const TOLD = 16;
const HOST_TOLD = 32;

/** Bytes of the record of an account. */
export function encodeAccount(account: Account): Uint8Array {
  let size = varintBytes(account.number) + 1 + varintBytes(account.hostId);
  const hidden = account.status !== ACTIVE;
  let before = 0;
  for (const { collection, position, leftAt } of account.places) {
    size += varintBytes(collection * 2 + (leftAt > 0 ? 1 : 0));
    if (hidden) continue;
    size += varintBytes(position - before);
    if (leftAt > 0) size += varintBytes(leftAt - position);
    before = position;
  }
  const bytes = new Uint8Array(size);
  let at = writeVarint(bytes, 0, account.number);
  bytes[at++] = account.status | (account.told ? TOLD : 0) | (account.isHostTold ? HOST_TOLD : 0);
  at = writeVarint(bytes, at, account.hostId);
  before = 0;
  for (const { collection, position, leftAt } of account.places) {
    at = writeVarint(bytes, at, collection * 2 + (leftAt > 0 ? 1 : 0));
    if (hidden) continue;
    at = writeVarint(bytes, at, position - before);
    if (leftAt > 0) at = writeVarint(bytes, at, leftAt - position);
    before = position;
  }
  return bytes;
}

/** The number of the account of a record. */
export const accountNumber = (bytes: Uint8Array): number => readVarint(bytes, 0);

/** Status and host of a record, without the rest. */
export function accountHead(bytes: Uint8Array): { status: number; hostId: number } {
  readVarint(bytes, 0);
  const status = bytes[read.end]! & STATUS_BITS;
  return { status, hostId: readVarint(bytes, read.end + 1) };
}

export function decodeAccount(key: number, did: string, bytes: Uint8Array): Account {
  const number = readVarint(bytes, 0);
  const flags = bytes[read.end]!;
  const status = flags & STATUS_BITS;
  const hostId = readVarint(bytes, read.end + 1);
  let at = read.end;
  const places: Place[] = [];
  let position = 0;
  while (at < bytes.length) {
    const tagged = readVarint(bytes, at);
    at = read.end;
    let leftAt = 0;
    if (status === ACTIVE) {
      position += readVarint(bytes, at);
      at = read.end;
      if ((tagged & 1) === 1) {
        leftAt = position + readVarint(bytes, at);
        at = read.end;
      }
    }
    places.push({ collection: tagged >>> 1, position, leftAt });
  }
  const told = (flags & TOLD) !== 0;
  // Version 1 of the file did not know of the second bit; whatever has told of an account has told of its host.
  const isHostTold = told || (flags & HOST_TOLD) !== 0;
  return { key, did, number, status, told, hostId, isHostTold, places, changed: false };
}

/** The place of a pair that is there; null when the account has no such pair. */
export function placeOf(account: Account, collection: number): Place | null {
  const { places } = account;
  for (let index = 0; index < places.length; index++) {
    const place = places[index]!;
    if (place.collection === collection && place.leftAt === 0) return place;
  }
  return null;
}

/**
 * The left places that no list needs any more: those from which no chain of places leads to a pair that is there.
 * Places are by position.
 */
export function uselessPlaces(places: readonly Place[]): Place[] {
  const useless: Place[] = [];
  /** What is needed and begins later, by position; a left place is needed when one of them begins before it ends. */
  let nextNeeded = Number.POSITIVE_INFINITY;
  for (let index = places.length - 1; index >= 0; index--) {
    const place = places[index]!;
    if (place.collection === ALL) continue;
    if (place.leftAt > 0 && nextNeeded >= place.leftAt) useless.push(place);
    else nextNeeded = place.position;
  }
  return useless;
}

/** The mask of an entry at `position`: the other collections that the account had just before. */
export function maskAt(places: readonly Place[], position: number): number {
  let mask = 0;
  for (let index = 0; index < places.length; index++) {
    const place = places[index]!;
    if (place.collection === ALL || place.position >= position) continue;
    if (place.leftAt === 0 || place.leftAt > position) mask |= maskBit(place.collection);
  }
  return mask;
}

/**
 * The places whose masks have the bit of `left` for its sake alone: they lose it when it is dropped.
 *
 * @param places by position, without `left`
 */
export function maskedBy(places: readonly Place[], left: Place): Place[] {
  const bit = maskBit(left.collection);
  const masked: Place[] = [];
  /** Other places have the bit without a break until here. */
  let until = 0;
  for (let index = 0; index < places.length; index++) {
    const place = places[index]!;
    if (place.collection === ALL) continue;
    if (place.position >= left.leftAt) break;
    if (place.position > left.position && until <= place.position) masked.push(place);
    if (maskBit(place.collection) !== bit) continue;
    until = Math.max(until, place.leftAt === 0 ? Number.POSITIVE_INFINITY : place.leftAt);
  }
  return masked;
}

/**
 * Where an account stands in the list of those that have at least one of the wanted collections: the place at which
 * it came into that list the last time. −1 when it is not in it.
 *
 * Example: it had A from 10 to 30 and has B since 20. Of A it is in no list; of B it stands at 20; of "A or B" it
 * stands at 10 all the time, whether A is still there or not: who passed 10 was told of it, and at 20 is not told again.
 * So the place depends only on the account, and a walk needs no memory but its position.
 *
 * @param bytes the record of an account that is shown, which is not decoded into objects
 */
export function placesStart(bytes: Uint8Array, isWanted: (collection: number) => boolean): number {
  readVarint(bytes, 0);
  readVarint(bytes, read.end + 1);
  let at = read.end;
  let position = 0;
  let start = -1;
  let until = 0;
  while (at < bytes.length) {
    const tagged = readVarint(bytes, at);
    position += readVarint(bytes, read.end);
    let end = Number.POSITIVE_INFINITY;
    if ((tagged & 1) === 1) end = position + readVarint(bytes, read.end);
    at = read.end;
    const collection = tagged >>> 1;
    if (collection === ALL || !isWanted(collection)) continue;
    if (start < 0 || position >= until) {
      start = position;
      until = 0;
    }
    if (end > until) until = end;
  }
  return until === Number.POSITIVE_INFINITY ? start : -1;
}
