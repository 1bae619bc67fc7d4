import { createCompressor } from '../../compress/compressor.ts';
import { readDictionary } from '../dictionary.ts';
import type { Dictionary } from '../types.ts';
import { MIN_DICTIONARY_BYTES, trainDictionary } from './train.ts';

/** Lengths of segments that are tried, in bytes. Which is best depends on how long what repeats is. */
const SEGMENT_BYTES = [300, 600, 900, 1400, 2000];
/** Shares of the room that are tried: a smaller dictionary has shorter references, and less to load. */
const SHARES = [0.25, 0.5, 1];
/** What a larger dictionary has to gain over a smaller one, since clients fetch it and caches hold it. */
const GAIN_OF_LARGER = 1.01;
/** One of so many samples is kept apart, to judge by. */
const JUDGE_EVERY = 7;

export interface Trial {
  readonly maxBytes: number;
  readonly segmentBytes: number;
  /** Bytes before by bytes after, of the samples kept apart. */
  readonly ratio: number;
}

export interface Chosen {
  readonly dictionary: Dictionary;
  readonly best: Trial;
  readonly trials: readonly Trial[];
}

/**
 * The best dictionary of several, judged by samples that none of them has seen.
 * @param id null: one that follows from the bytes
 */
export const chooseDictionary = (
  samples: readonly Uint8Array[],
  maxBytes: number,
  id: number | null,
): Chosen => {
  const judges = samples.filter((_, i) => i % JUDGE_EVERY === 0);
  const training = samples.filter((_, i) => i % JUDGE_EVERY !== 0);
  const trials: Trial[] = [];
  let chosen: { dictionary: Dictionary; best: Trial } | null = null;
  for (const share of SHARES) {
    const bytes = Math.floor(maxBytes * share);
    if (bytes < MIN_DICTIONARY_BYTES) continue;
    for (const segmentBytes of SEGMENT_BYTES) {
      const read = readDictionary(trainDictionary(training, { maxBytes: bytes, segmentBytes, id }));
      // Made by us, so this is a fault of ours.
      if (!read.ok) throw new Error(`the trained dictionary ${read.problem}`);
      const { compress, counters } = createCompressor({ dictionary: read.dictionary });
      for (const sample of judges) compress(sample);
      const trial = { maxBytes: bytes, segmentBytes, ratio: counters.bytesIn / counters.bytesOut };
      trials.push(trial);
      const gain = bytes > (chosen?.best.maxBytes ?? bytes) ? GAIN_OF_LARGER : 1;
      if (chosen === null || trial.ratio > chosen.best.ratio * gain)
        chosen = { dictionary: read.dictionary, best: trial };
    }
  }
  if (chosen === null) throw new Error(`a dictionary has ${MIN_DICTIONARY_BYTES} bytes at least`);
  return { ...chosen, trials };
};
