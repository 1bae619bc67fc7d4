/**
 * What one commit says about the collections of its repo, from its own blocks alone.
 *
 * Contract: pure and without memory of other commits; never throws. A created or updated record proves that its
 * collection is there. Of a collection in which something was deleted, the tree after the commit is asked, as far
 * as the commit carries it: commits hold the neighbours of the keys they delete (they must, to be undone), and
 * where two neighbours have nothing of the collection between them, it is gone. What the blocks do not prove is
 * said to be unproven, never guessed. Frames are those of our own log, whose hashes were checked: nothing is
 * hashed here, and a commit that deletes nothing costs no look at its blocks.
 *
 * Sources: atproto specs Repository ("MST Structure") and Sync ("Commit Operation Inversion").
 */
import { KIND, type ScannedFrame } from '../firehose/types.ts';
import { BlockIndex } from '../repo/car.ts';
import { readCommitObject } from '../repo/commit.ts';
import { isNsid, MAX_NSID_LENGTH } from '../repo/syntax.ts';
import { ABSENT, findPrefix, MALFORMED, PRESENT } from './prefix.ts';
import type { CollectionChanges } from './types.ts';

/**
 * Of this thread. deletes: ops that delete; walks: trees asked; removed, kept: what they proved; unproven: what
 * they did not; malformed: paths or blocks that no verified commit has; incomplete: tooBig or rebase.
 */
export const changeCounters = {
  commits: 0,
  deletes: 0,
  walks: 0,
  removed: 0,
  kept: 0,
  unproven: 0,
  malformed: 0,
  incomplete: 0,
};

const NONE: readonly string[] = [];
const blocks = new BlockIndex();
const SLASH = 0x2f;
/** A collection and its slash. */
const prefix = new Uint8Array(MAX_NSID_LENGTH + 1);

/**
 * Collections met lately, by length: most commits are in a few of them, and a string that is the same object needs
 * no memory and is hashed once.
 */
const known: string[] = new Array(MAX_NSID_LENGTH + 1).fill('');

/** The collection of a path; '' when it is none. */
function collectionOf(path: string): string {
  const slash = path.indexOf('/');
  if (slash <= 0 || slash > MAX_NSID_LENGTH) return '';
  const held = known[slash]!;
  if (held !== '' && path.startsWith(held)) return held;
  const collection = path.slice(0, slash);
  if (!isNsid(collection)) return '';
  known[slash] = collection;
  return collection;
}

/** Where the digest of the tree's root stands after the commit; −1 when the blocks do not tell. Indexes them. */
function readTree(frame: ScannedFrame): number {
  const { bytes } = frame;
  if (blocks.read(bytes, frame.blocksStart, frame.blocksEnd, true) !== null) {
    changeCounters.malformed++;
    return -1;
  }
  const block = frame.commitDigestAt < 0 ? -1 : blocks.find(bytes, frame.commitDigestAt);
  if (block < 0) return -1;
  const commit = readCommitObject(bytes, blocks.start(block), blocks.end(block));
  if (commit.ok) return commit.dataDigestAt;
  changeCounters.malformed++;
  return -1;
}

/**
 * What a #commit of our log says of its repo's collections; a frame of another kind says nothing. A collection in
 * which something was created stays in `present` even where the blocks do not decide whether it is still there
 * (which no verified commit does); it is then `unproven`, too.
 */
export const collectionChanges = (frame: ScannedFrame): CollectionChanges => {
  const { did, ops } = frame;
  if (frame.kind !== KIND.commit) return { did, present: NONE, removed: NONE, unproven: NONE };
  changeCounters.commits++;
  let present: string[] | null = null;
  let deleted: string[] | null = null;
  for (let index = 0; index < ops.length; index++) {
    const op = ops[index]!;
    const collection = collectionOf(op.path);
    if (collection === '') {
      changeCounters.malformed++;
      continue;
    }
    if (op.action === 'delete') {
      changeCounters.deletes++;
      if (deleted === null) deleted = [collection];
      else if (!deleted.includes(collection)) deleted.push(collection);
    } else if (present === null) present = [collection];
    else if (!present.includes(collection)) present.push(collection);
  }
  const incomplete = frame.tooBig || frame.rebase;
  if (incomplete) changeCounters.incomplete++;
  if (deleted === null) {
    const changes = { did, present: present ?? NONE, removed: NONE, unproven: NONE };
    return incomplete ? { ...changes, incomplete: true } : changes;
  }

  let removed: string[] | null = null;
  let unproven: string[] | null = null;
  const rootDigestAt = readTree(frame);
  for (let index = 0; index < deleted.length; index++) {
    const collection = deleted[index]!;
    changeCounters.walks++;
    let answer: number = MALFORMED;
    if (rootDigestAt >= 0) {
      for (let at = 0; at < collection.length; at++) prefix[at] = collection.charCodeAt(at);
      prefix[collection.length] = SLASH;
      answer = findPrefix(blocks, rootDigestAt, prefix, collection.length + 1);
      if (answer === MALFORMED) changeCounters.malformed++;
    }
    if (answer === PRESENT) {
      // Nothing to do for the index, which knows the collection, unless it never heard of it: so it is said.
      changeCounters.kept++;
      if (present === null) present = [collection];
      else if (!present.includes(collection)) present.push(collection);
    } else if (answer === ABSENT) {
      changeCounters.removed++;
      if (removed === null) removed = [collection];
      else removed.push(collection);
      const created = present?.indexOf(collection) ?? -1;
      if (created >= 0) present!.splice(created, 1);
    } else {
      changeCounters.unproven++;
      if (unproven === null) unproven = [collection];
      else unproven.push(collection);
    }
  }
  const changes = {
    did,
    present: present ?? NONE,
    removed: removed ?? NONE,
    unproven: unproven ?? NONE,
  };
  return incomplete ? { ...changes, incomplete: true } : changes;
};
