/**
 * Asks PDSes which collections a repo has, where the log alone does not tell.
 *
 * Contract: takes the checks that are due from the index, sends one describeRepo each to the account's own PDS, and
 * gives back what it said. Never more than MAX_CHECKS_UNDER_WAY at once, a few per host group, and only as fast as
 * the group allows (src/network/politeness.ts). An answer that an event overtook is void; the index judges that.
 * A failure comes back with growing delay; after MAX_CHECK_ATTEMPTS it counts as given up, under a reason from a
 * closed list, and is tried once a day. What a backlog costs follows what can be asked of it, not its length. Nothing
 * is kept here over a restart: a check is scheduled until it is answered.
 *
 * Source: lexicons com.atproto.repo.describeRepo, com.atproto.sync.getRepoStatus.
 */
import type { Clock } from '../network/clock.ts';
import type { FetchResult, GuardedFetch } from '../network/fetch.ts';
import type { PdsEndpoint } from '../network/hostname.ts';
import type { Politeness, PoliteOutcome } from '../network/politeness.ts';
import { isNsid } from '../repo/syntax.ts';
import {
  CHECK_FAILURES,
  type CheckFailure,
  type CheckOutcome,
  type CheckStore,
  type HiddenReason,
  type ScheduledCheck,
} from './types.ts';

/** Checks under way: each waits for a PDS and holds a few kilobytes. */
export const MAX_CHECKS_UNDER_WAY = 32;
/** Of one host group, under way or waiting for their turn: a slow or limited group does not take all places. */
export const MAX_CHECKS_PER_GROUP = 8;
/**
 * How long a check waits in its place for its group's turn: as long as eight take at the usual pace, and some. Told to
 * wait longer, it comes back then, or a few groups that say so would hold all places.
 */
export const MAX_CHECK_WAIT_MS = 10_000;
/** A check that fails so often counts as given up; with the delays between, that is after most of a day. */
export const MAX_CHECK_ATTEMPTS = 8;
/** It is tried again all the same: a PDS may be away for a weekend, and its repos would differ for good. */
export const GIVEN_UP_RETRY_MS = 24 * 3_600_000;
/** Of those that were given up, under way: most wait for a PDS that is dead, and must not take the places of others. */
export const MAX_GIVEN_UP_UNDER_WAY = 8;
/** Checks that are only looked at and put off, in a second: each costs a look-up of the account and a write. */
export const MAX_PUT_OFF_PER_SECOND = 32;
/** Of one repo; the busiest have a few hundred. */
export const MAX_COLLECTIONS_OF_REPO = 10_000;
/** So many collections and a DID document. */
const MAX_ANSWER_BYTES = 1024 * 1024;
const TIMEOUT_MS = 15_000;
/** Looked at in one go: more than can be under way, so that those never hide what else is due. */
const BATCH = MAX_CHECKS_UNDER_WAY * 4;
const LOOK_EVERY_MS = 1_000;
const FIRST_RETRY_MS = 60_000;
const MAX_RETRY_MS = 6 * 3_600_000;
/** Until the first check that is put off behind those under way is looked at again. */
const BUSY_MS = 5_000;
/** Places of those that were given up become free so often, when all their PDSes are dead. */
const GIVEN_UP_PACE_MS = TIMEOUT_MS / MAX_GIVEN_UP_UNDER_WAY;
/** What checks are put off behind: groups, and what was given up. Of more than that no place is remembered. */
const MAX_QUEUES = 1_000;
/** A group that refuses is left alone for at least so long. */
const MIN_TOLD_WAIT_MS = 60_000;

/** Where an account lives, as its identity says. */
export type PdsAnswer = (PdsEndpoint & { readonly kind: 'pds' }) | { readonly kind: 'none' | 'unresolved' };

export type CheckerCounters = Record<
  'begun' | 'answered' | 'gone' | 'touched' | 'deferred' | 'rate_limited' | 'given_up' | 'store_errors',
  number
> &
  Record<`failed_${CheckFailure}`, number>;

export interface Checker {
  start(): void;
  /** Calls off what is under way; resolves when nothing is. Those checks stay scheduled. */
  stop(): Promise<void>;
  /** Looks for due checks now instead of at the next second. */
  wake(): void;
  readonly underWay: number;
  readonly counters: Readonly<CheckerCounters>;
}

export interface CheckerDependencies {
  readonly store: CheckStore;
  /** May reject; that is 'unresolved'. */
  readonly pdsOf: (did: string) => Promise<PdsAnswer>;
  readonly fetch: GuardedFetch;
  readonly politeness: Pick<Politeness, 'run' | 'load' | 'paceMs' | 'groupOf'>;
  readonly userAgent: string;
  readonly allowPrivateAddresses: boolean;
  readonly clock: Clock;
  /** 0…1, for the jitter of delays. Default Math.random. */
  readonly random?: () => number;
  /** Told when the index does not take or give checks. */
  readonly onError?: (error: unknown) => void;
}

const decoder = new TextDecoder();

const parse = (body: Uint8Array): Record<string, unknown> | null => {
  try {
    const value: unknown = JSON.parse(decoder.decode(body));
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
};

const HIDDEN_WORDS: ReadonlySet<string> = new Set<HiddenReason>([
  'deleted',
  'takendown',
  'deactivated',
  'suspended',
  'desynchronized',
  'throttled',
]);

/** XRPC error names by which a PDS says that a repo is not there. */
const GONE: Readonly<Record<string, Exclude<HiddenReason, 'pds_gone'>>> = {
  RepoNotFound: 'deleted',
  RepoTakendown: 'takendown',
  RepoSuspended: 'suspended',
  RepoDeactivated: 'deactivated',
};

type Judged =
  | Extract<CheckOutcome, { kind: 'collections' | 'gone' }>
  | { readonly kind: 'failed'; readonly why: CheckFailure }
  /** 4xx without a word on the repo: the status is asked for. */
  | { readonly kind: 'unclear' };

const failure = (why: CheckFailure): Judged => ({ kind: 'failed', why });

const judgeFailure = (answer: FetchResult): Judged => {
  if (!answer.ok) {
    switch (answer.kind) {
      case 'timeout':
      case 'too_large':
      case 'forbidden_address':
        return failure(answer.kind);
      case 'bad_encoding':
        return failure('bad_answer');
      default:
        return failure('unreachable');
    }
  }
  if (answer.status === 429) return failure('rate_limited');
  if (answer.status >= 500) return failure('server_error');
  if (answer.status < 400) return failure('bad_answer');
  const name = parse(answer.body)?.error;
  const reason = typeof name === 'string' && Object.hasOwn(GONE, name) ? GONE[name] : undefined;
  return reason === undefined ? { kind: 'unclear' } : { kind: 'gone', reason };
};

/** What a PDS said to describeRepo of `did`. */
export const judgeDescription = (did: string, answer: FetchResult): Judged => {
  if (!answer.ok || answer.status !== 200) return judgeFailure(answer);
  const body = parse(answer.body);
  if (body === null || body.did !== did || !Array.isArray(body.collections)) return failure('bad_answer');
  if (body.collections.length > MAX_COLLECTIONS_OF_REPO) return failure('too_large');
  const collections = new Set<string>();
  for (const collection of body.collections as unknown[]) {
    // A record under a name that is none cannot be in a commit that we let pass; so the index has no such row.
    if (typeof collection !== 'string') return failure('bad_answer');
    if (isNsid(collection)) collections.add(collection);
  }
  return { kind: 'collections', collections: [...collections].sort() };
};

/** What a PDS said to getRepoStatus of `did`, after describeRepo was refused. */
export const judgeStatus = (did: string, answer: FetchResult): Judged => {
  if (!answer.ok || answer.status !== 200) {
    const judged = judgeFailure(answer);
    return judged.kind === 'unclear' ? failure('refused') : judged;
  }
  const body = parse(answer.body);
  if (body === null || body.did !== did || typeof body.active !== 'boolean') return failure('bad_answer');
  if (body.active) return failure('refused');
  const { status } = body;
  const reason = typeof status === 'string' && HIDDEN_WORDS.has(status) ? status : 'unknown_status';
  return {
    kind: 'gone',
    reason: (status === undefined ? 'deactivated' : reason) as Exclude<HiddenReason, 'pds_gone'>,
  };
};

/** Makes the checker of one index. */
export const createChecker = (dependencies: CheckerDependencies): Checker => {
  const { store, politeness, clock } = dependencies;
  const random = dependencies.random ?? Math.random;
  const onError = dependencies.onError ?? (() => {});
  const counters = {
    begun: 0,
    answered: 0,
    gone: 0,
    touched: 0,
    deferred: 0,
    rate_limited: 0,
    given_up: 0,
    store_errors: 0,
    ...Object.fromEntries(CHECK_FAILURES.map((why) => [`failed_${why}`, 0])),
  } as CheckerCounters;
  const running = new Map<string, Promise<void>>();
  let givenUpUnderWay = 0;
  /** When the last check that was put off has its turn, by what it waits behind. */
  const lastTurnMs = new Map<string, number>();
  let putOff = 0;
  let putOffSinceMs = 0;
  /** Looked at just now: each may have to be put off. */
  let undecided = 0;
  const stopping = new AbortController();
  let started = false;
  let looking: Promise<void> | null = null;
  let cancelTimer = (): void => {};

  const jittered = (delayMs: number): number => Math.round(delayMs * (0.75 + random() / 2));

  const apply = async (did: string, outcome: CheckOutcome): Promise<void> => {
    const result = await store.applyCheck(did, outcome);
    if (result === 'touched') counters.touched++;
    else if (outcome.kind === 'collections') counters.answered++;
    else if (outcome.kind === 'gone') counters.gone++;
  };

  const ask = (check: ScheduledCheck, pds: PdsEndpoint, method: string, param: string) => {
    const url = `${pds.secure ? 'https' : 'http'}://${pds.hostname}/xrpc/${method}?${param}=${encodeURIComponent(check.did)}`;
    return politeness.run(pds.hostname, stopping.signal, async (): Promise<FetchResult> => {
      // Right before it is sent, and so again when it is sent again: what came while we waited is no matter.
      await store.beginCheck(check.did);
      counters.begun++;
      return dependencies.fetch(url, {
        timeoutMs: TIMEOUT_MS,
        maxBytes: MAX_ANSWER_BYTES,
        allowPrivateAddresses: dependencies.allowPrivateAddresses,
        userAgent: dependencies.userAgent,
        keepAlive: true,
      });
    });
  };

  const notAsked = (outcome: Extract<PoliteOutcome<FetchResult>, { ok: false }>): CheckOutcome => {
    const nowMs = clock.nowMs();
    if (outcome.why === 'aborted') return { kind: 'later', atMs: nowMs };
    if (outcome.why === 'told_to_wait') {
      counters.rate_limited++;
      putOff++;
    } else counters.deferred++;
    return { kind: 'later', atMs: Math.max(outcome.retryAtMs, nowMs + jittered(MIN_TOLD_WAIT_MS)) };
  };

  /**
   * Behind those put off before it, at the pace at which places become free: so each check of a backlog is looked at
   * about once before it is asked, however long the backlog is.
   */
  const putOffBehind = (queue: string, paceMs: number): CheckOutcome => {
    counters.deferred++;
    putOff++;
    const nowMs = clock.nowMs();
    const atMs = Math.max(nowMs + BUSY_MS, (lastTurnMs.get(queue) ?? 0) + paceMs);
    if (!lastTurnMs.has(queue) && lastTurnMs.size >= MAX_QUEUES)
      for (const [other, turnMs] of lastTurnMs) if (turnMs <= nowMs) lastTurnMs.delete(other);
    if (lastTurnMs.has(queue) || lastTurnMs.size < MAX_QUEUES) lastTurnMs.set(queue, atMs);
    return { kind: 'later', atMs: Math.round(atMs) };
  };

  /** A backlog that is looked through for what can be asked now must not be a storm of look-ups and writes. */
  const mayPutOff = (): boolean => {
    const nowMs = clock.nowMs();
    if (nowMs - putOffSinceMs >= LOOK_EVERY_MS) {
      putOffSinceMs = nowMs;
      putOff = 0;
    }
    return putOff + undecided < MAX_PUT_OFF_PER_SECOND;
  };

  const outcomeOf = async (check: ScheduledCheck): Promise<CheckOutcome> => {
    undecided++;
    const pds = await dependencies
      .pdsOf(check.did)
      .catch((): PdsAnswer => ({ kind: 'unresolved' }))
      .finally(() => undecided--);
    let judged: Judged;
    if (pds.kind !== 'pds') judged = failure(pds.kind === 'none' ? 'no_pds' : 'unresolved');
    else {
      if (politeness.load(pds.hostname) >= MAX_CHECKS_PER_GROUP)
        return putOffBehind(politeness.groupOf(pds.hostname), politeness.paceMs);
      const described = await ask(check, pds, 'com.atproto.repo.describeRepo', 'repo');
      if (!described.ok) return notAsked(described);
      judged = judgeDescription(check.did, described.answer);
      if (judged.kind === 'unclear') {
        const status = await ask(check, pds, 'com.atproto.sync.getRepoStatus', 'did');
        if (!status.ok) return notAsked(status);
        judged = judgeStatus(check.did, status.answer);
      }
    }
    if (judged.kind === 'collections' || judged.kind === 'gone') return judged;
    const why = judged.kind === 'failed' ? judged.why : 'refused';
    counters[`failed_${why}`]++;
    const attempts = check.attempts + 1;
    if (attempts === MAX_CHECK_ATTEMPTS) counters.given_up++;
    const isGivenUp = attempts >= MAX_CHECK_ATTEMPTS;
    const delayMs = isGivenUp
      ? GIVEN_UP_RETRY_MS
      : Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 4 ** check.attempts);
    return { kind: 'failed', why, retryAtMs: clock.nowMs() + jittered(delayMs), isGivenUp };
  };

  /** Those that were given up have few places, and are put off unresolved when those are taken. */
  const outcomeInItsPlace = async (check: ScheduledCheck): Promise<CheckOutcome> => {
    if (check.attempts < MAX_CHECK_ATTEMPTS) return outcomeOf(check);
    if (givenUpUnderWay >= MAX_GIVEN_UP_UNDER_WAY) return putOffBehind('given up', GIVEN_UP_PACE_MS);
    givenUpUnderWay++;
    try {
      return await outcomeOf(check);
    } finally {
      givenUpUnderWay--;
    }
  };

  const storeFailed = (error: unknown): void => {
    counters.store_errors++;
    onError(error);
  };

  const one = async (check: ScheduledCheck): Promise<void> => {
    let well = true;
    try {
      await apply(check.did, await outcomeInItsPlace(check));
    } catch (error) {
      well = false;
      storeFailed(error);
    }
    running.delete(check.did);
    // While the index takes nothing, the check would come back at once: then the next second is soon enough.
    if (well) wake();
  };

  const look = async (): Promise<void> => {
    while (!stopping.signal.aborted && running.size < MAX_CHECKS_UNDER_WAY && mayPutOff()) {
      let isNew = false;
      for (const check of await store.nextChecks(clock.nowMs(), BATCH)) {
        if (running.size >= MAX_CHECKS_UNDER_WAY || stopping.signal.aborted || !mayPutOff()) break;
        if (running.has(check.did)) continue;
        isNew = true;
        running.set(check.did, one(check));
      }
      if (!isNew) break;
    }
  };

  const wake = (): void => {
    if (!started || looking !== null || stopping.signal.aborted) return;
    cancelTimer();
    looking = look()
      .catch(storeFailed)
      .finally(() => {
        looking = null;
        if (!stopping.signal.aborted) cancelTimer = clock.after(LOOK_EVERY_MS, wake);
      });
  };

  return {
    start() {
      started = true;
      wake();
    },
    async stop() {
      stopping.abort();
      cancelTimer();
      await looking;
      await Promise.all(running.values());
    },
    wake,
    get underWay() {
      return running.size;
    },
    counters,
  };
};
