import type { BackfillStatus } from '../../backfill/types.ts';
import type { CollectionsStatus } from '../../collections/types.ts';
import type { LogReader } from '../../log/types.ts';
import type { Accounts, ApiRoster, ApiState, ConsumerView, Pages } from '../types.ts';

/** Rejections and gaps that a page shows. */
export const MAX_PAGE_ROWS = 100;

/** The database counts rows one by one: the front page tells a count that may be this old. */
export const COUNT_AGE_MS = 30_000;

/** The pages' data from the rooms that own it. Its promises reject only for a database failure. */
export const createPages = (rooms: {
  readonly roster: Pick<ApiRoster, 'list' | 'get' | 'getById'>;
  readonly state: Pick<ApiState, 'rejectionsOfHost' | 'rejectionsOfAccount' | 'gapsOfHost' | 'counts'>;
  readonly accounts: Accounts;
  readonly log: Pick<LogReader, 'lastSeq' | 'oldestSeq'>;
  readonly consumers: () => readonly ConsumerView[];
  /** Absent: this relay keeps no collection index. */
  readonly collections?: () => CollectionsStatus | Promise<CollectionsStatus>;
  readonly backfill?: () => Promise<BackfillStatus | null>;
  /** ms. */
  readonly clock?: () => number;
}): Pages => {
  const { roster, state, accounts, log } = rooms;
  const { collections } = rooms;
  const clock = rooms.clock ?? Date.now;
  let counted: { readonly atMs: number; readonly count: Promise<number> } | null = null;

  const countAccounts = (): Promise<number> => {
    if (counted !== null && clock() - counted.atMs < COUNT_AGE_MS) return counted.count;
    const count = state.counts().then((counts) => counts.accounts);
    counted = { atMs: clock(), count };
    count.catch(() => {
      counted = null;
    });
    return count;
  };

  return {
    async summary() {
      const views = roster.list();
      const accountCount = await countAccounts();
      return {
        hosts: views.length,
        connectedHosts: views.reduce((count, view) => count + (view.connected ? 1 : 0), 0),
        accounts: accountCount,
        consumers: rooms.consumers().length,
        lastSeq: log.lastSeq,
        oldestSeq: log.oldestSeq,
      };
    },
    hosts: () => roster.list(),
    async host(hostname) {
      const view = roster.get(hostname);
      if (view === null) return null;
      const [rejections, gaps] = await Promise.all([
        state.rejectionsOfHost(view.row.hostId, MAX_PAGE_ROWS),
        state.gapsOfHost(view.row.hostId, MAX_PAGE_ROWS),
      ]);
      return { view, rejections, gaps };
    },
    async account(did) {
      const [row, rejections] = await Promise.all([
        accounts.lookup(did),
        state.rejectionsOfAccount(did, MAX_PAGE_ROWS),
      ]);
      if (row === null) return null;
      const { active, status } = accounts.effective(row);
      return { row, active, status: status ?? null, host: roster.getById(row.hostId), rejections };
    },
    ...(collections === undefined
      ? {}
      : {
          async collections() {
            const [status, backfill] = await Promise.all([collections(), rooms.backfill?.() ?? null]);
            return { status, backfill };
          },
        }),
  };
};
