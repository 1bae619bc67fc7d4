import type { ConsumerCounters, ConsumerLimits } from '../../src/api/edge/types.ts';
import type { LogRecord } from '../../src/log/types.ts';
import type { JetstreamEvent } from '../types.ts';

/** The bounds of the edge. Every one can be overridden; the defaults and their reasons are in limits.ts. */
export interface JetstreamLimits extends ConsumerLimits {
  readonly blockBytes: number;
  readonly maxCacheBytes: number;
  readonly maxBlocks: number;
  readonly maxLogCursors: number;
  readonly maxBlocksPerTurn: number;
  readonly maxTurnsWaited: number;
  readonly maxAlone: number;
  readonly aloneSeqs: number;
  readonly heartbeatMs: number;
  readonly heartbeatCheckMs: number;
  readonly optionsWindowMs: number;
  readonly maxOptionsBytesPerWindow: number;
}

/** Plain totals since the start, but for the ones that say "now". */
export interface JetstreamCounters extends ConsumerCounters {
  refusedOptions: number;
  /** v2: seq cursors below the window, refused before the upgrade. */
  refusedCursor: number;
  refusedDictionary: number;
  /** Closed since all filters together name too many DIDs. */
  refusedInterests: number;
  optionsUpdates: number;
  badOptionsUpdates: number;
  ignoredMessages: number;
  liveFlushes: number;
  /** Turns of clients that catch up. */
  replayReads: number;
  /** Events that were looked at for clients that catch up. */
  replayRecords: number;
  /** Events that a client did not get because of its filter, summed over clients. */
  filtered: number;
  /** Events that a client did not get because of its maxMessageSizeBytes, summed over clients. */
  oversize: number;
  heartbeats: number;
  /** Blocks made from the log, found in the cache, and read by a client that is alone at its place. */
  blocksRead: number;
  blocksShared: number;
  blocksAlone: number;
  blocksDropped: number;
  encodesV1: number;
  encodesV2: number;
  /** Events without a message, summed over versions: their record is missing or undecodable. */
  undecodable: number;
  compressions: number;
  /** Now. */
  cachedBlocks: number;
  cachedBytes: number;
  liveConsumers: number;
  laggingConsumers: number;
}

/** Makes messages out of records. `encodeV1` and `encodeV2` answer a new piece of memory, or null for an event that is dropped. */
export interface Codec {
  readEvents(record: LogRecord): readonly JetstreamEvent[];
  encodeV1(event: JetstreamEvent): Uint8Array | null;
  encodeV2(event: JetstreamEvent): Uint8Array | null;
  /** The same bytes in memory that the next call writes over. */
  lendV1(event: JetstreamEvent): Uint8Array | null;
  lendV2(event: JetstreamEvent): Uint8Array | null;
}

/** Compresses one message; the answer of `compress` is a new piece of memory. */
export interface MessageCompressor {
  compress(bytes: Uint8Array): Uint8Array;
  /** The same frame in memory that the next call writes over. */
  lend(bytes: Uint8Array): Uint8Array;
}

/** How messages are compressed. `null` for no compression at all. */
export interface Compression {
  /** For v1 clients that ask for zstd. */
  readonly v1: MessageCompressor;
  /** For v2 clients, by the id of the dictionary they name; null: there is no such dictionary. */
  byId(dictionaryId: string): MessageCompressor | null;
  /** The dictionary of ours, to be named to those who ask for another; null: there is none. */
  readonly currentId: string | null;
}
