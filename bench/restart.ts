/**
 * How long until weir serves again, with 3,000 hosts and 1,000,000 accounts in its database? From the spawn of the
 * process until /_health answers 200 and a consumer with an old cursor has its first event; after a clean stop, and
 * after SIGKILL (PostgreSQL is left behind then, too). The target is 3 s.
 *
 * The baseline is a start on an empty data directory that has been initialized: what does not depend on size.
 *
 * bun bench/restart.ts [ACCOUNTS]      default 1000000
 */
import { join } from 'node:path';
import { createNetwork } from '../simulator/network.ts';
import { scanFrame } from '../src/firehose/scan.ts';
import { openLog } from '../src/log/log.ts';
import { startEmbeddedPostgres } from '../src/state/embedded.ts';
import { openState } from '../src/state/state.ts';
import type { AccountRow } from '../src/state/types.ts';
import { connectFirehose } from './firehose-client.ts';
import { loadLine, machineLine, memoryOf } from './machine.ts';
import { startWeir, withDirectory } from './processes.ts';

const ACCOUNTS = Number(process.argv[2] ?? 1_000_000);
const HOSTS = 3_000;
const LOGGED_EVENTS = 20_000;
const FLUSH_ROWS = 5_000;
const RUNS = 3;
const TARGET_MS = 3_000;
/** Nothing listens there: hosts are refused at once, which is more work at start than hosts that answer. */
const FIRST_PORT = 20_000;

const fill = async (dataDir: string, accounts: number, hosts: number): Promise<void> => {
  const log = await openLog({ dir: join(dataDir, 'log'), windowMs: 72 * 3_600_000, maxBytes: 1e12 });
  const network = await createNetwork({
    hosts: 10,
    accounts: 1_000,
    largeRepoShare: 0,
    ledgerEntries: 0,
    onEmitted({ frame, hostIndex, seq }) {
      const scanned = scanFrame(frame as Uint8Array);
      if (!scanned.ok) throw new Error(scanned.reason);
      log.append(
        {
          hostId: hostIndex + 1,
          upstreamSeq: seq,
          kind: scanned.kind,
          opCount: scanned.ops.length,
          didHash: 1,
          frame: scanned.bytes,
          seqStart: scanned.seqStart,
          seqEnd: scanned.seqEnd,
        },
        Date.now() * 1_000,
      );
    },
  });
  for (let made = 0; made < LOGGED_EVENTS; made += 1_000) {
    network.generate(1_000);
    await log.whenDurable(log.appendedSeq);
  }
  const position = log.appendedSeq;
  await log.close();

  const server = await startEmbeddedPostgres({ dataDir });
  const state = await openState({ database: server.database });
  const nowMs = Date.now();
  for (let host = 0; host < hosts; host++) {
    await state.insertHost({
      hostname: `localhost:${FIRST_PORT + host}`,
      secure: false,
      source: 'config',
      banned: false,
      status: 'active',
      cursor: 1_000,
      ahead: [],
      accountCount: Math.ceil(accounts / hosts),
      expectedAccounts: 0,
      accountLimit: null,
      eventsPerSecondLimit: null,
      validation: null,
      createdAtMs: nowMs,
      lastEventAtMs: nowMs,
      connectedUntilMs: nowMs,
      failures: 0,
    });
  }
  const digest = crypto.getRandomValues(new Uint8Array(32));
  const key = crypto.getRandomValues(new Uint8Array(33));
  const row = (index: number): AccountRow => ({
    did: `did:plc:${(index + 1_000_000).toString(32).padStart(24, 'a')}`,
    hostId: 1 + (index % hosts),
    ownStatus: null,
    upstreamStatus: null,
    rev: '3l2222222222a',
    commit: digest,
    data: digest,
    desynchronized: false,
    keyType: 'k256',
    key,
    handle: `user${index}.test`,
    identityAtMs: nowMs,
    known: true,
  });
  for (let from = 0; from < accounts; from += FLUSH_ROWS) {
    const rows = Array.from({ length: Math.min(FLUSH_ROWS, accounts - from) }, (_, index) =>
      row(from + index),
    );
    await state.flush({ position, accounts: rows, hosts: [], rejections: [], gaps: [] });
  }
  await state.flush({ position, accounts: [], hosts: [], rejections: [], gaps: [] });
  await state.close();
  await server.stop();
};

const start = async (dataDir: string) => {
  const startedAt = performance.now();
  const weir = await startWeir({
    RELAY_DATA_DIR: dataDir,
    RELAY_PLC_HOST: 'http://localhost:9',
    RELAY_ALLOW_INSECURE_HOSTS: 'true',
    RELAY_TRUSTED_DOMAINS: 'localhost',
    LOG_LEVEL: 'info',
  });
  while ((await weir.health()).status !== 200) await Bun.sleep(5);
  const healthyMs = performance.now() - startedAt;
  const { promise: first, resolve } = Promise.withResolvers<void>();
  const client = await connectFirehose({ url: weir.url, cursor: 0, onFrame: () => resolve() });
  await first;
  const firstEventMs = performance.now() - startedAt;
  client.end();
  return { weir, healthyMs, firstEventMs };
};

const report = async (name: string, dataDir: string, kill: boolean): Promise<number> => {
  let worst = 0;
  for (let run = 0; run < RUNS; run++) {
    if (kill) {
      const { weir } = await start(dataDir);
      process.kill(weir.pid, 'SIGKILL');
      await weir.exited;
    }
    const { weir, healthyMs, firstEventMs } = await start(dataDir);
    worst = Math.max(worst, firstEventMs);
    console.log(
      `${name}: serving after ${weir.servingMs.toFixed(0)} ms, /_health after ${healthyMs.toFixed(0)}, first event after ${firstEventMs.toFixed(0)} ms; ` +
        `RSS ${memoryOf(weir.pid).rssMb.toFixed(0)} MB (load ${loadLine()})`,
    );
    await weir.stop();
  }
  return worst;
};

console.log(`restart · ${machineLine()}`);
const small = await withDirectory(async (dataDir) => {
  await fill(dataDir, 1, 1);
  return report('baseline, 1 host and 1 account', dataDir, false);
});
await withDirectory(async (dataDir) => {
  const startedAt = performance.now();
  await fill(dataDir, ACCOUNTS, HOSTS);
  console.log(`filled in ${((performance.now() - startedAt) / 1_000).toFixed(0)} s`);
  const title = `${HOSTS} hosts, ${ACCOUNTS} accounts`;
  const clean = await report(`${title}, after a clean stop`, dataDir, false);
  const killed = await report(`${title}, after SIGKILL`, dataDir, true);
  for (const [how, worst] of [
    ['a clean stop', clean],
    ['SIGKILL', killed],
  ] as const)
    console.log(
      `worst after ${how}: ${worst.toFixed(0)} ms = ${(worst / small).toFixed(1)} × the baseline; the target of ${TARGET_MS} ms is ` +
        (worst <= TARGET_MS ? 'met' : 'MISSED'),
    );
});
process.exit(0);
