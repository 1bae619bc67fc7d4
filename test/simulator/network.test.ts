import { afterEach, expect, test } from 'bun:test';
import { getDidKeyFromMultibase, getHandle, getPds } from '@atproto/identity';
import { BlockMap, readCarWithRoot, verifyRepoCar } from '@atproto/repo';
import { encode as referenceEncode } from '@ipld/dag-cbor';
import { CID } from 'multiformats/cid';
import { keyOf } from '../../simulator/account.ts';
import { encode, Link, sha256 } from '../../simulator/cbor.ts';
import { type Consumer, createConsumer, decodeFrame } from '../../simulator/consumer.ts';
import { createNetwork, type Network, type NetworkOptions } from '../../simulator/network.ts';
import { cidText } from '../../simulator/records.ts';
import { STEADY_MIX } from '../../simulator/traffic.ts';
import { didKeyOf, judgeCommit } from './judge.ts';

const NOW_MS = Date.UTC(2026, 10, 1);
const SEED = 7;

/** Any JSON: the tests say what they expect of it. */
// biome-ignore lint/suspicious/noExplicitAny: what a server answered has no type
const json = async (url: string): Promise<any> => (await fetch(url)).json();

const networks: Network[] = [];
const consumers: Consumer[] = [];

const build = async (options: Partial<NetworkOptions> = {}): Promise<Network> => {
  const network = await createNetwork({ hosts: 2, accounts: 20, seed: SEED, largeRepoShare: 0, ...options });
  networks.push(network);
  return network;
};

const follow = async (network: Network, hostIndex: number, cursor?: number): Promise<Consumer> => {
  const consumer = createConsumer({ url: `http://${network.hosts[hostIndex]!.hostname}`, cursor });
  consumers.push(consumer);
  await consumer.opened;
  return consumer;
};

/** Resolves when the host counts a subscriber: from then on live events reach it. */
const subscribed = async (network: Network, hostIndex: number): Promise<void> => {
  while (network.hosts[hostIndex]!.stream.subscribers.size === 0) await Bun.sleep(1);
};

const framesOf = (network: Network, hostIndex: number): Uint8Array[] => {
  const { store } = network.hosts[hostIndex]!.stream;
  const frames: Uint8Array[] = [];
  for (let i = store.first; i < store.end; i++) frames.push(store.frameAt(i) as Uint8Array);
  return frames;
};

afterEach(async () => {
  for (const consumer of consumers.splice(0)) await consumer.close();
  for (const network of networks.splice(0)) await network.stop();
});

test('the writer agrees with @ipld/dag-cbor byte for byte', () => {
  const link = new Link(sha256(new Uint8Array(3)));
  const common = {
    zeta: [0, 23, 24, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER, -1, -500],
    b: { text: 'schön 日本語 🧵', yes: true, no: false, none: null, half: 0.5, bytes: new Uint8Array(300) },
    aa: 'x'.repeat(300),
  };
  const ours = encode({ ...common, link });
  const theirs = referenceEncode({ ...common, link: CID.parse(cidText(link.digest)) });
  expect(Buffer.from(ours).toString('hex')).toBe(Buffer.from(theirs).toString('hex'));
});

test('the same seed and clock give the same bytes on every host', async () => {
  const runs: string[] = [];
  for (let run = 0; run < 2; run++) {
    const network = await build({ hosts: 3, accounts: 40, clock: () => NOW_MS });
    network.generate(400);
    runs.push(
      network.hosts
        .map((host) => Bun.SHA256.hash(Buffer.concat(framesOf(network, host.index)), 'hex'))
        .join(),
    );
  }
  expect(runs[0]).toBe(runs[1]!);
  const other = await build({ hosts: 3, accounts: 40, clock: () => NOW_MS, seed: SEED + 1 });
  expect(other.accounts[0]!.did).not.toBe(networks[0]!.accounts[0]!.did);
});

test('every commit of the traffic is verified and undone by @atproto/repo and @atproto/crypto', async () => {
  const network = await build({ hosts: 1, accounts: 12, clock: () => NOW_MS });
  network.generate(250);
  let commits = 0;
  const actions = new Set<string>();
  for (const frame of framesOf(network, 0)) {
    const { type, body, did } = decodeFrame(frame);
    if (type !== '#commit') continue;
    commits++;
    const account = network.find(did!)!;
    // Rotated keys are gone from the account; commits before the rotation are left to the other accounts.
    if (account.keyGeneration > 0) continue;
    for (const { action } of body.ops as { action: string }[]) actions.add(action);
    expect(await judgeCommit(body, keyOf(account, SEED))).toBeNull();
  }
  expect(commits).toBeGreaterThan(200);
  expect([...actions].sort()).toEqual(['create', 'delete', 'update']);
}, 20_000);

test('both key types sign what @atproto/crypto accepts, and documents are read by @atproto/identity in both forms', async () => {
  const network = await build({ accounts: 40, p256Share: 0.5, legacyDocumentShare: 0.5 });
  await network.start();
  const forms = new Set<string>();
  for (const account of network.accounts) {
    const document = await json(`${network.plcUrl}/${account.did}`);
    const method = document.verificationMethod[0];
    forms.add(`${account.keyType} ${method.type}`);
    expect(getDidKeyFromMultibase({ type: method.type, publicKeyMultibase: method.publicKeyMultibase })).toBe(
      didKeyOf(keyOf(account, SEED)),
    );
    expect(getHandle(document)).toBe(account.handle);
    expect(getPds(document)).toBe(`http://${network.hosts[account.hostIndex]!.hostname}`);
  }
  expect(forms.size).toBe(4);
});

test('getRepo gives a repo that @atproto/repo verifies, at the head that getLatestCommit names', async () => {
  const network = await build();
  await network.start();
  network.generate(60);
  for (const account of network.accounts.slice(0, 6)) {
    const base = `http://${network.hosts[account.hostIndex]!.hostname}/xrpc`;
    const query = `?did=${account.did}`;
    const latest = await json(`${base}/com.atproto.sync.getLatestCommit${query}`);
    const car = await (await fetch(`${base}/com.atproto.sync.getRepo${query}`)).bytes();
    const { root, blocks } = await readCarWithRoot(car);
    expect(String(root)).toBe(latest.cid);
    expect(blocks).toBeInstanceOf(BlockMap);
    await verifyRepoCar(car, account.did, didKeyOf(keyOf(account, SEED)));
    const status = await json(`${base}/com.atproto.sync.getRepoStatus${query}`);
    expect(status).toEqual({ did: account.did, active: true, rev: latest.rev });
  }
});

test('listRepos and listHosts page through everything', async () => {
  const network = await build({ hosts: 5, accounts: 30 });
  await network.start();
  const pages = async (url: string, name: string): Promise<Record<string, unknown>[]> => {
    const all: Record<string, unknown>[] = [];
    let cursor: string | undefined;
    do {
      const page = await json(`${url}?limit=2${cursor === undefined ? '' : `&cursor=${cursor}`}`);
      all.push(...page[name]);
      cursor = page.cursor;
    } while (cursor !== undefined);
    return all;
  };
  const hosts = await pages(`${network.plcUrl}/xrpc/com.atproto.sync.listHosts`, 'hosts');
  expect(hosts.map(({ hostname }) => hostname)).toEqual(network.hosts.map(({ hostname }) => hostname));
  const dids: unknown[] = [];
  for (const { hostname } of hosts) {
    const repos = await pages(`http://${hostname}/xrpc/com.atproto.sync.listRepos`, 'repos');
    dids.push(...repos.map(({ did }) => did));
  }
  expect(dids.sort()).toEqual(network.accounts.map(({ did }) => did).sort());
});

test('the directory answers 404 for strangers and 410 for tombstones', async () => {
  const network = await build();
  await network.start();
  const account = network.accounts[0]!;
  const status = async (did: string) => (await fetch(`${network.plcUrl}/${did}`)).status;
  expect(await status('did:plc:aaaaaaaaaaaaaaaaaaaaaaaa')).toBe(404);
  expect(await status(account.did)).toBe(200);
  network.deleteAccount(account, { tombstone: true });
  expect(await status(account.did)).toBe(410);
});

test('a subscriber without a cursor is live, and one with a cursor gets exactly what is after it', async () => {
  const network = await build({ hosts: 1 });
  await network.start();
  network.generate(50);
  const { stream } = network.hosts[0]!;
  const live = await follow(network, 0);
  await subscribed(network, 0);
  const before = stream.lastSeq;
  network.generate(20);
  await live.until(() => live.lastSeq === stream.lastSeq);
  expect(live.seen[0]!.seq).toBe(before + 1);
  for (const cursor of [0, before, before - 10, stream.lastSeq]) {
    const resumed = await follow(network, 0, cursor);
    network.generate(1);
    await resumed.until(() => resumed.lastSeq === stream.lastSeq);
    const seqs = resumed.seen.map(({ seq }) => seq!);
    const first = cursor === 0 ? stream.lastSeq - framesOf(network, 0).length + 1 : cursor + 1;
    expect(seqs).toEqual(Array.from({ length: stream.lastSeq - first + 1 }, (_, i) => first + i));
  }
});

test('a cursor older than the window is told so, and one in the future is refused', async () => {
  const network = await build({ hosts: 1, windowEvents: 10 });
  await network.start();
  network.generate(40);
  const { stream } = network.hosts[0]!;
  const old = await follow(network, 0, stream.lastSeq - 30);
  await old.until(() => old.lastSeq === stream.lastSeq);
  expect(old.seen[0]!.type).toBe('#info');
  expect(old.seen[0]!.body.name).toBe('OutdatedCursor');
  expect(old.seen.length).toBe(11);
  const edge = await follow(network, 0, stream.lastSeq - 10);
  await edge.until(() => edge.lastSeq === stream.lastSeq);
  expect(edge.seen.length).toBe(10);
  const future = await follow(network, 0, stream.lastSeq + 1);
  expect(await future.closed).toEqual({ code: 1008, reason: 'FutureCursor' });
  expect(future.seen[0]!.body.error).toBe('FutureCursor');
});

test('a subscriber that stops reading gets everything once it reads again', async () => {
  const network = await build({ hosts: 1, mix: STEADY_MIX, accounts: 40 });
  await network.start();
  const slow = await follow(network, 0);
  await subscribed(network, 0);
  slow.pause();
  for (let i = 0; i < 30; i++) {
    network.generate(200);
    await Bun.sleep(1);
  }
  expect(network.counters.backpressure).toBeGreaterThan(0);
  expect(slow.counters.frames).toBeLessThan(6000);
  slow.resume();
  await slow.until(() => slow.lastSeq === network.hosts[0]!.stream.lastSeq, 20_000);
  expect(slow.seen.length).toBe(6000);
}, 30_000);

test('the window forgets the oldest events of all hosts when bytes run out', async () => {
  const network = await build({ hosts: 3, accounts: 30, windowMaxBytes: 200_000, windowEvents: 60 });
  network.generate(400);
  let bytes = 0;
  for (const host of network.hosts) for (const frame of framesOf(network, host.index)) bytes += frame.length;
  expect(network.counters.windowBytes).toBe(bytes);
  expect(bytes).toBeLessThanOrEqual(200_000);
  expect(bytes).toBeGreaterThan(150_000);
});

test('a migration moves the account in the directory and is announced by both hosts', async () => {
  const network = await build();
  await network.start();
  const account = network.accounts[0]!;
  network.commit(account);
  network.migrate(account, 1);
  network.commit(account);
  const kinds = network.ledger.entries().map(({ host, kind, expectation }) => [host, kind, expectation]);
  const from = network.hosts[0]!.hostname;
  const to = network.hosts[1]!.hostname;
  expect(kinds).toEqual([
    [from, 'commit', 'deliver'],
    [to, 'identity', 'deliver'],
    [to, 'account', 'deliver'],
    [to, 'sync', 'deliver'],
    [from, 'account', 'wrong_host'],
    [to, 'commit', 'deliver'],
  ]);
  const document = await json(`${network.plcUrl}/${account.did}`);
  expect(getPds(document)).toBe(`http://${to}`);
  const [left] = framesOf(network, 0).slice(-1);
  expect(decodeFrame(left!).body).toMatchObject({ active: false, status: 'deactivated' });
  expect(await json(`http://${from}/xrpc/com.atproto.sync.getRepoStatus?did=${account.did}`)).toEqual({
    did: account.did,
    active: false,
    status: 'deactivated',
  });
});

test('statuses, handles, keys and new accounts show in frames, directory and host alike', async () => {
  const network = await build({ hosts: 1 });
  await network.start();
  const account = network.accounts[3]!;
  const document = () => json(`${network.plcUrl}/${account.did}`);
  network.changeHandle(account, 'renamed.test');
  expect(getHandle(await document())).toBe('renamed.test');
  const oldKey = (await document()).verificationMethod[0].publicKeyMultibase;
  network.rotateKey(account);
  expect((await document()).verificationMethod[0].publicKeyMultibase).not.toBe(oldKey);
  network.commit(account);
  const last = decodeFrame(framesOf(network, 0).at(-1)!);
  expect(await judgeCommit(last.body, keyOf(account, SEED))).toBeNull();
  network.setStatus(account, 'suspended');
  const base = `http://${network.hosts[0]!.hostname}/xrpc/com.atproto.sync`;
  expect(await json(`${base}.getRepoStatus?did=${account.did}`)).toEqual({
    did: account.did,
    active: false,
    status: 'suspended',
  });
  expect((await json(`${base}.getRepo?did=${account.did}`)).error).toBe('RepoSuspended');
  const created = network.createAccount(0);
  const types = framesOf(network, 0)
    .map(decodeFrame)
    .filter(({ did }) => did === created.did)
    .map(({ type }) => type);
  expect(types).toEqual(['#identity', '#account', '#commit', '#sync']);
  network.commit(created, [
    { action: 'create', path: 'com.example.thing/one', record: { $type: 'com.example.thing', n: 1 } },
  ]);
  expect(() => network.commit(created, [{ action: 'delete', path: 'com.example.thing/two' }])).toThrow();
  const car = await (await fetch(`${base}.getRepo?did=${created.did}`)).bytes();
  const { creates } = await verifyRepoCar(car, created.did, didKeyOf(keyOf(created, SEED)));
  expect(creates.map(({ collection, rkey }) => `${collection}/${rkey}`)).toEqual(['com.example.thing/one']);
});

test('hosts can drop, stall, refuse, close, lose their window and start their seqs over', async () => {
  const network = await build({ hosts: 1 });
  await network.start();
  const { stream } = network.hosts[0]!;
  network.generate(5);
  const stalled = await follow(network, 0);
  await subscribed(network, 0);
  network.stallHost(0, true);
  network.generate(5);
  await Bun.sleep(20);
  expect(stalled.counters.frames).toBe(0);
  network.stallHost(0, false);
  await stalled.until(() => stalled.lastSeq === stream.lastSeq);
  network.dropConnections(0);
  await stalled.closed;

  network.refuseHost(0, true);
  const refused = createConsumer({ url: `http://${network.hosts[0]!.hostname}` });
  expect(
    await refused.opened.then(
      () => 'open',
      () => 'refused',
    ),
  ).toBe('refused');
  network.refuseHost(0, false);

  await network.closeHost(0);
  const closed = createConsumer({ url: `http://${network.hosts[0]!.hostname}` });
  expect(
    await closed.opened.then(
      () => 'open',
      () => 'refused',
    ),
  ).toBe('refused');
  network.reopenHost(0);

  network.loseWindow(0);
  const late = await follow(network, 0, stream.lastSeq - 3);
  network.generate(2);
  await late.until(() => late.lastSeq === stream.lastSeq);
  expect(late.seen[0]!.body.name).toBe('OutdatedCursor');

  const cursor = stream.lastSeq;
  network.resetSeq(0);
  network.generate(1);
  const ahead = await follow(network, 0, cursor);
  await ahead.closed;
  expect(ahead.seen[0]!.body.error).toBe('FutureCursor');
});
