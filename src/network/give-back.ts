/**
 * Gives the memory of bytes that nobody reads any more back at once, instead of when the collector comes by: at
 * thousands of reads a second, what waits for it is tens of megabytes, and memory that was just used is in the caches.
 *
 * Call it only with bytes that are one's own: every view of the memory is empty from then on. Memory of which the bytes
 * are less than half is left to the collector, since others may have the rest of it.
 */
export const giveBack = ({ buffer, byteLength }: Uint8Array): void => {
  if (byteLength * 2 >= buffer.byteLength && buffer instanceof ArrayBuffer) buffer.transfer(0);
};
