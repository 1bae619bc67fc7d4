/** Statuses of section 4. null = active. An unknown upstream text is kept as it came (at most 64 characters) and counts as inactive. */
export type AccountStatus = string | null;

/** One account. Digests are 32-byte sha-256 digests of dag-cbor CIDs. */
export interface AccountRow {
  readonly did: string;
  readonly hostId: number;
  /** The relay's own decision (takendown, suspended, throttled by the account limit); null = none. */
  readonly ownStatus: AccountStatus;
  /** What the PDS says; null = active. */
  readonly upstreamStatus: AccountStatus;
  /** null until the first commit or sync. */
  readonly rev: string | null;
  readonly commit: Uint8Array | null;
  readonly data: Uint8Array | null;
  /** A discontinuity was passed on and no #sync or whole chain has followed. */
  readonly desynchronized: boolean;
  readonly keyType: 'p256' | 'k256' | null;
  /** 33-byte compressed key. */
  readonly key: Uint8Array | null;
  readonly handle: string | null;
  /** ms since the epoch; 0 = the identity must be resolved before use. */
  readonly identityAtMs: number;
  /** False: nothing but a host's listRepos told of it (src/backfill); no event of it was taken. Never flushed so. */
  readonly known: boolean;
}

/** How a host came to us. */
export type HostSource = 'upstream' | 'config' | 'crawl' | 'admin';

export interface HostRow {
  readonly hostId: number;
  /** hostname, or hostname:port in development. */
  readonly hostname: string;
  /** false: ws:// and http:// (RELAY_ALLOW_INSECURE_HOSTS). */
  readonly secure: boolean;
  readonly source: HostSource;
  readonly banned: boolean;
  /** active, idle, offline, throttled, banned: what listHosts shows. */
  readonly status: string;
  /** Upstream seq up to which everything is durably in our log or deliberately dropped; 0 = nothing came yet. */
  readonly cursor: number;
  /** Upstream seqs above `cursor` that are already in our log (events logged while an earlier one waits for an identity). */
  readonly ahead: readonly number[];
  readonly accountCount: number;
  /** What the upstream relay counts of it; 0 = unknown. */
  readonly expectedAccounts: number;
  /** null = by the defaults (trusted, source). */
  readonly accountLimit: number | null;
  /** Per-host overrides by the operator; null = by the defaults. */
  readonly eventsPerSecondLimit: number | null;
  readonly validation: 'strict' | 'lenient' | null;
  readonly createdAtMs: number;
  /** ms of the last event we took from it; 0 = never. */
  readonly lastEventAtMs: number;
  /**
   * ms when we were last known to be connected and to get all that is sent, at most an hour old while we are; null =
   * not known. With a cursor of 0: null = start live, else from the host's oldest event.
   */
  readonly connectedUntilMs: number | null;
  /** Consecutive failures, for the backoff to go on after a restart. */
  readonly failures: number;
}

/** One explainable rejection, kept for the host and account pages. */
export interface RejectionRow {
  readonly hostId: number;
  readonly did: string;
  readonly reason: string;
  readonly detail: string;
  readonly upstreamSeq: number;
  readonly rev: string;
  readonly atMs: number;
}

/** A stretch of a host's stream that we know we did not get. */
export interface GapRow {
  readonly hostId: number;
  readonly fromSeq: number;
  /** 0 = unknown. */
  readonly toSeq: number;
  readonly why: string;
  readonly atMs: number;
}

/** One transaction: what changed up to `position`, which is durable in the log before this is written. */
export interface Flush {
  readonly position: number;
  readonly accounts: readonly AccountRow[];
  readonly hosts: readonly HostRow[];
  readonly rejections: readonly RejectionRow[];
  readonly gaps: readonly GapRow[];
}

/** A repo of which a commit is known: seen by us, or told by its host. */
export interface ListedRepo {
  readonly did: string;
  readonly commit: Uint8Array;
  readonly rev: string;
  readonly ownStatus: AccountStatus;
  readonly upstreamStatus: AccountStatus;
}

/** The Postgres side. All methods reject only for a database failure (which the caller retries or reports). */
export interface State {
  /** Log seq that the rows reflect; 0 = empty. */
  position(): Promise<number>;
  loadHosts(): Promise<HostRow[]>;
  /**
   * Inserts with the given id, which must be free, or else the next one; answers the existing row when the hostname
   * is known.
   */
  insertHost(host: Omit<HostRow, 'hostId'> & { readonly hostId?: number }): Promise<HostRow>;
  /** One batched query; unknown DIDs are simply absent from the answer. */
  loadAccounts(dids: readonly string[]): Promise<AccountRow[]>;
  /**
   * Upserts everything in one transaction. An account's rev never goes back (conditional on rev), position never
   * goes back; host rows are overwritten. Rows keep their append order (a growing id) for listRepos.
   */
  flush(flush: Flush): Promise<void>;
  /** In append order; `cursor` 0 = from the start; answers at most `limit` and the next cursor (null = end). */
  listRepos(cursor: number, limit: number): Promise<{ repos: ListedRepo[]; cursor: number | null }>;
  /** The first one behind a cursor that is active; null: there is none within MAX_PLACES_LOOKED_AHEAD. */
  firstActiveRepo(after: number): Promise<ListedRepo | null>;
  /** DID hashes are the caller's business: gives the DIDs with an own status that forbids replay (takendown). */
  takedowns(): Promise<string[]>;
  rejectionsOfHost(hostId: number, limit: number): Promise<RejectionRow[]>;
  rejectionsOfAccount(did: string, limit: number): Promise<RejectionRow[]>;
  gapsOfHost(hostId: number, limit: number): Promise<GapRow[]>;
  domainBans(): Promise<string[]>;
  setDomainBan(domain: string, banned: boolean): Promise<void>;
  counts(): Promise<{ accounts: number; hosts: number }>;
  readonly counters: Readonly<Record<string, number>>;
  close(): Promise<void>;
}
