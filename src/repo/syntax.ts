/**
 * Identifier syntax, checked on bytes without regular expressions: these run for every frame.
 * Sources: atproto specs DID, NSID, TID, Record Key, and "Repository paths" in the repository spec.
 */

export const MAX_DID_LENGTH = 2048;
export const MAX_NSID_LENGTH = 317;
export const MAX_RECORD_KEY_LENGTH = 512;
export const TID_LENGTH = 13;
const MAX_NSID_SEGMENT_LENGTH = 63;

const LOWER = 1;
const UPPER = 2;
const DIGIT = 4;
const LETTER = LOWER | UPPER;
const ALPHANUMERIC = LETTER | DIGIT;
/** . _ : - */
const DID_PUNCTUATION = 8;
/** . _ ~ : - */
const KEY_PUNCTUATION = 16;
/** Base32-sortable: 2-7 a-z. */
const TID_CHARACTER = 32;
/** 2-7 a-j: the top bit of a TID is zero. */
const TID_FIRST = 64;

const CLASS = new Uint8Array(256);
for (let code = 0; code < 128; code++) {
  const character = String.fromCharCode(code);
  let bits = 0;
  if (character >= 'a' && character <= 'z') bits |= LOWER | TID_CHARACTER;
  if (character >= 'A' && character <= 'Z') bits |= UPPER;
  if (character >= '0' && character <= '9') bits |= DIGIT;
  if (character >= '2' && character <= '7') bits |= TID_CHARACTER | TID_FIRST;
  if (character >= 'a' && character <= 'j') bits |= TID_FIRST;
  if ('._:-'.includes(character)) bits |= DID_PUNCTUATION;
  if ('._~:-'.includes(character)) bits |= KEY_PUNCTUATION;
  CLASS[code] = bits;
}

const DOT = 0x2e;
const SLASH = 0x2f;
const COLON = 0x3a;
const HYPHEN = 0x2d;
const PERCENT = 0x25;

/** Whether bytes[start, end) are a DID: "did:", a lower-case method, ":", an identifier; at most 2,048 bytes. */
export function isDidAt(bytes: Uint8Array, start: number, end: number): boolean {
  if (end - start < 7 || end - start > MAX_DID_LENGTH) return false;
  if (bytes[start] !== 0x64 || bytes[start + 1] !== 0x69 || bytes[start + 2] !== 0x64) return false;
  if (bytes[start + 3] !== COLON) return false;
  let at = start + 4;
  while (at < end && (CLASS[bytes[at]!]! & LOWER) !== 0) at++;
  if (at === start + 4 || at >= end - 1 || bytes[at] !== COLON) return false;
  for (at++; at < end; at++) {
    const byte = bytes[at]!;
    if ((CLASS[byte]! & (ALPHANUMERIC | DID_PUNCTUATION)) === 0 && byte !== PERCENT) return false;
  }
  const last = bytes[end - 1]!;
  return last !== COLON && last !== PERCENT;
}

/** Whether bytes[start, end) are a TID: 13 base32-sortable characters, the first one at most "j". */
export function isTidAt(bytes: Uint8Array, start: number, end: number): boolean {
  if (end - start !== TID_LENGTH || (CLASS[bytes[start]!]! & TID_FIRST) === 0) return false;
  for (let at = start + 1; at < end; at++) {
    if ((CLASS[bytes[at]!]! & TID_CHARACTER) === 0) return false;
  }
  return true;
}

/** Whether bytes[start, end) are an NSID: at least two domain segments and a name. */
export function isNsidAt(bytes: Uint8Array, start: number, end: number): boolean {
  if (end - start > MAX_NSID_LENGTH) return false;
  let segments = 0;
  let at = start;
  let segmentStart = start;
  for (;;) {
    while (at < end && ((CLASS[bytes[at]!]! & ALPHANUMERIC) !== 0 || bytes[at] === HYPHEN)) at++;
    const length = at - segmentStart;
    if (length === 0 || length > MAX_NSID_SEGMENT_LENGTH) return false;
    if (bytes[segmentStart] === HYPHEN || bytes[at - 1] === HYPHEN) return false;
    segments++;
    if (at === end) break;
    if (bytes[at] !== DOT) return false;
    at++;
    segmentStart = at;
  }
  if (segments < 3) return false;
  // The top-level domain and the name start with a letter; the name has no hyphens.
  if ((CLASS[bytes[start]!]! & LETTER) === 0 || (CLASS[bytes[segmentStart]!]! & LETTER) === 0) return false;
  for (let name = segmentStart; name < end; name++) if (bytes[name] === HYPHEN) return false;
  return true;
}

/** Whether bytes[start, end) are a record key: 1–512 of A-Z a-z 0-9 . _ ~ : - but not "." or "..". */
export function isRecordKeyAt(bytes: Uint8Array, start: number, end: number): boolean {
  const length = end - start;
  if (length < 1 || length > MAX_RECORD_KEY_LENGTH) return false;
  for (let at = start; at < end; at++) {
    if ((CLASS[bytes[at]!]! & (ALPHANUMERIC | KEY_PUNCTUATION)) === 0) return false;
  }
  if (bytes[start] === DOT && (length === 1 || (length === 2 && bytes[start + 1] === DOT))) return false;
  return true;
}

/** Whether bytes[start, end) are a repository path: NSID, "/", record key. */
export function isPathAt(bytes: Uint8Array, start: number, end: number): boolean {
  let slash = start;
  while (slash < end && bytes[slash] !== SLASH) slash++;
  return slash < end && isNsidAt(bytes, start, slash) && isRecordKeyAt(bytes, slash + 1, end);
}

/** Whether `byte` may stand in an MST key: a record key's characters and the slash. */
export const isKeyByte = (byte: number): boolean =>
  (CLASS[byte]! & (ALPHANUMERIC | KEY_PUNCTUATION)) !== 0 || byte === SLASH;

const scratch = new Uint8Array(MAX_DID_LENGTH + 1);

/** Copies ASCII text into the scratch buffer; −1 when it is not ASCII or longer than any identifier. */
function toScratch(text: string): number {
  if (text.length > MAX_DID_LENGTH) return -1;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code > 127) return -1;
    scratch[at] = code;
  }
  return text.length;
}

/** atproto spec: DID. */
export const isDid = (text: string): boolean => isDidAt(scratch, 0, toScratch(text));
/** atproto spec: TID. */
export const isTid = (text: string): boolean => isTidAt(scratch, 0, toScratch(text));
/** atproto spec: NSID. */
export const isNsid = (text: string): boolean => isNsidAt(scratch, 0, toScratch(text));
/** atproto spec: Record Key. */
export const isRecordKey = (text: string): boolean => isRecordKeyAt(scratch, 0, toScratch(text));
/** atproto spec: Repository, "Repository paths". */
export const isPath = (text: string): boolean => isPathAt(scratch, 0, toScratch(text));

/** Microseconds since the epoch that a valid TID names: its 53 high bits, exact as a number. */
export function tidMicroseconds(tid: string): number {
  let value = 0;
  for (let at = 0; at < 11; at++) {
    const code = tid.charCodeAt(at);
    value = value * 32 + (code >= 0x61 ? code - 0x61 + 6 : code - 0x32);
  }
  return value;
}
