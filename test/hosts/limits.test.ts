import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  accountLimitFor,
  createLimiter,
  createLimiters,
  isTrusted,
  limitsFor,
  TRUSTED_LIMITS,
} from '../../src/hosts/limits.ts';

describe('limits of a host', () => {
  test('grow with its accounts', () => {
    expect(limitsFor({ accounts: 0, trusted: false, perSecondOverride: null })).toEqual({
      perSecond: 50,
      perHour: 2_500,
      perDay: 20_000,
    });
    expect(limitsFor({ accounts: 50_000, trusted: false, perSecondOverride: null })).toEqual({
      perSecond: 100,
      perHour: 52_500,
      perDay: 520_000,
    });
  });

  test('are the same high ones for every trusted host', () => {
    expect(limitsFor({ accounts: 3, trusted: true, perSecondOverride: null })).toEqual(TRUSTED_LIMITS);
  });

  test('follow the figure of the operator, which the hour and day limits never undercut', () => {
    fc.assert(
      fc.property(
        fc.nat(10_000_000),
        fc.boolean(),
        fc.integer({ min: 1, max: 10_000 }),
        (accounts, trusted, own) => {
          const limits = limitsFor({ accounts, trusted, perSecondOverride: own });
          expect(limits.perSecond).toBe(own);
          expect(limits.perHour).toBeGreaterThanOrEqual(own * 3_600);
          expect(limits.perDay).toBeGreaterThanOrEqual(own * 86_400);
        },
      ),
    );
  });
});

describe('the account limit', () => {
  const base = { override: null, trusted: false, expectedAccounts: 0, crawlDefault: 100 } as const;

  test('is small only for hosts that nobody named', () => {
    expect(accountLimitFor({ ...base, source: 'crawl' })).toBe(100);
    expect(accountLimitFor({ ...base, source: 'upstream' })).toBeGreaterThanOrEqual(10_000);
    expect(accountLimitFor({ ...base, source: 'config' })).toBeGreaterThanOrEqual(1_000_000);
    expect(accountLimitFor({ ...base, source: 'crawl', trusted: true })).toBeGreaterThanOrEqual(1_000_000);
  });

  test('leaves a host of the upstream twice the room it has', () => {
    expect(accountLimitFor({ ...base, source: 'upstream', expectedAccounts: 80_000 })).toBe(160_000);
  });

  test('is what the operator says, also when that is nothing', () => {
    expect(accountLimitFor({ ...base, source: 'admin', trusted: true, override: 0 })).toBe(0);
  });
});

describe('trusted patterns', () => {
  test('match a name or everything below a domain, and nothing that only looks alike', () => {
    const patterns = ['*.host.bsky.network', 'pds.example.org'];
    expect(isTrusted('morel.us-east.host.bsky.network', patterns)).toBe(true);
    expect(isTrusted('Morel.Host.Bsky.Network', patterns)).toBe(true);
    expect(isTrusted('pds.example.org', patterns)).toBe(true);
    expect(isTrusted('host.bsky.network', patterns)).toBe(false);
    expect(isTrusted('evilhost.bsky.network', patterns)).toBe(false);
    expect(isTrusted('x.host.bsky.network.evil.org', patterns)).toBe(false);
    expect(isTrusted('a.pds.example.org', patterns)).toBe(false);
    expect(isTrusted('anything.org', ['*.', '*'])).toBe(false);
  });
});

describe('a rate limiter', () => {
  test('lets a full bucket through at once and then one event per refill', () => {
    const limiter = createLimiter({ perSecond: 10, perHour: 1_000_000, perDay: 10_000_000 }, 0);
    for (let n = 0; n < 10; n++) expect(limiter.take(0)).toBe(0);
    expect(limiter.take(0)).toBe(100);
    expect(limiter.waitMs(99)).toBeGreaterThan(0);
    expect(limiter.waitMs(100)).toBe(0);
    expect(limiter.take(100)).toBe(100);
  });

  test('is owed what came beyond it, and waits for all of that', () => {
    const limiter = createLimiter({ perSecond: 10, perHour: 1_000_000, perDay: 10_000_000 }, 0);
    for (let n = 0; n < 40; n++) limiter.take(0);
    expect(limiter.waitMs(0)).toBe(3_000);
    expect(limiter.waitMs(2_900)).toBe(100);
    expect(limiter.waitMs(3_000)).toBe(0);
    expect(limiter.take(3_000)).toBe(100);
  });

  test('waits for the longest of the three buckets', () => {
    const limiter = createLimiter({ perSecond: 100, perHour: 5, perDay: 1_000 }, 0);
    for (let n = 0; n < 5; n++) expect(limiter.take(0)).toBe(0);
    expect(limiter.take(0)).toBe(720_000);
  });

  test('never gives more than capacity, refill and one in any window, and always lets one through after the wait it names', () => {
    fc.assert(
      fc.property(
        fc.record({
          perSecond: fc.integer({ min: 1, max: 50 }),
          perHour: fc.integer({ min: 1, max: 500 }),
          perDay: fc.integer({ min: 1, max: 2_000 }),
        }),
        fc.array(fc.nat(5_000), { minLength: 1, maxLength: 200 }),
        (limits, pauses) => {
          const limiter = createLimiter(limits, 0);
          let nowMs = 0;
          let taken = 0;
          for (const pauseMs of pauses) {
            nowMs += pauseMs;
            const waitMs = limiter.take(nowMs);
            taken++;
            const most = (limit: number, periodMs: number): number =>
              limit + (nowMs * limit) / periodMs + 1 + 1e-6;
            expect(taken).toBeLessThanOrEqual(most(limits.perSecond, 1_000));
            expect(taken).toBeLessThanOrEqual(most(limits.perHour, 3_600_000));
            expect(taken).toBeLessThanOrEqual(most(limits.perDay, 86_400_000));
            expect(limiter.waitMs(nowMs)).toBe(waitMs);
            if (waitMs === 0) continue;
            nowMs += waitMs;
            expect(limiter.waitMs(nowMs)).toBe(0);
          }
        },
      ),
    );
  });

  test('survives a clock that jumps back', () => {
    const limiter = createLimiter({ perSecond: 1, perHour: 100, perDay: 100 }, 1_000_000);
    expect(limiter.take(1_000_000)).toBe(0);
    expect(limiter.take(10)).toBe(1_000);
    expect(limiter.waitMs(1_010)).toBe(0);
  });

  test('new limits take effect at once and keep what is left in proportion', () => {
    const limiter = createLimiter({ perSecond: 10, perHour: 1_000_000, perDay: 1_000_000 }, 0);
    for (let n = 0; n < 5; n++) limiter.take(0);
    limiter.set({ perSecond: 100, perHour: 1_000_000, perDay: 1_000_000 });
    let taken = 0;
    while (limiter.take(0) === 0) taken++;
    expect(taken).toBe(50);
    expect(limiter.limits.perSecond).toBe(100);
    // What is owed is a number of events, which higher limits make up for sooner.
    expect(limiter.waitMs(0)).toBe(10);
    limiter.set({ perSecond: 1_000, perHour: 1_000_000, perDay: 1_000_000 });
    expect(limiter.waitMs(0)).toBe(1);
  });
});

describe('the limiters of many hosts', () => {
  test('outlive connections: coming again fills no bucket and forgives nothing', () => {
    const limiters = createLimiters();
    const limits = { perSecond: 5, perHour: 5, perDay: 100 };
    for (let n = 0; n < 5; n++) expect(limiters.of(1, limits, 0).take(0)).toBe(0);
    for (let n = 0; n < 5; n++) expect(limiters.of(1, limits, 0).take(0)).toBeGreaterThan(0);
    expect(limiters.of(1, limits, 0).waitMs(0)).toBe(3_600_000);
    expect(limiters.of(2, limits, 0).take(0)).toBe(0);
    expect(limiters.of(1, { ...limits, perHour: 50 }, 0).limits.perHour).toBe(50);
  });

  test('are bounded', () => {
    const limiters = createLimiters();
    const limits = { perSecond: 1, perHour: 1, perDay: 1 };
    limiters.of(0, limits, 0).take(0);
    for (let hostId = 1; hostId <= 50_000; hostId++) limiters.of(hostId, limits, 0);
    expect(limiters.of(0, limits, 0).take(0)).toBe(0);
  });
});
