/** A zstd dictionary in the format of RFC 8878, section 5, that was tried and works. */
export interface Dictionary {
  readonly id: number;
  readonly bytes: Uint8Array;
  /** SHA-256 of the bytes, in hex. */
  readonly sha256: string;
}
