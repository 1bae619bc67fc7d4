import { beforeAll, describe, expect, test } from 'bun:test';
import { createDCtx, decompressUsingDict } from '@bokuweb/zstd-wasm';
import fc from 'fast-check';
import * as fzstd from 'fzstd';
import { createCompression } from '../../../jetstream/compress/compression.ts';
import { createCompressor } from '../../../jetstream/compress/compressor.ts';
import { openContext } from '../../../jetstream/compress/context.ts';
import { decompress } from '../../../jetstream/compress/decompress.ts';
import { readFrameHeader } from '../../../jetstream/compress/frame-header.ts';
import { hasPackagedZstd, openPackagedContext } from '../../../jetstream/compress/packaged.ts';
import { loadOwnDictionary } from '../../../jetstream/dictionary/dictionary.ts';
import { createDictionaries } from '../../../jetstream/dictionary/registry.ts';
import { madeMessages } from '../../../jetstream/dictionary/synthetic/messages.ts';
import type { Dictionary } from '../../../jetstream/dictionary/types.ts';
import { initZstdWasm } from '../../zstd-wasm.ts';

const MAX_BYTES = 16 * 1024 * 1024;
const ownDictionary = (): Dictionary => {
  const own = loadOwnDictionary();
  if (!own.ok) throw new Error(own.problem);
  return own.dictionary;
};
const dictionary = ownDictionary();
const utf8 = new TextEncoder();
const messages = madeMessages(400, 99).map(({ json }) => utf8.encode(json));

/** Bytes as compressors may get them: noise, text, runs, and messages cut and put together. */
const content = fc.oneof(
  fc.uint8Array({ maxLength: 2_000 }),
  fc.string({ unit: 'grapheme', maxLength: 500 }).map((text) => utf8.encode(text)),
  fc.tuple(fc.nat(255), fc.nat(300_000)).map(([byte, length]) => new Uint8Array(length).fill(byte)),
  fc.array(fc.constantFrom(...messages), { maxLength: 20 }).chain((list) => {
    const all = Buffer.concat(list);
    return fc
      .tuple(fc.nat(all.length), fc.nat(all.length))
      .map(([a, b]) => all.subarray(Math.min(a, b), Math.max(a, b)));
  }),
);

beforeAll(async () => {
  await initZstdWasm();
});

if (!hasPackagedZstd())
  console.warn(
    '!! zstd-napi HAS NO NATIVE CODE here: its compressor was NOT tested (bun run zstd builds it)',
  );

describe.each([
  ['without a dictionary', null, { open: openContext }],
  ['with the dictionary', dictionary, { open: openContext }],
  ...(hasPackagedZstd()
    ? ([
        ['of zstd-napi without a dictionary', null, { open: openPackagedContext }],
        ['of zstd-napi with the dictionary', dictionary, { open: openPackagedContext }],
      ] as const)
    : []),
  ['without a dictionary and a kept context', null, { open: (): null => null }],
  ['with the dictionary and without a kept context', dictionary, { open: (): null => null }],
] as const)('a compressor %s', (_, using, how) => {
  const id = using?.id ?? 0;

  test('makes frames that hold what it was given, and say how much and by which dictionary', () => {
    for (const level of [1, 3, 9]) {
      const compressor = createCompressor({ dictionary: using, level, ...how });
      expect(compressor.dictionaryId).toBe(id);
      fc.assert(
        fc.property(content, (bytes) => {
          const frame = compressor.compress(bytes);
          const header = readFrameHeader(frame);
          expect(header).toMatchObject({ dictionaryId: id, contentSize: bytes.length, hasChecksum: false });
          const back = decompress(frame, using, MAX_BYTES);
          expect(back.ok && Buffer.compare(back.bytes, bytes)).toBe(0);
        }),
        { numRuns: how.open(null, 1) === null ? 30 : 200 },
      );
    }
  });

  test('makes frames that other decoders read', () => {
    const compressor = createCompressor({ dictionary: using, ...how });
    const context = createDCtx();
    for (const bytes of messages) {
      const frame = compressor.compress(bytes);
      const back =
        using === null
          ? fzstd.decompress(frame)
          : decompressUsingDict(context, frame, using.bytes, { defaultHeapSize: 1 << 20 });
      expect(Buffer.compare(back, bytes)).toBe(0);
    }
  });

  test('makes each frame in memory of its own, and the same one for the same bytes', () => {
    const compressor = createCompressor({ dictionary: using, ...how });
    const first = compressor.compress(messages[0]!);
    const kept = Uint8Array.from(first);
    for (const bytes of messages.slice(0, 50)) compressor.compress(bytes);
    expect(first).toEqual(kept);
    expect(compressor.compress(messages[0]!)).toEqual(kept);
  });

  test('lends the same frames, the short ones in one piece of memory', () => {
    const compressor = createCompressor({ dictionary: using, ...how });
    const frames = messages.slice(0, 50).map((bytes) => compressor.compress(bytes));
    const buffers = new Set<ArrayBufferLike>();
    for (const [index, frame] of frames.entries()) {
      const lent = compressor.lend(messages[index]!);
      expect(Buffer.compare(lent, frame)).toBe(0);
      expect(frame.buffer).not.toBe(lent.buffer);
      buffers.add(lent.buffer);
    }
    if (compressor.native) expect(buffers.size).toBe(1);
  });

  test('counts', () => {
    const compressor = createCompressor({ dictionary: using, ...how });
    let bytesOut = 0;
    for (const bytes of messages) bytesOut += compressor.compress(bytes).length;
    expect(compressor.counters).toEqual({
      messages: messages.length,
      bytesIn: messages.reduce((sum, { length }) => sum + length, 0),
      bytesOut,
    });
    expect(compressor.native).toBe(how.open(null, 1) !== null);
  });
});

describe('a compressor', () => {
  test('takes content of any length, from nothing to megabytes', () => {
    for (const using of [null, dictionary]) {
      const compressor = createCompressor({ dictionary: using });
      for (const length of [0, 1, 255, 256, 65_535, 131_072, 131_073, 262_144, 3_000_000]) {
        // What does not shrink needs the most room.
        const bytes = new Uint8Array(length);
        for (let i = 0; i < length; i += 65_536) crypto.getRandomValues(bytes.subarray(i, i + 65_536));
        const back = decompress(compressor.compress(bytes), using, MAX_BYTES);
        expect(back.ok && Buffer.compare(back.bytes, bytes)).toBe(0);
      }
      expect(compressor.native).toBe(true);
    }
  });

  test('keeps its context when garbage is collected', () => {
    const compressors = [null, dictionary].map((using) => createCompressor({ dictionary: using }));
    for (const bytes of messages.slice(0, 20)) {
      Bun.gc(true);
      for (const compressor of compressors) {
        const back = decompress(compressor.compress(bytes), dictionary, MAX_BYTES);
        expect(back.ok && Buffer.compare(back.bytes, bytes)).toBe(0);
      }
    }
    for (const { native } of compressors) expect(native).toBe(true);
  });

  test('goes on by itself when its context fails', () => {
    let left = 10;
    const compressor = createCompressor({
      dictionary,
      open: (bytes, level) => {
        const whole = createCompressor({ dictionary: bytes === null ? null : dictionary, level });
        return (message, target) => {
          if (left-- === 0) return -1;
          const frame = whole.compress(message);
          target.set(frame);
          return frame.length;
        };
      },
    });
    for (const bytes of messages.slice(0, 30)) {
      const frame = compressor.compress(bytes);
      expect(readFrameHeader(frame)?.dictionaryId).toBe(dictionary.id);
      const back = decompress(frame, dictionary, MAX_BYTES);
      expect(back.ok && Buffer.compare(back.bytes, bytes)).toBe(0);
    }
    expect(compressor.native).toBe(false);
  });

  test('does not rely on a context that ignores the dictionary, or whose frames do not say their size', () => {
    const plain = createCompressor({ dictionary: null });
    const ignoring = createCompressor({
      dictionary,
      open: () => (bytes, target) => {
        const frame = plain.compress(bytes);
        target.set(frame);
        return frame.length;
      },
    });
    expect(ignoring.native).toBe(false);
    expect(readFrameHeader(ignoring.compress(messages[0]!))?.dictionaryId).toBe(dictionary.id);

    const unsized = createCompressor({
      dictionary: null,
      open: () => (bytes, target) => {
        // An unsized frame of one raw block: RFC 8878, sections 3.1.1.1 and 3.1.1.2.
        target.set([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58, (bytes.length << 3) | 1, bytes.length >> 5, 0]);
        target.set(bytes, 9);
        return bytes.length + 9;
      },
    });
    expect(unsized.native).toBe(false);
  });

  test('is refused for a dictionary that cannot be loaded', () => {
    const broken = Uint8Array.from(dictionary.bytes);
    // The tables, which have to be consistent.
    broken.fill(0xff, 8, 100);
    expect(() => createCompressor({ dictionary: { ...dictionary, bytes: broken } })).toThrow(
      /zstd does not work/,
    );
    const renamed = Uint8Array.from(dictionary.bytes);
    expect(() => createCompressor({ dictionary: { ...dictionary, bytes: renamed, id: 40_000 } })).toThrow(
      /name dictionary/,
    );
  });

  test('compresses with the dictionary to near a third, and without to two thirds', () => {
    const ratioWith = (using: Dictionary | null): number => {
      const { compress, counters } = createCompressor({ dictionary: using });
      for (const { json } of madeMessages(400, 5, ['v2'])) compress(utf8.encode(json));
      return counters.bytesIn / counters.bytesOut;
    };
    expect(ratioWith(null)).toBeGreaterThan(1.4);
    expect(ratioWith(dictionary)).toBeGreaterThan(2.5);
  });
});

describe('decompressing', () => {
  const frame = createCompressor({ dictionary }).compress(messages[0]!);
  const plain = createCompressor({ dictionary: null }).compress(messages[0]!);

  test('says which dictionary is missing', () => {
    expect(decompress(frame, null, MAX_BYTES)).toMatchObject({ ok: false, needs: dictionary.id });
    expect(decompress(frame, { ...dictionary, id: 7 }, MAX_BYTES)).toMatchObject({
      ok: false,
      needs: dictionary.id,
    });
  });

  test('reads frames without a dictionary though one is at hand', () => {
    expect(decompress(plain, dictionary, MAX_BYTES)).toMatchObject({ ok: true });
  });

  test('makes no more than it may, whatever the frame says', () => {
    expect(decompress(plain, null, messages[0]!.length - 1).ok).toBe(false);
    expect(decompress(plain, null, messages[0]!.length).ok).toBe(true);
    // From a stream, so its header does not say: 10 MB of nothing.
    const bomb = Buffer.concat([
      Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58]),
      // 128 KB of one byte, 80 times, the last marked as such: RFC 8878, section 3.1.1.2.
      ...Array.from({ length: 80 }, (_, i) => {
        const header = (131_072 << 3) | 2 | (i === 79 ? 1 : 0);
        return Buffer.from([header & 255, (header >> 8) & 255, header >> 16, 0]);
      }),
    ]);
    expect(decompress(bomb, null, 20_000_000)).toMatchObject({ ok: true });
    expect(decompress(bomb, null, 1_000_000)).toMatchObject({ ok: false });
  });

  test('of any bytes answers, and never throws', () => {
    const damaged = fc
      .tuple(fc.constantFrom(frame, plain), fc.nat(1_000), fc.nat(255))
      .map(([whole, at, byte]) => {
        const copy = Uint8Array.from(whole);
        copy[at % copy.length] = byte;
        return copy;
      });
    const cut = fc
      .tuple(fc.constantFrom(frame, plain), fc.nat(1_000))
      .map(([whole, at]) => whole.slice(0, at % whole.length));
    fc.assert(
      fc.property(fc.oneof(damaged, cut, fc.uint8Array({ maxLength: 100 })), (bytes) => {
        const result = decompress(bytes, dictionary, 100_000);
        if (result.ok) expect(result.bytes.length).toBeLessThanOrEqual(100_000);
        else expect(result.problem).not.toBe('');
      }),
      { numRuns: 300 },
    );
  });
});

describe('the compression of the edges', () => {
  test('has one compressor for version 1 and one for each dictionary, made once', () => {
    const compression = createCompression({
      v1Dictionary: null,
      dictionaries: createDictionaries([dictionary]),
    });
    expect(compression.v1.dictionaryId).toBe(0);
    expect(compression.currentId).toBe(String(dictionary.id));
    const named = compression.byId(String(dictionary.id));
    expect(named?.dictionaryId).toBe(dictionary.id);
    expect(compression.byId(String(dictionary.id))).toBe(named);
  });

  test('knows no other dictionary, neither by another spelling nor version 1’s', () => {
    const compression = createCompression({
      v1Dictionary: null,
      dictionaries: createDictionaries([dictionary]),
    });
    for (const id of ['', '0', '1612007021', `0${dictionary.id}`, ` ${dictionary.id}`, 'constructor'])
      expect(compression.byId(id)).toBeNull();
    expect(
      createCompression({ v1Dictionary: null, dictionaries: createDictionaries([]) }).currentId,
    ).toBeNull();
  });
});
