/** An independent look at simulated commits: @atproto/repo for trees and CARs, @atproto/crypto for signatures. */
import { verifySignature } from '@atproto/crypto';
import { type BlockMap, MemoryBlockstore, MST, readCarWithRoot } from '@atproto/repo';
import { decode, encode } from '@ipld/dag-cbor';
import { base58btc } from 'multiformats/bases/base58';
import { CID } from 'multiformats/cid';
import type { Key } from '../../simulator/keys.ts';

export interface JudgedOp {
  action: string;
  path: string;
  cid: CID | null;
  prev?: CID;
}

/** did:key of a simulator key, by its own multicodec. */
export const didKeyOf = (key: Key): string => `did:key:${base58btc.encode(base58btc.decode(key.multikey))}`;

/** Verifies signature, blocks and inversion of a #commit body; returns what went wrong, or null. */
export const judgeCommit = async (body: Record<string, unknown>, key: Key): Promise<string | null> => {
  const { root, blocks } = await readCarWithRoot(body.blocks as Uint8Array);
  if (root.toString() !== String(body.commit)) return 'commit is not the root';
  const commit = decode(blocks.get(root)!) as Record<string, unknown>;
  if (commit.did !== body.repo || commit.rev !== body.rev || commit.version !== 3) {
    return 'commit object disagrees';
  }
  const { sig, ...unsigned } = commit;
  if (!(await verifySignature(didKeyOf(key), encode(unsigned), sig as Uint8Array))) return 'signature';
  if (body.prevData === undefined) return null;
  return judgeInversion(blocks, String(commit.data), body.ops as JudgedOp[], String(body.prevData));
};

/** Undoes ops on the partial tree and compares the root; null when it fits. */
export const judgeInversion = async (
  blocks: BlockMap,
  data: string,
  ops: readonly JudgedOp[],
  prevData: string,
): Promise<string | null> => {
  const store = new MemoryBlockstore(blocks);
  const parse = (cid: unknown) => CID.parse(String(cid)) as never;
  let tree = MST.load(store, parse(data));
  for (const op of ops) {
    if (op.action !== 'delete') {
      if (String(await tree.get(op.path)) !== String(op.cid)) return `op cid of ${op.path}`;
      if (!blocks.has(op.cid as never)) return `record of ${op.path} missing`;
    }
  }
  for (const op of ops) {
    if (op.action === 'create') tree = await tree.delete(op.path);
    else if (op.action === 'update') tree = await tree.update(op.path, parse(op.prev));
    else tree = await tree.add(op.path, parse(op.prev));
  }
  const undone = String(await tree.getPointer());
  return undone === prevData ? null : 'inversion does not give prevData';
};
