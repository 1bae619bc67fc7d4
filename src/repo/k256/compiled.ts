/**
 * secp256k1 by our own code, `verify.c`, which is compiled at start; it takes 2.3 MB a thread when the pool of what was
 * computed for keys that came before is full. It only verifies: nothing in it is a secret.
 *
 * For x86-64 on Linux with BMI2 and ADX (Intel since 2014, AMD since 2017). Elsewhere there is libsecp256k1.
 */
import { ptr } from 'bun:ffi';
import path from 'node:path';
import { compiled } from '../compiled/compiled.ts';
import {
  COMPRESSED_BYTES,
  DIGEST_BYTES,
  isPointLength,
  type K256Library,
  type K256Point,
  SIGNATURE_BYTES,
} from './types.ts';

/** x and y, each with its lowest byte first. */
const POINT_BYTES = 64;
const COORDINATE_BYTES = 32;
/** A line of the processor's cache, at which C wants its memory to begin. */
const LINE_BYTES = 64;

export const COMPILED_K256_SOURCE = path.join(import.meta.dir, 'verify.c');

/** A library that keeps tables for keys that come again. */
export interface PooledK256 extends K256Library {
  /** How many verifications found the tables of their key, and how many times tables were made for one. */
  poolCounts(): { readonly hits: number; readonly made: number };
}

/** A new one, with a pool of its own, for the thread that calls. null: not for this machine, or not to be compiled. */
export const compileK256 = (): PooledK256 | null => {
  const here = compiled();
  if (here === null || here.is_supported() !== 1) return null;
  const stateBytes = here.state_bytes();
  // An ArrayBuffer stays where it is, and its pages cost nothing before they are used.
  const memory = new Uint8Array(new ArrayBuffer(stateBytes + LINE_BYTES));
  const state = memory.subarray(LINE_BYTES - (ptr(memory) % LINE_BYTES)).subarray(0, stateBytes);
  const counts = new BigUint64Array(state.buffer, state.byteOffset, 2);
  here.start(state);
  return {
    name: "weir's own, for x86-64",
    parse(bytes) {
      if (!isPointLength(bytes)) return null;
      const point = new Uint8Array(POINT_BYTES);
      return here.parse(point, bytes, bytes.length) === 1 ? (point as K256Point) : null;
    },
    compress(point) {
      const bytes = new Uint8Array(COMPRESSED_BYTES);
      bytes[0] = 2 + (point[COORDINATE_BYTES]! & 1);
      for (let at = 0; at < COORDINATE_BYTES; at++) bytes[COORDINATE_BYTES - at] = point[at]!;
      return bytes;
    },
    verify: (signature, digest, point) =>
      signature.length === SIGNATURE_BYTES &&
      digest.length === DIGEST_BYTES &&
      point.length === POINT_BYTES &&
      here.verify(state, signature, digest, point) === 1,
    poolCounts: () => ({ hits: Number(counts[0]), made: Number(counts[1]) }),
  };
};
