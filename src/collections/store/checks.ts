/**
 * Scheduled checks, and the watches by which an answer that an event overtook is known. Everything here runs inside
 * a transaction of the store.
 */
import type { Database } from 'bun:sqlite';
import { CHECK_FAILURES, type CheckFailure, type CheckReason, type ScheduledCheck } from '../types.ts';
import { MAX_SCHEDULED_CHECKS, MAX_WATCH_MS, MAX_WATCHES } from './bounds.ts';

/** As they are stored. Never renumber. */
export const CHECK_REASONS = [
  'unproven_removal',
  'sync_event',
  'discontinuity',
  'verify',
  'touched_while_checked',
  'shown_again',
] as const satisfies readonly CheckReason[];

const OVER_BOUND = CHECK_FAILURES.indexOf('over_bound');
/** Stands for the reason of what nothing was scheduled for; it is not shown. */
const GIVEN_UP_AT_ONCE = CHECK_REASONS.indexOf('verify');

interface CheckRow {
  readonly reason: number;
  readonly attempts: number;
  /** null: never again. */
  readonly due: number | null;
  /** Not null: it was given up for that. */
  readonly failure: number | null;
}

export interface Checks {
  /** A repo that has a check keeps it, but for one that was given up. @returns false: over the bound, and counted */
  schedule(did: string, reason: CheckReason, nowMs: number): boolean;
  due(nowMs: number, limit: number): readonly ScheduledCheck[];
  /** Counts a repo as given up, never to be asked for that; one that is scheduled will be asked first. */
  giveUp(did: string, why: CheckFailure): void;
  /** Puts a check off. */
  postpone(did: string, atMs: number): void;
  failed(did: string, why: CheckFailure, retryAtMs: number, isGivenUp: boolean): void;
  done(did: string): void;
  watch(did: string, nowMs: number): number;
  /** Ends a watch. @returns whether an event came since, or it was forgotten */
  unwatch(id: number, did: string | null): boolean;
  /** An event of the repo. */
  touch(did: string): void;
  /** Somebody else wrote, or the transaction was rolled back. */
  reload(): void;
}

export const createChecks = (db: Database, total: (name: string, by: number) => void): Checks => {
  const select = db.query<CheckRow, [string]>(
    'select reason, attempts, due, failure from checks where did = ?',
  );
  // An older weir gave them up for good.
  db.query('update checks set due = 0 where due is null and failure <> ?').run(OVER_BOUND);
  const upsert = db.query<null, [string, number, number, number | null, number | null]>(
    'insert into checks values (?, ?, ?, ?, ?) on conflict do update set reason = excluded.reason, ' +
      'attempts = excluded.attempts, due = excluded.due, failure = excluded.failure',
  );
  const remove = db.query<null, [string]>('delete from checks where did = ?');
  const selectDue = db.query<{ did: string; reason: number; attempts: number }, [number, number]>(
    'select did, reason, attempts from checks where due <= ? order by due limit ?',
  );
  const count = db.query<{ value: number }, []>("select value from totals where name = 'checks'");
  const insertWatch = db.query<{ id: number }, [string, number]>(
    'insert into watches (did, at, touched) values (?, ?, 0) returning id',
  );
  const expire = db.query<null, [number]>('delete from watches where at < ?');
  const countWatches = db.query<{ count: number }, []>('select count(*) as count from watches');
  const dropOldest = db.query<null, []>(
    'delete from watches where id = (select id from watches order by id limit 1)',
  );
  const selectWatch = db.query<{ did: string; touched: number }, [number]>(
    'select did, touched from watches where id = ?',
  );
  const removeWatch = db.query<null, [number]>('delete from watches where id = ?');
  const touchAll = db.query<null, [string]>('update watches set touched = 1 where did = ?');
  const untouched = db.query<{ did: string }, []>('select did from watches where touched = 0');

  const watched = new Set<string>();
  /** Checks there are. */
  let counted = 0;

  const set = (did: string, before: CheckRow | null, after: CheckRow | null): void => {
    const words = (row: CheckRow): string =>
      row.failure === null ? `check_${row.reason}` : `failure_${row.failure}`;
    if (before !== null) total(words(before), -1);
    if (after !== null) total(words(after), 1);
    const grown = (after === null ? 0 : 1) - (before === null ? 0 : 1);
    if (grown !== 0) total('checks', grown);
    counted += grown;
    if (after === null) remove.run(did);
    else upsert.run(did, after.reason, after.attempts, after.due, after.failure);
  };

  /** Puts one where none is scheduled. @returns false: over the bound */
  const put = (did: string, after: CheckRow): boolean => {
    const before = select.get(did);
    if (before !== null && before.failure === null) return true;
    if (before === null && counted >= MAX_SCHEDULED_CHECKS) {
      total('refused_checks', 1);
      return false;
    }
    set(did, before, after);
    return true;
  };

  return {
    schedule: (did, reason, nowMs) =>
      put(did, { reason: CHECK_REASONS.indexOf(reason), attempts: 0, due: nowMs, failure: null }),
    giveUp(did, why) {
      put(did, { reason: GIVEN_UP_AT_ONCE, attempts: 0, due: null, failure: CHECK_FAILURES.indexOf(why) });
    },
    due: (nowMs, limit) =>
      selectDue
        .all(nowMs, limit)
        .map(({ did, reason, attempts }) => ({ did, reason: CHECK_REASONS[reason] ?? 'verify', attempts })),
    postpone(did, atMs) {
      const before = select.get(did);
      if (before !== null) set(did, before, { ...before, due: atMs });
    },
    failed(did, why, retryAtMs, isGivenUp) {
      const before = select.get(did);
      if (before === null) return;
      set(did, before, {
        ...before,
        attempts: before.attempts + 1,
        due: retryAtMs,
        failure: isGivenUp ? CHECK_FAILURES.indexOf(why) : null,
      });
    },
    done(did) {
      const before = select.get(did);
      if (before !== null) set(did, before, null);
    },
    watch(did, nowMs) {
      expire.run(nowMs - MAX_WATCH_MS);
      if (countWatches.get()!.count >= MAX_WATCHES) dropOldest.run();
      watched.add(did);
      return insertWatch.get(did, nowMs)!.id;
    },
    unwatch(id, did) {
      const row = selectWatch.get(id);
      removeWatch.run(id);
      return row === null || row.touched !== 0 || (did !== null && row.did !== did);
    },
    touch(did) {
      if (watched.size === 0 || !watched.delete(did)) return;
      touchAll.run(did);
    },
    reload() {
      watched.clear();
      for (const { did } of untouched.all()) watched.add(did);
      counted = count.get()?.value ?? 0;
    },
  };
};
