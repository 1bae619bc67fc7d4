/**
 * One run, from its plan to its end or until it is stopped. Owns the order in which things become durable: index and
 * account list first, then the cursor that says so, together with the counters. Whatever a kill cuts off is done
 * again at the next start; nothing is skipped.
 *
 * Bounds: so many sources at once, so many of one group, so many repos; each source holds one page.
 */

import type { RepoTruth } from '../collections/types.ts';
import type { Clock } from '../network/clock.ts';
import { orStopped, StoppedError } from './ask.ts';
import type { BackfillIndex, GoneReason } from './index-port.ts';
import type { KnownAccounts } from './known-accounts.ts';
import { type PagingWatch, watchPaging } from './paging.ts';
import type { Checkpoint, Progress, RepoLater, RepoQueued } from './progress.ts';
import { type BackfillFailure, isPassing } from './reasons.ts';
import type { RepoReader } from './repos.ts';
import {
  addCounters,
  type BackfillCounters,
  countFailure,
  type NewSource,
  noCounters,
  type QueuedRepo,
  type RunRow,
  type SourceRow,
  type WantedState,
} from './types.ts';

/** Waits between the tries of a source that failed; after the last it is given up (and can be tried with --retry). */
export const SOURCE_RETRY_MS: readonly number[] = [60_000, 5 * 60_000, 15 * 60_000, 30 * 60_000, 60 * 60_000];
/** Of a single repo. */
export const REPO_RETRY_MS: readonly number[] = [30_000, 2 * 60_000, 10 * 60_000, 30 * 60_000];
/** Repos read by themselves at once, over all hosts; each group has its own, lower bound. */
export const MAX_REPOS_AT_ONCE = 48;
/** Rows of the queue held in memory. */
const QUEUE_BATCH = 200;
/** Failed repos of a run that are kept to be tried again; more are counted as given up. */
export const MAX_QUEUED_FAILURES = 200_000;
const BEAT_MS = 1_000;
/** How often an idle queue is looked at: other parts of the run may have added to it. */
const QUEUE_LOOK_MS = 2_000;
const SWEEP_AFTER = 256;

/** What one page brought; it is in the index when this is returned. */
export interface PageRead {
  readonly ok: true;
  /** Where the next page begins; null: this was the last. */
  readonly cursor: string | null;
  /** Entries of the page, for the progress. */
  readonly entries: number;
  readonly counters: BackfillCounters;
  /** Repos of it that could not be read. */
  readonly failures: readonly { readonly did: string; readonly failure: BackfillFailure }[];
}

/** What is heard of a page before it is whole. */
export interface PageReport {
  /** One entry more of the page is done. */
  entryDone(): void;
  /** The whole source has so many entries; may come later than the page. */
  total(entries: number): void;
}

/** What a kind of run reads. */
export interface Sources {
  /** Sources under way at once, over all groups and in one. */
  readonly maxActive: number;
  readonly maxPerGroup: number;
  /** What there is to read. @throws PlanError */
  plan(): Promise<{ readonly sources: readonly NewSource[]; readonly repos: readonly string[] }>;
  /** Reads the page at the source's cursor into the index. @throws StoppedError */
  readPage(source: SourceRow, report: PageReport): Promise<PageRead | BackfillFailure>;
}

export interface RunDeps extends ReadingDeps {
  readonly progress: Progress;
  readonly sources: Sources;
  readonly clock: Clock;
  /** 0…1, for the jitter of retries. */
  readonly random: () => number;
  /** Fires when the process is asked to stop. */
  readonly signal: AbortSignal;
  /** Stops what is under way; fired by the run itself when the operator or a failure ends it. */
  readonly stop: () => void;
  /** A sentence for the operator. */
  readonly notice: (line: string) => void;
  /** Default SOURCE_RETRY_MS and REPO_RETRY_MS. */
  readonly sourceRetryMs?: readonly number[];
  readonly repoRetryMs?: readonly number[];
}

/** There is nothing to begin with; the message says why. The run is over. */
export class PlanError extends Error {}

export type RunEnd = 'finished' | 'paused' | 'cancelled';

/** What a terminal shows while it works. */
export interface RunView {
  readonly counters: BackfillCounters;
  readonly sources: readonly SourceRow[];
  /** The sources under way, each with the entries done of the page that it reads: not yet in `SourceRow.done`. */
  readonly active: ReadonlyMap<SourceRow, number>;
  readonly reposInFlight: number;
  /** Repos that are to be read by themselves, and those given up; counted when the reading begins. */
  readonly queue: { readonly left: number; readonly givenUp: number };
  readonly phase: 'planning' | 'reading' | 'ending';
}

export interface RunningRun {
  readonly view: RunView;
  /** Rejects for a failure of the database or the index: the run can be resumed. */
  readonly ended: Promise<RunEnd>;
}

/** A host; `hostId` 0 = the relay has no number for it. */
export interface Place {
  readonly hostname: string;
  readonly hostId: number;
}

/** What it takes to read single repos. */
export interface ReadingDeps {
  readonly index: BackfillIndex;
  readonly repos: RepoReader;
  readonly knownAccounts: KnownAccounts;
  /** The relay's number of a host; 0 = it has none. */
  readonly hostIdOf: (hostname: string) => Promise<number>;
}

/**
 * Reads one repo into the index.
 * @param host where it is, and then the index has been told what the relay holds of the account; null: looked up here
 * @returns what to count, or why it failed
 */
export const readRepoIntoIndex = async (
  deps: ReadingDeps,
  did: string,
  host: Place | null,
): Promise<BackfillCounters | BackfillFailure> => {
  if (host !== null) return readRepoAt(deps, did, host.hostname, host.hostId);
  const held = (await deps.knownAccounts([did])).get(did);
  // Its PDS does not know what the relay has against it.
  if (held?.isTold && held.hidden !== null) return hideRepo(deps.index, did, held.hidden);
  const located = await deps.repos.locate(did);
  if (!located.ok) return located;
  // The directory has answered for its PDS.
  if ('hidden' in located) return hideRepo(deps.index, did, located.hidden);
  const result = await readRepoAt(deps, did, located.hostname, 0);
  // Also where nobody answers: only an account whose host the index knows can be hidden when that host is gone.
  const hostId = await deps.hostIdOf(located.hostname);
  if (hostId > 0) await deps.index.locate([{ did, hostId }]);
  return result;
};

const hideRepo = async (index: BackfillIndex, did: string, reason: GoneReason): Promise<BackfillCounters> => {
  const { hidden } = await index.apply(did, await index.begin(did), { hidden: reason });
  return { ...noCounters(), repos: 1, hidden: hidden ? 1 : 0 };
};

/** @param hostId the host that says so; 0: looked up, so the account's own */
const readRepoAt = async (
  deps: Pick<ReadingDeps, 'index' | 'repos'>,
  did: string,
  hostname: string,
  hostId: number,
): Promise<BackfillCounters | BackfillFailure> => {
  const { index } = deps;
  let watch: number | null = null;
  const forget = async (): Promise<void> => {
    const ended = watch;
    watch = null;
    if (ended !== null) await index.forget(ended);
  };
  const renew = async (): Promise<void> => {
    await forget();
    watch = await index.begin(did);
  };
  let answer: Awaited<ReturnType<RepoReader['read']>>;
  try {
    answer = await deps.repos.read(did, hostname, renew);
  } catch (error) {
    await forget().catch(() => {});
    throw error;
  }
  if (!answer.ok) {
    await forget();
    return answer;
  }
  const counters = noCounters();
  counters.repos = 1;
  const truth: RepoTruth = {
    ...('hidden' in answer ? { hidden: answer.hidden } : { collections: answer.collections }),
    hostId,
  };
  const applied = await index.apply(did, watch ?? (await index.begin(did)), truth);
  if ('collections' in answer) {
    counters.imported = answer.collections.length;
    counters.invalid = answer.invalid;
  }
  counters.added = applied.added;
  counters.known = applied.known;
  counters.ghosts = applied.removed;
  counters.hidden = applied.hidden ? 1 : 0;
  return counters;
};

/** Begins or goes on with a run. */
export const startRun = (run: RunRow, deps: RunDeps): RunningRun => {
  const { progress, clock, signal, sources: kind } = deps;
  const sourceRetryMs = deps.sourceRetryMs ?? SOURCE_RETRY_MS;
  const repoRetryMs = deps.repoRetryMs ?? REPO_RETRY_MS;
  const totals: BackfillCounters = { ...run.counters, failures: { ...run.counters.failures } };
  let sources: SourceRow[] = [];
  /** Those of them that are not done, and some that are: swept now and then, since there may be very many. */
  let open: SourceRow[] = [];
  let ended = 0;
  const active = new Map<SourceRow, number>();
  const reposInFlight = new Set<number>();
  let queue = { left: 0, givenUp: 0 };
  let queuedFailures = 0;
  let phase: RunView['phase'] = 'planning';
  let wanted: WantedState = 'run';

  // --- group commit: one transaction for all that is ready, and counters that hold exactly what is stored ---
  type Part = Omit<Checkpoint, 'counters'> & { readonly counters: BackfillCounters };
  let pending: { part: Part; done: () => void; failed: (error: unknown) => void }[] = [];
  let committing = false;
  const commitAll = async (): Promise<void> => {
    committing = true;
    while (pending.length > 0) {
      const batch = pending;
      pending = [];
      const next: BackfillCounters = { ...totals, failures: { ...totals.failures } };
      for (const { part } of batch) addCounters(next, part.counters);
      try {
        await progress.commit(
          run.runId,
          {
            counters: next,
            sources: batch.flatMap(({ part }) => part.sources ?? []),
            reposDone: batch.flatMap(({ part }) => part.reposDone ?? []),
            reposLater: batch.flatMap(({ part }) => part.reposLater ?? []),
            reposQueued: batch.flatMap(({ part }) => part.reposQueued ?? []),
          },
          clock.nowMs(),
        );
        Object.assign(totals, next);
        for (const { done } of batch) done();
      } catch (error) {
        for (const { failed } of batch) failed(error);
      }
    }
    committing = false;
  };
  const commit = (part: Part): Promise<void> =>
    new Promise((done, failed) => {
      pending.push({ part, done, failed });
      if (!committing) void commitAll();
    });

  // --- waiting that ends when something happens ---
  let happened = Promise.withResolvers<void>();
  let happenings = 0;
  const happen = (): void => {
    happenings++;
    happened.resolve();
    happened = Promise.withResolvers<void>();
  };
  /** @param since `happenings` when the caller last looked: what came since is not waited for */
  const somethingHappens = async (withinMs: number, since = happenings): Promise<void> => {
    if (since !== happenings) return;
    const cancel = clock.after(Math.min(withinMs, 2 ** 31 - 1), happen);
    try {
      await orStopped(signal, happened.promise);
    } finally {
      cancel();
    }
  };
  let firstError: { readonly error: unknown } | null = null;
  /** A part that fails ends the whole run; what the stop cuts off is no error. */
  const guard = async (work: Promise<void>): Promise<void> => {
    try {
      await work;
    } catch (error) {
      if (!(error instanceof StoppedError)) firstError ??= { error };
      deps.stop();
    }
  };

  const retryAtMs = (failure: BackfillFailure, waitsMs: readonly number[], attempts: number): number => {
    const waitMs = waitsMs[Math.min(attempts, waitsMs.length) - 1] ?? 0;
    return Math.round(
      Math.max(failure.retryAtMs ?? 0, clock.nowMs() + waitMs * (0.75 + deps.random() * 0.5)),
    );
  };

  // --- sources ---
  const queuedOf = (failures: PageRead['failures'], counters: BackfillCounters): readonly RepoQueued[] => {
    const queued: RepoQueued[] = [];
    for (const { did, failure } of failures) {
      const givenUp = !isPassing(failure.reason);
      if (givenUp) countFailure(counters, failure.reason);
      if (queuedFailures >= MAX_QUEUED_FAILURES) {
        if (!givenUp) countFailure(counters, 'too_many_failures');
        continue;
      }
      queuedFailures++;
      givenUp ? queue.givenUp++ : queue.left++;
      queued.push({
        did,
        attempts: 1,
        retryAtMs: retryAtMs(failure, repoRetryMs, 1),
        givenUp,
        reason: failure.reason,
        detail: failure.detail,
      });
    }
    return queued;
  };

  const giveUpOrPark = (source: SourceRow, failure: BackfillFailure): void => {
    source.attempts++;
    const isLast = !isPassing(failure.reason) || source.attempts > sourceRetryMs.length;
    source.state = isLast ? 'failed' : 'parked';
    source.retryAtMs = isLast ? 0 : retryAtMs(failure, sourceRetryMs, source.attempts);
    source.reason = failure.reason;
    source.detail = failure.detail;
  };

  const readSource = async (source: SourceRow): Promise<void> => {
    source.state = 'waiting';
    const watch: PagingWatch = watchPaging(source.cursor);
    const report: PageReport = {
      entryDone: () => {
        // What a stop left behind may still come to its end: then the source is not under way any more.
        const done = active.get(source);
        if (done !== undefined) active.set(source, done + 1);
      },
      total: (entries) => {
        source.total = entries;
      },
    };
    while (source.state === 'waiting') {
      const page = await kind.readPage(source, report);
      active.set(source, 0);
      if (!page.ok) {
        giveUpOrPark(source, page);
        await commit({ counters: noCounters(), sources: [{ ...source }] });
        return;
      }
      const { counters } = page;
      counters.pages++;
      const reposQueued = queuedOf(page.failures, counters);
      source.pages++;
      source.done += page.entries;
      source.attempts = 0;
      source.reason = null;
      source.detail = '';
      const endless = watch.judge(page.cursor, page.entries, source.pages);
      if (endless !== null) {
        giveUpOrPark(source, endless);
        // Tried again, it is read from its beginning: the place where it went in circles leads nowhere.
        source.cursor = null;
      } else {
        source.cursor = page.cursor;
        if (page.cursor === null) source.state = 'done';
      }
      await commit({ counters, sources: [{ ...source }], reposQueued });
      if (reposQueued.length > 0) happen();
    }
  };

  const nextSource = (): SourceRow | null => {
    const nowMs = clock.nowMs();
    const perGroup = new Map<string, number>();
    for (const { group } of active.keys()) perGroup.set(group, (perGroup.get(group) ?? 0) + 1);
    for (const source of open) {
      if (active.has(source)) continue;
      if (source.state !== 'waiting' && !(source.state === 'parked' && source.retryAtMs <= nowMs)) continue;
      if ((perGroup.get(source.group) ?? 0) < kind.maxPerGroup) return source;
    }
    return null;
  };

  const isOver = ({ state }: SourceRow): boolean => state === 'done' || state === 'failed';
  const areSourcesDone = (): boolean => active.size === 0 && open.every(isOver);

  const readSources = async (): Promise<void> => {
    const works = new Set<Promise<void>>();
    try {
      while (!areSourcesDone()) {
        const nowMs = clock.nowMs();
        while (active.size < kind.maxActive && !signal.aborted) {
          const source = nextSource();
          if (source === null) break;
          active.set(source, 0);
          const work = guard(readSource(source)).finally(() => {
            active.delete(source);
            works.delete(work);
            if (isOver(source) && ++ended % SWEEP_AFTER === 0) open = open.filter((one) => !isOver(one));
            happen();
          });
          works.add(work);
        }
        let nextMs = Number.POSITIVE_INFINITY;
        // What was due and not taken has no place: the end of another source wakes us for it.
        for (const { state, retryAtMs } of open)
          if (state === 'parked' && retryAtMs > nowMs) nextMs = Math.min(nextMs, retryAtMs);
        await somethingHappens(Math.max(1, nextMs - clock.nowMs()));
      }
    } finally {
      await Promise.all(works);
    }
  };

  // --- the queue of single repos ---
  const readQueued = async (repo: QueuedRepo): Promise<void> => {
    const result = await readRepoIntoIndex(deps, repo.did, null);
    if (!('ok' in result)) {
      await commit({ counters: result, reposDone: [repo.queueId] });
      queue.left--;
      return;
    }
    const counters = noCounters();
    const attempts = repo.attempts + 1;
    const givenUp = !isPassing(result.reason) || attempts > repoRetryMs.length;
    if (givenUp) countFailure(counters, result.reason);
    const later: RepoLater = {
      queueId: repo.queueId,
      attempts,
      retryAtMs: retryAtMs(result, repoRetryMs, attempts),
      givenUp,
      reason: result.reason,
      detail: result.detail,
    };
    await commit({ counters, reposLater: [later] });
    if (givenUp) {
      queue.left--;
      queue.givenUp++;
    }
  };

  const readQueue = async (): Promise<void> => {
    const works = new Set<Promise<void>>();
    let held: QueuedRepo[] = [];
    try {
      for (;;) {
        if (held.length === 0)
          held = await progress.dueRepos(run.runId, clock.nowMs(), [...reposInFlight], QUEUE_BATCH);
        while (held.length > 0 && reposInFlight.size < MAX_REPOS_AT_ONCE && !signal.aborted) {
          const repo = held.shift()!;
          reposInFlight.add(repo.queueId);
          const work = guard(readQueued(repo)).finally(() => {
            reposInFlight.delete(repo.queueId);
            works.delete(work);
            happen();
          });
          works.add(work);
        }
        if (held.length > 0 || reposInFlight.size > 0) {
          await somethingHappens(QUEUE_LOOK_MS);
          continue;
        }
        // First the sources, then the queue: a source that ends meanwhile may have added to it.
        const since = happenings;
        const sourcesDone = areSourcesDone();
        const { left, nextAtMs, givenUp } = await progress.queue(run.runId);
        queue = { left, givenUp };
        if (left === 0 && sourcesDone) return;
        await somethingHappens(
          Math.max(1, Math.min(QUEUE_LOOK_MS, (nextAtMs ?? Number.POSITIVE_INFINITY) - clock.nowMs())),
          since,
        );
      }
    } finally {
      await Promise.all(works);
    }
  };

  // --- the operator ---
  let finished = false;
  const beat = async (): Promise<void> => {
    while (!finished) {
      wanted = await progress.beat(run.runId, clock.nowMs());
      if (wanted !== 'run') {
        deps.stop();
        return;
      }
      const { promise, resolve } = Promise.withResolvers<void>();
      const cancel = clock.after(BEAT_MS, resolve);
      try {
        await orStopped(signal, promise);
      } finally {
        cancel();
      }
    }
  };

  const work = async (): Promise<RunEnd> => {
    await progress.setState(run.runId, 'running', 'run', clock.nowMs());
    const beating = guard(beat());
    const main = guard(
      (async () => {
        if (!run.planned) {
          const plan = await kind.plan();
          await progress.plan(run.runId, plan.sources, plan.repos, clock.nowMs());
        }
        sources = await progress.sources(run.runId);
        open = sources.filter((source) => !isOver(source));
        const { left, givenUp } = await progress.queue(run.runId);
        queue = { left, givenUp };
        queuedFailures = left;
        phase = 'reading';
        await Promise.all([guard(readSources()), guard(readQueue())]);
        phase = 'ending';
      })(),
    );
    await main;
    finished = true;
    const isComplete = !signal.aborted && firstError === null;
    if (isComplete) deps.stop();
    await beating;
    if (firstError !== null) {
      const { error } = firstError as { error: unknown };
      if (error instanceof PlanError)
        await progress.setState(run.runId, 'cancelled', 'cancel', clock.nowMs());
      throw error;
    }
    const end: RunEnd = isComplete ? 'finished' : wanted === 'cancel' ? 'cancelled' : 'paused';
    // A process that is only asked to end leaves the wish as it is: a relay that starts again goes on by itself.
    const wish: WantedState = end === 'cancelled' ? 'cancel' : end === 'paused' ? wanted : 'run';
    await progress.setState(run.runId, end, wish, clock.nowMs());
    return end;
  };

  return {
    ended: work(),
    view: {
      counters: totals,
      get sources() {
        return sources;
      },
      active,
      get reposInFlight() {
        return reposInFlight.size;
      },
      get queue() {
        return queue;
      },
      get phase() {
        return phase;
      },
    },
  };
};
