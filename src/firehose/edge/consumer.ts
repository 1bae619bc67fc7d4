import type { ServerWebSocket } from 'bun';
import { Consumer } from '../../api/edge/consumer.ts';
import type { ConsumerData } from '../../api/edge/types.ts';
import type { LogCursor } from '../../log/types.ts';

/** A consumer of subscribeRepos: a position in the log, and a socket. */
export class FirehoseConsumer extends Consumer {
  /** What it came with; null = live. */
  readonly requestedCursor: number | null;
  /** Last seq handed to the socket (or the one it started from). Not kept up to date while live: see the edge. */
  seq = 0;
  /** Only while reading, and only as far as `seq` is its position. */
  cursor: LogCursor | null = null;
  /** Its place among the live consumers; −1 = not live. */
  liveIndex = -1;
  /** Number of the last live batch it was given, so that it never gets one twice. */
  batch = 0;

  constructor(
    id: number,
    socket: ServerWebSocket<ConsumerData>,
    requestedCursor: number | null,
    nowMs: number,
  ) {
    super(id, socket, nowMs);
    this.requestedCursor = requestedCursor;
  }

  /** Gives the log back its reading position. */
  dropCursor(): void {
    if (this.cursor === null) return;
    this.cursor.close();
    this.cursor = null;
  }
}
