/** Hosts that go away, forget or start over: they come back by themselves, and what is lost for good is on record. */
import { afterAll, expect, setDefaultTimeout, test } from 'bun:test';
import { startEmbeddedPostgres } from '../../src/state/embedded.ts';
import { openState } from '../../src/state/state.ts';
import {
  allConnected,
  dataDirectory,
  eventually,
  readAll,
  removeDirectories,
  settle,
  startNetwork,
  startWeir,
} from './harness.ts';
import { judge } from './judge.ts';
import { type Sent, watch } from './witness.ts';

setDefaultTimeout(90_000);
afterAll(removeDirectories);

test('hosts that close, refuse, lose their window or start their seqs over are followed again, with every loss on record', async () => {
  const network = await startNetwork({ hosts: 5, accounts: 30 });
  const witness = watch(network);
  const dataDir = await dataDirectory();
  let weir = await startWeir(network, {}, dataDir);
  try {
    await allConnected(weir, network);
    const [closing, refusing, forgetful, anew, steady] = network.hosts;
    for (const host of network.hosts) for (let i = 0; i < 3; i++) network.commit(host.accounts[0]!);
    await settle(weir, network, null);
    const before = await weir.host(forgetful!.hostname);
    const cursorBefore = before.cursor;
    expect(cursorBefore).toBe(forgetful!.stream.lastSeq);

    await network.closeHost(closing!.index);
    network.refuseHost(refusing!.index, true);
    network.dropConnections(refusing!.index);
    await network.closeHost(forgetful!.index);
    // What happens while they are away is in their windows, unless they lose them.
    for (const host of [closing!, refusing!]) for (let i = 0; i < 20; i++) network.commit(host.accounts[0]!);
    for (let i = 0; i < 20; i++) network.commit(forgetful!.accounts[0]!);
    const lostSeq = forgetful!.stream.lastSeq;
    network.loseWindow(forgetful!.index);
    for (let i = 0; i < 5; i++) network.commit(forgetful!.accounts[0]!);
    const cursorOfAnew = (await weir.host(anew!.hostname)).cursor;
    network.resetSeq(anew!.index);
    network.dropConnections(anew!.index);

    await eventually(async () => {
      const page = await weir.host(refusing!.hostname);
      return page.lastClose.includes('503') ? null : page.lastClose;
    });
    await eventually(async () => {
      const page = await weir.host(closing!.hostname);
      return page.lastClose.startsWith('unreachable') ? null : page.lastClose;
    });
    for (const { hostname } of [closing!, refusing!]) {
      const page = await weir.host(hostname);
      expect(page.connected).toBe(false);
      expect(page.status).toBe('offline');
    }
    // The others go on meanwhile.
    network.commit(steady!.accounts[0]!);
    await eventually(async () =>
      (await weir.host(steady!.hostname)).cursor === steady!.stream.lastSeq ? null : 'the steady host waits',
    );

    network.reopenHost(closing!.index);
    network.reopenHost(forgetful!.index);
    network.refuseHost(refusing!.index, false);
    await allConnected(weir, network, 40_000);
    for (const host of network.hosts) for (let i = 0; i < 5; i++) network.commit(host.accounts[0]!);
    await settle(weir, network, null, 40_000);

    const cold = await readAll(weir);
    const lost = ({ entry }: Sent) =>
      entry.host === forgetful!.hostname && entry.seq! > cursorBefore && entry.seq! <= lostSeq;
    const judgement = judge(witness.sent(), cold.seen, { mayMiss: lost });
    await cold.close();
    expect(judgement.faults.slice(0, 10)).toEqual([]);
    expect(judgement.missed).toBe(20);

    // Gaps are stored with the next flush.
    await eventually(async () => {
      const { gaps } = await weir.host(forgetful!.hostname);
      return gaps.length === 1 ? null : `${gaps.length} gaps`;
    });
    const [gap] = (await weir.host(forgetful!.hostname)).gaps;
    expect(gap!.fromSeq).toBe(cursorBefore + 1);
    expect(gap!.why).toStartWith('outdated_cursor');
    const [startedOver] = (await weir.host(anew!.hostname)).gaps;
    expect(startedOver!.fromSeq).toBe(cursorOfAnew + 1);
    expect(startedOver!.why).toStartWith('future_cursor');
    for (const { hostname } of [closing!, refusing!, steady!])
      expect((await weir.host(hostname)).gaps).toEqual([]);

    // All of that survives a restart.
    const cursors = new Map<string, number>();
    for (const { hostname } of network.hosts) cursors.set(hostname, (await weir.host(hostname)).cursor);
    expect(cursors.get(anew!.hostname)).toBe(anew!.stream.lastSeq);
    await weir.stop();
    for (const host of network.hosts) network.commit(host.accounts[0]!);
    weir = await startWeir(network, {}, dataDir);
    await settle(weir, network, null, 40_000);
    const again = await readAll(weir);
    const whole = judge(witness.sent(), again.seen, { mayMiss: lost });
    await again.close();
    expect(whole.faults.slice(0, 10)).toEqual([]);
    expect(whole.missed).toBe(20);
    expect((await weir.host(forgetful!.hostname)).gaps).toEqual([gap!]);
  } finally {
    await weir.stop();
    await network.stop();
  }
});

test('a host that sent nothing while it was followed loses nothing of what it sends while weir is away', async () => {
  const network = await startNetwork({ hosts: 2, accounts: 10 });
  const witness = watch(network);
  const dataDir = await dataDirectory();
  let weir = await startWeir(network, {}, dataDir);
  try {
    await allConnected(weir, network);
    await weir.stop();
    // As if the connections had lasted: here nobody waits for two minutes.
    const embedded = await startEmbeddedPostgres({ dataDir });
    const state = await openState({ database: embedded.database });
    const rows = await state.loadHosts();
    expect(rows.map(({ cursor, connectedUntilMs }) => [cursor, connectedUntilMs])).toEqual(
      rows.map(() => [0, null]),
    );
    await state.flush({
      position: 0,
      accounts: [],
      hosts: rows.map((row) => ({ ...row, connectedUntilMs: Date.now() })),
      rejections: [],
      gaps: [],
    });
    await state.close();
    await embedded.stop();
    for (const { accounts } of network.hosts) for (const account of accounts) network.commit(account);
    weir = await startWeir(network, {}, dataDir);
    await allConnected(weir, network);
    await settle(weir, network, null);
    const cold = await readAll(weir);
    const judgement = judge(witness.sent(), cold.seen);
    await cold.close();
    expect(judgement.faults).toEqual([]);
    expect(judgement.delivered).toBeGreaterThanOrEqual(10);
    for (const { hostname } of network.hosts) expect((await weir.host(hostname)).gaps).toEqual([]);
  } finally {
    await weir.stop();
    await network.stop();
  }
});
