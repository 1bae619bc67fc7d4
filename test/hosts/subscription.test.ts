import { afterAll, describe, expect, test } from 'bun:test';
import net from 'node:net';
import type { Server, ServerWebSocket } from 'bun';
import { createSubscribe, subscribe, watchedConnections } from '../../src/hosts/subscription.ts';
import type { CloseOutcome, SubscribeOptions, Subscription } from '../../src/hosts/types.ts';
import { createGuardedLookup } from '../../src/network/lookup.ts';
import { CERTIFIED_NAME, certificate, certificateKey } from '../network/certificate.ts';

type Socket = ServerWebSocket<string>;

const servers: Server<string>[] = [];
const listeners: net.Server[] = [];
afterAll(async () => {
  for (const server of servers) await server.stop(true);
  for (const listener of listeners) listener.close();
});

const serve = (
  onOpen: (socket: Socket, request: Request) => void,
  headers: Record<string, string> = {},
  tls?: { cert: string; key: string },
) => {
  let last: Request | null = null;
  const server = Bun.serve<string>({
    hostname: '127.0.0.1',
    port: 0,
    ...(tls === undefined ? {} : { tls }),
    fetch(request, self) {
      last = request;
      return self.upgrade(request, { data: '', headers }) ? undefined : new Response('no', { status: 404 });
    },
    websocket: { idleTimeout: 0, open: (socket) => onOpen(socket, last!), message() {} },
  });
  servers.push(server);
  return { port: server.port!, request: () => last! };
};

const listen = (onSocket: (socket: net.Socket) => void): Promise<number> =>
  new Promise((resolve) => {
    const listener = net.createServer((socket) => {
      socket.on('error', () => {});
      onSocket(socket);
    });
    listeners.push(listener);
    listener.listen(0, '127.0.0.1', () => resolve((listener.address() as net.AddressInfo).port));
  });

const respond = (status: number, headers: Record<string, string> = {}) => {
  const server = Bun.serve<string>({
    port: 0,
    fetch: () => new Response('{"error":"x"}', { status, headers }),
    websocket: { message() {} },
  });
  servers.push(server);
  return server.port!;
};

/** Subscribes and records everything that is reported, in order. */
const follow = (port: number, over: Partial<SubscribeOptions> = {}, using = subscribe) => {
  const frames: Uint8Array[] = [];
  const log: string[] = [];
  const opening = Promise.withResolvers<string>();
  const ending = Promise.withResolvers<CloseOutcome>();
  let onFrame: (() => void) | null = null;
  const subscription: Subscription = using(
    {
      hostname: `localhost:${port}`,
      secure: false,
      cursor: null,
      userAgent: 'weir/test',
      allowPrivateAddresses: true,
      handshakeTimeoutMs: 200,
      pingIntervalMs: 30_000,
      maxFrameBytes: 5_000_000,
      ...over,
    },
    {
      opened(server) {
        log.push('opened');
        opening.resolve(server);
      },
      frame(bytes) {
        log.push('frame');
        frames.push(bytes);
        onFrame?.();
      },
      text() {
        log.push('text');
      },
      closed(outcome) {
        log.push('closed');
        ending.resolve(outcome);
      },
    },
  );
  return {
    subscription,
    frames,
    log,
    opened: opening.promise,
    closed: ending.promise,
    received: (count: number) =>
      new Promise<void>((resolve) => {
        onFrame = () => {
          if (frames.length >= count) resolve();
        };
        onFrame();
      }),
  };
};

const sendMany = (socket: Socket, count: number, bytes = 900): void => {
  const frame = new Uint8Array(bytes);
  for (let n = 0; n < count; n++) {
    new DataView(frame.buffer).setUint32(0, n);
    socket.sendBinary(frame);
  }
};
const numbers = (frames: readonly Uint8Array[]): number[] =>
  frames.map((frame) => new DataView(frame.buffer, frame.byteOffset).getUint32(0));

describe('a subscription', () => {
  test('asks for the stream with its cursor and name, and tells the Server header', async () => {
    const { port, request } = serve(() => {}, { Server: 'pds/1.0' });
    const { opened, closed, subscription } = follow(port, { cursor: 12_345 });
    expect(await opened).toBe('pds/1.0');
    const url = new URL(request().url);
    expect(url.pathname + url.search).toBe('/xrpc/com.atproto.sync.subscribeRepos?cursor=12345');
    expect(request().headers.get('user-agent')).toBe('weir/test');
    expect(request().headers.get('sec-websocket-extensions')).toBeNull();
    subscription.end({ kind: 'stopped' });
    expect(await closed).toEqual({ kind: 'stopped' });
  });

  test('asks without a cursor when it is to start live', async () => {
    const { port, request } = serve(() => {});
    const { opened, subscription } = follow(port);
    await opened;
    expect(new URL(request().url).search).toBe('');
    subscription.end({ kind: 'stopped' });
  });

  test('hands on frames in order as bytes of their own, and tells text messages apart', async () => {
    const { port } = serve((socket) => {
      socket.send('hello');
      sendMany(socket, 200);
    });
    const { received, frames, log, subscription } = follow(port);
    await received(200);
    expect(numbers(frames)).toEqual(Array.from({ length: 200 }, (_, n) => n));
    expect(log.slice(0, 2)).toEqual(['opened', 'text']);
    expect(frames.every((frame) => frame.buffer.byteLength <= 2 * frame.byteLength)).toBe(true);
    subscription.end({ kind: 'stopped' });
  });

  test('reports a refused connection as unreachable', async () => {
    const port = await listen(() => {});
    const listener = listeners.pop()!;
    await new Promise((resolve) => listener.close(resolve));
    const { closed, log } = follow(port);
    expect((await closed).kind).toBe('unreachable');
    expect(log).toEqual(['closed']);
  });

  test('gives up a handshake that stalls', async () => {
    const port = await listen(() => {});
    expect((await follow(port).closed).kind).toBe('unreachable');
  });

  test('reports a connection that is dropped during the handshake as unreachable', async () => {
    const port = await listen((socket) => socket.destroy());
    expect((await follow(port).closed).kind).toBe('unreachable');
  });

  test('gives up an answer whose headers never end', async () => {
    const port = await listen((socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\n');
      const timer = setInterval(() => socket.write(`X-A: ${'a'.repeat(10_000)}\r\n`), 1);
      socket.on('close', () => clearInterval(timer));
    });
    expect((await follow(port, { handshakeTimeoutMs: 2_000 }).closed).kind).toBe('unreachable');
  });

  test('reports the status and Retry-After of a host that does not upgrade', async () => {
    expect(await follow(respond(404)).closed).toEqual({
      kind: 'http_status',
      status: 404,
      retryAfterMs: null,
    });
    expect(await follow(respond(429, { 'retry-after': '17' })).closed).toEqual({
      kind: 'http_status',
      status: 429,
      retryAfterMs: 17_000,
    });
  });

  test('does not follow a redirect', async () => {
    let visited = false;
    const target = serve(() => {
      visited = true;
    });
    const port = respond(302, { location: `http://localhost:${target.port}/` });
    expect(await follow(port).closed).toEqual({ kind: 'http_status', status: 302, retryAfterMs: null });
    expect(visited).toBe(false);
  });

  test('tells the code and reason of a close, after all frames before it', async () => {
    const { port } = serve((socket) => {
      sendMany(socket, 50);
      socket.close(1008, 'FutureCursor');
    });
    const { closed, frames } = follow(port);
    expect(await closed).toEqual({ kind: 'closed', code: 1008, reason: 'FutureCursor' });
    expect(frames.length).toBe(50);
  });

  test('reports an abrupt drop', async () => {
    const { port } = serve((socket) => socket.terminate());
    expect(await follow(port).closed).toMatchObject({ kind: 'closed', code: 1006 });
  });

  test('ends at a frame over the limit, and says so', async () => {
    const { port } = serve((socket) => {
      sendMany(socket, 3);
      socket.sendBinary(new Uint8Array(20_000));
    });
    const { closed, frames } = follow(port, { maxFrameBytes: 10_000 });
    expect(await closed).toMatchObject({ kind: 'closed', code: 1009 });
    expect(frames.length).toBe(3);
  });

  test('refuses private addresses, literal addresses and ports unless they are allowed', async () => {
    const lookup = createGuardedLookup({
      allowPrivateAddresses: false,
      resolve: async () => [{ address: '127.0.0.1', family: 4 }],
    });
    const guarded = createSubscribe({ lookupFor: () => lookup });
    for (const hostname of ['inside.pds.net', '127.0.0.1', '[::1]', '0x7f.1', 'pds.net:8080', 'localhost']) {
      const { closed, log } = follow(0, { hostname, allowPrivateAddresses: false }, guarded);
      expect((await closed).kind).toBe('forbidden_address');
      expect(log).toEqual(['closed']);
    }
  });

  test('tries the next address of a host when one refuses', async () => {
    const { port } = serve(() => {});
    const lookup = createGuardedLookup({
      allowPrivateAddresses: true,
      resolve: async () => [
        { address: '127.0.0.2', family: 4 },
        { address: '127.0.0.3', family: 4 },
        { address: '127.0.0.1', family: 4 },
      ],
    });
    const subscribeAt = createSubscribe({ lookupFor: () => lookup });
    const { opened, subscription } = follow(port, { hostname: `three.test:${port}` }, subscribeAt);
    await opened;
    subscription.end({ kind: 'stopped' });
    const gone = await listen(() => {});
    const listener = listeners.pop()!;
    await new Promise((resolve) => listener.close(resolve));
    const all = follow(gone, { hostname: `three.test:${gone}` }, subscribeAt);
    expect((await all.closed).kind).toBe('unreachable');
    expect(all.log).toEqual(['closed']);
  });

  test('over TLS wants a certificate that is trusted and of the name', async () => {
    const { port } = serve(
      (socket) => sendMany(socket, 300, 20_000),
      {},
      {
        cert: certificate,
        key: certificateKey,
      },
    );
    const lookup = createGuardedLookup({
      allowPrivateAddresses: true,
      resolve: async () => [{ address: '127.0.0.1', family: 4 }],
    });
    const trusting = createSubscribe({ lookupFor: () => lookup, ca: certificate });
    const distrusting = createSubscribe({ lookupFor: () => lookup });
    const named = { hostname: `${CERTIFIED_NAME}:${port}`, secure: true, handshakeTimeoutMs: 5_000 };

    const good = follow(port, named, trusting);
    await good.opened;
    good.subscription.pause();
    await Bun.sleep(20);
    good.subscription.resume();
    await good.received(300);
    expect(numbers(good.frames)).toEqual(Array.from({ length: 300 }, (_, n) => n));
    good.subscription.end({ kind: 'stopped' });

    for (const [over, using] of [
      [{ ...named, hostname: `other.weir-test.net:${port}` }, trusting],
      [named, distrusting],
    ] as const) {
      const bad = follow(port, over, using);
      expect(await bad.closed).toMatchObject({
        kind: 'unreachable',
        detail: expect.stringContaining('TLS: '),
      });
      expect(bad.log).toEqual(['closed']);
    }
    const notTls = serve(() => {});
    expect(
      (await follow(0, { ...named, hostname: `${CERTIFIED_NAME}:${notTls.port}` }, trusting).closed).kind,
    ).toBe('unreachable');
  });

  test('answers pings with their payload', async () => {
    const { promise, resolve } = Promise.withResolvers<string>();
    const server = Bun.serve<string>({
      hostname: '127.0.0.1',
      port: 0,
      fetch: (request, self) => (self.upgrade(request, { data: '' }) ? undefined : new Response('')),
      websocket: {
        open: (socket) => void socket.ping('are you there?'),
        pong: (_socket, payload) => resolve(String(payload)),
        message() {},
      },
    });
    servers.push(server);
    const { subscription } = follow(server.port!);
    expect(await promise).toBe('are you there?');
    subscription.end({ kind: 'stopped' });
  });

  test('can be ended while it is connecting, and then says nothing more', async () => {
    const port = await listen(() => {});
    const { subscription, log } = follow(port);
    subscription.end({ kind: 'stopped' });
    subscription.end({ kind: 'silent' });
    await Bun.sleep(300);
    expect(log).toEqual(['closed']);
  });
});

describe('liveness', () => {
  test('a peer that answers pings stays, one that does not is silent', async () => {
    const { port } = serve(() => {});
    const answering = follow(port, { pingIntervalMs: 60 });
    // A peer that completes the handshake by hand and never reads again.
    const mutePort = await listen((socket) => {
      socket.once('data', (data) => {
        const key = /sec-websocket-key: (\S+)/i.exec(String(data))![1];
        const accept = new Bun.CryptoHasher('sha1')
          .update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
          .digest('base64');
        socket.write(
          `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
        );
      });
    });
    const mute = follow(mutePort, { pingIntervalMs: 60 });
    expect(await mute.closed).toEqual({ kind: 'silent' });
    expect(mute.log).toEqual(['opened', 'closed']);
    expect(answering.log).toEqual(['opened']);
    answering.subscription.end({ kind: 'stopped' });
  });

  test('stands still while paused, however long that is', async () => {
    const { port } = serve(() => {});
    const { opened, subscription, log } = follow(port, { pingIntervalMs: 30 });
    await opened;
    subscription.pause();
    await Bun.sleep(400);
    expect(log).toEqual(['opened']);
    subscription.resume();
    await Bun.sleep(200);
    expect(log).toEqual(['opened']);
    subscription.end({ kind: 'stopped' });
  });
});

describe('pausing', () => {
  test('keeps order and loses nothing', async () => {
    const { port } = serve((socket) => sendMany(socket, 2_000, 4_000));
    const { subscription, frames, opened, received } = follow(port);
    await opened;
    for (let round = 0; round < 5; round++) {
      await received(round * 300);
      subscription.pause();
      expect(subscription.paused).toBe(true);
      await Bun.sleep(10);
      subscription.resume();
    }
    await received(2_000);
    expect(numbers(frames)).toEqual(Array.from({ length: 2_000 }, (_, n) => n));
    subscription.end({ kind: 'stopped' });
  });

  test('stops the reading, but for what was read already', async () => {
    let sent = 0;
    const { port } = serve((socket) => {
      const timer = setInterval(() => {
        if (socket.readyState !== WebSocket.OPEN) return clearInterval(timer);
        if (sent < 400) sendMany(socket, 20, 50_000);
        sent += 20;
      }, 1);
    });
    const { subscription, frames, received } = follow(port);
    await received(1);
    subscription.pause();
    const atPause = frames.length;
    await Bun.sleep(150);
    expect(frames.length).toBeLessThan(atPause + 40);
    subscription.end({ kind: 'stopped' });
  });

  test('before the connection is open holds from the start', async () => {
    const { port } = serve((socket) => sendMany(socket, 200, 50_000));
    const { subscription, opened, received, frames } = follow(port);
    subscription.pause();
    await opened;
    await Bun.sleep(150);
    expect(frames.length).toBeLessThan(40);
    subscription.resume();
    await received(200);
    expect(numbers(frames)).toEqual(Array.from({ length: 200 }, (_, n) => n));
    subscription.end({ kind: 'stopped' });
  });

  test('does not keep an end from being reported at once', async () => {
    const gone = Promise.withResolvers<void>();
    const server = Bun.serve<string>({
      port: 0,
      fetch: (request, self) => (self.upgrade(request, { data: '' }) ? undefined : new Response('')),
      websocket: { open: (socket) => sendMany(socket, 100), message() {}, close: () => gone.resolve() },
    });
    servers.push(server);
    const { subscription, log, received } = follow(server.port!);
    await received(1);
    subscription.pause();
    subscription.end({ kind: 'throttled', waitMs: 1_000 });
    expect(log.at(-1)).toBe('closed');
    await gone.promise;
    expect(log.filter((word) => word === 'closed')).toEqual(['closed']);
  });
});

test('nothing is watched any more once all connections have ended', async () => {
  const before = watchedConnections();
  const { port } = serve(() => {});
  const made = Array.from({ length: 20 }, () => follow(port));
  await Promise.all(made.map(({ opened }) => opened));
  expect(watchedConnections()).toBe(before + 20);
  for (const { subscription } of made) subscription.end({ kind: 'stopped' });
  expect(watchedConnections()).toBe(before);
  await follow(respond(404)).closed;
  expect(watchedConnections()).toBe(before);
  expect(before).toBe(0);
});
