/**
 * Rate and account limits of hosts: pure arithmetic, time as a parameter. Limits delay, they never drop:
 * what a socket brought is taken, and whoever holds the buckets does not read it again for as long as they say.
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

export interface Limiter {
  /** Counts one event; `waitMs` after it. */
  take(nowMs: number): number;
  /** How long to wait, in ms (rounded up), until no more was taken than the limits allow; 0 = not at all. */
  waitMs(nowMs: number): number;
  /** New limits from now on; what is left in the buckets is kept in proportion, what is owed as it is. */
  set(limits: HostLimits): void;
  readonly limits: HostLimits;
}

const refilled = (tokens: number, capacity: number, periodMs: number, elapsedMs: number): number =>
  Math.min(capacity, tokens + (elapsedMs * capacity) / periodMs);

// Refilling in floating point leaves a hair less than nothing; it must not cost another wait.
const HAIR = 1e-9;

const waitOf = (tokens: number, capacity: number, periodMs: number): number =>
  tokens >= -HAIR ? 0 : Math.max(1, Math.ceil((-tokens * periodMs) / capacity));

const capacityOf = (limit: number): number => Math.max(1, limit);

const rescaled = (tokens: number, before: number, limit: number): number =>
  tokens <= 0 ? tokens : (tokens * capacityOf(limit)) / capacityOf(before);

/**
 * Three token buckets that hold at most a limit, refill continuously, and may be owed to: one read of a socket brings
 * hundreds of events. One flat object: there is one per host.
 */
class ThreeBuckets implements Limiter {
  limits: HostLimits;
  #second: number;
  #hour: number;
  #day: number;
  #filledAtMs: number;

  constructor(limits: HostLimits, nowMs: number) {
    this.limits = limits;
    this.#second = capacityOf(limits.perSecond);
    this.#hour = capacityOf(limits.perHour);
    this.#day = capacityOf(limits.perDay);
    this.#filledAtMs = nowMs;
  }

  take(nowMs: number): number {
    this.#refill(nowMs);
    this.#second--;
    this.#hour--;
    this.#day--;
    return this.#waitMs();
  }

  waitMs(nowMs: number): number {
    this.#refill(nowMs);
    return this.#waitMs();
  }

  #refill(nowMs: number): void {
    const { limits } = this;
    const elapsedMs = nowMs - this.#filledAtMs;
    // A clock that jumps back must neither take tokens away nor freeze the buckets.
    this.#filledAtMs = nowMs;
    if (elapsedMs <= 0) return;
    this.#second = refilled(this.#second, capacityOf(limits.perSecond), SECOND_MS, elapsedMs);
    this.#hour = refilled(this.#hour, capacityOf(limits.perHour), HOUR_MS, elapsedMs);
    this.#day = refilled(this.#day, capacityOf(limits.perDay), DAY_MS, elapsedMs);
  }

  #waitMs(): number {
    const { limits } = this;
    return Math.max(
      waitOf(this.#second, capacityOf(limits.perSecond), SECOND_MS),
      waitOf(this.#hour, capacityOf(limits.perHour), HOUR_MS),
      waitOf(this.#day, capacityOf(limits.perDay), DAY_MS),
    );
  }

  set(limits: HostLimits): void {
    const before = this.limits;
    this.#second = rescaled(this.#second, before.perSecond, limits.perSecond);
    this.#hour = rescaled(this.#hour, before.perHour, limits.perHour);
    this.#day = rescaled(this.#day, before.perDay, limits.perDay);
    this.limits = limits;
  }
}

/** Three buckets (second, hour, day), full at the start; an event takes a token of each. */
export const createLimiter = (limits: HostLimits, nowMs: number): Limiter => new ThreeBuckets(limits, nowMs);

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
