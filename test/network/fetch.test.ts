import { afterAll, describe, expect, test } from 'bun:test';
import { createServer, type Socket } from 'node:net';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { createGuardedFetch, type FetchOptions, guardedFetch } from '../../src/network/fetch.ts';
import { createGuardedLookup } from '../../src/network/lookup.ts';
import { CERTIFIED_NAME, certificate, certificateKey } from './certificate.ts';
import { leastGrowth } from './growth.ts';

const local: FetchOptions = { timeoutMs: 5_000, maxBytes: 10_000, allowPrivateAddresses: true };
const strict: FetchOptions = { timeoutMs: 5_000, maxBytes: 10_000 };

const stops: (() => void)[] = [];
afterAll(() => {
  for (const stop of stops) stop();
});

/** A server that speaks raw TCP, so that it can misbehave; counts what is open. */
const rawServer = async (behave: (socket: Socket, request: string) => void) => {
  const sockets = new Set<Socket>();
  let accepted = 0;
  const server = createServer((socket) => {
    accepted++;
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
    socket.on('data', (data) => behave(socket, String(data)));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  stops.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as { port: number };
  return {
    url: `http://127.0.0.1:${port}/`,
    port,
    get open() {
      return sockets.size;
    },
    get accepted() {
      return accepted;
    },
    /** Settles once no connection is open any more. */
    allClosed: async () => {
      while (sockets.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    },
  };
};

const httpServer = (answer: (request: Request) => Response | Promise<Response>) => {
  const server = Bun.serve({ port: 0, hostname: '127.0.0.1', fetch: answer });
  stops.push(() => server.stop(true));
  return { port: server.port!, url: `http://127.0.0.1:${server.port}/` };
};

/** Names that are "public" in this test: they lead to this machine, and its port counts as a public one. */
const publicFetch = (port: number, names: Record<string, string>) =>
  createGuardedFetch({
    publicPorts: [port, 80, 443],
    lookupFor: (allowPrivateAddresses) => {
      const guarded = createGuardedLookup({
        allowPrivateAddresses,
        resolve: async (hostname) => [{ address: names[hostname]!, family: 4 }],
      });
      const open = createGuardedLookup({
        allowPrivateAddresses: true,
        resolve: async () => [{ address: '127.0.0.1', family: 4 }],
      });
      return {
        ...guarded,
        lookup: (hostname, options, callback) =>
          (names[hostname] === 'public' ? open : guarded).lookup(hostname, options, callback),
      };
    },
  });

describe('a guarded fetch', () => {
  test('gives status, headers and body', async () => {
    const { url } = httpServer(async (request) => {
      const heard = [
        request.method,
        request.headers.get('user-agent'),
        request.headers.get('x-a'),
        await request.text(),
      ];
      return new Response(heard.join(' '), { status: 418, headers: { 'Retry-After': '7' } });
    });
    const result = await guardedFetch(url, {
      ...local,
      userAgent: 'weir/test',
      headers: { 'x-a': 'b' },
      method: 'POST',
      body: '{"hostname":"a"}',
    });
    expect(result).toMatchObject({ ok: true, status: 418, headers: { 'retry-after': '7' } });
    expect(result.ok && new TextDecoder().decode(result.body)).toBe('POST weir/test b {"hostname":"a"}');
  });

  test('speaks TLS with the name that was asked for and refuses another certificate', async () => {
    const server = Bun.serve({
      port: 0,
      hostname: '127.0.0.1',
      tls: { cert: certificate, key: certificateKey },
      fetch: (request) => new Response(request.headers.get('host')),
    });
    stops.push(() => server.stop(true));
    const pinned = createGuardedLookup({
      allowPrivateAddresses: true,
      resolve: async () => [{ address: '127.0.0.1', family: 4 }],
    });
    const fetch = createGuardedFetch({ lookupFor: () => pinned, ca: certificate });
    for (const keepAlive of [false, true, true]) {
      const good = await fetch(`https://${CERTIFIED_NAME}:${server.port}/`, { ...local, keepAlive });
      expect(good.ok && new TextDecoder().decode(good.body)).toBe(`${CERTIFIED_NAME}:${server.port}`);
      const bad = await fetch(`https://other.weir-test.net:${server.port}/`, { ...local, keepAlive });
      expect(bad).toMatchObject({ ok: false, kind: 'unreachable' });
    }
    const untrusted = createGuardedFetch({ lookupFor: () => pinned });
    expect(await untrusted(`https://${CERTIFIED_NAME}:${server.port}/`, local)).toMatchObject({
      ok: false,
      kind: 'unreachable',
    });
  });

  test.each([
    'http://127.0.0.1/',
    'http://2130706433/',
    'http://0x7f.1/',
    'http://0177.0.0.1/',
    'http://127.1/',
    'http://[::1]/',
    'http://[::ffff:127.0.0.1]/',
    'http://[::ffff:8.8.8.8]/',
    'http://169.254.169.254/latest/meta-data',
    'http://10.0.0.1/',
    'https://0.0.0.0/',
    'http://１２７.0.0.1/',
    'http://localhost/',
    'https://localhost/',
    'http://8.8.8.8:8080/',
    'https://example.com:22/',
    'https://example.com:8443/',
  ])('does not go to %s', async (url) => {
    expect(await guardedFetch(url, strict)).toMatchObject({ ok: false, kind: 'forbidden_address' });
  });

  test.each([
    '',
    'example.com',
    'ftp://example.com/',
    'file:///etc/passwd',
    'data:text/plain,x',
    'https://user:pass@example.com/',
    'https://user@example.com/',
    'https://',
    'https://exa mple.com/',
  ])('says that %p is no URL for it', async (url) => {
    expect(await guardedFetch(url, strict)).toMatchObject({ ok: false, kind: 'bad_url' });
  });

  test('takes no URL of more than 4,096 characters', async () => {
    const url = `https://example.com/${'a'.repeat(5_000)}`;
    expect(await guardedFetch(url, strict)).toMatchObject({ ok: false, kind: 'bad_url' });
  });

  test('never throws, whatever the URL', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.string(),
          fc.string().map((text) => `http://127.0.0.1/${text}`),
        ),
        async (url) => {
          expect((await guardedFetch(url, strict)).ok).toBe(false);
        },
      ),
      { numRuns: 300 },
    );
  });

  test('says when nobody listens', async () => {
    const server = await rawServer(() => {});
    stops.pop()!();
    const result = await guardedFetch(server.url, local);
    expect(result).toMatchObject({ ok: false, kind: 'unreachable' });
  });

  test('sends odd header values as a failure, not as an exception', async () => {
    const { url } = httpServer(() => new Response('x'));
    const result = await guardedFetch(url, { ...local, headers: { 'x-a': 'a\r\nb: c' } });
    expect(result.ok).toBe(false);
  });
});

describe('the deadline', () => {
  const slowness: Record<string, (socket: Socket) => void> = {
    'accepts and says nothing': () => {},
    'sends its headers byte by byte': (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nx-a: ');
      const timer = setInterval(() => socket.write('a'), 5);
      socket.on('close', () => clearInterval(timer));
    },
    'never ends its headers': (socket) => {
      socket.write('HTTP/1.1 200 OK\r\n');
      const timer = setInterval(() => socket.write(`x-${'a'.repeat(10)}: ${'b'.repeat(10)}\r\n`), 20);
      socket.on('close', () => clearInterval(timer));
    },
    'sends its body byte by byte': (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n');
      const timer = setInterval(() => socket.write('a'), 5);
      socket.on('close', () => clearInterval(timer));
    },
    'sends a body without end in small chunks': (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n');
      const timer = setInterval(() => socket.write('1\r\na\r\n'), 5);
      socket.on('close', () => clearInterval(timer));
    },
    'sends 1xx answers without end': (socket) => {
      const timer = setInterval(() => socket.write('HTTP/1.1 103 Early Hints\r\n\r\n'), 5);
      socket.on('close', () => clearInterval(timer));
    },
  };

  for (const keepAlive of [false, true]) {
    test.each(Object.keys(slowness))(
      `holds against a server that %s${keepAlive ? ', on a kept connection' : ''}, and its connection is closed`,
      async (name) => {
        const server = await rawServer(slowness[name]!);
        const result = await guardedFetch(server.url, { ...local, timeoutMs: 150, keepAlive });
        expect(result).toMatchObject({ ok: false, kind: 'timeout' });
        await server.allClosed();
      },
    );
  }

  test('holds against a server that accepts and never answers the TLS hello', async () => {
    for (const keepAlive of [false, true]) {
      const server = await rawServer(() => {});
      const result = await guardedFetch(`https://127.0.0.1:${server.port}/`, {
        ...local,
        timeoutMs: 150,
        keepAlive,
      });
      expect(result).toMatchObject({ ok: false, kind: 'timeout' });
      await server.allClosed();
    }
  });

  test('holds against a resolver that never answers', async () => {
    const silent = createGuardedLookup({ allowPrivateAddresses: true, resolve: () => new Promise(() => {}) });
    const fetch = createGuardedFetch({ lookupFor: () => silent });
    const result = await fetch('http://silent.example.com/', { ...local, timeoutMs: 100 });
    expect(result).toMatchObject({ ok: false, kind: 'timeout' });
  });

  test('covers redirects together', async () => {
    let hops = 0;
    const { url } = httpServer(async () => {
      hops++;
      await Bun.sleep(60);
      return new Response(null, { status: 302, headers: { location: '/again' } });
    });
    const result = await guardedFetch(url, { ...local, timeoutMs: 200, redirects: 1_000 });
    expect(result).toMatchObject({ ok: false, kind: 'timeout' });
    expect(hops).toBeLessThan(10);
  });
});

describe('the size bound', () => {
  const tooLarge = { ok: false, kind: 'too_large' };

  test('lets exactly maxBytes pass and not one more', async () => {
    const { url } = httpServer(
      (request) => new Response('a'.repeat(Number(new URL(request.url).pathname.slice(1)))),
    );
    expect(await guardedFetch(`${url}10000`, local)).toMatchObject({ ok: true });
    expect(await guardedFetch(`${url}10001`, local)).toMatchObject(tooLarge);
  });

  test('stops an endless body, and the connection is closed', async () => {
    for (const keepAlive of [false, true]) {
      const server = await rawServer((socket) => {
        socket.write('HTTP/1.1 200 OK\r\n\r\n');
        const pump = () => {
          while (!socket.destroyed && socket.write('a'.repeat(1_000)));
        };
        socket.on('drain', pump);
        pump();
      });
      expect(await guardedFetch(server.url, { ...local, keepAlive })).toMatchObject(tooLarge);
      await server.allClosed();
    }
  });

  test('believes no Content-Length', async () => {
    const honest = await rawServer((socket) =>
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n'),
    );
    expect(await guardedFetch(honest.url, local)).toMatchObject(tooLarge);
    const short = await rawServer((socket) =>
      socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this'),
    );
    expect(await guardedFetch(short.url, local)).toMatchObject({ ok: false, kind: 'unreachable' });
  });

  test('bounds endless headers', async () => {
    const server = await rawServer((socket) => {
      socket.write('HTTP/1.1 200 OK\r\n');
      const pump = () => {
        while (!socket.destroyed && socket.write(`x-a: ${'b'.repeat(1_000)}\r\n`));
      };
      socket.on('drain', pump);
      pump();
    });
    expect((await guardedFetch(server.url, { ...local, timeoutMs: 1_000 })).ok).toBe(false);
    await server.allClosed();
  });

  test('holds after decompression too', async () => {
    const bomb = Buffer.alloc(5_000_000);
    const text = 'weir '.repeat(100);
    const encoders = { gzip: gzipSync, 'x-gzip': gzipSync, deflate: deflateSync, br: brotliCompressSync };
    const { url } = httpServer((request) => {
      const [, encoding, what] = new URL(request.url).pathname.split('/') as [
        string,
        keyof typeof encoders,
        string,
      ];
      const body = encoders[encoding](what === 'bomb' ? bomb : text);
      return new Response(body, { headers: { 'content-encoding': encoding } });
    });
    for (const encoding of Object.keys(encoders)) {
      const good = await guardedFetch(`${url}${encoding}/text`, local);
      expect(good.ok && new TextDecoder().decode(good.body)).toBe(text);
      expect(await guardedFetch(`${url}${encoding}/bomb`, local)).toMatchObject(tooLarge);
    }
  });

  test('a broken or unknown encoding is a failure', async () => {
    const { url } = httpServer(
      (request) =>
        new Response('not compressed', {
          headers: { 'content-encoding': new URL(request.url).pathname.slice(1) },
        }),
    );
    for (const encoding of ['gzip', 'br', 'deflate', 'zstd', 'gzip,%20gzip']) {
      expect(await guardedFetch(url + encoding, local)).toMatchObject({ ok: false, kind: 'bad_encoding' });
    }
  });
});

describe('redirects', () => {
  const bouncing = () =>
    httpServer((request) => {
      const url = new URL(request.url);
      const to = url.searchParams.get('to');
      return to === null
        ? new Response(`${url.pathname} ${request.headers.get('authorization')}`)
        : new Response('moved', {
            status: Number(url.searchParams.get('status') ?? 302),
            headers: { location: to },
          });
    });
  const names = { 'a.example.com': 'public', 'b.example.com': 'public', 'evil.example.com': '127.0.0.1' };

  test('are followed only as often as allowed', async () => {
    const { url } = bouncing();
    const twice = `${url}?to=${encodeURIComponent('/?to=/end')}`;
    expect(await guardedFetch(twice, { ...local, redirects: 2 })).toMatchObject({ ok: true, status: 200 });
    expect(await guardedFetch(twice, { ...local, redirects: 1 })).toMatchObject({
      ok: false,
      kind: 'bad_redirect',
    });
    expect(await guardedFetch(twice, local)).toMatchObject({ ok: false, kind: 'bad_redirect' });
  });

  test.each([301, 302, 303, 307, 308])('with status %i count', async (status) => {
    const { url } = bouncing();
    const result = await guardedFetch(`${url}?status=${status}&to=/end`, { ...local, redirects: 1 });
    expect(result.ok && new TextDecoder().decode(result.body)).toBe('/end null');
  });

  test('to another host carry no headers of the first', async () => {
    const { port } = bouncing();
    const fetch = publicFetch(port, names);
    const options = { ...strict, redirects: 1, headers: { authorization: 'secret' } };
    const same = await fetch(`http://a.example.com:${port}/?to=/end`, options);
    expect(same.ok && new TextDecoder().decode(same.body)).toBe('/end secret');
    const other = await fetch(`http://a.example.com:${port}/?to=http://b.example.com:${port}/end`, options);
    expect(other.ok && new TextDecoder().decode(other.body)).toBe('/end null');
  });

  test.each([
    'http://127.0.0.1/',
    'http://169.254.169.254/latest/meta-data',
    'http://[::1]/',
    'http://2130706433/',
    'http://localhost/',
    'http://a.example.com:22/',
    'http://evil.example.com/',
    '//10.0.0.1/',
  ])('to %s are refused, though the first host is public', async (target) => {
    const { port } = bouncing();
    const result = await publicFetch(port, { ...names, localhost: '127.0.0.1' })(
      `http://a.example.com:${port}/?to=${encodeURIComponent(target)}`,
      { ...strict, redirects: 3 },
    );
    expect(result).toMatchObject({ ok: false, kind: 'forbidden_address' });
  });

  test.each(['', 'file:///etc/passwd', 'http://u:p@a.example.com/', 'http://'])(
    'to %p are no redirects at all',
    async (target) => {
      const { port } = bouncing();
      const result = await publicFetch(port, names)(
        `http://a.example.com:${port}/?to=${encodeURIComponent(target)}`,
        { ...strict, redirects: 3 },
      );
      expect(result).toMatchObject({ ok: false, kind: 'bad_redirect' });
    },
  );

  test('from https to http are refused', async () => {
    const server = Bun.serve({
      port: 0,
      hostname: '127.0.0.1',
      tls: { cert: certificate, key: certificateKey },
      fetch: () => new Response(null, { status: 302, headers: { location: 'http://a.example.com/' } }),
    });
    stops.push(() => server.stop(true));
    const open = createGuardedLookup({
      allowPrivateAddresses: true,
      resolve: async () => [{ address: '127.0.0.1', family: 4 }],
    });
    const fetch = createGuardedFetch({
      ca: certificate,
      publicPorts: [server.port!, 80],
      lookupFor: () => open,
    });
    const result = await fetch(`https://${CERTIFIED_NAME}:${server.port}/`, { ...strict, redirects: 3 });
    expect(result).toMatchObject({ ok: false, kind: 'bad_redirect' });
  });

  test('take the right to private addresses nowhere but within the origin that was named', async () => {
    const inner = httpServer(() => new Response('secret', { status: 401 }));
    const named = bouncing();
    const to = (target: string) => `${named.url}?to=${encodeURIComponent(target)}`;
    const named_origin = { ...local, allowPrivateAddresses: 'named_origin', redirects: 3 } as const;
    expect(await guardedFetch(to('/?to=/end'), named_origin)).toMatchObject({ ok: true, status: 200 });
    // Another port, another name of the same address, and back to where the right was given.
    for (const target of [
      inner.url,
      to('/end').replace('127.0.0.1', 'localhost'),
      `${inner.url}?to=${named.url}`,
    ])
      expect(await guardedFetch(to(target), named_origin)).toMatchObject({
        ok: false,
        kind: 'forbidden_address',
      });
    // Where all private addresses are allowed there is nothing to lose.
    expect(await guardedFetch(to(inner.url), { ...local, redirects: 3 })).toMatchObject({ status: 401 });
  });

  test('of an origin that was named are refused from https to http', async () => {
    const server = Bun.serve({
      port: 0,
      hostname: '127.0.0.1',
      tls: { cert: certificate, key: certificateKey },
      fetch: () => new Response(null, { status: 302, headers: { location: `http://${CERTIFIED_NAME}/` } }),
    });
    stops.push(() => server.stop(true));
    const pinned = createGuardedLookup({
      allowPrivateAddresses: true,
      resolve: async () => [{ address: '127.0.0.1', family: 4 }],
    });
    const fetch = createGuardedFetch({ ca: certificate, lookupFor: () => pinned });
    expect(
      await fetch(`https://${CERTIFIED_NAME}:${server.port}/`, {
        ...local,
        allowPrivateAddresses: 'named_origin',
        redirects: 3,
      }),
    ).toMatchObject({ ok: false, kind: 'bad_redirect' });
  });

  test('leave no connection open', async () => {
    const server = await rawServer((socket) =>
      socket.write('HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 50000\r\n\r\nnever the rest'),
    );
    for (const keepAlive of [false, true]) {
      await guardedFetch(server.url, { ...local, redirects: 5, keepAlive });
      await server.allClosed();
    }
  });
});

describe('connections', () => {
  test('that are kept serve many requests', async () => {
    const server = await rawServer((socket) =>
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'),
    );
    for (let round = 0; round < 20; round++) {
      const results = await Promise.all(
        Array.from({ length: 50 }, () => guardedFetch(server.url, { ...local, keepAlive: true })),
      );
      expect(results.every(({ ok }) => ok)).toBe(true);
    }
    expect(server.accepted).toBeLessThanOrEqual(32);
  });

  test('that are kept and closed by the other end are replaced unnoticed', async () => {
    const closing: Socket[] = [];
    const server = await rawServer((socket) => {
      // The first request on a connection is answered, the second finds it closed.
      if (closing.includes(socket)) socket.destroy();
      else {
        closing.push(socket);
        socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      }
    });
    for (let request = 0; request < 30; request++) {
      const result = await guardedFetch(server.url, { ...local, keepAlive: true });
      expect(result).toMatchObject({ ok: true });
    }
  });

  test('that are kept are closed when idle, and a slow answer is not taken for that', async () => {
    const server = await rawServer((socket, request) => {
      const answer = () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      if (request.includes('/slow')) setTimeout(answer, 150);
      else answer();
    });
    const fetch = createGuardedFetch({ keepIdleMs: 30 });
    expect(await fetch(server.url, { ...local, keepAlive: true })).toMatchObject({ ok: true });
    await server.allClosed();
    expect(await fetch(`${server.url}slow`, { ...local, keepAlive: true })).toMatchObject({ ok: true });
    await server.allClosed();
    expect(server.accepted).toBe(2);
  });

  test('that are not kept are closed after each answer', async () => {
    const server = await rawServer((socket) =>
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'),
    );
    for (let request = 0; request < 50; request++) await guardedFetch(server.url, local);
    await server.allClosed();
    expect(server.accepted).toBe(50);
  });

  test('and memory do not pile up over thousands of good, large, refused, broken and redirected answers', async () => {
    const answers = [
      'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
      `HTTP/1.1 404 Not Found\r\nContent-Length: 8000\r\n\r\n${'x'.repeat(8_000)}`,
      'HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\nnever the rest',
      'HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 50000\r\n\r\nnever the rest',
      'HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope',
      'no HTTP at all\r\n\r\n',
    ];
    let next = 0;
    const server = await rawServer((socket) => socket.write(answers[next++ % answers.length]!));
    const requests = 1_500;
    const growth = await leastGrowth(async () => {
      for (let at = 0; at < requests; at += 30) {
        await Promise.all(
          Array.from({ length: 30 }, (_, index) =>
            guardedFetch(server.url, { ...local, keepAlive: index % 2 === 0 }),
          ),
        );
      }
    });
    expect(server.open).toBeLessThanOrEqual(32);
    // A request that is held holds dozens of objects, its socket among them; and a body, or 16 KB of read buffer.
    expect(growth.objects).toBeLessThan(requests);
    expect(growth.rssBytes).toBeLessThan(requests * 4 * 1024);
  }, 20_000);
});
