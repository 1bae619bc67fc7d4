/**
 * Every way to verify that this machine has, our own and libsecp256k1, against an implementation that is not ours and not
 * C. What is special about our own is in k256/.
 */
import { describe, expect, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import { secp256k1 as noble } from '@noble/curves/secp256k1';
import fc from 'fast-check';
import { isSoundK256, k256, k256Libraries, openK256File } from '../../src/repo/k256.ts';

const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
const FIELD = 0xfffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2fn;

const OWN = "weir's own, for x86-64";
const libraries = [...k256Libraries()].filter((library) => library !== null);

const number32 = (value: bigint): Uint8Array =>
  Uint8Array.from(Buffer.from(value.toString(16).padStart(64, '0'), 'hex'));
const secret = fc.bigInt({ min: 1n, max: ORDER - 1n });
const digest = fc.uint8Array({ minLength: 32, maxLength: 32 });
/** Mostly what a signature would never hold, and the edges of what it may. */
const scalar = fc.oneof(
  fc.constantFrom(0n, 1n, ORDER / 2n, ORDER / 2n + 1n, ORDER - 1n, ORDER, ORDER + 1n, 2n ** 256n - 1n),
  fc.bigInt({ min: 0n, max: 2n ** 256n - 1n }),
);

describe('secp256k1', () => {
  test('goes to our own code first, then straight to the library of the system or inside the package', () => {
    const names = libraries.map(({ name }) => name);
    expect(k256().name).toBe(names[0]!);
    const isForOwn =
      process.platform === 'linux' &&
      process.arch === 'x64' &&
      ['bmi1', 'bmi2', 'adx'].every((flag) => readFileSync('/proc/cpuinfo', 'utf8').includes(` ${flag} `));
    expect(names.includes(OWN)).toBe(isForOwn);
    if (isForOwn) expect(names.shift()).toBe(OWN);
    else console.warn("weir's own secp256k1 is not for this machine: it is not tested");
    expect(names[0]).toMatch(/libsecp256k1\.so\.\d|secp256k1.*\.node$/);
    expect(names.length).toBeGreaterThanOrEqual(2);
  });

  test('a file that is not libsecp256k1 is none', () => {
    expect(openK256File('libthere-is-none.so.1')).toBeNull();
    expect(openK256File(import.meta.path)).toBeNull();
  });

  test('a library that takes all signatures, or none, is not used', () => {
    const library = k256();
    expect(isSoundK256(library)).toBe(true);
    expect(isSoundK256({ ...library, verify: () => true })).toBe(false);
    expect(isSoundK256({ ...library, verify: () => false })).toBe(false);
    expect(isSoundK256({ ...library, parse: () => null })).toBe(false);
    expect(isSoundK256({ ...library, compress: (point) => library.compress(point).fill(2, 0, 1) })).toBe(
      false,
    );
  });

  test('a library that is wrong only at the edges, or only about a key it has seen before, is not used', () => {
    const library = k256();
    const wrongWhere = (isWrong: (signature: Uint8Array, digest: Uint8Array) => boolean) =>
      isSoundK256({
        ...library,
        verify: (signature, digest, point) =>
          library.verify(signature, digest, point) !== isWrong(signature, digest),
      });
    const seen = new Map<string, number>();
    expect(wrongWhere(() => false)).toBe(true);
    expect(wrongWhere((_, message) => message.every((byte) => byte === 0))).toBe(false);
    expect(wrongWhere((_, message) => message.every((byte) => byte === 0xff))).toBe(false);
    expect(wrongWhere((signature) => signature[0] === 0 && signature[31] === 2)).toBe(false);
    expect(
      wrongWhere((signature) => {
        const name = Buffer.from(signature).toString('hex');
        seen.set(name, (seen.get(name) ?? 0) + 1);
        return seen.get(name)! > 4;
      }),
    ).toBe(false);
  });

  for (const library of libraries) {
    const name = library.name.split('/').at(-1);

    test(`${name}: takes what was signed, and nothing near it`, () => {
      expect(isSoundK256(library)).toBe(true);
      fc.assert(
        fc.property(secret, digest, fc.nat(511), (key, message, bit) => {
          const point = library.parse(noble.getPublicKey(key, true))!;
          const signature = noble.sign(message, key, { lowS: true }).toCompactRawBytes();
          expect(library.verify(signature, message, point)).toBe(true);
          const flipped = signature.slice();
          flipped[bit >> 3]! ^= 1 << (bit & 7);
          expect(library.verify(flipped, message, point)).toBe(false);
          const other = message.slice();
          other[bit >> 4]! ^= 1;
          expect(library.verify(signature, other, point)).toBe(false);
        }),
        { numRuns: 60 },
      );
    });

    test(`${name}: judges any r and s as noble does`, () => {
      fc.assert(
        fc.property(secret, digest, scalar, scalar, (key, message, r, s) => {
          const compressed = noble.getPublicKey(key, true);
          const signature = Uint8Array.from([...number32(r), ...number32(s)]);
          let expected = false;
          try {
            expected = noble.verify(signature, message, compressed, { lowS: true });
          } catch {
            // Out of range.
          }
          expect(library.verify(signature, message, library.parse(compressed)!)).toBe(expected);
        }),
        { numRuns: 200 },
      );
    });

    test(`${name}: reads points in both forms, and takes nothing else for one`, () => {
      fc.assert(
        fc.property(secret, (key) => {
          const compressed = noble.getPublicKey(key, true);
          for (const form of [compressed, noble.getPublicKey(key, false)])
            expect(Buffer.from(library.compress(library.parse(form)!))).toEqual(Buffer.from(compressed));
        }),
        { numRuns: 30 },
      );
      fc.assert(
        fc.property(
          fc.oneof(
            fc.uint8Array({ maxLength: 70 }),
            fc
              .tuple(fc.nat(7), fc.oneof(fc.constantFrom(0n, FIELD - 1n, FIELD, FIELD + 1n), scalar))
              .map(([head, x]) => Uint8Array.from([head, ...number32(x)])),
          ),
          (bytes) => {
            let expected = false;
            try {
              noble.ProjectivePoint.fromHex(bytes).assertValidity();
              expected = true;
            } catch {
              // No point.
            }
            expect(library.parse(bytes) !== null).toBe(expected);
          },
        ),
        { numRuns: 300 },
      );
    });

    test(`${name}: reads views where they lie, and refuses what is not as long as it must be`, () => {
      const point = library.parse(noble.getPublicKey(7n, true))!;
      const message = new Uint8Array(32).fill(5);
      const signature = noble.sign(message, 7n, { lowS: true }).toCompactRawBytes();
      const around = new Uint8Array(new SharedArrayBuffer(200)).fill(0xee);
      around.set(signature, 13);
      around.set(message, 101);
      expect(library.verify(around.subarray(13, 77), around.subarray(101, 133), point)).toBe(true);
      expect(library.verify(Buffer.from(signature), Buffer.from(message), point)).toBe(true);
      for (const length of [0, 63, 65])
        expect(library.verify(new Uint8Array(length), message, point)).toBe(false);
      for (const length of [0, 31, 33])
        expect(library.verify(signature, new Uint8Array(length), point)).toBe(false);
      expect(library.verify(signature, message, new Uint8Array(0) as typeof point)).toBe(false);
    });
  }
});
