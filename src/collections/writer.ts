/**
 * Writes into the collection index from outside of the thread that follows the log.
 *
 * Contract: each call is one transaction (src/collections/store/store.ts), so writers of several processes may work
 * beside each other; the one that follows the log notices what others changed.
 */
import { MAX_PAIRS_PER_CALL } from './store/bounds.ts';
import { openStore, type Store } from './store/store.ts';
import type { CollectionWriter, RepoPairs } from './types.ts';

const pairsOf = (repos: readonly RepoPairs[]): number => {
  let pairs = 0;
  for (const { collections } of repos) pairs += Math.max(1, collections.length);
  return pairs;
};

/** A writer over an open store, which it closes. */
export const writerOf = (store: Store, nowMs: () => number): CollectionWriter => {
  const checkSize = (pairs: number): void => {
    if (pairs > MAX_PAIRS_PER_CALL) throw new RangeError(`more than ${MAX_PAIRS_PER_CALL} pairs in one call`);
  };
  return {
    async add(repos) {
      checkSize(pairsOf(repos));
      return store.transaction(() => store.add(repos));
    },
    async setStatus(accounts) {
      checkSize(accounts.length);
      return store.transaction(() => store.setStatus(accounts, nowMs()));
    },
    async locate(accounts) {
      checkSize(accounts.length);
      return store.transaction(() => store.locate(accounts));
    },
    async scheduleChecks(dids, reason) {
      checkSize(dids.length);
      return store.transaction(() => store.scheduleChecks(dids, reason, nowMs()));
    },
    begin: async (did) => store.transaction(() => store.begin(did, nowMs())),
    async apply(did, watch, truth) {
      return store.transaction(() => store.apply(did, watch, truth, nowMs()));
    },
    forget: async (watch) => store.transaction(() => store.forget(watch)),
    collections: async (after, limit) => store.collections(after, limit),
    nextChecks: async (now, limit) => store.nextChecks(now, limit),
    beginCheck: async (did) => store.transaction(() => store.beginCheck(did, nowMs())),
    applyCheck: async (did, outcome) => store.transaction(() => store.applyCheck(did, outcome, nowMs())),
    close: async () => store.close(),
  };
};

/**
 * Opens the index at `path` (`collectionsPath` of a data directory) for writing beside a running relay, or makes it
 * when there is none.
 *
 * @throws CollectionIndexError when the file is damaged, or of a newer weir: the message says what to do
 */
export const openCollectionWriter = async (path: string): Promise<CollectionWriter> =>
  writerOf(openStore(path, { seenPairs: 1024 }), Date.now);
