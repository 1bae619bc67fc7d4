/**
 * How fast does a consumer with an old cursor get what it missed, through the firehose edge and a socket, and what
 * do fifty of them at once do to the live ones?
 *
 * The log is filled with frames of a usual size, the edge serves it from this process, consumers are other processes.
 * Baselines: the same cursor read without edge or socket, and the live ones' latency without any cold consumer.
 *
 * bun bench/replay.ts [FRAMES]      default 300000
 */

import { encodeMessage } from '../simulator/frames.ts';
import { startServer } from '../src/api/server.ts';
import { createFirehoseEdge } from '../src/firehose/edge/edge.ts';
import { scanFrame } from '../src/firehose/scan.ts';
import { MAX_PENDING_BYTES, openLog } from '../src/log/log.ts';
import type { LogEntry } from '../src/log/types.ts';
import { loadLine, machineLine, memoryOf } from './machine.ts';
import { startDrain, withDirectory } from './processes.ts';

const FRAMES = Number(process.argv[2] ?? 300_000);
/** A commit's blocks of the usual 3.3 KB frame. */
const BLOCKS_BYTES = 3_000;
const LIVE_CONSUMERS = 10;
const COLD_CONSUMERS = 50;
const LIVE_RATE = 1_000;
const LIVE_MS = 8_000;
const TAIL_BYTES = 3 * 1024 * 1024;

/** An #identity-like frame of a commit's size: the edge does not look inside, consumers see when it was sent. */
const entryOf = (atMs: number): LogEntry => {
  const frame = scanFrame(
    encodeMessage({
      type: '#identity',
      body: {
        did: 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa',
        seq: 1,
        time: new Date(atMs).toISOString(),
        padding: new Uint8Array(BLOCKS_BYTES),
      },
    }),
  );
  if (!frame.ok) throw new Error(frame.reason);
  return {
    hostId: 1,
    upstreamSeq: 1,
    kind: frame.kind,
    opCount: 1,
    didHash: 7,
    frame: frame.bytes,
    seqStart: frame.seqStart,
    seqEnd: frame.seqEnd,
  };
};

interface Report {
  readonly frames: number;
  readonly gaps: number;
  readonly errors: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

await withDirectory(async (dir) => {
  const log = await openLog({
    dir,
    windowMs: 72 * 3_600_000,
    maxBytes: 1e12,
    tailBytes: TAIL_BYTES,
    reserveBytes: 0,
  });
  const entry = entryOf(Date.now());
  console.log(`replay · ${machineLine()} · ${FRAMES} frames of ${entry.frame.length} bytes`);
  for (let index = 0; index < FRAMES; index++) {
    log.append(entry, Date.now() * 1_000);
    if (log.stats.pendingBytes > MAX_PENDING_BYTES / 4) await log.whenDurable(log.appendedSeq);
  }
  await log.whenDurable(log.appendedSeq);

  // Baseline: the cursor alone.
  let baseline = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 3; round++) {
    const before = process.cpuUsage();
    const cursor = log.openCursor(0);
    for (;;) {
      const records = cursor.next(256 * 1024);
      if (records === 'behind') throw new Error('behind');
      if (records.length === 0) break;
    }
    cursor.close();
    const { user, system } = process.cpuUsage(before);
    baseline = Math.min(baseline, user + system);
  }

  const edge = createFirehoseEdge({ log });
  const server = startServer({
    host: '127.0.0.1',
    port: 0,
    app: { fetch: () => new Response('', { status: 404 }) },
    edges: { '/xrpc/com.atproto.sync.subscribeRepos': edge },
  });

  for (let round = 0; round < 3; round++) {
    const load = loadLine();
    const cold = startDrain({ url: server.url, consumers: 0 });
    await cold.hear('ready');
    const cpuBefore = process.cpuUsage();
    const startedAt = Date.now();
    cold.tell({ do: 'connect', consumers: 1, cursor: 0 });
    cold.tell({ do: 'until', frames: FRAMES });
    const { atMs } = await cold.hear<{ atMs: number }>('reached');
    const { user, system } = process.cpuUsage(cpuBefore);
    const ms = atMs - startedAt;
    console.log(
      `one cold consumer: ${Math.round((FRAMES / ms) * 1_000).toLocaleString('en')} frames/s, ` +
        `${Math.round((FRAMES * entry.frame.length) / ms / 1_000)} MB/s; ${((user + system) / FRAMES).toFixed(2)} µs of CPU per frame (kernel ${(system / FRAMES).toFixed(2)}) = ` +
        `${((user + system) / baseline).toFixed(1)} × the log's cursor alone (load ${load})`,
    );
    await cold.stop();
  }

  const live = startDrain({ url: server.url, consumers: LIVE_CONSUMERS, looks: true, timed: true });
  await live.hear('ready');
  let appended = 0;
  const startedAt = performance.now();
  const timer = setInterval(() => {
    const due = Math.floor(((performance.now() - startedAt) * LIVE_RATE) / 1_000);
    if (appended >= due) return;
    const now = entryOf(Date.now());
    for (; appended < due; appended++) log.append(now, Date.now() * 1_000);
  }, 5);
  const measure = async (name: string): Promise<Report> => {
    live.tell({ do: 'clear' });
    await Bun.sleep(LIVE_MS);
    live.tell({ do: 'report' });
    const report = await live.hear<Report>('report');
    console.log(
      `${name}: ${LIVE_CONSUMERS} live consumers at ${LIVE_RATE} ev/s, append to receipt p50 ${report.p50.toFixed(0)} ms, p99 ${report.p99.toFixed(0)} ms, ` +
        `worst ${report.max.toFixed(0)} ms; ${report.gaps} gaps (load ${loadLine()})`,
    );
    return report;
  };
  await Bun.sleep(1_000);
  const without = await measure('alone');
  const cold = startDrain({ url: server.url, consumers: 0 });
  await cold.hear('ready');
  cold.tell({ do: 'connect', consumers: COLD_CONSUMERS, cursor: 0 });
  await Bun.sleep(500);
  const before = edge.counters.deliveries;
  const beforeAt = performance.now();
  const beside = await measure(`beside ${COLD_CONSUMERS} cold ones`);
  const delivered = edge.counters.deliveries - before;
  console.log(
    `the cold ones together: about ${Math.round(((delivered - LIVE_CONSUMERS * LIVE_RATE * (LIVE_MS / 1_000)) / (performance.now() - beforeAt)) * 1_000).toLocaleString('en')} frames/s; ` +
      `p99 of the live ones × ${(beside.p99 / without.p99).toFixed(2)}; RSS of the serving process ${memoryOf(process.pid).rssMb.toFixed(0)} MB`,
  );
  clearInterval(timer);
  await cold.stop();
  await live.stop();
  await edge.close();
  await server.close();
  await log.close();
});
process.exit(0);
