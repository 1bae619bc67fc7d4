/** Below this the collector is cheaper: such bytes lie in its own memory, and would have to be moved out of it first. */
const MIN_BYTES = 1_024;

/**
 * Gives the memory of bytes that nobody reads any more back at once, instead of when the collector comes by: at
 * thousands of reads a second, what waits for it is tens of megabytes, and memory that was just used is in the caches.
 *
 * Call it only with bytes that are one's own: every view of the memory is empty from then on. Memory of which the bytes
 * are less than half is left to the collector, since others may have the rest of it.
 */
export const giveBack = (bytes: Uint8Array): void => {
  if (bytes.byteLength < MIN_BYTES) return;
  const { buffer } = bytes;
  if (bytes.byteLength * 2 >= buffer.byteLength && buffer instanceof ArrayBuffer) buffer.transfer(0);
};
