/**
 * Heights of keys by our own SHA-256, eight keys side by side, in a quarter of the time. For x86-64 on Linux with
 * AVX2 (Intel since 2013, AMD since 2015). Keys over 55 bytes, which are few, go to the SHA-256 of Bun.
 */
import { compiled } from '../compiled/compiled.ts';
import { checkTable, heightAt, type KeyHeights } from './hashed.ts';

/** The first word of each key's SHA-256; 0: it may be anything. The table is one that `checkTable` passes. */
export type FirstWords = (bytes: Uint8Array, ends: Int32Array, count: number, words: Int32Array) => void;

/** Every length that goes into a block and some that do not, and at the end not enough for all lanes. */
const SAMPLES = 100;
const SAMPLE_LENGTHS = 64;
const MAX_BLOCK_KEY_BYTES = 55;

/** Whether it is SHA-256, by that of Bun. */
export const isSoundHash = (firstWords: FirstWords): boolean => {
  const ends = new Int32Array(SAMPLES);
  for (let at = 0, end = 0; at < SAMPLES; at++) {
    end += at % SAMPLE_LENGTHS;
    ends[at] = end;
  }
  const bytes = Uint8Array.from({ length: ends[SAMPLES - 1]! }, (_, at) => (at * 167) >> 2);
  const words = new Int32Array(SAMPLES);
  firstWords(bytes, ends, SAMPLES, words);
  const digest = new DataView(new ArrayBuffer(32));
  for (let at = 0; at < SAMPLES; at++) {
    const message = bytes.subarray(ends[at - 1] ?? 0, ends[at]);
    Bun.SHA256.hash(message, new Uint8Array(digest.buffer));
    if (words[at] !== (message.length > MAX_BLOCK_KEY_BYTES ? 0 : digest.getInt32(0))) return false;
  }
  return true;
};

/** Heights of those words; where a word does not say it, of the whole hash. */
export const heightsBy = (firstWords: FirstWords): KeyHeights => ({
  name: "weir's own SHA-256, for x86-64",
  write(bytes, ends, count, heights) {
    checkTable(bytes, ends, count, heights);
    firstWords(bytes, ends, count, heights);
    for (let key = 0; key < count; key++) {
      const word = heights[key]!;
      heights[key] =
        word === 0 ? heightAt(bytes, key === 0 ? 0 : ends[key - 1]!, ends[key]!) : Math.clz32(word) >> 1;
    }
  },
});

/** Those of this thread. null: not for this machine, or not to be compiled, or not sound. */
export const compileHeights = (): KeyHeights | null => {
  const here = compiled();
  return here !== null && here.has_lanes() === 1 && isSoundHash(here.first_words)
    ? heightsBy(here.first_words)
    : null;
};
