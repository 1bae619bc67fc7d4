import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { createBatchMemory, MAX_PIECES, PIECE_BYTES } from '../../src/ingest/batch-memory.ts';

describe('the memory of batches', () => {
  test('is never that of a batch which is still under way, and never more than its bound', () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.integer({ min: 1, max: 2 * PIECE_BYTES }) },
      { weight: 2, arbitrary: fc.constant('acknowledged' as const) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const batches = createBatchMemory();
        const underWay: (ArrayBuffer | SharedArrayBuffer)[] = [];
        const shared = new Set<SharedArrayBuffer>();
        for (const each of steps) {
          if (each === 'acknowledged') {
            if (underWay.length === 0) continue;
            underWay.shift();
            batches.acknowledged();
            continue;
          }
          const memory = batches.take(each);
          expect(memory.byteLength).toBeGreaterThanOrEqual(each);
          expect(underWay).not.toContain(memory);
          if (memory instanceof SharedArrayBuffer) shared.add(memory);
          underWay.push(memory);
        }
        expect(shared.size).toBeLessThanOrEqual(MAX_PIECES);
      }),
      { numRuns: 300 },
    );
  });

  test('is used again once its batch is acknowledged', () => {
    const batches = createBatchMemory();
    const first = batches.take(1);
    batches.acknowledged();
    expect(batches.take(PIECE_BYTES)).toBe(first);
  });

  test('is new and of the right size for what is large, or when all pieces are under way', () => {
    const batches = createBatchMemory();
    expect(batches.take(PIECE_BYTES + 1)).toBeInstanceOf(ArrayBuffer);
    for (let piece = 0; piece < MAX_PIECES; piece++)
      expect(batches.take(1)).toBeInstanceOf(SharedArrayBuffer);
    const more = batches.take(1_000);
    expect(more).toBeInstanceOf(ArrayBuffer);
    expect(more.byteLength).toBe(1_000);
    // The large one, then a piece.
    batches.acknowledged();
    expect(batches.take(1)).toBeInstanceOf(ArrayBuffer);
    batches.acknowledged();
    expect(batches.take(1)).toBeInstanceOf(SharedArrayBuffer);
  });

  test('knows when more is acknowledged than was taken', () => {
    const batches = createBatchMemory();
    batches.take(1);
    batches.acknowledged();
    expect(() => batches.acknowledged()).toThrow('not under way');
  });
});
