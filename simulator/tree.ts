/**
 * The simulator's repository tree (atproto spec: Repository, MST structure): immutable nodes with path copying.
 * A repo is a root; an old root stays valid, so a commit can be made and thrown away, and thousands of
 * accounts can start from one shared tree. Judged in its tests by @atproto/repo: same root CIDs.
 */
import { sha256, Writer } from './cbor.ts';

/** What a key points to. `body` is the record's bytes, or what is needed to make them again. */
export interface Leaf<Body> {
  readonly digest: Uint8Array;
  readonly body: Body;
}

export class Node<Body> {
  readonly layer: number;
  readonly keys: readonly string[];
  readonly leaves: readonly Leaf<Body>[];
  /** One more than keys: the subtree left of each key, and the one right of the last. All of layer − 1. */
  readonly kids: readonly (Node<Body> | null)[];
  private encoded: Uint8Array | null = null;
  private hashed: Uint8Array | null = null;

  constructor(
    layer: number,
    keys: readonly string[],
    leaves: readonly Leaf<Body>[],
    kids: readonly (Node<Body> | null)[],
  ) {
    this.layer = layer;
    this.keys = keys;
    this.leaves = leaves;
    this.kids = kids;
  }

  /** The node's block. */
  get bytes(): Uint8Array {
    this.encoded ??= encodeNode(this);
    return this.encoded;
  }

  /** sha-256 of the node's block. */
  get digest(): Uint8Array {
    this.hashed ??= sha256(this.bytes);
    return this.hashed;
  }
}

const writers: Writer[] = [];
let depth = 0;

const sharedPrefix = (a: string, b: string): number => {
  const limit = Math.min(a.length, b.length);
  let i = 0;
  while (i < limit && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  return i;
};

const encodeNode = <Body>(node: Node<Body>): Uint8Array => {
  // A node's bytes need its children's digests first: one writer per level of that recursion.
  writers[depth] ??= new Writer();
  const out = writers[depth]!;
  depth++;
  out.length = 0;
  out.head(5, 2);
  out.text('e');
  out.head(4, node.keys.length);
  let previous = '';
  for (let i = 0; i < node.keys.length; i++) {
    const key = node.keys[i]!;
    const prefix = sharedPrefix(previous, key);
    out.head(5, 4);
    out.text('k');
    const suffix = key.length - prefix;
    out.head(2, suffix);
    out.reserve(suffix);
    for (let c = prefix; c < key.length; c++) out.buffer[out.length++] = key.charCodeAt(c);
    out.text('p');
    out.head(0, prefix);
    out.text('t');
    const right = node.kids[i + 1]!;
    if (right === null) out.byte(0xf6);
    else out.link(right.digest);
    out.text('v');
    out.link(node.leaves[i]!.digest);
    previous = key;
  }
  out.text('l');
  const left = node.kids[0]!;
  if (left === null) out.byte(0xf6);
  else out.link(left.digest);
  depth--;
  return out.take();
};

/** The layer of a key: pairs of leading zero bits in its sha-256. */
export const keyLayer = (key: string): number => {
  const hash = sha256(Buffer.from(key, 'latin1'));
  let zeros = 0;
  for (const byte of hash) {
    if (byte === 0) {
      zeros += 4;
      continue;
    }
    return zeros + ((Math.clz32(byte) - 24) >>> 1);
  }
  return zeros;
};

export const emptyTree = <Body>(): Node<Body> => new Node<Body>(0, [], [], [null]);

/** Index of the first key not below `key`. */
const position = (keys: readonly string[], key: string): number => {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (keys[middle]! < key) low = middle + 1;
    else high = middle;
  }
  return low;
};

const isHollow = <Body>(node: Node<Body>): boolean => node.keys.length === 0 && node.kids[0] === null;

const orNull = <Body>(node: Node<Body>): Node<Body> | null => (isHollow(node) ? null : node);

/** Wraps a subtree in keyless nodes until it has the wanted layer. */
const raise = <Body>(node: Node<Body> | null, layer: number): Node<Body> | null => {
  let raised = node;
  while (raised !== null && raised.layer < layer) raised = new Node(raised.layer + 1, [], [], [raised]);
  return raised;
};

type Halves<Body> = readonly [Node<Body> | null, Node<Body> | null];

const split = <Body>(node: Node<Body> | null, key: string): Halves<Body> => {
  if (node === null) return [null, null];
  const i = position(node.keys, key);
  const [left, right] = split(node.kids[i]!, key);
  return [
    orNull(
      new Node(node.layer, node.keys.slice(0, i), node.leaves.slice(0, i), [...node.kids.slice(0, i), left]),
    ),
    orNull(
      new Node(node.layer, node.keys.slice(i), node.leaves.slice(i), [right, ...node.kids.slice(i + 1)]),
    ),
  ];
};

const merge = <Body>(left: Node<Body> | null, right: Node<Body> | null): Node<Body> | null => {
  if (left === null) return right;
  if (right === null) return left;
  return new Node(
    left.layer,
    [...left.keys, ...right.keys],
    [...left.leaves, ...right.leaves],
    [
      ...left.kids.slice(0, -1),
      merge(left.kids[left.kids.length - 1]!, right.kids[0]!),
      ...right.kids.slice(1),
    ],
  );
};

const withKid = <Body>(node: Node<Body>, i: number, kid: Node<Body> | null): Node<Body> => {
  const kids = node.kids.slice();
  kids[i] = kid;
  return new Node(node.layer, node.keys, node.leaves, kids);
};

const insert = <Body>(node: Node<Body>, key: string, leaf: Leaf<Body>, layer: number): Node<Body> => {
  const i = position(node.keys, key);
  if (node.keys[i] === key) {
    const leaves = node.leaves.slice();
    leaves[i] = leaf;
    return new Node(node.layer, node.keys, leaves, node.kids);
  }
  if (layer < node.layer) {
    const kid = node.kids[i] ?? new Node<Body>(node.layer - 1, [], [], [null]);
    return withKid(node, i, insert(kid, key, leaf, layer));
  }
  const [left, right] = split(node.kids[i]!, key);
  return new Node(
    node.layer,
    [...node.keys.slice(0, i), key, ...node.keys.slice(i)],
    [...node.leaves.slice(0, i), leaf, ...node.leaves.slice(i)],
    [...node.kids.slice(0, i), left, right, ...node.kids.slice(i + 1)],
  );
};

/** The tree with `key` set to `leaf`. */
export const put = <Body>(root: Node<Body>, key: string, leaf: Leaf<Body>): Node<Body> => {
  const layer = keyLayer(key);
  if (isHollow(root)) return new Node(layer, [key], [leaf], [null, null]);
  if (layer <= root.layer) return insert(root, key, leaf, layer);
  const [left, right] = split(root, key);
  return new Node(layer, [key], [leaf], [raise(left, layer - 1), raise(right, layer - 1)]);
};

const removeFrom = <Body>(node: Node<Body> | null, key: string): Node<Body> | null => {
  if (node === null) throw new Error('no such key in the tree');
  const i = position(node.keys, key);
  if (node.keys[i] !== key) return orNull(withKid(node, i, removeFrom(node.kids[i]!, key)));
  const keys = node.keys.slice();
  const leaves = node.leaves.slice();
  keys.splice(i, 1);
  leaves.splice(i, 1);
  const kids = [...node.kids.slice(0, i), merge(node.kids[i]!, node.kids[i + 1]!), ...node.kids.slice(i + 2)];
  return orNull(new Node(node.layer, keys, leaves, kids));
};

/** The tree without `key`, which must be in it. */
export const remove = <Body>(root: Node<Body>, key: string): Node<Body> => {
  let node = removeFrom(root, key);
  while (node !== null && node.keys.length === 0) node = node.kids[0]!;
  return node ?? emptyTree<Body>();
};

/** What `key` points to, or null. */
export const find = <Body>(root: Node<Body>, key: string): Leaf<Body> | null => {
  let node: Node<Body> | null = root;
  while (node !== null) {
    const i = position(node.keys, key);
    if (node.keys[i] === key) return node.leaves[i]!;
    node = node.kids[i]!;
  }
  return null;
};

/**
 * Adds to `into` the nodes that prove `key` and its absence: the path to it, and the paths to both neighbours.
 * With them the change can be undone without the rest of the tree (atproto spec: Sync, inductive firehose).
 */
export const collectProof = <Body>(root: Node<Body>, key: string, into: Set<Node<Body>>): void => {
  let node: Node<Body> | null = root;
  while (node !== null) {
    into.add(node);
    const i = position(node.keys, key);
    if (node.keys[i] !== key) {
      node = node.kids[i]!;
      continue;
    }
    for (let left = node.kids[i]!; left !== null; left = left.kids[left.kids.length - 1]!) into.add(left);
    for (let right = node.kids[i + 1]!; right !== null; right = right.kids[0]!) into.add(right);
    return;
  }
};

/** Calls back with every node, parents first. */
export const walkNodes = <Body>(root: Node<Body>, visit: (node: Node<Body>) => void): void => {
  visit(root);
  for (const kid of root.kids) if (kid !== null) walkNodes(kid, visit);
};

/** Calls back with every key and leaf, in order. */
export const walkLeaves = <Body>(root: Node<Body>, visit: (key: string, leaf: Leaf<Body>) => void): void => {
  for (let i = 0; i < root.kids.length; i++) {
    const kid = root.kids[i]!;
    if (kid !== null) walkLeaves(kid, visit);
    if (i < root.keys.length) visit(root.keys[i]!, root.leaves[i]!);
  }
};

/** Some key of the tree, chosen by a walk that takes `below(n)` at each node; null when the tree is empty. */
export const someKey = <Body>(root: Node<Body>, below: (bound: number) => number): string | null => {
  let node = root;
  for (;;) {
    const kids = node.kids.length;
    const choice = below(node.keys.length + kids);
    if (choice < node.keys.length && (node.layer === 0 || below(4) === 0)) return node.keys[choice]!;
    const start = choice % kids;
    let next: Node<Body> | null = null;
    for (let i = 0; i < kids && next === null; i++) next = node.kids[(start + i) % kids]!;
    if (next === null) return node.keys.length === 0 ? null : node.keys[choice % node.keys.length]!;
    node = next;
  }
};
