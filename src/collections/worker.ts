/**
 * The thread of the collection index: `createIndexer` behind messages.
 */
import { createIndexer, type Indexer } from './indexer.ts';
import type { FromIndexer, ToIndexer } from './messages.ts';

declare const self: Worker & {
  onmessage: ((event: MessageEvent<ToIndexer>) => void) | null;
};

/** Numbers travel this often. */
const STATS_EVERY_MS = 1_000;

const send = (message: FromIndexer): void => self.postMessage(message);

let indexer: Indexer | null = null;
let timer: ReturnType<typeof setInterval> | null = null;

const start = (path: string): void => {
  try {
    const started = createIndexer(path, {
      send,
      nowMs: Date.now,
      after: (delayMs, callback) => {
        setTimeout(callback, delayMs);
      },
    });
    indexer = started;
    send({ kind: 'ready', stats: started.stats() });
    timer = setInterval(() => send({ kind: 'stats', stats: started.stats() }), STATS_EVERY_MS);
  } catch (error) {
    send({ kind: 'fatal', message: error instanceof Error ? error.message : String(error) });
  }
};

const stop = (): void => {
  if (timer !== null) clearInterval(timer);
  try {
    if (indexer !== null) send({ kind: 'stats', stats: indexer.stats() });
    indexer?.stop();
  } finally {
    send({ kind: 'stopped' });
    // Nobody terminates this thread from outside: that could hit SQLite in the middle.
    self.onmessage = null;
    process.exit(0);
  }
};

self.onmessage = ({ data }) => {
  if (data.kind === 'start') start(data.path);
  else if (data.kind === 'stop') stop();
  else indexer?.message(data);
};
