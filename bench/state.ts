/**
 * What does the state room cost? Rows per second of flushes of 100 and 1,000 accounts against a table of a size, the
 * memory of the embedded server, and the times of its first and later starts.
 * Baseline: one row per statement, as a loop of single upserts would write.
 * Usage: bun bench/state.ts [ACCOUNTS]   (default 200000)
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../src/state/embedded.ts';
import { openState } from '../src/state/state.ts';
import type { AccountRow } from '../src/state/types.ts';

const ACCOUNTS = Number(process.argv[2] ?? 200_000);
const MEASURE_MS = 1_500;

const dataDir = mkdtempSync(join(tmpdir(), 'weir-bench-'));
const timed = async <T>(work: () => Promise<T>): Promise<[T, number]> => {
  const startedAt = performance.now();
  return [await work(), performance.now() - startedAt];
};

/** Proportional set size, in MB, of all processes that are servers on `text` or PostgreSQL back ends (of any server: run it alone). */
const memoryOf = (text: string): number => {
  let kb = 0;
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      if (!command.includes(text) && !command.startsWith('postgres: ')) continue;
      kb += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
    } catch {
      // Gone, or not ours to read.
    }
  }
  return kb / 1024;
};

const [first, firstStartMs] = await timed(() => startEmbeddedPostgres({ dataDir }));
const [opened, migrateMs] = await timed(() => openState({ database: first.database }));
console.log(`machine: ${cpus().length} × ${cpus()[0]?.model}`);
console.log(`first start ${firstStartMs.toFixed(0)} ms, connect and migrate ${migrateMs.toFixed(0)} ms`);
console.log(`memory of the embedded server, idle: ${memoryOf(dataDir).toFixed(0)} MB`);
await opened.close();
const [, stopMs] = await timed(() => first.stop());
const [server, secondStartMs] = await timed(() => startEmbeddedPostgres({ dataDir }));
const [state, openMs] = await timed(() => openState({ database: server.database }));
console.log(
  `stop ${stopMs.toFixed(0)} ms, later start ${secondStartMs.toFixed(0)} ms, connect ${openMs.toFixed(0)} ms`,
);

const ALPHABET = '234567abcdefghijklmnopqrstuvwxyz';
let revision = 0;
const rev = (): string => {
  let text = '';
  for (let i = 0, rest = ++revision; i < 9; i++, rest = Math.floor(rest / 32))
    text = ALPHABET[rest % 32] + text;
  return `3abc${text}`;
};
const key = crypto.getRandomValues(new Uint8Array(33));
const did = (n: number): string => `did:plc:${(n * 2654435761).toString(32).padStart(24, 'a')}`;
const row = (n: number): AccountRow => ({
  did: did(n),
  hostId: n % 3_000,
  ownStatus: null,
  upstreamStatus: null,
  rev: rev(),
  commit: crypto.getRandomValues(new Uint8Array(32)),
  data: crypto.getRandomValues(new Uint8Array(32)),
  desynchronized: false,
  keyType: 'k256',
  key,
  handle: `user${n}.example.com`,
  identityAtMs: 1_700_000_000_000,
  known: true,
});
const flush = (accounts: AccountRow[], position: number) =>
  state.flush({ position, accounts, hosts: [], rejections: [], gaps: [] });

let position = 0;
const [, fillMs] = await timed(async () => {
  for (let from = 0; from < ACCOUNTS; from += 5_000)
    await flush(
      Array.from({ length: Math.min(5_000, ACCOUNTS - from) }, (_, i) => row(from + i)),
      ++position,
    );
});
console.log(`insert of ${ACCOUNTS} accounts: ${((ACCOUNTS / fillMs) * 1000).toFixed(0)} rows/s`);

let baseline = 0;
for (const size of [1, 100, 1_000]) {
  let rows = 0;
  let clientMs = 0;
  const startedAt = performance.now();
  const cpuBefore = process.cpuUsage();
  while (performance.now() - startedAt < MEASURE_MS) {
    const batch = new Map<number, AccountRow>();
    while (batch.size < size) {
      const n = Math.floor(Math.random() * ACCOUNTS);
      batch.set(n, row(n));
    }
    await flush([...batch.values()], ++position);
    rows += size;
  }
  const cpu = process.cpuUsage(cpuBefore);
  clientMs = (cpu.user + cpu.system) / 1000;
  const perSecond = (rows / (performance.now() - startedAt)) * 1000;
  if (size === 1) baseline = perSecond;
  console.log(
    `flush of ${size}: ${perSecond.toFixed(0)} rows/s (${(perSecond / baseline).toFixed(1)}× single rows), ` +
      `${((clientMs / rows) * 1000).toFixed(1)} µs of our CPU per row`,
  );
}

const dids = Array.from({ length: 100 }, () => did(Math.floor(Math.random() * ACCOUNTS)));
let loads = 0;
const loadStartedAt = performance.now();
while (performance.now() - loadStartedAt < MEASURE_MS) {
  await state.loadAccounts(dids);
  loads++;
}
console.log(`loadAccounts of 100: ${((performance.now() - loadStartedAt) / loads).toFixed(2)} ms`);
let pages = 0;
let cursor: number | null = 0;
const pageStartedAt = performance.now();
while (cursor !== null && pages < 200) {
  cursor = (await state.listRepos(cursor, 1_000)).cursor;
  pages++;
}
console.log(`listRepos page of 1,000: ${((performance.now() - pageStartedAt) / pages).toFixed(2)} ms`);
console.log(`memory of the embedded server, after the work: ${memoryOf(dataDir).toFixed(0)} MB`);

await state.close();
await server.stop();
rmSync(dataDir, { recursive: true, force: true });
