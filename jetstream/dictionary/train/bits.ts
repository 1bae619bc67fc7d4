/** Bits into bytes as zstd has them: least significant first (RFC 8878, section 4). */
export interface BitWriter {
  /** Appends the `count` low bits of `value`, at most 24. */
  write(value: number, count: number): void;
  /** The bytes so far, the last one filled up with zeros. */
  bytes(): Uint8Array;
}

export const createBitWriter = (): BitWriter => {
  const out: number[] = [];
  let held = 0;
  let heldBits = 0;
  return {
    write(value, count) {
      held |= (value & ((1 << count) - 1)) << heldBits;
      heldBits += count;
      for (; heldBits >= 8; heldBits -= 8) {
        out.push(held & 255);
        held >>>= 8;
      }
    },
    bytes: () => Uint8Array.from(heldBits > 0 ? [...out, held & 255] : out),
  };
};

/** The highest set bit of a positive integer below 2^31. */
export const highBit = (value: number): number => 31 - Math.clz32(value);
