/**
 * Whether a tree holds any key that begins with a prefix, told from the blocks of one commit alone.
 *
 * Keys are sorted, so all that begin with one prefix lie side by side. While none of them is met, the place where
 * they would be is between two neighbours in every node, so there is one way down and nothing else to look at: it
 * ends at a key that has the prefix (there is one), at a gap without a subtree (there is none, and the neighbours
 * prove it), or at a node that the commit does not carry (nothing is known).
 *
 * Contract: never throws, whatever the bytes; reads each node on the way once, where it lies, and makes no garbage.
 *
 * Source: atproto spec, Repository ("MST Structure").
 */
import { isLinkAt, LINK_BYTES, LINK_PREFIX_BYTES, MAJOR_ARRAY, MAJOR_BYTES, NULL } from '../firehose/cbor.ts';
import type { Blocks } from '../repo/car.ts';
import { MAX_KEY_LENGTH, MAX_NODE_ENTRIES, MAX_TREE_HEIGHT } from '../repo/mst.ts';

/** The tree has such a key. */
export const PRESENT = 1;
/** The tree has none, proven. */
export const ABSENT = 0;
/** A node on the way is not in the blocks. */
export const UNPROVEN = -1;
/** A node on the way is none: nothing can be said. */
export const MALFORMED = -2;

export type PrefixAnswer = typeof PRESENT | typeof ABSENT | typeof UNPROVEN | typeof MALFORMED;

const key = new Uint8Array(MAX_KEY_LENGTH);
/** The nearest keys before and after the prefix so far; length −1: none yet. */
const low = new Uint8Array(MAX_KEY_LENGTH);
const high = new Uint8Array(MAX_KEY_LENGTH);

/** Negative, zero, positive: a[0, aLength) is before, the same as, after b[0, bLength). */
function compare(a: Uint8Array, aLength: number, b: Uint8Array, bLength: number): number {
  const shared = Math.min(aLength, bLength);
  for (let index = 0; index < shared; index++) {
    if (a[index] !== b[index]) return a[index]! - b[index]!;
  }
  return aLength - bLength;
}

function copy(target: Uint8Array, source: Uint8Array, length: number): void {
  for (let index = 0; index < length; index++) target[index] = source[index]!;
}

/**
 * Looks for keys that begin with prefix[0, prefixLength) in the tree whose root's digest stands at `rootDigestAt`
 * of the blocks' bytes.
 */
export function findPrefix(
  blocks: Blocks,
  rootDigestAt: number,
  prefix: Uint8Array,
  prefixLength: number,
): PrefixAnswer {
  const { bytes } = blocks;
  let digestAt = rootDigestAt;
  let lowLength = -1;
  let highLength = -1;
  for (let depth = 0; depth <= MAX_TREE_HEIGHT; depth++) {
    const block = blocks.find(bytes, digestAt);
    if (block < 0) return UNPROVEN;
    const end = blocks.end(block);
    let at = blocks.start(block);
    // {e: [...], l: link or null}
    if (bytes[at] !== 0xa2 || bytes[at + 1] !== 0x61 || bytes[at + 2] !== 0x65) return MALFORMED;
    at += 3;
    let count = bytes[at]! - (MAJOR_ARRAY << 5);
    at += 1;
    if (count === 24) count = bytes[at++]!;
    else if (count === 25) {
      count = (bytes[at]! << 8) | bytes[at + 1]!;
      at += 2;
    } else if (count < 0 || count > 24) return MALFORMED;
    if (count > MAX_NODE_ENTRIES) return MALFORMED;

    let keyLength = 0;
    // The subtree between the neighbours; −1: none. Before the first key it is `l`, which is written last.
    let kidDigestAt = -1;
    let leftmost = true;
    let passed = false;
    for (let index = 0; index < count; index++) {
      // {k: bytes, p: unsigned, t: link or null, v: link}
      if (bytes[at] !== 0xa4 || bytes[at + 1] !== 0x61 || bytes[at + 2] !== 0x6b) return MALFORMED;
      at += 3;
      let suffixLength = bytes[at++]! - (MAJOR_BYTES << 5);
      if (suffixLength === 24) suffixLength = bytes[at++]!;
      else if (suffixLength === 25) {
        suffixLength = (bytes[at]! << 8) | bytes[at + 1]!;
        at += 2;
      } else if (suffixLength < 0 || suffixLength > 24) return MALFORMED;
      const suffixAt = at;
      at += suffixLength;
      if (suffixLength === 0 || at >= end || bytes[at] !== 0x61 || bytes[at + 1] !== 0x70) return MALFORMED;
      at += 2;
      let shared = bytes[at++]!;
      if (shared === 24) shared = bytes[at++]!;
      else if (shared === 25) {
        shared = (bytes[at]! << 8) | bytes[at + 1]!;
        at += 2;
      } else if (shared > 24) return MALFORMED;
      if (shared > keyLength || shared + suffixLength > MAX_KEY_LENGTH) return MALFORMED;
      if (shared < keyLength && bytes[suffixAt]! <= key[shared]!) return MALFORMED;
      for (let next = 0; next < suffixLength; next++) key[shared + next] = bytes[suffixAt + next]!;
      keyLength = shared + suffixLength;
      if (index === 0 && lowLength >= 0 && compare(key, keyLength, low, lowLength) <= 0) return MALFORMED;

      if (bytes[at] !== 0x61 || bytes[at + 1] !== 0x74) return MALFORMED;
      at += 2;
      let rightDigestAt = -1;
      if (bytes[at] === NULL) at += 1;
      else {
        if (!isLinkAt(bytes, at, end)) return MALFORMED;
        rightDigestAt = at + LINK_PREFIX_BYTES;
        at += LINK_BYTES;
      }
      if (bytes[at] !== 0x61 || bytes[at + 1] !== 0x76 || !isLinkAt(bytes, at + 2, end)) return MALFORMED;
      at += 2 + LINK_BYTES;

      if (passed) continue;
      const order = compare(key, Math.min(keyLength, prefixLength), prefix, prefixLength);
      if (order === 0) return PRESENT;
      if (order < 0) {
        leftmost = false;
        kidDigestAt = rightDigestAt;
        copy(low, key, keyLength);
        lowLength = keyLength;
      } else {
        passed = true;
        if (highLength >= 0 && compare(key, keyLength, high, highLength) >= 0) return MALFORMED;
        copy(high, key, keyLength);
        highLength = keyLength;
      }
    }
    if (bytes[at] !== 0x61 || bytes[at + 1] !== 0x6c) return MALFORMED;
    at += 2;
    if (bytes[at] === NULL) at += 1;
    else {
      if (!isLinkAt(bytes, at, end)) return MALFORMED;
      if (leftmost) kidDigestAt = at + LINK_PREFIX_BYTES;
      at += LINK_BYTES;
    }
    if (at !== end) return MALFORMED;
    if (kidDigestAt < 0) return count === 0 && depth > 0 ? MALFORMED : ABSENT;
    digestAt = kidDigestAt;
  }
  return MALFORMED;
}
