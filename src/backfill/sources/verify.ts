/**
 * Judging the index by the PDSes: repos of the index, a sample or all, each asked again. What the index has and the
 * PDS has not is a ghost; what the PDS has and the index has not is a gap. Both are mended as they are found.
 */
import type { BackfillFailure } from '../reasons.ts';
import { PlanError, type ReadingDeps, readRepoIntoIndex, type Sources } from '../run.ts';
import { addCounters, type BackfillTask, type NewSource, noCounters } from '../types.ts';

/** Repos per page when all are checked. */
const PAGE_LIMIT = 200;
/** Rows of the index read at once while drawing a sample. */
const SAMPLE_PAGE_LIMIT = 2_000;
const MAX_ACTIVE = 4;
const MAX_REPOS_PER_SOURCE = 16;
/** What stands for all repos among the sources. */
export const ALL_REPOS = '*';

export const verifySources = (
  spec: Extract<BackfillTask, { kind: 'verify' }>,
  deps: ReadingDeps & {
    /** 0…1. */
    readonly random: () => number;
    readonly breathe: () => Promise<void>;
  },
): Sources => {
  const { index } = deps;
  const names = spec.collections.length === 0 ? [ALL_REPOS] : spec.collections;
  const collectionOf = (name: string): string | null => (name === ALL_REPOS ? null : name);

  /** Draws without knowing how many there are: each repo has the same chance (reservoir sampling). */
  const draw = async (size: number): Promise<string[]> => {
    const drawn = new Map<number, string>();
    const seen = new Set<string>();
    let read = 0;
    for (const name of names) {
      let cursor: string | null = null;
      do {
        const page: { dids: readonly string[]; cursor: string | null } = await index.page(
          collectionOf(name),
          cursor,
          SAMPLE_PAGE_LIMIT,
        );
        for (const did of page.dids) {
          // Of several collections, a repo may come again; only those drawn are known, which is good enough.
          if (seen.has(did)) continue;
          const place = read < size ? read : Math.floor(deps.random() * (read + 1));
          read++;
          if (place >= size) continue;
          const old = drawn.get(place);
          if (old !== undefined) seen.delete(old);
          drawn.set(place, did);
          seen.add(did);
        }
        cursor = page.cursor;
        await deps.breathe();
      } while (cursor !== null);
    }
    return [...drawn.values()];
  };

  return {
    maxActive: MAX_ACTIVE,
    maxPerGroup: MAX_ACTIVE,

    async plan() {
      if (spec.sample !== null) {
        const repos = await draw(spec.sample);
        if (repos.length === 0)
          throw new PlanError('the index holds no such repos: there is nothing to verify');
        return { sources: [], repos };
      }
      const sources: NewSource[] = [];
      for (const name of names)
        sources.push({ name, group: 'index', total: await index.count(collectionOf(name)) });
      return { sources, repos: [] };
    },

    async readPage(source, report) {
      const page = await index.page(collectionOf(source.name), source.cursor, PAGE_LIMIT);
      const counters = noCounters();
      const failures: { did: string; failure: BackfillFailure }[] = [];
      let next = 0;
      const worker = async (): Promise<void> => {
        while (next < page.dids.length) {
          const did = page.dids[next++]!;
          const result = await readRepoIntoIndex(deps, did, null);
          if ('ok' in result) failures.push({ did, failure: result });
          else addCounters(counters, result);
          report.entryDone();
        }
      };
      await Promise.all(Array.from({ length: MAX_REPOS_PER_SOURCE }, worker));
      return { ok: true, cursor: page.cursor, entries: page.dids.length, counters, failures };
    },
  };
};
