/**
 * The memory that batches travel in from an ingest thread: shared, and used again once a batch is acknowledged. New
 * memory for each would be the larger half of what the thread makes and has to collect, and page faults.
 *
 * A piece is sent over once, and from then on named by its number: with each message that holds it, the other thread
 * would count all of it as new memory, and collect its garbage all the time.
 */

/** Of one piece: a batch at its bound, with room for what is written beside the frames. */
export const PIECE_BYTES = 576 * 1024;
/** With so many under way the core is behind, and memory is the least of it. */
export const MAX_PIECES = 4;

export interface Piece {
  readonly number: number;
  readonly memory: SharedArrayBuffer;
}

export interface BatchMemory {
  /**
   * A piece for a batch of so many bytes, untouched by us until the batch is acknowledged. null: the batch needs
   * memory of its own, since it is large or all pieces are under way.
   */
  take(bytes: number): Piece | null;
  /** The oldest batch that is under way is not read any more. Once for each `take`, in their order. */
  acknowledged(): void;
}

export const createBatchMemory = (): BatchMemory => {
  const free: Piece[] = [];
  /** By batch, the oldest first. */
  const underWay: (Piece | null)[] = [];
  let pieces = 0;
  return {
    take(bytes) {
      let piece: Piece | null = null;
      if (bytes <= PIECE_BYTES) {
        // The last that came back is the likeliest to be in the caches.
        piece = free.pop() ?? null;
        if (piece === null && pieces < MAX_PIECES)
          piece = { number: pieces++, memory: new SharedArrayBuffer(PIECE_BYTES) };
      }
      underWay.push(piece);
      return piece;
    },
    acknowledged() {
      const piece = underWay.shift();
      if (piece === undefined) throw new Error('a batch was acknowledged that is not under way');
      if (piece !== null) free.push(piece);
    },
  };
};
