import zlib from 'node:zlib';

/** A message's JSON: a record has at most a million bytes, and a byte at most six characters. */
export const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

const FRAME_MAGIC = 0xfd2fb528;
const DICTIONARY_MAGIC = 0xec30a437;
/** Sizes of the dictionary ID by the frame header's two low bits. */
const ID_BYTES = [0, 1, 2, 4];

const uint = (bytes: Uint8Array, at: number, length: number): number => {
  let value = 0;
  for (let i = length - 1; i >= 0; i--) value = value * 256 + bytes[at + i]!;
  return value;
};

/** The ID of a zstd dictionary; null when the bytes are none, or a raw one without an ID. RFC 8878, section 5. */
export const dictionaryId = (bytes: Uint8Array): number | null =>
  bytes.length > 8 && uint(bytes, 0, 4) === DICTIONARY_MAGIC ? uint(bytes, 4, 4) : null;

/** The ID of the dictionary that a zstd frame needs; 0: none; null: no frame. RFC 8878, section 3.1.1.1. */
export const frameDictionaryId = (frame: Uint8Array): number | null => {
  if (frame.length < 6 || uint(frame, 0, 4) !== FRAME_MAGIC) return null;
  const descriptor = frame[4]!;
  const idBytes = ID_BYTES[descriptor & 3]!;
  // A window descriptor is there unless the frame is a single segment.
  const at = (descriptor & 0x20) !== 0 ? 5 : 6;
  return frame.length < at + idBytes ? null : uint(frame, at, idBytes);
};

export type Decompressed =
  | { readonly ok: true; readonly text: string }
  /** `needs`: the ID of the dictionary that is missing. */
  | { readonly ok: false; readonly problem: string; readonly needs?: number };

/** The text of a zstd frame. Never throws; never makes more than MAX_MESSAGE_BYTES. */
export const decompress = (frame: Uint8Array, dictionary: Uint8Array | null): Decompressed => {
  const needs = frameDictionaryId(frame);
  if (needs === null) return { ok: false, problem: 'a binary message that is not zstd' };
  if (needs !== 0 && (dictionary === null || dictionaryId(dictionary) !== needs)) {
    return { ok: false, problem: `a message compressed with dictionary ${needs}`, needs };
  }
  try {
    const options = { maxOutputLength: MAX_MESSAGE_BYTES, ...(dictionary === null ? {} : { dictionary }) };
    return { ok: true, text: zlib.zstdDecompressSync(frame, options).toString('utf8') };
  } catch (error) {
    return { ok: false, problem: `a message that cannot be decompressed (${(error as Error).message})` };
  }
};
