/** What Bluesky's `tap` relies on, over the real index and the real routes. */
import { describe, expect, setDefaultTimeout, test } from 'bun:test';
import fc from 'fast-check';
import { openCollectionReader } from '../../src/collections/store/reader.ts';
import { openStore } from '../../src/collections/store/store.ts';
import { json, startApi } from '../api/fixtures.ts';
import { didOf, makeDirectory } from './samples.ts';

setDefaultTimeout(60_000);

const PATH = '/xrpc/com.atproto.sync.listReposByCollection';
const POST = 'app.bsky.feed.post';
const LIKE = 'app.bsky.feed.like';

type Act = readonly ['add' | 'remove' | 'hide' | 'show', number, string];

const act = fc.tuple(
  fc.constantFrom('add', 'add', 'add', 'remove', 'hide', 'show'),
  fc.nat(40),
  fc.constantFrom(POST, LIKE),
) as fc.Arbitrary<Act>;

const withIndex = async (
  use: (index: {
    apply(acts: readonly Act[]): void;
    restart(): void;
    /** As tap reads: from a cursor until a page is empty or has none. The last cursor that it was given is kept. */
    walk(query: string, cursor: string | null): Promise<{ pages: string[][]; cursor: string | null }>;
  }) => Promise<void>,
): Promise<void> => {
  const { path, remove } = makeDirectory();
  let store = openStore(path);
  let reader = openCollectionReader(path);
  let api = startApi({ collections: reader });
  try {
    await use({
      apply: (acts) =>
        store.transaction(() => {
          for (const [what, at, collection] of acts) {
            const did = didOf(at);
            if (what === 'hide' || what === 'show')
              store.applyEvent(
                { kind: 'account', hostId: 1, did, status: what === 'hide' ? 'deactivated' : null },
                0,
              );
            else {
              const changes = { did, present: [] as string[], removed: [] as string[], unproven: [] };
              (what === 'add' ? changes.present : changes.removed).push(collection);
              store.applyEvent({ kind: 'commit', hostId: 1, changes, discontinuity: false }, 0);
            }
          }
        }),
      restart: () => {
        reader.close();
        store.close();
        store = openStore(path);
        reader = openCollectionReader(path);
        api = startApi({ collections: reader });
      },
      walk: async (query, from) => {
        const pages: string[][] = [];
        let cursor = from;
        for (;;) {
          const page = await json(
            await api.request(`${PATH}?${query}${cursor === null ? '' : `&cursor=${cursor}`}`),
          );
          if (page.repos.length === 0) {
            expect(page.cursor).toBeUndefined();
            return { pages, cursor };
          }
          pages.push(page.repos.map((repo: { did: string }) => repo.did));
          if (page.cursor === undefined) return { pages, cursor };
          cursor = page.cursor as string;
        }
      },
    });
  } finally {
    reader.close();
    store.close();
    remove();
  }
};

describe('tap', () => {
  test('keeps its cursor for months: with it, over restarts, it gets all that came since, and nothing twice', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(act, { maxLength: 80 }),
        fc.array(act, { maxLength: 80 }),
        fc.integer({ min: 1, max: 7 }),
        fc.constantFrom([POST], [POST, LIKE], ['app.bsky.feed.*'], []),
        (before, months, limit, collections) =>
          withIndex(async ({ apply, restart, walk }) => {
            const query = [...collections.map((one) => `collection=${one}`), `limit=${limit}`].join('&');
            apply(before);
            const first = await walk(query, null);
            restart();
            apply(months);
            const now = (await walk(query, null)).pages.flat();
            const since = (await walk(query, first.cursor)).pages.flat();
            expect(new Set(now).size).toBe(now.length);
            expect(new Set(since).size).toBe(since.length);
            const told = new Set([...first.pages.flat(), ...since]);
            for (const did of now) expect(told.has(did)).toBe(true);
            for (const did of since) expect(now).toContain(did);
          }),
      ),
      { numRuns: 40 },
    );
  });

  test('stops at an empty page: none is empty while more repos follow, however many are hidden or told already', async () => {
    await withIndex(async ({ apply, walk }) => {
      const all = Array.from({ length: 400 }, (_, at) => at);
      apply(all.map((at): Act => ['add', at, POST]));
      apply(all.map((at): Act => ['add', at, LIKE]));
      apply(all.filter((at) => at >= 10 && at < 390).map((at): Act => ['hide', at, POST]));
      apply([['add', 1_000, LIKE]]);
      for (const query of [`collection=${POST}`, `collection=${POST}&collection=${LIKE}`]) {
        const { pages } = await walk(`${query}&limit=5`, null);
        const expected = [
          ...all.filter((at) => at < 10 || at >= 390),
          ...(query.includes(LIKE) ? [1_000] : []),
        ];
        expect(pages.flat()).toEqual(expected.map(didOf));
      }
    });
  });
});
