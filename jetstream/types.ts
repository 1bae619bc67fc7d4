import type { Kind } from '../src/firehose/types.ts';
import type { LogRecord } from '../src/log/types.ts';

/** The two endpoints: v1 is `/subscribe`, v2 is `network.bsky.jetstream.subscribeEvents`. */
export type Version = 'v1' | 'v2';

/**
 * One event of the JSON view, located in a log record and not encoded yet: one per op of a commit, one for each
 * #sync, #identity and #account. What filters need is read; the rest stays in the frame.
 */
export interface JetstreamEvent {
  /** KIND.commit, KIND.sync, KIND.identity or KIND.account. */
  readonly kind: Kind;
  /** The relay's seq; several events of one commit share it. */
  readonly seq: number;
  /** Index of the op in its commit; 0 for other kinds. */
  readonly opIndex: number;
  /** Log time of the record plus opIndex, µs since the epoch: strictly increasing and unique over all events. */
  readonly timeUs: number;
  readonly did: string;
  /** NSID of a commit's op; '' for other kinds. */
  readonly collection: string;
  readonly rkey: string;
  readonly operation: 'create' | 'update' | 'delete' | '';
  /** Where it stands. */
  readonly source: LogRecord;
}

/** What a client asked for, the same shape for both endpoints. null = no filter of that sort. */
export interface Filter {
  /** Exact NSIDs and raw string prefixes (without the `*`); constrains commits only. */
  readonly collections: { readonly exact: ReadonlySet<string>; readonly prefixes: readonly string[] } | null;
  readonly dids: ReadonlySet<string> | null;
  /** Bit (1 << kind) for each kind that is wanted. v1: commit, identity, account. */
  readonly kinds: number;
  /** Of the uncompressed JSON in bytes; 0 = no cap. Applied after encoding, not part of matching. */
  readonly maxMessageSizeBytes: number;
}
