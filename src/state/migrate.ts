/**
 * Brings the database to the tables of this version, by the checked-in files of `migrations/`.
 * Runs on the writing session, whose lock keeps a second weir from migrating at the same time.
 */

import { fileURLToPath } from 'node:url';
import { readMigrationFiles } from 'drizzle-orm/migrator';
import type { Session } from './connections.ts';

const MIGRATIONS_DIR = fileURLToPath(new URL('../../migrations', import.meta.url));

/** As drizzle's own migrator keeps it, so that its tools work on our databases, too. */
const CREATE_TABLE = `
create table if not exists drizzle.__drizzle_migrations (id serial primary key, hash text not null, created_at numeric)`;
const LAST_APPLIED = 'select max(created_at)::bigint as at from drizzle.__drizzle_migrations';
const REMEMBER = 'insert into drizzle.__drizzle_migrations (hash, created_at) values ($1, $2)';

/**
 * Applies what is missing, all of it or nothing. drizzle's migrator for this would load its query builder: 6 MB for
 * as long as the relay runs.
 * @throws when the database was migrated by a newer weir, or a statement fails
 */
export const migrate = async (session: Session): Promise<void> => {
  const migrations = readMigrationFiles({ migrationsFolder: MIGRATIONS_DIR });
  await session.query('begin');
  await session.query('create schema if not exists drizzle');
  await session.query(CREATE_TABLE);
  const [last] = await session.query(LAST_APPLIED);
  const lastAppliedMs = (last?.at as number | null) ?? 0;
  if (lastAppliedMs > Math.max(...migrations.map((migration) => migration.folderMillis)))
    throw new Error(
      'This database was written by a newer weir: run that version, or restore a backup from before.',
    );
  for (const { sql, hash, folderMillis } of migrations) {
    if (folderMillis <= lastAppliedMs) continue;
    for (const statement of sql) await session.query(statement);
    await session.query(REMEMBER, [hash, folderMillis]);
  }
  await session.query('commit');
};
