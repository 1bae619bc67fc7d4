import { expect, test } from 'bun:test';
import { createRoster, type HostRoster, MAX_OPENING } from '../../src/hosts/roster.ts';
import { createSubscribe } from '../../src/hosts/subscription.ts';
import type { Subscription } from '../../src/hosts/types.ts';
import { systemClock } from '../../src/network/clock.ts';
import { createGuardedLookup } from '../../src/network/lookup.ts';
import { fakeState, PDS_ANSWER, row, seeded } from './fakes.ts';

const HOSTS = 300;

const until = async (reached: () => boolean): Promise<void> => {
  while (!reached()) await Bun.sleep(5);
};

/** A server that is 300 hosts, by their names, and can be away. */
const network = () => {
  const cursors = new Map<string, string | null>();
  const start = (port: number) =>
    Bun.serve<string>({
      port,
      fetch(request, self) {
        const url = new URL(request.url);
        cursors.set(request.headers.get('host')!, url.searchParams.get('cursor'));
        const headers = { Server: url.hostname === 'h7.test' ? 'other (atproto-relay)' : 'pds' };
        return self.upgrade(request, { data: '', headers }) ? undefined : new Response('');
      },
      websocket: { open: (socket) => void socket.sendBinary(new Uint8Array([1])), message() {} },
    });
  return { start, cursors };
};

test('300 hosts over real sockets: ramp, a hidden relay, an outage of all, a domain ban, the end', async () => {
  const { start, cursors } = network();
  let server = start(0);
  const port = server.port!;
  const lookup = createGuardedLookup({
    allowPrivateAddresses: true,
    resolve: async () => [{ address: '127.0.0.1', family: 4 }],
  });
  const subscribe = createSubscribe({ lookupFor: () => lookup });
  const live = new Map<number, Subscription>();
  let mostOpening = 0;
  const roster: HostRoster = createRoster({
    rows: Array.from({ length: HOSTS }, (_, n) =>
      row(n + 1, {
        hostname: `h${n + 1}.test:${port}`,
        secure: false,
        cursor: 100 + n,
        lastEventAtMs: Date.now(),
        connectedUntilMs: null,
      }),
    ),
    domainBans: [],
    state: fakeState().state,
    clock: systemClock,
    random: seeded(5),
    fetch: async () => PDS_ANSWER,
    config: {
      trustedDomains: [],
      validation: 'strict',
      allowInsecureHosts: true,
      hostAccountLimit: 100,
      newHostsPerDay: 50,
      userAgent: 'weir/test',
    },
    ingest: {
      connect({ hostId, hostname, secure, cursor }) {
        if (live.has(hostId)) throw new Error('second connection');
        const subscription = subscribe(
          {
            hostname,
            secure,
            cursor,
            userAgent: 'weir/test',
            allowPrivateAddresses: true,
            handshakeTimeoutMs: 5_000,
            pingIntervalMs: 30_000,
            maxFrameBytes: 1_000,
          },
          {
            opened: (name) => roster.opened(hostId, name),
            frame: () => roster.eventTaken(roster.host(hostId)!),
            text() {},
            closed(outcome) {
              live.delete(hostId);
              roster.closed(hostId, outcome);
            },
          },
        );
        live.set(hostId, subscription);
        mostOpening = Math.max(mostOpening, roster.counters.opening);
      },
      disconnect: (hostId) => live.get(hostId)!.end({ kind: 'stopped' }),
      setLimits() {},
    },
  });

  roster.start();
  await until(() => roster.counters.connected === HOSTS - 1);
  expect(mostOpening).toBeLessThanOrEqual(MAX_OPENING);
  expect(cursors.get(`h5.test:${port}`)).toBe('104');
  expect(roster.get(`h7.test:${port}`)!.row).toMatchObject({ banned: true, status: 'banned' });
  await until(() => roster.list().every((view) => view.row.banned || view.eventsSinceStart > 0));

  await server.stop(true);
  await until(() => roster.counters.connected === 0);
  expect(
    roster
      .list()
      .every((view) => view.row.banned || view.nextAttemptAtMs !== null || live.has(view.row.hostId)),
  ).toBe(true);
  server = start(port);
  await until(() => roster.counters.connected === HOSTS - 1);

  await roster.banDomain('h8.test');
  expect(roster.counters.connected).toBe(HOSTS - 2);
  await roster.stop();
  expect(live.size).toBe(0);
  await server.stop(true);
}, 30_000);
