/**
 * The subscribeRepos edge. It owns the consumers' sockets and nothing else: it reads the log through LogReader
 * and never reaches into the core.
 *
 * It promises:
 * - Every consumer gets every durable event after its cursor exactly once and in order, whatever its speed.
 * - A consumer is a position in the log, not a queue. What a socket does not take now is read again later, so
 *   memory does not grow with slow consumers: per socket at most one batch write that Bun could not finish.
 * - Consumers at the end of the log ("live") share one cursor and one array of frames per batch. Others read the
 *   log for themselves, in turns with a time budget, so that they do not delay the live ones.
 * - Only who falls out of the window, or takes not a byte for minutes, is called too slow.
 */
import type { Server, ServerWebSocket } from 'bun';
import { addressKey, isLoopback } from '../../api/remote-address.ts';
import type { ConsumerView, Edge, EdgeSocketData, UpgradeContext } from '../../api/types.ts';
import type { LogCursor, LogReader, LogRecord } from '../../log/types.ts';
import { errorFrame, infoFrame } from '../encode.ts';
import { Consumer } from './consumer.ts';
import { parseCursorParam } from './cursor-param.ts';
import { createEdgeCounters, DEFAULT_EDGE_LIMITS, MAX_USER_AGENT_CHARACTERS } from './limits.ts';
import type { EdgeCounters, EdgeLimits, FirehoseSocketData, Timers } from './types.ts';

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

const realTimers: Timers = {
  setTimeout: (run, delayMs) => setTimeout(run, delayMs),
  clearTimeout: (handle) => clearTimeout(handle as ReturnType<typeof setTimeout>),
  setImmediate: (run) => setImmediate(run),
};

const refusal = (
  status: number,
  error: string,
  message: string,
  headers: Record<string, string> = {},
): Response => Response.json({ error, message }, { status, headers });

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

  const consumers = new Set<Consumer>();
  const perAddress = new Map<string, number>();
  /** Upgrades that were accepted and whose socket has not opened yet count as well. */
  let admitted = 0;
  let lastId = 0;
  let closing = false;

  // The live ones: all exactly at liveSeq, read by liveCursor.
  const live: Consumer[] = [];
  let liveCursor: LogCursor | null = null;
  let liveSeq = 0;
  let batchNumber = 0;
  let flushScheduled = false;
  let lastFlushMs = 0;

  // The line of those that catch up, first come first served.
  let line: Consumer[] = [];
  let turnScheduled = false;

  // One cork callback for everyone: what to send is in these variables, and what came of it.
  let pumpRecords: readonly LogRecord[] = [];
  let pumpEnd = 0;
  let pumped = 0;
  let pressed = false;
  const pump = (socket: ServerWebSocket<FirehoseSocketData>): void => {
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
  const send = (consumer: Consumer, records: readonly LogRecord[], end: number, bytes: number): void => {
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

  const leaveLive = (consumer: Consumer): void => {
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

  const standInLine = (consumer: Consumer): void => {
    consumer.mode = 'reading';
    if (!consumer.waiting) {
      consumer.waiting = true;
      line.push(consumer);
    }
    scheduleTurn();
  };

  /** After a socket stopped taking frames: wait for it, unless it is empty again already. */
  const rest = (consumer: Consumer): void => {
    consumer.dropCursor();
    if (consumer.socket.readyState !== 1) {
      consumer.mode = 'closing';
      return;
    }
    consumer.queuedBytes = consumer.socket.getBufferedAmount();
    if (consumer.queuedBytes > 0) {
      consumer.mode = 'blocked';
      counters.backpressure++;
    } else {
      standInLine(consumer);
    }
  };

  const failLog = (consumer: Consumer | null, error: unknown): void => {
    if (consumer !== null) goodbye(consumer, 1011, 'InternalServerError');
    onLogFailure(error);
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
      failLog(null, error);
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
  const joinLive = (consumer: Consumer): void => {
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
  const reachEnd = (consumer: Consumer): void => {
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

  const readSlice = (consumer: Consumer): void => {
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

  const takeTurns = (): void => {
    turnScheduled = false;
    const startedMs = clock();
    // Who stands in line when the turn begins is served; who comes back goes behind them, into the next one.
    while (line.length > 0) {
      const round = line;
      line = [];
      for (let index = 0; index < round.length; index++) {
        const consumer = round[index]!;
        consumer.waiting = false;
        if (consumer.mode !== 'reading') continue;
        try {
          readSlice(consumer);
        } catch (error) {
          line = round.slice(index + 1).concat(line);
          if (line.length > 0) scheduleTurn();
          failLog(consumer, error);
          return;
        }
        if (clock() - startedMs >= limits.replayBudgetMs) {
          line = round.slice(index + 1).concat(line);
          if (line.length > 0) scheduleTurn();
          return;
        }
      }
    }
  };

  const scheduleTurn = (): void => {
    if (turnScheduled) return;
    turnScheduled = true;
    timers.setImmediate(takeTurns);
  };

  /** Removes a consumer from wherever it stands. Its socket is the caller's business. */
  const detach = (consumer: Consumer): void => {
    leaveLive(consumer);
    consumer.dropCursor();
    consumer.mode = 'closing';
  };

  /** Bun writes what is queued, and the close frame behind it, for some seconds more; then it cuts the socket. */
  const goodbye = (consumer: Consumer, code: number, reason: string): void => {
    if (consumer.mode === 'closing') return;
    detach(consumer);
    consumer.socket.close(code, reason);
  };

  const refuse = (consumer: Consumer, error: string, message: string): void => {
    if (consumer.mode === 'closing') return;
    // A socket that is full gets it after what is queued, if it ever takes that.
    consumer.socket.sendBinary(errorFrame(error, message) as Uint8Array<ArrayBuffer>, false);
    goodbye(consumer, 1008, error);
  };

  const tooSlow = (consumer: Consumer, message: string): void => {
    counters.tooSlow++;
    refuse(consumer, 'ConsumerTooSlow', message);
  };

  const startAtOldest = (consumer: Consumer): void => {
    if (consumer.seq > 0) {
      counters.outdatedCursor++;
      const message = `the cursor is older than the replay window, which begins at ${log.oldestSeq}`;
      consumer.socket.sendBinary(infoFrame('OutdatedCursor', message) as Uint8Array<ArrayBuffer>, false);
    }
    consumer.seq = log.oldestSeq - 1;
  };

  const start = (consumer: Consumer, cursor: number | null): void => {
    if (cursor === null) {
      consumer.seq = log.lastSeq;
    } else if (cursor > log.lastSeq) {
      counters.futureCursor++;
      refuse(consumer, 'FutureCursor', `the cursor is in the future: the newest seq is ${log.lastSeq}`);
      return;
    } else {
      consumer.seq = cursor;
      if (cursor < log.oldestSeq - 1) startAtOldest(consumer);
    }
    standInLine(consumer);
  };

  const checkPulse = (consumer: Consumer, nowMs: number): void => {
    const unansweredMs = consumer.pingedAtMs === 0 ? 0 : nowMs - consumer.pingedAtMs;
    const underWay = consumer.bytesSent > consumer.bytesWhenAlive;
    // A pong comes behind the data that is under way: then what counts is progress, and the stall rule.
    if (unansweredMs >= (underWay ? limits.stallMs : 2 * limits.pingIntervalMs)) {
      counters.pongTimeouts++;
      goodbye(consumer, 1008, 'no answer to pings');
      return;
    }
    if (nowMs - Math.max(consumer.aliveAtMs, consumer.lastPingAtMs) < limits.pingIntervalMs) return;
    consumer.lastPingAtMs = nowMs;
    if (consumer.pingedAtMs === 0) consumer.pingedAtMs = nowMs;
    counters.pings++;
    consumer.socket.ping();
  };

  const checkBlocked = (consumer: Consumer, nowMs: number): void => {
    const queuedBytes = consumer.socket.getBufferedAmount();
    if (queuedBytes === 0) {
      counters.rescued++;
      standInLine(consumer);
      return;
    }
    if (queuedBytes < consumer.queuedBytes) consumer.alive(nowMs);
    consumer.queuedBytes = queuedBytes;
    if (consumer.seq < log.oldestSeq - 1) tooSlow(consumer, 'the consumer fell out of the replay window');
    else if (nowMs - consumer.aliveAtMs >= limits.stallMs) {
      tooSlow(consumer, `the consumer took nothing for ${Math.round(limits.stallMs / 1000)} seconds`);
    }
  };

  let maintenanceTimer: unknown = null;
  const maintain = (): void => {
    const nowMs = clock();
    let queuedBytes = 0;
    for (const consumer of consumers) {
      if (consumer.mode === 'closing') continue;
      if (consumer.mode === 'blocked') checkBlocked(consumer, nowMs);
      else checkPulse(consumer, nowMs);
      if (consumer.socket.readyState === 1) queuedBytes += consumer.socket.getBufferedAmount();
    }
    counters.queuedBytes = queuedBytes;
    maintenanceTimer = consumers.size > 0 ? timers.setTimeout(maintain, limits.maintenanceIntervalMs) : null;
  };

  const unsubscribe = log.onDurable(scheduleFlush);

  const release = (key: string): void => {
    admitted--;
    const count = (perAddress.get(key) ?? 1) - 1;
    if (count > 0) perAddress.set(key, count);
    else perAddress.delete(key);
  };

  const upgrade = (
    request: Request,
    server: Server<EdgeSocketData>,
    context: Partial<UpgradeContext> = {},
  ): Response | undefined => {
    if (request.method !== 'GET') {
      counters.refusedMethod++;
      return refusal(405, 'InvalidRequest', 'subscribeRepos is a WebSocket: use GET', { allow: 'GET' });
    }
    if (request.headers.get('upgrade')?.toLowerCase() !== 'websocket') {
      counters.refusedNotUpgrade++;
      return refusal(426, 'InvalidRequest', 'subscribeRepos needs a WebSocket upgrade', {
        upgrade: 'websocket',
        connection: 'Upgrade',
      });
    }
    const param = parseCursorParam(new URL(request.url).searchParams);
    if (!param.ok) {
      counters.refusedCursor++;
      return refusal(400, 'InvalidRequest', param.message);
    }
    const retry = { 'retry-after': String(limits.retryAfterSeconds) };
    if (closing) return refusal(503, 'NotAvailable', 'the relay is shutting down', retry);
    if (admitted >= limits.maxConsumers) {
      counters.refusedTotalLimit++;
      return refusal(429, 'RateLimitExceeded', 'the relay has as many consumers as it takes', retry);
    }
    const remoteAddress = context.remoteAddress ?? server.requestIP(request)?.address ?? '';
    const key = addressKey(remoteAddress);
    const fromHere = perAddress.get(key) ?? 0;
    if (fromHere >= limits.maxConsumersPerAddress && !isLoopback(remoteAddress)) {
      counters.refusedAddressLimit++;
      return refusal(429, 'RateLimitExceeded', 'too many consumers from this address', retry);
    }
    const data: FirehoseSocketData = {
      handlers: websocket,
      cursor: param.cursor,
      remoteAddress,
      addressKey: key,
      userAgent: (request.headers.get('user-agent') ?? '').slice(0, MAX_USER_AGENT_CHARACTERS),
      consumer: null,
    };
    admitted++;
    perAddress.set(key, fromHere + 1);
    if (server.upgrade(request, { data, headers: { ...context.headers } })) return undefined;
    release(key);
    counters.refusedNotUpgrade++;
    return refusal(400, 'InvalidRequest', 'not a valid WebSocket upgrade');
  };

  const own = (socket: unknown) => socket as ServerWebSocket<FirehoseSocketData>;

  const websocket: Edge['websocket'] = {
    open(opened) {
      const socket = own(opened);
      const consumer = new Consumer(++lastId, socket, 0, clock());
      socket.data.consumer = consumer;
      consumers.add(consumer);
      counters.consumersOpened++;
      maintenanceTimer ??= timers.setTimeout(maintain, limits.maintenanceIntervalMs);
      if (closing) goodbye(consumer, 1001, 'the relay is shutting down');
      else start(consumer, socket.data.cursor);
    },
    message(socket) {
      counters.clientMessages++;
      own(socket).data.consumer?.alive(clock());
    },
    drain(socket) {
      const consumer = own(socket).data.consumer;
      if (consumer === null) return;
      counters.drains++;
      consumer.alive(clock());
      if (consumer.mode !== 'blocked') return;
      consumer.queuedBytes = consumer.socket.getBufferedAmount();
      // Half empty is enough to go on; a socket that is still full drains again.
      if (consumer.queuedBytes < limits.maxQueuedBytes / 2) standInLine(consumer);
    },
    pong(socket) {
      own(socket).data.consumer?.alive(clock());
    },
    close(socket) {
      const { data } = own(socket);
      release(data.addressKey);
      const consumer = data.consumer;
      if (consumer === null) return;
      detach(consumer);
      consumers.delete(consumer);
      counters.consumersClosed++;
    },
  };

  return {
    upgrade,
    websocket,
    get counters() {
      counters.liveConsumers = live.length;
      counters.laggingConsumers = consumers.size - live.length;
      return counters;
    },
    consumers: () =>
      Array.from(consumers, (consumer): ConsumerView => {
        const { data } = consumer.socket;
        const seq = consumer.liveIndex >= 0 ? liveSeq : consumer.seq;
        return {
          id: consumer.id,
          remoteAddress: data.remoteAddress,
          userAgent: data.userAgent,
          requestedCursor: data.cursor,
          seq,
          behind: Math.max(0, log.lastSeq - seq),
          mode: consumer.mode,
          eventsSent: consumer.eventsSent,
          bytesSent: consumer.bytesSent,
          queuedBytes: consumer.socket.readyState === 1 ? consumer.socket.getBufferedAmount() : 0,
          connectedAtMs: consumer.connectedAtMs,
          lastProgressAtMs: consumer.aliveAtMs,
        };
      }),
    async close() {
      if (closing) return;
      closing = true;
      unsubscribe();
      flushLive();
      if (maintenanceTimer !== null) timers.clearTimeout(maintenanceTimer);
      // Sockets that still hold something in our memory may empty it first; the rest is in the log.
      for (const consumer of consumers) detach(consumer);
      const deadlineMs = clock() + limits.closeGraceMs;
      while (consumers.size > 0) {
        for (const { socket } of [...consumers]) {
          if (socket.getBufferedAmount() === 0 || clock() >= deadlineMs) {
            socket.close(1001, 'the relay is shutting down');
          }
        }
        if (consumers.size > 0) {
          await new Promise<void>((resolve) => void timers.setTimeout(resolve, limits.flushIntervalMs));
        }
      }
    },
  };
};
