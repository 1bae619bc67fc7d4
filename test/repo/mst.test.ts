import { describe, expect, test } from 'bun:test';
import { MemoryBlockstore, MST, mstUtil } from '@atproto/repo';
import fc from 'fast-check';
import { CID } from 'multiformats/cid';
import { BlockIndex } from '../../src/repo/car.ts';
import { hashedHeights } from '../../src/repo/heights/hashed.ts';
import { keyHeight, keyHeights } from '../../src/repo/heights.ts';
import {
  ABSENT,
  MAX_NODE_ENTRIES,
  PartialTree,
  sharedPrefixLength,
  type TreeOp,
  UNPROVEN,
} from '../../src/repo/mst.ts';
import { type Block, block, car, choices, cidOf, concat, jsonFixture } from './support.ts';

const leaf = (number: number): CID => cidOf(Buffer.from(`leaf ${number}`));
const digestOf = (cid: CID): Uint8Array => cid.multihash.digest;
const local = (cid: { bytes: Uint8Array }): CID => CID.decode(cid.bytes);

async function treeOf(entries: Iterable<[string, CID]>): Promise<MST> {
  let tree = await MST.create(new MemoryBlockstore());
  for (const [key, value] of entries) tree = await tree.add(key, value as never);
  return tree;
}

/** All nodes of the tree that a proof of these keys needs. */
async function proofOf(tree: MST, keys: readonly string[]): Promise<Block[]> {
  const blocks: Block[] = [];
  const seen = new Set<string>();
  for (const key of keys) {
    (await tree.getCoveringProof(key)).forEach((bytes, cid) => {
      if (!seen.has(cid.toString())) blocks.push({ cid: local(cid), bytes });
      seen.add(cid.toString());
    });
  }
  return blocks;
}

/** Of two keys in one table, as the tree has them. */
const sharedPrefix = (left: string, right: string): number => {
  const bytes = Buffer.from(left + right);
  const leftEnd = Buffer.byteLength(left);
  return sharedPrefixLength(bytes, 0, leftEnd, leftEnd, bytes.length);
};

/**
 * A partial tree of these nodes; the refusal's detail when they are refused. What hashes the keys must not matter, nor
 * which tree was loaded before.
 */
function load(root: CID, nodes: readonly Block[]): PartialTree | string {
  const bytes = car(root, nodes);
  const index = new BlockIndex();
  expect(index.read(bytes, 0, bytes.length)).toBeNull();
  const outcome = (tree: PartialTree): PartialTree | string => {
    const refused = tree.load(index, index.rootDigestAt);
    return refused === null ? tree : `${refused.reason}: ${refused.detail}`;
  };
  const outcomes = [
    outcome(new PartialTree(keyHeights())),
    outcome(new PartialTree(hashedHeights)),
    outcome(usedTree),
  ];
  const said = outcomes.map((one) => (typeof one === 'string' ? one : 'accepted'));
  expect(said).toEqual(said.map(() => said[0]!));
  return outcomes[0]!;
}
const usedTree = new PartialTree();

function loaded(root: CID, nodes: readonly Block[]): PartialTree {
  const tree = load(root, nodes);
  if (typeof tree === 'string') throw new Error(tree);
  return tree;
}

describe('keys of a tree', () => {
  test('have the heights of the interop vectors', () => {
    const vectors = jsonFixture<{ key: string; height: number }[]>('interop/mst/key_heights.json');
    if (vectors === null) return;
    expect(vectors.map(({ key }) => keyHeight(key))).toEqual(vectors.map(({ height }) => height));
  });

  test('share the prefixes of the interop vectors', () => {
    const vectors = jsonFixture<{ left: string; right: string; len: number }[]>(
      'interop/mst/common_prefix.json',
    );
    if (vectors === null) return;
    expect(vectors.map(({ left, right }) => sharedPrefix(left, right))).toEqual(
      vectors.map(({ len }) => len),
    );
  });

  test('have the heights that @atproto/repo gives them', async () => {
    for (let number = 0; number < 300; number++) {
      const key = `app.bsky.feed.post/${number}`;
      expect(keyHeight(key)).toBe(await mstUtil.leadingZerosOnHash(key));
    }
  });
});

describe('inversion', () => {
  test('gives the old root of the interop commit proofs from just the blocks in the proof', async () => {
    const vectors = jsonFixture<
      {
        comment: string;
        leafValue: string;
        keys: string[];
        adds: string[];
        dels: string[];
        rootBeforeCommit: string;
        rootAfterCommit: string;
        blocksInProof: string[];
      }[]
    >('interop/firehose/commit-proof-fixtures.json');
    if (vectors === null) return;
    expect(vectors.length).toBeGreaterThanOrEqual(6);
    for (const vector of vectors) {
      const value = CID.parse(vector.leafValue);
      const before = await treeOf(vector.keys.map((key): [string, CID] => [key, value]));
      expect((await before.getPointer()).toString()).toBe(vector.rootBeforeCommit);
      let after = before;
      for (const key of vector.adds) after = await after.add(key, value as never);
      for (const key of vector.dels) after = await after.delete(key);
      expect((await after.getPointer()).toString()).toBe(vector.rootAfterCommit);

      const all = new Map<string, Block>();
      (await after.getUnstoredBlocks()).blocks.forEach((bytes, cid) => {
        all.set(cid.toString(), { cid: local(cid), bytes });
      });
      const nodes = vector.blocksInProof.map((cid) => all.get(cid)!);
      const tree = loaded(CID.parse(vector.rootAfterCommit), nodes);
      const digest = digestOf(value);
      const ops: TreeOp[] = [
        ...vector.adds.map((path) => ({ path, cid: digest, prev: null })),
        ...vector.dels.map((path) => ({ path, cid: null, prev: digest })),
      ];
      for (const op of ops) {
        if (op.cid === null) expect(tree.find(op.path)).toBe(ABSENT);
        else expect(tree.isDigest(tree.find(op.path), op.cid)).toBe(true);
      }
      expect([vector.comment, tree.invert(ops, digestOf(CID.parse(vector.rootBeforeCommit)))]).toEqual([
        vector.comment,
        null,
      ]);
    }
  });

  test('agrees with @atproto/repo on trees and ops of any kind', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer(),
        fc.integer({ min: 0, max: 120 }),
        fc.integer({ min: 1, max: 12 }),
        async (seed, size, opCount) => {
          const choose = choices(seed);
          const held = new Map<string, CID>();
          while (held.size < size) held.set(`com.example.record/${choose(1_000_000)}`, leaf(choose(1000)));
          const before = await treeOf(held);
          const prevData = local(await before.getPointer());
          let after = before;
          const ops: TreeOp[] = [];
          const touched = new Set<string>();
          for (let index = 0; index < opCount; index++) {
            const existing = [...held.keys()].filter((key) => !touched.has(key));
            // Never down to an empty tree: @atproto/repo then remembers the old height and, when the next key
            // is lower, makes a root without entries, which is not a well-formed tree.
            const kind = existing.length < 2 ? 0 : choose(3);
            if (kind === 0) {
              const path = `com.example.record/${choose(1_000_000)}`;
              if (held.has(path) || touched.has(path)) continue;
              touched.add(path);
              const value = leaf(5000 + index);
              after = await after.add(path, value as never);
              ops.push({ path, cid: digestOf(value), prev: null });
            } else {
              const path = existing[choose(existing.length)]!;
              touched.add(path);
              const prev = digestOf(held.get(path)!);
              if (kind === 1) {
                const value = leaf(5000 + index);
                after = await after.update(path, value as never);
                ops.push({ path, cid: digestOf(value), prev });
              } else {
                after = await after.delete(path);
                ops.push({ path, cid: null, prev });
              }
            }
          }
          const root = local(await after.getPointer());
          const nodes = await proofOf(
            after,
            ops.map((op) => op.path),
          );
          expect(loaded(root, nodes).invert(ops, digestOf(prevData))).toBeNull();

          // Any order of the ops is as good; leaving one out, or a wrong prev, is not.
          expect(loaded(root, nodes).invert(ops.toReversed(), digestOf(prevData))).toBeNull();
          if (ops.length > 0) {
            const short = loaded(root, nodes).invert(ops.slice(1), digestOf(prevData));
            expect(short?.reason).toBe('prev_data_mismatch');
            const changed = ops.find((op) => op.prev !== null);
            if (changed !== undefined) {
              const wrong = ops.map((op) => (op === changed ? { ...op, prev: digestOf(leaf(9)) } : op));
              if (!Buffer.from(changed.prev!).equals(digestOf(leaf(9)))) {
                expect(loaded(root, nodes).invert(wrong, digestOf(prevData))?.reason).toBe(
                  'prev_data_mismatch',
                );
              }
            }
          }
        },
      ),
      { numRuns: 60, seed: 7 },
    );
  });

  test('says so when a node that is needed is missing', async () => {
    const entries = Array.from({ length: 200 }, (_, at): [string, CID] => [
      `com.example.record/${at}`,
      leaf(at),
    ]);
    const before = await treeOf(entries);
    const after = await before.add('com.example.record/77a', leaf(5000) as never);
    const root = local(await after.getPointer());
    const nodes = await proofOf(after, ['com.example.record/77a']);
    const prevData = digestOf(local(await before.getPointer()));
    const ops: TreeOp[] = [{ path: 'com.example.record/77a', cid: digestOf(leaf(5000)), prev: null }];
    expect(loaded(root, nodes).invert(ops, prevData)).toBeNull();
    let unproven = 0;
    for (const left of nodes) {
      const tree = loaded(
        root,
        nodes.filter((node) => node !== left),
      );
      if (tree.find('com.example.record/77a') === UNPROVEN) unproven++;
    }
    expect(unproven).toBeGreaterThan(1);
    const empty = loaded(root, [block({ nothing: true })]);
    expect(empty.find('com.example.record/77a')).toBe(UNPROVEN);
    expect(
      empty.invert([{ path: 'com.example.record/9', cid: null, prev: prevData }], prevData),
    ).toMatchObject({
      reason: 'mst_invalid',
    });
  });
});

describe('a node is refused', () => {
  interface Entry {
    k: Uint8Array;
    p: number;
    t: CID | null;
    v: CID;
  }
  const value = leaf(1);
  // Keys by height, so that every other rule holds.
  const keysOf = (height: number, count: number): string[] => {
    const keys: string[] = [];
    for (let number = 1000; keys.length < count; number++) {
      const key = `com.example.record/${number}`;
      if (keyHeight(key) === height) keys.push(key);
    }
    return keys;
  };
  const entries = (keys: readonly string[]): Entry[] =>
    keys.map((key, index) => {
      const p = index === 0 ? 0 : sharedPrefix(keys[index - 1]!, key);
      return { k: Buffer.from(key.slice(p)), p, t: null, v: value };
    });
  const refusal = (node: unknown, others: readonly Block[] = []): string => {
    const top = block(node);
    const tree = load(top.cid, [top, ...others]);
    return typeof tree === 'string' ? tree : 'accepted';
  };
  const low = keysOf(0, 4);
  const high = keysOf(1, 3);

  test('not when it is well formed', () => {
    expect(refusal({ e: entries(low), l: null })).toBe('accepted');
    expect(refusal({ e: [], l: null })).toBe('accepted');
    const kid = block({ e: entries(low.filter((key) => key < high[0]!)), l: null });
    expect(refusal({ e: entries(high), l: kid.cid }, [kid])).toBe('accepted');
  });

  test('when its keys are not sorted, or twice the same', () => {
    const swapped = [low[1]!, low[0]!];
    expect(refusal({ e: entries(swapped), l: null })).toBe('mst_invalid: keys not sorted');
    const twice = entries([low[0]!, low[0]!]);
    expect(refusal({ e: twice, l: null })).toBe('mst_invalid: keys not sorted');
  });

  test('when a prefix is out of range or not all that is shared', () => {
    const long = entries(low);
    long[1]!.p = 200;
    expect(refusal({ e: long, l: null })).toBe('mst_invalid: prefix longer than the key before');
    const first = entries(low);
    first[0]!.p = 3;
    expect(refusal({ e: first, l: null })).toBe('mst_invalid: prefix longer than the key before');
    const short = entries(low);
    short[1] = { ...short[1]!, p: short[1]!.p - 1, k: Buffer.from(low[1]!.slice(short[1]!.p - 1)) };
    expect(refusal({ e: short, l: null })).toBe('mst_invalid: prefix not maximal');
    for (const p of [-1, 1.5, 70_000]) {
      const odd = entries(low);
      odd[1]!.p = p;
      expect(refusal({ e: odd, l: null })).toBe('mst_invalid: not an entry');
    }
  });

  test('when a key is at the wrong height', () => {
    const mixed = [low[0]!, high[0]!].sort();
    expect(refusal({ e: entries(mixed), l: null })).toBe('mst_invalid: key at the wrong height');
    const kid = block({ e: entries(keysOf(0, 2)), l: null });
    const two = keysOf(2, 1);
    expect(refusal({ e: [{ ...entries(two)[0]!, t: null }], l: kid.cid }, [kid])).toBe(
      'mst_invalid: key at the wrong height',
    );
    expect(refusal({ e: [{ ...entries(low)[0]!, t: kid.cid }], l: null }, [kid])).toBe(
      'mst_invalid: node below height zero',
    );
  });

  test('for the first thing that is wrong as it is read, though heights are asked for last', () => {
    const keys = [...low, high[0]!].sort();
    const misplaced = keys.indexOf(high[0]!);
    expect(misplaced).toBeGreaterThan(0);
    expect(misplaced).toBeLessThan(keys.length - 1);
    const wrongAt = (index: number): string => {
      const broken = entries(keys);
      (broken[index]! as { v: CID | null }).v = null;
      return refusal({ e: broken, l: null });
    };
    for (let index = 0; index < keys.length; index++)
      // An entry's value stands after its key.
      expect(wrongAt(index)).toBe(
        index < misplaced ? 'mst_invalid: not an entry' : 'mst_invalid: key at the wrong height',
      );

    // The same of nodes: the left kid is read before the right one.
    const top = high[0]!;
    const [left, right] = [low.filter((key) => key < top), low.filter((key) => key > top)];
    const good = [left, right].map((of) => block({ e: entries(of), l: null }));
    const high2 = keysOf(2, 40);
    const tall = [high2.filter((key) => key < top), high2.filter((key) => key > top)];
    const misplacedIn = tall.map((of) => block({ e: entries(of.slice(0, 1)), l: null }));
    const none = [left, right].map((of) => block({ e: entries(of), l: 5 }));
    const of = (kids: readonly Block[]): string =>
      refusal({ e: [{ ...entries([top])[0]!, t: kids[1]!.cid }], l: kids[0]!.cid }, kids);
    expect(of([good[0]!, good[1]!])).toBe('accepted');
    expect(of([good[0]!, misplacedIn[1]!])).toBe('mst_invalid: key at the wrong height');
    expect(of([misplacedIn[0]!, none[1]!])).toBe('mst_invalid: key at the wrong height');
    expect(of([none[0]!, misplacedIn[1]!])).toBe('mst_invalid: not a node');
  });

  test('when one key of very many is at the wrong height, the last as well as any', () => {
    const many = keysOf(0, 1_600);
    const tops = keysOf(1, 400);
    const top = tops.find((key) => key > many[800]!)!;
    const misplaced = tops.filter((key) => key > top);
    const first = many.filter((key) => key < top);
    const second = many.filter((key) => key > top && key < misplaced.at(-1)!);
    // The tables of keys grow on the way.
    expect(first.length + second.length).toBeGreaterThan(1_100);
    const tree = (right: readonly string[]): string => {
      const kids = [first, right].map((keys) => block({ e: entries(keys), l: null }));
      return refusal({ e: [{ ...entries([top])[0]!, t: kids[1]!.cid }], l: kids[0]!.cid }, kids);
    };
    expect(tree(second)).toBe('accepted');
    for (const key of misplaced.slice(-40))
      expect(tree([...second, key].sort())).toBe('mst_invalid: key at the wrong height');
  });

  test('when a kid is outside the keys around it', () => {
    const above = block({ e: entries([low.find((key) => key > high[0]!)!]), l: null });
    expect(refusal({ e: entries([high[0]!]), l: above.cid }, [above])).toBe('mst_invalid: keys not sorted');
    const below = block({ e: entries([keysOf(0, 1)[0]!]), l: null });
    const last = keysOf(1, 3)[2]!;
    expect(refusal({ e: [{ ...entries([last])[0]!, t: below.cid }], l: null }, [below])).toBe(
      'mst_invalid: keys not sorted',
    );
  });

  test('when it is empty where it must not be', () => {
    const kid = block({ e: entries(low), l: null });
    expect(refusal({ e: [], l: kid.cid }, [kid])).toBe('mst_invalid: root without entries');
    const empty = block({ e: [], l: null });
    expect(refusal({ e: entries(high), l: empty.cid }, [empty])).toBe('mst_invalid: empty node');
  });

  test('when one node stands in two places', () => {
    const two = keysOf(2, 2);
    const deep = leaf(77);
    const through = block({ e: [], l: deep });
    const top = { e: entries(two).map((entry) => ({ ...entry, t: through.cid })), l: through.cid };
    expect(refusal(top, [through])).toBe('mst_invalid: node referred to more than once');
  });

  test('when it is over the bounds', () => {
    const many = keysOf(0, MAX_NODE_ENTRIES + 1).sort();
    expect(refusal({ e: entries(many), l: null })).toBe('mst_invalid: too many entries');
    expect(refusal({ e: entries(many.slice(1)), l: null })).toBe('accepted');
    const long = [{ k: Buffer.alloc(1025, 'a'), p: 0, t: null, v: value }];
    expect(refusal({ e: long, l: null })).toBe('mst_invalid: key too long');
  });

  test('when it has any other form', () => {
    const good = entries(low);
    for (const node of [
      { e: good },
      { e: good, l: null, x: 1 },
      { e: 5, l: null },
      { e: good, l: leaf(3).toString() },
      { e: good, l: cidOf(new Uint8Array(1), 0x55) },
      [],
      'node',
      { e: [{ ...good[0]!, x: 1 }], l: null },
      { e: [{ ...good[0]!, v: null }], l: null },
      { e: [{ ...good[0]!, t: 7 }], l: null },
      { e: [{ ...good[0]!, k: low[0]! }], l: null },
      { e: [null], l: null },
    ]) {
      expect(refusal(node)).toMatch(/^mst_invalid: (not|ends)/);
    }
    const strange = [{ k: Buffer.from('com.example.record/ä'), p: 0, t: null, v: value }];
    expect(refusal({ e: strange, l: null })).toBe('mst_invalid: key holds a character no path has');
    const top = block({ e: good, l: null });
    const longer = concat(top.bytes, [0]);
    expect(load(cidOf(longer), [{ cid: cidOf(longer), bytes: longer }])).toBe('mst_invalid: not a node');
    for (let length = 0; length < top.bytes.length; length++) {
      const bytes = top.bytes.slice(0, length);
      const cid = cidOf(bytes);
      expect(load(cid, [{ cid, bytes }, top])).toMatch(/^mst_invalid/);
    }
  });
});
