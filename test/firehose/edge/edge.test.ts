import { afterEach, describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { createFakeLog, type FakeLog } from './fake-log.ts';
import { type Client, connect, handshake, PATH, range, startEdge, until } from './harness.ts';

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

const start = (log: FakeLog, options: Omit<Parameters<typeof startEdge>[0], 'log'> = {}) => {
  const running = startEdge({ log, ...options });
  cleanups.push(() => running.server.close());
  return running;
};

const opened = (client: Client) => until(() => client.socket.readyState === 1, 'the socket opens');
const got = (client: Client, n: number) =>
  until(() => client.seqs.length >= n, `${n} events, has ${client.seqs.length}`);
/** Lets whatever is under way arrive, to see that nothing more does. */
const settle = () => Bun.sleep(40);

describe('cursors', () => {
  test('without a cursor a consumer gets only what becomes durable after it came', async () => {
    const log = createFakeLog();
    log.write(10);
    const { url, edge } = start(log);
    const client = connect(url);
    await until(() => edge.counters.consumersOpened === 1, 'opened');
    log.write(5);
    await got(client, 5);
    await settle();
    expect(client.seqs).toEqual(range(11, 15));
  });

  test('cursor 0 begins with the oldest event, without a notice', async () => {
    const log = createFakeLog();
    log.write(30);
    log.trimTo(11);
    const { url } = start(log);
    const client = connect(url, { cursor: 0 });
    await got(client, 20);
    expect(client.seqs).toEqual(range(11, 30));
    expect(client.messages.every((message) => message.header.t === '#identity')).toBe(true);
  });

  test('every cursor inside the window gives each later event exactly once, then goes on live', async () => {
    const log = createFakeLog();
    log.write(60);
    log.trimTo(21);
    const { url } = start(log);
    const clients = range(20, 60).map((cursor) => ({ cursor, client: connect(url, { cursor }) }));
    await Promise.all(clients.map(({ client }) => opened(client)));
    log.write(5);
    await Promise.all(clients.map(({ cursor, client }) => got(client, 65 - cursor)));
    await settle();
    for (const { cursor, client } of clients) expect(client.seqs).toEqual(range(cursor + 1, 65));
  });

  test('a cursor older than the window gets OutdatedCursor first, then the oldest event', async () => {
    const log = createFakeLog();
    log.write(30);
    log.trimTo(21);
    const { url, edge } = start(log);
    const client = connect(url, { cursor: 5 });
    await got(client, 10);
    expect(client.messages[0]!.header).toEqual({ op: 1, t: '#info' });
    expect(client.messages[0]!.body.name).toBe('OutdatedCursor');
    expect(client.seqs).toEqual(range(21, 30));
    expect(edge.counters.outdatedCursor).toBe(1);
  });

  test('a cursor above the newest seq gets an error frame FutureCursor and is closed with 1008', async () => {
    const log = createFakeLog();
    log.write(3);
    const { url, edge } = start(log);
    const client = connect(url, { cursor: 4 });
    await until(() => client.closed !== null, 'closed');
    expect(client.messages).toHaveLength(1);
    expect(client.messages[0]!.header).toEqual({ op: -1 });
    expect(client.messages[0]!.body.error).toBe('FutureCursor');
    expect(client.closed).toEqual({ code: 1008, reason: 'FutureCursor' });
    expect(edge.consumers()).toEqual([]);
  });

  test('an empty log serves cursor 0 and live, and calls 1 the future', async () => {
    const log = createFakeLog();
    const { url } = start(log);
    const [oldest, live, future] = [connect(url, { cursor: 0 }), connect(url), connect(url, { cursor: 1 })];
    await Promise.all([opened(oldest), opened(live)]);
    await until(() => future.closed !== null, 'closed');
    log.write(2);
    await Promise.all([got(oldest, 2), got(live, 2)]);
    expect(oldest.seqs).toEqual([1, 2]);
    expect(live.seqs).toEqual([1, 2]);
    expect(future.closed?.reason).toBe('FutureCursor');
  });

  test('a log that was emptied by retention still tells an old cursor so', async () => {
    const log = createFakeLog({ firstSeq: 101 });
    const { url } = start(log);
    const client = connect(url, { cursor: 50 });
    await until(() => client.messages.length === 1, 'the notice');
    log.write(1);
    await got(client, 1);
    expect(client.messages[0]!.body.name).toBe('OutdatedCursor');
    expect(client.seqs).toEqual([101]);
  });

  test('skipped accounts leave no duplicates and no stop behind, at the end of the log too', async () => {
    const log = createFakeLog({ didHashOf: (seq) => seq % 3 });
    log.setSkippedDids(new Set([0]));
    log.write(30);
    const { url } = start(log);
    const early = connect(url, { cursor: 0 });
    const atEnd = connect(url, { cursor: 30 });
    const live = connect(url);
    await Promise.all([opened(early), opened(atEnd), opened(live)]);
    await got(early, 20);
    for (let round = 0; round < 10; round++) {
      log.write(3);
      await Bun.sleep(3);
    }
    const kept = range(1, 60).filter((seq) => seq % 3 !== 0);
    await Promise.all([got(early, 40), got(atEnd, 20), got(live, 20)]);
    expect(early.seqs).toEqual(kept);
    expect(atEnd.seqs).toEqual(kept.filter((seq) => seq > 30));
    expect(live.seqs).toEqual(kept.filter((seq) => seq > 30));
  });
});

describe('before the upgrade', () => {
  const upgrade = (url: string, query: string, init: RequestInit = {}) =>
    fetch(`${url}${PATH}${query}`, {
      ...init,
      headers: {
        connection: 'Upgrade',
        upgrade: 'websocket',
        'sec-websocket-version': '13',
        'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
      },
    });

  test('another method is 405 and says which is allowed', async () => {
    const { url } = start(createFakeLog());
    const answer = await fetch(`${url}${PATH}`, { method: 'POST' });
    expect(answer.status).toBe(405);
    expect(answer.headers.get('allow')).toBe('GET');
    expect(Object.keys((await answer.json()) as object)).toEqual(['error', 'message']);
  });

  test('a plain GET is 426', async () => {
    const { url } = start(createFakeLog());
    const answer = await fetch(`${url}${PATH}`);
    expect(answer.status).toBe(426);
    expect(answer.headers.get('server')).toContain('(atproto-relay)');
    expect(answer.headers.get('access-control-allow-origin')).toBe('*');
  });

  test.each([
    'cursor=',
    'cursor=-1',
    'cursor=1.5',
    'cursor=abc',
    'cursor=0x10',
    'cursor=1e3',
    'cursor=9007199254740992',
    'cursor=99999999999999999999999',
    'cursor=1&cursor=2',
    'cursor=%00',
    'cursor=+1',
  ])('a bad cursor (%s) is 400 with a reason', async (query) => {
    const log = createFakeLog();
    log.write(5);
    const { url, edge } = start(log);
    const answer = await upgrade(url, `?${query}`);
    expect(answer.status).toBe(400);
    expect(((await answer.json()) as { error: string }).error).toBe('InvalidRequest');
    expect(edge.counters.refusedCursor).toBe(1);
  });

  test('the upgrade itself carries the Server header', async () => {
    const { server } = start(createFakeLog());
    let head = '';
    const socket = await Bun.connect({
      hostname: '127.0.0.1',
      port: server.port,
      socket: {
        data: (_, data) => {
          head += data.toString();
        },
      },
    });
    socket.write(
      `GET ${PATH} HTTP/1.1\r\nHost: x\r\nOrigin: https://elsewhere.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
        'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n',
    );
    await until(() => head.includes('\r\n\r\n'), 'an answer');
    expect(head).toStartWith('HTTP/1.1 101');
    expect(head.toLowerCase()).toMatch(/server: weir\/\S+ \(atproto-relay\)/);
    socket.end();
  });

  test('the total limit is 429 with Retry-After, and a place that is left can be taken again', async () => {
    const { url, edge } = start(createFakeLog(), { limits: { maxConsumers: 2 } });
    const [first, second] = [connect(url), connect(url)];
    await Promise.all([opened(first), opened(second)]);
    const answer = await upgrade(url, '');
    expect(answer.status).toBe(429);
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(edge.counters.refusedTotalLimit).toBe(1);
    first.socket.close();
    await until(() => edge.consumers().length === 1, 'one left');
    const third = connect(url);
    await opened(third);
  });

  test('the limit per address counts forwarded addresses, IPv6 by /64, and not this machine', async () => {
    const { url, edge } = start(createFakeLog(), { limits: { maxConsumersPerAddress: 1 } });
    const from = (address: string) =>
      new WebSocket(`${url.replace('http', 'ws')}${PATH}`, {
        headers: { 'x-forwarded-for': `203.0.113.9, ${address}` },
      } as never);
    const refused = async (address: string) => {
      const before = edge.counters.refusedAddressLimit;
      const socket = from(address);
      socket.onerror = () => {};
      await until(() => socket.readyState === 3, 'refused');
      return edge.counters.refusedAddressLimit - before;
    };
    const sockets = [from('198.51.100.1'), from('2001:db8:1:2::1'), from('127.0.0.1'), from('127.0.0.1')];
    await until(() => sockets.every((socket) => socket.readyState === 1), 'all open');
    expect(await refused('198.51.100.1')).toBe(1);
    expect(await refused('2001:db8:1:2:ffff::2')).toBe(1);
    const other = from('2001:db8:1:3::1');
    await until(() => other.readyState === 1, 'another network');
    expect(edge.consumers().map((consumer) => consumer.remoteAddress)).toContain('198.51.100.1');
  });
});

describe('slow consumers', () => {
  test('a stalled consumer costs a bounded queue, delays nobody, and gets everything when it goes on', async () => {
    const log = createFakeLog();
    const { url, edge } = start(log);
    const [stalled, healthy] = [connect(url), connect(url)];
    await Promise.all([opened(stalled), opened(healthy)]);
    (stalled.socket as unknown as { pause(): void }).pause();
    let mostQueued = 0;
    // Far more than socket buffers hold.
    for (let round = 0; round < 40; round++) {
      log.write(100, 10_000);
      await got(healthy, (round + 1) * 100);
      mostQueued = Math.max(mostQueued, ...edge.consumers().map((consumer) => consumer.queuedBytes));
    }
    expect(edge.counters.backpressure).toBeGreaterThan(0);
    expect(mostQueued).toBeGreaterThan(0);
    expect(mostQueued).toBeLessThan(200_000);
    expect(log.openCursors).toBeLessThanOrEqual(2);
    expect(stalled.seqs.length).toBeLessThan(4000);
    (stalled.socket as unknown as { resume(): void }).resume();
    await got(stalled, 4000);
    log.write(3);
    await Promise.all([got(stalled, 4003), got(healthy, 4003)]);
    expect(stalled.seqs).toEqual(range(1, 4003));
    expect(healthy.seqs).toEqual(range(1, 4003));
    expect(edge.counters.rescued).toBe(0);
  });

  test('who takes nothing for too long is told ConsumerTooSlow and closed with 1008', async () => {
    const log = createFakeLog();
    const { url, edge } = start(log, { limits: { stallMs: 150 } });
    const stalled = connect(url);
    await opened(stalled);
    (stalled.socket as unknown as { pause(): void }).pause();
    log.write(1500, 10_000);
    await until(() => edge.counters.tooSlow === 1, 'called too slow');
    expect(edge.consumers()).toEqual([]);
    (stalled.socket as unknown as { resume(): void }).resume();
    await until(() => stalled.closed !== null, 'closed');
    expect(stalled.closed).toEqual({ code: 1008, reason: 'ConsumerTooSlow' });
    expect(stalled.messages.at(-1)!.body.error).toBe('ConsumerTooSlow');
    const seqs = stalled.seqs;
    expect(seqs).toEqual(range(1, seqs.length));
  });

  test('who falls out of the window is told ConsumerTooSlow', async () => {
    const log = createFakeLog();
    const { url, edge } = start(log);
    const stalled = connect(url);
    await opened(stalled);
    (stalled.socket as unknown as { pause(): void }).pause();
    log.write(1500, 10_000);
    await until(() => edge.consumers()[0]?.mode === 'blocked', 'blocked');
    log.trimTo(1500);
    await until(() => edge.counters.tooSlow === 1, 'called too slow');
    (stalled.socket as unknown as { resume(): void }).resume();
    await until(() => stalled.closed !== null, 'closed');
    expect(stalled.closed).toEqual({ code: 1008, reason: 'ConsumerTooSlow' });
  });

  test('whatever stops and goes, everybody gets everything once, in order', async () => {
    const plan = fc.array(
      fc.record({
        write: fc.integer({ min: 0, max: 120 }),
        bytes: fc.constantFrom(10, 1_000, 20_000),
        toggle: fc.integer({ min: 0, max: 5 }),
        waitMs: fc.constantFrom(0, 0, 1, 4),
      }),
      { minLength: 5, maxLength: 40 },
    );
    await fc.assert(
      fc.asyncProperty(plan, fc.array(fc.nat(50), { maxLength: 3 }), async (steps, cursors) => {
        const log = createFakeLog();
        log.write(50, 1_000);
        const { url, edge, server } = startEdge({ log, limits: { replaySliceBytes: 20_000 } });
        const clients = [
          ...[0, 50].map((cursor) => ({ cursor, client: connect(url, { cursor, decode: false }) })),
          ...cursors.map((cursor) => ({ cursor, client: connect(url, { cursor, decode: false }) })),
        ];
        await Promise.all(clients.map(({ client }) => opened(client)));
        const paused = new Set<number>();
        let total = 50;
        for (const step of steps) {
          log.write(step.write, step.bytes);
          total += step.write;
          const index = step.toggle % clients.length;
          const socket = clients[index]!.client.socket as unknown as { pause(): void; resume(): void };
          if (paused.delete(index)) socket.resume();
          else {
            paused.add(index);
            socket.pause();
          }
          await Bun.sleep(step.waitMs);
        }
        for (const index of paused) (clients[index]!.client.socket as unknown as { resume(): void }).resume();
        await Promise.all(clients.map(({ cursor, client }) => got(client, total - cursor)));
        for (const { cursor, client } of clients) expect(client.seqs).toEqual(range(cursor + 1, total));
        expect(edge.counters.rescued).toBe(0);
        expect(edge.counters.tooSlow).toBe(0);
        await server.close();
        expect(log.openCursors).toBe(0);
      }),
      { numRuns: 15 },
    );
  }, 30_000);

  test('the live ones read the log once per batch together, however many they are', async () => {
    const log = createFakeLog();
    const { url, edge } = start(log);
    const clients = Array.from({ length: 30 }, () => connect(url));
    await Promise.all(clients.map(opened));
    await until(() => edge.counters.liveConsumers === 30, 'all live');
    const before = log.reads;
    log.write(100);
    await Promise.all(clients.map((client) => got(client, 100)));
    // One read with the batch, one that finds the end, perhaps twice over.
    expect(log.reads - before).toBeLessThanOrEqual(4);
    expect(edge.counters.deliveries).toBe(3000);
  });
});

describe('keepalive', () => {
  test('idle consumers are pinged, and one that answers stays', async () => {
    const { url, edge } = start(createFakeLog(), { limits: { pingIntervalMs: 30 } });
    const client = connect(url);
    await opened(client);
    await until(() => edge.counters.pings >= 5, 'five pings');
    expect(edge.counters.pongTimeouts).toBe(0);
    expect(client.closed).toBeNull();
  });

  const silent = async (port: number) => {
    const socket = await Bun.connect({ hostname: '127.0.0.1', port, socket: { data() {} } });
    socket.write(
      `GET ${PATH}?cursor=0 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
        'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n',
    );
    return socket;
  };

  test('an idle one that never answers is closed after two periods', async () => {
    const { server, edge } = start(createFakeLog(), { limits: { pingIntervalMs: 30 } });
    const socket = await silent(server.port);
    await until(() => edge.counters.pongTimeouts === 1, 'given up');
    expect(edge.consumers()).toEqual([]);
    socket.end();
  });

  test('one with data under way is judged by progress, not by its pong', async () => {
    const log = createFakeLog();
    log.write(10);
    const { server, edge } = start(log, { limits: { pingIntervalMs: 20, stallMs: 60_000 } });
    const socket = await silent(server.port);
    await until(() => edge.counters.pings >= 6, 'six pings without an answer');
    expect(edge.counters.pongTimeouts).toBe(0);
    expect(edge.consumers()).toHaveLength(1);
    socket.end();
  });
});

describe('odds and ends', () => {
  test('no subprotocol that a consumer offers is agreed to', async () => {
    const { url } = start(createFakeLog());
    for (const offered of [[], ['anything'], ['a, b'], ['xrpc.v1.json']]) {
      const headers = await handshake(url, PATH, offered);
      expect(headers.get('server')).toContain('(atproto-relay)');
      expect(headers.get('sec-websocket-protocol')).toBeNull();
    }
  });

  test('what a consumer says is ignored', async () => {
    const log = createFakeLog();
    const { url, edge } = start(log);
    const client = connect(url);
    await opened(client);
    client.socket.send('hello');
    client.socket.send(new Uint8Array(1000));
    await until(() => edge.counters.clientMessages === 2, 'both arrived');
    log.write(1);
    await got(client, 1);
    expect(client.seqs).toEqual([1]);
  });

  test('a shutdown hands out what is durable, then closes with 1001', async () => {
    const log = createFakeLog();
    const { url, edge, server } = start(log, { limits: { flushIntervalMs: 60_000 } });
    const client = connect(url);
    await opened(client);
    await until(() => edge.counters.liveConsumers === 1, 'live');
    log.write(1);
    await got(client, 1);
    // The next flush is a minute away.
    log.write(20);
    await server.close();
    await until(() => client.closed !== null, 'closed');
    expect(client.seqs).toEqual(range(1, 21));
    expect(client.closed!.code).toBe(1001);
    expect(log.openCursors).toBe(0);
  });

  test('damage in our own log is not swallowed', async () => {
    const log = createFakeLog();
    log.write(5);
    const failures: unknown[] = [];
    const broken = {
      ...Object.defineProperties({} as FakeLog, Object.getOwnPropertyDescriptors(log)),
      openCursor: () => {
        throw new Error('damaged');
      },
    };
    Object.defineProperties(broken, {
      lastSeq: { get: () => log.lastSeq },
      oldestSeq: { get: () => log.oldestSeq },
    });
    const { url } = start(broken as FakeLog, { onLogFailure: (error) => void failures.push(error) });
    const client = connect(url, { cursor: 0 });
    await until(() => client.closed !== null, 'closed');
    expect(client.closed!.code).toBe(1011);
    expect(String(failures[0])).toContain('damaged');
  });

  test('views tell where each consumer stands', async () => {
    const log = createFakeLog();
    log.write(7);
    const { url, edge } = start(log);
    const client = connect(url, { cursor: 2 });
    await got(client, 5);
    const [view] = edge.consumers();
    expect(view).toMatchObject({ seq: 7, behind: 0, mode: 'live', eventsSent: 5 });
    expect(view!.bytesSent).toBe(client.bytes);
  });
});
