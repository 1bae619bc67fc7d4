/**
 * Our own SHA-256 of short keys against that of node:crypto: all 32 bits of each first word, of which a height would show
 * one or two. And heights by it, which have to be those of hashing key by key.
 */
import { dlopen, type Pointer, toArrayBuffer } from 'bun:ffi';
import { describe, expect, test } from 'bun:test';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { compiled } from '../../../src/repo/compiled/compiled.ts';
import {
  compileHeights,
  type FirstWords,
  heightsBy,
  isSoundHash,
} from '../../../src/repo/heights/compiled.ts';
import { hashedHeights, type KeyHeights, keyHeight } from '../../../src/repo/heights/hashed.ts';
import { keyHeights } from '../../../src/repo/heights.ts';
import { choices, jsonFixture } from '../support.ts';

const LANES = 8;
const MAX_BLOCK_KEY_BYTES = 55;
const UNTOUCHED = 0x7eadbeef;

const opened = compileHeights();
if (opened === null) console.warn("weir's own SHA-256 is not for this machine: it is not tested");
const isHere = opened !== null;
/** Never used where it is not for this machine. */
const own = opened!;
const firstWords: FirstWords = (bytes, ends, count, words) =>
  compiled()!.first_words(bytes, ends, count, words);

const wordOf = (key: Uint8Array): number =>
  key.length > MAX_BLOCK_KEY_BYTES ? 0 : createHash('sha256').update(key).digest().readInt32BE(0);

const endsOf = (keys: readonly Uint8Array[]): Int32Array => {
  let end = 0;
  return Int32Array.from(keys, (key) => {
    end += key.length;
    return end;
  });
};

/** The words of the keys, whose table begins `offset` bytes after a line of the cache, or near it. */
const wordsOf = (keys: readonly Uint8Array[], offset = 0): number[] => {
  const table = Buffer.concat(keys);
  const bytes = new Uint8Array(new ArrayBuffer(offset + table.length), offset);
  bytes.set(table);
  const ends = endsOf(keys);
  const words = new Int32Array(keys.length + 2).fill(UNTOUCHED);
  firstWords(bytes, ends, keys.length, words.subarray(1, keys.length + 1));
  expect(words[0]).toBe(UNTOUCHED);
  expect(words.at(-1)).toBe(UNTOUCHED);
  expect(Buffer.compare(bytes, table)).toBe(0);
  expect(ends).toEqual(endsOf(keys));
  return [...words.subarray(1, keys.length + 1)];
};

const choose = choices(42);
const randomKey = (length: number): Uint8Array => Uint8Array.from({ length }, () => choose(256));

const heightsOf = (heights: KeyHeights, keys: readonly Uint8Array[]): number[] => {
  const written = new Int32Array(keys.length);
  heights.write(Buffer.concat(keys), endsOf(keys), keys.length, written);
  return [...written];
};

test("heights come from weir's own SHA-256 where the processor has AVX2, elsewhere from that of Bun", () => {
  const isForOwn =
    process.platform === 'linux' &&
    process.arch === 'x64' &&
    readFileSync('/proc/cpuinfo', 'utf8').includes(' avx2 ');
  expect(isHere).toBe(isForOwn);
  expect(keyHeights().name).toBe(isForOwn ? own.name : hashedHeights.name);
});

describe.if(isHere)("weir's own SHA-256", () => {
  test('is sound', () => {
    expect(isSoundHash(firstWords)).toBe(true);
  });

  test('hashes keys of every length in every lane, and leaves those of more than a block', () => {
    for (let length = 0; length <= 200; length++) {
      const keys = Array.from({ length: LANES }, () => randomKey(length));
      expect(wordsOf(keys)).toEqual(keys.map(wordOf));
      // One key of that length among others, at each place.
      for (let place = 0; place < LANES; place++) {
        const mixed = Array.from({ length: LANES }, (_, at) => randomKey(at === place ? length : choose(56)));
        expect(wordsOf(mixed)).toEqual(mixed.map(wordOf));
      }
    }
  });

  test('knows every bit of a key', () => {
    for (const length of [1, 31, 32, 33, 55])
      for (let bit = 0; bit < 8 * length; bit += LANES) {
        const keys = Array.from({ length: LANES }, (_, at) => {
          const key = new Uint8Array(length);
          key[(bit + at) >> 3]! = 1 << ((bit + at) & 7);
          return key;
        });
        expect(wordsOf(keys)).toEqual(keys.map(wordOf));
      }
  });

  test('hashes any number of keys', () => {
    for (let count = 0; count <= 40; count++) {
      const keys = Array.from({ length: count }, () => randomKey(choose(56)));
      expect(wordsOf(keys)).toEqual(keys.map(wordOf));
    }
    const many = Array.from({ length: 20_003 }, () => randomKey(choose(60)));
    expect(wordsOf(many)).toEqual(many.map(wordOf));
  });

  test('hashes whatever keys there are, wherever they begin', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 70 }), { maxLength: 50 }),
        fc.nat(64),
        (keys, offset) => {
          expect(wordsOf(keys, offset)).toEqual(keys.map(wordOf));
        },
      ),
      { numRuns: 2_000 },
    );
  });

  test('forgets the keys of the call before', () => {
    const keys = Array.from({ length: LANES }, () => randomKey(50));
    for (let count = LANES; count > 0; count--) {
      wordsOf(keys);
      const fewer = Array.from({ length: count }, () => randomKey(choose(3)));
      expect(wordsOf(fewer)).toEqual(fewer.map(wordOf));
    }
  });

  test('reads and writes no byte outside of what it was given', () => {
    const page = 4096;
    const { symbols } = dlopen('libc.so.6', {
      mmap: { args: ['ptr', 'usize', 'i32', 'i32', 'i32', 'i64'], returns: 'ptr' },
      mprotect: { args: ['ptr', 'usize', 'i32'], returns: 'i32' },
    });
    /** Memory of a page between two that end the process when they are touched. */
    const guarded = (): { at: number; memory: Uint8Array } => {
      const at = Number(symbols.mmap(null, 3 * page, 3, 0x22, -1, 0));
      for (const side of [at, at + 2 * page]) expect(symbols.mprotect(side as Pointer, page, 0)).toBe(0);
      return { at: at + page, memory: new Uint8Array(toArrayBuffer((at + page) as Pointer, 0, page)) };
    };
    const [table, places, written] = [guarded(), guarded(), guarded()];
    const check = (keys: readonly Uint8Array[], atEnd: boolean): void => {
      const bytes = Buffer.concat(keys);
      const ends = new Uint8Array(endsOf(keys).buffer);
      const put = ({ at, memory }: ReturnType<typeof guarded>, content: Uint8Array): Pointer => {
        const from = atEnd ? page - content.length : 0;
        memory.fill(0xee).set(content, from);
        return (at + from) as Pointer;
      };
      const to = put(written, ends);
      compiled()!.first_words(put(table, bytes), put(places, ends), keys.length, to);
      const words = Buffer.from(written.memory);
      const from = to - written.at;
      expect(keys.map((_, at) => words.readInt32LE(from + 4 * at))).toEqual(keys.map(wordOf));
      expect(words.fill(0xee, from, from + ends.length).every((byte) => byte === 0xee)).toBe(true);
    };
    for (const atEnd of [true, false]) {
      for (let count = 0; count <= 20; count++)
        for (const length of [0, 1, 3, 31, 32, 33, 54, 55, 56, 70])
          check(
            Array.from({ length: count }, () => randomKey(length)),
            atEnd,
          );
      // A key that begins at each distance from the end.
      for (let length = 0; length < 56; length++)
        for (let after = 0; after < 80; after++) check([randomKey(length), randomKey(after)], atEnd);
    }
    // Of the call before this one nothing is there any more.
    check(
      Array.from({ length: LANES }, () => randomKey(55)),
      false,
    );
    expect(symbols.mprotect(table.at as Pointer, page, 0)).toBe(0);
    expect(wordsOf([randomKey(5)])).toHaveLength(1);
  });

  test('leaves keys whose ends are in disorder, and goes on', () => {
    const bytes = Uint8Array.from({ length: 100 }, (_, at) => at);
    const key = (start: number, end: number): number => wordOf(bytes.subarray(start, end));
    const disorders: [ends: number[], words: number[]][] = [
      [
        [20, 10, 30],
        [key(0, 20), 0, key(10, 30)],
      ],
      [
        [20, 1_000_000, 30],
        [key(0, 20), 0, 0],
      ],
      [
        [-5, 1, 30],
        [0, 0, key(1, 30)],
      ],
      [
        [-0x80000000, 0x7fffffff, -1, 40],
        [0, 0, 0, 0],
      ],
      [
        [1_000, 1_010, 5],
        [0, 0, 0],
      ],
    ];
    for (const [ends, expected] of disorders) {
      const words = new Int32Array(ends.length);
      firstWords(bytes, Int32Array.from(ends), ends.length, words);
      expect([...words]).toEqual(expected);
    }
  });

  test('is of one thread: four at once come to the same answers', async () => {
    const counts = await Promise.all(
      Array.from({ length: 4 }, async (_, at) => {
        const worker = new Worker(new URL('./worker.ts', import.meta.url).href);
        const answer = new Promise<{ right: number; wrong: number }>((resolve, reject) => {
          worker.onmessage = ({ data }) => resolve(data);
          worker.onerror = ({ message }) => reject(new Error(message));
        });
        worker.postMessage({ from: 1_000 * at, keys: 37, rounds: 3_000 });
        const counted = await answer;
        worker.terminate();
        return counted;
      }),
    );
    expect(counts).toEqual(counts.map(() => ({ right: 37 * 3_000, wrong: 0 })));
  });

  test('that is wrong in one lane, of one length or where it should leave a key, is not used', () => {
    const wrongWhere = (isWrong: (length: number, place: number) => boolean): FirstWords => {
      return (bytes, ends, count, words) => {
        firstWords(bytes, ends, count, words);
        for (let at = 0; at < count; at++) if (isWrong(ends[at]! - (ends[at - 1] ?? 0), at)) words[at]! ^= 1;
      };
    };
    expect(isSoundHash(wrongWhere(() => false))).toBe(true);
    for (let lane = 0; lane < LANES; lane++)
      expect(isSoundHash(wrongWhere((_, place) => place % LANES === lane))).toBe(false);
    for (let length = 0; length <= MAX_BLOCK_KEY_BYTES + 1; length++)
      expect(isSoundHash(wrongWhere((of) => of === length))).toBe(false);
  });
});

const ways: KeyHeights[] = isHere ? [hashedHeights, own] : [hashedHeights];
for (const heights of ways)
  describe(`heights by ${heights.name}`, () => {
    test('are those of the interop vectors', () => {
      const vectors = jsonFixture<{ key: string; height: number }[]>('interop/mst/key_heights.json');
      if (vectors === null) return;
      const keys = vectors.map(({ key }) => Buffer.from(key));
      expect(heightsOf(heights, keys)).toEqual(vectors.map(({ height }) => height));
    });

    test('are those of the keys one by one, of any length and number', () => {
      fc.assert(
        fc.property(fc.array(fc.uint8Array({ maxLength: 130 }), { maxLength: 50 }), (keys) => {
          expect(heightsOf(heights, keys)).toEqual(keys.map(keyHeight));
        }),
        { numRuns: 300 },
      );
      const many = Array.from({ length: 30_000 }, (_, at) => Buffer.from(`app.bsky.feed.like/3k${at}`));
      expect(heightsOf(heights, many)).toEqual(many.map(keyHeight));
      // So that all that happens did: a height of 6 is one in 5,461.
      expect(Math.max(...many.map(keyHeight))).toBeGreaterThanOrEqual(6);
    });

    test('are written for the keys that were counted, and no more', () => {
      const written = new Int32Array(9).fill(UNTOUCHED);
      const keys = Array.from({ length: 9 }, () => randomKey(30));
      heights.write(Buffer.concat(keys), endsOf(keys), 5, written);
      expect([...written]).toEqual([...keys.slice(0, 5).map(keyHeight), ...Array(4).fill(UNTOUCHED)]);
    });

    test('are not asked of a table that is shorter than it says', () => {
      const keys = Array.from({ length: 9 }, () => randomKey(30));
      const bytes = Buffer.concat(keys);
      const short = (bytesLength: number, endsLength: number, heightsLength: number) => () =>
        heights.write(
          bytes.subarray(0, bytesLength),
          endsOf(keys).subarray(0, endsLength),
          9,
          new Int32Array(heightsLength),
        );
      expect(short(270, 9, 9)).not.toThrow();
      expect(short(269, 9, 9)).toThrow(RangeError);
      expect(short(270, 8, 9)).toThrow(RangeError);
      expect(short(270, 9, 8)).toThrow(RangeError);
      const write = (count: number, ends: readonly number[]) => () =>
        heights.write(bytes, Int32Array.from(ends), count, new Int32Array(9));
      expect(write(0, [])).not.toThrow();
      expect(write(-1, [30])).toThrow(RangeError);
      expect(write(3, [1_000_000, 1_000_010, -1])).toThrow(RangeError);
    });
  });

test('a first word that is all zeros has the rest of the hash say the height', () => {
  // No key is known whose first word is: it would take 2^32 tries.
  const silent = heightsBy((_bytes, _ends, count, words) => words.fill(0, 0, count));
  const keys = Array.from({ length: 1_000 }, (_, at) => Buffer.from(`com.example.record/${at}`));
  expect(heightsOf(silent, keys)).toEqual(keys.map(keyHeight));
});
