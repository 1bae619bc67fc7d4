/**
 * The CAR in a frame, indexed and hash-checked in one pass, where it lies.
 *
 * Strict: version 1, one root, every block a CIDv1 dag-cbor sha-256, minimal varints, nothing between or after the
 * blocks. Every byte of the CAR is covered: the header has only one canonical form, each block hashes to its CID
 * whether anything refers to it or not, and a length that is wrong cannot leave the rest readable. A block may
 * occur twice and a block nobody refers to is allowed: both are what their CID says, so both are harmless.
 *
 * Sources: CARv1 specification; atproto spec, Repository ("CAR File Serialization").
 */
import { type Rejection, reject } from '../reasons.ts';

/**
 * varint(58), then {roots: [link], version: 1}: what stands before and after the root's digest. With one dag-cbor
 * sha-256 root this is the only canonical form.
 */
const HEADER_BEFORE_DIGEST = Uint8Array.of(
  ...[0x3a, 0xa2, 0x65, 0x72, 0x6f, 0x6f, 0x74, 0x73, 0x81],
  ...[0xd8, 0x2a, 0x58, 0x25, 0x00, 0x01, 0x71, 0x12, 0x20],
);
const HEADER_AFTER_DIGEST = Uint8Array.of(0x67, 0x76, 0x65, 0x72, 0x73, 0x69, 0x6f, 0x6e, 0x01);
const ROOT_DIGEST_AT = HEADER_BEFORE_DIGEST.length;
const HEADER_BYTES = ROOT_DIGEST_AT + 32 + HEADER_AFTER_DIGEST.length;
/** CIDv1, dag-cbor, sha-256, and the digest. */
const CID_BYTES = 36;
/** A length varint and a CID around an empty block: what the smallest block costs. */
const MIN_BLOCK_BYTES = 1 + CID_BYTES;

/** The part of an index that looking up a block by digest needs. */
export interface Blocks {
  /** What the offsets are into. */
  readonly bytes: Uint8Array;
  readonly count: number;
  /** Digest of the CAR's only root. */
  readonly rootDigestAt: number;
  /** Number of the block whose digest stands in source[digestAt, digestAt + 32); −1 when there is none. */
  find(source: Uint8Array, digestAt: number): number;
  start(block: number): number;
  end(block: number): number;
}

// Against blocks mined to fall into one slot: nobody outside knows the order of the slots.
const seed = (Math.random() * 0x100000000) | 0;

const INITIAL_BLOCKS = 64;

/**
 * One index, used for one CAR after another: reading the next forgets the last. Its memory is bounded by the CAR
 * limit of a frame (2 MB hold at most 54,000 blocks).
 */
export class BlockIndex implements Blocks {
  bytes: Uint8Array = new Uint8Array(0);
  count = 0;
  rootDigestAt = 0;
  #starts = new Int32Array(INITIAL_BLOCKS);
  #ends = new Int32Array(INITIAL_BLOCKS);
  /** Open addressing: block number + 1, 0 = free. A power of two, at least twice the blocks. */
  #slots = new Int32Array(INITIAL_BLOCKS * 2);
  #mask = INITIAL_BLOCKS * 2 - 1;
  readonly #digest = new Uint8Array(32);

  /**
   * Indexes bytes[start, end). null: well; or car_invalid, block_hash_mismatch.
   * @param hashed the blocks' hashes were checked before, as those of every frame in our log: they are not again
   */
  read(bytes: Uint8Array, start: number, end: number, hashed = false): Rejection | null {
    this.bytes = bytes;
    this.count = 0;
    if (end - start < HEADER_BYTES) return reject('car_invalid', 'shorter than a header');
    for (let index = 0; index < ROOT_DIGEST_AT; index++) {
      if (bytes[start + index] !== HEADER_BEFORE_DIGEST[index]) return reject('car_invalid', 'header');
    }
    const after = start + ROOT_DIGEST_AT + 32;
    for (let index = 0; index < HEADER_AFTER_DIGEST.length; index++) {
      if (bytes[after + index] !== HEADER_AFTER_DIGEST[index]) return reject('car_invalid', 'header');
    }
    this.rootDigestAt = start + ROOT_DIGEST_AT;
    this.#prepare(Math.floor((end - start - HEADER_BYTES) / MIN_BLOCK_BYTES));

    const digest = this.#digest;
    let at = start + HEADER_BYTES;
    while (at < end) {
      let length = bytes[at++]!;
      if (length >= 0x80) {
        length &= 0x7f;
        let shift = 7;
        for (;;) {
          // Four groups of seven bits are far over the limit of a frame.
          if (at >= end || shift > 21) return reject('car_invalid', 'block length');
          const byte = bytes[at++]!;
          length |= (byte & 0x7f) << shift;
          shift += 7;
          if (byte < 0x80) {
            if (byte === 0) return reject('car_invalid', 'block length');
            break;
          }
        }
      }
      const next = at + length;
      if (length < CID_BYTES || next > end) return reject('car_invalid', 'block length');
      if (bytes[at] !== 0x01 || bytes[at + 1] !== 0x71 || bytes[at + 2] !== 0x12 || bytes[at + 3] !== 0x20) {
        return reject('car_invalid', 'block CID is not CIDv1 dag-cbor sha-256');
      }
      const blockAt = at + CID_BYTES;
      if (!hashed) {
        Bun.SHA256.hash(bytes.subarray(blockAt, next), digest);
        for (let index = 0; index < 32; index++) {
          if (digest[index] !== bytes[at + 4 + index]) return reject('block_hash_mismatch');
        }
      }
      this.#add(blockAt, next);
      at = next;
    }
    return null;
  }

  #prepare(maxBlocks: number): void {
    if (maxBlocks > this.#starts.length) {
      this.#starts = new Int32Array(maxBlocks);
      this.#ends = new Int32Array(maxBlocks);
    }
    let size = 32;
    while (size < maxBlocks * 2) size *= 2;
    if (size > this.#slots.length) this.#slots = new Int32Array(size);
    else this.#slots.fill(0, 0, size);
    this.#mask = size - 1;
  }

  #add(start: number, end: number): void {
    const block = this.count++;
    this.#starts[block] = start;
    this.#ends[block] = end;
    const slots = this.#slots;
    const mask = this.#mask;
    let slot = hashOf(this.bytes, start - 32) & mask;
    while (slots[slot] !== 0) {
      // The same block again: the first stays.
      if (equalDigests(this.bytes, this.#starts[slots[slot]! - 1]! - 32, this.bytes, start - 32)) return;
      slot = (slot + 1) & mask;
    }
    slots[slot] = block + 1;
  }

  find(source: Uint8Array, digestAt: number): number {
    const slots = this.#slots;
    const mask = this.#mask;
    let slot = hashOf(source, digestAt) & mask;
    for (;;) {
      const block = slots[slot]! - 1;
      if (block < 0) return -1;
      if (equalDigests(this.bytes, this.#starts[block]! - 32, source, digestAt)) return block;
      slot = (slot + 1) & mask;
    }
  }

  start(block: number): number {
    return this.#starts[block]!;
  }

  end(block: number): number {
    return this.#ends[block]!;
  }
}

function hashOf(bytes: Uint8Array, digestAt: number): number {
  const word =
    bytes[digestAt]! |
    (bytes[digestAt + 1]! << 8) |
    (bytes[digestAt + 2]! << 16) |
    (bytes[digestAt + 3]! << 24);
  const mixed = Math.imul(word ^ seed, 0x9e3779b1);
  return mixed ^ (mixed >>> 15);
}

/** Whether two 32-byte digests are the same. */
export function equalDigests(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number): boolean {
  for (let index = 0; index < 32; index++) if (a[aAt + index] !== b[bAt + index]) return false;
  return true;
}
