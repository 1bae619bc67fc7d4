import { describe, expect, test } from 'bun:test';
import { spawnSync } from 'node:child_process';
import zlib from 'node:zlib';
import fc from 'fast-check';
import { readFrameHeader } from '../../../jetstream/compress/frame-header.ts';

describe('the header of a zstd frame', () => {
  test('says how much a frame of Bun holds, for every width of that number', () => {
    for (const size of [0, 1, 255, 256, 257, 65_791, 65_792, 200_000]) {
      const header = readFrameHeader(Bun.zstdCompressSync(new Uint8Array(size)));
      expect(header).toMatchObject({ contentSize: size, dictionaryId: 0, hasChecksum: false });
    }
  });

  test('is read field by field as RFC 8878 lays them out', () => {
    const magic = [0x28, 0xb5, 0x2f, 0xfd];
    const cases: [number[], object][] = [
      // Window descriptor, nothing else.
      [[0x00, 0x58], { dictionaryId: 0, contentSize: null, hasChecksum: false, headerBytes: 6 }],
      // Single segment with one byte of size.
      [[0x20, 0x07], { dictionaryId: 0, contentSize: 7, hasChecksum: false, headerBytes: 6 }],
      // Checksum, one byte of ID.
      [[0x05, 0x58, 0x2a], { dictionaryId: 42, contentSize: null, hasChecksum: true, headerBytes: 7 }],
      // Two bytes of ID, two of size, which count from 256.
      [[0x62, 0x01, 0x02, 0x01, 0x00], { dictionaryId: 513, contentSize: 257, headerBytes: 9 }],
      // Four bytes of ID, four of size.
      [
        [0xa3, 0x2d, 0xd8, 0x15, 0x60, 0x00, 0x00, 0x01, 0x00],
        { dictionaryId: 1_612_044_333, contentSize: 65_536, headerBytes: 13 },
      ],
      // Eight bytes of size, after a window descriptor.
      [[0xc0, 0x58, 0, 0, 0, 0, 1, 0, 0, 0], { dictionaryId: 0, contentSize: 2 ** 32, headerBytes: 14 }],
    ];
    for (const [bytes, expected] of cases) {
      expect(readFrameHeader(Uint8Array.from([...magic, ...bytes]))).toMatchObject(expected);
      // One byte short is not a header.
      expect(readFrameHeader(Uint8Array.from([...magic, ...bytes.slice(0, -1)]))).toBeNull();
    }
  });

  test('is null for a skippable frame, an older or later format, and what is no frame', () => {
    for (const hex of ['502a4d18040000000000', '28b52ffd2807', '27b52ffd2007', '7b7d', '', '28b52ffd'])
      expect(readFrameHeader(Buffer.from(hex, 'hex'))).toBeNull();
  });

  test('of any bytes at all is null or consistent with them, and reading it never throws', () => {
    const almost = fc
      .uint8Array({ maxLength: 20 })
      .map((rest) => Uint8Array.from([0x28, 0xb5, 0x2f, 0xfd, ...rest]));
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 40 }), almost), (bytes) => {
        const header = readFrameHeader(bytes);
        if (header === null) return;
        expect(header.headerBytes).toBeLessThanOrEqual(bytes.length);
        expect(header.dictionaryId).toBeGreaterThanOrEqual(0);
        expect(header.dictionaryId).toBeLessThan(2 ** 32);
        // It depends on nothing behind it.
        expect(readFrameHeader(bytes.slice(0, header.headerBytes))).toEqual(header);
      }),
      { numRuns: 2_000 },
    );
  });

  test('has a checksum bit where there is one', () => {
    const params = { [zlib.constants.ZSTD_c_checksumFlag]: 1 };
    expect(readFrameHeader(zlib.zstdCompressSync('checked', { params }))?.hasChecksum).toBe(true);
  });

  test('is what the zstd program writes', () => {
    const { status, stdout } = spawnSync('zstd', ['-q', '-c', '--no-check'], { input: 'x'.repeat(1000) });
    if (status !== 0) {
      console.warn('NOT TESTED: there is no zstd program here (Debian: apt-get install zstd)');
      return;
    }
    const header = readFrameHeader(stdout);
    expect(header).toMatchObject({ dictionaryId: 0, hasChecksum: false });
    // From a pipe it cannot know the size.
    expect(header?.contentSize).toBeNull();
  });
});
