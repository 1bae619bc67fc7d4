/** Bytes as text, written into the scratch memory: the base32 of CIDs and the base64 of byte strings. */
import { base58btc } from 'multiformats/bases/base58';
import { out } from './scratch.ts';

const codes = (alphabet: string): Uint8Array => new TextEncoder().encode(alphabet);
const BASE32 = codes('abcdefghijklmnopqrstuvwxyz234567');
const BASE64 = codes('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/');

/** Base32 as in RFC 4648, in lower case and without padding. The caller has reserved the room: 8 for each 5 bytes. */
function writeBase32(bytes: Uint8Array, at: number, end: number): void {
  const target = out.bytes;
  let to = out.at;
  for (; at + 5 <= end; at += 5) {
    const high = (bytes[at]! << 12) | (bytes[at + 1]! << 4) | (bytes[at + 2]! >> 4);
    const low = ((bytes[at + 2]! & 15) << 16) | (bytes[at + 3]! << 8) | bytes[at + 4]!;
    target[to] = BASE32[high >> 15]!;
    target[to + 1] = BASE32[(high >> 10) & 31]!;
    target[to + 2] = BASE32[(high >> 5) & 31]!;
    target[to + 3] = BASE32[high & 31]!;
    target[to + 4] = BASE32[low >> 15]!;
    target[to + 5] = BASE32[(low >> 10) & 31]!;
    target[to + 6] = BASE32[(low >> 5) & 31]!;
    target[to + 7] = BASE32[low & 31]!;
    to += 8;
  }
  let bits = 0;
  let held = 0;
  for (; at < end; at++) {
    held = ((held & 31) << 8) | bytes[at]!;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      target[to++] = BASE32[(held >> bits) & 31]!;
    }
  }
  if (bits > 0) target[to++] = BASE32[(held << (5 - bits)) & 31]!;
  out.at = to;
}

/**
 * Writes the text of the CID whose bytes are bytes[at, end): 'b' and base32; a CID of version 0 as base58btc
 * (CID specification). Of the CID nothing is checked.
 */
export function writeCid(bytes: Uint8Array, at: number, end: number): void {
  if (bytes[at] === 0x12) {
    out.ascii(base58btc.encode(bytes.subarray(at, end)).slice(1));
    return;
  }
  out.reserve((end - at) * 2 + 1);
  out.bytes[out.at++] = 0x62;
  writeBase32(bytes, at, end);
}

/** Writes the base64 of bytes[at, end) as in RFC 4648, section 4, without padding (atproto spec: Data Model). */
export function writeBase64(bytes: Uint8Array, at: number, end: number): void {
  out.reserve(Math.ceil((end - at) / 3) * 4);
  const target = out.bytes;
  let to = out.at;
  for (; at + 3 <= end; at += 3) {
    const three = (bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]!;
    target[to] = BASE64[three >> 18]!;
    target[to + 1] = BASE64[(three >> 12) & 63]!;
    target[to + 2] = BASE64[(three >> 6) & 63]!;
    target[to + 3] = BASE64[three & 63]!;
    to += 4;
  }
  if (end - at === 2) {
    const two = (bytes[at]! << 8) | bytes[at + 1]!;
    target[to++] = BASE64[two >> 10]!;
    target[to++] = BASE64[(two >> 4) & 63]!;
    target[to++] = BASE64[(two << 2) & 63]!;
  } else if (end - at === 1) {
    target[to++] = BASE64[bytes[at]! >> 2]!;
    target[to++] = BASE64[(bytes[at]! << 4) & 63]!;
  }
  out.at = to;
}
