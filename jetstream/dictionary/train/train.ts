/**
 * Trains a zstd dictionary from sample messages and writes it in the format of RFC 8878, section 5: magic number, ID,
 * the tables for literals, offsets, match lengths and literal lengths, three offsets, and the content.
 *
 * A pure function of what it is given. What it is given must hold nobody's words: see scrub.ts.
 */
import { createHash } from 'node:crypto';
import { DICTIONARY_MAGIC, MAX_PRIVATE_ID, MIN_PRIVATE_ID } from '../format.ts';
import { highBit } from './bits.ts';
import { describeTable, normalize } from './fse.ts';
import { describeHuffman } from './huffman.ts';
import { chooseSegments } from './segments.ts';
import { countSequences } from './sequences.ts';

export interface TrainOptions {
  /** Bytes of the dictionary at most. */
  readonly maxBytes: number;
  /** The ID; null: one that follows from the other bytes, so that other bytes have another. */
  readonly id: number | null;
  readonly segmentBytes: number;
}

/** What every zstd frame begins with; a dictionary can give others, which gains nothing. */
const REPEATED_OFFSETS = [1, 4, 8] as const;
/** Room for magic, ID, tables and offsets: what is taken is near 150. */
const HEADER_BYTES = 256;
/** The largest a first block can be: offsets to all of content and block must have a code (as zstd checks). */
const BLOCK_BYTES = 128 * 1024;
/** Accuracy of the tables, the finest that zstd takes. */
const OFFSETS_LOG = 8;
const LENGTHS_LOG = 9;
/** The shortest content that makes sense: zstd wants 8 bytes at least. */
export const MIN_DICTIONARY_BYTES = HEADER_BYTES + 256;

/** Every code counts at least once: only complete tables are used without a look at each message. */
const table = (counts: readonly number[], accuracyLog: number): Uint8Array =>
  describeTable(
    normalize(
      counts.map((count) => Math.max(count, 1)),
      accuracyLog,
    ),
    accuracyLog,
  );

const uint32 = (value: number): Uint8Array => {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
};

/** An ID of the range that is free for private use, which follows from the bytes. */
const idOf = (bytes: Uint8Array): number =>
  MIN_PRIVATE_ID +
  (createHash('sha256').update(bytes).digest().readUInt32LE(0) % (MAX_PRIVATE_ID - MIN_PRIVATE_ID + 1));

/** The bytes of a dictionary for messages like the samples. Throws when the samples have nothing in common. */
export const trainDictionary = (samples: readonly Uint8Array[], options: TrainOptions): Uint8Array => {
  const content = chooseSegments(samples, {
    maxBytes: options.maxBytes - HEADER_BYTES,
    segmentBytes: options.segmentBytes,
  });
  if (content.length < 64) throw new Error('the samples have too little in common for a dictionary');
  const counts = countSequences(content, samples, REPEATED_OFFSETS);
  const offsetCodes = highBit(content.length + BLOCK_BYTES) + 1;
  const rest = Buffer.concat([
    describeHuffman(counts.literals),
    table(counts.offsets.slice(0, offsetCodes), OFFSETS_LOG),
    table(counts.matchLengths, LENGTHS_LOG),
    table(counts.literalLengths, LENGTHS_LOG),
    ...REPEATED_OFFSETS.map(uint32),
    content,
  ]);
  return new Uint8Array(Buffer.concat([uint32(DICTIONARY_MAGIC), uint32(options.id ?? idOf(rest)), rest]));
};
