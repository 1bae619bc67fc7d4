/**
 * What the thread of the collection index does, without the thread: batches of the log, calls, sweeps.
 *
 * Contract: a batch is one transaction, which stores the seq with what it changed. A full disk or another writer that
 * does not end makes it wait and try the same batch again, saying so; damage of the index ends it.
 */
import { scanFrame } from '../firehose/scan.ts';
import { KIND, type ScannedFrame } from '../firehose/types.ts';
import { type BatchRecord, decodeBatch } from './batch.ts';
import { changeCounters, collectionChanges } from './changes.ts';
import { withoutFlapping } from './flapping.ts';
import type { FromIndexer, IndexerStats, ToIndexer } from './messages.ts';
import { CollectionIndexError } from './store/problem.ts';
import { type IndexedEvent, isPassing, openStore } from './store/store.ts';
import { writerOf } from './writer.ts';

/** After a failure that may pass. */
const RETRY_MS = 2_000;
/** A sweep holds the write lock for so long at a time, and lets others write in between. */
const SWEEP_SLICE_MS = 25;
const SWEEP_REST_MS = 25;
/** The same hosts are swept for again after so long: accounts may have been added since. */
const SWEEP_AGAIN_MS = 24 * 3_600_000;

export interface Indexer {
  message(message: Exclude<ToIndexer, { kind: 'start' | 'stop' }>): void;
  stats(): IndexerStats;
  /** What was given is stored, or is given up when that does not work now. */
  stop(): void;
}

export interface IndexerDeps {
  readonly send: (message: FromIndexer) => void;
  readonly nowMs: () => number;
  readonly after: (delayMs: number, callback: () => void) => void;
}

const eventOf = ({ hostId, discontinuity }: BatchRecord, frame: ScannedFrame): IndexedEvent => {
  const { did } = frame;
  if (frame.kind === KIND.commit)
    return { kind: 'commit', hostId, changes: collectionChanges(frame), discontinuity };
  if (frame.kind === KIND.sync) return { kind: 'sync', hostId, did };
  // The word that stands for an account of which its host says only that it is not active.
  return { kind: 'account', hostId, did, status: frame.active ? null : (frame.status ?? 'deactivated') };
};

/** The relay's own decision, as the log would tell it. */
const takedownOf = (did: string): IndexedEvent => ({ kind: 'account', hostId: 0, did, status: 'takendown' });

/** What commits proved, under names that tell them from what the store counts. */
const commitCounters = (): Record<string, number> =>
  Object.fromEntries(
    Object.entries(changeCounters).map(([name, value]) => [
      name === 'commits' ? name : `commit${name[0]!.toUpperCase()}${name.slice(1)}`,
      value,
    ]),
  );

interface WaitingBatch {
  readonly slot: number;
  readonly memory: SharedArrayBuffer;
}

interface ReadBatch {
  readonly seq: number;
  readonly timeUs: number;
  readonly slot: number;
  readonly records: number;
  readonly events: readonly IndexedEvent[];
}

/** What waits to be applied, besides batches. */
type Waiting = WaitingBatch | 'gap' | { readonly takendown: readonly string[] };

const read = ({ slot, memory }: WaitingBatch, takendown: ReadonlySet<string>): ReadBatch => {
  const { seq, timeUs, records } = decodeBatch(memory);
  const events = records.map((record) => {
    const frame = scanFrame(record.frame);
    if (!frame.ok)
      throw new Error(`a record before seq ${seq} of our log holds a frame we refuse: ${frame.reason}`);
    // Nothing of it was passed on since: what the log has is older.
    return takendown.size > 0 && takendown.has(frame.did) ? takedownOf(frame.did) : eventOf(record, frame);
  });
  return { seq, timeUs, slot, records: records.length, events: withoutFlapping(events) };
};

/** Opens the index at `path`. @throws CollectionIndexError */
export const createIndexer = (path: string, { send, nowMs, after }: IndexerDeps): Indexer => {
  const store = openStore(path);
  const writer = writerOf(store, nowMs);
  const counters = { records: 0, batches: 0, retries: 0, sweeps: 0 };
  let problem = '';
  let timeUs = 0;
  let stopped = false;
  /** What was given and not stored, oldest first; bounded by what the pump sends. */
  const waiting: Waiting[] = [];
  let takendown: ReadonlySet<string> = new Set();
  const memories: SharedArrayBuffer[] = [];
  let isRetrying = false;
  let isScheduled = false;

  /** What waits, in one transaction: the more, the less each pair costs. */
  const apply = (items: readonly Waiting[]): void => {
    const batches = items.map((item) =>
      item === 'gap' || 'takendown' in item ? item : read(item, takendown),
    );
    const now = nowMs();
    store.transaction(() => {
      for (const batch of batches) {
        if (batch === 'gap') {
          store.addGap();
          continue;
        }
        if ('takendown' in batch) {
          for (const did of batch.takendown) store.applyEvent(takedownOf(did), now);
          continue;
        }
        for (const event of batch.events) store.applyEvent(event, now);
        store.setSeq(batch.seq);
      }
    });
    for (const batch of batches) {
      if (batch === 'gap' || 'takendown' in batch) continue;
      counters.batches++;
      counters.records += batch.records;
      timeUs = batch.timeUs;
      send({ kind: 'stored', seq: batch.seq, timeUs, slot: batch.slot });
    }
  };
  const fail = (error: unknown): void => {
    stopped = true;
    problem = error instanceof Error ? error.message : String(error);
    send({ kind: 'fatal', message: problem });
  };
  const work = (): void => {
    isScheduled = false;
    if (stopped || isRetrying || waiting.length === 0) return;
    const items = waiting.slice();
    try {
      apply(items);
    } catch (error) {
      if (!isPassing(error)) {
        fail(error);
        return;
      }
      problem = (error as Error).message;
      counters.retries++;
      isRetrying = true;
      after(RETRY_MS, () => {
        isRetrying = false;
        work();
      });
      return;
    }
    waiting.splice(0, items.length);
    problem = '';
  };
  const take = (item: Waiting): void => {
    waiting.push(item);
    if (isScheduled) return;
    isScheduled = true;
    // After what else has arrived.
    after(0, work);
  };

  // --- sweeps ---
  let sweeping: { readonly hosts: ReadonlySet<number>; readonly key: string } | null = null;
  let wanted: readonly number[] | null = null;
  let sweptAtMs = 0;
  const sweep = (position: number): void => {
    if (stopped || sweeping === null) return;
    const { hosts, key } = sweeping;
    let next: number | null = position;
    try {
      store.transaction(() => {
        const untilMs = nowMs() + SWEEP_SLICE_MS;
        next = store.sweep(hosts, position, () => nowMs() >= untilMs);
        if (next === null) store.setSwept(key);
      });
    } catch (error) {
      if (!isPassing(error)) {
        fail(error);
        return;
      }
      after(RETRY_MS, () => sweep(position));
      return;
    }
    if (next !== null) {
      const from = next;
      after(SWEEP_REST_MS, () => sweep(from));
      return;
    }
    counters.sweeps++;
    sweptAtMs = nowMs();
    sweeping = null;
    if (wanted !== null) startSweep(wanted);
  };
  const startSweep = (hostIds: readonly number[]): void => {
    wanted = hostIds;
    if (sweeping !== null) return;
    wanted = null;
    const key = [...hostIds].sort((one, other) => one - other).join();
    // Since the start nothing is known of when: what the file says was swept then counts as just done.
    if (sweptAtMs === 0) sweptAtMs = nowMs();
    if (key === store.swept && nowMs() - sweptAtMs < SWEEP_AGAIN_MS) return;
    sweeping = { hosts: new Set(hostIds), key };
    sweep(-1);
  };

  // What the file holds is read with the first transaction.
  store.transaction(() => {});

  return {
    message(message) {
      if (stopped) return;
      switch (message.kind) {
        case 'batch': {
          const { slot, memory = memories[slot]!, once } = message;
          if (once !== true) memories[slot] = memory;
          return take({ slot, memory });
        }
        case 'gap':
          return take('gap');
        case 'takendown':
          takendown = new Set(message.dids);
          return take({ takendown: message.dids });
        case 'sweep':
          return startSweep(message.hostIds);
        case 'call': {
          const { id, method, args } = message;
          const call = writer[method] as (...args: readonly unknown[]) => Promise<unknown>;
          call(...args).then(
            (value) => send({ kind: 'answer', id, value }),
            (error: unknown) => {
              send({ kind: 'refused', id, message: error instanceof Error ? error.message : String(error) });
              if (error instanceof CollectionIndexError) fail(error);
            },
          );
        }
      }
    },
    stats() {
      const { rows, repos, collections, byName, bytes } = store.totals();
      return {
        seq: store.seq,
        timeUs,
        rows,
        repos,
        collections,
        bytes,
        gaps: store.gaps,
        totals: Object.fromEntries(byName),
        counters: { ...store.counters, ...counters, ...commitCounters() },
        problem,
      };
    },
    stop() {
      stopped = true;
      store.close();
    },
  };
};
