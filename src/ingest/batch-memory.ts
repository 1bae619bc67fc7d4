/**
 * The memory that batches travel in from an ingest thread: shared, and used again once a batch is acknowledged. New
 * memory for each would be the larger half of what the thread makes and has to collect, and page faults.
 */

/** Of one piece: a batch at its bound, with room for what is written beside the frames. */
export const PIECE_BYTES = 576 * 1024;
/** With so many under way the core is behind, and memory is the least of it. */
export const MAX_PIECES = 4;

export interface BatchMemory {
  /**
   * At least `bytes` long, untouched by us until the batch is acknowledged. An ArrayBuffer is to be transferred: the
   * batch is large, or all pieces are under way.
   */
  take(bytes: number): ArrayBuffer | SharedArrayBuffer;
  /** The oldest batch that is under way is not read any more. Once for each `take`, in their order. */
  acknowledged(): void;
}

export const createBatchMemory = (): BatchMemory => {
  const free: SharedArrayBuffer[] = [];
  /** By batch, the oldest first. */
  const underWay: (SharedArrayBuffer | null)[] = [];
  let pieces = 0;
  return {
    take(bytes) {
      let piece: SharedArrayBuffer | null = null;
      if (bytes <= PIECE_BYTES) {
        // The last that came back is the likeliest to be in the caches.
        piece = free.pop() ?? null;
        if (piece === null && pieces < MAX_PIECES) {
          piece = new SharedArrayBuffer(PIECE_BYTES);
          pieces++;
        }
      }
      underWay.push(piece);
      return piece ?? new ArrayBuffer(bytes);
    },
    acknowledged() {
      const piece = underWay.shift();
      if (piece === undefined) throw new Error('a batch was acknowledged that is not under way');
      if (piece !== null) free.push(piece);
    },
  };
};
