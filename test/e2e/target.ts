/**
 * What the consumers follow: weir as a child process, or (to test the test) the PDS itself behind a TCP proxy that
 * can be cut and started again like a killed relay.
 */
import { openSync } from 'node:fs';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { freePort, type Network } from './network.ts';
import { basic } from './xrpc.ts';

export interface Target {
  /** http://… of its API. */
  readonly url: string;
  /** Starts it; resolves when it serves. */
  start(): Promise<void>;
  /** Starts it and does not wait. */
  spawn(): Promise<void>;
  /** SIGKILL. `withChildren`: its database too, as when the machine goes down. */
  kill(withChildren: boolean): Promise<void>;
  /** SIGTERM; answers the exit code (null: it had to be killed). */
  stop(): Promise<number | null>;
  /** Ends whatever is left, by its process id. */
  cleanUp(): Promise<void>;
}

export interface Weir extends Target {
  readonly metricsUrl: string;
  readonly adminAuthorization: string;
  readonly logFile: string;
  /** Processes that belong to this weir's data directory, itself excluded: pid and command. */
  leftOver(): Promise<{ pid: number; command: string }[]>;
  /** Runs another command of weir with the same settings, to its end. */
  command(args: readonly string[]): Promise<{ code: number; output: string }>;
  /** How the process ended by itself, in words; null while it runs or when it was ended from here. */
  readonly death: string | null;
}

const ROOT = join(import.meta.dir, '..', '..');
const START_TIMEOUT_MS = 40_000;
const STOP_TIMEOUT_MS = 15_000;

/** Whether `weir` or one of its processes: known by the data directory, in the command line or as working directory. */
const processesOf = async (directory: string): Promise<{ pid: number; command: string }[]> => {
  const found: { pid: number; command: string }[] = [];
  if (process.platform !== 'linux') {
    const listing = await new Response(Bun.spawn(['ps', '-axo', 'pid=,command=']).stdout).text();
    for (const line of listing.split('\n')) {
      const match = /^\s*(\d+)\s+(.*)$/.exec(line);
      if (match !== null && match[2]!.includes(directory))
        found.push({ pid: Number(match[1]), command: match[2]! });
    }
    return found;
  }
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    try {
      const command = (await readFile(`/proc/${name}/cmdline`, 'utf8')).replaceAll('\0', ' ').trim();
      const cwd = await readlink(`/proc/${name}/cwd`).catch(() => '');
      if (command.includes(directory) || cwd.startsWith(directory))
        found.push({ pid: Number(name), command });
    } catch {
      // Gone meanwhile.
    }
  }
  return found;
};

const killPid = (pid: number) => {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone meanwhile.
  }
};

/** weir, with its data and log under `directory`. `hosts`: RELAY_HOSTS. */
export const createWeir = async (
  network: Network,
  directory: string,
  hosts: readonly string[],
): Promise<Weir> => {
  const apiPort = await freePort();
  const metricsPort = await freePort();
  const url = `http://127.0.0.1:${apiPort}`;
  const dataDir = join(directory, 'weir-data');
  const logFile = join(directory, 'weir.log');
  const password = crypto.randomUUID();
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env))
    if (value !== undefined && !name.startsWith('RELAY_') && name !== 'DATABASE_URL') env[name] = value;
  Object.assign(env, {
    RELAY_DATA_DIR: dataDir,
    RELAY_PLC_HOST: network.plcUrl,
    RELAY_UPSTREAM: '',
    RELAY_HOSTS: hosts.join(','),
    RELAY_ALLOW_INSECURE_HOSTS: 'true',
    RELAY_API_BIND: `127.0.0.1:${apiPort}`,
    RELAY_METRICS_LISTEN: `127.0.0.1:${metricsPort}`,
    RELAY_ADMIN_PASSWORD: password,
    LOG_LEVEL: 'info',
    LOG_FORMAT: 'text',
  });
  let child: Bun.Subprocess | null = null;
  let ending = false;

  const spawn = async () => {
    ending = false;
    const log = openSync(logFile, 'a');
    child = Bun.spawn([process.execPath, 'src/main.ts', 'serve'], {
      cwd: ROOT,
      env,
      stdin: 'ignore',
      stdout: log,
      stderr: log,
    });
  };
  const leftOver = async () => (await processesOf(dataDir)).filter(({ pid }) => pid !== child?.pid);

  const weir: Weir = {
    url,
    metricsUrl: `http://127.0.0.1:${metricsPort}/metrics`,
    adminAuthorization: basic('admin', password),
    logFile,
    leftOver,
    command: async (args) => {
      const run = Bun.spawn([process.execPath, 'src/main.ts', ...args], {
        cwd: ROOT,
        env,
        stdin: 'ignore',
        stdout: 'pipe',
        stderr: 'pipe',
      });
      const [out, err, code] = await Promise.all([
        new Response(run.stdout).text(),
        new Response(run.stderr).text(),
        run.exited,
      ]);
      return { code, output: out + err };
    },
    get death() {
      if (child === null || ending || (child.exitCode === null && child.signalCode === null)) return null;
      return `weir ended by itself (code ${child.exitCode}, signal ${child.signalCode})`;
    },
    spawn,
    start: async () => {
      await spawn();
      const deadline = Date.now() + START_TIMEOUT_MS;
      while (Date.now() < deadline) {
        if (weir.death !== null) throw new Error(weir.death);
        const health = await fetch(`${url}/xrpc/_health`, { signal: AbortSignal.timeout(2000) }).catch(
          () => null,
        );
        if (health?.ok) return;
        await Bun.sleep(50);
      }
      throw new Error(`weir was not healthy after ${START_TIMEOUT_MS / 1000} s`);
    },
    kill: async (withChildren) => {
      ending = true;
      child?.kill('SIGKILL');
      if (withChildren) for (const { pid } of await leftOver()) killPid(pid);
      await child?.exited;
    },
    stop: async () => {
      if (child === null) return null;
      ending = true;
      child.kill('SIGTERM');
      const code = await Promise.race([child.exited, Bun.sleep(STOP_TIMEOUT_MS).then(() => null)]);
      if (code === null) child.kill('SIGKILL');
      await child.exited;
      return code;
    },
    cleanUp: async () => {
      ending = true;
      child?.kill('SIGKILL');
      await child?.exited;
      for (const { pid } of await processesOf(dataDir)) killPid(pid);
    },
  };
  return weir;
};

/** A PDS seen through a proxy on a port of its own. */
export const createProxy = async (pds: { readonly url: string }): Promise<Target> => {
  const port = await freePort();
  const upstreamPort = Number(new URL(pds.url).port);
  let server: Server | null = null;
  const sockets = new Set<Socket>();
  const hold = (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => socket.destroy());
  };
  const spawn = () =>
    new Promise<void>((resolve) => {
      server = createServer((inbound) => {
        const outbound = connect(upstreamPort, 'localhost');
        hold(inbound);
        hold(outbound);
        inbound.on('close', () => outbound.destroy());
        outbound.on('close', () => inbound.destroy());
        inbound.pipe(outbound);
        outbound.pipe(inbound);
      });
      server.listen(port, '127.0.0.1', resolve);
    });
  const end = async () => {
    const old = server;
    server = null;
    for (const socket of sockets) socket.destroy();
    if (old !== null) await new Promise<void>((resolve) => old.close(() => resolve()));
  };
  return {
    url: `http://127.0.0.1:${port}`,
    spawn,
    start: spawn,
    kill: end,
    stop: async () => {
      await end();
      return 0;
    },
    cleanUp: end,
  };
};
