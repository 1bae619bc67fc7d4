import type { EdgeSocketData } from '../../api/types.ts';
import type { LogCursor } from '../../log/types.ts';
import type { Consumer } from './consumer.ts';

/** Timers as the edge uses them; the real ones by default, others in tests. */
export interface Timers {
  setTimeout(run: () => void, delayMs: number): unknown;
  clearTimeout(handle: unknown): void;
  setImmediate(run: () => void): unknown;
}

/** The bounds of the edge. Every one can be overridden; the defaults and their reasons are in limits.ts. */
export interface EdgeLimits {
  readonly maxConsumers: number;
  readonly maxConsumersPerAddress: number;
  readonly flushIntervalMs: number;
  readonly liveBatchBytes: number;
  readonly liveBudgetMs: number;
  readonly replaySliceBytes: number;
  readonly replayBudgetMs: number;
  readonly maxQueuedBytes: number;
  readonly pingIntervalMs: number;
  readonly stallMs: number;
  readonly maintenanceIntervalMs: number;
  readonly closeGraceMs: number;
  readonly retryAfterSeconds: number;
}

/** Plain totals since the start, but for the three that say "now". */
export interface EdgeCounters {
  consumersOpened: number;
  consumersClosed: number;
  refusedMethod: number;
  refusedNotUpgrade: number;
  refusedCursor: number;
  refusedTotalLimit: number;
  refusedAddressLimit: number;
  futureCursor: number;
  outdatedCursor: number;
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
  liveFlushes: number;
  liveReads: number;
  replayReads: number;
  replayRecords: number;
  /** Now: bytes in the socket queues of this process, as of the last maintenance pass. */
  queuedBytes: number;
  /** Now: consumers at the end of the log. */
  liveConsumers: number;
  /** Now: consumers catching up or blocked. */
  laggingConsumers: number;
}

/** What a firehose socket carries. */
export interface FirehoseSocketData extends EdgeSocketData {
  readonly cursor: number | null;
  readonly remoteAddress: string;
  readonly addressKey: string;
  readonly userAgent: string;
  /** Set when the socket opens. */
  consumer: Consumer | null;
}

export type { LogCursor };
