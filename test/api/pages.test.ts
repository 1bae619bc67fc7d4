import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { MAX_HOST_ROWS } from '../../src/api/pages/routes.ts';
import type { GapRow, RejectionRow } from '../../src/state/types.ts';
import { aHost, anAccount, json, startApi } from './fixtures.ts';

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';
const rejection = (more: Partial<RejectionRow> = {}): RejectionRow => ({
  hostId: 1,
  did: DID,
  reason: 'prev_data_mismatch',
  detail: 'the tree before was another',
  upstreamSeq: 77,
  rev: '3kabcdefghij2',
  atMs: 1_700_000_590_000,
  ...more,
});
const gap = (more: Partial<GapRow> = {}): GapRow => ({
  hostId: 1,
  fromSeq: 10,
  toSeq: 0,
  why: 'the host lost our cursor',
  atMs: 1_700_000_000_000,
  ...more,
});

/** Every element and attribute that our pages are made of. */
const OURS = new Set(
  'html head meta title style body nav a h1 h2 p pre code table tr th td div span ul li @lang @charset @name @content @class @href @title'.split(
    ' ',
  ),
);

describe('pages for people', () => {
  test('the front page tells what this is and how to connect', async () => {
    const { request } = startApi({ hosts: [aHost(1), aHost(2, {}, { connected: false })] });
    const answer = await request('http://relay.example/');
    expect(answer.headers.get('content-type')).toStartWith('text/html');
    const text = await answer.text();
    expect(text).toContain('ws://relay.example/xrpc/com.atproto.sync.subscribeRepos');
    expect(text).toContain('1 connected of 2');
    expect(await json(await request('/?format=json'))).toMatchObject({
      hosts: 2,
      connectedHosts: 1,
      lastSeq: 1234,
    });
  });

  test('are JSON for who asks for JSON, by Accept or by format', async () => {
    const { request } = startApi({ hosts: [aHost(1)], accounts: [anAccount(DID)] });
    for (const path of ['/', '/hosts', '/hosts/pds1.example.com', `/accounts/${DID}`]) {
      for (const answer of [
        await request(path, { headers: { accept: 'application/json' } }),
        await request(`${path}?format=json`, { headers: { accept: 'text/html' } }),
      ]) {
        expect(answer.headers.get('content-type')).toStartWith('application/json');
        expect(await json(answer)).toBeObject();
      }
      const page = await request(path, { headers: { accept: 'text/html,application/json' } });
      expect(page.headers.get('content-type')).toStartWith('text/html');
      expect(page.headers.get('content-security-policy')).toContain("default-src 'none'");
    }
  });

  test('the host list puts trouble first, and sorts as asked', async () => {
    const { request } = startApi({
      hosts: [
        aHost(1),
        aHost(2, { status: 'idle' }, { connected: false }),
        aHost(3, { accountCount: 95 }),
        aHost(4, { status: 'offline' }, { connected: false }),
        aHost(5, { banned: true }, { connected: false }),
        aHost(6, {}, { pausedFor: 'rate_limit' }),
      ],
    });
    const order = async (query: string) =>
      (await json(await request(`/hosts?format=json&${query}`))).hosts.map(
        (host: { hostId: number }) => host.hostId,
      );
    expect(await order('')).toEqual([4, 5, 2, 3, 6, 1]);
    expect(await order('sort=id')).toEqual([1, 2, 3, 4, 5, 6]);
    expect(await order('sort=accounts')).toEqual([3, 1, 2, 4, 5, 6]);
    expect(await order('status=active&sort=hostname')).toEqual([1, 3, 6]);
    expect(await order('sort=nonsense')).toEqual([4, 5, 2, 3, 6, 1]);
    expect(await (await request('/hosts')).text()).toContain('95 of 100');
  });

  test('the host list has pages of a bounded length that lead to all of it, and as JSON it is whole', async () => {
    const hosts = Array.from({ length: 3 * MAX_HOST_ROWS - 10 }, (_, index) =>
      aHost(index + 1, { accountCount: (index * 7) % 31, status: index % 3 === 0 ? 'idle' : 'active' }),
    );
    const { request } = startApi({ hosts });
    for (const query of ['', 'sort=accounts', 'status=idle', 'sort=hostname&status=active']) {
      const listed = (await json(await request(`/hosts?format=json&${query}`))).hosts;
      const hostnames = listed.map((host: { hostname: string }) => host.hostname);
      expect(hostnames.length).toBe(
        hosts.filter((view) => !query.includes('status') || query.endsWith(view.row.status)).length,
      );
      const walk = async (word: string, path: string | undefined) => {
        const pages: string[][] = [];
        const paths: string[] = [];
        while (path !== undefined && pages.length < 10) {
          const text = await (await request(path)).text();
          paths.push(path);
          pages.push(Array.from(text.matchAll(/href="\/hosts\/([^"]+)"/g), ([, hostname]) => hostname!));
          const href = new RegExp(`href="([^"]+)"[^>]*>${word}<`).exec(text)?.[1];
          path = href === undefined ? undefined : `/hosts${href.replaceAll('&amp;', '&')}`;
        }
        return { pages, last: paths.at(-1) };
      };
      const forth = await walk('next', `/hosts?${query}`);
      expect(forth.pages.flat()).toEqual(hostnames);
      expect(forth.pages.map((page) => page.length)).toEqual(
        forth.pages.map((_, at) => Math.min(MAX_HOST_ROWS, hostnames.length - at * MAX_HOST_ROWS)),
      );
      const back = await walk('previous', forth.last);
      expect(back.pages).toEqual(forth.pages.toReversed());
    }
    for (const from of ['', '-1', 'x', '1e3', '9'.repeat(30)]) {
      const answer = await request(`/hosts?from=${from}`);
      expect(answer.status).toBe(200);
    }
    expect((await json(await request('/hosts?format=json&sort=id&from=100'))).hosts[0].hostId).toBe(101);
  });

  test("a host's page says why: status, last close, next attempt, rejections, gaps", async () => {
    const { request } = startApi({
      hosts: [
        aHost(
          1,
          { status: 'offline', failures: 4 },
          {
            connected: false,
            lastClose: 'closed with 1006',
            lastCloseAtMs: 1,
            nextAttemptAtMs: 1_700_000_660_000,
          },
        ),
      ],
      rejections: [rejection()],
      gaps: [gap()],
    });
    const text = await (await request('/hosts/pds1.example.com')).text();
    for (const part of [
      'offline',
      'closed with 1006',
      'in 60 s',
      'after 4 failures',
      'prev_data_mismatch',
      '3kabcdefghij2',
      'the host lost our cursor',
      '>77<',
      'rev_stale',
    ]) {
      expect(text).toContain(part);
    }
    const data = await json(await request('/hosts/pds1.example.com?format=json'));
    expect(data.rejections).toHaveLength(1);
    expect(data.gaps[0].why).toBe('the host lost our cursor');
  });

  test("an account's page says where it stands and what was refused", async () => {
    const { request } = startApi({
      hosts: [aHost(1)],
      accounts: [anAccount(DID, { upstreamStatus: 'deactivated' })],
      rejections: [rejection()],
    });
    const text = await (await request(`/accounts/${DID}`)).text();
    for (const part of ['deactivated', 'pds1.example.com', '3kabcdefghij2', 'prev_data_mismatch']) {
      expect(text).toContain(part);
    }
  });

  test('a status that is cut amid a character is no failure', async () => {
    const { request, errors } = startApi({ hosts: [aHost(1)] });
    const answer = await request(`/hosts?status=${encodeURIComponent(`${'x'.repeat(63)}😀`)}`);
    expect(answer.status).toBe(200);
    expect(errors).toEqual([]);
  });

  test('what is unknown is 404 as JSON', async () => {
    const { request } = startApi();
    for (const path of ['/hosts/nowhere.example', `/accounts/${DID}`, '/accounts/nobody', '/hosts/%00']) {
      const answer = await request(path);
      expect(answer.status).toBe(404);
      expect((await json(answer)).error).toBeString();
    }
  });

  test('nothing that came from outside is markup, wherever it is shown', async () => {
    const nasty = fc.oneof(
      fc.constantFrom(
        '<script>alert(1)</script>',
        '"><img src=x onerror=x>',
        "' onmouseover='x",
        '&lt;b>',
        '</title>',
      ),
      fc.string({ unit: 'binary', maxLength: 20 }).map((text) => `<b id="nasty">${text}`),
    );
    const plain = async (text: string) => {
      const { request } = startApi({
        hosts: [
          aHost(
            1,
            { hostname: 'h.example', status: text },
            { lastClose: text, connected: false, rejectionsSinceStart: { [text]: 1 } as never },
          ),
        ],
        accounts: [anAccount(DID, { ownStatus: text, upstreamStatus: text, handle: text, rev: text })],
        rejections: [rejection({ detail: text, did: text, rev: text, reason: text })],
        gaps: [gap({ why: text })],
      });
      const pages = await Promise.all(
        ['/hosts', '/hosts/h.example', `/accounts/${DID}`, `/hosts?status=${encodeURIComponent(text)}`].map(
          async (path) => (await request(path)).text(),
        ),
      );
      return pages.join('\n');
    };
    await fc.assert(
      fc.asyncProperty(
        nasty.map((text) => text.toWellFormed()),
        async (text) => {
          const pages = await plain(text);
          // What a parser of HTML makes of it, not what the text looks like.
          const names = new Set<string>();
          await new HTMLRewriter()
            .on('*', {
              element(element) {
                names.add(element.tagName);
                for (const [attribute] of element.attributes) names.add(`@${attribute}`);
              },
            })
            .transform(new Response(pages))
            .text();
          expect([...names].filter((name) => !OURS.has(name))).toEqual([]);
        },
      ),
      { numRuns: 60 },
    );
  });
});
