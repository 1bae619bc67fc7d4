import { describe, expect, test } from 'bun:test';
import zlib from 'node:zlib';
import fc from 'fast-check';
import { trainDictionary } from '../../../jetstream/dictionary/train/train.ts';
import { parseTailArgs, type TailOptions } from '../../../jetstream/tail/args.ts';
import { readMessage, type ShownEvent } from '../../../jetstream/tail/event.ts';
import { cut, eventLine, jsonLine, plain } from '../../../jetstream/tail/line.ts';
import { createPosition } from '../../../jetstream/tail/position.ts';
import { dictionaryUrl, streamUrl } from '../../../jetstream/tail/url.ts';
import { decompress, MAX_MESSAGE_BYTES, openDictionary } from '../../../jetstream/tail/zstd.ts';

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';

const options = (...args: string[]): TailOptions => {
  const parsed = parseTailArgs(args);
  if (parsed.ok !== true) throw new Error(JSON.stringify(parsed));
  return parsed.options;
};
const problem = (...args: string[]): string => {
  const parsed = parseTailArgs(args);
  return parsed.ok === false ? parsed.problem : '';
};

describe('arguments', () => {
  test('have defaults', () => {
    expect(options()).toMatchObject({
      version: 'v1',
      cursor: null,
      count: null,
      json: false,
      compress: false,
    });
    expect(options().host.href).toBe('ws://localhost:2470/');
  });

  test.each([
    ['jetstream1.us-east.bsky.network', 'wss://jetstream1.us-east.bsky.network/'],
    ['https://relay.example', 'wss://relay.example/'],
    ['http://relay.example:8080', 'ws://relay.example:8080/'],
    ['wss://relay.example/subscribe', 'wss://relay.example/subscribe'],
    ['localhost:2470', 'ws://localhost:2470/'],
    ['[::1]:2470', 'ws://[::1]:2470/'],
  ])('take the host %p', (host, href) => {
    expect(options('--host', host).host.href).toBe(href);
  });

  test.each([
    [['--host', 'ftp://x'], '--host: ftp://x'],
    [['--host', 'http://'], '--host'],
    [['--collection', 'post'], '--collection: post is not a collection'],
    [['--collection', 'app.bsky.fo*'], '--collection'],
    [['--did', 'alice.example.com'], '--did: alice.example.com is not a DID'],
    [['--cursor', 'now'], '--cursor: now'],
    [['--count', '0'], '--count: 0'],
    [['--count', '-1'], '--count'],
    [['--kind', 'commit'], '--kind needs --v2'],
    [['--v2', '--kind', 'like'], '--kind: like is none of'],
    [['--dictionary', 'x'], '--dictionary needs --compress'],
    [['--wrong'], '--wrong'],
    [['more'], 'more'],
  ])('are refused in words: %p', (args, words) => {
    expect(problem(...args)).toContain(words);
  });

  test('never throw', () => {
    const names =
      '--host --collection --did --kind --cursor --compress --dictionary --v2 --json --count'.split(' ');
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.constantFrom(...names), fc.string(), fc.webUrl(), fc.integer().map(String))),
        (args) => {
          expect(parseTailArgs(args).ok).toBeOneOf([true, false, 'help']);
        },
      ),
      { numRuns: 1000 },
    );
  });

  test('become the URL of either version', () => {
    const wanted = ['--collection', 'app.bsky.feed.post', '--collection', 'app.bsky.graph.*', '--did', DID];
    expect(streamUrl(options(...wanted, '--compress'), '5', null).href).toBe(
      `ws://localhost:2470/subscribe?wantedCollections=app.bsky.feed.post&wantedCollections=app.bsky.graph.*&wantedDids=${encodeURIComponent(DID)}&cursor=5&compress=true&heartbeat=true`,
    );
    const v2 = options(...wanted, '--v2', '--kind', 'commit', '--compress');
    expect(streamUrl(v2, null, 77).href).toBe(
      `ws://localhost:2470/xrpc/network.bsky.jetstream.subscribeEvents?collections=app.bsky.feed.post&collections=app.bsky.graph.*&dids=${encodeURIComponent(DID)}&kinds=commit&zstdDictionary=77&heartbeat=true`,
    );
    expect(streamUrl(options('--host', 'wss://x.example/own?a=1'), null, null).href).toBe(
      'wss://x.example/own?a=1&heartbeat=true',
    );
    expect(dictionaryUrl(new URL('wss://x.example/own')).href).toBe(
      'https://x.example/xrpc/network.bsky.jetstream.getZstdDictionary',
    );
  });
});

const anEvent = (more: Partial<ShownEvent> = {}): ShownEvent => ({
  what: 'event',
  action: 'create',
  did: DID,
  atMs: 1_725_911_162_329,
  position: 1,
  collection: 'app.bsky.feed.post',
  rkey: '3l3qo2vuowo2b',
  record: { text: 'hello' },
  handle: null,
  active: null,
  status: null,
  ...more,
});
const line = (event: Partial<ShownEvent>, columns: number | null = null): string =>
  eventLine(anEvent(event), { handle: null, columns, colours: false });
/** Anything that could move the cursor of a terminal, end the line or turn it around. */
const UNWANTED = /[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069\p{Cs}]/u;

describe('a line', () => {
  test('says what a record is about', () => {
    const start = `19:46:02.329 create   ${DID} app.bsky.feed.post/3l3qo2vuowo2b`;
    expect(line({})).toBe(`${start} hello`);
    expect(line({ record: { subject: { uri: 'at://x/y/z', cid: 'c' } } })).toBe(`${start} → at://x/y/z`);
    expect(line({ record: { subject: DID } })).toBe(`${start} → ${DID}`);
    expect(line({ record: { $type: 'x', createdAt: 'x', status: '👍' } })).toBe(`${start} {status}`);
    expect(line({ record: null, action: 'delete' })).toBe(
      `19:46:02.329 delete   ${DID} app.bsky.feed.post/3l3qo2vuowo2b`,
    );
  });

  test('says what became of accounts and identities', () => {
    const none = { collection: '', rkey: '', record: null };
    expect(line({ ...none, action: 'account', active: false, status: 'takendown' })).toEndWith(' takendown');
    expect(line({ ...none, action: 'account', active: true })).toEndWith(' active');
    expect(line({ ...none, action: 'account', active: false })).toEndWith(' inactive');
    expect(line({ ...none, action: 'identity', handle: 'a.example' })).toEndWith(' a.example');
  });

  test('fits the terminal, whatever the script', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme', maxLength: 200 }),
        fc.integer({ min: 110, max: 200 }),
        (text, columns) => {
          expect(Bun.stringWidth(line({ record: { text } }, columns))).toBeLessThanOrEqual(columns);
        },
      ),
    );
    expect(cut('日本語', 4)).toBe('日…');
    expect(cut('👩‍👩‍👧 family', 4)).toBe('👩‍👩‍👧 …');
  });

  test('has colours only when they are on', () => {
    const coloured = eventLine(anEvent(), { handle: null, columns: null, colours: true });
    expect(coloured).toContain('\u001b[32mcreate  \u001b[0m');
    expect(Bun.stripANSI(coloured)).toBe(line({}));
  });

  test('is one line and moves nothing, whatever was sent', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 60 }),
      fc.constantFrom('\u001b[2J\u001b]0;x\u0007', '\r\n', '\u009b31m', '\u202etxt', '\u2028', '\ud800'),
    );
    fc.assert(
      fc.property(
        fc.record({
          action: text,
          did: text,
          collection: text,
          rkey: text,
          record: fc.oneof(
            fc.dictionary(text, fc.jsonValue()),
            text.map((value) => ({ text: value })),
            text.map((uri) => ({ subject: { uri } })),
          ),
          handle: text,
          status: text,
          atMs: fc.oneof(fc.double(), fc.constant(null)),
        }),
        fc.option(text),
        fc.option(fc.nat(200)),
        (event, handle, columns) => {
          const shown = eventLine(anEvent(event), { handle, columns, colours: false });
          expect(shown).not.toMatch(UNWANTED);
          expect(plain(event.did)).not.toMatch(UNWANTED);
        },
      ),
      { numRuns: 1000 },
    );
  });

  test('of JSON is the same JSON on one line', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.nat(4), (value, indent) => {
        const json = JSON.stringify(value, null, indent);
        const shown = jsonLine(json);
        expect(shown).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}]/u);
        expect(JSON.parse(shown)).toEqual(JSON.parse(json));
      }),
    );
    expect(jsonLine('"\u009b31m\u2028"')).toBe('"\\u009b31m\\u2028"');
  });
});

describe('a message', () => {
  test('of anything at all is read or not understood, and shown', () => {
    const odd = fc.oneof(
      fc.jsonValue(),
      fc.record(
        {
          $type: fc.constantFrom('message', 'error', 'x'),
          did: fc.oneof(fc.string(), fc.jsonValue()),
          kind: fc.constantFrom('commit', 'identity', 'account', 'heartbeat', 'odd'),
          time_us: fc.jsonValue(),
          cursor: fc.jsonValue(),
          commit: fc.jsonValue(),
          identity: fc.jsonValue(),
          payload: fc.record(
            {
              $type: fc.constantFrom('a#commit', 'a#info', 'a#heartbeat', '#', ''),
              did: fc.string(),
              seq: fc.jsonValue(),
              record: fc.jsonValue(),
            },
            { requiredKeys: [] },
          ),
        },
        { requiredKeys: [] },
      ),
    );
    fc.assert(
      fc.property(
        fc.oneof(
          odd.map((value) => JSON.stringify(value)),
          fc.string(),
        ),
        (json) => {
          const message = readMessage(json);
          if (message?.what === 'event') {
            expect(eventLine(message, { handle: null, columns: 100, colours: true })).toBeString();
          }
          if (message?.what === 'heartbeat') expect(Number.isSafeInteger(message.position)).toBe(true);
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe('a position', () => {
  test('lets each event through once, in order, however often the host begins again', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 20 }),
        fc.array(fc.integer({ min: 0, max: 12 }), { maxLength: 30 }),
        fc.constantFrom(null, 0, 1, 2),
        (opsPerSeq, lengths, beat) => {
          const events = opsPerSeq.flatMap((ops, seq) =>
            Array.from({ length: ops }, (_, op) => ({ seq: seq * 2 + 1, name: `${seq}.${op}` })),
          );
          const position = createPosition('v2', null);
          const seen: string[] = [];
          for (const length of [...lengths, Infinity]) {
            const from = Number(position.resume() ?? 0);
            const given = events.filter(({ seq }) => seq >= from).slice(0, length);
            for (const { seq, name } of given) if (position.take(seq)) seen.push(name);
            // Said between commits: the seq of the last one, of the next one, or one that nobody wants.
            const last = given.at(-1);
            const next = last === undefined ? undefined : events[events.indexOf(last) + 1];
            if (beat !== null && last !== undefined && next !== undefined && next.seq > last.seq) {
              position.reached(last.seq + beat);
            }
          }
          expect(seen).toEqual(events.slice(0, seen.length).map(({ name }) => name));
          expect(seen.length).toBe(events.length);
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('zstd', () => {
  test('frames are read with and without a dictionary', () => {
    const text = '{"did":"did:plc:7","kind":"commit"}'.repeat(3);
    expect(decompress(zlib.zstdCompressSync(text), null)).toEqual({ ok: true, text });
    const samples = Array.from({ length: 2000 }, (_, i) =>
      Buffer.from(`{"did":"did:plc:${i}","time_us":${i * 7},"kind":"commit","commit":{"rkey":"3k${i}"}}`),
    );
    const dictionary = openDictionary(
      trainDictionary(samples, { id: 77_777, maxBytes: 8192, segmentBytes: 64 }),
    )!;
    const frame = zlib.zstdCompressSync(text, { dictionary: dictionary.bytes } as never);
    expect(decompress(frame, dictionary)).toEqual({ ok: true, text });
    expect(decompress(frame, null)).toMatchObject({ ok: false, needs: 77_777 });
    expect(openDictionary(Buffer.from(text))).toBeNull();
    expect(openDictionary(new Uint8Array(4))).toBeNull();
  });

  test('bombs are not blown up', () => {
    const bomb = zlib.zstdCompressSync(Buffer.alloc(MAX_MESSAGE_BYTES + 1));
    expect(bomb.length).toBeLessThan(10_000);
    expect(decompress(bomb, null).ok).toBe(false);
  });

  test('frames of any bytes are refused in words', () => {
    const good = zlib.zstdCompressSync('{"kind":"commit"}'.repeat(5));
    fc.assert(
      fc.property(
        fc.oneof(
          fc.uint8Array({ maxLength: 40 }),
          fc.tuple(fc.nat(good.length - 1), fc.nat(255)).map(([at, byte]) => {
            const changed = Uint8Array.from(good);
            changed[at] = byte;
            return changed;
          }),
          fc.nat(good.length).map((length) => Uint8Array.from(good.subarray(0, length))),
        ),
        (bytes) => {
          const result = decompress(bytes, null);
          if (!result.ok) expect(result.problem).toBeString();
        },
      ),
      { numRuns: 1000 },
    );
  });
});
