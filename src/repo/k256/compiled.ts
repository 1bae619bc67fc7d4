/**
 * secp256k1 by our own code, which the C compiler inside Bun makes of `verify.c` at start: 30 ms a thread, and 2.5 MB
 * of memory, most of it a bounded pool of what was computed for keys that came before. A verification takes under half
 * the time of libsecp256k1's, under a third for such a key. It only verifies; nothing in it is a secret.
 *
 * It is for x86-64 on Linux with BMI2 and ADX (Intel since 2014, AMD since 2017). Elsewhere there is libsecp256k1.
 */
import { cc } from 'bun:ffi';
import path from 'node:path';
import type { K256Library, K256Point } from '../k256.ts';

const COMPRESSED_BYTES = 33;
const UNCOMPRESSED_BYTES = 65;
const DIGEST_BYTES = 32;
const SIGNATURE_BYTES = 64;
/** x and y, each the lowest byte first. */
const POINT_BYTES = 64;
const COORDINATE_BYTES = 32;

export const K256_SOURCE = path.join(import.meta.dir, 'verify.c');

export interface CompiledK256 extends K256Library {
  /** Of this thread: verifications whose key had its tables in the pool, and how often tables were made for a key. */
  readonly poolCounts: () => { readonly hits: number; readonly made: number };
}

const compile = () =>
  cc({
    source: K256_SOURCE,
    symbols: {
      is_supported: { args: [], returns: 'i32' },
      state_bytes: { args: [], returns: 'u64_fast' },
      start: { args: ['ptr'], returns: 'void' },
      parse: { args: ['ptr', 'ptr', 'u64_fast'], returns: 'i32' },
      verify: { args: ['ptr', 'ptr', 'ptr'], returns: 'i32' },
      pool_hits: { args: [], returns: 'u64_fast' },
      pool_made: { args: [], returns: 'u64_fast' },
    },
  });

/** A library of its own, with a pool of its own. null: this machine cannot run it, or Bun not compile it. */
export const compileK256 = (): CompiledK256 | null => {
  if (process.platform !== 'linux' || process.arch !== 'x64') return null;
  let library: ReturnType<typeof compile>;
  try {
    library = compile();
  } catch {
    return null;
  }
  const { is_supported, state_bytes, start, parse, verify, pool_hits, pool_made } = library.symbols;
  if (is_supported() !== 1) return null;
  // An ArrayBuffer stays where it is, and its pages cost nothing before they are used.
  const state = new Uint8Array(new ArrayBuffer(Number(state_bytes())));
  start(state);
  return {
    name: "weir's own for x86-64",
    parse(bytes) {
      if (bytes.length !== COMPRESSED_BYTES && bytes.length !== UNCOMPRESSED_BYTES) return null;
      const point = new Uint8Array(POINT_BYTES);
      return parse(point, bytes, bytes.length) === 1 ? (point as K256Point) : null;
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
      verify(signature, digest, point) === 1,
    // What it closes over is what C points into.
    poolCounts: () => ({ hits: Number(pool_hits()), made: state.length && Number(pool_made()) }),
  };
};
