/**
 * Reads the log for the collection index and hands it over in batches.
 *
 * Contract: everything after the seq that the index reflects, in order; at most MAX_INDEX_BYTES_IN_FLIGHT unstored.
 * While it catches up it takes a share of its thread, not all of it. Where the log does not hold what comes next (a
 * window that passed, a log that was lost), it says so, and goes on with the oldest there is.
 */
import type { LogCursor, LogReader, LogRecord } from '../log/types.ts';
import { batchBytes, encodeBatch } from './batch.ts';
import type { BatchMessage } from './messages.ts';

/** Of memory, given to the index and not stored yet: tenths of a second of its work. */
export const MAX_INDEX_BYTES_IN_FLIGHT = 1024 * 1024;
/** One transaction of the index. */
const BATCH_BYTES = 256 * 1024;
/** Memory of a slot: a batch, with room for what it adds to the records. */
const SLOT_BYTES = BATCH_BYTES + 64 * 1024;
/** Events of so long go into one transaction. */
const GATHER_MS = 50;
/**
 * Batches are given one after the other for so long before the thread does other things: at full speed its turns take
 * tens of milliseconds, and with one batch a turn the index would fall behind for good.
 */
const BURST_MS = 2;
/** While it catches up: rest, as a multiple of the time that a burst took here. */
const REST = 3;

export interface PumpDeps {
  readonly log: Pick<LogReader, 'oldestSeq' | 'lastSeq' | 'openCursor' | 'onDurable'>;
  readonly send: (batch: BatchMessage) => void;
  /** The index is at `seq` (null: it is new), and the log's oldest is `oldestSeq`: what was between is not to be had. */
  readonly gap: (seq: number | null, oldestSeq: number) => void;
  readonly fatal: (error: unknown) => void;
  /** What its bursts are timed by. Default: performance.now. */
  readonly nowMs?: () => number;
}

export interface Pump {
  /** The batch in a slot was stored. */
  stored(slot: number): void;
  readonly bytesInFlight: number;
  stop(): void;
}

/** @param seq what the index reflects; null: nothing yet */
export const startPump = (seq: number | null, deps: PumpDeps): Pump => {
  const { log, nowMs = () => performance.now() } = deps;
  let cursor: LogCursor;
  let bytesInFlight = 0;
  let timer: ReturnType<typeof setTimeout> | null = null;
  let stopped = false;

  const memories: SharedArrayBuffer[] = [];
  /** Bytes in flight by slot. */
  const taken: number[] = [];
  const freeSlots: number[] = [];
  const batchOf = (records: readonly LogRecord[]): BatchMessage => {
    const bytes = batchBytes(records);
    const slot = freeSlots.pop() ?? taken.length;
    taken[slot] = Math.max(bytes, SLOT_BYTES);
    bytesInFlight += taken[slot];
    let memory = memories[slot];
    if (bytes <= SLOT_BYTES && memory !== undefined) {
      encodeBatch(records, memory);
      return { kind: 'batch', slot };
    }
    memory = new SharedArrayBuffer(taken[slot]);
    encodeBatch(records, memory);
    if (bytes > SLOT_BYTES) return { kind: 'batch', slot, memory, once: true };
    memories[slot] = memory;
    return { kind: 'batch', slot, memory };
  };
  const openAt = (from: number): LogCursor =>
    log.openCursor(from, { includeSkipped: true, reusesMemory: true });
  const openOldest = (from: number | null): LogCursor => {
    deps.gap(from, log.oldestSeq);
    return openAt(log.oldestSeq - 1);
  };
  // A log that begins with seq 1 has everything there ever was.
  if (seq === null) cursor = log.oldestSeq <= 1 ? openAt(0) : openOldest(null);
  else if (seq < log.oldestSeq - 1 || seq > log.lastSeq) cursor = openOldest(seq);
  else cursor = openAt(seq);

  /** One batch. @returns false when there is nothing more to be given now */
  const give = (): boolean => {
    if (bytesInFlight >= MAX_INDEX_BYTES_IN_FLIGHT) return false;
    const records = cursor.next(BATCH_BYTES);
    if (records === 'behind') {
      const from = cursor.seq;
      cursor.close();
      cursor = openOldest(from);
      return true;
    }
    if (records.length === 0) return false;
    deps.send(batchOf(records));
    return true;
  };
  const read = (): void => {
    timer = null;
    if (stopped) return;
    const startedAt = nowMs();
    let goesOn: boolean;
    try {
      do goesOn = give();
      while (goesOn && nowMs() - startedAt < BURST_MS);
    } catch (error) {
      stop();
      deps.fatal(error);
      return;
    }
    // Who stored something or made something durable wakes it.
    if (goesOn) wake(cursor.inTail ? 0 : (nowMs() - startedAt) * REST);
  };
  const wake = (delayMs: number): void => {
    if (timer === null && !stopped) timer = setTimeout(read, delayMs);
  };
  const unsubscribe = log.onDurable(() => {
    // Where no more may be in flight, what is stored wakes it, and at once.
    if (bytesInFlight < MAX_INDEX_BYTES_IN_FLIGHT) wake(GATHER_MS);
  });
  const stop = (): void => {
    if (stopped) return;
    stopped = true;
    unsubscribe();
    if (timer !== null) clearTimeout(timer);
    timer = null;
    cursor.close();
  };
  wake(0);

  return {
    stored(slot) {
      const wasFull = bytesInFlight >= MAX_INDEX_BYTES_IN_FLIGHT;
      bytesInFlight -= taken[slot]!;
      freeSlots.push(slot);
      if (wasFull && bytesInFlight < MAX_INDEX_BYTES_IN_FLIGHT) wake(0);
    },
    get bytesInFlight() {
      return bytesInFlight;
    },
    stop,
  };
};
