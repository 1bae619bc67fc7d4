/**
 * DID → identity, over the network.
 *
 * Contract: never rejects; each question is answered within a bounded time; one look-up per DID at a time;
 * everything that waits or is remembered is bounded; failures are remembered too, for a growing while. did:plc and
 * did:web have separate lanes, so that slow web servers never delay the PLC directory's answers, and inside each
 * lane groups take turns. Identities are persisted with their accounts elsewhere: what is remembered here only
 * absorbs bursts. Sources: atproto spec, DID; did:plc directory API; did:web method.
 */
import { type Clock, systemClock } from '../network/clock.ts';
import type { FetchResult, GuardedFetch } from '../network/fetch.ts';
import { guardedFetch } from '../network/fetch.ts';
import { createRecent } from '../network/recent.ts';
import { readRetryAfter } from '../network/retry-after.ts';
import type { Reason } from '../reasons.ts';
import { type ParsedDid, parseDid } from './did.ts';
import { parseDidDocument } from './document.ts';
import { createLane, type Lane, type LaneBounds } from './lane.ts';
import type { IdentityResult, ResolveOptions, Resolver } from './types.ts';

/** Real documents are 1–3 KB. */
const MAX_DOCUMENT_BYTES = 64 * 1024;
/** A healthy directory answers in 0.1–0.5 s; this leaves room for a loaded one. */
const PLC_TIMEOUT_MS = 10_000;
/** Web servers are many and often dead: give up sooner. */
const WEB_TIMEOUT_MS = 6_000;
const MAX_WEB_REDIRECTS = 3;

export const PLC_BOUNDS: LaneBounds = {
  maxInFlight: 32, // some hundred look-ups a second on kept-alive connections
  maxInFlightPerGroup: 24, // one host's flood leaves room for the others at once
  maxQueued: 4_096,
  maxQueuedPerGroup: 1_024,
  maxWaitMs: 30_000,
};

export const WEB_BOUNDS: LaneBounds = {
  maxInFlight: 32,
  maxInFlightPerGroup: 2, // per site: nobody needs more, and 16 dead sites still leave turns
  maxQueued: 1_024,
  maxQueuedPerGroup: 64,
  maxWaitMs: 30_000,
};

/** About 800 bytes each. Accounts keep their own: this is for those who ask twice before it is stored there. */
const MAX_REMEMBERED_IDENTITIES = 1_000;
const REMEMBER_IDENTITY_MS = 2 * 60_000;
const MAX_REMEMBERED_FAILURES = 20_000;
/** Lasting failures: a DID that was just created may need a moment to be found, a wrong one never will. */
const LASTING_FAILURE_MIN_MS = 30_000;
const LASTING_FAILURE_MAX_MS = 10 * 60_000;
const PASSING_FAILURE_MIN_MS = 2_000;
const PASSING_FAILURE_MAX_MS = 60_000;
/** How long after a failure's end its number still counts for the next one's length. */
const FORGET_FAILURES_MS = 10 * 60_000;

/**
 * Fresh look-ups per DID and asking host: so many at once (a migration or key change comes as a burst of events),
 * then one per interval. Per host, so that one host's noise about an account does not use up what its own PDS needs.
 */
const FRESH_BURST = 8;
const FRESH_INTERVAL_MS = 10_000;
const MAX_FRESH_BUDGETS = 20_000;

/** 429 without a usable Retry-After. */
const DEFAULT_PAUSE_MS = 10_000;
const MIN_PAUSE_MS = 1_000;
/** No directory may silence us for longer. */
const MAX_PAUSE_MS = 5 * 60_000;

/**
 * A did:web whose server fails for so long, while other look-ups succeed, is treated as not found: otherwise one
 * account with a dead domain would hold up its whole host's stream for ever.
 */
const WEB_GIVE_UP_MS = 5 * 60_000;
const WEB_GIVE_UP_FAILURES = 5;

export interface ResolverSettings {
  /** Base URL of the PLC directory; named by the operator, so private addresses are accepted. */
  readonly plcUrl: string;
  /** Development: http endpoints, ports, localhost, private addresses. */
  readonly allowInsecure: boolean;
  readonly userAgent?: string;
  readonly fetch?: GuardedFetch;
  readonly clock?: Clock;
}

type Failure = Extract<IdentityResult, { ok: false }>;

interface RememberedFailure {
  readonly result: Failure;
  readonly untilMs: number;
  readonly failures: number;
  readonly firstAtMs: number;
}

interface Pending {
  readonly promise: Promise<IdentityResult>;
  /** The request is on its way: its answer may be older than a question asked now. */
  isSent: boolean;
  /** The fresh look-up that follows this one. */
  next: Promise<IdentityResult> | null;
}

const failure = (passing: boolean, reason: Reason, detail: string): Failure => ({
  ok: false,
  passing,
  reason,
  detail,
});

/** From the PLC directory itself, nonsense is a passing trouble and says nothing about the DID. */
const troubled = (did: ParsedDid, reason: Reason, detail: string): Failure =>
  did.method === 'plc' ? failure(true, 'did_unresolved', detail) : failure(false, reason, detail);

/** undefined: not JSON. */
const parseJson = (body: Uint8Array): unknown => {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch {
    return undefined;
  }
};

/** Slow servers are limited by site (the last two labels), since one owner may have any number of names below it. */
const siteOf = (hostname: string): string => hostname.split('.').slice(-2).join('.');

/** How long a lane is left alone that said Retry-After, within bounds; a default when it said nothing. */
export const pauseMs = (retryAfter: string | undefined, nowMs: number): number =>
  Math.min(MAX_PAUSE_MS, Math.max(MIN_PAUSE_MS, readRetryAfter(retryAfter, nowMs) ?? DEFAULT_PAUSE_MS));

/** Makes a resolver with its own lanes and memory. */
export const createResolver = (settings: ResolverSettings): Resolver => {
  const { allowInsecure, fetch = guardedFetch, clock = systemClock, userAgent } = settings;
  const plcUrl = settings.plcUrl.replace(/\/+$/, '');
  const plcLane = createLane(PLC_BOUNDS, clock);
  const webLane = createLane(WEB_BOUNDS, clock);
  const identities = createRecent<string, { result: IdentityResult; untilMs: number }>(
    MAX_REMEMBERED_IDENTITIES,
  );
  const failures = createRecent<string, RememberedFailure>(MAX_REMEMBERED_FAILURES);
  const freshBudgets = createRecent<string, { tokens: number; atMs: number }>(MAX_FRESH_BUDGETS);
  const pending = new Map<string, Pending>();
  let lastSuccessAtMs = 0;
  let closed = false;

  const counters = {
    requests: 0,
    cacheHits: 0,
    failureCacheHits: 0,
    coalesced: 0,
    freshLimited: 0,
    lookupsPlc: 0,
    lookupsWeb: 0,
    successes: 0,
    overloaded: 0,
    waitedTooLong: 0,
    rateLimited: 0,
    timeouts: 0,
    unreachable: 0,
    failedPassing: 0,
    failed_did_not_found: 0,
    failed_did_tombstoned: 0,
    failed_did_document_invalid: 0,
    failed_did_unsupported: 0,
    failed_did_unresolved: 0,
    get inFlightPlc() {
      return plcLane.inFlight;
    },
    get queuedPlc() {
      return plcLane.queued;
    },
    get inFlightWeb() {
      return webLane.inFlight;
    },
    get queuedWeb() {
      return webLane.queued;
    },
    get rememberedIdentities() {
      return identities.size;
    },
    get rememberedFailures() {
      return failures.size;
    },
  };

  const count = (result: Failure): void => {
    if (result.passing) counters.failedPassing++;
    const key = `failed_${result.reason}`;
    if (key in counters) (counters as unknown as Record<string, number>)[key]!++;
  };

  /** Takes one from the budget of fresh look-ups. @returns 0, or how long to wait for the next one, ms */
  const takeFresh = (did: string, forHost: string): number => {
    const nowMs = clock.nowMs();
    const key = `${forHost} ${did}`;
    const budget = freshBudgets.get(key);
    const earned = budget === undefined ? FRESH_BURST : Math.floor((nowMs - budget.atMs) / FRESH_INTERVAL_MS);
    const tokens = Math.min(FRESH_BURST, (budget?.tokens ?? 0) + earned);
    const atMs = budget === undefined ? nowMs : budget.atMs + earned * FRESH_INTERVAL_MS;
    if (tokens < 1) return Math.max(1, atMs + FRESH_INTERVAL_MS - nowMs);
    freshBudgets.set(key, { tokens: tokens - 1, atMs: tokens === FRESH_BURST ? nowMs : atMs });
    return 0;
  };

  /** Not an old answer: who asks anew has a reason to doubt it, and would drop an event over it. */
  const askedTooOften = (waitMs: number): Failure => {
    counters.freshLimited++;
    return {
      ...failure(true, 'did_unresolved', 'asked anew too often'),
      retryAfterMs: waitMs,
    };
  };

  const remember = (did: ParsedDid, result: IdentityResult): IdentityResult => {
    const nowMs = clock.nowMs();
    if (result.ok) {
      counters.successes++;
      lastSuccessAtMs = nowMs;
      failures.delete(did.did);
      identities.set(did.did, { result, untilMs: nowMs + REMEMBER_IDENTITY_MS });
      return result;
    }
    identities.delete(did.did);
    const before = failures.get(did.did);
    const goesOn = before !== undefined && nowMs - before.untilMs < FORGET_FAILURES_MS;
    const number = goesOn ? before.failures + 1 : 1;
    const firstAtMs = goesOn ? before.firstAtMs : nowMs;
    let kept = result;
    if (
      did.method === 'web' &&
      result.passing &&
      number >= WEB_GIVE_UP_FAILURES &&
      nowMs - firstAtMs >= WEB_GIVE_UP_MS &&
      lastSuccessAtMs > firstAtMs
    ) {
      kept = failure(false, 'did_not_found', `its web server has long not answered: ${result.detail}`);
    }
    const growth = 2 ** Math.min(number - 1, 20);
    const rememberMs = kept.passing
      ? Math.max(kept.retryAfterMs ?? 0, Math.min(PASSING_FAILURE_MAX_MS, PASSING_FAILURE_MIN_MS * growth))
      : Math.min(LASTING_FAILURE_MAX_MS, LASTING_FAILURE_MIN_MS * growth);
    failures.set(did.did, { result: kept, untilMs: nowMs + rememberMs, failures: number, firstAtMs });
    return kept.passing ? { ...kept, retryAfterMs: rememberMs } : kept;
  };

  const readAnswer = (did: ParsedDid, answer: FetchResult): IdentityResult => {
    if (!answer.ok) {
      switch (answer.kind) {
        case 'timeout':
          counters.timeouts++;
          return failure(true, 'did_unresolved', answer.detail);
        case 'unreachable':
          counters.unreachable++;
          return failure(true, 'did_unresolved', answer.detail);
        case 'forbidden_address':
          return troubled(did, 'did_unsupported', answer.detail);
        default:
          return troubled(did, 'did_document_invalid', answer.detail);
      }
    }
    const { status } = answer;
    if (status === 200) {
      const json = parseJson(answer.body);
      return json === undefined
        ? troubled(did, 'did_document_invalid', 'not JSON')
        : parseDidDocument(did.did, json, { allowInsecure });
    }
    if (status === 404) return failure(false, 'did_not_found', 'HTTP 404');
    if (status === 410) {
      return failure(false, did.method === 'plc' ? 'did_tombstoned' : 'did_not_found', 'HTTP 410');
    }
    if (status === 429) {
      counters.rateLimited++;
      const retryAfterMs = pauseMs(answer.headers['retry-after'], clock.nowMs());
      if (did.method === 'plc') plcLane.pause(retryAfterMs);
      return { ...failure(true, 'did_unresolved', 'HTTP 429'), retryAfterMs };
    }
    return failure(true, 'did_unresolved', `HTTP ${status}`);
  };

  const ask = (did: ParsedDid, fresh: boolean): Promise<FetchResult> => {
    const common = {
      maxBytes: MAX_DOCUMENT_BYTES,
      headers: {
        accept: 'application/did+ld+json, application/json',
        ...(fresh ? { 'cache-control': 'no-cache' } : {}),
      },
      ...(userAgent === undefined ? {} : { userAgent }),
    };
    if (did.method === 'plc') {
      counters.lookupsPlc++;
      return fetch(`${plcUrl}/${did.did}`, {
        ...common,
        timeoutMs: PLC_TIMEOUT_MS,
        keepAlive: true,
        allowPrivateAddresses: true,
      });
    }
    counters.lookupsWeb++;
    return fetch(did.url, {
      ...common,
      timeoutMs: WEB_TIMEOUT_MS,
      redirects: MAX_WEB_REDIRECTS,
      allowPrivateAddresses: allowInsecure,
    });
  };

  const lookUp = (did: ParsedDid, fresh: boolean, forHost: string): Promise<IdentityResult> => {
    const already = pending.get(did.did);
    if (already !== undefined) return already.promise;
    const { promise, resolve: settle } = Promise.withResolvers<IdentityResult>();
    const entry: Pending = { promise, isSent: false, next: null };
    const finish = (result: IdentityResult): void => {
      pending.delete(did.did);
      if (!result.ok) count(result);
      settle(result);
    };
    const work = async (): Promise<void> => {
      entry.isSent = true;
      const answer = await ask(did, fresh);
      finish(remember(did, readAnswer(did, answer)));
    };
    // Not remembered: these say nothing about the DID.
    const giveUp = (): void => {
      counters.waitedTooLong++;
      finish(failure(true, 'did_unresolved', closed ? 'stopping' : 'waited too long for its turn'));
    };
    pending.set(did.did, entry);
    const lane: Lane = did.method === 'plc' ? plcLane : webLane;
    const group = did.method === 'plc' ? forHost : siteOf(did.hostname);
    if (!lane.submit(group, work, giveUp)) {
      counters.overloaded++;
      finish(failure(true, 'did_unresolved', 'too many look-ups are waiting'));
    }
    return promise;
  };

  const resolve = async (text: string, options: ResolveOptions = {}): Promise<IdentityResult> => {
    counters.requests++;
    const did = parseDid(text, { allowInsecure });
    if (did === null) {
      const unsupported = failure(false, 'did_unsupported', 'neither a did:plc nor a usable did:web');
      count(unsupported);
      return unsupported;
    }
    if (closed) return failure(true, 'did_unresolved', 'stopping');
    const fresh = options.fresh === true;
    const forHost = options.forHost ?? '';

    const running = pending.get(text);
    if (running !== undefined) {
      if (!fresh || !running.isSent) {
        counters.coalesced++;
        return running.promise;
      }
      if (running.next !== null) {
        counters.coalesced++;
        return running.next;
      }
      const waitMs = takeFresh(text, forHost);
      if (waitMs > 0) return askedTooOften(waitMs);
      running.next = running.promise.then(() => lookUp(did, true, forHost));
      return running.next;
    }

    const identity = identities.get(text);
    const failed = failures.get(text);
    if (fresh) {
      const waitMs = takeFresh(text, forHost);
      return waitMs > 0 ? askedTooOften(waitMs) : lookUp(did, true, forHost);
    }
    const nowMs = clock.nowMs();
    if (identity !== undefined && nowMs < identity.untilMs) {
      counters.cacheHits++;
      return identity.result;
    }
    if (failed !== undefined && nowMs < failed.untilMs) {
      counters.failureCacheHits++;
      return failed.result.passing
        ? { ...failed.result, retryAfterMs: failed.untilMs - nowMs }
        : failed.result;
    }
    return lookUp(did, false, forHost);
  };

  return {
    resolve,
    counters,
    close: () => {
      closed = true;
      plcLane.close();
      webLane.close();
    },
  };
};
