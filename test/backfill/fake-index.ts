/**
 * A collection index as the backfill sees one, in the plainest form: a SQLite table that outlives a kill. What the
 * real one promises of its writer holds here, too: each call is one transaction.
 */
import { Database } from 'bun:sqlite';
import type { BackfillIndex } from '../../src/backfill/index-port.ts';

export interface FakeIndex extends BackfillIndex {
  /** All pairs as "did collection", sorted. */
  pairs(): string[];
  /** did → status of hidden accounts. */
  hidden(): Map<string, string>;
  /** As if the log had told of the repo. */
  touch(did: string): void;
}

export const openFakeIndex = (path: string): FakeIndex => {
  const db = new Database(path, { create: true });
  db.run('pragma journal_mode = wal');
  db.run('pragma synchronous = off');
  db.run('pragma busy_timeout = 10000');
  db.run(
    'create table if not exists pairs (did text, collection text, primary key (did, collection)) without rowid',
  );
  db.run('create table if not exists repos (n integer primary key, did text unique)');
  db.run('create table if not exists hidden (did text primary key, status text)');
  db.run('create table if not exists told (did text primary key)');
  const insert = db.query('insert into pairs values (?, ?) on conflict do nothing');
  const insertRepo = db.query('insert into repos (did) values (?) on conflict do nothing');
  const remove = db.query('delete from pairs where did = ? and collection = ?');
  const ofRepo = db.query<{ collection: string }, [string]>('select collection from pairs where did = ?');
  const hide = db.query(
    'insert into hidden values (?, ?) on conflict (did) do update set status = excluded.status',
  );
  const unhide = db.query('delete from hidden where did = ?1 and did not in (select did from told)');
  const tell = db.query('insert into told values (?) on conflict do nothing');
  const isTold = db.query('select 1 from told where did = ?');
  const watches = new Map<number, { did: string; touched: boolean }>();
  let lastWatch = 0;
  const addOne = (did: string, collection: string): boolean => {
    insertRepo.run(did);
    return insert.run(did, collection).changes > 0;
  };
  return {
    add: async (repos) => {
      let added = 0;
      let known = 0;
      db.transaction(() => {
        for (const { did, collections } of repos)
          for (const collection of collections) addOne(did, collection) ? added++ : known++;
      })();
      return { added, known, refused: 0 };
    },
    setStatus: async (accounts) => {
      db.transaction(() => {
        for (const { did, status, isTold: word } of accounts) {
          if (isTold.get(did) !== null) continue;
          status === null ? unhide.run(did) : hide.run(did, status);
          if (word === true) tell.run(did);
        }
      })();
      return accounts.length;
    },
    locate: async () => {},
    begin: async (did) => {
      watches.set(++lastWatch, { did, touched: false });
      return lastWatch;
    },
    forget: async (watch) => {
      watches.delete(watch);
    },
    apply: async (did, number, truth) => {
      const watch = watches.get(number);
      watches.delete(number);
      const nothing = { added: 0, known: 0, removed: 0, hidden: false, touched: false };
      if (watch === undefined || watch.touched || watch.did !== did) return { ...nothing, touched: true };
      if ('hidden' in truth) {
        hide.run(did, truth.hidden);
        return { ...nothing, hidden: true };
      }
      let added = 0;
      let known = 0;
      let removed = 0;
      db.transaction(() => {
        unhide.run(did);
        for (const collection of truth.collections) addOne(did, collection) ? added++ : known++;
        for (const { collection } of ofRepo.all(did))
          if (!truth.collections.includes(collection)) removed += remove.run(did, collection).changes;
      })();
      return { ...nothing, added, known, removed };
    },
    collections: async (limit) =>
      db
        .query<{ collection: string }, [number]>('select distinct collection from pairs order by 1 limit ?')
        .all(limit)
        .map((row) => row.collection),
    page: async (collection, cursor, limit) => {
      const rows = db
        .query<{ n: number; did: string }, [number, string | null, number]>(
          `select n, did from repos where n > ?1 and did not in (select did from hidden)
           and exists (select 1 from pairs where pairs.did = repos.did and (?2 is null or collection = ?2))
           order by n limit ?3`,
        )
        .all(Number(cursor ?? 0), collection, limit);
      return {
        dids: rows.map((row) => row.did),
        cursor: rows.length < limit ? null : String(rows[rows.length - 1]!.n),
      };
    },
    count: async (collection) =>
      db
        .query<{ n: number }, [string | null]>(
          'select count(distinct did) as n from pairs where ?1 is null or collection = ?1',
        )
        .get(collection)!.n,
    close: async () => db.close(),
    pairs: () =>
      db
        .query<{ did: string; collection: string }, []>('select * from pairs order by did, collection')
        .all()
        .map((row) => `${row.did} ${row.collection}`),
    hidden: () =>
      new Map(
        db
          .query<{ did: string; status: string }, []>('select * from hidden')
          .all()
          .map((row) => [row.did, row.status]),
      ),
    touch: (did) => {
      for (const watch of watches.values()) if (watch.did === did) watch.touched = true;
    },
  };
};
