import type { EdgeSocketData } from '../types.ts';
import type { Consumer } from './consumer.ts';

/** Timers as the edges use them; the real ones by default, others in tests. */
export interface Timers {
  setTimeout(run: () => void, delayMs: number): unknown;
  clearTimeout(handle: unknown): void;
  setImmediate(run: () => void): unknown;
}

/** The bounds that all edges have. Every one can be overridden; the defaults and their reasons are in limits.ts. */
export interface ConsumerLimits {
  readonly maxConsumers: number;
  readonly maxConsumersPerAddress: number;
  readonly flushIntervalMs: number;
  readonly liveBudgetMs: number;
  readonly replayBudgetMs: number;
  readonly maxQueuedBytes: number;
  readonly pingIntervalMs: number;
  readonly stallMs: number;
  readonly maintenanceIntervalMs: number;
  readonly closeGraceMs: number;
  readonly retryAfterSeconds: number;
}

/** Plain totals since the start, but for queuedBytes. */
export interface ConsumerCounters {
  consumersOpened: number;
  consumersClosed: number;
  refusedMethod: number;
  refusedNotUpgrade: number;
  refusedTotalLimit: number;
  refusedAddressLimit: number;
  tooSlow: number;
  pongTimeouts: number;
  pings: number;
  clientMessages: number;
  deliveries: number;
  deliveredBytes: number;
  /** Times a socket stopped taking frames. */
  backpressure: number;
  drains: number;
  /** Blocked sockets found empty by the maintenance pass: a drain call that never came. Should stay 0. */
  rescued: number;
  /** Now: bytes in the socket queues of this process, as of the last maintenance pass. */
  queuedBytes: number;
}

/** What a socket of an edge carries. `ask` is what the edge read from the request. */
export interface ConsumerData<Ask = unknown> extends EdgeSocketData {
  readonly ask: Ask;
  readonly remoteAddress: string;
  readonly addressKey: string;
  readonly userAgent: string;
  /** Set when the socket opens. */
  consumer: Consumer | null;
}

/** Makes the answer to a request that is not upgraded, in the form that the endpoint speaks. */
export type Refuse = (
  status: number,
  error: string,
  message: string,
  headers?: Record<string, string>,
) => Response;
