import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { parseAdminSpec } from '../../src/backfill/admin-spec.ts';
import {
  commitDigestOf,
  errorNameOf,
  MAX_COLLECTIONS_OF_ANSWER,
  MAX_CURSOR_CHARS,
  parseCountsPage,
  parseDescription,
  parseDidList,
  parseDidPage,
  parseListedPage,
} from '../../src/backfill/answers.ts';
import { parseCollectionList } from '../../src/backfill/collection-list.ts';
import { parseCommand } from '../../src/backfill/options.ts';
import { collectionsOfRepo } from '../../src/backfill/repo-collections.ts';
import { isDid, isNsid, isTid } from '../../src/repo/syntax.ts';
import { cidOf, didOf } from './fake-servers.ts';
import { repoCar } from './repo-car.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const json = (value: unknown): Uint8Array => bytes(JSON.stringify(value));
const rules = { allowInsecure: false, nowMs: Date.parse('2026-11-20T00:00:00Z') };

describe('lists of collections', () => {
  test('are read from a line each, from commas, and from JSON', () => {
    const names = ['app.bsky.feed.post', 'com.example.thing', 'fyi.unravel.frontpage.vote'];
    expect(parseCollectionList(names.join('\n'))).toEqual(names);
    expect(parseCollectionList(names.join(','))).toEqual(names);
    expect(parseCollectionList(`# ours\r\n  ${names.join(' # why\r\n  ')}`)).toEqual(names);
    expect(parseCollectionList(JSON.stringify({ collections: names }))).toEqual(names);
    expect(parseCollectionList(JSON.stringify(Object.fromEntries(names.map((name) => [name, 12]))))).toEqual(
      names,
    );
  });

  test('are read from pages for people and for language models', () => {
    const page = `# Lexicons of Example

> Everything at https://docs.example.com/lexicons and @someone.bsky.social, v1.2.3; write to me@mail.example.com.

## Records
- [app.bsky.feed.post](https://atproto.example.com/lexicon/app.bsky.feed.like): a post.
- \`sh.tangled.repo\`, see at://did:web:host.example.com/com.whtwnd.blog.entry/3kabc and **place.stream.chat.message**.
- every com.example.family.* there is
| collection | repos |
|---|---|
| blue.flashes.story.post | 12 |
<li><code>community.lexicon.calendar.event</code></li>
`;
    expect(parseCollectionList(page)).toEqual([
      'app.bsky.feed.post',
      'app.bsky.feed.like',
      'sh.tangled.repo',
      'com.whtwnd.blog.entry',
      'place.stream.chat.message',
      'blue.flashes.story.post',
      'community.lexicon.calendar.event',
    ]);
  });

  test('of anything at all give valid collections only, each once', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.string({ unit: 'grapheme' }),
            fc.constantFrom(
              'app.bsky.feed.post',
              '//',
              '@',
              '.',
              '-',
              '*',
              ' ',
              '\n',
              'did:web:',
              'a.b.c',
              '"',
            ),
          ),
        ),
        (parts) => {
          const found = parseCollectionList(parts.join(''));
          expect(found.every(isNsid)).toBe(true);
          expect(new Set(found).size).toBe(found.length);
        },
      ),
    );
  });

  test('that are hostile take linear time', () => {
    for (const unit of ['a.', 'a-', '-', '.', 'a.b.c-', '/', '@a.b.c']) {
      const found = parseCollectionList(unit.repeat(500_000));
      expect(found.length).toBeLessThanOrEqual(1);
    }
  });
});

describe('answers of other servers', () => {
  test('of listReposByCollection give the DIDs that can be resolved, each once, and count the others', () => {
    const page = parseDidPage(
      json({
        repos: [
          { did: didOf(1) },
          { did: didOf(1) },
          { did: 'did:plc:short' },
          { did: 7 },
          null,
          { did: 'did:web:a.example.com' },
        ],
        cursor: 'next',
      }),
      rules,
    );
    expect(page).toEqual({ dids: [didOf(1), 'did:web:a.example.com'], cursor: 'next', invalid: 3 });
    expect(parseDidPage(json({ repos: [] }), rules)).toEqual({ dids: [], cursor: null, invalid: 0 });
    expect(parseDidPage(json({ repos: [], cursor: '' }), rules)?.cursor).toBe(null);
    expect(parseDidPage(json({ repos: [], cursor: 12 }), rules)?.cursor).toBe('12');
  });

  test('with a cursor that could not be stored or sent back are none', () => {
    for (const cursor of ['a\u0000b', '\ud800', 'x'.repeat(MAX_CURSOR_CHARS + 1), {}, [], true])
      expect(parseDidPage(json({ repos: [], cursor }), rules)).toBe(null);
  });

  test('of listCollections are read as a map and as a list', () => {
    expect([
      ...parseCountsPage(json({ collections: { 'app.bsky.feed.post': 5, nonsense: 3 }, cursor: '' }))!.counts,
    ]).toEqual([['app.bsky.feed.post', 5]]);
    expect([
      ...parseCountsPage(
        json({
          collections: [
            { collection: 'a.b.c', dids: 2 },
            { nsid: 'a.b.d', count: 3 },
            'a.b.e',
            { name: 'x' },
            null,
          ],
        }),
      )!.counts,
    ]).toEqual([
      ['a.b.c', 2],
      ['a.b.d', 3],
      ['a.b.e', 0],
    ]);
    expect(parseCountsPage(json({ collections: 'many' }))).toBe(null);
  });

  test('of listRepos keep revs and heads only where they are what they should be', () => {
    const rev = '3kabcdefgh222';
    const page = parseListedPage(
      json({
        repos: [
          { did: didOf(1), rev, head: cidOf(1), active: true },
          { did: didOf(2), rev: '7zzzzzzzzzzzz', head: cidOf(2), active: false, status: 'takendown' },
          { did: didOf(3), rev: 'iiiiiiiiiiiii', head: 'bafy', active: false },
          { did: didOf(4), rev, head: cidOf(4) },
          { did: 'nobody' },
        ],
      }),
      rules,
    )!;
    expect(page.invalid).toBe(1);
    expect(page.repos.map(({ status }) => status)).toEqual([null, 'takendown', 'deactivated', null]);
    // The second is a TID of the year 2149: nothing that a commit could follow.
    expect(page.repos.map((repo) => repo.rev)).toEqual([rev, null, null, rev]);
    expect(page.repos.map(({ commit }) => commit?.length ?? null)).toEqual([32, 32, null, 32]);
  });

  test('of describeRepo count only when they are about that repo and whole', () => {
    const did = didOf(1);
    expect(parseDescription(json({ did, collections: ['a.b.c', 'a.b.c', 'x', 3] }), did)).toEqual({
      collections: ['a.b.c'],
      invalid: 2,
    });
    expect(parseDescription(json({ did: didOf(2), collections: [] }), did)).toBe(null);
    expect(parseDescription(json({ did }), did)).toBe(null);
    const many = Array.from({ length: MAX_COLLECTIONS_OF_ANSWER + 1 }, (_, n) => `a.b.c${n}`);
    expect(parseDescription(json({ did, collections: many }), did)).toBe(null);
  });

  test('that are garbage never throw, and what they give is valid', () => {
    const anything = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.json().map(bytes),
      fc
        .record(
          {
            repos: fc.oneof(
              fc.array(
                fc.oneof(
                  fc.jsonValue(),
                  fc.record(
                    {
                      did: fc.oneof(fc.constant(didOf(1)), fc.jsonValue()),
                      rev: fc.jsonValue(),
                      head: fc.jsonValue(),
                      active: fc.jsonValue(),
                      status: fc.jsonValue(),
                    },
                    { requiredKeys: [] },
                  ),
                ),
              ),
              fc.jsonValue(),
            ),
            collections: fc.oneof(fc.array(fc.oneof(fc.constant('a.b.c'), fc.jsonValue())), fc.jsonValue()),
            cursor: fc.jsonValue(),
            did: fc.oneof(fc.constant(didOf(1)), fc.jsonValue()),
            error: fc.jsonValue(),
          },
          { requiredKeys: [] },
        )
        .map(json),
    );
    fc.assert(
      fc.property(anything, (body) => {
        for (const did of parseDidPage(body, rules)?.dids ?? []) expect(isDid(did)).toBe(true);
        for (const name of parseCountsPage(body)?.counts.keys() ?? []) expect(isNsid(name)).toBe(true);
        for (const repo of parseListedPage(body, rules)?.repos ?? []) {
          expect(isDid(repo.did)).toBe(true);
          if (repo.rev !== null) expect(isTid(repo.rev)).toBe(true);
          if (repo.status !== null) expect(repo.status.length).toBeLessThanOrEqual(64);
        }
        for (const name of parseDescription(body, didOf(1))?.collections ?? [])
          expect(isNsid(name)).toBe(true);
        expect(errorNameOf(body).length).toBeLessThanOrEqual(100);
        expect(collectionsOfRepo(body, didOf(1))).toBe(null);
      }),
      { numRuns: 500 },
    );
  });

  test('name commits by exactly one text', () => {
    const text = cidOf(5);
    const digest = commitDigestOf(text)!;
    expect(digest.length).toBe(32);
    for (const other of [text.toUpperCase(), text.slice(0, -1), `${text}a`, `z${text.slice(1)}`, 7, null])
      expect(commitDigestOf(other)).toBe(null);
    // The last character holds three bits of the digest and two that must be zero.
    const letters = [...'abcdefghijklmnopqrstuvwxyz234567'];
    expect(letters.filter((last) => commitDigestOf(text.slice(0, -1) + last) !== null).length).toBe(8);
  });
});

describe('lists of DIDs', () => {
  test('have a line each, comments, blank lines and Windows ends', () => {
    const text = `# ours\r\n${didOf(1)}\r\n\n  ${didOf(2)} alice\n${didOf(3)},bob\n"${didOf(1)}"\nnobody\n`;
    expect(parseDidList(text, 10)).toEqual({
      dids: [didOf(1), didOf(2), didOf(3)],
      invalid: 1,
      isWhole: true,
    });
    expect(parseDidList(text, 2).isWhole).toBe(false);
    expect(parseDidList('', 2)).toEqual({ dids: [], invalid: 0, isWhole: true });
  });
});

describe('the command line', () => {
  const command = (...args: string[]) => {
    const parsed = parseCommand(args);
    return parsed.ok ? parsed.command : parsed.message;
  };

  test('says what is to be done', () => {
    expect(command()).toEqual({ kind: 'resume' });
    expect(command('--status')).toEqual({ kind: 'status' });
    expect(command('--from-relay', 'relay.example.com/')).toEqual({
      kind: 'start',
      wish: { kind: 'relay', url: 'https://relay.example.com', lists: [], only: false },
    });
    expect(command('--from-hosts', 'a.example.com', 'b.example.com')).toEqual({
      kind: 'start',
      wish: { kind: 'hosts', hosts: ['a.example.com', 'b.example.com'] },
    });
    expect(command('--did', 'did:plc:a', 'did:plc:b')).toEqual({
      kind: 'start',
      wish: { kind: 'dids', dids: ['did:plc:a', 'did:plc:b'], files: [] },
    });
    expect(command('--verify', 'a.b.c', '--sample', '5')).toEqual({
      kind: 'start',
      wish: { kind: 'verify', collections: ['a.b.c'], sample: 5 },
    });
    expect(command('--verify', '--all')).toEqual({
      kind: 'start',
      wish: { kind: 'verify', collections: [], sample: null },
    });
  });

  test('is refused in a sentence where it makes no sense', () => {
    for (const args of [
      ['--nonsense'],
      ['stray'],
      ['--from-relay'],
      ['--from-relay', 'ftp://x'],
      ['--from-relay', 'https://user:secret@x'],
      ['--collections', 'a.b.c'],
      ['--from-relay', 'x', '--only'],
      ['--sample', '3'],
      ['--verify', '--sample', '0'],
      ['--verify', '--sample', '3', '--all'],
      ['--status', '--cancel'],
      ['--from-hosts', '--verify'],
      ['--requests', '0'],
    ])
      expect(typeof command(...args)).toBe('string');
  });
});

describe('what an admin asks for', () => {
  test('is the same as in a terminal', () => {
    expect(
      parseAdminSpec({ from: 'relay', url: 'https://r.example.com', collections: ['a.b.c'], only: true }),
    ).toEqual({
      ok: true,
      spec: { kind: 'relay', url: 'https://r.example.com', collections: ['a.b.c'], only: true },
    });
    expect(parseAdminSpec({ from: 'hosts' })).toEqual({ ok: true, spec: { kind: 'hosts', hosts: [] } });
    expect(parseAdminSpec({ from: 'dids', dids: [didOf(1)] })).toEqual({
      ok: true,
      spec: { kind: 'dids', dids: [didOf(1)] },
    });
    expect(parseAdminSpec({ from: 'verify', sample: null })).toEqual({
      ok: true,
      spec: { kind: 'verify', collections: [], sample: null },
    });
  });

  test('is refused when it is anything else', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (body) => {
        expect(parseAdminSpec(body).ok).toBe(false);
      }),
    );
    for (const body of [
      { from: 'relay', url: 'file:///etc/passwd' },
      { from: 'relay', url: 'https://a@b.example.com' },
      { from: 'relay', url: 'https://r.example.com', only: true },
      { from: 'dids', dids: [] },
      { from: 'dids', dids: ['x'] },
      { from: 'verify', sample: 0 },
    ])
      expect(parseAdminSpec(body).ok).toBe(false);
  });
});

describe('a whole repo', () => {
  test('gives its collections, whatever its size', async () => {
    for (const [collections, records] of [
      [[], 1],
      [['a.b.c'], 1],
      [['app.bsky.feed.like', 'app.bsky.feed.post', 'com.example.thing', 'zone.last.one'], 300],
    ] as const) {
      const car = await repoCar(didOf(1), collections, records);
      expect(collectionsOfRepo(car, didOf(1))?.sort()).toEqual([...collections]);
      expect(collectionsOfRepo(car, didOf(2))).toBe(null);
    }
  });

  test('that is damaged anywhere gives nothing', async () => {
    const car = await repoCar(didOf(1), ['a.b.c', 'd.e.f'], 20);
    fc.assert(
      fc.property(fc.nat(car.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const damaged = car.slice();
        damaged[at]! ^= change;
        expect(collectionsOfRepo(damaged, didOf(1))).toBe(null);
        expect(collectionsOfRepo(car.subarray(0, at), didOf(1))).toBe(null);
      }),
      { numRuns: 300 },
    );
  });
});
