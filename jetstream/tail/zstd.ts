import { decompress as decompressFrame } from '../compress/decompress.ts';
import { dictionaryIdOf } from '../dictionary/format.ts';
import type { Dictionary } from '../dictionary/types.ts';

/** A message's JSON: a record has at most a million bytes, and a byte at most six characters. */
export const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

/** A dictionary as it came, from a file or a host; null when the bytes are none. What it holds is not checked. */
export const openDictionary = (bytes: Uint8Array): Dictionary | null => {
  const id = dictionaryIdOf(bytes);
  if (id === null || id === 0) return null;
  return { id, bytes, sha256: new Bun.CryptoHasher('sha256').update(bytes).digest('hex') };
};

export type Decompressed =
  | { readonly ok: true; readonly text: string }
  /** `needs`: the ID of the dictionary that is missing. */
  | { readonly ok: false; readonly problem: string; readonly needs?: number };

/** The text of a zstd frame. Never throws; never makes more than MAX_MESSAGE_BYTES. */
export const decompress = (frame: Uint8Array, dictionary: Dictionary | null): Decompressed => {
  const found = decompressFrame(frame, dictionary, MAX_MESSAGE_BYTES);
  return found.ok ? { ok: true, text: Buffer.from(found.bytes).toString('utf8') } : found;
};
