import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  MAX_BACKOFF_MS,
  MAX_CURSOR_AGE_MS,
  MAX_RETRY_AFTER_MS,
  STABLE_MS,
} from '../../src/hosts/lifecycle.ts';
import { MAX_HOSTS, MAX_OPENING, normalizeDomain } from '../../src/hosts/roster.ts';
import type { CloseOutcome } from '../../src/hosts/types.ts';
import type { Session } from '../../src/state/connections.ts';
import { applyFlush } from '../../src/state/flush.ts';
import { fakeClock, rosterWith, row, seeded } from './fakes.ts';

const DROPPED: CloseOutcome = { kind: 'closed', code: 1006, reason: '' };

describe('the start', () => {
  test('never opens more than the cap at once, and reaches all of 3,000 hosts', () => {
    const rows = Array.from({ length: 3_000 }, (_, n) => row(n + 1));
    const { roster, time, ingest } = rosterWith({ rows });
    roster.start();
    const opened = new Set<number>();
    const random = seeded(7);
    for (let turn = 0; turn < 20_000 && opened.size < 3_000; turn++) {
      time.advance(20);
      expect(roster.counters.opening).toBeLessThanOrEqual(MAX_OPENING);
      expect(ingest.live.size - opened.size).toBe(roster.counters.opening);
      for (const hostId of ingest.live.keys()) {
        if (opened.has(hostId) || random() > 0.3) continue;
        opened.add(hostId);
        roster.opened(hostId, '');
      }
    }
    expect(opened.size).toBe(3_000);
    expect(roster.counters).toMatchObject({ connected: 3_000, opening: 0, waitingForSlot: 0 });
    expect(roster.list().every((view) => view.connected && view.row.status === 'active')).toBe(true);
  });

  test('holds back everything while no connection gets through, with one timer for all hosts', () => {
    const rows = Array.from({ length: 3_000 }, (_, n) => row(n + 1));
    const { roster, time, ingest } = rosterWith({ rows });
    roster.start();
    time.advance(60_000);
    expect(ingest.connects.length).toBe(MAX_OPENING);
    expect(roster.counters.waitingForSlot).toBe(3_000 - MAX_OPENING);
    expect(time.timers).toBeLessThanOrEqual(1);
  });

  test('goes through thousands of hosts that end within the call itself, one after the other', () => {
    const rows = Array.from({ length: 3_000 }, (_, n) => row(n + 1));
    const held: number[] = [];
    let attempts = 0;
    let depth = 0;
    let deepest = 0;
    const { roster, time } = rosterWith({
      rows,
      ingest: {
        connect({ hostId }) {
          attempts++;
          depth++;
          deepest = Math.max(deepest, depth);
          // The first ones hold all slots until everybody is waiting.
          if (held.length < MAX_OPENING) held.push(hostId);
          else roster.closed(hostId, { kind: 'unreachable', detail: 'no network' });
          depth--;
        },
        disconnect() {},
        setLimits() {},
      },
    });
    roster.start();
    time.advance(20_000);
    expect(roster.counters.waitingForSlot).toBe(3_000 - MAX_OPENING);
    roster.closed(held[0]!, { kind: 'unreachable', detail: 'no network' });
    expect(attempts).toBe(3_000);
    expect(deepest).toBe(1);
    expect(roster.counters).toMatchObject({ waitingForSlot: 0, opening: MAX_OPENING - 1 });
  });

  test('forgets a host that is banned while it waits for its turn', async () => {
    const rows = Array.from({ length: 100 }, (_, n) => row(n + 1));
    const { roster, time, ingest, close } = rosterWith({ rows });
    roster.start();
    time.advance(10_000);
    const waiting = rows.map(({ hostId }) => hostId).filter((hostId) => !ingest.live.has(hostId));
    expect(roster.counters.waitingForSlot).toBe(waiting.length);
    await roster.ban(row(waiting[0]!).hostname);
    expect(roster.counters.waitingForSlot).toBe(waiting.length - 1);
    for (const hostId of [...ingest.live.keys()]) close(hostId, DROPPED);
    expect(ingest.connects.some(({ hostId }) => hostId === waiting[0])).toBe(false);
  });

  test('takes large hosts first and lets failing ones wait a little', () => {
    const rows = [
      row(1, { accountCount: 3 }),
      row(2, { accountCount: 500_000 }),
      row(3, { failures: 12, status: 'offline' }),
    ];
    const { roster, time, ingest } = rosterWith({ rows });
    roster.start();
    time.advance(100);
    expect(ingest.connects.map((command) => command.hostId)).toEqual([2, 1]);
    time.advance(5 * 60_000 + 1_000);
    expect(ingest.live.has(3)).toBe(true);
  });

  test('resumes from the stored cursor and tells what is in the log already', () => {
    const rows = [row(1, { cursor: 500, ahead: [503, 505] }), row(2, { validation: 'lenient' })];
    const { roster, time, ingest } = rosterWith({ rows });
    roster.start();
    time.advance(1_000);
    expect(ingest.live.get(1)).toMatchObject({ cursor: 500, skip: [503, 505], validation: 'strict' });
    expect(ingest.live.get(2)).toMatchObject({ cursor: null, skip: [], validation: 'lenient' });
  });
});

describe('any weather', () => {
  test('one connection per host, a bounded wait for every one that is not banned, and none for one that is', () => {
    const deed = fc.record({
      what: fc.constantFrom(
        'open',
        'close',
        'ban',
        'unban',
        'crawl',
        'wait',
        'event',
        'banDomain',
        'unbanDomain',
      ),
      hostId: fc.integer({ min: 1, max: 8 }),
      ms: fc.oneof(fc.nat(2_000), fc.nat(200_000), fc.nat(3_600_000)),
      outcome: fc.constantFrom<CloseOutcome>(
        DROPPED,
        { kind: 'unreachable', detail: '' },
        { kind: 'http_status', status: 429, retryAfterMs: 7_200_000 },
        { kind: 'error_frame', error: 'FutureCursor', message: '' },
        { kind: 'silent' },
        { kind: 'malformed' },
        { kind: 'throttled', waitMs: 1e9 },
      ),
    });
    fc.assert(
      fc.property(fc.array(deed, { maxLength: 150 }), fc.nat(), fc.boolean(), (deeds, seed, sameThread) => {
        const rows = Array.from({ length: 8 }, (_, n) => row(n + 1, { cursor: n * 10 }));
        const { roster, time, ingest, close } = rosterWith({ rows, seed });
        if (sameThread) ingest.hooks.disconnected = (hostId) => close(hostId, { kind: 'stopped' });
        roster.start();
        for (const { what, hostId, ms, outcome } of deeds) {
          const { hostname } = row(hostId);
          const host = roster.host(hostId)!;
          switch (what) {
            case 'open':
              if (ingest.live.has(hostId)) roster.opened(hostId, '');
              break;
            case 'close':
              if (ingest.live.has(hostId)) close(hostId, outcome);
              break;
            case 'ban':
              void roster.ban(hostname);
              break;
            case 'unban':
              void roster.unban(hostname);
              break;
            case 'banDomain':
              void roster.banDomain('pds.net');
              break;
            case 'unbanDomain':
              void roster.unbanDomain('pds.net');
              break;
            case 'crawl':
              void roster.requestCrawl(hostname, { source: 'crawl' });
              break;
            case 'event':
              if (host.life.phase === 'open') {
                host.cursor += 1;
                roster.eventTaken(host);
              }
              break;
            case 'wait':
              time.advance(ms);
              break;
          }
          // The ingest side reports what it was told to end.
          for (const ended of ingest.disconnects.splice(0))
            if (!sameThread) close(ended, { kind: 'stopped' });
          for (const view of roster.list()) {
            const banned = view.row.banned || roster.domainBans.length > 0;
            expect(view.row.status === 'banned').toBe(banned);
            const live = ingest.live.has(view.row.hostId);
            if (banned) expect(live || view.nextAttemptAtMs !== null).toBe(false);
            else {
              expect(live).toBe(view.nextAttemptAtMs === null);
              if (!live)
                expect(view.nextAttemptAtMs! - time.clock.nowMs()).toBeLessThanOrEqual(MAX_RETRY_AFTER_MS);
            }
          }
          const wanted = roster.list().filter((view) => view.row.status !== 'banned').length;
          expect(roster.counters.wanted).toBe(wanted);
        }
        expect(roster.counters.opening + roster.counters.connected).toBe(ingest.live.size);
      }),
      { numRuns: 150 },
    );
  });

  test('a host that is down for a week is tried at least every half hour, and less than 400 times', () => {
    const { roster, time, ingest, close } = rosterWith({ rows: [row(1)] });
    roster.start();
    let lastMs = time.clock.nowMs();
    let attempts = 0;
    for (let minute = 0; minute < 7 * 24 * 60; minute++) {
      time.advance(60_000);
      if (!ingest.live.has(1)) continue;
      attempts++;
      expect(time.clock.nowMs() - lastMs).toBeLessThanOrEqual(MAX_BACKOFF_MS + 60_000);
      lastMs = time.clock.nowMs();
      close(1, { kind: 'unreachable', detail: 'refused' });
    }
    expect(attempts).toBeGreaterThan(300);
    expect(attempts).toBeLessThan(900);
    expect(roster.getById(1)).toMatchObject({
      lastClose: 'unreachable: refused',
      row: { status: 'offline' },
    });
  });
});

describe('bans', () => {
  test('of a domain cut the connections of all hosts below it, and of no other', async () => {
    const rows = [
      row(1, { hostname: 'evil.org' }),
      row(2, { hostname: 'a.b.evil.org' }),
      row(3, { hostname: 'notevil.org' }),
      row(4, { hostname: 'evil.org.pds.net' }),
    ];
    const { roster, time, ingest, storage, close } = rosterWith({ rows });
    roster.start();
    time.advance(1_000);
    for (const { hostId } of rows) roster.opened(hostId, '');
    await roster.banDomain('*.Evil.org');
    expect(ingest.disconnects.toSorted()).toEqual([1, 2]);
    expect(storage.domains).toEqual([{ domain: 'evil.org', banned: true }]);
    expect(roster.domainBans).toEqual(['evil.org']);
    for (const hostId of [1, 2]) close(hostId, { kind: 'stopped' });
    time.advance(24 * 3_600_000);
    expect([...ingest.live.keys()].toSorted()).toEqual([3, 4]);
    expect(roster.get('a.b.evil.org')!.row).toMatchObject({ status: 'banned', banned: false });
    expect(await roster.requestCrawl('new.evil.org', { source: 'admin' })).toMatchObject({
      error: 'HostBanned',
    });
    expect((await roster.addHosts([{ hostname: 'other.evil.org' }], 'upstream')).refused).toBe(1);

    await roster.unbanDomain('evil.org');
    time.advance(30_000);
    expect([...ingest.live.keys()].toSorted()).toEqual([1, 2, 3, 4]);
  });

  test('loaded from the database hold from the start', () => {
    const rows = [row(1, { banned: true }), row(2, { hostname: 'x.evil.org' }), row(3)];
    const { roster, time, ingest } = rosterWith({ rows, domainBans: ['evil.org'] });
    roster.start();
    time.advance(3_600_000);
    expect([...ingest.live.keys()]).toEqual([3]);
  });

  test("a host's own ban survives the end of its domain's, and is stored soon", async () => {
    let stored = 0;
    const { roster, time, ingest, close } = rosterWith({
      rows: [row(1, { hostname: 'x.evil.org' })],
      storeSoon: async () => {
        stored++;
      },
    });
    roster.start();
    time.advance(1_000);
    expect(await roster.ban('X.evil.org')).toBe(true);
    expect(stored).toBe(1);
    expect(ingest.disconnects).toEqual([1]);
    close(1, { kind: 'stopped' });
    await roster.banDomain('evil.org');
    await roster.unbanDomain('evil.org');
    expect(roster.takeDirty().hosts).toMatchObject([{ hostId: 1, banned: true, status: 'banned' }]);
    expect(await roster.unban('x.evil.org')).toBe(true);
    time.advance(60_000);
    expect(ingest.live.size).toBe(1);
    expect(await roster.ban('unknown.org')).toBe(false);
  });

  test('of domains accept only domains', async () => {
    const { roster } = rosterWith();
    expect(roster.banDomain('not a domain')).rejects.toThrow(RangeError);
    expect(normalizeDomain('.Evil.ORG.')).toBe('evil.org');
    expect(normalizeDomain('')).toBeNull();
    expect(normalizeDomain('*.')).toBeNull();
  });
});

describe('a relay that pretends to be a PDS', () => {
  test('is banned when the upgrade gives it away, with the reason to be read', () => {
    const { roster, time, ingest, close } = rosterWith({ rows: [row(1)] });
    roster.start();
    time.advance(1_000);
    roster.opened(1, 'indigo/1.2 (AtProto-Relay)');
    expect(ingest.disconnects).toEqual([1]);
    close(1, { kind: 'stopped' });
    time.advance(24 * 3_600_000);
    expect(ingest.connects.length).toBe(1);
    expect(roster.getById(1)!.lastClose).toContain('a relay');
    const { hosts, rejections } = roster.takeDirty();
    expect(hosts).toMatchObject([{ banned: true, status: 'banned' }]);
    expect(rejections).toMatchObject([{ hostId: 1, reason: 'host_banned' }]);
    expect(roster.counters.relaysRefused).toBe(1);
  });
});

describe('the cursor of a host', () => {
  const open = (over: Parameters<typeof row>[1]) => {
    const made = rosterWith({ rows: [row(1, over)] });
    made.roster.start();
    made.time.advance(1_000);
    return made;
  };

  test('is reset on FutureCursor, with a gap to be read', () => {
    const { roster, time, ingest, close } = open({ cursor: 900 });
    roster.opened(1, '');
    close(1, { kind: 'error_frame', error: 'FutureCursor', message: 'ahead' });
    expect(roster.host(1)).toMatchObject({ cursor: 0, cursorEpoch: 1 });
    time.advance(10_000);
    expect(ingest.live.get(1)!.cursor).toBeNull();
    const { gaps, hosts } = roster.takeDirty();
    expect(gaps).toMatchObject([{ hostId: 1, fromSeq: 901, toSeq: 0 }]);
    expect(hosts).toMatchObject([{ cursor: 0 }]);
  });

  test('is kept while a connection without it is tried, and comes back when that fails too', () => {
    const { roster, time, ingest, close } = open({ cursor: 900, ahead: [905] });
    const cursors: (number | null)[] = [];
    for (let n = 0; n < 60 && !cursors.includes(null); n++) {
      while (!ingest.live.has(1)) time.advance(1_000);
      cursors.push(ingest.live.get(1)!.cursor);
      roster.opened(1, '');
      if (cursors.at(-1) === null) {
        roster.markDirty(roster.host(1)!);
        expect(roster.takeDirty().hosts).toMatchObject([{ cursor: 900, ahead: [905] }]);
      }
      close(1, DROPPED);
    }
    expect(cursors.at(-1)).toBeNull();
    expect(roster.host(1)!.cursor).toBe(900);
    expect(roster.takeDirty().gaps).toEqual([]);
    while (!ingest.live.has(1)) time.advance(1_000);
    expect(ingest.live.get(1)).toMatchObject({ cursor: 900, skip: [905] });
  });

  test('is replaced when the connection without it brings events', () => {
    const { roster, time, ingest, close } = open({ cursor: 900 });
    for (;;) {
      while (!ingest.live.has(1)) time.advance(1_000);
      roster.opened(1, '');
      if (ingest.live.get(1)!.cursor === null) break;
      close(1, DROPPED);
    }
    const host = roster.host(1)!;
    host.cursor = 12;
    roster.eventTaken(host);
    close(1, DROPPED);
    const { gaps, hosts } = roster.takeDirty();
    expect(gaps).toMatchObject([{ fromSeq: 901 }]);
    expect(hosts).toMatchObject([{ cursor: 12 }]);
    while (!ingest.live.has(1)) time.advance(1_000);
    expect(ingest.live.get(1)!.cursor).toBe(12);
  });

  test('is kept over a connection that brought nothing', () => {
    const { roster, time, ingest, close } = open({ cursor: 900 });
    roster.opened(1, '');
    time.advance(STABLE_MS * 3);
    close(1, DROPPED);
    time.advance(10_000);
    expect(ingest.live.get(1)!.cursor).toBe(900);
  });

  test('is given up when the host was away for longer than it may be old, but not for a long connection', () => {
    const { roster, time, ingest, close } = open({ cursor: 900 });
    const next = () => {
      while (!ingest.live.has(1)) time.advance(60_000);
      return ingest.live.get(1)!.cursor;
    };
    roster.opened(1, '');
    time.advance(MAX_CURSOR_AGE_MS * 2);
    close(1, DROPPED);
    expect(next()).toBe(900);
    const downAtMs = time.clock.nowMs();
    while (time.clock.nowMs() - downAtMs < MAX_CURSOR_AGE_MS - 2 * MAX_BACKOFF_MS) {
      expect(next()).toBe(900);
      close(1, { kind: 'unreachable', detail: '' });
      time.advance(60_000);
    }
    for (let n = 0; n < 50 && next() !== null; n++) close(1, { kind: 'unreachable', detail: '' });
    expect(next()).toBeNull();
    expect(roster.takeDirty().gaps).toMatchObject([{ fromSeq: 901 }]);
  });

  test('that is outdated for the host makes a gap to be read', () => {
    const { roster } = open({ cursor: 900 });
    roster.opened(1, '');
    roster.info(1, 'OutdatedCursor', 'too old');
    roster.info(1, 'SomethingElse', '');
    expect(roster.takeDirty().gaps).toMatchObject([{ fromSeq: 901, why: 'outdated_cursor: too old' }]);
  });

  test('is as old as the time since we were last connected, whatever it or others sent since', () => {
    const hour = 3_600_000;
    const nowMs = fakeClock().clock.nowMs();
    const quiet = { createdAtMs: 0, lastEventAtMs: nowMs - 90 * 24 * hour };
    for (const others of [
      [],
      [row(9, { connectedUntilMs: nowMs - 60_000, lastEventAtMs: nowMs - 60_000 })],
    ]) {
      const { roster, time, ingest } = rosterWith({
        rows: [
          row(1, { ...quiet, cursor: 5, connectedUntilMs: nowMs - hour }),
          row(2, {
            ...quiet,
            cursor: 6,
            connectedUntilMs: nowMs - 71 * hour,
            status: 'offline',
            failures: 500,
          }),
          row(3, { ...quiet, cursor: 7, connectedUntilMs: nowMs - 73 * hour }),
          // As older versions stored it.
          row(4, { ...quiet, cursor: 8, connectedUntilMs: null, status: 'offline', failures: 500 }),
          ...others,
        ],
      });
      roster.start();
      time.advance(10 * 60_000);
      expect([1, 2, 3, 4].map((hostId) => ingest.live.get(hostId)!.cursor)).toEqual([5, 6, null, 8]);
      expect(roster.takeDirty().gaps).toMatchObject([{ hostId: 3, fromSeq: 8 }]);
    }
  });
});

describe('a host that has sent nothing yet', () => {
  const open = (over: Parameters<typeof row>[1] = {}) => {
    const made = rosterWith({ rows: [row(1, over)] });
    made.roster.start();
    made.time.advance(1_000);
    /** Lets it connect; what it is asked to begin with. */
    const next = () => {
      while (!made.ingest.live.has(1)) made.time.advance(1_000);
      made.roster.opened(1, '');
      return made.ingest.live.get(1)!.cursor;
    };
    /** As a process that starts anew would find it. */
    const stored = () => made.roster.takeDirty().hosts.at(-1)!;
    return { ...made, next, stored };
  };

  test('is followed live at first, and asked for its oldest event once a connection has lasted', () => {
    const { time, next, close } = open();
    expect(next()).toBeNull();
    time.advance(STABLE_MS - 1);
    close(1, DROPPED);
    expect(next()).toBeNull();
    time.advance(STABLE_MS);
    close(1, DROPPED);
    // However long the next ones last.
    for (let n = 0; n < 3; n++) {
      expect(next()).toBe(0);
      close(1, DROPPED);
    }
  });

  test('is asked so after a restart, too, by a stop or by a crash', () => {
    const first = open();
    first.next();
    first.time.advance(STABLE_MS - 1);
    expect(open(first.stored()).next()).toBeNull();
    first.time.advance(1);
    const crashed = open(first.stored());
    expect(crashed.next()).toBe(0);
    crashed.close(1, { kind: 'stopped' });
    const stopped = open(crashed.stored());
    expect(stopped.next()).toBe(0);
    const host = stopped.roster.host(1)!;
    host.cursor = 12;
    stopped.roster.eventTaken(host);
    expect(open(stopped.stored()).next()).toBe(12);
  });

  test('is no gap when it says that its oldest event is not its first', () => {
    const { roster, time, next, close } = open();
    next();
    time.advance(STABLE_MS);
    close(1, DROPPED);
    expect(next()).toBe(0);
    roster.info(1, 'OutdatedCursor', 'too old');
    expect(roster.takeDirty().gaps).toEqual([]);
  });

  test('is followed live again, with a gap, when it cannot be asked so, or we were away for too long', () => {
    const future: CloseOutcome = { kind: 'error_frame', error: 'FutureCursor', message: '' };
    const { roster, time, ingest, next, close } = open({ connectedUntilMs: fakeClock().clock.nowMs() });
    expect(next()).toBe(0);
    close(1, future);
    const { hosts, gaps } = roster.takeDirty();
    expect(gaps).toMatchObject([{ fromSeq: 1, toSeq: 0 }]);
    expect(hosts).toMatchObject([{ cursor: 0, connectedUntilMs: null }]);
    expect(next()).toBeNull();
    time.advance(STABLE_MS);
    close(1, DROPPED);
    expect(next()).toBe(0);
    close(1, DROPPED);
    expect(roster.takeDirty().gaps).toEqual([]);
    const upAgainAtMs = time.clock.nowMs() + MAX_CURSOR_AGE_MS + MAX_BACKOFF_MS;
    while (time.clock.nowMs() < upAgainAtMs) {
      time.advance(60_000);
      if (ingest.live.has(1)) close(1, { kind: 'unreachable', detail: '' });
    }
    expect(next()).toBeNull();
    expect(roster.takeDirty().gaps).toMatchObject([{ fromSeq: 1, toSeq: 0 }]);
  });

  test('that had a cursor before is followed live where the cursor was given up', () => {
    const { next, close } = open({ cursor: 900, connectedUntilMs: 1 });
    expect(next()).toBeNull();
    close(1, DROPPED);
    expect(next()).toBeNull();
  });

  test('has a connection without a cursor tried when those with it keep failing', () => {
    const { roster, time, next, close } = open({ connectedUntilMs: fakeClock().clock.nowMs() });
    const cursors: (number | null)[] = [];
    while (cursors.length < 60 && !cursors.includes(null)) {
      cursors.push(next());
      if (cursors.at(-1) !== null) close(1, DROPPED);
    }
    expect(cursors.at(-1)).toBeNull();
    close(1, DROPPED);
    expect(next()).toBe(0);
    expect(roster.takeDirty().gaps).toEqual([]);
    time.advance(STABLE_MS);
    expect(roster.host(1)!.life.cursorFailures).toBe(0);
  });
});

describe('limits', () => {
  test('follow the accounts of a host, live', () => {
    const { roster, time, ingest } = rosterWith({ rows: [row(1, { source: 'crawl' })] });
    roster.start();
    time.advance(1_000);
    expect(ingest.live.get(1)!.limits.perHour).toBe(2_500);
    const host = roster.host(1)!;
    roster.accountsChanged(host, 50);
    expect(ingest.limits.size).toBe(0);
    roster.accountsChanged(host, 100);
    expect(ingest.limits.get(1)).toMatchObject({ perHour: 2_650 });
    roster.accountsChanged(host, -1_000);
    expect(host.accountCount).toBe(0);
  });

  test('of a host at its account limit show, and can be raised', () => {
    const { roster, time } = rosterWith({ rows: [row(1, { source: 'crawl', accountCount: 100 })] });
    roster.start();
    time.advance(1_000);
    roster.opened(1, '');
    expect(roster.getById(1)).toMatchObject({ accountLimit: 100, row: { status: 'throttled' } });
    expect(roster.setAccountLimit('host1.pds.net', 1_000)).toBe(true);
    expect(roster.getById(1)).toMatchObject({
      accountLimit: 1_000,
      row: { status: 'active', accountLimit: 1_000 },
    });
  });

  test('of the operator per host reach the running connection and the row', () => {
    const { roster, time, ingest } = rosterWith({ rows: [row(1)] });
    roster.start();
    time.advance(1_000);
    expect(roster.setEventsPerSecondLimit('host1.pds.net', 7)).toBe(true);
    expect(ingest.limits.get(1)).toMatchObject({ perSecond: 7 });
    expect(roster.takeDirty().hosts).toMatchObject([{ eventsPerSecondLimit: 7 }]);
    expect(roster.setEventsPerSecondLimit('unknown.org', 7)).toBe(false);
  });

  test('count what the upstream relay counts, until we know more', async () => {
    const { roster } = rosterWith();
    await roster.addHosts([{ hostname: 'big.pds.net', accountCount: 40_000 }], 'upstream');
    expect(roster.get('big.pds.net')).toMatchObject({ accountLimit: 80_000, limits: { perHour: 42_500 } });
    await roster.addHosts([{ hostname: 'unknown.pds.net' }], 'upstream');
    expect(roster.get('unknown.pds.net')).toMatchObject({ accountLimit: 10_000, limits: { perHour: 3_500 } });
  });

  test('go on over a restart, with the upstream relay or without, and do not grow by it', async () => {
    const { roster, time } = rosterWith({
      rows: [row(1, { accountCount: 30_000, expectedAccounts: 40_000 }), row(2, { accountCount: 10_000 })],
    });
    roster.start();
    time.advance(1_000);
    for (const hostId of [1, 2]) roster.opened(hostId, '');
    expect(roster.getById(1)).toMatchObject({
      accountLimit: 80_000,
      limits: { perHour: 42_500 },
      row: { status: 'active' },
    });
    expect(roster.getById(2)).toMatchObject({ accountLimit: 10_000, row: { status: 'throttled' } });
    roster.takeDirty();
    await roster.addHosts([{ hostname: 'host1.pds.net', accountCount: 40_000 }], 'upstream');
    expect(roster.takeDirty().hosts).toEqual([]);
    await roster.addHosts([{ hostname: 'host2.pds.net', accountCount: 11_000 }], 'upstream');
    const { hosts } = roster.takeDirty();
    expect(hosts).toMatchObject([{ hostId: 2, expectedAccounts: 11_000 }]);
    expect(rosterWith({ rows: hosts }).roster.getById(2)).toMatchObject({ accountLimit: 22_000 });
  });

  test('are raised for a host that came by itself when the operator names it', async () => {
    const { roster } = rosterWith({ rows: [row(1, { source: 'crawl' })] });
    expect(roster.getById(1)!.accountLimit).toBe(100);
    await roster.requestCrawl('host1.pds.net', { source: 'admin' });
    expect(roster.getById(1)!.accountLimit).toBe(1_000_000);
    await roster.requestCrawl('host1.pds.net', { source: 'crawl' });
    expect(roster.getById(1)!.row.source).toBe('admin');
  });
});

describe('what is to be stored', () => {
  test('is every host that changed, once, and comes back when storing failed', async () => {
    const { roster, time, close } = rosterWith({ rows: [row(1, { cursor: 3 }), row(2)] });
    expect(roster.takeDirty().hosts).toEqual([]);
    roster.start();
    time.advance(1_000);
    roster.opened(1, '');
    const host = roster.host(1)!;
    host.cursor = 10;
    host.ahead.add(14).add(12);
    roster.eventTaken(host);
    roster.rejected(host, 'rev_stale');
    roster.rejected(host, 'rev_stale');
    close(2, { kind: 'unreachable', detail: '' });
    const dirty = roster.takeDirty();
    expect(dirty.hosts.map(({ hostId }) => hostId).toSorted()).toEqual([1, 2]);
    expect(dirty.hosts.find(({ hostId }) => hostId === 1)).toMatchObject({
      cursor: 10,
      ahead: [12, 14],
      status: 'active',
    });
    expect(dirty.hosts.find(({ hostId }) => hostId === 2)).toMatchObject({ failures: 1, status: 'offline' });
    expect(roster.takeDirty().hosts).toEqual([]);
    roster.info(1, 'OutdatedCursor', 'newer');
    roster.giveBack({ ...dirty, gaps: [{ hostId: 2, fromSeq: 0, toSeq: 0, why: 'older', atMs: 0 }] });
    const again = roster.takeDirty();
    expect(again.hosts.length).toBe(2);
    expect(again.gaps.map(({ why }) => why)).toEqual(['older', 'outdated_cursor: newer']);
    expect(roster.getById(1)).toMatchObject({ eventsSinceStart: 1, rejectionsSinceStart: { rev_stale: 2 } });
  });

  test('tells of each host, within the hour, when it was last connected, and the hosts share out the hour', () => {
    const hosts = 3_000;
    const { roster, time, ingest } = rosterWith({
      rows: Array.from({ length: hosts }, (_, n) => row(n + 1, { cursor: 1 })),
    });
    roster.start();
    for (const untilMs = time.clock.nowMs() + 60_000; time.clock.nowMs() < untilMs; time.advance(100))
      for (const hostId of ingest.live.keys()) roster.opened(hostId, '');
    expect(roster.counters.connected).toBe(hosts);
    const stored = new Map<number, number>();
    const perMinute: number[] = [];
    for (let minute = 0; minute < 6 * 60; minute++) {
      time.advance(60_000);
      const { hosts: rows } = roster.takeDirty();
      perMinute.push(rows.length);
      for (const { hostId, connectedUntilMs } of rows) stored.set(hostId, connectedUntilMs!);
      if (minute < 5) continue;
      expect(stored.size).toBe(hosts);
      expect(time.clock.nowMs() - Math.min(...stored.values())).toBeLessThanOrEqual(3_600_000 + 60_000);
    }
    expect(Math.max(...perMinute.slice(120))).toBeLessThan(hosts / 15);
  });

  test('tells when a host was last connected as soon as its connection ends, by itself or by our stop', async () => {
    const { roster, time, ingest, close } = rosterWith({ rows: [row(1), row(2), row(3)] });
    ingest.hooks.disconnected = (hostId) => close(hostId, { kind: 'stopped' });
    roster.start();
    time.advance(1_000);
    for (const hostId of [1, 2]) roster.opened(hostId, '');
    time.advance(30 * 60_000);
    const connectedUntilMs = time.clock.nowMs();
    close(1, DROPPED);
    expect(roster.takeDirty().hosts.find(({ hostId }) => hostId === 1)).toMatchObject({ connectedUntilMs });
    await roster.stop();
    expect(roster.takeDirty().hosts).toMatchObject([{ hostId: 2, connectedUntilMs }]);
    expect(roster.getById(3)!.row.connectedUntilMs).toBeNull();
  });

  test('is bounded when the database is away', () => {
    const { roster, time } = rosterWith({ rows: [row(1, { cursor: 3 })] });
    roster.start();
    time.advance(1_000);
    for (let n = 0; n < 10_500; n++) roster.info(1, 'OutdatedCursor', 'again');
    expect(roster.takeDirty().gaps.length).toBe(10_000);
    expect(roster.counters.notesDropped).toBe(500);
  });

  test('can be stored, whatever the cursor of a host was and whatever an operator would set', async () => {
    const session = { backendPid: 1, query: async () => Object.assign([{ pid: 1 }], { count: 0 }) };
    const number = fc.oneof(fc.double(), fc.maxSafeInteger());
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(fc.maxSafeNat(), fc.constant(Number.MAX_SAFE_INTEGER)),
        number,
        number,
        async (cursor, accountLimit, perSecond) => {
          const { roster, time, close } = rosterWith({ rows: [row(1, { cursor })] });
          roster.start();
          time.advance(1_000);
          roster.opened(1, '');
          roster.info(1, 'OutdatedCursor', '');
          close(1, { kind: 'error_frame', error: 'FutureCursor', message: '' });
          for (const set of [
            () => roster.setAccountLimit('host1.pds.net', accountLimit),
            () => roster.setEventsPerSecondLimit('host1.pds.net', perSecond),
          ])
            try {
              set();
            } catch (error) {
              expect(error).toBeInstanceOf(RangeError);
            }
          const dirty = roster.takeDirty();
          for (const { fromSeq } of dirty.gaps) expect(fromSeq).toBeGreaterThan(0);
          await applyFlush(session as unknown as Session, { position: 1, accounts: [], ...dirty });
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe('adding hosts', () => {
  test('takes 3,000 names without asking any of them, each once', async () => {
    let asked = 0;
    const { roster, storage, time, ingest } = rosterWith({
      fetch: async () => {
        asked++;
        return { ok: false, kind: 'timeout', detail: '' };
      },
    });
    roster.start();
    const names = Array.from({ length: 3_000 }, (_, n) => ({ hostname: `Pds${n}.example.org` }));
    const twice = await Promise.all([roster.addHosts(names, 'upstream'), roster.addHosts(names, 'config')]);
    expect(storage.rows.length).toBe(3_000);
    expect(asked).toBe(0);
    expect(twice.reduce((sum, { refused }) => sum + refused, 0)).toBe(0);
    time.advance(1_000);
    expect(ingest.connects.length).toBe(MAX_OPENING);
    expect(
      await roster.addHosts([{ hostname: '10.0.0.1' }, { hostname: 'localhost:1234' }], 'upstream'),
    ).toEqual({
      added: 0,
      known: 0,
      refused: 2,
    });
  });

  test('ends at the largest number of hosts, which requestCrawl says too', async () => {
    const { roster, storage } = rosterWith({ rows: Array.from({ length: MAX_HOSTS }, (_, n) => row(n + 1)) });
    expect(
      await roster.addHosts([{ hostname: 'more.net' }, { hostname: 'host7.pds.net' }], 'upstream'),
    ).toEqual({
      added: 0,
      known: 1,
      refused: 1,
    });
    expect(await roster.requestCrawl('more.net', { source: 'admin' })).toMatchObject({
      error: 'RateLimitExceeded',
    });
    expect(storage.rows.length).toBe(0);
    expect(roster.counters.hostsRefused).toBe(2);
  });

  test('in development takes localhost ports as plain ws', async () => {
    const { roster } = rosterWith({
      config: {
        trustedDomains: [],
        validation: 'strict',
        allowInsecureHosts: true,
        hostAccountLimit: 100,
        newHostsPerDay: 50,
        userAgent: 'weir/test',
      },
    });
    await roster.addHosts([{ hostname: 'localhost:2583' }, { hostname: 'pds.net' }], 'config');
    expect(roster.get('localhost:2583')!.row.secure).toBe(false);
    expect(roster.get('pds.net')!.row.secure).toBe(true);
  });
});

describe('the end', () => {
  test('closes every connection and resolves when all are reported, with nothing started after', async () => {
    const { roster, time, ingest, close } = rosterWith({ rows: [row(1), row(2), row(3, { banned: true })] });
    roster.start();
    time.advance(1_000);
    roster.opened(1, '');
    const done = roster.stop();
    expect(ingest.disconnects.toSorted()).toEqual([1, 2]);
    close(1, { kind: 'stopped' });
    close(2, { kind: 'stopped' });
    await done;
    time.advance(24 * 3_600_000);
    expect(ingest.connects.length).toBe(2);
  });

  test('resolves also when connections end within the call', async () => {
    const { roster, time, ingest, close } = rosterWith({ rows: [row(1), row(2)] });
    ingest.hooks.disconnected = (hostId) => close(hostId, { kind: 'stopped' });
    roster.start();
    time.advance(1_000);
    await roster.stop();
    expect(ingest.live.size).toBe(0);
  });

  test('of a connection ends what it was paused for', () => {
    const { roster, time, close } = rosterWith({ rows: [row(1)] });
    roster.start();
    time.advance(1_000);
    roster.opened(1, '');
    roster.paused(1, 'rate_limit');
    expect(roster.getById(1)!.pausedFor).toBe('rate_limit');
    close(1, DROPPED);
    expect(roster.getById(1)!.pausedFor).toBeNull();
  });

  test('of one connection by the operator is followed by a new one', () => {
    const { roster, time, ingest, close } = rosterWith({ rows: [row(1)] });
    roster.start();
    time.advance(1_000);
    roster.opened(1, '');
    expect(roster.reconnect('host1.pds.net')).toBe(true);
    close(1, { kind: 'stopped' });
    time.advance(3_000);
    expect(ingest.connects.length).toBe(2);
  });
});
