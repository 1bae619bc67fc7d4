/**
 * The backfill as a running relay offers it to its admins: started, paused, resumed, cancelled and watched through
 * the database, worked on by a process of its own. So a long import costs the relay's threads nothing, and a run
 * begun in a terminal can be paused by the API, and the other way around.
 *
 * The process ends with the relay (it holds a pipe) and is resumed with it when an admin began the run.
 */
import path from 'node:path';
import {
  BACKFILL_LOCK,
  createPool,
  createWriter,
  type DatabaseAddress,
  DatabaseInUseError,
} from '../state/connections.ts';
import type { StateLog } from '../state/embedded.ts';
import { cancelIdleRun, createProgress, isBackfillRunning, readStatus, wantOfRun } from './progress.ts';
import { type BackfillControl, type BackfillReply, type BackfillStatus, noCounters } from './types.ts';

const MAX_WAITING_QUERIES = 32;
const LOCK_WAIT_MS = 2_000;
/** How long a process may take to store where it is. */
const END_WAIT_MS = 10_000;
const REFRESH_MS = 10_000;
const MAX_LINE_CHARS = 1_000;
const POLL_MS = 50;
const RECENT_MS = 5_000;

/** The process that works on a run. */
export interface BackfillProcess {
  readonly exited: Promise<number>;
  /** Asks it to store where it is and to end. */
  end(): void;
  kill(): void;
}

/** Starts it; what it says goes to `line`. */
export type StartProcess = (line: (text: string) => void) => BackfillProcess;

export interface RelayBackfill extends BackfillControl {
  /** Goes on with a run that an admin began and that an end of the relay cut short. */
  resumeInterrupted(): Promise<void>;
  /** The status for pages that anyone may ask for: some seconds old, read once for all who ask. */
  recentStatus(): Promise<BackfillStatus | null>;
  /** Numbers of the last run for the metrics, some seconds old. */
  readonly counters: Readonly<Record<string, number>>;
  /** Pauses what works here. */
  stop(): Promise<void>;
}

/** The command line of this program, in the environment of the relay. */
export const startBackfillProcess: StartProcess = (line) => {
  const main = path.join(import.meta.dir, '..', 'main.ts');
  const child = Bun.spawn([process.execPath, main, 'backfill', '--supervised'], {
    stdin: 'pipe',
    stdout: 'pipe',
    stderr: 'pipe',
    // Its own group: a Ctrl-C in the relay's terminal is for the relay, which then ends it in order.
    detached: true,
  });
  const forward = async (stream: ReadableStream<Uint8Array>): Promise<void> => {
    const decoder = new TextDecoder();
    let rest = '';
    for await (const chunk of stream) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n');
      rest = lines.pop()!.slice(0, MAX_LINE_CHARS);
      for (const text of lines) if (text.trim() !== '') line(text.slice(0, MAX_LINE_CHARS));
    }
  };
  void forward(child.stdout).catch(() => {});
  void forward(child.stderr).catch(() => {});
  return {
    exited: child.exited,
    end() {
      void child.stdin.end();
      child.kill('SIGTERM');
    },
    kill: () => child.kill('SIGKILL'),
  };
};

const refuse = (message: string): BackfillReply => ({ ok: false, message });

export const createBackfillControl = (deps: {
  readonly database: DatabaseAddress;
  readonly log: StateLog;
  readonly nowMs: () => number;
  /** Default: startBackfillProcess. */
  readonly startProcess?: StartProcess;
}): RelayBackfill => {
  const { log, nowMs } = deps;
  const pool = createPool(deps.database, 1, MAX_WAITING_QUERIES);
  const { query } = pool;
  let child: BackfillProcess | null = null;
  let stopped = false;
  let last: BackfillStatus | null = null;
  /** One change at a time: of two starts, the second must see the first. */
  let turn: Promise<unknown> = Promise.resolve();
  const alone = <T>(work: () => Promise<T>): Promise<T> => {
    const mine = turn.then(work);
    turn = mine.catch(() => {});
    return mine;
  };

  const status = async (): Promise<BackfillStatus | null> => {
    last = await readStatus(query);
    return last;
  };

  /** A process that has stored where it is takes a moment to end. */
  const whenNobodyWorks = async (): Promise<void> => {
    const untilMs = performance.now() + END_WAIT_MS;
    while ((child !== null || (await isBackfillRunning(query))) && performance.now() < untilMs)
      await Bun.sleep(POLL_MS);
  };

  let recent: { readonly atMs: number; readonly status: Promise<BackfillStatus | null> } | null = null;

  const launch = (): void => {
    if (stopped || child !== null) return;
    const mine = (deps.startProcess ?? startBackfillProcess)((text) => log('info', `backfill: ${text}`));
    child = mine;
    void mine.exited.then((code) => {
      child = null;
      if (code !== 0) log('warn', `the backfill's process ended with code ${code}; its run can be resumed`);
    });
  };

  const timer = setInterval(() => {
    if (child === null && last?.state !== 'running' && last !== null) return;
    status().catch(() => {});
  }, REFRESH_MS);
  timer.unref();

  return {
    status,

    recentStatus() {
      if (recent === null || nowMs() - recent.atMs > RECENT_MS) {
        const asked = { atMs: nowMs(), status: status() };
        recent = asked;
        // A failure is not remembered.
        asked.status.catch(() => {
          if (recent === asked) recent = null;
        });
      }
      return recent.status;
    },

    start: (spec) =>
      alone(async () => {
        const before = await status();
        if (before !== null && before.state !== 'finished' && before.state !== 'cancelled')
          return refuse(`backfill ${before.runId} has not ended (${before.state}): resume or cancel it`);
        const writer = createWriter(deps.database, log, LOCK_WAIT_MS, BACKFILL_LOCK);
        let runId: number;
        try {
          ({ runId } = await createProgress(writer).create(spec, 'admin', nowMs()));
        } catch (error) {
          if (error instanceof DatabaseInUseError) return refuse(error.message);
          throw error;
        } finally {
          await writer.close();
        }
        launch();
        await status();
        return { ok: true, runId };
      }),

    pause: () =>
      alone(async () => {
        if (!(await isBackfillRunning(query))) return refuse('no backfill is running');
        const runId = await wantOfRun(query, 'pause');
        return runId === null ? refuse('no backfill is running') : { ok: true, runId };
      }),

    resume: () =>
      alone(async () => {
        if ((await status())?.state === 'paused') await whenNobodyWorks();
        if (child !== null || (await isBackfillRunning(query))) return refuse('a backfill is running');
        const runId = await wantOfRun(query, 'run');
        if (runId === null) return refuse('there is no backfill to resume');
        launch();
        return { ok: true, runId };
      }),

    cancel: () =>
      alone(async () => {
        const runId = (await isBackfillRunning(query))
          ? await wantOfRun(query, 'cancel')
          : await cancelIdleRun(query, nowMs());
        await status();
        return runId === null ? refuse('there is no backfill to cancel') : { ok: true, runId };
      }),

    async resumeInterrupted() {
      const found = await status();
      const cut = found?.state === 'interrupted' || found?.state === 'paused';
      if (found === null || !cut || found.startedBy !== 'admin' || found.wanted !== 'run') return;
      log('info', `going on with backfill ${found.runId}`);
      launch();
    },

    get counters() {
      const counters = last?.counters ?? noCounters();
      const { failures, ...numbers } = counters;
      return {
        ...numbers,
        failures: Object.values(failures).reduce((sum, count) => sum + count, 0),
        running: last?.state === 'running' ? 1 : 0,
        sourcesWaiting: last?.sources.waiting ?? 0,
        sourcesParked: last?.sources.parked ?? 0,
        sourcesDone: last?.sources.done ?? 0,
        sourcesFailed: last?.sources.failed ?? 0,
        queuedRepos: last?.queuedRepos ?? 0,
        failedRepos: last?.failedRepos ?? 0,
      };
    },

    async stop() {
      stopped = true;
      clearInterval(timer);
      const mine = child;
      if (mine !== null) {
        mine.end();
        const isOver = await Promise.race([
          mine.exited.then(() => true),
          Bun.sleep(END_WAIT_MS).then(() => false),
        ]);
        if (!isOver) mine.kill();
      }
      await turn;
      await pool.close();
    },
  };
};
