/** The store and the reader of the collection index, case by case. */
import { Database } from 'bun:sqlite';
import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import {
  MAX_COLLECTIONS_MATCHED,
  MAX_COLLECTIONS_PER_REPO,
  MAX_LEFT_PER_COLLECTION,
  MAX_LEFT_PER_REPO,
  MAX_WATCH_MS,
} from '../../src/collections/store/bounds.ts';
import { openCollectionReader } from '../../src/collections/store/reader.ts';
import { POSITIONS_LEFT_OUT } from '../../src/collections/store/schema.ts';
import { openStore, type Store } from '../../src/collections/store/store.ts';
import {
  CHECK_FAILURES,
  type CollectionReader,
  type Page,
  type PageQuery,
} from '../../src/collections/types.ts';
import { didOf, makeDirectory, query, walk } from './samples.ts';

setDefaultTimeout(60_000);

const POST = 'app.bsky.feed.post';
const LIKE = 'app.bsky.feed.like';
const ONE = 'com.example.one';
const TWO = 'com.example.two';
const NOW = 1_000_000_000_000;

let directory: ReturnType<typeof makeDirectory>;
let store: Store;
let reader: CollectionReader;
beforeEach(() => {
  directory = makeDirectory();
  store = openStore(directory.path, { seenPairs: 64 });
  reader = openCollectionReader(directory.path);
});
afterEach(() => {
  reader.close();
  store.close();
  directory.remove();
});

const commit = (
  did: string,
  present: readonly string[],
  removed: readonly string[] = [],
  more: { unproven?: readonly string[]; discontinuity?: boolean; incomplete?: true; hostId?: number } = {},
  to: Store = store,
): void => {
  const { unproven = [], discontinuity = false, hostId = 1, incomplete } = more;
  const changes = { did, present, removed, unproven, ...(incomplete ? { incomplete } : {}) };
  to.transaction(() => to.applyEvent({ kind: 'commit', hostId, changes, discontinuity }, NOW));
};
const account = (did: string, status: string | null, hostId = 1): void =>
  store.transaction(() => store.applyEvent({ kind: 'account', hostId, did, status }, NOW));
const add = (did: string, ...collections: string[]) =>
  store.transaction(() => store.add([{ did, collections }]));
const page = (
  wanted: Pick<PageQuery, 'collections' | 'prefixes'>,
  cursor: string | null,
  limit: number,
): Page => {
  const answer = reader.page({ ...wanted, cursor, limit });
  if ('bad' in answer) throw new Error(answer.bad);
  return answer;
};
const due = (nowMs = NOW) => store.nextChecks(nowMs, 100);
const dueDids = () =>
  due()
    .map(({ did }) => did)
    .toSorted();
const alice = didOf(1);
const bob = didOf(2);
const web = didOf(9);

describe('the order of a list', () => {
  test('is that of first sight, and a repo that went and came again is appended anew', () => {
    for (const did of [alice, web, bob]) commit(did, [POST]);
    expect(walk(reader, query([POST]))).toEqual([alice, web, bob]);
    commit(alice, [], [POST]);
    expect(walk(reader, query([POST]))).toEqual([web, bob]);
    commit(alice, [POST]);
    expect(walk(reader, query([POST]))).toEqual([web, bob, alice]);
  });

  test('takes a repo that was hidden up again at its end: who passed its old place meanwhile must not miss it', () => {
    for (const did of [alice, bob, didOf(3)]) commit(did, [POST]);
    account(alice, 'deactivated');
    const { dids, cursor } = page(query([POST]), null, 1);
    expect(dids).toEqual([bob]);
    account(alice, null);
    expect(page(query([POST]), cursor, 10).dids).toEqual([didOf(3), alice]);
  });

  test('holds thousands of repos in many chunks, and still does when most of them are gone', () => {
    const dids = Array.from({ length: 5_000 }, (_, index) => didOf(index));
    store.transaction(() => store.add(dids.map((did) => ({ did, collections: [ONE, TWO] }))));
    expect(walk(reader, query([ONE]), 1_000)).toEqual(dids);
    const kept = dids.filter((_, index) => index % 17 === 0);
    store.transaction(() => {
      for (const did of dids)
        if (!kept.includes(did))
          store.applyEvent(
            {
              kind: 'commit',
              hostId: 1,
              discontinuity: false,
              changes: { did, present: [], removed: [ONE], unproven: [] },
            },
            NOW,
          );
    });
    expect(walk(reader, query([ONE]), 100)).toEqual(kept);
    expect(walk(reader, query([TWO]), 1_000)).toEqual(dids);
    expect(reader.count(ONE)?.dids).toBe(kept.length);
    // Chunks that became small went together.
    const db = new Database(directory.path, { readonly: true });
    const { chunks } = db
      .query('select count(*) as chunks from chunks where length(entries) < 100')
      .get() as {
      chunks: number;
    };
    db.close();
    expect(chunks).toBeLessThan(5);
  });
});

describe('pages', () => {
  test('of a client that stops at an empty page and keeps its cursor for months, as tap does', () => {
    const all = Array.from({ length: 40 }, (_, index) => didOf(index));
    for (const did of all) commit(did, [POST]);
    // All of a page and more is hidden, in a row.
    for (const did of all.slice(5, 30)) account(did, 'deactivated');
    const told: string[] = [];
    let cursor: string | null = null;
    const readToTheEnd = (): void => {
      for (;;) {
        const answer: Page = page(query([POST]), cursor, 4);
        for (const did of answer.dids) if (!told.includes(did)) told.push(did);
        if (answer.cursor === null) return;
        expect(answer.dids.length).toBe(4);
        cursor = answer.cursor;
      }
    };
    readToTheEnd();
    expect(told).toEqual([...all.slice(0, 5), ...all.slice(30)]);
    // Months later: what it was told of is gone, others are back, new ones came, the processes are others.
    for (const did of all.slice(30)) commit(did, [], [POST]);
    for (const did of all.slice(5, 10)) account(did, null);
    for (let index = 40; index < 50; index++) commit(didOf(index), [POST]);
    store.close();
    reader.close();
    store = openStore(directory.path);
    reader = openCollectionReader(directory.path);
    told.length = 0;
    readToTheEnd();
    expect(told).toEqual([
      ...all.slice(5, 10),
      ...Array.from({ length: 10 }, (_, index) => didOf(40 + index)),
    ]);
  });

  test('cost the same with thousands of hidden repos in a row before the next one', () => {
    const hidden = Array.from({ length: 20_000 }, (_, index) => didOf(index));
    store.transaction(() => store.add([{ did: didOf(30_000), collections: [POST] }]));
    store.transaction(() => store.add(hidden.map((did) => ({ did, collections: [POST] }))));
    store.transaction(() => store.add([{ did: didOf(30_001), collections: [POST] }]));
    store.transaction(() =>
      store.setStatus(
        hidden.map((did) => ({ did, status: 'suspended' })),
        NOW,
      ),
    );
    // They are in no list any more.
    const db = new Database(directory.path, { readonly: true });
    expect(db.query('select sum(length(entries)) < 50 as small from chunks').get()).toEqual({ small: 1 });
    db.close();
    expect(walk(reader, query([POST]), 1)).toEqual([didOf(30_000), didOf(30_001)]);
    expect(walk(reader, query([]), 1)).toEqual([didOf(30_000), didOf(30_001)]);
  });

  test('over several collections tell a repo once, though it loses the one it was told for', () => {
    commit(alice, [ONE]);
    commit(bob, [ONE]);
    commit(alice, [TWO]);
    commit(didOf(3), [TWO]);
    const both = query([ONE, TWO]);
    const { dids, cursor } = page(both, null, 1);
    expect(dids).toEqual([alice]);
    commit(alice, [], [ONE]);
    expect(page(both, cursor, 10).dids).toEqual([bob, didOf(3)]);
    // Who begins now is told of it at the same place.
    expect(walk(reader, both, 1)).toEqual([alice, bob, didOf(3)]);
    // Of the one collection alone it is gone, of the other it stands where it came.
    expect(walk(reader, query([ONE]))).toEqual([bob]);
    expect(walk(reader, query([TWO]))).toEqual([alice, didOf(3)]);
    // It left the list as a whole and comes again.
    commit(alice, [], [TWO]);
    expect(walk(reader, both, 1)).toEqual([bob, didOf(3)]);
    commit(alice, [ONE]);
    expect(page(both, cursor, 10).dids).toEqual([bob, didOf(3), alice]);
    expect(store.totals().byName.get('places')).toBe(0);
  });

  test('over several collections tell a repo again that left all of them and came by another one at once', () => {
    const three = 'com.example.three';
    commit(alice, [ONE]);
    commit(alice, [three]);
    commit(bob, [ONE]);
    const both = query([ONE, TWO]);
    const { cursor } = page(both, null, 1);
    // The place in ONE is kept for lists with `three`; for this list it is over.
    commit(alice, [], [ONE]);
    commit(alice, [TWO]);
    expect(page(both, cursor, 10).dids).toEqual([bob, alice]);
    expect(walk(reader, query([ONE, three]), 1)).toEqual([alice, bob]);
  });

  test('are cut short, or empty with a cursor, where too many were told of before; reading on ends well', () => {
    const dids = Array.from({ length: 3_000 }, (_, index) => didOf(index));
    for (const collection of [ONE, TWO])
      store.transaction(() => store.add(dids.map((did) => ({ did, collections: [collection] }))));
    commit(didOf(5_000), [TWO]);
    const both = query([ONE, TWO]);
    const told: string[] = [];
    let empty = 0;
    for (let cursor: string | null = null; ; ) {
      const answer: Page = page(both, cursor, 500);
      told.push(...answer.dids);
      if (answer.cursor === null) break;
      if (answer.dids.length === 0) empty++;
      cursor = answer.cursor;
    }
    expect(empty).toBeGreaterThan(0);
    expect(told).toEqual([...dids, didOf(5_000)]);
  });

  test('keep a bounded number of left places; beyond it a repo may be told again, but is never skipped', () => {
    const many = Array.from({ length: MAX_LEFT_PER_REPO + 8 }, (_, index) => `com.example.n${index}`);
    for (const name of many) commit(alice, [name]);
    commit(alice, [POST]);
    const wanted = query([many[0]!, POST]);
    const before = walk(reader, wanted, 1);
    for (const name of many) commit(alice, [], [name]);
    expect(store.totals().byName.get('dropped_places')).toBe(8);
    expect(store.totals().byName.get('places')).toBe(MAX_LEFT_PER_REPO);
    for (const name of many) expect(walk(reader, query([name, POST]), 1)).toEqual([alice]);
    expect(before).toEqual([alice]);
    expect(walk(reader, query([...many, POST]), 1)).toEqual([alice]);
  });

  test('know after places were dropped what each account had before, and no mask is written that stays', () => {
    const many = Array.from({ length: 1_000 }, (_, index) => `com.example.n${index}`);
    commit(alice, [LIKE, ...many.slice(0, 500), POST, ...many.slice(500)]);
    // Oldest first, LIKE among them: with it goes a bit of all the masks behind it.
    for (const name of [LIKE, ...many.slice(0, 100)]) commit(alice, [], [name]);
    const others = 100 - MAX_LEFT_PER_REPO;
    expect(store.totals().byName.get('dropped_places')).toBe(others + 1);
    // LIKE's bit of every place behind it, and with each of the others that of the place after it.
    expect(store.counters.masksChanged).toBe(1_001 + others);
    for (const wanted of [[LIKE, POST], [many[3]!, many[700]!], many.slice(50, 90), [many[100]!, POST]])
      expect(walk(reader, query(wanted), 1)).toEqual(
        wanted.some((name) => reader.count(name)!.dids > 0) ? [alice] : [],
      );
  });

  test('of an account whose every collection is replaced: masks are written once a place, not once a pair of places', () => {
    const many = Array.from({ length: 900 }, (_, index) => `com.example.n${index}`);
    commit(alice, many);
    const watch = store.transaction(() => store.begin(alice, NOW));
    const collections = many.map((name) => `${name}.again`);
    const applied = store.transaction(() => store.apply(alice, watch, { collections }, NOW));
    expect(applied).toMatchObject({ added: 900, removed: 900 });
    expect(store.counters.masksChanged).toBeLessThanOrEqual(1_800);
    expect(walk(reader, query([], ['com.example.']), 1)).toEqual([alice]);
  });

  test('drop the place of an account that is new in the same transaction, when its collection has too many', () => {
    store.transaction(() => {
      for (let index = 0; index <= MAX_LEFT_PER_COLLECTION; index++) {
        const did = didOf(index);
        store.add([{ did, collections: [ONE, TWO] }]);
        const changes = { did, present: [], removed: [ONE], unproven: [] };
        store.applyEvent({ kind: 'commit', hostId: 1, discontinuity: false, changes }, NOW);
      }
    });
    expect(store.totals().byName.get('dropped_places')).toBe(1);
    expect(store.totals().byName.get('places')).toBe(MAX_LEFT_PER_COLLECTION);
    expect(walk(reader, query([ONE, TWO]), 1_000)).toHaveLength(MAX_LEFT_PER_COLLECTION + 1);
  });

  test('by prefix take in collections that come later, and none whose name only begins alike', () => {
    commit(alice, ['com.example.one']);
    commit(bob, ['com.examples.one']);
    const wanted = query([], ['com.example.']);
    expect(walk(reader, wanted)).toEqual([alice]);
    commit(web, ['com.example.one.more']);
    commit(bob, ['com.example.zzz']);
    expect(walk(reader, wanted)).toEqual([alice, web, bob]);
  });

  test('of what nobody has are empty', () => {
    expect(page(query([POST]), null, 10)).toEqual({ dids: [], cursor: null });
    commit(alice, [LIKE]);
    expect(page(query([POST]), null, 10)).toEqual({ dids: [], cursor: null });
    expect(page(query([POST, ONE]), null, 10)).toEqual({ dids: [], cursor: null });
    expect(reader.count(POST)).toBeNull();
    expect(reader.count('')).toBeNull();
    commit(alice, [], [LIKE]);
    expect(reader.count(LIKE)).toEqual({ collection: LIKE, dids: 0 });
    expect(reader.counts(null, 10)).toEqual([]);
  });
});

describe('a cursor', () => {
  const fill = (): string => {
    for (let index = 0; index < 5; index++) commit(didOf(index), [POST, LIKE]);
    return page(query([POST]), null, 2).cursor!;
  };

  test('belongs to its query, whatever the order of the names', () => {
    const cursor = fill();
    const bad = reader.page({ ...query([LIKE]), cursor, limit: 2 });
    expect(bad).toEqual({ bad: 'cursor_of_another_query' });
    expect(reader.page({ ...query([]), cursor, limit: 2 })).toEqual(bad);
    expect(reader.page({ ...query([], ['app.bsky.feed.']), cursor, limit: 2 })).toEqual(bad);
    const both = page(query([POST, LIKE]), null, 2).cursor!;
    expect(page(query([LIKE, POST]), both, 2).dids).toEqual([didOf(2), didOf(3)]);
  });

  test('that is damaged in any character is refused', () => {
    const cursor = fill();
    for (let at = 0; at < cursor.length; at++)
      for (const character of ['A', 'b', '_', '~', '']) {
        const damaged = cursor.slice(0, at) + character + cursor.slice(at + 1);
        if (
          damaged !== cursor &&
          Buffer.compare(Buffer.from(damaged, 'base64url'), Buffer.from(cursor, 'base64url')) !== 0
        )
          expect(reader.page({ ...query([POST]), cursor: damaged, limit: 2 })).toEqual({
            bad: 'cursor_invalid',
          });
      }
    for (const text of ['x', '0', 'null', 'é', 'A'.repeat(1_000)])
      expect(reader.page({ ...query([POST]), cursor: text, limit: 2 })).toEqual({ bad: 'cursor_invalid' });
  });

  test('of an index that was made anew begins at the beginning, so that nothing is skipped', () => {
    const cursor = fill();
    store.close();
    reader.close();
    for (const suffix of ['', '-wal', '-shm', '.dids']) rmSync(directory.path + suffix, { force: true });
    store = openStore(directory.path);
    reader = openCollectionReader(directory.path);
    for (let index = 10; index < 15; index++) commit(didOf(index), [POST]);
    expect(page(query([POST]), cursor, 2).dids).toEqual([didOf(10), didOf(11)]);
  });
});

describe('a power failure', () => {
  const files = ['', '-wal', '.dids'];
  const open = (boot: string): void => {
    reader.close();
    store.close();
    store = openStore(directory.path, { boot });
    reader = openCollectionReader(directory.path);
  };
  /** What was written since the files were saved is lost. */
  const fail = (): void => {
    reader.close();
    store.close();
    rmSync(`${directory.path}-shm`, { force: true });
    for (const file of files) copyFileSync(`${directory.path}${file}.saved`, directory.path + file);
  };

  test('that takes the last transactions makes no cursor skip what comes at the places they had given out', () => {
    open('one');
    commit(alice, [POST]);
    for (const file of files) copyFileSync(directory.path + file, `${directory.path}${file}.saved`);
    commit(bob, [POST]);
    commit(didOf(3), [POST]);
    const { cursor } = page(query([POST]), null, 2);
    expect(cursor).not.toBe(null);
    fail();
    store = openStore(directory.path, { boot: 'two' });
    reader = openCollectionReader(directory.path);
    const later = [4, 5, 6, 7].map(didOf);
    for (const did of later) commit(did, [POST]);
    expect(page(query([POST]), cursor, 10).dids).toEqual(later);
  });

  test('that did not happen costs no places, however often the file is opened', () => {
    const position = (): number => {
      const db = new Database(directory.path, { readonly: true });
      const { position } = db.query('select position from meta').get() as { position: number };
      db.close();
      return position;
    };
    open('one');
    const before = position();
    for (let time = 0; time < 5; time++) open('one');
    expect(position()).toBe(before);
    open('two');
    expect(position()).toBe(before + POSITIONS_LEFT_OUT);
  });
});

describe('accounts', () => {
  test('deleted lose what they had; taken down, suspended and deactivated ones are back with it', () => {
    for (const did of [alice, bob]) commit(did, [POST, ONE]);
    account(alice, 'deleted');
    account(bob, 'takendown');
    expect(walk(reader, query([]))).toEqual([]);
    expect(reader.counts(null, 10)).toEqual([]);
    expect(store.totals()).toMatchObject({ rows: 2, repos: 2 });
    account(alice, null);
    account(bob, null);
    expect(walk(reader, query([]))).toEqual([alice, bob]);
    expect(walk(reader, query([POST]))).toEqual([bob]);
    // What they have now, nobody has told.
    expect(dueDids()).toEqual([alice, bob].toSorted());
  });

  test.each([
    ['by an #account', () => account(alice, null)],
    ['by a commit', () => commit(alice, [LIKE])],
    [
      'by what its host lists, after a check had hidden it',
      () => {
        store.transaction(() => store.apply(alice, store.begin(alice, NOW), { hidden: 'deactivated' }, NOW));
        store.transaction(() => store.setStatus([{ did: alice, status: null }], NOW));
      },
    ],
  ])('that are shown again %s are checked: nobody told what they did meanwhile', (by, show) => {
    commit(alice, [POST]);
    expect(due()).toEqual([]);
    if (!by.includes('lists')) for (const status of ['deleted', 'deactivated']) account(alice, status);
    show();
    expect(walk(reader, query([]))).toEqual([alice]);
    expect(due()).toEqual([{ did: alice, reason: 'shown_again', attempts: 0 }]);
  });

  test('of an unknown status are hidden as such', () => {
    commit(alice, [POST]);
    account(alice, 'on-holiday');
    expect(store.totals().byName.get('hidden_8')).toBe(1);
    expect(walk(reader, query([POST]))).toEqual([]);
  });

  test('that are deleted do not come back by what others list', () => {
    commit(alice, [POST]);
    account(alice, 'deleted');
    expect(add(alice, POST, LIKE)).toEqual({ added: 0, known: 0, refused: 2 });
    expect(store.transaction(() => store.setStatus([{ did: alice, status: null }], NOW))).toBe(0);
    expect(walk(reader, query([]))).toEqual([]);
  });

  test('listed by a host count until the log tells of them', () => {
    add(alice, POST);
    expect(store.transaction(() => store.setStatus([{ did: alice, status: 'deactivated' }], NOW))).toBe(1);
    expect(walk(reader, query([POST]))).toEqual([]);
    commit(alice, [LIKE]);
    expect(walk(reader, query([POST]))).toEqual([alice]);
    expect(store.transaction(() => store.setStatus([{ did: alice, status: 'deactivated' }], NOW))).toBe(0);
    expect(walk(reader, query([POST]))).toEqual([alice]);
  });

  test('of hosts that are gone are hidden by a sweep, and shown when the host, or they themselves, are back', () => {
    commit(alice, [POST], [], { hostId: 7 });
    commit(bob, [POST], [], { hostId: 8 });
    commit(web, [POST], [], { hostId: 7 });
    const sweep = (...hosts: number[]): void => {
      for (let after: number | null = -1; after !== null; ) {
        const from: number = after;
        after = store.transaction(() => store.sweep(new Set(hosts), from, () => true));
      }
    };
    sweep(7);
    expect(walk(reader, query([POST]))).toEqual([bob]);
    expect(store.totals().byName.get('hidden_7')).toBe(2);
    // It moved.
    commit(alice, [LIKE], [], { hostId: 8 });
    expect(walk(reader, query([POST]))).toEqual([bob, alice]);
    sweep(7);
    expect(walk(reader, query([POST]))).toEqual([bob, alice]);
    sweep();
    expect(walk(reader, query([POST]))).toEqual([bob, alice, web]);
  });

  test('take a bounded number of collections, and only names that are NSIDs', () => {
    const names = Array.from({ length: MAX_COLLECTIONS_PER_REPO + 5 }, (_, index) => `com.example.n${index}`);
    const result = add(alice, ...names);
    expect(result).toEqual({ added: MAX_COLLECTIONS_PER_REPO, known: 0, refused: 5 });
    expect(add(bob, 'no nsid', '', POST)).toEqual({ added: 1, known: 0, refused: 2 });
    expect(store.transaction(() => store.add([{ did: 'nobody', collections: [POST] }]))).toEqual({
      added: 0,
      known: 0,
      refused: 1,
    });
  });
});

describe('checks', () => {
  const numbered = (word: string, count: number): string[] =>
    Array.from({ length: count }, (_, index) => `com.example.${word}${index}`);
  const overBound = () => store.totals().byName.get(`failure_${CHECK_FAILURES.indexOf('over_bound')}`) ?? 0;

  test('of a repo at the bound take ghosts out first, so that what is there finds room', () => {
    add(alice, ...numbered('old', MAX_COLLECTIONS_PER_REPO));
    const collections = [...numbered('new', MAX_COLLECTIONS_PER_REPO - 1), 'com.example.old0'];
    const applied = store.transaction(() =>
      store.apply(alice, store.begin(alice, NOW), { collections }, NOW),
    );
    expect(applied).toMatchObject({
      added: MAX_COLLECTIONS_PER_REPO - 1,
      known: 1,
      removed: MAX_COLLECTIONS_PER_REPO - 1,
    });
    expect(overBound()).toBe(0);
  });

  test('whose answer has more than the index takes are not done: the repo stays counted as over the bound', () => {
    const collections = numbered('one', MAX_COLLECTIONS_PER_REPO + 3);
    commit(alice, [POST], [], { unproven: [LIKE] });
    store.transaction(() => store.beginCheck(alice, NOW));
    store.transaction(() => store.applyCheck(alice, { kind: 'collections', collections }, NOW));
    expect(due(Number.MAX_SAFE_INTEGER)).toEqual([]);
    expect(overBound()).toBe(1);
    // By a commit, too, without a question: the answer is known.
    commit(bob, collections);
    commit(bob, ['com.example.more']);
    expect(due(Number.MAX_SAFE_INTEGER)).toEqual([]);
    expect(overBound()).toBe(2);
    // Fewer now.
    store.transaction(() => store.apply(bob, store.begin(bob, NOW), { collections: [POST] }, NOW));
    expect(overBound()).toBe(1);
  });

  test('are scheduled for what a commit does not prove, for a #sync and for a discontinuity, once per repo', () => {
    commit(alice, [POST], [], { unproven: [LIKE] });
    commit(alice, [POST], [], { discontinuity: true });
    commit(bob, [POST], [], { discontinuity: true });
    store.transaction(() => store.applyEvent({ kind: 'sync', hostId: 1, did: web }, NOW + 1));
    commit(didOf(4), [POST], [], { incomplete: true });
    expect(due(NOW - 1)).toEqual([]);
    expect(due(NOW + 1).toSorted((one, other) => (one.did < other.did ? -1 : 1))).toEqual(
      [
        { did: alice, reason: 'unproven_removal' as const, attempts: 0 },
        { did: bob, reason: 'discontinuity' as const, attempts: 0 },
        { did: didOf(4), reason: 'discontinuity' as const, attempts: 0 },
        { did: web, reason: 'sync_event' as const, attempts: 0 },
      ].toSorted((one, other) => (one.did < other.did ? -1 : 1)),
    );
    expect(store.totals().byName.get('checks')).toBe(4);
  });

  test('say exactly which collections there are', () => {
    commit(alice, [POST, LIKE], [], { unproven: [LIKE] });
    store.transaction(() => store.beginCheck(alice, NOW));
    expect(due()).toEqual([]);
    const applied = store.transaction(() =>
      store.applyCheck(alice, { kind: 'collections', collections: [ONE, POST] }, NOW),
    );
    expect(applied).toBe('applied');
    expect(walk(reader, query([LIKE]))).toEqual([]);
    expect(walk(reader, query([ONE]))).toEqual([alice]);
    expect(due()).toEqual([]);
    expect(store.totals().byName.get('checks')).toBe(0);
  });

  test.each([
    ['a commit that the index has seen a thousand times', () => commit(alice, [POST])],
    [
      'a #sync',
      () => store.transaction(() => store.applyEvent({ kind: 'sync', hostId: 1, did: alice }, NOW)),
    ],
    ['an #account', () => account(alice, null)],
  ])('are void when %s came in between', (_, event) => {
    commit(alice, [POST], [], { unproven: [LIKE] });
    store.transaction(() => store.beginCheck(alice, NOW));
    event();
    const applied = store.transaction(() =>
      store.applyCheck(alice, { kind: 'collections', collections: [] }, NOW + 5),
    );
    expect(applied).toBe('touched');
    expect(walk(reader, query([POST]))).toEqual([alice]);
    expect(due(NOW + 5)).toEqual([{ did: alice, reason: 'touched_while_checked', attempts: 0 }]);
    // Asked again, with nothing in between.
    store.transaction(() => store.beginCheck(alice, NOW));
    store.transaction(() => store.applyCheck(alice, { kind: 'collections', collections: [] }, NOW));
    expect(walk(reader, query([POST]))).toEqual([]);
  });

  test('whose beginning or whose answer was not stored, for a full disk or the like, are given out again', () => {
    const failing = (work: () => void): void =>
      expect(() =>
        store.transaction(() => {
          work();
          throw new Error('disk full');
        }),
      ).toThrow('disk full');
    commit(alice, [POST], [], { unproven: [LIKE] });
    const check = { did: alice, reason: 'unproven_removal' as const, attempts: 0 };
    failing(() => store.beginCheck(alice, NOW));
    expect(due()).toEqual([check]);
    store.transaction(() => store.beginCheck(alice, NOW));
    failing(() => store.beginCheck(alice, NOW));
    expect(due()).toEqual([check]);
    store.transaction(() => store.beginCheck(alice, NOW));
    failing(() => store.applyCheck(alice, { kind: 'collections', collections: [] }, NOW));
    expect(due()).toEqual([check]);
  });

  test('that fail come back later, and count as given up until they are answered or something schedules them anew', () => {
    commit(alice, [POST], [], { unproven: [LIKE] });
    const fail = (retryAtMs: number, isGivenUp: boolean): void => {
      store.transaction(() => store.beginCheck(alice, NOW));
      store.transaction(() =>
        store.applyCheck(alice, { kind: 'failed', why: 'timeout', retryAtMs, isGivenUp }, NOW),
      );
    };
    const totals = () =>
      ['check_0', 'failure_3', 'checks'].map((name) => store.totals().byName.get(name) ?? 0);
    fail(NOW + 100, false);
    expect(due()).toEqual([]);
    expect(due(NOW + 100)).toEqual([{ did: alice, reason: 'unproven_removal', attempts: 1 }]);
    store.transaction(() => store.applyCheck(alice, { kind: 'later', atMs: NOW + 200 }, NOW));
    expect(due(NOW + 199)).toEqual([]);
    expect(due(NOW + 200)[0]?.attempts).toBe(1);
    expect(totals()).toEqual([1, 0, 1]);
    fail(NOW + 300, true);
    expect(totals()).toEqual([0, 1, 1]);
    // Still due, and still given up when it is put off.
    expect(due(NOW + 299)).toEqual([]);
    store.transaction(() => store.applyCheck(alice, { kind: 'later', atMs: NOW + 400 }, NOW));
    expect(due(NOW + 400)).toEqual([{ did: alice, reason: 'unproven_removal', attempts: 2 }]);
    expect(totals()).toEqual([0, 1, 1]);
    commit(alice, [], [], { discontinuity: true });
    expect(totals()).toEqual([0, 0, 1]);
    expect(due()).toEqual([{ did: alice, reason: 'discontinuity', attempts: 0 }]);
    fail(NOW + 500, true);
    store.transaction(() => store.beginCheck(alice, NOW));
    store.transaction(() => store.applyCheck(alice, { kind: 'collections', collections: [POST] }, NOW));
    expect(totals()).toEqual([0, 0, 0]);
  });

  test('that find no repo hide it, until the log says otherwise', () => {
    commit(alice, [POST], [], { unproven: [LIKE] });
    store.transaction(() => store.beginCheck(alice, NOW));
    store.transaction(() => store.applyCheck(alice, { kind: 'gone', reason: 'deactivated' }, NOW));
    expect(walk(reader, query([]))).toEqual([]);
    // A pair that the index had seen, too.
    commit(alice, [POST]);
    expect(walk(reader, query([POST]))).toEqual([alice]);
  });

  test('do not show again what the log says is hidden: it may be the relay that hides it', () => {
    commit(alice, [POST]);
    account(alice, 'takendown');
    const watch = store.transaction(() => store.begin(alice, NOW));
    store.transaction(() => store.apply(alice, watch, { collections: [POST, ONE] }, NOW));
    expect(walk(reader, query([]))).toEqual([]);
    account(alice, null);
    expect(walk(reader, query([ONE]))).toEqual([alice]);
  });

  test.each([
    ['describes', { collections: ['com.example.old'], hostId: 1 }],
    ['hides', { hidden: 'deleted', hostId: 1 }],
  ] as const)(
    'are void when a host %s an account that the log told of at another one: it is asked for at its own',
    (_, truth) => {
      commit(alice, [POST, LIKE], [], { hostId: 2 });
      store.transaction(() => store.setStatus([{ did: alice, status: null, hostId: 1 }], NOW));
      const apply = (hostId: number) =>
        store.transaction(() => store.apply(alice, store.begin(alice, NOW), { ...truth, hostId }, NOW));
      expect(apply(1)).toMatchObject({ added: 0, removed: 0, hidden: false, touched: true });
      expect(walk(reader, query([LIKE, 'com.example.old']))).toEqual([alice]);
      expect(reader.count('com.example.old')?.dids ?? 0).toBe(0);
      expect(due()).toEqual([{ did: alice, reason: 'verify', attempts: 0 }]);
      // Nor is it when its own PDS said that it is not there.
      store.transaction(() => store.apply(alice, store.begin(alice, NOW), { hidden: 'deactivated' }, NOW));
      expect(apply(1)).toMatchObject({ hidden: false, touched: true });
      expect(store.transaction(() => store.setStatus([{ did: alice, status: null, hostId: 1 }], NOW))).toBe(
        0,
      );
      expect(walk(reader, query([]))).toEqual([]);
      // It moved there: now the log says so.
      account(alice, null, 1);
      expect(apply(1).touched).toBe(false);
      expect(walk(reader, query([LIKE]))).toEqual([]);
    },
  );

  test('are void when nobody watched any more', () => {
    commit(alice, [POST]);
    const watch = store.transaction(() => store.begin(alice, NOW));
    store.transaction(() => store.begin(bob, NOW + MAX_WATCH_MS + 1));
    const applied = store.transaction(() => store.apply(alice, watch, { collections: [] }, NOW));
    expect(applied).toMatchObject({ touched: true, removed: 0 });
    expect(due()).toEqual([{ did: alice, reason: 'touched_while_checked', attempts: 0 }]);
  });
});

describe('writers beside each other', () => {
  test('notice what the other took away, though they had seen it', () => {
    const other = openStore(directory.path);
    commit(alice, [POST]);
    commit(alice, [POST]);
    expect(store.counters.seenPairs).toBe(1);
    const watch = other.transaction(() => other.begin(alice, NOW));
    expect(other.transaction(() => other.apply(alice, watch, { collections: [LIKE] }, NOW))).toMatchObject({
      removed: 1,
      touched: false,
    });
    expect(walk(reader, query([POST]))).toEqual([]);
    commit(alice, [POST]);
    expect(walk(reader, query([POST]))).toEqual([alice]);
    expect(store.counters.foreignWrites).toBeGreaterThan(0);
    other.close();
  });

  test('see that the other asks for a repo: an event makes its answer void', () => {
    const other = openStore(directory.path);
    commit(alice, [POST]);
    const watch = other.transaction(() => other.begin(alice, NOW));
    commit(alice, [POST]);
    expect(other.transaction(() => other.apply(alice, watch, { collections: [] }, NOW))).toMatchObject({
      touched: true,
      removed: 0,
    });
    expect(walk(reader, query([POST]))).toEqual([alice]);
    other.close();
  });

  test('give names, positions and account numbers out once', () => {
    const other = openStore(directory.path);
    for (let index = 0; index < 60; index++) {
      const to = index % 2 === 0 ? store : other;
      commit(didOf(index), [`com.example.n${index % 7}`, POST], [], {}, to);
    }
    expect(walk(reader, query([POST]))).toEqual(Array.from({ length: 60 }, (_, index) => didOf(index)));
    for (let rest = 0; rest < 7; rest++)
      expect(walk(reader, query([`com.example.n${rest}`]))).toEqual(
        Array.from({ length: 60 }, (_, index) => index)
          .filter((index) => index % 7 === rest)
          .map(didOf),
      );
    other.close();
  });
});

describe('names of collections', () => {
  const numbered = (word: string, count: number): string[] =>
    Array.from({ length: count }, (_, index) => `com.example.${word}${index}`);
  const MOST = 40;
  const CROWDED = 20;
  const small = { seenPairs: 64, maxCollections: MOST, crowdedCollections: CROWDED };
  const reopen = (): void => {
    store.close();
    store = openStore(directory.path, small);
  };
  /** One answer after the other that has none of the names of the one before. */
  const churn = (rounds: number, size: number): void => {
    for (let round = 0; round < rounds; round++) {
      const collections = numbered(`round${round}x`, size);
      store.transaction(() => store.apply(bob, store.begin(bob, NOW), { collections }, NOW));
    }
  };

  test('are not filled up by one account, however many it makes up: numbers that nobody needs are given away', () => {
    reopen();
    commit(alice, ['com.example.kept']);
    churn(30, 10);
    expect(store.totals().collections).toBeLessThanOrEqual(CROWDED + 10);
    commit(alice, ['com.example.new']);
    expect(walk(reader, query(['com.example.new']))).toEqual([alice]);
    expect(walk(reader, query(['com.example.kept']))).toEqual([alice]);
    for (let round = 0; round < 29; round++)
      expect(walk(reader, query([`com.example.round${round}x0`]))).toEqual([]);
    expect(walk(reader, query(numbered('round29x', 10)))).toEqual([bob]);
  });

  test('are none, and take up no number, of a pair that is refused', () => {
    commit(alice, ['com.example.kept']);
    const names = store.totals().collections;
    account(bob, 'deleted');
    add(bob, ...numbered('deleted', 5));
    commit(alice, numbered('much', MAX_COLLECTIONS_PER_REPO + 50));
    expect(store.totals().collections).toBe(names + MAX_COLLECTIONS_PER_REPO - 1);
  });

  test('of hidden repos and of left places keep their numbers', () => {
    reopen();
    const hidden = numbered('hidden', 8);
    commit(alice, hidden);
    account(alice, 'deactivated');
    add(alice, 'com.example.hidden8');
    commit(web, [ONE, TWO]);
    commit(web, [], [ONE]);
    churn(20, 10);
    account(alice, null);
    expect(walk(reader, query(['com.example.hidden8']))).toEqual([alice]);
    for (const name of hidden) expect(walk(reader, query([name]))).toEqual([alice]);
    expect(reader.counts(null, 100)).toHaveLength(9 + 1 + 10);
    expect(walk(reader, query([ONE, TWO]), 1)).toEqual([web]);
    // Hidden and then deleted, nobody needs them.
    account(alice, 'deactivated');
    account(alice, 'deleted');
    const before = store.totals().collections;
    churn(2, 10);
    expect(store.totals().collections).toBe(before);
  });

  test('and their cursors: one from before a name lost its number is good when the name is back under another one', () => {
    reopen();
    const dids = [alice, bob, web];
    for (const did of dids) commit(did, [ONE]);
    const { cursor } = page(query([ONE]), null, 1);
    for (const did of dids) commit(did, [], [ONE]);
    store.transaction(() => store.add([{ did: didOf(50), collections: numbered('more', 30) }]));
    for (const did of [bob, alice]) commit(did, [ONE]);
    expect(page(query([ONE]), cursor, 10).dids).toEqual([bob, alice]);
  });

  test('that were given to other numbers meanwhile are not confused by another writer', () => {
    reopen();
    const other = openStore(directory.path, small);
    commit(alice, [ONE], [], {}, other);
    commit(alice, numbered('fill', CROWDED), [], {}, other);
    commit(bob, [TWO], [], {}, other);
    // While `other` does not look, the number of ONE goes to a second name, ONE gets another, and its first a third name.
    commit(alice, [], [ONE, ...numbered('fill', CROWDED)]);
    commit(bob, ['com.example.second'], [TWO]);
    commit(web, [ONE, TWO]);
    commit(bob, [], ['com.example.second']);
    commit(bob, ['com.example.third']);
    for (const name of [ONE, TWO]) commit(alice, [name], [], {}, other);
    expect(walk(reader, query([ONE]))).toEqual([web, alice]);
    expect(walk(reader, query([TWO]))).toEqual([web, alice]);
    expect(walk(reader, query(['com.example.third']))).toEqual([bob]);
    other.close();
  });

  test('new ones are refused, and counted, of repos that have hundreds when all numbers are needed, and of all when none is left', () => {
    store.close();
    store = openStore(directory.path, { ...small, maxCollections: 260, crowdedCollections: 210 });
    commit(alice, numbered('large', 215));
    expect(reader.counts(null, 1_000)).toHaveLength(210);
    expect(store.totals().byName.get(`failure_${CHECK_FAILURES.indexOf('over_bound')}`)).toBe(1);
    commit(bob, numbered('bob', 100));
    expect(reader.counts(null, 1_000)).toHaveLength(260);
    // What is known they may have, and the widespread ones.
    commit(web, ['com.example.large3', 'com.example.none', POST]);
    expect(walk(reader, query(['com.example.large3']))).toEqual([alice, web]);
    expect(walk(reader, query([POST]))).toEqual([web]);
    expect(store.totals().byName.get(`failure_${CHECK_FAILURES.indexOf('over_bound')}`)).toBe(3);
  });

  test('that a prefix matches are bounded in number, those that nobody has left out', () => {
    const names = numbered('n', MAX_COLLECTIONS_MATCHED + 1);
    add(alice, ...names);
    const asked = { ...query([], ['com.example.']), cursor: null, limit: 10 };
    expect(reader.page(asked)).toEqual({ bad: 'too_many_collections' });
    expect(reader.page({ ...asked, prefixes: ['com.example.', 'org.example.'] })).toEqual({
      bad: 'too_many_collections',
    });
    expect(walk(reader, query(names.slice(0, 3)))).toEqual([alice]);
    commit(alice, [], [names[MAX_COLLECTIONS_MATCHED]!]);
    expect(walk(reader, query([], ['com.example.']))).toEqual([alice]);
  });

  test('and what is needed of them are counted anew where an older weir made the file', () => {
    commit(alice, [ONE, TWO]);
    commit(bob, [ONE]);
    account(alice, 'deactivated');
    reader.close();
    store.close();
    const db = new Database(directory.path);
    for (const index of ['listed', 'unused', 'named']) db.run(`drop index collections_${index}`);
    db.run('create index collections_shown on collections (name) where dids > 0');
    for (const column of ['hidden', 'named']) db.run(`alter table collections drop column ${column}`);
    for (const column of ['named', 'boot']) db.run(`alter table meta drop column ${column}`);
    db.run('pragma user_version = 1');
    db.close();
    store = openStore(directory.path, { ...small, crowdedCollections: 0 });
    reader = openCollectionReader(directory.path);
    commit(web, ['com.example.new']);
    account(alice, null);
    expect(walk(reader, query([ONE]))).toEqual([bob, alice]);
    expect(walk(reader, query([TWO]))).toEqual([alice]);
    expect(walk(reader, query(['com.example.new']))).toEqual([web]);
  });
});

describe('a file that cannot be used stops us with what to do', () => {
  const reopen = () => openStore(directory.path);
  const close = (): void => {
    commit(alice, [POST]);
    reader.close();
    // The last one to close puts all into the one file.
    store.close();
  };
  const restore = (): void => {
    rmSync(directory.path, { force: true });
    for (const suffix of ['-wal', '-shm', '.dids']) rmSync(directory.path + suffix, { force: true });
    store = openStore(directory.path);
    reader = openCollectionReader(directory.path);
  };

  test('when a newer weir wrote it', () => {
    close();
    const db = new Database(directory.path);
    db.run('pragma user_version = 3');
    db.close();
    expect(reopen).toThrow(/newer weir \(version 3, this one knows 2\).*delete .*collections\.sqlite/s);
    expect(() => openCollectionReader(directory.path)).toThrow(/newer weir/);
    restore();
  });

  test('when it is damaged', () => {
    close();
    const bytes = readFileSync(directory.path);
    bytes.fill(0x5a, 0, 200);
    writeFileSync(directory.path, bytes);
    expect(reopen).toThrow(/is damaged \(.*\): stop weir, delete .*collections\.sqlite/);
    restore();
  });

  test('when its lists are damaged', () => {
    close();
    const db = new Database(directory.path);
    db.run('delete from chunks');
    db.close();
    const damaged = reopen();
    const removal = { kind: 'commit', hostId: 1, discontinuity: false } as const;
    expect(() =>
      damaged.transaction(() =>
        damaged.applyEvent(
          { ...removal, changes: { did: alice, present: [], removed: [POST], unproven: [] } },
          NOW,
        ),
      ),
    ).toThrow(/index is damaged/);
    damaged.close();
    restore();
  });

  test('when its DIDs are missing, or those of another index', () => {
    close();
    const dids = `${directory.path}.dids`;
    copyFileSync(dids, `${dids}.copy`);
    rmSync(dids);
    expect(reopen).toThrow(/dids is missing: stop weir, delete/);
    const other = makeDirectory();
    openStore(other.path).close();
    copyFileSync(`${other.path}.dids`, dids);
    other.remove();
    expect(reopen).toThrow(/does not belong to the collection index/);
    expect(() => openCollectionReader(directory.path)).toThrow(/does not belong/);
    copyFileSync(`${dids}.copy`, dids);
    reopen().close();
    restore();
  });

  test('when it is something else', () => {
    close();
    rmSync(directory.path);
    const db = new Database(directory.path);
    db.run('create table something (else_ integer)');
    db.close();
    expect(reopen).toThrow(/is no collection index/);
    restore();
    expect(existsSync(directory.path)).toBe(true);
  });

  test('but a transaction that was cut off between the files leaves nothing behind', () => {
    commit(alice, [POST]);
    expect(() =>
      store.transaction(() => {
        store.add([{ did: bob, collections: [POST] }]);
        throw new Error('cut off');
      }),
    ).toThrow('cut off');
    commit(didOf(5), [POST]);
    expect(walk(reader, query([POST]))).toEqual([alice, didOf(5)]);
  });
});
