/** Readings of hosts and of single accounts, verification, and the account list. */
import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createNetwork } from '../../simulator/network.ts';
import { walkLeaves } from '../../simulator/tree.ts';
import { openState } from '../../src/state/state.ts';
import type { State } from '../../src/state/types.ts';
import { account, flushOf, newHost } from '../state/samples.ts';
import { openFakeIndex } from './fake-index.ts';
import { didOf, type FakeRepo, type FakeServer, fakeDirectory, fakePds } from './fake-servers.ts';
import { type BackfillHarness, startHarness } from './harness.ts';
import { repoCar } from './repo-car.ts';

setDefaultTimeout(60_000);

const POST = 'app.bsky.feed.post';
const LIKE = 'app.bsky.feed.like';

/** DID → PDS. */
const places = new Map<string, string>();
let harness: BackfillHarness;
let directory: FakeServer;
let state: State;
const servers: FakeServer[] = [];

beforeAll(async () => {
  directory = fakeDirectory(places);
  harness = await startHarness({ RELAY_PLC_HOST: directory.url });
  // As a relay that runs: it holds the right to write.
  state = await openState({ database: harness.embedded.database });
});
afterAll(async () => {
  await state.close();
  await harness.stop();
  await directory.stop();
});
beforeEach(async () => {
  for (const end of ['', '-wal', '-shm']) rmSync(`${harness.indexFile}${end}`, { force: true });
  await harness.sql`delete from accounts`;
  await harness.sql`delete from hosts`;
  await Promise.all(servers.splice(0).map((server) => server.stop()));
  places.clear();
  directory.requests.length = 0;
});

const pds = (repos: FakeRepo[], options: Parameters<typeof fakePds>[1] = {}): FakeServer => {
  const server = fakePds(repos, options);
  servers.push(server);
  for (const { did } of repos) if (!places.has(did)) places.set(did, server.url);
  return server;
};

const repo = (n: number, collections: readonly string[], status: string | null = null): FakeRepo => ({
  did: didOf(n),
  collections,
  status,
});

const withIndex = async <T>(
  work: (index: ReturnType<typeof openFakeIndex>) => T | Promise<T>,
): Promise<T> => {
  const index = openFakeIndex(harness.indexFile);
  try {
    return await work(index);
  } finally {
    await index.close();
  }
};
const pairs = (): Promise<string[]> => withIndex((index) => index.pairs().sort());

describe('a reading of hosts', () => {
  test('asks each repo once, hides what is not active, and lists the accounts', async () => {
    const host = pds([
      ...Array.from({ length: 450 }, (_, n) => repo(n, n % 2 === 0 ? [POST] : [POST, LIKE])),
      repo(900, [POST], 'takendown'),
    ]);
    const row = await state.insertHost(newHost(host.hostname, { secure: false, source: 'admin' }));
    const { code, out } = await harness.run(['--from-hosts', '--requests', '200000']);
    expect(code).toBe(0);
    expect(out).toContain('1 done');
    expect((await pairs()).length).toBe(450 + 225);
    expect(await withIndex((index) => index.hidden())).toEqual(new Map([[didOf(900), 'takendown']]));
    const asked = host.requests.filter(({ path }) => path.endsWith('describeRepo'));
    expect(asked.length).toBe(450);
    // Three pages, and one that only counts what comes after the first.
    expect(host.requests.filter(({ path }) => path.endsWith('listRepos')).length).toBe(4);
    expect([
      ...(await harness.sql`select done, total from backfill_sources order by source_id desc limit 1`),
    ]).toEqual([{ done: '451', total: '451' }]);
    const listed = await state.listRepos(0, 1_000);
    expect(listed.repos.length).toBe(451);
    expect(listed.repos[0]).toMatchObject({ rev: '3kabcdefgh222', upstreamStatus: null });
    expect(listed.repos.find(({ did }) => did === didOf(900))?.upstreamStatus).toBe('takendown');
    const [stored] = await state.loadAccounts([didOf(3)]);
    // For the relay the account has no repo yet: whatever commit comes first is taken.
    expect(stored).toMatchObject({
      hostId: row.hostId,
      rev: null,
      commit: null,
      data: null,
      identityAtMs: 0,
      known: false,
    });
  });

  test('believes a host about its own accounts only', async () => {
    const own = pds([repo(1, [POST])]);
    const other = pds([repo(2, [POST])]);
    const liar = pds([
      repo(3, [LIKE]),
      { ...repo(1, [LIKE]), status: null },
      { ...repo(2, [LIKE]), status: 'takendown' },
    ]);
    expect(places.get(didOf(1))).toBe(own.url);
    for (const host of [own, other, liar])
      await state.insertHost(newHost(host.hostname, { secure: false, source: 'crawl' }));
    const { code, out } = await harness.run(['--from-hosts', liar.hostname]);
    expect(code).toBe(0);
    expect(out).toContain('wrong_host 1');
    expect(await pairs()).toEqual([`${didOf(3)} ${LIKE}`]);
    expect(await withIndex((index) => index.hidden().size)).toBe(0);
    expect((await state.listRepos(0, 10)).repos.map(({ did }) => did)).toEqual([didOf(3)]);
  });

  test('never takes back what the firehose has told, and the relay takes what comes after', async () => {
    const host = pds([
      { ...repo(1, [POST]), rev: '3kzzzzzzzz222' },
      { ...repo(2, [POST], 'deactivated'), rev: '3kzzzzzzzz222' },
      { ...repo(3, [POST]), rev: '3kzzzzzzzz222' },
      { ...repo(4, [POST], 'deactivated'), rev: '3kzzzzzzzz222' },
    ]);
    const { hostId } = await state.insertHost(newHost(host.hostname, { secure: false, source: 'admin' }));
    const fromFirehose = [
      account(didOf(1), { hostId, rev: '3kaaaaaaaa222' }),
      // With an identity, and with one that has to be asked for.
      ...[didOf(2), didOf(4)].map((did, index) =>
        account(did, {
          hostId,
          rev: null,
          commit: null,
          data: null,
          upstreamStatus: null,
          identityAtMs: index === 0 ? 5 : 0,
        }),
      ),
    ];
    await state.flush(flushOf(1, { accounts: fromFirehose }));
    expect((await harness.run(['--from-hosts'])).code).toBe(0);
    const [first, second, third] = await Promise.all(
      [didOf(1), didOf(2), didOf(4)].map(async (did) => (await state.loadAccounts([did]))[0]!),
    );
    expect(first!.rev).toBe('3kaaaaaaaa222');
    expect(second).toMatchObject({ upstreamStatus: null, identityAtMs: 5, known: true });
    expect(third).toMatchObject({ upstreamStatus: null, identityAtMs: 0, known: true });
    // An earlier commit than the listed one is news to the relay: it was not passed on yet.
    await state.flush(flushOf(2, { accounts: [account(didOf(3), { hostId, rev: '3kbbbbbbbb222' })] }));
    const listed = await state.listRepos(0, 10);
    expect(new Map(listed.repos.map(({ did, rev }) => [did, rev]))).toEqual(
      new Map([
        [didOf(1), '3kaaaaaaaa222'],
        [didOf(2), '3kzzzzzzzz222'],
        [didOf(3), '3kbbbbbbbb222'],
        [didOf(4), '3kzzzzzzzz222'],
      ]),
    );
    // And a later listing leaves it alone.
    expect((await harness.run(['--from-hosts'])).code).toBe(0);
    expect((await state.loadAccounts([didOf(3)]))[0]!.rev).toBe('3kbbbbbbbb222');
  });

  test('takes no more accounts than the host may have, into the index as into the list, and those again', async () => {
    const host = pds([
      ...Array.from({ length: 150 }, (_, n) => repo(n, [POST])),
      repo(900, [POST], 'deactivated'),
    ]);
    await state.insertHost(newHost(host.hostname, { secure: false, source: 'crawl', accountLimit: 20 }));
    for (const _ of ['once', 'again']) {
      const { code, out } = await harness.run(['--from-hosts', '--requests', '200000']);
      expect(code).toBe(0);
      expect(out).toContain('account_limit 131');
      const listed = (await state.listRepos(0, 1_000)).repos.map(({ did }) => `${did} ${POST}`);
      expect(listed.length).toBe(20);
      expect(await pairs()).toEqual(listed.sort());
    }
    expect(await withIndex((index) => index.hidden().size)).toBe(0);
    expect(host.requests.filter(({ path }) => path.endsWith('describeRepo')).length).toBe(40);
  });

  test('believes a trusted host about active accounts, but not those that the relay knows at another', async () => {
    const now = pds([repo(1, [LIKE])]);
    // It moved away, and was never deactivated here.
    const before = pds([
      { ...repo(1, [POST]), status: null },
      { ...repo(2, [POST]), status: null },
    ]);
    const { hostId } = await state.insertHost(newHost(now.hostname, { secure: false, source: 'crawl' }));
    await state.insertHost(newHost(before.hostname, { secure: false, source: 'crawl' }));
    const accounts = [account(didOf(1), { hostId, rev: '3kaaaaaaaa222' })];
    await state.flush(flushOf(1, { accounts }));
    const { code, out } = await harness.run(['--from-hosts', before.hostname], {
      RELAY_TRUSTED_DOMAINS: 'localhost',
    });
    expect(code).toBe(0);
    expect(out).toContain('wrong_host 1');
    expect(await pairs()).toEqual([`${didOf(2)} ${POST}`]);
    // Nobody was looked up but the one that is in doubt.
    expect(directory.requests.map(({ path }) => path)).toEqual([`/${didOf(1)}`]);
  });

  test('parks a host that fails, tries it again, and gives it up with its reason', async () => {
    const bad = pds([repo(1, [POST])]);
    const slow = pds([repo(2, [POST])]);
    const good = pds([repo(3, [POST])]);
    bad.fault = () => Response.json({ error: 'Oh' }, { status: 500 });
    slow.fault = (url, nth) =>
      url.pathname.endsWith('listRepos') && nth < 3 ? new Response('<html>', { status: 502 }) : null;
    for (const host of [bad, slow, good])
      await state.insertHost(newHost(host.hostname, { secure: false, source: 'admin' }));
    const banned = pds([repo(4, [POST])]);
    await state.insertHost(newHost(banned.hostname, { secure: false, source: 'admin', banned: true }));
    const { code, out } = await harness.run(['--from-hosts']);
    expect(code).toBe(0);
    expect(out).toContain(`failed ${bad.hostname}: http_server_error (HTTP status 500, Oh)`);
    expect(await pairs()).toEqual([`${didOf(2)} ${POST}`, `${didOf(3)} ${POST}`].sort());
    expect(banned.requests).toEqual([]);
    // Once, and after each of three waits.
    expect(bad.requests.length).toBe(4);
    bad.fault = null;
    expect((await harness.run(['--retry'])).code).toBe(0);
    expect((await pairs()).length).toBe(3);
  });

  test('is not held up by hosts that hang, at the list or at each repo', async () => {
    const hangs = pds([repo(1, [POST])]);
    const hangsLater = pds(Array.from({ length: 12 }, (_, n) => repo(100 + n, [POST])));
    const good = pds(Array.from({ length: 20 }, (_, n) => repo(200 + n, [POST])));
    hangs.fault = () => new Promise(() => {});
    hangsLater.fault = (url) => (url.pathname.endsWith('describeRepo') ? new Promise(() => {}) : null);
    const { code, out } = await harness.run(
      ['--from-hosts', hangs.hostname, hangsLater.hostname, good.hostname],
      { TEST_TIMEOUT_MS: '150' },
    );
    expect(code).toBe(0);
    expect((await pairs()).length).toBe(20);
    expect(out).toContain(`failed ${hangs.hostname}: timeout`);
    // In the end its page is left behind, and each of its repos given up by itself.
    expect(out).toContain('timeout 12');
  });

  test('tries single repos again that fail on a host that is well', async () => {
    const host = pds([repo(1, [POST]), repo(2, [POST]), repo(3, [POST])]);
    let failures = 0;
    host.fault = (url) => {
      const did = url.searchParams.get('repo');
      if (did === didOf(2) && failures++ < 1)
        return Response.json({ error: 'InternalServerError' }, { status: 500 });
      if (did === didOf(3)) return Response.json({ error: 'InternalServerError' }, { status: 500 });
      return null;
    };
    const { code, out } = await harness.run(['--from-hosts', host.hostname]);
    expect(code).toBe(0);
    expect(await pairs()).toEqual([`${didOf(1)} ${POST}`, `${didOf(2)} ${POST}`].sort());
    expect(out).toContain('http_server_error 1');
  });

  test('reads the repo itself where there is no describeRepo', async () => {
    const car = await repoCar(didOf(1), [POST, LIKE, 'com.example.thing']);
    const tiny = pds([{ ...repo(1, []), car }, repo(2, [], 'deactivated'), { ...repo(3, []), car }], {
      describes: false,
    });
    const { code, out } = await harness.run(['--from-hosts', tiny.hostname]);
    expect(code).toBe(0);
    expect(await pairs()).toEqual(
      [POST, LIKE, 'com.example.thing'].map((name) => `${didOf(1)} ${name}`).sort(),
    );
    // A CAR of another account is not believed.
    expect(out).toContain('repo_unreadable 1');
    expect(await withIndex((index) => index.hidden())).toEqual(new Map([[didOf(2), 'deactivated']]));
  });
});

describe('a simulated network', () => {
  test('is read whole: the index has what the repos have, and the account list has the accounts', async () => {
    const network = await createNetwork({ hosts: 3, accounts: 90, seed: 11, largeRepoShare: 0 });
    await network.start();
    try {
      network.setStatus(network.accounts[3]!, 'deactivated');
      network.setStatus(network.accounts[4]!, 'takendown');
      network.deleteAccount(network.accounts[5]!, { tombstone: true });
      for (const host of network.hosts)
        await state.insertHost(newHost(host.hostname, { secure: false, source: 'upstream' }));
      // Once by trust in the hosts, once by looking up each account.
      for (const trusted of ['localhost', '']) {
        const child = await harness.run(['--from-hosts', '--requests', '200000'], {
          RELAY_PLC_HOST: network.plcUrl,
          RELAY_TRUSTED_DOMAINS: trusted,
        });
        expect(child.code).toBe(0);
        expect(child.out).toContain('failures       none');
        const truth = network.accounts
          .filter(({ status }) => status === 'active')
          .flatMap(({ did, tree }) => {
            const collections = new Set<string>();
            walkLeaves(tree, (path) => collections.add(path.slice(0, path.indexOf('/'))));
            return [...collections].map((name) => `${did} ${name}`);
          });
        expect(await pairs()).toEqual(truth.sort());
        const listed = new Map((await state.listRepos(0, 1_000)).repos.map((one) => [one.did, one]));
        expect(listed.size).toBe(90);
        for (const { did, status, rev } of network.accounts)
          expect(listed.get(did)).toMatchObject({ rev, upstreamStatus: status === 'active' ? null : status });
      }
    } finally {
      await network.stop();
    }
  });
});

describe('single accounts', () => {
  test('are resolved and asked of their PDS, whoever that is', async () => {
    const one = pds([repo(1, [POST]), repo(2, [], 'deactivated')]);
    const two = pds([repo(3, [LIKE])]);
    places.set(didOf(4), 'tombstoned');
    places.set(didOf(6), one.url);
    const file = join(harness.dataDir, 'dids.txt');
    writeFileSync(file, [1, 2, 3, 4, 5, 6].map(didOf).join('\n'));
    const { code, out } = await harness.run(['--dids', file]);
    expect(code).toBe(0);
    expect(await pairs()).toEqual([`${didOf(1)} ${POST}`, `${didOf(3)} ${LIKE}`].sort());
    // Deactivated by its PDS; tombstoned in the directory; unknown to the PDS that its document names.
    expect(await withIndex((index) => index.hidden())).toEqual(
      new Map([
        [didOf(2), 'deactivated'],
        [didOf(4), 'deleted'],
        [didOf(6), 'deleted'],
      ]),
    );
    expect(out).toContain('did_not_found 1');
    expect(two.requests.length).toBe(1);
    const again = await harness.run(['--did', didOf(1)]);
    expect(again.code).toBe(0);
    expect(again.out).toContain('already known  1');
  });
});

describe('a verification', () => {
  const fill = () =>
    withIndex(async (index) => {
      await index.add([
        { did: didOf(1), collections: [POST, LIKE] },
        { did: didOf(2), collections: [POST] },
        { did: didOf(3), collections: [POST] },
        { did: didOf(5), collections: [LIKE] },
      ]);
    });

  test('of all finds ghosts and gaps, and mends them', async () => {
    await fill();
    pds([repo(1, [POST]), repo(2, [POST, LIKE]), repo(3, [POST], 'suspended'), repo(5, [LIKE])]);
    const { code, out } = await harness.run(['--verify', '--all']);
    expect(code).toBe(0);
    expect(out).toContain('ghosts         1 taken out; 1 accounts hidden');
    expect(out).toContain('new            1');
    expect(await pairs()).toEqual(
      [
        `${didOf(1)} ${POST}`,
        `${didOf(2)} ${POST}`,
        `${didOf(2)} ${LIKE}`,
        `${didOf(3)} ${POST}`,
        `${didOf(5)} ${LIKE}`,
      ].sort(),
    );
    expect(await withIndex((index) => index.hidden())).toEqual(new Map([[didOf(3), 'suspended']]));
  });

  test('of a sample of one collection asks just so many', async () => {
    await fill();
    const host = pds([repo(1, [POST, LIKE]), repo(2, [POST]), repo(3, [POST]), repo(5, [LIKE])]);
    const { code, out } = await harness.run(['--verify', POST, '--sample', '2']);
    expect(code).toBe(0);
    expect(out).toContain('2 repos asked');
    const asked = host.requests.map(({ query }) => query.get('repo'));
    expect(asked.length).toBe(2);
    expect(asked).not.toContain(didOf(5));
  });

  test('leaves alone what an event has changed in between, and what cannot be asked', async () => {
    await fill();
    pds([repo(1, [POST]), repo(2, [POST])]);
    places.set(didOf(3), 'http://localhost:1');
    places.set(didOf(5), 'http://localhost:1');
    const { code, out } = await harness.run(['--verify', '--all']);
    expect(code).toBe(0);
    expect(out).toContain('unreachable 2');
    expect((await pairs()).length).toBe(4);
  });
});
