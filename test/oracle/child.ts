/** The relay as a process of its own, to be killed. */
import { join } from 'node:path';
import type { Network } from '../../simulator/network.ts';
import { environmentOf, eventually, pagesOf } from './harness.ts';

const ROOT = join(import.meta.dir, '..', '..');

/** Below the range that systems take for outgoing connections: it has to be free again after each kill. */
const LOWEST_PORT = 12_000;
const PORTS = 18_000;

const freePort = async (): Promise<number> => {
  for (;;) {
    const port = LOWEST_PORT + Math.floor(Math.random() * PORTS);
    try {
      await Bun.serve({ port, hostname: '127.0.0.1', fetch: () => new Response() }).stop(true);
      return port;
    } catch {
      // Taken.
    }
  }
};

export interface WeirChild extends ReturnType<typeof pagesOf> {
  readonly url: string;
  /** Starts it; resolves when it serves. */
  start(): Promise<void>;
  /** Starts it and does not wait. */
  spawn(): void;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** SIGTERM; the exit code. */
  stop(): Promise<number>;
  /** How it ended by itself; null while it runs or when it was ended from here. */
  readonly death: string | null;
}

export const createChild = async (
  network: Network,
  dataDir: string,
  more: Readonly<Record<string, string>> = {},
): Promise<WeirChild> => {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env))
    if (value !== undefined && !name.startsWith('RELAY_') && name !== 'DATABASE_URL') env[name] = value;
  Object.assign(
    env,
    environmentOf(network, dataDir, { RELAY_API_BIND: `127.0.0.1:${port}`, LOG_FORMAT: 'text', ...more }),
  );
  let child: Bun.Subprocess | null = null;
  let isEnding = false;
  const spawn = (): void => {
    isEnding = false;
    child = Bun.spawn([process.execPath, 'src/main.ts', 'serve'], {
      cwd: ROOT,
      env,
      stdin: 'ignore',
      stdout: 'inherit',
      stderr: 'inherit',
    });
  };
  const weir: WeirChild = {
    url,
    ...pagesOf(url),
    spawn,
    async start() {
      spawn();
      await eventually(async () => {
        if (weir.death !== null) throw new Error(weir.death);
        const answer = await fetch(`${url}/_health`).catch(() => null);
        return answer?.ok === true ? null : `not healthy: ${answer?.status ?? 'no answer'}`;
      }, 40_000);
    },
    async kill() {
      isEnding = true;
      child?.kill('SIGKILL');
      await child?.exited;
    },
    async stop() {
      isEnding = true;
      child!.kill('SIGTERM');
      return child!.exited;
    },
    get death() {
      if (child === null || isEnding || (child.exitCode === null && child.signalCode === null)) return null;
      return `the relay ended by itself (code ${child.exitCode}, signal ${child.signalCode})`;
    },
  };
  return weir;
};
