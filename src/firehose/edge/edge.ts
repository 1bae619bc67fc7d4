/**
 * The subscribeRepos edge. It owns the positions of its consumers and nothing else: it reads the log through
 * LogReader and never reaches into the core. Their sockets, turns and pulse are in `src/api/edge/consumers.ts`.
 *
 * It promises:
 * - Every consumer gets every durable event after its cursor exactly once and in order, whatever its speed.
 * - A consumer is a position in the log, not a queue. What a socket does not take now is read again later, so
 *   memory does not grow with slow consumers: per socket at most one batch write that Bun could not finish.
 * - Consumers at the end of the log ("live") share one cursor and one array of frames per batch. Others read the
 *   log for themselves, in turns with a time budget, so that they do not delay the live ones.
 * - Only who falls out of the window, or takes not a byte for minutes, is called too slow.
 */
import type { ServerWebSocket } from 'bun';
import { createConsumers, realTimers } from '../../api/edge/consumers.ts';
import type { ConsumerData, Refuse, Timers } from '../../api/edge/types.ts';
import type { ConsumerView, Edge } from '../../api/types.ts';
import type { LogCursor, LogReader, LogRecord } from '../../log/types.ts';
import { errorFrame, infoFrame } from '../encode.ts';
import { FirehoseConsumer } from './consumer.ts';
import { parseCursorParam } from './cursor-param.ts';
import { createEdgeCounters, DEFAULT_EDGE_LIMITS } from './limits.ts';
import type { EdgeCounters, EdgeLimits } from './types.ts';

export interface FirehoseEdge extends Edge {
  consumers(): ConsumerView[];
  readonly counters: EdgeCounters;
}

export interface FirehoseEdgeOptions {
  readonly log: LogReader;
  /** ms since the epoch. */
  readonly clock?: () => number;
  readonly timers?: Timers;
  readonly limits?: Partial<EdgeLimits>;
  /** Filled by the edge; a fresh one when absent. */
  readonly counters?: EdgeCounters;
  /**
   * Called when the log throws while it is read, which means that our own records are damaged. The consumer is
   * closed with 1011 first. By default the error is thrown, which stops the process.
   */
  readonly onLogFailure?: (error: unknown) => void;
}

const refusal: Refuse = (status, error, message, headers = {}) =>
  Response.json({ error, message }, { status, headers });

const NOTHING: readonly LogRecord[] = [];

const sizeOf = (records: readonly LogRecord[]): number => {
  let bytes = 0;
  for (const record of records) bytes += record.frame.length;
  return bytes;
};

/**
 * Builds the edge on a log. Call `upgrade` for requests to its path and pass the server's websocket events to
 * `websocket`. Follows atproto spec: Event Stream, and lexicon com.atproto.sync.subscribeRepos; cursor N means
 * events with seq > N, as deployed servers do.
 */
export const createFirehoseEdge = (options: FirehoseEdgeOptions): FirehoseEdge => {
  const { log } = options;
  const clock = options.clock ?? Date.now;
  const timers = options.timers ?? realTimers;
  const limits: EdgeLimits = { ...DEFAULT_EDGE_LIMITS, ...options.limits };
  const counters = options.counters ?? createEdgeCounters();
  const onLogFailure =
    options.onLogFailure ??
    ((error: unknown) => {
      throw error;
    });

  // The live ones: all exactly at liveSeq, read by liveCursor.
  const live: FirehoseConsumer[] = [];
  let liveCursor: LogCursor | null = null;
  let liveSeq = 0;
  let batchNumber = 0;
  let flushScheduled = false;
  let lastFlushMs = 0;

  // One cork callback for everyone: what to send is in these variables, and what came of it.
  let pumpRecords: readonly LogRecord[] = [];
  let pumpEnd = 0;
  let pumped = 0;
  let pressed = false;
  const pump = (socket: ServerWebSocket<ConsumerData>): void => {
    const records = pumpRecords;
    const end = pumpEnd;
    let index = 0;
    pressed = false;
    while (index < end) {
      const written = socket.sendBinary(records[index]!.frame as Uint8Array<ArrayBuffer>, false);
      if (written <= 0) {
        pressed = true;
        // −1: taken, but queued. 0: not taken.
        if (written < 0) index++;
        break;
      }
      index++;
    }
    pumped = index;
  };

  /** Sends records[0, end) as far as the socket takes them. Leaves `pumped` and `pressed`. */
  const send = (
    consumer: FirehoseConsumer,
    records: readonly LogRecord[],
    end: number,
    bytes: number,
  ): void => {
    pumpRecords = records;
    pumpEnd = end;
    consumer.socket.cork(pump);
    // Frames keep parts of the log in memory: hold none of them between batches.
    pumpRecords = NOTHING;
    const sentBytes = pumped === records.length ? bytes : sizeOf(records.slice(0, pumped));
    consumer.eventsSent += pumped;
    consumer.bytesSent += sentBytes;
    counters.deliveries += pumped;
    counters.deliveredBytes += sentBytes;
  };

  const leaveLive = (consumer: FirehoseConsumer): void => {
    const index = consumer.liveIndex;
    if (index < 0) return;
    consumer.liveIndex = -1;
    const last = live.pop()!;
    if (last !== consumer) {
      live[index] = last;
      last.liveIndex = index;
    }
    if (live.length === 0 && liveCursor !== null) {
      liveCursor.close();
      liveCursor = null;
    }
  };

  const flushLive = (): void => {
    const startedMs = clock();
    lastFlushMs = startedMs;
    if (live.length > 0) counters.liveFlushes++;
    while (live.length > 0 && liveCursor !== null) {
      const records = liveCursor.next(limits.liveBatchBytes);
      if (records === 'behind') {
        // Only when the window is shorter than a tick. Each of them is judged when its turn comes.
        for (const consumer of [...live]) {
          leaveLive(consumer);
          consumer.seq = liveSeq;
          standInLine(consumer);
        }
        return;
      }
      if (records.length === 0) {
        // Whatever else is durable is skipped for everyone.
        const lastSeq = log.lastSeq;
        if (lastSeq > liveSeq) {
          liveSeq = lastSeq;
          liveCursor.close();
          liveCursor = log.openCursor(lastSeq);
        }
        return;
      }
      counters.liveReads++;
      const bytes = sizeOf(records);
      const before = liveSeq;
      liveSeq = records[records.length - 1]!.seq;
      batchNumber++;
      // Downwards, so that who leaves is replaced by one that has had its share; the batch number guards the rest.
      for (let index = live.length - 1; index >= 0; index--) {
        const consumer = live[index];
        if (consumer === undefined || consumer.batch === batchNumber) continue;
        consumer.batch = batchNumber;
        send(consumer, records, records.length, bytes);
        if (!pressed) continue;
        consumer.seq = pumped > 0 ? records[pumped - 1]!.seq : before;
        leaveLive(consumer);
        rest(consumer);
      }
      if (clock() - startedMs >= limits.liveBudgetMs) {
        scheduleFlush();
        return;
      }
    }
  };

  const runFlush = (): void => {
    flushScheduled = false;
    try {
      flushLive();
    } catch (error) {
      onLogFailure(error);
    }
  };

  const scheduleFlush = (): void => {
    if (flushScheduled || live.length === 0) return;
    flushScheduled = true;
    const waitMs = lastFlushMs + limits.flushIntervalMs - clock();
    if (waitMs <= 0) timers.setImmediate(runFlush);
    else timers.setTimeout(runFlush, waitMs);
  };

  /** Everything durable up to liveSeq has been handed to this consumer: it goes on with the others. */
  const joinLive = (consumer: FirehoseConsumer): void => {
    if (live.length === 0) {
      // Its own cursor will do, unless it has read past what was handed out.
      if (consumer.cursor?.seq !== consumer.seq) consumer.dropCursor();
      liveCursor = consumer.cursor ?? log.openCursor(consumer.seq);
      consumer.cursor = null;
      liveSeq = consumer.seq;
    } else {
      consumer.dropCursor();
    }
    consumer.mode = 'live';
    consumer.liveIndex = live.length;
    live.push(consumer);
    if (log.lastSeq > liveSeq) scheduleFlush();
  };

  /** A reader that found the end of the log, which may be past what the live ones have been given so far. */
  const reachEnd = (consumer: FirehoseConsumer): void => {
    const endSeq = log.lastSeq;
    if (endSeq > consumer.seq) {
      // What lies between is skipped.
      consumer.seq = endSeq;
      consumer.dropCursor();
    }
    if (live.length > 0 && endSeq > liveSeq) flushLive();
    // A flush that ran out of time is waited for.
    if (live.length > 0 && endSeq > liveSeq) standInLine(consumer);
    else joinLive(consumer);
  };

  const readSlice = (consumer: FirehoseConsumer): void => {
    if (live.length > 0 && consumer.seq > liveSeq) {
      // It begins past what the live ones have been given: among them it would get that once more.
      flushLive();
      if (live.length > 0 && consumer.seq > liveSeq) {
        standInLine(consumer);
        return;
      }
    }
    if (live.length > 0 && consumer.seq === liveSeq) {
      joinLive(consumer);
      return;
    }
    consumer.cursor ??= log.openCursor(consumer.seq);
    const records = consumer.cursor.next(limits.replaySliceBytes);
    counters.replayReads++;
    if (records === 'behind') {
      consumer.dropCursor();
      if (consumer.eventsSent > 0) {
        tooSlow(consumer, 'the consumer fell out of the replay window');
      } else {
        // The window moved between its arrival and its first turn.
        startAtOldest(consumer);
        standInLine(consumer);
      }
      return;
    }
    if (records.length === 0) {
      reachEnd(consumer);
      return;
    }
    // What the live ones have not been given yet is left to the next flush, for all of them together.
    let end = records.length;
    if (live.length > 0) while (end > 0 && records[end - 1]!.seq > liveSeq) end--;
    const joins = end < records.length;
    if (end > 0) {
      counters.replayRecords += end;
      send(consumer, records, end, sizeOf(end === records.length ? records : records.slice(0, end)));
      if (pumped > 0) consumer.seq = records[pumped - 1]!.seq;
      if (pumped < end || pressed) {
        rest(consumer);
        return;
      }
    }
    if (joins) joinLive(consumer);
    else standInLine(consumer);
  };

  const say = (consumer: FirehoseConsumer, frame: Uint8Array): void => {
    consumer.socket.sendBinary(frame as Uint8Array<ArrayBuffer>, false);
  };

  const startAtOldest = (consumer: FirehoseConsumer): void => {
    if (consumer.seq > 0) {
      counters.outdatedCursor++;
      const message = `the cursor is older than the replay window, which begins at ${log.oldestSeq}`;
      say(consumer, infoFrame('OutdatedCursor', message));
    }
    consumer.seq = log.oldestSeq - 1;
  };

  const start = (consumer: FirehoseConsumer): void => {
    const cursor = consumer.requestedCursor;
    if (cursor === null) {
      consumer.seq = log.lastSeq;
    } else if (cursor > log.lastSeq) {
      counters.futureCursor++;
      const message = `the cursor is in the future: the newest seq is ${log.lastSeq}`;
      say(consumer, errorFrame('FutureCursor', message));
      consumers.goodbye(consumer, 1008, 'FutureCursor', 'future_cursor');
      return;
    } else {
      consumer.seq = cursor;
      if (cursor < log.oldestSeq - 1) startAtOldest(consumer);
    }
    standInLine(consumer);
  };

  const consumers = createConsumers<FirehoseConsumer, number | null>({
    clock,
    timers,
    limits,
    counters,
    hooks: {
      create: (id, socket, cursor, nowMs) => new FirehoseConsumer(id, socket, cursor, nowMs),
      start,
      takeTurn: readSlice,
      leave(consumer) {
        leaveLive(consumer);
        consumer.dropCursor();
      },
      isOutOfWindow: (consumer) => consumer.seq < log.oldestSeq - 1,
      sayTooSlow: (consumer, message) => say(consumer, errorFrame('ConsumerTooSlow', message)),
      beforeClose() {
        unsubscribe();
        flushLive();
      },
      fail: onLogFailure,
    },
  });
  const { standInLine, rest, tooSlow } = consumers;
  const unsubscribe = log.onDurable(scheduleFlush);

  return {
    upgrade(request, server, context = {}) {
      const refused = consumers.checkRequest(request, 'subscribeRepos', refusal);
      if (refused !== null) return refused;
      const param = parseCursorParam(new URL(request.url).searchParams);
      if (!param.ok) {
        counters.refusedCursor++;
        return refusal(400, 'InvalidRequest', param.message);
      }
      return consumers.admit(request, server, context, { ask: param.cursor, refuse: refusal });
    },
    websocket: consumers.websocket,
    get counters() {
      counters.liveConsumers = live.length;
      counters.laggingConsumers = consumers.all.size - live.length;
      return counters;
    },
    consumers: () =>
      Array.from(consumers.all, (consumer): ConsumerView => {
        const seq = consumer.liveIndex >= 0 ? liveSeq : consumer.seq;
        return consumers.view(consumer, seq, log.lastSeq, 'firehose');
      }),
    close: consumers.close,
  };
};
