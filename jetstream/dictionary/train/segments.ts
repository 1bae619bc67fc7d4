/**
 * Chooses what a dictionary holds: the segments of the samples whose strings occur in most of them.
 *
 * In the manner of COVER (Liao, Petri, Moffat, Wirth: "Effective Construction of Relative Lempel-Ziv Dictionaries",
 * WWW 2016) and of the hashed counts of zstd's fast variant. A segment's score is the sum, over the different strings
 * of STRING_BYTES in it, of the number of samples that have the string. Samples are taken in as many parts as there
 * are segments to choose, the best one of each part is chosen, and its strings count no more after that.
 */

import { highBit } from './bits.ts';

/** Strings of this length are counted: shorter ones are not worth a reference. */
const STRING_BYTES = 8;
/** Places for counts, for each string. Most strings occur once; with fewer places they would count for each other. */
const PLACES_PER_STRING = 8;
/** More places than this take too much memory: ten bytes each. */
const MAX_HASH_BITS = 24;
/** Strings in fewer samples than this gain nothing, or share their place by chance. */
const MIN_SAMPLES_WITH = 3;

export interface SegmentOptions {
  /** Bytes of all segments together. */
  readonly maxBytes: number;
  readonly segmentBytes: number;
}

/** The chosen segments as one piece, the most valuable ones at the end, where references to them are shortest. */
export const chooseSegments = (samples: readonly Uint8Array[], options: SegmentOptions): Uint8Array => {
  const { maxBytes, segmentBytes } = options;
  const all = Buffer.concat(samples);
  const stringCount = all.length - STRING_BYTES + 1;
  if (stringCount < 1) return new Uint8Array(0);
  const hashBits = Math.min(highBit(stringCount * PLACES_PER_STRING) + 1, MAX_HASH_BITS);
  const hashes = new Uint32Array(stringCount);
  for (let i = 0; i < stringCount; i++) {
    const low = all.readUInt32LE(i);
    const high = all.readUInt32LE(i + 4);
    const mixed = Math.imul(low ^ Math.imul(high, 0x85ebca6b), 0x9e3779b1);
    hashes[i] = Math.imul(mixed ^ (mixed >>> 15), 0x2c1b3c6d) >>> (32 - hashBits);
  }

  // In how many samples a string occurs.
  const counts = new Int32Array(1 << hashBits);
  const seenIn = new Int32Array(1 << hashBits).fill(-1);
  let at = 0;
  samples.forEach((sample, index) => {
    const end = Math.min(at + sample.length - STRING_BYTES + 1, stringCount);
    for (let i = at; i < end; i++) {
      const hash = hashes[i]!;
      if (seenIn[hash] === index) continue;
      seenIn[hash] = index;
      counts[hash]!++;
    }
    at += sample.length;
  });
  for (let i = 0; i < counts.length; i++) if (counts[i]! < MIN_SAMPLES_WITH) counts[i] = 0;

  const width = Math.max(segmentBytes - STRING_BYTES + 1, 1);
  const inWindow = new Uint16Array(1 << hashBits);
  /** The best window of strings among those that begin in [from, to). */
  const best = (from: number, to: number): { start: number; score: number } => {
    let score = 0;
    let found = { start: from, score: 0 };
    let start = from;
    for (let i = from; i < to; i++) {
      const entering = hashes[i]!;
      if (inWindow[entering]!++ === 0) score += counts[entering]!;
      if (i - start === width) {
        const leaving = hashes[start++]!;
        if (--inWindow[leaving]! === 0) score -= counts[leaving]!;
      }
      if (score > found.score) found = { start, score };
    }
    for (; start < to; start++) inWindow[hashes[start]!] = 0;
    return found;
  };

  const partCount = Math.max(1, Math.ceil(maxBytes / segmentBytes));
  const partLength = Math.max(Math.ceil(stringCount / partCount), width);
  const chosen: { bytes: Uint8Array; score: number }[] = [];
  let room = maxBytes;
  let emptyParts = 0;
  for (let part = 0; room >= STRING_BYTES && emptyParts < partCount; part++) {
    const from = (part * partLength) % stringCount;
    const to = Math.min(from + partLength, stringCount);
    const { start, score } = best(from, to);
    if (score === 0) {
      emptyParts++;
      continue;
    }
    emptyParts = 0;
    let first = start;
    let last = Math.min(start + width, to) - 1;
    while (counts[hashes[first]!] === 0) first++;
    while (counts[hashes[last]!] === 0) last--;
    const length = Math.min(last - first + STRING_BYTES, room);
    chosen.push({ bytes: all.subarray(first, first + length), score });
    room -= length;
    for (let i = first; i <= last; i++) counts[hashes[i]!] = 0;
  }
  return new Uint8Array(Buffer.concat(chosen.sort((a, b) => a.score - b.score).map(({ bytes }) => bytes)));
};
