/** The shapes of the backfill room: what is asked for, what is counted, what others are shown. */
import type { BackfillReason } from './reasons.ts';

/** What a run does. Stored with the run: a resumed run does what was asked for. */
export type BackfillSpec = BackfillTask & {
  /** Most requests per five minutes to hosts that share a limit; absent: the default. */
  readonly requestsPerWindow?: number;
};

export type BackfillTask =
  | {
      readonly kind: 'relay';
      /** Base URL of the other relay. */
      readonly url: string;
      /** Collections named by the operator. */
      readonly collections: readonly string[];
      /** Only those: neither what the other relay counts nor what weir has seen. */
      readonly only: boolean;
    }
  | {
      readonly kind: 'hosts';
      /** Empty: all hosts that the relay follows. */
      readonly hosts: readonly string[];
    }
  | { readonly kind: 'dids'; readonly dids: readonly string[] }
  | {
      readonly kind: 'verify';
      /** Empty: all collections. */
      readonly collections: readonly string[];
      /** Repos to check, drawn at random; null: all. */
      readonly sample: number | null;
    };

export type BackfillKind = BackfillSpec['kind'];

/** running: works or was killed while working; paused: stopped as asked; the last two are final. */
export type RunState = 'running' | 'paused' | 'finished' | 'cancelled';
/** What the operator wants of a run, told through the database so that it reaches whichever process works on it. */
export type WantedState = 'run' | 'pause' | 'cancel';
/** waiting: not finished; parked: to be tried again later; the last two are final. */
export type SourceState = 'waiting' | 'parked' | 'done' | 'failed';

/** Everything that is counted; all numbers grow only. */
export interface BackfillCounters {
  /** Answers read: pages of lists, and repos. */
  pages: number;
  repos: number;
  /** (repo, collection) pairs that sources told. */
  imported: number;
  /** Of those, what the index did not have, and what it had. */
  added: number;
  known: number;
  /** Pairs that the index had and the PDS has not: taken out. */
  ghosts: number;
  /** Accounts hidden, since their PDS or the relay itself has them as not active. */
  hidden: number;
  /** Accounts written to the account list, new or anew. */
  accounts: number;
  /** Entries of lists that are not what the lexicon says. */
  invalid: number;
  /** Repos given up, by reason. */
  readonly failures: Partial<Record<BackfillReason, number>>;
}

export const noCounters = (): BackfillCounters => ({
  pages: 0,
  repos: 0,
  imported: 0,
  added: 0,
  known: 0,
  ghosts: 0,
  hidden: 0,
  accounts: 0,
  invalid: 0,
  failures: {},
});

/** Adds `more` to `sum`, in place. */
export const addCounters = (sum: BackfillCounters, more: BackfillCounters): void => {
  sum.pages += more.pages;
  sum.repos += more.repos;
  sum.imported += more.imported;
  sum.added += more.added;
  sum.known += more.known;
  sum.ghosts += more.ghosts;
  sum.hidden += more.hidden;
  sum.accounts += more.accounts;
  sum.invalid += more.invalid;
  for (const [reason, count] of Object.entries(more.failures)) {
    const key = reason as BackfillReason;
    sum.failures[key] = (sum.failures[key] ?? 0) + count;
  }
};

export const countFailure = (counters: BackfillCounters, reason: BackfillReason, repos = 1): void => {
  counters.failures[reason] = (counters.failures[reason] ?? 0) + repos;
};

/** One thing that is read page by page: a collection of the other relay, a host, a collection of the index. */
export interface SourceRow {
  readonly sourceId: number;
  /** Collection or hostname. */
  readonly name: string;
  /** Sources of one group share a rate limit. */
  readonly group: string;
  state: SourceState;
  /** Where to go on; null: at the beginning. */
  cursor: string | null;
  /** Entries read so far, and how many are expected; null: nobody says. */
  done: number;
  total: number | null;
  pages: number;
  /** Failures in a row. */
  attempts: number;
  /** While parked: when it is tried again, ms. */
  retryAtMs: number;
  reason: BackfillReason | null;
  detail: string;
}

/** A source as it begins. */
export type NewSource = Pick<SourceRow, 'name' | 'group' | 'total'>;

/** One run. */
export interface RunRow {
  readonly runId: number;
  readonly spec: BackfillSpec;
  readonly startedBy: 'terminal' | 'admin';
  readonly createdAtMs: number;
  readonly state: RunState;
  readonly wanted: WantedState;
  /** False until its sources stand in the table. */
  readonly planned: boolean;
  readonly updatedAtMs: number;
  readonly finishedAtMs: number | null;
  readonly counters: BackfillCounters;
}

/** A repo that is to be read by itself. */
export interface QueuedRepo {
  readonly queueId: number;
  readonly did: string;
  readonly attempts: number;
}

/** What pages, the admin API and `--status` show. */
export interface BackfillStatus {
  readonly runId: number;
  readonly kind: BackfillKind;
  readonly startedBy: 'terminal' | 'admin';
  /** As stored, but `interrupted` when it should be running and no process works on it. */
  readonly state: RunState | 'interrupted';
  readonly wanted: WantedState;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly finishedAtMs: number | null;
  readonly counters: BackfillCounters;
  readonly sources: Readonly<Record<SourceState, number>>;
  /** Entries read and expected over all sources that know how many there are. */
  readonly done: number;
  readonly total: number | null;
  /** Repos still to be read by themselves, and those given up. */
  readonly queuedRepos: number;
  readonly failedRepos: number;
  /** The sources that need a look, worst first: failed, parked, then those under way. At most `MAX_SHOWN_SOURCES`. */
  readonly shown: readonly ShownSource[];
}

export interface ShownSource {
  readonly name: string;
  readonly group: string;
  readonly state: SourceState;
  readonly done: number;
  readonly total: number | null;
  readonly attempts: number;
  readonly retryAtMs: number;
  readonly reason: BackfillReason | null;
  readonly detail: string;
}

/** What the admin API can do, and the pages show. Rejects only for a database failure. */
export interface BackfillControl {
  /** Starts a run, in a process of its own. A refusal is a sentence for the operator. */
  start(spec: BackfillSpec): Promise<BackfillReply>;
  pause(): Promise<BackfillReply>;
  resume(): Promise<BackfillReply>;
  cancel(): Promise<BackfillReply>;
  /** The last run; null: there was none. */
  status(): Promise<BackfillStatus | null>;
}

export type BackfillReply =
  | { readonly ok: true; readonly runId: number }
  | { readonly ok: false; readonly message: string };
