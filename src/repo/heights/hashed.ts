/** Heights of keys by the SHA-256 of Bun, a key at a time: on every machine, and of keys of any length. */

/** The heights of the keys in a table of bytes. */
export interface KeyHeights {
  /** How they are hashed, for the log. */
  readonly name: string;
  /**
   * heights[n] = the height of key n, which is bytes[ends[n − 1], ends[n]), for the first `count` keys; the other
   * elements stay.
   * @throws RangeError where the table is not as long as `count` and the ends say
   */
  write(bytes: Uint8Array, ends: Int32Array, count: number, heights: Int32Array): void;
}

const digest = new Uint8Array(32);

/**
 * The height of a key (ASCII): leading zero bits of its sha-256, in pairs (fan-out 4).
 * Source: atproto spec, Repository ("MST Structure").
 */
export const keyHeight = (key: string | Uint8Array): number => {
  Bun.SHA256.hash(key, digest);
  let height = 0;
  for (let index = 0; index < 32; index++) {
    const byte = digest[index]!;
    if (byte === 0) {
      height += 4;
      continue;
    }
    return height + (byte < 4 ? 3 : byte < 16 ? 2 : byte < 64 ? 1 : 0);
  }
  return height;
};

/** To copy a key costs less than to make a view of it, for keys as short as nearly all are. */
const MAX_COPIED_BYTES = 64;
const copied = new Uint8Array(MAX_COPIED_BYTES);
const views = Array.from({ length: MAX_COPIED_BYTES + 1 }, (_, length) => copied.subarray(0, length));

/** The height of the key in bytes[start, end). */
export const heightAt = (bytes: Uint8Array, start: number, end: number): number => {
  const length = end - start;
  if (length > MAX_COPIED_BYTES) return keyHeight(bytes.subarray(start, end));
  for (let index = 0; index < length; index++) copied[index] = bytes[start + index]!;
  return keyHeight(views[length]!);
};

/**
 * Whether all that C is told to read and write is there; it takes negative numbers for large ones.
 * @throws RangeError as `write` of KeyHeights says
 */
export const checkTable = (bytes: Uint8Array, ends: Int32Array, count: number, heights: Int32Array): void => {
  const isThere = count === 0 || (count <= ends.length && ends[count - 1]! >>> 0 <= bytes.length);
  if (count < 0 || count > heights.length || !isThere)
    throw new RangeError('the table of keys is shorter than it says');
};

export const hashedHeights: KeyHeights = {
  name: 'the SHA-256 of Bun, a key at a time',
  write(bytes, ends, count, heights) {
    checkTable(bytes, ends, count, heights);
    for (let key = 0; key < count; key++)
      heights[key] = heightAt(bytes, key === 0 ? 0 : ends[key - 1]!, ends[key]!);
  },
};
