import type { ServerWebSocket } from 'bun';
import type { LogCursor } from '../../log/types.ts';
import type { FirehoseSocketData } from './types.ts';

/**
 * One consumer: a position in the log and a socket. It has no queue of its own; what it has not been sent is in
 * the log. A class, because the fields are touched for every batch.
 */
export class Consumer {
  readonly id: number;
  readonly socket: ServerWebSocket<FirehoseSocketData>;
  readonly connectedAtMs: number;
  mode: 'live' | 'reading' | 'blocked' | 'closing' = 'reading';
  /** Last seq handed to the socket (or the one it started from). Not kept up to date while live: see the edge. */
  seq: number;
  /** Only while reading, and only as far as `seq` is its position. */
  cursor: LogCursor | null = null;
  /** Its place among the live consumers; −1 = not live. */
  liveIndex = -1;
  /** Number of the last live batch it was given, so that it never gets one twice. */
  batch = 0;
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
  /** Queue of a blocked socket when last looked at. */
  queuedBytes = 0;

  constructor(id: number, socket: ServerWebSocket<FirehoseSocketData>, seq: number, nowMs: number) {
    this.id = id;
    this.socket = socket;
    this.seq = seq;
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

  /** Gives the log back its reading position. */
  dropCursor(): void {
    if (this.cursor === null) return;
    this.cursor.close();
    this.cursor = null;
  }
}
