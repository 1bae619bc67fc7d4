import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  createPoliteness,
  hostGroup,
  MAX_POLITE_GROUPS,
  MAX_POLITE_RETRIES,
  MAX_POLITE_WAIT_MS,
  MAX_TOLD_WAIT_MS,
  MAX_WAITING_PER_GROUP,
  type PoliteAnswer,
  type PolitenessOptions,
  rateLimitOf,
  retryAfterMs,
} from '../../src/network/politeness.ts';
import { createFakeClock, type FakeClock, settle } from './fake-clock.ts';

const START_MS = 1_700_000_000_000;

const setUp = (options: Partial<PolitenessOptions> = {}) => {
  const clock = createFakeClock(START_MS);
  const politeness = createPoliteness({
    maxConcurrentPerGroup: 4,
    requestsPerWindow: 1000,
    windowMs: 100_000,
    nowMs: clock.nowMs,
    sleep: (ms) => new Promise((resolve) => void clock.after(ms, resolve)),
    random: () => 0.5,
    ...options,
  });
  return { clock, politeness };
};

/** In small steps, so that all that one step sets free happens in its time. */
const pass = async (clock: FakeClock, durationMs: number): Promise<void> => {
  for (let passedMs = 0; passedMs < durationMs; passedMs += 250) await clock.advance(250);
};

const ok = async (): Promise<PoliteAnswer> => ({ status: 200, headers: {} });

describe('what headers say', () => {
  test('Retry-After is seconds or a date, bounded; anything else is nothing', () => {
    const of = (value: string) => retryAfterMs({ status: 429, headers: { 'retry-after': value } }, START_MS);
    expect(of('3')).toBe(3_000);
    expect(of(new Date(START_MS + 7_000).toUTCString())).toBe(7_000);
    expect(of(new Date(START_MS - 7_000).toUTCString())).toBe(0);
    expect(of('999999999')).toBe(MAX_TOLD_WAIT_MS);
    expect(of('soon')).toBeNull();
    expect(of('-1')).toBeNull();
    expect(retryAfterMs({ status: 429 }, START_MS)).toBeNull();
  });

  test('RateLimit-Reset is a distance or a date, rounded up', () => {
    const of = (reset: string) =>
      rateLimitOf(
        { status: 200, headers: new Headers({ 'RateLimit-Remaining': '5', 'RateLimit-Reset': reset }) },
        START_MS,
      );
    expect(of('30')?.resetAtMs).toBe(START_MS + 30_000);
    expect(of(String(START_MS / 1000 + 30))?.resetAtMs).toBe(START_MS + 31_000);
    expect(of('9999999999')?.resetAtMs).toBe(START_MS + MAX_TOLD_WAIT_MS);
    expect(of('x')).toBeNull();
  });

  test('whatever stands in them, nothing throws and no wait is negative or over the bound', () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), fc.string(), (after, remaining, reset) => {
        const answer = {
          status: 429,
          headers: { 'retry-after': after, 'ratelimit-remaining': remaining, 'ratelimit-reset': reset },
        };
        const waitMs = retryAfterMs(answer, START_MS);
        if (waitMs !== null && !(waitMs >= 0 && waitMs <= MAX_TOLD_WAIT_MS)) return false;
        const said = rateLimitOf(answer, START_MS);
        return said === null || (said.resetAtMs >= START_MS && said.resetAtMs <= START_MS + MAX_TOLD_WAIT_MS);
      }),
    );
  });

  test('all PDSes of Bluesky are one group', () => {
    expect(hostGroup('morel.us-east.host.bsky.network')).toBe(hostGroup('oyster.host.bsky.network'));
    expect(hostGroup('pds.one.com')).not.toBe(hostGroup('pds.two.com'));
    expect(hostGroup('evilhost.bsky.network')).toBe('evilhost.bsky.network');
  });
});

describe('turns', () => {
  test('a group never has more requests under way than allowed, and another group does not wait for it', async () => {
    const { politeness } = setUp({ groupOf: (host) => host.slice(0, 1) });
    const finish: (() => void)[] = [];
    let underWay = 0;
    const slow = (): Promise<PoliteAnswer> => {
      underWay++;
      return new Promise((resolve) => {
        finish.push(() => {
          underWay--;
          resolve({ status: 200 });
        });
      });
    };
    const all = Array.from({ length: 10 }, (_, index) => politeness.run(`a${index}`, null, slow));
    await settle();
    expect(underWay).toBe(4);
    expect(politeness.load('a7')).toBe(10);
    expect((await politeness.run('b', null, ok)).ok).toBe(true);
    while (finish.length > 0) {
      expect(underWay).toBeLessThanOrEqual(4);
      finish.shift()!();
      await settle();
    }
    expect((await Promise.all(all)).every((outcome) => outcome.ok)).toBe(true);
    expect(politeness.groups(10)).toEqual([]);
  });

  test('in any window a group gets at most its number of requests, and nearly that many', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 1, max: 8 }),
        async (requests, concurrent) => {
          const windowMs = 10_000;
          const { politeness, clock } = setUp({
            requestsPerWindow: requests,
            windowMs,
            maxConcurrentPerGroup: concurrent,
            maxWaitMs: 1e9,
          });
          const sentMs: number[] = [];
          const all = Array.from({ length: requests * 3 }, () =>
            politeness.run('host', null, async () => {
              sentMs.push(clock.nowMs());
              return { status: 200 };
            }),
          );
          await pass(clock, windowMs * 5);
          await Promise.all(all);
          for (let index = 0; index + requests < sentMs.length; index++) {
            expect(sentMs[index + requests]! - sentMs[index]!).toBeGreaterThanOrEqual(windowMs - 1);
          }
          expect(sentMs.length).toBe(requests * 3);
        },
      ),
      { numRuns: 30 },
    );
  });

  test('429 with Retry-After stops the whole group for that long, then goes on', async () => {
    const { politeness, clock } = setUp();
    const sent: [string, number][] = [];
    let refuse = true;
    const ask = (host: string) =>
      politeness.run(host, null, async () => {
        sent.push([host, clock.nowMs() - START_MS]);
        if (!refuse) return { status: 200 };
        refuse = false;
        return { status: 429, headers: { 'retry-after': '20' } };
      });
    const first = ask('one.host.bsky.network');
    await settle();
    const second = ask('two.host.bsky.network');
    const other = ask('elsewhere.com');
    await clock.advance(19_000);
    expect(sent).toEqual([
      ['one.host.bsky.network', 0],
      ['elsewhere.com', 0],
    ]);
    expect(politeness.groups(5)[0]?.pausedUntilMs).toBe(START_MS + 20_000);
    await clock.advance(2_000);
    expect(await first).toMatchObject({ ok: true, retries: 1, waitedMs: 20_000 });
    expect((await second).ok && (await other).ok).toBe(true);
    expect(sent.slice(2).every(([, atMs]) => atMs === 20_000)).toBe(true);
    expect(politeness.counters).toMatchObject({ rate_limited: 1, unavailable: 0, quota_waits: 0 });
  });

  test('a 429 that never ends is given up after a bounded number of requests, with the time to come again', async () => {
    const { politeness, clock } = setUp();
    const outcome = politeness.run('host', null, async () => ({ status: 429 }));
    await clock.advance(600_000);
    expect(await outcome).toMatchObject({ ok: false, why: 'told_to_wait' });
    expect(politeness.counters.requests).toBe(MAX_POLITE_RETRIES + 1);
    expect(politeness.counters.rate_limited).toBe(MAX_POLITE_RETRIES + 1);
  });

  test('told to wait longer than we do, the caller hears it at once, and so does everyone who waits', async () => {
    const { politeness, clock } = setUp({ maxConcurrentPerGroup: 1 });
    const day = { status: 429, headers: { 'retry-after': '7200' } };
    const first = politeness.run('host', null, async () => day);
    const second = politeness.run('host', null, ok);
    const expected = { ok: false as const, why: 'told_to_wait' as const, retryAtMs: START_MS + 7_200_000 };
    expect(await first).toEqual(expected);
    expect(await second).toEqual(expected);
    expect(politeness.counters.requests).toBe(1);
    await clock.advance(7_200_000);
    expect((await politeness.run('host', null, ok)).ok).toBe(true);
    expect(7_200_000).toBeGreaterThan(MAX_POLITE_WAIT_MS);
  });

  test('503 pauses that host alone; when it stays, the answer is given', async () => {
    const { politeness, clock } = setUp();
    const sick = politeness.run('sick.host.bsky.network', null, async () => ({ status: 503 }));
    await settle();
    expect((await politeness.run('well.host.bsky.network', null, ok)).ok).toBe(true);
    expect(politeness.counters).toMatchObject({ rate_limited: 0, unavailable: 1, quota_waits: 0 });
    await clock.advance(600_000);
    expect(await sick).toMatchObject({ ok: true, answer: { status: 503 }, retries: MAX_POLITE_RETRIES });
  });

  test('an empty quota is waited for before the host has to refuse', async () => {
    const { politeness, clock } = setUp({ maxConcurrentPerGroup: 1 });
    const windowMs = 30_000;
    let used = 0;
    let windowEndMs = 0;
    const limit = 10;
    const host = async (): Promise<PoliteAnswer> => {
      if (clock.nowMs() >= windowEndMs) {
        used = 0;
        windowEndMs = clock.nowMs() + windowMs;
      }
      const refused = used >= limit;
      if (!refused) used++;
      return {
        status: refused ? 429 : 200,
        headers: {
          'ratelimit-limit': String(limit),
          'ratelimit-remaining': String(limit - used),
          'ratelimit-reset': String(Math.floor(windowEndMs / 1000)),
          'ratelimit-policy': `${limit};w=30`,
        },
      };
    };
    const all = Array.from({ length: 35 }, () => politeness.run('host', null, host));
    await pass(clock, 200_000);
    expect((await Promise.all(all)).every((outcome) => outcome.ok)).toBe(true);
    expect(politeness.counters.rate_limited).toBe(0);
    expect(politeness.counters.requests).toBe(35);
    expect(politeness.counters.quota_waits).toBe(3);
  });

  test('several at once do not overrun a quota that the answers tell late', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 20, max: 60 }),
        fc.array(fc.integer({ min: 0, max: 400 }), { minLength: 50, maxLength: 50 }),
        async (concurrent, limit, delaysMs) => {
          const { politeness, clock } = setUp({
            maxConcurrentPerGroup: concurrent,
            requestsPerWindow: 100_000,
          });
          const windowMs = 60_000;
          let used = 0;
          let endMs = clock.nowMs() + windowMs;
          let sent = 0;
          const host = (): Promise<PoliteAnswer> => {
            if (clock.nowMs() >= endMs) {
              used = 0;
              endMs = clock.nowMs() + windowMs;
            }
            used++;
            const answer = {
              status: used > limit ? 429 : 200,
              headers: {
                'ratelimit-remaining': String(Math.max(0, limit - used)),
                'ratelimit-reset': String(Math.ceil((endMs - clock.nowMs()) / 1000)),
              },
            };
            return new Promise((resolve) => {
              clock.after(delaysMs[sent++ % delaysMs.length]!, () => resolve(answer));
            });
          };
          const all = Array.from({ length: limit * 3 }, () => politeness.run('host', null, host));
          await pass(clock, windowMs * 8);
          await Promise.all(all);
          expect(politeness.counters.rate_limited).toBe(0);
        },
      ),
      { numRuns: 20 },
    );
  });

  test('whoever waits can be called off, and what it held goes to the next', async () => {
    const { politeness, clock } = setUp({ maxConcurrentPerGroup: 1 });
    let finish = (): void => {};
    const first = politeness.run(
      'host',
      null,
      () =>
        new Promise<PoliteAnswer>((resolve) => {
          finish = () => resolve({ status: 200 });
        }),
    );
    const abort = new AbortController();
    const second = politeness.run('host', abort.signal, ok);
    const third = politeness.run('host', null, ok);
    abort.abort();
    expect(await second).toMatchObject({ ok: false, why: 'aborted' });
    finish();
    await clock.advance(1);
    expect((await first).ok && (await third).ok).toBe(true);
    expect(await politeness.run('host', abort.signal, ok)).toMatchObject({ ok: false, why: 'aborted' });
    expect(politeness.counters.requests).toBe(2);
  });

  test('a request that throws gives its place back', async () => {
    const { politeness } = setUp({ maxConcurrentPerGroup: 1 });
    const thrown = politeness.run('host', null, () => Promise.reject(new Error('broken')));
    await expect(thrown).rejects.toThrow('broken');
    expect((await politeness.run('host', null, ok)).ok).toBe(true);
  });

  test('what waits is bounded, and groups without work are forgotten', async () => {
    const { politeness, clock } = setUp({ maxConcurrentPerGroup: 1, requestsPerWindow: 1_000_000 });
    const abort = new AbortController();
    const waiting = Array.from({ length: MAX_WAITING_PER_GROUP + 1 }, () =>
      politeness.run('host', abort.signal, () => new Promise<PoliteAnswer>(() => {})),
    );
    const over = politeness.run('host', null, ok);
    expect(await over).toMatchObject({ ok: false, why: 'too_many_waiting' });
    expect(politeness.load('host')).toBe(MAX_WAITING_PER_GROUP + 1);
    abort.abort();
    expect((await Promise.all(waiting.slice(1))).every((outcome) => !outcome.ok)).toBe(true);
    for (let index = 0; index < MAX_POLITE_GROUPS + 50; index++) {
      if (index % 5_000 === 0) await clock.advance(1_000);
      expect((await politeness.run(`host${index}.com`, null, ok)).ok).toBe(true);
    }
    expect(politeness.groups(10).map(({ group }) => group)).toEqual(['host']);
  });

  test('groups that all have to wait are not forgotten, and more are turned away', async () => {
    const { politeness } = setUp();
    const limited = async (): Promise<PoliteAnswer> => ({ status: 429, headers: { 'retry-after': '80000' } });
    for (let index = 0; index < MAX_POLITE_GROUPS; index++) {
      await politeness.run(`host${index}.com`, null, limited);
    }
    expect(await politeness.run('one-more.com', null, ok)).toMatchObject({ why: 'too_many_waiting' });
    expect(await politeness.run('host7.com', null, ok)).toMatchObject({ why: 'told_to_wait' });
  });
});
