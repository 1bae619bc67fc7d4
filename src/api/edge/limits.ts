import { MAX_FRAME_BYTES } from '../../firehose/types.ts';
import type { ConsumerCounters, ConsumerLimits } from './types.ts';

/** Per edge. Beyond this, one machine's uplink is the limit anyway: 4,096 × 30 Mbit/s is more than 100 Gbit/s. */
export const MAX_CONSUMERS = 4_096;

/** One address with more is a mistake or an attack. Loopback does not count: a local proxy speaks for many. */
export const MAX_CONSUMERS_PER_ADDRESS = 64;

/**
 * Events of this long are written together: fan-out at 20 ms costs a quarter of what it costs at 1 ms. With 18, what the
 * writing itself takes still leaves all but one delivery in a hundred below 20 ms.
 */
export const FLUSH_INTERVAL_MS = 18;

/** A flush to live consumers that takes longer than this lets the event loop breathe in between. */
export const LIVE_BUDGET_MS = 50;

/**
 * All turns of catching-up consumers together before the event loop, and with it the live ones, comes first. With 5 ms,
 * fifty that catch up double the delay of live ones; with one they add a tenth, and get as much.
 */
export const REPLAY_BUDGET_MS = 1;

/** A socket with this much queued in our memory gets no more; Bun copies what it queues. */
export const MAX_QUEUED_BYTES = 1024 * 1024;

/**
 * For Bun's backpressureLimit: above anything an edge queues (the bound plus one message that was begun), so that
 * Bun itself never drops a message, which would be a silent gap.
 */
export const SOCKET_QUEUE_LIMIT_BYTES = MAX_QUEUED_BYTES + 2 * MAX_FRAME_BYTES;

/** Proxies cut idle sockets at about 100 s. */
export const PING_INTERVAL_MS = 30_000;

/** A socket that takes not a single byte for this long is given up. */
export const STALL_MS = 5 * 60_000;

/** How often pings, stalls and the window are looked at. */
export const MAINTENANCE_INTERVAL_MS = 5_000;

/** How long a shutdown waits for sockets to take what is queued for them. */
export const CLOSE_GRACE_MS = 5_000;

/** What a refused consumer is told to wait. */
export const RETRY_AFTER_SECONDS = 30;

/** User agents are shown, not used: longer ones are cut. */
export const MAX_USER_AGENT_CHARACTERS = 256;

export const DEFAULT_CONSUMER_LIMITS: ConsumerLimits = {
  maxConsumers: MAX_CONSUMERS,
  maxConsumersPerAddress: MAX_CONSUMERS_PER_ADDRESS,
  flushIntervalMs: FLUSH_INTERVAL_MS,
  liveBudgetMs: LIVE_BUDGET_MS,
  replayBudgetMs: REPLAY_BUDGET_MS,
  maxQueuedBytes: MAX_QUEUED_BYTES,
  pingIntervalMs: PING_INTERVAL_MS,
  stallMs: STALL_MS,
  maintenanceIntervalMs: MAINTENANCE_INTERVAL_MS,
  closeGraceMs: CLOSE_GRACE_MS,
  retryAfterSeconds: RETRY_AFTER_SECONDS,
};

/** All zero. */
export const createConsumerCounters = (): ConsumerCounters => ({
  consumersOpened: 0,
  consumersClosed: 0,
  refusedMethod: 0,
  refusedNotUpgrade: 0,
  refusedTotalLimit: 0,
  refusedAddressLimit: 0,
  tooSlow: 0,
  pongTimeouts: 0,
  pings: 0,
  clientMessages: 0,
  deliveries: 0,
  deliveredBytes: 0,
  backpressure: 0,
  drains: 0,
  rescued: 0,
  queuedBytes: 0,
});
