import type { ConsumerCounters, ConsumerLimits } from '../../api/edge/types.ts';

/** The bounds of the edge. Every one can be overridden; the defaults and their reasons are in limits.ts. */
export interface EdgeLimits extends ConsumerLimits {
  readonly liveBatchBytes: number;
  readonly replaySliceBytes: number;
}

/** Plain totals since the start, but for the ones that say "now". */
export interface EdgeCounters extends ConsumerCounters {
  refusedCursor: number;
  futureCursor: number;
  outdatedCursor: number;
  liveFlushes: number;
  liveReads: number;
  replayReads: number;
  replayRecords: number;
  /** Now: consumers at the end of the log. */
  liveConsumers: number;
  /** Now: consumers catching up or blocked. */
  laggingConsumers: number;
}
