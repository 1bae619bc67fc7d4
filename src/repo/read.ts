/**
 * Reading what a frame that was verified before says of its repo: for rebuilding accounts from our own log.
 */
import { latin1 } from '../firehose/cbor.ts';
import type { ScannedFrame } from '../firehose/types.ts';
import { BlockIndex } from './car.ts';
import { readCommitObject } from './commit.ts';

const blocks = new BlockIndex();

/**
 * The digests of commit block and MST root (32 bytes each, as latin1 text) of a #commit or #sync. No signature is
 * checked. null: the frame holds no readable commit, which a frame of our log always does.
 */
export const readCommitDigests = (frame: ScannedFrame): { commit: string; data: string } | null => {
  const { bytes } = frame;
  if (blocks.read(bytes, frame.blocksStart, frame.blocksEnd) !== null) return null;
  const root = blocks.find(bytes, blocks.rootDigestAt);
  if (root < 0) return null;
  const commit = readCommitObject(bytes, blocks.start(root), blocks.end(root));
  if (!commit.ok) return null;
  return {
    commit: latin1(bytes, blocks.rootDigestAt, blocks.rootDigestAt + 32),
    data: latin1(bytes, commit.dataDigestAt, commit.dataDigestAt + 32),
  };
};
