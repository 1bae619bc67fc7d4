/**
 * Why something could not be read in a backfill: a closed list, so that the summary, the status and the tables can
 * count by it. What a source, host or repo is put aside for is always one of these words.
 */
export const BACKFILL_REASONS = [
  // the network, as the guarded fetch says it
  'timeout',
  'unreachable',
  'too_large',
  'forbidden_address',
  'bad_redirect',
  'bad_url',
  'bad_encoding',
  // what the other side says
  'rate_limited', // told to wait for longer than we wait on the spot
  'http_client_error', // another 4xx
  'http_server_error', // 5xx
  'bad_answer', // 200, but not what the lexicon says
  'not_supported', // neither describeRepo nor getRepo
  // paging that would never end
  'cursor_repeats',
  'too_many_pages',
  'empty_pages',
  // accounts
  'did_invalid', // not a DID that can be resolved
  'did_not_found', // the directory says it does not exist, or is gone
  'did_unresolved', // the directory could not be asked
  'did_no_pds', // its document names no usable PDS
  'account_limit', // its host has more accounts than the relay takes from it
  'wrong_host', // a host lists it, and its document names another
  'repo_unreadable', // the repo's CAR is damaged, or over the bound
  'too_many_failures', // more repos of a run failed than are kept to be tried again
] as const;

export type BackfillReason = (typeof BACKFILL_REASONS)[number];

/** Failures that time may mend; all others are final at once. */
const PASSING: ReadonlySet<BackfillReason> = new Set([
  'timeout',
  'unreachable',
  'rate_limited',
  'http_server_error',
  'bad_answer',
  'bad_redirect',
  'bad_encoding',
  'did_unresolved',
]);

/** Whether to try again later. */
export const isPassing = (reason: BackfillReason): boolean => PASSING.has(reason);

/** A failure as a value; `detail` is for people, short, and never raw input. */
export interface BackfillFailure {
  readonly ok: false;
  readonly reason: BackfillReason;
  readonly detail: string;
  /** When asking again makes sense, if the other side said so; ms since the epoch. */
  readonly retryAtMs?: number;
}

export const failed = (reason: BackfillReason, detail: string, retryAtMs?: number): BackfillFailure =>
  retryAtMs === undefined ? { ok: false, reason, detail } : { ok: false, reason, detail, retryAtMs };
