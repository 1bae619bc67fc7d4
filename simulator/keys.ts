/**
 * Signing keys of both curves (atproto spec: Cryptography). Signatures are deterministic, so that the same
 * seed gives the same bytes. Not for real secrets: nothing here runs in constant time.
 */
import { createECDH, createHmac } from 'node:crypto';
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

/** ECDSA on P-256 with a nonce derived from key and hash: the point comes from the platform, the rest is arithmetic. */
const signP256 = (privateKey: Uint8Array, message: Uint8Array): Uint8Array => {
  const n = ORDER.p256;
  const hash = sha256(message);
  const ecdh = createECDH('prime256v1');
  for (let attempt = 0; ; attempt++) {
    const nonce = createHmac('sha256', privateKey).update(hash).update(Uint8Array.of(attempt)).digest();
    const k = toBig(nonce);
    if (k === 0n || k >= n) continue;
    ecdh.setPrivateKey(nonce);
    const r = toBig(ecdh.getPublicKey().subarray(1, 33)) % n;
    let s = (inverse(k, n) * ((toBig(hash) + r * toBig(privateKey)) % n)) % n;
    if (r === 0n || s === 0n) continue;
    if (s > n >> 1n) s = n - s;
    const out = new Uint8Array(64);
    out.set(fromBig(r), 0);
    out.set(fromBig(s), 32);
    return out;
  }
};

/** A key from 32 bytes of seed; the same bytes give the same key and signatures. */
export const createKey = (type: KeyType, seed: Uint8Array): Key => {
  let privateKey = seed;
  for (;;) {
    const scalar = toBig(privateKey);
    if (scalar > 0n && scalar < ORDER[type]) break;
    privateKey = sha256(privateKey);
  }
  let publicKey: Uint8Array;
  let uncompressed: Uint8Array;
  if (type === 'k256') {
    publicKey = secp256k1.publicKeyCreate(privateKey, true);
    uncompressed = secp256k1.publicKeyConvert(publicKey, false);
  } else {
    const ecdh = createECDH('prime256v1');
    ecdh.setPrivateKey(privateKey);
    publicKey = new Uint8Array(ecdh.getPublicKey(null, 'compressed'));
    uncompressed = new Uint8Array(ecdh.getPublicKey(null, 'uncompressed'));
  }
  const sign =
    type === 'k256'
      ? (message: Uint8Array) => secp256k1.ecdsaSign(sha256(message), privateKey).signature
      : (message: Uint8Array) => signP256(privateKey, message);
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
