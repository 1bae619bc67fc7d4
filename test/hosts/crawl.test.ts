import { describe, expect, test } from 'bun:test';
import { MAX_CHECKS_IN_FLIGHT, NEGATIVE_CACHE_MS, parseHostEntry } from '../../src/hosts/crawl.ts';
import type { FetchOptions, FetchResult } from '../../src/network/fetch.ts';
import { createGuardedFetch } from '../../src/network/fetch.ts';
import { createGuardedLookup } from '../../src/network/lookup.ts';
import { answer, PDS_ANSWER, rosterWith, row } from './fakes.ts';

/** A roster whose describeServer answers are made by `reply`; remembers what was asked. */
const withAnswers = (
  reply: (url: string) => FetchResult | Promise<FetchResult>,
  over: Parameters<typeof rosterWith>[0] = {},
) => {
  const asked: { url: string; options: FetchOptions }[] = [];
  const made = rosterWith({
    fetch: async (url, options) => {
      asked.push({ url, options });
      return reply(url);
    },
    ...over,
  });
  return { ...made, asked };
};

describe('requestCrawl', () => {
  test('adds a host that describes itself as a PDS, and connects to it', async () => {
    const { roster, storage, time, ingest, asked } = withAnswers(() => PDS_ANSWER);
    roster.start();
    const result = await roster.requestCrawl('New.PDS.net', { source: 'crawl' });
    expect(result).toMatchObject({ ok: true, known: false });
    expect(asked).toMatchObject([
      {
        url: 'https://new.pds.net/xrpc/com.atproto.server.describeServer',
        options: { timeoutMs: 5_000, allowPrivateAddresses: false },
      },
    ]);
    expect(storage.rows).toMatchObject([
      { hostname: 'new.pds.net', secure: true, source: 'crawl', cursor: 0 },
    ]);
    time.advance(1_000);
    expect(ingest.connects).toMatchObject([{ hostname: 'new.pds.net', cursor: null }]);
  });

  test('stores nothing and asks nobody when the name is not a public hostname', async () => {
    const { roster, storage, asked } = withAnswers(() => PDS_ANSWER);
    const bad = [
      '',
      'localhost',
      'localhost:3000',
      '127.0.0.1',
      '[::1]',
      'pds.net:8080',
      'pds',
      'a b.net',
      'http://pds.net',
      'https://pds.net/path',
      '0x7f000001',
      `${'a.'.repeat(200)}net`,
    ];
    for (const hostname of bad) {
      expect(await roster.requestCrawl(hostname, { source: 'crawl' })).toMatchObject({
        error: 'InvalidRequest',
      });
    }
    expect(asked.length + storage.rows.length).toBe(0);
  });

  test('stores nothing when the host does not behave like a PDS', async () => {
    const replies: FetchResult[] = [
      { ok: false, kind: 'timeout', detail: '' },
      { ok: false, kind: 'unreachable', detail: '' },
      { ok: false, kind: 'forbidden_address', detail: '' },
      { ok: false, kind: 'bad_redirect', detail: '' },
      answer({ did: 'did:web:x.net' }, { status: 404 }),
      answer('<html>'),
      answer('null'),
      answer('[]'),
      answer({ did: 7 }),
      answer({ did: 'example' }),
      answer({}),
    ];
    let n = 0;
    const { roster, storage } = withAnswers(() => replies[n]!);
    for (n = 0; n < replies.length; n++)
      expect(await roster.requestCrawl(`host${n}.net`, { source: 'admin' })).toMatchObject({
        error: 'HostNotFound',
      });
    expect(storage.rows.length).toBe(0);
    expect(roster.crawlCounters.refusedCheck).toBe(replies.length);
  });

  test('refuses a relay that pretends to be a PDS, even one that answers like one', async () => {
    const relay = answer({ did: 'did:web:relay.net' }, { headers: { server: 'zlay/0.1 (ATProto-Relay)' } });
    const { roster, storage } = withAnswers(() => relay);
    expect(await roster.requestCrawl('relay.net', { source: 'crawl' })).toMatchObject({
      error: 'InvalidRequest',
      message: expect.stringContaining('relay'),
    });
    expect(storage.rows.length).toBe(0);
    expect(roster.crawlCounters.refusedRelay).toBe(1);
  });

  test('does not let the guard be passed by a name that leads inside', async () => {
    let visited = false;
    const inside = Bun.serve({
      port: 0,
      fetch: () => {
        visited = true;
        return Response.json({ did: 'did:web:inside.net' });
      },
    });
    const lookup = createGuardedLookup({
      allowPrivateAddresses: false,
      resolve: async () => [{ address: '127.0.0.1', family: 4 }],
    });
    const { roster, storage } = rosterWith({ fetch: createGuardedFetch({ lookupFor: () => lookup }) });
    expect(await roster.requestCrawl('inside.net', { source: 'crawl' })).toMatchObject({
      error: 'HostNotFound',
    });
    await inside.stop(true);
    expect(visited).toBe(false);
    expect(storage.rows.length).toBe(0);
  });

  test('of a known host asks nothing and brings its next attempt forward', async () => {
    const { roster, time, ingest, close, asked } = withAnswers(() => PDS_ANSWER, {
      rows: [row(1, { failures: 14 })],
    });
    roster.start();
    time.advance(10 * 60_000);
    close(1, { kind: 'unreachable', detail: '' });
    time.advance(11_000);
    const before = ingest.connects.length;
    expect(await roster.requestCrawl('host1.pds.net', { source: 'crawl' })).toMatchObject({
      known: true,
      hostId: 1,
    });
    time.advance(10_000);
    expect(ingest.connects.length).toBe(before + 1);
    expect(asked.length).toBe(0);
  });

  test('of a banned host is refused, known or not', async () => {
    const { roster, asked } = withAnswers(() => PDS_ANSWER, {
      rows: [row(1, { banned: true })],
      domainBans: ['evil.org'],
    });
    for (const hostname of ['host1.pds.net', 'evil.org', 'deep.below.evil.org'])
      expect(await roster.requestCrawl(hostname, { source: 'admin' })).toMatchObject({ error: 'HostBanned' });
    expect(asked.length).toBe(0);
  });

  test('is refused when the ban comes while the host is being checked', async () => {
    const gate = Promise.withResolvers<FetchResult>();
    const { roster, storage } = withAnswers(() => gate.promise);
    const result = roster.requestCrawl('new.evil.org', { source: 'crawl' });
    await roster.banDomain('evil.org');
    gate.resolve(PDS_ANSWER);
    expect(await result).toMatchObject({ error: 'HostBanned' });
    expect(storage.rows.length).toBe(0);
  });

  test('adds at most so many new hosts a day, but for the admin, and remembers that over a restart', async () => {
    const today = Array.from({ length: 48 }, (_, n) =>
      row(n + 1, { source: 'crawl', createdAtMs: Date.UTC(2026, 10, 1) - 3_600_000 }),
    );
    const earlier = row(60, { source: 'crawl', createdAtMs: Date.UTC(2026, 9, 1) });
    const { roster, time } = withAnswers(() => PDS_ANSWER, { rows: [...today, earlier] });
    expect(await roster.requestCrawl('a.net', { source: 'crawl' })).toMatchObject({ ok: true });
    expect(await roster.requestCrawl('b.net', { source: 'crawl' })).toMatchObject({ ok: true });
    const refused = await roster.requestCrawl('c.net', { source: 'crawl' });
    expect(refused).toMatchObject({ error: 'RateLimitExceeded', retryAfterSeconds: 23 * 3_600 });
    expect(await roster.requestCrawl('c.net', { source: 'admin' })).toMatchObject({ ok: true });
    time.advance(23 * 3_600_000);
    expect(await roster.requestCrawl('d.net', { source: 'crawl' })).toMatchObject({ ok: true });
  });

  test('spends nothing of the daily limit on hosts that fail their check', async () => {
    const { roster } = withAnswers(() => ({ ok: false, kind: 'timeout', detail: '' }));
    for (let n = 0; n < 60; n++)
      expect(await roster.requestCrawl(`x${n}.net`, { source: 'crawl' })).toMatchObject({
        error: 'HostNotFound',
      });
  });

  test('does not let checks that run at once overrun the daily limit', async () => {
    const gate = Promise.withResolvers<FetchResult>();
    const rows = Array.from({ length: 48 }, (_, n) =>
      row(n + 1, { source: 'crawl', createdAtMs: Date.UTC(2026, 10, 1) }),
    );
    const { roster, storage } = withAnswers(() => gate.promise, { rows });
    const results = Array.from({ length: 5 }, (_, n) =>
      roster.requestCrawl(`x${n}.net`, { source: 'crawl' }),
    );
    gate.resolve(PDS_ANSWER);
    const accepted = (await Promise.all(results)).filter((result) => result.ok);
    expect(accepted.length).toBe(2);
    expect(storage.rows.length).toBe(2);
  });

  test('asks one host once, however many ask for it at a time', async () => {
    const gate = Promise.withResolvers<FetchResult>();
    const { roster, storage, asked } = withAnswers(() => gate.promise);
    const results = Array.from({ length: 100 }, () => roster.requestCrawl('one.net', { source: 'crawl' }));
    gate.resolve(PDS_ANSWER);
    expect((await Promise.all(results)).every((result) => result.ok)).toBe(true);
    expect(asked.length).toBe(1);
    expect(storage.rows.length).toBe(1);
  });

  test('checks a bounded number of hosts at a time and says when to come again', async () => {
    const gate = Promise.withResolvers<FetchResult>();
    const { roster } = withAnswers(() => gate.promise);
    const results = Array.from({ length: MAX_CHECKS_IN_FLIGHT }, (_, n) =>
      roster.requestCrawl(`x${n}.net`, { source: 'crawl' }),
    );
    expect(await roster.requestCrawl('late.net', { source: 'crawl' })).toMatchObject({
      error: 'RateLimitExceeded',
      retryAfterSeconds: expect.any(Number),
    });
    gate.resolve(PDS_ANSWER);
    await Promise.all(results);
    expect(await roster.requestCrawl('late.net', { source: 'crawl' })).toMatchObject({ ok: true });
    expect(roster.crawlCounters.checksInFlight).toBe(0);
  });

  test('remembers a failed check for a while, but not against the admin', async () => {
    let works = false;
    const { roster, time, asked } = withAnswers(() =>
      works ? PDS_ANSWER : { ok: false, kind: 'unreachable', detail: '' },
    );
    await roster.requestCrawl('slow.net', { source: 'crawl' });
    works = true;
    expect(await roster.requestCrawl('slow.net', { source: 'crawl' })).toMatchObject({
      error: 'HostNotFound',
    });
    expect(asked.length).toBe(1);
    time.advance(NEGATIVE_CACHE_MS + 1);
    expect(await roster.requestCrawl('slow.net', { source: 'crawl' })).toMatchObject({ ok: true });
    works = false;
    await roster.requestCrawl('other.net', { source: 'crawl' });
    works = true;
    expect(await roster.requestCrawl('other.net', { source: 'admin' })).toMatchObject({ ok: true });
  });
});

describe('a host as people name it', () => {
  test('is a hostname or an https URL without a path', () => {
    expect(parseHostEntry(' PDS.net ', false)).toEqual({ ok: true, hostname: 'pds.net', secure: true });
    expect(parseHostEntry('https://pds.net/', false)).toEqual({
      ok: true,
      hostname: 'pds.net',
      secure: true,
    });
    expect(parseHostEntry('http://pds.net', false).ok).toBe(false);
    expect(parseHostEntry('https://pds.net/x', false).ok).toBe(false);
    expect(parseHostEntry('https://user@pds.net', false).ok).toBe(false);
    expect(parseHostEntry(undefined, false).ok).toBe(false);
  });

  test('in development may be plain, local and have a port', () => {
    expect(parseHostEntry('localhost:2583', true)).toEqual({
      ok: true,
      hostname: 'localhost:2583',
      secure: false,
    });
    expect(parseHostEntry('http://pds', true)).toEqual({ ok: true, hostname: 'pds', secure: false });
    expect(parseHostEntry('wss://pds.net:8443', true)).toEqual({
      ok: true,
      hostname: 'pds.net:8443',
      secure: true,
    });
    expect(parseHostEntry('pds.net', true)).toEqual({ ok: true, hostname: 'pds.net', secure: true });
  });
});
