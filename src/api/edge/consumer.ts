import type { ServerWebSocket } from 'bun';
import type { ConsumerData } from './types.ts';

/**
 * One consumer: a socket, and in what an edge adds, a position in the log. It has no queue of its own; what it has
 * not been sent is in the log. A class, because the fields are touched for every batch.
 */
export class Consumer {
  readonly id: number;
  readonly socket: ServerWebSocket<ConsumerData>;
  readonly connectedAtMs: number;
  mode: 'live' | 'reading' | 'blocked' | 'closing' = 'reading';
  /** Whether it stands in the line of those that catch up. */
  waiting = false;
  eventsSent = 0;
  bytesSent = 0;
  /** Last sign that the other side is there: drain, pong, message. */
  aliveAtMs: number;
  /** bytesSent at that time: more since then means that data is under way. */
  bytesWhenAlive = 0;
  /** Time of the oldest ping without an answer; 0 = none. */
  pingedAtMs = 0;
  lastPingAtMs = 0;
  /** Why it ended, in one word; while we have not ended it, only the other side can. */
  cause = 'client';
  /** Queue of a blocked socket when last looked at. */
  queuedBytes = 0;

  constructor(id: number, socket: ServerWebSocket<ConsumerData>, nowMs: number) {
    this.id = id;
    this.socket = socket;
    this.connectedAtMs = nowMs;
    this.aliveAtMs = nowMs;
    this.lastPingAtMs = nowMs;
  }

  /** Notes a sign of life. */
  alive(nowMs: number): void {
    this.aliveAtMs = nowMs;
    this.bytesWhenAlive = this.bytesSent;
    this.pingedAtMs = 0;
  }
}
