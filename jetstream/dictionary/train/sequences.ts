/**
 * What a compressor makes of samples with a given content before them: how often each literal byte and each code of
 * literal lengths, match lengths and offsets comes up (RFC 8878, section 3.1.1.3.2.1). The matches are found the
 * simple way, by two hash tables as zstd's fast levels have them; the tables need shares, not the very same choices.
 */
import { highBit } from './bits.ts';

const LONG_STRING_BYTES = 8;
const SHORT_STRING_BYTES = 5;
const HASH_BITS = 17;
/** What a repeated offset has to match at least. */
const MIN_REPEAT_BYTES = 4;

/** First values of the codes that stand for more than one, RFC 8878, section 3.1.1.3.2.1.1. */
const LITERAL_LENGTH_BASES = [16, 18, 20, 22, 24, 28, 32, 40, 48, 64];
const MATCH_LENGTH_BASES = [35, 37, 39, 41, 43, 47, 51, 59, 67, 83, 99];

export const LITERAL_LENGTH_CODES = 36;
export const MATCH_LENGTH_CODES = 53;
export const OFFSET_CODES = 32;

const literalLengthCode = (length: number): number => {
  if (length < 16) return length;
  if (length >= 128) return highBit(length) + 19;
  if (length >= 64) return 25;
  return 16 + LITERAL_LENGTH_BASES.findLastIndex((base) => length >= base);
};

const matchLengthCode = (length: number): number => {
  if (length < 35) return length - 3;
  if (length >= 131) return highBit(length - 3) + 36;
  return 32 + MATCH_LENGTH_BASES.findLastIndex((base) => length >= base);
};

export interface SequenceCounts {
  readonly literals: number[];
  readonly literalLengths: number[];
  readonly matchLengths: number[];
  readonly offsets: number[];
}

const zeros = (count: number): number[] => new Array<number>(count).fill(0);

/** Counts over all samples, each compressed alone with `content` before it. */
export const countSequences = (
  content: Uint8Array,
  samples: readonly Uint8Array[],
  repeatedOffsets: readonly [number, number, number],
): SequenceCounts => {
  const counts: SequenceCounts = {
    literals: zeros(256),
    literalLengths: zeros(LITERAL_LENGTH_CODES),
    matchLengths: zeros(MATCH_LENGTH_CODES),
    offsets: zeros(OFFSET_CODES),
  };
  const longest = samples.reduce((most, sample) => Math.max(most, sample.length), 0);
  const text = Buffer.alloc(content.length + longest + LONG_STRING_BYTES);
  text.set(content);
  const hash = (at: number, length: number): number => {
    const low = text.readUInt32LE(at);
    const high = length === LONG_STRING_BYTES ? text.readUInt32LE(at + 4) : text[at + 4]!;
    return Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b) >>> (32 - HASH_BITS);
  };
  const ofContent = {
    long: new Int32Array(1 << HASH_BITS).fill(-1),
    short: new Int32Array(1 << HASH_BITS).fill(-1),
  };
  for (let at = 0; at + LONG_STRING_BYTES <= content.length; at++) {
    ofContent.long[hash(at, LONG_STRING_BYTES)] = at;
    ofContent.short[hash(at, SHORT_STRING_BYTES)] = at;
  }

  const matchLength = (from: number, at: number, end: number): number => {
    let length = 0;
    while (at + length < end && text[from + length] === text[at + length]) length++;
    return length;
  };

  for (const sample of samples) {
    text.set(sample, content.length);
    const end = content.length + sample.length;
    const own = { long: new Map<number, number>(), short: new Map<number, number>() };
    let [first, second, third] = repeatedOffsets;
    let at = content.length;
    let anchor = at;
    const emit = (start: number, length: number, offset: number): void => {
      const literals = start - anchor;
      counts.literalLengths[literalLengthCode(literals)]!++;
      counts.matchLengths[matchLengthCode(length)]!++;
      for (let i = anchor; i < start; i++) counts.literals[text[i]!]!++;
      // Which of the repeated ones is meant depends on whether literals stand before the match.
      const repeats = literals > 0 ? [first, second, third] : [second, third, first - 1];
      const repeat = repeats.indexOf(offset);
      counts.offsets[highBit(repeat >= 0 ? repeat + 1 : offset + 3)]!++;
      if (offset === first) return;
      if (offset !== second) third = second;
      second = first;
      first = offset;
    };
    while (at + LONG_STRING_BYTES <= end) {
      const long = hash(at, LONG_STRING_BYTES);
      const short = hash(at, SHORT_STRING_BYTES);
      let start = at;
      let length = 0;
      let offset = 0;
      if (at + 1 - first >= 0) length = matchLength(at + 1 - first, at + 1, end);
      if (length >= MIN_REPEAT_BYTES) {
        start = at + 1;
        offset = first;
      } else {
        length = 0;
        for (const [from, minimum] of [
          [own.long.get(long) ?? ofContent.long[long]!, LONG_STRING_BYTES],
          [own.short.get(short) ?? ofContent.short[short]!, SHORT_STRING_BYTES],
        ] as const) {
          if (from < 0) continue;
          length = matchLength(from, at, end);
          offset = at - from;
          if (length >= minimum) break;
          length = 0;
        }
        while (
          length > 0 &&
          start > anchor &&
          start - offset > 0 &&
          text[start - 1] === text[start - offset - 1]
        ) {
          start--;
          length++;
        }
      }
      own.long.set(long, at);
      own.short.set(short, at);
      if (length === 0) {
        at++;
        continue;
      }
      emit(start, length, offset);
      at = start + length;
      anchor = at;
    }
    for (let i = anchor; i < end; i++) counts.literals[text[i]!]!++;
  }
  return counts;
};
