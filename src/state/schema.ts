/**
 * The tables of the state room. `bunx drizzle-kit generate` turns a change made here into a migration; a migration
 * that was ever released is never edited.
 *
 * Columns stand in the order in which PostgreSQL packs them without padding: fixed widths first, wide before narrow.
 * Text that is compared (did, rev) is in the C collation, whatever the database's own is: TIDs sort by their bytes.
 */

import { sql } from 'drizzle-orm';
import {
  bigint,
  bigserial,
  boolean,
  check,
  customType,
  doublePrecision,
  index,
  integer,
  pgSequence,
  pgTable,
  smallint,
  text,
} from 'drizzle-orm/pg-core';

const bytes = customType<{ data: Uint8Array; driverData: Uint8Array }>({ dataType: () => 'bytea' });
const orderedText = customType<{ data: string }>({ dataType: () => 'text COLLATE "C"' });
/** Whole numbers up to 2^53 - 1: seqs, milliseconds, ids. */
const number = () => bigint({ mode: 'number' });

/**
 * Gives the place of a repo in listRepos. The cache spares a WAL record per number; the numbers lost with a session
 * leave gaps, which do not matter: only the order does, and there is one writer.
 */
export const accountsAppendId = pgSequence('accounts_append_id', { cache: 64 });

export const accounts = pgTable(
  'accounts',
  {
    /** Set once, when the first rev is stored: an account that is known before it has a repo is appended only then. */
    appendId: number().unique('accounts_append_id_key'),
    identityAtMs: number().notNull(),
    hostId: integer().notNull(),
    /** null, 1 = p256, 2 = k256. */
    keyType: smallint(),
    desynchronized: boolean().notNull(),
    did: orderedText().primaryKey(),
    rev: orderedText(),
    commitDigest: bytes(),
    dataDigest: bytes(),
    key: bytes(),
    handle: text(),
    ownStatus: text(),
    upstreamStatus: text(),
  },
  (table) => [
    index('accounts_host_id_idx').on(table.hostId),
    index('accounts_takendown_idx').on(table.did).where(sql`own_status = 'takendown'`),
  ],
);

export const hosts = pgTable('hosts', {
  cursor: number().notNull(),
  accountLimit: number(),
  accountCount: number().notNull(),
  createdAtMs: number().notNull(),
  lastEventAtMs: number().notNull(),
  eventsPerSecondLimit: doublePrecision(),
  /** Numbered by us, and never used again: log records name hosts by this number. */
  hostId: integer().primaryKey(),
  failures: integer().notNull(),
  secure: boolean().notNull(),
  banned: boolean().notNull(),
  hostname: text().notNull().unique('hosts_hostname_key'),
  source: text().notNull(),
  status: text().notNull(),
  validation: text(),
  ahead: bigint({ mode: 'number' }).array().notNull(),
});

export const statePosition = pgTable(
  'state_position',
  {
    position: number().notNull(),
    onlyRow: boolean().primaryKey().default(true),
  },
  (table) => [check('state_position_one_row', sql`${table.onlyRow}`)],
);

export const rejections = pgTable(
  'rejections',
  {
    id: bigserial({ mode: 'number' }).primaryKey(),
    atMs: number().notNull(),
    upstreamSeq: number().notNull(),
    hostId: integer().notNull(),
    did: orderedText().notNull(),
    reason: text().notNull(),
    rev: text().notNull(),
    detail: text().notNull(),
  },
  (table) => [
    index('rejections_host_idx').on(table.hostId, table.id),
    index('rejections_did_idx').on(table.did, table.id),
  ],
);

export const gaps = pgTable(
  'gaps',
  {
    id: bigserial({ mode: 'number' }).primaryKey(),
    atMs: number().notNull(),
    fromSeq: number().notNull(),
    toSeq: number().notNull(),
    hostId: integer().notNull(),
    why: text().notNull(),
  },
  (table) => [index('gaps_host_idx').on(table.hostId, table.id)],
);

export const domainBans = pgTable('domain_bans', {
  createdAtMs: number().notNull(),
  domain: text().primaryKey(),
});
