/**
 * Import from another relay: one source per collection, page by page of its listReposByCollection.
 * Sources: the lexicon com.atproto.sync.listReposByCollection; collectiondir's /v1/listCollections.
 */
import { parseCountsPage, parseDidPage } from '../answers.ts';
import type { Asker } from '../ask.ts';
import { MAX_NAMED_COLLECTIONS } from '../collection-list.ts';
import type { BackfillIndex } from '../index-port.ts';
import { hiddenAs, type KnownAccounts } from '../known-accounts.ts';
import { watchPaging } from '../paging.ts';
import { failed } from '../reasons.ts';
import { PlanError, type Sources } from '../run.ts';
import { type BackfillTask, type NewSource, noCounters } from '../types.ts';

/** The most that every relay gives. */
const PAGE_LIMIT = 1_000;
/** DIDs of 2 KB each would be 2 MB; real pages are 50 KB. */
const MAX_PAGE_BYTES = 4 * 1024 * 1024;
const TIMEOUT_MS = 60_000;
const COUNTS_LIMIT = 1_000;
const MAX_COUNTS_PAGES = 200;
/** Collections read at once. */
const MAX_ACTIVE = 6;

export const relaySources = (
  spec: Extract<BackfillTask, { kind: 'relay' }>,
  deps: {
    readonly ask: Asker;
    readonly index: BackfillIndex;
    readonly knownAccounts: KnownAccounts;
    readonly allowInsecure: boolean;
    readonly notice: (line: string) => void;
  },
): Sources => {
  const { ask, index } = deps;
  const base = spec.url.replace(/\/+$/, '');
  const group = new URL(base).host;

  /** What the other relay counts, as far as it says. */
  const counted = async (): Promise<Map<string, number>> => {
    const counts = new Map<string, number>();
    const watch = watchPaging(null);
    let cursor: string | null = null;
    for (let page = 1; page <= MAX_COUNTS_PAGES && counts.size < MAX_NAMED_COLLECTIONS; page++) {
      const query = new URLSearchParams({ limit: String(COUNTS_LIMIT) });
      if (cursor !== null) query.set('cursor', cursor);
      const answer = await ask.get({
        url: `${base}/v1/listCollections?${query}`,
        timeoutMs: TIMEOUT_MS,
        maxBytes: MAX_PAGE_BYTES,
        ours: true,
      });
      if (!answer.ok) {
        deps.notice(`${base} gives no counts of its collections (${answer.detail})`);
        return counts;
      }
      const found = parseCountsPage(answer.body);
      if (found === null) {
        deps.notice(`${base}: its counts of collections are not in a form we know`);
        return counts;
      }
      for (const [collection, count] of found.counts) counts.set(collection, count);
      const endless = watch.judge(found.cursor, found.counts.size, page);
      if (endless !== null) deps.notice(`${base}: its counts of collections do not end (${endless.detail})`);
      if (found.cursor === null || endless !== null) break;
      cursor = found.cursor;
    }
    return counts;
  };

  return {
    maxActive: MAX_ACTIVE,
    maxPerGroup: MAX_ACTIVE,

    async plan() {
      const counts = await counted();
      const names = new Set(spec.collections);
      if (!spec.only) {
        for (const name of counts.keys()) names.add(name);
        for (const name of await index.collections(MAX_NAMED_COLLECTIONS)) names.add(name);
      }
      if (names.size === 0)
        throw new PlanError(
          `no collections to ask ${base} for: it counts none, weir has seen none; name some with --collections`,
        );
      const sources = [...names]
        .slice(0, MAX_NAMED_COLLECTIONS)
        .map((name): NewSource => ({ name, group, total: counts.get(name) ?? null }));
      // The long ones first, so that they do not run alone at the end.
      sources.sort((a, b) => (b.total ?? 0) - (a.total ?? 0));
      return { sources, repos: [] };
    },

    async readPage(source) {
      const query = new URLSearchParams({ collection: source.name, limit: String(PAGE_LIMIT) });
      if (source.cursor !== null) query.set('cursor', source.cursor);
      const answer = await ask.get({
        url: `${base}/xrpc/com.atproto.sync.listReposByCollection?${query}`,
        timeoutMs: TIMEOUT_MS,
        maxBytes: MAX_PAGE_BYTES,
        ours: true,
      });
      if (!answer.ok) return answer;
      const page = parseDidPage(answer.body, deps);
      if (page === null) return failed('bad_answer', 'not a listReposByCollection answer');
      const counters = noCounters();
      counters.imported = page.dids.length;
      counters.invalid = page.invalid;
      const collections = [source.name];
      for (let from = 0; from < page.dids.length; from += PAGE_LIMIT) {
        const dids = page.dids.slice(from, from + PAGE_LIMIT);
        // Before its pairs come in: what is taken down here must not be listed, for however short a time.
        const accounts = await deps.knownAccounts(dids);
        const hidden = dids.flatMap((did) => hiddenAs(did, accounts));
        if (hidden.length > 0) counters.hidden += await index.setStatus(hidden);
        const { added, known, refused } = await index.add(dids.map((did) => ({ did, collections })));
        if (accounts.size > 0)
          await index.locate([...accounts].map(([did, { hostId }]) => ({ did, hostId })));
        counters.added += added;
        counters.known += known;
        counters.invalid += refused;
      }
      return { ok: true, cursor: page.cursor, entries: page.dids.length, counters, failures: [] };
    },
  };
};
