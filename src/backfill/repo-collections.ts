/**
 * The collections of a whole repo, out of its CAR: for hosts that have no describeRepo. Pure.
 * Sources: CARv1 specification; atproto spec, Repository ("MST Structure").
 */
import { decode } from '@ipld/dag-cbor';
import { CID } from 'multiformats/cid';
import { BlockIndex } from '../repo/car.ts';
import { isNsid } from '../repo/syntax.ts';
import { MAX_COLLECTIONS_OF_ANSWER } from './answers.ts';

/** What is read of one repo, bytes: a tiny one. Reading a large one only for its collections' names is a burden. */
export const MAX_TINY_REPO_BYTES = 2 * 1024 * 1024;
/** Tree nodes of a repo of that size, and more. */
const MAX_NODES = 60_000;
const MAX_KEY_BYTES = 1_024;

const ascii = new TextDecoder('latin1');

/**
 * @param car a CAR v1 with the commit as its root and every node of the tree; records may be absent
 * @returns null: damaged, of another account, or over the bounds
 */
export const collectionsOfRepo = (car: Uint8Array, did: string): string[] | null => {
  try {
    return walk(car, did);
  } catch {
    // Whatever the decoder makes of it: bytes from outside.
    return null;
  }
};

const walk = (car: Uint8Array, did: string): string[] | null => {
  const blocks = new BlockIndex();
  if (blocks.read(car, 0, car.length) !== null) return null;
  const blockOf = (bytes: Uint8Array, digestAt: number): unknown => {
    const block = blocks.find(bytes, digestAt);
    return block < 0 ? undefined : decode(car.subarray(blocks.start(block), blocks.end(block)));
  };
  const linked = (link: unknown): unknown => {
    const cid = CID.asCID(link);
    return cid === null ? undefined : blockOf(cid.multihash.digest, 0);
  };
  const commit = blockOf(car, blocks.rootDigestAt) as { did?: unknown; data?: unknown } | undefined;
  if (commit?.did !== did) return null;
  const collections = new Set<string>();
  const nodes: unknown[] = [commit.data];
  for (let read = 0; nodes.length > 0; read++) {
    if (read >= MAX_NODES) return null;
    const node = linked(nodes.pop()) as { l?: unknown; e?: unknown } | undefined;
    if (node === undefined || !Array.isArray(node.e)) return null;
    if (node.l !== null && node.l !== undefined) nodes.push(node.l);
    let key = '';
    for (const entry of node.e as { p?: unknown; k?: unknown; t?: unknown }[]) {
      const { p: prefixBytes, k: rest, t: subtree } = entry;
      if (typeof prefixBytes !== 'number' || !(rest instanceof Uint8Array)) return null;
      if (prefixBytes > key.length || prefixBytes + rest.length > MAX_KEY_BYTES) return null;
      key = key.slice(0, prefixBytes) + ascii.decode(rest);
      const collection = key.slice(0, Math.max(0, key.indexOf('/')));
      if (!isNsid(collection)) return null;
      collections.add(collection);
      if (collections.size > MAX_COLLECTIONS_OF_ANSWER) return null;
      if (subtree !== null && subtree !== undefined) nodes.push(subtree);
    }
  }
  return [...collections];
};
