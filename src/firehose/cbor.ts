/**
 * Canonical DAG-CBOR (DRISL), read in place. `skipItem` is the validator of everything that comes from outside:
 * frames and record blocks. The readers below it are for bytes it has passed, and check nothing twice.
 *
 * What is canonical: definite and minimal lengths, minimal integers, text that is valid UTF-8, map keys that are
 * text, unique and ordered by length and then by bytes, tag 42 alone, around a well-formed CID after a zero byte,
 * floats of 64 bits that are finite, and of the simple values only false, true and null.
 */

/** Arrays and maps inside each other. Records nest about five deep; the bound keeps the recursion off the stack's end. */
export const MAX_NESTING = 64;
/** A digest inside a CID that is not sha-256 (such CIDs are allowed in fields we do not know). */
const MAX_CID_DIGEST_BYTES = 128;

export const MAJOR_UNSIGNED = 0;
export const MAJOR_BYTES = 2;
export const MAJOR_TEXT = 3;
export const MAJOR_ARRAY = 4;
export const MAJOR_MAP = 5;
export const TRUE = 0xf5;
export const FALSE = 0xf4;
export const NULL = 0xf6;

/** Tag 42, 37 bytes of byte string, zero, CIDv1, dag-cbor, sha-256, 32 bytes: how a link to a block begins. */
export const LINK_PREFIX_BYTES = 9;
/** A whole link: prefix and 32-byte digest. */
export const LINK_BYTES = LINK_PREFIX_BYTES + 32;

let whyNot = '';
/** In words, why the last `skipItem` refused. */
export const whyNotCanonical = (): string => whyNot;

function refuse(why: string): -1 {
  whyNot = why;
  return -1;
}

/** Length of the argument that the last `readHead` read; a plain variable, because a tuple would cost an allocation. */
let argument = 0;

/**
 * Reads the head of an item at `at` (major types 0–6) and leaves its argument in `argument`.
 * Answers the offset after the head, or −1.
 */
function readHead(bytes: Uint8Array, at: number, end: number): number {
  const info = bytes[at]! & 31;
  if (info < 24) {
    argument = info;
    return at + 1;
  }
  if (info === 24) {
    if (at + 2 > end) return refuse('ends inside a head');
    argument = bytes[at + 1]!;
    return argument < 24 ? refuse('integer not minimal') : at + 2;
  }
  if (info === 25) {
    if (at + 3 > end) return refuse('ends inside a head');
    argument = (bytes[at + 1]! << 8) | bytes[at + 2]!;
    return argument < 0x100 ? refuse('integer not minimal') : at + 3;
  }
  if (info === 26) {
    if (at + 5 > end) return refuse('ends inside a head');
    argument = bytes[at + 1]! * 0x1000000 + ((bytes[at + 2]! << 16) | (bytes[at + 3]! << 8) | bytes[at + 4]!);
    return argument < 0x10000 ? refuse('integer not minimal') : at + 5;
  }
  if (info === 27) {
    if (at + 9 > end) return refuse('ends inside a head');
    const high =
      bytes[at + 1]! * 0x1000000 + ((bytes[at + 2]! << 16) | (bytes[at + 3]! << 8) | bytes[at + 4]!);
    const low =
      bytes[at + 5]! * 0x1000000 + ((bytes[at + 6]! << 16) | (bytes[at + 7]! << 8) | bytes[at + 8]!);
    argument = high * 0x100000000 + low;
    return high === 0 ? refuse('integer not minimal') : at + 9;
  }
  return refuse(info === 31 ? 'indefinite length' : 'reserved head');
}

/** Whether bytes[at, end) are valid UTF-8 (shortest forms, no surrogates, at most U+10FFFF). */
export function isUtf8(bytes: Uint8Array, at: number, end: number): boolean {
  // Nearly all text is ASCII: look at four bytes at a time until one is not.
  for (; at + 4 <= end; at += 4) {
    if ((bytes[at]! | bytes[at + 1]! | bytes[at + 2]! | bytes[at + 3]!) >= 0x80) {
      return isWideUtf8(bytes, at, end);
    }
  }
  for (; at < end; at++) if (bytes[at]! >= 0x80) return isWideUtf8(bytes, at, end);
  return true;
}

function isWideUtf8(bytes: Uint8Array, at: number, end: number): boolean {
  while (at < end) {
    const byte = bytes[at]!;
    if (byte < 0x80) {
      at++;
      continue;
    }
    let following: number;
    let low = 0x80;
    let high = 0xbf;
    if (byte >= 0xc2 && byte <= 0xdf) following = 1;
    else if (byte >= 0xe0 && byte <= 0xef) {
      following = 2;
      if (byte === 0xe0) low = 0xa0;
      else if (byte === 0xed) high = 0x9f;
    } else if (byte >= 0xf0 && byte <= 0xf4) {
      following = 3;
      if (byte === 0xf0) low = 0x90;
      else if (byte === 0xf4) high = 0x8f;
    } else return false;
    if (at + following >= end) return false;
    const second = bytes[at + 1]!;
    if (second < low || second > high) return false;
    for (let next = 2; next <= following; next++) if ((bytes[at + next]! & 0xc0) !== 0x80) return false;
    at += following + 1;
  }
  return true;
}

/** A minimal unsigned varint of at most five bytes; leaves it in `argument`, answers the offset after it or −1. */
function readVarint(bytes: Uint8Array, at: number, end: number): number {
  let value = 0;
  let scale = 1;
  for (let length = 0; length < 5 && at < end; length++) {
    const byte = bytes[at++]!;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) {
      argument = value;
      return byte === 0 && length > 0 ? -1 : at;
    }
    scale *= 128;
  }
  return -1;
}

/** Whether bytes[at, end) are one whole CID: version 1 of any codec and hash, or the bare sha-256 of version 0. */
function isCid(bytes: Uint8Array, at: number, end: number): boolean {
  if (at >= end) return false;
  if (bytes[at] === 0x12) return end - at === 34 && bytes[at + 1] === 0x20;
  if (bytes[at] !== 1) return false;
  at = readVarint(bytes, at + 1, end);
  if (at > 0) at = readVarint(bytes, at, end);
  if (at > 0) at = readVarint(bytes, at, end);
  return at > 0 && argument <= MAX_CID_DIGEST_BYTES && at + argument === end;
}

/** Whether the bytes at `at` are a link to a block: CIDv1, dag-cbor, sha-256. */
export function isLinkAt(bytes: Uint8Array, at: number, end: number): boolean {
  return (
    at + LINK_BYTES <= end &&
    bytes[at] === 0xd8 &&
    bytes[at + 1] === 0x2a &&
    bytes[at + 2] === 0x58 &&
    bytes[at + 3] === 0x25 &&
    bytes[at + 4] === 0x00 &&
    bytes[at + 5] === 0x01 &&
    bytes[at + 6] === 0x71 &&
    bytes[at + 7] === 0x12 &&
    bytes[at + 8] === 0x20
  );
}

/** Writes a link's prefix at `at`; answers the offset where the digest goes. */
export function writeLinkPrefix(target: Uint8Array, at: number): number {
  target[at] = 0xd8;
  target[at + 1] = 0x2a;
  target[at + 2] = 0x58;
  target[at + 3] = 0x25;
  target[at + 4] = 0x00;
  target[at + 5] = 0x01;
  target[at + 6] = 0x71;
  target[at + 7] = 0x12;
  target[at + 8] = 0x20;
  return at + LINK_PREFIX_BYTES;
}

/** Whether the key of bytes[at, at + length) comes after the one at `before` in canonical order. */
export function isOrdered(
  bytes: Uint8Array,
  before: number,
  beforeLength: number,
  at: number,
  length: number,
): boolean {
  if (length !== beforeLength) return length > beforeLength;
  for (let index = 0; index < length; index++) {
    const difference = bytes[at + index]! - bytes[before + index]!;
    if (difference !== 0) return difference > 0;
  }
  return false;
}

/**
 * Checks one whole canonical item at `at`, everything inside it too. Answers the offset after it, or −1
 * (`whyNotCanonical` then says why). `nesting` is how many arrays and maps are around it. Never throws.
 */
export function skipItem(bytes: Uint8Array, at: number, end: number, nesting: number): number {
  if (at >= end) return refuse('ends too early');
  const head = bytes[at]!;
  const major = head >> 5;
  if (major === 7) {
    if (head === NULL || head === TRUE || head === FALSE) return at + 1;
    if (head !== 0xfb) return refuse(head < 0xf9 ? 'simple value' : 'float not of 64 bits');
    if (at + 9 > end) return refuse('ends inside a float');
    // An exponent of all ones is NaN or an infinity.
    if ((bytes[at + 1]! & 0x7f) === 0x7f && bytes[at + 2]! >= 0xf0) return refuse('float not finite');
    return at + 9;
  }
  const info = head & 31;
  let body: number;
  let length: number;
  if (info < 24) {
    length = info;
    body = at + 1;
  } else {
    body = readHead(bytes, at, end);
    if (body < 0) return -1;
    length = argument;
  }
  switch (major) {
    case 0:
    case 1:
      return body;
    case 2:
      return length > end - body ? refuse('ends inside a byte string') : body + length;
    case 3: {
      if (length > end - body) return refuse('ends inside a text');
      return isUtf8(bytes, body, body + length) ? body + length : refuse('text not UTF-8');
    }
    case 4: {
      if (nesting >= MAX_NESTING) return refuse('nested too deep');
      if (length > end - body) return refuse('array longer than the bytes');
      let next = body;
      for (let index = 0; index < length; index++) {
        next = skipItem(bytes, next, end, nesting + 1);
        if (next < 0) return -1;
      }
      return next;
    }
    case 5: {
      if (nesting >= MAX_NESTING) return refuse('nested too deep');
      if (length > (end - body) / 2) return refuse('map longer than the bytes');
      let next = body;
      let keyBefore = 0;
      let keyBeforeLength = -1;
      for (let index = 0; index < length; index++) {
        next = skipKey(bytes, next, end, keyBefore, keyBeforeLength);
        if (next < 0) return -1;
        keyBefore = keyStart;
        keyBeforeLength = next - keyStart;
        next = skipItem(bytes, next, end, nesting + 1);
        if (next < 0) return -1;
      }
      return next;
    }
    default: {
      if (isLinkAt(bytes, at, end)) return at + LINK_BYTES;
      if (length !== 42) return refuse('tag other than 42');
      if (body >= end || bytes[body]! >> 5 !== MAJOR_BYTES) return refuse('link not a byte string');
      const link = readHead(bytes, body, end);
      if (link < 0) return -1;
      const linkEnd = link + argument;
      if (linkEnd > end) return refuse('ends inside a link');
      if (argument < 2 || bytes[link] !== 0 || !isCid(bytes, link + 1, linkEnd)) {
        return refuse('link not a CID');
      }
      return linkEnd;
    }
  }
}

/** Offset of the bytes of the key that the last `skipKey` passed. */
let keyStart = 0;
export const lastKeyStart = (): number => keyStart;

/**
 * Checks a map key at `at`: text, after the key before it (`beforeLength` −1: it is the first).
 * Answers the offset of its value, or −1; `lastKeyStart` gives where its bytes begin.
 */
export function skipKey(
  bytes: Uint8Array,
  at: number,
  end: number,
  before: number,
  beforeLength: number,
): number {
  if (at >= end) return refuse('ends inside a map');
  if (bytes[at]! >> 5 !== MAJOR_TEXT) return refuse('map key not a text');
  let start = at + 1;
  let length = bytes[at]! & 31;
  if (length >= 24) {
    start = readHead(bytes, at, end);
    if (start < 0) return -1;
    length = argument;
  }
  if (length > end - start) return refuse('ends inside a map key');
  if (!isUtf8(bytes, start, start + length)) return refuse('map key not UTF-8');
  if (beforeLength >= 0 && !isOrdered(bytes, before, beforeLength, start, length)) {
    return refuse('map keys not unique and in order');
  }
  keyStart = start;
  return start + length;
}

// From here on: bytes that skipItem has passed.

/** The argument of the head at `at`: a length, a count, an unsigned integer (inexact above 2^53). */
export function headValue(bytes: Uint8Array, at: number): number {
  const info = bytes[at]! & 31;
  if (info < 24) return info;
  if (info === 24) return bytes[at + 1]!;
  readHead(bytes, at, bytes.length);
  return argument;
}

/** The number of bytes of the head at `at`. */
export function headBytes(bytes: Uint8Array, at: number): number {
  const info = bytes[at]! & 31;
  return info < 24 ? 1 : info === 24 ? 2 : info === 25 ? 3 : info === 26 ? 5 : 9;
}

/** The number of bytes that the head of an item with this argument takes. */
export const headBytesOf = (value: number): number =>
  value < 24 ? 1 : value < 0x100 ? 2 : value < 0x10000 ? 3 : value < 0x100000000 ? 5 : 9;

/** Writes the minimal head of an item (value at most 2^53 − 1); answers the offset after it. */
export function writeHead(target: Uint8Array, at: number, major: number, value: number): number {
  const top = major << 5;
  if (value < 24) {
    target[at] = top | value;
    return at + 1;
  }
  if (value < 0x100) {
    target[at] = top | 24;
    target[at + 1] = value;
    return at + 2;
  }
  if (value < 0x10000) {
    target[at] = top | 25;
    target[at + 1] = value >> 8;
    target[at + 2] = value;
    return at + 3;
  }
  let next = at + 1;
  if (value < 0x100000000) target[at] = top | 26;
  else {
    target[at] = top | 27;
    const high = Math.floor(value / 0x100000000);
    target[next++] = high >>> 24;
    target[next++] = high >>> 16;
    target[next++] = high >>> 8;
    target[next++] = high;
  }
  const low = value >>> 0;
  target[next++] = low >>> 24;
  target[next++] = low >>> 16;
  target[next++] = low >>> 8;
  target[next++] = low;
  return next;
}

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
// Buffer's own slicers work on any byte array and are the cheapest way from bytes to a string.
const latin1Slice = (Buffer.prototype as unknown as { latin1Slice(start: number, end: number): string })
  .latin1Slice;

/** bytes[start, end) as a string, one character per byte. */
export const latin1 = (bytes: Uint8Array, start: number, end: number): string =>
  latin1Slice.call(bytes as Buffer, start, end);

/** bytes[start, end), valid UTF-8, as a string. */
export function text(bytes: Uint8Array, start: number, end: number): string {
  for (let at = start; at < end; at++) {
    if (bytes[at]! >= 0x80) return utf8.decode(bytes.subarray(start, end));
  }
  return latin1Slice.call(bytes as Buffer, start, end);
}
