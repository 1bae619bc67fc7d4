/**
 * All ingest threads as one: spreads the hosts over them, and keeps each host where it is, so that its events stay
 * in order. With no workers, ingest runs in the thread of the caller.
 */
import { subscribe } from '../hosts/subscription.ts';
import type { IngestControl } from '../hosts/types.ts';
import { NO_COUNTERS } from './counters.ts';
import { createIngest } from './ingest.ts';
import type { FromWorker, ToWorker, WorkerOptions } from './messages.ts';
import type { IdentityAnswer, Ingest, IngestCounters, IngestEvents } from './types.ts';
import { decodeBatch } from './wire.ts';

export interface IngestPool extends IngestControl {
  /** Sums over all threads. */
  counters(): IngestCounters;
  /** Ends all connections and threads. */
  stop(): Promise<void>;
  readonly threads: number;
  /** Over all threads. */
  readonly maxBytesInFlight: number;
}

export interface IngestPoolDeps {
  readonly workers: number;
  /** maxBytesInFlight is for all threads together, which is more when there are so many that none could take a frame. */
  readonly options: WorkerOptions;
  /** The receiver of one thread's reports; called once per thread. */
  readonly lane: (thread: Pick<Ingest, 'acknowledge' | 'identified'>) => IngestEvents;
  /** A thread ended by itself: a fault of ours. */
  readonly died: (detail: string) => void;
}

/** `learned`: fresh answers reached this thread, the others' caches may be out of date. */
const createThread = (
  deps: IngestPoolDeps,
  options: WorkerOptions,
  learned: (from: Ingest, dids: readonly string[]) => void,
): Ingest => {
  const worker = new Worker(new URL('./worker.ts', import.meta.url).href);
  const send = (message: ToWorker): void => worker.postMessage(message);
  let counters = NO_COUNTERS;
  let stopped: (() => void) | null = null;
  let gone = false;
  let wasTold = false;
  /** Memory that batches come in, by number. */
  const pieces: SharedArrayBuffer[] = [];
  const thread: Ingest = {
    connect: (command) => send({ kind: 'connect', command }),
    disconnect: (hostId) => send({ kind: 'disconnect', hostId }),
    setLimits: (hostId, limits) => send({ kind: 'limits', hostId, limits }),
    identified(answers: readonly IdentityAnswer[]) {
      send({ kind: 'identified', answers });
      const dids = answers.filter(({ fresh, again }) => fresh && !again).map(({ did }) => did);
      if (dids.length > 0) learned(thread, dids);
    },
    forget: (did) => send({ kind: 'forget', did }),
    acknowledge: (bytes) => send({ kind: 'acknowledge', bytes }),
    get counters() {
      return counters;
    },
    stop: () =>
      new Promise((resolve) => {
        if (gone) {
          resolve();
          return;
        }
        stopped = resolve;
        send({ kind: 'stop' });
      }),
  };
  const events = deps.lane(thread);
  worker.onmessage = ({ data }: MessageEvent<ArrayBuffer | FromWorker>) => {
    if (data instanceof ArrayBuffer) {
      events.batch(decodeBatch(data));
      return;
    }
    switch (data.kind) {
      case 'batch':
        if (data.memory !== null) pieces[data.number] = data.memory;
        return events.batch(decodeBatch(pieces[data.number]!));
      case 'opened':
        return events.opened(data.hostId, data.server);
      case 'closed':
        return events.closed(data.hostId, data.outcome);
      case 'identify':
        return events.identify(data.requests);
      case 'info':
        return events.info(data.hostId, data.name, data.message);
      case 'paused':
        return events.paused(data.hostId, data.pausedFor);
      case 'counters':
        counters = data.counters;
        return;
      case 'stopped':
        wasTold = true;
        stopped?.();
        stopped = null;
        return;
    }
  };
  worker.onerror = (event) => deps.died(event.message);
  worker.addEventListener('close', () => {
    gone = true;
    if (stopped !== null) stopped();
    else if (!wasTold) deps.died('it ended by itself');
  });
  send({ kind: 'start', options });
  return thread;
};

/** Starts the threads. Hosts are spread by id. */
export const createIngestPool = (deps: IngestPoolDeps): IngestPool => {
  const count = Math.max(1, deps.workers);
  const { maxFrameBytes } = deps.options;
  // Less than the largest frame, and a host that sends one would be cut at that frame for ever.
  const maxBytesInFlight = Math.max(maxFrameBytes, Math.floor(deps.options.maxBytesInFlight / count));
  const options = { ...deps.options, maxBytesInFlight };
  const threads: Ingest[] = [];
  const learned = (from: Ingest, dids: readonly string[]): void => {
    for (const thread of threads) if (thread !== from) for (const did of dids) thread.forget(did);
  };
  if (deps.workers === 0) {
    const holder: { thread: Ingest | null } = { thread: null };
    const events = deps.lane({
      acknowledge: (bytes) => holder.thread?.acknowledge(bytes),
      identified: (answers) => holder.thread?.identified(answers),
    });
    holder.thread = createIngest({ ...options, subscribe, nowMs: Date.now }, events);
    threads.push(holder.thread);
  } else {
    for (let index = 0; index < count; index++) threads.push(createThread(deps, options, learned));
  }
  const threadOf = (hostId: number): Ingest => threads[hostId % threads.length]!;
  return {
    connect: (command) => threadOf(command.hostId).connect(command),
    disconnect: (hostId) => threadOf(hostId).disconnect(hostId),
    setLimits: (hostId, limits) => threadOf(hostId).setLimits(hostId, limits),
    counters() {
      const sum = { ...NO_COUNTERS };
      for (const { counters } of threads) {
        for (const name of Object.keys(sum) as (keyof IngestCounters)[]) sum[name] += counters[name];
      }
      return sum;
    },
    async stop() {
      await Promise.all(threads.map((thread) => thread.stop()));
    },
    threads: threads.length,
    maxBytesInFlight: maxBytesInFlight * threads.length,
  };
};
