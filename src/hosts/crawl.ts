/**
 * requestCrawl (atproto lexicon `com.atproto.sync.requestCrawl`): everything that is checked before a host is
 * stored. Promises: nothing is stored or connected before all checks passed; checks are bounded in number, one per
 * hostname at a time, and a host that just failed is not asked again for a while.
 */
import type { Clock } from '../network/clock.ts';
import type { GuardedFetch } from '../network/fetch.ts';
import { parseHostname } from '../network/hostname.ts';
import { createRecent } from '../network/recent.ts';
import type { HostSource } from '../state/types.ts';
import type { CrawlResult } from './types.ts';
import { isRelayServer } from './words.ts';

/** describeServer must answer within this, DNS and TLS included. */
const DESCRIBE_TIMEOUT_MS = 5_000;
/** An answer of describeServer is a few hundred bytes; this leaves room for long contact and link fields. */
const DESCRIBE_MAX_BYTES = 64 * 1024;
/** Checks at a time: anyone may ask, and each holds a socket for up to five seconds. */
export const MAX_CHECKS_IN_FLIGHT = 16;
const CHECK_RETRY_AFTER_SECONDS = 10;
/** A host that failed its check is not asked again for this long (unless the admin asks). */
export const NEGATIVE_CACHE_MS = 60_000;
const MAX_NEGATIVE_ENTRIES = 10_000;
const DAY_MS = 86_400_000;

type Refused = Extract<CrawlResult, { ok: false }>;

const refused = (error: Refused['error'], message: string, retryAfterSeconds?: number): Refused =>
  retryAfterSeconds === undefined
    ? { ok: false, error, message }
    : { ok: false, error, message, retryAfterSeconds };

export type HostEntry =
  | { readonly ok: true; readonly hostname: string; readonly secure: boolean }
  | { readonly ok: false; readonly error: string };

/**
 * A host as people name it: a hostname, or an https URL without a path. With `allowInsecure` also http URLs,
 * localhost and ports; without a scheme, a name with a port or `localhost` then means http and ws.
 */
export const parseHostEntry = (text: unknown, allowInsecure: boolean): HostEntry => {
  if (typeof text !== 'string') return { ok: false, error: 'hostname is missing' };
  const match = /^(https|http|wss|ws):\/\/([^/?#]*)\/?$/i.exec(text.trim().slice(0, 1_000));
  const parsed = parseHostname(match === null ? text.trim() : match[2], { allowLocalhost: allowInsecure });
  if (!parsed.ok) return parsed;
  if (match === null) {
    const local = parsed.hostname === 'localhost' || parsed.hostname.includes(':');
    return { ok: true, hostname: parsed.hostname, secure: !(allowInsecure && local) };
  }
  const secure = match[1]!.length === 5 || match[1]!.toLowerCase() === 'wss';
  if (!secure && !allowInsecure) return { ok: false, error: 'hostname must be reachable over https' };
  return { ok: true, hostname: parsed.hostname, secure };
};

/** What the crawl checks need of the roster. */
export interface CrawlRoster {
  isBanned(hostname: string): boolean;
  /** The id of a known host, which then reconnects as soon as it may; null: unknown. */
  retryKnown(hostname: string, source: HostSource): number | null;
  /** Stores and schedules; null: the table of hosts is full. */
  insert(entry: {
    readonly hostname: string;
    readonly secure: boolean;
    readonly source: HostSource;
  }): Promise<number | null>;
}

export interface CrawlDeps {
  readonly roster: CrawlRoster;
  readonly fetch: GuardedFetch;
  readonly clock: Pick<Clock, 'nowMs'>;
  readonly userAgent: string;
  readonly allowInsecureHosts: boolean;
  /** New hosts per 24 hours by public requestCrawl. */
  readonly newHostsPerDay: number;
  /** When the hosts of the last day came by requestCrawl (ms), so that a restart does not open the gate anew. */
  readonly recentCrawls: readonly number[];
}

export interface Crawl {
  request(hostname: string, source: HostSource): Promise<CrawlResult>;
  readonly counters: Readonly<Record<string, number>>;
}

export const createCrawl = (deps: CrawlDeps): Crawl => {
  const { roster, clock } = deps;
  const counters = {
    requests: 0,
    known: 0,
    accepted: 0,
    refusedSyntax: 0,
    refusedBanned: 0,
    refusedDailyLimit: 0,
    refusedOverload: 0,
    refusedCheck: 0,
    refusedRelay: 0,
    negativeCacheHits: 0,
    checksInFlight: 0,
  };
  const inFlight = new Map<string, Promise<CrawlResult>>();
  const negative = createRecent<string, { readonly result: Refused; readonly untilMs: number }>(
    MAX_NEGATIVE_ENTRIES,
  );
  /** Acceptances of the last day, oldest first; at most newHostsPerDay of them. */
  const accepted = deps.recentCrawls.toSorted((a, b) => a - b);
  /** Checks that hold a place in the daily limit until they end. */
  let reserved = 0;

  const dailyWaitMs = (nowMs: number): number => {
    while (accepted.length > 0 && accepted[0]! <= nowMs - DAY_MS) accepted.shift();
    if (accepted.length + reserved < deps.newHostsPerDay) return 0;
    return accepted.length === 0 ? 60_000 : Math.max(1_000, accepted[0]! + DAY_MS - nowMs);
  };

  const check = async (hostname: string, secure: boolean): Promise<Refused | null> => {
    const answer = await deps.fetch(
      `${secure ? 'https' : 'http'}://${hostname}/xrpc/com.atproto.server.describeServer`,
      {
        timeoutMs: DESCRIBE_TIMEOUT_MS,
        maxBytes: DESCRIBE_MAX_BYTES,
        allowPrivateAddresses: deps.allowInsecureHosts,
        userAgent: deps.userAgent,
      },
    );
    if (!answer.ok) {
      if (answer.kind === 'forbidden_address')
        return refused('HostNotFound', 'the hostname does not lead to a public address');
      return refused('HostNotFound', `describeServer did not answer: ${answer.kind}`);
    }
    if (isRelayServer(answer.headers.server ?? '')) {
      counters.refusedRelay++;
      return refused('InvalidRequest', 'the host is a relay (by its Server header), not a PDS');
    }
    if (answer.status !== 200)
      return refused('HostNotFound', `describeServer answered with status ${answer.status}`);
    let description: unknown;
    try {
      description = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(answer.body));
    } catch {
      return refused('HostNotFound', 'describeServer did not answer with JSON');
    }
    const did = (description as { did?: unknown } | null)?.did;
    if (typeof did !== 'string' || !/^did:[a-z]+:[a-zA-Z0-9._:%-]+$/.test(did))
      return refused('HostNotFound', 'describeServer names no DID: not a PDS');
    return null;
  };

  const checkAndInsert = async (
    hostname: string,
    secure: boolean,
    source: HostSource,
  ): Promise<CrawlResult> => {
    const failure = await check(hostname, secure);
    if (failure !== null) {
      counters.refusedCheck++;
      negative.set(hostname, { result: failure, untilMs: clock.nowMs() + NEGATIVE_CACHE_MS });
      return failure;
    }
    // The world may have moved during the check.
    if (roster.isBanned(hostname)) return refused('HostBanned', 'the host is banned');
    const known = roster.retryKnown(hostname, source);
    if (known !== null) return { ok: true, hostId: known, known: true };
    const hostId = await roster.insert({ hostname, secure, source });
    if (hostId === null) return refused('RateLimitExceeded', 'this relay follows as many hosts as it can');
    if (source === 'crawl') accepted.push(clock.nowMs());
    counters.accepted++;
    return { ok: true, hostId, known: false };
  };

  return {
    async request(text, source) {
      counters.requests++;
      const entry = parseHostEntry(text, deps.allowInsecureHosts);
      if (!entry.ok) {
        counters.refusedSyntax++;
        return refused('InvalidRequest', entry.error);
      }
      const { hostname, secure } = entry;
      if (roster.isBanned(hostname)) {
        counters.refusedBanned++;
        return refused('HostBanned', 'the host is banned');
      }
      const known = roster.retryKnown(hostname, source);
      if (known !== null) {
        counters.known++;
        return { ok: true, hostId: known, known: true };
      }
      const running = inFlight.get(hostname);
      if (running !== undefined) return running;
      const nowMs = clock.nowMs();
      const limited = source === 'crawl';
      if (limited) {
        const before = negative.get(hostname);
        if (before !== undefined && before.untilMs > nowMs) {
          counters.negativeCacheHits++;
          return before.result;
        }
        const waitMs = dailyWaitMs(nowMs);
        if (waitMs > 0) {
          counters.refusedDailyLimit++;
          const message = `new hosts per day are limited to ${deps.newHostsPerDay}`;
          return refused('RateLimitExceeded', message, Math.ceil(waitMs / 1_000));
        }
      }
      if (counters.checksInFlight >= MAX_CHECKS_IN_FLIGHT) {
        counters.refusedOverload++;
        return refused('RateLimitExceeded', 'too many hosts are being checked', CHECK_RETRY_AFTER_SECONDS);
      }
      counters.checksInFlight++;
      if (limited) reserved++;
      const result = checkAndInsert(hostname, secure, source).finally(() => {
        counters.checksInFlight--;
        if (limited) reserved--;
        inFlight.delete(hostname);
      });
      inFlight.set(hostname, result);
      return result;
    },
    counters,
  };
};
