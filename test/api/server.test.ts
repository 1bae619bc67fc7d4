import { afterAll, describe, expect, test } from 'bun:test';
import { once } from 'node:events';
import { createConnection } from 'node:net';
import { createApi, MAX_BODY_BYTES } from '../../src/api/api.ts';
import { startServer } from '../../src/api/server.ts';
import { createFirehoseEdge } from '../../src/firehose/edge/edge.ts';
import { ConnectionLostError } from '../../src/state/connections.ts';
import { createFakeLog } from '../firehose/edge/fake-log.ts';
import { connect, PATH, until } from '../firehose/edge/harness.ts';
import { aHost, json } from './fixtures.ts';

const log = createFakeLog();
log.write(5);
const edge = createFirehoseEdge({ log });
const hosts = [aHost(1)];
const crawled: string[] = [];
const reported: string[] = [];
const app = createApi({
  roster: {
    list: () => hosts,
    get: () => null,
    getById: () => null,
    requestCrawl: async (hostname) => {
      crawled.push(hostname);
      return { ok: true, hostId: 1, known: true };
    },
    ban: async () => true,
    unban: async () => true,
  },
  state: { listRepos: async () => ({ repos: [], cursor: null }), firstActiveRepo: async () => null },
  accounts: { lookup: async () => null, effective: () => ({ active: true }) },
  pages: {
    summary: async () => {
      throw new Error('the database is away');
    },
    hosts: () => hosts,
    host: async () => {
      throw new Error('a query failed', { cause: new ConnectionLostError('PostgreSQL is gone') });
    },
    account: async () => null,
  },
  consumers: () => edge.consumers(),
  health: () => [],
  zstdDictionary: (id, tag) => Response.json({ id, tag }, { status: id === '404' ? 404 : 200 }),
  adminPasswords: ['secret'],
  onError: (_error, path) => void reported.push(path),
});
/** Requests that have come to the app, and the status of each that it has answered. */
const begun: string[] = [];
const answered: number[] = [];
const server = startServer({
  host: '127.0.0.1',
  port: 0,
  app: {
    async fetch(request, environment) {
      begun.push(request.url);
      const answer = await app.fetch(request, environment);
      answered.push(answer.status);
      return answer;
    },
  },
  edges: {
    [PATH]: edge,
    '/broken': {
      ...edge,
      upgrade() {
        throw new Error('something of the inside');
      },
    },
  },
  onError: (error) => void reported.push(`the edge: ${error}`),
});
afterAll(() => server.close());

/** Sends bytes as they are, and gives one answer as it came, a character for each byte. */
const raw = (text: string): Promise<string> =>
  new Promise((resolve, reject) => {
    let answer = '';
    const socket = createConnection({ port: server.port, host: '127.0.0.1' }, () => socket.write(text));
    socket.setEncoding('latin1');
    socket.on('data', (bytes) => {
      answer += bytes;
      const [head, body] = answer.split('\r\n\r\n', 2);
      const length = /^content-length: (\d+)$/im.exec(head!)?.[1];
      if (length !== undefined && body !== undefined && body.length >= Number(length)) socket.destroy();
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(answer));
  });

/** As one chunk of a chunked body. */
const inChunk = (bytes: Buffer): Buffer =>
  Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]);

describe('the whole server', () => {
  test('answers the API and upgrades the firehose on one port', async () => {
    const client = connect(server.url, { cursor: 0 });
    await until(() => client.seqs.length === 5, 'five events');
    const answer = await fetch(`${server.url}/xrpc/com.atproto.sync.listHosts`);
    expect(answer.headers.get('server')).toContain('(atproto-relay)');
    expect((await json(answer)).hosts).toHaveLength(1);
    const consumers = await fetch(`${server.url}/admin/consumers/list`, {
      headers: { authorization: 'Bearer secret' },
    });
    expect(await json(consumers)).toMatchObject([{ events_consumed: 5, remote_addr: '127.0.0.1' }]);
    client.socket.close();
  });

  test('gives every answer the Server header and CORS, whoever answers, errors and preflights too', async () => {
    for (const [path, status, method = 'GET'] of [
      ['/xrpc/_health', 200],
      ['/xrpc/com.atproto.sync.listHosts', 200],
      ['/xrpc/com.atproto.sync.listHosts?limit=0', 400],
      ['/xrpc/com.atproto.sync.requestCrawl', 405],
      ['/xrpc/com.atproto.sync.requestCrawl', 204, 'OPTIONS'],
      ['/xrpc/com.example.nothing', 501],
      ['/xrpc/network.bsky.jetstream.getZstdDictionary', 200],
      ['/nothing', 404],
      ['/admin/pds/list', 401],
      ['/hosts', 200],
      ['/hosts', 200, 'HEAD'],
      ['/', 500],
      ['/broken', 500],
      [PATH, 426],
      [PATH, 405, 'POST'],
      [PATH, 204, 'OPTIONS'],
    ] as const) {
      const answer = await fetch(server.url + path, { method });
      expect([path, answer.status]).toEqual([path, status]);
      expect(answer.headers.get('server')).toMatch(/^weir\/\d+\.\d+\.\d+ \(atproto-relay\)$/);
      expect(answer.headers.get('access-control-allow-origin')).toBe('*');
    }
    reported.length = 0;
  });

  test('answers a preflight on the firehose path', async () => {
    const answer = await fetch(`${server.url}${PATH}`, {
      method: 'OPTIONS',
      headers: { origin: 'https://elsewhere.example', 'access-control-request-method': 'GET' },
    });
    expect(answer.status).toBe(204);
    expect(answer.headers.get('access-control-allow-origin')).toBe('*');
  });

  test.each([
    ['without a Host', 'HTTP/1.0\r\n'],
    ['with an empty Host', 'HTTP/1.1\r\nHost:\r\n'],
  ])('answers requests %s, as health checks of load balancers are', async (_, rest) => {
    for (const path of ['/_health', '/xrpc/_health', '/xrpc/com.atproto.sync.listHosts?limit=1', '/hosts']) {
      const answer = await raw(`GET ${path} ${rest}\r\n`);
      expect(answer).toStartWith('HTTP/1.1 200 ');
      expect(answer).toContain('(atproto-relay)');
    }
    expect(await raw(`GET //nowhere ${rest}\r\n`)).toStartWith('HTTP/1.1 404 ');
    expect(await raw(`GET ${PATH} ${rest}\r\n`)).toStartWith('HTTP/1.1 426 ');
    const upgrade =
      'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n' +
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n';
    expect(await raw(`GET ${PATH} ${rest}${upgrade}\r\n`)).toStartWith('HTTP/1.1 400 ');
    const body = '{"hostname":"old.example.com"}';
    const posted = `POST /xrpc/com.atproto.sync.requestCrawl ${rest}Content-Length: ${body.length}\r\n\r\n${body}`;
    expect(await raw(posted)).toStartWith('HTTP/1.1 200 ');
    expect(crawled.splice(0)).toEqual(['old.example.com']);
    expect(reported).toEqual([]);
  });

  test('refuses a Host that is none, as InvalidRequest and without a word in the log', async () => {
    for (const host of ['foo:99999', '[', '[::1', 'a b', 'user@example.com', 'example.com/x', '//', '%'])
      for (const path of ['/_health', PATH, '/subscribe', '/hosts']) {
        const answer = await raw(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
        expect(answer).toStartWith('HTTP/1.1 400 ');
        expect(answer).toContain('(atproto-relay)');
        expect(answer.toLowerCase()).toContain('access-control-allow-origin: *');
        expect(answer).toContain('"error":"InvalidRequest"');
      }
    expect(await raw('CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n')).toStartWith(
      'HTTP/1.1 4',
    );
    expect(reported).toEqual([]);
  });

  test('who hangs up amid a body is not told of in the log', async () => {
    const begins = [
      'Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n',
      'Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno number\r\n',
      'Content-Length: 100\r\n\r\nhello',
    ];
    const from = answered.length;
    for (const path of ['/xrpc/com.atproto.sync.requestCrawl', '/admin/pds/requestCrawl'])
      for (const begin of begins) {
        const login = 'Authorization: Bearer secret\r\n';
        const before = answered.length;
        const socket = createConnection({ port: server.port, host: '127.0.0.1' }, () => {
          socket.write(`POST ${path} HTTP/1.1\r\nHost: a\r\n${login}${begin}`);
        });
        socket.on('error', () => {});
        await until(() => begun.length > before, 'the request');
        socket.destroy();
        await until(() => answered.length === begun.length, 'its end');
      }
    expect(answered.slice(from)).toEqual([400, 400, 400, 400, 400, 400]);
    expect(reported).toEqual([]);
    expect(crawled).toEqual([]);
  });

  test('a failure of an edge is told by the logger, and the answer tells nothing of the inside', async () => {
    const answer = await fetch(`${server.url}/broken`);
    expect(answer.status).toBe(500);
    expect(answer.headers.get('server')).toContain('(atproto-relay)');
    expect(answer.headers.get('access-control-allow-origin')).toBe('*');
    const text = await answer.text();
    expect(JSON.parse(text).error).toBe('InternalServerError');
    expect(text).not.toContain('inside');
    expect(reported.splice(0)).toEqual(['the edge: Error: something of the inside']);
  });

  const PIECE = Buffer.alloc(1024 * 1024, 'x');
  test.each([
    ['POST /xrpc/com.atproto.sync.requestCrawl', 413, `Content-Length: ${200 * PIECE.length}`, PIECE],
    ['POST /xrpc/com.atproto.sync.requestCrawl', 413, 'Transfer-Encoding: chunked', inChunk(PIECE)],
    ['GET /_health', 200, 'Transfer-Encoding: chunked', inChunk(PIECE)],
    [`POST ${PATH}`, 405, 'Transfer-Encoding: chunked', inChunk(PIECE)],
  ])('200 MB of a body to %s get our own %d and are not kept: %s', async (start, status, header, piece) => {
    const beforeBytes = process.memoryUsage.rss();
    let mostBytes = beforeBytes;
    let answer = '';
    const socket = createConnection({ port: server.port, host: '127.0.0.1' });
    socket.on('data', (bytes) => {
      answer += bytes;
    });
    socket.write(`${start} HTTP/1.1\r\nHost: a\r\n${header}\r\n\r\n`);
    for (let sent = 0; sent < 200; sent++) {
      if (!socket.write(piece)) await once(socket, 'drain');
      mostBytes = Math.max(mostBytes, process.memoryUsage.rss());
    }
    await until(() => answer.endsWith('}'), 'the answer');
    socket.destroy();
    expect(answer).toStartWith(`HTTP/1.1 ${status} `);
    expect(answer).toContain('(atproto-relay)');
    expect(answer.toLowerCase()).toContain('access-control-allow-origin: *');
    if (status === 413) expect(answer).toContain('"error":"PayloadTooLarge"');
    expect(mostBytes - beforeBytes).toBeLessThan(60_000_000);
    expect(crawled).toEqual([]);
  });

  test('takes a body of the largest size, and not of one byte more', async () => {
    for (const [bytes, status] of [
      [MAX_BODY_BYTES, 200],
      [MAX_BODY_BYTES + 1, 413],
    ] as const) {
      const body = '{"hostname":"pds.example.com"}'.padEnd(bytes);
      const answer = await fetch(`${server.url}/xrpc/com.atproto.sync.requestCrawl`, {
        method: 'POST',
        body,
      });
      expect(answer.status).toBe(status);
    }
    expect(crawled.splice(0)).toEqual(['pds.example.com']);
  });

  test('takes a crawl request', async () => {
    const answer = await fetch(`${server.url}/xrpc/com.atproto.sync.requestCrawl`, {
      method: 'POST',
      body: JSON.stringify({ hostname: 'pds.example.com' }),
    });
    expect(answer.status).toBe(200);
    expect(crawled).toEqual(['pds.example.com']);
  });

  test('passes on requests for dictionaries', async () => {
    const path = `${server.url}/xrpc/network.bsky.jetstream.getZstdDictionary`;
    const answers = await Promise.all([
      fetch(path),
      fetch(`${path}?id=404`),
      fetch(`${path}?id=7`, { headers: { 'if-none-match': '"x"' } }),
    ]);
    expect(await Promise.all(answers.map(json))).toEqual([
      { id: null, tag: null },
      { id: '404', tag: null },
      { id: '7', tag: '"x"' },
    ]);
    for (const { headers } of answers) expect(headers.get('server')).toContain('(atproto-relay)');
    expect(answers[1]!.status).toBe(404);
  });

  test('answers 503 while the database is away, and tells so once and not per request', async () => {
    for (let times = 0; times < 3; times++) {
      const answer = await fetch(`${server.url}/hosts/pds.example.net`);
      expect(answer.status).toBe(503);
      expect(answer.headers.get('retry-after')).toBe('5');
      expect(await json(answer)).toMatchObject({ error: 'NotAvailable' });
    }
    expect(reported).toEqual(['/hosts/pds.example.net']);
  });

  test('turns a failure of ours into a 500 that tells nothing of the inside', async () => {
    const answer = await fetch(`${server.url}/`);
    expect(answer.status).toBe(500);
    expect(answer.headers.get('server')).toContain('(atproto-relay)');
    const text = await answer.text();
    expect(JSON.parse(text).error).toBe('InternalServerError');
    expect(text).not.toContain('database');
  });
});
