/** Made-up identifiers and values, each of the shape that the real ones have (atproto specs: DID, Handle, TID, …). */
import type { Random } from '../../../simulator/random.ts';

const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';
const BASE32_SORTABLE = '234567abcdefghijklmnopqrstuvwxyz';
const BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
const LETTERS = 'abcdefghijklmnopqrstuvwxyz';
const DIGITS = '0123456789';

/** Instants of made-up events lie within these years, so that a dictionary serves for long. */
const FIRST_MS = Date.UTC(2026, 0, 1);
const LAST_MS = Date.UTC(2028, 0, 1);

const draw = (random: Random, alphabet: string, length: number): string => {
  let text = '';
  for (let i = 0; i < length; i++) text += alphabet[random.below(alphabet.length)];
  return text;
};

export const base32 = (random: Random, length: number): string => draw(random, BASE32, length);
export const base64 = (random: Random, length: number): string => draw(random, BASE64, length);
export const letters = (random: Random, length: number): string => draw(random, LETTERS, length);
export const digits = (random: Random, length: number): string =>
  length < 1 ? '' : `${1 + random.below(9)}${draw(random, DIGITS, length - 1)}`;

export const didPlc = (random: Random): string => `did:plc:${base32(random, 24)}`;
/** 32 bytes within the text of a CID: the first character shares bits with what precedes, the last is padded. */
const digest = (random: Random): string =>
  draw(random, 'abcdefgh', 1) + base32(random, 50) + draw(random, 'aeimquy4', 1);
/** Of a record, which is DAG-CBOR with a SHA-256. */
export const recordCid = (random: Random): string => `bafyrei${digest(random)}`;
/** Of a blob, which is raw bytes with a SHA-256. */
export const blobCid = (random: Random): string => `bafkrei${digest(random)}`;

export const instantMs = (random: Random): number =>
  Math.floor(FIRST_MS + random.unit() * (LAST_MS - FIRST_MS));

/** atproto spec: TID. 53 bits of microseconds and 10 of a clock's number. */
export const tid = (random: Random, ms: number): string => {
  let value =
    (BigInt(Math.floor(ms)) * 1000n + BigInt(random.below(1000))) * 1024n + BigInt(random.below(1024));
  let text = '';
  for (let i = 0; i < 13; i++) {
    text = BASE32_SORTABLE[Number(value & 31n)] + text;
    value >>= 5n;
  }
  return text;
};

/** How clients write an instant: mostly with milliseconds, some with micro- or nanoseconds or another zone. */
export const clientTime = (random: Random, ms: number): string => {
  const iso = new Date(ms).toISOString();
  const kind = random.unit();
  if (kind < 0.86) return iso;
  if (kind < 0.92) return `${iso.slice(0, -1)}${digits(random, 3)}Z`;
  if (kind < 0.95) return `${iso.slice(0, 19)}Z`;
  if (kind < 0.98) return `${iso.slice(0, -1)}${digits(random, 3)}+00:00`;
  return `${iso.slice(0, -1)}${digits(random, 6)}Z`;
};
