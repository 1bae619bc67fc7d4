/** Kinds as numbers, because they are stored in log records and compared on the hot path. Never renumber. */
export const KIND = { commit: 1, sync: 2, identity: 3, account: 4, info: 5, unknown: 6, error: 7 } as const;
export type Kind = (typeof KIND)[keyof typeof KIND];
/** Names for metrics and reports, indexed by kind. */
export const KIND_NAMES = ['', 'commit', 'sync', 'identity', 'account', 'info', 'unknown', 'error'] as const;

export const MAX_FRAME_BYTES = 5_000_000;
export const MAX_COMMIT_BLOCKS_BYTES = 2_000_000;
export const MAX_SYNC_BLOCKS_BYTES = 10_000;
export const MAX_RECORD_BYTES = 1_000_000;
export const MAX_OPS = 200;

/** One op of a #commit. CIDs are 32-byte sha-256 digests of CIDv1 dag-cbor links. */
export interface Op {
  readonly action: 'create' | 'update' | 'delete';
  readonly path: string;
  readonly cid: Uint8Array | null;
  /** null when the field is absent (a create, or a host that does not send it). */
  readonly prev: Uint8Array | null;
}

/**
 * A frame whose bytes were checked whole (canonical DAG-CBOR, two items, nothing after) and whose known
 * fields were located. All offsets are into `bytes`; nothing is copied.
 * The same object shape serves every kind; fields a kind does not have keep their zero value.
 */
export interface ScannedFrame {
  readonly ok: true;
  readonly bytes: Uint8Array;
  readonly kind: Kind;
  /** The header's t ('#commit', …); '' for an error frame. */
  readonly type: string;
  /** Upstream seq, 1…2^53−1; 0 where the kind has none (#info, error). */
  readonly seq: number;
  /** Byte range of the encoded seq value, to be replaced when sequenced; both 0 without seq. */
  readonly seqStart: number;
  readonly seqEnd: number;
  /** Offset of the body's map head: the header is bytes[0, bodyStart). */
  readonly bodyStart: number;
  /** `repo` of a commit, `did` of the rest; '' where absent. Syntax is checked. */
  readonly did: string;
  /** TID text for commit and sync; '' otherwise. */
  readonly rev: string;
  /** commit only: previous rev, or null. */
  readonly since: string | null;
  readonly time: string;
  /** commit and sync: byte range of the CAR. */
  readonly blocksStart: number;
  readonly blocksEnd: number;
  /** commit: offset of the 32-byte digest of `commit`; −1 otherwise. */
  readonly commitDigestAt: number;
  /** commit: offset of the 32-byte digest of `prevData`; −1 when absent or null. */
  readonly prevDataDigestAt: number;
  /** commit: ops, at most MAX_OPS (more is a rejection). */
  readonly ops: readonly Op[];
  readonly tooBig: boolean;
  readonly rebase: boolean;
  /** commit: which required deprecated fields the host left out; they are filled in when sequenced. */
  readonly missing: { readonly tooBig: boolean; readonly rebase: boolean; readonly blobs: boolean };
  /** identity and account: the optional field that says nothing (null or ''), to be taken out when sequenced; or null. */
  readonly blank: 'handle' | 'status' | null;
  /** identity: the handle, null when absent. */
  readonly handle: string | null;
  /** account. */
  readonly active: boolean;
  /** account: the status text as sent, null when absent. */
  readonly status: string | null;
  /** info: name; error: error. */
  readonly name: string;
  readonly message: string;
}
