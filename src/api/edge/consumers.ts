/**
 * What every edge does alike: it owns the consumers' sockets, from the upgrade to the close, and decides when one
 * may be written to. What it is sent, and from where in the log, is the edge's.
 *
 * It promises:
 * - Consumers that catch up take turns, each one in each round, with a time budget, so that they do not delay the
 *   live ones.
 * - A socket that takes no more rests until it has drained, and is then given its turn again.
 * - Idle consumers are pinged; those with data under way are judged by progress. Only who falls out of the window,
 *   or takes not a byte for minutes, is called too slow.
 * - Connections are bounded in all and per address.
 */
import type { Server, ServerWebSocket } from 'bun';
import { addressKey, isLoopback } from '../remote-address.ts';
import type { ConsumerView, Edge, EdgeSocketData, UpgradeContext } from '../types.ts';
import type { Consumer } from './consumer.ts';
import { MAX_USER_AGENT_CHARACTERS } from './limits.ts';
import type { ConsumerCounters, ConsumerData, ConsumerLimits, Refuse, Timers } from './types.ts';

/** What an edge brings. Every function is called synchronously and may close the consumer. */
export interface ConsumerHooks<C extends Consumer, Ask> {
  /** Makes the consumer of a socket that has just opened. */
  create(id: number, socket: ServerWebSocket<ConsumerData>, ask: Ask, nowMs: number): C;
  /** Finds its place: stand in line, or say goodbye. */
  start(consumer: C): void;
  /** One turn of a consumer that catches up. Afterwards it is in line again, resting, live or closing. */
  takeTurn(consumer: C): void;
  /** Removes it from wherever the edge has put it: it goes, or it rests. */
  leave(consumer: C): void;
  /** Whether what it is to be sent next has left the window. */
  isOutOfWindow(consumer: C): boolean;
  /** Tells it why it is given up; the close follows here. */
  sayTooSlow(consumer: C, message: string): void;
  /** Tells it that we cannot go on; the close follows here. */
  sayFailure?(consumer: C): void;
  /** A message of the consumer's, which may be ignored. */
  message?(consumer: C, message: string | Uint8Array): void;
  /** It is gone. */
  onGone?(consumer: C): void;
  /** Before each round of turns, in which everyone has one: may put them into another order. */
  arrange?(round: C[]): void;
  /** At the shutdown, before sockets are closed: hands out what is durable. */
  beforeClose(): void;
  /** A turn or flush threw: our own log is damaged. */
  fail(error: unknown): void;
}

export interface ConsumersOptions<C extends Consumer, Ask> {
  readonly clock: () => number;
  readonly timers: Timers;
  readonly limits: ConsumerLimits;
  readonly counters: ConsumerCounters;
  readonly hooks: ConsumerHooks<C, Ask>;
  /** Bytes of a message of a consumer's; more closes the socket with 1009. The server's default when absent. */
  readonly maxMessageBytes?: (ask: Ask) => number;
}

export interface Consumers<C extends Consumer, Ask> {
  readonly all: ReadonlySet<C>;
  /** The answer to what is no GET or no upgrade; null when it may go on. */
  checkRequest(request: Request, what: string, refuse: Refuse): Response | null;
  /** Upgrades within the limits; the answer when not. */
  admit(
    request: Request,
    server: Server<EdgeSocketData>,
    context: Partial<UpgradeContext>,
    admission: {
      readonly ask: Ask;
      readonly headers?: Readonly<Record<string, string>>;
      readonly refuse: Refuse;
    },
  ): Response | undefined;
  readonly websocket: Edge['websocket'];
  standInLine(consumer: C): void;
  /** After a socket stopped taking frames: wait for it, unless it is empty again already. */
  rest(consumer: C): void;
  /**
   * Bun writes what is queued, and the close frame behind it, for some seconds more; then it cuts the socket. `cause`
   * is one word for counting.
   */
  goodbye(consumer: C, code: number, reason: string, cause: string): void;
  tooSlow(consumer: C, message: string): void;
  /** `seq`: the last one handed to its socket. */
  view(consumer: C, seq: number, lastSeq: number, edge: string): ConsumerView;
  close(): Promise<void>;
}

export const realTimers: Timers = {
  setTimeout: (run, delayMs) => setTimeout(run, delayMs),
  clearTimeout: (handle) => clearTimeout(handle as ReturnType<typeof setTimeout>),
  setImmediate: (run) => setImmediate(run),
};

const SHUTTING_DOWN = 'the relay is shutting down';
/** Close code 1008, policy violation, with the name of the error as its reason. */
const TOO_SLOW = 'ConsumerTooSlow';

export const createConsumers = <C extends Consumer, Ask>(
  options: ConsumersOptions<C, Ask>,
): Consumers<C, Ask> => {
  const { clock, timers, limits, counters, hooks } = options;
  const all = new Set<C>();
  const perAddress = new Map<string, number>();
  /** Upgrades that were accepted and whose socket has not opened yet count as well. */
  let admitted = 0;
  let lastId = 0;
  let closing = false;

  // --- turns ---
  /** Who comes or comes back stands here, until all of the round have had their turn. */
  let line: C[] = [];
  let round: C[] = [];
  /** round[0, served) had their turn. */
  let served = 0;
  let turnScheduled = false;

  const takeTurns = (): void => {
    turnScheduled = false;
    const startedMs = clock();
    for (;;) {
      if (served === round.length) {
        round = line;
        line = [];
        served = 0;
        if (round.length === 0) return;
        hooks.arrange?.(round);
      }
      const consumer = round[served++]!;
      consumer.waiting = false;
      if (consumer.mode !== 'reading') continue;
      try {
        hooks.takeTurn(consumer);
      } catch (error) {
        scheduleTurn();
        giveUp(consumer, error);
        return;
      }
      if (clock() - startedMs >= limits.replayBudgetMs) {
        scheduleTurn();
        return;
      }
    }
  };

  const scheduleTurn = (): void => {
    if (turnScheduled) return;
    turnScheduled = true;
    timers.setImmediate(takeTurns);
  };

  const standInLine = (consumer: C): void => {
    consumer.mode = 'reading';
    if (!consumer.waiting) {
      consumer.waiting = true;
      line.push(consumer);
    }
    scheduleTurn();
  };

  const rest = (consumer: C): void => {
    hooks.leave(consumer);
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

  // --- the end ---
  /** Removes a consumer from wherever it stands. Its socket is the caller's business. */
  const detach = (consumer: C): void => {
    hooks.leave(consumer);
    consumer.mode = 'closing';
  };

  const goodbye = (consumer: C, code: number, reason: string, cause: string): void => {
    if (consumer.mode === 'closing') return;
    detach(consumer);
    consumer.cause = cause;
    consumer.socket.close(code, reason);
  };

  const giveUp = (consumer: C, error: unknown): void => {
    if (consumer.mode !== 'closing') hooks.sayFailure?.(consumer);
    goodbye(consumer, 1011, 'InternalServerError', 'internal_error');
    hooks.fail(error);
  };

  const tooSlow = (consumer: C, message: string): void => {
    counters.tooSlow++;
    if (consumer.mode === 'closing') return;
    // A socket that is full gets it after what is queued, if it ever takes that.
    hooks.sayTooSlow(consumer, message);
    goodbye(consumer, 1008, TOO_SLOW, 'too_slow');
  };

  // --- pulse ---
  const checkPulse = (consumer: C, nowMs: number): void => {
    const unansweredMs = consumer.pingedAtMs === 0 ? 0 : nowMs - consumer.pingedAtMs;
    const underWay = consumer.bytesSent > consumer.bytesWhenAlive;
    // A pong comes behind the data that is under way: then what counts is progress, and the stall rule.
    if (unansweredMs >= (underWay ? limits.stallMs : 2 * limits.pingIntervalMs)) {
      counters.pongTimeouts++;
      goodbye(consumer, 1008, 'no answer to pings', 'no_pong');
      return;
    }
    if (nowMs - Math.max(consumer.aliveAtMs, consumer.lastPingAtMs) < limits.pingIntervalMs) return;
    consumer.lastPingAtMs = nowMs;
    if (consumer.pingedAtMs === 0) consumer.pingedAtMs = nowMs;
    counters.pings++;
    consumer.socket.ping();
  };

  const checkBlocked = (consumer: C, nowMs: number): void => {
    const queuedBytes = consumer.socket.getBufferedAmount();
    if (queuedBytes === 0) {
      counters.rescued++;
      standInLine(consumer);
      return;
    }
    if (queuedBytes < consumer.queuedBytes) consumer.alive(nowMs);
    consumer.queuedBytes = queuedBytes;
    if (hooks.isOutOfWindow(consumer)) tooSlow(consumer, 'the consumer fell out of the replay window');
    else if (nowMs - consumer.aliveAtMs >= limits.stallMs) {
      tooSlow(consumer, `the consumer took nothing for ${Math.round(limits.stallMs / 1000)} seconds`);
    }
  };

  let maintenanceTimer: unknown = null;
  const maintain = (): void => {
    const nowMs = clock();
    let queuedBytes = 0;
    for (const consumer of all) {
      if (consumer.mode === 'closing') continue;
      if (consumer.mode === 'blocked') checkBlocked(consumer, nowMs);
      else checkPulse(consumer, nowMs);
      if (consumer.socket.readyState === 1) queuedBytes += consumer.socket.getBufferedAmount();
    }
    counters.queuedBytes = queuedBytes;
    maintenanceTimer = all.size > 0 ? timers.setTimeout(maintain, limits.maintenanceIntervalMs) : null;
  };

  // --- admission ---
  const release = (key: string): void => {
    admitted--;
    const count = (perAddress.get(key) ?? 1) - 1;
    if (count > 0) perAddress.set(key, count);
    else perAddress.delete(key);
  };

  const own = (socket: unknown) => socket as ServerWebSocket<ConsumerData<Ask>>;
  const consumerOf = (socket: unknown): C | null => own(socket).data.consumer as C | null;

  const websocket: Edge['websocket'] = {
    open(opened) {
      const socket = own(opened);
      const consumer = hooks.create(++lastId, socket, socket.data.ask, clock());
      socket.data.consumer = consumer;
      all.add(consumer);
      counters.consumersOpened++;
      maintenanceTimer ??= timers.setTimeout(maintain, limits.maintenanceIntervalMs);
      if (closing) goodbye(consumer, 1001, SHUTTING_DOWN, 'shutdown');
      else hooks.start(consumer);
    },
    message(socket, message) {
      counters.clientMessages++;
      const consumer = consumerOf(socket);
      if (consumer === null) return;
      consumer.alive(clock());
      if (consumer.mode !== 'closing') hooks.message?.(consumer, message);
    },
    drain(socket) {
      const consumer = consumerOf(socket);
      if (consumer === null) return;
      counters.drains++;
      consumer.alive(clock());
      if (consumer.mode !== 'blocked') return;
      consumer.queuedBytes = consumer.socket.getBufferedAmount();
      // Half empty is enough to go on; a socket that is still full drains again.
      if (consumer.queuedBytes < limits.maxQueuedBytes / 2) standInLine(consumer);
    },
    pong(socket) {
      consumerOf(socket)?.alive(clock());
    },
    close(socket) {
      release(own(socket).data.addressKey);
      const consumer = consumerOf(socket);
      if (consumer === null) return;
      detach(consumer);
      all.delete(consumer);
      counters.consumersClosed++;
      hooks.onGone?.(consumer);
    },
  };

  return {
    all,
    checkRequest(request, what, refuse) {
      if (request.method !== 'GET') {
        counters.refusedMethod++;
        return refuse(405, 'InvalidRequest', `${what} is a WebSocket: use GET`, { allow: 'GET' });
      }
      if (request.headers.get('upgrade')?.toLowerCase() !== 'websocket') {
        counters.refusedNotUpgrade++;
        return refuse(426, 'InvalidRequest', `${what} needs a WebSocket upgrade`, {
          upgrade: 'websocket',
          connection: 'Upgrade',
        });
      }
      return null;
    },
    admit(request, server, context, { ask, headers, refuse }) {
      const retry = { 'retry-after': String(limits.retryAfterSeconds) };
      if (closing) return refuse(503, 'NotAvailable', SHUTTING_DOWN, retry);
      if (admitted >= limits.maxConsumers) {
        counters.refusedTotalLimit++;
        return refuse(429, 'RateLimitExceeded', 'the relay has as many consumers as it takes', retry);
      }
      const remoteAddress = context.remoteAddress ?? server.requestIP(request)?.address ?? '';
      const key = addressKey(remoteAddress);
      const fromHere = perAddress.get(key) ?? 0;
      if (fromHere >= limits.maxConsumersPerAddress && !isLoopback(remoteAddress)) {
        counters.refusedAddressLimit++;
        return refuse(429, 'RateLimitExceeded', 'too many consumers from this address', retry);
      }
      const data: ConsumerData<Ask> = {
        handlers: websocket,
        ...(options.maxMessageBytes === undefined ? {} : { maxMessageBytes: options.maxMessageBytes(ask) }),
        ask,
        remoteAddress,
        addressKey: key,
        userAgent: (request.headers.get('user-agent') ?? '').slice(0, MAX_USER_AGENT_CHARACTERS),
        consumer: null,
      };
      admitted++;
      perAddress.set(key, fromHere + 1);
      if (server.upgrade(request, { data, headers: { ...context.headers, ...headers } })) return undefined;
      release(key);
      counters.refusedNotUpgrade++;
      return refuse(400, 'InvalidRequest', 'not a valid WebSocket upgrade');
    },
    websocket,
    standInLine,
    rest,
    goodbye,
    tooSlow,
    view(consumer, seq, lastSeq, edge) {
      const { data } = consumer.socket;
      return {
        id: consumer.id,
        edge,
        remoteAddress: data.remoteAddress,
        userAgent: data.userAgent,
        seq,
        behind: Math.max(0, lastSeq - seq),
        mode: consumer.mode,
        eventsSent: consumer.eventsSent,
        bytesSent: consumer.bytesSent,
        queuedBytes: consumer.socket.readyState === 1 ? consumer.socket.getBufferedAmount() : 0,
        connectedAtMs: consumer.connectedAtMs,
      };
    },
    async close() {
      if (closing) return;
      closing = true;
      hooks.beforeClose();
      if (maintenanceTimer !== null) timers.clearTimeout(maintenanceTimer);
      // Sockets that still hold something in our memory may empty it first; the rest is in the log.
      for (const consumer of all) {
        if (consumer.mode !== 'closing') consumer.cause = 'shutdown';
        detach(consumer);
      }
      const deadlineMs = clock() + limits.closeGraceMs;
      while (all.size > 0) {
        for (const { socket } of [...all]) {
          if (socket.getBufferedAmount() === 0 || clock() >= deadlineMs) {
            socket.close(1001, SHUTTING_DOWN);
          }
        }
        if (all.size > 0) {
          await new Promise<void>((resolve) => void timers.setTimeout(resolve, limits.flushIntervalMs));
        }
      }
    },
  };
};
