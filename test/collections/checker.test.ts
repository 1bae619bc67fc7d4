import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  createChecker,
  GIVEN_UP_RETRY_MS,
  judgeDescription,
  judgeStatus,
  MAX_CHECK_ATTEMPTS,
  MAX_CHECK_WAIT_MS,
  MAX_CHECKS_PER_GROUP,
  MAX_CHECKS_UNDER_WAY,
  MAX_COLLECTIONS_OF_REPO,
  MAX_GIVEN_UP_UNDER_WAY,
  MAX_PUT_OFF_PER_SECOND,
  type PdsAnswer,
} from '../../src/collections/checker.ts';
import {
  CHECK_FAILURES,
  type CheckOutcome,
  type CheckReason,
  type CheckStore,
} from '../../src/collections/types.ts';
import type { FetchResult } from '../../src/network/fetch.ts';
import { createPoliteness } from '../../src/network/politeness.ts';
import { createFakeClock, type FakeClock } from '../network/fake-clock.ts';

const START_MS = 1_700_000_000_000;
const did = (index: number): string => `did:plc:${String(index).padStart(24, 'a')}`;

const answer = (status: number, body: unknown, headers: Record<string, string> = {}): FetchResult => ({
  ok: true,
  status,
  headers,
  body: new TextEncoder().encode(typeof body === 'string' ? body : JSON.stringify(body)),
});
const described = (of: string, collections: unknown) => answer(200, { did: of, handle: 'a.b', collections });
const broken = (kind: Extract<FetchResult, { ok: false }>['kind']): FetchResult => ({
  ok: false,
  kind,
  detail: '',
});

/** The rules of CheckStore over a map. */
const createStore = (clock: FakeClock) => {
  const checks = new Map<string, { reason: CheckReason; attempts: number; dueAtMs: number }>();
  const begun = new Map<string, boolean>();
  const applied: [string, CheckOutcome][] = [];
  const givenUp = new Map<string, string>();
  let failing = false;
  const guard = (): void => {
    if (failing) throw new Error('the index is down');
  };
  const store: CheckStore = {
    nextChecks: (nowMs, limit) => {
      guard();
      return [...checks]
        .filter(([of, check]) => check.dueAtMs <= nowMs && !begun.has(of))
        .sort(([, a], [, b]) => a.dueAtMs - b.dueAtMs)
        .slice(0, limit)
        .map(([of, check]) => ({ did: of, reason: check.reason, attempts: check.attempts }));
    },
    beginCheck: (of) => {
      guard();
      begun.set(of, false);
    },
    applyCheck: (of, outcome) => {
      guard();
      const touched = begun.get(of) === true;
      begun.delete(of);
      const check = checks.get(of)!;
      if (outcome.kind === 'later') check.dueAtMs = outcome.atMs;
      else if (outcome.kind === 'failed') {
        check.attempts++;
        check.dueAtMs = outcome.retryAtMs;
        if (outcome.isGivenUp) givenUp.set(of, outcome.why);
      } else if (touched) {
        checks.set(of, { reason: 'touched_while_checked', attempts: 0, dueAtMs: clock.nowMs() });
        return 'touched';
      } else {
        checks.delete(of);
        givenUp.delete(of);
      }
      applied.push([of, outcome]);
      return 'applied';
    },
  };
  return {
    store,
    checks,
    applied,
    givenUp,
    schedule: (of: string, attempts = 0) =>
      checks.set(of, { reason: 'sync_event', attempts, dueAtMs: clock.nowMs() }),
    touch: (of: string) => begun.has(of) && begun.set(of, true),
    fail: (on: boolean) => {
      failing = on;
    },
  };
};

const setUp = (options: {
  fetch: (url: string, at: { clock: FakeClock }) => Promise<FetchResult> | FetchResult;
  pdsOf?: (of: string) => Promise<PdsAnswer>;
  requestsPerWindow?: number;
}) => {
  const clock = createFakeClock(START_MS);
  const held = createStore(clock);
  const urls: string[] = [];
  const errors: unknown[] = [];
  const politeness = createPoliteness({
    maxConcurrentPerGroup: 4,
    requestsPerWindow: options.requestsPerWindow ?? 3000,
    maxWaitMs: MAX_CHECK_WAIT_MS,
    nowMs: clock.nowMs,
    sleep: (ms) => new Promise((resolve) => void clock.after(ms, resolve)),
    random: () => 0.5,
  });
  const checker = createChecker({
    store: held.store,
    pdsOf:
      options.pdsOf ?? (async () => ({ kind: 'pds', hostname: 'pds.example.com', secure: true }) as const),
    fetch: async (url) => {
      urls.push(url);
      return options.fetch(url, { clock });
    },
    politeness,
    userAgent: 'weir/test',
    allowPrivateAddresses: false,
    clock,
    random: () => 0.5,
    onError: (error) => void errors.push(error),
  });
  const pass = async (durationMs: number, stepMs = 500): Promise<void> => {
    for (let passedMs = 0; passedMs < durationMs; passedMs += stepMs) await clock.advance(stepMs);
  };
  return { clock, held, urls, errors, politeness, checker, pass };
};

const after = (clock: FakeClock, delayMs: number, result: FetchResult): Promise<FetchResult> =>
  new Promise((resolve) => void clock.after(delayMs, () => resolve(result)));

describe('what a PDS says', () => {
  test('describeRepo: the collections, sorted, without doubles and without names that are none', () => {
    expect(
      judgeDescription(did(1), described(did(1), ['c.d.e', 'a.b.c', 'c.d.e', 'not a name', 'x'])),
    ).toEqual({ kind: 'collections', collections: ['a.b.c', 'c.d.e'] });
    expect(judgeDescription(did(1), described(did(1), []))).toEqual({ kind: 'collections', collections: [] });
  });

  test('an answer about another repo, without collections, or no JSON is no answer', () => {
    for (const wrong of [
      described(did(2), ['a.b.c']),
      described(did(1), undefined),
      described(did(1), ['a.b.c', 7]),
      answer(200, '{'),
      answer(200, 'null'),
      answer(204, ''),
    ]) {
      expect(judgeDescription(did(1), wrong)).toEqual({ kind: 'failed', why: 'bad_answer' });
    }
    const many = Array.from({ length: MAX_COLLECTIONS_OF_REPO + 1 }, (_, at) => `a.b.c${at}`);
    expect(judgeDescription(did(1), described(did(1), many))).toEqual({ kind: 'failed', why: 'too_large' });
  });

  test('errors by their name: gone for a reason, or for the status to tell', () => {
    const of = (error: string, status = 400) => judgeDescription(did(1), answer(status, { error }));
    expect(of('RepoNotFound')).toEqual({ kind: 'gone', reason: 'deleted' });
    expect(of('RepoTakendown')).toEqual({ kind: 'gone', reason: 'takendown' });
    expect(of('RepoSuspended')).toEqual({ kind: 'gone', reason: 'suspended' });
    expect(of('RepoDeactivated')).toEqual({ kind: 'gone', reason: 'deactivated' });
    expect(of('InvalidRequest')).toEqual({ kind: 'unclear' });
    expect(of('constructor')).toEqual({ kind: 'unclear' });
    expect(of('RepoNotFound', 500)).toEqual({ kind: 'failed', why: 'server_error' });
    expect(judgeStatus(did(1), answer(200, { did: did(1), active: true }))).toEqual({
      kind: 'failed',
      why: 'refused',
    });
    const status = (word?: string) =>
      judgeStatus(did(1), answer(200, { did: did(1), active: false, status: word }));
    expect(status('suspended')).toEqual({ kind: 'gone', reason: 'suspended' });
    expect(status('hibernating')).toEqual({ kind: 'gone', reason: 'unknown_status' });
    expect(status()).toEqual({ kind: 'gone', reason: 'deactivated' });
    expect(judgeStatus(did(1), answer(400, { error: 'RepoNotFound' }))).toEqual({
      kind: 'gone',
      reason: 'deleted',
    });
    expect(judgeStatus(did(1), answer(404, 'nothing'))).toEqual({ kind: 'failed', why: 'refused' });
  });

  test('whatever the bytes and the status, the answer is one of the closed list', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 100, max: 599 }),
        fc.oneof(
          fc.uint8Array(),
          fc.json().map((text) => new TextEncoder().encode(text)),
        ),
        (status, body) => {
          for (const judge of [judgeDescription, judgeStatus]) {
            const judged = judge(did(1), { ok: true, status, headers: {}, body });
            if (judged.kind === 'failed' && !CHECK_FAILURES.includes(judged.why)) return false;
          }
          return true;
        },
      ),
    );
  });
});

describe('the checker', () => {
  test('asks the own PDS of each repo that is due, and gives the index what it says', async () => {
    const { held, urls, checker, pass } = setUp({
      fetch: (url) => described(new URL(url).searchParams.get('repo')!, ['app.bsky.feed.post']),
    });
    held.schedule(did(1));
    held.schedule(did(2));
    held.checks.get(did(2))!.dueAtMs += 10_000;
    checker.start();
    await pass(2_000);
    expect(urls).toEqual([
      `https://pds.example.com/xrpc/com.atproto.repo.describeRepo?repo=${encodeURIComponent(did(1))}`,
    ]);
    await pass(10_000);
    expect(held.applied).toEqual(
      [1, 2].map((index) => [did(index), { kind: 'collections', collections: ['app.bsky.feed.post'] }]),
    );
    expect(checker.counters).toMatchObject({ begun: 2, answered: 2, store_errors: 0 });
    expect(held.checks.size).toBe(0);
    await checker.stop();
  });

  test('an answer that an event overtook changes nothing, and the repo is asked again', async () => {
    let asked = 0;
    const { clock, held, checker, pass } = setUp({
      fetch: (url, at) =>
        after(
          at.clock,
          3_000,
          described(new URL(url).searchParams.get('repo')!, asked++ === 0 ? [] : ['a.b.c']),
        ),
    });
    held.schedule(did(1));
    checker.start();
    await pass(1_000);
    held.touch(did(1));
    await pass(3_000);
    expect(held.applied).toEqual([]);
    expect(held.checks.get(did(1))).toMatchObject({ reason: 'touched_while_checked' });
    await pass(5_000);
    expect(held.applied).toEqual([[did(1), { kind: 'collections', collections: ['a.b.c'] }]]);
    expect(checker.counters).toMatchObject({ begun: 2, touched: 1, answered: 1 });
    expect(clock.nowMs()).toBeGreaterThan(START_MS);
    await checker.stop();
  });

  test('failures come back later and later, and are given up after a bounded number, with their reason', async () => {
    const results: Record<string, FetchResult> = {
      unreachable: broken('unreachable'),
      timeout: broken('timeout'),
      too_large: broken('too_large'),
      forbidden_address: broken('forbidden_address'),
      server_error: answer(500, ''),
      bad_answer: answer(200, '[]'),
      refused: answer(400, { error: 'InvalidRequest' }),
    };
    const reasons = [...Object.keys(results), 'no_pds', 'unresolved'];
    const askedAtMs: number[] = [];
    const { held, checker, pass } = setUp({
      fetch: (url, { clock }) => {
        const query = new URL(url).searchParams;
        const why = reasons[Number((query.get('repo') ?? query.get('did'))!.replace(/\D/g, ''))]!;
        if (why === 'timeout') askedAtMs.push(clock.nowMs() - START_MS);
        return results[why]!;
      },
      pdsOf: async (of) => {
        const why = reasons[Number(of.replace(/\D/g, ''))]!;
        if (why === 'unresolved') throw new Error('the directory is down');
        return why === 'no_pds'
          ? { kind: 'none' }
          : { kind: 'pds', hostname: `${why.replace('_', '-')}.example.com`, secure: true };
      },
    });
    for (const index of reasons.keys()) held.schedule(did(index));
    checker.start();
    await pass(24 * 3_600_000, 20_000);
    expect(Object.fromEntries(held.givenUp)).toEqual(
      Object.fromEntries(reasons.map((why, index) => [did(index), why])),
    );
    expect(askedAtMs.length).toBe(MAX_CHECK_ATTEMPTS);
    const delays = askedAtMs.slice(1).map((atMs, index) => atMs - askedAtMs[index]!);
    expect(delays).toEqual([...delays].sort((a, b) => a - b));
    expect(checker.counters.given_up).toBe(reasons.length);
    for (const why of reasons)
      expect(checker.counters[`failed_${why as 'timeout'}`]).toBe(MAX_CHECK_ATTEMPTS);
    await checker.stop();
  });

  test('what was given up is tried once a day, and is answered when its PDS is back after a weekend', async () => {
    const backAtMs = START_MS + 70 * 3_600_000;
    const askedAtMs: number[] = [];
    const { held, checker, pass } = setUp({
      fetch: (url, { clock }) => {
        askedAtMs.push(clock.nowMs());
        return clock.nowMs() < backAtMs
          ? broken('unreachable')
          : described(new URL(url).searchParams.get('repo')!, ['a.b.c']);
      },
    });
    held.schedule(did(1));
    checker.start();
    await pass(60 * 3_600_000, 20_000);
    expect([...held.givenUp]).toEqual([[did(1), 'unreachable']]);
    expect(askedAtMs.length).toBe(MAX_CHECK_ATTEMPTS + 1);
    await pass(40 * 3_600_000, 20_000);
    expect(held.applied.at(-1)).toEqual([did(1), { kind: 'collections', collections: ['a.b.c'] }]);
    expect(held.checks.size + held.givenUp.size).toBe(0);
    expect(askedAtMs.at(-1)! - askedAtMs.at(-2)!).toBeGreaterThanOrEqual(GIVEN_UP_RETRY_MS);
    expect(checker.counters.given_up).toBe(1);
    await checker.stop();
  });

  test('what was given up on dead PDSes takes few of the places, and holds up nobody', async () => {
    let underWay = 0;
    let most = 0;
    const { held, checker, pass } = setUp({
      fetch: async (url, { clock }) => {
        const query = new URL(url).searchParams;
        if (!url.includes('dead')) return described(query.get('repo')!, ['a.b.c']);
        most = Math.max(most, ++underWay);
        await after(clock, 15_000, broken('timeout'));
        underWay--;
        return broken('timeout');
      },
      pdsOf: async (of) => {
        const index = Number(of.replace(/\D/g, ''));
        return {
          kind: 'pds',
          hostname: `${index < 500 ? 'dead' : 'well'}${index}.example.com`,
          secure: true,
        };
      },
    });
    for (let index = 0; index < 500; index++) held.schedule(did(index), MAX_CHECK_ATTEMPTS);
    for (let index = 500; index < 520; index++) held.schedule(did(index));
    checker.start();
    await pass(30_000);
    expect(most).toBe(MAX_GIVEN_UP_UNDER_WAY);
    expect(checker.counters.answered).toBe(20);
    // Each has its turn.
    await pass(3_600_000, 1_000);
    expect(checker.counters.failed_timeout).toBeGreaterThanOrEqual(500);
    expect(checker.counters.answered).toBe(20);
    await checker.stop();
  });

  test('a backlog of one group costs as much as can be asked of it, not more for being long, and others get through', async () => {
    const BACKLOG = 3_000;
    let resolved = 0;
    const { held, urls, checker, pass, clock } = setUp({
      requestsPerWindow: 600,
      fetch: (url, at) => after(at.clock, 200, described(new URL(url).searchParams.get('repo')!, ['a.b.c'])),
      pdsOf: async (of) => {
        resolved++;
        const index = Number(of.replace(/\D/g, ''));
        return {
          kind: 'pds',
          hostname: index < BACKLOG ? 'pds.example.com' : 'other.example.com',
          secure: true,
        };
      },
    });
    for (let index = 0; index < BACKLOG + 10; index++) held.schedule(did(index));
    checker.start();
    for (let second = 1; second <= 20; second++) {
      await pass(1_000, 100);
      const most = urls.length + second * MAX_PUT_OFF_PER_SECOND + MAX_CHECKS_UNDER_WAY;
      expect(resolved).toBeLessThanOrEqual(most);
    }
    await pass(100_000);
    for (let index = BACKLOG; index < BACKLOG + 10; index++) expect(held.checks.has(did(index))).toBe(false);
    await pass(1_800_000, 1_000);
    // As fast as the group may be asked, but for what is lost between two looks.
    const asked = urls.length;
    expect(asked).toBe(BACKLOG + 10);
    expect(held.checks.size).toBe(0);
    expect(resolved).toBeLessThan(3 * asked);
    expect(clock.nowMs()).toBeGreaterThan(START_MS);
    await checker.stop();
  });

  test('never more at once than allowed, in total and per group, and a slow group holds up nobody', async () => {
    let underWay = 0;
    let most = 0;
    const perGroup = new Map<string, number>();
    let mostOfSlow = 0;
    const { held, checker, pass, clock } = setUp({
      fetch: async (url, at) => {
        const { hostname, searchParams } = new URL(url);
        const group = hostname.endsWith('.host.bsky.network') ? 'bsky' : hostname;
        most = Math.max(most, ++underWay);
        perGroup.set(group, (perGroup.get(group) ?? 0) + 1);
        if (group === 'bsky') mostOfSlow = Math.max(mostOfSlow, perGroup.get(group)!);
        const result = await after(
          at.clock,
          group === 'bsky' ? 10_000 : 100,
          described(searchParams.get('repo')!, ['a.b.c']),
        );
        underWay--;
        perGroup.set(group, perGroup.get(group)! - 1);
        return result;
      },
      pdsOf: async (of) => {
        const index = Number(of.replace(/\D/g, ''));
        const hostname = index < 200 ? `pds${index % 7}.host.bsky.network` : `small${index % 40}.example.com`;
        return { kind: 'pds', hostname, secure: true };
      },
    });
    for (let index = 0; index < 300; index++) held.schedule(did(index));
    checker.start();
    await pass(30_000);
    // The 200 of the slow group are due first and take a long time; the others are all through.
    const done = held.applied.filter(([, { kind }]) => kind === 'collections').map(([of]) => of);
    for (let index = 200; index < 300; index++) expect(done).toContain(did(index));
    expect(done.length).toBeLessThan(150);
    expect(most).toBeLessThanOrEqual(MAX_CHECKS_UNDER_WAY);
    expect(mostOfSlow).toBe(4);
    expect(checker.counters.deferred).toBeGreaterThan(0);
    await pass(1_200_000, 5_000);
    expect(held.checks.size).toBe(0);
    expect(MAX_CHECKS_PER_GROUP).toBeLessThan(MAX_CHECKS_UNDER_WAY);
    expect(clock.nowMs()).toBeGreaterThan(START_MS);
    await checker.stop();
  });

  test('429 with Retry-After is waited for, and costs the check no attempt', async () => {
    const askedAtMs: number[] = [];
    const { held, checker, pass } = setUp({
      fetch: (url, { clock }) => {
        askedAtMs.push(clock.nowMs() - START_MS);
        return askedAtMs.length === 1
          ? answer(429, '', { 'retry-after': '3600' })
          : described(new URL(url).searchParams.get('repo')!, ['a.b.c']);
      },
    });
    held.schedule(did(1));
    checker.start();
    await pass(3_500_000, 10_000);
    expect(askedAtMs).toEqual([0]);
    expect(held.checks.get(did(1))).toMatchObject({ attempts: 0, reason: 'sync_event' });
    await pass(200_000, 10_000);
    expect(askedAtMs.length).toBe(2);
    expect(held.checks.size).toBe(0);
    expect(checker.counters).toMatchObject({ rate_limited: 1, answered: 1 });
    await checker.stop();
  });

  test('groups that are told to wait for minutes hold no places, and others are asked meanwhile', async () => {
    const { held, urls, checker, pass } = setUp({
      pdsOf: async (of) => ({
        kind: 'pds',
        hostname:
          of === did(100)
            ? 'quick.example.com'
            : `slow${Number(of.slice(-2).replace('a', '')) % 8}.example.com`,
        secure: true,
      }),
      fetch: (url, { clock }) =>
        url.includes('quick') || clock.nowMs() >= START_MS + 300_000
          ? described(new URL(url).searchParams.get('repo')!, ['a.b.c'])
          : answer(429, '', { 'retry-after': '300' }),
    });
    for (let number = 1; number <= 64; number++) held.schedule(did(number));
    checker.start();
    await pass(5_000);
    expect(checker.underWay).toBe(0);
    held.schedule(did(100));
    await pass(2_000);
    expect(held.checks.has(did(100))).toBe(false);
    expect(urls.length).toBeLessThan(64);
    await pass(330_000, 1_000);
    expect(held.checks.size).toBe(0);
    expect([...held.givenUp]).toEqual([]);
    await checker.stop();
  });

  test('a refusal without a name is looked into once, by the status of the repo', async () => {
    const { held, urls, checker, pass } = setUp({
      fetch: (url) =>
        url.includes('getRepoStatus')
          ? answer(400, { error: 'RepoNotFound' })
          : answer(400, { error: 'InvalidRequest', message: 'Could not find user' }),
    });
    held.schedule(did(1));
    checker.start();
    await pass(2_000);
    expect(urls.length).toBe(2);
    expect(held.applied).toEqual([[did(1), { kind: 'gone', reason: 'deleted' }]]);
    expect(checker.counters.gone).toBe(1);
    await checker.stop();
  });

  test('while the index takes nothing it asks once a second at most, and goes on by itself', async () => {
    const { held, urls, errors, checker, pass } = setUp({
      fetch: (url) => described(new URL(url).searchParams.get('repo')!, ['a.b.c']),
    });
    held.schedule(did(1));
    held.fail(true);
    checker.start();
    await pass(10_000);
    expect(errors.length).toBeGreaterThan(5);
    expect(errors.length).toBeLessThan(15);
    expect(urls).toEqual([]);
    held.fail(false);
    await pass(3_000);
    expect(held.checks.size).toBe(0);
    await checker.stop();
  });

  test('stopped, it calls off what waits, lets go of what is under way, and leaves the checks scheduled', async () => {
    const { clock, held, checker, pass } = setUp({
      fetch: (url, at) =>
        after(at.clock, 5_000, described(new URL(url).searchParams.get('repo')!, ['a.b.c'])),
    });
    for (let index = 0; index < 20; index++) held.schedule(did(index));
    checker.start();
    await pass(1_000);
    expect(checker.underWay).toBeGreaterThan(4);
    const stopped = checker.stop();
    await pass(10_000);
    await stopped;
    expect(checker.underWay).toBe(0);
    expect(held.checks.size).toBe(16);
    expect(clock.timers).toBe(0);
  });
});
