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
  unique,
} from 'drizzle-orm/pg-core';

const bytes = customType<{ data: Uint8Array; driverData: Uint8Array }>({ dataType: () => 'bytea' });
const orderedText = customType<{ data: string }>({ dataType: () => 'text COLLATE "C"' });
/** Whole numbers up to 2^53 - 1: seqs, milliseconds, ids. */
const number = () => bigint({ mode: 'number' });

/**
 * Gives the place of a repo in listRepos. Numbers lost with a transaction leave gaps, which do not matter: only the
 * order does, and that nothing appears behind a cursor. So no session keeps numbers for later (cache 1), and whoever
 * takes numbers holds APPEND_LOCK until they are committed: the relay's flush and the backfill's listings.
 */
export const accountsAppendId = pgSequence('accounts_append_id', { cache: 1 });

export const accounts = pgTable(
  'accounts',
  {
    /** Set once, when the first rev is stored: an account that is known before it has a repo is appended only then. */
    appendId: number().unique('accounts_append_id_key'),
    /** -1: an event was taken, the identity has to be asked for; 0: only the backfill wrote the row. */
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
    /**
     * What a host's listRepos told of a repo of which no commit was seen yet: shown, and never compared with a
     * commit's, since nothing of it was verified or passed on.
     */
    listedRev: orderedText(),
    listedCommit: bytes(),
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
  expectedAccounts: number().notNull().default(0),
  createdAtMs: number().notNull(),
  lastEventAtMs: number().notNull(),
  connectedUntilMs: number(),
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

/** Runs of the backfill (src/backfill), which alone writes this table and the two below. */
export const backfillRuns = pgTable('backfill_runs', {
  runId: bigserial({ mode: 'number' }).primaryKey(),
  createdAtMs: number().notNull(),
  updatedAtMs: number().notNull(),
  finishedAtMs: number(),
  /** False until its sources stand in the table of sources. */
  planned: boolean().notNull(),
  /** What was asked for, as JSON. */
  spec: text().notNull(),
  startedBy: text().notNull(),
  state: text().notNull(),
  /** What the operator wants: any process may write it, the one that works on the run obeys. */
  wanted: text().notNull(),
  /** Totals of what is stored, as JSON. */
  counters: text().notNull(),
});

/** What a run reads page by page, with the cursor up to which the index has what was read. */
export const backfillSources = pgTable(
  'backfill_sources',
  {
    sourceId: bigserial({ mode: 'number' }).primaryKey(),
    runId: number().notNull(),
    done: number().notNull(),
    total: number(),
    pages: number().notNull(),
    retryAtMs: number().notNull(),
    attempts: integer().notNull(),
    name: orderedText().notNull(),
    groupName: text().notNull(),
    state: text().notNull(),
    cursor: text(),
    reason: text(),
    detail: text().notNull(),
  },
  (table) => [unique('backfill_sources_name_key').on(table.runId, table.name)],
);

/** Repos that a run is to read by themselves, and those it has given up. */
export const backfillRepos = pgTable(
  'backfill_repos',
  {
    queueId: bigserial({ mode: 'number' }).primaryKey(),
    runId: number().notNull(),
    retryAtMs: number().notNull(),
    attempts: integer().notNull(),
    givenUp: boolean().notNull(),
    did: orderedText().notNull(),
    reason: text(),
    detail: text().notNull(),
  },
  (table) => [
    unique('backfill_repos_did_key').on(table.runId, table.did),
    index('backfill_repos_due_idx').on(table.runId, table.givenUp, table.retryAtMs, table.queueId),
  ],
);
