import { createConnection } from 'node:net';
import { decodeFirst } from 'cborg';
import { startServer } from '../../../src/api/server.ts';
import { createFirehoseEdge, type FirehoseEdgeOptions } from '../../../src/firehose/edge/edge.ts';

export const PATH = '/xrpc/com.atproto.sync.subscribeRepos';

export interface Message {
  readonly header: { op: number; t?: string };
  readonly body: { seq?: number; error?: string; name?: string; message?: string };
}

/** The two items of a frame, decoded by an independent library. */
export const decodeFrame = (bytes: Uint8Array): Message => {
  const [header, rest] = decodeFirst(bytes);
  const [body, end] = decodeFirst(rest);
  if (end.length > 0) throw new Error('bytes after the body');
  return { header, body };
};

/** Waits until a condition holds; fails loudly when it does not within the time a broken run is given. */
export const until = async (holds: () => boolean, what: string): Promise<void> => {
  for (let turn = 0; turn < 4000; turn++) {
    if (holds()) return;
    await Bun.sleep(2);
  }
  throw new Error(`never happened: ${what}`);
};

export interface Client {
  readonly socket: WebSocket;
  readonly messages: Message[];
  readonly seqs: number[];
  readonly bytes: number;
  readonly closed: { code: number; reason: string } | null;
}

export const connect = (
  url: string,
  options: { cursor?: number | string; decode?: boolean } = {},
): Client => {
  const query = options.cursor === undefined ? '' : `?cursor=${options.cursor}`;
  const socket = new WebSocket(`${url.replace('http', 'ws')}${PATH}${query}`);
  socket.binaryType = 'arraybuffer';
  const messages: Message[] = [];
  const seqs: number[] = [];
  let closed: Client['closed'] = null;
  let bytes = 0;
  socket.onmessage = (event) => {
    const data = new Uint8Array(event.data as ArrayBuffer);
    bytes += data.length;
    const message = decodeFrame(data);
    if (message.body.seq !== undefined) seqs.push(message.body.seq);
    if (options.decode !== false) messages.push(message);
  };
  socket.onclose = (event) => {
    closed = { code: event.code, reason: event.reason };
  };
  return {
    socket,
    messages,
    seqs,
    get bytes() {
      return bytes;
    },
    get closed() {
      return closed;
    },
  };
};

/** An edge on a real server with real sockets. */
export const startEdge = (options: FirehoseEdgeOptions) => {
  const edge = createFirehoseEdge({
    ...options,
    limits: { flushIntervalMs: 2, maintenanceIntervalMs: 10, ...options.limits },
  });
  const server = startServer({
    host: '127.0.0.1',
    port: 0,
    app: { fetch: () => new Response('not here', { status: 404 }) },
    edges: { [PATH]: edge },
  });
  return { edge, server, url: server.url };
};

/** Offers subprotocols, and gives the headers that the upgrade is answered with; fails when it is no upgrade. */
export const handshake = (url: string, path: string, offered: readonly string[]): Promise<Headers> =>
  new Promise((resolve, reject) => {
    const { hostname, port, host } = new URL(url);
    const head = [
      `GET ${path} HTTP/1.1`,
      `Host: ${host}`,
      'Connection: Upgrade',
      'Upgrade: websocket',
      'Sec-WebSocket-Version: 13',
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
      ...offered.map((protocols) => `Sec-WebSocket-Protocol: ${protocols}`),
    ];
    let answer = '';
    const socket = createConnection({ port: Number(port), host: hostname }, () =>
      socket.write(`${head.join('\r\n')}\r\n\r\n`),
    );
    socket.on('error', reject);
    socket.on('data', (bytes) => {
      answer += bytes;
      const end = answer.indexOf('\r\n\r\n');
      if (end < 0) return;
      socket.destroy();
      const [status, ...lines] = answer.slice(0, end).split('\r\n');
      if (status!.includes(' 101 '))
        resolve(new Headers(lines.map((line) => line.split(': ', 2) as [string, string])));
      else reject(new Error(status));
    });
  });

/** first, first + 1, … last. */
export const range = (first: number, last: number): number[] =>
  Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index);
