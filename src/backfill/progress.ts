/**
 * How far a run has come, in PostgreSQL. Written after what it reflects is in the index and the account list: a kill
 * at any point makes a run repeat some pages, and never lose one. Written only by the process that holds the
 * backfill's lock, but for the operator's wish (`wanted`), which any process may write.
 */
import { BACKFILL_LOCK, type Param, type Pool, type Session, type Writer } from '../state/connections.ts';
import { booleanArray, integerArray, storableText, textArray } from '../state/literals.ts';
import type { BackfillReason } from './reasons.ts';
import {
  type BackfillCounters,
  type BackfillSpec,
  type BackfillStatus,
  type NewSource,
  noCounters,
  type QueuedRepo,
  type RunRow,
  type RunState,
  type SourceRow,
  type SourceState,
  type WantedState,
} from './types.ts';

/** Rows per statement. */
const MAX_ROWS_PER_STATEMENT = 1_000;
/** Runs that are remembered, with their sources; older ones go when a new one begins. */
export const MAX_RUNS_KEPT = 10;
/** Sources that a status names. */
export const MAX_SHOWN_SOURCES = 50;
const MAX_DETAIL_CHARS = 300;
const WRITE_DEADLINE_MS = 60_000;
/** A list of millions of DIDs takes its time. */
const CREATE_DEADLINE_MS = 600_000;

/** A queued repo that was tried without success. */
export interface RepoLater {
  readonly queueId: number;
  readonly attempts: number;
  readonly retryAtMs: number;
  readonly givenUp: boolean;
  readonly reason: BackfillReason;
  readonly detail: string;
}

/** A repo that failed within a source, to be tried by itself. */
export interface RepoQueued {
  readonly did: string;
  readonly attempts: number;
  readonly retryAtMs: number;
  readonly givenUp: boolean;
  readonly reason: BackfillReason | null;
  readonly detail: string;
}

/** What one transaction stores. `counters` are the totals of the run with all this in them. */
export interface Checkpoint {
  readonly counters: BackfillCounters;
  readonly sources?: readonly SourceRow[];
  readonly reposDone?: readonly number[];
  readonly reposLater?: readonly RepoLater[];
  readonly reposQueued?: readonly RepoQueued[];
}

export interface Progress {
  /** The last run that is neither finished nor cancelled. */
  unfinished(): Promise<RunRow | null>;
  last(): Promise<RunRow | null>;
  /** Stores a new run; DIDs go to its queue. Runs that were unfinished are cancelled: only one is ever resumed. */
  create(spec: BackfillSpec, startedBy: RunRow['startedBy'], nowMs: number): Promise<RunRow>;
  /** Stores the sources of a run, once: a plan that was cut short is made again, and known names are left alone. */
  plan(runId: number, sources: readonly NewSource[], repos: readonly string[], nowMs: number): Promise<void>;
  sources(runId: number): Promise<SourceRow[]>;
  commit(runId: number, checkpoint: Checkpoint, nowMs: number): Promise<void>;
  /** Says that somebody works on the run, and hears what the operator wants. */
  beat(runId: number, nowMs: number): Promise<WantedState>;
  setState(runId: number, state: RunState, wanted: WantedState, nowMs: number): Promise<void>;
  /** Queued repos whose time has come, without `inFlight`. */
  dueRepos(runId: number, nowMs: number, inFlight: readonly number[], limit: number): Promise<QueuedRepo[]>;
  /** Repos not yet read, when the next of them is due, and those given up. */
  queue(
    runId: number,
  ): Promise<{ readonly left: number; readonly nextAtMs: number | null; readonly givenUp: number }>;
  /** Puts what was given up back; answers how many sources and repos. */
  retryFailed(runId: number, nowMs: number): Promise<number>;
}

const specOf = (text: unknown): BackfillSpec => JSON.parse(String(text)) as BackfillSpec;

const countersOf = (text: unknown): BackfillCounters => ({
  ...noCounters(),
  ...(JSON.parse(String(text)) as BackfillCounters),
});

const runOf = (row: Record<string, unknown>): RunRow => ({
  runId: row.run_id as number,
  spec: specOf(row.spec),
  startedBy: row.started_by as RunRow['startedBy'],
  createdAtMs: row.created_at_ms as number,
  updatedAtMs: row.updated_at_ms as number,
  finishedAtMs: row.finished_at_ms as number | null,
  state: row.state as RunState,
  wanted: row.wanted as WantedState,
  planned: row.planned as boolean,
  counters: countersOf(row.counters),
});

const sourceOf = (row: Record<string, unknown>): SourceRow => ({
  sourceId: row.source_id as number,
  name: row.name as string,
  group: row.group_name as string,
  state: row.state as SourceState,
  cursor: row.cursor as string | null,
  done: row.done as number,
  total: row.total as number | null,
  pages: row.pages as number,
  attempts: row.attempts as number,
  retryAtMs: row.retry_at_ms as number,
  reason: row.reason as BackfillReason | null,
  detail: row.detail as string,
});

const detailText = (text: string): string => storableText(text, MAX_DETAIL_CHARS);

function* chunks<T>(rows: readonly T[]): Generator<readonly T[]> {
  for (let from = 0; from < rows.length; from += MAX_ROWS_PER_STATEMENT)
    yield rows.slice(from, from + MAX_ROWS_PER_STATEMENT);
}

const LAST_RUN = 'select * from backfill_runs order by run_id desc limit 1';

const INSERT_SOURCES = `
insert into backfill_sources (run_id, name, group_name, total, done, pages, retry_at_ms, attempts, state, detail)
select $1, row.name, row.group_name, row.total, 0, 0, 0, 0, 'waiting', ''
from unnest($2::text[], $3::text[], $4::bigint[]) as row (name, group_name, total)
on conflict (run_id, name) do nothing`;

const INSERT_REPOS = `
insert into backfill_repos (run_id, did, attempts, retry_at_ms, given_up, reason, detail)
select $1, row.did, row.attempts, row.retry_at_ms, row.given_up, row.reason, row.detail
from unnest($2::text[], $3::integer[], $4::bigint[], $5::boolean[], $6::text[], $7::text[])
  as row (did, attempts, retry_at_ms, given_up, reason, detail)
on conflict (run_id, did) do update set attempts = excluded.attempts, retry_at_ms = excluded.retry_at_ms,
  given_up = excluded.given_up, reason = excluded.reason, detail = excluded.detail`;

const UPDATE_SOURCES = `
update backfill_sources as source set state = row.state, cursor = row.cursor, done = row.done, total = row.total,
  pages = row.pages, attempts = row.attempts, retry_at_ms = row.retry_at_ms, reason = row.reason, detail = row.detail
from unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::integer[],
  $8::bigint[], $9::text[], $10::text[])
  as row (source_id, state, cursor, done, total, pages, attempts, retry_at_ms, reason, detail)
where source.source_id = row.source_id`;

const UPDATE_REPOS = `
update backfill_repos as repo set attempts = row.attempts, retry_at_ms = row.retry_at_ms, given_up = row.given_up,
  reason = row.reason, detail = row.detail
from unnest($1::bigint[], $2::integer[], $3::bigint[], $4::boolean[], $5::text[], $6::text[])
  as row (queue_id, attempts, retry_at_ms, given_up, reason, detail)
where repo.queue_id = row.queue_id`;

const repoParams = (rows: readonly (RepoLater | RepoQueued)[]): Param[] => [
  integerArray(rows.map((row) => row.attempts)),
  integerArray(rows.map((row) => row.retryAtMs)),
  booleanArray(rows.map((row) => row.givenUp)),
  textArray(rows.map((row) => row.reason)),
  textArray(rows.map((row) => detailText(row.detail))),
];

const sourceParams = (rows: readonly SourceRow[]): Param[] => [
  integerArray(rows.map((row) => row.sourceId)),
  textArray(rows.map((row) => row.state)),
  textArray(rows.map((row) => row.cursor)),
  integerArray(rows.map((row) => row.done)),
  integerArray(rows.map((row) => row.total)),
  integerArray(rows.map((row) => row.pages)),
  integerArray(rows.map((row) => row.attempts)),
  integerArray(rows.map((row) => row.retryAtMs)),
  textArray(rows.map((row) => row.reason)),
  textArray(rows.map((row) => detailText(row.detail))),
];

const insertRepos = async (session: Session, runId: number, rows: readonly RepoQueued[]): Promise<void> => {
  // One statement may touch a row only once.
  const unique = [...new Map(rows.map((row) => [row.did, row])).values()];
  for (const some of chunks(unique))
    await session.query(INSERT_REPOS, [runId, textArray(some.map((row) => row.did)), ...repoParams(some)]);
};

const freshRepo = (did: string, nowMs: number): RepoQueued => ({
  did,
  attempts: 0,
  retryAtMs: nowMs,
  givenUp: false,
  reason: null,
  detail: '',
});

/** @param writer a session that holds BACKFILL_LOCK */
export const createProgress = (writer: Writer): Progress => {
  const write = <T>(work: (session: Session) => Promise<T>, deadlineMs = WRITE_DEADLINE_MS): Promise<T> =>
    writer.run(deadlineMs, work);
  const atomically = <T>(work: (session: Session) => Promise<T>, deadlineMs?: number): Promise<T> =>
    write(async (session) => {
      await session.query('begin');
      const result = await work(session);
      await session.query('commit');
      return result;
    }, deadlineMs);

  const last = async (session: Session): Promise<RunRow | null> => {
    const [row] = await session.query(LAST_RUN);
    return row === undefined ? null : runOf(row);
  };

  return {
    last: () => write(last),

    async unfinished() {
      const run = await write(last);
      return run === null || run.state === 'finished' || run.state === 'cancelled' ? null : run;
    },

    create: (spec, startedBy, nowMs) =>
      atomically(async (session) => {
        await session.query(
          "update backfill_runs set state = 'cancelled', wanted = 'cancel', finished_at_ms = $1 where state in ('running', 'paused')",
          [nowMs],
        );
        const [oldest] = await session.query(
          'select run_id from backfill_runs order by run_id desc offset $1 limit 1',
          [MAX_RUNS_KEPT - 1],
        );
        if (oldest !== undefined)
          for (const table of ['backfill_repos', 'backfill_sources', 'backfill_runs'])
            await session.query(`delete from ${table} where run_id <= $1`, [oldest.run_id as number]);
        // The queue of a run that is not resumed any more may be long, and is of no use.
        await session.query('delete from backfill_repos where not given_up');
        const stored: BackfillSpec = spec.kind === 'dids' ? { ...spec, dids: [] } : spec;
        const [row] = await session.query(
          `insert into backfill_runs (created_at_ms, updated_at_ms, planned, spec, started_by, state, wanted, counters)
           values ($1, $1, false, $2, $3, 'running', 'run', $4) returning *`,
          [nowMs, JSON.stringify(stored), startedBy, JSON.stringify(noCounters())],
        );
        const run = runOf(row!);
        if (spec.kind === 'dids')
          await insertRepos(
            session,
            run.runId,
            spec.dids.map((did) => freshRepo(did, nowMs)),
          );
        return run;
      }, CREATE_DEADLINE_MS),

    plan: (runId, sources, repos, nowMs) =>
      atomically(async (session) => {
        const unique = [...new Map(sources.map((source) => [source.name, source])).values()];
        for (const some of chunks(unique))
          await session.query(INSERT_SOURCES, [
            runId,
            textArray(some.map((source) => source.name)),
            textArray(some.map((source) => source.group)),
            integerArray(some.map((source) => source.total)),
          ]);
        await insertRepos(
          session,
          runId,
          repos.map((did) => freshRepo(did, nowMs)),
        );
        await session.query('update backfill_runs set planned = true, updated_at_ms = $2 where run_id = $1', [
          runId,
          nowMs,
        ]);
      }, CREATE_DEADLINE_MS),

    async sources(runId) {
      const rows = await write((session) =>
        session.query('select * from backfill_sources where run_id = $1 order by source_id', [runId]),
      );
      return rows.map(sourceOf);
    },

    commit: (runId, checkpoint, nowMs) =>
      atomically(async (session) => {
        for (const some of chunks(checkpoint.sources ?? []))
          await session.query(UPDATE_SOURCES, sourceParams(some));
        for (const some of chunks(checkpoint.reposDone ?? []))
          await session.query('delete from backfill_repos where queue_id = any($1::bigint[])', [
            integerArray(some),
          ]);
        for (const some of chunks(checkpoint.reposLater ?? []))
          await session.query(UPDATE_REPOS, [
            integerArray(some.map((row) => row.queueId)),
            ...repoParams(some),
          ]);
        await insertRepos(session, runId, checkpoint.reposQueued ?? []);
        await session.query('update backfill_runs set counters = $2, updated_at_ms = $3 where run_id = $1', [
          runId,
          JSON.stringify(checkpoint.counters),
          nowMs,
        ]);
      }),

    async beat(runId, nowMs) {
      const [row] = await write((session) =>
        session.query('update backfill_runs set updated_at_ms = $2 where run_id = $1 returning wanted', [
          runId,
          nowMs,
        ]),
      );
      return (row?.wanted as WantedState | undefined) ?? 'cancel';
    },

    async setState(runId, state, wanted, nowMs) {
      const isFinal = state === 'finished' || state === 'cancelled';
      await write((session) =>
        session.query(
          'update backfill_runs set state = $2, wanted = $3, updated_at_ms = $4, finished_at_ms = $5 where run_id = $1',
          [runId, state, wanted, nowMs, isFinal ? nowMs : null],
        ),
      );
    },

    async dueRepos(runId, nowMs, inFlight, limit) {
      const rows = await write((session) =>
        session.query(
          `select queue_id, did, attempts from backfill_repos
           where run_id = $1 and not given_up and retry_at_ms <= $2 and queue_id <> all($3::bigint[])
           order by retry_at_ms, queue_id limit $4`,
          [runId, nowMs, integerArray(inFlight), limit],
        ),
      );
      return rows.map((row) => ({
        queueId: row.queue_id as number,
        did: row.did as string,
        attempts: row.attempts as number,
      }));
    },

    async queue(runId) {
      const [row] = await write((session) =>
        session.query(
          `select count(*) filter (where not given_up) as left_over, min(retry_at_ms) filter (where not given_up) as next,
             count(*) filter (where given_up) as given_up
           from backfill_repos where run_id = $1`,
          [runId],
        ),
      );
      return {
        left: row!.left_over as number,
        nextAtMs: row!.next as number | null,
        givenUp: row!.given_up as number,
      };
    },

    retryFailed: (runId, nowMs) =>
      atomically(async (session) => {
        const sources = await session.query(
          "update backfill_sources set state = 'waiting', attempts = 0, retry_at_ms = 0 where run_id = $1 and state = 'failed'",
          [runId],
        );
        const repos = await session.query(
          'update backfill_repos set given_up = false, attempts = 0, retry_at_ms = $2 where run_id = $1 and given_up',
          [runId, nowMs],
        );
        if (sources.count + repos.count > 0)
          await session.query(
            "update backfill_runs set state = 'paused', wanted = 'pause', finished_at_ms = null where run_id = $1",
            [runId],
          );
        return sources.count + repos.count;
      }),
  };
};

type Query = Pick<Pool, 'query'>['query'];

/** Whether some process works on a backfill of this database. */
export const isBackfillRunning = async (query: Query): Promise<boolean> => {
  const [row] = await query(
    `select exists (select from pg_locks where locktype = 'advisory' and objsubid = 2 and granted
       and classid = $1::bigint::oid and objid = $2::bigint::oid
       and database = (select oid from pg_database where datname = current_database())) as running`,
    [...BACKFILL_LOCK.key],
  );
  return row!.running as boolean;
};

/** Tells the process that works on the last unfinished run what is wanted. Answers its number; null: there is none. */
export const wantOfRun = async (query: Query, wanted: WantedState): Promise<number | null> => {
  const [row] = await query(
    `update backfill_runs set wanted = $1
     where run_id = (select max(run_id) from backfill_runs) and (state = 'running' or (state = 'paused' and $2))
     returning run_id`,
    [wanted, wanted !== 'pause'],
  );
  return row === undefined ? null : (row.run_id as number);
};

/** Ends an unfinished run that nobody works on. Answers its number; null: there is none. */
export const cancelIdleRun = async (query: Query, nowMs: number): Promise<number | null> => {
  const [row] = await query(
    `update backfill_runs set wanted = 'cancel', state = 'cancelled', finished_at_ms = $1, updated_at_ms = $1
     where run_id = (select max(run_id) from backfill_runs) and state in ('running', 'paused') returning run_id`,
    [nowMs],
  );
  return row === undefined ? null : (row.run_id as number);
};

const SHOWN_SOURCES = `
select * from backfill_sources where run_id = $1 and (state in ('failed', 'parked') or (state = 'waiting' and pages > 0))
order by case state when 'failed' then 0 when 'parked' then 1 else 2 end, source_id limit $2`;

/** The last run, as it is stored. null: there was none, or the tables are not there yet. */
export const readStatus = async (query: Query): Promise<BackfillStatus | null> => {
  const [known] = await query("select to_regclass('backfill_runs') is not null as known");
  if (known!.known !== true) return null;
  const [found] = await query(LAST_RUN);
  if (found === undefined) return null;
  const run = runOf(found);
  const totals = await query(
    `select state, count(*) as sources, sum(done)::bigint as done,
       sum(greatest(total, done)) filter (where total is not null)::bigint as total,
       count(*) filter (where total is null) as unknown
     from backfill_sources where run_id = $1 group by state`,
    [run.runId],
  );
  const [queue] = await query(
    `select count(*) filter (where not given_up) as left_over, count(*) filter (where given_up) as given_up
     from backfill_repos where run_id = $1`,
    [run.runId],
  );
  const sources: Record<SourceState, number> = { waiting: 0, parked: 0, done: 0, failed: 0 };
  let done = 0;
  let total = 0;
  let unknown = 0;
  for (const row of totals) {
    sources[row.state as SourceState] = row.sources as number;
    done += row.done as number;
    total += (row.total as number | null) ?? 0;
    unknown += row.unknown as number;
  }
  const shown = (await query(SHOWN_SOURCES, [run.runId, MAX_SHOWN_SOURCES])).map(sourceOf);
  const interrupted = run.state === 'running' && !(await isBackfillRunning(query));
  return {
    runId: run.runId,
    kind: run.spec.kind,
    startedBy: run.startedBy,
    state: interrupted ? 'interrupted' : run.state,
    wanted: run.wanted,
    createdAtMs: run.createdAtMs,
    updatedAtMs: run.updatedAtMs,
    finishedAtMs: run.finishedAtMs,
    counters: run.counters,
    sources,
    done,
    total: unknown > 0 || totals.length === 0 ? null : total,
    queuedRepos: queue!.left_over as number,
    failedRepos: queue!.given_up as number,
    shown: shown.map(({ name, group, state, done, total, attempts, retryAtMs, reason, detail }) => ({
      name,
      group,
      state,
      done,
      total,
      attempts,
      retryAtMs,
      reason,
      detail,
    })),
  };
};
