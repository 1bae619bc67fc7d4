/**
 * Stores what the sequencer and the roster changed: one transaction at a time, each reflecting exactly the events
 * up to its log position, all of them durable before it is written.
 */
import type { HostRoster } from '../hosts/roster.ts';
import type { Log } from '../log/types.ts';
import type { RejectionRow, State } from '../state/types.ts';
import { type AccountCache, accountRow } from './accounts.ts';

/**
 * Pause between flushes: what a restart has to read again from the log. Within it an active host or account is one row.
 */
const FLUSH_EVERY_MS = 1_000;
const RETRY_MS = 1_000;

export interface Flusher {
  start(): void;
  /**
   * Stores everything that changed until now. Rejects when the database fails; what changed is kept for the next one.
   *
   * @param position log seq that accounts and hosts reflect, while they are being rebuilt; default: the log's end
   */
  flush(position?: number): Promise<void>;
  /** Last flush, then no more. */
  stop(): Promise<void>;
  readonly stats: { position: number; lastFlushMs: number; flushes: number; failures: number; rows: number };
  /** Since when flushes fail, ms; null = they do not. */
  readonly failingSinceMs: number | null;
}

export const createFlusher = (deps: {
  readonly state: Pick<State, 'flush'>;
  readonly log: Pick<Log, 'appendedSeq' | 'whenDurable'>;
  readonly accounts: AccountCache;
  readonly roster: Pick<HostRoster, 'takeDirty' | 'giveBack'>;
  readonly takeRejections: () => RejectionRow[];
  readonly nowMs: () => number;
  readonly warn: (message: string, fields?: Record<string, string | number>) => void;
  readonly position: number;
  /** A failure that no retry can mend. */
  readonly fatal: (error: unknown) => boolean;
}): Flusher => {
  const stats = { position: deps.position, lastFlushMs: 0, flushes: 0, failures: 0, rows: 0 };
  let failingSinceMs: number | null = null;
  let timer: ReturnType<typeof setTimeout> | null = null;
  let running: Promise<void> = Promise.resolve();
  let stopped = false;

  const store = async (reflected?: number): Promise<void> => {
    // All rows are taken in one turn: they reflect the same events.
    const accounts = deps.accounts.takeDirty();
    const dirty = deps.roster.takeDirty();
    const rejections = [...dirty.rejections, ...deps.takeRejections()];
    const position = reflected ?? deps.log.appendedSeq;
    if (
      accounts.length + dirty.hosts.length + dirty.gaps.length + rejections.length === 0 &&
      position === stats.position
    )
      return;
    const rows = accounts.map(accountRow);
    try {
      await deps.log.whenDurable(position);
      const startedAt = performance.now();
      await deps.state.flush({ position, accounts: rows, hosts: dirty.hosts, rejections, gaps: dirty.gaps });
      stats.lastFlushMs = performance.now() - startedAt;
      stats.position = position;
      stats.flushes++;
      stats.rows += rows.length + dirty.hosts.length;
      deps.accounts.stored();
      if (failingSinceMs !== null) deps.warn('the database takes rows again');
      failingSinceMs = null;
    } catch (error) {
      deps.accounts.giveBack();
      deps.roster.giveBack({ ...dirty, rejections });
      stats.failures++;
      failingSinceMs ??= deps.nowMs();
      throw error;
    }
  };

  const flush = (position?: number): Promise<void> => {
    const next = running.then(() => store(position));
    running = next.catch(() => {});
    return next;
  };

  const arm = (delayMs: number): void => {
    if (stopped) return;
    timer = setTimeout(() => {
      flush().then(
        () => arm(FLUSH_EVERY_MS),
        (error: unknown) => {
          if (deps.fatal(error)) return;
          deps.warn('cannot store accounts and cursors, trying again', { error: String(error) });
          arm(RETRY_MS);
        },
      );
    }, delayMs);
  };

  return {
    start: () => arm(FLUSH_EVERY_MS),
    flush,
    async stop() {
      stopped = true;
      if (timer !== null) clearTimeout(timer);
      await flush();
    },
    stats,
    get failingSinceMs() {
      return failingSinceMs;
    },
  };
};
