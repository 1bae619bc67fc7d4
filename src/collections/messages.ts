/** What the main thread and the thread of the collection index say to each other. */
import type { KIND } from '../firehose/types.ts';
import type { CollectionWriter } from './types.ts';

/** Calls that the thread answers. */
export type WriterMethod = Exclude<keyof CollectionWriter, 'close'>;

export interface IndexerStats {
  /** seq that the index reflects; null = it has read nothing of the log yet. */
  readonly seq: number | null;
  readonly timeUs: number;
  readonly rows: number;
  readonly repos: number;
  readonly collections: number;
  readonly bytes: number;
  readonly gaps: number;
  /** Counts by name, as the store keeps them: hidden_N, check_N, failure_N, checks, places, refused_pairs, refused_checks, dropped_places. */
  readonly totals: Readonly<Record<string, number>>;
  readonly counters: Readonly<Record<string, number>>;
  /** '' = well; otherwise what it waits for. */
  readonly problem: string;
}

/**
 * A batch of the log (see batch.ts). The memory of a slot is sent once and used again and again: new memory for each
 * batch would wait for the collectors of both threads.
 */
export interface BatchMessage {
  readonly kind: 'batch';
  readonly slot: number;
  readonly memory?: SharedArrayBuffer;
  /** The memory is for this batch alone. */
  readonly once?: true;
}

/** Main thread → index. */
export type ToIndexer =
  | BatchMessage
  | { readonly kind: 'start'; readonly path: string }
  /** Accounts that the relay itself has taken down, of which the log may know nothing. Comes before any batch. */
  | { readonly kind: 'takendown'; readonly dids: readonly string[] }
  /** A stretch of the log that is not to be had any more: the next batch begins behind it. */
  | { readonly kind: 'gap' }
  /** Hosts that are gone for good. */
  | { readonly kind: 'sweep'; readonly hostIds: readonly number[] }
  | {
      readonly kind: 'call';
      readonly id: number;
      readonly method: WriterMethod;
      readonly args: readonly unknown[];
    }
  | { readonly kind: 'stop' };

/** Index → main thread. */
export type FromIndexer =
  | { readonly kind: 'ready'; readonly stats: IndexerStats }
  /** A batch is stored: its memory is free again. */
  | { readonly kind: 'stored'; readonly seq: number; readonly timeUs: number; readonly slot: number }
  | { readonly kind: 'answer'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'refused'; readonly id: number; readonly message: string }
  | { readonly kind: 'stats'; readonly stats: IndexerStats }
  /** It cannot go on: what an operator is to do stands in the message. */
  | { readonly kind: 'fatal'; readonly message: string }
  | { readonly kind: 'stopped' };

/** Kinds of events that tell the index something. */
export type IndexedKind = (typeof KIND)['commit' | 'sync' | 'account'];
