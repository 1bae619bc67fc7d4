/** Killed without warning, at any point, the next start goes on, and in the end nothing is missing. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from 'bun:test';
import { rmSync } from 'node:fs';
import { collectionsPath } from '../../src/collections/collections.ts';
import { openCollectionReader } from '../../src/collections/store/reader.ts';
import { walk } from '../collections/samples.ts';
import { didOf, type FakeRepo, fakeDirectory, fakePds, fakeRelay } from './fake-servers.ts';
import { type BackfillHarness, startHarness } from './harness.ts';

setDefaultTimeout(120_000);

let harness: BackfillHarness;
const directory = fakeDirectory(
  new Map(Array.from({ length: 2_000 }, (_, n) => [didOf(n), 'http://localhost:1'] as const)),
);
beforeAll(async () => {
  harness = await startHarness({
    RELAY_PLC_HOST: directory.url,
    RELAY_TRUSTED_DOMAINS: 'localhost',
    TEST_INDEX: 'real',
  });
});
afterAll(async () => {
  await harness.stop();
  await directory.stop();
});

/** All pairs of repos that are shown, as "did collection". */
const indexed = async (): Promise<string[]> => {
  const reader = openCollectionReader(collectionsPath(harness.dataDir));
  const pairs = reader.counts(null, 1_000).flatMap(({ collection, dids }) => {
    const listed = walk(reader, { collections: [collection], prefixes: [] }, 500);
    expect(listed.length).toBe(dids);
    return listed.map((did) => `${did} ${collection}`);
  });
  reader.close();
  return pairs.sort();
};

const freshIndex = (): void => {
  for (const end of ['', '-wal', '-shm', '.dids'])
    rmSync(`${collectionsPath(harness.dataDir)}${end}`, { force: true });
};

/** Kills the run after some of its requests, again and again, until one comes to its end. Answers how often. */
const killUntilDone = async (
  args: readonly string[],
  requests: { readonly length: number },
): Promise<number> => {
  let kills = 0;
  let next = args;
  for (;;) {
    const child = harness.spawn(next);
    const from = requests.length;
    // Some time into its work, by the count of what it asked: never the same place twice.
    const after = 1 + Math.floor(Math.random() * 12);
    const delayMs = Math.random() * 15;
    let ended = false;
    const end = child.ended.finally(() => {
      ended = true;
    });
    while (!ended && requests.length < from + after) await Bun.sleep(1);
    if (!ended) await Bun.sleep(delayMs);
    if (!ended && kills < 7) {
      child.process.kill('SIGKILL');
      kills++;
    }
    const { code, out } = await end;
    if (code === 0) {
      expect(out).toContain(': finished');
      return kills;
    }
    expect(code).toBe(137);
    const [run] = await harness.sql`select count(*)::integer as n from backfill_runs where state = 'running'`;
    // Killed before the run was stored: it is asked for again.
    next = run!.n === 0 ? args : [];
  }
};

test('an import that is killed at random points ends with what an uninterrupted one has', async () => {
  const collections = new Map(
    Array.from({ length: 5 }, (_, c) => [
      `com.example.collection${c}`,
      Array.from({ length: 1_700 * (c + 1) }, (_, n) => didOf(c * 100 + n)),
    ]),
  );
  const relay = fakeRelay(collections, { maxLimit: 500 });
  relay.fault = async (url) => {
    await Bun.sleep(url.pathname.endsWith('listReposByCollection') ? 15 : 0);
    return null;
  };
  freshIndex();
  const args = ['--from-relay', relay.url];
  const kills = await killUntilDone(args, relay.requests);
  await relay.stop();
  expect(kills).toBeGreaterThan(2);
  const truth = [...collections].flatMap(([name, list]) => list.map((did) => `${did} ${name}`)).sort();
  expect(await indexed()).toEqual(truth);
  const [run] = await harness.sql`select counters from backfill_runs order by run_id desc limit 1`;
  // Counted with the cursors they belong to: what was read twice was counted once.
  expect(JSON.parse(run!.counters).imported).toBe(truth.length);
});

test('a reading of hosts that is killed at random points ends with what the hosts have', async () => {
  const repos: FakeRepo[] = Array.from({ length: 900 }, (_, n) => ({
    did: didOf(n),
    collections: n % 3 === 0 ? ['app.bsky.feed.post'] : ['app.bsky.feed.like', 'com.example.thing'],
    status: n % 50 === 7 ? 'takendown' : null,
  }));
  const pds = fakePds(repos);
  freshIndex();
  // Untrusted accounts are looked up: the directory has them where this host is.
  directory.fault = (url) => {
    const did = decodeURIComponent(url.pathname.slice(1));
    return Response.json({
      id: did,
      verificationMethod: [],
      service: [{ id: '#atproto_pds', type: 'AtprotoPersonalDataServer', serviceEndpoint: pds.url }],
    });
  };
  const kills = await killUntilDone(['--from-hosts', pds.hostname, '--requests', '200000'], pds.requests);
  directory.fault = null;
  await pds.stop();
  expect(kills).toBeGreaterThan(2);
  expect(await indexed()).toEqual(
    repos
      .filter(({ status }) => status === null)
      .flatMap(({ did, collections }) => collections.map((name) => `${did} ${name}`))
      .sort(),
  );
});
