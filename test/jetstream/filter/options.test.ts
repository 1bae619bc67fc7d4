import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  MAX_CLOSE_REASON_BYTES,
  MAX_OPTIONS_UPDATE_BYTES,
  MAX_QUERY_CHARS,
  MAX_WANTED_COLLECTIONS,
  MAX_WANTED_DIDS,
} from '../../../jetstream/filter/limits.ts';
import {
  cutCloseReason,
  parseOptionsUpdate,
  parseV1Request,
  parseV2Request,
} from '../../../jetstream/filter/options.ts';
import type { Filter } from '../../../jetstream/types.ts';
import { KIND } from '../../../src/firehose/types.ts';

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';
const dids = (count: number): string[] =>
  Array.from({ length: count }, (_, i) => `did:plc:${i.toString(36).padStart(24, '0')}`);
const repeat = (name: string, values: readonly string[]): string =>
  values.map((value) => `${name}=${encodeURIComponent(value)}`).join('&');

const v1 = (query: string, headers: Record<string, string> = {}) =>
  parseV1Request(new URL(`http://relay.example/subscribe?${query}`), new Headers(headers));
const v1Options = (query: string, headers: Record<string, string> = {}) => {
  const request = v1(query, headers);
  if (!request.ok) throw new Error(request.text);
  return request.options;
};
const v1Error = (query: string): string => {
  const request = v1(query);
  if (request.ok) throw new Error('it was taken');
  expect(request.status).toBe(400);
  return request.text;
};

const v2 = (query: string) =>
  parseV2Request(new URL(`http://relay.example/xrpc/network.bsky.jetstream.subscribeEvents?${query}`));
const v2Options = (query: string) => {
  const request = v2(query);
  if (!request.ok) throw new Error(request.message);
  return request.options;
};
const v2Error = (query: string): string => {
  const request = v2(query);
  if (request.ok) throw new Error('it was taken');
  expect([request.status, request.error]).toEqual([400, 'InvalidRequest']);
  return request.message;
};

const update = (payload: unknown) => parseOptionsUpdate(JSON.stringify({ type: 'options_update', payload }));
const updated = (payload: unknown): Filter => {
  const parsed = update(payload);
  if (parsed.ok !== true) throw new Error('it was refused');
  return parsed.filter;
};
const updateError = (payload: unknown): string => {
  const parsed = update(payload);
  if (parsed.ok !== false) throw new Error('it was not refused');
  return parsed.reason;
};

const V1_KINDS = (1 << KIND.commit) | (1 << KIND.identity) | (1 << KIND.account);
const NO_FILTER: Filter = { collections: null, dids: null, kinds: V1_KINDS, maxMessageSizeBytes: 0 };

/** What a filter must be like, whatever it was made from. */
const expectBounded = (filter: Filter): void => {
  expect(filter.dids?.size ?? 1).toBeWithin(1, MAX_WANTED_DIDS + 1);
  const { collections } = filter;
  if (collections !== null) {
    expect(collections.exact.size + collections.prefixes.length).toBeLessThanOrEqual(MAX_WANTED_COLLECTIONS);
    for (const prefix of collections.prefixes) {
      expect(prefix.endsWith('.')).toBe(true);
      expect(prefix.length).toBeLessThan(400);
    }
  }
  expect(Number.isInteger(filter.maxMessageSizeBytes) && filter.maxMessageSizeBytes >= 0).toBe(true);
};

describe('a request for v1', () => {
  test('without parameters wants everything, live, plain, at once', () => {
    expect(v1Options('')).toEqual({
      filter: NO_FILTER,
      cursor: null,
      compress: false,
      requireHello: false,
      heartbeat: false,
    });
  });

  test('may have parameters that nobody knows', () => {
    expect(v1Options('maxSize=1000000&kinds=nonsense&dids=x')).toEqual(v1Options(''));
  });

  test('names collections and prefixes, whose head may be anything', () => {
    expect(
      v1Options('wantedCollections=app.bsky.feed.post&wantedCollections=app.bsky.graph.*').filter.collections,
    ).toEqual({ exact: new Set(['app.bsky.feed.post']), prefixes: ['app.bsky.graph.'] });
    expect(
      v1Options(repeat('wantedCollections', ['app.*', '.*', '!.*', 'app.*', 'a..*'])).filter.collections,
    ).toEqual({ exact: new Set(), prefixes: ['app.', '.', '!.', 'a..'] });
  });

  test.each([
    'app.bsky.fo*',
    '*',
    'app.bsky.feed.post,app.bsky.feed.like',
    'app.bsky',
    '',
    'app.bsky.feed.post ',
    '1app.bsky.feed',
    'app.*.post',
  ])('is refused for the collection %p', (collection) => {
    expect(v1Error(repeat('wantedCollections', ['app.bsky.feed.like', collection]))).toBe(
      `invalid subscriber options: invalid collection: ${collection}`,
    );
  });

  test('names at most 100 collections and 10,000 DIDs, repeated ones counted once', () => {
    const collections = Array.from({ length: 100 }, (_, i) => `com.example.c${i}${i % 2 ? '.*' : ''}`);
    const query = repeat('wantedCollections', [...collections, ...collections]);
    const { filter } = v1Options(query);
    expect([filter.collections!.exact.size, filter.collections!.prefixes.length]).toEqual([50, 50]);
    const tooMany = 'invalid subscriber options: too many wanted collections';
    expect(v1Error(`${query}&wantedCollections=com.example.more`)).toBe(tooMany);
    expect(v1Error(`${query}&wantedCollections=com.example.more.*`)).toBe(tooMany);
    expect(v1Error(repeat('wantedCollections', Array(101).fill(`${'x'.repeat(400)}.*`)))).toBe(tooMany);

    const many = repeat('wantedDids', dids(10_000));
    expect(v1Options(`${many}&wantedDids=${dids(1)[0]}`).filter.dids!.size).toBe(10_000);
    expect(v1Error(`${many}&wantedDids=did:web:example.com`)).toBe(
      'invalid subscriber options: too many wanted DIDs',
    );
  });

  test('keeps no prefix that is longer than any NSID, but does not take it for no filter', () => {
    const { collections } = v1Options(`wantedCollections=${'x'.repeat(400)}.*`).filter;
    expect(collections).toEqual({ exact: new Set(), prefixes: [] });
  });

  test.each(['did:plc', 'alice.example.com', '', `${DID},${DID}`, `did:web:${'x'.repeat(2050)}`])(
    'is refused for the DID %p',
    (did) => {
      expect(v1Error(repeat('wantedDids', [DID, did]))).toBe(
        `invalid subscriber options: invalid DID: ${did.slice(0, 512)}`,
      );
    },
  );

  test('takes what is no size for no cap', () => {
    for (const text of [
      '',
      '0',
      '-1',
      'garbage',
      '1e3',
      '1.5',
      '99999999999999999999',
      '4294967296',
      '0x10',
    ]) {
      expect(v1Options(repeat('maxMessageSizeBytes', [text])).filter.maxMessageSizeBytes).toBe(0);
    }
    expect(v1Options('maxMessageSizeBytes=1000000').filter.maxMessageSizeBytes).toBe(1_000_000);
    expect(v1Options('maxMessageSizeBytes=4294967295').filter.maxMessageSizeBytes).toBe(4_294_967_295);
  });

  test('gives its cursor as an integer', () => {
    for (const [text, cursor] of [
      ['1725519626134432', 1_725_519_626_134_432],
      ['12', 12],
      ['0', 0],
      ['-5', -5],
      ['%2B5', 5],
      ['', null],
      ['9223372036854775807', 2 ** 63],
    ] as const) {
      expect(v1Options(`cursor=${text}`).cursor).toBe(cursor);
    }
    for (const text of ['x', '1.5', '1e3', '9223372036854775808', '0x1', ' 1', '--1', '١']) {
      expect(v1Error(repeat('cursor', [text]))).toBe(`invalid cursor: ${text}`);
    }
    expect(v1Error('cursor=x&wantedCollections=x')).toBe('invalid cursor: x');
  });

  test('is compressed by compress=true or Socket-Encoding, and by nothing else', () => {
    expect(v1Options('compress=true').compress).toBe(true);
    expect(v1Options('', { 'Socket-Encoding': 'zstd' }).compress).toBe(true);
    expect(v1Options('compress=false', { 'Socket-Encoding': 'gzip, zstd' }).compress).toBe(true);
    for (const text of ['True', '1', 'false', '', 'zstd']) {
      expect(v1Options(`compress=${text}`, { 'Socket-Encoding': 'gzip' }).compress).toBe(false);
    }
  });

  test('asks for a hello and for heartbeats with exactly true', () => {
    expect(v1Options('requireHello=true&heartbeat=true')).toMatchObject({
      requireHello: true,
      heartbeat: true,
    });
    expect(v1Options('requireHello=True&heartbeat=1')).toMatchObject({
      requireHello: false,
      heartbeat: false,
    });
  });

  test('is refused unread when it is longer than anything that makes sense', () => {
    expect(v1Error(`x=${'a'.repeat(MAX_QUERY_CHARS)}`)).toBe(
      'invalid subscriber options: the query is too long',
    );
    expect(v1Error(repeat('wantedDids', dids(200_000)))).toBe(
      'invalid subscriber options: the query is too long',
    );
  });
});

describe('an options_update', () => {
  test('replaces all filters; what is missing, null or empty is no filter', () => {
    for (const payload of [
      {},
      { wantedCollections: [], wantedDids: [], maxMessageSizeBytes: 0 },
      { wantedCollections: null, wantedDids: null, maxMessageSizeBytes: null },
    ]) {
      expect(updated(payload)).toEqual(NO_FILTER);
    }
    expect(
      updated({
        wantedCollections: ['app.bsky.feed.post', 'app.bsky.graph.*'],
        wantedDids: [DID, DID],
        maxMessageSizeBytes: 500,
        unknown: [{}],
      }),
    ).toEqual({
      collections: { exact: new Set(['app.bsky.feed.post']), prefixes: ['app.bsky.graph.'] },
      dids: new Set([DID]),
      kinds: V1_KINDS,
      maxMessageSizeBytes: 500,
    });
  });

  test('is refused with the words of the request', () => {
    expect(updateError({ wantedCollections: ['app.bsky.fo*'] })).toBe(
      'invalid subscriber options: invalid collection: app.bsky.fo*',
    );
    expect(updateError({ wantedDids: ['x'] })).toBe('invalid subscriber options: invalid DID: x');
    expect(updateError({ wantedDids: dids(10_001) })).toBe(
      'invalid subscriber options: too many wanted DIDs',
    );
    expect(
      updateError({ wantedCollections: Array.from({ length: 101 }, (_, i) => `com.example.c${i}`) }),
    ).toBe('invalid subscriber options: too many wanted collections');
    for (const payload of [undefined, null, [], 'x', { wantedDids: DID }, { wantedCollections: [1] }]) {
      expect(updateError(payload)).toStartWith('invalid subscriber options: ');
    }
  });

  test('takes 10,000 DIDs', () => {
    expect(updated({ wantedDids: dids(10_000) }).dids!.size).toBe(10_000);
  });

  test('takes what is no size for no cap', () => {
    for (const size of [-1, 0, 1.5, 'x', {}, 1e300, true]) {
      expect(updated({ maxMessageSizeBytes: size }).maxMessageSizeBytes).toBe(0);
    }
    expect(updated({ maxMessageSizeBytes: '500' }).maxMessageSizeBytes).toBe(500);
  });

  test('is ignored when binary, of another type, or over 10,000,000 bytes', () => {
    const message = JSON.stringify({ type: 'options_update', payload: {} });
    expect(parseOptionsUpdate(new TextEncoder().encode(message))).toEqual({ ignored: true });
    for (const other of ['{}', '{"type":"ping"}', '{"type":5,"payload":{}}', '{"payload":{}}']) {
      expect(parseOptionsUpdate(other)).toEqual({ ignored: true });
    }
    const exactly = message.padEnd(MAX_OPTIONS_UPDATE_BYTES, ' ');
    expect(parseOptionsUpdate(exactly).ok).toBe(true);
    expect(parseOptionsUpdate(`${exactly} `)).toEqual({ ignored: true });
    const wide = `{"x":"${'ä'.repeat(MAX_OPTIONS_UPDATE_BYTES / 2)}"}`;
    expect(parseOptionsUpdate(wide)).toEqual({ ignored: true });
  });

  test('that is no JSON object closes the connection', () => {
    for (const message of ['', '{', 'null', '[]', '"options_update"', '{"type":"options_update",}']) {
      expect(parseOptionsUpdate(message).ok).toBe(false);
    }
    expect(parseOptionsUpdate('[['.repeat(40_000)).ok).toBe(false);
    expect(parseOptionsUpdate(`{"x":${'['.repeat(90_000)}`).ok).toBe(false);
  });

  test('with far too many values is refused before it is parsed', () => {
    for (const value of ['{}', '[]', '1', '"a"']) {
      const message = `{"type":"options_update","payload":{"wantedDids":[${Array(200_000).fill(value)}]}}`;
      expect(parseOptionsUpdate(message)).toEqual({
        ok: false,
        reason: 'invalid subscriber options: too many values',
      });
    }
  });

  test('closes with a reason that fits a close frame, cut between characters', () => {
    const reason = updateError({ wantedCollections: [`${'😀ä'.repeat(200)}\ud800`] });
    expect(Buffer.byteLength(reason)).toBeWithin(MAX_CLOSE_REASON_BYTES - 3, MAX_CLOSE_REASON_BYTES + 1);
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => {
        const cut = cutCloseReason(text);
        expect(Buffer.byteLength(cut)).toBeLessThanOrEqual(MAX_CLOSE_REASON_BYTES);
        expect(text.toWellFormed().startsWith(cut)).toBe(true);
        if (Buffer.byteLength(text) <= MAX_CLOSE_REASON_BYTES) expect(cut).toBe(text.toWellFormed());
      }),
    );
  });
});

describe('a request for v2', () => {
  test('without parameters wants everything, #sync too', () => {
    expect(v2Options('')).toEqual({
      filter: { collections: null, dids: null, kinds: V1_KINDS | (1 << KIND.sync), maxMessageSizeBytes: 0 },
      cursor: null,
      zstdDictionary: null,
      heartbeat: false,
    });
    expect(v2Options('cursor=&zstdDictionary=&anything=1')).toEqual(v2Options(''));
  });

  test('names kinds, collections, DIDs, a size, a cursor, a dictionary', () => {
    expect(
      v2Options(
        `kinds=commit&kinds=sync&collections=app.bsky.feed.post&collections=app.bsky.*&dids=${DID}` +
          '&maxMessageSizeBytes=9&cursor=77&zstdDictionary=20260709&heartbeat=true',
      ),
    ).toEqual({
      filter: {
        collections: { exact: new Set(['app.bsky.feed.post']), prefixes: ['app.bsky.'] },
        dids: new Set([DID]),
        kinds: (1 << KIND.commit) | (1 << KIND.sync),
        maxMessageSizeBytes: 9,
      },
      cursor: 77,
      zstdDictionary: '20260709',
      heartbeat: true,
    });
  });

  test.each([
    ['wantedCollections=app.bsky.feed.post', 'use collections'],
    [`wantedDids=${DID}`, 'use dids'],
    ['compress=true', 'use zstdDictionary'],
    ['requireHello=true', 'requireHello'],
    ['kinds=like', 'unknown kind: like'],
    ['kinds=', 'unknown kind: '],
    ['kinds=Commit', 'unknown kind: Commit'],
    ['kinds=constructor', 'unknown kind: constructor'],
    ['kinds=commit,identity', 'unknown kind: commit,identity'],
    ['kinds=commit&kinds=commit&kinds=commit&kinds=commit&kinds=commit', 'too many kinds'],
    ['kinds=identity&kinds=sync&collections=app.bsky.feed.post', 'kinds excludes commit'],
    ['collections=app.bsky.fo*', 'invalid collection: app.bsky.fo*'],
    ['collections=.*', 'invalid collection: .*'],
    ['collections=app.*', 'invalid collection: app.*'],
    ['collections=not_an_nsid.*', 'invalid collection: not_an_nsid.*'],
    [repeat('collections', Array(101).fill('app.bsky.feed.post')), 'too many collections'],
    ['dids=x', 'invalid DID: x'],
    ['cursor=x', 'invalid cursor: x'],
    ['cursor=-1', 'invalid cursor: -1'],
    ['cursor=1&cursor=2', 'cursor must be given once'],
    ['maxMessageSizeBytes=', 'maxMessageSizeBytes must be'],
    ['maxMessageSizeBytes=-1', 'maxMessageSizeBytes must be'],
    ['maxMessageSizeBytes=4294967296', 'maxMessageSizeBytes must be'],
    ['maxMessageSizeBytes=1&maxMessageSizeBytes=1', 'maxMessageSizeBytes must be'],
    ['zstdDictionary=0', 'zstdDictionary must be'],
    ['zstdDictionary=x', 'zstdDictionary must be'],
    ['zstdDictionary=4294967296', 'zstdDictionary must be'],
    [`x=${'a'.repeat(MAX_QUERY_CHARS)}`, 'the query is too long'],
  ])('is refused for %p', (query, message) => {
    expect(v2Error(query)).toContain(message);
  });

  test('names at most 10,000 DIDs as they are given', () => {
    expect(v2Options(repeat('dids', dids(10_000))).filter.dids!.size).toBe(10_000);
    expect(v2Error(repeat('dids', Array(10_001).fill(DID)))).toContain('too many dids');
  });

  test('takes collections with any kinds that have commits among them', () => {
    expect(v2Options('collections=app.bsky.feed.post').filter.collections).not.toBeNull();
    expect(v2Options('kinds=commit&collections=app.bsky.feed.post').filter.collections).not.toBeNull();
  });
});

describe('whatever the bytes', () => {
  const parts = fc.oneof(
    fc.constantFrom(
      'app.bsky.feed.post',
      'a.*',
      '*',
      '.*',
      DID,
      'did:',
      '1',
      '-1',
      'true',
      'commit',
      'sync',
      '',
    ),
    fc.string({ unit: 'binary', maxLength: 40 }),
  );
  const names = fc.oneof(
    fc.constantFrom(
      ...'wantedCollections wantedDids maxMessageSizeBytes cursor compress requireHello kinds dids'.split(
        ' ',
      ),
      ...'collections zstdDictionary heartbeat __proto__ constructor'.split(' '),
    ),
    fc.string({ maxLength: 8 }),
  );

  test('a query is taken with a bounded filter, or refused in words', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(names, parts), { maxLength: 12 }),
        fc.string({ maxLength: 20 }),
        (query, raw) => {
          const url = new URL('http://relay.example/');
          url.search = `${new URLSearchParams(query)}&${raw}`;
          const first = parseV1Request(url, new Headers());
          if (first.ok) expectBounded(first.options.filter);
          else {
            expect(first.text).toMatch(/^invalid (cursor|subscriber options): /);
            expect(first.text.isWellFormed()).toBe(true);
          }
          const second = parseV2Request(url);
          if (second.ok) expectBounded(second.options.filter);
          else expect(second.message.isWellFormed()).toBe(true);
        },
      ),
      { numRuns: 2000 },
    );
  });

  test('a message is taken with a bounded filter, ignored, or refused with a reason that fits', () => {
    const payloads = fc.oneof(
      fc.record(
        {
          wantedCollections: fc.oneof(fc.array(parts), fc.jsonValue()),
          wantedDids: fc.oneof(fc.array(parts), fc.jsonValue()),
          maxMessageSizeBytes: fc.jsonValue(),
        },
        { requiredKeys: [] },
      ),
      fc.jsonValue(),
    );
    const messages = fc.oneof(
      payloads.map((payload) => JSON.stringify({ type: 'options_update', payload })),
      fc.json(),
      fc.string({ unit: 'binary' }),
      fc
        .tuple(fc.json(), fc.nat(), fc.string({ maxLength: 2 }))
        .map(
          ([text, at, put]) =>
            text.slice(0, at % (text.length + 1)) + put + text.slice(at % (text.length + 1)),
        ),
      fc.uint8Array(),
    );
    fc.assert(
      fc.property(messages, (message) => {
        const parsed = parseOptionsUpdate(message);
        if (parsed.ok === true) expectBounded(parsed.filter);
        else if (parsed.ok === false) {
          expect(Buffer.byteLength(parsed.reason)).toBeWithin(1, MAX_CLOSE_REASON_BYTES + 1);
        } else expect(parsed.ignored).toBe(true);
      }),
      { numRuns: 2000 },
    );
  });
});
