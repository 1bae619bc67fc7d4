/** Everything goes wrong at once, and the ledger knows what a right relay makes of it. */
import { afterAll, expect, setDefaultTimeout, test } from 'bun:test';
import { FAULT_GROUPS } from '../../simulator/faults.ts';
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
import { watch } from './witness.ts';

setDefaultTimeout(90_000);
afterAll(removeDirectories);

const TRAFFIC_MS = 5_000;

/** No migrations and key changes: with a directory that is late, the ledger cannot know which key was found. */
const MIX = {
  sync: 0.02,
  identity: 0.03,
  account: 0.03,
  handle: 0.01,
  status: 0.02,
  newAccount: 0.02,
  migration: 0,
  rotation: 0,
};

for (const workers of ['0', '1']) {
  test.concurrent(`with every fault of frames, commits, accounts, seqs and the directory, and ${workers} ingest workers, consumers get exactly what the ledger says`, async () => {
    const network = await startNetwork({ hosts: 5, accounts: 120, mix: MIX });
    const witness = watch(network);
    const weir = await startWeir(network, { RELAY_INGEST_WORKERS: workers });
    try {
      await allConnected(weir, network);
      const connectedSince = new Map<string, number | null>();
      for (const { hostname } of network.hosts)
        connectedSince.set(hostname, (await weir.host(hostname)).connectedSinceMs);
      network.directoryFaults.stallMs = 1_000;
      network.directoryFaults.delayMs = 200;
      for (const group of ['frames', 'commits', 'accounts', 'seqs', 'oddities'])
        network.setFault(group, 0.01);
      network.setFault('plc', 0.03);
      // It ends the connection: its own test is below.
      network.setFault('error-frame', 0);
      network.ratePerSecond = 200;
      await Bun.sleep(TRAFFIC_MS);
      for (const group of Object.keys(FAULT_GROUPS)) network.setFault(group, 0);
      network.inject(
        'frame-too-large',
        network.hosts[0]!.accounts.find(({ status }) => status === 'active')!,
      );
      await settle(weir, network, null);
      const consumer = await readAll(weir);
      const sent = witness.sent();
      const judgement = judge(sent, consumer.seen);
      const refused = judgeRefused(sent, judgement, await refusedOf(weir, network), true);
      await consumer.close();
      expect(consumer.counters.undecodable).toBe(0);
      expect(judgement.faults.slice(0, 20)).toEqual([]);
      expect(refused).toEqual([]);
      expect(judgement.delivered).toBeGreaterThan(500);
      expect(network.ledger.counts.byFault.size).toBeGreaterThan(80);
      for (const { hostname } of network.hosts) {
        const page = await weir.host(hostname);
        expect(page.connectedSinceMs).toBe(connectedSince.get(hostname)!);
      }
    } finally {
      await weir.stop();
      await network.stop();
    }
  });
}

for (const workers of ['0', '1']) {
  test.concurrent(`with hosts that drop, stall, refuse, slow down and go away besides, and ${workers} ingest workers, nothing is lost and nothing comes twice`, async () => {
    const network = await startNetwork({ hosts: 5, accounts: 120, mix: MIX });
    const witness = watch(network);
    const weir = await startWeir(network, { RELAY_INGEST_WORKERS: workers });
    try {
      await allConnected(weir, network);
      // Each has a cursor: before its first event a host is followed from its present end only.
      for (const { accounts } of network.hosts) network.identity(accounts[0]!);
      await settle(weir, network, null);
      network.directoryFaults.stallMs = 1_000;
      network.directoryFaults.delayMs = 200;
      for (const group of Object.keys(FAULT_GROUPS)) network.setFault(group, 0.01);
      network.setFault('hosts', 0);
      network.setFault('error-frame', 0.001);
      // Refused, it is judged again when its host comes back from an older cursor, by what holds then.
      network.setFault('commit-while-inactive', 0);
      network.ratePerSecond = 200;
      // Hosts are struck once a second. Losing a window or a seq loses events for good: elsewhere.
      for (const fault of FAULT_GROUPS.hosts!.filter((name) => !/lose-window|reset-seq/.test(name))) {
        network.setFault(fault, 1);
        await eventually(() => (network.ledger.counts.byFault.has(fault) ? null : fault));
        network.setFault(fault, 0);
        await Bun.sleep(500);
      }
      for (const group of Object.keys(FAULT_GROUPS)) network.setFault(group, 0);
      await settle(weir, network, null, 60_000);
      const consumer = await readAll(weir);
      const sent = witness.sent();
      const judgement = judge(sent, consumer.seen, { comesAgain: true });
      const refused = judgeRefused(sent, judgement, await refusedOf(weir, network), false);
      await consumer.close();
      expect(consumer.counters.undecodable).toBe(0);
      expect(judgement.faults.slice(0, 20)).toEqual([]);
      expect(refused).toEqual([]);
      expect(judgement.delivered).toBeGreaterThan(500);
      const hostFaults = [...network.ledger.counts.byFault.keys()].filter((name) => name.startsWith('host-'));
      expect(hostFaults).toHaveLength(5);
    } finally {
      await weir.stop();
      await network.stop();
    }
  });
}
