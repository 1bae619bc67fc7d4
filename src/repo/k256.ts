/**
 * Points and signatures of secp256k1, by our own code where the machine can run it (`k256/compiled.ts`: half the time
 * or less), elsewhere by libsecp256k1.
 *
 * That one is called straight through bun:ffi, which is one call a step and no argument checks of a wrapper: 5 % of a
 * verification and 2 MB less than through the N-API binding of the `secp256k1` package. It is, in this order: the
 * system's, where there is one (its inversions are years newer: a verification takes a fifth less, and there is one for
 * every platform); the one inside the package's own native file; that file through its binding, where it hides its
 * functions. Whichever library it is has to tell good signatures from bad ones before it is used.
 *
 * C has no bounds: every length is checked here, and a key only ever comes out of `parse`.
 * Sources: secp256k1.h of libsecp256k1, whose functions used here are the same from 0.1 on; atproto spec, Cryptography.
 */
import { dlopen, type Pointer } from 'bun:ffi';
import { createRequire } from 'node:module';
import path from 'node:path';
import { compileK256 } from './k256/compiled.ts';
import {
  COMPRESSED_BYTES,
  DIGEST_BYTES,
  isPointLength,
  type K256Library,
  type K256Point,
  SIGNATURE_BYTES,
  UNCOMPRESSED_BYTES,
} from './k256/types.ts';

export type { K256Library, K256Point } from './k256/types.ts';

/** Of the library's own form of a point or signature: "guaranteed to be 64 bytes". */
const OPAQUE_BYTES = 64;

/** SECP256K1_CONTEXT_VERIFY: needed by versions of 2021 and before, accepted by all. */
const CONTEXT_VERIFY = 0x0101;
/** SECP256K1_EC_COMPRESSED */
const EC_COMPRESSED = 0x0102;

/** By the name that the dynamic linker knows: the number is that of the interface, which grew around what is used here. */
const SYSTEM_LIBRARIES: readonly string[] =
  process.platform === 'linux' ? [6, 5, 4, 3, 2, 1].map((version) => `libsecp256k1.so.${version}`) : [];

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

/** The library inside the package's own file. null: as for `openK256File`, or there is none for this platform. */
export const openPackagedK256 = (): K256Library | null => {
  const packaged = packagedK256File();
  return packaged === null ? null : openK256File(packaged);
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

/** A signature that is good or not: the key of 33 bytes, the digest of 32, and r and s. */
type Sample = readonly [good: boolean, key: string, digest: string, signature: string];

const GENERATOR = '0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798';
const MINUS_GENERATOR = GENERATOR.replace('02', '03');
/** The SHA-256 of "weir", signed with the private key 1. */
const DIGEST = '9e1bd4e58bdc27cb9abf4c558b21963a3f3fb6b08c715e8e2bb6c795162994bc';
const R = '74a11e6b6fc212c341ca64b1d77c79edd36c41318a0cd2c721970b5b4a596cd3';
const S = '179848d18774ff9ada9c45207c47c4eb3ab1db00e84df50268dd532113c57053';

/** Where what is computed takes a turn of its own, and nearby. */
const SAMPLES: readonly Sample[] = [
  [true, GENERATOR, DIGEST, R + S],
  // A bit of the digest, and of r, is another one.
  [false, GENERATOR, DIGEST.replace('9', '8'), R + S],
  [false, GENERATOR, DIGEST, R.replace('7', '6') + S],
  // The twin with a high s; nothing; r of the order.
  [false, GENERATOR, DIGEST, `${R}e867b72e788b00652563badf83b83b137ffd01e5c6faab3956f50b6bbc70d0ee`],
  [false, GENERATOR, DIGEST, '0'.repeat(128)],
  [false, GENERATOR, DIGEST, `fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141${S}`],
  // The x of the sum is not r but r + n.
  [
    true,
    '028437f402e35dd53db801f25db1c236cb5538235ca4812e7d04ec2b637232e8a4',
    DIGEST,
    '00000000000000000000000000000000000000000000000000000000000000026d29bf5851ca3bb1681ef28050b26158018823957b05bdb761a8fc1939233e79',
  ],
  // The sum is G − G, the point at infinity, on the way to which x was r.
  [false, MINUS_GENERATOR, GENERATOR.slice(2), GENERATOR.slice(2).repeat(2)],
  // It is of two equal points, 7·G + 7·G.
  [
    true,
    GENERATOR,
    '499fdf9e895e719cfd64e67f07d38e3226aa7b63678949e6e49b241a60e823e4',
    '499fdf9e895e719cfd64e67f07d38e3226aa7b63678949e6e49b241a60e823e40a848da8ef0d7df1db0e6a1225b082072a185ac50eca78458e5f4e4ce945bbfc',
  ],
  // A digest that is 0, and one above the order, by the private key −1.
  [
    true,
    '03a965c6fd157197b095ef209ed3f286fffef0a8c3794a06d2836c3274aa34aafd',
    '0'.repeat(64),
    'b0a751dc286c2c4be30e1ee739c49f0e72a9041498168c498c5dd992788a173075a5d1f7706d26302db557e9ab5208e8cf262d9d7b9164c1ce675f1af24abb90',
  ],
  [
    true,
    MINUS_GENERATOR,
    'f'.repeat(64),
    'a7f83b5963eaf5332c633327cc967be8f4166d3f1e0b77f9761d8f4e42211e9a58aae31be1eb1e496923bbe8ca5e843cfb89f4d986d61d4edfd7d6fc3c9cf62c',
  ],
];

/** A key that comes again may be treated in another way; by the fourth time it is. */
const SAMPLE_ROUNDS = 5;

const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));

/** Whether it can tell good signatures from bad ones, and a point from what is none. */
export const isSoundK256 = (library: K256Library): boolean => {
  if (library.parse(new Uint8Array(COMPRESSED_BYTES)) !== null) return false;
  for (const [good, key, digest, signature] of SAMPLES) {
    const point = library.parse(bytesOf(key));
    if (point === null || Buffer.compare(library.compress(point), bytesOf(key)) !== 0) return false;
    for (let round = 0; round < SAMPLE_ROUNDS; round++)
      if (library.verify(bytesOf(signature), bytesOf(digest), point) !== good) return false;
  }
  return true;
};

/** Every way to verify, the best first, each tried when it is asked for; null: not on this machine. */
export function* k256Libraries(): Generator<K256Library | null> {
  yield compileK256();
  for (const name of SYSTEM_LIBRARIES) yield openK256File(name);
  yield openPackagedK256();
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
