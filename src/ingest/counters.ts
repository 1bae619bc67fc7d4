import type { IngestCounters } from './types.ts';

/** Counters before anything was counted. Copy it to count. */
export const NO_COUNTERS: Readonly<IngestCounters> = {
  frames: 0,
  bytes: 0,
  bytesInFlight: 0,
  heldFrames: 0,
  heldBytes: 0,
  heldDids: 0,
  skippedFrames: 0,
  textMessages: 0,
  pauses: 0,
  identityHits: 0,
  identityMisses: 0,
  discardedFrames: 0,
};
