/** What each way to verify signatures of secp256k1 offers, and the lengths of what it takes. */

export const COMPRESSED_BYTES = 33;
export const UNCOMPRESSED_BYTES = 65;
export const DIGEST_BYTES = 32;
export const SIGNATURE_BYTES = 64;

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

export const isPointLength = ({ length }: Uint8Array): boolean =>
  length === COMPRESSED_BYTES || length === UNCOMPRESSED_BYTES;
