import type { ScannedFrame } from '../firehose/types.ts';
import type { Reason, Rejection } from '../reasons.ts';

export type Validation = 'strict' | 'lenient';

/** A public key ready to verify with: `verify` is built once per key and kept in the worker's cache. */
export interface SigningKey {
  readonly type: 'p256' | 'k256';
  /** Low-S, 64-byte compact signature over sha-256 of `message`. Never throws. */
  verify(message: Uint8Array, signature: Uint8Array): boolean;
}

/**
 * What a verified commit or sync proves. Digests are the 32 bytes of sha-256 as latin1 text: half the memory of a typed
 * array, and compared by value.
 */
export interface Verified {
  readonly ok: true;
  readonly rev: string;
  /** Digest of the commit block. */
  readonly commit: string;
  /** Digest of the MST root. */
  readonly data: string;
  /** Digest the ops were inverted to; null for #sync, and for a commit that had no prevData. */
  readonly prevData: string | null;
  /** Lenient mode only: the first strict rule it broke, to be counted. */
  readonly lenient: Reason | null;
}

export type Verdict = Verified | Rejection;

/** Rules 1–9 of "Verifying commits". Pure; never throws. A missing prevData is strict's `prev_data_missing` unless `firstCommit`. */
export type VerifyCommit = (
  frame: ScannedFrame,
  key: SigningKey,
  options: { readonly nowMs: number; readonly validation: Validation; readonly firstCommit: boolean },
) => Verdict;

export type VerifySync = (
  frame: ScannedFrame,
  key: SigningKey,
  options: { readonly nowMs: number },
) => Verdict;
