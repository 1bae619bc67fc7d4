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
  | 'touched_while_checked'
  | 'shown_again';

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

/** A cursor that is damaged, or belongs to another query; a query that more than MAX_COLLECTIONS_MATCHED match. */
export interface BadQuery {
  readonly bad: 'cursor_invalid' | 'cursor_of_another_query' | 'too_many_collections';
}

export interface CollectionCount {
  readonly collection: string;
  readonly dids: number;
}

/** Reads of the index; cheap enough for the main thread. */
export interface CollectionReader {
  /**
   * Repos that have records in the wanted collections, in the order the index first saw them, without duplicates. A
   * page over several collections may be short, or empty with a cursor, after a bounded piece of work: read on.
   */
  page(query: PageQuery): Page | BadQuery;
  /** Collections by name after `after`, with the number of repos (active ones; kept as counts, never scanned). */
  counts(after: string | null, limit: number): readonly CollectionCount[];
  /** Count of one, or null when never seen. */
  count(collection: string): CollectionCount | null;
  /** How many repos a page of all gives, read to its end. */
  repoCount(): number;
  close(): void;
}

/** Answer of a check of one repo: what its PDS says. */
export interface CheckAnswer {
  readonly did: string;
  readonly collections: readonly string[];
}

/** A repo that is to be looked at, as the index keeps it. */
export interface ScheduledCheck {
  readonly did: string;
  readonly reason: CheckReason;
  /** Failures so far. */
  readonly attempts: number;
}

/** Why a check got no answer: a closed list, for counters and pages. */
export const CHECK_FAILURES = [
  'unresolved', // the account's PDS is not known right now
  'no_pds', // its identity names no usable PDS
  'unreachable', // DNS, TCP, TLS, HTTP
  'timeout',
  'forbidden_address',
  'too_large',
  'rate_limited', // told to come again later
  'server_error', // 5xx
  'refused', // 4xx that says nothing of the repo
  'bad_answer', // 200, but not what the lexicon says, or of another repo
  'over_bound', // it has collections that the index does not take
] as const;
export type CheckFailure = (typeof CHECK_FAILURES)[number];

/** How a check ended. */
export type CheckOutcome =
  /** These and no others. Sorted, unique, valid NSIDs; may be empty. */
  | { readonly kind: 'collections'; readonly collections: readonly string[] }
  /**
   * Its own PDS says that there is no such repo (deleted), or that it is not active: hidden for that reason, until
   * an event of the repo in the log says otherwise (a relay passes commits of active accounts only).
   */
  | {
      readonly kind: 'gone';
      readonly reason: Exclude<HiddenReason, 'pds_gone'>;
    }
  /** Not asked, or told to come again: the same check, due later; counts as no attempt. */
  | { readonly kind: 'later'; readonly atMs: number }
  /**
   * `isGivenUp`: it is still tried now and then, but counts as given up, for this failure, until it is answered or
   * something schedules it anew.
   */
  | {
      readonly kind: 'failed';
      readonly why: CheckFailure;
      readonly retryAtMs: number;
      readonly isGivenUp: boolean;
    };

/**
 * Where the index keeps the checks. At most one per repo. Each answer may come from the index's own thread.
 *
 * beginCheck is called right before each request of a check is sent. From then until applyCheck the index watches
 * the repo: when it reads an event of it meanwhile, an answer 'collections' or 'gone' is void (it may be older than
 * the event), changes nothing, and the repo is scheduled anew as touched_while_checked. What is begun is not
 * remembered over a restart: then the check is still scheduled.
 */
export interface CheckStore {
  /** Due at `nowMs`, the longest due first; none that was begun and not ended. At most `limit`. */
  nextChecks(nowMs: number, limit: number): Promise<readonly ScheduledCheck[]> | readonly ScheduledCheck[];
  beginCheck(did: string): Promise<void> | void;
  /** Ends the check. 'touched': the answer was void. */
  applyCheck(did: string, outcome: CheckOutcome): Promise<'applied' | 'touched'> | 'applied' | 'touched';
}

/** What the pages and metrics show of the index. */
export interface CollectionsStatus {
  /** seq up to which the index reflects the log. */
  readonly position: number;
  /** Newest durable seq. */
  readonly lastSeq: number;
  /** Log time of the newest durable record minus that of the last one indexed; 0 = none behind. */
  readonly lagMs: number;
  /** (repo, collection) pairs held, hidden repos' included. */
  readonly rows: number;
  readonly repos: number;
  readonly hiddenRepos: Readonly<Partial<Record<HiddenReason, number>>>;
  readonly collections: number;
  /** Scheduled checks by reason, and those given up by failure. */
  readonly checks: Readonly<Partial<Record<CheckReason, number>>>;
  readonly givenUp: Readonly<Partial<Record<CheckFailure, number>>>;
  /** Since the index was made: stretches of the log that it did not get to read. */
  readonly gaps: number;
  /** Pairs not taken: no DID or NSID, over a bound, or of a deleted repo; each as often as it was told. */
  readonly refusedPairs: number;
  /** Checks not scheduled, over MAX_SCHEDULED_CHECKS. */
  readonly checksRefused: number;
  /** Places of removed pairs that were dropped for a bound: who reads several collections may hear of a repo again. */
  readonly placesDropped: number;
  /** '' = well; otherwise why it does not go on, in words. */
  readonly problem: string;
}

/** A repo and collections of it. */
export interface RepoPairs {
  readonly did: string;
  readonly collections: readonly string[];
}

/** Where an account is, for sweeps of hosts that are gone. */
export interface AccountPlace {
  readonly did: string;
  /** As the roster numbers them; 0 = not known. */
  readonly hostId: number;
}

export interface AddedPairs {
  /** Pairs that were not held. Those of repos that are hidden are kept, too, for when they are back. */
  readonly added: number;
  readonly known: number;
  /** Not taken: no DID or NSID, over a bound of the index, or of a repo that is deleted. */
  readonly refused: number;
}

/** What somebody else than the log says of an account. null = active. */
export interface ListedStatus {
  readonly did: string;
  readonly status: Exclude<HiddenReason, 'pds_gone'> | null;
  readonly hostId?: number;
  /** It is the relay's own word, which counts as much as if the log had told it. */
  readonly isTold?: boolean;
}

/**
 * What was said of one repo, taken for the whole truth about it. `hostId`: which host said so (as the roster numbers
 * them), where it was not asked for being the account's own by its identity; 0 or absent = its own.
 */
export type RepoTruth = (
  | { readonly collections: readonly string[] }
  | { readonly hidden: Exclude<HiddenReason, 'pds_gone'> }
) & { readonly hostId?: number };

export interface AppliedTruth {
  readonly added: number;
  readonly known: number;
  readonly removed: number;
  /** It was shown and is hidden now. */
  readonly hidden: boolean;
  /**
   * An event of the repo came in between, or the log told of the account at another host than the one that said
   * this: nothing was changed, and a check of it was scheduled.
   */
  readonly touched: boolean;
}

/**
 * Writes into the index, beside the thread that follows the log: from another thread, or from another process
 * (`openCollectionWriter(path)` of src/collections/writer.ts). Each call is one transaction, durable against a kill
 * of this process when it resolves; when it rejects, nothing was changed. It waits for others that write, at most
 * BUSY_TIMEOUT_MS. Calls with hundreds of repos are many times cheaper by the repo than calls with one; at most
 * MAX_PAIRS_PER_CALL pairs.
 */
export interface CollectionWriter extends CheckStore {
  /** Adds pairs that somebody tells; takes nothing away. A repo never seen counts as active from now on. */
  add(repos: readonly RepoPairs[]): Promise<AddedPairs>;
  /**
   * Takes statuses that hosts list, but for accounts of which the log has told anything: it knows better. One that was
   * hidden and is listed as active is shown, and a check of it is scheduled.
   * @returns how many were taken
   */
  setStatus(accounts: readonly ListedStatus[]): Promise<number>;
  /** Tells at which hosts accounts are that the index has, by their identities, where the log has not told that. */
  locate(accounts: readonly AccountPlace[]): Promise<void>;
  /** Schedules checks of repos, now; one that has a check keeps it. @returns how many were taken (the bound: MAX_SCHEDULED_CHECKS) */
  scheduleChecks(dids: readonly string[], reason: CheckReason): Promise<number>;
  /**
   * Called right before a repo is asked for at its PDS; the answer goes to `apply` with the number this gives.
   * A watch is forgotten after MAX_WATCH_MS; its answer is void then.
   */
  begin(did: string): Promise<number>;
  /** Makes the index say of the repo what was said, unless an event of it came since `begin`. */
  apply(did: string, watch: number, truth: RepoTruth): Promise<AppliedTruth>;
  /** Ends a watch without an answer. */
  forget(watch: number): Promise<void>;
  /** Collections ever seen by name after `after`, at most `limit`, also those that no active repo has now. */
  collections(after: string | null, limit: number): Promise<readonly string[]>;
  close(): Promise<void>;
}
