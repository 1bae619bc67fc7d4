import { beforeEach, describe, expect, test } from 'bun:test';
import { type RecordWriteOp, WriteOpAction } from '@atproto/repo';
import fc from 'fast-check';
import { applyCommit, commitMessage, prepareCommit, type Write } from '../../simulator/account.ts';
import { encodeMessage } from '../../simulator/frames.ts';
import { createKey } from '../../simulator/keys.ts';
import { emptyTree } from '../../simulator/tree.ts';
import { changeCounters, collectionChanges } from '../../src/collections/changes.ts';
import { scanFrame } from '../../src/firehose/scan.ts';
import { KIND } from '../../src/firehose/types.ts';
import {
  type Block,
  block,
  type CommitParts,
  car,
  choices,
  commitFrame,
  commitOf,
  DID,
  frameOf,
  framesFixture,
  newRepo,
  scanned,
} from '../repo/support.ts';

/** Names that are prefixes of each other, and that sort on both sides of the slash. */
const COLLECTIONS = [
  'app.bsky.feed.like',
  'app.bsky.feed.post',
  'app.bsky.feed.post0',
  'app.bsky.feed.postgate',
  'app.bsky.feed.post.reply',
  'app.bsky.graph.follow',
  'com.example.a',
  'com.example.aa',
];

const collectionOf = (path: string): string => path.slice(0, path.indexOf('/'));
const collectionsOf = (paths: Iterable<string>): Set<string> => new Set([...paths].map(collectionOf));

const apply = (held: Set<string>, changes: ReturnType<typeof collectionChanges>): void => {
  for (const collection of changes.present) held.add(collection);
  for (const collection of changes.removed) held.delete(collection);
};

type Change = readonly ['create' | 'update' | 'delete', string];

/** Writes of one commit on what is held: some of everything, whole collections, now and then the whole repo. */
const nextChanges = (held: ReadonlySet<string>, choose: (below: number) => number): Change[] => {
  const changes = new Map<string, Change[0]>();
  const existing = [...held];
  const newPath = (collection: string): string => `${collection}/${choose(100_000).toString(36)}`;
  const deleteAll = (collection: string): void => {
    for (const path of existing) if (collectionOf(path) === collection) changes.set(path, 'delete');
  };
  const shape = choose(12);
  if (shape === 0) for (const path of existing) changes.set(path, 'delete');
  else if (shape <= 2 && existing.length > 0) deleteAll(collectionOf(existing[choose(existing.length)]!));
  else if (shape === 3) deleteAll(COLLECTIONS[choose(COLLECTIONS.length)]!);
  const singles = shape === 4 ? 0 : shape < 8 ? 1 : choose(6);
  for (let index = 0; index < singles; index++) {
    const collection = COLLECTIONS[choose(COLLECTIONS.length)]!;
    const kind = choose(3);
    if (kind === 0 || existing.length === 0) changes.set(newPath(collection), 'create');
    else changes.set(existing[choose(existing.length)]!, kind === 1 ? 'delete' : 'update');
  }
  return [...changes]
    .filter(([path, action]) => held.has(path) === (action !== 'create'))
    .slice(0, 150)
    .map(([path, action]) => [action, path]);
};

const applyWrites = (held: Set<string>, changes: readonly Change[]): void => {
  for (const [action, path] of changes) {
    if (action === 'delete') held.delete(path);
    else held.add(path);
  }
};

beforeEach(() => {
  for (const name of Object.keys(changeCounters)) changeCounters[name as keyof typeof changeCounters] = 0;
});

describe('after any history of commits the collections are the true ones', () => {
  test('of repositories by @atproto/repo, with nothing left unproven', async () => {
    let removed = 0;
    for (let seed = 0; seed < 24; seed++) {
      const choose = choices(seed);
      const made = await newRepo([]);
      const held = new Set<string>();
      const index = new Set<string>();
      for (let round = 0; round < 25; round++) {
        const changes = nextChanges(held, choose);
        const writes = changes.map(([action, path]) => ({
          action: {
            create: WriteOpAction.Create,
            update: WriteOpAction.Update,
            delete: WriteOpAction.Delete,
          }[action],
          collection: collectionOf(path),
          rkey: path.slice(path.indexOf('/') + 1),
          ...(action === 'delete' ? {} : { record: { $type: collectionOf(path), round } }),
        })) as RecordWriteOp[];
        const before = collectionsOf(held);
        applyWrites(held, changes);
        const after = collectionsOf(held);
        const said = collectionChanges(scanned(commitFrame(await commitOf(made, writes))));
        expect(said.did).toBe(DID);
        expect(said.unproven).toEqual([]);
        expect(new Set(said.removed).size).toBe(said.removed.length);
        expect(new Set(said.present).size).toBe(said.present.length);
        expect([...said.removed].sort()).toEqual([...before].filter((one) => !after.has(one)).sort());
        removed += said.removed.length;
        apply(index, said);
        expect([...index].sort()).toEqual([...after].sort());
      }
    }
    expect(removed).toBeGreaterThan(100);
    expect(changeCounters).toMatchObject({ removed, unproven: 0, malformed: 0 });
  }, 60_000);

  test('of simulated accounts, small and large, with nothing left unproven', () => {
    const key = createKey('k256', new Uint8Array(32).fill(7));
    let removed = 0;
    for (let seed = 0; seed < 150; seed++) {
      const choose = choices(seed + 1000);
      const account = {
        index: 0,
        did: DID,
        key,
        tree: emptyTree(),
        rev: '',
        revMicros: 0,
      } as unknown as Parameters<typeof prepareCommit>[0];
      const held = new Set<string>();
      const index = new Set<string>();
      const commit = (changes: readonly Change[]): void => {
        const writes = changes.map(
          ([action, path]): Write => ({ action, path, record: { round: held.size } }),
        );
        const prepared = prepareCommit(account, 0, 1_700_000_000_000, writes);
        const frame = scanFrame(encodeMessage(commitMessage(account, prepared, 1, 1_700_000_000_000)));
        if (!frame.ok) throw new Error(frame.reason);
        applyCommit(account, prepared);
        const said = collectionChanges(frame);
        expect(said.unproven).toEqual([]);
        removed += said.removed.length;
        apply(index, said);
        applyWrites(held, changes);
        expect([...index].sort()).toEqual([...collectionsOf(held)].sort());
      };
      if (seed % 3 === 0) {
        for (let batch = 0; batch < 3; batch++) {
          commit(
            Array.from({ length: 100 }, (_, at) => [
              'create',
              `${COLLECTIONS[choose(COLLECTIONS.length)]}/${batch}x${at}`,
            ]),
          );
        }
      }
      for (let round = 0; round < 40; round++) commit(nextChanges(held, choose));
    }
    expect(removed).toBeGreaterThan(500);
    expect(changeCounters).toMatchObject({ unproven: 0, malformed: 0 });
  }, 60_000);

  test('of recorded commits of a real PDS, with nothing left unproven', () => {
    const frames = framesFixture('realframes/frames.lp.bin');
    if (frames === null) return;
    const held = new Map<string, Set<string>>();
    const index = new Map<string, Set<string>>();
    let commits = 0;
    for (const bytes of frames) {
      const frame = scanned(bytes);
      const said = collectionChanges(frame);
      if (frame.kind !== KIND.commit) {
        expect(said).toEqual({ did: frame.did, present: [], removed: [], unproven: [] });
        continue;
      }
      commits++;
      expect(said.unproven).toEqual([]);
      // Only a repo that was followed from its first commit is known whole.
      if (frame.since === null && !held.has(frame.did)) {
        held.set(frame.did, new Set());
        index.set(frame.did, new Set());
      }
      const paths = held.get(frame.did);
      if (paths === undefined) continue;
      for (const op of frame.ops) {
        if (op.action === 'delete') paths.delete(op.path);
        else paths.add(op.path);
      }
      apply(index.get(frame.did)!, said);
      expect([...index.get(frame.did)!].sort()).toEqual([...collectionsOf(paths)].sort());
    }
    expect(commits).toBeGreaterThan(500);
    expect(changeCounters).toMatchObject({ commits, unproven: 0, malformed: 0 });
    expect(changeCounters.deletes).toBeGreaterThan(0);
  });
});

describe('what the blocks do not prove', () => {
  test('is never taken for a removal, whichever blocks are missing', async () => {
    let unproven = 0;
    for (let seed = 0; seed < 12; seed++) {
      const choose = choices(seed + 5000);
      const made = await newRepo([]);
      const held = new Set<string>();
      for (let round = 0; round < 20; round++) {
        const changes = nextChanges(held, choose);
        const parts = await commitOf(
          made,
          changes.map(([action, path]) => ({
            action,
            collection: collectionOf(path),
            rkey: path.slice(path.indexOf('/') + 1),
            ...(action === 'delete' ? {} : { record: { $type: collectionOf(path), round } }),
          })) as RecordWriteOp[],
        );
        const before = collectionsOf(held);
        applyWrites(held, changes);
        const after = collectionsOf(held);
        for (let attempt = 0; attempt < 10; attempt++) {
          const share = 1 + choose(4);
          const blocks = parts.blocks.filter(() => choose(4) >= share - 1);
          const said = collectionChanges(scanned(commitFrame({ ...parts, blocks })));
          for (const collection of said.removed) expect(after.has(collection)).toBe(false);
          for (const collection of said.present) expect(after.has(collection)).toBe(true);
          // Nothing is passed over in silence either.
          for (const collection of before)
            if (!after.has(collection))
              expect(said.removed.includes(collection) || said.unproven.includes(collection)).toBe(true);
          unproven += said.unproven.length;
        }
      }
    }
    expect(unproven).toBeGreaterThan(100);
    expect(changeCounters).toMatchObject({ unproven, malformed: 0 });
  }, 60_000);

  test('is unproven when bytes of the blocks are changed, and nothing throws', async () => {
    const choose = choices(99);
    const made = await newRepo([]);
    const create = (path: string): RecordWriteOp => ({
      action: WriteOpAction.Create,
      collection: collectionOf(path) as `${string}.${string}.${string}`,
      rkey: path.slice(path.indexOf('/') + 1),
      record: { text: path },
    });
    await commitOf(made, [
      ...Array.from({ length: 60 }, (_, at) => create(`app.bsky.feed.like/${at}`)),
      ...Array.from({ length: 60 }, (_, at) => create(`app.bsky.graph.follow/${at}`)),
      create('app.bsky.feed.post/one'),
    ]);
    const parts = await commitOf(made, [
      { action: WriteOpAction.Delete, collection: 'app.bsky.feed.post', rkey: 'one' },
      { action: WriteOpAction.Delete, collection: 'app.bsky.graph.follow', rkey: '7' },
    ]);
    const frame = scanned(commitFrame(parts));
    expect(collectionChanges(frame)).toEqual({
      did: DID,
      present: ['app.bsky.graph.follow'],
      removed: ['app.bsky.feed.post'],
      unproven: [],
    });
    for (let attempt = 0; attempt < 20_000; attempt++) {
      const at = frame.blocksStart + choose(frame.blocksEnd - frame.blocksStart);
      const was = frame.bytes[at]!;
      frame.bytes[at] = choose(256);
      // Frames of the log are hash-checked, so this cannot come in; it must not bring the index down even so.
      const said = collectionChanges(frame);
      expect(said.present.length + said.removed.length + said.unproven.length).toBe(2);
      frame.bytes[at] = was;
    }
    expect(changeCounters.malformed).toBeGreaterThan(0);
  });

  test('any bytes in place of a node are answered', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.uint8Array({ maxLength: 200 }),
          fc
            .uint8Array({ maxLength: 100 })
            .map((tail) => Uint8Array.of(0xa2, 0x61, 0x65, 0x82, 0xa4, 0x61, 0x6b, 0x58, ...tail)),
          fc
            .uint8Array({ maxLength: 100 })
            .map((tail) =>
              Uint8Array.of(0xa2, 0x61, 0x65, 0x99, 0x01, 0x00, 0xa4, 0x61, 0x6b, 0x43, ...tail),
            ),
        ),
        (bytes) => {
          const node: Block = { cid: block({ bytes }).cid, bytes };
          const said = collectionChanges(scanned(deleteCommit([node], node)));
          return said.removed.length === 0 && said.present.length === 0 && said.unproven.length === 1;
        },
      ),
      { numRuns: 2000 },
    );
  });
});

/** A commit that says it deleted app.bsky.feed.post/one, on a tree given by hand. */
const deleteCommit = (nodes: readonly Block[], root: Block, change: object = {}): Uint8Array => {
  const top = block({
    did: DID,
    rev: '3kaaaaaaaaa22',
    data: root.cid,
    prev: null,
    version: 3,
    sig: new Uint8Array(64),
  });
  const parts = {
    root: top.cid,
    blocks: [top, ...nodes],
    body: {
      seq: 1,
      repo: DID,
      rev: '3kaaaaaaaaa22',
      since: null,
      time: '2026-11-21T00:00:00.000Z',
      tooBig: false,
      rebase: false,
      blobs: [],
      ops: [{ action: 'delete', path: 'app.bsky.feed.post/one', cid: null }],
      ...change,
    },
  } as unknown as CommitParts;
  return commitFrame(parts);
};

describe('single commits', () => {
  const record = block({ text: 'x' });
  const entry = (k: string, p: number, t: unknown = null) => ({ k: Buffer.from(k), p, t, v: record.cid });
  const empty = block({ e: [], l: null });

  test('an empty tree has no collection', () => {
    expect(collectionChanges(scanned(deleteCommit([empty], empty)))).toMatchObject({
      present: [],
      removed: ['app.bsky.feed.post'],
      unproven: [],
    });
  });

  test('neighbours side by side prove that nothing is between them', () => {
    const node = block({ e: [entry('app.bsky.feed.like/1', 0), entry('postgate/1', 14)], l: null });
    expect(collectionChanges(scanned(deleteCommit([node], node))).removed).toEqual(['app.bsky.feed.post']);
  });

  test('a subtree between the neighbours that the commit does not carry proves nothing; one beside them does not matter', () => {
    const hidden = block({ e: [entry('app.bsky.feed.post/x', 0)], l: null });
    const between = block({
      e: [entry('app.bsky.feed.like/1', 0, hidden.cid), entry('postgate/1', 14)],
      l: null,
    });
    expect(collectionChanges(scanned(deleteCommit([between], between)))).toMatchObject({
      removed: [],
      unproven: ['app.bsky.feed.post'],
    });
    expect(collectionChanges(scanned(deleteCommit([between, hidden], between)))).toMatchObject({
      present: ['app.bsky.feed.post'],
      removed: [],
      unproven: [],
    });
    const beside = block({
      e: [entry('app.bsky.feed.like/1', 0), entry('postgate/1', 14, hidden.cid)],
      l: hidden.cid,
    });
    expect(collectionChanges(scanned(deleteCommit([beside], beside))).removed).toEqual([
      'app.bsky.feed.post',
    ]);
  });

  test('keys out of order, within a node or against the one above, prove nothing', () => {
    const unsorted = block({ e: [entry('b.b.b/1', 0), entry('app.bsky.feed.like/1', 0)], l: null });
    expect(collectionChanges(scanned(deleteCommit([unsorted], unsorted))).unproven.length).toBe(1);
    const below = block({ e: [entry('app.bsky.feed.a/1', 0)], l: null });
    const above = block({ e: [entry('app.bsky.feed.like/1', 0, below.cid)], l: null });
    expect(collectionChanges(scanned(deleteCommit([above, below], above))).unproven.length).toBe(1);
    const beyond = block({ e: [entry('z.z.z/1', 0)], l: null });
    const bounded = block({
      e: [entry('app.bsky.feed.like/1', 0, beyond.cid), entry('postgate/1', 14)],
      l: null,
    });
    expect(collectionChanges(scanned(deleteCommit([bounded, beyond], bounded))).unproven.length).toBe(1);
  });

  test('tooBig and rebase say that the ops may not be all; the blocks still prove what they prove', () => {
    for (const change of [{ tooBig: true }, { rebase: true }]) {
      expect(collectionChanges(scanned(deleteCommit([empty], empty, change)))).toEqual({
        did: DID,
        present: [],
        removed: ['app.bsky.feed.post'],
        unproven: [],
        incomplete: true,
      });
      const none = collectionChanges(scanned(deleteCommit([empty], empty, { ...change, ops: [] })));
      expect(none).toEqual({ did: DID, present: [], removed: [], unproven: [], incomplete: true });
    }
    expect(changeCounters.incomplete).toBe(4);
  });

  test('of a record created and deleted again in one commit only the tree tells what is left', () => {
    const ops = [
      { action: 'create', path: 'app.bsky.feed.post/one', cid: record.cid },
      { action: 'delete', path: 'app.bsky.feed.post/one', cid: null },
    ];
    expect(collectionChanges(scanned(deleteCommit([empty], empty, { ops })))).toMatchObject({
      present: [],
      removed: ['app.bsky.feed.post'],
    });
    const node = block({ e: [entry('app.bsky.feed.post/one', 0)], l: null });
    expect(collectionChanges(scanned(deleteCommit([node], node, { ops: ops.toReversed() })))).toMatchObject({
      present: ['app.bsky.feed.post'],
      removed: [],
    });
    expect(collectionChanges(scanned(deleteCommit([], node, { ops })))).toMatchObject({
      present: ['app.bsky.feed.post'],
      removed: [],
      unproven: ['app.bsky.feed.post'],
    });
  });

  test('a path that names no collection is passed over and counted', () => {
    const ops = ['nothing', '/x', 'a/b', 'app.bsky.feed.like/1', `${'a.'.repeat(400)}b/x`].map((path) => ({
      action: 'create',
      path,
      cid: record.cid,
    }));
    const said = collectionChanges(scanned(deleteCommit([empty], empty, { ops })));
    expect(said.present).toEqual(['app.bsky.feed.like']);
    expect(changeCounters.malformed).toBe(4);
  });

  test('an empty commit, a #sync, an #account say nothing', () => {
    const said = { did: DID, present: [], removed: [], unproven: [] };
    expect(collectionChanges(scanned(deleteCommit([empty], empty, { ops: [] })))).toEqual(said);
    const time = '2026-11-21T00:00:00.000Z';
    const top = block({ a: 1 });
    const sync = frameOf('#sync', {
      seq: 1,
      did: DID,
      rev: '3kaaaaaaaaa22',
      time,
      blocks: car(top.cid, [top]),
    });
    expect(collectionChanges(scanned(sync))).toEqual(said);
    expect(collectionChanges(scanned(frameOf('#account', { seq: 1, did: DID, time, active: true })))).toEqual(
      said,
    );
  });

  test('commits with only creates and updates do not touch the tree', () => {
    const ops = [
      { action: 'create', path: 'app.bsky.feed.post/one', cid: record.cid },
      { action: 'update', path: 'app.bsky.feed.like/one', cid: record.cid },
      { action: 'create', path: 'app.bsky.feed.post/two', cid: record.cid },
    ];
    const said = collectionChanges(scanned(deleteCommit([], empty, { ops })));
    expect(said.present).toEqual(['app.bsky.feed.post', 'app.bsky.feed.like']);
    expect(changeCounters.walks).toBe(0);
  });
});
