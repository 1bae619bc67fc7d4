import { beforeAll, describe, expect, test } from 'bun:test';
import { parseDidKey } from '@atproto/crypto';
import { WriteOpAction } from '@atproto/repo';
import * as dagCbor from '@ipld/dag-cbor';
import { base58btc } from 'multiformats/bases/base58';
import type { CID } from 'multiformats/cid';
import secp256k1 from 'secp256k1';
import { KIND } from '../../src/firehose/types.ts';
import type { Reason } from '../../src/reasons.ts';
import { createSigningKey } from '../../src/repo/key.ts';
import type { SigningKey, Validation, Verdict } from '../../src/repo/types.ts';
import { MAX_REV_AHEAD_MS, verifyCommit, verifySync } from '../../src/repo/verify.ts';
import {
  type Block,
  block,
  type CommitParts,
  car,
  choices,
  cidOf,
  commitFrame,
  commitOf,
  concat,
  DID,
  frameOf,
  framesFixture,
  jsonFixture,
  newKeypair,
  newRepo,
  post,
  resigned,
  scanned,
  signed,
  signingKeyOf,
  type TestRepo,
} from './support.ts';

const soonMs = Date.now() + 60_000;

function verify(
  frame: Uint8Array,
  key: SigningKey,
  options: { validation?: Validation; firstCommit?: boolean; nowMs?: number } = {},
): Verdict {
  return verifyCommit(scanned(frame), key, {
    nowMs: soonMs,
    validation: 'strict',
    firstCommit: false,
    ...options,
  });
}

/** The verdict in a word: 'ok', or the reason. */
const digestText = (cid: { readonly multihash: { readonly digest: Uint8Array } }): string =>
  Buffer.from(cid.multihash.digest).toString('latin1');
const word = (verdict: Verdict): Reason | 'ok' => (verdict.ok ? 'ok' : verdict.reason);

describe('commits of generated repositories', () => {
  for (const [type, sizes] of [
    ['k256', [1, 2, 7, 40, 300]],
    ['p256', [1, 25]],
  ] as const) {
    for (const size of sizes) {
      test(`${type}, ${size} records: creates, updates, deletes, several at once, none at all`, async () => {
        const records = Array.from({ length: size }, (_, at) => post(`3k${at}`, `text ${at}`));
        const made = await newRepo(records, type);
        const choose = choices(size);
        const rkeys = new Set(records.map((record) => record.rkey));
        const update = (rkey: string, text: string) => ({
          ...post(rkey, text),
          action: WriteOpAction.Update as const,
        });
        for (let round = 0; round < 12; round++) {
          const existing = [...rkeys];
          const one = existing[choose(existing.length)]!;
          const rkey = `3z${round}`;
          const kind = round % 5;
          let writes: Parameters<typeof commitOf>[1] = [];
          if (kind === 0) writes = [post(rkey, 'new')];
          else if (kind === 1) writes = [update(one, `again ${round}`)];
          else if (kind === 2 && existing.length > 1) {
            writes = [{ action: WriteOpAction.Delete, collection: 'app.bsky.feed.post', rkey: one }];
            rkeys.delete(one);
          } else if (kind === 3) {
            writes = [post(rkey, 'new'), post(`${rkey}b`, 'new'), update(one, 'many')];
            rkeys.add(`${rkey}b`);
          }
          if (kind === 0 || kind === 3) rkeys.add(rkey);
          const before = made.repo.commit.data;
          const parts = await commitOf(made, writes);
          const verdict = verify(commitFrame(parts), made.key);
          expect(verdict).toEqual({
            ok: true,
            rev: made.repo.commit.rev,
            commit: digestText(made.repo.cid),
            data: digestText(made.repo.commit.data),
            prevData: digestText(before),
            lenient: null,
          });
        }
      }, 30_000);
    }
  }

  test('a commit that empties the repository, and one that fills an empty one', async () => {
    const made = await newRepo([]);
    const filled = await commitOf(made, [post('3k1', 'first')]);
    expect(word(verify(commitFrame(filled), made.key))).toBe('ok');
    const emptied = await commitOf(made, [
      { action: WriteOpAction.Delete, collection: 'app.bsky.feed.post', rkey: '3k1' },
    ]);
    expect(word(verify(commitFrame(emptied), made.key))).toBe('ok');
  });

  test('#sync with just the commit block', async () => {
    const made = await newRepo([post('3k1', 'text')]);
    const parts = await commitOf(made, [post('3k2', 'text')]);
    const body = { seq: 9, did: DID, rev: parts.commit.rev, time: '2026-11-21T00:00:00.000Z' };
    const top = parts.blocks.find((one) => one.cid.equals(parts.root))!;
    const sync = (blocks: Uint8Array, change: object = {}): Verdict =>
      verifySync(scanned(frameOf('#sync', { ...body, blocks, ...change })), made.key, { nowMs: soonMs });
    expect(sync(car(parts.root, [top]))).toEqual({
      ok: true,
      rev: parts.commit.rev,
      commit: digestText(parts.root),
      data: digestText(parts.commit.data),
      prevData: null,
      lenient: null,
    });
    expect(word(sync(car(parts.root, [])))).toBe('commit_root_mismatch');
    expect(word(sync(car(parts.root, [top]), { rev: '3zzzzzzzzzz22' }))).toBe('commit_object_invalid');
    expect(word(sync(car(parts.root, [top]), { did: 'did:web:example.com' }))).toBe('commit_object_invalid');
    const padding = block('x'.repeat(10_000));
    expect(word(sync(car(parts.root, [top, padding])))).toBe('blocks_too_large');
  });
});

describe('recorded frames', () => {
  /** The one signing key of a DID document, in the legacy form: a bare uncompressed point. */
  function keyOf(document: { verificationMethod: { publicKeyMultibase: string }[] }): SigningKey {
    const point = base58btc.decode(document.verificationMethod[0]!.publicKeyMultibase);
    expect(point.length).toBe(65);
    return createSigningKey('k256', secp256k1.publicKeyConvert(point, true))!;
  }

  test('every commit and sync of a real PDS is accepted', () => {
    const frames = framesFixture('realframes/frames.lp.bin');
    const documents = jsonFixture<Record<string, Parameters<typeof keyOf>[0]>>('realframes/diddocs.json');
    if (frames === null || documents === null) return;
    const keys = new Map(Object.entries(documents).map(([did, document]) => [did, keyOf(document)]));
    const seen = new Set<string>();
    let commits = 0;
    let syncs = 0;
    for (const bytes of frames) {
      const frame = scanned(bytes);
      const key = keys.get(frame.did);
      if (key === undefined) continue;
      if (frame.kind === KIND.commit) {
        const firstCommit = !seen.has(frame.did);
        const verdict = verifyCommit(frame, key, { nowMs: soonMs, validation: 'strict', firstCommit });
        expect([frame.seq, word(verdict)]).toEqual([frame.seq, 'ok']);
        seen.add(frame.did);
        commits++;
      } else if (frame.kind === KIND.sync) {
        expect(word(verifySync(frame, key, { nowMs: soonMs }))).toBe('ok');
        syncs++;
      }
    }
    expect(commits).toBeGreaterThan(500);
    expect(syncs).toBeGreaterThan(3);
  });

  test('every commit on a repository of 20,000 records is accepted, and none of them with another key', async () => {
    const frames = framesFixture('realframes/synth20000.lp.bin');
    const made = jsonFixture<{ did: string; didKey: string }>('realframes/synth20000.json');
    if (frames === null || made === null) return;
    const key = createSigningKey(
      'k256',
      secp256k1.publicKeyConvert(parseDidKey(made.didKey).keyBytes, true),
    )!;
    const stranger = signingKeyOf(await newKeypair('k256'));
    expect(frames.length).toBe(400);
    for (const bytes of frames) {
      expect(word(verify(bytes, key))).toBe('ok');
      expect(word(verify(bytes, stranger))).toBe('signature_invalid');
    }
  });
});

describe('a commit is refused', () => {
  let made: TestRepo;
  let parts: CommitParts;
  let rest: Block[];
  /** As the parts, with another body. */
  const withBody = (change: object): CommitParts => ({ ...parts, body: { ...parts.body, ...change } });
  const withOps = (change: (ops: Record<string, unknown>[]) => unknown): CommitParts =>
    withBody({ ops: change(parts.body.ops.map((op) => ({ ...op }))) });
  const outcome = (changed: CommitParts, options: Parameters<typeof verify>[2] = {}) =>
    word(verify(commitFrame(changed), made.key, options));
  /** Strict gives the reason; lenient passes and notes it. */
  const softly = (changed: CommitParts, reason: Reason): void => {
    const frame = commitFrame(changed);
    expect(word(verify(frame, made.key))).toBe(reason);
    expect(verify(frame, made.key, { validation: 'lenient' })).toMatchObject({ ok: true, lenient: reason });
  };
  /** Strict and lenient both refuse. */
  const always = (changed: CommitParts, reason: Reason): void => {
    expect([outcome(changed), outcome(changed, { validation: 'lenient' })]).toEqual([reason, reason]);
  };

  beforeAll(async () => {
    made = await newRepo(Array.from({ length: 60 }, (_, at) => post(`3k${at}`, `text ${at}`)));
    parts = await commitOf(made, [
      post('3new', 'a new one'),
      { ...post('3k7', 'again'), action: WriteOpAction.Update },
      { action: WriteOpAction.Delete, collection: 'app.bsky.feed.post', rkey: '3k9' },
    ]);
    rest = parts.blocks.filter((one) => !one.cid.equals(parts.root));
  });

  test('not as it is', () => {
    expect(outcome(parts)).toBe('ok');
    expect(verify(commitFrame(parts), made.key, { validation: 'lenient' })).toMatchObject({ lenient: null });
  });

  test('for a CAR that is not one root and its blocks', () => {
    const top = parts.blocks.find((one) => one.cid.equals(parts.root))!;
    const blocksOf = (blocks: Uint8Array): Uint8Array =>
      frameOf('#commit', { ...parts.body, commit: parts.root, blocks });
    const good = car(parts.root, parts.blocks);
    const refused = (blocks: Uint8Array): string => word(verify(blocksOf(blocks), made.key));
    expect(refused(good)).toBe('ok');
    for (const bad of [
      new Uint8Array(0),
      good.subarray(0, good.length - 1),
      concat(good, [0]),
      concat(good, [36]),
      // The header's length in two bytes.
      concat([0xba, 0x00], good.subarray(1)),
      concat([0x11], dagCbor.encode({ version: 1, roots: [] }), good.subarray(59)),
    ]) {
      expect(refused(bad)).toBe('car_invalid');
    }
    const twoRoots = dagCbor.encode({ version: 1, roots: [parts.root, parts.root] });
    expect(refused(concat([twoRoots.length], twoRoots, good.subarray(59)))).toBe('car_invalid');
    const version2 = dagCbor.encode({ version: 2, roots: [parts.root] });
    expect(refused(concat([version2.length], version2, good.subarray(59)))).toBe('car_invalid');
    const raw = { cid: cidOf(top.bytes, 0x55), bytes: top.bytes };
    expect(refused(car(parts.root, [...parts.blocks, raw]))).toBe('car_invalid');
    // A block's length in one byte more than it needs.
    const unused = block({ unused: true });
    const length = unused.cid.bytes.length + unused.bytes.length;
    expect(refused(concat(good, [length], unused.cid.bytes, unused.bytes))).toBe('ok');
    expect(refused(concat(good, [length | 0x80, 0], unused.cid.bytes, unused.bytes))).toBe('car_invalid');
    expect(refused(concat(good, [0xff, 0xff, 0xff, 0xff, 0x01], unused.cid.bytes))).toBe('car_invalid');
    // What nobody refers to is allowed, and so is what comes twice; but not when its bytes are other bytes.
    expect(refused(car(parts.root, [...parts.blocks, block({ unused: true }), top]))).toBe('ok');
    const false_ = { cid: block({ unused: true }).cid, bytes: block({ unused: false }).bytes };
    expect(refused(car(parts.root, [...parts.blocks, false_]))).toBe('block_hash_mismatch');
  });

  test('for blocks that are too large', () => {
    const padding = block('x'.repeat(2_000_000));
    always({ ...parts, blocks: [...parts.blocks, padding] }, 'blocks_too_large');
  });

  test('for a root that is not the commit', () => {
    always({ ...parts, blocks: rest }, 'commit_root_mismatch');
    const frame = frameOf('#commit', {
      ...parts.body,
      commit: rest[0]!.cid,
      blocks: car(parts.root, parts.blocks),
    });
    expect(word(verify(frame, made.key))).toBe('commit_root_mismatch');
  });

  test('for a commit object that is none, or another one', async () => {
    for (const change of [
      { version: 2 },
      { version: 4 },
      { did: 'did:plc:someoneelsesomeoneelses1' },
      { did: 7 },
      { rev: '3zzzzzzzzzz22' },
      { data: null },
      { data: cidOf(new Uint8Array(3), 0x55) },
      { prev: 'none' },
      { padding: 'x'.repeat(20_000) },
    ]) {
      always(await resigned(parts, change, made.keypair), 'commit_object_invalid');
    }
    for (const rev of ['', 'not a tid', '0000000000000']) {
      always(await resigned(parts, { rev }, made.keypair), 'rev_invalid');
    }
    for (const value of ['text', [], null, { ...parts.commit, sig: 'text' }, { version: 3 }]) {
      const top = block(value);
      always({ ...parts, root: top.cid, blocks: [top, ...rest] }, 'commit_object_invalid');
    }
    const longer = concat(dagCbor.encode(parts.commit), [0]);
    const trailing = { cid: cidOf(longer), bytes: longer };
    always({ ...parts, root: trailing.cid, blocks: [trailing, ...rest] }, 'commit_object_invalid');
    const { sig: _, ...unsigned } = parts.commit;
    const bare = block(unsigned);
    always({ ...parts, root: bare.cid, blocks: [bare, ...rest] }, 'commit_object_invalid');
    // A field nobody knows is signed with the others; the deprecated prev may be absent.
    expect(outcome(await resigned(parts, { later: { any: ['thing'] } }, made.keypair))).toBe('ok');
    const { prev: __, ...withoutPrev } = unsigned;
    const top = await signed(withoutPrev as never, made.keypair);
    expect(outcome({ ...parts, root: top.cid, blocks: [top, ...rest] })).toBe('ok');
  });

  test('for a rev from the future', () => {
    const frame = commitFrame(parts);
    const madeMs = Date.now();
    expect(word(verify(frame, made.key, { nowMs: madeMs - MAX_REV_AHEAD_MS + 30_000 }))).toBe('ok');
    expect(word(verify(frame, made.key, { nowMs: madeMs - MAX_REV_AHEAD_MS - 120_000 }))).toBe('rev_future');
    expect(
      word(verify(frame, made.key, { nowMs: madeMs - MAX_REV_AHEAD_MS - 120_000, validation: 'lenient' })),
    ).toBe('rev_future');
  });

  test('for a signature by someone else, or over something else', async () => {
    always(await resigned(parts, {}, await newKeypair('k256')), 'signature_invalid');
    const other = block({ ...parts.commit, sig: new Uint8Array(64).fill(1) });
    always({ ...parts, root: other.cid, blocks: [other, ...rest] }, 'signature_invalid');
    const short = block({ ...parts.commit, sig: new Uint8Array(63) });
    always({ ...parts, root: short.cid, blocks: [short, ...rest] }, 'commit_object_invalid');
  });

  test('for its flags', () => {
    softly(withBody({ tooBig: true }), 'too_big_flag');
    softly(withBody({ rebase: true }), 'rebase_flag');
    const frame = frameOf('#commit', {
      ...parts.body,
      tooBig: true,
      ops: [],
      commit: parts.root,
      blocks: new Uint8Array(0),
    });
    expect(word(verify(frame, made.key))).toBe('too_big_flag');
    expect(word(verify(frame, made.key, { validation: 'lenient' }))).toBe('too_big_flag');
  });

  test('for ops that contradict themselves', () => {
    for (const path of [
      '',
      'app.bsky.feed.post',
      'app.bsky.feed.post/',
      'one/two',
      'a.b.c/../d',
      'a.b.c/ü',
    ]) {
      softly(
        withOps(([first, ...others]) => [{ ...first, path }, ...others]),
        'op_invalid',
      );
    }
    softly(
      withOps(([first, ...others]) => [{ ...first, cid: null }, ...others]),
      'op_invalid',
    );
    softly(
      withOps(([create, update, remove]) => [create, update, { ...remove, cid: update!.cid }]),
      'op_invalid',
    );
    softly(
      withOps(([create, update, remove]) => [{ ...create, prev: update!.cid }, update, remove]),
      'op_invalid',
    );
    softly(
      withOps(([create, ...others]) => [create, ...others, create]),
      'op_invalid',
    );
    // An old host sends no prev: then nothing can be undone.
    softly(
      withOps((ops) => ops.map(({ action, path, cid }) => ({ action, path, cid }))),
      'op_invalid',
    );
  });

  test('for ops that do not say what the tree says', () => {
    softly(
      withOps(([create, update, remove]) => [{ ...create, cid: update!.cid }, update, remove]),
      'op_tree_mismatch',
    );
    softly(
      withOps(([create, update, remove]) => [
        { ...create, path: 'app.bsky.feed.post/3newer' },
        update,
        remove,
      ]),
      'op_tree_mismatch',
    );
    // A delete of what is still there.
    softly(
      withOps(([create, update]) => [
        update,
        { action: 'delete', path: create!.path, cid: null, prev: create!.cid },
      ]),
      'op_tree_mismatch',
    );
  });

  test('for an op that is missing, one too many, or a wrong prev', () => {
    softly(
      withOps(([, ...others]) => others),
      'prev_data_mismatch',
    );
    softly(
      withOps((ops) => ops.slice(0, 2)),
      'prev_data_mismatch',
    );
    softly(
      withOps(([create, update, remove]) => [create, { ...update, prev: remove!.prev }, remove]),
      'prev_data_mismatch',
    );
    softly(
      withOps(([create, update, remove]) => [create, update, { ...remove, prev: update!.prev }]),
      'prev_data_mismatch',
    );
    // An update told as a create.
    softly(
      withOps(([create, update, remove]) => [
        create,
        { action: 'create', path: update!.path, cid: update!.cid },
        remove,
      ]),
      'prev_data_mismatch',
    );
    // A record that was not touched, next to one that was: its way is in the blocks.
    softly(
      withOps((ops) => [
        ...ops,
        { action: 'delete', path: 'app.bsky.feed.post/3k9x', cid: null, prev: parts.body.ops[1]?.prev },
      ]),
      'prev_data_mismatch',
    );
  });

  test('for prevData that is not what was before', () => {
    softly(withBody({ prevData: parts.commit.data }), 'prev_data_mismatch');
    const { prevData: _, ...body } = parts.body;
    const without = { ...parts, body: body as CommitParts['body'] };
    softly(without, 'prev_data_missing');
    softly({ ...parts, body: { ...body, prevData: null } as never }, 'prev_data_missing');
    // The first commit that the relay sees of a repository.
    expect(outcome(without, { firstCommit: true })).toBe('ok');
    expect(outcome(withBody({ prevData: parts.commit.data }), { firstCommit: true })).toBe(
      'prev_data_mismatch',
    );
    const unpaired = withOps(([create, update, remove]) => [{ ...create, cid: update!.cid }, update, remove]);
    const { prevData: __, ...unpairedBody } = unpaired.body;
    expect(outcome({ ...unpaired, body: unpairedBody as never }, { firstCommit: true })).toBe(
      'op_tree_mismatch',
    );
  });

  test('for records that are absent, too large or no DAG-CBOR maps', async () => {
    const created = parts.body.ops[0]!.cid as CID;
    softly({ ...parts, blocks: parts.blocks.filter((one) => !one.cid.equals(created)) }, 'op_record_missing');
    const swapped = (bytes: Uint8Array): CommitParts => {
      const cid = cidOf(bytes);
      return {
        ...withOps(([create, ...others]) => [{ ...create, cid }, ...others]),
        blocks: [...parts.blocks, { cid, bytes }],
      };
    };
    for (const bytes of [
      dagCbor.encode('text'),
      dagCbor.encode([1, 2]),
      new Uint8Array(0),
      concat(dagCbor.encode({ a: 1 }), [0]),
      Uint8Array.of(0xa1, 0x61, 0x61, 0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0),
      Uint8Array.of(0xa2, 0x61, 0x62, 1, 0x61, 0x61, 1),
      dagCbor.encode({ text: 'x'.repeat(1_000_001) }),
    ]) {
      softly(swapped(bytes), 'op_record_invalid');
    }
    // Well-formed, but not what the tree holds.
    softly(swapped(dagCbor.encode({ text: 'another' })), 'op_tree_mismatch');
  });

  test('for a tree that is malformed or not all there', async () => {
    const nodes = rest.filter((one) => 'e' in (dagCbor.decode(one.bytes) as object));
    expect(nodes.length).toBeGreaterThan(1);
    const root = nodes.find((one) => one.cid.equals(parts.commit.data))!;
    softly({ ...parts, blocks: parts.blocks.filter((one) => one !== root) }, 'mst_invalid');
    for (const change of [
      (node: { e: { p: number }[] }) => ({ ...node, e: node.e.toReversed() }),
      (node: { e: { p: number }[] }) => ({
        ...node,
        e: node.e.map((entry) => ({ ...entry, p: entry.p + 1 })),
      }),
      (node: object) => ({ ...node, more: 1 }),
    ]) {
      const broken = block(change(dagCbor.decode(root.bytes)));
      const changed = await resigned(parts, { data: broken.cid }, made.keypair);
      softly({ ...changed, blocks: [...changed.blocks, broken] }, 'mst_invalid');
    }
  });

  test('for being empty and yet changing the data', async () => {
    const empty = withBody({ ops: [] });
    softly(empty, 'prev_data_mismatch');
    expect(outcome(withBody({ ops: [], prevData: parts.commit.data }))).toBe('ok');
  });

  test('for any other tree, even one that is signed and hashes well, and without a throw', () => {
    // A key that signs everything: what is left to hold is the tree.
    const anyone: SigningKey = { type: 'k256', verify: () => true };
    const nodes = rest.filter((one) => 'e' in (dagCbor.decode(one.bytes) as object));
    const choose = choices(11);
    const reasons = new Map<string, number>();
    for (let round = 0; round < 4000; round++) {
      let blocks = [...parts.blocks];
      let old = nodes[choose(nodes.length)]!;
      const bytes = old.bytes.slice();
      const kind = choose(4);
      const at = choose(bytes.length);
      if (kind === 0) bytes[at]! ^= 1 << choose(8);
      else if (kind === 1) bytes[at] = choose(256);
      else if (kind === 2) bytes.copyWithin(at, choose(bytes.length), choose(bytes.length));
      let changed: Uint8Array = kind === 3 ? bytes.slice(0, at) : bytes;
      if (Buffer.from(changed).equals(old.bytes)) continue;
      // Up to the commit: whoever holds the old digest now holds the new one.
      let top: Block | undefined;
      for (;;) {
        const fresh = { cid: cidOf(changed), bytes: changed };
        blocks = blocks.map((one) => (one.cid.equals(old.cid) ? fresh : one));
        if (old.cid.equals(parts.root)) {
          top = fresh;
          break;
        }
        const digest = Buffer.from(old.cid.multihash.digest);
        const parent = blocks.find((one) => one !== fresh && Buffer.from(one.bytes).includes(digest));
        if (parent === undefined) break;
        changed = parent.bytes.slice();
        changed.set(fresh.cid.multihash.digest, Buffer.from(changed).indexOf(digest));
        old = parent;
      }
      if (top === undefined) continue;
      const frame = commitFrame({ ...parts, root: top.cid, blocks });
      const verdict = word(verify(frame, anyone));
      reasons.set(verdict, (reasons.get(verdict) ?? 0) + 1);
    }
    expect(reasons.get('ok')).toBeUndefined();
    expect(reasons.get('mst_invalid')).toBeGreaterThan(1000);
    expect(reasons.get('prev_data_mismatch')).toBeGreaterThan(100);
  }, 30_000);

  test('and nothing is remembered from one frame to the next', () => {
    const frame = Buffer.from(commitFrame(parts));
    const verdict = verify(frame, made.key);
    const copy = structuredClone(verdict);
    // What a verdict holds is its own, not a view of the frame.
    frame.fill(0);
    outcome(withBody({ prevData: parts.commit.data }));
    expect(verdict).toEqual(copy);
    expect(outcome(parts)).toBe('ok');
  });
});
