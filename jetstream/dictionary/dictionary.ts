/**
 * Dictionaries as this program takes them: from bytes or a file, checked and tried before anything relies on them.
 *
 * Promises: an ID means the same bytes everywhere. The ID of version 1 is taken for the bytes of version 1 alone,
 * which every client of that version has; they are not part of this program, since they hold what people wrote.
 */
import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { createCompressor } from '../compress/compressor.ts';
import { dictionaryIdOf, MAX_PRIVATE_ID, MIN_PRIVATE_ID } from './format.ts';
import type { Dictionary } from './types.ts';

/** The dictionary that every client of version 1 carries. */
export const V1_DICTIONARY = {
  id: 1_612_007_021,
  byteLength: 112_640,
  sha256: 'b8d77b46933aceecbdd5275a01241efc985c970c78162b8150cf67a26522f70c',
} as const;

/** A larger one gains nothing for messages of a kilobyte, and each compressor holds it digested, in several times its size. */
export const MAX_DICTIONARY_BYTES = 1024 * 1024;

/** The dictionary of ours, trained on made-up records (docs/jetstream-dictionary.md). */
export const OWN_DICTIONARY_PATH = path.join(import.meta.dir, 'weir.zdict');

export type ReadDictionary =
  | { readonly ok: true; readonly dictionary: Dictionary }
  | { readonly ok: false; readonly problem: string };

const refuse = (problem: string): ReadDictionary => ({ ok: false, problem });

/** The dictionary that these bytes are. Tries it: what is ok can be compressed with. */
export const readDictionary = (bytes: Uint8Array): ReadDictionary => {
  if (bytes.length > MAX_DICTIONARY_BYTES) {
    return refuse(`has ${bytes.length} bytes, more than ${MAX_DICTIONARY_BYTES}`);
  }
  const id = dictionaryIdOf(bytes);
  if (id === null)
    return refuse('is not a zstd dictionary: it does not begin with the magic number 0xEC30A437');
  if (id === 0) return refuse('has the ID 0, which stands for no dictionary');
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  if (
    id === V1_DICTIONARY.id &&
    (bytes.length !== V1_DICTIONARY.byteLength || sha256 !== V1_DICTIONARY.sha256)
  ) {
    return refuse(
      `has the ID of version 1's dictionary (${id}) and is not it: ${bytes.length} bytes with SHA-256 ${sha256}, ` +
        `which should be ${V1_DICTIONARY.byteLength} bytes with ${V1_DICTIONARY.sha256}`,
    );
  }
  const dictionary: Dictionary = { id, bytes: Uint8Array.from(bytes), sha256 };
  try {
    createCompressor({ dictionary });
  } catch (error) {
    return refuse(`cannot be compressed with (${(error as Error).message})`);
  }
  return { ok: true, dictionary };
};

/** Reads a file; the problem names it. */
export const loadDictionary = (file: string): ReadDictionary => {
  let bytes: Uint8Array;
  try {
    const { size } = statSync(file);
    if (size > MAX_DICTIONARY_BYTES)
      return refuse(`${file} has ${size} bytes, more than ${MAX_DICTIONARY_BYTES}`);
    bytes = readFileSync(file);
  } catch (error) {
    return refuse(`${file} cannot be read (${(error as Error).message})`);
  }
  const read = readDictionary(bytes);
  return read.ok ? read : refuse(`${file} ${read.problem}`);
};

/** For JETSTREAM_ZSTD_DICTIONARY: version 1's clients have one dictionary, so any other would only break them. */
export const loadV1Dictionary = (file: string): ReadDictionary => {
  const read = loadDictionary(file);
  if (!read.ok || read.dictionary.id === V1_DICTIONARY.id) return read;
  return refuse(
    `${file} is a dictionary with the ID ${read.dictionary.id}; clients of version 1 have only ${V1_DICTIONARY.id}`,
  );
};

/** The dictionary that comes with this program. */
export const loadOwnDictionary = (): ReadDictionary => {
  const read = loadDictionary(OWN_DICTIONARY_PATH);
  if (!read.ok) return read;
  const { id } = read.dictionary;
  if (id < MIN_PRIVATE_ID || id > MAX_PRIVATE_ID || id === V1_DICTIONARY.id) {
    return refuse(`${OWN_DICTIONARY_PATH} has the ID ${id}, which is not free to take`);
  }
  return read;
};
