import { createConsumerCounters, DEFAULT_CONSUMER_LIMITS } from '../../src/api/edge/limits.ts';
import type { JetstreamCounters, JetstreamLimits } from './types.ts';

/** One read of the log for all clients that want it; about 50 records. */
export const BLOCK_BYTES = 256 * 1024;

/**
 * Records and their messages, to be shared by clients: a second of a busy network, or the places in the log of fifty
 * clients that catch up. Twice as much makes no client faster, and the garbage collector let 100 MB more pile up.
 */
export const MAX_CACHE_BYTES = 16 * 1024 * 1024;

/** Blocks of live batches may hold a single record each. */
export const MAX_BLOCKS = 8_192;

/** Reading positions kept for whoever reads on from there; each may hold a block of the log in memory. */
export const MAX_LOG_CURSORS = 32;

/** Blocks that are held already and sent to a client in one turn: a third of a millisecond with events of common size. */
export const MAX_BLOCKS_PER_TURN = 8;

/** Turns in a row that a client with others not far behind it gives up: it goes on at a quarter of their speed. */
export const MAX_TURNS_WAITED = 3;

/**
 * A client that catches up and has nobody within so many events of it, nor the end of the log, does not use the cache:
 * it has room for about half as many of common size, so that what is read for it would be gone before anybody else got there.
 */
export const ALONE_SEQS = 5_000;

/** Beyond so many that catch up, all share. Each that is alone holds a block of the log and a reading position. */
export const MAX_ALONE = 16;

/** A client that asked for it gets a heartbeat after this much silence. */
export const HEARTBEAT_MS = 10_000;

/** How often silence is looked for. */
export const HEARTBEAT_CHECK_MS = 1_000;

/** Reading 10 MB of options costs a tenth of a second: a client may do that three times a minute. */
export const OPTIONS_WINDOW_MS = 60_000;
export const MAX_OPTIONS_BYTES_PER_WINDOW = 30_000_000;

export const DEFAULT_JETSTREAM_LIMITS: JetstreamLimits = {
  ...DEFAULT_CONSUMER_LIMITS,
  blockBytes: BLOCK_BYTES,
  maxCacheBytes: MAX_CACHE_BYTES,
  maxBlocks: MAX_BLOCKS,
  maxLogCursors: MAX_LOG_CURSORS,
  maxBlocksPerTurn: MAX_BLOCKS_PER_TURN,
  maxTurnsWaited: MAX_TURNS_WAITED,
  maxAlone: MAX_ALONE,
  aloneSeqs: ALONE_SEQS,
  heartbeatMs: HEARTBEAT_MS,
  heartbeatCheckMs: HEARTBEAT_CHECK_MS,
  optionsWindowMs: OPTIONS_WINDOW_MS,
  maxOptionsBytesPerWindow: MAX_OPTIONS_BYTES_PER_WINDOW,
};

/** All zero. */
export const createJetstreamCounters = (): JetstreamCounters => ({
  ...createConsumerCounters(),
  refusedOptions: 0,
  refusedCursor: 0,
  refusedDictionary: 0,
  refusedInterests: 0,
  optionsUpdates: 0,
  badOptionsUpdates: 0,
  ignoredMessages: 0,
  liveFlushes: 0,
  replayReads: 0,
  replayRecords: 0,
  filtered: 0,
  oversize: 0,
  heartbeats: 0,
  blocksRead: 0,
  blocksShared: 0,
  blocksAlone: 0,
  blocksDropped: 0,
  encodesV1: 0,
  encodesV2: 0,
  undecodable: 0,
  compressions: 0,
  cachedBlocks: 0,
  cachedBytes: 0,
  liveConsumers: 0,
  laggingConsumers: 0,
});
