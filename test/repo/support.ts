/**
 * Real bytes for the tests of scan and verify, none of them made by the code under test: repositories by
 * @atproto/repo, keys by @atproto/crypto, CBOR by @ipld/dag-cbor, recorded frames and vectors from the fixtures.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { P256Keypair, Secp256k1Keypair } from '@atproto/crypto';
import {
  type BlockMap,
  MemoryBlockstore,
  type RecordCreateOp,
  type RecordWriteOp,
  Repo,
  WriteOpAction,
} from '@atproto/repo';
import * as dagCbor from '@ipld/dag-cbor';
import { CID } from 'multiformats/cid';
import { scanFrame } from '../../src/firehose/scan.ts';
import type { ScannedFrame } from '../../src/firehose/types.ts';
import { createSigningKey } from '../../src/repo/key.ts';
import type { SigningKey } from '../../src/repo/types.ts';

const root = process.env.WEIR_FIXTURES ?? join(import.meta.dir, '../../../shared/fixtures');

/** The bytes of a fixture; null, and said so, when the fixtures are not on this machine. */
export function fixture(name: string): Buffer | null {
  const path = join(root, name);
  if (existsSync(path)) return readFileSync(path);
  console.warn(`fixture ${name} is not here (WEIR_FIXTURES names another place): nothing is tested with it`);
  return null;
}

/** A JSON fixture, or null. */
export function jsonFixture<T>(name: string): T | null {
  const bytes = fixture(name);
  return bytes === null ? null : (JSON.parse(bytes.toString('utf8')) as T);
}

/** The lines of a syntax vector file without comments and empty lines. */
export function linesFixture(name: string): string[] | null {
  const bytes = fixture(name);
  if (bytes === null) return null;
  return bytes
    .toString('utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
}

/** Recorded frames: each after its length in four bytes. */
export function framesFixture(name: string): Uint8Array[] | null {
  const bytes = fixture(name);
  if (bytes === null) return null;
  const frames: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at);
    frames.push(new Uint8Array(bytes.subarray(at + 4, at + 4 + length)));
    at += 4 + length;
  }
  return frames;
}

export type Keypair = Secp256k1Keypair | P256Keypair;

export const newKeypair = (type: SigningKey['type']): Promise<Keypair> =>
  type === 'k256' ? Secp256k1Keypair.create() : P256Keypair.create();

export function signingKeyOf(keypair: Keypair): SigningKey {
  const type = keypair instanceof Secp256k1Keypair ? 'k256' : 'p256';
  return createSigningKey(type, keypair.publicKeyBytes())!;
}

export function sha256(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(new Bun.CryptoHasher('sha256').update(bytes).digest());
}

/** CIDv1 of a codec (dag-cbor, if not said otherwise) and sha-256. */
export function cidOf(bytes: Uint8Array, codec = 0x71): CID {
  return CID.decode(Uint8Array.of(1, codec, 0x12, 0x20, ...sha256(bytes)));
}

export interface Block {
  readonly cid: CID;
  readonly bytes: Uint8Array;
}

/** A block of any value. */
export function block(value: unknown): Block {
  const bytes = dagCbor.encode(value);
  return { cid: cidOf(bytes), bytes };
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  while (value >= 0x80) {
    bytes.push((value & 0x7f) | 0x80);
    value = Math.floor(value / 128);
  }
  return [...bytes, value];
}

export function concat(...parts: readonly (Uint8Array | readonly number[])[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts.map((part) => Buffer.from(part))));
}

/** A CAR v1 of these blocks in this order. */
export function car(rootCid: CID, blocks: readonly Block[]): Uint8Array {
  const header = dagCbor.encode({ version: 1, roots: [rootCid] });
  const parts: (Uint8Array | number[])[] = [varint(header.length), header];
  for (const { cid, bytes } of blocks) {
    parts.push(varint(cid.bytes.length + bytes.length), cid.bytes, bytes);
  }
  return concat(...parts);
}

/** What a #commit says, before it is encoded. */
export interface CommitParts {
  readonly body: Record<string, unknown> & { ops: Record<string, unknown>[] };
  readonly commit: { did: string; version: number; rev: string; prev: null; data: CID; sig?: Uint8Array };
  readonly root: CID;
  readonly blocks: readonly Block[];
}

export function frameOf(t: string, body: object): Uint8Array {
  return concat(dagCbor.encode({ op: 1, t }), dagCbor.encode(body));
}

/** The frame of a commit. */
export const commitFrame = (parts: CommitParts): Uint8Array =>
  frameOf('#commit', { ...parts.body, commit: parts.root, blocks: car(parts.root, parts.blocks) });

const sorted = (map: BlockMap): Block[] => {
  const blocks: Block[] = [];
  map.forEach((bytes, cid) => {
    blocks.push({ cid: CID.decode(cid.bytes), bytes: new Uint8Array(bytes) });
  });
  return blocks;
};

/** Signs a commit object and puts it in front of blocks that do not hold one yet. */
export async function signed(
  commit: Omit<CommitParts['commit'], 'sig'> & Record<string, unknown>,
  keypair: Keypair,
): Promise<Block> {
  const sig = await keypair.sign(dagCbor.encode(commit));
  return block({ ...commit, sig });
}

/** The parts again, with a change to the commit object, signed anew. */
export async function resigned(
  parts: CommitParts,
  change: Record<string, unknown>,
  keypair: Keypair,
): Promise<CommitParts> {
  const { sig: _, ...unsigned } = { ...parts.commit, ...change };
  const top = await signed(unsigned as CommitParts['commit'], keypair);
  return {
    ...parts,
    root: top.cid,
    commit: { ...parts.commit, ...change } as CommitParts['commit'],
    blocks: [top, ...parts.blocks.filter((other) => !other.cid.equals(parts.root))],
  };
}

export const DID = 'did:plc:weirweirweirweirweirweir';

/** One repository by @atproto/repo, and the commits made on it. */
export interface TestRepo {
  readonly keypair: Keypair;
  readonly key: SigningKey;
  repo: Repo;
  seq: number;
}

export async function newRepo(records: readonly RecordCreateOp[], type: SigningKey['type'] = 'k256') {
  const keypair = await newKeypair(type);
  const repo = await Repo.create(new MemoryBlockstore(), DID, keypair, [...records]);
  const made: TestRepo = { keypair, key: signingKeyOf(keypair), repo, seq: 1 };
  return made;
}

export const post = (rkey: string, text: string): RecordCreateOp => ({
  action: WriteOpAction.Create,
  collection: 'app.bsky.feed.post',
  rkey,
  record: { $type: 'app.bsky.feed.post', text, createdAt: '2026-11-21T00:00:00.000Z' },
});

/** Applies the writes and gives what a host would send for them. */
export async function commitOf(made: TestRepo, writes: readonly RecordWriteOp[]): Promise<CommitParts> {
  const before = made.repo;
  const paths = writes.map((write) => `${write.collection}/${write.rkey}`);
  const prevs = await Promise.all(paths.map((path) => before.data.get(path)));
  const data = await before.formatCommit([...writes], made.keypair);
  made.repo = await before.applyCommit(data);
  const cids = await Promise.all(paths.map((path) => made.repo.data.get(path)));
  const blocks = sorted(data.relevantBlocks);
  const rootCid = CID.decode(data.cid.bytes);
  const commit = dagCbor.decode(blocks.find((one) => one.cid.equals(rootCid))!.bytes);
  return {
    body: {
      seq: made.seq++,
      repo: DID,
      rev: data.rev,
      since: data.since,
      time: '2026-11-21T00:00:00.000Z',
      tooBig: false,
      rebase: false,
      blobs: [],
      prevData: before.commit.data,
      ops: writes.map((write, index) => ({
        action: write.action,
        path: paths[index],
        cid: cids[index] ?? null,
        ...(prevs[index] ? { prev: prevs[index] } : {}),
      })),
    },
    commit: commit as CommitParts['commit'],
    root: rootCid,
    blocks,
  };
}

/** The scanned frame; a refusal fails the test. */
export function scanned(bytes: Uint8Array): ScannedFrame {
  const frame = scanFrame(bytes);
  if (!frame.ok) throw new Error(`refused: ${frame.reason} ${frame.detail ?? ''}`);
  return frame;
}

/** A small deterministic generator (mulberry32) for choices that must not change between runs. */
export function choices(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}
