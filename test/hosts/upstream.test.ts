import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { MAX_BACKOFF_MS } from '../../src/hosts/lifecycle.ts';
import type { NewHost } from '../../src/hosts/roster.ts';
import { createUpstream, REFRESH_MS, readHostList } from '../../src/hosts/upstream.ts';
import { type FetchResult, guardedFetch } from '../../src/network/fetch.ts';
import { answer, fakeClock, seeded } from './fakes.ts';

const reading = (reply: (url: URL, call: number) => FetchResult) => {
  const pages: (readonly NewHost[])[] = [];
  const urls: string[] = [];
  return {
    pages,
    urls,
    deps: {
      url: 'https://relay.net/',
      userAgent: 'weir/test',
      fetch: async (url: string) => {
        urls.push(url);
        return reply(new URL(url), urls.length);
      },
      addHosts: async (hosts: readonly NewHost[]) => {
        pages.push(hosts);
      },
    },
  };
};

const hosts = (from: number, count: number) =>
  Array.from({ length: count }, (_, n) => ({
    hostname: `pds${from + n}.net`,
    accountCount: n,
    status: 'active',
  }));

describe("the upstream's host list", () => {
  test('is read page by page, each handed on as it comes', async () => {
    const { deps, pages, urls } = reading((url) => {
      const at = Number(url.searchParams.get('cursor') ?? 0);
      return answer({ hosts: hosts(at, 1_000), ...(at < 2_000 ? { cursor: String(at + 1_000) } : {}) });
    });
    expect(await readHostList(deps)).toEqual({ ok: true, hosts: 3_000, pages: 3 });
    expect(pages.map((page) => page.length)).toEqual([1_000, 1_000, 1_000]);
    expect(pages[0]![5]).toEqual({ hostname: 'pds5.net', accountCount: 5 });
    expect(urls[0]).toBe('https://relay.net/xrpc/com.atproto.sync.listHosts?limit=1000');
  });

  test('leaves out banned hosts, duplicates and what is no host, and keeps offline ones', async () => {
    const { deps, pages } = reading(() =>
      answer({
        hosts: [
          { hostname: 'a.net', status: 'banned' },
          { hostname: 'b.net', status: 'offline', accountCount: -3 },
          { hostname: 'B.net' },
          { hostname: 7 },
          null,
          'c.net',
          { hostname: 'x'.repeat(300) },
          { hostname: 'd.net', accountCount: 1.5 },
        ],
      }),
    );
    expect(await readHostList(deps)).toMatchObject({ ok: true, hosts: 2 });
    expect(pages).toEqual([[{ hostname: 'b.net' }, { hostname: 'd.net' }]]);
  });

  test('is left when its pages never end or go in circles, with what came before kept', async () => {
    const circle = reading(() => answer({ hosts: hosts(0, 2), cursor: 'same' }));
    expect(await readHostList(circle.deps)).toMatchObject({
      ok: false,
      hosts: 2,
      detail: 'its cursor goes in circles',
    });
    const endless = reading((_, call) => answer({ hosts: [], cursor: String(call) }));
    expect(await readHostList(endless.deps)).toMatchObject({ ok: false, pages: 200 });
    const huge = reading((_, call) => answer({ hosts: hosts(call * 10_000, 10_000), cursor: String(call) }));
    expect(await readHostList(huge.deps)).toMatchObject({ ok: false, hosts: 20_000 });
  });

  test("of a relay of the operator's own is read at any address and port", async () => {
    const server = Bun.serve({
      port: 0,
      hostname: '127.0.0.1',
      fetch: () => Response.json({ hosts: hosts(0, 2) }),
    });
    const { deps, pages } = reading(() => answer({}));
    const url = `http://127.0.0.1:${server.port}`;
    expect(await readHostList({ ...deps, url, fetch: guardedFetch })).toEqual({
      ok: true,
      hosts: 2,
      pages: 1,
    });
    expect(pages).toHaveLength(1);
    await server.stop(true);
  });

  test('survives any answer', async () => {
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.json(), fc.string()), async (body) => {
        const result = await readHostList(reading(() => answer(body)).deps);
        expect(typeof result.ok).toBe('boolean');
      }),
    );
  });

  test('is not read on once it is stopped', async () => {
    const { deps, pages, urls } = reading((_, call) => {
      if (call === 2) upstream.stop();
      return answer({ hosts: hosts(call * 10, 10), cursor: String(call) });
    });
    const upstream = createUpstream({ ...deps, clock: fakeClock().clock, random: seeded(3) });
    upstream.start();
    for (let turn = 0; turn < 100; turn++) await Promise.resolve();
    expect(urls).toHaveLength(2);
    expect(pages).toHaveLength(1);
  });

  test('is tried again for ever when the upstream is away, and read anew every few hours', async () => {
    let up = false;
    const lines: string[] = [];
    const time = fakeClock();
    const { deps, urls } = reading(() =>
      up ? answer({ hosts: hosts(0, 3) }) : { ok: false, kind: 'unreachable', detail: 'DNS: ENOTFOUND' },
    );
    const settle = async () => {
      for (let n = 0; n < 20; n++) await Promise.resolve();
    };
    const upstream = createUpstream({
      ...deps,
      clock: time.clock,
      random: seeded(3),
      log: (_, message) => lines.push(message),
    });
    upstream.start();
    await settle();
    expect(upstream.problem).toContain('https://relay.net/: unreachable: DNS: ENOTFOUND');
    for (let n = 0; n < 40; n++) {
      const before = urls.length;
      time.advance(MAX_BACKOFF_MS);
      await settle();
      expect(urls.length).toBeGreaterThan(before);
    }
    up = true;
    time.advance(MAX_BACKOFF_MS);
    await settle();
    expect(upstream.problem).toBe('');
    expect(upstream.counters.hosts).toBe(3);
    const before = urls.length;
    time.advance(REFRESH_MS - 1);
    await settle();
    expect(urls.length).toBe(before);
    time.advance(1);
    await settle();
    expect(urls.length).toBe(before + 1);
    upstream.stop();
    time.advance(REFRESH_MS * 3);
    expect(urls.length).toBe(before + 1);
    expect(lines.length).toBeGreaterThan(0);
  });
});
