/**
 * Cursors of pages: opaque texts, good for months. Pure.
 *
 * A cursor holds the last place told, which index and which query it belongs to, and a checksum. A place of another
 * index (the one before a rebuild) means nothing in this one: such a cursor begins anew, so nothing is ever skipped.
 */
import type { PageQuery } from '../types.ts';
import { read, readVarint, varintBytes, writeVarint } from './varint.ts';

const VERSION = 1;
const INDEX_BYTES = 4;
const QUERY_BYTES = 8;
const SUM_BYTES = 4;
const POSITION_AT = 1 + INDEX_BYTES + QUERY_BYTES;
/** The longest there is; anything longer is not looked at. */
const MAX_CHARS = 64;

const hash = (data: string | Uint8Array): Uint8Array => {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, Bun.hash.xxHash3(data) as bigint);
  return bytes;
};

/** What a query is, whatever the order of its parameters. */
const queryHash = ({ collections, prefixes }: Pick<PageQuery, 'collections' | 'prefixes'>): Uint8Array =>
  hash(JSON.stringify([[...new Set(collections)].sort(), [...new Set(prefixes)].sort()]));

type Query = Pick<PageQuery, 'collections' | 'prefixes'>;

/** @param identity of the index */
export const encodeCursor = (identity: Uint8Array, query: Query, position: number): string => {
  const end = POSITION_AT + varintBytes(position);
  const bytes = new Uint8Array(end + SUM_BYTES);
  bytes[0] = VERSION;
  bytes.set(identity.subarray(0, INDEX_BYTES), 1);
  bytes.set(queryHash(query), 1 + INDEX_BYTES);
  writeVarint(bytes, POSITION_AT, position);
  bytes.set(hash(bytes.subarray(0, end)).subarray(0, SUM_BYTES), end);
  return bytes.toBase64({ alphabet: 'base64url', omitPadding: true });
};

const equal = (bytes: Uint8Array, at: number, other: Uint8Array, length: number): boolean => {
  for (let index = 0; index < length; index++) if (bytes[at + index] !== other[index]) return false;
  return true;
};

/** @returns the place after which to go on, 0 = from the beginning */
export const decodeCursor = (
  identity: Uint8Array,
  query: Query,
  cursor: string,
): number | 'cursor_invalid' | 'cursor_of_another_query' => {
  if (cursor.length > MAX_CHARS) return 'cursor_invalid';
  let bytes: Uint8Array;
  try {
    bytes = Uint8Array.fromBase64(cursor, { alphabet: 'base64url' });
  } catch {
    return 'cursor_invalid';
  }
  const end = bytes.length - SUM_BYTES;
  if (end <= POSITION_AT || bytes[0] !== VERSION) return 'cursor_invalid';
  if (!equal(bytes, end, hash(bytes.subarray(0, end)), SUM_BYTES)) return 'cursor_invalid';
  const position = readVarint(bytes.subarray(0, end), POSITION_AT);
  if (read.end !== end || !Number.isSafeInteger(position)) return 'cursor_invalid';
  if (!equal(bytes, 1 + INDEX_BYTES, queryHash(query), QUERY_BYTES)) return 'cursor_of_another_query';
  return equal(bytes, 1, identity, INDEX_BYTES) ? position : 0;
};
