import type { CollectionsStatus } from '../collections/types.ts';
import type { LogStats } from '../log/types.ts';
import type { EventLoopLag } from './event-loop.ts';

/** Totals by name, as rooms keep them. */
export type Totals = Readonly<Record<string, number>>;

export interface IngestMetrics {
  /** Now. */
  readonly bytesInFlight: number;
  readonly maxBytesInFlight: number;
  /** Now: DIDs and frames that wait for an identity. */
  readonly pendingIdentities: number;
  readonly pendingEvents: number;
  /** Now: seconds between the newest sequenced event's own time and its arrival in the log. */
  readonly lagSeconds: number;
  /** Now: hosts whose socket is not being read, by why. */
  readonly pausedHosts: Totals;
  /** Everything else the ingest threads count, summed. */
  readonly totals: Totals;
}

export interface EdgeMetrics {
  /** firehose, jetstream, … */
  readonly edge: string;
  readonly consumers: number;
  readonly laggingConsumers: number;
  readonly queuedBytes: number;
  readonly totals: Totals;
}

/** Each total by its words. */
export interface JetstreamMetrics {
  /** One for each endpoint and compression; clients are now. */
  readonly formats: readonly {
    readonly version: string;
    readonly compression: string;
    readonly clients: number;
    readonly events: number;
    readonly bytes: number;
  }[];
  readonly filtered: number;
  readonly oversize: number;
  readonly encodes: Totals;
  readonly cursors: Totals;
  readonly disconnects: Totals;
}

export interface StateMetrics {
  /** Log seq that the database reflects. */
  readonly position: number;
  readonly lastFlushMs: number;
  readonly failing: boolean;
  readonly totals: Totals;
}

export interface CollectionsMetrics {
  readonly status: CollectionsStatus;
  /** What the index counts while it reads the log and writes; and what commits proved. */
  readonly totals: Totals;
  /** What the checker did, and the politeness of its requests. */
  readonly checks: Totals;
}

/**
 * Where the numbers come from: small functions that read plain counters, called at each scrape and never in
 * between. Host groups are the trusted patterns and `other`: no series per host or address anywhere.
 */
export interface MetricsSources {
  events(): readonly { readonly hostGroup: string; readonly kind: string; readonly count: number }[];
  rejections(): readonly { readonly hostGroup: string; readonly reason: string; readonly count: number }[];
  ingest(): IngestMetrics;
  log(): { readonly lastSeq: number; readonly oldestSeq: number; readonly stats: LogStats };
  edges(): readonly EdgeMetrics[];
  jetstream?(): JetstreamMetrics;
  eventLoop(): EventLoopLag;
  /** Hosts by status, and how many are connected. */
  hosts(): { readonly byStatus: Totals; readonly connected: number };
  resolver(): Totals;
  state(): StateMetrics;
  /** Absent: this relay keeps no collection index. */
  collections?(): CollectionsMetrics;
  /** Anything more: room → its totals. */
  rooms?(): Readonly<Record<string, Totals>>;
}
