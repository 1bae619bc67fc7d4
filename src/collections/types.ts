/** What one commit says about the collections of its repo, from its own blocks alone. */
export interface CollectionChanges {
  readonly did: string;
  /** Collections that have at least one record after the commit (created, updated, or left by deletes). */
  readonly present: readonly string[];
  /** Collections whose last record is gone: proven by the commit's blocks. */
  readonly removed: readonly string[];
  /** Collections in which something was deleted and the blocks do not prove either: to be checked. */
  readonly unproven: readonly string[];
  /** The ops may not be all that changed (tooBig, rebase): the whole repo is to be checked. */
  readonly incomplete?: true;
}

/** Why a repo is to be looked at through describeRepo. */
export type CheckReason =
  | 'unproven_removal'
  | 'sync_event'
  | 'discontinuity'
  | 'verify'
  | 'touched_while_checked';

/** Why an account is not in answers. Stored as small numbers; the words are those of #account and of sweeps. */
export type HiddenReason =
  | 'deleted'
  | 'takendown'
  | 'deactivated'
  | 'suspended'
  | 'desynchronized'
  | 'throttled'
  | 'pds_gone'
  | 'unknown_status';

export interface PageQuery {
  /** Exact NSIDs, OR; empty together with no prefixes = every active repo. */
  readonly collections: readonly string[];
  /** Raw prefixes ending in '.', from `prefix.*`. */
  readonly prefixes: readonly string[];
  /** Opaque, as an earlier page of the same query gave it; null = from the beginning. */
  readonly cursor: string | null;
  /** 1–2,000. */
  readonly limit: number;
}

export interface Page {
  readonly dids: readonly string[];
  /** null: this was the last page. */
  readonly cursor: string | null;
}

/** A cursor that is damaged, or belongs to another query. */
export interface BadCursor {
  readonly bad: 'cursor_invalid' | 'cursor_of_another_query';
}

export interface CollectionCount {
  readonly collection: string;
  readonly dids: number;
}

/** Reads of the index; cheap enough for the main thread. */
export interface CollectionReader {
  /** Repos that have records in the wanted collections, in the order the index first saw them, without duplicates. */
  page(query: PageQuery): Page | BadCursor;
  /** Collections by name after `after`, with the number of repos (active ones; kept as counts, never scanned). */
  counts(after: string | null, limit: number): readonly CollectionCount[];
  /** Count of one, or null when never seen. */
  count(collection: string): CollectionCount | null;
  close(): void;
}

/** Answer of a check of one repo: what its PDS says. */
export interface CheckAnswer {
  readonly did: string;
  readonly collections: readonly string[];
}
