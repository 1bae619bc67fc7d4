/**
 * What hosts' listRepos tell, in the relay's account list. It fills in accounts of which the relay has seen nothing,
 * and never touches what came from the firehose: the listed rev and commit stand in columns of their own, a status
 * is only written to a row that the relay itself has not written, and whatever the relay writes later replaces it.
 *
 * The relay may be writing the same rows at the same moment: one lock lets the two take turns, and gives listRepos
 * its order. We hold it for one page, and give up waiting for it sooner than PostgreSQL looks for deadlocks.
 */
import { APPEND_LOCK_KEY, type Param, type Session, type Writer } from '../state/connections.ts';
import { bytesArray, integerArray, storableText, textArray } from '../state/literals.ts';

/** One account as its host lists it. */
export interface ListedAccount {
  readonly did: string;
  readonly hostId: number;
  /** null = active. */
  readonly status: string | null;
  /** A TID, not in the future. */
  readonly rev: string;
  /** Digest of the commit's CID. */
  readonly commit: Uint8Array;
}

/** PostgreSQL looks for deadlocks after one second, and may then end the relay's transaction instead of ours. */
const LOCK_TIMEOUT_MS = 250;
const MAX_TRIES = 5;
const DEADLINE_MS = 60_000;
const MAX_STATUS_CHARS = 64;
/** SQLSTATE of a statement that waited for a lock too long, or was in a deadlock. */
const LOCKED_CODES: ReadonlySet<unknown> = new Set(['55P03', '40P01']);

/**
 * `rev is null and identity_at_ms = 0`: nothing but an earlier listing wrote the row. Of two hosts that list an
 * account, the one that has it active counts: the other is where it moved away from.
 */
const UPSERT_LISTED = `
insert into accounts (append_id, did, host_id, upstream_status, listed_rev, listed_commit, desynchronized, identity_at_ms)
select nextval('accounts_append_id'), row.did, row.host_id, row.status, row.rev, row.commit, false, 0
from unnest($1::text[], $2::integer[], $3::text[], $4::text[], $5::bytea[]) as row (did, host_id, status, rev, commit)
on conflict (did) do update set
  append_id = coalesce(accounts.append_id, excluded.append_id),
  listed_rev = excluded.listed_rev, listed_commit = excluded.listed_commit,
  host_id = case when accounts.identity_at_ms = 0 then excluded.host_id else accounts.host_id end,
  upstream_status = case when accounts.identity_at_ms = 0 then excluded.upstream_status else accounts.upstream_status end
where accounts.rev is null
  and (accounts.listed_rev is null or excluded.listed_rev >= accounts.listed_rev)
  and (excluded.upstream_status is null or accounts.host_id = excluded.host_id or accounts.upstream_status is not null)
  and (accounts.listed_rev, accounts.host_id, accounts.upstream_status)
    is distinct from (excluded.listed_rev, excluded.host_id, excluded.upstream_status)`;

const paramsOf = (rows: readonly ListedAccount[]): Param[] => [
  textArray(rows.map((row) => row.did)),
  integerArray(rows.map((row) => row.hostId)),
  textArray(rows.map((row) => (row.status === null ? null : storableText(row.status, MAX_STATUS_CHARS)))),
  textArray(rows.map((row) => row.rev)),
  bytesArray(rows.map((row) => row.commit)),
];

/**
 * Writes a page of accounts.
 * @param rows at most a page (1,000)
 * @returns how many rows were new or changed; null: the rows were locked by the relay for as long as we tried
 */
export const writeListedAccounts = async (
  writer: Writer,
  rows: readonly ListedAccount[],
  sleep: (delayMs: number) => Promise<void> = Bun.sleep,
): Promise<number | null> => {
  if (rows.length === 0) return 0;
  const unique = [...new Map(rows.map((row) => [row.did, row])).values()].sort((a, b) =>
    a.did < b.did ? -1 : 1,
  );
  const attempt = (session: Session): Promise<number | null> =>
    (async () => {
      await session.query('begin');
      try {
        await session.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
        await session.query('select pg_advisory_xact_lock($1, $2)', [...APPEND_LOCK_KEY]);
        const { count } = await session.query(UPSERT_LISTED, paramsOf(unique));
        await session.query('commit');
        return count;
      } catch (error) {
        // What rejects costs the session and its lock; this is nothing worse than a wait.
        if (!LOCKED_CODES.has((error as { code?: unknown }).code)) throw error;
        await session.query('rollback');
        return null;
      }
    })();
  for (let tries = 1; ; tries++) {
    const written = await writer.run(DEADLINE_MS, attempt);
    if (written !== null || tries >= MAX_TRIES) return written;
    await sleep(LOCK_TIMEOUT_MS * tries);
  }
};
