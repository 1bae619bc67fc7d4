/**
 * The SQLite file of the index: opening, and what must hold when it is open.
 *
 * Contract: WAL; a file of a newer weir, a damaged one, or one without its file of DIDs is refused with what to do.
 * Nothing in the schema is a cache: what is stored is what is true.
 */
import { Database } from 'bun:sqlite';
import { existsSync, readFileSync } from 'node:fs';
import { ACTIVE, accountHead, decodeAccount } from './account.ts';
import { BUSY_TIMEOUT_MS } from './bounds.ts';
import { createDidFile } from './did-file.ts';
import { CollectionIndexError, explain, rebuildHint } from './problem.ts';

/** Of the SQLite file. */
export const PAGE_BYTES = 2_048;
/** What the write-ahead log holds before it goes into the file, each page once. */
const WAL_BYTES = 32 * 1024 * 1024;

/** What is not in there is in the memory of the system, a microsecond away. */
const WRITER_CACHE_BYTES = 32 * 1024 * 1024;
/** Forgotten whenever somebody wrote. */
const READER_CACHE_BYTES = 8 * 1024 * 1024;

/** Stored as user_version. Raised whenever an older weir would misread the file. */
export const SCHEMA_VERSION = 2;

/*
 * meta         one row: who we are, how far we have come. `position` is the next place to be given out, `slot` and
 *              `other` the next account numbers, `removals` grows with each change that makes a seen pair untrue,
 *              `gaps` with each stretch of the log that we did not get to read; `swept` = hosts hidden by the last sweep,
 *              `named` grows with each number that is given a name; `boot` = the start of the machine in which the file
 *              was opened for writing last.
 * collections  number ↔ name; `dids` = active repos that have it, `places` = places left in it, `hidden` = hidden repos
 *              that have it; a number with none of the three may be given another name. `named` = when it got its name.
 *              Number 0 is the list of all repos and stands under ''.
 * chunks       lists of repos (list.ts); key = list << 40 | base.
 * accounts     by 48 bits of a hash of the DID, the next free number where two fall together (account.ts).
 * others       DIDs that are no did:plc; those are in the file of DIDs.
 * checks       repos to be asked for, and why, as a number in a list; `failure` = given up for that, and due all the same
 *              (`due` null: never).
 * watches      repos that are being asked for; `touched` = an event of them came since.
 * totals       counts by name.
 */
const NAME_INDEXES = `
create index collections_listed on collections (name) where dids > 0 or places > 0;
create index collections_unused on collections (id) where dids = 0 and places = 0 and hidden = 0;
create index collections_named on collections (named);
`;
const SCHEMA = `
create table meta (
  id integer primary key check (id = 0), identity blob not null, seed blob not null, seq integer,
  position integer not null, slot integer not null, other integer not null, removals integer not null,
  gaps integer not null, swept text not null, named integer not null default 0, boot text not null default ''
);
create table collections (
  id integer primary key, name text not null unique, dids integer not null default 0, places integer not null default 0,
  hidden integer not null default 0, named integer not null default 0
);
${NAME_INDEXES}
create table chunks (key integer primary key, entries blob not null);
create table accounts (key integer primary key, data blob not null);
create table others (id integer primary key, did text not null);
create table checks (
  did text primary key, reason integer not null, attempts integer not null, due integer, failure integer
) without rowid;
create index checks_due on checks (due) where due is not null;
create table watches (
  id integer primary key autoincrement, did text not null, at integer not null, touched integer not null
);
create index watches_did on watches (did);
create table totals (name text primary key, value integer not null) without rowid;
insert into collections (id, name) values (0, '');
`;

/** Version 1 did not count the hidden repos of a collection: each account is looked at, once. */
const upgradeFrom1 = (db: Database): void => {
  db.run('alter table meta add column named integer not null default 0');
  db.run("alter table meta add column boot text not null default ''");
  db.run('alter table collections add column hidden integer not null default 0');
  db.run('alter table collections add column named integer not null default 0');
  db.run('drop index collections_shown');
  db.run(NAME_INDEXES);
  const hidden = new Map<number, number>();
  for (const { data } of db.query<{ data: Uint8Array }, []>('select data from accounts').iterate()) {
    if (accountHead(data).status === ACTIVE) continue;
    for (const { collection } of decodeAccount(0, '', data).places)
      hidden.set(collection, (hidden.get(collection) ?? 0) + 1);
  }
  const update = db.query<null, [number, number]>('update collections set hidden = ?2 where id = ?1');
  for (const [id, count] of hidden) update.run(id, count);
};

const randomBlob = (bytes: number): Uint8Array => crypto.getRandomValues(new Uint8Array(bytes));

const check = (db: Database, path: string): number => {
  const { user_version: version } = db.query('pragma user_version').get() as { user_version: number };
  if (version > SCHEMA_VERSION)
    throw new CollectionIndexError(
      `the collection index ${path} was written by a newer weir (version ${version}, this one knows ${SCHEMA_VERSION}): ` +
        `run that one, or ${rebuildHint(path)}`,
    );
  return version;
};

/**
 * After a power failure the file may be an earlier state of itself, and positions that it would give out next may be in
 * cursors of clients, who would then never hear of what gets them. So it leaves out more than can be lost: SQLite syncs
 * its write-ahead log whenever that has WAL_BYTES, 16,384 pages; the densest there is, a first fill by calls of
 * MAX_PAIRS_PER_CALL, was measured to put 45 to 80 positions into a page, 1.3 million into all. A position has 40 bits,
 * so that this can be done 2^39 / 2^22 = 131,072 times until half of them are used up; then it is done no more.
 */
export const POSITIONS_LEFT_OUT = 2 ** 22;
const MAX_POSITION_TO_LEAVE_OUT = 2 ** 39;

const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id';
/** Of this start of the machine; where the system does not tell, another one at each call. */
const thisBoot = (): string =>
  existsSync(BOOT_ID_FILE) ? readFileSync(BOOT_ID_FILE, 'latin1').trim() : crypto.randomUUID();

const leavePositionsOut = (db: Database, boot: string): void => {
  db.query('update meta set position = position + ?1, boot = ?2 where boot <> ?2 and position < ?3').run(
    POSITIONS_LEFT_OUT,
    boot,
    MAX_POSITION_TO_LEAVE_OUT,
  );
};

const make = (db: Database, path: string, boot: string): void => {
  const { count } = db.query('select count(*) as count from sqlite_schema').get() as { count: number };
  if (count > 0) throw new CollectionIndexError(`${path} is no collection index: ${rebuildHint(path)}`);
  db.run(SCHEMA);
  const identity = randomBlob(16);
  createDidFile(path, identity);
  db.query(
    "insert into meta (id, identity, seed, position, slot, other, removals, gaps, swept, boot) values (0, ?, ?, 1, 0, 0, 0, 0, '', ?)",
  ).run(identity, randomBlob(8), boot);
};

/** Opens the file for writing and makes it when there is none. @throws CollectionIndexError */
export const openForWriting = (path: string, boot = thisBoot()): Database => {
  try {
    const db = new Database(path, { readwrite: true, create: true });
    try {
      db.run(`pragma busy_timeout = ${BUSY_TIMEOUT_MS}`);
      // Before WAL, which would write into a file of a newer weir.
      check(db, path);
      // New accounts and pairs change pages all over the file: small ones cost a third less than those of 4,096 bytes.
      db.run(`pragma page_size = ${PAGE_BYTES}`);
      db.run('pragma journal_mode = wal');
      db.run('pragma synchronous = full');
      db.run(`pragma cache_size = -${WRITER_CACHE_BYTES / 1024}`);
      db.run(`pragma wal_autocheckpoint = ${WAL_BYTES / PAGE_BYTES}`);
      db.run(`pragma journal_size_limit = ${2 * WAL_BYTES}`);
      db.transaction(() => {
        const version = check(db, path);
        if (version === 1) upgradeFrom1(db);
        else if (version !== SCHEMA_VERSION) make(db, path, boot);
        if (version !== SCHEMA_VERSION) db.run(`pragma user_version = ${SCHEMA_VERSION}`);
        leavePositionsOut(db, boot);
      }).immediate();
      // From here on a power failure may cost the last transactions, whole: the log still has what they said. What was
      // left out is on disk.
      db.run('pragma synchronous = normal');
      return db;
    } catch (error) {
      db.close();
      throw error;
    }
  } catch (error) {
    throw explain(error, path);
  }
};

/** Opens the file for reading only. @throws CollectionIndexError, also when there is no index */
export const openForReading = (path: string): Database => {
  if (!existsSync(path)) throw new CollectionIndexError(`there is no collection index at ${path}`);
  try {
    const db = new Database(path, { readonly: true });
    try {
      db.run(`pragma busy_timeout = ${BUSY_TIMEOUT_MS}`);
      db.run(`pragma cache_size = -${READER_CACHE_BYTES / 1024}`);
      if (check(db, path) !== SCHEMA_VERSION)
        throw new CollectionIndexError(`${path} is no collection index`);
      return db;
    } catch (error) {
      db.close();
      throw error;
    }
  } catch (error) {
    throw explain(error, path);
  }
};

export interface Identity {
  readonly identity: Uint8Array;
  readonly seed: bigint;
}

export const identityOf = (db: Database): Identity => {
  const row = db.query('select identity, seed from meta').get() as { identity: Uint8Array; seed: Uint8Array };
  return { identity: row.identity, seed: Buffer.from(row.seed).readBigUInt64LE() };
};
