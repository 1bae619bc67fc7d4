/** What the relay holds against accounts counts more than what others list: over the real index. */
import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { rmSync } from 'node:fs';
import { createKnownAccounts } from '../../src/backfill/known-accounts.ts';
import { collectionsPath } from '../../src/collections/collections.ts';
import { openCollectionReader } from '../../src/collections/store/reader.ts';
import { openStore, type Store } from '../../src/collections/store/store.ts';
import { openState } from '../../src/state/state.ts';
import type { State } from '../../src/state/types.ts';
import { account, flushOf, newHost } from '../state/samples.ts';
import { didOf, type FakeServer, fakeDirectory, fakePds, fakeRelay } from './fake-servers.ts';
import { type BackfillHarness, startHarness } from './harness.ts';

setDefaultTimeout(60_000);

const POST = 'app.bsky.feed.post';
const LIKE = 'app.bsky.feed.like';

const [active, takendown, throttled, deactivated, deleted, listedAway, unknown] = Array.from(
  { length: 7 },
  (_, n) => didOf(n),
) as [string, string, string, string, string, string, string];
const all = [active, takendown, throttled, deactivated, deleted, listedAway, unknown];

const places = new Map<string, string>();
let harness: BackfillHarness;
let directory: FakeServer;
let state: State;
let servers: FakeServer[] = [];
beforeAll(async () => {
  directory = fakeDirectory(places);
  harness = await startHarness({ RELAY_PLC_HOST: directory.url, TEST_INDEX: 'real' });
  state = await openState({ database: harness.embedded.database });
});
afterAll(async () => {
  await state.close();
  await harness.stop();
  await directory.stop();
});
beforeEach(async () => {
  await Promise.all(servers.map((server) => server.stop()));
  servers = [];
  places.clear();
  for (const end of ['', '-wal', '-shm', '.dids'])
    rmSync(`${collectionsPath(harness.dataDir)}${end}`, { force: true });
  await harness.sql`delete from accounts`;
  await harness.sql`delete from hosts`;
});

const served = (server: FakeServer): FakeServer => {
  servers.push(server);
  return server;
};

/** A PDS that has all of them as active, and the relay, which has not. */
const setUp = async (): Promise<{ host: FakeServer; hostId: number }> => {
  const host = served(fakePds(all.map((did) => ({ did, collections: [POST], status: null }))));
  for (const did of all) places.set(did, host.url);
  const { hostId } = await state.insertHost(newHost(host.hostname, { secure: false, source: 'admin' }));
  await state.flush(
    flushOf(1, {
      accounts: [
        account(active, { hostId }),
        account(takendown, { hostId, ownStatus: 'takendown' }),
        account(throttled, { hostId, ownStatus: 'throttled', rev: null, commit: null, data: null }),
        account(deactivated, { hostId, upstreamStatus: 'deactivated' }),
        account(deleted, { hostId, upstreamStatus: 'deleted' }),
        // As an earlier listing left it.
        account(listedAway, {
          hostId,
          upstreamStatus: 'deactivated',
          rev: null,
          commit: null,
          data: null,
          identityAtMs: 0,
        }),
      ],
    }),
  );
  return { host, hostId };
};

const shown = (collection: string | null): string[] => {
  const reader = openCollectionReader(collectionsPath(harness.dataDir));
  const collections = collection === null ? [] : [collection];
  const page = reader.page({ collections, prefixes: [], cursor: null, limit: 100 });
  reader.close();
  if ('bad' in page) throw new Error(page.bad);
  return [...page.dids].sort();
};

const withStore = <T>(work: (store: Store) => T): T => {
  const store = openStore(collectionsPath(harness.dataDir));
  try {
    return store.transaction(() => work(store));
  } finally {
    store.close();
  }
};

const run = async (...args: string[]): Promise<string> => {
  const { code, out, err } = await harness.run(args);
  if (code !== 0) throw new Error(err);
  return out;
};

describe('into an index that was made anew', () => {
  test('no import from another relay lists who is taken down, throttled or inactive here', async () => {
    await setUp();
    const relay = served(fakeRelay(new Map([[POST, all]])));
    const out = await run('--from-relay', relay.url);
    expect(shown(POST)).toEqual([active, unknown].sort());
    expect(shown(null)).toEqual([active, unknown].sort());
    expect(out).toContain('5 accounts hidden');
    // They keep what they have, for when they are back.
    withStore((store) =>
      store.applyEvent({ kind: 'account', hostId: 1, did: takendown, status: null }, Date.now()),
    );
    expect(shown(POST)).toContain(takendown);
  });

  test.each([
    ['a reading of their host', (): string[] => ['--from-hosts']],
    ['a reading of these accounts', (): string[] => ['--did', ...all]],
  ])('neither does %s, which has them as active', async (_, args) => {
    await setUp();
    await run(...args(), '--requests', '200000');
    // Of what only an earlier listing said, a later one may say otherwise.
    expect(shown(POST)).toEqual([active, listedAway, unknown].sort());
    // And again, whoever comes next.
    const relay = served(fakeRelay(new Map([[POST, all]])));
    await run('--from-relay', relay.url);
    await run(...args());
    for (const hidden of [takendown, throttled, deactivated, deleted])
      expect(shown(null)).not.toContain(hidden);
  });
});

describe('a verification', () => {
  test('hides who is taken down here and was listed all the same, without asking the PDS', async () => {
    const { host } = await setUp();
    // As an index that missed a stretch of the log has it.
    withStore((store) => {
      for (const did of all)
        store.applyEvent(
          {
            kind: 'commit',
            hostId: 1,
            changes: { did, present: [POST], removed: [], unproven: [] },
            discontinuity: false,
          },
          0,
        );
    });
    expect(await run('--verify', '--all')).toContain('4 accounts hidden');
    expect(shown(POST)).toEqual([active, listedAway, unknown].sort());
    const asked = host.requests.map(({ query }) => query.get('repo')!).sort();
    expect(asked).toEqual([active, listedAway, unknown].sort());
  });

  test('tells the index where a repo is, also when nobody answers there, so that it goes with its host', async () => {
    const host = served(fakePds([{ did: active, collections: [POST], status: null }]));
    places.set(active, host.url);
    places.set(unknown, 'http://localhost:1');
    const { hostId } = await state.insertHost(newHost(host.hostname, { secure: false }));
    const { hostId: deadId } = await state.insertHost(newHost('localhost:1', { secure: false }));
    const relay = served(
      fakeRelay(
        new Map([
          [POST, [active, unknown]],
          [LIKE, [unknown]],
        ]),
      ),
    );
    await run('--from-relay', relay.url);
    const sweep = (hosts: number[]): string[] => {
      withStore((store) => store.sweep(new Set(hosts), -1, () => false));
      return shown(null);
    };
    expect(sweep([hostId, deadId])).toEqual([active, unknown].sort());
    for (const args of [['--verify'], ['--verify', '--all']]) {
      expect(await run(...args)).toContain('unreachable 1');
      expect(sweep([deadId])).toEqual([active]);
      expect(sweep([hostId, deadId])).toEqual([]);
      expect(sweep([])).toEqual([active, unknown].sort());
    }
    // An account that the index does not know does not come in by being looked for in vain.
    places.set(takendown, 'http://localhost:1');
    await run('--did', takendown);
    expect(shown(null)).not.toContain(takendown);
  });
});

describe('questions for accounts', () => {
  test('that come while one is under way go together, and each gets its own answer', async () => {
    const queries: string[][] = [];
    const known = createKnownAccounts(async (_, params) => {
      queries.push(String(params![0]).slice(1, -1).replaceAll('"', '').split(','));
      await Promise.resolve();
      return [{ did: takendown, host_id: 3, status: 'hibernating', told: true }] as never;
    });
    const answers = await Promise.all([
      known([active]),
      ...Array.from({ length: 50 }, () => known([takendown])),
      known([active, takendown]),
    ]);
    expect(queries).toEqual([[active], [takendown, active]]);
    expect(answers[0]!.size).toBe(0);
    expect([...answers[51]!]).toEqual([[takendown, { hostId: 3, hidden: 'unknown_status', isTold: true }]]);
  });

  test('end with the failure of the database, and the next one is asked again', async () => {
    let isDown = true;
    const known = createKnownAccounts(async () => {
      if (isDown) throw new Error('down');
      return [] as never;
    });
    await expect(known([active])).rejects.toThrow('down');
    isDown = false;
    expect((await known([active])).size).toBe(0);
  });
});
