/**
 * What does the JSON view cost? The edge serves a log of simulated commits from this process; clients are another
 * process. Unfiltered clients at two rates, plain and zstd; a thousand with a hundred DIDs each; cold replay of one
 * client and of a hundred, as text, as zstd without a dictionary (version 1 as it comes) and with our own (version 2).
 * Baseline: the same log written and read by nobody.
 *
 * bun bench/jetstream.ts [SECONDS PER RUN] [cold]     default 8; cold: only the replay, so many times over
 */

import { writeFileSync } from 'node:fs';
import { createCompression } from '../jetstream/compress/compression.ts';
import { loadOwnDictionary } from '../jetstream/dictionary/dictionary.ts';
import { createDictionaries } from '../jetstream/dictionary/registry.ts';
import { createJetstreamEdge, V1_PATH, V2_PATH } from '../jetstream/edge/edge.ts';
import { cachedRecording } from '../simulator/recording.ts';
import { startServer } from '../src/api/server.ts';
import { scanFrame } from '../src/firehose/scan.ts';
import { KIND } from '../src/firehose/types.ts';
import { didHash } from '../src/log/did-hash.ts';
import { MAX_PENDING_BYTES, openLog } from '../src/log/log.ts';
import type { Log, LogEntry } from '../src/log/types.ts';
import { loadLine, machineLine, memoryOf } from './machine.ts';
import { CACHE_DIR, startJetstreamDrain, withDirectory } from './processes.ts';

const SECONDS = Number(process.argv[2] ?? 8);
const ONLY_COLD = process.argv[3] === 'cold';
const EVENTS = 20_000;
const ACCOUNTS = 5_000;
const TICK_MS = 4;
const PROBES = 3;
/** Live clients whose delay is looked at while others catch up. */
const LIVE_BESIDE = 10;
const LIVE_BESIDE_RATE = 1_000;
const LIVE_BESIDE_MS = 4_000;
const REPLAYED = 100_000;

const entries: LogEntry[] = [];
const dids = new Set<string>();
for (const bytes of await recordedFrames()) {
  const frame = scanFrame(bytes);
  if (!frame.ok) throw new Error(frame.reason);
  dids.add(frame.did);
  entries.push({
    hostId: 1,
    upstreamSeq: frame.seq,
    kind: frame.kind,
    opCount: frame.ops.length,
    didHash: didHash(frame.did),
    frame: frame.bytes,
    seqStart: frame.seqStart,
    seqEnd: frame.seqEnd,
  });
}

async function recordedFrames(): Promise<Uint8Array[]> {
  const recording = await cachedRecording(CACHE_DIR, {
    hosts: 20,
    accounts: ACCOUNTS,
    seed: 3,
    events: EVENTS,
  });
  return Array.from({ length: recording.events }, (_, index) => recording.frameAt(index).slice());
}

/** How many messages an event makes. */
const messagesOf = ({ kind, opCount }: LogEntry, path = V1_PATH): number =>
  kind === KIND.commit ? opCount : kind === KIND.sync && path === V1_PATH ? 0 : 1;
const ops = entries.reduce((sum, entry) => sum + messagesOf(entry), 0) / entries.length;

const own = loadOwnDictionary();
if (!own.ok) throw new Error(own.problem);
const dictionaries = createDictionaries([own.dictionary]);
const frameBytes = entries.reduce((sum, { frame }) => sum + frame.length, 0) / entries.length;

/** Writes events at a rate until stopped; answers how many events (frames) were written. */
const startWriter = (log: Log, rate: number) => {
  const startedAt = performance.now();
  let written = 0;
  const timer = setInterval(() => {
    const due = Math.floor(((performance.now() - startedAt) * rate) / 1000);
    for (; written < due; written++) log.append(entries[written % entries.length]!, Date.now() * 1000);
  }, TICK_MS);
  return {
    get written() {
      return written;
    },
    stop: () => clearInterval(timer),
  };
};

interface Report {
  readonly messages: number;
  readonly bytes: number;
  readonly disorder: number;
  readonly closed: number;
  readonly p50: number;
  readonly p99: number;
}

const cpuMs = (): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

await withDirectory(async (dir) => {
  const log = await openLog({
    dir,
    windowMs: 72 * 3_600_000,
    maxBytes: 1e12,
    tailBytes: 16 * 1024 * 1024,
    reserveBytes: 0,
  });
  const edge = createJetstreamEdge({
    log,
    compression: createCompression({ v1Dictionary: null, dictionaries }),
  });
  const server = startServer({
    host: '127.0.0.1',
    port: 0,
    app: { fetch: () => new Response('', { status: 404 }) },
    edges: edge.paths,
  });
  console.log(
    `jetstream · ${machineLine()} · simulated commits of ${Math.round(frameBytes)} bytes, ${ops.toFixed(2)} ops each`,
  );

  /** CPU of writing alone, ms per second. */
  const baselines = new Map<number, number>();
  const baseline = async (rate: number): Promise<number> => {
    const known = baselines.get(rate);
    if (known !== undefined) return known;
    const writer = startWriter(log, rate);
    await Bun.sleep(1000);
    const before = cpuMs();
    await Bun.sleep(4000);
    const cost = (cpuMs() - before) / 4;
    writer.stop();
    baselines.set(rate, cost);
    return cost;
  };

  const live = async (
    name: string,
    rate: number,
    clients: {
      count: number;
      path: string;
      headers?: Record<string, string>;
      hellos?: readonly string[];
    },
  ): Promise<void> => {
    const alone = await baseline(rate);
    const drain = startJetstreamDrain();
    await drain.hear('ready');
    drain.tell({ do: 'connect', clients: { url: server.url, probes: PROBES, ...clients } });
    await drain.hear('connected');
    const writer = startWriter(log, rate);
    await Bun.sleep(2000);
    drain.tell({ do: 'clear' });
    await drain.hear('cleared');
    const load = loadLine();
    const before = cpuMs();
    const startedAt = performance.now();
    const writtenBefore = writer.written;
    await Bun.sleep(SECONDS * 1000);
    const seconds = (performance.now() - startedAt) / 1000;
    const cores = (cpuMs() - before) / 1000 / seconds;
    const written = (writer.written - writtenBefore) / seconds;
    drain.tell({ do: 'report' });
    const report = await drain.hear<Report>('report');
    writer.stop();
    await drain.stop();
    const own = Math.max(0.001, cores - alone / 1000);
    const deliveries = report.messages / seconds;
    console.log(
      `${name}: ${Math.round(deliveries).toLocaleString('en')} deliveries/s (${Math.round(written)} events/s written), ` +
        `${(report.bytes / seconds / 1e6).toFixed(0)} MB/s; ${own.toFixed(2)} core beside ${(alone / 1000).toFixed(2)} for writing = ` +
        `${Math.round(deliveries / own).toLocaleString('en')} deliveries per core-second; p50 ${report.p50.toFixed(0)} ms, p99 ${report.p99.toFixed(0)} ms; ` +
        `${report.disorder} out of order, ${report.closed} closed, RSS ${memoryOf(process.pid).rssMb.toFixed(0)} MB (load ${load})`,
    );
    await Bun.sleep(500);
  };

  if (!ONLY_COLD) {
    for (const rate of [400, 2000])
      for (const count of [100, 500, 1000])
        for (const zstd of [false, true])
          await live(`${count} ${zstd ? 'zstd' : 'plain'} clients at ${rate} ev/s`, rate, {
            count,
            path: '/subscribe',
            ...(zstd ? { headers: { 'socket-encoding': 'zstd' } } : {}),
          });

    const all = [...dids];
    const hellos = Array.from({ length: 1000 }, (_, client) =>
      JSON.stringify({
        type: 'options_update',
        payload: {
          wantedDids: Array.from({ length: 100 }, (_, at) => all[(client * 7 + at * 13) % all.length]),
        },
      }),
    );
    await live('1000 plain clients with 100 wanted DIDs each at 2000 ev/s', 2000, {
      count: 1000,
      path: '/subscribe?requireHello=true',
      hellos,
    });
  }

  // Cold replay.
  const from = log.lastSeq + 1;
  for (let index = 0; index < REPLAYED; index++) {
    const entry = entries[index % entries.length]!;
    log.append(entry, Date.now() * 1000);
    if (log.stats.pendingBytes > MAX_PENDING_BYTES / 4) await log.whenDurable(log.appendedSeq);
  }
  await log.whenDurable(log.appendedSeq);
  /** The most memory from here on, which Linux counts anew after this. */
  const forgetPeak = (): void => writeFileSync('/proc/self/clear_refs', '5');
  const ways = [
    { name: 'plain', path: V1_PATH, query: '' },
    { name: 'zstd', path: V1_PATH, query: '&compress=true' },
    { name: 'zstd with dictionary', path: V2_PATH, query: `&zstdDictionary=${own.dictionary.id}` },
  ];
  /** Messages of the newest `events`. */
  const newest = (events: number, path: string): number => {
    let sum = 0;
    for (let index = REPLAYED - events; index < REPLAYED; index++)
      sum += messagesOf(entries[index % entries.length]!, path);
    return sum;
  };
  const runs = [1, 100].flatMap((count) =>
    ways.map((way) => {
      const events = count === 1 ? REPLAYED : REPLAYED / 10;
      return { ...way, count, cursor: from + REPLAYED - events, wanted: newest(events, way.path) * count };
    }),
  );
  if (!ONLY_COLD) {
    // Live ones, alone and beside a hundred that catch up.
    const drain = startJetstreamDrain();
    const cold = startJetstreamDrain();
    await drain.hear('ready');
    await cold.hear('ready');
    drain.tell({
      do: 'connect',
      clients: { url: server.url, path: V1_PATH, count: LIVE_BESIDE, probes: PROBES },
    });
    await drain.hear('connected');
    const writer = startWriter(log, LIVE_BESIDE_RATE);
    const measure = async (name: string): Promise<void> => {
      drain.tell({ do: 'clear' });
      await drain.hear('cleared');
      await Bun.sleep(LIVE_BESIDE_MS);
      drain.tell({ do: 'report' });
      const { p50, p99, disorder, closed } = await drain.hear<Report>('report');
      console.log(
        `${LIVE_BESIDE} live clients at ${LIVE_BESIDE_RATE} ev/s, ${name}: p50 ${p50.toFixed(0)} ms, p99 ${p99.toFixed(0)} ms; ` +
          `${disorder} out of order, ${closed} closed (load ${loadLine()})`,
      );
    };
    await Bun.sleep(1000);
    await measure('alone');
    cold.tell({
      do: 'connect',
      clients: { url: server.url, path: `${V1_PATH}?cursor=${from}`, count: 100, probes: 0 },
    });
    await cold.hear('connected');
    await measure('beside 100 that catch up');
    writer.stop();
    await drain.stop();
    await cold.stop();
    await Bun.sleep(500);
  }
  // A relay would hold none of them: what is there to begin with decides how much garbage piles up.
  entries.length = 0;
  for (let round = 0; round < (ONLY_COLD ? SECONDS : 1); round++)
    for (const { name, path, query, count, cursor, wanted } of runs) {
      const drain = startJetstreamDrain();
      await drain.hear('ready');
      Bun.gc(true);
      const rssBefore = memoryOf(process.pid).rssMb;
      forgetPeak();
      const before = cpuMs();
      const startedAt = Date.now();
      drain.tell({ do: 'until', messages: wanted });
      drain.tell({
        do: 'connect',
        clients: { url: server.url, path: `${path}?cursor=${cursor}${query}`, count, probes: 0 },
      });
      const { atMs } = await drain.hear<{ atMs: number }>('reached');
      const seconds = (atMs - startedAt) / 1000;
      const cores = (cpuMs() - before) / 1000 / seconds;
      console.log(
        `${count} cold ${name} client${count === 1 ? '' : 's'}: ${Math.round(wanted / seconds).toLocaleString('en')} events/s, ` +
          `${Math.round(wanted / seconds / cores).toLocaleString('en')} per core-second, ` +
          `RSS ${rssBefore.toFixed(0)} MB before, ${memoryOf(process.pid).peakMb.toFixed(0)} MB at most (load ${loadLine()})`,
      );
      await drain.stop();
    }

  await edge.close();
  await server.close();
  await log.close();
});
process.exit(0);
