/** A data directory with a database that runs, as a relay has it, and backfills on it as child processes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type postgres from 'postgres';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/state/embedded.ts';
import { connectTo, copyServerFiles } from '../state/postgres.ts';

export interface BackfillHarness {
  readonly dataDir: string;
  readonly indexFile: string;
  readonly embedded: EmbeddedPostgres;
  readonly sql: postgres.Sql;
  readonly environment: Record<string, string>;
  /** Starts `bun run backfill ARGS`. */
  spawn(args: readonly string[], environment?: Record<string, string>): BackfillChild;
  /** Runs it to its end. */
  run(
    args: readonly string[],
    environment?: Record<string, string>,
  ): Promise<{ code: number; out: string; err: string }>;
  stop(): Promise<void>;
}

export interface BackfillChild {
  readonly process: Bun.Subprocess<'pipe', 'pipe', 'pipe'>;
  readonly ended: Promise<{ code: number; out: string; err: string }>;
}

export const startHarness = async (environment: Record<string, string> = {}): Promise<BackfillHarness> => {
  const dataDir = mkdtempSync(join(tmpdir(), 'weir-backfill-'));
  await copyServerFiles(dataDir);
  const embedded = await startEmbeddedPostgres({ dataDir, settings: { fsync: 'off' } });
  const sql = connectTo(embedded.database);
  const indexFile = join(dataDir, 'fake-index.sqlite');
  const all = {
    RELAY_DATA_DIR: dataDir,
    RELAY_ALLOW_INSECURE_HOSTS: 'true',
    RELAY_TRUSTED_DOMAINS: '',
    ...environment,
  };
  const clean = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('RELAY_') && name !== 'DATABASE_URL'),
  ) as Record<string, string>;
  const spawn = (args: readonly string[], more: Record<string, string> = {}): BackfillChild => {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, 'child.ts'), indexFile, ...args], {
      env: { ...clean, ...all, ...more },
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: 'pipe',
    });
    const ended = Promise.all([child.exited, child.stdout.text(), child.stderr.text()]).then(
      ([code, out, err]) => ({ code, out, err }),
    );
    return { process: child, ended };
  };
  return {
    dataDir,
    indexFile,
    embedded,
    sql,
    environment: all,
    spawn,
    run: (args, more) => spawn(args, more).ended,
    async stop() {
      await sql.end({ timeout: 1 });
      await embedded.stop();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
};
