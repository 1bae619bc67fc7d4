/** A thread of compiled.test.ts: hashes keys of its own over and over, and counts the right answers. */
import { createHash } from 'node:crypto';
import { compiled } from '../../../src/repo/compiled/compiled.ts';

declare const self: Worker;

self.onmessage = ({ data }: { data: { from: number; keys: number; rounds: number } }) => {
  const { first_words: firstWords } = compiled()!;
  const keys = Array.from({ length: data.keys }, (_, at) => `com.example.record/${data.from + at}`);
  const bytes = Buffer.from(keys.join(''));
  const ends = new Int32Array(keys.length);
  for (let at = 0, end = 0; at < keys.length; at++) {
    end += keys[at]!.length;
    ends[at] = end;
  }
  const expected = keys.map((key) => createHash('sha256').update(key).digest().readInt32BE(0));
  const words = new Int32Array(keys.length);
  const counts = { right: 0, wrong: 0 };
  for (let round = 0; round < data.rounds; round++) {
    firstWords(bytes, ends, keys.length, words.fill(0));
    for (const [at, word] of words.entries()) counts[word === expected[at] ? 'right' : 'wrong']++;
  }
  self.postMessage(counts);
};
