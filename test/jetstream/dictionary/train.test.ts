import { beforeAll, describe, expect, test } from 'bun:test';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createDCtx, decompressUsingDict } from '@bokuweb/zstd-wasm';
import fc from 'fast-check';
import { createCompressor } from '../../../jetstream/compress/compressor.ts';
import { decompress } from '../../../jetstream/compress/decompress.ts';
import { readFrameHeader } from '../../../jetstream/compress/frame-header.ts';
import { OWN_DICTIONARY_PATH, readDictionary } from '../../../jetstream/dictionary/dictionary.ts';
import { madeMessages } from '../../../jetstream/dictionary/synthetic/messages.ts';
import { recordCid } from '../../../jetstream/dictionary/synthetic/shapes.ts';
import { describeTable, normalize } from '../../../jetstream/dictionary/train/fse.ts';
import { codeLengths } from '../../../jetstream/dictionary/train/huffman.ts';
import { chooseSegments } from '../../../jetstream/dictionary/train/segments.ts';
import { trainDictionary } from '../../../jetstream/dictionary/train/train.ts';
import type { Dictionary } from '../../../jetstream/dictionary/types.ts';
import { createRandom } from '../../../simulator/random.ts';
import { initZstdWasm } from '../../zstd-wasm.ts';

const utf8 = new TextEncoder();
const bytesOf = (count: number, seed: number): Uint8Array[] =>
  madeMessages(count, seed).map(({ json }) => utf8.encode(json));
const samples = bytesOf(1_000, 1);
const unseen = bytesOf(200, 2);

const trained = (given: readonly Uint8Array[], maxBytes: number, segmentBytes = 600): Dictionary => {
  const read = readDictionary(trainDictionary(given, { maxBytes, segmentBytes, id: null }));
  if (!read.ok) throw new Error(read.problem);
  return read.dictionary;
};
const ratioOf = (dictionary: Dictionary | null): number => {
  const { compress, counters } = createCompressor({ dictionary });
  for (const bytes of unseen) compress(bytes);
  return counters.bytesIn / counters.bytesOut;
};

beforeAll(async () => {
  await initZstdWasm();
});

describe('a trained dictionary', () => {
  test('makes unseen messages smaller by a third and more, at every size', () => {
    const plain = ratioOf(null);
    for (const maxBytes of [2_000, 8_000, 32_000, 112_640]) {
      const dictionary = trained(samples, maxBytes);
      expect(dictionary.bytes.length).toBeLessThanOrEqual(maxBytes);
      expect(ratioOf(dictionary)).toBeGreaterThan(plain * 1.5);
    }
  });

  test('is a pure function of samples and options', () => {
    expect(trained(samples, 8_000)).toEqual(trained(samples, 8_000));
  });

  test('has an ID that follows from its bytes, or the one that was asked for', () => {
    expect(trained(samples, 8_000).id).not.toBe(trained(samples, 9_000).id);
    const bytes = trainDictionary(samples, { maxBytes: 8_000, segmentBytes: 600, id: 123_456 });
    expect(readDictionary(bytes)).toMatchObject({ ok: true, dictionary: { id: 123_456 } });
  });

  test('can be made of any samples that have something in common, and then works', () => {
    const sample = fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 300 }),
      fc.string({ unit: 'grapheme', maxLength: 200 }).map((text) => utf8.encode(text)),
      fc.nat(255).map((byte) => new Uint8Array(200).fill(byte)),
    );
    const context = createDCtx();
    fc.assert(
      fc.property(
        fc.array(sample, { minLength: 1, maxLength: 30 }),
        // Noise, so that all of it is different strings.
        fc.nat().map((seed) => createRandom(seed).bytes(300)),
        fc.integer({ min: 520, max: 5_000 }),
        fc.integer({ min: 8, max: 2_000 }),
        (list, shared, maxBytes, segmentBytes) => {
          // The same at both ends of each sample, so that there is something to choose.
          const given = list.map((each) => new Uint8Array(Buffer.concat([shared, each, shared])));
          const dictionary = trained([...given, ...given, ...given], maxBytes, segmentBytes);
          expect(dictionary.bytes.length).toBeLessThanOrEqual(maxBytes);
          const compressor = createCompressor({ dictionary });
          expect(compressor.native).toBe(true);
          for (const bytes of [...given, ...unseen.slice(0, 3)]) {
            const frame = compressor.compress(bytes);
            expect(readFrameHeader(frame)?.dictionaryId).toBe(dictionary.id);
            const back = decompressUsingDict(context, frame, dictionary.bytes, { defaultHeapSize: 1 << 20 });
            expect(Buffer.compare(back, bytes)).toBe(0);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  test('is refused where samples have nothing in common', () => {
    expect(() => trained([], 4_000)).toThrow(/in common/);
    expect(() => trained([utf8.encode('one'), utf8.encode('two')], 4_000)).toThrow(/in common/);
    expect(() => trained([utf8.encode('a'.repeat(5))], 4_000)).toThrow(/in common/);
  });

  test('is used by its tables, too: a message without matches is smaller with it', () => {
    // Noise of the characters that messages are full of: only shorter codes help.
    const noise = utf8.encode(recordCid(createRandom(8)).slice(7));
    const dictionary = trained(samples, 8_000);
    const withTables = createCompressor({ dictionary }).compress(noise).length;
    const plain = createCompressor({ dictionary: null }).compress(noise).length;
    expect(withTables).toBeLessThan(plain * 0.9);
  });
});

describe('the zstd program', () => {
  test('loads our dictionary, reads our frames with it and writes frames that we read', () => {
    if (spawnSync('zstd', ['--version']).status !== 0) {
      console.warn(
        'NOT TESTED: there is no zstd program here to judge dictionaries (Debian: apt-get install zstd)',
      );
      return;
    }
    const directory = mkdtempSync(path.join(tmpdir(), 'weir-zstd-'));
    try {
      const fresh = trained(samples, 20_000);
      const freshFile = path.join(directory, 'fresh.zdict');
      writeFileSync(freshFile, fresh.bytes);
      for (const file of [OWN_DICTIONARY_PATH, freshFile]) {
        const read = readDictionary(readFileSync(file));
        if (!read.ok) throw new Error(read.problem);
        const { dictionary } = read;
        // One stream of frames, as the program takes it.
        const { compress } = createCompressor({ dictionary });
        const ours = Buffer.concat(unseen.map(compress));
        const back = spawnSync('zstd', ['-q', '-d', '-c', '-D', file], { input: ours, maxBuffer: 1 << 26 });
        expect(back.stderr.toString()).toBe('');
        expect(Buffer.compare(back.stdout, Buffer.concat(unseen))).toBe(0);
        for (const level of ['-1', '-3', '-19']) {
          const theirs = spawnSync('zstd', ['-q', '-c', level, '-D', file], { input: unseen[0]! });
          expect(readFrameHeader(theirs.stdout)?.dictionaryId).toBe(dictionary.id);
          const read = decompress(theirs.stdout, dictionary, 100_000);
          expect(read.ok && Buffer.compare(read.bytes, unseen[0]!)).toBe(0);
        }
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

describe('the parts of training', () => {
  test('probabilities add up, keep every symbol that occurs and no other', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(100_000), { minLength: 1, maxLength: 60 }),
        fc.integer({ min: 6, max: 9 }),
        (counts, log) => {
          fc.pre(counts.some((count) => count > 0));
          const probabilities = normalize(counts, log);
          expect(probabilities.reduce((sum, each) => sum + Math.abs(each), 0)).toBe(1 << log);
          probabilities.forEach((each, symbol) => {
            expect(each === 0).toBe(counts[symbol] === 0);
            expect(each).toBeGreaterThanOrEqual(-1);
          });
        },
      ),
    );
  });

  test('a table is described as the example of the format has it', () => {
    // The predefined distribution of offsets: RFC 8878, section 3.1.1.3.2.2.3; read back below by another way.
    const offsets = [
      1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1,
    ];
    for (const [probabilities, log] of [
      [offsets, 5],
      [[10, 0, 0, 0, 0, 0, 20, 0, 2], 5],
      [[0, 0, 0, 63, -1], 6],
      [[64], 6],
    ] as const) {
      expect(readTable(describeTable(probabilities, log))).toEqual({
        log,
        probabilities: [...probabilities],
      });
    }
  });

  test('any table is described so that a reader gets it back', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(1_000), { minLength: 1, maxLength: 60 }),
        fc.integer({ min: 6, max: 9 }),
        (counts, log) => {
          fc.pre(counts.some((count) => count > 0));
          const probabilities = normalize(counts, log);
          // What comes after the last one that occurs is not written.
          while (probabilities.at(-1) === 0) probabilities.pop();
          expect(readTable(describeTable(probabilities, log))).toEqual({ log, probabilities });
        },
      ),
    );
  });

  test('Huffman codes are complete, no longer than allowed, and as good as any when nothing limits them', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 1_000_000 }), { minLength: 2, maxLength: 256 }),
        (counts) => {
          const lengths = codeLengths(counts, 11);
          expect(Math.max(...lengths)).toBeLessThanOrEqual(11);
          expect(lengths.reduce((sum, length) => sum + 2 ** -length, 0)).toBe(1);
          const free = codeLengths(counts, 30);
          // Huffman's own way: the cost of the best code is the sum of all merges.
          const heap = [...counts].sort((a, b) => a - b);
          let cost = 0;
          while (heap.length > 1) {
            const sum = heap.shift()! + heap.shift()!;
            cost += sum;
            const at = heap.findIndex((each) => each > sum);
            heap.splice(at < 0 ? heap.length : at, 0, sum);
          }
          expect(free.reduce((sum, length, symbol) => sum + length * counts[symbol]!, 0)).toBe(cost);
        },
      ),
      { numRuns: 50 },
    );
  });

  test('segments are what samples share, not what one of them has alone', () => {
    const shared = utf8.encode('"collection":"app.bsky.feed.like","record":{');
    const random = createRandom(21);
    const given = Array.from(
      { length: 50 },
      () => new Uint8Array(Buffer.concat([random.bytes(100), shared, random.bytes(100)])),
    );
    const content = Buffer.from(chooseSegments(given, { maxBytes: 400, segmentBytes: 60 }));
    expect(content.includes(Buffer.from(shared).subarray(2, -2))).toBe(true);
    expect(content.length).toBeLessThan(100);
  });

  test('segments take no more room than there is', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 3_000 }),
        fc.integer({ min: 1, max: 3_000 }),
        (maxBytes, segmentBytes) => {
          expect(chooseSegments(samples.slice(0, 50), { maxBytes, segmentBytes }).length).toBeLessThanOrEqual(
            maxBytes,
          );
        },
      ),
      { numRuns: 50 },
    );
  });
});

/** Reads a table's description, written from RFC 8878, section 4.1.1, alone. */
function readTable(bytes: Uint8Array): { log: number; probabilities: number[] } {
  let at = 0;
  const peek = (count: number): number => {
    let value = 0;
    for (let i = 0; i < count; i++) value |= (((bytes[(at + i) >> 3] ?? 0) >> ((at + i) & 7)) & 1) << i;
    return value;
  };
  const read = (count: number): number => {
    const value = peek(count);
    at += count;
    return value;
  };
  const log = read(4) + 5;
  let remaining = 1 << log;
  const probabilities: number[] = [];
  while (remaining > 0) {
    // Values 0…remaining+1: of the 2^n codes of the larger width, the unused ones make the low values shorter.
    let bits = 0;
    while (1 << bits < remaining + 2) bits++;
    const unused = (1 << bits) - (remaining + 2);
    let value = peek(bits - 1);
    if (value < unused) at += bits - 1;
    else {
      value = read(bits);
      if (value >= 1 << (bits - 1)) value -= unused;
    }
    const probability = value - 1;
    probabilities.push(probability);
    remaining -= Math.abs(probability);
    if (probability === 0) {
      let repeat = 3;
      while (repeat === 3) {
        repeat = read(2);
        for (let i = 0; i < repeat; i++) probabilities.push(0);
      }
    }
  }
  return { log, probabilities };
}
