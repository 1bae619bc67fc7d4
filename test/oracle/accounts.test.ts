/** The lives of accounts: they move, change keys, leave and come back, are shut out by mistake, and are too many. */
import { afterAll, expect, setDefaultTimeout, test } from 'bun:test';
import type { Account } from '../../simulator/account.ts';
import { createConsumer } from '../../simulator/consumer.ts';
import type { LedgerEntry } from '../../simulator/ledger.ts';
import {
  allConnected,
  eventually,
  readAll,
  refusedOf,
  removeDirectories,
  settle,
  startNetwork,
  startWeir,
} from './harness.ts';
import { judge, judgeRefused } from './judge.ts';
import { type Sent, watch } from './witness.ts';

setDefaultTimeout(60_000);
afterAll(removeDirectories);

// Threads that each know of keys and hosts what they have asked for, and one that knows all.
for (const workers of ['0', '2'])
  test(`accounts that move, change keys and handles, leave, come back and are deleted are followed as the ledger says, with ${workers} ingest workers`, async () => {
    const network = await startNetwork({ hosts: 3, accounts: 30 });
    const witness = watch(network);
    const weir = await startWeir(network, { RELAY_INGEST_WORKERS: workers });
    try {
      await allConnected(weir, network);
      const [first, second, third] = network.hosts;
      const mover = first!.accounts[1]!;
      const rotating = first!.accounts[2]!;
      const leaving = second!.accounts[1]!;
      const deleted = second!.accounts[2]!;
      const gone = third!.accounts[1]!;
      for (const account of network.accounts) network.commit(account);
      await settle(weir, network, null);

      network.migrate(mover, second!.index);
      await settle(weir, network, null);
      for (let i = 0; i < 3; i++) network.commit(mover);
      // Its old host goes on speaking in its name, and in others'.
      for (let i = 0; i < 60; i++) {
        network.inject('account-of-another-host', first!.accounts[0]!);
        network.inject('status-of-another-host', first!.accounts[0]!);
      }
      for (const kind of ['commit', 'account'])
        expect(
          witness
            .sent()
            .some(
              ({ entry }) =>
                entry.kind === kind &&
                entry.did === mover.did &&
                entry.host === first!.hostname &&
                entry.fault?.endsWith('of-another-host'),
            ),
        ).toBe(true);
      await settle(weir, network, null);
      network.migrate(mover, first!.index);
      network.commit(mover);
      await settle(weir, network, null);

      network.rotateKey(rotating);
      for (let i = 0; i < 3; i++) network.commit(rotating);
      network.inject('signature-wrong-key', rotating);
      network.changeHandle(rotating, 'another-name.test');
      network.inject('handle-of-another', rotating);

      network.inject('commit-while-inactive', leaving);
      network.setStatus(leaving, 'active');
      network.commit(leaving);
      network.setStatus(leaving, 'suspended');
      network.setStatus(leaving, 'takendown');

      network.deleteAccount(deleted);
      network.deleteAccount(gone, { tombstone: true });
      await settle(weir, network, null);

      const consumer = await readAll(weir);
      const sent = witness.sent();
      const judgement = judge(sent, consumer.seen);
      await consumer.close();
      expect(judgement.faults.slice(0, 10)).toEqual([]);
      expect(judgeRefused(sent, judgement, await refusedOf(weir, network), true)).toEqual([]);

      const status = (account: Account) =>
        weir.json(`/xrpc/com.atproto.sync.getRepoStatus?did=${account.did}`);
      await eventually(async () => ((await status(gone)).active === false ? null : 'not stored yet'));
      expect(await status(mover)).toEqual({ did: mover.did, active: true, rev: mover.rev });
      expect(await status(rotating)).toEqual({ did: rotating.did, active: true, rev: rotating.rev });
      expect(await status(leaving)).toMatchObject({ active: false, status: 'takendown' });
      expect(await status(deleted)).toMatchObject({ active: false, status: 'deleted' });
      expect(await status(gone)).toMatchObject({ active: false, status: 'deleted' });
      for (const { hostname, accounts } of network.hosts) {
        const alive = accounts.filter((account) => account.status !== 'deleted').length;
        expect((await weir.host(hostname)).accountCount).toBe(alive);
      }
    } finally {
      await weir.stop();
      await network.stop();
    }
  });

test('an account whose reactivation was lost is healed by asking its host, and consumers are told', async () => {
  const network = await startNetwork({ hosts: 2, accounts: 10 });
  const witness = watch(network);
  const weir = await startWeir(network);
  try {
    await allConnected(weir, network);
    const account = network.hosts[0]!.accounts[0]!;
    network.commit(account);
    network.setStatus(account, 'deactivated');
    await settle(weir, network, null);
    const live = createConsumer({ url: weir.url });
    await live.opened;

    // The host never says so.
    account.status = 'active';
    const lost = network.commit(account);
    await live.until(() => live.seen.some(({ type, did }) => type === '#account' && did === account.did));
    const told = live.seen.find(({ type }) => type === '#account')!;
    expect(told.body.active).toBe(true);
    expect(told.body.status).toBeUndefined();
    for (let i = 0; i < 5; i++) network.commit(account);
    await settle(weir, network, live);

    const consumer = await readAll(weir);
    // What was refused until then is missing; nothing after it.
    const own = consumer.seen.filter(({ seq }) => seq === told.seq);
    expect(own).toHaveLength(1);
    const others = consumer.seen.filter(({ seq }) => seq !== told.seq);
    const judgement = judge(witness.sent(), others, { mayMiss: ({ entry }: Sent) => entry.n === lost.n });
    expect(judgement.faults).toEqual([]);
    expect(judgement.missed).toBe(1);
    expect(
      (await weir.host(account.hostIndex === 0 ? network.hosts[0]!.hostname : '')).rejectionsSinceStart,
    ).toEqual({
      account_inactive: 1,
    });
    await consumer.close();
    await live.close();
  } finally {
    await weir.stop();
    await network.stop();
  }
});

test('beyond its limit accounts of a host that came by requestCrawl wait; room lets them in, and consumers are told', async () => {
  const network = await startNetwork({ hosts: 2, accounts: 12, hostZipfExponent: 0 });
  const witness = watch(network);
  const weir = await startWeir(network, {
    RELAY_HOSTS: '',
    RELAY_TRUSTED_DOMAINS: '',
    RELAY_HOST_ACCOUNT_LIMIT: '3',
  });
  const post = (path: string, body: unknown, headers: Record<string, string> = {}) =>
    fetch(`${weir.url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    });
  try {
    for (const { hostname } of network.hosts)
      expect((await post('/xrpc/com.atproto.sync.requestCrawl', { hostname })).status).toBe(200);
    await allConnected(weir, network);
    const [host] = network.hosts;
    const [a, b, c, d, e] = host!.accounts;
    const let_in: LedgerEntry[] = [];
    const kept_out: LedgerEntry[] = [];
    for (const account of [a!, b!, c!]) let_in.push(network.commit(account));
    await settle(weir, network, null);
    for (const account of [d!, e!, d!]) kept_out.push(network.commit(account));
    for (const account of [a!, b!, c!]) let_in.push(network.commit(account));
    await settle(weir, network, null);
    const page = await weir.host(host!.hostname);
    expect(page).toMatchObject({ accountCount: 3, accountLimit: 3, status: 'throttled' });
    expect(page.rejectionsSinceStart).toEqual({ account_limit: 3 });

    // One leaves for good, another comes in with its next event.
    network.deleteAccount(a!);
    await settle(weir, network, null);
    let_in.push(network.commit(d!));
    await settle(weir, network, null);
    kept_out.push(network.commit(e!));
    await settle(weir, network, null);

    // A host that the operator names himself is not limited like one that came by itself.
    const answer = await post(
      '/admin/pds/requestCrawl',
      { hostname: host!.hostname },
      { authorization: `Basic ${btoa('admin:oracle-password')}` },
    );
    expect(answer.status).toBe(200);
    let_in.push(network.commit(e!));
    for (const account of host!.accounts.slice(5)) let_in.push(network.commit(account));
    await settle(weir, network, null);

    const consumer = await readAll(weir);
    const own = consumer.seen.filter(
      ({ type, did }) => type === '#account' && (did === d!.did || did === e!.did),
    );
    expect(own.map(({ did, body }) => [did, body.active])).toEqual([
      [d!.did, true],
      [e!.did, true],
    ]);
    const kept = new Set(kept_out.map(({ n }) => n));
    const judgement = judge(
      witness.sent(),
      consumer.seen.filter((seen) => !own.includes(seen)),
      { mayMiss: ({ entry }) => kept.has(entry.n) },
    );
    expect(judgement.faults).toEqual([]);
    expect(judgement.missed).toBe(kept_out.length);
    for (const { rev, did } of let_in)
      expect(consumer.seen.some((seen) => seen.rev === rev && seen.did === did)).toBe(true);
    await consumer.close();
  } finally {
    await weir.stop();
    await network.stop();
  }
});

test('accounts whose DID is the name of a web server are followed like others, through key changes, moves and their end', async () => {
  const network = await startNetwork({ hosts: 3, accounts: 6 });
  const witness = watch(network);
  const weir = await startWeir(network);
  try {
    await allConnected(weir, network);
    const accounts = network.hosts.map((host) => network.createWebAccount(host.index));
    const [rotating, moving, leaving] = accounts as [Account, Account, Account];
    expect(accounts.map(({ did }) => did)).toEqual(
      network.hosts.map(({ port }) => `did:web:localhost%3A${port}`),
    );
    for (const account of accounts) for (let i = 0; i < 3; i++) network.commit(account);
    await settle(weir, network, null);

    network.rotateKey(rotating);
    for (let i = 0; i < 3; i++) network.commit(rotating);
    network.inject('signature-wrong-key', rotating);
    network.migrate(moving, 0);
    for (let i = 0; i < 3; i++) network.commit(moving);
    network.setStatus(leaving, 'deactivated');
    network.setStatus(leaving, 'active');
    network.commit(leaving);
    await settle(weir, network, null);
    network.deleteAccount(leaving);
    await settle(weir, network, null);

    const consumer = await readAll(weir);
    const sent = witness.sent();
    const judgement = judge(sent, consumer.seen);
    await consumer.close();
    expect(judgement.faults).toEqual([]);
    expect(judgeRefused(sent, judgement, await refusedOf(weir, network), true)).toEqual([]);
    const status = ({ did }: Account) =>
      weir.json(`/xrpc/com.atproto.sync.getRepoStatus?did=${encodeURIComponent(did)}`);
    for (const account of [rotating, moving])
      expect(await status(account)).toEqual({ did: account.did, active: true, rev: account.rev });
    expect(await status(leaving)).toMatchObject({ active: false, status: 'deleted' });
  } finally {
    await weir.stop();
    await network.stop();
  }
});
