/** The judge can find someone guilty: each thing that a relay must not do is noticed. */
import { expect, test } from 'bun:test';
import { encode } from '@ipld/dag-cbor';
import { decodeFrame, type Seen } from '../../simulator/consumer.ts';
import { createNetwork } from '../../simulator/network.ts';
import { judge, judgeRefused } from './judge.ts';
import { watch } from './witness.ts';

/** A run without a relay: what each host sent, and what a right relay makes of it. */
const rightRun = async () => {
  const network = await createNetwork({ hosts: 2, accounts: 6, seed: 4, largeRepoShare: 0 });
  const witness = watch(network);
  for (const { hostname } of network.hosts) expect(hostname).toBe('');
  network.hosts[0]!.hostname = 'localhost:1';
  network.hosts[1]!.hostname = 'localhost:2';
  network.generate(20);
  for (const { accounts } of network.hosts) {
    network.inject('field-unknown', accounts[0]!);
    network.inject('signature-corrupted', accounts[0]!);
    network.inject('cbor-float16', accounts[0]!);
    network.inject('seq-duplicate', accounts[0]!);
    network.inject('deprecated-omitted', accounts[0]!);
  }
  const sent = witness.sent();
  let seq = 100;
  const seen: Seen[] = [];
  for (const { entry, frame } of sent) {
    if (entry.expectation !== 'deliver') continue;
    const { type, body } = decodeFrame(frame as Uint8Array);
    const filled = type === '#commit' ? { tooBig: false, rebase: false, blobs: [], ...body } : body;
    seen.push(seenOf(type!, { ...filled, seq: ++seq }));
  }
  return { sent, seen };
};

const seenOf = (type: string, body: Record<string, unknown>): Seen =>
  decodeFrame(Buffer.concat([encode({ t: type, op: 1 }), encode(body)]));

const numbered = (seen: readonly Seen[]): Seen[] =>
  seen.map((one, i) => seenOf(one.type!, { ...one.body, seq: i + 1 }));

test('a right run has no faults', async () => {
  const { sent, seen } = await rightRun();
  const judgement = judge(sent, seen);
  expect(judgement.faults).toEqual([]);
  expect(judgement.delivered).toBe(seen.length);
});

test('a lost event, one that comes twice, changed order, content and seqs are noticed', async () => {
  const { sent, seen } = await rightRun();
  for (let i = 0; i < seen.length; i++) {
    expect(judge(sent, seen.toSpliced(i, 1)).faults).toHaveLength(1);
    expect(judge(sent, numbered(seen.toSpliced(i, 0, seen[i]!))).faults).toHaveLength(1);
    const changed = { ...seen[i]!.body, time: '2020-01-01T00:00:00.000Z' };
    expect(judge(sent, seen.with(i, seenOf(seen[i]!.type!, changed))).faults).toHaveLength(2);
    const later = seen.findIndex(({ did }, at) => at > i && did === seen[i]!.did);
    if (later !== -1)
      expect(
        judge(sent, numbered(seen.with(i, seen[later]!).with(later, seen[i]!))).faults.length,
      ).toBeGreaterThan(0);
  }
  expect(judge(sent, seen.with(3, seenOf(seen[3]!.type!, { ...seen[3]!.body, seq: 5 }))).faults).not.toEqual(
    [],
  );
});

test('a lost unknown field and an event that should have been refused are noticed', async () => {
  const { sent, seen } = await rightRun();
  const at = seen.findIndex(({ body }) => 'simulatedExtra' in body);
  const { simulatedExtra: _, ...bare } = seen[at]!.body;
  expect(judge(sent, seen.with(at, seenOf(seen[at]!.type!, bare))).faults).toHaveLength(2);
  const broken = sent.find(({ entry }) => entry.expectation === 'signature_invalid')!;
  const { type, body } = decodeFrame(broken.frame as Uint8Array);
  expect(judge(sent, [...seen, seenOf(type!, { ...body, seq: 999 })]).faults).toHaveLength(1);
});

test('refusals that were not counted, or counted too often or for another reason, are noticed', async () => {
  const { sent, seen } = await rightRun();
  const judgement = judge(sent, seen);
  const right = { signature_invalid: 1, frame_not_canonical: 1, seq_not_increasing: 1 };
  const stale = (host: string) =>
    sent.filter(({ entry }) => entry.host === host && entry.expectation === 'rev_stale').length;
  const counts = (host: string) => (stale(host) > 0 ? { ...right, rev_stale: stale(host) } : right);
  const other = ['localhost:2', counts('localhost:2')] as const;
  const faultsOf = (counted: Record<string, number>, exact: boolean) =>
    judgeRefused(sent, judgement, new Map([['localhost:1', counted], other]), exact);
  const mine = counts('localhost:1');
  expect(faultsOf(mine, true)).toEqual([]);
  expect(faultsOf({ ...mine, signature_invalid: 0 }, true)).not.toEqual([]);
  expect(faultsOf({ ...mine, signature_invalid: 0 }, false)).not.toEqual([]);
  expect(faultsOf({ ...mine, signature_invalid: 2 }, true)).not.toEqual([]);
  expect(faultsOf({ ...mine, signature_invalid: 2 }, false)).toEqual([]);
  expect(faultsOf({ ...mine, car_invalid: 1 }, false)).not.toEqual([]);
});
