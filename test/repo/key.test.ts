import { describe, expect, test } from 'bun:test';
import { parseDidKey, Secp256k1Keypair } from '@atproto/crypto';
import secp256k1 from 'secp256k1';
import { createSigningKey } from '../../src/repo/key.ts';
import { jsonFixture, newKeypair, signingKeyOf } from './support.ts';

const P256_ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const K256_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;

/** The other signature of the same message: s replaced by order − s. */
function twin(signature: Uint8Array, order: bigint): Uint8Array {
  const s = BigInt(`0x${Buffer.from(signature.subarray(32)).toString('hex')}`);
  const other = (order - s).toString(16).padStart(64, '0');
  return new Uint8Array(Buffer.concat([signature.subarray(0, 32), Buffer.from(other, 'hex')]));
}

/** The 33-byte form of a point that may be given in its 65-byte form. */
const compress = (point: Uint8Array): Uint8Array =>
  point.length === 33 ? point : new Uint8Array([2 + (point[64]! & 1), ...point.subarray(1, 33)]);

describe('signing keys', () => {
  test('agree with the interop signature vectors', () => {
    const vectors = jsonFixture<
      {
        comment: string;
        messageBase64: string;
        publicKeyDid: string;
        signatureBase64: string;
        validSignature: boolean;
      }[]
    >('interop/crypto/signature-fixtures.json');
    if (vectors === null) return;
    expect(vectors.length).toBeGreaterThanOrEqual(6);
    for (const vector of vectors) {
      const { jwtAlg, keyBytes } = parseDidKey(vector.publicKeyDid);
      const key = createSigningKey(jwtAlg === 'ES256' ? 'p256' : 'k256', compress(keyBytes))!;
      const message = new Uint8Array(Buffer.from(vector.messageBase64, 'base64'));
      const signature = new Uint8Array(Buffer.from(vector.signatureBase64, 'base64'));
      expect([vector.comment, key.verify(message, signature)]).toEqual([
        vector.comment,
        vector.validSignature,
      ]);
    }
  });

  test('agree with the interop private keys', async () => {
    const vectors = jsonFixture<{ privateKeyBytesHex: string; publicDidKey: string }[]>(
      'interop/crypto/w3c_didkey_K256.json',
    );
    if (vectors === null) return;
    for (const vector of vectors) {
      const keypair = await Secp256k1Keypair.import(vector.privateKeyBytesHex);
      const key = createSigningKey('k256', compress(parseDidKey(vector.publicDidKey).keyBytes))!;
      const message = Buffer.from('a message');
      expect(key.verify(message, await keypair.sign(message))).toBe(true);
    }
  });

  for (const [type, order] of [
    ['k256', K256_ORDER],
    ['p256', P256_ORDER],
  ] as const) {
    test(`${type}: accepts only the low-S, compact signature of the message by the key`, async () => {
      const keypair = await newKeypair(type);
      const key = signingKeyOf(keypair);
      const stranger = signingKeyOf(await newKeypair(type));
      for (let round = 0; round < 8; round++) {
        const message = Buffer.from(`message ${round}`);
        const signature = await keypair.sign(message);
        expect(key.verify(message, signature)).toBe(true);
        expect(stranger.verify(message, signature)).toBe(false);
        expect(key.verify(Buffer.from('another'), signature)).toBe(false);
        expect(key.verify(message, twin(signature, order))).toBe(false);
        for (let at = 0; at < 64; at++) {
          const flipped = signature.slice();
          flipped[at]! ^= 1 << (at % 8);
          expect(key.verify(message, flipped)).toBe(false);
        }
        for (const length of [0, 63, 65]) {
          const resized = new Uint8Array(length);
          resized.set(signature.subarray(0, length));
          expect(key.verify(message, resized)).toBe(false);
        }
      }
      expect(key.verify(new Uint8Array(3), new Uint8Array(64))).toBe(false);
      expect(key.verify(new Uint8Array(3), new Uint8Array(64).fill(0xff))).toBe(false);
    });
  }

  test('bytes that are no compressed point of the curve make no key', () => {
    for (const type of ['k256', 'p256'] as const) {
      expect(createSigningKey(type, new Uint8Array(33))).toBeNull();
      expect(createSigningKey(type, new Uint8Array(0))).toBeNull();
      expect(createSigningKey(type, new Uint8Array(65).fill(4))).toBeNull();
      expect(createSigningKey(type, new Uint8Array(33).fill(0xff, 1).fill(2, 0, 1))).toBeNull();
    }
  });

  test('a key is its own copy', () => {
    // A Buffer, whose slice is a view.
    const point = Buffer.from(secp256k1.publicKeyCreate(new Uint8Array(32).fill(9), true));
    const key = createSigningKey('k256', point)!;
    point.fill(0);
    const message = Buffer.from('a message');
    const hash = Bun.SHA256.hash(message) as Uint8Array;
    expect(key.verify(message, secp256k1.ecdsaSign(hash, new Uint8Array(32).fill(9)).signature)).toBe(true);
  });
});
