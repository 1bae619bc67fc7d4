/**
 * The processes of a benchmark: weir as its users run it, the simulated network, and consumers, each on its own, so
 * that their CPU time and memory can be told apart. Children speak in lines of JSON.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Subprocess } from 'bun';

const ROOT = join(import.meta.dir, '..');

/** Kept between runs: recordings are as good as new. */
export const CACHE_DIR = join(ROOT, 'node_modules/.cache/weir-bench');

const linesOf = async (stream: ReadableStream<Uint8Array>, take: (line: string) => void): Promise<void> => {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n');
    rest = lines.pop()!;
    for (const line of lines) if (line !== '') take(line);
  }
};

/** A child that says what it has to say in messages of one kind each. */
export interface Child {
  readonly pid: number;
  tell(message: object): void;
  /** The newest message with this field, waiting for it if there is none; `taken` once. */
  hear<T>(field: string): Promise<T>;
  /** Ends it and waits. */
  stop(): Promise<void>;
}

const startChild = (module: string, args: readonly string[], environment: Record<string, string>): Child => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, module), ...args], {
    cwd: ROOT,
    env: { ...process.env, ...environment },
    stdin: 'pipe',
    stdout: 'pipe',
    stderr: 'inherit',
  });
  const heard = new Map<string, unknown>();
  const waiting = new Map<string, (value: unknown) => void>();
  linesOf(child.stdout, (line) => {
    for (const [field, value] of Object.entries(JSON.parse(line) as object)) {
      const waiter = waiting.get(field);
      waiting.delete(field);
      if (waiter !== undefined) waiter(value);
      else heard.set(field, value);
    }
  });
  return {
    pid: child.pid,
    tell(message) {
      child.stdin.write(`${JSON.stringify(message)}\n`);
      child.stdin.flush();
    },
    hear<T>(field: string): Promise<T> {
      if (heard.has(field)) {
        const value = heard.get(field) as T;
        heard.delete(field);
        return Promise.resolve(value);
      }
      const gone = child.exited.then((code): never => {
        throw new Error(`${module} ended with ${code} before it said “${field}”`);
      });
      const said = new Promise<T>((resolve) => waiting.set(field, resolve as (value: unknown) => void));
      return Promise.race([said, gone]);
    },
    async stop() {
      child.kill('SIGTERM');
      await child.exited;
    },
  };
};

/** Messages a child of ours gets, one line each. */
export const onMessages = async (take: (message: Record<string, unknown>) => void): Promise<void> => {
  for await (const line of console) take(JSON.parse(line) as Record<string, unknown>);
};

export const say = (message: object): void => {
  process.stdout.write(`${JSON.stringify(message)}\n`);
};

/** The simulated network (see simulated.ts). */
export const startSimulator = (options: object): Child =>
  startChild('simulated.ts', [JSON.stringify(options)], {});

/** Consumers of a firehose (see drain.ts). */
export const startDrain = (options: object): Child => startChild('drain.ts', [JSON.stringify(options)], {});

/** Clients of Jetstream (see jetstream-drain.ts). */
export const startJetstreamDrain = (): Child => startChild('jetstream-drain.ts', [], {});

export interface Weir {
  readonly pid: number;
  readonly url: string;
  readonly metricsUrl: string;
  /** From the spawn until it said that it serves. */
  readonly servingMs: number;
  /** Sum of a metric's samples, 0 when there is none. */
  metric(name: string): Promise<number>;
  /** Milliseconds until /_health answered. */
  health(): Promise<{ status: number; ms: number }>;
  readonly exited: Promise<number>;
  stop(): Promise<void>;
}

/** The settings of collector and allocator that `bun run start` has, so that what is measured is what runs. */
const startSettings = (): Record<string, string> => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    scripts: { start: string };
  };
  return Object.fromEntries(
    [...scripts.start.matchAll(/\b((?:BUN_JSC|MIMALLOC)_\w+)=(\S+)/g)].map((match) => [match[1]!, match[2]!]),
  );
};

/** Starts `weir serve` with these settings on free ports; resolves when it serves. Its warnings go to our stderr. */
export const startWeir = async (settings: Record<string, string>): Promise<Weir> => {
  const environment: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env))
    if (value !== undefined && !name.startsWith('RELAY_') && name !== 'DATABASE_URL')
      environment[name] = value;
  const startedAt = performance.now();
  const args = (process.env.WEIR_BENCH_BUN_ARGS ?? '').split(' ').filter((arg) => arg !== '');
  const child: Subprocess<'ignore', 'inherit', 'pipe'> = Bun.spawn(
    [process.execPath, ...args, join(ROOT, 'src/main.ts'), 'serve'],
    {
      cwd: ROOT,
      env: {
        ...startSettings(),
        ...environment,
        RELAY_API_BIND: '127.0.0.1:0',
        RELAY_METRICS_LISTEN: '127.0.0.1:0',
        RELAY_UPSTREAM: '',
        LOG_FORMAT: 'json',
        ...settings,
      },
      stdin: 'ignore',
      stdout: 'inherit',
      stderr: 'pipe',
    },
  );
  const serving = Promise.withResolvers<{ url: string; metrics: string }>();
  let shown = 0;
  linesOf(child.stderr, (line) => {
    const told = line.startsWith('{')
      ? (JSON.parse(line) as Record<string, string>)
      : { level: 'error', message: line };
    if (told.message === 'serving') serving.resolve(told as { url: string; metrics: string });
    else if (told.level !== 'info' && shown++ < 20) process.stderr.write(`weir: ${line}\n`);
  });
  const gone = child.exited.then((code): never => {
    throw new Error(`weir ended with ${code} before it served`);
  });
  const { url, metrics } = await Promise.race([serving.promise, gone]);
  gone.catch(() => {});
  return {
    pid: child.pid,
    url,
    metricsUrl: metrics,
    servingMs: performance.now() - startedAt,
    async metric(name) {
      const text = await (await fetch(metrics)).text();
      let sum = 0;
      for (const line of text.split('\n'))
        if (line.startsWith(name) && /^[{ ]/.test(line.slice(name.length)))
          sum += Number(line.slice(line.lastIndexOf(' ') + 1));
      return sum;
    },
    async health() {
      const askedAt = performance.now();
      const response = await fetch(`${url}/_health`, { keepalive: false });
      await response.arrayBuffer();
      return { status: response.status, ms: performance.now() - askedAt };
    },
    exited: child.exited,
    async stop() {
      child.kill('SIGTERM');
      await child.exited;
    },
  };
};

/** A directory that is gone after `work`, however it ends. */
export const withDirectory = async <T>(work: (directory: string) => Promise<T>): Promise<T> => {
  const directory = mkdtempSync(join(tmpdir(), 'weir-bench-'));
  try {
    return await work(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
};
