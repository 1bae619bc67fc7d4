/**
 * The commit object: the small signed block at the top of a repository.
 * Source: atproto spec, Repository ("Commit Objects").
 */
import {
  headBytes,
  headValue,
  isLinkAt,
  LINK_PREFIX_BYTES,
  latin1,
  MAJOR_BYTES,
  MAJOR_MAP,
  MAJOR_TEXT,
  NULL,
  skipItem,
  text,
  whyNotCanonical,
  writeHead,
} from '../firehose/cbor.ts';
import { type Rejection, reject } from '../reasons.ts';
import { isTidAt } from './syntax.ts';

/** A commit block has some 250 bytes; unknown fields may make it longer, but not without end. */
export const MAX_COMMIT_BLOCK_BYTES = 16_384;
const SIGNATURE_BYTES = 64;
const VERSION = 3;

export interface CommitObject {
  readonly ok: true;
  readonly did: string;
  readonly rev: string;
  /** Offset of the 32-byte digest of `data`, into the bytes given. */
  readonly dataDigestAt: number;
  /** The commit without `sig`, as it was signed: a view of memory that the next call overwrites. */
  readonly unsigned: Uint8Array;
  /** 64 bytes: a view of the bytes given. */
  readonly signature: Uint8Array;
}

const unsignedScratch = new Uint8Array(MAX_COMMIT_BLOCK_BYTES);

const invalid = (what: string): Rejection => reject('commit_object_invalid', what);

/** Whether the key at bytes[start, start + length) is `word`. */
function isKey(bytes: Uint8Array, start: number, length: number, word: string): boolean {
  if (length !== word.length) return false;
  for (let index = 0; index < length; index++) {
    if (bytes[start + index] !== word.charCodeAt(index)) return false;
  }
  return true;
}

/**
 * Reads the commit object in bytes[start, end): canonical, version 3, did, rev a TID, data a link to an MST node,
 * sig of 64 bytes; prev, where it is present, null or a link. Fields we do not know are allowed: they are signed.
 * Fails with commit_object_invalid (the detail names the field) or rev_invalid.
 */
export function readCommitObject(bytes: Uint8Array, start: number, end: number): CommitObject | Rejection {
  if (end - start > MAX_COMMIT_BLOCK_BYTES) return invalid('too long');
  const after = skipItem(bytes, start, end, 0);
  if (after < 0) return invalid(whyNotCanonical());
  if (after !== end) return invalid('bytes after it');
  if (bytes[start]! >> 5 !== MAJOR_MAP) return invalid('not a map');
  const count = headValue(bytes, start);
  let didAt = 0;
  let revAt = 0;
  let sigKeyAt = 0;
  let sigAt = 0;
  let sigEnd = 0;
  let dataAt = 0;
  let prevAt = 0;
  let versionAt = 0;
  const first = start + headBytes(bytes, start);
  let at = first;
  for (let left = count; left > 0; left--) {
    const keyAt = at;
    const length = headValue(bytes, at);
    const key = at + headBytes(bytes, at);
    at = key + length;
    const value = at;
    at = skipItem(bytes, at, end, 0);
    if (isKey(bytes, key, length, 'did')) didAt = value;
    else if (isKey(bytes, key, length, 'rev')) revAt = value;
    else if (isKey(bytes, key, length, 'sig')) {
      sigKeyAt = keyAt;
      sigAt = value;
      sigEnd = at;
    } else if (isKey(bytes, key, length, 'data')) dataAt = value;
    else if (isKey(bytes, key, length, 'prev')) prevAt = value;
    else if (isKey(bytes, key, length, 'version')) versionAt = value;
  }
  if (versionAt === 0 || bytes[versionAt] !== VERSION) return invalid('version');
  if (didAt === 0 || bytes[didAt]! >> 5 !== MAJOR_TEXT) return invalid('did');
  if (revAt === 0 || bytes[revAt]! >> 5 !== MAJOR_TEXT) return invalid('rev');
  const revStart = revAt + headBytes(bytes, revAt);
  const revEnd = revStart + headValue(bytes, revAt);
  if (!isTidAt(bytes, revStart, revEnd)) return reject('rev_invalid', 'not a TID in the commit object');
  if (dataAt === 0 || !isLinkAt(bytes, dataAt, end)) return invalid('data');
  if (prevAt !== 0 && bytes[prevAt] !== NULL && !isLinkAt(bytes, prevAt, end)) return invalid('prev');
  if (sigAt === 0 || bytes[sigAt]! >> 5 !== MAJOR_BYTES) return invalid('sig');
  if (headValue(bytes, sigAt) !== SIGNATURE_BYTES) return invalid('sig');

  let length = writeHead(unsignedScratch, 0, MAJOR_MAP, count - 1);
  for (let index = first; index < sigKeyAt; index++) unsignedScratch[length++] = bytes[index]!;
  for (let index = sigEnd; index < end; index++) unsignedScratch[length++] = bytes[index]!;
  const didStart = didAt + headBytes(bytes, didAt);
  return {
    ok: true,
    did: text(bytes, didStart, didStart + headValue(bytes, didAt)),
    rev: latin1(bytes, revStart, revEnd),
    dataDigestAt: dataAt + LINK_PREFIX_BYTES,
    unsigned: unsignedScratch.subarray(0, length),
    signature: bytes.subarray(sigEnd - SIGNATURE_BYTES, sigEnd),
  };
}
