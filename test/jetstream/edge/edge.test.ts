/** The Jetstream edge on a real server, with a real log and real sockets. */
import { afterEach, describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { createCompression } from '../../../jetstream/compress/compression.ts';
import { decompress } from '../../../jetstream/compress/decompress.ts';
import { readFrameHeader } from '../../../jetstream/compress/frame-header.ts';
import { loadOwnDictionary } from '../../../jetstream/dictionary/dictionary.ts';
import { createDictionaries } from '../../../jetstream/dictionary/registry.ts';
import { V1_PATH, V2_PATH } from '../../../jetstream/edge/edge.ts';
import { MAX_OPTIONS_UPDATE_BYTES } from '../../../jetstream/filter/limits.ts';
import { MAX_RECEIVED_MESSAGE_BYTES } from '../../../src/api/server.ts';
import { createFirehoseEdge } from '../../../src/firehose/edge/edge.ts';
import type { Log, LogEntry } from '../../../src/log/types.ts';
import { handshake, until } from '../../firehose/edge/harness.ts';
import {
  type Client,
  connect,
  directory,
  messagesOf,
  openSmallLog,
  simulatedEntries,
  startEdge,
} from './harness.ts';

const entries = await simulatedEntries(600, 5);

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

let nowUs = 1_790_000_000_000_000;
const write = (log: Log, from: readonly LogEntry[]): void => {
  for (const entry of from) {
    nowUs += 100;
    log.append(entry, nowUs);
  }
};

const start = async (
  options: Omit<Parameters<typeof startEdge>[0], 'log'> = {},
  more?: Parameters<typeof startEdge>[1],
) => {
  const { path, remove } = directory();
  cleanups.push(remove);
  const log = await openSmallLog(path);
  cleanups.push(() => log.close());
  const running = startEdge({ log, ...options }, more);
  cleanups.push(() => running.server.close());
  return { log, path, ...running };
};
const opened = (client: Client) => until(() => client.socket.readyState === 1, 'the socket opens');
const got = (client: Client, n: number) =>
  until(() => client.messages.length >= n, `${n} messages, has ${client.messages.length}`);
const timeOf = (message: string): number => (JSON.parse(message) as { time_us: number }).time_us;
/** Fails with the place where they part, not with megabytes of messages. */
const same = (got: readonly string[], expected: readonly string[]): void => {
  const at = expected.findIndex((message, index) => message !== got[index]);
  expect({ count: got.length, partAt: at, there: at < 0 ? '' : got[at]?.slice(0, 120) }).toEqual({
    count: expected.length,
    partAt: -1,
    there: '',
  });
};
const settle = () => Bun.sleep(40);

describe('cursors', () => {
  test('every kind of cursor gives each later event once, from disk, memory and live, and again after a restart', async () => {
    const { log, url, path, server } = await start();
    write(log, entries.slice(0, 400));
    await log.whenDurable(400);
    const all = messagesOf(log, 'v1');
    const times = all.map(timeOf);
    expect(times).toEqual([...new Set(times)].sort((a, b) => a - b));
    // Every 7th message as a cursor by time, and a µs after it, which lies amid the ops of a commit for some.
    const picks = times.map((_, index) => index).filter((index) => index % 37 === 0);
    const clients = picks.flatMap((index) => [
      { from: index, client: connect(url, `${V1_PATH}?cursor=${times[index]}`) },
      { from: index + 1, client: connect(url, `${V1_PATH}?cursor=${times[index]! + 1}&compress=true`) },
    ]);
    await Promise.all(clients.map(({ client }) => opened(client)));
    write(log, entries.slice(400, 450));
    await log.whenDurable(450);
    const more = messagesOf(log, 'v1');
    same(more.slice(0, all.length), all);
    await Promise.all(clients.map(({ from, client }) => got(client, more.length - from)));
    await settle();
    for (const { from, client } of clients) same(client.messages, more.slice(from));

    await server.close();
    await log.close();
    const again = await openSmallLog(path);
    cleanups.push(() => again.close());
    const running = startEdge({ log: again });
    cleanups.push(() => running.server.close());
    same(messagesOf(again, 'v1'), more);
    const last = connect(running.url, `${V1_PATH}?cursor=${times.at(-3)}`);
    const bySeq = connect(running.url, `${V2_PATH}?cursor=200`);
    await opened(last);
    write(again, entries.slice(450, 460));
    await again.whenDurable(460);
    const end = messagesOf(again, 'v1');
    await got(last, end.length - all.length + 3);
    same(last.messages, end.slice(all.length - 3));
    const v2 = messagesOf(again, 'v2').filter((message) => JSON.parse(message).payload.seq >= 200);
    await got(bySeq, v2.length);
    same(bySeq.messages, v2);
  });

  test('none, or one in the future, means live; one before the window, the oldest event', async () => {
    const { log, url, edge } = await start();
    write(log, entries.slice(0, 20));
    await log.whenDurable(20);
    const before = messagesOf(log, 'v1').length;
    const live = [
      connect(url, V1_PATH),
      connect(url, `${V1_PATH}?cursor=${Date.now() * 1000 + 1e12}`),
      connect(url, `${V1_PATH}?cursor=21`),
      connect(url, `${V1_PATH}?cursor=1000000`),
    ];
    const old = [
      connect(url, `${V1_PATH}?cursor=0`),
      connect(url, `${V1_PATH}?cursor=-5`),
      connect(url, `${V1_PATH}?cursor=1500000000000000`),
    ];
    await Promise.all([...live, ...old].map(opened));
    await until(() => edge.counters.liveConsumers === 7, 'all live');
    write(log, entries.slice(20, 30));
    await log.whenDurable(30);
    const all = messagesOf(log, 'v1');
    for (const client of live) await got(client, all.length - before);
    for (const client of old) await got(client, all.length);
    await settle();
    for (const client of live) same(client.messages, all.slice(before));
    for (const client of old) same(client.messages, all);
    expect(edge.stats.cursors).toMatchObject({ live: 1, future: 3 });
  });

  test('older than the window: v1 begins with the oldest event; v2 is refused by seq, and told by time', async () => {
    const { path, remove } = directory();
    cleanups.push(remove);
    const log = await openSmallLog(path, { maxBytes: 500_000 });
    cleanups.push(() => log.close());
    const firstUs = nowUs + 100;
    for (let at = 0; at < 600; at += 50) {
      write(log, entries.slice(at, at + 50));
      await log.whenDurable(log.appendedSeq);
    }
    log.retain(nowUs);
    expect(log.oldestSeq).toBeGreaterThan(1);
    const { url, server } = startEdge({ log });
    cleanups.push(() => server.close());
    const [v1, v2] = [messagesOf(log, 'v1'), messagesOf(log, 'v2')];
    const clients = [connect(url, `${V1_PATH}?cursor=1`), connect(url, `${V1_PATH}?cursor=${firstUs}`)];
    const told = connect(url, `${V2_PATH}?cursor=${firstUs}`);
    const exact = connect(url, `${V2_PATH}?cursor=${log.oldestSeq}`);
    for (const client of clients) await got(client, v1.length);
    await got(told, v2.length + 1);
    await got(exact, v2.length);
    for (const client of clients) same(client.messages, v1);
    expect(JSON.parse(told.messages[0]!)).toMatchObject({
      $type: 'message',
      payload: { $type: 'network.bsky.jetstream.subscribeEvents#info', name: 'OutdatedCursor' },
    });
    same(told.messages.slice(1), v2);
    same(exact.messages, v2);
    const answer = await fetch(`${url}${V2_PATH}?cursor=${log.oldestSeq - 1}`, { headers: upgradeHeaders });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toEqual({
      error: 'CursorTooOld',
      message: `the oldest seq is ${log.oldestSeq}`,
    });
  });
});

const upgradeHeaders = {
  connection: 'Upgrade',
  upgrade: 'websocket',
  'sec-websocket-version': '13',
  'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
};

describe('before the upgrade', () => {
  test.each([
    ['cursor=abc', 'invalid cursor: abc'],
    ['wantedCollections=a,b', 'invalid subscriber options: invalid collection: a,b'],
    ['wantedDids=nobody', 'invalid subscriber options: invalid DID: nobody'],
  ])('v1 refuses %s in plain text', async (query, words) => {
    const { url } = await start();
    const answer = await fetch(`${url}${V1_PATH}?${query}`, { headers: upgradeHeaders });
    expect(answer.status).toBe(400);
    expect(answer.headers.get('content-type')).toStartWith('text/plain');
    expect(answer.headers.get('access-control-allow-origin')).toBe('*');
    expect((await answer.text()).trim()).toBe(words);
  });

  test.each([
    ['wantedDids=did:plc:aaaaaaaaaaaaaaaaaaaaaaaa', 'InvalidRequest'],
    ['kinds=everything', 'InvalidRequest'],
    ['zstdDictionary=12345', 'UnknownZstdDictionary'],
  ])('v2 refuses %s as XRPC does', async (query, error) => {
    const { url } = await start();
    const answer = await fetch(`${url}${V2_PATH}?${query}`, { headers: upgradeHeaders });
    expect(answer.status).toBe(400);
    expect(((await answer.json()) as { error: string }).error).toBe(error);
  });

  test('what is no upgrade is 426, another method 405, one client too many 429', async () => {
    const { url } = await start({ limits: { maxConsumers: 1 } });
    for (const path of [V1_PATH, V2_PATH]) {
      expect((await fetch(`${url}${path}`)).status).toBe(426);
      expect((await fetch(`${url}${path}`, { method: 'POST' })).status).toBe(405);
    }
    await opened(connect(url, V1_PATH));
    for (const path of [V1_PATH, V2_PATH]) {
      const answer = await fetch(`${url}${path}`, { headers: upgradeHeaders });
      expect(answer.status).toBe(429);
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    }
  });

  test('the subprotocol of v2 is echoed where it is offered, also beside others, and not asked for', async () => {
    const { url } = await start();
    for (const protocols of [['xrpc.v1.json'], ['other', 'xrpc.v1.json']]) {
      const client = connect(url, V2_PATH, { protocols });
      await opened(client);
      expect(client.socket.protocol).toBe('xrpc.v1.json');
    }
    await opened(connect(url, V2_PATH));
  });

  test('no other subprotocol is agreed to, and none of v1', async () => {
    const { url } = await start();
    for (const [path, offered] of [
      [V1_PATH, ['xrpc.v1.json']],
      [V1_PATH, ['other, another']],
      [V2_PATH, ['other, another']],
      [V2_PATH, []],
    ] as const) {
      expect((await handshake(url, path, offered)).get('sec-websocket-protocol')).toBeNull();
    }
  });
});

describe('what clients say', () => {
  const update = (payload: object): string => JSON.stringify({ type: 'options_update', payload });

  test('with requireHello nothing comes before the first options_update, then everything from the cursor', async () => {
    const { log, url, edge } = await start();
    write(log, entries.slice(0, 30));
    await log.whenDurable(30);
    const client = connect(url, `${V1_PATH}?requireHello=true&cursor=1`);
    await opened(client);
    await settle();
    expect(client.messages).toEqual([]);
    client.socket.send('{"type":"something_else"}');
    await until(() => edge.counters.ignoredMessages === 1, 'ignored');
    await settle();
    expect(client.messages).toEqual([]);
    client.socket.send(update({}));
    const all = messagesOf(log, 'v1');
    await got(client, all.length);
    same(client.messages, all);
  });

  test('an options_update replaces all filters from the next event on, and bad ones close with 1000 and why', async () => {
    const { log, url, edge } = await start();
    const client = connect(url, `${V1_PATH}?wantedCollections=com.example.nothing`);
    await opened(client);
    await until(() => edge.counters.liveConsumers === 1, 'live');
    write(log, entries.slice(0, 30));
    await log.whenDurable(30);
    const before = messagesOf(log, 'v1');
    const others = before.filter((message) => JSON.parse(message).kind !== 'commit');
    await got(client, others.length);
    await settle();
    client.socket.send(update({ wantedCollections: [], wantedDids: [], maxMessageSizeBytes: 0 }));
    await until(() => edge.counters.optionsUpdates === 1, 'updated');
    write(log, entries.slice(30, 60));
    await log.whenDurable(60);
    const all = messagesOf(log, 'v1');
    await got(client, others.length + all.length - before.length);
    same(client.messages, [...others, ...all.slice(before.length)]);
    client.socket.send(update({ wantedCollections: ['nonsense'] }));
    await until(() => client.closed !== null, 'closed');
    expect(client.closed).toEqual({
      code: 1000,
      reason: 'invalid subscriber options: invalid collection: nonsense',
    });
    await until(() => edge.stats.disconnects.bad_options === 1, 'counted');
  });

  test('an update of 10,000 DIDs and one of nearly 10 MB are taken, a longer one and binary are ignored', async () => {
    const { log, url, edge } = await start();
    const client = connect(url, V1_PATH);
    await opened(client);
    const dids = Array.from(
      { length: 10_000 },
      (_, index) =>
        `did:plc:${index
          .toString(32)
          .replace(/[^a-z2-7]/g, 'a')
          .padStart(24, 'a')}`,
    );
    client.socket.send(update({ wantedDids: dids }));
    await until(() => edge.counters.optionsUpdates === 1, 'taken');
    client.socket.send(update({ wantedDids: [], padding: 'x'.repeat(9_999_900) }));
    await until(() => edge.counters.optionsUpdates === 2, 'taken');
    client.socket.send(update({ wantedDids: dids, padding: 'x'.repeat(10_000_001) }));
    client.socket.send(new Uint8Array(100));
    await until(() => edge.counters.ignoredMessages === 2, 'ignored');
    expect(client.closed).toBeNull();
    write(log, entries.slice(0, 10));
    await log.whenDurable(10);
    await got(client, messagesOf(log, 'v1').length);
  });

  test('no more is received of a message than v1 needs in order to ignore it', async () => {
    expect(MAX_RECEIVED_MESSAGE_BYTES).toBeGreaterThan(MAX_OPTIONS_UPDATE_BYTES);
    expect(MAX_RECEIVED_MESSAGE_BYTES).toBeLessThan(MAX_OPTIONS_UPDATE_BYTES * 1.05);
    const { url, edge } = await start();
    const client = connect(url, V1_PATH);
    await opened(client);
    client.socket.send('x'.repeat(MAX_RECEIVED_MESSAGE_BYTES));
    await until(() => edge.counters.ignoredMessages === 1, 'ignored');
    expect(client.closed).toBeNull();
    client.socket.send('x'.repeat(MAX_RECEIVED_MESSAGE_BYTES + 1));
    await until(() => client.closed !== null, 'closed');
    expect(edge.counters.clientMessages).toBe(1);
  });

  test('who keeps sending updates of many megabytes is closed', async () => {
    const { url, edge } = await start({ limits: { maxOptionsBytesPerWindow: 100_000 } });
    const client = connect(url, V1_PATH);
    await opened(client);
    for (let count = 0; count < 4; count++) client.socket.send(update({ padding: 'x'.repeat(30_000) }));
    await until(() => client.closed !== null, 'closed');
    expect(client.closed!.code).toBe(1008);
    expect(edge.counters.optionsUpdates).toBe(3);
  });

  test('a client of v2 that sends anything is closed with 1008', async () => {
    const { url } = await start();
    for (const message of ['hello', new Uint8Array(3), update({})]) {
      const client = connect(url, V2_PATH);
      await opened(client);
      client.socket.send(message);
      await until(() => client.closed !== null, 'closed');
      expect(client.closed!.code).toBe(1008);
    }
  });

  test('on the same server a consumer of the firehose may not send that much', async () => {
    const path = '/xrpc/com.atproto.sync.subscribeRepos';
    const { path: dir, remove } = directory();
    cleanups.push(remove);
    const log = await openSmallLog(dir);
    cleanups.push(() => log.close());
    const { url } = await start({}, { [path]: createFirehoseEdge({ log }) });
    const [small, large] = [connect(url, path), connect(url, path)];
    await Promise.all([opened(small), opened(large)]);
    small.socket.send('x'.repeat(64 * 1024));
    large.socket.send('x'.repeat(64 * 1024 + 1));
    await until(() => large.closed !== null, 'closed');
    expect(large.closed!.code).toBe(1009);
    expect(small.closed).toBeNull();
  });
});

describe('zstd', () => {
  test('v1 frames need no dictionary here, those of v2 name the one that was asked for; both hold the very text', async () => {
    const own = loadOwnDictionary();
    if (!own.ok) throw new Error(own.problem);
    const { dictionary } = own;
    const dictionaries = createDictionaries([dictionary]);
    const { log, url, edge } = await start({
      compression: createCompression({ v1Dictionary: null, dictionaries }),
    });
    const refused = await fetch(`${url}${V2_PATH}?zstdDictionary=5`, { headers: upgradeHeaders });
    expect(await refused.json()).toEqual({
      error: 'UnknownZstdDictionary',
      message: `the current dictionary is ${dictionary.id}`,
    });
    write(log, entries.slice(0, 50));
    await log.whenDurable(50);
    const [v1, v2] = [messagesOf(log, 'v1'), messagesOf(log, 'v2')];
    const frames: Uint8Array[][] = [];
    const sockets = [
      new WebSocket(`${url.replace('http', 'ws')}${V1_PATH}?cursor=1&compress=true`),
      new WebSocket(`${url.replace('http', 'ws')}${V1_PATH}?cursor=1`, {
        headers: { 'socket-encoding': 'zstd' },
      } as never),
      new WebSocket(`${url.replace('http', 'ws')}${V2_PATH}?cursor=1&zstdDictionary=${dictionary.id}`),
    ];
    for (const [index, socket] of sockets.entries()) {
      const got: Uint8Array[] = [];
      frames[index] = got;
      socket.binaryType = 'arraybuffer';
      socket.onmessage = ({ data }) => got.push(new Uint8Array(data as ArrayBuffer));
    }
    await until(
      () =>
        frames[0]!.length === v1.length && frames[1]!.length === v1.length && frames[2]!.length === v2.length,
      'all',
    );
    const text = (frame: Uint8Array, known: typeof dictionary | null): string => {
      const content = decompress(frame, known, 1_000_000);
      if (!content.ok) throw new Error(content.problem);
      return new TextDecoder().decode(content.bytes);
    };
    for (const index of [0, 1])
      same(
        frames[index]!.map((frame) => text(frame, null)),
        v1,
      );
    same(
      frames[2]!.map((frame) => text(frame, dictionary)),
      v2,
    );
    for (const frame of frames[2]!) expect(readFrameHeader(frame)!.dictionaryId).toBe(dictionary.id);
    for (const frame of frames[0]!) expect(readFrameHeader(frame)).toMatchObject({ dictionaryId: 0 });
    expect(edge.counters.compressions).toBe(v1.length + v2.length);
    expect(edge.stats.formats).toMatchObject([
      { version: 'v1', compression: 'none', clients: 0 },
      { version: 'v1', compression: 'zstd', clients: 2, events: 2 * v1.length },
      { version: 'v2', compression: 'zstd', clients: 1, events: v2.length },
    ]);
    for (const socket of sockets) socket.close();
  });
});

describe('slow clients', () => {
  test('one that stalls costs a bounded queue, delays nobody, and gets everything when it goes on', async () => {
    const { log, url, edge } = await start();
    const [stalled, healthy] = [connect(url, V1_PATH), connect(url, `${V2_PATH}?kinds=commit`)];
    await Promise.all([opened(stalled), opened(healthy)]);
    await until(() => edge.counters.liveConsumers === 2, 'live');
    stalled.socket.pause();
    let mostQueued = 0;
    for (let round = 0; round < 40; round++) {
      write(log, entries);
      await log.whenDurable(log.appendedSeq);
      mostQueued = Math.max(mostQueued, ...edge.consumers().map((consumer) => consumer.queuedBytes));
    }
    const all = messagesOf(log, 'v1');
    await until(() => edge.consumers().some(({ mode }) => mode === 'blocked'), 'blocked');
    expect(mostQueued).toBeLessThan(1_000_000);
    expect(stalled.messages.length).toBeLessThan(all.length);
    await until(() => healthy.messages.length >= all.length - 1_000, 'the healthy one is there');
    stalled.socket.resume();
    await got(stalled, all.length);
    same(stalled.messages, all);
    expect(edge.counters.rescued).toBe(0);
    expect(edge.counters.cachedBytes).toBeLessThan(40 * 1024 * 1024);
  }, 20_000);

  test('who takes nothing for too long is closed with 1008 ConsumerTooSlow, and v2 is told in a message', async () => {
    const { log, url, edge } = await start({ limits: { stallMs: 150 } });
    const clients = [connect(url, V1_PATH), connect(url, V2_PATH)];
    await Promise.all(clients.map(opened));
    for (const { socket } of clients) socket.pause();
    for (let round = 0; round < 40; round++) write(log, entries);
    await log.whenDurable(log.appendedSeq);
    await until(() => edge.counters.tooSlow === 2, 'called too slow');
    for (const { socket } of clients) socket.resume();
    for (const client of clients) {
      await until(() => client.closed !== null, 'closed');
      expect(client.closed).toEqual({ code: 1008, reason: 'ConsumerTooSlow' });
    }
    expect(JSON.parse(clients[1]!.messages.at(-1)!)).toMatchObject({
      $type: 'error',
      error: 'ConsumerTooSlow',
    });
    expect(edge.stats.disconnects).toEqual({ too_slow: 2 });
  }, 20_000);

  test('a shutdown hands out what is durable and closes with 1001', async () => {
    const { log, url, edge, server } = await start({ limits: { flushIntervalMs: 60_000 } });
    const clients = [connect(url, V1_PATH), connect(url, V2_PATH)];
    await Promise.all(clients.map(opened));
    await until(() => edge.counters.liveConsumers === 2, 'live');
    write(log, entries.slice(0, 10));
    await log.whenDurable(10);
    await server.close();
    for (const client of clients) {
      await until(() => client.closed !== null, 'closed');
      expect(client.closed!.code).toBe(1001);
      expect(client.messages.length).toBeGreaterThan(0);
    }
  });
});

describe('under load', () => {
  test('whatever stops, goes, changes its mind and comes again, everybody gets everything once, in order', async () => {
    const plan = fc.array(
      fc.record({
        count: fc.nat(80),
        toggle: fc.nat(5),
        redial: fc.nat(20),
        waitMs: fc.constantFrom(0, 0, 1, 4),
      }),
      { minLength: 5, maxLength: 30 },
    );
    await fc.assert(
      fc.asyncProperty(plan, async (steps) => {
        const { path, remove } = directory();
        const log = await openSmallLog(path);
        write(log, entries.slice(0, 100));
        await log.whenDurable(100);
        const { url, edge, server } = startEdge({
          log,
          limits: { blockBytes: 20_000, maxCacheBytes: 200_000 },
        });
        const begin = messagesOf(log, 'v1');
        const queries = [
          'cursor=0',
          '',
          'compress=true',
          `cursor=${timeOf(begin[50]!)}`,
          'cursor=60',
          'requireHello=true',
        ];
        /** What each got in connections before, without what the next gives again. */
        const past: string[][] = queries.map(() => []);
        const clients = queries.map((query) => connect(url, `${V1_PATH}?${query}`));
        await Promise.all(clients.map(opened));
        clients[5]!.socket.send('{"type":"options_update","payload":{}}');
        await until(() => edge.counters.optionsUpdates === 1, 'hello');
        const paused = new Set<number>();
        for (const { count, toggle, redial, waitMs } of steps) {
          write(log, entries.slice(0, count));
          const { socket } = clients[toggle]!;
          if (paused.delete(toggle)) socket.resume();
          else {
            paused.add(toggle);
            socket.pause();
          }
          const again = clients[redial];
          if (again !== undefined && again.messages.length > 0) {
            again.socket.onmessage = null;
            again.socket.terminate();
            paused.delete(redial);
            past[redial]!.push(...again.messages.slice(0, -1));
            clients[redial] = connect(url, `${V1_PATH}?cursor=${timeOf(again.messages.at(-1)!)}`);
          }
          await Bun.sleep(waitMs);
        }
        for (const index of paused) clients[index]!.socket.resume();
        await log.whenDurable(log.appendedSeq);
        const all = messagesOf(log, 'v1');
        const froms = [0, begin.length, begin.length, 50, -1, begin.length];
        froms[4] = all.length - all.filter((message) => timeOf(message) >= timeOfSeq(log, 60)).length;
        for (const [index, from] of froms.entries()) {
          const expected = all.slice(from);
          await until(
            () => past[index]!.length + clients[index]!.messages.length >= expected.length,
            `all for ${queries[index]}`,
          );
          same([...past[index]!, ...clients[index]!.messages], expected);
        }
        expect(edge.counters.rescued).toBe(0);
        expect(edge.counters.tooSlow).toBe(0);
        await server.close();
        await log.close();
        remove();
      }),
      { numRuns: 8 },
    );
  }, 60_000);
});

const timeOfSeq = (log: Log, seq: number): number => {
  const cursor = log.openCursor(seq - 1);
  const records = cursor.next(1);
  cursor.close();
  if (records === 'behind') throw new Error('behind');
  return records[0]!.timeUs;
};
