/**
 * One simulated account: its keys, its repo and the commits it signs (atproto spec: Repository, Sync).
 * A commit is prepared first and applied only when it is meant to have happened, so that a broken one can be
 * sent without the account having made it.
 */
import { type Block, writeCar } from './car.ts';
import { encode, Link, sha256, type Value, Writer } from './cbor.ts';
import type { Message } from './frames.ts';
import { createKey, type Key, type KeyType } from './keys.ts';
import { formatTid } from './tid.ts';
import { collectProof, find, type Leaf, type Node, put, remove, walkLeaves, walkNodes } from './tree.ts';

/** How a record's bytes can be had again: kept, or made from its seed. */
export type Body = Uint8Array | { readonly scope: number; readonly counter: number; readonly timeMs: number };

export type Tree = Node<Body>;

/** One change to a repo. `record` is a value, encoded here, or its bytes. */
export interface Write {
  readonly action: 'create' | 'update' | 'delete';
  readonly path: string;
  readonly record?: Value;
  /** Already encoded, with the way to make it again. */
  readonly made?: { readonly bytes: Uint8Array; readonly body: Body };
}

export type AccountStatus = 'active' | 'deactivated' | 'suspended' | 'takendown' | 'deleted';

export interface Op {
  readonly action: string;
  readonly path: string;
  readonly cid: Link | null;
  readonly prev: Link | undefined;
}

/** A signed commit that has not been applied. */
export interface Prepared {
  readonly rev: string;
  readonly revMicros: number;
  readonly tree: Tree;
  readonly commitBytes: Uint8Array;
  readonly commitDigest: Uint8Array;
  readonly ops: readonly Op[];
  /** Blocks of the CAR: commit, tree nodes, records. */
  readonly nodes: readonly Block[];
  readonly records: readonly Block[];
  readonly since: string | null;
  readonly prevData: Uint8Array | null;
}

export interface Account {
  readonly index: number;
  readonly did: string;
  readonly keyType: KeyType;
  /** Whether the directory shows this account's key in the legacy form. */
  readonly legacyDocument: boolean;
  handle: string;
  /** Index of the host that holds the account. */
  hostIndex: number;
  status: AccountStatus;
  tombstoned: boolean;
  /** How many times the key was rotated. */
  keyGeneration: number;
  key: Key | null;
  tree: Tree;
  /** Empty until the first commit is known. */
  rev: string;
  revMicros: number;
  commitDigest: Uint8Array | null;
  commitBytes: Uint8Array | null;
  recordCounter: number;
  /** When the account last sent something. */
  lastEventMs: number;
}

/** The account's current key, made when first needed. */
export const keyOf = (account: Account, seed: number): Key => {
  account.key ??= createKey(
    account.keyType,
    sha256(Buffer.from(`key ${seed} ${account.index} ${account.keyGeneration}`)),
  );
  return account.key;
};

const unsigned = new Writer();

/** Signs a commit object; returns its block. */
export const signCommit = (
  did: string,
  rev: string,
  data: Uint8Array,
  sign: (message: Uint8Array) => Uint8Array,
  version = 3,
): Uint8Array => {
  unsigned.length = 0;
  unsigned.map({ did, rev, data: new Link(data), prev: null, version });
  const sig = sign(unsigned.buffer.subarray(0, unsigned.length));
  return encode({ did, rev, sig, data: new Link(data), prev: null, version });
};

/** The next rev of an account: the clock, but always later than the last. */
export const nextRevMicros = (account: Account, nowMs: number): number =>
  Math.max(nowMs * 1000, account.revMicros + 1);

/** The rev text for these microseconds. */
export const revText = (account: Account, micros: number): string => formatTid(micros, account.index % 1024);

export interface PrepareOptions {
  /** Instead of the account's own key. */
  readonly sign?: (message: Uint8Array) => Uint8Array;
  /** Instead of the next rev. */
  readonly revMicros?: number;
  /** Instead of the account's tree, as the state before. */
  readonly before?: Tree;
}

/**
 * Makes the commit for these writes, with the blocks a relay needs to undo it. Throws on an impossible write
 * (deleting what is not there, creating what is).
 */
export const prepareCommit = (
  account: Account,
  seed: number,
  nowMs: number,
  writes: readonly Write[],
  options: PrepareOptions = {},
): Prepared => {
  const before = options.before ?? account.tree;
  let tree = before;
  const ops: Op[] = [];
  const records: Block[] = [];
  for (const write of writes) {
    const old = find(tree, write.path);
    if ((write.action === 'create') === (old !== null)) {
      throw new Error(
        `${write.action} of ${write.path}: the record ${old === null ? 'is missing' : 'exists'}`,
      );
    }
    const prev = old === null ? undefined : new Link(old.digest);
    if (write.action === 'delete') {
      tree = remove(tree, write.path);
      ops.push({ action: 'delete', path: write.path, cid: null, prev });
      continue;
    }
    const bytes = write.made?.bytes ?? encode(write.record ?? {});
    const leaf: Leaf<Body> = { digest: sha256(bytes), body: write.made?.body ?? bytes };
    tree = put(tree, write.path, leaf);
    records.push({ digest: leaf.digest, bytes });
    ops.push({ action: write.action, path: write.path, cid: new Link(leaf.digest), prev });
  }
  const proof = new Set<Tree>();
  proof.add(tree);
  for (const write of writes) collectProof(tree, write.path, proof);
  const revMicros = options.revMicros ?? nextRevMicros(account, nowMs);
  const rev = revText(account, revMicros);
  const commitBytes = signCommit(account.did, rev, tree.digest, options.sign ?? keyOf(account, seed).sign);
  return {
    rev,
    revMicros,
    tree,
    commitBytes,
    commitDigest: sha256(commitBytes),
    ops,
    nodes: [...proof],
    records,
    since: account.rev === '' ? null : account.rev,
    prevData: account.rev === '' ? null : before.digest,
  };
};

/** Makes the prepared commit the account's state. */
export const applyCommit = (account: Account, prepared: Prepared): void => {
  account.tree = prepared.tree;
  account.rev = prepared.rev;
  account.revMicros = prepared.revMicros;
  account.commitBytes = prepared.commitBytes;
  account.commitDigest = prepared.commitDigest;
};

/** The message of a prepared commit. Key order is the canonical one. */
export const commitMessage = (
  account: Account,
  prepared: Prepared,
  seq: number,
  timeMs: number,
): Message => ({
  type: '#commit',
  body: {
    ops: prepared.ops.map(({ cid, path, prev, action }) => ({ cid, path, prev, action })),
    rev: prepared.rev,
    seq,
    repo: account.did,
    time: new Date(timeMs).toISOString(),
    blobs: [],
    since: prepared.since,
    blocks: writeCar(prepared.commitDigest, [
      { digest: prepared.commitDigest, bytes: prepared.commitBytes },
      ...prepared.nodes,
      ...prepared.records,
    ]),
    commit: new Link(prepared.commitDigest),
    rebase: false,
    tooBig: false,
    prevData: prepared.prevData === null ? undefined : new Link(prepared.prevData),
  },
});

/** The #sync message for a commit: its block alone. */
export const syncMessage = (
  account: Account,
  commit: { readonly commitBytes: Uint8Array; readonly commitDigest: Uint8Array; readonly rev: string },
  seq: number,
  timeMs: number,
): Message => ({
  type: '#sync',
  body: {
    did: account.did,
    rev: commit.rev,
    seq,
    time: new Date(timeMs).toISOString(),
    blocks: writeCar(commit.commitDigest, [{ digest: commit.commitDigest, bytes: commit.commitBytes }]),
  },
});

/** The whole repo as a CAR: commit, nodes, records. `bytesOf` gives a record's bytes again. */
export const repoCar = (
  account: Account,
  bytesOf: (path: string, leaf: Leaf<Body>) => Uint8Array,
): Uint8Array => {
  const blocks: Block[] = [{ digest: account.commitDigest!, bytes: account.commitBytes! }];
  walkNodes(account.tree, (node) => blocks.push(node));
  walkLeaves(account.tree, (path, leaf) => blocks.push({ digest: leaf.digest, bytes: bytesOf(path, leaf) }));
  return writeCar(account.commitDigest!, blocks);
};
