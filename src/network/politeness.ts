/**
 * Asking hosts no more than they bear: one turn after the other, as fast as they allow.
 *
 * Contract: hosts that share a limit are one group. Per group there are never more requests under way than
 * `maxConcurrentPerGroup`, never more sent in any window than `requestsPerWindow`, and none at all while the group
 * told us to wait. RateLimit-Remaining and -Reset are believed before a 429 makes them felt, Retry-After and 429
 * always. A group that waits holds up nobody else. All is bounded and counted; time comes in.
 *
 * Sources: RFC 9110 section 10.2.3 (Retry-After), RFC 6585 section 4 (429), the RateLimit header fields drafts of
 * the IETF HTTPAPI group (reset in seconds from now) and the reference PDS (reset as seconds since the epoch).
 */
import { readRetryAfter } from './retry-after.ts';

/** Hosts of different owners are groups of their own; as many are remembered, those with nothing to remember go first. */
export const MAX_POLITE_GROUPS = 20_000;
/** Requests of one group that wait for their turn; whoever asks bounds its own work far below. */
export const MAX_WAITING_PER_GROUP = 10_000;
/** How often one request is sent again after 429 or 503. */
export const MAX_POLITE_RETRIES = 5;
/** Longer waits are the caller's: it hears at once when to come again. Twice the window of the reference PDS. */
export const MAX_POLITE_WAIT_MS = 10 * 60_000;
/** What a header may tell us at most; a broken clock or a bad joke must not keep a host unasked for years. */
export const MAX_TOLD_WAIT_MS = 24 * 3_600_000;
/** Of a limit, what is left to the relay's other questions and to other programs behind the same address. */
const RESERVED_SHARE = 0.02;
const FIRST_POLITE_BACKOFF_MS = 2_000;
const MAX_POLITE_BACKOFF_MS = 60_000;
/** A reset above this is a date, not a distance. */
const EPOCH_SECONDS = 1_000_000_000;
/** Two resets of one window differ by the rounding of the clock that made them. */
const SAME_WINDOW_MS = 2_000;

/** The part of an answer that is looked at: fetch's and guardedFetch's have it; without a status nothing is learnt. */
export interface PoliteAnswer {
  readonly ok?: boolean;
  readonly status?: number;
  /** Names in lower case. */
  readonly headers?: Readonly<Record<string, string>> | Headers;
}

export type PoliteOutcome<Answer> =
  | { readonly ok: true; readonly answer: Answer; readonly waitedMs: number; readonly retries: number }
  | {
      readonly ok: false;
      /** aborted by the signal; too_many_waiting: over the bound; told_to_wait: longer than we wait, or again and again. */
      readonly why: 'aborted' | 'too_many_waiting' | 'told_to_wait';
      /** When asking makes sense again; now for all but told_to_wait. */
      readonly retryAtMs: number;
    };

export interface PolitenessOptions {
  /** Hosts of one group share a limit. Default: `*.host.bsky.network` is one, any other host its own. */
  readonly groupOf?: (host: string) => string;
  readonly maxConcurrentPerGroup: number;
  /** At most so many requests to a group in any `windowMs`. */
  readonly requestsPerWindow: number;
  /** Default five minutes. */
  readonly windowMs?: number;
  readonly nowMs: () => number;
  readonly sleep: (delayMs: number) => Promise<void>;
  /** 0…1, for the jitter of back-offs. Default Math.random. */
  readonly random?: () => number;
  /** Default MAX_POLITE_WAIT_MS. */
  readonly maxWaitMs?: number;
  /** Default MAX_POLITE_RETRIES. */
  readonly maxRetries?: number;
}

/** One group, for pages and progress. */
export interface PoliteGroupView {
  readonly group: string;
  readonly inFlight: number;
  readonly waiting: number;
  /** Sent since the group is remembered. */
  readonly requests: number;
  /** Left alone until then; 0 = not. */
  readonly pausedUntilMs: number;
  /** Requests left as the group last said; null: it said nothing that still holds. */
  readonly remaining: number | null;
}

export interface Politeness {
  /**
   * Waits for the host's turn, sends the request, learns from the answer, and sends it again after 429 and 503 (a
   * bounded number of times). Rejects only with what `request` throws.
   */
  run<Answer extends PoliteAnswer>(
    host: string,
    signal: AbortSignal | null,
    request: () => Promise<Answer>,
  ): Promise<PoliteOutcome<Answer>>;
  /** Hosts with the same answer share a limit. */
  readonly groupOf: (host: string) => string;
  /** Between two requests of a group that is asked as fast as it may be, on average. */
  readonly paceMs: number;
  /** Requests of the host's group that are under way or wait. */
  load(host: string): number;
  /** Groups with work or a pause, at most `limit`. */
  groups(limit: number): PoliteGroupView[];
  readonly counters: Readonly<
    Record<
      | 'requests'
      | 'retries'
      | 'rate_limited'
      | 'unavailable'
      | 'quota_waits'
      | 'told_to_wait'
      | 'aborted'
      | 'too_many_waiting'
      | 'waited_ms',
      number
    >
  >;
}

/** Bluesky's PDSes answer from behind one limit. */
export const hostGroup = (host: string): string =>
  host.endsWith('.host.bsky.network') ? '*.host.bsky.network' : host;

const headerOf = (answer: PoliteAnswer, name: string): string | null => {
  const { headers } = answer;
  if (headers === undefined) return null;
  if (headers instanceof Headers) return headers.get(name);
  return headers[name] ?? null;
};

const numberIn = (text: string | null): number | null => {
  if (text === null || !/^\s*\d{1,12}(\.\d+)?\s*$/.test(text)) return null;
  return Number(text);
};

const boundedWait = (waitMs: number): number => Math.min(Math.max(waitMs, 0), MAX_TOLD_WAIT_MS);

/** How long Retry-After says to wait, in ms, within the bound; null: it says nothing. */
export const retryAfterMs = (answer: PoliteAnswer, nowMs: number): number | null => {
  const waitMs = readRetryAfter(headerOf(answer, 'retry-after'), nowMs);
  return waitMs === null ? null : boundedWait(waitMs);
};

/** What the RateLimit headers say: requests left, and when the window ends. null: nothing usable. */
export const rateLimitOf = (
  answer: PoliteAnswer,
  nowMs: number,
): { readonly limit: number | null; readonly remaining: number; readonly resetAtMs: number } | null => {
  const remaining = numberIn(headerOf(answer, 'ratelimit-remaining'));
  const reset = numberIn(headerOf(answer, 'ratelimit-reset'));
  if (remaining === null || reset === null) return null;
  // A date was rounded down: the window may last for the rest of that second.
  const waitMs = reset > EPOCH_SECONDS ? (Math.floor(reset) + 1) * 1000 - nowMs : Math.ceil(reset * 1000);
  return {
    limit: numberIn(headerOf(answer, 'ratelimit-limit')),
    remaining: Math.floor(remaining),
    resetAtMs: nowMs + boundedWait(waitMs),
  };
};

type Turn = 'go' | 'aborted' | 'told_to_wait';

interface Waiter {
  readonly host: string;
  readonly resolve: (turn: Turn) => void;
}

interface Group {
  readonly name: string;
  readonly waiting: Waiter[];
  inFlight: number;
  requests: number;
  /** When the next request were due at an even pace; how far it may be ahead of now is the burst. */
  dueMs: number;
  pausedUntilMs: number;
  /** Consecutive 429s without a word on how long to wait. */
  backoffs: number;
  /** Requests that may still be sent before quotaResetMs. */
  quotaLeft: number;
  quotaResetMs: number;
  /** Until when a timer sleeps; Infinity: none does. */
  wakeAtMs: number;
}

/** Makes the gate that all requests to a set of hosts go through. */
export const createPoliteness = (options: PolitenessOptions): Politeness => {
  const { nowMs, sleep, requestsPerWindow } = options;
  const groupOf = options.groupOf ?? hostGroup;
  const windowMs = options.windowMs ?? 5 * 60_000;
  const random = options.random ?? Math.random;
  const maxWaitMs = options.maxWaitMs ?? MAX_POLITE_WAIT_MS;
  const maxRetries = options.maxRetries ?? MAX_POLITE_RETRIES;
  const maxConcurrent = Math.max(1, options.maxConcurrentPerGroup);
  // Evenly paced but for a tenth, which may come at once; together never over the limit, wherever the window begins.
  const burst = Math.max(1, Math.floor(requestsPerWindow / 10));
  const paceMs = windowMs / (Math.max(1, requestsPerWindow) - burst + 1);

  const groups = new Map<string, Group>();
  /** Hosts that are unwell (503), apart from their group. */
  const hostPauses = new Map<string, number>();
  const counters = {
    requests: 0,
    retries: 0,
    rate_limited: 0,
    unavailable: 0,
    quota_waits: 0,
    told_to_wait: 0,
    aborted: 0,
    too_many_waiting: 0,
    waited_ms: 0,
  };

  const isForgettable = (group: Group, now: number): boolean =>
    group.inFlight === 0 &&
    group.waiting.length === 0 &&
    group.dueMs <= now &&
    group.pausedUntilMs <= now &&
    group.quotaResetMs <= now;

  /** null: as many groups as we remember have work or a pause. */
  const groupFor = (host: string): Group | null => {
    const name = groupOf(host);
    let group = groups.get(name);
    if (group !== undefined) return group;
    if (groups.size >= MAX_POLITE_GROUPS) {
      const now = nowMs();
      for (const [key, held] of groups) if (isForgettable(held, now)) groups.delete(key);
      if (groups.size >= MAX_POLITE_GROUPS) return null;
    }
    group = {
      name,
      waiting: [],
      inFlight: 0,
      requests: 0,
      dueMs: 0,
      pausedUntilMs: 0,
      backoffs: 0,
      quotaLeft: 0,
      quotaResetMs: 0,
      wakeAtMs: Number.POSITIVE_INFINITY,
    };
    groups.set(name, group);
    return group;
  };

  /** When the group may be asked next. */
  const readyAtMs = (group: Group, now: number): number => {
    const paced = group.dueMs - (burst - 1) * paceMs;
    const told = group.quotaResetMs > now && group.quotaLeft <= 0 ? group.quotaResetMs : 0;
    return Math.max(paced, group.pausedUntilMs, told);
  };

  const wake = (group: Group, atMs: number): void => {
    if (group.wakeAtMs <= atMs) return;
    group.wakeAtMs = atMs;
    void sleep(Math.max(1, Math.ceil(atMs - nowMs()))).then(() => {
      // A sooner timer may have been set meanwhile; then this one is only a look more.
      if (group.wakeAtMs === atMs) group.wakeAtMs = Number.POSITIVE_INFINITY;
      pump(group);
    });
  };

  const hostPausedUntilMs = (host: string, now: number): number => {
    const untilMs = hostPauses.get(host);
    if (untilMs === undefined) return 0;
    if (untilMs > now) return untilMs;
    hostPauses.delete(host);
    return 0;
  };

  const pauseHost = (group: Group, host: string, untilMs: number): void => {
    if (!hostPauses.has(host) && hostPauses.size >= MAX_POLITE_GROUPS) {
      const now = nowMs();
      for (const [key, until] of hostPauses) if (until <= now) hostPauses.delete(key);
      if (hostPauses.size >= MAX_POLITE_GROUPS) {
        group.pausedUntilMs = Math.max(group.pausedUntilMs, untilMs);
        return;
      }
    }
    hostPauses.set(host, Math.max(hostPauses.get(host) ?? 0, untilMs));
  };

  /** Gives turns to those who wait, in order, as far as the group allows. */
  const pump = (group: Group): void => {
    while (group.waiting.length > 0 && group.inFlight < maxConcurrent) {
      const now = nowMs();
      let next = readyAtMs(group, now);
      if (next > now) {
        if (next - now <= maxWaitMs) {
          wake(group, next);
          return;
        }
        for (const waiter of group.waiting.splice(0)) waiter.resolve('told_to_wait');
        return;
      }
      next = Number.POSITIVE_INFINITY;
      let turn = -1;
      for (let index = 0; index < group.waiting.length; index++) {
        const untilMs = hostPausedUntilMs(group.waiting[index]!.host, now);
        if (untilMs === 0) {
          turn = index;
          break;
        }
        if (untilMs - now > maxWaitMs) {
          group.waiting.splice(index--, 1)[0]!.resolve('told_to_wait');
        } else next = Math.min(next, untilMs);
      }
      if (turn === -1) {
        if (next !== Number.POSITIVE_INFINITY) wake(group, next);
        return;
      }
      const [waiter] = group.waiting.splice(turn, 1);
      group.inFlight++;
      group.dueMs = Math.max(group.dueMs, now) + paceMs;
      if (group.quotaResetMs > now) group.quotaLeft--;
      waiter!.resolve('go');
    }
  };

  const takeTurn = (group: Group, host: string, signal: AbortSignal | null): Promise<Turn> => {
    if (signal?.aborted) return Promise.resolve('aborted');
    return new Promise((resolve) => {
      const onAbort = (): void => {
        const index = group.waiting.indexOf(waiter);
        if (index === -1) return;
        group.waiting.splice(index, 1);
        resolve('aborted');
      };
      const waiter: Waiter = {
        host,
        resolve: (turn) => {
          signal?.removeEventListener('abort', onAbort);
          resolve(turn);
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      group.waiting.push(waiter);
      pump(group);
    });
  };

  /** Learns how many requests are left. What is under way may or may not be in the number: we assume not. */
  const learnQuota = (group: Group, answer: PoliteAnswer, now: number): void => {
    const said = rateLimitOf(answer, now);
    if (said === null || said.resetAtMs <= now) return;
    const reserved = said.limit === null ? 0 : Math.floor(said.limit * RESERVED_SHARE);
    const left = said.remaining - reserved - group.inFlight;
    const sameWindow =
      group.quotaResetMs > now && Math.abs(said.resetAtMs - group.quotaResetMs) <= SAME_WINDOW_MS;
    // Answers overtake each other, and several limits may hold: within a window the least counts.
    if (sameWindow) {
      group.quotaLeft = Math.min(group.quotaLeft, left);
      group.quotaResetMs = Math.max(group.quotaResetMs, said.resetAtMs);
    } else if (group.quotaResetMs <= now || said.resetAtMs > group.quotaResetMs || left < group.quotaLeft) {
      group.quotaLeft = left;
      group.quotaResetMs = said.resetAtMs;
    }
    if (group.quotaLeft <= 0 && answer.status !== 429) counters.quota_waits++;
  };

  const backoffMs = (backoffs: number): number =>
    Math.min(MAX_POLITE_BACKOFF_MS, FIRST_POLITE_BACKOFF_MS * 2 ** Math.min(backoffs, 10)) *
    (0.75 + random() / 2);

  /** What an answer means for the turns to come. Answers until when its sender is to be left alone; 0 = not. */
  const learn = (group: Group, host: string, answer: PoliteAnswer, retries: number): number => {
    const now = nowMs();
    learnQuota(group, answer, now);
    if (answer.status === 429) {
      counters.rate_limited++;
      const toldMs =
        retryAfterMs(answer, now) ??
        (rateLimitOf(answer, now) === null ? null : group.quotaResetMs > now ? group.quotaResetMs - now : 0);
      // Told to wait for no time at all and refused again: that is no word to rely on.
      const waitMs = Math.max(
        toldMs ?? 0,
        toldMs === null || toldMs < 1000 ? backoffMs(group.backoffs++) : 0,
      );
      group.pausedUntilMs = Math.max(group.pausedUntilMs, now + waitMs);
      return group.pausedUntilMs;
    }
    if (answer.status !== undefined && answer.status < 400) group.backoffs = 0;
    if (answer.status === 503) {
      counters.unavailable++;
      const waitMs = Math.max(retryAfterMs(answer, now) ?? 0, backoffMs(retries));
      pauseHost(group, host, now + waitMs);
      return now + waitMs;
    }
    return 0;
  };

  return {
    async run<Answer extends PoliteAnswer>(
      host: string,
      signal: AbortSignal | null,
      request: () => Promise<Answer>,
    ): Promise<PoliteOutcome<Answer>> {
      const group = groupFor(host);
      const startMs = nowMs();
      let busyMs = 0;
      for (let retries = 0; ; retries++) {
        if (group === null || group.waiting.length >= MAX_WAITING_PER_GROUP) {
          counters.too_many_waiting++;
          return { ok: false, why: 'too_many_waiting', retryAtMs: nowMs() };
        }
        const turn = await takeTurn(group, host, signal);
        if (turn !== 'go') {
          counters[turn]++;
          const now = nowMs();
          const retryAtMs = Math.max(now, readyAtMs(group, now), hostPausedUntilMs(host, now));
          return { ok: false, why: turn, retryAtMs: turn === 'aborted' ? now : retryAtMs };
        }
        if (signal?.aborted) {
          group.inFlight--;
          pump(group);
          counters.aborted++;
          return { ok: false, why: 'aborted', retryAtMs: nowMs() };
        }
        const sentMs = nowMs();
        counters.requests++;
        group.requests++;
        if (retries > 0) counters.retries++;
        let untilMs = 0;
        let answer: Answer;
        try {
          answer = await request();
        } catch (error) {
          group.inFlight--;
          pump(group);
          throw error;
        }
        group.inFlight--;
        untilMs = learn(group, host, answer, retries);
        busyMs += nowMs() - sentMs;
        pump(group);
        if (untilMs === 0 || (answer.status === 503 && retries >= maxRetries)) {
          const waitedMs = nowMs() - startMs - busyMs;
          counters.waited_ms += waitedMs;
          return { ok: true, answer, waitedMs, retries };
        }
        if (retries >= maxRetries || untilMs - nowMs() > maxWaitMs) {
          counters.told_to_wait++;
          return { ok: false, why: 'told_to_wait', retryAtMs: untilMs };
        }
      }
    },
    groupOf,
    paceMs,
    load(host) {
      const group = groups.get(groupOf(host));
      return group === undefined ? 0 : group.inFlight + group.waiting.length;
    },
    groups(limit) {
      const now = nowMs();
      const views: PoliteGroupView[] = [];
      for (const group of groups.values()) {
        if (views.length >= limit) break;
        const readyMs = readyAtMs(group, now);
        const isPaused = group.pausedUntilMs > now || (group.quotaResetMs > now && group.quotaLeft <= 0);
        if (group.inFlight === 0 && group.waiting.length === 0 && !isPaused) continue;
        views.push({
          group: group.name,
          inFlight: group.inFlight,
          waiting: group.waiting.length,
          requests: group.requests,
          pausedUntilMs: isPaused ? readyMs : 0,
          remaining: group.quotaResetMs > now ? Math.max(0, group.quotaLeft) : null,
        });
      }
      return views;
    },
    counters,
  };
};
