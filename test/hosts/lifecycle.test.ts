import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  BASE_BACKOFF_MS,
  backoffMs,
  CRAWL_RETRY_MS,
  type Life,
  type LifeInput,
  MALFORMED_FORGIVEN_MS,
  MAX_BACKOFF_MS,
  MAX_CURSOR_AGE_MS,
  MAX_CURSOR_FAILURES,
  MAX_RETRY_AFTER_MS,
  MIN_CURSOR_SUSPECT_MS,
  MIN_RETRY_MS,
  newLife,
  nextWakeMs,
  STABLE_MS,
  type Step,
  step,
} from '../../src/hosts/lifecycle.ts';
import type { CloseOutcome } from '../../src/hosts/types.ts';

const START = 1_000_000_000;
const fresh = (over: Partial<Parameters<typeof newLife>[0]> = {}): Life =>
  newLife({
    banned: false,
    status: 'idle',
    failures: 0,
    firstAttemptAtMs: START,
    connectedUntilMs: START,
    ...over,
  });

const kinds = (made: Step): string[] => made.effects.map((effect) => effect.kind);

const outcome: fc.Arbitrary<CloseOutcome> = fc.oneof(
  fc.constant<CloseOutcome>({ kind: 'unreachable', detail: 'refused' }),
  fc.constant<CloseOutcome>({ kind: 'forbidden_address', detail: 'loopback' }),
  fc.record({
    kind: fc.constant('http_status' as const),
    status: fc.constantFrom(302, 400, 404, 429, 500, 503),
    retryAfterMs: fc.option(fc.nat(1_000_000_000), { nil: null }),
  }),
  fc.record({
    kind: fc.constant('closed' as const),
    code: fc.constantFrom(1000, 1006, 1009),
    reason: fc.constant(''),
  }),
  fc.record({
    kind: fc.constant('error_frame' as const),
    error: fc.constantFrom('FutureCursor', 'ConsumerTooSlow', 'Other'),
    message: fc.constant(''),
  }),
  fc.constant<CloseOutcome>({ kind: 'silent' }),
  fc.constant<CloseOutcome>({ kind: 'malformed' }),
  fc.record({
    kind: fc.constant('throttled' as const),
    waitMs: fc.oneof(fc.nat(1_000_000_000), fc.constant(Number.NaN), fc.constant(Number.POSITIVE_INFINITY)),
  }),
  fc.constant<CloseOutcome>({ kind: 'stopped' }),
);

const input: fc.Arbitrary<LifeInput> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('tick' as const), hasCursor: fc.boolean() }) },
  { weight: 4, arbitrary: fc.constant<LifeInput>({ kind: 'opened' }) },
  { weight: 2, arbitrary: fc.constant<LifeInput>({ kind: 'event' }) },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('closed' as const),
      outcome,
      events: fc.constantFrom(0, 0, 0, 1, 500),
      progressed: fc.boolean(),
      hasCursor: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.constant<LifeInput>({ kind: 'ban' }) },
  { weight: 1, arbitrary: fc.constant<LifeInput>({ kind: 'unban' }) },
  { weight: 2, arbitrary: fc.constant<LifeInput>({ kind: 'crawl' }) },
);

const passMs = fc.oneof(fc.constant(0), fc.nat(2_000), fc.nat(200_000), fc.nat(100 * 3_600_000));

describe('any sequence of inputs', () => {
  const walk = fc.array(
    fc.record({ input, passMs, random: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }) }),
    {
      maxLength: 120,
    },
  );

  test('keeps a next attempt for every host that is not banned, no later than its bound and never at once', () => {
    fc.assert(
      fc.property(walk, (moves) => {
        let life = fresh();
        let nowMs = START;
        let lastConnectMs = Number.NEGATIVE_INFINITY;
        for (const move of moves) {
          nowMs += move.passMs;
          const before = life;
          const made = step(before, move.input, nowMs, move.random);
          if (kinds(made).some((kind) => kind.startsWith('connect'))) {
            expect(nowMs - lastConnectMs).toBeGreaterThanOrEqual(MIN_RETRY_MS);
            lastConnectMs = nowMs;
          }
          life = made.life;
          expect(life.phase === 'waiting').toBe(life.nextAttemptAtMs !== null);
          if (life.phase !== 'waiting') continue;
          expect(life.banned).toBe(false);
          expect(life.nextAttemptAtMs! - nowMs).toBeLessThanOrEqual(MAX_RETRY_AFTER_MS);
          const ended =
            before.phase !== 'waiting' && move.input.kind === 'closed' ? move.input.outcome : null;
          const asked = ended?.kind === 'http_status' && ended.retryAfterMs !== null;
          if (ended !== null && !asked)
            expect(life.nextAttemptAtMs! - nowMs).toBeLessThanOrEqual(MAX_BACKOFF_MS);
          expect(nextWakeMs(life)).toBe(life.nextAttemptAtMs);
        }
      }),
      { numRuns: 500 },
    );
  });

  test('never asks for a connection while there is one, nor ends one that is not there', () => {
    fc.assert(
      fc.property(walk, (moves) => {
        let life = fresh();
        let nowMs = START;
        let connected = false;
        let ending = false;
        for (const move of moves) {
          nowMs += move.passMs;
          // As the ingest side does it: closed comes only for a connection that exists.
          if (move.input.kind === 'closed' && !connected) continue;
          const made = step(life, move.input, nowMs, move.random);
          for (const effect of made.effects) {
            if (effect.kind === 'connect' || effect.kind === 'connect_trial') {
              expect(connected).toBe(false);
              connected = true;
            }
            if (effect.kind === 'disconnect') {
              expect(connected && !ending).toBe(true);
              ending = true;
            }
          }
          if (move.input.kind === 'closed') {
            connected = false;
            ending = false;
          }
          life = made.life;
          expect(connected).toBe(
            life.phase === 'connecting' || life.phase === 'open' || life.phase === 'closing',
          );
          if (life.banned && !connected) expect(life.phase).toBe('banned');
        }
      }),
      { numRuns: 500 },
    );
  });
});

/** Runs a host through `rounds` connections that open and then end as told; the waits between them. */
const rounds = (
  count: number,
  how: { outcome: CloseOutcome; openForMs: number | null; random: number; hasCursor?: boolean },
): { life: Life; waits: number[]; effects: string[]; nowMs: number } => {
  let life = fresh();
  let nowMs = START;
  const waits: number[] = [];
  const effects: string[] = [];
  for (let n = 0; n < count; n++) {
    nowMs = life.nextAttemptAtMs!;
    const started = step(life, { kind: 'tick', hasCursor: how.hasCursor ?? false }, nowMs, how.random);
    effects.push(...kinds(started));
    life = started.life;
    if (how.openForMs !== null) {
      life = step(life, { kind: 'opened' }, nowMs, how.random).life;
      const wakeMs = nextWakeMs(life);
      const endMs = nowMs + how.openForMs;
      if (wakeMs !== null && wakeMs <= endMs) {
        const settled = step(life, { kind: 'tick', hasCursor: how.hasCursor ?? false }, wakeMs, how.random);
        effects.push(...kinds(settled));
        life = settled.life;
      }
      nowMs = endMs;
    }
    const ended = step(
      life,
      {
        kind: 'closed',
        outcome: how.outcome,
        events: 0,
        progressed: false,
        hasCursor: (how.hasCursor ?? false) && !life.trial,
      },
      nowMs,
      how.random,
    );
    effects.push(...kinds(ended));
    life = ended.life;
    waits.push(life.nextAttemptAtMs! - nowMs);
  }
  return { life, waits, effects, nowMs };
};

describe('the backoff', () => {
  test('is full jitter under a ceiling that doubles up to half an hour', () => {
    expect(backoffMs(1, 0)).toBe(MIN_RETRY_MS);
    expect(backoffMs(1, 0.999999)).toBeLessThanOrEqual(BASE_BACKOFF_MS);
    expect(backoffMs(40, 0.999999)).toBeGreaterThan(MAX_BACKOFF_MS * 0.99);
    expect(backoffMs(1_000_000, 0.999999)).toBeLessThanOrEqual(MAX_BACKOFF_MS);
  });

  test('grows for a host that cannot be reached, and shows it as offline', () => {
    const { life, waits } = rounds(20, {
      outcome: { kind: 'unreachable', detail: '' },
      openForMs: null,
      random: 0.9,
    });
    expect(waits.slice(0, 10)).toEqual(waits.slice(0, 10).toSorted((a, b) => a - b));
    expect(waits.at(-1)!).toBeGreaterThan(20 * 60_000);
    expect(life.status).toBe('offline');
    expect(life.failures).toBe(20);
  });

  test('grows just as much for a host that opens and drops at once', () => {
    const dropped = rounds(20, {
      outcome: { kind: 'closed', code: 1006, reason: '' },
      openForMs: 10,
      random: 0.9,
    });
    const refused = rounds(20, {
      outcome: { kind: 'unreachable', detail: '' },
      openForMs: null,
      random: 0.9,
    });
    expect(dropped.waits).toEqual(refused.waits);
  });

  test('grows for a host that opens but never answers a ping', () => {
    const { waits } = rounds(12, { outcome: { kind: 'silent' }, openForMs: 89_000, random: 0.9 });
    expect(waits.at(-1)!).toBeGreaterThan(10 * 60_000);
  });

  test('grows for a host that keeps sending malformed frames, however long each connection lasts', () => {
    const { waits } = rounds(15, { outcome: { kind: 'malformed' }, openForMs: 10 * 60_000, random: 0.9 });
    expect(waits.at(-1)!).toBeGreaterThan(20 * 60_000);
  });

  test('starts anew after a stable connection, whose end is not yet an outage', () => {
    const { life, waits } = rounds(10, {
      outcome: { kind: 'closed', code: 1006, reason: '' },
      openForMs: STABLE_MS + 1,
      random: 0.9,
    });
    expect(Math.max(...waits)).toBeLessThanOrEqual(BASE_BACKOFF_MS);
    expect(life.status).toBe('idle');
  });

  test('starts anew after a connection that brought many events, however short', () => {
    let life: Life = { ...fresh(), failures: 9 };
    life = step(life, { kind: 'tick', hasCursor: true }, START, 0.5).life;
    life = step(life, { kind: 'opened' }, START, 0.5).life;
    const dropped: LifeInput = {
      kind: 'closed',
      outcome: { kind: 'closed', code: 1006, reason: '' },
      events: 100,
      progressed: true,
      hasCursor: true,
    };
    expect(step(life, dropped, START + 500, 0.5).life.failures).toBe(1);
    expect(step(life, { ...dropped, events: 99 }, START + 500, 0.5).life.failures).toBe(10);
  });

  test('clears the failure count of a connection that has proved stable', () => {
    let life: Life = { ...fresh(), failures: 9 };
    life = step(life, { kind: 'tick', hasCursor: false }, START, 0.5).life;
    life = step(life, { kind: 'opened' }, START + 10, 0.5).life;
    expect(nextWakeMs(life)).toBe(START + 10 + STABLE_MS);
    life = step(life, { kind: 'tick', hasCursor: false }, START + 10 + STABLE_MS, 0.5).life;
    expect(life.failures).toBe(0);
  });

  test('forgives malformed frames once a connection has lasted for an hour, however it ends', () => {
    let life: Life = { ...fresh(), malformedCloses: 9 };
    life = step(life, { kind: 'tick', hasCursor: false }, START, 0.5).life;
    life = step(life, { kind: 'opened' }, START, 0.5).life;
    for (let nowMs = START; nowMs < START + MALFORMED_FORGIVEN_MS; nowMs = nextWakeMs(life)!) {
      life = step(life, { kind: 'tick', hasCursor: false }, nowMs, 0.5).life;
      expect(life.malformedCloses).toBe(9);
    }
    life = step(life, { kind: 'tick', hasCursor: false }, nextWakeMs(life)!, 0.5).life;
    expect(life.malformedCloses).toBe(0);
  });
});

describe('what the host asks for', () => {
  const after = (retryAfterMs: number | null, status = 429): Life => {
    const life = step(fresh(), { kind: 'tick', hasCursor: false }, START, 0).life;
    const ended: LifeInput = {
      kind: 'closed',
      outcome: { kind: 'http_status', status, retryAfterMs },
      events: 0,
      progressed: false,
      hasCursor: false,
    };
    return step(life, ended, START, 0).life;
  };

  test('Retry-After is honoured, up to an hour', () => {
    expect(after(90_000).nextAttemptAtMs).toBe(START + 90_000);
    expect(after(10 * 24 * 3_600_000).nextAttemptAtMs).toBe(START + MAX_RETRY_AFTER_MS);
    expect(after(0).nextAttemptAtMs).toBe(START + MIN_RETRY_MS);
    expect(after(null).nextAttemptAtMs).toBe(START + MIN_RETRY_MS);
  });

  test('requestCrawl brings the next attempt forward, but not more often than every ten seconds', () => {
    const down = { ...after(null), nextAttemptAtMs: START + MAX_BACKOFF_MS, notBeforeMs: 0 };
    expect(step(down, { kind: 'crawl' }, START + 1_000, 0).life.nextAttemptAtMs).toBe(START + CRAWL_RETRY_MS);
    expect(step(down, { kind: 'crawl' }, START + 60_000, 0).life.nextAttemptAtMs).toBe(START + 60_000);
  });

  test('requestCrawl by a third party does not override a 429, nor our own rate limit', () => {
    const limited = after(90_000);
    expect(step(limited, { kind: 'crawl' }, START + 20_000, 0).life.nextAttemptAtMs).toBe(START + 90_000);
    expect(step(after(90_000, 503), { kind: 'crawl' }, START + 20_000, 0).life.nextAttemptAtMs).toBe(
      START + 20_000,
    );
    const life = step(fresh(), { kind: 'tick', hasCursor: true }, START, 0).life;
    const throttled = step(
      life,
      {
        kind: 'closed',
        outcome: { kind: 'throttled', waitMs: 300_000 },
        events: 9,
        progressed: true,
        hasCursor: true,
      },
      START,
      0,
    ).life;
    expect(throttled).toMatchObject({ status: 'throttled', nextAttemptAtMs: START + 300_000, failures: 0 });
    expect(step(throttled, { kind: 'crawl' }, START + 20_000, 0).life.nextAttemptAtMs).toBe(START + 300_000);
  });
});

describe('the cursor', () => {
  const FAILS: CloseOutcome = { kind: 'closed', code: 1006, reason: '' };

  test('is given up at once when the host says FutureCursor, and only when there was one', () => {
    const future: CloseOutcome = { kind: 'error_frame', error: 'FutureCursor', message: '' };
    expect(rounds(1, { outcome: future, openForMs: 5, random: 0.5, hasCursor: true }).effects).toEqual([
      'connect',
      'reset_cursor',
    ]);
    expect(rounds(1, { outcome: future, openForMs: 5, random: 0.5 }).effects).toEqual(['connect']);
  });

  test('is put aside for one connection after many early drops over a while, and kept when that one drops as well', () => {
    const { effects, nowMs } = rounds(40, { outcome: FAILS, openForMs: 5, random: 0.9, hasCursor: true });
    const first = effects.indexOf('connect_trial');
    expect(first).toBeGreaterThanOrEqual(MAX_CURSOR_FAILURES);
    expect(effects.slice(first, first + 2)).toEqual(['connect_trial', 'trial_ended']);
    expect(effects).not.toContain('trial_kept');
    expect(effects).not.toContain('reset_cursor');
    expect(nowMs - START).toBeGreaterThan(MIN_CURSOR_SUSPECT_MS);
  });

  test('is not put aside before it has failed for a while, however often', () => {
    const { effects, nowMs } = rounds(100, { outcome: FAILS, openForMs: 5, random: 0, hasCursor: true });
    expect(nowMs - START).toBeLessThan(MIN_CURSOR_SUSPECT_MS);
    expect(effects).not.toContain('connect_trial');
  });

  test('is given up when the connection without it sends an event', () => {
    let life: Life = {
      ...fresh(),
      cursorFailures: MAX_CURSOR_FAILURES,
      cursorSuspectSinceMs: START - MIN_CURSOR_SUSPECT_MS,
    };
    const tried = step(life, { kind: 'tick', hasCursor: true }, START, 0);
    expect(kinds(tried)).toEqual(['connect_trial']);
    life = step(tried.life, { kind: 'opened' }, START, 0).life;
    const kept = step(life, { kind: 'event' }, START + 100, 0);
    expect(kinds(kept)).toEqual(['trial_kept']);
    expect(kept.life).toMatchObject({ trial: false, cursorFailures: 0 });
    expect(step(kept.life, { kind: 'event' }, START + 200, 0).effects).toEqual([]);
  });

  test('is given up when the connection without it, of a quiet host, stays', () => {
    let life: Life = {
      ...fresh(),
      cursorFailures: MAX_CURSOR_FAILURES,
      cursorSuspectSinceMs: START - MIN_CURSOR_SUSPECT_MS,
    };
    life = step(life, { kind: 'tick', hasCursor: true }, START, 0).life;
    life = step(life, { kind: 'opened' }, START, 0).life;
    expect(kinds(step(life, { kind: 'tick', hasCursor: false }, START + STABLE_MS, 0))).toEqual([
      'trial_kept',
    ]);
  });

  test('is not blamed for connections that last, nor for a host that cannot be reached', () => {
    expect(
      rounds(40, { outcome: FAILS, openForMs: 100_000, random: 0.9, hasCursor: true }).effects,
    ).not.toContain('connect_trial');
    expect(
      rounds(40, {
        outcome: { kind: 'unreachable', detail: '' },
        openForMs: null,
        random: 0.9,
        hasCursor: true,
      }).effects,
    ).not.toContain('connect_trial');
  });

  test('is given up when we were away for longer than it may be old', () => {
    const old = step(
      fresh({ connectedUntilMs: START - MAX_CURSOR_AGE_MS - 1 }),
      { kind: 'tick', hasCursor: true },
      START,
      0,
    );
    expect(old.effects).toEqual([{ kind: 'reset_cursor', cause: 'cursor_too_old' }, { kind: 'connect' }]);
    const young = step(
      fresh({ connectedUntilMs: START - MAX_CURSOR_AGE_MS }),
      { kind: 'tick', hasCursor: true },
      START,
      0,
    );
    expect(kinds(young)).toEqual(['connect']);
    const unknown = step(fresh({ connectedUntilMs: null }), { kind: 'tick', hasCursor: true }, START, 0);
    expect(kinds(unknown)).toEqual(['connect']);
  });

  test('does not get old while we are connected, as far as a crash would know', () => {
    let life = step(fresh({ connectedUntilMs: START }), { kind: 'tick', hasCursor: true }, START, 0.5).life;
    life = step(life, { kind: 'opened' }, START, 0.5).life;
    let nowMs = START;
    while (nowMs < START + 2 * MAX_CURSOR_AGE_MS) {
      const wakeMs = nextWakeMs(life)!;
      expect(wakeMs).toBeGreaterThan(nowMs);
      nowMs = wakeMs;
      life = step(life, { kind: 'tick', hasCursor: true }, nowMs, 0.5).life;
      expect(life.connectedUntilMs).toBe(nowMs);
    }
    expect(nextWakeMs(life)! - nowMs).toBeLessThanOrEqual(3_600_000);
  });
});

describe('bans', () => {
  test('end the connection, hold while it ends, and are undone by an unban in between', () => {
    let life = step(fresh(), { kind: 'tick', hasCursor: false }, START, 0).life;
    const banned = step(life, { kind: 'ban' }, START, 0);
    expect(kinds(banned)).toEqual(['disconnect']);
    expect(banned.life).toMatchObject({ phase: 'closing', status: 'banned' });
    expect(step(banned.life, { kind: 'opened' }, START, 0).life.phase).toBe('closing');
    const stopped: LifeInput = {
      kind: 'closed',
      outcome: { kind: 'stopped' },
      events: 0,
      progressed: false,
      hasCursor: false,
    };
    expect(step(banned.life, stopped, START, 0).life).toMatchObject({
      phase: 'banned',
      nextAttemptAtMs: null,
    });
    life = step(banned.life, { kind: 'unban' }, START, 0).life;
    expect(step(life, stopped, START, 0).life).toMatchObject({ phase: 'waiting', status: 'idle' });
  });

  test('keep a host from being tried, whatever asks for it', () => {
    const life = step(fresh(), { kind: 'ban' }, START, 0).life;
    expect(nextWakeMs(life)).toBeNull();
    expect(step(life, { kind: 'crawl' }, START, 0).life.phase).toBe('banned');
    expect(step(life, { kind: 'tick', hasCursor: false }, START + 1e9, 0).effects).toEqual([]);
    expect(step(life, { kind: 'unban' }, START + 1e6, 0).life.nextAttemptAtMs).toBe(START + 1e6);
  });
});
