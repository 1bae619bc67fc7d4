import { afterEach, expect, test } from 'bun:test';
import { encode } from '@ipld/dag-cbor';
import { keyOf } from '../../simulator/account.ts';
import { decodeFrame } from '../../simulator/consumer.ts';
import { EVENT_FAULTS, FAULT_GROUPS, faultsNamed } from '../../simulator/faults.ts';
import type { LedgerEntry } from '../../simulator/ledger.ts';
import { createNetwork, type Network } from '../../simulator/network.ts';
import { isReason } from '../../src/reasons.ts';
import { judgeCommit } from './judge.ts';

const SEED = 11;

const networks: Network[] = [];

const build = async (options = {}): Promise<Network> => {
  const network = await createNetwork({ hosts: 3, accounts: 24, seed: SEED, largeRepoShare: 0, ...options });
  networks.push(network);
  return network;
};

afterEach(async () => {
  for (const network of networks.splice(0)) await network.stop();
});

/** The frame of a ledger entry: entries of one host stand in its window in the same order. */
const framesOf = (network: Network, entries: readonly LedgerEntry[], hostIndex: number) => {
  const { store } = network.hosts[hostIndex]!.stream;
  return entries.map((entry, i) => ({ entry, frame: store.frameAt(store.end - entries.length + i) }));
};

/** Whether an independent codec takes the frame and writes it back the same. */
const isCanonical = (frame: Uint8Array): boolean => {
  try {
    const { type, body } = decodeFrame(frame);
    const header = type === null ? (frame[1] === 0x61 ? {} : { op: -1 }) : { t: type, op: 1 };
    return Buffer.concat([encode(header), encode(body)]).equals(frame);
  } catch {
    return false;
  }
};

/** Reasons for which the commit itself is broken, so that a judge of commits must object. */
const BROKEN_COMMIT = new Set([
  'signature_invalid',
  'prev_data_mismatch',
  'op_tree_mismatch',
  'block_hash_mismatch',
  'car_invalid',
  'mst_invalid',
  'op_record_missing',
  'commit_root_mismatch',
  'commit_object_invalid',
  'blocks_too_large',
  'op_invalid',
  'ops_too_many',
]);

/** Reasons that lie outside the commit: it is good in itself. */
const GOOD_COMMIT = new Set([
  'deliver',
  'rev_stale',
  'rev_future',
  'wrong_host',
  'did_not_found',
  'did_tombstoned',
  'account_inactive',
  'seq_not_increasing',
  'too_big_flag',
  'rebase_flag',
  'op_record_invalid',
]);

const UNREADABLE = new Set([
  'frame_not_canonical',
  'frame_not_binary',
  'frame_header_invalid',
  'host_error_frame',
]);

const judged = async (network: Network, entry: LedgerEntry, frame: Uint8Array): Promise<string | null> => {
  const account = network.find(entry.did!);
  if (account === undefined) return null;
  return judgeCommit(decodeFrame(frame).body, keyOf(account, SEED)).catch(String);
};

for (const name of Object.keys(EVENT_FAULTS)) {
  test(`${name} is what the ledger says it is`, async () => {
    const network = await build();
    for (const hostIndex of [0, 1]) {
      const account = network.hosts[hostIndex]!.accounts[0]!;
      const before = network.ledger.entries().length;
      network.inject(name, account);
      const entries = network.ledger.entries().slice(before);
      const found = entries.filter(({ fault }) => fault === name);
      // Faults that need an existing record have nothing to do on an empty repo.
      if (found.length === 0) expect(account.tree.keys.length).toBe(0);
      for (const { entry, frame } of framesOf(network, entries, hostIndex)) {
        const { expectation, kind } = entry;
        expect(expectation === 'deliver' || isReason(expectation)).toBe(true);
        for (const other of entry.alternatives ?? [])
          expect(other === 'deliver' || isReason(other)).toBe(true);
        if (typeof frame === 'string') {
          expect(expectation).toBe('frame_not_binary');
          continue;
        }
        if (!UNREADABLE.has(expectation)) {
          expect(isCanonical(frame)).toBe(true);
          const { seq } = decodeFrame(frame);
          if (expectation === 'seq_not_increasing') expect(seq).toBeLessThanOrEqual(entries[0]!.seq!);
          else if (kind !== '#simulated' && kind !== 'malformed') expect(seq).toBe(entry.seq);
        }
        if (expectation === 'frame_not_canonical') expect(isCanonical(frame)).toBe(false);
        if (expectation === 'frame_too_large') expect(frame.length).toBeGreaterThan(5_000_000);
        if (kind !== 'commit') continue;
        const verdict = await judged(network, entry, frame);
        // @atproto/repo cuts the prefix short instead of objecting.
        if (name === 'tree-prefix-out-of-range') continue;
        if (BROKEN_COMMIT.has(expectation)) expect(verdict).not.toBeNull();
        if (GOOD_COMMIT.has(expectation)) expect(verdict).toBeNull();
      }
    }
  });
}

test('broken commits leave no trace: what is to be delivered is one whole chain per account', async () => {
  const network = await build({ windowEvents: 100_000 });
  const faults = Object.keys(EVENT_FAULTS).filter(
    (name) => name !== 'discontinuity' && name !== 'frame-too-large',
  );
  for (const name of faults) {
    for (const host of network.hosts) {
      const account = host.accounts[0]!;
      network.inject(name, account);
      if (account.status !== 'active') network.setStatus(account, 'active');
    }
  }
  const heads = new Map<string, string>();
  let commits = 0;
  const entries = network.ledger.entries();
  for (const host of network.hosts) {
    const { store } = host.stream;
    const mine = entries.filter(({ host: hostname, n }) => hostname === host.hostname && n > 0);
    expect(mine.length).toBeGreaterThan(0);
    for (let i = store.first; i < store.end; i++) {
      const frame = store.frameAt(i) as Uint8Array;
      if (typeof frame === 'string' || !isCanonical(frame)) continue;
      const { type, body, did, rev } = decodeFrame(frame);
      if (type !== '#commit') continue;
      const entry = entries.find(
        (one) => one.rev === rev && one.did === did && one.expectation === 'deliver',
      );
      if (entry === undefined || heads.get(did!) === rev || entry.seq !== body.seq) continue;
      commits++;
      if (heads.has(did!)) expect(body.since).toBe(heads.get(did!)!);
      heads.set(did!, rev!);
    }
  }
  expect(commits).toBeGreaterThan(10);
});

test('faults come with their probability, and the same seed gives the same ones', async () => {
  const clock = () => Date.UTC(2026, 10, 1);
  const runs: unknown[] = [];
  for (let run = 0; run < 2; run++) {
    const network = await build({ clock, faults: { commits: 0.01, 'seq-gap': 0.05 } });
    network.generate(300);
    runs.push(network.ledger.entries());
    const injected = network.ledger.counts.byFault;
    expect(injected.get('seq-gap')).toBeGreaterThan(3);
    expect(injected.size).toBeGreaterThan(20);
    expect(network.ledger.counts.byExpectation.get('deliver')).toBeGreaterThanOrEqual(300);
  }
  expect(runs[0]).toEqual(runs[1]);
});

test('a fault is found by its name or its group, and an unknown one or a wrong probability is refused', async () => {
  const network = await build();
  for (const group of Object.keys(FAULT_GROUPS)) {
    expect(faultsNamed(group).length).toBeGreaterThan(1);
    for (const name of faultsNamed(group)) expect(faultsNamed(name)).toEqual([name]);
  }
  expect(() => network.setFault('no-such-thing', 0.5)).toThrow('no-such-thing');
  expect(() => network.setFault('constructor', 0.5)).toThrow('constructor');
  expect(() => network.setFault('seq-gap', 1.5)).toThrow('0 to 1');
});

test('the directory errs, limits, delays and talks nonsense as told', async () => {
  const network = await build();
  await network.start();
  const url = `${network.plcUrl}/${network.accounts[0]!.did}`;
  network.directoryFaults.delayMs = 1;
  for (const [fault, status] of [
    ['plc-error', 500],
    ['plc-limited', 429],
    ['plc-garbage', 200],
    ['plc-delay', 200],
  ] as const) {
    network.setFault(fault, 1);
    const response = await fetch(url);
    expect(response.status).toBe(status);
    if (fault === 'plc-limited') expect(response.headers.get('retry-after')).toBe('1');
    if (fault === 'plc-garbage') expect(await response.json().catch(() => 'no json')).toBe('no json');
    network.setFault(fault, 0);
  }
  network.directoryFaults.stallMs = 60_000;
  network.setFault('plc-stall', 1);
  const patience = fetch(url, { signal: AbortSignal.timeout(50) });
  expect(
    await patience.then(
      () => 'answered',
      () => 'gave up',
    ),
  ).toBe('gave up');
  expect([...network.ledger.counts.byFault.keys()]).toEqual([
    'plc-error',
    'plc-limited',
    'plc-garbage',
    'plc-delay',
    'plc-stall',
  ]);
});
