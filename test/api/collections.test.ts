import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  CACHE_MAX_AGE_S,
  isNoneMatch,
  MAX_COLLECTIONS_PER_QUERY,
  MAX_COUNTED_COLLECTIONS,
  parseCollections,
} from '../../src/api/collections.ts';
import type { CollectionReader, CollectionsStatus, PageQuery } from '../../src/collections/types.ts';
import { json, startApi } from './fixtures.ts';

/** The rules of CollectionReader over an array: rows in the order in which they were first seen. */
const createIndex = (options: { emptyPages?: boolean } = {}) => {
  let last = 0;
  let rows: { order: number; did: string; collection: string }[] = [];
  const hidden = new Set<string>();
  const queries: PageQuery[] = [];
  const keyOf = (query: PageQuery): string => [...query.collections, '|', ...query.prefixes].join(' ');
  const reader: CollectionReader = {
    page(query) {
      queries.push(query);
      let from = 0;
      if (query.cursor !== null) {
        const [order, key] = Buffer.from(query.cursor, 'base64url').toString().split('\n');
        if (key === undefined || !/^\d+$/.test(order!)) return { bad: 'cursor_invalid' };
        if (key !== keyOf(query)) return { bad: 'cursor_of_another_query' };
        from = Number(order);
      }
      const isWanted = (collection: string): boolean =>
        query.collections.length + query.prefixes.length === 0 ||
        query.collections.includes(collection) ||
        query.prefixes.some((prefix) => collection.startsWith(prefix));
      const wanted = rows.filter(({ collection }) => isWanted(collection));
      // A repo stands where the first of its wanted rows stands.
      const firsts = wanted.filter(
        (row) => wanted.find(({ did }) => did === row.did) === row && row.order > from,
      );
      const shown = options.emptyPages ? firsts : firsts.filter(({ did }) => !hidden.has(did));
      const page = shown.slice(0, query.limit);
      return {
        dids: page.filter(({ did }) => !hidden.has(did)).map(({ did }) => did),
        cursor:
          shown.length > page.length
            ? Buffer.from(`${page[page.length - 1]!.order}\n${keyOf(query)}`).toString('base64url')
            : null,
      };
    },
    counts(after, limit) {
      const names = [...new Set(rows.map(({ collection }) => collection))].sort();
      return names
        .filter((name) => after === null || name > after)
        .slice(0, limit)
        .map((name) => this.count(name)!);
    },
    count(collection) {
      const dids = rows.filter((row) => row.collection === collection && !hidden.has(row.did)).length;
      return rows.some((row) => row.collection === collection) ? { collection, dids } : null;
    },
    repoCount: () => new Set(rows.filter(({ did }) => !hidden.has(did)).map(({ did }) => did)).size,
    close() {},
  };
  return {
    reader,
    queries,
    hide: (did: string) => hidden.add(did),
    show: (did: string) => hidden.delete(did),
    add: (did: string, collection: string) => {
      if (!rows.some((row) => row.did === did && row.collection === collection)) {
        rows.push({ order: ++last, did, collection });
      }
    },
    remove: (did: string, collection: string) => {
      rows = rows.filter((row) => row.did !== did || row.collection !== collection);
    },
  };
};

const did = (index: number): string => `did:plc:${String(index).padStart(24, 'a')}`;
const PATH = '/xrpc/com.atproto.sync.listReposByCollection';
const POST = 'app.bsky.feed.post';
const LIKE = 'app.bsky.feed.like';

const setUp = (options: { emptyPages?: boolean } = {}) => {
  const index = createIndex(options);
  const { request, errors } = startApi({ collections: index.reader });
  const get = async (query: string, path = PATH) => json(await request(`${path}?${query}`));
  /** All pages, as tap reads them: until a page is empty or has no cursor. Gives the dids and every cursor. */
  const walk = async (query: string, cursor?: string) => {
    const dids: string[] = [];
    const cursors: string[] = [];
    for (;;) {
      const page = await get(`${query}${cursor === undefined ? '' : `&cursor=${cursor}`}`);
      for (const repo of page.repos) dids.push(repo.did);
      if (page.repos.length === 0 || page.cursor === undefined) return { dids, cursors };
      cursor = page.cursor as string;
      cursors.push(cursor);
    }
  };
  return { index, request, errors, get, walk };
};

describe('listReposByCollection', () => {
  test('gives the repos of a collection in the order of the index, 500 unless asked otherwise', async () => {
    const { index, get } = setUp();
    for (let at = 0; at < 600; at++) index.add(did(at), POST);
    const page = await get(`collection=${POST}`);
    expect(page.repos).toEqual(Array.from({ length: 500 }, (_, at) => ({ did: did(at) })));
    expect((await get(`collection=${POST}&limit=2000`)).repos.length).toBe(600);
    const rest = await get(`collection=${POST}&cursor=${page.cursor}`);
    expect(rest.repos.length).toBe(100);
    expect('cursor' in rest).toBe(false);
    expect(await get('collection=com.example.nobody')).toEqual({ repos: [] });
    expect((await get(`collection=${POST}&cursor=`)).repos.length).toBe(500);
  });

  test('prefixes that match too many collections are InvalidRequest, with what to do instead', async () => {
    const { index, request } = setUp();
    const { page } = index.reader;
    index.reader.page = (query) =>
      query.prefixes.length > 0 ? { bad: 'too_many_collections' } : page(query);
    const answer = await request(`${PATH}?collection=com.example.*`);
    expect(answer.status).toBe(400);
    expect(await json(answer)).toEqual({
      error: 'InvalidRequest',
      message: 'the prefixes match more than 1000 collections: give longer ones, or names',
    });
    expect((await request(`${PATH}?collection=${POST}`)).status).toBe(200);
  });

  test('what is out of range or malformed is InvalidRequest', async () => {
    const { index, request } = setUp();
    index.add(did(1), POST);
    const many = Array.from({ length: MAX_COLLECTIONS_PER_QUERY + 1 }, (_, at) => `collection=a.b.c${at}`);
    for (const query of [
      `collection=${POST}&limit=0`,
      `collection=${POST}&limit=2001`,
      `collection=${POST}&limit=-1`,
      `collection=${POST}&limit=ten`,
      `collection=${POST}&limit=1&limit=2`,
      'collection=nothing',
      'collection=',
      'collection=a.b',
      'collection=a.*',
      'collection=*',
      'collection=.*',
      'collection=app.bsky.feed*',
      'collection=app.*.feed.post',
      `collection=${POST}&collection=x`,
      `collection=${POST}&cursor=nonsense`,
      `collection=${POST}&cursor=${'x'.repeat(513)}`,
      many.join('&'),
    ]) {
      const answer = await request(`${PATH}?${query}`);
      expect([query, answer.status]).toEqual([query, 400]);
      expect((await json(answer)).error).toBe('InvalidRequest');
      expect(answer.headers.get('cache-control')).toBeNull();
    }
    expect((await request(`${PATH}?${many.slice(1).join('&')}`)).status).toBe(200);
  });

  test('several collections are an OR without duplicates; a prefix is all below it; none is every repo', async () => {
    const { index, get } = setUp();
    index.add(did(1), LIKE);
    index.add(did(2), POST);
    index.add(did(1), POST);
    index.add(did(3), 'app.bsky.feedback.x');
    index.add(did(4), 'com.example.a');
    const dids = async (query: string) => (await get(query)).repos.map((repo: { did: string }) => repo.did);
    expect(await dids(`collection=${POST}&collection=${LIKE}`)).toEqual([did(1), did(2)]);
    expect(await dids('collection=app.bsky.feed.*')).toEqual([did(1), did(2)]);
    expect(await dids('collection=app.bsky.*')).toEqual([did(1), did(2), did(3)]);
    expect(await dids('collection=app.bsky.feed.*&collection=com.example.a')).toEqual([
      did(1),
      did(2),
      did(4),
    ]);
    expect(await dids('')).toEqual([did(1), did(2), did(3), did(4)]);
  });

  test('one query has one form, however it is written', () => {
    const of = (...given: string[]) => parseCollections(given);
    expect(of(LIKE, POST, LIKE)).toEqual(of(POST, LIKE));
    expect(of('app.bsky.feed.*', POST, 'app.bsky.feed.*')).toEqual(of('app.bsky.feed.*'));
    expect(of('app.bsky.feed.*', 'app.bsky.*', POST, 'com.example.a')).toEqual({
      ok: true,
      value: { collections: ['com.example.a'], prefixes: ['app.bsky.'] },
    });
    expect(of('app.bsky.*', 'app.bsky.feed.post.*', 'app.bskyx.a')).toEqual({
      ok: true,
      value: { collections: ['app.bskyx.a'], prefixes: ['app.bsky.'] },
    });
  });

  test('a cursor goes on where it stopped whatever the order of the parameters, and for its own query only', async () => {
    const { index, get, request } = setUp();
    for (let at = 0; at < 6; at++) index.add(did(at), at % 2 === 0 ? POST : LIKE);
    const first = await get(`collection=${POST}&collection=${LIKE}&limit=4`);
    const rest = await get(`collection=${LIKE}&collection=${POST}&limit=4&cursor=${first.cursor}`);
    expect(rest.repos).toEqual([{ did: did(4) }, { did: did(5) }]);
    const other = await request(`${PATH}?collection=${LIKE}&cursor=${first.cursor}`);
    expect(other.status).toBe(400);
    expect(await json(other)).toEqual({
      error: 'InvalidRequest',
      message: 'cursor is of another query: the collections must stay the same',
    });
  });

  test('limit 1 gives every repo once', async () => {
    const { index, walk } = setUp();
    for (let at = 0; at < 20; at++) index.add(did(at), POST);
    expect((await walk(`collection=${POST}&limit=1`)).dids).toEqual(
      Array.from({ length: 20 }, (_, at) => did(at)),
    );
  });

  test('a relay without an index says that it does not have the method', async () => {
    const { request } = startApi();
    const answer = await request(`${PATH}?collection=${POST}`);
    expect([answer.status, (await json(answer)).error]).toEqual([501, 'MethodNotImplemented']);
    expect((await request('/v1/listCollections')).status).toBe(404);
  });
});

describe('tap', () => {
  test('keeps its cursor for months: with it, it gets what came since, and nothing twice', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.tuple(
            fc.constantFrom('add', 'add', 'remove', 'hide', 'show'),
            fc.nat(30),
            fc.constantFrom(POST, LIKE),
          ),
          { maxLength: 60 },
        ),
        fc.array(
          fc.tuple(
            fc.constantFrom('add', 'add', 'remove', 'hide', 'show'),
            fc.nat(60),
            fc.constantFrom(POST, LIKE),
          ),
          { maxLength: 60 },
        ),
        fc.integer({ min: 1, max: 7 }),
        async (before, months, limit) => {
          const { index, walk } = setUp();
          const apply = (steps: typeof before): void => {
            for (const [what, at, collection] of steps) {
              if (what === 'hide' || what === 'show') index[what](did(at));
              else index[what](did(at), collection);
            }
          };
          apply(before);
          const query = `collection=${POST}&limit=${limit}`;
          const first = await walk(query);
          const kept = first.cursors[first.cursors.length - 1];
          apply(months);
          const now = (await walk(query)).dids;
          const since = kept === undefined ? now : (await walk(query, kept)).dids;
          expect(new Set(since).size).toBe(since.length);
          // What was hidden then stands where it stood; its own events tell that it is back.
          const told = new Set([...first.dids.slice(0, first.cursors.length * limit), ...since]);
          const hiddenBefore = new Set(before.filter(([what]) => what === 'hide').map(([, at]) => did(at)));
          for (const one of now) if (!hiddenBefore.has(one)) expect(told.has(one)).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });

  test('stops at an empty page: no page is empty while more repos follow', async () => {
    // A reader that gives pages of hidden repos, empty, with a cursor.
    const { index, walk } = setUp({ emptyPages: true });
    for (let at = 0; at < 100; at++) {
      index.add(did(at), POST);
      if (at >= 10 && at < 90) index.hide(did(at));
    }
    const { dids } = await walk(`collection=${POST}&limit=10`);
    expect(dids).toEqual([...Array(100).keys()].filter((at) => at < 10 || at >= 90).map(did));
  });

  test('stops at an absent cursor: the last page has none, and is not followed by an empty one', async () => {
    const { index, get } = setUp();
    for (let at = 0; at < 10; at++) index.add(did(at), POST);
    const page = await get(`collection=${POST}&limit=10`);
    expect(page.repos.length).toBe(10);
    expect('cursor' in page).toBe(false);
  });

  test('asks for 1,000 repos at a time', async () => {
    const { index, get } = setUp();
    for (let at = 0; at < 1001; at++) index.add(did(at), POST);
    expect((await get(`collection=${POST}&limit=1000`)).repos.length).toBe(1000);
  });
});

describe('an edge cache', () => {
  test('gets a short max-age and an ETag, and 304 while nothing changed', async () => {
    const { index, request } = setUp();
    index.add(did(1), POST);
    let more = 2;
    for (const path of [`${PATH}?collection=${POST}`, '/v1/listCollections']) {
      const first = await request(path);
      const etag = first.headers.get('etag')!;
      expect(etag).toMatch(/^"[0-9a-z]+"$/);
      expect(first.headers.get('cache-control')).toBe(`public, max-age=${CACHE_MAX_AGE_S}`);
      expect(first.headers.get('content-type')).toBe('application/json');
      for (const held of [etag, `W/${etag}`, `"other", ${etag}`, '*']) {
        const again = await request(path, { headers: { 'if-none-match': held } });
        expect([again.status, await again.text()]).toEqual([304, '']);
        expect(again.headers.get('etag')).toBe(etag);
        expect(again.headers.get('cache-control')).toBe(`public, max-age=${CACHE_MAX_AGE_S}`);
      }
      index.add(did(more++), POST);
      const changed = await request(path, { headers: { 'if-none-match': etag } });
      expect(changed.status).toBe(200);
      expect(changed.headers.get('etag')).not.toBe(etag);
    }
  });

  test('tags are compared as they are written', () => {
    expect(isNoneMatch(undefined, '"a"')).toBe(false);
    expect(isNoneMatch('"b"', '"a"')).toBe(false);
    expect(isNoneMatch('a', '"a"')).toBe(false);
    expect(isNoneMatch(' "b" ,W/"a" ', '"a"')).toBe(true);
  });
});

describe('listCollections', () => {
  test('counts the repos of each collection, by name, a page at a time', async () => {
    const { index, get } = setUp();
    for (let at = 0; at < 120; at++) index.add(did(at), `com.example.c${String(at).padStart(3, '0')}`);
    index.add(did(1), POST);
    index.add(did(2), POST);
    index.hide(did(2));
    const first = await get('limit=50', '/v1/listCollections');
    expect(Object.keys(first.collections).length).toBe(50);
    expect(first.collections[POST]).toBe(1);
    expect(first.cursor).toBe('com.example.c048');
    const names = Object.keys(first.collections);
    for (let { cursor } = first; cursor !== undefined; ) {
      const page = await get(`limit=50&cursor=${cursor}`, '/v1/listCollections');
      names.push(...Object.keys(page.collections));
      ({ cursor } = page);
    }
    expect(names.length).toBe(121);
    expect(names).toEqual([...new Set(names)].sort());
  });

  test('of the collections asked for, those that were ever seen', async () => {
    const { index, get } = setUp();
    index.add(did(1), POST);
    index.add(did(1), LIKE);
    expect(await get(`c=${POST}&c=com.example.none`, '/v1/listCollections')).toEqual({
      collections: { [POST]: 1 },
    });
  });

  test('moves a limit that is out of range to the nearer end, and refuses what is malformed', async () => {
    const { index, get, request } = setUp();
    for (let at = 0; at < 1100; at++) index.add(did(at), `com.example.c${String(at).padStart(4, '0')}`);
    const count = async (query: string) =>
      Object.keys((await get(query, '/v1/listCollections')).collections).length;
    expect(await count('limit=1')).toBe(50);
    expect(await count('')).toBe(500);
    expect(await count('limit=99999')).toBe(1000);
    const many = Array.from({ length: MAX_COUNTED_COLLECTIONS + 1 }, (_, at) => `c=a.b.c${at}`).join('&');
    for (const query of ['limit=x', 'c=x', `cursor=${'x'.repeat(400)}`, many]) {
      expect([query, (await request(`/v1/listCollections?${query}`)).status]).toEqual([query, 400]);
    }
  });
});

describe('the page of the index', () => {
  const status: CollectionsStatus = {
    position: 1200,
    lastSeq: 1234,
    lagMs: 4_000,
    rows: 9_876_543,
    repos: 1_000_001,
    hiddenRepos: { takendown: 12, pds_gone: 3 },
    collections: 321,
    checks: { unproven_removal: 5, sync_event: 0 },
    givenUp: { unreachable: 2 },
    gaps: 1,
    refusedPairs: 2_345,
    checksRefused: 6,
    placesDropped: 78,
    problem: '',
  };

  test('says how far it is, what it hides and what it still has to check', async () => {
    const { request } = startApi({ collectionsStatus: status });
    const text = await (await request('/collections')).text();
    for (const part of [
      'seq 1200 of 1234: 34 events behind, 4 s',
      '9,876,543',
      '1 stretches of the log',
      '2,345 pairs over a bound',
      '6 checks over their bound',
      '78: readers of several',
      'its PDS is gone for good',
      'unproven_removal',
      'its PDS could not be reached',
      'None has run.',
    ]) {
      expect(text).toContain(part);
    }
    expect(text).not.toContain('sync_event');
    expect(await json(await request('/collections?format=json'))).toEqual({ status, backfill: null });
    expect(await (await request('/')).text()).toContain('href="/collections"');
    const broken = startApi({ collectionsStatus: { ...status, problem: '<b>the disk is full</b>' } });
    expect(await (await broken.request('/collections')).text()).toContain(
      '&lt;b&gt;the disk is full&lt;/b&gt;',
    );
  });

  test('shows the last backfill: how far, what came of it, and which source waits for what', async () => {
    const { request } = startApi({
      collectionsStatus: status,
      backfill: {
        runId: 3,
        kind: 'hosts',
        startedBy: 'admin',
        state: 'running',
        wanted: 'run',
        createdAtMs: 1_700_000_000_000,
        updatedAtMs: 1_700_000_590_000,
        finishedAtMs: null,
        counters: {
          pages: 10,
          repos: 900,
          imported: 5_000,
          added: 4_000,
          known: 1_000,
          ghosts: 7,
          hidden: 8,
          accounts: 900,
          invalid: 0,
          failures: { timeout: 4 },
        },
        sources: { waiting: 5, parked: 1, done: 20, failed: 0 },
        done: 900,
        total: 3_600,
        queuedRepos: 0,
        failedRepos: 4,
        shown: [
          {
            name: '<i>pds.example.com</i>',
            group: 'pds.example.com',
            state: 'parked',
            done: 5,
            total: null,
            attempts: 2,
            retryAtMs: 1_700_000_720_000,
            reason: 'rate_limited',
            detail: 'told to wait',
          },
        ],
      },
    });
    const text = await (await request('/collections')).text();
    for (const part of ['900 of about 3,600 (25.0 %)', '4,000 new', '1 parked', 'rate_limited', 'in 2 min']) {
      expect(text).toContain(part);
    }
    expect(text).not.toContain('<i>');
  });

  test('is not there without an index', async () => {
    const { request } = startApi();
    expect((await request('/collections')).status).toBe(404);
    expect(await (await request('/')).text()).not.toContain('href="/collections"');
  });
});
