/** Who does not go on stops nobody else: consumers that do not read, and a directory that does not answer. */
import { afterAll, expect, setDefaultTimeout, test } from 'bun:test';
import { createConsumer } from '../../simulator/consumer.ts';
import {
  allConnected,
  eventually,
  readAll,
  removeDirectories,
  settle,
  startNetwork,
  startWeir,
} from './harness.ts';
import { judge } from './judge.ts';
import { watch } from './witness.ts';

setDefaultTimeout(60_000);
afterAll(removeDirectories);

const STEADY = {
  sync: 0,
  identity: 0,
  account: 0,
  handle: 0,
  status: 0,
  newAccount: 0,
  migration: 0,
  rotation: 0,
};

/** A commit with a record of about this size. */
const commitOf = (chars: number) => [
  {
    action: 'create' as const,
    path: `app.bsky.feed.post/${crypto.randomUUID()}`,
    record: { $type: 'app.bsky.feed.post', text: 'x'.repeat(chars), createdAt: '2026-11-21T00:00:00.000Z' },
  },
];

test('consumers that do not read, or slowly, hold up nobody, and get everything when they go on', async () => {
  const network = await startNetwork({ hosts: 2, accounts: 20, mix: STEADY });
  const witness = watch(network);
  const weir = await startWeir(network);
  try {
    await allConnected(weir, network);
    const live = createConsumer({ url: weir.url, cursor: 0 });
    const stalled = createConsumer({ url: weir.url, cursor: 0 });
    const slow = createConsumer({ url: weir.url, cursor: 0 });
    await Promise.all([live.opened, stalled.opened, slow.opened]);
    stalled.pause();
    slow.limit(25);
    // More than sockets and kernel hold for those who do not read.
    for (let i = 0; i < 300; i++) {
      network.commit(network.accounts[i % 20]!, commitOf(100_000));
      if (i % 10 === 9) await Bun.sleep(10);
    }
    await live.until(() => live.seen.length === 300, 20_000);
    expect(stalled.seen.length).toBeLessThan(300);
    expect(slow.seen.length).toBeLessThan(300);
    // Newcomers are served, too.
    const newcomer = createConsumer({ url: weir.url, cursor: live.seen[149]!.seq! });
    await newcomer.until(() => newcomer.seen.length === 150);
    stalled.resume();
    slow.limit(0);
    for (const consumer of [stalled, slow]) {
      await consumer.until(() => consumer.seen.length === 300, 20_000);
      expect(consumer.seen.map(({ seq }) => seq)).toEqual(live.seen.map(({ seq }) => seq));
    }
    expect(judge(witness.sent(), stalled.seen).faults).toEqual([]);
    for (const consumer of [live, stalled, slow, newcomer]) await consumer.close();
  } finally {
    await weir.stop();
    await network.stop();
  }
});

test('while the directory does not answer, known accounts go on, and what waits comes in order afterwards', async () => {
  const network = await startNetwork({ hosts: 3, accounts: 30, mix: STEADY });
  const witness = watch(network);
  const weir = await startWeir(network);
  try {
    await allConnected(weir, network);
    const known = network.hosts.map(({ accounts }) => accounts[0]!);
    for (const account of known) network.commit(account);
    await settle(weir, network, null);
    const live = createConsumer({ url: weir.url });
    await live.opened;
    network.setFault('plc-stall', 1);

    const [waitingHost, otherHost] = network.hosts;
    const unknown = waitingHost!.accounts.slice(1);
    const { cursor } = await weir.host(waitingHost!.hostname);
    const firstHeld = network.commit(unknown[0]!).seq!;
    // Of the same host, behind what waits: it passes.
    const passing = network.commit(known[0]!);
    await live.until(() => live.seen.some(({ rev }) => rev === passing.rev));
    // More than a host may have waiting.
    for (let i = 0; i < 800; i++) network.commit(unknown[i % unknown.length]!);
    await eventually(async () => {
      const { pausedFor } = await weir.host(waitingHost!.hostname);
      return pausedFor === 'pending_identities' ? null : `paused for ${pausedFor}`;
    });
    // Others do not notice.
    for (let i = 0; i < 50; i++) network.commit(known[1]!);
    const lastOfOther = network.commit(known[2]!);
    await live.until(() => live.seen.filter(({ did }) => did === known[1]!.did).length === 50);
    await live.until(() => live.seen.some(({ rev }) => rev === lastOfOther.rev));
    expect((await weir.host(otherHost!.hostname)).pausedFor).toBeNull();
    const page = await weir.host(waitingHost!.hostname);
    expect(page.cursor).toBeGreaterThanOrEqual(cursor);
    expect(page.cursor).toBeLessThan(firstHeld);
    expect(live.seen.some(({ did }) => unknown.some((account) => account.did === did))).toBe(false);

    network.setFault('plc-stall', 0);
    await settle(weir, network, live);
    expect((await weir.host(waitingHost!.hostname)).pausedFor).toBeNull();
    const cold = await readAll(weir);
    expect(judge(witness.sent(), cold.seen).faults.slice(0, 10)).toEqual([]);
    for (const { hostname } of network.hosts) {
      expect((await weir.host(hostname)).rejectionsSinceStart).toEqual({});
      expect((await weir.host(hostname)).gaps).toEqual([]);
    }
    await cold.close();
    await live.close();
  } finally {
    await weir.stop();
    await network.stop();
  }
});
