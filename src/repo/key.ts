/**
 * Signing keys, ready to verify with.
 *
 * secp256k1 goes to `k256` (which itself refuses high-S signatures), P-256 through node:crypto, with low-S
 * enforced here. Source: atproto spec, Cryptography.
 */
import { createPublicKey, type KeyObject, verify as verifyWithKey } from 'node:crypto';
import { type K256Library, type K256Point, k256 } from './k256.ts';
import type { SigningKey } from './types.ts';

const COMPRESSED_BYTES = 33;
const SIGNATURE_BYTES = 64;

/** DER of a P-256 SubjectPublicKeyInfo up to the 33-byte compressed point. */
const P256_COMPRESSED_SPKI = Uint8Array.of(
  ...[0x30, 0x39, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a],
  ...[0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x22, 0x00],
);

/** Half of P-256's group order, big-endian: an s above it is the malleable twin of a valid one. */
const P256_HALF_ORDER = Uint8Array.of(
  ...[0x7f, 0xff, 0xff, 0xff, 0x80, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  ...[0xde, 0x73, 0x7d, 0x56, 0xd3, 0x8b, 0xcf, 0x42, 0x79, 0xdc, 0xe5, 0x61, 0x7e, 0x31, 0x92, 0xa8],
);

/** Whether the s half of a compact signature is at most half the order. */
function isLowS(signature: Uint8Array): boolean {
  for (let index = 0; index < 32; index++) {
    const difference = signature[32 + index]! - P256_HALF_ORDER[index]!;
    if (difference !== 0) return difference < 0;
  }
  return true;
}

const digest = new Uint8Array(32);

class K256Key implements SigningKey {
  readonly type = 'k256';
  readonly #library: K256Library;
  readonly #point: K256Point;

  constructor(library: K256Library, point: K256Point) {
    this.#library = library;
    this.#point = point;
  }

  verify(message: Uint8Array, signature: Uint8Array): boolean {
    if (signature.length !== SIGNATURE_BYTES) return false;
    Bun.SHA256.hash(message, digest);
    return this.#library.verify(signature, digest, this.#point);
  }
}

/** Of k256, by that library. Otherwise as `createSigningKey`. */
export function createK256Key(library: K256Library, compressed: Uint8Array): SigningKey | null {
  // Decompressing costs a square root: once here, not at each verification.
  const point = library.parse(compressed);
  return point === null ? null : new K256Key(library, point);
}

class P256Key implements SigningKey {
  readonly type = 'p256';
  readonly #options: { readonly key: KeyObject; readonly dsaEncoding: 'ieee-p1363' };

  constructor(key: KeyObject) {
    this.#options = { key, dsaEncoding: 'ieee-p1363' };
  }

  verify(message: Uint8Array, signature: Uint8Array): boolean {
    if (signature.length !== SIGNATURE_BYTES || !isLowS(signature)) return false;
    try {
      return verifyWithKey('sha256', message, this.#options, signature);
    } catch {
      return false;
    }
  }
}

function createP256Key(compressed: Uint8Array): SigningKey | null {
  const spki = new Uint8Array(P256_COMPRESSED_SPKI.length + COMPRESSED_BYTES);
  spki.set(P256_COMPRESSED_SPKI);
  spki.set(compressed, P256_COMPRESSED_SPKI.length);
  try {
    return new P256Key(createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' }));
  } catch {
    return null;
  }
}

/**
 * Builds a key from its 33-byte compressed SEC1 point, of which nothing is kept. null: not a point of the curve.
 * `verify` wants the message itself, not its hash, and a 64-byte compact low-S signature.
 * @throws NoK256Error where there is no libsecp256k1
 */
export function createSigningKey(type: SigningKey['type'], compressed: Uint8Array): SigningKey | null {
  if (compressed.length !== COMPRESSED_BYTES || (compressed[0] !== 2 && compressed[0] !== 3)) return null;
  return type === 'k256' ? createK256Key(k256(), compressed) : createP256Key(compressed);
}
