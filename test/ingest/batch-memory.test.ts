import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { createBatchMemory, MAX_PIECES, PIECE_BYTES, type Piece } from '../../src/ingest/batch-memory.ts';

describe('the memory of batches', () => {
  test('is never that of a batch which is still under way, and never more than its bound', () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.integer({ min: 1, max: 2 * PIECE_BYTES }) },
      { weight: 2, arbitrary: fc.constant('acknowledged' as const) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const batches = createBatchMemory();
        const underWay: (Piece | null)[] = [];
        const memories = new Map<number, SharedArrayBuffer>();
        for (const each of steps) {
          if (each === 'acknowledged') {
            if (underWay.length === 0) continue;
            underWay.shift();
            batches.acknowledged();
            continue;
          }
          const piece = batches.take(each);
          if (piece !== null) {
            expect(piece.memory.byteLength).toBeGreaterThanOrEqual(each);
            expect(underWay).not.toContain(piece);
            // A number means the same memory for good.
            expect(memories.get(piece.number) ?? piece.memory).toBe(piece.memory);
            memories.set(piece.number, piece.memory);
          }
          underWay.push(piece);
        }
        expect(memories.size).toBeLessThanOrEqual(MAX_PIECES);
        expect(new Set(memories.values()).size).toBe(memories.size);
      }),
      { numRuns: 300 },
    );
  });

  test('is used again once its batch is acknowledged', () => {
    const batches = createBatchMemory();
    const first = batches.take(1);
    expect(first).not.toBeNull();
    batches.acknowledged();
    expect(batches.take(PIECE_BYTES)).toBe(first);
  });

  test('is not given for what is large, nor when all pieces are under way', () => {
    const batches = createBatchMemory();
    expect(batches.take(PIECE_BYTES + 1)).toBeNull();
    for (let piece = 0; piece < MAX_PIECES; piece++) expect(batches.take(1)).not.toBeNull();
    expect(batches.take(1)).toBeNull();
    // The large one, then a piece.
    batches.acknowledged();
    expect(batches.take(1)).toBeNull();
    batches.acknowledged();
    expect(batches.take(1)).not.toBeNull();
  });

  test('knows when more is acknowledged than was taken', () => {
    const batches = createBatchMemory();
    batches.take(1);
    batches.acknowledged();
    expect(() => batches.acknowledged()).toThrow('not under way');
  });
});
