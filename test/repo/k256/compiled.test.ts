/**
 * The whole of our own secp256k1 against libsecp256k1 in the package, which also signs, and for a sample noble. Which
 * keys have tables in the pool changes what is computed and must not change an answer.
 */
import { describe, expect, test } from 'bun:test';
import { secp256k1 as noble } from '@noble/curves/secp256k1';
import fc from 'fast-check';
import secp256k1 from 'secp256k1';
import { compileK256 } from '../../../src/repo/k256/compiled.ts';
import { isSoundK256, type K256Point } from '../../../src/repo/k256.ts';

const { n: ORDER, Fp } = noble.CURVE;
const PRIME = Fp.ORDER;
const LAMBDA = 0x5363ad4cc05c30e0a5261c028812645a122e22ea20816678df02967c1b23bd72n;
/** Of the pool: 512 sets of 4. */
const SLOTS = 2048;

const opened = compileK256();
if (opened === null) console.warn("weir's own secp256k1 is not for this machine: it is not tested");
const isHere = opened !== null;
/** Never used where it is not for this machine. */
const own = opened!;
const openNew = () => compileK256()!;

const bytes32 = (value: bigint): Uint8Array =>
  Uint8Array.from(Buffer.from(value.toString(16).padStart(64, '0'), 'hex'));
const numberOf = (bytes: Uint8Array): bigint => BigInt(`0x${Buffer.from(bytes).toString('hex')}`);
const modulo = (value: bigint, modulus = ORDER): bigint => ((value % modulus) + modulus) % modulus;
const inverse = (value: bigint): bigint => {
  let [a, b, u, v] = [modulo(value), ORDER, 1n, 0n];
  while (a !== 0n) {
    const quotient = b / a;
    [a, b, u, v] = [b - quotient * a, a, v - quotient * u, u];
  }
  return modulo(v);
};
/** Any key by its number: the same each time, and as good as random. */
const secretOf = (at: number): Uint8Array => Bun.SHA256.hash(`secret ${at}`) as Uint8Array;
const digestOf = (at: number): Uint8Array => Bun.SHA256.hash(`digest ${at}`) as Uint8Array;

type NoblePoint = InstanceType<typeof noble.ProjectivePoint>;

interface Signed {
  readonly compressed: Uint8Array;
  readonly digest: Uint8Array;
  readonly signature: Uint8Array;
}
const sign = (secret: Uint8Array, digest: Uint8Array): Signed => ({
  compressed: secp256k1.publicKeyCreate(secret, true),
  digest,
  signature: secp256k1.ecdsaSign(digest, secret).signature,
});

const judge = (signature: Uint8Array, digest: Uint8Array, compressed: Uint8Array): boolean => {
  try {
    return secp256k1.ecdsaVerify(signature, digest, compressed);
  } catch {
    return false; // r or s is not below the order
  }
};

/** What is wrong about a signature, by one change each. */
const spoil = ({ compressed, digest, signature }: Signed, other: Uint8Array, bit: number): Signed[] => {
  const flip = (bytes: Uint8Array, at: number): Uint8Array => {
    const flipped = bytes.slice();
    flipped[at >> 3]! ^= 1 << (at & 7);
    return flipped;
  };
  const twin = Uint8Array.from([
    ...signature.subarray(0, 32),
    ...bytes32(ORDER - numberOf(signature.subarray(32))),
  ]);
  return [
    { compressed, digest, signature: flip(signature, bit % 256) },
    { compressed, digest, signature: flip(signature, 256 + (bit % 256)) },
    { compressed, digest: flip(digest, bit % 256), signature },
    { compressed: other, digest, signature },
    { compressed: flip(compressed, 0), digest, signature },
    { compressed, digest, signature: twin },
  ];
};

describe.if(isHere)("weir's own secp256k1", () => {
  test('is sound', () => {
    expect(isSoundK256(own)).toBe(true);
  });

  test('takes what was signed and nothing near it, of keys that come once and of those that come again', () => {
    const keys = Array.from({ length: 250 }, (_, at) => secretOf(at));
    const points = new Map<string, K256Point>();
    const pointOf = (compressed: Uint8Array): K256Point => {
      const name = Buffer.from(compressed).toString('hex');
      const point = points.get(name) ?? own.parse(compressed)!;
      points.set(name, point);
      return point;
    };
    const before = own.poolCounts();
    for (let round = 0; round < 6; round++)
      for (const [at, secret] of keys.entries()) {
        const signed = sign(secret, digestOf(1000 * round + at));
        expect(own.verify(signed.signature, signed.digest, pointOf(signed.compressed))).toBe(true);
        const other = secp256k1.publicKeyCreate(keys[(at + 1) % keys.length]!, true);
        // All of it in two rounds: one of keys that are new, one of keys that are not.
        if (round % 5 === 0)
          for (const { signature, digest, compressed } of spoil(signed, other, 31 * at + round))
            expect(own.verify(signature, digest, pointOf(compressed))).toBe(
              judge(signature, digest, compressed),
            );
      }
    const after = own.poolCounts();
    expect(after.made - before.made).toBeGreaterThanOrEqual(keys.length);
    expect(after.hits - before.hits).toBeGreaterThan(3 * keys.length);
  });

  test('agrees with noble, too', () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: 1n, max: ORDER - 1n }),
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        fc.nat(511),
        (key, digest, bit) => {
          const compressed = noble.getPublicKey(key, true);
          const signature = noble.sign(digest, key, { lowS: true }).toCompactRawBytes();
          const point = own.parse(compressed)!;
          expect(own.verify(signature, digest, point)).toBe(true);
          for (const spoilt of spoil({ compressed, digest, signature }, noble.getPublicKey(5n, true), bit)) {
            let expected = false;
            try {
              expected = noble.verify(spoilt.signature, spoilt.digest, spoilt.compressed, { lowS: true });
            } catch {
              // Out of range.
            }
            expect(own.verify(spoilt.signature, spoilt.digest, own.parse(spoilt.compressed)!)).toBe(expected);
          }
        },
      ),
      { numRuns: 30 },
    );
  });

  test('judges r, s and digests at their limits as libsecp256k1 does', () => {
    const half = ORDER / 2n;
    const numbers = [
      0n,
      1n,
      2n,
      half - 1n,
      half,
      half + 1n,
      ORDER - 1n,
      ORDER,
      ORDER + 1n,
      PRIME - ORDER,
      PRIME,
      2n ** 256n - 1n,
    ];
    const digests = [0n, 1n, ORDER - 1n, ORDER, ORDER + 1n, 2n ** 256n - 1n];
    for (const key of [1n, 2n, ORDER - 1n, LAMBDA]) {
      const compressed = secp256k1.publicKeyCreate(bytes32(key), true);
      const point = own.parse(compressed)!;
      for (const r of numbers)
        for (const s of numbers)
          for (const digest of digests) {
            const signature = Uint8Array.from([...bytes32(r), ...bytes32(s)]);
            const expected = judge(signature, bytes32(digest), compressed);
            expect(own.verify(signature, bytes32(digest), point)).toBe(expected);
          }
    }
  });

  test('takes every signature that can be made of two factors, edges of the computation among them', () => {
    const edges = [
      0n,
      1n,
      2n,
      3n,
      8n,
      9n,
      2n ** 32n,
      2n ** 64n - 1n,
      2n ** 96n,
      2n ** 128n,
      LAMBDA,
      LAMBDA + 1n,
    ];
    const keys = [1n, 2n, 3n, 2n ** 32n, LAMBDA, numberOf(secretOf(7))].flatMap((key) => [key, ORDER - key]);
    let taken = 0;
    for (const key of keys) {
      const compressed = secp256k1.publicKeyCreate(bytes32(key), true);
      const point = own.parse(compressed)!;
      for (const u1 of edges.flatMap((edge) => [edge, modulo(-edge)]))
        for (const u2 of edges.slice(1)) {
          // R = u1·G + u2·key; s = r/u2 and digest = u1·s make it so. −R has the same x, and −s.
          const sum = modulo(u1 + u2 * key);
          const r =
            sum === 0n ? 12345n : modulo(numberOf(secp256k1.publicKeyCreate(bytes32(sum), true).subarray(1)));
          const s = modulo(r * inverse(u2));
          const signature = Uint8Array.from([...bytes32(r), ...bytes32(s > ORDER / 2n ? ORDER - s : s)]);
          const digest = bytes32(modulo(u1 * s));
          const isTaken = own.verify(signature, digest, point);
          expect(isTaken).toBe(sum !== 0n);
          expect(judge(signature, digest, compressed)).toBe(isTaken);
          taken += Number(isTaken);
        }
    }
    expect(taken).toBeGreaterThan(2_500);
  });

  /** The key by which digest/s·G + r/s·key is that sum. */
  const keyThatGives = (sum: NoblePoint, r: bigint, s: bigint, digest: Uint8Array): Uint8Array =>
    sum
      .multiply(s)
      .subtract(noble.ProjectivePoint.BASE.multiply(modulo(numberOf(digest))))
      .multiply(inverse(r))
      .toRawBytes(true);

  test('takes an x that is r + the order', () => {
    let found = 0;
    for (let r = 1n; found < 12; r++) {
      let sum: NoblePoint;
      try {
        sum = noble.ProjectivePoint.fromHex(`02${(ORDER + r).toString(16)}`);
      } catch {
        continue; // no point has that x
      }
      found++;
      const digest = digestOf(found);
      const s = numberOf(secretOf(found)) >> 1n;
      const compressed = keyThatGives(sum, r, s, digest);
      const signature = Uint8Array.from([...bytes32(r), ...bytes32(s)]);
      const next = Uint8Array.from([...bytes32(r + 1n), ...bytes32(s)]);
      const whole = Uint8Array.from([...bytes32(r + ORDER), ...bytes32(s)]);
      expect(judge(signature, digest, compressed)).toBe(true);
      for (let round = 0; round < 4; round++) {
        expect(own.verify(signature, digest, own.parse(compressed)!)).toBe(true);
        expect(own.verify(next, digest, own.parse(compressed)!)).toBe(false);
        expect(own.verify(whole, digest, own.parse(compressed)!)).toBe(false);
      }
    }
  });

  test('refuses an x that is r + the order only modulo the prime', () => {
    const sum = noble.ProjectivePoint.fromHex(`02${'1'.padStart(64, '0')}`);
    const [digest, s, r] = [digestOf(1), 12345n, 1n + PRIME - ORDER];
    const compressed = keyThatGives(sum, r, s, digest);
    const signature = Uint8Array.from([...bytes32(r), ...bytes32(s)]);
    expect(judge(signature, digest, compressed)).toBe(false);
    expect(own.verify(signature, digest, own.parse(compressed)!)).toBe(false);
    // The same with an r that is right.
    const right = Uint8Array.from([...bytes32(1n), ...bytes32(s)]);
    expect(own.verify(right, digest, own.parse(keyThatGives(sum, 1n, s, digest))!)).toBe(true);
  });

  test('refuses a sum that is the point at infinity, though its last point had the right x', () => {
    for (const at of [1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n]) {
      // u1·G and u2·key are ±at·G each.
      const x = noble.ProjectivePoint.BASE.multiply(at).toAffine().x % ORDER;
      for (const key of [at, ORDER - at]) {
        const compressed = secp256k1.publicKeyCreate(bytes32(key), true);
        for (const u1 of [at, ORDER - at])
          for (const u2 of [1n, ORDER - 1n]) {
            const s = modulo(x * inverse(u2));
            const signature = Uint8Array.from([...bytes32(x), ...bytes32(s)]);
            const digest = bytes32(modulo(u1 * s));
            const expected = judge(signature, digest, compressed);
            for (let round = 0; round < 4; round++)
              expect(own.verify(signature, digest, own.parse(compressed)!)).toBe(expected);
          }
      }
    }
  });

  test('takes an s of half the order, the highest low one, and none above it', () => {
    const sum = noble.ProjectivePoint.BASE.multiply(777n);
    const r = sum.toAffine().x;
    for (const [s, taken] of [
      [ORDER / 2n - 1n, true],
      [ORDER / 2n, true],
      [ORDER / 2n + 1n, false],
    ] as const) {
      const compressed = keyThatGives(sum, r, s, digestOf(1));
      const signature = Uint8Array.from([...bytes32(r), ...bytes32(s)]);
      expect(judge(signature, digestOf(1), compressed)).toBe(taken);
      expect(own.verify(signature, digestOf(1), own.parse(compressed)!)).toBe(taken);
    }
  });

  test('reads only points of the curve, in the forms of 33 and 65 bytes', () => {
    const whole = secp256k1.publicKeyCreate(secretOf(1), false);
    const compressed = secp256k1.publicKeyConvert(whole, true);
    expect(own.compress(own.parse(whole)!)).toEqual(compressed);
    for (let at = 1; at < whole.length; at++) {
      const flipped = whole.slice();
      flipped[at]! ^= 1;
      expect(own.parse(flipped)).toBeNull();
    }
    for (const head of [0, 1, 2, 3, 5, 6, 7, 255])
      expect(own.parse(Uint8Array.from([head, ...whole.subarray(1)]))).toBeNull();
    for (const head of [0, 1, 4, 5, 6, 7])
      expect(own.parse(Uint8Array.from([head, ...compressed.subarray(1)]))).toBeNull();
    // Of coordinates so low that there is room for the prime on top, that form is none. x = 1 is on the curve.
    expect(own.compress(own.parse(Uint8Array.from([2, ...bytes32(1n)]))!)).toEqual(
      Uint8Array.from([2, ...bytes32(1n)]),
    );
    expect(own.parse(Uint8Array.from([2, ...bytes32(PRIME + 1n)]))).toBeNull();
    let found = 0;
    for (let y = 1n; found < 3; y++) {
      // A cube root of y² − 7, if it has any: p is 7 modulo 9.
      const x = Fp.pow(modulo(y * y - 7n, PRIME), (PRIME + 2n) / 9n);
      if (modulo(x ** 3n - y * y + 7n, PRIME) !== 0n) continue;
      found++;
      expect(own.parse(Uint8Array.from([4, ...bytes32(x), ...bytes32(y)]))).not.toBeNull();
      expect(own.parse(Uint8Array.from([4, ...bytes32(x), ...bytes32(PRIME + y)]))).toBeNull();
      for (const [head, root] of [
        [2 + Number(y & 1n), y],
        [3 - Number(y & 1n), PRIME - y],
      ] as const) {
        const point = own.parse(Uint8Array.from([head, ...bytes32(x)]));
        expect(point).toEqual(own.parse(Uint8Array.from([4, ...bytes32(x), ...bytes32(root)])));
      }
    }
  });
});

describe.if(isHere)('the pool of tables', () => {
  test('does not change an answer, with many times more keys than it holds', () => {
    const library = openNew();
    const signed = Array.from({ length: 2 * SLOTS }, (_, at) => sign(secretOf(at), digestOf(at)));
    const points = signed.map(({ compressed }) => library.parse(compressed)!);
    for (let round = 0; round < 5; round++) {
      for (const [at, { signature, digest }] of signed.entries())
        expect(library.verify(signature, digest, points[at]!)).toBe(true);
      for (const [at, { signature }] of signed.entries())
        expect(library.verify(signature, digestOf(at + 1), points[at]!)).toBe(false);
    }
    const { hits, made } = library.poolCounts();
    // Tables went and came.
    expect(made).toBeGreaterThan(SLOTS);
    expect(hits).toBeGreaterThan(0);
  });

  test('knows a key by its bytes, whatever object they are in', () => {
    const library = openNew();
    const { compressed, digest, signature } = sign(secretOf(1), digestOf(1));
    for (let round = 0; round < 10; round++)
      expect(library.verify(signature, digest, library.parse(compressed)!)).toBe(true);
    expect(library.poolCounts()).toEqual({ hits: 7, made: 1 });
  });

  test('tells a key from its negative, which has the same x', () => {
    const library = openNew();
    const secret = secretOf(2);
    const negative = bytes32(ORDER - numberOf(secret));
    const [plus, minus] = [sign(secret, digestOf(2)), sign(negative, digestOf(2))];
    for (let round = 0; round < 20; round++) {
      for (const key of [plus, minus])
        for (const by of [plus, minus])
          expect(library.verify(by.signature, by.digest, library.parse(key.compressed)!)).toBe(key === by);
    }
    expect(library.poolCounts().made).toBe(2);
  });

  test('keeps keys that come often, though many come once or twice', () => {
    const library = openNew();
    const often = Array.from({ length: 60 }, (_, at) => sign(secretOf(at), digestOf(at)));
    const verifyAll = (signed: readonly Signed[]): void => {
      for (const { signature, digest, compressed } of signed)
        expect(library.verify(signature, digest, library.parse(compressed)!)).toBe(true);
    };
    for (let round = 0; round < 12; round++) verifyAll(often);
    const { made } = library.poolCounts();
    expect(made).toBe(often.length);
    for (let from = 1000; from < 7000; from += 1000) {
      const strangers = Array.from({ length: 1000 }, (_, at) => sign(secretOf(from + at), digestOf(at)));
      verifyAll(strangers);
      verifyAll(strangers.slice(0, 500));
      const { hits } = library.poolCounts();
      verifyAll(often);
      expect(library.poolCounts()).toEqual({ hits: hits + often.length, made });
    }
  });

  test('gives its slots to keys that come more often, whose turn it becomes', () => {
    const library = openNew();
    // Twice as many as there are slots come three times each, at once; then others come again and again.
    for (let at = 0; at < 2 * SLOTS; at++) {
      const { signature, digest, compressed } = sign(secretOf(at), digestOf(at));
      const point = library.parse(compressed)!;
      for (let round = 0; round < 3; round++) expect(library.verify(signature, digest, point)).toBe(true);
    }
    const often = Array.from({ length: 60 }, (_, at) => sign(secretOf(-1 - at), digestOf(at)));
    const verifyAll = (): void => {
      for (const { signature, digest, compressed } of often)
        expect(library.verify(signature, digest, library.parse(compressed)!)).toBe(true);
    };
    for (let round = 0; round < 20; round++) verifyAll();
    const { hits } = library.poolCounts();
    verifyAll();
    expect(library.poolCounts().hits).toBe(hits + often.length);
  });

  test('of another library is another one', () => {
    const [first, second] = [openNew(), openNew()];
    const { compressed, digest, signature } = sign(secretOf(3), digestOf(3));
    for (let round = 0; round < 5; round++) first.verify(signature, digest, first.parse(compressed)!);
    expect(first.poolCounts().made).toBe(1);
    expect(second.poolCounts()).toEqual({ hits: 0, made: 0 });
    // They agree about the form of a point.
    expect(second.verify(signature, digest, first.parse(compressed)!)).toBe(true);
  });

  test('is of one thread: four at once come to the same answers', async () => {
    const answers = await Promise.all(
      Array.from({ length: 4 }, async (_, at) => {
        const worker = new Worker(new URL('./worker.ts', import.meta.url));
        const answer = new Promise<{ right: number; wrong: number }>((resolve, reject) => {
          worker.onmessage = ({ data }) => resolve(data);
          worker.onerror = ({ message }) => reject(new Error(message));
        });
        worker.postMessage({ from: 40 * at, keys: 80, rounds: 12 });
        try {
          return await answer;
        } finally {
          worker.terminate();
        }
      }),
    );
    for (const answer of answers) expect(answer).toEqual({ right: 2 * 80 * 12, wrong: 0 });
  });
});
