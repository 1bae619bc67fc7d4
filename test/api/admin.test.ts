import { describe, expect, test } from 'bun:test';
import { aHost, json, startApi } from './fixtures.ts';

const basic = (user: string, password: string) => ({
  headers: { authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}` },
});
const bearer = (secret: string) => ({ headers: { authorization: `Bearer ${secret}` } });

const setUp = (clock?: () => number) =>
  startApi({
    hosts: [aHost(1), aHost(2, { banned: true })],
    adminPasswords: ['old secret: with colon', 'new-secret'],
    consumers: [
      {
        id: 4,
        remoteAddress: '198.51.100.1',
        userAgent: 'tap',
        seq: 9,
        behind: 1,
        mode: 'live',
        eventsSent: 12,
        bytesSent: 900,
        queuedBytes: 0,
        connectedAtMs: 0,
      },
    ],
    ...(clock === undefined ? {} : { clock }),
  });

describe('admin routes', () => {
  test('are off, and say so, without a password', async () => {
    for (const adminPasswords of [[], ['']]) {
      const { request } = startApi({ adminPasswords });
      for (const init of [{}, basic('admin', ''), bearer('x')]) {
        const answer = await request('/admin/pds/list', init);
        expect(answer.status).toBe(404);
        expect((await json(answer)).message).toContain('off');
      }
    }
  });

  test('take Basic admin:PASSWORD and Bearer, with each of the secrets', async () => {
    const { request } = setUp();
    for (const init of [
      basic('admin', 'old secret: with colon'),
      basic('admin', 'new-secret'),
      bearer('new-secret'),
    ]) {
      expect((await request('/admin/pds/list', init)).status).toBe(200);
    }
  });

  test('refuse everything else with 401 and ask for Basic', async () => {
    const { request } = setUp();
    for (const [index, init] of [
      {},
      basic('root', 'new-secret'),
      basic('admin', 'new-secre'),
      basic('admin', ''),
      bearer('new-secret2'),
      { headers: { authorization: 'new-secret' } },
      { headers: { authorization: 'Digest new-secret' } },
    ].entries()) {
      const answer = await request('/admin/pds/list', init, `198.51.100.${index}`);
      expect(answer.status).toBe(401);
      expect(answer.headers.get('www-authenticate')).toStartWith('Basic');
    }
    expect((await request('/admin/no/such/route', {}, '198.51.100.99')).status).toBe(401);
  });

  test('make an address wait after failed logins, with the right secret too, and others not', async () => {
    let nowMs = 0;
    const { request } = setUp(() => nowMs);
    for (let count = 0; count < 5; count++) {
      expect((await request('/admin/pds/list', bearer('guess'))).status).toBe(401);
    }
    const limited = await request('/admin/pds/list', bearer('new-secret'));
    expect(limited.status).toBe(429);
    expect(Number(limited.headers.get('retry-after'))).toBe(300);
    expect((await request('/admin/pds/list', bearer('new-secret'), '203.0.113.5')).status).toBe(200);
    nowMs += 300_000;
    expect((await request('/admin/pds/list', bearer('new-secret'))).status).toBe(200);
  });

  const block = async (headers: Record<string, string>) => {
    const { request, banned } = setUp();
    const answer = await request('/admin/pds/block?host=pds1.example.com', {
      method: 'POST',
      headers: { ...basic('admin', 'new-secret').headers, ...headers },
    });
    expect(banned.size).toBe(answer.status === 200 ? 1 : 0);
    return answer.status;
  };

  test.each([
    [{ 'sec-fetch-site': 'cross-site' }],
    [{ 'sec-fetch-site': 'same-site' }],
    [{ 'sec-fetch-site': 'something-new' }],
    [{ host: 'relay.example.com', origin: 'https://evil.example.com' }],
    [{ host: 'relay.example.com', origin: 'https://relay.example.com:8443' }],
    [{ host: 'relay.example.com', origin: 'null' }],
    [{ host: 'relay.example.com', origin: '' }],
    [{ host: 'relay.example.com', origin: 'relay.example.com' }],
    [{ origin: 'https://relay.example.com' }],
    [{ host: 'relay.example.com', origin: 'https://evil.example.com', 'sec-fetch-site': 'same-origin' }],
    [{ host: 'relay.example.com', origin: 'https://relay.example.com', 'sec-fetch-site': 'same-site' }],
  ] as Record<string, string>[][])(
    'do not act on a request that another site makes a browser send: %o',
    async (headers) => {
      expect(await block(headers!)).toBe(403);
    },
  );

  test.each([
    [{ 'user-agent': 'goat/0.1.0' }],
    [{ host: 'localhost:2470', 'user-agent': 'curl/8.5.0' }],
    [{ host: 'relay.example.com', origin: 'https://relay.example.com', 'sec-fetch-site': 'same-origin' }],
    [{ host: 'relay.example.com', 'sec-fetch-site': 'none' }],
    [{ host: 'localhost:2470', origin: 'http://localhost:2470' }],
    [{ host: 'RELAY.example.com:443', origin: 'https://relay.example.com' }],
  ] as Record<string, string>[][])('act on one that comes from no other site: %o', async (headers) => {
    expect(await block(headers!)).toBe(200);
  });

  test('pds/list has the keys that dashboards know', async () => {
    const { request } = setUp();
    const rows = await json(await request('/admin/pds/list', bearer('new-secret')));
    expect(rows).toHaveLength(2);
    expect(rows[0]).toEqual({
      ID: 1,
      CreatedAt: '2023-11-14T22:13:20.000Z',
      Host: 'pds1.example.com',
      SSL: true,
      Cursor: 100,
      Registered: true,
      Blocked: false,
      CrawlRateLimit: 50,
      RepoCount: 10,
      RepoLimit: 100,
      HasActiveConnection: true,
      EventsSeenSinceStartup: 7,
      PerSecondEventRate: { Max: 50, Window: 1 },
      PerHourEventRate: { Max: 2500, Window: 3600 },
      PerDayEventRate: { Max: 20_000, Window: 86_400 },
      UserCount: 10,
    });
    expect(rows[1].Blocked).toBe(true);
  });

  test('block and unblock a known host, and say when it is unknown', async () => {
    const { request, banned } = setUp();
    const init = { method: 'POST', ...bearer('new-secret') };
    const blocked = await request('/admin/pds/block?host=PDS1.example.com', init);
    expect(await json(blocked)).toEqual({ success: 'true' });
    expect([...banned]).toEqual(['pds1.example.com']);
    expect((await request('/admin/pds/unblock?host=pds1.example.com', init)).status).toBe(200);
    expect(banned.size).toBe(0);
    expect((await request('/admin/pds/block?host=nowhere.example', init)).status).toBe(404);
    expect((await request('/admin/pds/block', init)).status).toBe(400);
  });

  test('requestCrawl comes from the admin', async () => {
    const asked: string[] = [];
    const { request } = startApi({
      adminPasswords: ['s'],
      crawl: (hostname, source) => {
        asked.push(`${source} ${hostname}`);
        return { ok: true, hostId: 1, known: false };
      },
    });
    const answer = await request('/admin/pds/requestCrawl', {
      method: 'POST',
      body: '{"hostname":"localhost:2583"}',
      ...bearer('s'),
    });
    expect(await json(answer)).toEqual({ success: 'true' });
    expect(asked).toEqual(['admin localhost:2583']);
  });

  test('consumers/list shows who reads', async () => {
    const { request } = setUp();
    const [row] = await json(await request('/admin/consumers/list', bearer('new-secret')));
    expect(row).toMatchObject({
      id: 4,
      remote_addr: '198.51.100.1',
      user_agent: 'tap',
      events_consumed: 12,
      connected_at: '1970-01-01T00:00:00.000Z',
    });
  });
});
