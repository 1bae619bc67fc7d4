/**
 * The collection index as the relay has it: a thread that follows the log and writes, a connection here that reads.
 *
 * Contract: the index reflects the log up to a seq that it stores itself, in the transaction of what it reflects; it is
 * never ahead and never behind what it says, whenever it is killed. Nobody waits for it. Damage, and a file of a newer
 * weir, stop the relay with what to do; a full disk does not, the index waits and says so.
 */
import path from 'node:path';
import type { LogReader } from '../log/types.ts';
import type { FromIndexer, IndexerStats, ToIndexer, WriterMethod } from './messages.ts';
import { type Pump, startPump } from './pump.ts';
import { STATUSES } from './store/account.ts';
import { CHECK_REASONS } from './store/checks.ts';
import { CollectionIndexError } from './store/problem.ts';
import { openCollectionReader } from './store/reader.ts';
import {
  CHECK_FAILURES,
  type CollectionReader,
  type CollectionsStatus,
  type CollectionWriter,
} from './types.ts';

/** Calls that the thread has not answered; who calls waits for answers, so more than this is a fault. */
const MAX_CALLS = 10_000;

/** The index of a data directory. */
export const collectionsPath = (dataDir: string): string => path.join(dataDir, 'collections.sqlite');

export interface Collections {
  readonly reader: CollectionReader;
  /** Through the thread: nothing here waits for the disk. */
  readonly writer: CollectionWriter;
  status(): CollectionsStatus;
  /** Everything that is counted. */
  totals(): Readonly<Record<string, number>>;
  /** Hides the accounts of hosts that are gone for good; those of others that were hidden for it are shown again. */
  sweep(hostIds: readonly number[]): void;
  /** Ends the thread between two transactions. */
  stop(): Promise<void>;
}

export interface CollectionsDeps {
  readonly path: string;
  readonly log: Pick<LogReader, 'oldestSeq' | 'lastSeq' | 'lastTimeUs' | 'openCursor' | 'onDurable'>;
  /** DIDs that the relay itself has taken down; they are hidden whatever the log says of earlier times. */
  readonly takendown: readonly string[];
  readonly warn: (message: string, fields: Record<string, string | number>) => void;
  /** The index cannot go on; the message says what to do. */
  readonly fatal: (error: Error) => void;
}

interface Call {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** Starts the thread. Rejects, with nothing left running, when the index cannot be opened. */
export const openCollections = async (deps: CollectionsDeps): Promise<Collections> => {
  const { log } = deps;
  const worker = new Worker(new URL('./worker.ts', import.meta.url).href);
  const send = (message: ToIndexer): void => worker.postMessage(message);
  const calls = new Map<number, Call>();
  let nextCall = 1;
  let stats: IndexerStats;
  let position = 0;
  let timeUs = 0;
  let failure = '';
  let pump: Pump | null = null;
  let stopping = false;
  const ended = Promise.withResolvers<void>();
  const ready = Promise.withResolvers<IndexerStats>();

  const fail = (message: string): void => {
    const error = new CollectionIndexError(message);
    const isFirst = failure === '';
    failure = message;
    pump?.stop();
    for (const { reject } of calls.values()) reject(error);
    calls.clear();
    ready.reject(error);
    if (isFirst && pump !== null && !stopping) deps.fatal(error);
  };
  worker.onmessage = ({ data }: MessageEvent<FromIndexer>) => {
    switch (data.kind) {
      case 'ready':
        return ready.resolve(data.stats);
      case 'stored':
        position = data.seq;
        timeUs = data.timeUs;
        pump?.stored(data.slot);
        return;
      case 'answer':
        calls.get(data.id)?.resolve(data.value);
        calls.delete(data.id);
        return;
      case 'refused':
        calls.get(data.id)?.reject(new Error(data.message));
        calls.delete(data.id);
        return;
      case 'stats':
        stats = data.stats;
        return;
      case 'fatal':
        return fail(data.message);
      case 'stopped':
        return ended.resolve();
    }
  };
  worker.onerror = (event) => fail(`the thread of the collection index died: ${event.message}`);
  worker.addEventListener('close', () => {
    ended.resolve();
    if (!stopping) fail('the thread of the collection index ended by itself');
    const error = new Error('the collection index is closed');
    for (const { reject } of calls.values()) reject(error);
    calls.clear();
  });
  const stopThread = async (): Promise<void> => {
    stopping = true;
    pump?.stop();
    send({ kind: 'stop' });
    await ended.promise;
  };

  send({ kind: 'start', path: deps.path });
  let reader: CollectionReader;
  try {
    stats = await ready.promise;
    reader = openCollectionReader(deps.path);
  } catch (error) {
    await stopThread();
    throw error;
  }
  position = stats.seq ?? 0;
  if (deps.takendown.length > 0) send({ kind: 'takendown', dids: deps.takendown });
  pump = startPump(stats.seq, {
    log,
    send,
    gap(seq, oldestSeq) {
      send({ kind: 'gap' });
      deps.warn(
        seq === null
          ? 'the collection index is new, and the log does not begin with the first event: what is older comes with `bun run backfill`'
          : 'the log does not hold what the collection index would read next: what it missed comes with `bun run backfill --verify --all`, and repos that it does not know with `--from-hosts`',
        { ...(seq === null ? {} : { indexed: seq }), goesOnAt: oldestSeq },
      );
    },
    fatal: (error) => deps.fatal(error instanceof Error ? error : new Error(String(error))),
  });

  const call = async (method: WriterMethod, ...args: readonly unknown[]): Promise<never> => {
    if (failure !== '') throw new CollectionIndexError(failure);
    if (stopping) throw new Error('the collection index is closed');
    if (calls.size >= MAX_CALLS) throw new Error('too many calls wait for the collection index');
    const id = nextCall++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    calls.set(id, { resolve, reject });
    send({ kind: 'call', id, method, args });
    return (await promise) as never;
  };
  const writer: CollectionWriter = {
    add: (repos) => call('add', repos),
    setStatus: (accounts) => call('setStatus', accounts),
    locate: (accounts) => call('locate', accounts),
    scheduleChecks: (dids, reason) => call('scheduleChecks', dids, reason),
    begin: (did) => call('begin', did),
    apply: (did, watch, truth) => call('apply', did, watch, truth),
    forget: (watch) => call('forget', watch),
    collections: (after, limit) => call('collections', after, limit),
    nextChecks: (nowMs, limit) => call('nextChecks', nowMs, limit),
    beginCheck: (did) => call('beginCheck', did),
    applyCheck: (did, outcome) => call('applyCheck', did, outcome),
    // The thread goes on; whoever has this writer has not opened it.
    close: async () => {},
  };

  /** What was counted since the index was made. */
  const since = () => ({
    gaps: stats.gaps,
    refusedPairs: stats.totals.refused_pairs ?? 0,
    checksRefused: stats.totals.refused_checks ?? 0,
    placesDropped: stats.totals.dropped_places ?? 0,
  });
  /** The counts of a family of totals, by word. */
  const byWord = <Word extends string>(
    family: string,
    words: readonly Word[],
  ): Partial<Record<Word, number>> => {
    const counts: Partial<Record<Word, number>> = {};
    words.forEach((word, code) => {
      const count = stats.totals[`${family}_${code}`] ?? 0;
      if (count > 0) counts[word] = count;
    });
    return counts;
  };

  return {
    reader: {
      ...reader,
      page(query) {
        try {
          return reader.page(query);
        } catch (error) {
          // What the thread would meet sooner or later.
          if (error instanceof CollectionIndexError) fail(error.message);
          throw error;
        }
      },
    },
    writer,
    status() {
      const { active: _, ...hiddenRepos } = byWord('hidden', STATUSES);
      return {
        position,
        lastSeq: log.lastSeq,
        // Nothing was read yet since the start: its time is not known.
        lagMs: position >= log.lastSeq || timeUs === 0 ? 0 : Math.max(0, (log.lastTimeUs - timeUs) / 1_000),
        rows: stats.rows,
        repos: stats.repos,
        hiddenRepos,
        collections: stats.collections,
        checks: byWord('check', CHECK_REASONS),
        givenUp: byWord('failure', CHECK_FAILURES),
        ...since(),
        problem: failure !== '' ? failure : stats.problem,
      };
    },
    totals: () => ({
      ...stats.counters,
      ...since(),
      leftPlaces: stats.totals.places ?? 0,
      bytes: stats.bytes,
      bytesInFlight: pump?.bytesInFlight ?? 0,
    }),
    sweep: (hostIds) => send({ kind: 'sweep', hostIds }),
    async stop() {
      // The last one to close puts the write-ahead log into the file, which a reader cannot.
      reader.close();
      await stopThread();
    },
  };
};
