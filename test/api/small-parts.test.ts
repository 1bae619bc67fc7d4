import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { createHealth, EVENT_LOOP_STUCK_MS, NO_HOSTS_MS, STATE_FAILING_MS } from '../../src/api/health.ts';
import { createRateLimiter } from '../../src/api/rate-limit.ts';
import { addressKey, isLoopback, remoteAddressOf } from '../../src/api/remote-address.ts';

describe('health', () => {
  const setUp = () => {
    const world = {
      nowMs: 1_000_000,
      log: null as string | null,
      failingSinceMs: null as number | null,
      lagMs: 0,
      hosts: { wanted: 3, connected: 3 },
    };
    const health = createHealth(
      {
        logProblem: () => world.log,
        stateFailingSinceMs: () => world.failingSinceMs,
        maxEventLoopLagMs: () => world.lagMs,
        hosts: () => world.hosts,
      },
      () => world.nowMs,
    );
    return { world, health };
  };

  test('has no problems when all is well', () => {
    expect(setUp().health()).toEqual([]);
  });

  test('says that the log does not take writes at once', () => {
    const { world, health } = setUp();
    world.log = 'disk full';
    expect(health()).toEqual(['the log does not take writes: disk full']);
  });

  test('minds the database only when it fails for long', () => {
    const { world, health } = setUp();
    world.failingSinceMs = world.nowMs;
    world.nowMs += STATE_FAILING_MS - 1;
    expect(health()).toEqual([]);
    world.nowMs += 1;
    expect(health()[0]).toContain('database');
    world.failingSinceMs = null;
    expect(health()).toEqual([]);
  });

  test('minds a stuck event loop', () => {
    const { world, health } = setUp();
    world.lagMs = EVENT_LOOP_STUCK_MS;
    expect(health()[0]).toContain('event loop');
  });

  test('minds that no host is connected, after the time a start may take, and only when there are some', () => {
    const { world, health } = setUp();
    world.hosts = { wanted: 0, connected: 0 };
    expect(health()).toEqual([]);
    world.hosts = { wanted: 5, connected: 0 };
    expect(health()).toEqual([]);
    world.nowMs += NO_HOSTS_MS;
    expect(health()[0]).toContain('none of 5 hosts');
    world.hosts = { wanted: 5, connected: 1 };
    expect(health()).toEqual([]);
    world.hosts = { wanted: 5, connected: 0 };
    expect(health()).toEqual([]);
  });
});

describe('the rate limiter', () => {
  test('allows at most max uses in any window, however the uses come, and never holds more than maxKeys', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ key: fc.constantFrom('a', 'b', 'c', 'd'), waitMs: fc.nat(40) }), {
          maxLength: 200,
        }),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 4 }),
        (uses, max, maxKeys) => {
          let nowMs = 0;
          const limiter = createRateLimiter({ max, windowMs: 100, maxKeys, clock: () => nowMs });
          const windows = new Map<string, { startedMs: number; count: number }>();
          for (const { key, waitMs } of uses) {
            nowMs += waitMs;
            const refusedMs = limiter.peek(key);
            expect(limiter.take(key)).toBe(refusedMs);
            expect(limiter.size).toBeLessThanOrEqual(maxKeys);
            // Forgotten keys begin anew, so the count per window is only exact when nothing is forgotten.
            if (maxKeys < 4) continue;
            const window = windows.get(key);
            if (window === undefined || nowMs - window.startedMs >= 100) {
              expect(refusedMs).toBe(0);
              windows.set(key, { startedMs: nowMs, count: 1 });
            } else if (refusedMs === 0) {
              window.count++;
              expect(window.count).toBeLessThanOrEqual(max);
            } else {
              expect(window.count).toBe(max);
              expect(refusedMs).toBe(window.startedMs + 100 - nowMs);
            }
          }
        },
      ),
    );
  });
});

describe('addresses', () => {
  test('a forwarded address counts only from this machine, and only its last entry', () => {
    const headers = new Headers({ 'x-forwarded-for': '1.1.1.1, 203.0.113.7' });
    expect(remoteAddressOf('127.0.0.1', headers)).toBe('203.0.113.7');
    expect(remoteAddressOf('::1', headers)).toBe('203.0.113.7');
    expect(remoteAddressOf('198.51.100.1', headers)).toBe('198.51.100.1');
    expect(remoteAddressOf('127.0.0.1', new Headers({ 'x-forwarded-for': 'unknown host' }))).toBe(
      '127.0.0.1',
    );
    expect(remoteAddressOf('127.0.0.1', new Headers())).toBe('127.0.0.1');
  });

  test('IPv6 is counted by its /64, IPv4 whole in both notations', () => {
    expect(addressKey('2001:db8:1:2:3:4:5:6')).toBe('2001:db8:1:2');
    expect(addressKey('2001:DB8:1:2::9')).toBe('2001:db8:1:2');
    expect(addressKey('2001:db8::9')).toBe('2001:db8:0:0');
    expect(addressKey('::ffff:192.0.2.1')).toBe('192.0.2.1');
    expect(addressKey('192.0.2.1')).toBe('192.0.2.1');
  });

  test('loopback is this machine in every notation, and nothing else is', () => {
    for (const address of ['127.0.0.1', '127.9.9.9', '::1', '::ffff:127.0.0.1'])
      expect(isLoopback(address)).toBe(true);
    for (const address of ['128.0.0.1', '10.0.0.1', '::2', '2001:db8::127.0.0.1'])
      expect(isLoopback(address)).toBe(false);
  });
});
