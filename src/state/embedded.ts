/**
 * The embedded PostgreSQL: a real server inside the data directory, for those who do not run one of their own.
 *
 * Promises: one server per data directory, reachable only through a Unix socket that only its owner can open; started
 * again when it dies by itself; stopped when weir stops, also when weir is killed. What the log's window holds can be
 * rebuilt from it; of accounts beyond it, bans, limits and takedowns the tables are the only copy.
 *
 * The server outlives nobody: it runs under a small shell that reads a pipe held by weir. When weir ends in any way,
 * SIGKILL included, the kernel closes the pipe, the shell reads the end of it and asks the server for a fast
 * shutdown. This works on every Unix, needs no polling, and is not undone by user namespaces or changes of user, as
 * the kernel's parent-death signal is. The shell and the server are in a session of their own, so that Ctrl-C in the
 * terminal reaches weir alone, which then writes its last state before it closes the pipe.
 */

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { findPostgresBinaries, type PostgresBinaries } from './binaries.ts';
import {
  isPostmasterOf,
  readPostmaster,
  SOCKET_NAME,
  SUPERVISOR_NAME,
  settlePreviousServer,
} from './postmaster.ts';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** Plain sentences for the operator. */
export type StateLog = (level: LogLevel, message: string) => void;

/** Where a database on a Unix socket is to be found. */
export interface SocketDatabase {
  /** The socket file itself. */
  readonly path: string;
  readonly user: string;
  readonly database: string;
}

export interface EmbeddedPostgresOptions {
  /** weir's data directory; the server's files go to `postgres` inside it. */
  readonly dataDir: string;
  readonly log?: StateLog;
  /** The programs to use instead of the installed package's. */
  readonly binaries?: PostgresBinaries;
  /** Server settings that differ from ours, by PostgreSQL's names: throwaway servers need no fsync. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Calls the start off, until it has resolved. */
  readonly signal?: AbortSignal;
}

export interface EmbeddedPostgres {
  readonly database: SocketDatabase;
  /** Process number of the server now running; null while it is being started again. */
  pid(): number | null;
  /** Resolves when the server has written its checkpoint and ended. May be called twice. */
  stop(): Promise<void>;
}

/** The longest path a Unix socket address holds on every system (104 bytes on macOS, 108 on Linux, with the end mark). */
const MAX_SOCKET_PATH_BYTES = 103;
const UNFINISHED_PREFIX = 'postgres.new-';
/** How often a starting server is looked at. */
const POLL_MS = 10;
/** Recovery after a crash may replay up to `max_wal_size` of WAL: say every so often that it goes on. */
const STARTING_LOG_EVERY_MS = 5_000;
const RESTART_BACKOFF_MS = [500, 1_000, 2_000, 5_000, 10_000, 30_000] as const;
/** A server that lived this long starts the backoff anew. */
const HEALTHY_AFTER_MS = 60_000;
/** How long a fast shutdown may take before an immediate one is asked for. */
const STOP_IMMEDIATE_AFTER_MS = 30_000;
/** Lines of the server kept for the message when it does not start. */
const MAX_LAST_LINES = 20;
const MAX_LINE_CHARS = 1_000;

/**
 * Small, because the hot state lives in weir's memory. What must be durable (flushes, host numbers, bans) says so in its
 * own transaction; migrations and the like may trail. `fsync` and full pages stay on.
 */
const SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: '',
  unix_socket_permissions: '0700',
  port: '5432',
  max_connections: '20',
  superuser_reserved_connections: '1',
  shared_buffers: '64MB',
  work_mem: '4MB',
  maintenance_work_mem: '64MB',
  synchronous_commit: 'off',
  fsync: 'on',
  full_page_writes: 'on',
  wal_level: 'minimal',
  max_wal_senders: '0',
  wal_buffers: '4MB',
  min_wal_size: '80MB',
  max_wal_size: '512MB',
  checkpoint_timeout: '10min',
  wal_compression: 'on',
  // The worker processes of the default method cost memory and gain nothing at this size.
  io_method: 'sync',
  max_worker_processes: '2',
  max_parallel_workers: '0',
  max_parallel_workers_per_gather: '0',
  max_logical_replication_workers: '0',
  autovacuum_max_workers: '1',
  jit: 'off',
  log_checkpoints: 'off',
  log_destination: 'stderr',
  logging_collector: 'off',
  timezone: 'UTC',
  log_timezone: 'UTC',
};

/**
 * Runs the server as a child until it ends or the pipe on standard input does. Signals meant for the whole service
 * (TERM, INT, HUP) are ignored: weir decides, by the pipe. The server is asked again and again, since one that has only
 * just been started does not hear it: it ignores INT, too, until it is ready to handle it. $1 is a temporary socket folder to remove, or empty;
 * $2 the library path, or empty.
 */
const SUPERVISOR_SCRIPT = `
trap '' TERM INT HUP
socket_dir=$1; library_path=$2; shift 2
if [ -n "$library_path" ]; then
  LD_LIBRARY_PATH=$library_path; DYLD_LIBRARY_PATH=$library_path
  export LD_LIBRARY_PATH DYLD_LIBRARY_PATH
fi
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
( while read -r line; do :; done <&3; while kill -INT "$server"; do sleep 1; done ) >/dev/null 2>&1 &
watcher=$!
exec 3<&-
while kill -0 "$server" 2>/dev/null; do wait "$server"; status=$?; done
kill -KILL "$watcher" 2>/dev/null
if [ -n "$socket_dir" ]; then rmdir "$socket_dir" 2>/dev/null; fi
exit "\${status:-1}"
`;

/**
 * Starts the server of a data directory, creating its files on the first start.
 * @throws with a sentence for the operator: no binaries for this platform, root without user namespaces, files of
 *   another PostgreSQL version, another weir using the directory, or what the server said when it did not start;
 *   the reason of `signal` when that aborts, with nothing left running
 */
export const startEmbeddedPostgres = async (options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> => {
  const { log = () => {}, signal } = options;
  signal?.throwIfAborted();
  const dataDir = resolve(options.dataDir);
  const pgData = join(dataDir, 'postgres');
  mkdirSync(dataDir, { recursive: true });
  const binaries = options.binaries ?? findPostgresBinaries(join(dataDir, 'postgres-lib'));
  const prefix = userPrefix();

  await initialise(pgData, binaries, prefix, log, signal);
  await settlePreviousServer(pgData, log, signal);

  const socket = chooseSocketDir(pgData);
  const database: SocketDatabase = {
    path: join(socket.dir, SOCKET_NAME),
    user: 'postgres',
    database: 'postgres',
  };
  const command = [
    ...supervise(socket.temporary ? socket.dir : '', binaries, prefix),
    ...serverCommand(binaries, pgData, socket.dir, { ...SETTINGS, ...options.settings }),
  ];

  let running: Running | null = null;
  let stopping: Promise<void> | null = null;
  let wake: (() => void) | null = null;

  const keepRunning = async (first: Running): Promise<void> => {
    let current = first;
    let failures = 0;
    for (;;) {
      const startedAt = performance.now();
      const code = await current.process.exited;
      running = null;
      if (stopping !== null) return;
      if (performance.now() - startedAt > HEALTHY_AFTER_MS) failures = 0;
      for (;;) {
        const waitMs = RESTART_BACKOFF_MS[Math.min(failures++, RESTART_BACKOFF_MS.length - 1)]!;
        log('error', `embedded PostgreSQL ended by itself (code ${code}); starting it again in ${waitMs} ms`);
        await new Promise<void>((done) => {
          const timer = setTimeout(done, waitMs);
          wake = () => {
            clearTimeout(timer);
            done();
          };
        });
        if (stopping !== null) return;
        try {
          await settlePreviousServer(pgData, log);
          mkdirSync(socket.dir, { recursive: true, mode: 0o700 });
          current = await launch(command, pgData, log);
          break;
        } catch (error) {
          log('error', error instanceof Error ? error.message : String(error));
          if (stopping !== null) return;
        }
      }
      running = current;
      if (stopping !== null) await end(current, pgData, log);
      if (stopping !== null) return;
      log('info', 'embedded PostgreSQL runs again');
    }
  };

  let first: Running;
  try {
    first = await launch(command, pgData, log, signal);
  } catch (error) {
    if (socket.temporary) rmSync(socket.dir, { recursive: true, force: true });
    throw error;
  }
  running = first;
  const ended = keepRunning(first);

  return {
    database,
    pid: () => (running === null ? null : (readPostmaster(pgData)?.pid ?? null)),
    stop() {
      stopping ??= (async () => {
        wake?.();
        // Let `stopping` be seen before the server ends.
        await Promise.resolve();
        if (running !== null) await end(running, pgData, log);
        await ended;
      })();
      return stopping;
    },
  };
};

/**
 * PostgreSQL refuses to run as root. Root may create a user namespace in which it is somebody else and still owns
 * its files; where that is forbidden there is nothing left but a server of the operator's own.
 */
const userPrefix = (): string[] => {
  if (process.getuid?.() !== 0) return [];
  const prefix = ['unshare', '-U', '--map-user=1000', '--map-group=1000'];
  let works = false;
  try {
    works = Bun.spawnSync([...prefix, 'true'], { stdout: 'ignore', stderr: 'ignore' }).exitCode === 0;
  } catch {
    // No such program.
  }
  if (!works)
    throw new Error(
      'weir runs as root, PostgreSQL refuses to, and this system gives root no user namespace (unshare -U failed). ' +
        'Run weir as a normal user, or run a PostgreSQL server yourself and set DATABASE_URL.',
    );
  return prefix;
};

const supervise = (temporarySocketDir: string, binaries: PostgresBinaries, prefix: string[]): string[] => [
  ...prefix,
  'sh',
  '-c',
  SUPERVISOR_SCRIPT,
  SUPERVISOR_NAME,
  temporarySocketDir,
  binaries.libraryPath ?? '',
];

const serverCommand = (
  binaries: PostgresBinaries,
  pgData: string,
  socketDir: string,
  settings: Readonly<Record<string, string>>,
): string[] => {
  const command = [binaries.postgres, '-D', pgData, '-c', `unix_socket_directories=${socketDir}`];
  for (const [name, value] of Object.entries(settings)) command.push('-c', `${name}=${value}`);
  return command;
};

/** Creates the server's files on the first start, whole or not at all, and checks those of an earlier one. */
const initialise = async (
  pgData: string,
  binaries: PostgresBinaries,
  prefix: string[],
  log: StateLog,
  signal: AbortSignal | undefined,
): Promise<void> => {
  if (existsSync(pgData)) {
    const version = readVersion(pgData);
    if (version === null)
      throw new Error(
        `${pgData} exists but holds no PostgreSQL data (no PG_VERSION). Move it away; weir rebuilds what it can from its log.`,
      );
    if (version !== binaries.majorVersion)
      throw new Error(
        `${pgData} was written by PostgreSQL ${version}, and this weir brings PostgreSQL ${binaries.majorVersion}. ` +
          'Either start the weir that wrote it, dump with pg_dump and load the dump into the new one, ' +
          'or run a PostgreSQL server yourself and set DATABASE_URL, ' +
          'or move the folder away: weir then starts with an empty state.',
      );
    return;
  }
  log('info', `creating the embedded PostgreSQL ${binaries.majorVersion} in ${pgData}`);
  // Made under another name and renamed when whole, so that a start cut short leaves nothing half made.
  const dataDir = dirname(pgData);
  for (const name of readdirSync(dataDir))
    if (name.startsWith(UNFINISHED_PREFIX)) rmSync(join(dataDir, name), { recursive: true, force: true });
  const fresh = mkdtempSync(join(dataDir, UNFINISHED_PREFIX));
  const child = Bun.spawn(
    [
      ...supervise('', binaries, prefix),
      binaries.initdb,
      ...['-D', fresh, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--data-checksums'],
      ...['--no-instructions', '-c', 'max_connections=20', '-c', 'shared_buffers=64MB'],
    ],
    { stdin: 'pipe', stdout: 'pipe', stderr: 'pipe', detached: true, env: childEnvironment() },
  );
  const callOff = (): void => void child.stdin.end();
  signal?.addEventListener('abort', callOff, { once: true });
  const [code, out, err] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  signal?.removeEventListener('abort', callOff);
  if (code !== 0) {
    rmSync(fresh, { recursive: true, force: true });
    signal?.throwIfAborted();
    throw new Error(
      `PostgreSQL could not create its files in ${pgData} (initdb, code ${code}): ${lastLines(`${out}\n${err}`)}. ` +
        'If this system cannot run it, run a PostgreSQL server yourself and set DATABASE_URL.',
    );
  }
  renameSync(fresh, pgData);
};

const readVersion = (pgData: string): string | null => {
  try {
    return readFileSync(join(pgData, 'PG_VERSION'), 'utf8').trim();
  } catch {
    return null;
  }
};

const chooseSocketDir = (pgData: string): { dir: string; temporary: boolean } => {
  if (Buffer.byteLength(join(pgData, SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES)
    return { dir: pgData, temporary: false };
  const base = Buffer.byteLength(tmpdir()) < 50 ? tmpdir() : '/tmp';
  const tag = createHash('sha256').update(pgData).digest('hex').slice(0, 8);
  const dir = mkdtempSync(join(base, `weir-pg-${tag}-`));
  return { dir, temporary: true };
};

/** Nothing of weir's environment, where secrets stand, but what programs need to be found. */
const childEnvironment = (): Record<string, string> => ({
  PATH: process.env.PATH ?? '/usr/local/bin:/usr/bin:/bin',
  LC_ALL: 'C',
});

interface Running {
  readonly process: Bun.Subprocess<'pipe', 'ignore', 'pipe'>;
}

/** Starts the server and resolves when it takes connections; when `signal` aborts, it is ended again. */
const launch = async (
  command: string[],
  pgData: string,
  log: StateLog,
  signal?: AbortSignal,
): Promise<Running> => {
  const child = Bun.spawn(command, {
    stdin: 'pipe',
    stdout: 'ignore',
    stderr: 'pipe',
    detached: true,
    env: childEnvironment(),
  });
  const last: string[] = [];
  const read = forwardLines(child.stderr, (line) => {
    last.push(line);
    if (last.length > MAX_LAST_LINES) last.shift();
    log(/\b(FATAL|PANIC|ERROR):/.test(line) ? 'warn' : 'debug', `postgres: ${line}`);
  });
  const startedAt = performance.now();
  let nextLogMs = STARTING_LOG_EVERY_MS;
  for (;;) {
    if (signal?.aborted) {
      await end({ process: child }, pgData, log);
      throw signal.reason;
    }
    const server = readPostmaster(pgData);
    if (server?.status === 'ready' && isPostmasterOf(server.pid, pgData)) return { process: child };
    if (child.exitCode !== null || child.signalCode !== null) {
      await read;
      throw new Error(
        `embedded PostgreSQL did not start (code ${child.exitCode}): ${lastLines(last.join('\n'))}`,
      );
    }
    const waitedMs = performance.now() - startedAt;
    if (waitedMs > nextLogMs) {
      nextLogMs += STARTING_LOG_EVERY_MS;
      log(
        'info',
        `embedded PostgreSQL is still starting (${Math.round(waitedMs / 1000)} s): recovering after a crash`,
      );
    }
    await Bun.sleep(POLL_MS);
  }
};

/** Closes the pipe, which is the request for a fast shutdown, and waits for the end. */
const end = async (running: Running, pgData: string, log: StateLog): Promise<void> => {
  await running.process.stdin.end();
  const timer = setTimeout(() => {
    const pid = readPostmaster(pgData)?.pid;
    if (pid === undefined || !isPostmasterOf(pid, pgData)) return;
    log('warn', 'embedded PostgreSQL is slow to stop: asking for an immediate shutdown');
    process.kill(pid, 'SIGQUIT');
  }, STOP_IMMEDIATE_AFTER_MS);
  await running.process.exited;
  clearTimeout(timer);
};

/** Reads to the end whatever the server says, so that it never blocks on a full pipe. */
const forwardLines = async (
  stream: ReadableStream<Uint8Array>,
  line: (text: string) => void,
): Promise<void> => {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n');
    rest = (lines.pop() ?? '').slice(0, MAX_LINE_CHARS);
    for (const text of lines) if (text !== '') line(text.slice(0, MAX_LINE_CHARS));
  }
};

const lastLines = (text: string): string =>
  text
    .split('\n')
    .filter((line) => line.trim() !== '')
    .slice(-5)
    .join(' | ');
