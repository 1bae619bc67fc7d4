/**
 * `bun run demo`: the whole of weir on one machine, without a network. The simulated network, the relay, and a
 * consumer run as they would on their own; this command starts them, looks at them from outside like an operator
 * (metrics and firehose), and takes them down.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { createConsumer } from '../simulator/consumer.ts';

const HELP = `usage: bun run demo [options]

A simulated network, weir following it, and a consumer, with a summary that changes every second.

  --hosts N       simulated PDS hosts (20)
  --accounts N    accounts over all hosts (400)
  --rate N        events per second over all hosts (150)
  --fault NAME=P  let things go wrong, as in bun run simulate; may be given many times
                  (commits=0.001, frames=0.0005)
  --duration N    stop after N seconds (runs until stopped)
  --help          this text
`;

const API_PORT = 2470;
const METRICS_PORT = 2471;
const START_TIMEOUT_MS = 60_000;
const SUMMARY_EVERY_MS = 1_000;

/** The port, or any free one when it is taken. */
const freePort = (port: number): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', () => (port === 0 ? reject(new Error('no free port')) : resolve(freePort(0))));
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      const found = typeof address === 'object' && address !== null ? address.port : port;
      server.close(() => resolve(found));
    });
  });

type Sample = ReadonlyMap<string, number>;

const SERIES = /^([a-z_]+(?:\{[^}]*\})?) (\S+)$/;

/** A Prometheus text page as series → value. */
export const parseMetrics = (page: string): Sample => {
  const sample = new Map<string, number>();
  for (const line of page.split('\n')) {
    const match = SERIES.exec(line);
    if (match !== null) sample.set(match[1]!, Number(match[2]));
  }
  return sample;
};

const sumOf = (sample: Sample, name: string): number => {
  let sum = 0;
  for (const [series, value] of sample) if (series === name || series.startsWith(`${name}{`)) sum += value;
  return sum;
};

const byLabel = (sample: Sample, name: string, label: string): [string, number][] => {
  const sums = new Map<string, number>();
  for (const [series, value] of sample) {
    if (!series.startsWith(`${name}{`)) continue;
    const found = new RegExp(`[{,]${label}="([^"]*)"`).exec(series);
    if (found !== null) sums.set(found[1]!, (sums.get(found[1]!) ?? 0) + value);
  }
  return [...sums].sort((a, b) => b[1] - a[1]);
};

const number = (value: number): string => Math.round(value).toLocaleString('en');

/** Runs the demo until it is stopped; the answer is the exit code. */
export const demoCommand = async (args: readonly string[], out: (line: string) => void): Promise<number> => {
  const { values } = parseArgs({
    args: [...args],
    options: {
      hosts: { type: 'string', default: '20' },
      accounts: { type: 'string', default: '400' },
      rate: { type: 'string', default: '150' },
      fault: { type: 'string', multiple: true, default: ['commits=0.001', 'frames=0.0005'] },
      duration: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) {
    out(HELP);
    return 0;
  }
  const durationMs =
    values.duration === undefined ? Number.POSITIVE_INFINITY : Number(values.duration) * 1000;
  if (!(durationMs > 0)) {
    out(`--duration takes a number of seconds, not ${values.duration}`);
    return 2;
  }

  const main = path.join(import.meta.dir, 'main.ts');
  const dataDir = await mkdtemp(path.join(tmpdir(), 'weir-demo-'));
  const children: Bun.Subprocess[] = [];
  const { promise: ended, resolve: end } = Promise.withResolvers<number>();
  // The children get Ctrl-C as well, but this one decides when they stop.
  process.on('SIGINT', () => end(0));
  process.on('SIGTERM', () => end(0));

  const start = (
    name: string,
    command: readonly string[],
    environment: Record<string, string>,
    seen: (line: string) => void,
  ): Bun.Subprocess => {
    const clean = Object.fromEntries(
      Object.entries(process.env).filter(([key]) => !key.startsWith('RELAY_') && key !== 'DATABASE_URL'),
    );
    const child = Bun.spawn([process.execPath, main, ...command], {
      env: { ...clean, ...environment },
      stdin: 'ignore',
      stdout: 'pipe',
      stderr: 'pipe',
      // Its own group: a Ctrl-C in the terminal is for the demo alone, which then stops its parts in order.
      detached: true,
      onExit: (_child, code) => {
        out(`${name} ended (exit code ${code})`);
        end(1);
      },
    });
    const read = async (stream: ReadableStream<Uint8Array>): Promise<void> => {
      let rest = '';
      for await (const chunk of stream.pipeThrough(
        new TextDecoderStream() as never,
      ) as unknown as AsyncIterable<string>) {
        const lines = (rest + chunk).split('\n');
        rest = lines.pop()!.slice(0, 10_000);
        for (const line of lines) seen(line);
      }
    };
    void read(child.stdout as ReadableStream<Uint8Array>);
    void read(child.stderr as ReadableStream<Uint8Array>);
    children.push(child);
    return child;
  };

  const lastWarnings: string[] = [];
  const run = async (): Promise<number> => {
    const apiPort = await freePort(API_PORT);
    const metricsPort = await freePort(METRICS_PORT);
    out('starting a simulated network …');
    const { promise: directory, resolve: foundDirectory } = Promise.withResolvers<string>();
    const { hosts, accounts, rate, fault } = values;
    start(
      'the simulated network',
      [
        'simulate',
        ...['--port', '0', '--hosts', hosts, '--accounts', accounts, '--rate', rate],
        ...fault.flatMap((one) => ['--fault', one]),
      ],
      {},
      (line) => {
        const match = /^directory\s+(http:\S+)/.exec(line);
        if (match !== null) foundDirectory(match[1]!);
        else if (/^(usage|.*(--|unknown|takes))/.test(line) && !line.startsWith(' ')) out(line);
      },
    );
    const plc = await Promise.race([directory, ended.then(() => '')]);
    if (plc === '') return ended;
    out('starting weir …');
    start(
      'weir',
      ['serve'],
      {
        RELAY_DATA_DIR: dataDir,
        RELAY_API_BIND: `127.0.0.1:${apiPort}`,
        RELAY_METRICS_LISTEN: `127.0.0.1:${metricsPort}`,
        RELAY_PLC_HOST: plc,
        RELAY_UPSTREAM: plc,
        RELAY_ALLOW_INSECURE_HOSTS: 'true',
        RELAY_REPLAY_MAX_BYTES: '2GB',
        // A handful of hosts carries what thousands would: their rate limits are not the point here.
        RELAY_TRUSTED_DOMAINS: 'localhost',
        LOG_LEVEL: 'warn',
      },
      (line) => {
        lastWarnings.push(line);
        if (lastWarnings.length > 3) lastWarnings.shift();
      },
    );
    const url = `http://127.0.0.1:${apiPort}`;
    const deadline = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      const up = await fetch(`${url}/_health`).then(
        () => true,
        () => false,
      );
      if (up) break;
      if (Date.now() > deadline) {
        out('weir did not come up:');
        for (const line of lastWarnings) out(line);
        return 1;
      }
      if ((await Promise.race([ended.then(() => 'ended'), Bun.sleep(100)])) === 'ended') return ended;
    }
    const consumer = createConsumer({ url, cursor: 0, maxSeen: 0, keepBodies: false });
    await consumer.opened;
    const startedAtMs = Date.now();
    let before: Sample = new Map();
    let beforeFrames = 0;
    let beforeAtMs = startedAtMs;
    let result: number | null = null;
    void ended.then((code) => {
      result = code;
    });
    while (result === null && Date.now() - startedAtMs < durationMs) {
      await Promise.race([Bun.sleep(SUMMARY_EVERY_MS), ended]);
      const page = await fetch(`http://127.0.0.1:${metricsPort}/metrics`).then(
        (answer) => answer.text(),
        () => '',
      );
      if (page === '') continue;
      const now = parseMetrics(page);
      const seconds = (Date.now() - beforeAtMs) / 1000;
      const inPerSecond = (sumOf(now, 'relay_events_total') - sumOf(before, 'relay_events_total')) / seconds;
      const outPerSecond = (consumer.counters.frames - beforeFrames) / seconds;
      const rejections = byLabel(now, 'relay_rejections_total', 'reason');
      const rejected = rejections.reduce((sum, [, count]) => sum + count, 0);
      const lines = [
        `weir demo   ${number((Date.now() - startedAtMs) / 1000)} s   relay ${url}   metrics http://127.0.0.1:${metricsPort}/metrics`,
        '',
        `hosts       ${number(sumOf(now, 'relay_hosts_connected'))} connected of ${number(sumOf(now, 'relay_hosts'))}`,
        `events in   ${number(inPerSecond)}/s   ${number(sumOf(now, 'relay_events_total'))} in all, seq ${number(sumOf(now, 'relay_log_seq'))}`,
        `events out  ${number(outPerSecond)}/s   to one consumer, at seq ${number(consumer.lastSeq ?? 0)}`,
        `rejected    ${number(rejected)}   ${rejections
          .slice(0, 8)
          .map(([reason, count]) => `${reason} ${number(count)}`)
          .join(', ')}${rejections.length > 8 ? ', …' : ''}`,
        `waiting     ${number(sumOf(now, 'relay_ingest_pending_events'))} events for an identity, ${number(sumOf(now, 'relay_ingest_in_flight_bytes') / 1024)} KiB in flight`,
        `lag         ${(sumOf(now, 'relay_ingest_lag_seconds') * 1000).toFixed(0)} ms from signing to the log`,
        `memory      ${number(sumOf(now, 'relay_resident_memory_bytes') / 2 ** 20)} MiB`,
      ];
      if (process.stdout.isTTY) {
        const notes = lastWarnings.map((line) => line.slice(0, (process.stdout.columns ?? 100) - 1));
        out(
          `\u001b[H\u001b[J${lines.join('\n')}\n\n${notes.join('\n')}\n\nLook at ${url}/hosts. Stop with Ctrl-C: everything it made (${dataDir}) goes with it.`,
        );
      } else {
        out(
          `hosts ${number(sumOf(now, 'relay_hosts_connected'))}  in ${number(inPerSecond)}/s  out ${number(outPerSecond)}/s  rejected ${number(rejected)} (${rejections
            .slice(0, 3)
            .map(([reason, count]) => `${reason} ${count}`)
            .join(
              ', ',
            )})  lag ${(sumOf(now, 'relay_ingest_lag_seconds') * 1000).toFixed(0)} ms  memory ${number(sumOf(now, 'relay_resident_memory_bytes') / 2 ** 20)} MiB  ${url}`,
        );
      }
      before = now;
      beforeFrames = consumer.counters.frames;
      beforeAtMs = Date.now();
    }
    await consumer.close();
    return result ?? 0;
  };

  try {
    if (!process.stdout.isTTY)
      out(`stop with Ctrl-C; everything it makes is in ${dataDir}, which goes with it`);
    return await run();
  } finally {
    // The relay before its hosts, so that nothing is reported as lost.
    for (const child of children.reverse()) {
      if (child.exitCode !== null) continue;
      child.kill('SIGTERM');
      await Promise.race([child.exited, Bun.sleep(10_000)]);
      if (child.exitCode === null) child.kill('SIGKILL');
    }
    await rm(dataDir, { recursive: true, force: true });
    out('stopped and cleaned up');
  }
};
