/** What a process grows by when the same work is done again and again. */
import { heapStats } from 'bun:jsc';

const ROUNDS = 4;

export interface Growth {
  readonly objects: number;
  readonly rssBytes: number;
}

/**
 * Carries out `round` once to warm up, then four times, and returns the least that a round added, in live objects and
 * in memory of the process. Other tests of the process may grow in one round; a leak of this work grows in every one.
 */
export const leastGrowth = async (round: (index: number) => Promise<void>): Promise<Growth> => {
  const measure = async (index: number): Promise<Growth> => {
    await round(index);
    Bun.gc(true);
    return { objects: heapStats().objectCount, rssBytes: process.memoryUsage.rss() };
  };
  let before = await measure(0);
  let least: Growth = { objects: Number.POSITIVE_INFINITY, rssBytes: Number.POSITIVE_INFINITY };
  for (let index = 1; index <= ROUNDS; index++) {
    const after = await measure(index);
    least = {
      objects: Math.min(least.objects, after.objects - before.objects),
      rssBytes: Math.min(least.rssBytes, after.rssBytes - before.rssBytes),
    };
    before = after;
  }
  return least;
};
