/**
 * The collection index as those see it who only read: pages and counts, from a connection of their own.
 *
 * Contract: a page is one consistent moment of the index, and costs a few chunks of the lists it walks, however many
 * repos are hidden (they are in no list). A page over several collections may have to step over repos that it told of
 * at an earlier place; it steps over a bounded number, and may then be short, or empty with a cursor: read on from
 * there. No cursor means the end.
 */
import type { Database } from 'bun:sqlite';
import type { BadQuery, CollectionCount, CollectionReader, Page, PageQuery } from '../types.ts';
import { ALL, accountNumber, placesStart } from './account.ts';
import { MAX_COLLECTIONS_MATCHED } from './bounds.ts';
import { decodeCursor, encodeCursor } from './cursor.ts';
import { KEYS, keyOf } from './did.ts';
import { openDidReader } from './did-file.ts';
import { decodeChunk, type Entries, leftListOf, listOf, lowerBound, maskBit, OTHERS_BIT } from './list.ts';
import { explain } from './problem.ts';
import { identityOf, openForReading } from './schema.ts';
import { readVarint, read as varint } from './varint.ts';

/**
 * Entries that one page over several collections looks at: a millisecond. A look into the account itself counts as
 * LOOKUP_COST.
 */
export const MAX_VISITED = 16_000;
const LOOKUP_COST = 100;
/** Entries of rare collections that are read whole instead of looking into accounts: less than half a millisecond. */
const MAX_RARE_ENTRIES = 4_000;

const BASE = '(key & ((1 << 40) - 1))';

interface ChunkRow {
  readonly base: number;
  readonly entries: Uint8Array;
}

/** One list while it is walked. */
interface Walk {
  readonly list: number;
  readonly collection: number;
  /** Of places that were left. */
  readonly isLeft: boolean;
  base: number;
  entries: Entries;
  index: number;
  /** Where it stands. */
  position: number;
}

/** Opens the index at `path` for reading. @throws CollectionIndexError */
export const openCollectionReader = (
  path: string,
  options: { readonly maxRareEntries?: number } = {},
): CollectionReader => {
  const db = openForReading(path);
  try {
    return createReader(db, path, options.maxRareEntries ?? MAX_RARE_ENTRIES);
  } catch (error) {
    db.close();
    throw explain(error, path);
  }
};

const createReader = (db: Database, path: string, maxRareEntries: number): CollectionReader => {
  const { identity, seed } = identityOf(db);
  const dids = openDidReader(path, identity);
  const begin = db.query<null, []>('begin');
  const end = db.query<null, []>('commit');
  const chunkAt = db.query<ChunkRow, [number, number]>(
    `select ${BASE} as base, entries from chunks where key >= (?1 << 40) and key <= ((?1 << 40) | ?2) order by key desc limit 1`,
  );
  const chunkAfter = db.query<ChunkRow, [number, number]>(
    `select ${BASE} as base, entries from chunks where key > ((?1 << 40) | ?2) and key < ((?1 + 1) << 40) order by key limit 1`,
  );
  const selectCollection = db.query<{ id: number; dids: number; places: number }, [string]>(
    "select id, dids, places from collections where name = ? and name <> ''",
  );
  const selectRepoCount = db.query<{ dids: number }, [number]>('select dids from collections where id = ?');
  const selectPrefix = db.query<{ id: number; dids: number; places: number }, [string, string, number]>(
    'select id, dids, places from collections where name >= ? and name < ? and (dids > 0 or places > 0) limit ?',
  );
  const selectCounts = db.query<CollectionCount, [string, number]>(
    'select name as collection, dids from collections where dids > 0 and name > ? order by name limit ?',
  );
  const selectAccount = db.query<{ data: Uint8Array }, [number]>('select data from accounts where key = ?');
  const selectOther = db.query<{ did: string }, [number]>('select did from others where id = ?');
  const selectPosition = db.query<{ position: number }, []>('select position from meta');

  const didOf = (number: number): string =>
    (number & 1) === 0 ? dids.text(number / 2) : selectOther.get((number - 1) / 2)!.did;

  /** The record of an account that stands in a list. */
  const recordOf = (number: number): Uint8Array => {
    for (let key = keyOf(didOf(number), seed); ; key = (key + 1) % KEYS) {
      const { data } = selectAccount.get(key)!;
      if (accountNumber(data) === number) return data;
    }
  };

  /** Goes to the first entry after `position` that is in the chunk or a later one. @returns false at the end */
  const enter = (walk: Walk, row: ChunkRow | null, position: number): boolean => {
    let chunk = row;
    for (;;) {
      if (chunk === null) return false;
      const entries = decodeChunk(chunk.base, chunk.entries);
      const index = lowerBound(entries.positions, position + 1);
      if (index < entries.positions.length) {
        walk.base = chunk.base;
        walk.entries = entries;
        walk.index = index;
        walk.position = entries.positions[index]!;
        return true;
      }
      chunk = chunkAfter.get(walk.list, chunk.base);
    }
  };
  const open = (list: number, collection: number, isLeft: boolean, after: number): Walk | null => {
    const walk: Walk = {
      list,
      collection,
      isLeft,
      base: 0,
      entries: { positions: [], accounts: [], masks: [] },
      index: 0,
      position: 0,
    };
    const first = chunkAt.get(list, after + 1) ?? chunkAfter.get(list, after + 1);
    return enter(walk, first, after) ? walk : null;
  };
  const step = (walk: Walk): boolean => {
    const { positions } = walk.entries;
    if (++walk.index < positions.length) {
      walk.position = positions[walk.index]!;
      return true;
    }
    return enter(walk, chunkAfter.get(walk.list, walk.base), walk.position);
  };

  /**
   * Those in lists that are read whole: where each account stands the first time; 0 = it left a place behind, so that
   * only the account itself can tell.
   */
  const standingIn = (collections: readonly number[]): ReadonlyMap<number, number> => {
    const standing = new Map<number, number>();
    const readAll = (list: number, isLeft: boolean): void => {
      for (let chunk = chunkAfter.get(list, 0); chunk !== null; chunk = chunkAfter.get(list, chunk.base)) {
        const { accounts, positions } = decodeChunk(chunk.base, chunk.entries);
        for (let index = 0; index < accounts.length; index++) {
          const account = accounts[index]!;
          const before = standing.get(account) ?? Number.POSITIVE_INFINITY;
          standing.set(account, isLeft ? 0 : Math.min(before, positions[index]!));
        }
      }
    };
    for (const collection of collections) {
      readAll(listOf(collection), false);
      readAll(leftListOf(collection), true);
    }
    return standing;
  };

  /** Straight from the bytes: nothing is made but the DIDs. */
  const pageOfOne = (query: PageQuery, collection: number, after: number): Page => {
    const list = listOf(collection);
    const out: string[] = [];
    let last = 0;
    let chunk = chunkAt.get(list, after + 1) ?? chunkAfter.get(list, after + 1);
    while (chunk !== null) {
      const { entries: bytes, base } = chunk;
      let position = base;
      for (let at = 0; at < bytes.length; ) {
        position += readVarint(bytes, at);
        const account = readVarint(bytes, varint.end);
        readVarint(bytes, varint.end);
        at = varint.end;
        if (position <= after) continue;
        if (out.length >= query.limit) return { dids: out, cursor: encodeCursor(identity, query, last) };
        out.push(didOf(account));
        last = position;
      }
      chunk = chunkAfter.get(list, base);
    }
    return { dids: out, cursor: null };
  };

  const pageOfSeveral = (
    query: PageQuery,
    wanted: ReadonlyMap<number, { readonly dids: number; readonly places: number }>,
    walks: Walk[],
    after: number,
  ): Page => {
    let wantedBits = 0;
    let otherEntries = 0;
    const others: number[] = [];
    for (const [collection, { dids, places }] of wanted) {
      wantedBits |= maskBit(collection);
      if (maskBit(collection) !== OTHERS_BIT) continue;
      others.push(collection);
      otherEntries += dids + places;
    }
    let standing: ReadonlyMap<number, number> | null = null;
    /** Had the account one of the others that are wanted when it came to `position`? null: only it can tell. */
    const hadOther = (account: number, position: number): boolean | null => {
      if (otherEntries > maxRareEntries) return null;
      standing ??= standingIn(others);
      const at = standing.get(account);
      if (at === 0) return null;
      return at !== undefined && at < position;
    };
    const isWanted = (collection: number): boolean => wanted.has(collection);
    /** Where accounts that were looked at stand. */
    const starts = new Map<number, number>();
    const out: string[] = [];
    let last = after;
    let work = 0;
    const heap = createHeap(walks);
    for (;;) {
      const walk = heap.first();
      if (walk === null) return { dids: out, cursor: null };
      const { position, index } = walk;
      const account = walk.entries.accounts[index]!;
      let had = walk.entries.masks[index]! & wantedBits;
      // The others it had are not wanted when the only one wanted of them is the one it came to.
      if (others.length === 1 && maskBit(walk.collection) === OTHERS_BIT) had &= ~OTHERS_BIT;
      work++;
      let isFirst: boolean | null = null;
      // It had one of the wanted collections when it came to this one, so it stands at an earlier place.
      if ((had & ~OTHERS_BIT) !== 0) isFirst = false;
      else if (had === 0 && !walk.isLeft) isFirst = true;
      else if (!walk.isLeft) {
        const had = hadOther(account, position);
        if (had !== null) isFirst = !had;
      }
      if (isFirst === null) {
        let start = starts.get(account);
        if (start === undefined) {
          start = placesStart(recordOf(account), isWanted);
          starts.set(account, start);
          work += LOOKUP_COST;
        }
        isFirst = start === position;
      }
      if (isFirst) {
        // There is more: the cursor is worth its while.
        if (out.length >= query.limit) return { dids: out, cursor: encodeCursor(identity, query, last) };
        out.push(didOf(account));
      }
      last = position;
      if (work >= MAX_VISITED) return { dids: out, cursor: encodeCursor(identity, query, last) };
      heap.step(step(walk));
    }
  };

  const read = (query: PageQuery): Page | BadQuery => {
    let after = 0;
    if (query.cursor !== null) {
      const decoded = decodeCursor(identity, query, query.cursor);
      if (typeof decoded !== 'number') return { bad: decoded };
      // A place that was not given out yet: the file is an older copy of itself. Nothing is skipped.
      after = decoded < selectPosition.get()!.position ? decoded : 0;
    }
    if (query.collections.length === 0 && query.prefixes.length === 0) return pageOfOne(query, ALL, after);
    const found = new Map<number, { dids: number; places: number }>();
    for (const name of query.collections) {
      const row = selectCollection.get(name);
      if (row !== null && (row.dids > 0 || row.places > 0)) found.set(row.id, row);
    }
    for (const prefix of query.prefixes) {
      const room = MAX_COLLECTIONS_MATCHED - found.size;
      // What comes after '.' is '/'.
      const rows = selectPrefix.all(prefix, `${prefix.slice(0, -1)}/`, room + 1);
      if (rows.length > room) return { bad: 'too_many_collections' };
      for (const row of rows) found.set(row.id, row);
    }
    if (found.size === 0) return { dids: [], cursor: null };
    if (found.size === 1) return pageOfOne(query, [...found.keys()][0]!, after);
    const walks: Walk[] = [];
    for (const [id, row] of found) {
      const live = row.dids > 0 ? open(listOf(id), id, false, after) : null;
      if (live !== null) walks.push(live);
      const left = row.places > 0 ? open(leftListOf(id), id, true, after) : null;
      if (left !== null) walks.push(left);
    }
    return pageOfSeveral(query, found, walks, after);
  };

  /** Several statements of one moment. */
  const atOnce = <T>(work: () => T): T => {
    try {
      begin.run();
      try {
        return work();
      } finally {
        end.run();
      }
    } catch (error) {
      throw explain(error, path);
    }
  };

  return {
    page: (query) => atOnce(() => read(query)),
    counts: (after, limit) => atOnce(() => selectCounts.all(after ?? '', limit)),
    count: (collection) =>
      atOnce(() => {
        const row = selectCollection.get(collection);
        return row === null ? null : { collection, dids: row.dids };
      }),
    repoCount: () => atOnce(() => selectRepoCount.get(ALL)!.dids),
    close() {
      dids.close();
      db.close();
    },
  };
};

/** The walks by where they stand. */
const createHeap = (walks: Walk[]) => {
  const sink = (from: number): void => {
    const walk = walks[from]!;
    let at = from;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= walks.length) break;
      if (child + 1 < walks.length && walks[child + 1]!.position < walks[child]!.position) child++;
      if (walks[child]!.position >= walk.position) break;
      walks[at] = walks[child]!;
      at = child;
    }
    walks[at] = walk;
  };
  for (let index = (walks.length >> 1) - 1; index >= 0; index--) sink(index);
  return {
    first: (): Walk | null => walks[0] ?? null,
    /** The first one went on, or came to its end. */
    step(goesOn: boolean): void {
      if (!goesOn) {
        const replacement = walks.pop()!;
        if (walks.length === 0) return;
        walks[0] = replacement;
      }
      sink(0);
    },
  };
};
