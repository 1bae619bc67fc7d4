/**
 * What goes wrong on a real network, made on purpose. Each event fault sends one or a few frames and writes
 * into the ledger how a strict relay must take each. Faults come on top of the traffic: a broken commit is
 * never part of the account's history, so the events after it are good again.
 */
import {
  type Account,
  type AccountStatus,
  applyCommit,
  type Body,
  commitMessage,
  keyOf,
  type Prepared,
  prepareCommit,
  revText,
  signCommit,
  syncMessage,
  type Write,
} from './account.ts';
import { type Block, writeCar } from './car.ts';
import { encode, Link, Raw, sha256, type Value, Writer } from './cbor.ts';
import { encodeError, encodeMessage, type Message } from './frames.ts';
import type { LedgerEntry } from './ledger.ts';
import type { Random } from './random.ts';
import { formatTid } from './tid.ts';
import { keyLayer, Node, someKey, walkLeaves } from './tree.ts';

/** What a frame is about, for the ledger. */
export interface FrameAbout {
  readonly kind: string;
  readonly did: string | null;
  readonly rev: string | null;
  readonly expectation: string;
  readonly alternatives?: readonly string[];
  readonly note?: string;
}

/** The network, as faults see it. `fault` is written into every ledger entry by the network. */
export interface FaultTools {
  readonly seed: number;
  readonly random: Random;
  nowMs(): number;
  settle(account: Account): void;
  /** An active account that lives on another host, or null. */
  stranger(hostIndex: number): Account | null;
  /** An account the directory does not know, or knows as tombstoned; on no host's lists. */
  ghost(hostIndex: number, tombstoned: boolean): Account;
  setStatus(account: Account, status: AccountStatus): void;
  /** Sends a frame under the host's next seq. */
  send(hostIndex: number, build: (seq: number) => Uint8Array | string, about: FrameAbout): LedgerEntry;
  /** Sends a frame under a seq of the caller's choice that the host's own count ignores. */
  sendAs(hostIndex: number, seq: number, frame: Uint8Array, about: FrameAbout): LedgerEntry;
  /** Sends a frame that is no event: without a seq, and only to those who are connected. */
  sendLive(hostIndex: number, frame: Uint8Array, about: FrameAbout): LedgerEntry;
  lastSeq(hostIndex: number): number;
  skipSeqs(hostIndex: number, count: number): void;
}

/** Sends the fault from this account's host (or another, where that is the fault). */
export type EventFault = (tools: FaultTools, account: Account) => void;

type BodyMap = { [key: string]: Value | undefined };

const HOUR_MS = 3_600_000;
/** Sorts after every field of today's messages. */
const UNKNOWN_FIELD = 'simulatedExtra';

const iso = (ms: number): string => new Date(ms).toISOString();

/** One new record, different each time. */
const freshWrite = (tools: FaultTools, record?: Value): Write => ({
  action: 'create',
  path: `app.bsky.feed.post/${formatTid(tools.nowMs() * 1000 + tools.random.below(1_000_000), tools.random.below(1024))}`,
  record: record ?? {
    text: `a record that came with a fault, ${tools.random.below(1e9)}`,
    $type: 'app.bsky.feed.post',
    createdAt: iso(tools.nowMs()),
  },
});

const aboutOf = (
  account: Account,
  kind: string,
  expectation: string,
  rev: string | null = null,
  more: Partial<FrameAbout> = {},
): FrameAbout => ({ kind, did: account.did, rev, expectation, ...more });

/** A commit as the account would make it, not applied. */
const draft = (tools: FaultTools, account: Account, writes?: readonly Write[]): Prepared => {
  tools.settle(account);
  return prepareCommit(account, tools.seed, tools.nowMs(), writes ?? [freshWrite(tools)]);
};

/** A good commit, so that a relay holds the account's present state. */
const goodCommit = (tools: FaultTools, account: Account): Prepared => {
  const prepared = draft(tools, account);
  applyCommit(account, prepared);
  tools.send(
    account.hostIndex,
    (seq) => encodeMessage(commitMessage(account, prepared, seq, tools.nowMs())),
    aboutOf(account, 'commit', 'deliver', prepared.rev),
  );
  return prepared;
};

const identityMessage = (tools: FaultTools, account: Account, seq: number): Message => ({
  type: '#identity',
  body: { did: account.did, seq, time: iso(tools.nowMs()), handle: account.handle },
});

/** An #identity that is right but for its bytes. */
const brokenBytes =
  (
    spoil: (frame: Uint8Array, tools: FaultTools) => Uint8Array,
    expectation = 'frame_not_canonical',
  ): EventFault =>
  (tools, account) => {
    tools.send(
      account.hostIndex,
      (seq) => spoil(encodeMessage(identityMessage(tools, account, seq)), tools),
      aboutOf(account, 'malformed', expectation),
    );
  };

/** A good #identity under another header. */
const otherHeader = (header: BodyMap): EventFault =>
  brokenBytes(
    (frame) => Buffer.concat([encode(header), frame.slice(encode({ t: '#identity', op: 1 }).length)]),
    'frame_header_invalid',
  );

/** A good #commit, applied or not, with the body changed. */
const changedCommit =
  (
    change: (body: BodyMap, tools: FaultTools, prepared: Prepared) => BodyMap,
    expectation: string,
    more: {
      alternatives?: readonly string[];
      kind?: string;
      writes?: (tools: FaultTools, account: Account) => Write[];
    } = {},
  ): EventFault =>
  (tools, account) => {
    tools.settle(account);
    const prepared = draft(tools, account, more.writes?.(tools, account));
    const isGood = expectation === 'deliver';
    if (isGood) applyCommit(account, prepared);
    tools.send(
      account.hostIndex,
      (seq) => {
        const { type, body } = commitMessage(account, prepared, seq, tools.nowMs());
        return encodeMessage({ type, body: change({ ...body }, tools, prepared) });
      },
      aboutOf(account, more.kind ?? 'commit', expectation, prepared.rev, {
        ...(more.alternatives === undefined ? {} : { alternatives: more.alternatives }),
      }),
    );
  };

/** A #commit whose unknown field holds these bytes: all else about it is right. */
const unknownBytes = (...bytes: readonly number[]): EventFault =>
  changedCommit(
    (body) => ({ ...body, [UNKNOWN_FIELD]: new Raw(Uint8Array.from(bytes)) }),
    'frame_not_canonical',
    {
      kind: 'malformed',
    },
  );

/** A body written entry by entry, in the order given, whatever the rules say. */
const looseFrame = (
  type: string,
  entries: readonly (readonly [string, Value])[],
  isIndefinite = false,
): Uint8Array => {
  const out = new Writer();
  out.map({ t: type, op: 1 });
  if (isIndefinite) out.byte(0xbf);
  else out.head(5, entries.length);
  for (const [key, value] of entries) {
    out.text(key);
    out.value(value);
  }
  if (isIndefinite) out.byte(0xff);
  return out.take();
};

const looseIdentity =
  (arrange: (entries: [string, Value][]) => [string, Value][], isIndefinite = false): EventFault =>
  (tools, account) => {
    tools.send(
      account.hostIndex,
      (seq) => {
        const { body } = identityMessage(tools, account, seq);
        return looseFrame('#identity', arrange(Object.entries(body) as [string, Value][]), isIndefinite);
      },
      aboutOf(account, 'malformed', 'frame_not_canonical'),
    );
  };

/** The CAR of a prepared commit, with the blocks changed. */
const carOf = (prepared: Prepared, change: (blocks: Block[]) => Block[]): Uint8Array =>
  writeCar(
    prepared.commitDigest,
    change([
      { digest: prepared.commitDigest, bytes: prepared.commitBytes },
      ...prepared.nodes,
      ...prepared.records,
    ]),
  );

/** A #commit with other blocks in its CAR. */
const changedCar = (
  change: (blocks: Block[], prepared: Prepared, tools: FaultTools) => Block[],
  expectation: string,
  alternatives?: readonly string[],
): EventFault =>
  changedCommit(
    (body, tools, prepared) => ({
      ...body,
      blocks: carOf(prepared, (blocks) => change(blocks, prepared, tools)),
    }),
    expectation,
    alternatives === undefined ? {} : { alternatives },
  );

/** A #commit whose commit object is made anew; everything else follows from it, hash and `commit` included. */
const changedObject =
  (
    make: (account: Account, prepared: Prepared, tools: FaultTools) => { bytes: Uint8Array; rev?: string },
    expectation: string,
    alternatives?: readonly string[],
  ): EventFault =>
  (tools, account) => {
    const prepared = draft(tools, account);
    const { bytes, rev = prepared.rev } = make(account, prepared, tools);
    const changed = { ...prepared, rev, commitBytes: bytes, commitDigest: sha256(bytes) };
    tools.send(
      account.hostIndex,
      (seq) => encodeMessage(commitMessage(account, changed, seq, tools.nowMs())),
      aboutOf(account, 'commit', expectation, rev, alternatives === undefined ? {} : { alternatives }),
    );
  };

const signAgain = (
  tools: FaultTools,
  account: Account,
  prepared: Prepared,
  change: { did?: string; rev?: string; version?: number; data?: Uint8Array },
): Uint8Array =>
  signCommit(
    change.did ?? account.did,
    change.rev ?? prepared.rev,
    change.data ?? prepared.tree.digest,
    keyOf(account, tools.seed).sign,
    change.version,
  );

/** A #commit with a tree of its own making: `nodes` under `data`, instead of the account's. */
const sendTree = (
  tools: FaultTools,
  account: Account,
  data: Uint8Array,
  nodes: readonly Block[],
  prepared: Prepared,
): void => {
  const bytes = signAgain(tools, account, prepared, { data });
  const changed = { ...prepared, nodes, commitBytes: bytes, commitDigest: sha256(bytes) };
  tools.send(
    account.hostIndex,
    (seq) => encodeMessage(commitMessage(account, changed, seq, tools.nowMs())),
    aboutOf(account, 'commit', 'mst_invalid', prepared.rev),
  );
};

/** A random link that nothing has. */
const strayLink = (tools: FaultTools): Link => new Link(tools.random.bytes(32));

const firstOp = (body: BodyMap, change: (op: BodyMap) => BodyMap): BodyMap => {
  const [first, ...others] = body.ops as BodyMap[];
  return { ...body, ops: [change(first!), ...others] };
};

const existingPath = (tools: FaultTools, account: Account): string | null =>
  someKey(account.tree, tools.random.below);

const without = (body: BodyMap, ...fields: readonly string[]): BodyMap => {
  const rest = { ...body };
  for (const field of fields) delete rest[field];
  return rest;
};

const NEEDED_FIELDS = ['repo', 'rev', 'commit', 'blocks', 'ops', 'seq'] as const;
const MISTYPED: readonly (readonly [string, Value])[] = [
  ['repo', 17],
  ['rev', new Uint8Array(13)],
  ['commit', 'bafyreib'],
  ['blocks', 'text'],
  ['ops', {}],
  ['seq', '12'],
  ['repo', 'did:plc'],
];

const MAX_FRAME_BYTES = 5_000_000;
const MAX_BLOCKS_BYTES = 2_000_000;
const MAX_RECORD_BYTES = 1_000_000;
const MAX_OPS = 200;

/** Faults of single frames' bytes and fields. */
const FRAME_FAULTS: Record<string, EventFault> = {
  'frame-truncated': brokenBytes((frame, { random }) => frame.slice(0, frame.length - 1 - random.below(8))),
  'frame-trailing-bytes': brokenBytes((frame) => Buffer.concat([frame, Uint8Array.of(0)])),
  'frame-header-only': brokenBytes((frame) => frame.slice(0, 18)),
  // The first byte is a break without a beginning, so that chance cannot make it right.
  'frame-noise': brokenBytes((_, { random }) =>
    Buffer.concat([Uint8Array.of(0xff), random.bytes(random.below(300))]),
  ),
  'frame-text': (tools, account) => {
    tools.send(
      account.hostIndex,
      (seq) => JSON.stringify({ seq, t: '#identity' }),
      aboutOf(account, 'malformed', 'frame_not_binary'),
    );
  },
  'frame-too-large': (tools, account) => {
    tools.send(
      account.hostIndex,
      (seq) => {
        const { type, body } = identityMessage(tools, account, seq);
        return encodeMessage({ type, body: { ...body, [UNKNOWN_FIELD]: new Uint8Array(MAX_FRAME_BYTES) } });
      },
      aboutOf(account, 'malformed', 'frame_too_large'),
    );
  },
  'header-without-type': otherHeader({ op: 1 }),
  'header-unknown-op': otherHeader({ t: '#identity', op: 7 }),
  // A type that consumers complete to the same name as the short one.
  'header-long-type': otherHeader({ t: 'com.atproto.sync.subscribeRepos#identity', op: 1 }),
  'error-frame': (tools, account) => {
    tools.sendLive(account.hostIndex, encodeError('SimulatedError', 'an error on purpose'), {
      kind: 'error',
      did: null,
      rev: null,
      expectation: 'host_error_frame',
    });
  },
  'cbor-long-integer': looseIdentity((entries) =>
    entries.map(([key, value]) =>
      key === 'seq'
        ? [
            key,
            new Raw(
              Uint8Array.of(
                0x1b,
                0,
                0,
                0,
                0,
                ...new Uint8Array(new Uint32Array([value as number]).buffer).reverse(),
              ),
            ),
          ]
        : [key, value],
    ),
  ),
  'cbor-long-length': looseIdentity((entries) =>
    entries.map(([key, value]) =>
      key === 'did'
        ? [
            key,
            new Raw(
              Buffer.concat([Uint8Array.of(0x79, 0, (value as string).length), Buffer.from(value as string)]),
            ),
          ]
        : [key, value],
    ),
  ),
  'cbor-key-order': looseIdentity((entries) => entries.reverse()),
  'cbor-duplicate-key': looseIdentity((entries) => [entries[0]!, ...entries]),
  'cbor-indefinite-map': looseIdentity((entries) => entries, true),
  'cbor-indefinite-text': unknownBytes(0x7f, 0x61, 0x61, 0xff),
  'cbor-indefinite-list': unknownBytes(0x9f, 0x01, 0xff),
  'cbor-bad-utf8': unknownBytes(0x62, 0xc3, 0x28),
  'cbor-surrogate-utf8': unknownBytes(0x63, 0xed, 0xa0, 0x80),
  'cbor-float32': unknownBytes(0xfa, 0x3f, 0x80, 0, 0),
  'cbor-float16': unknownBytes(0xf9, 0x3c, 0),
  'cbor-not-a-number': unknownBytes(0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0),
  'cbor-infinity': unknownBytes(0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0),
  'cbor-undefined': unknownBytes(0xf7),
  'cbor-simple-value': unknownBytes(0xe0),
  'cbor-unknown-tag': unknownBytes(0xc1, 0x01),
  'cbor-tag-on-text': unknownBytes(0xd8, 42, 0x61, 0x61),
  'cbor-link-without-prefix': unknownBytes(0xd8, 42, 0x42, 1, 0x71),
  'cbor-integer-key': unknownBytes(0xa1, 0x01, 0x01),
  'cbor-inner-key-order': unknownBytes(0xa2, 0x61, 0x62, 0x01, 0x61, 0x61, 0x01),
  'field-missing': (tools, account) =>
    changedCommit((body) => without(body, tools.random.pick(NEEDED_FIELDS)), 'frame_field_missing', {
      kind: 'malformed',
    })(tools, account),
  'field-mistyped': (tools, account) => {
    const [field, value] = tools.random.pick(MISTYPED);
    changedCommit((body) => ({ ...body, [field]: value }), 'frame_field_invalid', { kind: 'malformed' })(
      tools,
      account,
    );
  },
  'type-unknown-of-two-accounts': (tools, account) => {
    tools.send(
      account.hostIndex,
      (seq) =>
        encodeMessage({
          type: '#simulated',
          body: { did: account.did, repo: 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa', seq },
        }),
      aboutOf(account, '#simulated', 'frame_type_unknown'),
    );
  },
  'type-unknown-without-seq': (tools, account) => {
    tools.send(
      account.hostIndex,
      () => encodeMessage({ type: '#simulated', body: { did: account.did } }),
      aboutOf(account, '#simulated', 'frame_type_unknown'),
    );
  },
};

/** Oddities that are no faults of the frame: they pass. */
const ODDITIES: Record<string, EventFault> = {
  'field-unknown': changedCommit(
    (body, { random }) => ({
      ...body,
      [UNKNOWN_FIELD]: {
        list: [1, -5, 0.5, null, true, new Uint8Array(5)],
        link: new Link(random.bytes(32)),
      },
    }),
    'deliver',
  ),
  'deprecated-omitted': changedCommit((body) => without(body, 'tooBig', 'rebase', 'blobs'), 'deliver'),
  'type-unknown': (tools, account) => {
    tools.send(
      account.hostIndex,
      (seq) =>
        encodeMessage({
          type: '#simulated',
          body: { did: account.did, seq, time: iso(tools.nowMs()), payload: { n: 1 } },
        }),
      aboutOf(account, '#simulated', 'deliver'),
    );
  },
  'handle-of-another': (tools, account) => {
    tools.send(
      account.hostIndex,
      (seq) => {
        const { type, body } = identityMessage(tools, account, seq);
        return encodeMessage({ type, body: { ...body, handle: 'somebody-else.test' } });
      },
      aboutOf(account, 'identity', 'deliver', null, { note: 'the handle is removed' }),
    );
  },
  'handle-absent': (tools, account) => {
    tools.send(
      account.hostIndex,
      (seq) => {
        const { type, body } = identityMessage(tools, account, seq);
        return encodeMessage({ type, body: without({ ...body }, 'handle') });
      },
      aboutOf(account, 'identity', 'deliver'),
    );
  },
  'status-unknown': (tools, account) => {
    for (const status of ['simulated', undefined]) {
      tools.send(
        account.hostIndex,
        (seq) =>
          encodeMessage({
            type: '#account',
            body: { did: account.did, seq, time: iso(tools.nowMs()), active: status === undefined, status },
          }),
        aboutOf(account, 'account', 'deliver'),
      );
    }
  },
  discontinuity: (tools, account) => {
    goodCommit(tools, account);
    // Made, but never told.
    const untold = draft(tools, account);
    applyCommit(account, untold);
    const prepared = draft(tools, account);
    applyCommit(account, prepared);
    tools.send(
      account.hostIndex,
      (seq) => encodeMessage(commitMessage(account, prepared, seq, tools.nowMs())),
      aboutOf(account, 'commit', 'deliver', prepared.rev, { note: 'a commit before it is missing' }),
    );
    const healed = draft(tools, account, []);
    applyCommit(account, healed);
    tools.send(
      account.hostIndex,
      (seq) => encodeMessage(syncMessage(account, healed, seq, tools.nowMs())),
      aboutOf(account, 'sync', 'deliver', healed.rev),
    );
  },
};

/** Faults of commits: signatures, revs, blocks, trees, ops. */
const COMMIT_FAULTS: Record<string, EventFault> = {
  'signature-wrong-key': changedObject((account, prepared, tools) => {
    const other: Account = { ...account, keyGeneration: account.keyGeneration + 1000, key: null };
    return { bytes: signAgain(tools, other, prepared, {}) };
  }, 'signature_invalid'),
  'signature-high-s': changedObject(
    (account, prepared, tools) => ({
      bytes: signCommit(
        account.did,
        prepared.rev,
        prepared.tree.digest,
        keyOf(account, tools.seed).signHighS,
      ),
    }),
    'signature_invalid',
  ),
  'signature-corrupted': changedObject(
    (account, prepared, tools) => ({
      bytes: signCommit(account.did, prepared.rev, prepared.tree.digest, (message) => {
        const signature = keyOf(account, tools.seed).sign(message);
        signature[tools.random.below(64)]! ^= 1 << tools.random.below(8);
        return signature;
      }),
    }),
    'signature_invalid',
  ),
  'commit-of-another-did': changedObject(
    (account, prepared, tools) => ({
      bytes: signAgain(tools, account, prepared, { did: 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa' }),
    }),
    'commit_object_invalid',
  ),
  'commit-version': changedObject(
    (account, prepared, tools) => ({ bytes: signAgain(tools, account, prepared, { version: 2 }) }),
    'commit_object_invalid',
  ),
  'rev-of-object-differs': changedObject(
    (account, prepared, tools) => ({
      bytes: signAgain(tools, account, prepared, { rev: revText(account, prepared.revMicros + 1) }),
    }),
    'commit_object_invalid',
    ['rev_invalid'],
  ),
  'rev-syntax': changedObject(
    (account, prepared, tools) => {
      const rev = 'not-a-tid';
      return { bytes: signAgain(tools, account, prepared, { rev }), rev };
    },
    'rev_invalid',
    ['frame_field_invalid', 'commit_object_invalid'],
  ),
  'rev-future': changedObject((account, prepared, tools) => {
    const rev = revText(account, (tools.nowMs() + HOUR_MS) * 1000);
    return { bytes: signAgain(tools, account, prepared, { rev }), rev };
  }, 'rev_future'),
  'rev-stale': (tools, account) => {
    const good = goodCommit(tools, account);
    const prepared = prepareCommit(account, tools.seed, tools.nowMs(), [freshWrite(tools)], {
      revMicros: good.revMicros - 1,
    });
    tools.send(
      account.hostIndex,
      (seq) => encodeMessage(commitMessage(account, prepared, seq, tools.nowMs())),
      aboutOf(account, 'commit', 'rev_stale', prepared.rev),
    );
  },
  'commit-repeated': (tools, account) => {
    const prepared = draft(tools, account);
    applyCommit(account, prepared);
    for (const expectation of ['deliver', 'rev_stale']) {
      tools.send(
        account.hostIndex,
        (seq) => encodeMessage(commitMessage(account, prepared, seq, tools.nowMs())),
        aboutOf(account, 'commit', expectation, prepared.rev),
      );
    }
  },
  'flag-too-big': changedCommit((body) => ({ ...body, tooBig: true }), 'too_big_flag'),
  'flag-rebase': changedCommit((body) => ({ ...body, rebase: true }), 'rebase_flag'),
  'commit-link-wrong': changedCommit(
    (body, tools) => ({ ...body, commit: strayLink(tools) }),
    'commit_root_mismatch',
  ),
  'blocks-too-large': changedCommit(
    (body, { random }) => ({ ...body, blocks: random.bytes(MAX_BLOCKS_BYTES + 1) }),
    'blocks_too_large',
  ),
  'car-truncated': changedCommit(
    (body) => ({ ...body, blocks: (body.blocks as Uint8Array).slice(0, -3) }),
    'car_invalid',
  ),
  'car-noise': changedCommit((body, { random }) => ({ ...body, blocks: random.bytes(500) }), 'car_invalid'),
  'car-empty': changedCommit((body) => ({ ...body, blocks: new Uint8Array() }), 'car_invalid'),
  'block-commit-missing': changedCar((blocks) => blocks.slice(1), 'commit_root_mismatch', ['car_invalid']),
  'block-root-missing': changedCar(
    (blocks, { tree }) => blocks.filter(({ digest }) => digest !== tree.digest),
    'mst_invalid',
    ['op_tree_mismatch', 'prev_data_mismatch', 'car_invalid'],
  ),
  'block-record-missing': changedCar(
    (blocks, { records }) => blocks.filter((block) => !records.includes(block)),
    'op_record_missing',
  ),
  'block-corrupted': changedCar((blocks, _, { random }) => {
    const at = random.below(blocks.length);
    return blocks.map((block, i) => {
      if (i !== at) return block;
      const bytes = Uint8Array.from(block.bytes);
      bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
      return { digest: block.digest, bytes };
    });
  }, 'block_hash_mismatch'),
  'ops-too-many': changedCommit((body) => {
    const [op] = body.ops as BodyMap[];
    return {
      ...body,
      ops: Array.from({ length: MAX_OPS + 1 }, (_, i) => ({ ...op!, path: `app.bsky.feed.post/${i}` })),
    };
  }, 'ops_too_many'),
  'ops-missing': changedCommit((body) => ({ ...body, ops: [] }), 'prev_data_mismatch', {
    alternatives: ['op_invalid'],
  }),
  'op-action-unknown': changedCommit(
    (body) => firstOp(body, (op) => ({ ...op, action: 'replace' })),
    'op_invalid',
    { alternatives: ['frame_field_invalid'] },
  ),
  'op-path-invalid': changedCommit(
    (body) => firstOp(body, (op) => ({ ...op, path: 'app.bsky.feed.post' })),
    'op_invalid',
    { alternatives: ['frame_field_invalid'] },
  ),
  'op-path-twice': changedCommit((body) => {
    const [op] = body.ops as BodyMap[];
    return { ...body, ops: [op!, op!] };
  }, 'op_invalid'),
  'op-cid-wrong': (tools, account) => {
    const prepared = draft(tools, account);
    const bytes = encode({ $type: 'app.bsky.feed.post', text: 'not what the tree holds' });
    const digest = sha256(bytes);
    tools.send(
      account.hostIndex,
      (seq) => {
        const { type, body } = commitMessage(account, prepared, seq, tools.nowMs());
        // The record it names is in the CAR: only the tree disagrees.
        const blocks = carOf(prepared, (all) => [...all, { digest, bytes }]);
        return encodeMessage({
          type,
          body: firstOp({ ...body, blocks }, (op) => ({ ...op, cid: new Link(digest) })),
        });
      },
      aboutOf(account, 'commit', 'op_tree_mismatch', prepared.rev),
    );
  },
  'op-prev-wrong': (tools, account) => {
    tools.settle(account);
    const path = existingPath(tools, account);
    if (path === null) return;
    changedCommit(
      (body) => firstOp(body, (op) => ({ ...op, prev: strayLink(tools) })),
      'prev_data_mismatch',
      {
        writes: () => [{ ...freshWrite(tools), action: 'update', path }],
      },
    )(tools, account);
  },
  'op-delete-untold': (tools, account) => {
    tools.settle(account);
    const path = existingPath(tools, account);
    if (path === null) return;
    changedCommit((body) => ({ ...body, ops: (body.ops as Value[]).slice(1) }), 'prev_data_mismatch', {
      writes: () => [{ action: 'delete', path }, freshWrite(tools)],
      alternatives: ['mst_invalid'],
    })(tools, account);
  },
  'record-no-map': (tools, account) =>
    changedCommit((body) => body, 'op_record_invalid', { writes: () => [freshWrite(tools, ['a', 'list'])] })(
      tools,
      account,
    ),
  'record-too-large': (tools, account) =>
    changedCommit((body) => body, 'op_record_invalid', {
      writes: () => [freshWrite(tools, { $type: 'app.bsky.feed.post', text: 'x'.repeat(MAX_RECORD_BYTES) })],
    })(tools, account),
  'tree-flat': (tools, account) => {
    const prepared = draft(tools, account);
    const keys: string[] = [];
    const leaves: { digest: Uint8Array; body: Body }[] = [];
    walkLeaves(prepared.tree, (key, leaf) => {
      if (keys.length < 40 || prepared.ops[0]!.path === key) {
        keys.push(key);
        leaves.push(leaf);
      }
    });
    // One key that does not belong on the layer is what makes it wrong.
    while (keys.every((key) => keyLayer(key) === keyLayer(keys[0]!))) {
      keys.push(`zzz.simulated.thing/${keys.length}`);
      leaves.push(leaves[0]!);
    }
    const kids = Array.from({ length: keys.length + 1 }, () => null);
    const flat = new Node<Body>(0, keys, leaves, kids);
    sendTree(tools, account, flat.digest, [flat], prepared);
  },
  'tree-prefix-out-of-range': (tools, account) => {
    const prepared = draft(tools, account);
    const { path } = prepared.ops[0]!;
    const { digest } = prepared.records[0]!;
    const entry = { k: Buffer.from(path), p: 500, t: null, v: new Link(digest) };
    const bytes = encode({ e: [entry], l: null });
    sendTree(tools, account, sha256(bytes), [{ digest: sha256(bytes), bytes }], prepared);
  },
  'tree-node-no-node': (tools, account) => {
    const prepared = draft(tools, account);
    const bytes = encode({ some: 'thing', else: 1 });
    sendTree(tools, account, sha256(bytes), [{ digest: sha256(bytes), bytes }], prepared);
  },
  'prev-data-wrong': changedCommit(
    (body, tools) => ({ ...body, prevData: strayLink(tools) }),
    'prev_data_mismatch',
  ),
  'prev-data-missing': (tools, account) => {
    goodCommit(tools, account);
    changedCommit((body) => without(body, 'prevData'), 'prev_data_missing')(tools, account);
  },
  'sync-blocks-too-large': (tools, account) => {
    const prepared = draft(tools, account, []);
    tools.send(
      account.hostIndex,
      (seq) => {
        const { type, body } = syncMessage(account, prepared, seq, tools.nowMs());
        return encodeMessage({ type, body: { ...body, blocks: tools.random.bytes(10_001) } });
      },
      aboutOf(account, 'sync', 'blocks_too_large', prepared.rev),
    );
  },
  'sync-signature': (tools, account) => {
    const prepared = draft(tools, account, []);
    const other: Account = { ...account, keyGeneration: account.keyGeneration + 1000, key: null };
    const bytes = signAgain(tools, other, prepared, {});
    tools.send(
      account.hostIndex,
      (seq) =>
        encodeMessage(
          syncMessage(
            account,
            { commitBytes: bytes, commitDigest: sha256(bytes), rev: prepared.rev },
            seq,
            tools.nowMs(),
          ),
        ),
      aboutOf(account, 'sync', 'signature_invalid', prepared.rev),
    );
  },
};

/** Faults of who may say what about whom. */
const ACCOUNT_FAULTS: Record<string, EventFault> = {
  'account-of-another-host': (tools, account) => {
    const stranger = tools.stranger(account.hostIndex);
    if (stranger === null) return;
    const prepared = draft(tools, stranger);
    tools.send(
      account.hostIndex,
      (seq) => encodeMessage(commitMessage(stranger, prepared, seq, tools.nowMs())),
      aboutOf(stranger, 'commit', 'wrong_host', prepared.rev),
    );
  },
  'status-of-another-host': (tools, account) => {
    const stranger = tools.stranger(account.hostIndex);
    if (stranger === null) return;
    tools.send(
      account.hostIndex,
      (seq) =>
        encodeMessage({
          type: '#account',
          body: {
            did: stranger.did,
            seq,
            time: iso(tools.nowMs()),
            active: false,
            status: 'takendown',
          },
        }),
      aboutOf(stranger, 'account', 'wrong_host'),
    );
  },
  'did-unknown': (tools, account) => {
    const ghost = tools.ghost(account.hostIndex, false);
    const prepared = draft(tools, ghost);
    tools.send(
      account.hostIndex,
      (seq) => encodeMessage(commitMessage(ghost, prepared, seq, tools.nowMs())),
      aboutOf(ghost, 'commit', 'did_not_found', prepared.rev),
    );
  },
  'did-tombstoned': (tools, account) => {
    const ghost = tools.ghost(account.hostIndex, true);
    const prepared = draft(tools, ghost);
    tools.send(
      account.hostIndex,
      (seq) => encodeMessage(commitMessage(ghost, prepared, seq, tools.nowMs())),
      aboutOf(ghost, 'commit', 'did_tombstoned', prepared.rev),
    );
  },
  'commit-while-inactive': (tools, account) => {
    tools.setStatus(account, 'deactivated');
    const prepared = draft(tools, account);
    tools.send(
      account.hostIndex,
      (seq) => encodeMessage(commitMessage(account, prepared, seq, tools.nowMs())),
      aboutOf(account, 'commit', 'account_inactive', prepared.rev),
    );
  },
};

/** Faults of the order of seqs on a connection. */
const SEQ_FAULTS: Record<string, EventFault> = {
  'seq-duplicate': (tools, account) => {
    tools.settle(account);
    const prepared = draft(tools, account);
    applyCommit(account, prepared);
    let frame = new Uint8Array() as Uint8Array;
    tools.send(
      account.hostIndex,
      (seq) => {
        frame = encodeMessage(commitMessage(account, prepared, seq, tools.nowMs()));
        return frame;
      },
      aboutOf(account, 'commit', 'deliver', prepared.rev),
    );
    tools.sendAs(
      account.hostIndex,
      tools.lastSeq(account.hostIndex),
      frame,
      aboutOf(account, 'commit', 'seq_not_increasing', prepared.rev),
    );
  },
  'seq-regressing': (tools, account) => {
    const { hostIndex } = account;
    // A seq to stand behind, whatever came before on this connection.
    tools.send(
      hostIndex,
      (seq) => encodeMessage(identityMessage(tools, account, seq)),
      aboutOf(account, 'identity', 'deliver'),
    );
    const seq = Math.max(1, tools.lastSeq(hostIndex) - 1 - tools.random.below(50));
    tools.sendAs(
      hostIndex,
      seq,
      encodeMessage(identityMessage(tools, account, seq)),
      aboutOf(account, 'identity', 'seq_not_increasing'),
    );
  },
  'seq-gap': (tools, account) => {
    tools.skipSeqs(account.hostIndex, 1 + tools.random.below(1000));
    tools.send(
      account.hostIndex,
      (seq) => encodeMessage(identityMessage(tools, account, seq)),
      aboutOf(account, 'identity', 'deliver'),
    );
  },
};

/** Every event fault by name. */
export const EVENT_FAULTS: Readonly<Record<string, EventFault>> = {
  ...FRAME_FAULTS,
  ...ODDITIES,
  ...COMMIT_FAULTS,
  ...ACCOUNT_FAULTS,
  ...SEQ_FAULTS,
};

/** What happens to a whole host, for `HOST_FAULT_MS`; drawn once a second for some host. */
export const HOST_FAULTS = [
  'host-drop',
  'host-stall',
  'host-refuse',
  'host-slow',
  'host-close',
  'host-lose-window',
  'host-reset-seq',
] as const;
export type HostFault = (typeof HOST_FAULTS)[number];

/** What the directory does to a request. */
export const PLC_FAULTS = ['plc-error', 'plc-limited', 'plc-delay', 'plc-stall', 'plc-garbage'] as const;
export type PlcFault = (typeof PLC_FAULTS)[number];

/** Names that stand for many: each member gets the probability. */
export const FAULT_GROUPS: Readonly<Record<string, readonly string[]>> = {
  frames: Object.keys(FRAME_FAULTS).filter((name) => name !== 'frame-too-large'),
  oddities: Object.keys(ODDITIES),
  commits: Object.keys(COMMIT_FAULTS),
  accounts: Object.keys(ACCOUNT_FAULTS),
  seqs: Object.keys(SEQ_FAULTS),
  hosts: HOST_FAULTS,
  plc: PLC_FAULTS,
};

/** The single faults a name or group name stands for; empty when there is no such. */
export const faultsNamed = (name: string): readonly string[] => {
  const isSingle =
    Object.hasOwn(EVENT_FAULTS, name) ||
    HOST_FAULTS.includes(name as HostFault) ||
    PLC_FAULTS.includes(name as PlcFault);
  return isSingle ? [name] : Object.hasOwn(FAULT_GROUPS, name) ? FAULT_GROUPS[name]! : [];
};
