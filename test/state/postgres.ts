/**
 * A real PostgreSQL for tests: one embedded server per test run, one fresh database per call.
 */

import { cpSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import postgres from 'postgres';
import {
  type EmbeddedPostgres,
  type SocketDatabase,
  startEmbeddedPostgres,
} from '../../src/state/embedded.ts';

export interface TemporaryDatabase {
  /** For `openState({ database })`. */
  readonly database: SocketDatabase;
  /** A plain driver client on it, for tests that look behind the state room's back. */
  readonly sql: postgres.Sql;
  /** Drops it; the last one stops the server and removes its files. */
  drop(): Promise<void>;
}

/** Files of a server that was started and stopped, made once and kept with the other caches of the tool chain. */
const TEMPLATE = join(import.meta.dir, '..', '..', 'node_modules', '.cache', 'weir-postgres-18');
let template: Promise<void> | null = null;

/** Fills `dataDir` with the files of a server that was started and stopped: spares the seconds of a first start. */
export const copyServerFiles = async (dataDir: string): Promise<void> => {
  template ??= (async () => {
    if (existsSync(TEMPLATE)) return;
    mkdirSync(dirname(TEMPLATE), { recursive: true });
    const fresh = mkdtempSync(`${TEMPLATE}-new-`);
    await (await startEmbeddedPostgres({ dataDir: fresh })).stop();
    try {
      renameSync(fresh, TEMPLATE);
    } catch {
      // Another test run was faster.
      rmSync(fresh, { recursive: true, force: true });
    }
  })();
  await template;
  cpSync(TEMPLATE, dataDir, { recursive: true });
};

let server: Promise<{ embedded: EmbeddedPostgres; dataDir: string }> | null = null;
let users = 0;
let created = 0;

/** Call `drop()` when done, in `afterAll`. */
export const temporaryDatabase = async (): Promise<TemporaryDatabase> => {
  users++;
  server ??= (async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'weir-test-'));
    await copyServerFiles(dataDir);
    return { embedded: await startEmbeddedPostgres({ dataDir, settings: { fsync: 'off' } }), dataDir };
  })();
  const { embedded } = await server;
  const name = `test_${++created}`;
  const admin = connectTo(embedded.database);
  await admin.unsafe(`create database ${name}`);
  await admin.end();
  const database: SocketDatabase = { ...embedded.database, database: name };
  const sql = connectTo(database);
  return {
    database,
    sql,
    async drop() {
      await sql.end({ timeout: 1 });
      users--;
      if (users > 0) {
        const last = connectTo(embedded.database);
        await last.unsafe(`drop database ${name} with (force)`);
        await last.end();
        return;
      }
      const stopped = await server!;
      server = null;
      await stopped.embedded.stop();
      rmSync(stopped.dataDir, { recursive: true, force: true });
    },
  };
};

/** A plain driver client with few connections. */
export const connectTo = (database: SocketDatabase): postgres.Sql =>
  postgres({
    path: database.path,
    host: 'localhost',
    user: database.user,
    database: database.database,
    max: 2,
    onnotice: () => {},
  } as postgres.Options<Record<string, postgres.PostgresType>>);
