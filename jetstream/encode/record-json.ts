/**
 * Records as JSON: from DAG-CBOR straight to UTF-8 text, in one pass, without an object in between.
 *
 * Contract: what the firehose accepts as a record (one canonical DAG-CBOR map and nothing after it) has a JSON form,
 * and nothing else has. Links become {"$link": CID}, byte strings {"$bytes": base64 without padding}, all else its
 * like in JSON. Keys stay in the order of the encoding, text is escaped as JSON.stringify escapes it, floats are
 * written as JSON.stringify writes them, integers with all their digits: beyond ±(2^53 − 1), too, where a reader in
 * JavaScript rounds. Never throws, whatever the bytes. The judges in test/jetstream/encode are @ipld/dag-cbor,
 * @atproto/lex-json and JSON.parse.
 *
 * Source: atproto spec, Data Model ("JSON Representation").
 */
import { headBytes, headValue, isOrdered, MAX_NESTING, skipItem } from '../../src/firehose/cbor.ts';
import { out } from './scratch.ts';
import { writeBase64, writeCid } from './text-forms.ts';

/** Maps and arrays inside each other, the same as in the check of records: what was accepted can be shown. */
export const MAX_RECORD_NESTING = MAX_NESTING;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const LETTER_U = 0x75;
const ZERO = 0x30;
const HEX = new TextEncoder().encode('0123456789abcdef');

/** What a byte of text asks for: 0 nothing, WIDE a look at the bytes after it, else the letter of its escape. */
const ESCAPES = new Uint8Array(256);
const WIDE = 1;
ESCAPES.fill(LETTER_U, 0, 0x20);
ESCAPES[0x08] = 0x62;
ESCAPES[0x09] = 0x74;
ESCAPES[0x0a] = 0x6e;
ESCAPES[0x0c] = 0x66;
ESCAPES[0x0d] = 0x72;
ESCAPES[QUOTE] = QUOTE;
ESCAPES[BACKSLASH] = BACKSLASH;
ESCAPES.fill(WIDE, 0x80);

/** The argument of a head of text, array or map, which must be minimal and below 2^32; −1 when it is not. */
function readLength(bytes: Uint8Array, at: number, end: number): number {
  const info = bytes[at]! & 31;
  if (info < 24) return info;
  if (info > 26 || at + headBytes(bytes, at) > end) return -1;
  const value = headValue(bytes, at);
  return value < (info === 24 ? 24 : info === 25 ? 0x100 : 0x10000) ? -1 : value;
}

/** Writes bytes[from, end) between quotes; whether they were UTF-8. */
function writeText(bytes: Uint8Array, from: number, end: number): boolean {
  // An escape takes six bytes at most.
  out.reserve((end - from) * 6);
  const target = out.bytes;
  let to = out.at;
  target[to++] = QUOTE;
  const lastFour = end - 4;
  while (from < end) {
    // Nearly all text needs nothing: four bytes at a time until one does.
    while (from <= lastFour) {
      const a = bytes[from]!;
      const b = bytes[from + 1]!;
      const c = bytes[from + 2]!;
      const d = bytes[from + 3]!;
      if ((ESCAPES[a]! | ESCAPES[b]! | ESCAPES[c]! | ESCAPES[d]!) !== 0) break;
      target[to] = a;
      target[to + 1] = b;
      target[to + 2] = c;
      target[to + 3] = d;
      to += 4;
      from += 4;
    }
    if (from === end) break;
    const byte = bytes[from]!;
    const kind = ESCAPES[byte]!;
    if (kind === 0) {
      target[to++] = byte;
      from++;
    } else if (kind === WIDE) {
      let following = 1;
      let low = 0x80;
      let high = 0xbf;
      if (byte >= 0xe0) {
        if (byte < 0xf0) {
          following = 2;
          if (byte === 0xe0) low = 0xa0;
          else if (byte === 0xed) high = 0x9f;
        } else {
          following = 3;
          if (byte === 0xf0) low = 0x90;
          else if (byte === 0xf4) high = 0x8f;
          else if (byte > 0xf4) return false;
        }
      } else if (byte < 0xc2) return false;
      if (from + following >= end) return false;
      const second = bytes[from + 1]!;
      if (second < low || second > high) return false;
      target[to] = byte;
      target[to + 1] = second;
      for (let next = 2; next <= following; next++) {
        const continuation = bytes[from + next]!;
        if ((continuation & 0xc0) !== 0x80) return false;
        target[to + next] = continuation;
      }
      to += following + 1;
      from += following + 1;
    } else {
      target[to++] = BACKSLASH;
      target[to++] = kind;
      if (kind === LETTER_U) {
        target[to++] = ZERO;
        target[to++] = ZERO;
        target[to++] = HEX[byte >> 4]!;
        target[to++] = HEX[byte & 15]!;
      }
      from++;
    }
  }
  target[to++] = QUOTE;
  out.at = to;
  return true;
}

/** The argument of eight bytes after the head at `at`, exactly. */
function wideArgument(bytes: Uint8Array, at: number): bigint {
  let value = 0n;
  for (let index = 1; index <= 8; index++) value = (value << 8n) | BigInt(bytes[at + index]!);
  return value;
}

function writeInteger(bytes: Uint8Array, at: number): void {
  const value = headValue(bytes, at);
  const negative = bytes[at]! >> 5 === 1;
  if (value < 10 && !negative) out.bytes[out.at++] = ZERO + value;
  else if (value < Number.MAX_SAFE_INTEGER) out.ascii(String(negative ? -1 - value : value));
  else {
    const exact = wideArgument(bytes, at);
    out.ascii(String(negative ? -1n - exact : exact));
  }
}

const float = new Float64Array(1);
const floatBytes = new Uint8Array(float.buffer);
const LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

function writeFloat(bytes: Uint8Array, at: number): void {
  for (let index = 0; index < 8; index++) {
    floatBytes[LITTLE_ENDIAN ? 7 - index : index] = bytes[at + 1 + index]!;
  }
  // As JSON.stringify has it, minus zero is "0".
  out.ascii(String(float[0]));
}

/** Writes the map at `at`; answers the offset after it, or −1. `nesting`: how many maps and arrays are around it. */
function writeMap(bytes: Uint8Array, at: number, end: number, nesting: number): number {
  if (nesting >= MAX_RECORD_NESTING) return -1;
  const count = readLength(bytes, at, end);
  if (count < 0) return -1;
  at += headBytes(bytes, at);
  out.bytes[out.at++] = 0x7b;
  let keyBefore = 0;
  let keyBeforeLength = -1;
  for (let left = count; left > 0; left--) {
    if (at >= end || bytes[at]! >> 5 !== 3) return -1;
    const length = readLength(bytes, at, end);
    if (length < 0) return -1;
    const key = at + headBytes(bytes, at);
    if (length > end - key) return -1;
    if (keyBeforeLength >= 0) {
      if (!isOrdered(bytes, keyBefore, keyBeforeLength, key, length)) return -1;
      out.bytes[out.at++] = COMMA;
    }
    keyBefore = key;
    keyBeforeLength = length;
    if (!writeText(bytes, key, key + length)) return -1;
    out.bytes[out.at++] = COLON;
    at = writeItem(bytes, key + length, end, nesting + 1);
    if (at < 0) return -1;
  }
  out.bytes[out.at++] = 0x7d;
  return at;
}

function writeArray(bytes: Uint8Array, at: number, end: number, nesting: number): number {
  if (nesting >= MAX_RECORD_NESTING) return -1;
  const count = readLength(bytes, at, end);
  if (count < 0) return -1;
  at += headBytes(bytes, at);
  out.bytes[out.at++] = 0x5b;
  for (let index = 0; index < count; index++) {
    if (index > 0) out.bytes[out.at++] = COMMA;
    at = writeItem(bytes, at, end, nesting + 1);
    if (at < 0) return -1;
  }
  out.bytes[out.at++] = 0x5d;
  return at;
}

function writeItem(bytes: Uint8Array, at: number, end: number, nesting: number): number {
  if (at >= end) return -1;
  const head = bytes[at]!;
  switch (head >> 5) {
    case 3: {
      const length = readLength(bytes, at, end);
      const start = at + headBytes(bytes, at);
      if (length < 0 || length > end - start) return -1;
      return writeText(bytes, start, start + length) ? start + length : -1;
    }
    case 4:
      out.reserve(2);
      return writeArray(bytes, at, end, nesting);
    case 5:
      out.reserve(2);
      return writeMap(bytes, at, end, nesting);
    default: {
      const next = skipItem(bytes, at, end, nesting);
      if (next < 0) return -1;
      // Integers and floats have 24 characters at most.
      out.reserve(32);
      switch (head >> 5) {
        case 0:
        case 1:
          writeInteger(bytes, at);
          break;
        case 2:
          out.ascii('{"$bytes":"');
          writeBase64(bytes, at + headBytes(bytes, at), next);
          out.ascii('"}');
          break;
        case 6:
          out.ascii('{"$link":"');
          // Two bytes of tag, the head of the byte string, its first byte zero: then the CID.
          writeCid(bytes, at + 2 + headBytes(bytes, at + 2) + 1, next);
          out.ascii('"}');
          break;
        default:
          if (head === 0xf4) out.ascii('false');
          else if (head === 0xf5) out.ascii('true');
          else if (head === 0xf6) out.ascii('null');
          else writeFloat(bytes, at);
      }
      return next;
    }
  }
}

/**
 * Writes the JSON of the record in bytes[start, end) into the scratch memory. Answers whether it has one; when not,
 * nothing stays written.
 */
export function writeRecord(bytes: Uint8Array, start: number, end: number): boolean {
  const before = out.at;
  if (start < end && bytes[start]! >> 5 === 5) {
    out.reserve(2);
    if (writeMap(bytes, start, end, 0) === end) return true;
  }
  out.at = before;
  return false;
}

/** The JSON of the record in bytes[start, end) as UTF-8 bytes of their own; null when it has none. */
export function recordJson(bytes: Uint8Array, start = 0, end = bytes.length): Uint8Array | null {
  out.reset();
  return writeRecord(bytes, start, end) ? out.take() : null;
}
