/**
 * How much does it cost to hand every event to every consumer? Runs the subscribeRepos edge with its consumers in
 * another process and prints the CPU share of the serving process, the cost per delivery, and the latency that is
 * added between "durable" and "received", against two baselines on the same machine: one `send` per frame and
 * consumer (what a straightforward server does), and the server's own topic `publish` (fast, but it drops frames of
 * slow consumers).
 *
 * bun bench/fanout.ts [seconds per run]
 */
import { cpus } from 'node:os';
import { startServer } from '../src/api/server.ts';
import type { Edge, EdgeSocket } from '../src/api/types.ts';
import { createFirehoseEdge } from '../src/firehose/edge/edge.ts';
import { KIND } from '../src/firehose/types.ts';
import type { LogReader, LogRecord } from '../src/log/types.ts';

const PATH = '/xrpc/com.atproto.sync.subscribeRepos';
/** Consumers that decode and time what they get; the others only count bytes. */
const PROBES = 5;
/** As often as the log makes a group of events durable. */
const COMMIT_EVERY_MS = 4;
/** The log's hot tail, in this benchmark. */
const KEPT_RECORDS = 20_000;

/** A log that only lives in memory: what is measured here is the edge. Frames end in their time, ms as float64. */
const createMemoryLog = (frameBytes: number) => {
  const listeners = new Set<(lastSeq: number) => void>();
  let records: LogRecord[] = [];
  let lastSeq = 0;
  const template = new Uint8Array(frameBytes).fill(0x61);
  const log: LogReader = {
    get oldestSeq() {
      return lastSeq - records.length + 1;
    },
    get lastSeq() {
      return lastSeq;
    },
    lastTimeUs: 0,
    seqBeforeTime: () => lastSeq,
    setSkippedDids: () => {},
    onDurable(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    openCursor(from) {
      let seq = from;
      return {
        get seq() {
          return seq;
        },
        inTail: true,
        next(maxBytes) {
          const oldestSeq = lastSeq - records.length + 1;
          if (seq < oldestSeq - 1) return 'behind';
          const start = seq + 1 - oldestSeq;
          const found = records.slice(start, start + Math.max(1, Math.floor(maxBytes / frameBytes)));
          seq += found.length;
          return found;
        },
        close() {},
      };
    },
  };
  const write = (count: number): readonly LogRecord[] => {
    const now = performance.timeOrigin + performance.now();
    const written: LogRecord[] = [];
    for (let index = 0; index < count; index++) {
      const frame = template.slice();
      new DataView(frame.buffer).setFloat64(frameBytes - 8, now);
      written.push({
        seq: ++lastSeq,
        timeUs: lastSeq,
        hostId: 1,
        upstreamSeq: lastSeq,
        kind: KIND.commit,
        opCount: 1,
        didHash: 1,
        frame,
      });
    }
    records.push(...written);
    if (records.length > 2 * KEPT_RECORDS) records = records.slice(-KEPT_RECORDS);
    for (const listener of listeners) listener(lastSeq);
    return written;
  };
  return { log, write };
};

/** The consumers' process: connects, counts, times, and reports when told to stop. */
const consume = async (port: number, count: number): Promise<void> => {
  const request =
    `GET ${PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n';
  let bytes = 0;
  const latencies: number[] = [];
  for (let index = 0; index < count - PROBES; index++) {
    await Bun.connect({
      hostname: '127.0.0.1',
      port,
      socket: {
        open: (socket) => void socket.write(request),
        data: (_, data) => {
          bytes += data.length;
        },
      },
    });
  }
  for (let index = 0; index < PROBES; index++) {
    const socket = new WebSocket(`ws://127.0.0.1:${port}${PATH}`);
    socket.binaryType = 'arraybuffer';
    socket.onmessage = (event) => {
      const data = event.data as ArrayBuffer;
      bytes += data.byteLength;
      const sentAt = new DataView(data).getFloat64(data.byteLength - 8);
      latencies.push(performance.timeOrigin + performance.now() - sentAt);
    };
  }
  for await (const line of console) {
    if (line === 'start') {
      bytes = 0;
      latencies.length = 0;
    }
    if (line === 'stop') break;
  }
  latencies.sort((a, b) => a - b);
  const at = (share: number) => latencies[Math.floor(latencies.length * share)] ?? Number.NaN;
  console.log(JSON.stringify({ bytes, p50: at(0.5), p99: at(0.99) }));
  process.exit(0);
};

type Mode = 'edge' | 'send per frame' | 'publish';

/** The baselines: no cursors, no backpressure, every frame to every socket as it comes. */
const createPlainEdge = () => {
  const sockets: EdgeSocket[] = [];
  const edge: Edge = {
    upgrade(request, server) {
      return server.upgrade(request, { data: { handlers: edge.websocket } }) ? undefined : new Response('no');
    },
    websocket: {
      open(socket) {
        socket.subscribe('all');
        sockets.push(socket);
      },
      message() {},
      drain() {},
      pong() {},
      close() {},
    },
    async close() {},
  };
  return { edge, sockets };
};

const run = async (mode: Mode, consumers: number, perSecond: number, frameBytes: number, seconds: number) => {
  const { log, write } = createMemoryLog(frameBytes);
  const firehose = createFirehoseEdge({ log });
  const plain = createPlainEdge();
  const server = startServer({
    host: '127.0.0.1',
    port: 0,
    app: { fetch: () => new Response('', { status: 404 }) },
    edges: { [PATH]: mode === 'edge' ? firehose : plain.edge },
  });
  const connected = () => (mode === 'edge' ? firehose.consumers().length : plain.sockets.length);
  const child = Bun.spawn(
    [process.execPath, import.meta.path, 'consume', String(server.port), String(consumers)],
    {
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: 'inherit',
    },
  );
  while (connected() < consumers) await Bun.sleep(20);

  let startedMs = performance.now();
  let written = 0;
  let skipped = 0;
  const timer = setInterval(() => {
    // A baseline that cannot keep up is given less instead of an ever growing backlog.
    const due = Math.floor(((performance.now() - startedMs) * perSecond) / 1000) - skipped - written;
    if (due <= 0) return;
    const count = Math.min(due, Math.ceil(perSecond / 20));
    skipped += due - count;
    written += count;
    const records = write(count);
    if (mode === 'send per frame') {
      for (const record of records)
        for (const socket of plain.sockets) socket.sendBinary(record.frame as Uint8Array<ArrayBuffer>, false);
    } else if (mode === 'publish') {
      const publisher = plain.sockets[0]!;
      for (const record of records) {
        publisher.publish('all', record.frame as Uint8Array<ArrayBuffer>, false);
        publisher.sendBinary(record.frame as Uint8Array<ArrayBuffer>, false);
      }
    }
  }, COMMIT_EVERY_MS);

  await Bun.sleep(1000);
  child.stdin.write('start\n');
  startedMs = performance.now();
  written = 0;
  skipped = 0;
  const deliveredBefore = firehose.counters.deliveries;
  const before = process.cpuUsage();
  await Bun.sleep(seconds * 1000);
  const cpu = process.cpuUsage(before);
  const elapsedMs = performance.now() - startedMs;
  const deliveries = mode === 'edge' ? firehose.counters.deliveries - deliveredBefore : written * consumers;
  const behind = Math.max(0, ...firehose.consumers().map((consumer) => consumer.behind));
  clearInterval(timer);
  await Bun.sleep(200);
  child.stdin.write('stop\n');
  child.stdin.flush();
  const report = JSON.parse(await new Response(child.stdout).text()) as {
    bytes: number;
    p50: number;
    p99: number;
  };
  await child.exited;
  await server.close();
  const cpuMs = (cpu.user + cpu.system) / 1000;
  return {
    mode,
    share: cpuMs / elapsedMs,
    systemShare: cpu.system / 1000 / elapsedMs,
    perDeliveryUs: (cpuMs * 1000) / deliveries,
    deliveriesPerSecond: (deliveries / elapsedMs) * 1000,
    p50: report.p50,
    p99: report.p99,
    behind,
  };
};

if (process.argv[2] === 'consume') {
  await consume(Number(process.argv[3]), Number(process.argv[4]));
} else {
  const seconds = Number(process.argv[2] ?? 5);
  const cpu = cpus();
  console.log(
    `fan-out · ${cpu[0]?.model ?? 'unknown CPU'} × ${cpu.length} · Bun ${Bun.version} · consumers in another process`,
  );
  for (const [consumers, perSecond, frameBytes] of [
    [100, 2000, 1500],
    [100, 2000, 5000],
    [1000, 1000, 300],
  ] as const) {
    console.log(`\n${consumers} consumers × ${perSecond} ev/s, frames of ${frameBytes} bytes`);
    const results = [];
    for (const mode of ['edge', 'send per frame', 'publish'] as const) {
      const result = await run(mode, consumers, perSecond, frameBytes, seconds);
      results.push(result);
      console.log(
        `  ${mode.padEnd(15)} ${(result.share * 100).toFixed(1).padStart(6)} % of a core (kernel ${(result.systemShare * 100).toFixed(1)})  ` +
          `${result.perDeliveryUs.toFixed(3)} µs/delivery  ${(result.deliveriesPerSecond / 1000).toFixed(0)}k deliveries/s  ` +
          `added latency p50 ${result.p50.toFixed(1)} ms, p99 ${result.p99.toFixed(1)} ms` +
          (mode === 'edge' ? `  (most behind: ${result.behind} events)` : ''),
      );
    }
    const [edge, send, publish] = results;
    console.log(
      `  edge ÷ send per frame: ${(edge!.perDeliveryUs / send!.perDeliveryUs).toFixed(2)} of the CPU per delivery; ` +
        `edge ÷ publish (which drops): ${(edge!.perDeliveryUs / publish!.perDeliveryUs).toFixed(2)}`,
    );
  }
  process.exit(0);
}
