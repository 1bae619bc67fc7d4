/**
 * Points and signatures of secp256k1, by libsecp256k1 itself.
 *
 * Called straight through bun:ffi, which is one call a step and no argument checks of a wrapper: 5 % of a verification
 * and 2 MB less than through the N-API binding of the `secp256k1` package. The library is, in this order: the system's,
 * where there is one (its inversions are years newer: a verification takes a fifth less, and there is one for every
 * platform); the one inside the package's own native file; that file through its binding, where it hides its functions.
 * Whichever it is has to tell a good signature from bad ones before it is used.
 *
 * C has no bounds: every length is checked here, and a key only ever comes out of `parse`.
 * Sources: secp256k1.h of libsecp256k1, whose functions used here are the same from 0.1 on; atproto spec, Cryptography.
 */
import { dlopen, type Pointer } from 'bun:ffi';
import { createRequire } from 'node:module';
import path from 'node:path';

const COMPRESSED_BYTES = 33;
const UNCOMPRESSED_BYTES = 65;
const DIGEST_BYTES = 32;
const SIGNATURE_BYTES = 64;
/** Of the library's own form of a point or signature: "guaranteed to be 64 bytes". */
const OPAQUE_BYTES = 64;

/** SECP256K1_CONTEXT_VERIFY: needed by versions of 2021 and before, accepted by all. */
const CONTEXT_VERIFY = 0x0101;
/** SECP256K1_EC_COMPRESSED */
const EC_COMPRESSED = 0x0102;

/** By the name that the dynamic linker knows: the number is that of the interface, which grew around what is used here. */
const SYSTEM_LIBRARIES: readonly string[] =
  process.platform === 'linux' ? [6, 5, 4, 3, 2, 1].map((version) => `libsecp256k1.so.${version}`) : [];

/** A point of the curve in the form in which it verifies fastest. */
export type K256Point = Uint8Array & { readonly __k256Point: true };

export interface K256Library {
  /** What it is, for the log. */
  readonly name: string;
  /** Reads a point of 33 or 65 bytes (SEC 1). null: not a point of the curve. Keeps nothing of `bytes`. */
  parse(bytes: Uint8Array): K256Point | null;
  /** The 33-byte form of a point. */
  compress(point: K256Point): Uint8Array;
  /** Whether the 64-byte compact, low-S signature is one of the 32-byte digest by the point. False for other lengths. */
  verify(signature: Uint8Array, digest: Uint8Array, point: K256Point): boolean;
}

const isPointLength = ({ length }: Uint8Array): boolean =>
  length === COMPRESSED_BYTES || length === UNCOMPRESSED_BYTES;

const SYMBOLS = {
  secp256k1_context_create: { args: ['u32'], returns: 'ptr' },
  secp256k1_ec_pubkey_parse: { args: ['ptr', 'ptr', 'ptr', 'usize'], returns: 'i32' },
  secp256k1_ec_pubkey_serialize: { args: ['ptr', 'ptr', 'ptr', 'ptr', 'u32'], returns: 'i32' },
  secp256k1_ecdsa_signature_parse_compact: { args: ['ptr', 'ptr', 'ptr'], returns: 'i32' },
  secp256k1_ecdsa_verify: { args: ['ptr', 'ptr', 'ptr', 'ptr'], returns: 'i32' },
} as const;

/** libsecp256k1 in the file of that name or path. null: it cannot be loaded, or is not libsecp256k1. */
export const openK256File = (file: string): K256Library | null => {
  let loaded: ReturnType<typeof dlopen<typeof SYMBOLS>>;
  try {
    loaded = dlopen(file, SYMBOLS);
  } catch {
    return null;
  }
  const {
    secp256k1_context_create: createContext,
    secp256k1_ec_pubkey_parse: parsePoint,
    secp256k1_ec_pubkey_serialize: serializePoint,
    secp256k1_ecdsa_signature_parse_compact: parseSignature,
    secp256k1_ecdsa_verify: verifySignature,
  } = loaded.symbols;
  const context = createContext(CONTEXT_VERIFY) as Pointer | null;
  if (context === null) return null;
  const opaqueSignature = new Uint8Array(OPAQUE_BYTES);
  const written = new BigUint64Array(1);
  return {
    name: file,
    parse(bytes) {
      if (!isPointLength(bytes)) return null;
      const point = new Uint8Array(OPAQUE_BYTES);
      return parsePoint(context, point, bytes, bytes.length) === 1 ? (point as K256Point) : null;
    },
    compress(point) {
      const bytes = new Uint8Array(COMPRESSED_BYTES);
      written[0] = BigInt(COMPRESSED_BYTES);
      serializePoint(context, bytes, written, point, EC_COMPRESSED);
      return bytes;
    },
    verify: (signature, digest, point) =>
      signature.length === SIGNATURE_BYTES &&
      digest.length === DIGEST_BYTES &&
      point.length === OPAQUE_BYTES &&
      parseSignature(context, opaqueSignature, signature) === 1 &&
      verifySignature(context, opaqueSignature, digest, point) === 1,
  };
};

const requireHere = createRequire(import.meta.url);

/**
 * The native file of the package; null: there is none for this platform. It is loaded as an addon, too, before anybody
 * opens it as a library: the other way around its addon would be lost to this process, and whoever asks the package
 * for it (the simulator does) would silently get its JavaScript, fifty times as slow.
 */
const packagedK256File = (): string | null => {
  try {
    const manifest = requireHere.resolve('secp256k1/package.json');
    const load = createRequire(manifest)('node-gyp-build') as {
      (directory: string): unknown;
      path(directory: string): string;
    };
    load(path.dirname(manifest));
    return load.path(path.dirname(manifest));
  } catch {
    return null;
  }
};

/** The package's binding to it. null: there is no native code for this platform; its JavaScript is too slow for us. */
const openK256Binding = (): K256Library | null => {
  let binding: typeof import('secp256k1');
  try {
    binding = requireHere('secp256k1/bindings');
  } catch {
    return null;
  }
  return {
    name: 'the binding of the package secp256k1',
    parse(bytes) {
      if (!isPointLength(bytes)) return null;
      try {
        // Uncompressed: or each verification would take a square root.
        return binding.publicKeyConvert(bytes, false, new Uint8Array(UNCOMPRESSED_BYTES)) as K256Point;
      } catch {
        return null;
      }
    },
    compress: (point) => binding.publicKeyConvert(point, true, new Uint8Array(COMPRESSED_BYTES)),
    verify(signature, digest, point) {
      try {
        return binding.ecdsaVerify(signature, digest, point);
      } catch {
        // r or s not below the order, or a length that is not right.
        return false;
      }
    },
  };
};

const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));

/** The generator, whose private key is 1; a signature of the SHA-256 of "weir" by it; and the high-S twin of that. */
const GENERATOR = bytesOf('0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798');
const DIGEST = bytesOf('9e1bd4e58bdc27cb9abf4c558b21963a3f3fb6b08c715e8e2bb6c795162994bc');
const SIGNATURE = bytesOf(
  '74a11e6b6fc212c341ca64b1d77c79edd36c41318a0cd2c721970b5b4a596cd3179848d18774ff9ada9c45207c47c4eb3ab1db00e84df50268dd532113c57053',
);
const TWIN = bytesOf(
  '74a11e6b6fc212c341ca64b1d77c79edd36c41318a0cd2c721970b5b4a596cd3e867b72e788b00652563badf83b83b137ffd01e5c6faab3956f50b6bbc70d0ee',
);

/** Whether it can tell a good signature from bad ones, and a point from what is none. */
export const isSoundK256 = (library: K256Library): boolean => {
  const point = library.parse(GENERATOR);
  if (point === null || library.parse(new Uint8Array(COMPRESSED_BYTES)) !== null) return false;
  const other = Uint8Array.from(DIGEST);
  other[0]! ^= 1;
  return (
    Buffer.compare(library.compress(point), GENERATOR) === 0 &&
    library.verify(SIGNATURE, DIGEST, point) &&
    !library.verify(SIGNATURE, other, point) &&
    !library.verify(TWIN, DIGEST, point) &&
    !library.verify(new Uint8Array(SIGNATURE_BYTES), DIGEST, point)
  );
};

/** Every way to libsecp256k1, the best first, each tried when it is asked for; null: not on this machine. */
export function* k256Libraries(): Generator<K256Library | null> {
  for (const name of SYSTEM_LIBRARIES) yield openK256File(name);
  const packaged = packagedK256File();
  if (packaged !== null) yield openK256File(packaged);
  yield openK256Binding();
}

/** There is no libsecp256k1 to be had; the message says what to do. */
export class NoK256Error extends Error {}

let opened: K256Library | null = null;

/** The library of this thread. @throws NoK256Error */
export const k256 = (): K256Library => {
  if (opened !== null) return opened;
  for (const library of k256Libraries())
    if (library !== null && isSoundK256(library)) {
      opened = library;
      return opened;
    }
  throw new NoK256Error(
    'there is no libsecp256k1 on this machine: install it (Debian: libsecp256k1-1 or -2), ' +
      'or reinstall the package secp256k1 where there is a C compiler',
  );
};
