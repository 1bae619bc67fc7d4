import { afterAll, describe, expect, test } from 'bun:test';
import https from 'node:https';
import WebSocket from 'ws';
import {
  createGuardedLookup,
  FORBIDDEN_ADDRESS_CODE,
  type LookupFunction,
} from '../../src/network/lookup.ts';
import { CERTIFIED_NAME, certificate, certificateKey } from './certificate.ts';
import { createFakeClock } from './fake-clock.ts';

const ipv4 = (address: string) => ({ address, family: 4 });
const ipv6 = (address: string) => ({ address, family: 6 });

const server = Bun.serve({
  port: 0,
  hostname: '127.0.0.1',
  tls: { cert: certificate, key: certificateKey },
  fetch: (request, self) =>
    self.upgrade(request) ? undefined : new Response(request.headers.get('host') ?? 'no host'),
  websocket: {
    open: (socket) => void socket.send('open'),
    message: () => {},
  },
});
afterAll(() => server.stop(true));

const overHttps = (hostname: string, lookup: LookupFunction) =>
  new Promise<string>((resolve) => {
    https
      .get(
        `https://${hostname}:${server.port}/`,
        { lookup: lookup as never, ca: certificate, agent: false },
        (response) => {
          response.on('data', (chunk) => resolve(String(chunk)));
        },
      )
      .on('error', (error: NodeJS.ErrnoException) => resolve(`error ${error.code}`));
  });

const overWebSocket = (hostname: string, lookup: LookupFunction) =>
  new Promise<string>((resolve) => {
    const socket = new WebSocket(`wss://${hostname}:${server.port}/`, {
      lookup: lookup as never,
      ca: certificate,
    });
    socket.on('message', (data) => {
      resolve(String(data));
      socket.terminate();
    });
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(`error ${error.code}`));
  });

describe('the guarded look-up', () => {
  test('keeps only addresses that may be connected to, IPv4 first', async () => {
    const { addresses } = createGuardedLookup({
      allowPrivateAddresses: false,
      resolve: async () => [ipv6('fe80::1'), ipv6('2606:4700::1'), ipv4('10.0.0.1'), ipv4('8.8.8.8')],
    });
    expect(await addresses('a.example.com')).toEqual({
      ok: true,
      addresses: [
        { address: '8.8.8.8', family: 4 },
        { address: '2606:4700::1', family: 6 },
      ],
    });
  });

  test('refuses a name that leads only to forbidden addresses, and says which kind', async () => {
    const { addresses, counters } = createGuardedLookup({
      allowPrivateAddresses: false,
      resolve: async () => [ipv4('169.254.169.254')],
    });
    const result = await addresses('metadata.example.com');
    expect(result).toMatchObject({ ok: false, kind: 'forbidden_address' });
    expect(result.ok ? '' : result.detail).toContain('link-local');
    expect(counters.forbidden).toBe(1);
  });

  test('judges literal addresses without asking the resolver', async () => {
    let asked = 0;
    const { addresses } = createGuardedLookup({
      allowPrivateAddresses: false,
      resolve: async () => {
        asked++;
        return [ipv4('8.8.8.8')];
      },
    });
    expect((await addresses('127.0.0.1')).ok).toBe(false);
    expect((await addresses('[::1]')).ok).toBe(false);
    expect((await addresses('8.8.4.4')).ok).toBe(true);
    expect(asked).toBe(0);
  });

  test('lets everything pass in development', async () => {
    const { addresses } = createGuardedLookup({
      allowPrivateAddresses: true,
      resolve: async () => [ipv4('127.0.0.1')],
    });
    expect((await addresses('localhost')).ok).toBe(true);
  });

  test('turns resolver errors, empty answers and silence into values', async () => {
    const clock = createFakeClock();
    const answers: Record<string, () => Promise<never[]>> = {
      gone: () => Promise.reject(Object.assign(new Error('x'), { code: 'ENOTFOUND' })),
      odd: () => Promise.reject(null),
      empty: async () => [],
      silent: () => new Promise(() => {}),
    };
    const { addresses, counters } = createGuardedLookup({
      allowPrivateAddresses: false,
      clock,
      resolve: (hostname) => answers[hostname]!(),
    });
    expect(await addresses('gone')).toMatchObject({
      ok: false,
      kind: 'unreachable',
      detail: 'DNS: ENOTFOUND',
    });
    expect(await addresses('odd')).toMatchObject({ ok: false, kind: 'unreachable' });
    expect(await addresses('empty')).toMatchObject({ ok: false, kind: 'unreachable' });
    const silent = addresses('silent');
    await clock.advance(5_000);
    expect(await silent).toMatchObject({ ok: false, kind: 'timeout' });
    expect(counters).toMatchObject({ inFlight: 0, abandoned: 1 });
  });

  test('asks once for many at the same time, and again when its memory has run out', async () => {
    const clock = createFakeClock();
    let asked = 0;
    const { addresses } = createGuardedLookup({
      allowPrivateAddresses: false,
      clock,
      resolve: async () => {
        asked++;
        return [ipv4('8.8.8.8')];
      },
    });
    await Promise.all(Array.from({ length: 50 }, () => addresses('a.example.com')));
    expect(asked).toBe(1);
    await clock.advance(59_000);
    await addresses('a.example.com');
    expect(asked).toBe(1);
    await clock.advance(2_000);
    await addresses('a.example.com');
    expect(asked).toBe(2);
  });

  test('runs few at once and bounds what waits, however many names there are', async () => {
    const clock = createFakeClock();
    let running = 0;
    let most = 0;
    const releases: (() => void)[] = [];
    const { addresses, counters } = createGuardedLookup({
      allowPrivateAddresses: false,
      clock,
      resolve: async () => {
        most = Math.max(most, ++running);
        await new Promise<void>((resolve) => releases.push(resolve));
        running--;
        return [ipv4('8.8.8.8')];
      },
    });
    const all = Array.from({ length: 10_100 }, (_, index) => addresses(`h${index}.example.com`));
    expect(counters.waiting).toBe(10_000);
    expect(counters.overloaded).toBe(10_100 - 10_032);
    while (counters.waiting! > 0 || counters.inFlight! > 0) {
      for (const release of releases.splice(0)) release();
      await Promise.resolve();
    }
    const results = await Promise.all(all);
    expect(most).toBe(32);
    expect(results.filter(({ ok }) => ok).length).toBe(10_032);
  });

  test('a resolver that never answers does not hold up the waiting for ever, nor grow without bound', async () => {
    const clock = createFakeClock();
    let started = 0;
    const { addresses, counters } = createGuardedLookup({
      allowPrivateAddresses: false,
      clock,
      resolve: () => {
        started++;
        return new Promise(() => {});
      },
    });
    const all = Array.from({ length: 2_000 }, (_, index) => addresses(`h${index}.example.com`));
    for (let second = 0; second < 60; second++) await clock.advance(1_000);
    expect(started).toBeLessThanOrEqual(64 + 32);
    expect(counters.abandoned).toBe(started);
    const settled = await Promise.all(all.map((one) => Promise.race([one, Promise.resolve(null)])));
    expect(settled.every((one) => one !== null && !one.ok)).toBe(true);
  });
});

describe('a connection', () => {
  const counting = (address: string) => {
    let asked = 0;
    // The first answer is checked; a second question would be answered with something else (rebinding).
    const guarded = createGuardedLookup({
      allowPrivateAddresses: true,
      resolve: async () => [ipv4(asked++ === 0 ? address : '127.0.0.9')],
    });
    return { ...guarded, asked: () => asked };
  };

  test.each([
    ['node:https', overHttps, `${CERTIFIED_NAME}:${server.port}`],
    ['ws', overWebSocket, 'open'],
  ] as const)(
    'by %s goes to the address that was checked, under the name that was asked for',
    async (_, connect, answer) => {
      const { lookup, addresses, asked } = counting('127.0.0.1');
      expect((await addresses(CERTIFIED_NAME)).ok).toBe(true);
      expect(await connect(CERTIFIED_NAME, lookup)).toBe(answer);
      expect(asked()).toBe(1);
    },
  );

  test.each([
    ['node:https', overHttps],
    ['ws', overWebSocket],
  ] as const)(
    'by %s is not made to a forbidden address, even where the system knows the name',
    async (_, connect) => {
      const { lookup } = createGuardedLookup({
        allowPrivateAddresses: false,
        resolve: async () => [ipv4('127.0.0.1')],
      });
      expect(await connect(CERTIFIED_NAME, lookup)).toBe(`error ${FORBIDDEN_ADDRESS_CODE}`);
      expect(await connect('localhost', lookup)).toBe(`error ${FORBIDDEN_ADDRESS_CODE}`);
    },
  );

  test.each([
    ['node:https', overHttps],
    ['ws', overWebSocket],
  ] as const)('by %s is refused when the certificate is of another name', async (_, connect) => {
    const { lookup } = counting('127.0.0.1');
    expect(await connect('other.weir-test.net', lookup)).toStartWith('error');
  });

  test('falls back to the next checked address when the first does not answer', async () => {
    const { lookup } = createGuardedLookup({
      allowPrivateAddresses: true,
      resolve: async () => [ipv4('127.0.0.2'), ipv4('127.0.0.1')],
    });
    expect(await overWebSocket(CERTIFIED_NAME, lookup)).toBe('open');
  });
});
