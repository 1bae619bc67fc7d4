import type { Kind } from '../../src/firehose/types.ts';
import type { LogRecord } from '../../src/log/types.ts';
import type { JetstreamEvent } from '../types.ts';
import type { Block } from './blocks.ts';

/** The JSON of an event in one version, and whatever was made of it. */
export class Encoded {
  readonly json: Uint8Array;
  /** The same as text, once a client wanted it. */
  text: string | null = null;
  /** By the slot of the compressor. */
  zstd: (Uint8Array | undefined)[] | null = null;

  constructor(json: Uint8Array) {
    this.json = json;
  }
}

/**
 * An event, and its messages as far as anyone has wanted them. Shared by all clients, in its block. A class, because
 * it is made for every event; what filters look at is copied, since they look at it often.
 */
export class Item implements JetstreamEvent {
  readonly event: JetstreamEvent;
  readonly kind: Kind;
  readonly seq: number;
  readonly opIndex: number;
  readonly timeUs: number;
  readonly did: string;
  readonly collection: string;
  readonly rkey: string;
  readonly operation: JetstreamEvent['operation'];
  readonly source: LogRecord;
  readonly block: Block;
  /** undefined: not wanted yet; null: it cannot be encoded and is dropped. */
  v1: Encoded | null | undefined = undefined;
  v2: Encoded | null | undefined = undefined;

  constructor(event: JetstreamEvent, block: Block) {
    this.event = event;
    this.kind = event.kind;
    this.seq = event.seq;
    this.opIndex = event.opIndex;
    this.timeUs = event.timeUs;
    this.did = event.did;
    this.collection = event.collection;
    this.rkey = event.rkey;
    this.operation = event.operation;
    this.source = event.source;
    this.block = block;
  }
}
