import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { withoutFlapping } from '../../src/collections/flapping.ts';
import { openCollectionReader } from '../../src/collections/store/reader.ts';
import { type IndexedEvent, openStore } from '../../src/collections/store/store.ts';
import { COLLECTIONS, didOf, makeDirectory, query, walk } from './samples.ts';

const status = (did: string, word: string | null): IndexedEvent => ({
  kind: 'account',
  hostId: 1,
  did,
  status: word,
});
const post = (did: string, collection = COLLECTIONS[0]!): IndexedEvent => ({
  kind: 'commit',
  hostId: 1,
  discontinuity: false,
  changes: { did, present: [collection], removed: [], unproven: [] },
});

const event: fc.Arbitrary<IndexedEvent> = fc
  .tuple(fc.nat(2), fc.integer({ min: 0, max: 9 }), fc.nat(2))
  .map(([account, what, collection]) => {
    const did = didOf(account);
    if (what === 0) return post(did, COLLECTIONS[collection]);
    if (what === 1) return { kind: 'sync', hostId: 1, did };
    if (what === 2) return status(did, 'deleted');
    return status(did, what < 6 ? null : what < 8 ? 'deactivated' : 'takendown');
  });

/** What an index made of these events says. */
const indexOf = (events: readonly IndexedEvent[]) => {
  const place = makeDirectory();
  const store = openStore(place.path);
  try {
    store.transaction(() => {
      for (let account = 0; account < 3; account++)
        for (const collection of COLLECTIONS) store.applyEvent(post(didOf(account), collection), 0);
    });
    store.transaction(() => {
      for (const one of events) store.applyEvent(one, 0);
    });
    const reader = openCollectionReader(place.path);
    const listed = COLLECTIONS.map((collection) => walk(reader, query([collection])).sort());
    reader.close();
    const checks = store.transaction(() => store.nextChecks(Number.MAX_SAFE_INTEGER, 100));
    return { listed, all: store.totals().rows, checked: new Set(checks.map(({ did }) => did)) };
  } finally {
    store.close();
    place.remove();
  }
};

describe('an account whose status goes back and forth', () => {
  const [one, other] = [didOf(0), didOf(1)];

  test('counts by its last status in a row, by what hid it before, and by each deletion', () => {
    const flips = Array.from({ length: 100 }, (_, index) => status(one, index % 2 ? null : 'deactivated'));
    expect(withoutFlapping(flips)).toEqual([status(one, 'deactivated'), status(one, null)]);
    expect(withoutFlapping([...flips, ...flips.slice(0, 1)])).toEqual([status(one, 'deactivated')]);
    expect(withoutFlapping([...flips, status(one, null), status(one, null)])).toEqual(flips.slice(-2));
    expect(withoutFlapping([status(one, 'deleted'), ...flips])).toEqual([
      status(one, 'deleted'),
      ...flips.slice(-2),
    ]);
  });

  test('leaves other events, and their order, as they are', () => {
    const events = [
      status(one, 'deactivated'),
      post(other),
      status(one, null),
      post(one),
      status(one, 'takendown'),
      status(other, null),
    ];
    expect(withoutFlapping(events)).toEqual(events);
  });

  test('ends in the index as with all of its events, and is checked if they would have had it checked', () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 30 }), (events) => {
        const [whole, short] = [indexOf(events), indexOf(withoutFlapping(events))];
        expect(short.listed).toEqual(whole.listed);
        expect(short.all).toBe(whole.all);
        // Who is hidden is checked when it is shown again.
        const shown = new Set(short.listed.flat());
        for (const did of shown) expect(short.checked.has(did)).toBe(whole.checked.has(did));
      }),
      { numRuns: 60 },
    );
  }, 30_000);
});
