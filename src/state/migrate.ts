/**
 * Brings the database to the tables of this version, by the checked-in files of `migrations/`.
 * Runs on the writing session, whose lock keeps a second weir from migrating at the same time.
 */

import { fileURLToPath } from 'node:url';
import { readMigrationFiles } from 'drizzle-orm/migrator';
import { drizzle } from 'drizzle-orm/pg-proxy';
import { migrate as applyMigrations } from 'drizzle-orm/pg-proxy/migrator';
import type { Param, Session } from './connections.ts';

const MIGRATIONS_DIR = fileURLToPath(new URL('../../migrations', import.meta.url));

/**
 * Applies what is missing, all of it or nothing.
 * @throws when the database was migrated by a newer weir, or a statement fails
 */
export const migrate = async (session: Session): Promise<void> => {
  const db = drizzle(async (text, params) => ({
    rows: [...(await session.query(text, params as Param[]))],
  }));
  await refuseNewerDatabase(session);
  await session.query('begin');
  await applyMigrations(
    db,
    async (statements) => {
      for (const statement of statements) await session.query(statement);
    },
    { migrationsFolder: MIGRATIONS_DIR },
  );
  await session.query('commit');
};

const refuseNewerDatabase = async (session: Session): Promise<void> => {
  const [known] = await session.query(
    "select to_regclass('drizzle.__drizzle_migrations') is not null as migrated",
  );
  if (known?.migrated !== true) return;
  const [last] = await session.query(
    'select max(created_at)::bigint as at from drizzle.__drizzle_migrations',
  );
  const ours = Math.max(
    ...readMigrationFiles({ migrationsFolder: MIGRATIONS_DIR }).map((file) => file.folderMillis),
  );
  if (((last?.at as number | null) ?? 0) > ours)
    throw new Error(
      'This database was written by a newer weir: run that version, or restore a backup from before.',
    );
};
