/** Unsigned LEB128 of 0…2^53 − 1. Pure but for the place where the last read ended. */

/** Bytes that `value` takes. */
export function varintBytes(value: number): number {
  let bytes = 1;
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) bytes++;
  return bytes;
}

/** @returns where it ends */
export function writeVarint(bytes: Uint8Array, at: number, value: number): number {
  let rest = value;
  while (rest > 0x7fffffff) {
    bytes[at++] = (rest % 128) | 128;
    rest = Math.floor(rest / 128);
  }
  while (rest >= 128) {
    bytes[at++] = (rest & 127) | 128;
    rest >>>= 7;
  }
  bytes[at++] = rest;
  return at;
}

/** Where the last varint read ended. */
export const read = { end: 0 };

/** Beyond `bytes` it reads zeros. */
export function readVarint(bytes: Uint8Array, at: number): number {
  let byte = bytes[at++]!;
  let value = byte & 127;
  if (byte < 128) {
    read.end = at;
    return value;
  }
  byte = bytes[at++]!;
  value |= (byte & 127) << 7;
  if (byte >= 128) {
    byte = bytes[at++]!;
    value |= (byte & 127) << 14;
    if (byte >= 128) {
      byte = bytes[at++]!;
      value |= (byte & 127) << 21;
      let factor = 2 ** 28;
      while (byte >= 128) {
        byte = bytes[at++]!;
        value += (byte & 127) * factor;
        factor *= 128;
      }
    }
  }
  read.end = at;
  return value;
}
