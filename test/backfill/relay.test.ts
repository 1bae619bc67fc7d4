import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openFakeIndex } from './fake-index.ts';
import { didOf, type FakeServer, fakeRelay } from './fake-servers.ts';
import { type BackfillHarness, startHarness } from './harness.ts';

setDefaultTimeout(60_000);

let harness: BackfillHarness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.stop());

const dids = (from: number, count: number): string[] =>
  Array.from({ length: count }, (_, n) => didOf(from + n));

const POST = 'app.bsky.feed.post';
const LIKE = 'app.bsky.feed.like';
const RARE = 'com.example.rare';

const freshIndex = (): void => {
  for (const end of ['', '-wal', '-shm']) rmSync(`${harness.indexFile}${end}`, { force: true });
};

const pairsOf = (collections: ReadonlyMap<string, readonly string[]>): string[] =>
  [...collections].flatMap(([name, list]) => [...new Set(list)].map((did) => `${did} ${name}`)).sort();

const indexed = async (): Promise<string[]> => {
  const index = openFakeIndex(harness.indexFile);
  const pairs = index.pairs();
  await index.close();
  return pairs.sort();
};

const using = async <T>(relay: FakeServer, work: () => Promise<T>): Promise<T> => {
  try {
    return await work();
  } finally {
    await relay.stop();
  }
};

describe('an import from another relay', () => {
  test('brings all repos of all collections that it counts, by pages of at most 1,000', async () => {
    freshIndex();
    const collections = new Map([
      [POST, dids(0, 3_500)],
      [LIKE, dids(1_000, 1_000)],
      [RARE, dids(7_000, 1)],
    ]);
    const relay = fakeRelay(collections);
    await using(relay, async () => {
      const { code, out, err } = await harness.run(['--from-relay', relay.url]);
      expect(err).toBe('');
      expect(code).toBe(0);
      expect(await indexed()).toEqual(pairsOf(collections));
      expect(out).toContain('new            4,501');
      const pages = relay.requests.filter(({ path }) => path.includes('listReposByCollection'));
      expect(pages.length).toBe(4 + 1 + 1);
      for (const { query } of pages) expect(Number(query.get('limit'))).toBeLessThanOrEqual(1_000);
    });
  });

  test('says what was known already when it is done again', async () => {
    const relay = fakeRelay(new Map([[LIKE, dids(1_000, 1_000)]]), { counts: false });
    await using(relay, async () => {
      const { code, out } = await harness.run(['--from-relay', relay.url, '--collections', LIKE, '--only']);
      expect(code).toBe(0);
      expect(out).toContain('new            0');
      expect(out).toContain('already known  1,000');
      expect(relay.requests.filter(({ query }) => query.get('collection') === POST).length).toBe(0);
    });
  });

  test('asks for collections of a file and those the index has seen, when the relay counts none', async () => {
    freshIndex();
    const index = openFakeIndex(harness.indexFile);
    await index.add([{ did: didOf(1), collections: [RARE] }]);
    await index.close();
    const file = join(harness.dataDir, 'list.md');
    writeFileSync(file, `# Lexicons\n\n- [${POST}](https://docs.bsky.app/docs/x): posts\n`);
    const relay = fakeRelay(
      new Map([
        [POST, dids(0, 10)],
        [RARE, dids(20, 10)],
      ]),
      { counts: false },
    );
    await using(relay, async () => {
      const { code, out } = await harness.run(['--from-relay', relay.url, '--collections', file]);
      expect(code).toBe(0);
      expect(out).toContain('new            20');
    });
  });
});
