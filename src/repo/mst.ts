/**
 * The part of a Merkle search tree that a commit carries, and undoing the commit's ops on it.
 *
 * Nodes are read straight from the bytes; what a node's digest says about absent nodes is kept as a digest. `load`
 * checks every node that is present: its one canonical form, keys sorted and inside the bounds that the parents
 * set, maximal prefixes, each key at the height its hash gives, empty nodes only in between. Only nodes that an op
 * touched are encoded and hashed again, and most of those by copying them and putting in the digest of one kid.
 *
 * A digest is named by a number, so that nothing is copied: below ARENA an offset into the CAR's bytes, from ARENA
 * on an offset into the tree's own memory. A key is a number, too: its place in a table of bytes. A commit brings some
 * forty of them, and as many strings would be most of what there is to collect.
 *
 * Source: atproto spec, Repository ("MST Structure") and Sync ("Commit Operation Inversion").
 */
import {
  isLinkAt,
  LINK_BYTES,
  LINK_PREFIX_BYTES,
  MAJOR_ARRAY,
  MAJOR_BYTES,
  MAJOR_UNSIGNED,
  NULL,
  writeHead,
  writeLinkPrefix,
} from '../firehose/cbor.ts';
import { MAX_OPS } from '../firehose/types.ts';
import { type Rejection, reject } from '../reasons.ts';
import type { Blocks } from './car.ts';
import { heightAt, type KeyHeights, keyHeight, keyHeights } from './heights.ts';
import { isKeyByte } from './syntax.ts';

/** Of a key, in bytes: a path has at most 830. */
export const MAX_KEY_LENGTH = 1024;
/** A node has four entries on average; the chance of 200 is below 10^-24. */
export const MAX_NODE_ENTRIES = 1024;
/** A tree of height 40 has on average 4^40 keys. */
export const MAX_TREE_HEIGHT = 40;

const ARENA = 0x40000000;
/** No key. */
const NONE = -1;
/** Of the tables of keys, at first; a commit has some 40 keys of 32 bytes. */
const KEYS = 512;
const KEY_BYTES = 16_384;
/** A commit of 2 MB can have keys of 22 MB, each all but the same as the one before: such a table is not kept. */
const MAX_KEPT_KEY_BYTES = 1_048_576;
const DIGEST_BYTES = 32;
/** {k, p, t, v}: map head, four one-letter keys, the heads of k and p, two links. */
const MAX_ENTRY_OVERHEAD_BYTES = 1 + 4 * 2 + 3 + 3 + 2 * LINK_BYTES;
const MAX_NODE_OVERHEAD_BYTES = 1 + 2 + 3 + 2 + LINK_BYTES;

/** The key is not in the tree, proven. */
export const ABSENT = -1;
/** A node on the way to the key is not in the blocks. */
export const UNPROVEN = -2;

/** A node that is present; otherwise the name of its digest, which is all that is known of it; ABSENT: there is none. */
type Kid = Node | number;

interface Node {
  /** The digest no longer holds. */
  dirty: boolean;
  /** Keys, values or the presence of kids changed; a node that is only dirty differs in its kids' digests. */
  reshaped: boolean;
  digest: number;
  /** Where the parent's bytes held the digest, and where the node's own bytes are, as loaded. */
  linkAt: number;
  start: number;
  end: number;
  height: number;
  keys: number[];
  values: number[];
  /** kids[i] holds what comes before keys[i]; the last one what comes after all. */
  kids: Kid[];
}

const fresh = (height: number, keys: number[], values: number[], kids: Kid[]): Node => ({
  dirty: true,
  reshaped: true,
  digest: 0,
  linkAt: 0,
  start: 0,
  end: 0,
  height,
  keys,
  values,
  kids,
});

const nodeDigest = new Uint8Array(DIGEST_BYTES);

/** How many leading bytes the keys at bytes[a, aEnd) and bytes[b, bEnd) share. */
export function sharedPrefixLength(
  bytes: Uint8Array,
  a: number,
  aEnd: number,
  b: number,
  bEnd: number,
): number {
  const max = Math.min(aEnd - a, bEnd - b);
  let length = 0;
  while (length < max && bytes[a + length] === bytes[b + length]) length++;
  return length;
}

/** An op to be undone. */
export interface TreeOp {
  readonly path: string;
  /** What the path held before; null: nothing (a create). */
  readonly prev: Uint8Array | null;
  /** What it holds now; null: nothing (a delete). */
  readonly cid: Uint8Array | null;
}

/** One tree, used for one commit after another. */
export class PartialTree {
  #keyHeights: KeyHeights | null;
  #blocks: Blocks | null = null;
  #bytes: Uint8Array = new Uint8Array(0);
  #root: Kid = ABSENT;
  #visited = 0;
  /** Why the tree cannot be loaded or changed; '' while all is well. */
  #problem = '';
  #arena = new Uint8Array(256 * DIGEST_BYTES);
  #arenaEnd = 0;
  #scratch = new Uint8Array(16_384);
  /** The key being read. */
  readonly #key = new Uint8Array(MAX_KEY_LENGTH);
  #keyBytes = new Uint8Array(KEY_BYTES);
  #keyEnds = new Int32Array(KEYS);
  #keyCount = 0;
  /** Of the keys of the nodes: what height their node has, and what their hash gives. */
  #nodeHeights = new Uint8Array(KEYS);
  #hashHeights = new Int32Array(KEYS);
  #left: Kid = ABSENT;
  #right: Kid = ABSENT;

  /** @param heights how the heights of keys are found out; if not said, the best way that this machine has */
  constructor(heights: KeyHeights | null = null) {
    this.#keyHeights = heights;
  }

  /**
   * Loads and checks all nodes of the tree under `rootDigestAt` (offset into the blocks' bytes) that are present.
   * The root itself may be absent; then nothing is known of the tree but its digest. Fails with mst_invalid.
   */
  load(blocks: Blocks, rootDigestAt: number): Rejection | null {
    this.#blocks = blocks;
    this.#bytes = blocks.bytes;
    this.#visited = 0;
    this.#problem = '';
    this.#arenaEnd = 0;
    this.#keyCount = 0;
    if (this.#keyBytes.length > MAX_KEPT_KEY_BYTES) this.#keyBytes = new Uint8Array(KEY_BYTES);
    this.#root = this.#load(rootDigestAt, -1, NONE, NONE);
    this.#checkHeights();
    return this.#verdict();
  }

  #verdict(): Rejection | null {
    return this.#problem === '' ? null : reject('mst_invalid', this.#problem);
  }

  #fail(problem: string): Kid {
    if (this.#problem === '') this.#problem = problem;
    return ABSENT;
  }

  // --- keys: key n is #keyBytes[#keyEnds[n − 1], #keyEnds[n]) -------------------------------------------------------

  #keyStart(key: number): number {
    return key === 0 ? 0 : this.#keyEnds[key - 1]!;
  }

  /** Takes the key into the table: `length` bytes, or characters of ASCII. Its number. */
  #addKey(source: Uint8Array | string, length: number): number {
    const key = this.#keyCount;
    const start = this.#keyStart(key);
    if (key === this.#keyEnds.length) {
      const more = new Int32Array(key * 2);
      more.set(this.#keyEnds);
      this.#keyEnds = more;
      const moreHeights = new Uint8Array(key * 2);
      moreHeights.set(this.#nodeHeights);
      this.#nodeHeights = moreHeights;
      this.#hashHeights = new Int32Array(key * 2);
    }
    if (start + length > this.#keyBytes.length) {
      const more = new Uint8Array(Math.max(this.#keyBytes.length * 2, start + length));
      more.set(this.#keyBytes);
      this.#keyBytes = more;
    }
    const bytes = this.#keyBytes;
    if (typeof source === 'string')
      for (let index = 0; index < length; index++) bytes[start + index] = source.charCodeAt(index);
    else for (let index = 0; index < length; index++) bytes[start + index] = source[index]!;
    this.#keyEnds[key] = start + length;
    this.#keyCount = key + 1;
    return key;
  }

  /** Below 0: `a` comes first; 0: they are the same. */
  #compareKeys(a: number, b: number): number {
    const bytes = this.#keyBytes;
    const aStart = this.#keyStart(a);
    const aEnd = this.#keyEnds[a]!;
    const bStart = this.#keyStart(b);
    const bEnd = this.#keyEnds[b]!;
    const shared = sharedPrefixLength(bytes, aStart, aEnd, bStart, bEnd);
    if (aStart + shared < aEnd && bStart + shared < bEnd)
      return bytes[aStart + shared]! - bytes[bStart + shared]!;
    return aEnd - aStart - (bEnd - bStart);
  }

  /** Index of the first key that is not below `key`. */
  #lowerBound(keys: readonly number[], key: number): number {
    let low = 0;
    let high = keys.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#compareKeys(keys[middle]!, key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #holdsAt(keys: readonly number[], index: number, key: number): boolean {
    return index < keys.length && this.#compareKeys(keys[index]!, key) === 0;
  }

  /**
   * Checks that each key has the height of its node, all at once, since eight are hashed in hardly more time than one.
   * Nothing depends on it before: the root's height is that of its first key, any other node's is one less than its
   * parent's, so a wrong key steers nothing. Keys were read before whatever else is wrong, as reading ended there: one
   * at the wrong height is the first problem.
   */
  #checkHeights(): void {
    const count = this.#keyCount;
    this.#keyHeights ??= keyHeights();
    this.#keyHeights.write(this.#keyBytes, this.#keyEnds, count, this.#hashHeights);
    for (let key = 0; key < count; key++)
      if (this.#hashHeights[key] !== this.#nodeHeights[key]) {
        this.#problem = 'key at the wrong height';
        return;
      }
  }

  // --- nodes --------------------------------------------------------------------------------------------------------

  /** `height` −1: the root. `low` and `high` are the keys around the node. */
  #load(digestAt: number, height: number, low: number, high: number): Kid {
    const bytes = this.#bytes;
    const block = this.#blocks!.find(bytes, digestAt);
    if (block < 0) return digestAt;
    // A well-formed tree refers to a node once, so this cannot stop one; it stops nodes that are shared.
    if (++this.#visited > this.#blocks!.count) return this.#fail('node referred to more than once');
    const start = this.#blocks!.start(block);
    const end = this.#blocks!.end(block);
    const isRoot = height === -1;

    // {e: [...], l: link or null}
    if (bytes[start] !== 0xa2 || bytes[start + 1] !== 0x61 || bytes[start + 2] !== 0x65) {
      return this.#fail('not a node');
    }
    let at = start + 3;
    let count = bytes[at]! - (MAJOR_ARRAY << 5);
    if (count === 24) {
      count = bytes[at + 1]!;
      if (count < 24) return this.#fail('not a node');
      at += 2;
    } else if (count === 25) {
      count = (bytes[at + 1]! << 8) | bytes[at + 2]!;
      if (count < 0x100) return this.#fail('not a node');
      at += 3;
    } else {
      if (count < 0 || count > 24) return this.#fail('not a node');
      at += 1;
    }
    if (count > MAX_NODE_ENTRIES) return this.#fail('too many entries');

    const keys: number[] = [];
    const values: number[] = [];
    /** Digests at first; those that are present take their places. */
    const kids: Kid[] = [ABSENT];
    const key = this.#key;
    let keyLength = 0;
    for (let index = 0; index < count; index++) {
      // {k: bytes, p: unsigned, t: link or null, v: link}
      if (bytes[at] !== 0xa4 || bytes[at + 1] !== 0x61 || bytes[at + 2] !== 0x6b) {
        return this.#fail('not an entry');
      }
      at += 3;
      let suffixLength = bytes[at++]! - (MAJOR_BYTES << 5);
      if (suffixLength === 24) {
        suffixLength = bytes[at++]!;
        if (suffixLength < 24) return this.#fail('not an entry');
      } else if (suffixLength === 25) {
        suffixLength = (bytes[at]! << 8) | bytes[at + 1]!;
        if (suffixLength < 0x100) return this.#fail('not an entry');
        at += 2;
      } else if (suffixLength < 0 || suffixLength > 24) return this.#fail('not an entry');
      const suffixAt = at;
      at += suffixLength;
      if (at >= end) return this.#fail('ends inside an entry');
      if (bytes[at] !== 0x61 || bytes[at + 1] !== 0x70) return this.#fail('not an entry');
      at += 2;
      let prefixLength = bytes[at++]!;
      if (prefixLength === 24) {
        prefixLength = bytes[at++]!;
        if (prefixLength < 24) return this.#fail('not an entry');
      } else if (prefixLength === 25) {
        prefixLength = (bytes[at]! << 8) | bytes[at + 1]!;
        if (prefixLength < 0x100) return this.#fail('not an entry');
        at += 2;
      } else if (prefixLength >= 24) return this.#fail('not an entry');

      if (prefixLength > keyLength) return this.#fail('prefix longer than the key before');
      if (suffixLength === 0) return this.#fail('keys not sorted');
      const length = prefixLength + suffixLength;
      if (length > MAX_KEY_LENGTH) return this.#fail('key too long');
      // The prefix is all that two keys share, so the first byte after it decides their order.
      if (index > 0 && prefixLength < keyLength) {
        const difference = bytes[suffixAt]! - key[prefixLength]!;
        if (difference === 0) return this.#fail('prefix not maximal');
        if (difference < 0) return this.#fail('keys not sorted');
      }
      for (let next = 0; next < suffixLength; next++) {
        const byte = bytes[suffixAt + next]!;
        if (!isKeyByte(byte)) return this.#fail('key holds a character no path has');
        key[prefixLength + next] = byte;
      }
      keyLength = length;
      if (height < 0) {
        height = heightAt(key, 0, length);
        if (height > MAX_TREE_HEIGHT) return this.#fail('tree too high');
      }
      const number = this.#addKey(key, length);
      this.#nodeHeights[number] = height;
      keys.push(number);

      if (bytes[at] !== 0x61 || bytes[at + 1] !== 0x74) return this.#fail('not an entry');
      at += 2;
      if (bytes[at] === NULL) {
        kids.push(ABSENT);
        at += 1;
      } else {
        if (!isLinkAt(bytes, at, end)) return this.#fail('not an entry');
        kids.push(at + LINK_PREFIX_BYTES);
        at += LINK_BYTES;
      }
      if (bytes[at] !== 0x61 || bytes[at + 1] !== 0x76) return this.#fail('not an entry');
      at += 2;
      if (!isLinkAt(bytes, at, end)) return this.#fail('not an entry');
      values.push(at + LINK_PREFIX_BYTES);
      at += LINK_BYTES;
    }
    if (bytes[at] !== 0x61 || bytes[at + 1] !== 0x6c) return this.#fail('not a node');
    at += 2;
    if (bytes[at] === NULL) at += 1;
    else {
      if (!isLinkAt(bytes, at, end)) return this.#fail('not a node');
      kids[0] = at + LINK_PREFIX_BYTES;
      at += LINK_BYTES;
    }
    if (at !== end) return this.#fail('not a node');

    if (count === 0) {
      if (isRoot) {
        if (kids[0] !== ABSENT) return this.#fail('root without entries');
        height = 0;
      } else if (kids[0] === ABSENT) return this.#fail('empty node');
    } else {
      if (low !== NONE && this.#compareKeys(keys[0]!, low) <= 0) return this.#fail('keys not sorted');
      if (high !== NONE && this.#compareKeys(keys[count - 1]!, high) >= 0)
        return this.#fail('keys not sorted');
    }

    for (let index = 0; index <= count; index++) {
      const kidDigest = kids[index] as number;
      if (kidDigest === ABSENT) continue;
      if (height === 0) return this.#fail('node below height zero');
      kids[index] = this.#load(
        kidDigest,
        height - 1,
        index === 0 ? low : keys[index - 1]!,
        index === count ? high : keys[index]!,
      );
      if (this.#problem !== '') return ABSENT;
    }
    return {
      dirty: false,
      reshaped: false,
      digest: digestAt,
      linkAt: digestAt,
      start,
      end,
      height,
      keys,
      values,
      kids,
    };
  }

  /** Name of the digest that the tree holds at `path`; ABSENT or UNPROVEN. */
  find(path: string): number {
    const key = this.#addKey(path, path.length);
    let node = this.#root;
    while (typeof node !== 'number') {
      const index = this.#lowerBound(node.keys, key);
      if (this.#holdsAt(node.keys, index, key)) return node.values[index]!;
      node = node.kids[index]!;
    }
    return node === ABSENT ? ABSENT : UNPROVEN;
  }

  /** Whether the named digest is these 32 bytes. */
  isDigest(name: number, digest: Uint8Array): boolean {
    const source = name < ARENA ? this.#bytes : this.#arena;
    const at = name < ARENA ? name : name - ARENA;
    for (let index = 0; index < DIGEST_BYTES; index++) {
      if (source[at + index] !== digest[index]) return false;
    }
    return true;
  }

  /**
   * Undoes ops that the tree is known to hold (paths unique; created and updated ones present, deleted ones absent)
   * and compares the root with `prevData`. null: it is the same. Fails with prev_data_mismatch, or with mst_invalid
   * when a node that is needed is not in the blocks.
   */
  invert(ops: readonly TreeOp[], prevData: Uint8Array): Rejection | null {
    // Deletes first: a key that is put back may be what keeps two subtrees apart, and then their nodes need not be
    // merged, nor be in the blocks.
    for (let index = 0; index < ops.length && this.#problem === ''; index++) {
      const op = ops[index]!;
      if (op.cid === null && op.prev !== null) this.#insert(op.path, this.#keep(op.prev));
    }
    // A tree that could not be changed is not whole any more: the first problem is the last.
    for (let index = 0; index < ops.length && this.#problem === ''; index++) {
      const op = ops[index]!;
      if (op.cid === null) continue;
      if (op.prev === null) this.#remove(this.#root, this.#addKey(op.path, op.path.length));
      else this.#replace(op.path, this.#keep(op.prev));
    }
    if (this.#problem !== '') return this.#verdict();
    let root = this.#root;
    // The top of a tree has entries, unless the tree is empty.
    while (typeof root !== 'number' && root.keys.length === 0 && root.kids[0] !== ABSENT)
      root = root.kids[0]!;
    const digest = this.#encode(root);
    if (this.#problem !== '') return this.#verdict();
    return this.isDigest(digest, prevData) ? null : reject('prev_data_mismatch');
  }

  #keep(digest: Uint8Array): number {
    const at = this.#reserve();
    for (let index = 0; index < DIGEST_BYTES; index++) this.#arena[at + index] = digest[index]!;
    return ARENA + at;
  }

  #reserve(): number {
    const at = this.#arenaEnd;
    this.#arenaEnd += DIGEST_BYTES;
    if (this.#arenaEnd > this.#arena.length) {
      // At most one digest per op and per node on the op's way, twice for a split.
      if (this.#arenaEnd > MAX_OPS * MAX_TREE_HEIGHT * 4 * DIGEST_BYTES)
        throw new Error('arena over its bound');
      const larger = new Uint8Array(this.#arena.length * 2);
      larger.set(this.#arena);
      this.#arena = larger;
    }
    return at;
  }

  #insert(path: string, value: number): void {
    const height = keyHeight(path);
    const key = this.#addKey(path, path.length);
    if (height > MAX_TREE_HEIGHT) {
      this.#fail('tree too high');
      return;
    }
    const root = this.#root;
    if (typeof root === 'number') {
      this.#fail('a node needed is not in the blocks');
      return;
    }
    let node: Node = root;
    while (node.height < height) {
      const empty = node.keys.length === 0 && node.kids[0] === ABSENT;
      node = fresh(node.height + 1, [], [], [empty ? ABSENT : node]);
    }
    this.#root = node;
    for (;;) {
      node.dirty = true;
      const index = this.#lowerBound(node.keys, key);
      if (node.height === height) {
        node.reshaped = true;
        this.#split(node.kids[index]!, key);
        node.keys.splice(index, 0, key);
        node.values.splice(index, 0, value);
        node.kids.splice(index, 1, this.#left, this.#right);
        return;
      }
      let kid = node.kids[index]!;
      if (kid === ABSENT) {
        kid = fresh(node.height - 1, [], [], [ABSENT]);
        node.kids[index] = kid;
        node.reshaped = true;
      }
      if (typeof kid === 'number') {
        this.#fail('a node needed is not in the blocks');
        return;
      }
      node = kid;
    }
  }

  /** Parts a subtree in #left and #right of `key`, which it does not hold. */
  #split(node: Kid, key: number): void {
    if (typeof node === 'number') {
      if (node !== ABSENT) this.#fail('a node needed is not in the blocks');
      this.#left = ABSENT;
      this.#right = ABSENT;
      return;
    }
    const index = this.#lowerBound(node.keys, key);
    const kid = node.kids[index]!;
    this.#split(kid, key);
    const left = this.#left;
    const right = this.#right;
    if (index === node.keys.length && right === ABSENT) {
      // All of it is on the left.
      this.#left = node;
      return;
    }
    if (index === 0 && left === ABSENT) {
      this.#right = node;
      return;
    }
    this.#left =
      index === 0 && left === ABSENT
        ? ABSENT
        : fresh(node.height, node.keys.slice(0, index), node.values.slice(0, index), [
            ...node.kids.slice(0, index),
            left,
          ]);
    this.#right =
      index === node.keys.length && right === ABSENT
        ? ABSENT
        : fresh(node.height, node.keys.slice(index), node.values.slice(index), [
            right,
            ...node.kids.slice(index + 1),
          ]);
  }

  #remove(node: Kid, key: number): void {
    if (typeof node === 'number') {
      this.#fail('a node needed is not in the blocks');
      return;
    }
    node.dirty = true;
    const index = this.#lowerBound(node.keys, key);
    if (this.#holdsAt(node.keys, index, key)) {
      node.reshaped = true;
      const merged = this.#merge(node.kids[index]!, node.kids[index + 1]!);
      node.keys.splice(index, 1);
      node.values.splice(index, 1);
      node.kids.splice(index, 2, merged);
      return;
    }
    const kid = node.kids[index]!;
    if (kid === ABSENT) throw new Error('a key to remove is not in the tree');
    this.#remove(kid, key);
    if (typeof kid !== 'number' && kid.keys.length === 0 && kid.kids[0] === ABSENT) {
      node.kids[index] = ABSENT;
      node.reshaped = true;
    }
  }

  /** Joins two subtrees of one height that no key keeps apart any more. */
  #merge(left: Kid, right: Kid): Kid {
    if (left === ABSENT) return right;
    if (right === ABSENT) return left;
    if (typeof left === 'number' || typeof right === 'number')
      return this.#fail('a node needed is not in the blocks');
    const inner = this.#merge(left.kids[left.kids.length - 1]!, right.kids[0]!);
    return fresh(left.height, left.keys.concat(right.keys), left.values.concat(right.values), [
      ...left.kids.slice(0, -1),
      inner,
      ...right.kids.slice(1),
    ]);
  }

  #replace(path: string, value: number): void {
    const key = this.#addKey(path, path.length);
    let node = this.#root;
    while (typeof node !== 'number') {
      node.dirty = true;
      const index = this.#lowerBound(node.keys, key);
      if (this.#holdsAt(node.keys, index, key)) {
        node.values[index] = value;
        node.reshaped = true;
        return;
      }
      node = node.kids[index]!;
    }
    throw new Error('a key to replace is not in the tree');
  }

  /** Name of the node's digest; encodes and hashes it and its kids where they changed. */
  #encode(node: Kid): number {
    if (typeof node === 'number') return node;
    if (!node.dirty) return node.digest;
    const count = node.keys.length;
    if (count > MAX_NODE_ENTRIES) {
      this.#fail('too many entries');
      return 0;
    }
    let room = node.reshaped
      ? MAX_NODE_OVERHEAD_BYTES + count * MAX_ENTRY_OVERHEAD_BYTES
      : node.end - node.start;
    for (let index = 0; index <= count; index++) {
      const kid = node.kids[index]!;
      if (typeof kid !== 'number' && kid.dirty) this.#encode(kid);
      if (node.reshaped && index < count)
        room += this.#keyEnds[node.keys[index]!]! - this.#keyStart(node.keys[index]!);
    }
    if (room > this.#scratch.length) this.#scratch = new Uint8Array(room * 2);
    const length = node.reshaped ? this.#writeNode(node) : this.#copyNode(node);
    Bun.SHA256.hash(this.#scratch.subarray(0, length), nodeDigest);
    node.digest = this.#keep(nodeDigest);
    node.dirty = false;
    return node.digest;
  }

  /** The node as it was loaded, with the digests that its kids have now. Answers its length. */
  #copyNode(node: Node): number {
    const { start, end, kids } = node;
    const target = this.#scratch;
    target.set(this.#bytes.subarray(start, end));
    for (let index = 0; index < kids.length; index++) {
      const kid = kids[index]!;
      // Those that did not change keep the digest that is there.
      if (typeof kid !== 'number' && kid.digest >= ARENA) {
        const from = kid.digest - ARENA;
        const at = kid.linkAt - start;
        for (let next = 0; next < DIGEST_BYTES; next++) target[at + next] = this.#arena[from + next]!;
      }
    }
    return end - start;
  }

  /** The node from its keys, values and kids. Answers its length. */
  #writeNode(node: Node): number {
    const count = node.keys.length;
    const target = this.#scratch;
    target[0] = 0xa2;
    target[1] = 0x61;
    target[2] = 0x65;
    let at = writeHead(target, 3, MAJOR_ARRAY, count);
    const keyBytes = this.#keyBytes;
    let beforeStart = 0;
    let beforeEnd = 0;
    for (let index = 0; index < count; index++) {
      const start = this.#keyStart(node.keys[index]!);
      const end = this.#keyEnds[node.keys[index]!]!;
      const prefixLength = sharedPrefixLength(keyBytes, beforeStart, beforeEnd, start, end);
      target[at++] = 0xa4;
      target[at++] = 0x61;
      target[at++] = 0x6b;
      at = writeHead(target, at, MAJOR_BYTES, end - start - prefixLength);
      for (let next = start + prefixLength; next < end; next++) target[at++] = keyBytes[next]!;
      target[at++] = 0x61;
      target[at++] = 0x70;
      at = writeHead(target, at, MAJOR_UNSIGNED, prefixLength);
      target[at++] = 0x61;
      target[at++] = 0x74;
      at = this.#writeKid(node.kids[index + 1]!, at);
      target[at++] = 0x61;
      target[at++] = 0x76;
      at = this.#writeLink(node.values[index]!, at);
      beforeStart = start;
      beforeEnd = end;
    }
    target[at++] = 0x61;
    target[at++] = 0x6c;
    return this.#writeKid(node.kids[0]!, at);
  }

  #writeKid(kid: Kid, at: number): number {
    if (kid === ABSENT) {
      this.#scratch[at] = NULL;
      return at + 1;
    }
    return this.#writeLink(typeof kid === 'number' ? kid : kid.digest, at);
  }

  #writeLink(digest: number, at: number): number {
    const target = this.#scratch;
    at = writeLinkPrefix(target, at);
    const source = digest < ARENA ? this.#bytes : this.#arena;
    const from = digest < ARENA ? digest : digest - ARENA;
    for (let index = 0; index < DIGEST_BYTES; index++) target[at + index] = source[from + index]!;
    return at + DIGEST_BYTES;
  }
}
