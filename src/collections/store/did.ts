/**
 * DIDs in their packed form: the 24 characters of a did:plc are 15 bytes, here as four numbers of 30 bits, too.
 * Pure.
 */
const PREFIX = 'did:plc:';
const PLC_LENGTH = PREFIX.length + 24;
/** Bytes of a packed did:plc. */
export const PLC_BYTES = 15;
const ALPHABET = 'abcdefghijklmnopqrstuvwxyz234567';

const bitsOf = new Int8Array(128).fill(-1);
for (let value = 0; value < ALPHABET.length; value++) bitsOf[ALPHABET.charCodeAt(value)] = value;
const codeOf = new Uint8Array(32);
for (let value = 0; value < ALPHABET.length; value++) codeOf[value] = ALPHABET.charCodeAt(value);

/** The four words of the last did:plc that `readPlc` read. */
export const words = new Int32Array(4);

/** Reads a did:plc into `words`. @returns false for any other text */
export function readPlc(did: string): boolean {
  if (did.length !== PLC_LENGTH || !did.startsWith(PREFIX)) return false;
  let at = PREFIX.length;
  let bad = 0;
  for (let word = 0; word < 4; word++) {
    let bits = 0;
    for (let index = 0; index < 6; index++) {
      const code = did.charCodeAt(at++);
      const value = code < 128 ? bitsOf[code]! : -1;
      bad |= value;
      bits = (bits << 5) | (value & 31);
    }
    words[word] = bits;
  }
  return bad >= 0;
}

/** Writes `words` as 15 bytes. */
export function writePlc(bytes: Uint8Array, at: number): void {
  // Two words are 60 bits: seven and a half bytes.
  const [a, b, c, d] = words as unknown as [number, number, number, number];
  bytes[at] = a >>> 22;
  bytes[at + 1] = a >>> 14;
  bytes[at + 2] = a >>> 6;
  bytes[at + 3] = (a << 2) | (b >>> 28);
  bytes[at + 4] = b >>> 20;
  bytes[at + 5] = b >>> 12;
  bytes[at + 6] = b >>> 4;
  bytes[at + 7] = (b << 4) | (c >>> 26);
  bytes[at + 8] = c >>> 18;
  bytes[at + 9] = c >>> 10;
  bytes[at + 10] = c >>> 2;
  bytes[at + 11] = (c << 6) | (d >>> 24);
  bytes[at + 12] = d >>> 16;
  bytes[at + 13] = d >>> 8;
  bytes[at + 14] = d;
}

/** Bun and Node have it; their types do not. */
type Latin1Buffer = Buffer & { latin1Slice(from: number, to: number): string };
const text = Buffer.alloc(PLC_LENGTH) as Latin1Buffer;
text.write(PREFIX, 'latin1');

/** The did:plc whose 15 bytes stand at `at`. */
export function plcText(bytes: Uint8Array, at: number): string {
  let to = PREFIX.length;
  for (let group = 0; group < 3; group++) {
    const from = at + group * 5;
    const high = (bytes[from]! << 12) | (bytes[from + 1]! << 4) | (bytes[from + 2]! >> 4);
    const low = ((bytes[from + 2]! & 15) << 16) | (bytes[from + 3]! << 8) | bytes[from + 4]!;
    text[to++] = codeOf[high >> 15]!;
    text[to++] = codeOf[(high >> 10) & 31]!;
    text[to++] = codeOf[(high >> 5) & 31]!;
    text[to++] = codeOf[high & 31]!;
    text[to++] = codeOf[low >> 15]!;
    text[to++] = codeOf[(low >> 10) & 31]!;
    text[to++] = codeOf[(low >> 5) & 31]!;
    text[to++] = codeOf[low & 31]!;
  }
  return text.latin1Slice(0, PLC_LENGTH);
}

/** 48 bits: an integer primary key of seven bytes. */
const KEY_MASK = (1n << 48n) - 1n;
export const KEYS = 2 ** 48;
const plcBytes = new Uint8Array(PLC_BYTES);
const encoder = new TextEncoder();

/**
 * The number an account is looked up by: 48 bits of a hash, seeded with the file's own secret, so that nobody can
 * make DIDs that fall together. Two accounts may still have the same; they are told apart by their DIDs.
 */
export function keyOf(did: string, seed: bigint): number {
  if (!readPlc(did)) return Number((Bun.hash.xxHash3(encoder.encode(did), seed) as bigint) & KEY_MASK);
  writePlc(plcBytes, 0);
  return Number((Bun.hash.xxHash3(plcBytes, seed) as bigint) & KEY_MASK);
}
