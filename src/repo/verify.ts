/**
 * Verifying #commit and #sync: does the frame prove what it says?
 *
 * Contract: pure (the time comes in), never throws, answers a verdict with a reason from the closed list. What the
 * relay knows of the account (its stored rev and data) is not looked at here; that is the sequencer's.
 *
 * Every byte of `blocks` is covered: the CAR header by its only canonical form, each block by its digest, the
 * commit block by `commit` and the signature. Of the frame around it, `repo`, `rev`, `commit`, `prevData` and `ops`
 * are held against what is signed. `since`, `time`, `blobs` and unknown fields are the host's word.
 *
 * Sources: atproto specs Repository, Sync ("Firehose Event Validation", "Commit Operation Inversion"), Cryptography.
 */
import { latin1, MAJOR_MAP, skipItem } from '../firehose/cbor.ts';
import {
  MAX_COMMIT_BLOCKS_BYTES,
  MAX_OPS,
  MAX_RECORD_BYTES,
  MAX_SYNC_BLOCKS_BYTES,
  type Op,
  type ScannedFrame,
} from '../firehose/types.ts';
import { type Rejection, reject } from '../reasons.ts';
import { BlockIndex, equalDigests } from './car.ts';
import { type CommitObject, readCommitObject } from './commit.ts';
import { ABSENT, PartialTree, UNPROVEN } from './mst.ts';
import { isPath, tidMicroseconds } from './syntax.ts';
import type { SigningKey, Validation, Verdict, VerifyCommit, VerifySync } from './types.ts';

/** How far a rev may be ahead of our clock. */
export const MAX_REV_AHEAD_MS = 5 * 60_000;

// One of each, used for one frame after another: a verdict keeps nothing of them.
const blocks = new BlockIndex();
const tree = new PartialTree();

/** Steps that are never lenient: CAR and hashes, commit object, rev, signature. */
function verifyCommitObject(
  frame: ScannedFrame,
  key: SigningKey,
  nowMs: number,
  maxBlocksBytes: number,
): CommitObject | Rejection {
  const { bytes, blocksStart, blocksEnd } = frame;
  if (blocksEnd - blocksStart > maxBlocksBytes) {
    return reject('blocks_too_large', `${blocksEnd - blocksStart} bytes`);
  }
  const broken = blocks.read(bytes, blocksStart, blocksEnd);
  if (broken !== null) return broken;
  const root = blocks.find(bytes, blocks.rootDigestAt);
  if (root < 0) return reject('commit_root_mismatch', 'the CAR does not hold its root');
  if (frame.commitDigestAt >= 0 && !equalDigests(bytes, frame.commitDigestAt, bytes, blocks.rootDigestAt)) {
    return reject('commit_root_mismatch', 'commit is not the root of the CAR');
  }
  const commit = readCommitObject(bytes, blocks.start(root), blocks.end(root));
  if (!commit.ok) return commit;
  if (commit.did !== frame.did) return reject('commit_object_invalid', 'did is not that of the message');
  if (commit.rev !== frame.rev) return reject('commit_object_invalid', 'rev is not that of the message');
  if (tidMicroseconds(commit.rev) > (nowMs + MAX_REV_AHEAD_MS) * 1000) return reject('rev_future');
  if (!key.verify(commit.unsigned, commit.signature)) return reject('signature_invalid');
  return commit;
}

/** Whether the op's fields agree with its action; which action needs which of cid and prev. */
function checkOp(op: Op, needsPrev: boolean): Rejection | null {
  if (!isPath(op.path)) return reject('op_invalid', 'path');
  if (op.action === 'delete' ? op.cid !== null : op.cid === null) return reject('op_invalid', 'cid');
  if (op.action === 'create' ? op.prev !== null : needsPrev && op.prev === null) {
    return reject('op_invalid', 'prev');
  }
  return null;
}

/** A created or updated record: its block present, not too large, one canonical DAG-CBOR map. */
function checkRecord(bytes: Uint8Array, cid: Uint8Array): Rejection | null {
  const block = blocks.find(cid, 0);
  if (block < 0) return reject('op_record_missing');
  const start = blocks.start(block);
  const end = blocks.end(block);
  if (end - start > MAX_RECORD_BYTES) return reject('op_record_invalid', 'too large');
  if (start === end || bytes[start]! >> 5 !== MAJOR_MAP || skipItem(bytes, start, end, 0) !== end) {
    return reject('op_record_invalid', 'not a DAG-CBOR map');
  }
  return null;
}

const paths = new Set<string>();

/** Steps that lenient mode passes with a note: flags, ops, tree, inversion. */
function verifyOps(frame: ScannedFrame, dataDigestAt: number, firstCommit: boolean): Rejection | null {
  const { bytes, ops } = frame;
  if (frame.tooBig) return reject('too_big_flag');
  if (frame.rebase) return reject('rebase_flag');
  if (ops.length > MAX_OPS) return reject('ops_too_many', `${ops.length} ops`);
  const prevDataAt = frame.prevDataDigestAt;
  // Without prevData there is nothing to invert to, so the ops' prev is of no use either.
  const inverts = prevDataAt >= 0;
  for (let index = 0; index < ops.length; index++) {
    const op = ops[index]!;
    const wrong = checkOp(op, inverts);
    if (wrong !== null) return wrong;
    if (op.cid !== null) {
      const missing = checkRecord(bytes, op.cid);
      if (missing !== null) return missing;
    }
  }
  if (ops.length > 1) {
    paths.clear();
    for (let index = 0; index < ops.length; index++) paths.add(ops[index]!.path);
    const unique = paths.size === ops.length;
    paths.clear();
    if (!unique) return reject('op_invalid', 'two ops on one path');
  }

  const malformed = tree.load(blocks, dataDigestAt);
  if (malformed !== null) return malformed;
  for (let index = 0; index < ops.length; index++) {
    const op = ops[index]!;
    const held = tree.find(op.path);
    if (held === UNPROVEN) return reject('mst_invalid', 'a node needed is not in the blocks');
    const same = op.cid === null ? held === ABSENT : held !== ABSENT && tree.isDigest(held, op.cid);
    if (!same) return reject('op_tree_mismatch', op.action);
  }
  if (!inverts) return firstCommit ? null : reject('prev_data_missing');
  return tree.invert(ops, bytes.subarray(prevDataAt, prevDataAt + 32));
}

const digestText = (bytes: Uint8Array, at: number): string => latin1(bytes, at, at + 32);

/**
 * Verifies a scanned #commit with the account's key, in the order of the rules: size, CAR and hashes, commit
 * object, rev, signature; then flags, ops, tree and inversion, which lenient mode passes with a note of the first
 * rule broken.
 *
 * - `firstCommit`: the relay holds nothing of this repo; then prevData may be absent. Without prevData there is no
 *   root to compare with, so nothing is inverted (and `prev` may be missing), but tree and ops are checked against
 *   each other all the same.
 * - An empty commit must keep the data: inverting no op has to give prevData.
 * - Blocks that nothing refers to are allowed; their bytes are hashed like all others.
 */
export const verifyCommit: VerifyCommit = (frame, key, options): Verdict => {
  if (frame.tooBig && frame.blocksStart === frame.blocksEnd) {
    // What used to be sent when a commit did not fit: it has no CAR that could be invalid.
    return reject('too_big_flag', 'no blocks');
  }
  const commit = verifyCommitObject(frame, key, options.nowMs, MAX_COMMIT_BLOCKS_BYTES);
  if (!commit.ok) return commit;
  const { bytes } = frame;
  const broken = verifyOps(frame, commit.dataDigestAt, options.firstCommit);
  const validation: Validation = options.validation;
  if (broken !== null && validation === 'strict') return broken;
  return {
    ok: true,
    rev: commit.rev,
    commit: digestText(bytes, blocks.rootDigestAt),
    data: digestText(bytes, commit.dataDigestAt),
    prevData: frame.prevDataDigestAt >= 0 ? digestText(bytes, frame.prevDataDigestAt) : null,
    lenient: broken === null ? null : broken.reason,
  };
};

/**
 * Verifies a scanned #sync: size, CAR and hashes, commit object, rev, signature. It has no ops, and no prevData to
 * compare with. Never lenient.
 */
export const verifySync: VerifySync = (frame, key, options): Verdict => {
  const commit = verifyCommitObject(frame, key, options.nowMs, MAX_SYNC_BLOCKS_BYTES);
  if (!commit.ok) return commit;
  return {
    ok: true,
    rev: commit.rev,
    commit: digestText(frame.bytes, blocks.rootDigestAt),
    data: digestText(frame.bytes, commit.dataDigestAt),
    prevData: null,
    lenient: null,
  };
};
