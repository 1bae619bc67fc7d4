/**
 * Reads the frames of com.atproto.sync.subscribeRepos where they lie.
 *
 * Contract: the encoding is strict, the semantics are tolerant. A frame is exactly two canonical DAG-CBOR maps and
 * nothing after them, which holds inside fields nobody knows, too; anything else is refused. Unknown fields and
 * unknown message types are not an error. Nothing is decoded into objects: the answer says where things are.
 * The judge in test/firehose/scan.test.ts is @ipld/dag-cbor.
 *
 * Sources: atproto specs Event Stream ("Framing"), Sync ("Firehose"), Data Model (DRISL);
 * lexicon com.atproto.sync.subscribeRepos.
 */
import { type Rejection, reject } from '../reasons.ts';
import { isDidAt, isTidAt, TID_LENGTH } from '../repo/syntax.ts';
import {
  FALSE,
  headBytes,
  headValue,
  isLinkAt,
  isOrdered,
  LINK_PREFIX_BYTES,
  lastKeyStart,
  latin1,
  MAJOR_ARRAY,
  MAJOR_BYTES,
  MAJOR_MAP,
  MAJOR_TEXT,
  MAJOR_UNSIGNED,
  NULL,
  skipItem,
  skipKey,
  TRUE,
  text,
  whyNotCanonical,
} from './cbor.ts';
import { KIND, type Kind, MAX_FRAME_BYTES, MAX_OPS, type Op, type ScannedFrame } from './types.ts';

/** The longest message type we pass on; the known ones have at most nine characters. */
export const MAX_TYPE_LENGTH = 64;
/** Of an #account status: kept with the account, so bounded. */
export const MAX_STATUS_LENGTH = 64;
/** Of `time`, in bytes: a datetime has some 30. */
const MAX_TIME_LENGTH = 64;
/** Of a handle, in bytes (atproto spec: Handle). */
const MAX_HANDLE_LENGTH = 253;
/** Of an #info name or an error name. */
const MAX_NAME_LENGTH = 128;
/** Of the message beside it; what is longer is cut, it is for people. */
const MAX_MESSAGE_LENGTH = 512;

const EMPTY_TEXT = 0x60;

const NO_OPS: readonly Op[] = [];
const NONE_MISSING = { tooBig: false, rebase: false, blobs: false } as const;

// The known body fields, numbered in canonical order: of two known keys, the order is that of their numbers.
const DID = 1;
const OPS = 2;
const REV = 3;
const SEQ = 4;
const NAME = 5;
const REPO = 6;
const TIME = 7;
const BLOBS = 8;
const ERROR = 9;
const SINCE = 10;
const ACTIVE = 11;
const BLOCKS = 12;
const COMMIT = 13;
const HANDLE = 14;
const REBASE = 15;
const STATUS = 16;
const TOO_BIG = 17;
const MESSAGE = 18;
const PREV_DATA = 19;
/** Where the value of each known field begins; 0 = absent (no body begins at 0). */
const fields = new Int32Array(20);

const ascii = (word: string): Uint8Array => new TextEncoder().encode(word);

function equals(bytes: Uint8Array, at: number, word: Uint8Array): boolean {
  for (let index = 0; index < word.length; index++) if (bytes[at + index] !== word[index]) return false;
  return true;
}

/**
 * The number of the known field whose encoded key is at `at`; 0 when it is none. The head and the first three
 * characters, read as one number, tell all but the rest of the word.
 */
function fieldAt(bytes: Uint8Array, at: number): number {
  const start = (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
  switch (start) {
    case 0x63646964:
      return DID;
    case 0x636f7073:
      return OPS;
    case 0x63726576:
      return REV;
    case 0x63736571:
      return SEQ;
    case 0x646e616d:
      return bytes[at + 4] === 0x65 ? NAME : 0;
    case 0x64726570:
      return bytes[at + 4] === 0x6f ? REPO : 0;
    case 0x6474696d:
      return bytes[at + 4] === 0x65 ? TIME : 0;
    case 0x65626c6f:
      return bytes[at + 4] === 0x62 && bytes[at + 5] === 0x73 ? BLOBS : 0;
    case 0x65657272:
      return bytes[at + 4] === 0x6f && bytes[at + 5] === 0x72 ? ERROR : 0;
    case 0x6573696e:
      return bytes[at + 4] === 0x63 && bytes[at + 5] === 0x65 ? SINCE : 0;
    case 0x66616374:
      return bytes[at + 4] === 0x69 && bytes[at + 5] === 0x76 && bytes[at + 6] === 0x65 ? ACTIVE : 0;
    case 0x66626c6f:
      return bytes[at + 4] === 0x63 && bytes[at + 5] === 0x6b && bytes[at + 6] === 0x73 ? BLOCKS : 0;
    case 0x66636f6d:
      return bytes[at + 4] === 0x6d && bytes[at + 5] === 0x69 && bytes[at + 6] === 0x74 ? COMMIT : 0;
    case 0x6668616e:
      return bytes[at + 4] === 0x64 && bytes[at + 5] === 0x6c && bytes[at + 6] === 0x65 ? HANDLE : 0;
    case 0x66726562:
      return bytes[at + 4] === 0x61 && bytes[at + 5] === 0x73 && bytes[at + 6] === 0x65 ? REBASE : 0;
    case 0x66737461:
      return bytes[at + 4] === 0x74 && bytes[at + 5] === 0x75 && bytes[at + 6] === 0x73 ? STATUS : 0;
    case 0x66746f6f:
      return bytes[at + 4] === 0x42 && bytes[at + 5] === 0x69 && bytes[at + 6] === 0x67 ? TOO_BIG : 0;
    case 0x676d6573:
      return bytes[at + 4] === 0x73 &&
        bytes[at + 5] === 0x61 &&
        bytes[at + 6] === 0x67 &&
        bytes[at + 7] === 0x65
        ? MESSAGE
        : 0;
    case 0x68707265:
      return bytes[at + 4] === 0x76 &&
        bytes[at + 5] === 0x44 &&
        bytes[at + 6] === 0x61 &&
        bytes[at + 7] === 0x74 &&
        bytes[at + 8] === 0x61
        ? PREV_DATA
        : 0;
    default:
      return 0;
  }
}

const TYPES: readonly (readonly [string, Uint8Array, Kind])[] = [
  ['#commit', ascii('#commit'), KIND.commit],
  ['#identity', ascii('#identity'), KIND.identity],
  ['#account', ascii('#account'), KIND.account],
  ['#sync', ascii('#sync'), KIND.sync],
  ['#info', ascii('#info'), KIND.info],
];

/** What a type begins with in its short form, the only one there is on the wire (Event Stream, "Framing"). */
const HASH = 0x23;

const OP = ascii('op');
const ACTION = ascii('action');
const PATH = ascii('path');
const CID = ascii('cid');
const PREV = ascii('prev');
const CREATE = ascii('create');
const UPDATE = ascii('update');
const DELETE = ascii('delete');

const HEADER_T_COMMIT = Uint8Array.of(
  ...[0xa2, 0x61, 0x74, 0x67, ...ascii('#commit'), 0x62, 0x6f, 0x70, 0x01],
);

const missing = (field: string): Rejection => reject('frame_field_missing', field);
const invalid = (field: string): Rejection => reject('frame_field_invalid', field);
const notCanonical = (): Rejection => reject('frame_not_canonical', whyNotCanonical());

// The header as the last readHeader found it.
let headerType = '';
let headerKind: Kind = KIND.unknown;

/** Reads the header at 0; answers where the body begins, or a refusal. */
function readHeader(bytes: Uint8Array): number | Rejection {
  // Most frames are commits, and a canonical header of two fields has only one form.
  if (equals(bytes, 0, HEADER_T_COMMIT)) {
    headerType = '#commit';
    headerKind = KIND.commit;
    return HEADER_T_COMMIT.length;
  }
  const end = skipItem(bytes, 0, bytes.length, 0);
  if (end < 0) return notCanonical();
  if (bytes[0]! >> 5 !== MAJOR_MAP) return reject('frame_header_invalid', 'not a map');
  let opAt = 0;
  let typeAt = 0;
  let at = headBytes(bytes, 0);
  for (let left = headValue(bytes, 0); left > 0; left--) {
    const length = headValue(bytes, at);
    const start = at + headBytes(bytes, at);
    at = start + length;
    if (length === 1 && bytes[start] === 0x74) typeAt = at;
    else if (length === 2 && equals(bytes, start, OP)) opAt = at;
    at = skipItem(bytes, at, end, 0);
  }
  if (opAt === 0) return reject('frame_header_invalid', 'no op');
  if (bytes[opAt] === 0x20) {
    headerType = '';
    headerKind = KIND.error;
    return end;
  }
  if (bytes[opAt] !== 0x01) return reject('frame_header_invalid', 'op neither 1 nor -1');
  if (typeAt === 0 || bytes[typeAt]! >> 5 !== MAJOR_TEXT) return reject('frame_header_invalid', 'no t');
  const length = headValue(bytes, typeAt);
  const start = typeAt + headBytes(bytes, typeAt);
  if (length === 0 || length > MAX_TYPE_LENGTH) return reject('frame_header_invalid', 'length of t');
  // With its lexicon's name before the '#', a consumer takes for a commit what is to us of an unknown type, and unverified.
  if (bytes[start] !== HASH) return reject('frame_header_invalid', 't is not in its short form');
  for (const [type, word, kind] of TYPES) {
    if (length === word.length && equals(bytes, start, word)) {
      headerType = type;
      headerKind = kind;
      return end;
    }
  }
  headerType = text(bytes, start, start + length);
  headerKind = KIND.unknown;
  return end;
}

/** Checks the body, which must be the last item, and notes the places of known fields. */
function locate(bytes: Uint8Array, bodyStart: number): Rejection | null {
  const end = bytes.length;
  fields.fill(0);
  if (bodyStart >= end) return reject('frame_not_canonical', 'no body');
  if (bytes[bodyStart]! >> 5 !== MAJOR_MAP) {
    const after = skipItem(bytes, bodyStart, end, 0);
    if (after < 0) return notCanonical();
    return after === end ? invalid('body') : reject('frame_not_canonical', 'bytes after the body');
  }
  const info = bytes[bodyStart]! & 31;
  let at = bodyStart + 1;
  let count = info;
  if (info >= 24) {
    // Rare: more than 23 fields. The generic check has the exact rules for the head; then each field is looked at.
    if (skipItem(bytes, bodyStart, end, 0) < 0) return notCanonical();
    count = headValue(bytes, bodyStart);
    at = bodyStart + headBytes(bytes, bodyStart);
  }
  let keyBefore = 0;
  let keyBeforeLength = -1;
  let fieldBefore = 0;
  for (let left = count; left > 0; left--) {
    const field = fieldAt(bytes, at);
    if (field !== 0) {
      const length = bytes[at]! - 0x60;
      if (
        fieldBefore !== 0
          ? field <= fieldBefore
          : keyBeforeLength >= 0 && !isOrdered(bytes, keyBefore, keyBeforeLength, at + 1, length)
      ) {
        return reject('frame_not_canonical', 'map keys not unique and in order');
      }
      keyBefore = at + 1;
      keyBeforeLength = length;
      at += 1 + length;
      fields[field] = at;
    } else {
      at = skipKey(bytes, at, end, keyBefore, keyBeforeLength);
      if (at < 0) return notCanonical();
      keyBefore = lastKeyStart();
      keyBeforeLength = at - keyBefore;
    }
    fieldBefore = field;
    at = skipItem(bytes, at, end, 1);
    if (at < 0) return notCanonical();
  }
  return at === end ? null : reject('frame_not_canonical', 'bytes after the body');
}

const isText = (bytes: Uint8Array, at: number): boolean => bytes[at]! >> 5 === MAJOR_TEXT;

/** Whether an optional text is there but says nothing: some hosts write what is absent as null, or as ''. */
const isBlank = (bytes: Uint8Array, at: number): boolean =>
  at !== 0 && (bytes[at] === NULL || bytes[at] === EMPTY_TEXT);

/** The text at `at`, which the caller knows to be one. */
function textAt(bytes: Uint8Array, at: number): string {
  const start = at + headBytes(bytes, at);
  return text(bytes, start, start + headValue(bytes, at));
}

/** At most `maxLength` characters of the text at `at`; '' when it is absent or no text. */
function cutText(bytes: Uint8Array, at: number, maxLength: number): string {
  if (at === 0 || !isText(bytes, at)) return '';
  const start = at + headBytes(bytes, at);
  // Four bytes a character at most; a character cut in half becomes a replacement character.
  const length = Math.min(headValue(bytes, at), maxLength * 4);
  return text(bytes, start, start + length).slice(0, maxLength);
}

/** The DID at `at`; '' when it is none. */
function didAt(bytes: Uint8Array, at: number): string {
  if (!isText(bytes, at)) return '';
  const start = at + headBytes(bytes, at);
  const end = start + headValue(bytes, at);
  return isDidAt(bytes, start, end) ? latin1(bytes, start, end) : '';
}

/** The TID at `at`; '' when it is none. */
function tidAt(bytes: Uint8Array, at: number): string {
  // The head of a 13-byte text is one byte.
  if (bytes[at] !== 0x60 + TID_LENGTH || !isTidAt(bytes, at + 1, at + 1 + TID_LENGTH)) return '';
  return latin1(bytes, at + 1, at + 1 + TID_LENGTH);
}

/** The seq at `at`: 1…2^53−1; 0 when it is none. */
function seqAt(bytes: Uint8Array, at: number): number {
  if (bytes[at]! >> 5 !== MAJOR_UNSIGNED) return 0;
  const value = headValue(bytes, at);
  return value <= Number.MAX_SAFE_INTEGER ? value : 0;
}

/** The digest of the link at `at`; null when it is not a link to a block. */
const digestAt = (bytes: Uint8Array, at: number): Uint8Array | null =>
  isLinkAt(bytes, at, bytes.length)
    ? bytes.subarray(at + LINK_PREFIX_BYTES, at + LINK_PREFIX_BYTES + 32)
    : null;

/** Reads the ops, whose encoding was checked. */
function readOps(bytes: Uint8Array, opsAt: number): readonly Op[] | Rejection {
  if (bytes[opsAt]! >> 5 !== MAJOR_ARRAY) return invalid('ops');
  const count = headValue(bytes, opsAt);
  if (count > MAX_OPS) return reject('ops_too_many', `${count} ops`);
  if (count === 0) return NO_OPS;
  const end = bytes.length;
  const ops: Op[] = [];
  let at = opsAt + headBytes(bytes, opsAt);
  for (let index = 0; index < count; index++) {
    if (bytes[at]! >> 5 !== MAJOR_MAP) return invalid('ops');
    let actionAt = 0;
    let pathAt = 0;
    let cidAt = 0;
    let prevAt = 0;
    let left = headValue(bytes, at);
    at += headBytes(bytes, at);
    for (; left > 0; left--) {
      const length = headValue(bytes, at);
      const start = at + headBytes(bytes, at);
      at = start + length;
      if (length === 3 && equals(bytes, start, CID)) cidAt = at;
      else if (length === 4 && equals(bytes, start, PATH)) pathAt = at;
      else if (length === 4 && equals(bytes, start, PREV)) prevAt = at;
      else if (length === 6 && equals(bytes, start, ACTION)) actionAt = at;
      at = skipItem(bytes, at, end, 0);
    }
    if (actionAt === 0) return missing('ops.action');
    if (pathAt === 0) return missing('ops.path');
    if (cidAt === 0) return missing('ops.cid');
    if (!isText(bytes, actionAt)) return invalid('ops.action');
    if (!isText(bytes, pathAt)) return invalid('ops.path');
    let action: Op['action'];
    if (bytes[actionAt] !== 0x66) return reject('op_invalid', 'action');
    if (equals(bytes, actionAt + 1, CREATE)) action = 'create';
    else if (equals(bytes, actionAt + 1, DELETE)) action = 'delete';
    else if (equals(bytes, actionAt + 1, UPDATE)) action = 'update';
    else return reject('op_invalid', 'action');
    let cid: Uint8Array | null = null;
    if (bytes[cidAt] !== NULL) {
      cid = digestAt(bytes, cidAt);
      if (cid === null) return reject('op_invalid', 'cid is not CIDv1 dag-cbor sha-256');
    }
    let prev: Uint8Array | null = null;
    if (prevAt !== 0 && bytes[prevAt] !== NULL) {
      prev = digestAt(bytes, prevAt);
      if (prev === null) return reject('op_invalid', 'prev is not CIDv1 dag-cbor sha-256');
    }
    ops.push({ action, path: textAt(bytes, pathAt), cid, prev });
  }
  return ops;
}

/** Whether the item at `at`, whose encoding was checked, is an array of links (to anything: blobs are raw). */
function isLinkArray(bytes: Uint8Array, at: number): boolean {
  if (bytes[at]! >> 5 !== MAJOR_ARRAY) return false;
  let left = headValue(bytes, at);
  at += headBytes(bytes, at);
  for (; left > 0; left--) {
    if (bytes[at]! >> 5 !== 6) return false;
    at = skipItem(bytes, at, bytes.length, 0);
  }
  return true;
}

/**
 * Checks one WebSocket message whole and finds the fields a relay needs.
 *
 * Answers offsets into `bytes` (which it keeps, and of which the ops' digests are views) or the refusal:
 * frame_too_large, frame_not_canonical, frame_header_invalid, frame_field_missing, frame_field_invalid (the detail
 * names the field), rev_invalid, ops_too_many, op_invalid. An unknown type needs no field at all: `seq` and `did`
 * are given where they are present, well formed and, with `repo` beside `did`, the same account. Never throws, whatever
 * the bytes.
 */
export function scanFrame(bytes: Uint8Array): ScannedFrame | Rejection {
  if (bytes.length > MAX_FRAME_BYTES) return reject('frame_too_large', `${bytes.length} bytes`);
  const bodyStart = readHeader(bytes);
  if (typeof bodyStart !== 'number') return bodyStart;
  const kind = headerKind;
  const type = headerType;
  const malformed = locate(bytes, bodyStart);
  if (malformed !== null) return malformed;

  let seq = 0;
  let seqStart = 0;
  let seqEnd = 0;
  let did = '';
  let rev = '';
  let since: string | null = null;
  let time = '';
  let blocksStart = 0;
  let blocksEnd = 0;
  let commitDigestAt = -1;
  let prevDataDigestAt = -1;
  let ops = NO_OPS;
  let tooBig = false;
  let rebase = false;
  let absent: ScannedFrame['missing'] = NONE_MISSING;
  let blank: ScannedFrame['blank'] = null;
  let handle: string | null = null;
  let active = false;
  let status: string | null = null;
  let name = '';
  let message = '';

  const seqAtField = fields[SEQ]!;
  if (seqAtField !== 0 && kind !== KIND.info && kind !== KIND.error) {
    seq = seqAt(bytes, seqAtField);
    if (seq !== 0) {
      seqStart = seqAtField;
      seqEnd = seqAtField + headBytes(bytes, seqAtField);
    }
  }
  const timeAt = fields[TIME]!;
  if (timeAt !== 0 && isText(bytes, timeAt) && headValue(bytes, timeAt) <= MAX_TIME_LENGTH) {
    time = textAt(bytes, timeAt);
  }

  if (kind <= KIND.account) {
    if (seq === 0) return seqAtField === 0 ? missing('seq') : invalid('seq');
    const didField = kind === KIND.commit ? fields[REPO]! : fields[DID]!;
    const didName = kind === KIND.commit ? 'repo' : 'did';
    if (didField === 0) return missing(didName);
    did = didAt(bytes, didField);
    if (did === '') return invalid(didName);
    if (time === '') return timeAt === 0 ? missing('time') : invalid('time');

    if (kind === KIND.identity) {
      const at = fields[HANDLE]!;
      if (isBlank(bytes, at)) blank = 'handle';
      else if (at !== 0) {
        if (!isText(bytes, at) || headValue(bytes, at) > MAX_HANDLE_LENGTH) return invalid('handle');
        handle = textAt(bytes, at);
      }
    } else if (kind === KIND.account) {
      const at = fields[ACTIVE]!;
      if (at === 0) return missing('active');
      if (bytes[at] !== TRUE && bytes[at] !== FALSE) return invalid('active');
      active = bytes[at] === TRUE;
      const statusAt = fields[STATUS]!;
      if (isBlank(bytes, statusAt)) blank = 'status';
      else if (statusAt !== 0) {
        if (!isText(bytes, statusAt)) return invalid('status');
        status = cutText(bytes, statusAt, MAX_STATUS_LENGTH + 1);
        if (status.length > MAX_STATUS_LENGTH) return invalid('status');
      }
    } else {
      const revAt = fields[REV]!;
      if (revAt === 0) return missing('rev');
      if (!isText(bytes, revAt)) return invalid('rev');
      rev = tidAt(bytes, revAt);
      if (rev === '') return reject('rev_invalid', 'not a TID');
      const blocksAt = fields[BLOCKS]!;
      if (blocksAt === 0) return missing('blocks');
      if (bytes[blocksAt]! >> 5 !== MAJOR_BYTES) return invalid('blocks');
      blocksStart = blocksAt + headBytes(bytes, blocksAt);
      blocksEnd = blocksStart + headValue(bytes, blocksAt);

      if (kind === KIND.commit) {
        const sinceAt = fields[SINCE]!;
        if (sinceAt === 0) return missing('since');
        if (bytes[sinceAt] !== NULL) {
          since = tidAt(bytes, sinceAt);
          if (since === '') return invalid('since');
        }
        const commitAt = fields[COMMIT]!;
        if (commitAt === 0) return missing('commit');
        if (!isLinkAt(bytes, commitAt, bytes.length)) return invalid('commit');
        commitDigestAt = commitAt + LINK_PREFIX_BYTES;
        const prevDataAt = fields[PREV_DATA]!;
        if (prevDataAt !== 0 && bytes[prevDataAt] !== NULL) {
          if (!isLinkAt(bytes, prevDataAt, bytes.length)) return invalid('prevData');
          prevDataDigestAt = prevDataAt + LINK_PREFIX_BYTES;
        }
        const tooBigAt = fields[TOO_BIG]!;
        if (tooBigAt !== 0) {
          if (bytes[tooBigAt] !== TRUE && bytes[tooBigAt] !== FALSE) return invalid('tooBig');
          tooBig = bytes[tooBigAt] === TRUE;
        }
        const rebaseAt = fields[REBASE]!;
        if (rebaseAt !== 0) {
          if (bytes[rebaseAt] !== TRUE && bytes[rebaseAt] !== FALSE) return invalid('rebase');
          rebase = bytes[rebaseAt] === TRUE;
        }
        const blobsAt = fields[BLOBS]!;
        if (blobsAt !== 0 && !isLinkArray(bytes, blobsAt)) return invalid('blobs');
        if (tooBigAt === 0 || rebaseAt === 0 || blobsAt === 0) {
          absent = { tooBig: tooBigAt === 0, rebase: rebaseAt === 0, blobs: blobsAt === 0 };
        }
        const opsAt = fields[OPS]!;
        if (opsAt === 0) return missing('ops');
        const read = readOps(bytes, opsAt);
        if ('ok' in read) return read;
        ops = read;
      }
    }
  } else if (kind === KIND.unknown) {
    const [didField, repoField] = [fields[DID]!, fields[REPO]!];
    if (didField !== 0 || repoField !== 0) did = didAt(bytes, didField !== 0 ? didField : repoField);
    // Which of two it is about nobody knows.
    if (didField !== 0 && repoField !== 0 && didAt(bytes, repoField) !== did) did = '';
  } else {
    const field = kind === KIND.info ? NAME : ERROR;
    name = cutText(bytes, fields[field]!, MAX_NAME_LENGTH);
    if (name === '') {
      const word = kind === KIND.info ? 'name' : 'error';
      return fields[field] === 0 ? missing(word) : invalid(word);
    }
    message = cutText(bytes, fields[MESSAGE]!, MAX_MESSAGE_LENGTH);
  }

  return {
    ok: true,
    bytes,
    kind,
    type,
    seq,
    seqStart,
    seqEnd,
    bodyStart,
    did,
    rev,
    since,
    time,
    blocksStart,
    blocksEnd,
    commitDigestAt,
    prevDataDigestAt,
    ops,
    tooBig,
    rebase,
    missing: absent,
    blank,
    handle,
    active,
    status,
    name,
    message,
  };
}
