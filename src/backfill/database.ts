/**
 * The database of a backfill: the operator's, or the embedded one, which a running relay may have started already.
 * Never waits for the relay and never takes anything from it: it is a second client beside it.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import {
  createPool,
  createWriter,
  type DatabaseAddress,
  DatabaseInUseError,
  type Pool,
} from '../state/connections.ts';
import { type SocketDatabase, type StateLog, startEmbeddedPostgres } from '../state/embedded.ts';
import { migrate } from '../state/migrate.ts';
import { isPostmasterOf, readPostmaster, SOCKET_NAME } from '../state/postmaster.ts';

const POOL_CONNECTIONS = 1;
const MAX_WAITING_QUERIES = 64;
/** A server that recovers from a crash may take longer; then the start is tried again by hand. */
const STARTING_WAIT_MS = 60_000;
const POLL_MS = 100;
const MIGRATE_DEADLINE_MS = 3_600_000;

export interface BackfillDatabase {
  readonly address: DatabaseAddress;
  /** For reading, beside the writing session. */
  readonly pool: Pool;
  /** The server was started by us, and ends with us. */
  readonly isOurs: boolean;
  close(): Promise<void>;
}

/** The embedded server of a data directory, if one runs. `starting`: not yet, but soon. */
export const runningDatabase = (dataDir: string): SocketDatabase | 'starting' | null => {
  const pgData = path.join(path.resolve(dataDir), 'postgres');
  const server = readPostmaster(pgData);
  if (server === null || !isPostmasterOf(server.pid, pgData)) return null;
  if (server.status !== 'ready') return 'starting';
  // PostgreSQL documentation, "Database File Layout": the fifth line of postmaster.pid is the socket's directory.
  const directory = readFileSync(path.join(pgData, 'postmaster.pid'), 'utf8').split('\n')[4]?.trim() ?? '';
  return directory === ''
    ? null
    : { path: path.join(directory, SOCKET_NAME), user: 'postgres', database: 'postgres' };
};

const waitForRunning = async (dataDir: string): Promise<SocketDatabase | null> => {
  const untilMs = performance.now() + STARTING_WAIT_MS;
  for (;;) {
    let found: ReturnType<typeof runningDatabase> = 'starting';
    try {
      found = runningDatabase(dataDir);
    } catch {
      // The file went away while it was read: the server has just stopped, or a new one is starting.
    }
    if (found !== 'starting') return found;
    if (performance.now() > untilMs)
      throw new Error('the embedded PostgreSQL is still starting or stopping; try again in a minute');
    await Bun.sleep(POLL_MS);
  }
};

/**
 * Connects, and makes sure that the tables are there.
 * @param mayStart start the embedded server when none runs
 * @throws with a sentence for the operator
 */
export const openBackfillDatabase = async (
  settings: { readonly databaseUrl: string | null; readonly dataDir: string },
  log: StateLog,
  mayStart = true,
): Promise<BackfillDatabase> => {
  let stop = async (): Promise<void> => {};
  let isOurs = false;
  let address: DatabaseAddress;
  if (settings.databaseUrl !== null) {
    address = settings.databaseUrl;
  } else {
    const running = await waitForRunning(settings.dataDir);
    if (running !== null) address = running;
    else if (!mayStart) throw new Error('the embedded PostgreSQL does not run');
    else {
      const embedded = await startEmbeddedPostgres({ dataDir: settings.dataDir, log });
      address = embedded.database;
      stop = () => embedded.stop();
      isOurs = true;
    }
  }
  const pool = createPool(address, POOL_CONNECTIONS, MAX_WAITING_QUERIES);
  try {
    await prepare(address, pool, log);
  } catch (error) {
    await pool.close();
    await stop();
    throw error;
  }
  return {
    address,
    pool,
    isOurs,
    async close() {
      await pool.close();
      await stop();
    },
  };
};

/** Migrates where nobody else does; the right to is given back at once, for a relay that starts meanwhile. */
const prepare = async (address: DatabaseAddress, pool: Pool, log: StateLog): Promise<void> => {
  const writer = createWriter(address, log, 0);
  try {
    await writer.run(MIGRATE_DEADLINE_MS, migrate);
  } catch (error) {
    if (!(error instanceof DatabaseInUseError)) throw error;
    const [row] = await pool.query("select to_regclass('backfill_repos') is not null as known");
    if (row!.known !== true)
      throw new Error('The relay that is running is older than this program: restart it, then backfill.');
  } finally {
    await writer.close();
  }
};
