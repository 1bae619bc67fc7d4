import { expect, test } from 'bun:test';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { BlockMap, MemoryBlockstore, MST } from '@atproto/repo';
import fc from 'fast-check';
import { CID } from 'multiformats/cid';
import { sha256 } from '../../simulator/cbor.ts';
import { cidText } from '../../simulator/records.ts';
import {
  collectProof,
  emptyTree,
  find,
  keyLayer,
  type Node,
  put,
  remove,
  walkLeaves,
  walkNodes,
} from '../../simulator/tree.ts';
import { judgeInversion } from './judge.ts';

const FIXTURES = process.env.WEIR_FIXTURES ?? join(import.meta.dir, '../../../shared/fixtures');

const digestOf = (text: string): Uint8Array => sha256(Buffer.from(text));
const cidOf = (digest: Uint8Array): CID => CID.parse(cidText(digest));

const path = fc
  .tuple(fc.constantFrom('com.example.a', 'com.example.bb'), fc.integer({ min: 0, max: 400 }))
  .map(([collection, n]) => `${collection}/${n.toString(36).padStart(3, '0')}`);

const rootOf = async (keys: ReadonlyMap<string, Uint8Array>): Promise<string> => {
  let tree = await MST.create(new MemoryBlockstore());
  for (const [key, digest] of keys) tree = await tree.add(key, cidOf(digest) as never);
  return String(await tree.getPointer());
};

const blocksOf = (nodes: Iterable<Node<null>>): BlockMap => {
  const blocks = new BlockMap();
  for (const node of nodes) blocks.set(cidOf(node.digest) as never, node.bytes);
  return blocks;
};

test('a tree built by any sequence of puts and removes has the root that @atproto/repo computes', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(path, fc.integer({ min: 0, max: 3 })), { maxLength: 60 }),
      async (steps) => {
        let tree = emptyTree<null>();
        const held = new Map<string, Uint8Array>();
        for (const [key, value] of steps) {
          if (value === 0 && held.has(key)) {
            tree = remove(tree, key);
            held.delete(key);
          } else {
            const digest = digestOf(`${key} ${value}`);
            tree = put(tree, key, { digest, body: null });
            held.set(key, digest);
          }
        }
        expect(cidText(tree.digest)).toBe(await rootOf(held));
        const walked: string[] = [];
        walkLeaves(tree, (key) => walked.push(key));
        expect(walked).toEqual([...held.keys()].sort());
        for (const key of held.keys()) expect(find(tree, key)?.digest).toEqual(held.get(key)!);
      },
    ),
    { numRuns: 60 },
  );
});

test('the proof nodes of a change are enough to undo it', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(path, { minLength: 1, maxLength: 120 }),
      fc.uniqueArray(path, { minLength: 1, maxLength: 8 }),
      fc.infiniteStream(fc.boolean()),
      async (keys, changed, coin) => {
        let before = emptyTree<null>();
        for (const key of keys) before = put(before, key, { digest: digestOf(key), body: null });
        let after = before;
        const blocks = new BlockMap();
        const ops = [];
        for (const key of changed) {
          const old = find(before, key);
          const prev = old === null ? undefined : cidOf(old.digest);
          if (old !== null && coin.next().value) {
            after = remove(after, key);
            ops.push({ action: 'delete', path: key, cid: null, prev: prev! });
            continue;
          }
          const digest = digestOf(`new ${key}`);
          after = put(after, key, { digest, body: null });
          blocks.set(cidOf(digest) as never, new Uint8Array());
          ops.push(
            prev === undefined
              ? { action: 'create', path: key, cid: cidOf(digest) }
              : { action: 'update', path: key, cid: cidOf(digest), prev },
          );
        }
        const proof = new Set<Node<null>>([after]);
        for (const key of changed) collectProof(after, key, proof);
        blocks.addMap(blocksOf(proof));
        expect(await judgeInversion(blocks, cidText(after.digest), ops, cidText(before.digest))).toBeNull();
      },
    ),
    { numRuns: 150 },
  );
});

test('an old root stays valid after changes', () => {
  let tree = emptyTree<null>();
  for (let i = 0; i < 200; i++)
    tree = put(tree, `com.example.a/${i}`, { digest: digestOf(`${i}`), body: null });
  const before = tree;
  const count = (root: Node<null>): number => {
    let keys = 0;
    walkNodes(root, (node) => {
      keys += node.keys.length;
    });
    return keys;
  };
  const digest = before.digest;
  for (let i = 0; i < 200; i++) tree = remove(tree, `com.example.a/${i}`);
  expect(count(before)).toBe(200);
  expect(count(tree)).toBe(0);
  expect(before.digest).toBe(digest);
  expect(tree.digest).toEqual(emptyTree<null>().digest);
});

test('layers and commit proofs are those of the interoperability vectors', () => {
  if (!existsSync(FIXTURES)) {
    console.warn(`no fixtures at ${FIXTURES}: the interoperability vectors are NOT checked`);
    return;
  }
  const read = (name: string) => JSON.parse(readFileSync(join(FIXTURES, 'interop', name), 'utf8'));
  for (const { key, height } of read('mst/key_heights.json')) expect(keyLayer(key)).toBe(height);
  for (const vector of read('firehose/commit-proof-fixtures.json')) {
    const leaf = { digest: CID.parse(vector.leafValue).multihash.digest, body: null };
    let tree = emptyTree<null>();
    for (const key of vector.keys) tree = put(tree, key, leaf);
    expect(cidText(tree.digest)).toBe(vector.rootBeforeCommit);
    for (const key of vector.adds) tree = put(tree, key, leaf);
    for (const key of vector.dels) tree = remove(tree, key);
    expect(cidText(tree.digest)).toBe(vector.rootAfterCommit);
    const proof = new Set<Node<null>>([tree]);
    for (const key of [...vector.adds, ...vector.dels]) collectProof(tree, key, proof);
    const held = new Set([...proof].map((node) => cidText(node.digest)));
    for (const cid of vector.blocksInProof) expect(held.has(cid)).toBe(true);
  }
});
