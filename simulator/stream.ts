/**
 * A host's outgoing events and its subscribers. There is one list of events and each subscriber is a cursor
 * into it: nothing is queued per subscriber, and a slow one only moves slowly.
 */
import type { ServerWebSocket } from 'bun';
import { encodeError, encodeMessage } from './frames.ts';

/** Where frames are kept: made while running, or read from a recording. Positions count from 0 for ever. */
export interface EventStore {
  /** The oldest position still kept. */
  readonly first: number;
  /** One past the newest position. */
  readonly end: number;
  /** The largest seq that is no longer kept. */
  readonly lostSeq: number;
  /** Text is for a fault: hosts send binary messages only. */
  frameAt(position: number): Uint8Array | string;
  /** The largest seq at or before this position: never falls, even where a fault made seqs fall. */
  highSeqAt(position: number): number;
  /** Whether only those get it who were connected when it was made: no event of the stream. */
  isLiveOnlyAt?(position: number): boolean;
}

interface Kept {
  readonly frame: Uint8Array | string;
  readonly highSeq: number;
  readonly isLiveOnly: boolean;
}

/** Frames in memory, the last `maxEvents` of them. */
export interface MemoryStore extends EventStore {
  /** Returns the bytes set free by the window, 0 when it was not full. */
  append(seq: number, frame: Uint8Array | string, isLiveOnly?: boolean): number;
  /** Forgets the oldest event; returns the bytes set free. */
  dropOldest(): number;
  /** Forgets all events, as a host does that lost its window; `startOver` forgets their seqs as well. */
  clear(startOver: boolean): number;
}

export const createMemoryStore = (maxEvents: number): MemoryStore => {
  let kept: Kept[] = [];
  let start = 0;
  let first = 0;
  let highSeq = 0;
  let lostSeq = 0;
  const dropOldest = (): number => {
    if (start >= kept.length) return 0;
    const bytes = kept[start]!.frame.length;
    lostSeq = kept[start]!.highSeq;
    kept[start] = undefined as unknown as Kept;
    start++;
    first++;
    if (start > 1024 && start * 2 > kept.length) {
      kept = kept.slice(start);
      start = 0;
    }
    return bytes;
  };
  return {
    get first() {
      return first;
    },
    get end() {
      return first + kept.length - start;
    },
    get lostSeq() {
      return lostSeq;
    },
    frameAt: (position) => kept[start + position - first]!.frame,
    highSeqAt: (position) => kept[start + position - first]!.highSeq,
    isLiveOnlyAt: (position) => kept[start + position - first]!.isLiveOnly,
    append: (seq, frame, isLiveOnly = false) => {
      if (seq > highSeq) highSeq = seq;
      kept.push({ frame, highSeq, isLiveOnly });
      return kept.length - start > maxEvents ? dropOldest() : 0;
    },
    dropOldest,
    clear: (startOver) => {
      let bytes = 0;
      while (kept.length > start) bytes += dropOldest();
      if (startOver) {
        highSeq = 0;
        lostSeq = 0;
      }
      return bytes;
    },
  };
};

/** The first position with a seq above `cursor`. */
export const positionAfter = (store: EventStore, cursor: number): number => {
  let low = store.first;
  let high = store.end;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (store.highSeqAt(middle) > cursor) high = middle;
    else low = middle + 1;
  }
  return low;
};

export interface SocketData {
  readonly stream: Stream;
  readonly cursor: number | null;
  subscriber: Subscriber | null;
}

export interface Subscriber {
  readonly socket: ServerWebSocket<SocketData>;
  position: number;
  /** The end of the stream when it connected. */
  readonly since: number;
  blocked: boolean;
  /** A pump is already scheduled. */
  scheduled: boolean;
}

export interface StreamCounters {
  connected: number;
  framesSent: number;
  bytesSent: number;
  backpressure: number;
}

export interface Stream {
  store: EventStore;
  readonly subscribers: Set<Subscriber>;
  /** While true nothing is sent, though sockets stay open. */
  stalled: boolean;
  /** The seq of the newest event, whether kept or not. */
  lastSeq: number;
  /** Sends what subscribers have not had. */
  pump(): void;
  open(socket: ServerWebSocket<SocketData>): void;
  drain(socket: ServerWebSocket<SocketData>): void;
  closed(socket: ServerWebSocket<SocketData>): void;
  /** Cuts every connection, without a closing handshake. */
  terminateAll(): void;
}

/** What one subscriber may be sent before others get a turn. */
const PUMP_BYTES = 1024 * 1024;
/** Subscribers of one host; a relay needs one. */
export const MAX_SUBSCRIBERS = 1000;

export const createStream = (store: EventStore, counters: StreamCounters): Stream => {
  const subscribers = new Set<Subscriber>();

  const send = (subscriber: Subscriber): void => {
    if (subscriber.blocked || stream.stalled) return;
    const { socket } = subscriber;
    let budget = PUMP_BYTES;
    // A subscriber that fell out of the window goes on with the oldest event there is.
    if (subscriber.position < stream.store.first) subscriber.position = stream.store.first;
    socket.cork(() => {
      while (subscriber.position < stream.store.end && budget > 0) {
        if (
          subscriber.position < subscriber.since &&
          stream.store.isLiveOnlyAt?.(subscriber.position) === true
        ) {
          subscriber.position++;
          continue;
        }
        const frame = stream.store.frameAt(subscriber.position);
        const sent =
          typeof frame === 'string'
            ? socket.sendText(frame, false)
            : socket.sendBinary(frame as Uint8Array<ArrayBuffer>, false);
        if (sent === 0) {
          subscriber.blocked = true;
          return;
        }
        subscriber.position++;
        budget -= frame.length;
        counters.framesSent++;
        counters.bytesSent += frame.length;
        if (sent === -1) {
          counters.backpressure++;
          subscriber.blocked = true;
          return;
        }
      }
    });
    if (!subscriber.blocked && subscriber.position < stream.store.end && !subscriber.scheduled) {
      subscriber.scheduled = true;
      setImmediate(() => {
        subscriber.scheduled = false;
        if (subscribers.has(subscriber)) send(subscriber);
      });
    }
  };

  const stream: Stream = {
    store,
    subscribers,
    stalled: false,
    lastSeq: 0,
    pump: () => {
      for (const subscriber of subscribers) send(subscriber);
    },
    open: (socket) => {
      const { cursor } = socket.data;
      const { end } = stream.store;
      if (cursor !== null && cursor > stream.lastSeq) {
        socket.sendBinary(
          encodeError('FutureCursor', 'cursor is in the future') as Uint8Array<ArrayBuffer>,
          false,
        );
        socket.close(1008, 'FutureCursor');
        return;
      }
      let position = end;
      if (cursor !== null) {
        position = positionAfter(stream.store, cursor);
        // Cursor 0 asks for the oldest there is, so nothing is amiss when that is not the first event ever.
        if (cursor > 0 && cursor < stream.store.lostSeq) {
          socket.sendBinary(
            encodeMessage({
              type: '#info',
              body: { name: 'OutdatedCursor', message: 'cursor is older than the window' },
            }) as Uint8Array<ArrayBuffer>,
            false,
          );
        }
      }
      const subscriber: Subscriber = { socket, position, since: end, blocked: false, scheduled: false };
      socket.data.subscriber = subscriber;
      subscribers.add(subscriber);
      counters.connected++;
      send(subscriber);
    },
    drain: (socket) => {
      const { subscriber } = socket.data;
      if (subscriber === null) return;
      subscriber.blocked = false;
      send(subscriber);
    },
    closed: (socket) => {
      const { subscriber } = socket.data;
      if (subscriber !== null && subscribers.delete(subscriber)) counters.connected--;
    },
    terminateAll: () => {
      for (const { socket } of [...subscribers]) socket.terminate();
    },
  };
  return stream;
};
