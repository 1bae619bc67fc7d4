/**
 * The state room: accounts, hosts and the log position they reflect, in PostgreSQL.
 *
 * Owns the tables of schema.ts and is their only writer (an advisory lock keeps a second weir out). Promises: a flush
 * is applied whole or not at all; an account's rev and the position never go back; what the log could not rebuild
 * (host numbers, domain bans) is on disk before the call resolves. Everything else may trail the log by a crash.
 */

import {
  ConnectionLostError,
  createPool,
  createWriter,
  type DatabaseAddress,
  DatabaseInUseError,
  type Session,
} from './connections.ts';
import type { StateLog } from './embedded.ts';
import { applyFlush, flushTotals, hostParams, INSERT_HOSTS } from './flush.ts';
import { textArray } from './literals.ts';
import { migrate } from './migrate.ts';
import { accountFromRecord, gapFromRecord, hostFromRecord, rejectionFromRecord } from './rows.ts';
import type { HostRow, ListedRepo, State } from './types.ts';

export interface OpenStateOptions {
  /** DATABASE_URL, or `database` of a started embedded server. */
  readonly database: DatabaseAddress;
  readonly log?: StateLog;
  /** Ends the opening, whatever it waits for. */
  readonly signal?: AbortSignal;
  /** How long to wait for the writer's lock of a session that is just ending; default 15 s. */
  readonly lockWaitMs?: number;
}

/** Connections for the relay's own batched look-ups, apart from the API's so that a slow page never delays them. */
const LOOKUP_CONNECTIONS = 2;
const MAX_WAITING_LOOKUPS = 1_000;
/** Connections for pages and API answers. */
const READ_CONNECTIONS = 4;
const MAX_WAITING_READS = 1_000;
/** DIDs per query of loadAccounts. */
const MAX_DIDS_PER_QUERY = 1_000;
/** Rows per page of listRepos and of the host and account pages; the API's own limits are lower. */
const MAX_PAGE_ROWS = 2_000;
/** Places in listRepos that are looked through for an active repo: 50 ms of PostgreSQL's work when there is none. */
export const MAX_PLACES_LOOKED_AHEAD = 100_000;
/** A flush over this is taken for a dead connection and rejected. */
const FLUSH_DEADLINE_MS = 120_000;
const SHORT_DEADLINE_MS = 30_000;
/** A session we lost may keep its lock until the server notices. */
const LOCK_WAIT_MS = 15_000;
/** An index on a table of a hundred million rows takes a while. */
const MIGRATE_DEADLINE_MS = 3_600_000;
const START_BACKOFF_MS = [250, 500, 1_000, 2_000, 5_000, 10_000, 30_000] as const;
/** Up to about here the accounts are counted, beyond it PostgreSQL's own estimate is good enough and free. */
const EXACT_COUNT_BELOW = 1_000_000;

/** What retrying cannot mend: wrong password, unknown user, unknown database. */
const HOPELESS_CODES: ReadonlySet<string> = new Set(['28P01', '28000', '3D000']);

/**
 * Connects, waiting as long as it takes for a database that is down; takes the writer's lock; applies migrations.
 * @throws when the database refuses us for good, or another weir holds it; the reason of `signal` when that aborts
 */
export const openState = async (options: OpenStateOptions): Promise<State> => {
  const log = options.log ?? (() => {});
  const writer = createWriter(options.database, log, options.lockWaitMs ?? LOCK_WAIT_MS);
  try {
    await connectAndMigrate(
      () => writer.run(MIGRATE_DEADLINE_MS, migrate, options.signal),
      log,
      options.signal,
    );
  } catch (error) {
    await writer.close();
    throw error;
  }
  const lookups = createPool(options.database, LOOKUP_CONNECTIONS, MAX_WAITING_LOOKUPS);
  const reads = createPool(options.database, READ_CONNECTIONS, MAX_WAITING_READS);
  const totals = flushTotals();

  return {
    async position() {
      const [row] = await reads.query('select position from state_position');
      return row === undefined ? 0 : (row.position as number);
    },

    async loadHosts() {
      const rows = await reads.query('select * from hosts order by host_id');
      return rows.map(hostFromRecord);
    },

    insertHost(host) {
      return writer.run(SHORT_DEADLINE_MS, (session) => insertHost(session, host));
    },

    async loadAccounts(dids) {
      const found = [];
      for (let from = 0; from < dids.length; from += MAX_DIDS_PER_QUERY) {
        const some = dids.slice(from, from + MAX_DIDS_PER_QUERY).filter((did) => !did.includes('\u0000'));
        const rows = await lookups.query(ACCOUNTS_BY_DID, [textArray(some)]);
        for (const row of rows) found.push(accountFromRecord(row));
      }
      return found;
    },

    async flush(flush) {
      try {
        const written = await writer.run(FLUSH_DEADLINE_MS, (session) => applyFlush(session, flush));
        totals.add(written);
      } catch (error) {
        totals.fail();
        throw error;
      }
    },

    async listRepos(cursor, limit) {
      const size = pageSize(limit);
      const rows = await reads.query(LIST_REPOS, [cursor, size + 1]);
      return {
        repos: rows.slice(0, size).map(listedRepo),
        cursor: rows.length > size ? (rows[size - 1]!.append_id as number) : null,
      };
    },

    async firstActiveRepo(after) {
      const [row] = await reads.query(FIRST_ACTIVE_REPO, [after, after + MAX_PLACES_LOOKED_AHEAD]);
      return row === undefined ? null : listedRepo(row);
    },

    async takedowns() {
      const rows = await reads.query("select did from accounts where own_status = 'takendown' order by did");
      return rows.map((row) => row.did as string);
    },

    async rejectionsOfHost(hostId, limit) {
      const rows = await reads.query(REJECTIONS_OF_HOST, [hostId, pageSize(limit)]);
      return rows.map(rejectionFromRecord);
    },

    async rejectionsOfAccount(did, limit) {
      if (did.includes('\u0000')) return [];
      const rows = await reads.query(REJECTIONS_OF_ACCOUNT, [did, pageSize(limit)]);
      return rows.map(rejectionFromRecord);
    },

    async gapsOfHost(hostId, limit) {
      const rows = await reads.query(GAPS_OF_HOST, [hostId, pageSize(limit)]);
      return rows.map(gapFromRecord);
    },

    async domainBans() {
      const rows = await reads.query('select domain from domain_bans order by created_at_ms, domain');
      return rows.map((row) => row.domain as string);
    },

    setDomainBan(domain, banned) {
      return writer.run(SHORT_DEADLINE_MS, (session) =>
        durably(session, async () => {
          if (banned) await session.query(BAN_DOMAIN, [domain, Date.now()]);
          else await session.query('delete from domain_bans where domain = $1', [domain]);
        }),
      );
    },

    async counts() {
      const [row] = await reads.query(
        "select reltuples::bigint as estimate, (select count(*) from hosts) as hosts from pg_class where oid = 'accounts'::regclass",
      );
      const estimate = row!.estimate as number;
      const hostCount = row!.hosts as number;
      if (estimate >= EXACT_COUNT_BELOW) return { accounts: estimate, hosts: hostCount };
      const [exact] = await reads.query('select count(*) as accounts from accounts');
      return { accounts: exact!.accounts as number, hosts: hostCount };
    },

    get counters() {
      return {
        ...totals.counters,
        writerSessions: writer.stats.sessions,
        lookupsWaiting: lookups.stats.waiting,
        lookupFailures: lookups.stats.failures,
        readsWaiting: reads.stats.waiting,
        readFailures: reads.stats.failures,
        readsTurnedAway: reads.stats.turnedAway + lookups.stats.turnedAway,
      };
    },

    async close() {
      await Promise.all([writer.close(), lookups.close(), reads.close()]);
    },
  };
};

const ACCOUNTS_BY_DID = 'select * from accounts where did = any($1::text[])';

const LISTED_REPOS =
  'select append_id, did, coalesce(commit_digest, listed_commit) as commit_digest, ' +
  'coalesce(rev, listed_rev) as rev, own_status, upstream_status from accounts where append_id > $1 ' +
  'and coalesce(commit_digest, listed_commit) is not null and coalesce(rev, listed_rev) is not null';
const LIST_REPOS = `${LISTED_REPOS} order by append_id limit $2`;
const FIRST_ACTIVE_REPO =
  `${LISTED_REPOS} and append_id <= $2 and own_status is null and upstream_status is null ` +
  'order by append_id limit 1';

const listedRepo = (row: Readonly<Record<string, unknown>>): ListedRepo => ({
  did: row.did as string,
  commit: row.commit_digest as Uint8Array,
  rev: row.rev as string,
  ownStatus: row.own_status as string | null,
  upstreamStatus: row.upstream_status as string | null,
});

const REJECTIONS_OF_HOST = 'select * from rejections where host_id = $1 order by id desc limit $2';
const REJECTIONS_OF_ACCOUNT = 'select * from rejections where did = $1 order by id desc limit $2';
const GAPS_OF_HOST = 'select * from gaps where host_id = $1 order by id desc limit $2';
const BAN_DOMAIN = 'insert into domain_bans (domain, created_at_ms) values ($1, $2) on conflict do nothing';

const pageSize = (limit: number): number => Math.min(Math.max(Math.trunc(limit) || 1, 1), MAX_PAGE_ROWS);

/** A transaction that is on disk when this resolves, whatever the server's default. */
const durably = async <T>(session: Session, work: () => Promise<T>): Promise<T> => {
  await session.query('begin');
  await session.query('set local synchronous_commit = on');
  const result = await work();
  await session.query('commit');
  return result;
};

/**
 * Log records name hosts by number, so a number that was given must survive a power loss and is never given twice:
 * the next one is one above the highest, and hosts are never deleted.
 */
const insertHost = (
  session: Session,
  host: Omit<HostRow, 'hostId'> & { readonly hostId?: number },
): Promise<HostRow> =>
  durably(session, async () => {
    const [known] = await session.query('select * from hosts where hostname = $1', [host.hostname]);
    if (known !== undefined) return hostFromRecord(known);
    const [next] = await session.query('select coalesce(max(host_id), 0) + 1 as host_id from hosts');
    const row = { ...host, hostId: host.hostId ?? (next!.host_id as number) };
    const [inserted] = await session.query(`${INSERT_HOSTS} returning *`, hostParams([row]));
    return hostFromRecord(inserted!);
  });

const connectAndMigrate = async (
  attempt: () => Promise<void>,
  log: StateLog,
  signal: AbortSignal | undefined,
): Promise<void> => {
  for (let failures = 0; ; failures++) {
    signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof DatabaseInUseError) throw error;
      const code = (error as { code?: unknown }).code;
      const message = error instanceof Error ? error.message : String(error);
      if (typeof code === 'string' && HOPELESS_CODES.has(code))
        throw new Error(`PostgreSQL refuses us: ${message}. Check DATABASE_URL.`);
      if (typeof code === 'string' && isOurMistake(code)) throw error;
      if (!(error instanceof ConnectionLostError) && code === undefined) throw error;
      const waitMs = START_BACKOFF_MS[Math.min(failures, START_BACKOFF_MS.length - 1)]!;
      log('warn', `cannot reach PostgreSQL (${message}); trying again in ${waitMs} ms`);
      await new Promise<void>((done) => {
        const timer = setTimeout(finish, waitMs);
        function finish(): void {
          clearTimeout(timer);
          signal?.removeEventListener('abort', finish);
          done();
        }
        signal?.addEventListener('abort', finish, { once: true });
      });
    }
  }
};

/** SQLSTATE classes of statements that will fail again: syntax, missing rights, constraint violations, bad data. */
const isOurMistake = (code: string): boolean => /^(22|23|42)[0-9A-Z]{3}$/.test(code);
