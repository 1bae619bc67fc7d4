/**
 * Connections to PostgreSQL: one writing session that holds the right to write, and small pools for reading.
 *
 * A connection that failed is thrown away with its client and a new one is made at the next use. The driver would
 * reconnect by itself, but then a transaction could go on in another session, without its beginning and without the
 * writer's lock; and in driver version 3.4.9 a write pending at the moment of the close wedges the connection, and
 * `sql.begin` then throws outside of any promise.
 */

import postgres from 'postgres';
import type { SocketDatabase, StateLog } from './embedded.ts';
import { parseBigint, parseIntegerArray } from './literals.ts';

/** A connection string (postgres://…) of an operator's server, or the socket of the embedded one. */
export type DatabaseAddress = string | SocketDatabase;

/** A value that PostgreSQL reads by the type of its place in the query. */
export type Param = string | number | boolean | null | Uint8Array;

export interface Rows extends ReadonlyArray<Record<string, unknown>> {
  /** Rows changed by an insert, update or delete. */
  readonly count: number;
}

/** One query on one live session; rejects when that session is gone, and never moves on to another. */
export interface Session {
  query(text: string, params?: readonly Param[]): Promise<Rows>;
  /** The server process behind this session. */
  readonly backendPid: number;
}

/** The right to write is taken for good by another weir. */
export class DatabaseInUseError extends Error {}
/** The session was lost; whether the work was done is not known. */
export class ConnectionLostError extends Error {}
/** So many queries wait for the database that one more was not asked. */
export class TooManyQueriesError extends Error {}

/** Whether this failed because the database is away or does not keep up, as opposed to a fault of the query. */
export const isDatabaseAway = (error: unknown): boolean => {
  for (let cause = error; cause instanceof Error; cause = cause.cause)
    if (cause instanceof ConnectionLostError || cause instanceof TooManyQueriesError) return true;
  return false;
};

/** An advisory lock, which is per database and ends with the session that holds it. */
export interface SessionLock {
  /** 'weir' in ASCII, and the number of the lock among ours. */
  readonly key: readonly [number, number];
  /** What whoever does not get it is told. */
  readonly taken: string;
}

/** The right to write the tables of the state. */
export const WRITER_LOCK: SessionLock = {
  key: [0x77656972, 1],
  taken:
    'Another weir is writing to this database. Stop it, or give this one its own database (DATABASE_URL).',
};
/** Held by a transaction that appends accounts, see `accountsAppendId` of the schema. */
export const APPEND_LOCK_KEY = [0x77656972, 3] as const;
/** The right to work on a backfill, beside a relay that writes its state. */
export const BACKFILL_LOCK: SessionLock = {
  key: [0x77656972, 2],
  taken: 'A backfill is already running on this database. See `bun run backfill --status`.',
};
const LOCK_POLL_MS = 100;
const CONNECT_TIMEOUT_S = 10;
/** A query over this is taken for a dead connection. Migrations and repairs have their own. */
const READ_DEADLINE_MS = 30_000;

/** Rejects after the deadline, and with the reason of `signal` when that aborts before it. */
const rejectAfter = (
  deadlineMs: number,
  signal?: AbortSignal,
): { promise: Promise<never>; cancel: () => void } => {
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal!.reason);
  if (signal?.aborted) abort();
  signal?.addEventListener('abort', abort, { once: true });
  const timer = setTimeout(
    () => reject(new ConnectionLostError(`PostgreSQL did not answer within ${deadlineMs} ms`)),
    deadlineMs,
  );
  return {
    promise,
    cancel() {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    },
  };
};

const numbers = {
  bigint: { to: 20, from: [20], serialize: String, parse: parseBigint },
  bigints: { to: 1016, from: [1016], serialize: String, parse: parseIntegerArray },
  bytea: {
    to: 17,
    from: [17],
    serialize: (bytes: Uint8Array) => `\\x${bytes.toHex()}`,
    parse: (text: string) => Uint8Array.fromHex(text.slice(2)),
  },
};

/**
 * Of each session. Plans are made for each query and not kept: one made while the tables were empty reads them whole,
 * and was kept until the first analyze, a minute later.
 */
const SETTINGS = { application_name: 'weir', plan_cache_mode: 'force_custom_plan' } as const;

const createClient = (address: DatabaseAddress, max: number, onclose: () => void): postgres.Sql => {
  const options = {
    max,
    types: numbers as unknown as Record<string, postgres.PostgresType>,
    fetch_types: false,
    onnotice: () => {},
    onclose,
    connect_timeout: CONNECT_TIMEOUT_S,
    max_lifetime: null,
    backoff: () => 0.05,
  };
  if (typeof address === 'string')
    return postgres(address, {
      ...options,
      connection: {
        ...SETTINGS,
        // A weir that vanished with its machine gives the writer's lock back after about a minute.
        tcp_keepalives_idle: 30,
        tcp_keepalives_interval: 10,
        tcp_keepalives_count: 3,
      },
    });
  return postgres({
    ...options,
    path: address.path,
    // Never looked up: the path is used. Said all the same, so that PGHOST of the environment is not.
    host: 'localhost',
    user: address.user,
    database: address.database,
    pass: '',
    ssl: false,
    connection: SETTINGS,
  } as postgres.Options<Record<string, postgres.PostgresType>>);
};

const discard = (client: postgres.Sql, graceS: number): void => {
  client.end({ timeout: graceS }).catch(() => {});
};

/** Whether the server refused the query and its session lives on, as opposed to a connection that is gone. */
const isRefusal = (error: unknown): boolean =>
  error instanceof postgres.PostgresError &&
  !/^(FATAL|PANIC)$/.test(error.severity) &&
  !/^(08|57P)/.test(error.code);

const asParams = (params: readonly Param[]): postgres.ParameterOrJSON<never>[] =>
  params as unknown as postgres.ParameterOrJSON<never>[];

export interface Pool {
  query(text: string, params?: readonly Param[]): Promise<Rows>;
  readonly stats: { waiting: number; failures: number; turnedAway: number };
  close(): Promise<void>;
}

/**
 * Single statements, each on whichever connection is free.
 * @param maxWaiting queries asked and not answered; one more is rejected at once
 */
export const createPool = (address: DatabaseAddress, maxConnections: number, maxWaiting: number): Pool => {
  let client: postgres.Sql | null = null;
  let closed = false;
  const stats = { waiting: 0, failures: 0, turnedAway: 0 };

  const run = async <T>(ask: (sql: postgres.Sql) => Promise<T>): Promise<T> => {
    if (closed) throw new ConnectionLostError('the state is closed');
    if (stats.waiting >= maxWaiting) {
      stats.turnedAway++;
      throw new TooManyQueriesError(`more than ${maxWaiting} database queries are waiting`);
    }
    client ??= createClient(address, maxConnections, () => {});
    const mine = client;
    const deadline = rejectAfter(READ_DEADLINE_MS);
    stats.waiting++;
    try {
      return await Promise.race([ask(mine), deadline.promise]);
    } catch (error) {
      stats.failures++;
      if (isRefusal(error)) throw error;
      if (client === mine) {
        client = null;
        discard(mine, 5);
      }
      if (error instanceof ConnectionLostError) throw error;
      throw new ConnectionLostError(error instanceof Error ? error.message : String(error), { cause: error });
    } finally {
      stats.waiting--;
      deadline.cancel();
    }
  };

  return {
    query: (text, params = []) =>
      run(async (sql) => (await sql.unsafe(text, asParams(params), { prepare: true })) as unknown as Rows),
    stats,
    async close() {
      closed = true;
      await client?.end({ timeout: 5 });
      client = null;
    },
  };
};

export interface Writer {
  /**
   * Runs `work` on the writing session, alone. Whatever rejects costs the session: the server rolls back what was
   * not committed, and the next work gets a new session that has taken the lock anew. So does `signal`, at once.
   */
  run<T>(deadlineMs: number, work: (session: Session) => Promise<T>, signal?: AbortSignal): Promise<T>;
  readonly stats: { sessions: number };
  close(): Promise<void>;
}

interface OpenSession extends Session {
  isAlive(): boolean;
  end(graceS: number): Promise<void>;
}

/** The one session that may write: it holds an advisory lock of the database as long as it lives. */
export const createWriter = (
  address: DatabaseAddress,
  log: StateLog,
  lockWaitMs: number,
  lock: SessionLock = WRITER_LOCK,
): Writer => {
  let session: OpenSession | null = null;
  let last: Promise<unknown> = Promise.resolve();
  let closed = false;
  const stats = { sessions: 0 };

  const alone = async <T>(
    deadlineMs: number,
    work: (session: Session) => Promise<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> => {
    if (closed) throw new ConnectionLostError('the state is closed');
    if (session === null || !session.isAlive()) {
      session = null;
      session = await openSession(address, lockWaitMs, lock, signal);
      if (stats.sessions++ > 0) log('info', 'connected to PostgreSQL again');
    }
    const mine = session;
    const deadline = rejectAfter(deadlineMs, signal);
    try {
      return await Promise.race([work(mine), deadline.promise]);
    } catch (error) {
      session = null;
      await mine.end(0).catch(() => {});
      throw error;
    } finally {
      deadline.cancel();
    }
  };

  return {
    run(deadlineMs, work, signal) {
      const mine = last.then(() => alone(deadlineMs, work, signal));
      last = mine.catch(() => {});
      return mine;
    },
    stats,
    async close() {
      await last;
      closed = true;
      await session?.end(5);
      session = null;
    },
  };
};

const openSession = async (
  address: DatabaseAddress,
  lockWaitMs: number,
  lock: SessionLock,
  signal: AbortSignal | undefined,
): Promise<OpenSession> => {
  let alive = true;
  const client = createClient(address, 1, () => {
    alive = false;
  });
  const guard = (): void => {
    if (!alive) throw new ConnectionLostError('the connection to PostgreSQL was lost');
  };
  const startedAt = performance.now();
  try {
    for (;;) {
      guard();
      const deadline = rejectAfter(READ_DEADLINE_MS, signal);
      const answer = await Promise.race([
        client.unsafe<{ pid: number; locked: boolean }[]>(
          `select pg_backend_pid() as pid, pg_try_advisory_lock(${lock.key.join(', ')}) as locked`,
        ),
        deadline.promise,
      ]).finally(deadline.cancel);
      const { pid, locked } = answer[0]!;
      if (locked)
        return {
          backendPid: pid,
          isAlive: () => alive,
          async query(text, params = []) {
            guard();
            return (await client.unsafe(text, asParams(params), { prepare: true })) as unknown as Rows;
          },
          async end(graceS) {
            alive = false;
            await client.end({ timeout: graceS });
          },
        };
      if (performance.now() - startedAt >= lockWaitMs) throw new DatabaseInUseError(lock.taken);
      await Bun.sleep(LOCK_POLL_MS);
    }
  } catch (error) {
    alive = false;
    discard(client, 0);
    throw error;
  }
};
