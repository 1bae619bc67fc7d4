import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createJetstreamEdge, type JetstreamEdgeOptions } from '../../../jetstream/edge/edge.ts';
import { readEvents } from '../../../jetstream/encode/events.ts';
import { encodeV1, encodeV2 } from '../../../jetstream/encode/message.ts';
import { startServer } from '../../../src/api/server.ts';
import type { Edge } from '../../../src/api/types.ts';
import { scanFrame } from '../../../src/firehose/scan.ts';
import { didHash } from '../../../src/log/did-hash.ts';
import { type LogOptions, openLog } from '../../../src/log/log.ts';
import type { Log, LogEntry } from '../../../src/log/types.ts';
import { simulatedFrames } from '../encode/support.ts';

/** Frames of a simulated network, as the sequencer would hand them over. */
export const simulatedEntries = async (events: number, seed: number): Promise<LogEntry[]> =>
  (await simulatedFrames(events, seed)).map((bytes) => {
    const frame = scanFrame(bytes);
    if (!frame.ok) throw new Error(frame.reason);
    return {
      hostId: 1,
      upstreamSeq: frame.seq,
      kind: frame.kind,
      opCount: frame.ops.length,
      didHash: didHash(frame.did),
      frame: frame.bytes,
      seqStart: frame.seqStart,
      seqEnd: frame.seqEnd,
    };
  });

/** A log in a directory of its own, with small segments and a small tail. */
export const openSmallLog = async (dir: string, options: Partial<LogOptions> = {}): Promise<Log> =>
  openLog({
    dir,
    windowMs: 3_650 * 86_400_000,
    maxBytes: 1e12,
    segmentBytes: 200_000,
    tailBytes: 60_000,
    reserveBytes: 0,
    ...options,
  });

export const directory = (): { path: string; remove: () => void } => {
  const path = mkdtempSync(join(tmpdir(), 'weir-jetstream-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
};

/** All messages of the log in a version, in order, by a reader of its own. */
export const messagesOf = (log: Log, version: 'v1' | 'v2'): string[] => {
  const cursor = log.openCursor(log.oldestSeq - 1);
  const messages: string[] = [];
  const text = new TextDecoder();
  for (;;) {
    const records = cursor.next(1_000_000);
    if (records === 'behind' || records.length === 0) break;
    for (const record of records)
      for (const event of readEvents(record)) {
        const json = version === 'v1' ? encodeV1(event) : encodeV2(event);
        if (json !== null) messages.push(text.decode(json));
      }
  }
  cursor.close();
  return messages;
};

/** An edge on a real server with real sockets. */
export const startEdge = (options: JetstreamEdgeOptions, more: Readonly<Record<string, Edge>> = {}) => {
  const edge = createJetstreamEdge({
    ...options,
    limits: { flushIntervalMs: 2, maintenanceIntervalMs: 10, ...options.limits },
  });
  const server = startServer({
    host: '127.0.0.1',
    port: 0,
    app: { fetch: () => new Response('not here', { status: 404 }) },
    edges: { ...edge.paths, ...more },
  });
  return { edge, server, url: server.url };
};

export interface Client {
  readonly socket: WebSocket & { pause(): void; resume(): void };
  /** Text, or the content of zstd frames. */
  readonly messages: string[];
  readonly binary: number;
  readonly closed: { code: number; reason: string } | null;
}

export const connect = (
  url: string,
  path: string,
  options: { protocols?: string[]; headers?: Record<string, string> } = {},
): Client => {
  const socket = new WebSocket(`${url.replace('http', 'ws')}${path}`, options as never);
  socket.binaryType = 'arraybuffer';
  const messages: string[] = [];
  let binary = 0;
  let closed: Client['closed'] = null;
  const text = new TextDecoder();
  socket.onmessage = ({ data }) => {
    if (typeof data === 'string') messages.push(data);
    else {
      binary++;
      messages.push(text.decode(Bun.zstdDecompressSync(data as ArrayBuffer)));
    }
  };
  socket.onerror = () => {};
  socket.onclose = ({ code, reason }) => {
    closed = { code, reason };
  };
  return {
    socket: socket as Client['socket'],
    messages,
    get binary() {
      return binary;
    },
    get closed() {
      return closed;
    },
  };
};
