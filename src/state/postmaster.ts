/**
 * What is known of a PostgreSQL server that already runs on a data directory: read from its postmaster.pid, judged by
 * the process table. It is how a start tells a server left behind from one that another weir is using.
 * Source: PostgreSQL documentation, "Database File Layout", postmaster.pid.
 */

import { readFileSync, readlinkSync, realpathSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/** What PostgreSQL calls its socket on its default port. */
export const SOCKET_NAME = '.s.PGSQL.5432';

/** The zeroth argument of the shell that supervises a server of ours: found again in the process table. */
export const SUPERVISOR_NAME = 'weir-postgres';

/** How long a server whose supervisor lives may take to show that it is stopping before we call it in use. */
const IN_USE_AFTER_MS = 3_000;
/** A fast shutdown writes a checkpoint; after this long we ask for an immediate one (recovery is by the WAL). */
const IMMEDIATE_AFTER_MS = 60_000;
const GIVE_UP_AFTER_MS = 75_000;
const POLL_MS = 25;

export interface Postmaster {
  readonly pid: number;
  /** 'starting', 'ready', 'stopping', 'standby'; '' when not written yet. */
  readonly status: string;
}

/** Reads postmaster.pid; null when there is none (or it holds nothing yet). */
export const readPostmaster = (pgData: string): Postmaster | null => {
  let text: string;
  try {
    text = readFileSync(join(pgData, 'postmaster.pid'), 'utf8');
  } catch {
    return null;
  }
  const lines = text.split('\n');
  const pid = Number(lines[0]);
  if (!Number.isSafeInteger(pid) || pid <= 1) return null;
  return { pid, status: (lines[7] ?? '').trim() };
};

/** Whether `pid` is a live server process working in `pgData`, and not some other process that got the number. */
export const isPostmasterOf = (pid: number, pgData: string): boolean => {
  if (!isAlive(pid)) return false;
  if (process.platform === 'linux') {
    try {
      if (statFields(pid)[0] === 'Z') return false;
      return worksIn(pid, pgData);
    } catch {
      return false;
    }
  }
  return processField(pid, 'args').includes(pgData);
};

/** Whether the parent of the server is a supervising shell of ours. */
export const isSupervised = (pid: number): boolean => {
  if (process.platform === 'linux') {
    try {
      const parent = statFields(pid)[1];
      return readFileSync(`/proc/${parent}/cmdline`, 'utf8').split('\0').includes(SUPERVISOR_NAME);
    } catch {
      return false;
    }
  }
  const parent = Number(processField(pid, 'ppid'));
  return Number.isSafeInteger(parent) && processField(parent, 'args').includes(SUPERVISOR_NAME);
};

/**
 * Makes sure that no server runs on `pgData`: waits for one that is stopping, stops one that has lost its
 * supervisor, removes the lock file of one that is dead. Two servers on one directory would destroy it.
 * @throws when another weir is using the directory, or the server cannot be stopped; the reason of `signal` when that
 *   aborts
 */
export const settlePreviousServer = async (
  pgData: string,
  log: (level: 'info' | 'warn', message: string) => void,
  signal?: AbortSignal,
): Promise<void> => {
  const startedAt = performance.now();
  let signalled: NodeJS.Signals | null = null;
  let waitingLogged = false;
  for (;;) {
    signal?.throwIfAborted();
    const server = readPostmaster(pgData);
    if (server === null || !isPostmasterOf(server.pid, pgData)) {
      // The number in a lock file may belong to another process by now, or to a dead one that nobody has buried yet:
      // PostgreSQL itself would take either for a running server.
      for (const name of ['postmaster.pid', SOCKET_NAME, `${SOCKET_NAME}.lock`])
        rmSync(join(pgData, name), { force: true });
      return;
    }
    const waitedMs = performance.now() - startedAt;
    const supervised = isSupervised(server.pid);
    if (supervised && server.status !== 'stopping' && waitedMs > IN_USE_AFTER_MS)
      throw new Error(
        `Another weir is using ${pgData} (PostgreSQL process ${server.pid}). Stop it, or give this one its own RELAY_DATA_DIR.`,
      );
    if (!supervised && signalled === null) {
      log('warn', `stopping a PostgreSQL server left behind by an earlier run (process ${server.pid})`);
      signalled = 'SIGINT';
      kill(server.pid, signalled);
    }
    if (waitedMs > IMMEDIATE_AFTER_MS && signalled !== 'SIGQUIT') {
      log('warn', `PostgreSQL process ${server.pid} is slow to stop: asking for an immediate shutdown`);
      signalled = 'SIGQUIT';
      kill(server.pid, signalled);
    }
    if (waitedMs > GIVE_UP_AFTER_MS)
      throw new Error(`PostgreSQL process ${server.pid} on ${pgData} does not stop: stop it by hand.`);
    if (!waitingLogged && waitedMs > 1_000) {
      waitingLogged = true;
      log('info', `waiting for the PostgreSQL server of an earlier run to stop (process ${server.pid})`);
    }
    await Bun.sleep(POLL_MS);
  }
};

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
};

const kill = (pid: number, signal: NodeJS.Signals): void => {
  try {
    process.kill(pid, signal);
  } catch {
    // Gone already: the next look at the process table says so.
  }
};

/** Fields of /proc/PID/stat from the state on: [state, parent, …]. The program's name before them may hold spaces. */
const statFields = (pid: number): string[] => {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
};

const worksIn = (pid: number, pgData: string): boolean => {
  try {
    return readlinkSync(`/proc/${pid}/cwd`) === realpathSync(pgData);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'EACCES' && code !== 'EPERM') throw error;
    // Hardened systems hide the working directory even from the owner; the command line names it too.
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(pgData);
  }
};

const processField = (pid: number, field: 'args' | 'ppid'): string => {
  const answer = Bun.spawnSync(['ps', '-o', `${field}=`, '-p', String(pid)]);
  return answer.stdout.toString().trim();
};
