/**
 * Rate and account limits of hosts: pure arithmetic, time as a parameter. Limits delay, they never drop:
 * whoever holds a bucket stops reading the socket for as long as `take` says.
 */
import type { HostSource } from '../state/types.ts';
import type { HostLimits } from './types.ts';

const SECOND_MS = 1_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 86_400_000;

/** Limits of a host by its number of accounts: a base for the small ones, and growth so that no host outgrows them. */
const BASE_PER_SECOND = 50;
const ACCOUNTS_PER_EXTRA_EVENT_PER_SECOND = 1_000;
const BASE_PER_HOUR = 2_500;
const PER_HOUR_PER_ACCOUNT = 1;
const BASE_PER_DAY = 20_000;
const PER_DAY_PER_ACCOUNT = 10;

/** Trusted hosts (the operator's patterns): far above any real host, low enough to stop a runaway. */
export const TRUSTED_LIMITS: HostLimits = { perSecond: 5_000, perHour: 50_000_000, perDay: 500_000_000 };

/**
 * Accounts credited to a host that the operator or the upstream relay named, before we have seen its accounts:
 * without them a host of thousands would start with the limits of an empty one.
 */
export const NAMED_HOST_MIN_ACCOUNTS = 1_000;

/** Account limits where the row has none: "not limited" for trusted hosts, generous for named ones. */
export const TRUSTED_ACCOUNT_LIMIT = 10_000_000;
export const OPERATOR_ACCOUNT_LIMIT = 1_000_000;
export const UPSTREAM_ACCOUNT_LIMIT = 10_000;

/**
 * The rate limits of one host. `accounts`: how many it has (ours or the upstream's count, whichever is larger).
 * `perSecondOverride`: the operator's own figure for events per second; the hour and day limits then follow
 * from it where the defaults would be lower, so that the override is what counts.
 */
export const limitsFor = (host: {
  readonly accounts: number;
  readonly trusted: boolean;
  readonly perSecondOverride: number | null;
}): HostLimits => {
  const byDefault: HostLimits = host.trusted
    ? TRUSTED_LIMITS
    : {
        perSecond: BASE_PER_SECOND + Math.floor(host.accounts / ACCOUNTS_PER_EXTRA_EVENT_PER_SECOND),
        perHour: BASE_PER_HOUR + host.accounts * PER_HOUR_PER_ACCOUNT,
        perDay: BASE_PER_DAY + host.accounts * PER_DAY_PER_ACCOUNT,
      };
  const override = host.perSecondOverride;
  if (override === null) return byDefault;
  return {
    perSecond: override,
    perHour: Math.max(byDefault.perHour, override * 3_600),
    perDay: Math.max(byDefault.perDay, override * 86_400),
  };
};

/**
 * How many accounts a host may have: the operator's figure; else by who named it. Hosts that only asked to be
 * crawled get the configured default, hosts the operator named practically none, hosts of the upstream relay
 * twice what the upstream counts, so that they can grow.
 */
export const accountLimitFor = (host: {
  readonly override: number | null;
  readonly trusted: boolean;
  readonly source: HostSource;
  readonly expectedAccounts: number;
  readonly crawlDefault: number;
}): number => {
  if (host.override !== null) return host.override;
  if (host.trusted) return TRUSTED_ACCOUNT_LIMIT;
  switch (host.source) {
    case 'admin':
    case 'config':
      return OPERATOR_ACCOUNT_LIMIT;
    case 'upstream':
      return Math.max(UPSTREAM_ACCOUNT_LIMIT, 2 * host.expectedAccounts);
    case 'crawl':
      return host.crawlDefault;
  }
};

/** Whether `hostname` matches one of the patterns: a hostname, or `*.domain` for everything below the domain. */
export const isTrusted = (hostname: string, patterns: readonly string[]): boolean => {
  const name = hostname.toLowerCase();
  for (const raw of patterns) {
    const pattern = raw.toLowerCase();
    if (pattern.startsWith('*.')) {
      const suffix = pattern.slice(1);
      if (suffix.length > 1 && name.length > suffix.length && name.endsWith(suffix)) return true;
    } else if (name === pattern) return true;
  }
  return false;
};

/** One token bucket: holds at most `capacity` tokens and refills continuously, `capacity` per `periodMs`. */
export interface Bucket {
  tokens: number;
  capacity: number;
  readonly periodMs: number;
  filledAtMs: number;
}

export interface Limiter {
  /** 0: one event taken. Otherwise nothing is taken; try again after that many ms (rounded up). */
  take(nowMs: number): number;
  /** Like `take`, but takes nothing. */
  waitMs(nowMs: number): number;
  /** New limits from now on; what is left in the buckets is kept in proportion. */
  set(limits: HostLimits): void;
  readonly limits: HostLimits;
}

const bucketOf = (capacity: number, periodMs: number, nowMs: number): Bucket => ({
  tokens: Math.max(1, capacity),
  capacity: Math.max(1, capacity),
  periodMs,
  filledAtMs: nowMs,
});

const refill = (bucket: Bucket, nowMs: number): void => {
  const elapsed = nowMs - bucket.filledAtMs;
  // A clock that jumps back must neither take tokens away nor freeze the bucket.
  bucket.filledAtMs = nowMs;
  if (elapsed <= 0) return;
  bucket.tokens = Math.min(bucket.capacity, bucket.tokens + (elapsed * bucket.capacity) / bucket.periodMs);
};

// Refilling in floating point leaves a hair less than a whole token; it must not cost another wait.
const WHOLE = 1 - 1e-9;

const waitOf = (bucket: Bucket): number =>
  bucket.tokens >= WHOLE
    ? 0
    : Math.max(1, Math.ceil(((1 - bucket.tokens) * bucket.periodMs) / bucket.capacity));

/** Three buckets (second, hour, day), full at the start; an event must get a token from each. */
export const createLimiter = (initial: HostLimits, nowMs: number): Limiter => {
  let limits = initial;
  const second = bucketOf(limits.perSecond, SECOND_MS, nowMs);
  const hour = bucketOf(limits.perHour, HOUR_MS, nowMs);
  const day = bucketOf(limits.perDay, DAY_MS, nowMs);

  const waitMs = (atMs: number): number => {
    refill(second, atMs);
    refill(hour, atMs);
    refill(day, atMs);
    return Math.max(waitOf(second), waitOf(hour), waitOf(day));
  };
  const resize = (bucket: Bucket, capacity: number): void => {
    const next = Math.max(1, capacity);
    bucket.tokens = (bucket.tokens / bucket.capacity) * next;
    bucket.capacity = next;
  };
  return {
    take(atMs) {
      const wait = waitMs(atMs);
      if (wait > 0) return wait;
      second.tokens = Math.max(0, second.tokens - 1);
      hour.tokens = Math.max(0, hour.tokens - 1);
      day.tokens = Math.max(0, day.tokens - 1);
      return 0;
    },
    waitMs,
    set(next) {
      resize(second, next.perSecond);
      resize(hour, next.perHour);
      resize(day, next.perDay);
      limits = next;
    },
    get limits() {
      return limits;
    },
  };
};

/** More hosts than the roster ever holds: reached only by a mistake of ours. */
const MAX_LIMITERS = 50_000;

export interface Limiters {
  /** The host's limiter with these limits: the same as last time, so that reconnecting fills no bucket. */
  of(hostId: number, limits: HostLimits, nowMs: number): Limiter;
}

/** The limiters of many hosts, which outlive their connections. Over the bound the one made first is forgotten. */
export const createLimiters = (): Limiters => {
  const limiters = new Map<number, Limiter>();
  return {
    of(hostId, limits, nowMs) {
      const known = limiters.get(hostId);
      if (known !== undefined) {
        known.set(limits);
        return known;
      }
      if (limiters.size >= MAX_LIMITERS) {
        for (const oldest of limiters.keys()) {
          limiters.delete(oldest);
          break;
        }
      }
      const limiter = createLimiter(limits, nowMs);
      limiters.set(hostId, limiter);
      return limiter;
    },
  };
};
