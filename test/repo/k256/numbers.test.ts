/**
 * The parts of verify.c, each against arithmetic of BigInt or points of noble. Words are at their extremes half of the
 * time: a carry that goes all the way comes once in 2^64 by chance.
 */

import { cc } from 'bun:ffi';
import { describe, expect, test } from 'bun:test';
import { secp256k1 as noble } from '@noble/curves/secp256k1';
import fc from 'fast-check';
import { COMPILED_K256_SOURCE, compileK256 } from '../../../src/repo/k256/compiled.ts';

const { n: ORDER, Fp } = noble.CURVE;
const PRIME = Fp.ORDER;
const LAMBDA = 0x5363ad4cc05c30e0a5261c028812645a122e22ea20816678df02967c1b23bd72n;
const WORD = 2n ** 64n;
const PLACES = 4;

const pointers = <const Count extends 1 | 2 | 3 | 4 | 5 | 6>(count: Count) =>
  ({ args: Array<'ptr'>(count).fill('ptr'), returns: 'i32' }) as const;

const open = () =>
  cc({
    source: COMPILED_K256_SOURCE,
    flags: '-nostdlib',
    symbols: {
      number_subtract: pointers(3),
      number_read: pointers(2),
      multiply_wide: pointers(3),
      field_multiply: pointers(3),
      field_square: pointers(2),
      field_add: pointers(3),
      field_subtract: pointers(3),
      field_halve: pointers(2),
      field_negate_if: { args: ['ptr', 'ptr', 'i64'], returns: 'void' },
      field_is_zero: pointers(1),
      field_normalize: pointers(1),
      field_root: pointers(2),
      field_invert: pointers(2),
      scalar_invert: pointers(2),
      scalar_multiply: pointers(3),
      split: pointers(2),
      point_double: { args: ['ptr', 'u64'], returns: 'void' },
      point_add: pointers(2),
      make_tables: { args: ['ptr', 'i32', 'ptr', 'ptr'], returns: 'void' },
      linear_combination: pointers(6),
    },
  }).symbols;

const isHere = compileK256() !== null;
if (!isHere) console.warn("weir's own secp256k1 is not for this machine: its numbers are not tested");
// Never called where it is not for this machine.
const C = (isHere ? open() : null)!;

const toWords = (value: bigint, words = 4): BigUint64Array =>
  BigUint64Array.from({ length: words }, (_, at) => BigInt.asUintN(64, value >> BigInt(64 * at)));
const fromWords = (words: BigUint64Array): bigint =>
  words.reduceRight((value, word) => (value << 64n) | word, 0n);
const modulo = (value: bigint, modulus: bigint): bigint => ((value % modulus) + modulus) % modulus;
const power = (base: bigint, exponent: bigint, modulus: bigint): bigint => {
  let result = 1n;
  for (let square = base; exponent > 0n; exponent >>= 1n, square = (square * square) % modulus)
    if (exponent & 1n) result = (result * square) % modulus;
  return result;
};

const word = fc.oneof(
  fc.constantFrom(0n, 1n, 0x1000003d0n, 0x1000003d1n, WORD / 2n, WORD - 0x1000003d1n, WORD - 2n, WORD - 1n),
  fc.bigInt({ min: 0n, max: WORD - 1n }),
);
/** Any four words: field elements need not be below p. */
const number = fc.oneof(
  fc.array(word, { minLength: 4, maxLength: 4 }).map((words) => fromWords(BigUint64Array.from(words))),
  fc
    .tuple(fc.constantFrom(PRIME, ORDER, 2n ** 256n - 1n, 0n), fc.integer({ min: -3, max: 3 }))
    .map(([base, step]) => BigInt.asUintN(256, base + BigInt(step))),
);
const scalar = number.map((value) => value % ORDER);
const many = { numRuns: 5_000 };

/** What a function of C writes to its first argument. */
const written = (call: (to: BigUint64Array) => unknown, words = 4): bigint => {
  const to = new BigUint64Array(words);
  call(to);
  return fromWords(to);
};

describe.if(isHere)('numbers of secp256k1', () => {
  test('are read from bytes, multiplied and subtracted', () => {
    fc.assert(
      fc.property(number, number, (a, b) => {
        const bytes = Buffer.from(a.toString(16).padStart(64, '0'), 'hex');
        expect(written((to) => C.number_read(to, bytes))).toBe(a);
        expect(written((to) => C.multiply_wide(to, toWords(a), toWords(b)), 8)).toBe(a * b);
        const to = new BigUint64Array(4);
        expect(C.number_subtract(to, toWords(a), toWords(b))).toBe(a < b ? 1 : 0);
        expect(fromWords(to)).toBe(BigInt.asUintN(256, a - b));
      }),
      many,
    );
  });

  test('are added, subtracted, multiplied, halved and negated modulo the prime', () => {
    const same = (a: bigint, b: bigint): void => expect(modulo(a, PRIME)).toBe(modulo(b, PRIME));
    fc.assert(
      fc.property(number, number, (a, b) => {
        const [first, second] = [toWords(a), toWords(b)];
        same(
          written((to) => C.field_add(to, first, second)),
          a + b,
        );
        same(
          written((to) => C.field_subtract(to, first, second)),
          a - b,
        );
        same(
          written((to) => C.field_multiply(to, first, second)),
          a * b,
        );
        same(
          written((to) => C.field_square(to, first)),
          a * a,
        );
        same(2n * written((to) => C.field_halve(to, first)), a);
        same(
          written((to) => C.field_negate_if(to, first, -1n)),
          -a,
        );
        expect(written((to) => C.field_negate_if(to, first, 0n))).toBe(a);
      }),
      { numRuns: 20_000 },
    );
  });

  test('are reduced where the carry of the last fold makes another one', () => {
    // (2^256 − 977)² leaves a lowest word to which 0x1000003d1 adds up to 2^64.
    for (const a of [-3n, -2n, -1n, 0n, 1n, 2n, 3n].map((step) => 2n ** 256n - 977n + step)) {
      expect(written((to) => C.field_square(to, toWords(a))) % PRIME).toBe((a * a) % PRIME);
      for (const b of [2n ** 256n - 977n, 2n ** 256n - 976n])
        expect(written((to) => C.field_multiply(to, toWords(a), toWords(b))) % PRIME).toBe((a * b) % PRIME);
    }
  });

  test('may be multiplied in place', () => {
    fc.assert(
      fc.property(number, number, (a, b) => {
        const [first, second] = [toWords(a), toWords(b)];
        C.field_multiply(first, first, second);
        expect(modulo(fromWords(first), PRIME)).toBe((a * b) % PRIME);
        C.field_square(second, second);
        expect(modulo(fromWords(second), PRIME)).toBe((b * b) % PRIME);
      }),
      many,
    );
  });

  test('are zero modulo the prime as 0 and as the prime, and nothing else is', () => {
    for (const value of [0n, PRIME]) expect(C.field_is_zero(toWords(value))).toBe(1);
    for (let bit = 0n; bit < 256n; bit++)
      for (const value of [0n, PRIME]) expect(C.field_is_zero(toWords(value ^ (1n << bit)))).toBe(0);
    fc.assert(
      fc.property(number, (a) => {
        expect(C.field_is_zero(toWords(a))).toBe(a % PRIME === 0n ? 1 : 0);
        const words = toWords(a);
        C.field_normalize(words);
        expect(fromWords(words)).toBe(a % PRIME);
      }),
      many,
    );
  });

  test('have roots and inverses modulo the prime', () => {
    fc.assert(
      fc.property(number, (a) => {
        expect(written((to) => C.field_root(to, toWords(a))) % PRIME).toBe(
          power(a % PRIME, (PRIME + 1n) / 4n, PRIME),
        );
        const inverse = written((to) => C.field_invert(to, toWords(a % PRIME)));
        expect(inverse).toBeLessThan(PRIME);
        expect((inverse * a) % PRIME).toBe(a % PRIME === 0n ? 0n : 1n);
      }),
      { numRuns: 1_000 },
    );
  });

  test('have products and inverses modulo the order', () => {
    fc.assert(
      fc.property(scalar, number, (a, b) => {
        const product = written((to) => C.scalar_multiply(to, toWords(a), toWords(b)));
        expect(product).toBeLessThan(ORDER);
        expect((product * 2n ** 256n) % ORDER).toBe((a * b) % ORDER);
        const inverse = written((to) => C.scalar_invert(to, toWords(a)));
        expect(inverse).toBeLessThan(ORDER);
        expect((inverse * a) % ORDER).toBe(a === 0n ? 0n : 2n ** 256n % ORDER);
      }),
      many,
    );
  });

  test('are split in two halves of 128 bits that make them again with lambda', () => {
    const halves = new BigUint64Array(6);
    const half = (at: number): bigint => {
      const magnitude = halves[at]! | (halves[at + 1]! << 64n);
      return halves[at + 2] === 0n ? magnitude : -magnitude;
    };
    // Where rounding takes its other turn: multiples of the order over short vectors of the lattice.
    const near = fc
      .tuple(
        fc.bigInt({ min: 0n, max: 2n ** 127n }),
        fc.constantFrom(0x3086d221a7d46bcde86c90e49284eb15n, 0xe4437ed6010e88286f547fa90abfe4c3n),
        fc.integer({ min: -2, max: 2 }),
      )
      .map(([times, over, step]) => modulo(((2n * times + 1n) * ORDER) / (2n * over) + BigInt(step), ORDER));
    fc.assert(
      fc.property(fc.oneof(scalar, near), (a) => {
        C.split(halves, toWords(a));
        expect(modulo(half(0) + half(3) * LAMBDA, ORDER)).toBe(a);
      }),
      { numRuns: 20_000 },
    );
  });
});

type Point = InstanceType<typeof noble.ProjectivePoint>;
const G = noble.ProjectivePoint.BASE;
const affineWords = (point: Point): BigUint64Array => {
  const { x, y } = point.toAffine();
  return BigUint64Array.from([...toWords(x), ...toWords(y)]);
};
/** X, Y, Z of the point for a Z, each plus p where that fits. */
const jacobian = (point: Point, z: bigint): BigUint64Array => {
  const { x, y } = point.toAffine();
  const lifted = (value: bigint): bigint => (value + PRIME < 2n ** 256n ? value + PRIME : value);
  return BigUint64Array.from(
    [(x * z * z) % PRIME, (y * z * z * z) % PRIME, z].flatMap((value) => [...toWords(lifted(value))]),
  );
};
const affineOf = (words: BigUint64Array): { x: bigint; y: bigint } => {
  const [x, y, z] = [0, 4, 8].map((at) => fromWords(words.subarray(at, at + 4)) % PRIME) as [
    bigint,
    bigint,
    bigint,
  ];
  const inverse = power(z, PRIME - 2n, PRIME);
  return { x: (x * inverse ** 2n) % PRIME, y: (y * inverse ** 3n) % PRIME };
};
const nonzero = scalar.filter((value) => value !== 0n);
const { ptr } = await import('bun:ffi');

describe.if(isHere)('points of secp256k1', () => {
  const z = number.map((value) => value % PRIME).filter((value) => value !== 0n);
  /** What point_add is told: the entry, its sign, no factors, no next one. */
  const termOf = (entry: BigUint64Array, negative: boolean): BigUint64Array =>
    BigUint64Array.from([BigInt(ptr(entry)), negative ? WORD - 1n : 0n, 0n, 0n]);

  test('are doubled, once and often', () => {
    fc.assert(
      fc.property(nonzero, z, fc.integer({ min: 1, max: 5 }), (a, scale, times) => {
        const words = jacobian(G.multiply(a), scale);
        C.point_double(words, BigInt(times));
        expect(affineOf(words)).toEqual(G.multiply(modulo(a * 2n ** BigInt(times), ORDER)).toAffine());
      }),
      { numRuns: 100 },
    );
  });

  test('are added and subtracted', () => {
    fc.assert(
      fc.property(nonzero, nonzero, z, fc.boolean(), (a, b, scale, negative) => {
        const sum = modulo(negative ? a - b : a + b, ORDER);
        fc.pre(sum !== 0n && a !== b && a + b !== ORDER);
        const entry = affineWords(G.multiply(b));
        const words = jacobian(G.multiply(a), scale);
        expect(C.point_add(words, termOf(entry, negative))).toBe(0);
        expect(affineOf(words)).toEqual(G.multiply(sum).toAffine());
      }),
      { numRuns: 100 },
    );
  });

  test('that are equal or opposite are told, and left as they are', () => {
    fc.assert(
      fc.property(nonzero, z, fc.boolean(), fc.boolean(), (a, scale, opposite, negative) => {
        const entry = affineWords(opposite ? G.multiply(a).negate() : G.multiply(a));
        const words = jacobian(G.multiply(a), scale);
        const before = words.slice();
        expect(C.point_add(words, termOf(entry, negative))).toBe(opposite === negative ? 2 : 1);
        expect(words).toEqual(before);
      }),
      { numRuns: 100 },
    );
  });

  test('have tables of odd multiples at every place', () => {
    for (const entries of [4, 8, 256]) {
      const tables = new BigUint64Array(PLACES * entries * 8);
      const secret = BigInt(entries) * 0x123456789abcdefn;
      const base = affineWords(G.multiply(secret));
      C.make_tables(tables, entries, base, base.subarray(4));
      for (let place = 0; place < PLACES; place++)
        for (const at of new Set([0, 1, 2, 3, entries - 1])) {
          const entry = tables.subarray((place * entries + at) * 8, (place * entries + at + 1) * 8);
          const expected = G.multiply(
            modulo(secret * BigInt(2 * at + 1) * 2n ** BigInt(32 * place), ORDER),
          ).toAffine();
          expect({
            x: fromWords(entry.subarray(0, 4)) % PRIME,
            y: fromWords(entry.subarray(4)) % PRIME,
          }).toEqual(expected);
        }
    }
  });
});

describe.if(isHere)('sums of multiples of two points', () => {
  const GENERATOR_ENTRIES = 256;
  const POOL_ENTRIES = 4;
  const generator = new BigUint64Array(PLACES * GENERATOR_ENTRIES * 8);
  const base = affineWords(G);
  if (isHere) C.make_tables(generator, GENERATOR_ENTRIES, base, base.subarray(4));

  const edges = [
    ...[0n, 1n, 2n, 3n, 4n, 7n, 8n, 9n, 15n, 16n, 17n, LAMBDA, LAMBDA + 1n, LAMBDA ** 2n, ORDER / 2n],
    ...[31n, 32n, 33n, 63n, 64n, 65n, 95n, 96n, 97n, 127n, 128n, 129n].flatMap((bit) => [
      2n ** bit,
      2n ** bit - 1n,
    ]),
    ...[512n, 511n, 513n, 1023n, 1024n, 0xaaaaaaaan, 0xffffffff00000000ffffffffn, 0x5555555555555555n * WORD],
  ].flatMap((value) => [modulo(value, ORDER), modulo(-value, ORDER)]);
  const factor = fc.oneof(
    fc.constantFrom(...edges),
    scalar,
    fc
      .tuple(fc.constantFrom(...edges), fc.constantFrom(...edges))
      .map(([a, b]) => modulo(a + b * LAMBDA, ORDER)),
  );

  const check = (u1: bigint, u2: bigint, secret: bigint): void => {
    const key = affineWords(G.multiply(secret));
    const tables = new BigUint64Array(PLACES * POOL_ENTRIES * 8);
    C.make_tables(tables, POOL_ENTRIES, key, key.subarray(4));
    const expected = modulo(u1 + u2 * secret, ORDER);
    for (const known of [null, tables]) {
      const sum = new BigUint64Array(12);
      const isPoint = C.linear_combination(sum, toWords(u1), toWords(u2), key, known, generator);
      expect(isPoint).toBe(expected === 0n ? 0 : 1);
      if (expected !== 0n) expect(affineOf(sum)).toEqual(G.multiply(expected).toAffine());
    }
  };

  test('are right for any factors, of keys with tables and without', () => {
    fc.assert(
      fc.property(
        factor,
        factor,
        fc.oneof(nonzero, fc.constantFrom(1n, 2n, 3n, ORDER - 1n, LAMBDA, ORDER - LAMBDA)),
        check,
      ),
      {
        numRuns: 400,
      },
    );
  });

  test('are right where points on the way are equal, opposite or at infinity', () => {
    const small = [0n, 1n, 2n, 3n, 5n, 7n].flatMap((value) => [
      value,
      modulo(-value, ORDER),
      (value * LAMBDA) % ORDER,
    ]);
    fc.assert(
      fc.property(
        fc.constantFrom(...small),
        fc.constantFrom(...small),
        fc.constantFrom(...small.filter((value) => value !== 0n)),
        check,
      ),
      { numRuns: 400 },
    );
    // Nothing is left of u1 = −u2·secret.
    fc.assert(
      fc.property(factor, nonzero, (u2, secret) => check(modulo(-u2 * secret, ORDER), u2, secret)),
      { numRuns: 50 },
    );
  });
});
