/** Killed at any moment, the relay loses nothing and gives nothing twice. */
import { afterAll, expect, setDefaultTimeout, test } from 'bun:test';
import { createChild } from './child.ts';
import { follow } from './follower.ts';
import {
  allConnected,
  dataDirectory,
  eventually,
  readAll,
  removeDirectories,
  settle,
  startNetwork,
} from './harness.ts';
import { judge } from './judge.ts';
import { watch } from './witness.ts';

setDefaultTimeout(120_000);
afterAll(removeDirectories);

const KILLS = 6;

test('killed with SIGKILL again and again amid traffic, with events waiting for a slow directory, it loses nothing and gives nothing twice', async () => {
  const network = await startNetwork({
    hosts: 4,
    accounts: 150,
    mix: {
      sync: 0.03,
      identity: 0.06,
      account: 0.06,
      handle: 0.02,
      status: 0.03,
      newAccount: 0.03,
      migration: 0,
      rotation: 0,
    },
  });
  const witness = watch(network);
  const weir = await createChild(network, await dataDirectory(), {
    RELAY_INGEST_WORKERS: process.env.WEIR_ORACLE_WORKERS ?? '1',
  });
  await weir.start();
  const follower = follow(weir.url);
  let late: ReturnType<typeof follow> | null = null;
  try {
    await allConnected(weir, network);
    // Each host has a cursor that is stored: before its first event it is followed from its present end only.
    await settle(weir, network, null);
    await Bun.sleep(1_200);
    network.directoryFaults.delayMs = 700;
    network.setFault('plc-delay', 0.4);
    network.setFault('plc-error', 0.05);
    for (const group of ['frames', 'commits', 'oddities', 'seqs']) network.setFault(group, 0.003);
    network.setFault('error-frame', 0);
    network.ratePerSecond = 150;
    for (let kill = 1; kill <= KILLS; kill++) {
      await Bun.sleep(300 + Math.random() * 1_200);
      if (kill === 2) expect(await weir.stop()).toBe(0);
      else await weir.kill();
      if (kill === 3) {
        // Again while it is starting.
        weir.spawn();
        await Bun.sleep(200 + Math.random() * 1_500);
        await weir.kill();
      }
      await weir.start();
      late ??= follow(weir.url, follower.lastSeq);
    }
    await Bun.sleep(500);
    for (const group of ['frames', 'commits', 'oddities', 'seqs', 'plc']) network.setFault(group, 0);
    await settle(weir, network, null, 60_000);
    const cold = await readAll(weir);
    const sent = witness.sent();
    const judgement = judge(sent, cold.seen, { comesAgain: true });
    expect(judgement.faults.slice(0, 20)).toEqual([]);
    expect(judgement.delivered).toBeGreaterThan(500);
    const seqs = cold.seen.map(({ seq }) => seq);
    for (const one of [follower, late!]) {
      // Live ones get the last events a tick after they are to be had.
      await eventually(async () =>
        one.lastSeq === seqs.at(-1) ? null : `at ${one.lastSeq} of ${seqs.at(-1)}`,
      );
      const from = one === follower ? 0 : seqs.indexOf(one.seen[0]!.seq);
      expect(one.seen.map(({ seq }) => seq)).toEqual(seqs.slice(from));
      expect(one.seen.every(({ frame }, i) => Buffer.compare(frame, cold.seen[from + i]!.frame) === 0)).toBe(
        true,
      );
      expect(one.others).toEqual([]);
      expect(one.undecodable).toBe(0);
    }
    expect(follower.connections).toBeGreaterThan(KILLS);
    for (const { hostname } of network.hosts) expect((await weir.host(hostname)).gaps).toEqual([]);
    await cold.close();

    // What is held of each account is what the events add up to.
    const held = new Map<string, { rev: string | null; active: boolean }>();
    for (const { type, did, rev, body } of cold.seen) {
      const account = held.get(did!) ?? { rev: null, active: true };
      held.set(did!, account);
      if (rev !== null) account.rev = rev;
      if (type === '#account') account.active = body.active === true;
    }
    expect(held.size).toBeGreaterThan(50);
    const counts = new Map(network.hosts.map(({ hostname }) => [hostname, 0]));
    for (const [did, { rev, active }] of held) {
      expect(await weir.json(`/accounts/${did}?format=json`)).toMatchObject({ did, rev, active });
      const { hostname } = network.hosts[network.find(did)!.hostIndex]!;
      counts.set(hostname, counts.get(hostname)! + 1);
    }
    for (const [hostname, count] of counts) expect((await weir.host(hostname)).accountCount).toBe(count);
    expect(await weir.stop()).toBe(0);
  } finally {
    await follower.stop();
    await late?.stop();
    await weir.kill();
    await network.stop();
  }
});

test('killed at the first events of its hosts, before any cursor is stored, it has those that waited, too', async () => {
  const network = await startNetwork({ hosts: 3, accounts: 30 });
  const witness = watch(network);
  const weir = await createChild(network, await dataDirectory());
  await weir.start();
  const follower = follow(weir.url);
  try {
    await allConnected(weir, network);
    // The first of each host waits, the second does not.
    network.setFault('plc-stall', 1);
    const waiting = network.hosts.map(({ accounts }) => network.commit(accounts[0]!));
    await eventually(async () =>
      [...network.ledger.counts.byFault].some(([fault, count]) => fault === 'plc-stall' && count === 3)
        ? null
        : 'the directory is not asked',
    );
    network.directoryFaults.stall = 0;
    const passing = network.hosts.map(({ accounts }) => network.commit(accounts[1]!));
    await eventually(() =>
      passing.every(({ rev }) => follower.seen.some((seen) => seen.rev === rev)) ? null : 'not seen',
    );
    expect(follower.seen.some(({ did }) => waiting.some((entry) => entry.did === did))).toBe(false);
    await weir.kill();
    await weir.start();
    await settle(weir, network, null);
    const cold = await readAll(weir);
    expect(judge(witness.sent(), cold.seen).faults).toEqual([]);
    expect(follower.seen.map(({ seq }) => seq)).toEqual(cold.seen.map(({ seq }) => seq));
    await cold.close();
  } finally {
    await follower.stop();
    await weir.kill();
    await network.stop();
  }
});
