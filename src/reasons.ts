/**
 * The closed list of reasons for which weir refuses something that came from outside.
 * The same words stand in metrics, logs, the host pages and docs/invariants.md: a reason that is not
 * in this list cannot be given.
 */
export const REASONS = [
  // frame: the bytes of one WebSocket message (relay rules, section 1)
  'frame_too_large', // over 5 MB
  'frame_not_binary', // a text message
  'frame_not_canonical', // not exactly two canonical DAG-CBOR items
  'frame_header_invalid', // header is not {op: 1, t} or {op: -1}
  'frame_field_missing', // a field we need is absent
  'frame_field_invalid', // a field we need has the wrong type or syntax
  'frame_type_unknown', // unknown type that may not be forwarded (no seq, or no account of the host)
  'seq_not_increasing', // upstream seq did not grow on this connection
  'host_error_frame', // the host sent op -1

  // identity (section 4)
  'did_not_found', // the directory or web host says it does not exist
  'did_tombstoned', // the directory says it is gone
  'did_document_invalid', // not a DID document of this DID
  'did_unsupported', // neither did:plc nor an acceptable did:web
  'did_no_signing_key', // no usable #atproto key
  'did_no_pds', // no usable #atproto_pds service
  'did_unresolved', // resolution failed for a passing reason (events wait; never a drop by itself)
  'wrong_host', // the sending host is not the account's current PDS

  // commit and sync (section 5)
  'blocks_too_large',
  'ops_too_many',
  'car_invalid',
  'block_hash_mismatch',
  'commit_root_mismatch', // `commit`, CAR root and commit block disagree
  'commit_object_invalid', // version, did, rev, data, sig of the commit object
  'rev_invalid',
  'rev_future', // more than five minutes ahead of now
  'rev_stale', // not newer than what we hold
  'signature_invalid',
  'too_big_flag',
  'rebase_flag',
  'op_invalid', // action, path, cid or prev of an op; duplicate path
  'op_record_missing', // a create or update without its record block
  'op_record_invalid', // record block over the limit or not a DAG-CBOR map
  'mst_invalid', // node bytes, key order, depth, prefix length, bounds
  'op_tree_mismatch', // an op's cid is not what the tree holds
  'prev_data_missing',
  'prev_data_mismatch', // inversion does not give prevData

  // account and host rules
  'account_inactive', // we hold the account as inactive upstream
  'account_takendown', // the relay's own takedown or suspension
  'account_limit', // the host is over its account limit
  'host_banned',
] as const;

/** One word of the closed list. */
export type Reason = (typeof REASONS)[number];

const known: ReadonlySet<string> = new Set(REASONS);

/** Whether `word` is in the closed list. */
export const isReason = (word: string): word is Reason => known.has(word);

/** A refusal as a value: the reason, and for people a short detail that never holds unbounded input. */
export interface Rejection {
  readonly ok: false;
  readonly reason: Reason;
  readonly detail?: string;
}

/** Builds a refusal. `detail` is for people; keep it short and free of raw input. */
export const reject = (reason: Reason, detail?: string): Rejection =>
  detail === undefined ? { ok: false, reason } : { ok: false, reason, detail };
