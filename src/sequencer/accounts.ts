/**
 * The accounts in memory: those lately used, and all that changed and are not stored yet. The sequencer is their
 * only writer. What is not here is read from the database in one query per batch.
 */
import { TwoGenerations } from '../ingest/two-generations.ts';
import type { AccountRow, AccountStatus, State } from '../state/types.ts';

/** About 400 bytes each. Of the network's accounts, those active within hours fit. */
export const MAX_CACHED_ACCOUNTS = 200_000;
/** Accounts changed and not stored; only a database that is away gets near it. Then nothing more is sequenced. */
export const MAX_DIRTY_ACCOUNTS = 200_000;

/** One account, mutable. Digests and key are latin1 text: compact, and compared by value. */
export interface Account {
  readonly did: string;
  hostId: number;
  /** hostname of its PDS; null = unknown: resolve before use. */
  pds: string | null;
  ownStatus: AccountStatus;
  upstreamStatus: AccountStatus;
  rev: string | null;
  commit: string | null;
  data: string | null;
  desynchronized: boolean;
  keyType: 'p256' | 'k256' | null;
  key: string | null;
  handle: string | null;
  identityAtMs: number;
  /** When its PDS last told its status, ms; 0 = not since it was read in. Not stored. */
  statusAtMs: number;
  /** `pds` is the host of `hostId`, as a reader of the stored row would take it to be. */
  pdsIsHost: boolean;
  /** False while only its identity is known, or what a listing told: no event of it came yet, it counts for no host. */
  known: boolean;
  /** The backfill has it from its host's listRepos. */
  readonly listed: boolean;
}

const bytesOf = (text: string | null): Uint8Array | null =>
  text === null ? null : Buffer.from(text, 'latin1');
const textOf = (bytes: Uint8Array | null): string | null =>
  bytes === null ? null : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');

/** The row as it would be stored now. */
export const accountRow = (account: Account): AccountRow => ({
  did: account.did,
  hostId: account.hostId,
  ownStatus: account.ownStatus,
  upstreamStatus: account.upstreamStatus,
  rev: account.rev,
  commit: bytesOf(account.commit),
  data: bytesOf(account.data),
  desynchronized: account.desynchronized,
  keyType: account.keyType,
  key: bytesOf(account.key),
  handle: account.handle,
  // The row has no place for a PDS that we do not follow: whoever reads it has to ask again.
  identityAtMs: account.pdsIsHost ? account.identityAtMs : 0,
  known: account.known,
});

/** What may be shown of an account; null: nobody but ourselves has a reason to know it. */
export const shownRow = (account: Account | undefined): AccountRow | null =>
  account !== undefined && (account.known || account.listed) ? accountRow(account) : null;

/** An account of which nothing is known yet. */
export const newAccount = (did: string): Account => ({
  did,
  hostId: 0,
  pds: null,
  ownStatus: null,
  upstreamStatus: null,
  rev: null,
  commit: null,
  data: null,
  desynchronized: false,
  keyType: null,
  key: null,
  handle: null,
  identityAtMs: 0,
  statusAtMs: 0,
  pdsIsHost: false,
  known: false,
  listed: false,
});

export interface AccountCache {
  get(did: string): Account | undefined;
  /** Reads those of the given DIDs that are not in memory; unknown ones stay absent. Rejects when the database fails. */
  load(dids: readonly string[]): Promise<void>;
  add(account: Account): void;
  markDirty(account: Account): void;
  /** Changed accounts, the caller's to store. Call `stored` or `giveBack` before the next one. */
  takeDirty(): Account[];
  stored(): void;
  giveBack(): void;
  readonly dirtyCount: number;
  readonly size: number;
  readonly counters: Readonly<Record<'hits' | 'loads' | 'loadedRows', number>>;
}

/**
 * @param state where absent accounts are read from
 * @param hostnameOf the hostname of a host id; undefined when there is no such host
 */
export const createAccounts = (
  state: Pick<State, 'loadAccounts'>,
  hostnameOf: (hostId: number) => string | undefined,
): AccountCache => {
  const cache = new TwoGenerations<string, Account>(MAX_CACHED_ACCOUNTS);
  let dirty = new Map<string, Account>();
  /** Being stored: the database may still show what they were. */
  let storing = new Map<string, Account>();
  const counters = { hits: 0, loads: 0, loadedRows: 0 };
  /** Queries on their way, and which of their DIDs were stored meanwhile: those answers may be old. */
  const loading = new Set<{ readonly dids: ReadonlySet<string>; readonly stored: Set<string> }>();

  const get = (did: string): Account | undefined => {
    const cached = cache.get(did) ?? dirty.get(did) ?? storing.get(did);
    if (cached !== undefined) counters.hits++;
    return cached;
  };

  const accountOf = (row: AccountRow): Account => {
    const pds = row.identityAtMs === 0 ? null : (hostnameOf(row.hostId) ?? null);
    return {
      did: row.did,
      hostId: row.hostId,
      pds,
      ownStatus: row.ownStatus,
      upstreamStatus: row.upstreamStatus,
      rev: row.rev,
      commit: textOf(row.commit),
      data: textOf(row.data),
      desynchronized: row.desynchronized,
      keyType: row.keyType,
      key: textOf(row.key),
      handle: row.handle,
      identityAtMs: pds === null ? 0 : row.identityAtMs,
      pdsIsHost: pds !== null,
      statusAtMs: 0,
      known: row.known,
      listed: !row.known,
    };
  };

  return {
    get,
    async load(dids) {
      let missing = dids.filter((did) => get(did) === undefined);
      while (missing.length > 0) {
        counters.loads++;
        const query = { dids: new Set(missing), stored: new Set<string>() };
        loading.add(query);
        let rows: AccountRow[];
        try {
          rows = await state.loadAccounts(missing);
        } finally {
          loading.delete(query);
        }
        counters.loadedRows += rows.length;
        for (const row of rows) {
          // Another batch may have brought it in, and changed it, while this one waited.
          if (query.stored.has(row.did) || get(row.did) !== undefined) continue;
          cache.set(row.did, accountOf(row));
        }
        // Brought in, changed, stored and forgotten again while this one waited: what it read may be from before.
        missing = [...query.stored].filter((did) => get(did) === undefined);
      }
    },
    add(account) {
      cache.set(account.did, account);
    },
    markDirty(account) {
      if (account.known) dirty.set(account.did, account);
    },
    takeDirty() {
      storing = dirty;
      dirty = new Map();
      return [...storing.values()];
    },
    stored() {
      for (const { dids, stored } of loading) for (const did of dids) if (storing.has(did)) stored.add(did);
      storing = new Map();
    },
    giveBack() {
      for (const [did, account] of storing) dirty.set(did, account);
      storing = new Map();
    },
    get dirtyCount() {
      return dirty.size + storing.size;
    },
    get size() {
      return cache.size;
    },
    counters,
  };
};
