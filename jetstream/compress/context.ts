/**
 * One zstd compression context that is kept, with its dictionary digested once.
 *
 * Bun's node:zlib takes a dictionary, but its public functions make a context per call (or a stream, whose output
 * comes later), which costs a hundred times what a small message does. The native handle below such a stream is what
 * is wanted: `writeSync` with the directive "end" makes one whole frame of one input, writes its size into the header,
 * and leaves context and dictionary ready for the next. The handle is not documented, so nothing here is taken for
 * granted: what is missing makes `openContext` answer null, and whoever opens one tries it before relying on it.
 */
import zlib from 'node:zlib';

/** Writes the frame of `bytes` into `target`; answers its length, or -1 when that did not work. */
export type WriteFrame = (bytes: Uint8Array, target: Uint8Array) => number;

interface NativeHandle {
  writeSync(
    directive: number,
    from: Uint8Array,
    fromAt: number,
    fromLength: number,
    to: Uint8Array,
    toAt: number,
    toLength: number,
  ): void;
}

/** No length of a buffer: stands where the handle has to write what is left of input and output. */
const NOT_WRITTEN = 0xffffffff;

/** A context for frames at `level` with `dictionary`, or without when null. null: this Bun has no such handle. */
export const openContext = (dictionary: Uint8Array | null, level: number): WriteFrame | null => {
  const { ZSTD_c_compressionLevel, ZSTD_e_end } = zlib.constants;
  const stream = zlib.createZstdCompress({
    params: { [ZSTD_c_compressionLevel]: level },
    ...(dictionary === null ? {} : { dictionary }),
  }) as unknown as {
    readonly _handle?: Partial<NativeHandle>;
    readonly _writeState?: unknown;
    on(event: 'error', listener: () => void): void;
  };
  const state = stream._writeState;
  if (typeof stream._handle?.writeSync !== 'function') return null;
  if (!(state instanceof Uint32Array) || state.length !== 2) return null;
  const handle = stream._handle as NativeHandle;
  let isBroken = false;
  // The stream tells of a failed write on the next tick; the write itself leaves the state untouched.
  stream.on('error', () => {
    isBroken = true;
  });
  return (bytes, target) => {
    if (isBroken) return -1;
    state[0] = NOT_WRITTEN;
    state[1] = NOT_WRITTEN;
    handle.writeSync(ZSTD_e_end, bytes, 0, bytes.length, target, 0, target.length);
    // Anything but: all input taken, and some output room left, which says that the frame is complete.
    const left = state[0]!;
    if (state[1] !== 0 || left === 0 || left > target.length) {
      isBroken = true;
      return -1;
    }
    return target.length - left;
  };
};
