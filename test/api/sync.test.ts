import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { CID } from 'multiformats/cid';
import { MAX_REQUESTS_IN_WORK } from '../../src/api/api.ts';
import type { CrawlResult } from '../../src/hosts/types.ts';
import { aHost, anAccount, json, startApi } from './fixtures.ts';

const XRPC = '/xrpc/com.atproto.sync.';
const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';

const post = (body: unknown): RequestInit => ({
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: typeof body === 'string' ? body : JSON.stringify(body),
});

const listed = (id: number) => ({
  id,
  did: `did:plc:${String(id).padStart(24, 'a')}`,
  commit: new Uint8Array(32).fill(id % 256),
  rev: '3kabcdefghij2',
  ownStatus: null,
  upstreamStatus: id % 5 === 0 ? 'deactivated' : null,
});

describe('every answer', () => {
  test('a preflight allows the headers that were asked for', async () => {
    const { request } = startApi();
    const answer = await request(`${XRPC}requestCrawl`, {
      method: 'OPTIONS',
      headers: {
        origin: 'https://elsewhere.example',
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization,content-type',
      },
    });
    expect(answer.status).toBe(204);
    expect(answer.headers.get('access-control-allow-methods')).toContain('POST');
    expect(answer.headers.get('access-control-allow-headers')).toContain('authorization');
  });

  test('to HEAD has the status and headers of GET, and no body', async () => {
    const { request } = startApi();
    const answer = await request('/_health', { method: 'HEAD' });
    expect(answer.status).toBe(200);
    expect(await answer.text()).toBe('');
  });

  test('to an unknown XRPC method is 501, to an unknown path 404, to the wrong verb 405, all as JSON', async () => {
    const { request } = startApi();
    const unknown = await request('/xrpc/com.atproto.server.createSession', post({}));
    expect(unknown.status).toBe(501);
    expect((await json(unknown)).error).toBe('MethodNotImplemented');
    const nowhere = await request('/nothing/here');
    expect(nowhere.status).toBe(404);
    expect((await json(nowhere)).error).toBe('NotFound');
    const wrong = await request(`${XRPC}requestCrawl`);
    expect(wrong.status).toBe(405);
    expect(wrong.headers.get('allow')).toBe('POST');
    const alsoWrong = await request(`${XRPC}listHosts`, { method: 'DELETE' });
    expect(alsoWrong.status).toBe(405);
    expect(alsoWrong.headers.get('allow')).toBe('GET');
  });
});

describe('health', () => {
  test('is 200 with status and version on both paths', async () => {
    const { request } = startApi();
    for (const path of ['/_health', '/xrpc/_health']) {
      const answer = await request(path);
      expect(answer.status).toBe(200);
      expect(await json(answer)).toEqual({ status: 'ok', version: expect.any(String) });
    }
  });

  test('is 503 and says why when something is wrong', async () => {
    const { request } = startApi({ problems: ['the log does not take writes: disk full'] });
    const answer = await request('/xrpc/_health');
    expect(answer.status).toBe(503);
    expect((await json(answer)).message).toContain('disk full');
  });
});

describe('listHosts', () => {
  test('with any limit gives each host once, oldest first, and ends', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.integer({ min: 1, max: 500 }), { maxLength: 40 }),
        fc.integer({ min: 1, max: 50 }),
        async (ids, limit) => {
          const sorted = ids.toSorted((a, b) => a - b);
          const { request } = startApi({ hosts: sorted.map((id) => aHost(id)) });
          const seen: string[] = [];
          let cursor: string | undefined;
          do {
            const page = await json(
              await request(
                `${XRPC}listHosts?limit=${limit}${cursor === undefined ? '' : `&cursor=${cursor}`}`,
              ),
            );
            if (page.cursor !== undefined) expect(page.hosts.length).toBe(limit);
            seen.push(...page.hosts.map((host: { hostname: string }) => host.hostname));
            cursor = page.cursor;
          } while (cursor !== undefined && seen.length < 1000);
          expect(seen).toEqual(sorted.map((id) => `pds${id}.example.com`));
        },
      ),
      { numRuns: 40 },
    );
  });

  test('shows seq, accounts and status, and leaves seq out where there is none yet', async () => {
    const { request } = startApi({
      hosts: [aHost(1), aHost(2, { cursor: 0, status: 'idle' }), aHost(3, { banned: true })],
    });
    expect((await json(await request(`${XRPC}listHosts`))).hosts).toEqual([
      { hostname: 'pds1.example.com', seq: 100, accountCount: 10, status: 'active' },
      { hostname: 'pds2.example.com', accountCount: 10, status: 'idle' },
      { hostname: 'pds3.example.com', seq: 300, accountCount: 10, status: 'banned' },
    ]);
  });

  test.each([
    'limit=0',
    'limit=1001',
    'limit=x',
    'limit=1.5',
    'limit=',
    'limit=1&limit=2',
    'cursor=x',
    'cursor=-1',
    'cursor=9999999999999999',
  ])('refuses %s', async (query) => {
    const { request } = startApi();
    for (const method of ['listHosts', 'listRepos']) {
      const answer = await request(`${XRPC}${method}?${query}`);
      expect(answer.status).toBe(400);
      expect((await json(answer)).error).toBe('InvalidRequest');
    }
  });
});

test.each(['listHosts', 'listRepos'])('%s takes an empty cursor for none', async (method) => {
  const { request } = startApi({ hosts: [aHost(1), aHost(2)], repos: [listed(1), listed(2)] });
  const [empty, none] = await Promise.all(
    ['?limit=1&cursor=', '?limit=1'].map((query) => request(`${XRPC}${method}${query}`)),
  );
  expect(empty!.status).toBe(200);
  expect(await json(empty!)).toEqual(await json(none!));
});

describe('getHostStatus', () => {
  test('tells one host, whatever the case of its name', async () => {
    const { request } = startApi({ hosts: [aHost(1)] });
    expect(await json(await request(`${XRPC}getHostStatus?hostname=PDS1.example.com`))).toEqual({
      hostname: 'pds1.example.com',
      seq: 100,
      accountCount: 10,
      status: 'active',
    });
  });

  test('says HostNotFound for others, InvalidRequest without a name', async () => {
    const { request } = startApi();
    const unknown = await request(`${XRPC}getHostStatus?hostname=nowhere.example.com`);
    expect(unknown.status).toBe(400);
    expect((await json(unknown)).error).toBe('HostNotFound');
    const nameless = await request(`${XRPC}getHostStatus`);
    expect(nameless.status).toBe(400);
    expect(await json(nameless)).toEqual({ error: 'InvalidRequest', message: 'hostname is required' });
  });
});

describe('listRepos', () => {
  /** Pages from a cursor on, to the end or as far as the caller wants; fails when they do not end. */
  const pagesOf = async function* (repos: ReturnType<typeof listed>[], limit: number) {
    const { request } = startApi({ repos });
    let cursor: string | undefined;
    for (let count = 0; count <= repos.length; count++) {
      const query = `limit=${limit}${cursor === undefined ? '' : `&cursor=${cursor}`}`;
      const page = await json(await request(`${XRPC}listRepos?${query}`));
      expect(page.repos.length).toBeLessThanOrEqual(limit);
      if (page.cursor !== undefined) expect(page.repos.length).toBeGreaterThan(0);
      yield page.repos as { did: string; active: boolean }[];
      cursor = page.cursor;
      if (cursor === undefined) return;
    }
    throw new Error('the pages do not end');
  };
  const didsOf = (repos: readonly { did: string }[]) => repos.map((repo) => repo.did);

  test('with any limit gives each repo once, in order, with no empty page before the end', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 60 }),
        fc.integer({ min: 1, max: 70 }),
        async (count, limit) => {
          const repos = Array.from({ length: count }, (_, index) => listed(index * 3 + 1));
          const seen: string[] = [];
          for await (const page of pagesOf(repos, limit)) seen.push(...didsOf(page));
          expect(seen).toEqual(didsOf(repos));
        },
      ),
      { numRuns: 40 },
    );
  });

  test('gives every repo, and every active one to clients that stop at a page without one', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 12 })), { maxLength: 8 }),
        fc.integer({ min: 2, max: 10 }),
        async (runs, limit) => {
          const repos = runs
            .flatMap(([active, length]) => Array<boolean>(length).fill(active))
            .map((active, index) => ({ ...listed(1 + index), upstreamStatus: active ? null : 'suspended' }));
          const inOrder: string[] = [];
          let stopped = false;
          const toStopper: string[] = [];
          for await (const page of pagesOf(repos, limit)) {
            // One that stands in for a page's last comes again where it belongs.
            for (const did of didsOf(page)) if (did === repos[inOrder.length]?.did) inOrder.push(did);
            stopped ||= !page.some(({ active }) => active);
            if (!stopped) toStopper.push(...didsOf(page.filter(({ active }) => active)));
          }
          expect(inOrder).toEqual(didsOf(repos));
          expect(new Set(toStopper)).toEqual(
            new Set(didsOf(repos.filter((repo) => repo.upstreamStatus === null))),
          );
        },
      ),
      { numRuns: 100 },
    );
  });

  test('one by one gives each repo a page of its own, inactive ones too', async () => {
    const repos = [5, 10, 15, 16, 20].map(listed);
    const pages = await Array.fromAsync(pagesOf(repos, 1));
    expect(pages.map(didsOf)).toEqual(repos.map(({ did }) => [did]));
  });

  test('gives head as the CID of the commit, and the status where it is not active', async () => {
    const { request } = startApi({ repos: [listed(4), listed(5)] });
    const { repos } = await json(await request(`${XRPC}listRepos`));
    const cid = CID.parse(repos[0].head);
    expect(cid.version).toBe(1);
    expect(cid.code).toBe(0x71);
    expect(cid.multihash.digest).toEqual(new Uint8Array(32).fill(4));
    expect(repos[0]).toMatchObject({ active: true, rev: '3kabcdefghij2' });
    expect(repos[0]).not.toHaveProperty('status');
    expect(repos[1]).toMatchObject({ active: false, status: 'deactivated' });
  });
});

describe('one account', () => {
  const withStatus = (own: string | null, upstream: string | null = null) =>
    startApi({ hosts: [aHost(1)], accounts: [anAccount(DID, { ownStatus: own, upstreamStatus: upstream })] });

  test('getRepoStatus tells rev when active and status when not', async () => {
    expect(await json(await withStatus(null).request(`${XRPC}getRepoStatus?did=${DID}`))).toEqual({
      did: DID,
      active: true,
      rev: '3kabcdefghij2',
    });
    expect(await json(await withStatus('takendown').request(`${XRPC}getRepoStatus?did=${DID}`))).toEqual({
      did: DID,
      active: false,
      status: 'takendown',
    });
  });

  test('getLatestCommit gives cid and rev', async () => {
    const body = await json(await withStatus(null).request(`${XRPC}getLatestCommit?did=${DID}`));
    expect(CID.parse(body.cid).multihash.digest).toEqual(new Uint8Array(32).fill(7));
    expect(body.rev).toBe('3kabcdefghij2');
  });

  test.each([
    ['takendown', 'RepoTakendown'],
    ['suspended', 'RepoSuspended'],
    ['deactivated', 'RepoDeactivated'],
    ['deleted', 'RepoNotFound'],
    ['something-new', 'RepoDeactivated'],
  ])('a %s account is %s', async (status, error) => {
    const { request } = withStatus(null, status);
    for (const method of ['getLatestCommit', 'getRepo']) {
      const answer = await request(`${XRPC}${method}?did=${DID}`);
      expect(answer.status).toBe(400);
      expect((await json(answer)).error).toBe(error);
    }
  });

  test('an unknown one is RepoNotFound, a malformed DID InvalidRequest', async () => {
    const { request } = startApi();
    for (const method of ['getRepoStatus', 'getLatestCommit', 'getRepo']) {
      const unknown = await request(`${XRPC}${method}?did=${DID}`);
      expect(unknown.status).toBe(400);
      expect((await json(unknown)).error).toBe('RepoNotFound');
      for (const query of ['', '?did=', '?did=nobody', '?did=did:PLC:x', `?did=${DID}&did=${DID}`]) {
        const invalid = await request(`${XRPC}${method}${query}`);
        expect(invalid.status).toBe(400);
        expect((await json(invalid)).error).toBe('InvalidRequest');
      }
    }
  });

  test('getRepo redirects to the PDS with the same path and query', async () => {
    const answer = await withStatus(null).request(`${XRPC}getRepo?did=${DID}&since=3kabc&x=%2F`);
    expect(answer.status).toBe(302);
    expect(answer.headers.get('location')).toBe(
      `https://pds1.example.com/xrpc/com.atproto.sync.getRepo?did=${DID}&since=3kabc&x=%2F`,
    );
    const local = startApi({
      hosts: [aHost(1, { hostname: 'localhost:2583', secure: false })],
      accounts: [anAccount(DID)],
    });
    const insecure = await local.request(`${XRPC}getRepo?did=${DID}`);
    expect(insecure.headers.get('location')).toStartWith('http://localhost:2583/xrpc/');
  });

  test('a repo without a commit yet is RepoNotFound', async () => {
    const { request } = startApi({ accounts: [anAccount(DID, { commit: null, rev: null })] });
    expect((await json(await request(`${XRPC}getLatestCommit?did=${DID}`))).error).toBe('RepoNotFound');
  });
});

describe('requestCrawl', () => {
  test('passes the host on and answers with an empty 200', async () => {
    const asked: string[] = [];
    const { request } = startApi({
      crawl: (hostname, source) => {
        asked.push(`${source} ${hostname}`);
        return { ok: true, hostId: 1, known: false };
      },
    });
    const answer = await request(`${XRPC}requestCrawl`, post({ hostname: ' PDS.example.com ' }));
    expect(answer.status).toBe(200);
    expect(await answer.text()).toBe('');
    expect(asked).toEqual(['crawl pds.example.com']);
  });

  test.each([
    [{ ok: false, error: 'InvalidRequest', message: 'no' }, 400],
    [{ ok: false, error: 'HostNotFound', message: 'no' }, 400],
    [{ ok: false, error: 'HostBanned', message: 'no' }, 403],
    [{ ok: false, error: 'RateLimitExceeded', message: 'no', retryAfterSeconds: 90 }, 429],
  ] as [CrawlResult, number][])('answers %o with %i', async (result, status) => {
    const { request } = startApi({ crawl: () => result });
    const answer = await request(`${XRPC}requestCrawl`, post({ hostname: 'pds.example.com' }));
    expect(answer.status).toBe(status);
    if (status === 429) expect(answer.headers.get('retry-after')).toBe('90');
    expect((await json(answer)).message).toBe('no');
  });

  test.each([
    '',
    '{',
    '[]',
    'null',
    '{}',
    '{"hostname":5}',
    '{"hostname":""}',
    `{"hostname":"${'a'.repeat(300)}"}`,
  ])('refuses the body %s', async (body) => {
    const { request } = startApi();
    const answer = await request(`${XRPC}requestCrawl`, post(body));
    expect(answer.status).toBe(400);
    expect((await json(answer)).error).toBe('InvalidRequest');
  });

  test('is limited per address, IPv6 by /64, and the limit passes with time', async () => {
    let nowMs = 0;
    const { request } = startApi({ clock: () => nowMs });
    const from = async (address: string) =>
      (await request(`${XRPC}requestCrawl`, post({ hostname: 'pds.example.com' }), address)).status;
    for (let count = 0; count < 20; count++) expect(await from('2001:db8::1')).toBe(200);
    expect(await from('2001:db8::2')).toBe(429);
    expect(await from('2001:db8:0:1::2')).toBe(200);
    nowMs += 5 * 60_000;
    expect(await from('2001:db8::2')).toBe(200);
  });
});

describe('too many requests at once', () => {
  test('are refused with 503, while health still answers, and places come free again', async () => {
    let release = (_: null) => {};
    const waiting = new Promise<null>((resolve) => {
      release = resolve;
    });
    const { request } = startApi({ lookup: () => waiting });
    const status = `${XRPC}getRepoStatus?did=${DID}`;
    const pending = Array.from({ length: MAX_REQUESTS_IN_WORK }, () => request(status));
    const refused = await request(status);
    expect(refused.status).toBe(503);
    expect(refused.headers.get('retry-after')).toBe('5');
    expect((await request('/_health')).status).toBe(200);
    release(null);
    for (const answer of await Promise.all(pending)) expect(answer.status).toBe(400);
    expect((await request(status)).status).toBe(400);
  });
});

describe('whatever is asked', () => {
  test('no query string makes a 500', async () => {
    const { request, errors } = startApi({
      hosts: [aHost(1)],
      accounts: [anAccount(DID)],
      repos: [listed(1)],
    });
    const paths = [
      ...['listHosts', 'getHostStatus', 'listRepos', 'getRepoStatus', 'getLatestCommit', 'getRepo'].map(
        (method) => XRPC + method,
      ),
      '/',
      '/hosts',
      '/hosts/x',
      '/accounts/x',
      '/admin/pds/list',
    ];
    const key = fc.constantFrom(
      'limit',
      'cursor',
      'did',
      'hostname',
      'since',
      'sort',
      'status',
      'format',
      'x',
    );
    const value = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom(DID, '0', '-1', '1e9', '9'.repeat(30)),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...paths),
        fc.array(fc.tuple(key, value), { maxLength: 4 }),
        fc.boolean(),
        async (path, pairs, encoded) => {
          const query = pairs
            .map(
              ([name, text]) =>
                `${name}=${encoded ? encodeURIComponent(text.toWellFormed()) : text.replace(/[#\s]/g, '')}`,
            )
            .join('&');
          const answer = await request(`${path}?${query}`);
          expect(answer.status).toBeLessThan(500);
        },
      ),
      { numRuns: 400 },
    );
    expect(errors).toEqual([]);
  });
});
