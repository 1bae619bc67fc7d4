/**
 * A firehose client that trusts nobody's scanner: it follows any subscribeRepos URL and decodes every frame
 * with cborg and @ipld/dag-cbor. For tests and the demo; its slowness can be controlled.
 */
import { decodeOptions } from '@ipld/dag-cbor';
import { decodeFirst } from 'cborg';
import WebSocket from 'ws';

/** One frame as it was seen. */
export interface Seen {
  /** Header `t`; null for an error frame. */
  readonly type: string | null;
  readonly seq: number | null;
  readonly did: string | null;
  readonly rev: string | null;
  readonly body: Record<string, unknown>;
  readonly frame: Uint8Array;
}

export interface ConsumerOptions {
  /** `http://`, `ws://`, or their TLS forms; with or without the XRPC path. */
  readonly url: string;
  /** Absent: live only. */
  readonly cursor?: number | undefined;
  /** Frames kept in `seen`; older ones are forgotten. 0 keeps none. Default 100,000. */
  readonly maxSeen?: number;
  /** Keep decoded bodies and frames (default), or only the few named fields. */
  readonly keepBodies?: boolean;
  onSeen?(seen: Seen): void;
}

export interface Consumer {
  readonly seen: Seen[];
  readonly counters: { frames: number; bytes: number; undecodable: number };
  /** The newest seq, or null. */
  readonly lastSeq: number | null;
  /** Resolves when the connection has opened; rejects when it cannot. */
  readonly opened: Promise<void>;
  /** Resolves when the connection is gone. */
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>;
  /** Resolves once `test` holds, tried after each frame; rejects when the connection closes or after `timeoutMs`. */
  until(test: () => boolean, timeoutMs?: number): Promise<void>;
  /** Stops reading the socket. */
  pause(): void;
  resume(): void;
  /** Reads in bursts: at most this many frames a second; 0 as fast as they come. */
  limit(framesPerSecond: number): void;
  close(): Promise<void>;
}

const PATH = '/xrpc/com.atproto.sync.subscribeRepos';
const DEFAULT_MAX_SEEN = 100_000;
const LIMIT_TICK_MS = 20;

const withoutTransform = { ...decodeOptions };

/** Decodes header and body of one frame. Throws on anything that is not two canonical DAG-CBOR items. */
export const decodeFrame = (frame: Uint8Array): Seen => {
  const [header, rest] = decodeFirst(frame, withoutTransform) as [Record<string, unknown>, Uint8Array];
  const [body, after] = decodeFirst(rest, withoutTransform) as [Record<string, unknown>, Uint8Array];
  if (after.length > 0) throw new Error('bytes after the body');
  const { seq, did, repo, rev } = body;
  return {
    type: typeof header.t === 'string' ? header.t : null,
    seq: typeof seq === 'number' ? seq : null,
    did: typeof did === 'string' ? did : typeof repo === 'string' ? repo : null,
    rev: typeof rev === 'string' ? rev : null,
    body,
    frame,
  };
};

/** Connects at once. */
export const createConsumer = (options: ConsumerOptions): Consumer => {
  const url = new URL(options.url);
  if (url.pathname === '/') url.pathname = PATH;
  if (options.cursor !== undefined) url.searchParams.set('cursor', String(options.cursor));
  url.protocol = url.protocol.replace('http', 'ws');

  const maxSeen = options.maxSeen ?? DEFAULT_MAX_SEEN;
  const keepBodies = options.keepBodies ?? true;
  const seen: Seen[] = [];
  const counters = { frames: 0, bytes: 0, undecodable: 0 };
  const waiters = new Set<() => void>();
  let lastSeq: number | null = null;
  let isClosed = false;
  let allowance = Number.POSITIVE_INFINITY;
  let limiter: Timer | null = null;

  const socket = new WebSocket(url, { perMessageDeflate: false });
  const opened = new Promise<void>((resolve, reject) => {
    socket.once('open', () => resolve());
    socket.once('error', reject);
  });
  opened.catch(() => {});
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.once('close', (code: number, reason: Buffer) => {
      isClosed = true;
      if (limiter !== null) clearInterval(limiter);
      resolve({ code, reason: reason.toString() });
      for (const waiter of [...waiters]) waiter();
    });
  });
  socket.on('error', () => {});
  socket.on('message', (data: Buffer) => {
    counters.frames++;
    counters.bytes += data.length;
    try {
      const decoded = decodeFrame(new Uint8Array(data));
      if (decoded.seq !== null) lastSeq = decoded.seq;
      const kept = keepBodies ? decoded : { ...decoded, body: {}, frame: new Uint8Array() };
      if (maxSeen > 0) {
        seen.push(kept);
        // Trimmed in large steps: moving the list costs its length.
        if (seen.length > maxSeen * 1.25) seen.splice(0, seen.length - maxSeen);
      }
      options.onSeen?.(decoded);
    } catch {
      counters.undecodable++;
    }
    if (--allowance <= 0) socket.pause();
    for (const waiter of [...waiters]) waiter();
  });

  return {
    seen,
    counters,
    get lastSeq() {
      return lastSeq;
    },
    opened,
    closed,
    until: (test, timeoutMs = 10_000) =>
      new Promise((resolve, reject) => {
        const finish = (error: Error | null): void => {
          clearTimeout(timer);
          waiters.delete(check);
          if (error === null) resolve();
          else reject(error);
        };
        const check = (): void => {
          if (test()) finish(null);
          else if (isClosed) finish(new Error(`the connection closed after ${counters.frames} frames`));
        };
        const timer = setTimeout(
          () => finish(new Error(`not reached within ${timeoutMs} ms, after ${counters.frames} frames`)),
          timeoutMs,
        );
        waiters.add(check);
        check();
      }),
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    limit: (framesPerSecond) => {
      if (limiter !== null) clearInterval(limiter);
      limiter = null;
      allowance = framesPerSecond > 0 ? 0 : Number.POSITIVE_INFINITY;
      if (framesPerSecond <= 0) {
        socket.resume();
        return;
      }
      limiter = setInterval(() => {
        allowance = (Math.max(allowance, 0) % 1) + (framesPerSecond * LIMIT_TICK_MS) / 1000;
        if (allowance >= 1) socket.resume();
      }, LIMIT_TICK_MS);
    },
    close: async () => {
      // A paused socket never finishes the closing handshake.
      socket.terminate();
      await closed;
    },
  };
};
