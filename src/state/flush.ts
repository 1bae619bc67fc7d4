/**
 * One flush: everything that changed up to a log position, in one transaction of set-based statements.
 */

import { APPEND_LOCK_KEY, ConnectionLostError, type Param, type Session } from './connections.ts';
import {
  booleanArray,
  bytesArray,
  integerArray,
  numberArray,
  storableNumber,
  storableText,
  textArray,
} from './literals.ts';
import { identityNumber, keyTypeNumber } from './rows.ts';
import type { AccountRow, Flush, GapRow, HostRow, RejectionRow } from './types.ts';

/** Rows per statement: large enough to amortize the round trip, small enough for flat memory on both sides. */
export const MAX_ROWS_PER_STATEMENT = 1_000;
/** Rejections kept per host: enough to see what is wrong, whatever a host sends. */
export const MAX_REJECTIONS_PER_HOST = 200;
export const MAX_GAPS_PER_HOST = 100;

/** Longest texts stored; what is longer comes from a bad host and is cut. A B-tree entry holds about 2,700 bytes. */
const MAX_STATUS_CHARS = 64;
const MAX_HANDLE_CHARS = 253;
const MAX_REJECTED_DID_CHARS = 512;
const MAX_REV_CHARS = 64;
const MAX_REASON_CHARS = 64;
const MAX_DETAIL_CHARS = 500;

export interface FlushResult {
  readonly accounts: number;
  /** Account rows left alone because the stored rev is newer. */
  readonly staleAccounts: number;
  readonly hosts: number;
  readonly rejections: number;
  readonly gaps: number;
  readonly tookMs: number;
}

/**
 * Applies `flush` on a session of which nothing else makes use meanwhile. Rejects with nothing applied; the session
 * must then be given up, which also rolls back.
 */
export const applyFlush = async (session: Session, flush: Flush): Promise<FlushResult> => {
  const startedAt = performance.now();
  const accounts = newestOfEachAccount(flush.accounts);
  const hosts = lastOfEachHost(flush.hosts);
  const rejections = newestPerHost(flush.rejections, MAX_REJECTIONS_PER_HOST);
  const gaps = newestPerHost(flush.gaps, MAX_GAPS_PER_HOST);

  await session.query('begin');
  // weir forgets what it has stored: a server that dies alone, with weir living on, must not have lost it.
  await session.query('set local synchronous_commit = on');
  let written = 0;
  if (accounts.length > 0) await session.query('select pg_advisory_xact_lock($1, $2)', [...APPEND_LOCK_KEY]);
  for (const rows of chunks(accounts))
    written += (await session.query(UPSERT_ACCOUNTS, accountParams(rows))).count;
  for (const rows of chunks(hosts)) await session.query(UPSERT_HOSTS, hostParams(rows));
  for (const rows of chunks(rejections)) await session.query(INSERT_REJECTIONS, rejectionParams(rows));
  for (const rows of chunks(gaps)) await session.query(INSERT_GAPS, gapParams(rows));
  if (rejections.length > 0)
    await session.query(PRUNE_REJECTIONS, [hostIdsOf(rejections), MAX_REJECTIONS_PER_HOST]);
  if (gaps.length > 0) await session.query(PRUNE_GAPS, [hostIdsOf(gaps), MAX_GAPS_PER_HOST]);
  const [answer] = await session.query(ADVANCE_POSITION, [flush.position]);
  // The lock belongs to a server process: being in another one would mean that we write without the right to.
  if (answer?.pid !== session.backendPid) throw new ConnectionLostError('the writing session was replaced');
  await session.query('commit');

  return {
    accounts: written,
    staleAccounts: accounts.length - written,
    hosts: hosts.length,
    rejections: rejections.length,
    gaps: gaps.length,
    tookMs: performance.now() - startedAt,
  };
};

/** Running totals of all flushes, for the metrics. */
export const flushTotals = () => {
  const counters = {
    flushes: 0,
    flushFailures: 0,
    accountsWritten: 0,
    accountsStale: 0,
    hostsWritten: 0,
    rejectionsWritten: 0,
    gapsWritten: 0,
    lastFlushMs: 0,
    flushMsTotal: 0,
  };
  return {
    counters,
    fail() {
      counters.flushFailures++;
    },
    add(result: FlushResult) {
      counters.flushes++;
      counters.accountsWritten += result.accounts;
      counters.accountsStale += result.staleAccounts;
      counters.hostsWritten += result.hosts;
      counters.rejectionsWritten += result.rejections;
      counters.gapsWritten += result.gaps;
      counters.lastFlushMs = result.tookMs;
      counters.flushMsTotal += result.tookMs;
    },
  };
};

/**
 * A row is taken when its rev is not older than the stored one, so that status, identity and host of the same rev
 * are taken too. Its place in listRepos is given with the first rev and stays.
 */
const UPSERT_ACCOUNTS = `
insert into accounts (append_id, did, host_id, own_status, upstream_status, rev, commit_digest, data_digest,
  desynchronized, key_type, key, handle, identity_at_ms)
select case when row.rev is not null then nextval('accounts_append_id') end, row.*
from unnest($1::text[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[],
  $8::boolean[], $9::smallint[], $10::bytea[], $11::text[], $12::bigint[])
  as row (did, host_id, own_status, upstream_status, rev, commit_digest, data_digest,
    desynchronized, key_type, key, handle, identity_at_ms)
on conflict (did) do update set
  append_id = coalesce(accounts.append_id, excluded.append_id),
  host_id = excluded.host_id, own_status = excluded.own_status, upstream_status = excluded.upstream_status,
  rev = excluded.rev, commit_digest = excluded.commit_digest, data_digest = excluded.data_digest,
  desynchronized = excluded.desynchronized, key_type = excluded.key_type, key = excluded.key,
  handle = excluded.handle, identity_at_ms = excluded.identity_at_ms
where accounts.rev is null or excluded.rev >= accounts.rev`;

const accountParams = (rows: readonly AccountRow[]): Param[] => [
  textArray(rows.map((row) => row.did)),
  integerArray(rows.map((row) => row.hostId)),
  textArray(rows.map((row) => optionalText(row.ownStatus, MAX_STATUS_CHARS))),
  textArray(rows.map((row) => optionalText(row.upstreamStatus, MAX_STATUS_CHARS))),
  textArray(rows.map((row) => row.rev)),
  bytesArray(rows.map((row) => row.commit)),
  bytesArray(rows.map((row) => row.data)),
  booleanArray(rows.map((row) => row.desynchronized)),
  integerArray(rows.map((row) => keyTypeNumber(row.keyType))),
  bytesArray(rows.map((row) => row.key)),
  textArray(rows.map((row) => optionalText(row.handle, MAX_HANDLE_CHARS))),
  integerArray(rows.map(identityNumber)),
];

/** Takes `hostParams`. Fails where a host has the id or the hostname. */
export const INSERT_HOSTS = `
insert into hosts (host_id, hostname, secure, source, banned, status, cursor, ahead, account_count, expected_accounts,
  account_limit, events_per_second_limit, validation, created_at_ms, last_event_at_ms, connected_until_ms, failures)
select row.host_id, row.hostname, row.secure, row.source, row.banned, row.status, row.cursor, row.ahead::bigint[],
  row.account_count, row.expected_accounts, row.account_limit, row.events_per_second_limit, row.validation,
  row.created_at_ms, row.last_event_at_ms, row.connected_until_ms, row.failures
from unnest($1::integer[], $2::text[], $3::boolean[], $4::text[], $5::boolean[], $6::text[], $7::bigint[], $8::text[],
  $9::bigint[], $10::bigint[], $11::bigint[], $12::float8[], $13::text[], $14::bigint[], $15::bigint[], $16::bigint[],
  $17::integer[])
  as row (host_id, hostname, secure, source, banned, status, cursor, ahead, account_count, expected_accounts,
    account_limit, events_per_second_limit, validation, created_at_ms, last_event_at_ms, connected_until_ms, failures)`;

const UPSERT_HOSTS = `${INSERT_HOSTS}
on conflict (host_id) do update set
  hostname = excluded.hostname, secure = excluded.secure, source = excluded.source, banned = excluded.banned,
  status = excluded.status, cursor = excluded.cursor, ahead = excluded.ahead,
  account_count = excluded.account_count, expected_accounts = excluded.expected_accounts,
  account_limit = excluded.account_limit, events_per_second_limit = excluded.events_per_second_limit,
  validation = excluded.validation, created_at_ms = excluded.created_at_ms,
  last_event_at_ms = excluded.last_event_at_ms, connected_until_ms = excluded.connected_until_ms,
  failures = excluded.failures`;

export const hostParams = (rows: readonly HostRow[]): Param[] => [
  integerArray(rows.map((row) => row.hostId)),
  textArray(rows.map((row) => row.hostname)),
  booleanArray(rows.map((row) => row.secure)),
  textArray(rows.map((row) => row.source)),
  booleanArray(rows.map((row) => row.banned)),
  textArray(rows.map((row) => storableText(row.status, MAX_STATUS_CHARS))),
  integerArray(rows.map((row) => row.cursor)),
  // An array of arrays must be rectangular in PostgreSQL, so each list travels as text.
  textArray(rows.map((row) => integerArray(row.ahead))),
  integerArray(rows.map((row) => row.accountCount)),
  integerArray(rows.map((row) => row.expectedAccounts)),
  integerArray(rows.map((row) => row.accountLimit)),
  numberArray(rows.map((row) => row.eventsPerSecondLimit)),
  textArray(rows.map((row) => row.validation)),
  integerArray(rows.map((row) => row.createdAtMs)),
  integerArray(rows.map((row) => row.lastEventAtMs)),
  integerArray(rows.map((row) => row.connectedUntilMs)),
  integerArray(rows.map((row) => row.failures)),
];

const INSERT_REJECTIONS = `
insert into rejections (host_id, did, reason, detail, upstream_seq, rev, at_ms)
select * from unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[])`;

// Rejections and gaps explain what hosts sent, and are kept until they are stored: one that is strange must not hold
// up accounts and cursors for ever.
const rejectionParams = (rows: readonly RejectionRow[]): Param[] => [
  integerArray(rows.map((row) => row.hostId)),
  textArray(rows.map((row) => storableText(row.did, MAX_REJECTED_DID_CHARS))),
  textArray(rows.map((row) => storableText(row.reason, MAX_REASON_CHARS))),
  textArray(rows.map((row) => storableText(row.detail, MAX_DETAIL_CHARS))),
  integerArray(rows.map((row) => storableNumber(row.upstreamSeq))),
  textArray(rows.map((row) => storableText(row.rev, MAX_REV_CHARS))),
  integerArray(rows.map((row) => storableNumber(row.atMs))),
];

const INSERT_GAPS = `
insert into gaps (host_id, from_seq, to_seq, why, at_ms)
select * from unnest($1::integer[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[])`;

const gapParams = (rows: readonly GapRow[]): Param[] => [
  integerArray(rows.map((row) => row.hostId)),
  integerArray(rows.map((row) => storableNumber(row.fromSeq))),
  integerArray(rows.map((row) => storableNumber(row.toSeq))),
  textArray(rows.map((row) => storableText(row.why, MAX_DETAIL_CHARS))),
  integerArray(rows.map((row) => storableNumber(row.atMs))),
];

const pruneOldest = (table: 'rejections' | 'gaps'): string => `
delete from ${table} using (
  select host.host_id, (select kept.id from ${table} as kept where kept.host_id = host.host_id
    order by kept.id desc offset $2 limit 1) as id
  from unnest($1::integer[]) as host (host_id)
) as last
where ${table}.host_id = last.host_id and ${table}.id <= last.id`;

const PRUNE_REJECTIONS = pruneOldest('rejections');
const PRUNE_GAPS = pruneOldest('gaps');

const ADVANCE_POSITION = `
insert into state_position (position) values ($1)
on conflict (only_row) do update set position = greatest(state_position.position, excluded.position)
returning pg_backend_pid() as pid`;

const optionalText = (text: string | null, maxChars: number): string | null =>
  text === null ? null : storableText(text, maxChars);

const hostIdsOf = (rows: readonly { hostId: number }[]): string =>
  integerArray([...new Set(rows.map((row) => row.hostId))]);

function* chunks<T>(rows: readonly T[]): Generator<readonly T[]> {
  if (rows.length <= MAX_ROWS_PER_STATEMENT) {
    if (rows.length > 0) yield rows;
    return;
  }
  for (let from = 0; from < rows.length; from += MAX_ROWS_PER_STATEMENT)
    yield rows.slice(from, from + MAX_ROWS_PER_STATEMENT);
}

/** One statement may touch a row only once: of several rows of an account, the last that is not older wins. */
const newestOfEachAccount = (rows: readonly AccountRow[]): readonly AccountRow[] => {
  const newest = new Map<string, AccountRow>();
  for (const row of rows) {
    const other = newest.get(row.did);
    if (other?.rev == null || (row.rev !== null && row.rev >= other.rev)) newest.set(row.did, row);
  }
  return newest.size === rows.length ? rows : [...newest.values()];
};

const lastOfEachHost = (rows: readonly HostRow[]): readonly HostRow[] => {
  const last = new Map<number, HostRow>();
  for (const row of rows) last.set(row.hostId, row);
  return last.size === rows.length ? rows : [...last.values()];
};

/** Does not write what pruning would delete at once: one host may send a million bad frames between two flushes. */
const newestPerHost = <T extends { hostId: number }>(
  rows: readonly T[],
  maxPerHost: number,
): readonly T[] => {
  if (rows.length <= maxPerHost) return rows;
  const seen = new Map<number, number>();
  const kept: T[] = [];
  for (let i = rows.length - 1; i >= 0; i--) {
    const row = rows[i]!;
    const count = seen.get(row.hostId) ?? 0;
    if (count >= maxPerHost) continue;
    seen.set(row.hostId, count + 1);
    kept.push(row);
  }
  return kept.reverse();
};
