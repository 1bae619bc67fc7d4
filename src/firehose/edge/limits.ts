import { createConsumerCounters, DEFAULT_CONSUMER_LIMITS } from '../../api/edge/limits.ts';
import type { EdgeCounters, EdgeLimits } from './types.ts';

/** One read of the log for all live consumers together. */
export const LIVE_BATCH_BYTES = 1024 * 1024;

/** One turn of a consumer that catches up: what a socket buffer takes in one go. */
export const REPLAY_SLICE_BYTES = 256 * 1024;

export const DEFAULT_EDGE_LIMITS: EdgeLimits = {
  ...DEFAULT_CONSUMER_LIMITS,
  liveBatchBytes: LIVE_BATCH_BYTES,
  replaySliceBytes: REPLAY_SLICE_BYTES,
};

/** All zero. */
export const createEdgeCounters = (): EdgeCounters => ({
  ...createConsumerCounters(),
  refusedCursor: 0,
  futureCursor: 0,
  outdatedCursor: 0,
  liveFlushes: 0,
  liveReads: 0,
  replayReads: 0,
  replayRecords: 0,
  liveConsumers: 0,
  laggingConsumers: 0,
});
