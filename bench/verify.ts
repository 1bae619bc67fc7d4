/**
 * What does it cost to verify a commit? Prints microseconds per commit and the parts they go to, on a small
 * repository of a real PDS and on one of 20,000 records (recorded frames; without them, on repositories made here),
 * against `verifyProofs` of @atproto/repo, which checks CAR, signature and the paths of the ops but inverts nothing:
 * the baseline does less.
 *
 * The signature is a fixed cost, so it is measured beside: on a shared machine the ratio to it says more than the
 * microseconds. What it costs itself is said in comparison with the libsecp256k1 inside the package, round about.
 *
 * bun bench/verify.ts
 */
import { cpus } from 'node:os';
import { parseDidKey } from '@atproto/crypto';
import { type RecordCidClaim, verifyProofs } from '@atproto/repo';
import { base58btc } from 'multiformats/bases/base58';
import { CID } from 'multiformats/cid';
import secp256k1 from 'secp256k1';
import { scanFrame } from '../src/firehose/scan.ts';
import { KIND, type ScannedFrame } from '../src/firehose/types.ts';
import { BlockIndex } from '../src/repo/car.ts';
import { readCommitObject } from '../src/repo/commit.ts';
import { keyHeights } from '../src/repo/heights.ts';
import { compileK256 } from '../src/repo/k256/compiled.ts';
import { type K256Library, k256, openPackagedK256 } from '../src/repo/k256.ts';
import { createSigningKey } from '../src/repo/key.ts';
import { PartialTree } from '../src/repo/mst.ts';
import type { SigningKey } from '../src/repo/types.ts';
import { verifyCommit } from '../src/repo/verify.ts';
import { commitFrame, commitOf, framesFixture, jsonFixture, newRepo, post } from '../test/repo/support.ts';
import { percentile } from './machine.ts';

interface Recording {
  readonly name: string;
  readonly frames: readonly Uint8Array[];
  readonly didKeys: ReadonlyMap<string, string>;
}

const ROUNDS = 25;
const nowMs = Date.now() + 60_000;
const didKeyOf = (point: Uint8Array): string =>
  `did:key:${base58btc.encode(new Uint8Array([0xe7, 0x01, ...secp256k1.publicKeyConvert(point, true)]))}`;

async function madeHere(records: number): Promise<Recording> {
  const made = await newRepo(Array.from({ length: records }, (_, at) => post(`3k${at}`, `text ${at}`)));
  const frames: Uint8Array[] = [];
  for (let at = 0; at < 100; at++)
    frames.push(commitFrame(await commitOf(made, [post(`3z${at}`, 'a new one')])));
  return {
    name: `made here, ${records} records`,
    frames,
    didKeys: new Map([[made.repo.did, made.keypair.did()]]),
  };
}

async function recordings(): Promise<Recording[]> {
  const real = framesFixture('realframes/frames.lp.bin');
  const documents =
    jsonFixture<Record<string, { verificationMethod: { publicKeyMultibase: string }[] }>>(
      'realframes/diddocs.json',
    );
  const large = framesFixture('realframes/synth20000.lp.bin');
  const owner = jsonFixture<{ did: string; didKey: string }>('realframes/synth20000.json');
  if (real === null || documents === null || large === null || owner === null) {
    return [await madeHere(50), await madeHere(1000)];
  }
  const keys = Object.entries(documents).map(([did, { verificationMethod }]): [string, string] => [
    did,
    didKeyOf(base58btc.decode(verificationMethod[0]!.publicKeyMultibase)),
  ]);
  return [
    { name: 'real PDS, small repositories', frames: real, didKeys: new Map(keys) },
    { name: '20,000 records', frames: large, didKeys: new Map([[owner.did, owner.didKey]]) },
  ];
}

const keyOf = (didKey: string): SigningKey =>
  createSigningKey('k256', secp256k1.publicKeyConvert(parseDidKey(didKey).keyBytes, true))!;

/** Microseconds per frame: each round does every part once over all frames, the best round counts. */
function measure(frames: readonly ScannedFrame[], parts: Record<string, (frame: ScannedFrame) => unknown>) {
  const best: Record<string, number> = {};
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, part] of Object.entries(parts)) {
      const start = Bun.nanoseconds();
      for (const frame of frames) part(frame);
      const each = (Bun.nanoseconds() - start) / frames.length / 1000;
      best[name] = Math.min(best[name] ?? Number.POSITIVE_INFINITY, each);
    }
  }
  return best;
}

/** Our own secp256k1 beside the package's: microseconds per signature, of keys seen again and of keys seen first. */
function compareSignatures(): void {
  const baseline = openPackagedK256();
  const own = compileK256();
  if (baseline === null || own === null) {
    console.log('signatures: this machine has not both our own code and the package to compare');
    return;
  }
  const signed = Array.from({ length: 300 }, (_, at) => {
    const secret = Bun.SHA256.hash(`secret ${at}`) as Uint8Array;
    const digest = Bun.SHA256.hash(`digest ${at}`) as Uint8Array;
    const { signature } = secp256k1.ecdsaSign(digest, secret);
    return { point: secp256k1.publicKeyCreate(secret, true), digest, signature };
  });
  const times = { baseline: [] as number[], again: [] as number[], first: [] as number[] };
  const run = (library: K256Library): number => {
    const points = signed.map(({ point }) => library.parse(point)!);
    const start = Bun.nanoseconds();
    for (const [at, { digest, signature }] of signed.entries())
      if (!library.verify(signature, digest, points[at]!)) throw new Error(`${library.name} refuses ${at}`);
    return (Bun.nanoseconds() - start) / signed.length / 1000;
  };
  for (let round = 0; round < 4; round++) run(own);
  for (let round = 0; round < ROUNDS; round++) {
    times.baseline.push(run(baseline));
    times.again.push(run(own));
    // To a new library all keys are new.
    times.first.push(run(compileK256()!));
  }
  const line = (name: string, values: readonly number[]): string => {
    const [best, middle] = [Math.min(...values), percentile(values, 0.5)];
    const ratios = [Math.min(...times.baseline) / best, percentile(times.baseline, 0.5) / middle];
    return `  ${name.padEnd(16)}${us(best)} best, ${us(middle)} median: ${ratios.map((ratio) => `${ratio.toFixed(2)} ×`).join(', ')}`;
  };
  console.log('\nsignatures of secp256k1, and how many times as fast as by the package');
  console.log(line('the package', times.baseline));
  console.log(line('key seen again', times.again));
  console.log(line('key seen first', times.first));
}

const us = (value: number): string => `${value.toFixed(1).padStart(8)} µs`;

console.log(
  `${cpus()[0]?.model} × ${cpus().length}, Bun ${Bun.version}, secp256k1 by ${k256().name}, heights by ${keyHeights().name}`,
);
compareSignatures();
for (const { name, frames: all, didKeys } of await recordings()) {
  const frames: ScannedFrame[] = [];
  for (const bytes of all) {
    const frame = scanFrame(bytes);
    if (frame.ok && frame.kind === KIND.commit && frame.prevDataDigestAt >= 0) frames.push(frame);
  }
  const keys = new Map([...didKeys].map(([did, didKey]) => [did, keyOf(didKey)]));
  const index = new BlockIndex();
  const tree = new PartialTree();
  const unsigned = new Map<ScannedFrame, { message: Uint8Array; signature: Uint8Array }>();
  const commitOfIndex = (frame: ScannedFrame) => {
    index.read(frame.bytes, frame.blocksStart, frame.blocksEnd);
    const root = index.find(frame.bytes, index.rootDigestAt);
    const commit = readCommitObject(frame.bytes, index.start(root), index.end(root));
    if (!commit.ok) throw new Error(commit.reason);
    return commit;
  };
  for (const frame of frames) {
    const commit = commitOfIndex(frame);
    unsigned.set(frame, { message: commit.unsigned.slice(), signature: commit.signature });
  }
  const options = { nowMs, validation: 'strict', firstCommit: false } as const;
  const result = measure(frames, {
    scan: (frame) => scanFrame(frame.bytes),
    verify: (frame) => {
      const verdict = verifyCommit(frame, keys.get(frame.did)!, options);
      if (!verdict.ok) throw new Error(`${verdict.reason} at ${frame.seq}`);
    },
    signature: (frame) => {
      const { message, signature } = unsigned.get(frame)!;
      keys.get(frame.did)!.verify(message, signature);
    },
    hashes: (frame) => index.read(frame.bytes, frame.blocksStart, frame.blocksEnd),
    tree: (frame) => {
      tree.load(index, commitOfIndex(frame).dataDigestAt);
      tree.invert(frame.ops, frame.bytes.subarray(frame.prevDataDigestAt, frame.prevDataDigestAt + 32));
    },
  });

  // The baseline takes long: a sample, once to warm up, then the best of three.
  const sample = frames.filter((_, at) => at % Math.ceil(frames.length / 60) === 0);
  let baseline = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 4; round++) {
    const start = Bun.nanoseconds();
    for (const frame of sample) {
      const claims: RecordCidClaim[] = frame.ops.map(({ path, cid }) => {
        const [collection, rkey] = path.split('/') as [string, string];
        const bytes = cid === null ? null : Uint8Array.of(1, 0x71, 0x12, 0x20, ...cid);
        return { collection, rkey, cid: bytes === null ? null : (CID.decode(bytes) as never) };
      });
      const blocks = frame.bytes.subarray(frame.blocksStart, frame.blocksEnd);
      const { unverified } = await verifyProofs(blocks, claims, frame.did, didKeys.get(frame.did)!);
      if (unverified.length > 0) throw new Error(`the baseline refuses ${frame.seq}`);
    }
    if (round > 0) baseline = Math.min(baseline, (Bun.nanoseconds() - start) / sample.length / 1000);
  }

  const bytes = frames.reduce((sum, frame) => sum + frame.bytes.length, 0) / frames.length;
  const ops = frames.reduce((sum, frame) => sum + frame.ops.length, 0) / frames.length;
  const { scan, verify, signature, hashes, tree: treeUs } = result as Record<string, number>;
  console.log(
    `\n${name}: ${frames.length} commits, ${bytes.toFixed(0)} bytes and ${ops.toFixed(1)} ops on average`,
  );
  console.log(`  scan            ${us(scan!)}`);
  console.log(`  verify          ${us(verify!)}   of which`);
  console.log(`    signature     ${us(signature!)}`);
  console.log(`    CAR, hashes   ${us(hashes!)}`);
  console.log(
    `    the rest      ${us(verify! - signature! - hashes!)}   (commit object, records, tree, inversion)`,
  );
  console.log(`    tree alone    ${us(treeUs! - hashes!)}`);
  console.log(`  verify is ${(verify! / signature!).toFixed(2)} × the signature alone`);
  console.log(
    `  @atproto/repo   ${us(baseline)}   = ${(baseline / verify!).toFixed(1)} × verify, without inversion`,
  );
}
