/**
 * What does the collection index cost? Bytes a row, new and seen pairs a second, and pages of 1,000 beside a thread
 * that adds pairs as fast as it can. Pairs come in an order in which nothing is near its neighbour: five to an
 * account, four in widespread collections and one in a long tail of 3,000.
 * Baseline: the same pairs as rows (collection, did) of one table with a primary key, DIDs packed alike.
 * Usage: bun bench/collections.ts [ROWS] [--no-baseline]   (default 10000000; some 25 bytes of disk each)
 */
import { Database } from 'bun:sqlite';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCollectionReader } from '../src/collections/store/reader.ts';
import { openStore, type Store } from '../src/collections/store/store.ts';
import type { PageQuery } from '../src/collections/types.ts';
import { machineLine, percentile } from './machine.ts';

declare const self: Worker;

const PAIRS_PER_ACCOUNT = 5;
const TAIL = 3_000;
const EVENTS_PER_TRANSACTION = 500;
const PAGES_MS = 4_000;

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz234567';
const mix = (value: number): number => {
  let hash = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
};
const didOf = (account: number): string => {
  let text = 'did:plc:';
  for (let word = 0; word < 4; word++) {
    let bits = mix(account * 4 + word);
    for (let index = 0; index < 6; index++) {
      text += ALPHABET[bits & 31];
      bits >>>= 5;
    }
  }
  return text;
};
const WIDE = [
  ['app.bsky.actor.profile'],
  ['app.bsky.graph.follow'],
  ['app.bsky.feed.like', 'app.bsky.feed.like', 'app.bsky.feed.post'],
  ['app.bsky.feed.repost', 'app.bsky.graph.block', 'chat.bsky.actor.declaration', 'app.bsky.feed.threadgate'],
];
const tail = Array.from({ length: TAIL }, (_, index) => `com.example${index % 200}.app.record${index}`);
const collectionOf = (account: number, slot: number): string => {
  const hash = mix(account * 31 + slot);
  if (slot < WIDE.length) return WIDE[slot]![hash % WIDE[slot]!.length]!;
  return tail[Math.floor(TAIL * (hash / 2 ** 32) ** 3)]!;
};

/** The pair at a place of an order that visits all of `rows` once. */
const pairAt = (index: number, rows: number): [did: string, collection: string] => {
  const at = Number((BigInt(index) * 2_654_435_761n) % BigInt(rows));
  const account = Math.floor(at / PAIRS_PER_ACCOUNT);
  return [didOf(account), collectionOf(account, at % PAIRS_PER_ACCOUNT)];
};

const addPairs = (store: Store, pairs: readonly (readonly [string, string])[]): void => {
  store.transaction(() => {
    for (const [did, collection] of pairs)
      store.applyEvent(
        {
          kind: 'commit',
          hostId: 1 + (did.charCodeAt(10) & 127),
          discontinuity: false,
          changes: { did, present: [collection], removed: [], unproven: [] },
        },
        0,
      );
    store.setSeq((store.seq ?? 0) + pairs.length);
  });
};

interface Spent {
  readonly seconds: number;
  /** Of all cores: what it would take with nobody else on the machine. */
  readonly cpuSeconds: number;
}

/** Adds pairs [from, to) of an order over `rows`. @returns what the store alone took */
const fill = (store: Store, from: number, to: number, rows: number): Spent => {
  let spentMs = 0;
  let cpuUs = 0;
  let reportedAt = performance.now();
  for (let index = from; index < to; ) {
    const pairs: [string, string][] = [];
    for (; index < to && pairs.length < EVENTS_PER_TRANSACTION; index++) pairs.push(pairAt(index, rows));
    const startedAt = performance.now();
    const cpuBefore = process.cpuUsage();
    addPairs(store, pairs);
    const cpu = process.cpuUsage(cpuBefore);
    cpuUs += cpu.user + cpu.system;
    spentMs += performance.now() - startedAt;
    if (performance.now() - reportedAt > 10_000) {
      reportedAt = performance.now();
      console.log(`  ${index} rows, ${Math.round((index - from) / (spentMs / 1_000))} new pairs/s so far`);
    }
  }
  return { seconds: spentMs / 1_000, cpuSeconds: cpuUs / 1e6 };
};

const rowsOfRun = Number(process.argv.slice(2).find((arg) => /^\d+$/.test(arg)) ?? 10_000_000);

if (!Bun.isMainThread) {
  self.onmessage = ({ data }: MessageEvent<{ path: string; rows: number; ms: number }>) => {
    const store = openStore(data.path);
    const untilMs = performance.now() + data.ms;
    let added = 0;
    let spent = 0;
    // Accounts that are not there yet: an order of as many rows, behind those.
    while (performance.now() < untilMs) {
      const pairs: [string, string][] = [];
      for (let count = 0; count < EVENTS_PER_TRANSACTION; count++) {
        const at = Number((BigInt(added + count) * 2_654_435_761n) % BigInt(data.rows));
        const account = data.rows + Math.floor(at / PAIRS_PER_ACCOUNT);
        pairs.push([didOf(account), collectionOf(account, at % PAIRS_PER_ACCOUNT)]);
      }
      const startedAt = performance.now();
      addPairs(store, pairs);
      spent += performance.now() - startedAt;
      added += pairs.length;
    }
    store.close();
    self.postMessage({ added, seconds: spent / 1_000 });
    self.onmessage = null;
    process.exit(0);
  };
} else {
  const rows = rowsOfRun;
  const dir = mkdtempSync(join(tmpdir(), 'weir-bench-'));
  try {
    await run(dir, rows);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function run(dir: string, rows: number): Promise<void> {
  console.log(machineLine());
  const path = join(dir, 'collections.sqlite');
  const store = openStore(path);
  const { seconds, cpuSeconds } = fill(store, 0, rows, rows);
  console.log(
    `new pairs: ${Math.round(rows / seconds)}/s, ${Math.round(rows / cpuSeconds)} per second of CPU (${rows} rows, in transactions of ${EVENTS_PER_TRANSACTION})`,
  );

  const known: [string, string][] = [];
  for (let index = rows - 200_000; index < rows; index++) known.push(pairAt(index, rows));
  for (let round = 0; round < 3; round++) {
    const startedAt = performance.now();
    for (let from = 0; from < known.length; from += EVENTS_PER_TRANSACTION)
      addPairs(store, known.slice(from, from + EVENTS_PER_TRANSACTION));
    const perSecond = known.length / ((performance.now() - startedAt) / 1_000);
    if (round === 2) console.log(`seen pairs: ${Math.round(perSecond)}/s`);
  }
  const { bytes } = store.totals();
  store.close();
  const onDisk = statSync(path).size + statSync(`${path}.dids`).blocks * 512;
  console.log(
    `size: ${(bytes / rows).toFixed(2)} bytes a row (on disk ${(onDisk / rows).toFixed(2)}): ` +
      `SQLite ${(statSync(path).size / 1e6).toFixed(0)} MB, DIDs ${((statSync(`${path}.dids`).blocks * 512) / 1e6).toFixed(0)} MB`,
  );
  shareOfTables(path, rows);

  const queries: [string, Pick<PageQuery, 'collections' | 'prefixes'>][] = [
    ['one widespread collection', { collections: ['app.bsky.feed.like'], prefixes: [] }],
    ['one rare collection', { collections: [tail[2_000]!], prefixes: [] }],
    ['no collection', { collections: [], prefixes: [] }],
    ['two widespread (OR)', { collections: ['app.bsky.feed.like', 'app.bsky.feed.repost'], prefixes: [] }],
    ['four widespread (OR)', { collections: WIDE.map(([name]) => name!), prefixes: [] }],
    ['two rare (OR)', { collections: [tail[5]!, tail[6]!], prefixes: [] }],
    ['widespread and rare (OR)', { collections: ['app.bsky.feed.like', tail[5]!], prefixes: [] }],
    ['prefix app.bsky.feed.*', { collections: [], prefixes: ['app.bsky.feed.'] }],
    ['prefix of 15 rare ones', { collections: [], prefixes: ['com.example7.'] }],
  ];
  const reader = openCollectionReader(path);
  const worker = new Worker(import.meta.url);
  const writing = new Promise<{ added: number; seconds: number }>((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
  });
  worker.postMessage({ path, rows, ms: PAGES_MS * queries.length + 1_500 });
  await Bun.sleep(1_000);
  for (const [name, query] of queries) {
    const times: number[] = [];
    let cursor: string | null = null;
    let dids = 0;
    const untilMs = performance.now() + PAGES_MS;
    while (performance.now() < untilMs) {
      const startedAt = performance.now();
      const page = reader.page({ ...query, cursor, limit: 1_000 });
      times.push(performance.now() - startedAt);
      if ('bad' in page) throw new Error(page.bad);
      dids += page.dids.length;
      cursor = page.cursor;
      await Bun.sleep(0);
    }
    console.log(
      `page of 1,000, ${name}: p50 ${percentile(times, 0.5).toFixed(2)} ms, p99 ${percentile(times, 0.99).toFixed(2)} ms, ` +
        `most ${Math.max(...times).toFixed(2)} ms (${times.length} pages of ${Math.round(dids / times.length)})`,
    );
  }
  const { added, seconds: writingSeconds } = await writing;
  console.log(`beside the pages: ${Math.round(added / writingSeconds)} new pairs/s`);
  reader.close();
  if (!process.argv.includes('--no-baseline')) baseline(dir, Math.min(rows, 1_000_000));
}

function shareOfTables(path: string, rows: number): void {
  const db = new Database(path, { readonly: true });
  for (const { name, bytes, used } of db
    .query<{ name: string; bytes: number; used: number }, []>(
      'select name, sum(pgsize) as bytes, sum(pgsize - unused) as used from dbstat group by name having bytes > 1e6 order by bytes desc',
    )
    .all())
    console.log(
      `  ${name}: ${(bytes / rows).toFixed(2)} bytes a row, ${Math.round((used / bytes) * 100)} % full`,
    );
  db.close();
}

function baseline(dir: string, rows: number): void {
  const path = join(dir, 'plain.sqlite');
  const db = new Database(path);
  db.run('pragma journal_mode = wal');
  db.run('pragma synchronous = normal');
  db.run('create table pairs (collection integer, did blob, primary key (collection, did)) without rowid');
  const insert = db.query('insert or ignore into pairs values (?, ?)');
  const numbers = new Map<string, number>();
  const startedAt = performance.now();
  for (let index = 0; index < rows; ) {
    db.transaction(() => {
      for (let count = 0; count < EVENTS_PER_TRANSACTION && index < rows; count++, index++) {
        const [did, collection] = pairAt(index, rows);
        let number = numbers.get(collection);
        if (number === undefined) {
          number = numbers.size;
          numbers.set(collection, number);
        }
        insert.run(number, Buffer.from(did.slice(8, 23), 'latin1'));
      }
    })();
  }
  const perSecond = rows / ((performance.now() - startedAt) / 1_000);
  db.run('pragma wal_checkpoint(truncate)');
  db.close();
  console.log(
    `baseline, rows in one table, by DID and not in the order of first sight, ${rows} rows: ` +
      `${Math.round(perSecond)} new pairs/s, ${(statSync(path).size / rows).toFixed(2)} bytes a row`,
  );
}
