/**
 * The collection index as its writers see it: what happens to a repo, applied inside one transaction.
 *
 * Contract: `transaction` holds the write lock of the file, so that numbers and positions are given out once, whoever
 * writes; when it returns, everything in it is stored, the log seq with it; when it throws, nothing is. What is kept
 * in memory (seen pairs, last chunks, names, watches) is forgotten as soon as another writer changed the file in a way
 * that makes it untrue. Times come in as parameters.
 */
import { type Database, SQLiteError } from 'bun:sqlite';
import { isDid, isNsid } from '../../repo/syntax.ts';
import type {
  AccountPlace,
  AddedPairs,
  AppliedTruth,
  CheckOutcome,
  CheckReason,
  CollectionChanges,
  ListedStatus,
  RepoPairs,
  RepoTruth,
  ScheduledCheck,
} from '../types.ts';
import {
  ACTIVE,
  type Account,
  ALL,
  accountHead,
  accountNumber,
  DELETED,
  decodeAccount,
  encodeAccount,
  maskAt,
  maskedBy,
  PDS_GONE,
  type Place,
  placeOf,
  statusCode,
  uselessPlaces,
} from './account.ts';
import {
  CROWDED_COLLECTIONS,
  MAX_COLLECTIONS,
  MAX_COLLECTIONS_PER_REPO,
  MAX_COLLECTIONS_TO_BRING_NAMES,
  MAX_LEFT_PER_COLLECTION,
  MAX_LEFT_PER_REPO,
  SEEN_PAIRS,
} from './bounds.ts';
import { createChecks } from './checks.ts';
import { createChunks } from './chunks.ts';
import { KEYS, keyOf, PLC_BYTES, plcText, readPlc, writePlc } from './did.ts';
import { openDidWriter } from './did-file.ts';
import { leftListOf, listOf, maskBit, WIDESPREAD } from './list.ts';
import { explain } from './problem.ts';
import { identityOf, openForWriting, PAGE_BYTES } from './schema.ts';
import { createSeenPairs } from './seen.ts';

/** Accounts kept in memory within a transaction; more are written early. */
const MAX_ACCOUNTS_IN_HAND = 20_000;
/** Accounts looked at between two looks at the clock, by a sweep. */
const SWEEP_ROWS = 500;

/** One record of the log, as far as the index is concerned. */
export type IndexedEvent =
  | {
      readonly kind: 'commit';
      readonly hostId: number;
      readonly changes: CollectionChanges;
      /** It does not follow on the commit before. */
      readonly discontinuity: boolean;
    }
  | { readonly kind: 'sync'; readonly hostId: number; readonly did: string }
  | {
      readonly kind: 'account';
      readonly hostId: number;
      readonly did: string;
      /** null = active. */
      readonly status: string | null;
    };

export type StoreCounters = Record<
  | 'transactions'
  | 'rollbacks'
  | 'foreignWrites'
  | 'seenPairs'
  | 'newPairs'
  | 'knownPairs'
  | 'removedPairs'
  | 'hidden'
  | 'shown'
  | 'checksScheduled'
  | 'voidAnswers'
  | 'masksChanged',
  number
>;

export interface StoreTotals {
  readonly rows: number;
  readonly repos: number;
  readonly collections: number;
  /** By name: rows, repos, places, checks, hidden_N, check_N, failure_N; since ever: refused_pairs, refused_checks, dropped_places. */
  readonly byName: ReadonlyMap<string, number>;
  /** Bytes of the files that hold something. */
  readonly bytes: number;
}

export interface Store {
  /** Log seq that the index reflects; null = nothing of the log was ever read. */
  readonly seq: number | null;
  readonly gaps: number;
  /** Hosts hidden by the last whole sweep. */
  readonly swept: string;
  readonly counters: Readonly<StoreCounters>;
  /** @throws what `work` throws; SQLITE_BUSY when another writer does not end */
  transaction<T>(work: () => T): T;

  // Inside a transaction:
  applyEvent(event: IndexedEvent, nowMs: number): void;
  setSeq(seq: number): void;
  addGap(): void;
  add(repos: readonly RepoPairs[]): AddedPairs;
  setStatus(accounts: readonly ListedStatus[], nowMs: number): number;
  locate(accounts: readonly AccountPlace[]): void;
  scheduleChecks(dids: readonly string[], reason: CheckReason, nowMs: number): number;
  nextChecks(nowMs: number, limit: number): readonly ScheduledCheck[];
  beginCheck(did: string, nowMs: number): void;
  applyCheck(did: string, outcome: CheckOutcome, nowMs: number): 'applied' | 'touched';
  begin(did: string, nowMs: number): number;
  apply(did: string, watch: number, truth: RepoTruth, nowMs: number): AppliedTruth;
  forget(watch: number): void;
  /**
   * Hides shown accounts of the given hosts, and shows those hidden for it whose host is not among them any more:
   * accounts with keys above `after`, until the time is up.
   * @returns where to go on; null: that was all
   */
  sweep(hosts: ReadonlySet<number>, after: number, isTimeUp: () => boolean): number | null;
  setSwept(hosts: string): void;

  collections(after: string | null, limit: number): readonly string[];
  totals(): StoreTotals;
  close(): void;
}

interface Meta {
  seq: number | null;
  position: number;
  slot: number;
  other: number;
  removals: number;
  gaps: number;
  swept: string;
  named: number;
}

/** Failures that have nothing to do with the index itself: a full disk, another writer that does not end. */
export const isPassing = (error: unknown): boolean =>
  (error instanceof SQLiteError && /^SQLITE_(BUSY|FULL|IOERR)/.test(error.code ?? '')) ||
  (error as NodeJS.ErrnoException | null)?.code === 'ENOSPC';

export interface StoreOptions {
  /** Remembered as seen, a power of two. Default: SEEN_PAIRS. */
  readonly seenPairs?: number;
  /** Default: MAX_COLLECTIONS. */
  readonly maxCollections?: number;
  /** Default: CROWDED_COLLECTIONS. */
  readonly crowdedCollections?: number;
  /** Which start of the machine this is. Default: what the system says. */
  readonly boot?: string;
}

/** Opens the index at `path`, or makes it. @throws CollectionIndexError */
export const openStore = (path: string, options: StoreOptions = {}): Store => {
  const db = openForWriting(path, options.boot);
  try {
    return createStore(db, path, options);
  } catch (error) {
    db.close();
    throw explain(error, path);
  }
};

const createStore = (db: Database, path: string, options: StoreOptions): Store => {
  const { maxCollections = MAX_COLLECTIONS, crowdedCollections = CROWDED_COLLECTIONS } = options;
  const { identity, seed } = identityOf(db);
  const dids = openDidWriter(path, identity);
  const seen = createSeenPairs(options.seenPairs ?? SEEN_PAIRS);
  const counters: StoreCounters = {
    transactions: 0,
    rollbacks: 0,
    foreignWrites: 0,
    seenPairs: 0,
    newPairs: 0,
    knownPairs: 0,
    removedPairs: 0,
    hidden: 0,
    shown: 0,
    checksScheduled: 0,
    voidAnswers: 0,
    masksChanged: 0,
  };

  // --- statements ---
  const beginTransaction = db.query<null, []>('begin immediate');
  const commitTransaction = db.query<null, []>('commit');
  const dataVersion = db.query<{ data_version: number }, []>('pragma data_version');
  const selectMeta = db.query<Meta, []>(
    'select seq, position, slot, other, removals, gaps, swept, named from meta where id = 0',
  );
  const updateMeta = db.query<null, [number | null, number, number, number, number, number, string, number]>(
    'update meta set seq = ?, position = ?, slot = ?, other = ?, removals = ?, gaps = ?, swept = ?, named = ? where id = 0',
  );
  const selectNames = db.query<{ id: number; name: string }, [number]>(
    "select id, name from collections where named > ? and name <> ''",
  );
  const upsertName = db.query<null, [number, string, number]>(
    'insert into collections (id, name, named) values (?, ?, ?) ' +
      'on conflict (id) do update set name = excluded.name, named = excluded.named',
  );
  const selectUnused = db.query<{ id: number }, [number]>(
    'select id from collections where dids = 0 and places = 0 and hidden = 0 and id > ? limit 1',
  );
  const updateCounts = db.query<null, [number, number, number, number]>(
    'update collections set dids = dids + ?2, places = places + ?3, hidden = hidden + ?4 where id = ?1',
  );
  const selectPlaces = db.query<{ places: number }, [number]>('select places from collections where id = ?');
  const selectAccount = db.query<{ data: Uint8Array }, [number]>('select data from accounts where key = ?');
  const upsertAccount = db.query<null, [number, Uint8Array]>('replace into accounts values (?, ?)');
  const selectAccounts = db.query<{ key: number; data: Uint8Array }, [number, number]>(
    'select key, data from accounts where key > ? order by key limit ?',
  );
  const selectOther = db.query<{ did: string }, [number]>('select did from others where id = ?');
  const insertOther = db.query<null, [number, string]>('insert into others values (?, ?)');
  const addToTotal = db.query<null, [string, number]>(
    'insert into totals values (?, ?) on conflict do update set value = value + excluded.value',
  );

  // --- what is in memory ---
  let meta = selectMeta.get()!;
  let metaChanged = false;
  let version = -1;
  const names = new Map<string, number>();
  /** Names by number. */
  const nameOf: string[] = [];
  /** `meta.named` of the last name among them; −1: none was read yet. */
  let lastNamed = -1;
  /** Numbers up to that of the last widespread one are theirs. */
  let lastCollection = WIDESPREAD.length;
  const chunks = createChunks(db);
  /** Accounts met in this transaction, by key. */
  const inHand = new Map<number, Account>();
  /** did:plc of accounts made in this transaction that are not in their file yet: slots [meta.slot − n, meta.slot). */
  let newDids = new Uint8Array(64 * PLC_BYTES);
  let newDidCount = 0;
  /** What changed in the counts of collections, by number. */
  const counts = new Map<number, { dids: number; places: number; hidden: number }>();
  const totals = new Map<string, number>();
  const total = (name: string, by: number): void => {
    totals.set(name, (totals.get(name) ?? 0) + by);
  };
  const checks = createChecks(db, total);
  /** Checks of this store that were begun, by DID. */
  const begun = new Map<string, number>();
  /** Those of this transaction: whoever began them is told that they are not, when it fails. */
  const begunNow: string[] = [];

  const setName = (id: number, name: string): void => {
    const before = nameOf[id];
    // It may have another number by now.
    if (before !== undefined && names.get(before) === id) names.delete(before);
    names.set(name, id);
    nameOf[id] = name;
    lastCollection = Math.max(lastCollection, id);
  };

  // --- transactions ---
  const reload = (): void => {
    const fresh = selectMeta.get()!;
    // Whatever another writer took away may be among what we have seen.
    if (fresh.removals !== meta.removals) seen.clear();
    meta = fresh;
    metaChanged = false;
    chunks.forget();
    checks.reload();
    if (meta.named === lastNamed) return;
    for (const { id, name } of selectNames.all(lastNamed)) setName(id, name);
    lastNamed = meta.named;
  };
  const flushAccounts = (): void => {
    if (newDidCount > 0) {
      dids.write(meta.slot - newDidCount, newDids.subarray(0, newDidCount * PLC_BYTES));
      newDidCount = 0;
    }
    for (const account of inHand.values())
      if (account.changed) upsertAccount.run(account.key, encodeAccount(account));
    inHand.clear();
  };
  const flushCounts = (): void => {
    for (const [id, { dids, places, hidden }] of counts) updateCounts.run(id, dids, places, hidden);
    counts.clear();
  };
  const flush = (): void => {
    flushAccounts();
    chunks.flush();
    flushCounts();
    for (const [name, value] of totals) if (value !== 0) addToTotal.run(name, value);
    totals.clear();
    if (metaChanged)
      updateMeta.run(
        meta.seq,
        meta.position,
        meta.slot,
        meta.other,
        meta.removals,
        meta.gaps,
        meta.swept,
        meta.named,
      );
    metaChanged = false;
    // On disk before what refers to it: SQLite's own order says nothing of this file.
    dids.sync();
  };
  const undo = (): void => {
    counters.rollbacks++;
    if (db.inTransaction) db.run('rollback');
    inHand.clear();
    newDidCount = 0;
    counts.clear();
    totals.clear();
    for (const did of begunNow) begun.delete(did);
    begunNow.length = 0;
    seen.clear();
    names.clear();
    nameOf.length = 0;
    lastNamed = -1;
    lastCollection = WIDESPREAD.length;
    // The next transaction reads everything anew.
    version = -1;
  };
  const transaction = <T>(work: () => T): T => {
    try {
      beginTransaction.run();
    } catch (error) {
      throw explain(error, path);
    }
    try {
      const now = dataVersion.get()!.data_version;
      if (now !== version) {
        if (version !== -1) counters.foreignWrites++;
        reload();
        version = now;
      }
      const result = work();
      flush();
      commitTransaction.run();
      begunNow.length = 0;
      counters.transactions++;
      return result;
    } catch (error) {
      undo();
      throw explain(error, path);
    }
  };

  // --- accounts ---
  const count = (of: 'dids' | 'places' | 'hidden', id: number, by: number): void => {
    let change = counts.get(id);
    if (change === undefined) {
      change = { dids: 0, places: 0, hidden: 0 };
      counts.set(id, change);
    }
    change[of] += by;
  };
  const didOf = (number: number): string => {
    if ((number & 1) === 1) return selectOther.get((number - 1) / 2)!.did;
    const waiting = number / 2 - (meta.slot - newDidCount);
    return waiting < 0 ? dids.text(number / 2) : plcText(newDids, waiting * PLC_BYTES);
  };
  const givePosition = (): number => {
    metaChanged = true;
    return meta.position++;
  };
  const removed = (): void => {
    meta.removals++;
    metaChanged = true;
  };
  const place = (account: Account, collection: number): void => {
    const position = givePosition();
    const mask = collection === ALL ? 0 : maskAt(account.places, position);
    chunks.append(listOf(collection), position, account.number, mask);
    account.places.push({ collection, position, leftAt: 0 });
    count('dids', collection, 1);
    account.changed = true;
  };
  const newNumber = (did: string): number => {
    metaChanged = true;
    if (!readPlc(did)) {
      insertOther.run(meta.other, did);
      return meta.other++ * 2 + 1;
    }
    const at = newDidCount * PLC_BYTES;
    if (at + PLC_BYTES > newDids.length) {
      const larger = new Uint8Array(newDids.length * 2);
      larger.set(newDids);
      newDids = larger;
    }
    writePlc(newDids, at);
    newDidCount++;
    return meta.slot++ * 2;
  };
  /** The account of a DID; of one never seen null, or where `status` says how it begins, a new one. */
  const accountOf = (did: string, status: number | null): Account | null => {
    let key = keyOf(did, seed);
    for (; ; key = (key + 1) % KEYS) {
      const held = inHand.get(key);
      if (held !== undefined) {
        if (held.did === did) return held;
        continue;
      }
      const row = selectAccount.get(key);
      if (row === null) break;
      const itsDid = didOf(accountNumber(row.data));
      if (itsDid !== did) continue;
      const account = decodeAccount(key, did, row.data);
      inHand.set(key, account);
      return account;
    }
    if (status === null) return null;
    const account: Account = {
      key,
      did,
      number: newNumber(did),
      status,
      told: false,
      hostId: 0,
      isHostTold: false,
      places: [],
      changed: true,
    };
    inHand.set(key, account);
    total('repos', 1);
    if (status === ACTIVE) place(account, ALL);
    else total(`hidden_${status}`, 1);
    return account;
  };
  /** Between two repos: nobody holds an account then. */
  const makeRoom = (): void => {
    if (inHand.size >= MAX_ACCOUNTS_IN_HAND) flushAccounts();
  };
  const setHost = (account: Account, hostId: number | undefined): void => {
    if (hostId === undefined || hostId <= 0 || account.hostId === hostId) return;
    account.hostId = hostId;
    account.changed = true;
  };
  /** No host adds, hides or describes the accounts of another. */
  const isOfAnother = ({ isHostTold, hostId }: Account, saidBy: number | undefined): boolean =>
    isHostTold && hostId > 0 && saidBy !== undefined && saidBy > 0 && saidBy !== hostId;
  /** The log tells of the account. */
  const tell = (account: Account, hostId: number): void => {
    setHost(account, hostId);
    if (account.told && account.isHostTold) return;
    account.told = true;
    account.isHostTold = true;
    account.changed = true;
  };
  /** Its own PDS tells something else than the log. */
  const untell = (account: Account): void => {
    if (!account.told) return;
    account.told = false;
    account.changed = true;
  };

  // --- places ---
  const dropLeft = (account: Account, left: Place): void => {
    chunks.remove(leftListOf(left.collection), left.position);
    count('places', left.collection, -1);
    total('places', -1);
    account.places.splice(account.places.indexOf(left), 1);
    account.changed = true;
  };
  /**
   * Drops a place that is still of use, for the sake of a bound: lists in which the account stood there now begin at
   * its next place. Who is between the two may be told of it again; nobody misses it.
   */
  const dropNeeded = (account: Account, left: Place): void => {
    total('dropped_places', 1);
    dropLeft(account, left);
    for (const useless of uselessPlaces(account.places)) dropLeft(account, useless);
    for (const { collection, position, leftAt } of maskedBy(account.places, left)) {
      counters.masksChanged++;
      const list = leftAt > 0 ? leftListOf(collection) : listOf(collection);
      chunks.clearBit(list, position, maskBit(left.collection));
    }
  };
  /** Keeps the place of a pair that was removed, where a walk over several collections needs it. */
  const leave = (account: Account, left: Place, mask: number): void => {
    left.leftAt = meta.position;
    let isKept = true;
    for (const useless of uselessPlaces(account.places))
      if (useless === left) isKept = false;
      else dropLeft(account, useless);
    if (!isKept) {
      account.places.splice(account.places.indexOf(left), 1);
      return;
    }
    chunks.insert(leftListOf(left.collection), left.position, account.number, mask);
    count('places', left.collection, 1);
    total('places', 1);
    const all = account.places.filter(({ leftAt }) => leftAt > 0);
    if (all.length > MAX_LEFT_PER_REPO) dropNeeded(account, all[0]!);
    const inCollection =
      selectPlaces.get(left.collection)!.places + (counts.get(left.collection)?.places ?? 0);
    if (inCollection <= MAX_LEFT_PER_COLLECTION) return;
    const oldest = chunks.first(leftListOf(left.collection))!;
    const other = accountOf(didOf(oldest.account), null)!;
    dropNeeded(other, other.places.find(({ position }) => position === oldest.position)!);
  };

  // --- pairs ---
  type Outcome = 'added' | 'known' | 'refused' | 'over_bound';
  /**
   * Gives a name a number: when it is crowded, that of a name that nobody has any more. Nothing tells of a number
   * without pairs, be they shown, left or hidden: lists of it are empty, and cursors are bound to names.
   *
   * @returns 0: there is no room
   */
  const numberFor = (name: string, { places }: Account): number => {
    const widespread = WIDESPREAD.indexOf(name) + 1;
    if (widespread > 0) return widespread;
    if (names.size < crowdedCollections) return lastCollection + 1;
    flushCounts();
    const unused = selectUnused.get(WIDESPREAD.length);
    if (unused !== null) return unused.id;
    return names.size < maxCollections && places.length < MAX_COLLECTIONS_TO_BRING_NAMES
      ? lastCollection + 1
      : 0;
  };
  /** @returns 0: there is no room */
  const nameIt = (name: string, account: Account): number => {
    const id = numberFor(name, account);
    if (id === 0) return 0;
    lastNamed = ++meta.named;
    metaChanged = true;
    upsertName.run(id, name, meta.named);
    setName(id, name);
    return id;
  };
  const isFull = ({ places }: Account): boolean =>
    places.length >= MAX_COLLECTIONS_PER_REPO &&
    places.filter(({ collection, leftAt }) => collection !== ALL && leftAt === 0).length >=
      MAX_COLLECTIONS_PER_REPO;
  /** A name is given a number last: one of a pair that is refused would stay for nothing. */
  const addPair = (account: Account, name: string): Outcome => {
    const held = names.get(name);
    if (account.status === DELETED) return 'refused';
    if (held !== undefined && placeOf(account, held) !== null) return 'known';
    if (held === undefined && !isNsid(name)) return 'refused';
    if (isFull(account)) return 'over_bound';
    const collection = held ?? nameIt(name, account);
    if (collection === 0) return 'over_bound';
    if (account.status === ACTIVE) place(account, collection);
    else {
      account.places.push({ collection, position: 0, leftAt: 0 });
      count('hidden', collection, 1);
    }
    account.changed = true;
    total('rows', 1);
    return 'added';
  };
  const removePair = (account: Account, collection: number): boolean => {
    const gone = placeOf(account, collection);
    if (gone === null) return false;
    account.changed = true;
    total('rows', -1);
    if (account.status !== ACTIVE) {
      account.places.splice(account.places.indexOf(gone), 1);
      count('hidden', collection, -1);
      return true;
    }
    removed();
    if (readPlc(account.did)) seen.remove(collection);
    const mask = chunks.remove(listOf(collection), gone.position);
    count('dids', collection, -1);
    leave(account, gone, mask);
    return true;
  };
  const countAdded = (outcome: Outcome): void => {
    if (outcome === 'added') counters.newPairs++;
    else if (outcome === 'known') counters.knownPairs++;
    else total('refused_pairs', 1);
  };

  // --- statuses ---
  const hide = (account: Account, status: number): void => {
    if (account.status === status) return;
    if (account.status === ACTIVE) {
      counters.hidden++;
      removed();
      for (const { collection, position, leftAt } of account.places) {
        if (leftAt > 0) {
          chunks.remove(leftListOf(collection), position);
          count('places', collection, -1);
          total('places', -1);
          continue;
        }
        chunks.remove(listOf(collection), position);
        count('dids', collection, -1);
        if (collection !== ALL && readPlc(account.did)) seen.remove(collection);
      }
      account.places = account.places
        .filter(({ collection, leftAt }) => collection !== ALL && leftAt === 0)
        .map(({ collection }) => ({ collection, position: 0, leftAt: 0 }));
      for (const { collection } of account.places) count('hidden', collection, 1);
    } else total(`hidden_${account.status}`, -1);
    if (status === DELETED) {
      total('rows', -account.places.length);
      for (const { collection } of account.places) count('hidden', collection, -1);
      account.places = [];
      checks.done(account.did);
    }
    account.status = status;
    total(`hidden_${status}`, 1);
    account.changed = true;
  };
  const show = (account: Account): void => {
    if (account.status === ACTIVE) return;
    counters.shown++;
    total(`hidden_${account.status}`, -1);
    account.status = ACTIVE;
    const { places } = account;
    account.places = [];
    place(account, ALL);
    for (const { collection } of places) {
      count('hidden', collection, -1);
      place(account, collection);
    }
  };

  const schedule = (did: string, reason: CheckReason, nowMs: number): boolean => {
    if (!checks.schedule(did, reason, nowMs)) return false;
    counters.checksScheduled++;
    return true;
  };
  /**
   * Nobody tells what a hidden account does, and what a deleted one had was thrown away: so it is asked for when it is
   * back.
   */
  const showAgain = (account: Account, nowMs: number): void => {
    if (account.status === ACTIVE) return;
    show(account);
    schedule(account.did, 'shown_again', nowMs);
  };
  /** The account of an event that only active ones have. */
  const activeAccount = (did: string, hostId: number, nowMs: number): Account => {
    makeRoom();
    const account = accountOf(did, ACTIVE)!;
    tell(account, hostId);
    showAgain(account, nowMs);
    return account;
  };

  const applyCommit = (
    { did, present, removed: gone, unproven, incomplete }: CollectionChanges,
    hostId: number,
    discontinuity: boolean,
    nowMs: number,
  ): void => {
    checks.touch(did);
    const isPlc = readPlc(did);
    if (isPlc && gone.length === 0 && unproven.length === 0 && !discontinuity && incomplete !== true) {
      let unseen = 0;
      for (let index = 0; index < present.length; index++) {
        const collection = names.get(present[index]!);
        if (collection === undefined || !seen.has(collection, hostId)) unseen++;
      }
      if (unseen === 0 && present.length > 0) {
        counters.seenPairs += present.length;
        return;
      }
    }
    const account = activeAccount(did, hostId, nowMs);
    let isOverBound = false;
    for (let index = 0; index < present.length; index++) {
      const outcome = addPair(account, present[index]!);
      countAdded(outcome);
      if (outcome === 'over_bound') isOverBound = true;
      else if (isPlc && outcome !== 'refused' && readPlc(did)) seen.add(names.get(present[index]!)!, hostId);
    }
    for (let index = 0; index < gone.length; index++) {
      const collection = names.get(gone[index]!);
      if (collection !== undefined && removePair(account, collection)) counters.removedPairs++;
    }
    if (discontinuity || incomplete === true) schedule(did, 'discontinuity', nowMs);
    if (unproven.length > 0) schedule(did, 'unproven_removal', nowMs);
    if (isOverBound) checks.giveUp(did, 'over_bound');
  };

  const applyTruth = (
    did: string,
    truth: RepoTruth,
  ): Omit<AppliedTruth, 'touched'> & { readonly isOverBound?: boolean } => {
    const nothing = { added: 0, known: 0, removed: 0, hidden: false };
    if ('hidden' in truth) {
      const account = accountOf(did, null);
      const isShown = account !== null && account.status === ACTIVE;
      // Never seen and not there: nothing to say.
      if (account === null) return nothing;
      // What the log says of a hidden account stays; it may be the relay's own word.
      if (isShown || !account.told) {
        hide(account, statusCode(truth.hidden));
        untell(account);
      }
      return { ...nothing, hidden: isShown };
    }
    const account = accountOf(did, ACTIVE)!;
    setHost(account, truth.hostId);
    if (account.status !== ACTIVE && (!account.told || account.status === PDS_GONE)) show(account);
    let gone = 0;
    const wanted = new Set(truth.collections.map((name) => names.get(name)));
    // What is not there goes first: near the bound it would keep out what is.
    for (const { collection, leftAt } of [...account.places])
      if (collection !== ALL && leftAt === 0 && !wanted.has(collection) && removePair(account, collection)) {
        gone++;
        counters.removedPairs++;
      }
    const outcomes = { added: 0, known: 0, refused: 0, over_bound: 0 };
    for (const name of truth.collections) {
      const outcome = addPair(account, name);
      countAdded(outcome);
      outcomes[outcome]++;
    }
    const { added, known } = outcomes;
    return { added, known, removed: gone, hidden: false, isOverBound: outcomes.over_bound > 0 };
  };
  /** Ends the check of a repo with an answer. */
  const endCheck = (did: string, truth: RepoTruth): Omit<AppliedTruth, 'touched'> => {
    const { isOverBound, ...applied } = applyTruth(did, truth);
    checks.done(did);
    if (isOverBound === true) checks.giveUp(did, 'over_bound');
    return applied;
  };

  return {
    get seq() {
      return meta.seq;
    },
    get gaps() {
      return meta.gaps;
    },
    get swept() {
      return meta.swept;
    },
    counters,
    transaction,
    applyEvent(event, nowMs) {
      if (event.kind === 'commit') {
        applyCommit(event.changes, event.hostId, event.discontinuity, nowMs);
        return;
      }
      const { did, hostId } = event;
      checks.touch(did);
      if (event.kind === 'sync') {
        activeAccount(did, hostId, nowMs);
        schedule(did, 'sync_event', nowMs);
      } else if (event.status === null) activeAccount(did, hostId, nowMs);
      else {
        makeRoom();
        const status = statusCode(event.status);
        const account = accountOf(did, status)!;
        hide(account, status);
        tell(account, hostId);
      }
    },
    setSeq(seq) {
      meta.seq = seq;
      metaChanged = true;
    },
    addGap() {
      meta.gaps++;
      metaChanged = true;
    },
    add(repos) {
      let added = 0;
      let known = 0;
      let refused = 0;
      for (const { did, collections } of repos) {
        if (!isDid(did)) {
          refused += collections.length;
          total('refused_pairs', collections.length);
          continue;
        }
        makeRoom();
        const account = accountOf(did, ACTIVE)!;
        for (const name of collections) {
          const outcome = addPair(account, name);
          countAdded(outcome);
          if (outcome === 'added') added++;
          else if (outcome === 'known') known++;
          else refused++;
        }
      }
      return { added, known, refused };
    },
    setStatus(accounts, nowMs) {
      let taken = 0;
      for (const { did, status, hostId, isTold } of accounts) {
        if (!isDid(did)) continue;
        makeRoom();
        const code = statusCode(status);
        const account = accountOf(did, code)!;
        if (account.told || (isTold !== true && isOfAnother(account, hostId))) continue;
        setHost(account, hostId);
        if (code === ACTIVE) showAgain(account, nowMs);
        else hide(account, code);
        if (isTold === true) tell(account, hostId ?? 0);
        taken++;
      }
      return taken;
    },
    locate(accounts) {
      for (const { did, hostId } of accounts) {
        makeRoom();
        const account = isDid(did) ? accountOf(did, null) : null;
        if (account !== null && !account.isHostTold) setHost(account, hostId);
      }
    },
    scheduleChecks(all, reason, nowMs) {
      let taken = 0;
      for (const did of all) if (isDid(did) && schedule(did, reason, nowMs)) taken++;
      return taken;
    },
    nextChecks(nowMs, limit) {
      if (limit <= 0) return [];
      return checks
        .due(nowMs, limit + begun.size)
        .filter(({ did }) => !begun.has(did))
        .slice(0, limit);
    },
    beginCheck(did, nowMs) {
      const before = begun.get(did);
      if (before !== undefined) checks.unwatch(before, null);
      begun.set(did, checks.watch(did, nowMs));
      begunNow.push(did);
    },
    applyCheck(did, outcome, nowMs) {
      const watch = begun.get(did);
      begun.delete(did);
      const isVoid = watch === undefined || checks.unwatch(watch, did);
      if (outcome.kind === 'later') checks.postpone(did, outcome.atMs);
      else if (outcome.kind === 'failed')
        checks.failed(did, outcome.why, outcome.retryAtMs, outcome.isGivenUp);
      else if (isVoid) {
        counters.voidAnswers++;
        checks.done(did);
        checks.schedule(did, 'touched_while_checked', nowMs);
        return 'touched';
      } else endCheck(did, outcome.kind === 'gone' ? { hidden: outcome.reason } : outcome);
      return 'applied';
    },
    begin: (did, nowMs) => checks.watch(did, nowMs),
    apply(did, watch, truth, nowMs) {
      const isTouched = checks.unwatch(watch, did);
      const account = accountOf(did, null);
      if (isTouched || (account !== null && isOfAnother(account, truth.hostId))) {
        counters.voidAnswers++;
        schedule(did, isTouched ? 'touched_while_checked' : 'verify', nowMs);
        return { added: 0, known: 0, removed: 0, hidden: false, touched: true };
      }
      return { ...endCheck(did, truth), touched: false };
    },
    forget: (watch) => {
      checks.unwatch(watch, null);
    },
    sweep(hosts, after, isTimeUp) {
      let last = after;
      flushAccounts();
      for (;;) {
        const rows = selectAccounts.all(last, SWEEP_ROWS);
        for (const { key, data } of rows) {
          last = key;
          const { status, hostId } = accountHead(data);
          if (status === ACTIVE ? !hosts.has(hostId) : status !== PDS_GONE || hosts.has(hostId)) continue;
          const account = accountOf(didOf(accountNumber(data)), null)!;
          if (status === ACTIVE) hide(account, PDS_GONE);
          else show(account);
          if (isTimeUp()) return last;
        }
        flushAccounts();
        if (rows.length < SWEEP_ROWS) return null;
        if (isTimeUp()) return last;
      }
    },
    setSwept(hosts) {
      meta.swept = hosts;
      metaChanged = true;
    },
    collections: (after, limit) =>
      db
        .query<{ name: string }, [string, number]>(
          'select name from collections where name > ? order by name limit ?',
        )
        .all(after ?? '', limit)
        .map(({ name }) => name),
    totals() {
      const byName = new Map(
        db
          .query<{ name: string; value: number }, []>('select name, value from totals')
          .all()
          .map(({ name, value }) => [name, value]),
      );
      const { page_count: pages } = db.query('pragma page_count').get() as { page_count: number };
      return {
        rows: byName.get('rows') ?? 0,
        repos: byName.get('repos') ?? 0,
        collections: names.size,
        byName,
        bytes: pages * PAGE_BYTES + dids.usedBytes(meta.slot),
      };
    },
    close() {
      dids.close();
      db.close();
    },
  };
};
