/**
 * All of the collection index that a relay runs: the index itself, the checks, the sweeps for hosts that are gone.
 */
import type { HostView } from '../hosts/types.ts';
import type { LogReader } from '../log/types.ts';
import { systemClock } from '../network/clock.ts';
import type { GuardedFetch } from '../network/fetch.ts';
import { createPoliteness } from '../network/politeness.ts';
import { createChecker, MAX_CHECK_WAIT_MS, MAX_CHECKS_PER_GROUP, type PdsAnswer } from './checker.ts';
import { type Collections, collectionsPath, openCollections } from './collections.ts';
import { goneHosts } from './gone-hosts.ts';

/** Of a group of hosts, in five minutes: a fifth of what the largest group allows an address. */
const CHECKS_PER_WINDOW = 600;
const SWEEP_EVERY_MS = 3_600_000;
/** Hosts that were known before the start get time to be connected again. */
const FIRST_SWEEP_MS = 600_000;

export interface CollectionServiceDeps {
  readonly dataDir: string;
  readonly log: Pick<LogReader, 'oldestSeq' | 'lastSeq' | 'lastTimeUs' | 'openCursor' | 'onDurable'>;
  readonly hosts: () => readonly HostView[];
  /** DIDs that the relay itself has taken down. */
  readonly takendown: readonly string[];
  /** Where an account lives; may reject, that is not known now. */
  readonly pdsOf: (did: string) => Promise<PdsAnswer>;
  readonly fetch: GuardedFetch;
  readonly userAgent: string;
  readonly allowPrivateAddresses: boolean;
  readonly warn: (message: string, fields: Record<string, string | number>) => void;
  readonly fatal: (error: Error) => void;
}

export interface CollectionService extends Collections {
  /** What the checker and the politeness of its requests count. */
  checkTotals(): Readonly<Record<string, number>>;
  /** Begins with checks and sweeps. */
  start(): void;
}

/** Opens the index and follows the log. @throws CollectionIndexError with nothing left running */
export const openCollectionService = async (deps: CollectionServiceDeps): Promise<CollectionService> => {
  const collections = await openCollections({
    path: collectionsPath(deps.dataDir),
    log: deps.log,
    takendown: deps.takendown,
    warn: deps.warn,
    fatal: deps.fatal,
  });
  const politeness = createPoliteness({
    maxConcurrentPerGroup: MAX_CHECKS_PER_GROUP,
    requestsPerWindow: CHECKS_PER_WINDOW,
    maxWaitMs: MAX_CHECK_WAIT_MS,
    nowMs: Date.now,
    sleep: Bun.sleep,
  });
  let lastError = '';
  const checker = createChecker({
    store: collections.writer,
    pdsOf: deps.pdsOf,
    fetch: deps.fetch,
    politeness,
    userAgent: deps.userAgent,
    allowPrivateAddresses: deps.allowPrivateAddresses,
    clock: systemClock,
    onError(error) {
      // Every second the same, while the disk is full.
      if (String(error) !== lastError)
        deps.warn('the collection index takes no checks', { error: String(error) });
      lastError = String(error);
    },
  });
  const timers: ReturnType<typeof setTimeout>[] = [];
  const sweep = (): void => {
    collections.sweep(goneHosts(deps.hosts(), Date.now()));
    timers.push(setTimeout(sweep, SWEEP_EVERY_MS));
    timers.splice(0, timers.length - 1);
  };
  return {
    ...collections,
    checkTotals: () => ({ ...checker.counters, underWay: checker.underWay }),
    start() {
      checker.start();
      timers.push(setTimeout(sweep, FIRST_SWEEP_MS));
    },
    async stop() {
      for (const timer of timers) clearTimeout(timer);
      await checker.stop();
      await collections.stop();
    },
  };
};
