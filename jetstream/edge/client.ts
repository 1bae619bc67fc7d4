import type { ServerWebSocket } from 'bun';
import { Consumer } from '../../src/api/edge/consumer.ts';
import type { ConsumerData } from '../../src/api/edge/types.ts';
import { didHash } from '../../src/log/did-hash.ts';
import type { Group } from '../filter/interests.ts';
import type { V1Options, V2Options } from '../filter/options.ts';
import type { Filter, Version } from '../types.ts';
import type { Alone } from './alone.ts';
import type { MessageCompressor } from './types.ts';

/** How a client gets its messages, and what was sent in this way: one for each version and compressor. */
export interface Format {
  readonly version: Version;
  /** null: text. */
  readonly compressor: MessageCompressor | null;
  /** Which place in Encoded.zstd is the compressor's. */
  readonly slot: number;
  /** Totals since the start, but for clients: that is now. */
  clients: number;
  events: number;
  bytes: number;
}

/** What was read from a client's request. */
export interface Ask {
  readonly options: V1Options | V2Options;
  readonly format: Format;
}

/** Clients with equal filters. */
export class Audience {
  /** Those of them that are live. */
  readonly live: Client[] = [];
  #filter: Filter;
  #didHashes: ReadonlySet<number> | null | undefined = undefined;

  constructor(filter: Filter) {
    this.#filter = filter;
  }

  /** Of the DIDs that are wanted; null: all. Made for the first that catches up. */
  get didHashes(): ReadonlySet<number> | null {
    if (this.#didHashes === undefined) {
      const { dids } = this.#filter;
      this.#didHashes = dids === null ? null : new Set(Array.from(dids, didHash));
    }
    return this.#didHashes;
  }
}

/**
 * One client: a place in the log, a filter and a socket. Everything before (seq, opIndex) was sent to it or is not
 * for it.
 */
export class Client extends Consumer {
  readonly options: V1Options | V2Options;
  readonly format: Format;
  /** Its filter; null before it has started, and after it is gone. */
  group: Group<Audience> | null = null;
  /** seq and opIndex of the event to be looked at next. Not kept up to date while live: see the edge. */
  seq = 0;
  opIndex = 0;
  /** Of the record at `seq`, only events from then on; 0 = all. */
  fromTimeUs = 0;
  /** What it reads on its own; null unless it is alone at its place. */
  alone: Alone | null = null;
  /** How many events the next one of those that take turns is behind it; Infinity when there is none. */
  lead = Number.POSITIVE_INFINITY;
  /** Turns it has given up so that others come up with it. */
  turnsWaited = 0;
  /** v1: nothing is sent before its first options_update. */
  awaitsHello: boolean;
  /** Its place in the audience's `live`; −1 = not live. */
  liveIndex = -1;
  /** Number of the last live batch it was given, so that it never gets one twice. */
  batch = 0;
  lastSentMs: number;
  /** Bytes of options in the present window of time. */
  optionsBytes = 0;
  optionsSinceMs = 0;

  constructor(id: number, socket: ServerWebSocket<ConsumerData>, ask: Ask, nowMs: number) {
    super(id, socket, nowMs);
    this.options = ask.options;
    this.format = ask.format;
    this.awaitsHello = 'requireHello' in ask.options && ask.options.requireHello;
    this.lastSentMs = nowMs;
  }
}
