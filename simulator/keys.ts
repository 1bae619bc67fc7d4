/**
 * Signing keys of both curves (atproto spec: Cryptography). Signatures are deterministic, so that the same
 * seed gives the same bytes. Not for real secrets: nothing here runs in constant time.
 */
import { createECDH } from 'node:crypto';
import { base58btc } from 'multiformats/bases/base58';
import secp256k1 from 'secp256k1';
import { sha256 } from './cbor.ts';

export type KeyType = 'k256' | 'p256';

export interface Key {
  readonly type: KeyType;
  /** 33 bytes, compressed SEC1. */
  readonly publicKey: Uint8Array;
  /** 65 bytes, uncompressed SEC1. */
  readonly uncompressed: Uint8Array;
  /** 64-byte compact low-S signature over sha-256 of `message`. */
  sign(message: Uint8Array): Uint8Array;
  /** The same signature with s replaced by n − s: valid by the maths, forbidden by atproto. */
  signHighS(message: Uint8Array): Uint8Array;
  /** Multibase with the multicodec prefix, as in `Multikey` and `did:key:`. */
  readonly multikey: string;
  /** Multibase of the bare uncompressed point, as in the two legacy verification methods. */
  readonly legacyMultibase: string;
}

const ORDER: Record<KeyType, bigint> = {
  k256: 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n,
  p256: 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n,
};

const MULTICODEC: Record<KeyType, readonly [number, number]> = { k256: [0xe7, 0x01], p256: [0x80, 0x24] };

const toBig = (bytes: Uint8Array): bigint => BigInt(`0x${Buffer.from(bytes).toString('hex')}`);
const fromBig = (value: bigint): Uint8Array => Buffer.from(value.toString(16).padStart(64, '0'), 'hex');

const inverse = (value: bigint, modulus: bigint): bigint => {
  let [a, b, x, y] = [value, modulus, 1n, 0n];
  while (a > 1n) {
    const q = b / a;
    [a, b, x, y] = [b - q * a, a, y - q * x, x];
  }
  return ((x % modulus) + modulus) % modulus;
};

/** A prepared nonce k: its inverse, and r, the x of its point. */
interface Nonce {
  readonly inverse: bigint;
  readonly r: bigint;
  readonly rBytes: Uint8Array;
}

/**
 * Nonces per curve, picked by the message's hash. Using a nonce twice gives the private key away, which here
 * is worth nothing; what is left of a signature is two multiplications, so that traffic is made faster than
 * a relay can verify it.
 */
const NONCES = 64;

const prepareNonces = (type: KeyType): readonly Nonce[] => {
  const n = ORDER[type];
  const nonces: Nonce[] = [];
  for (let i = 0; nonces.length < NONCES; i++) {
    const bytes = sha256(Buffer.from(`nonce ${type} ${i}`));
    const k = toBig(bytes);
    if (k === 0n || k >= n) continue;
    const r = toBig(publicPoint(type, bytes).subarray(1, 33));
    if (r < n) nonces.push({ inverse: inverse(k, n), r, rBytes: fromBig(r) });
  }
  return nonces;
};

const nonces: Partial<Record<KeyType, readonly Nonce[]>> = {};

/** The uncompressed public point of a private key. */
const publicPoint = (type: KeyType, privateKey: Uint8Array): Uint8Array => {
  if (type === 'k256') return secp256k1.publicKeyCreate(privateKey, false);
  const ecdh = createECDH('prime256v1');
  ecdh.setPrivateKey(privateKey);
  return new Uint8Array(ecdh.getPublicKey(null, 'uncompressed'));
};

const signLowS = (type: KeyType, scalar: bigint, message: Uint8Array): Uint8Array => {
  const n = ORDER[type];
  const hash = sha256(message);
  nonces[type] ??= prepareNonces(type);
  const nonce = nonces[type][hash[31]! % NONCES]!;
  const s = (nonce.inverse * (toBig(hash) + nonce.r * scalar)) % n;
  const out = new Uint8Array(64);
  out.set(nonce.rBytes, 0);
  out.set(fromBig(s > n >> 1n ? n - s : s), 32);
  return out;
};

/** A key from 32 bytes of seed; the same bytes give the same key and signatures. */
export const createKey = (type: KeyType, seed: Uint8Array): Key => {
  let privateKey = seed;
  let scalar = toBig(privateKey);
  while (scalar === 0n || scalar >= ORDER[type]) {
    privateKey = sha256(privateKey);
    scalar = toBig(privateKey);
  }
  const uncompressed = publicPoint(type, privateKey);
  const publicKey = new Uint8Array(33);
  publicKey[0] = 2 + (uncompressed[64]! & 1);
  publicKey.set(uncompressed.subarray(1, 33), 1);
  const sign = (message: Uint8Array): Uint8Array => signLowS(type, scalar, message);
  return {
    type,
    publicKey,
    uncompressed,
    sign,
    signHighS: (message) => {
      const signature = Uint8Array.from(sign(message));
      signature.set(fromBig(ORDER[type] - toBig(signature.subarray(32))), 32);
      return signature;
    },
    get multikey() {
      return base58btc.encode(Uint8Array.from([...MULTICODEC[type], ...publicKey]));
    },
    get legacyMultibase() {
      return base58btc.encode(uncompressed);
    },
  };
};
