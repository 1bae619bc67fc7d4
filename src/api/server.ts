/**
 * The one listener of the public side. It owns the Bun server: routes of an edge are upgraded by that edge, all
 * other requests go to the hono app. Every answer, the upgrade's included, carries the Server and CORS headers; but
 * for what Bun refuses before anybody is asked, with no more than a status: a head that is no HTTP (400, 505) or is
 * longer than 16 KiB (431), a body of more than 2^53 bytes (413).
 */
import type { Server } from 'bun';
import { SOCKET_QUEUE_LIMIT_BYTES } from './edge/limits.ts';
import { remoteAddressOf } from './remote-address.ts';
import type { Edge, EdgeSocketData } from './types.ts';
import { SERVER_HEADER } from './version.ts';

/** Consumers have nothing to tell us, unless their edge says otherwise; more closes the socket with 1009. */
export const MAX_CLIENT_MESSAGE_BYTES = 64 * 1024;

/**
 * What Bun takes of one message before it closes the socket by itself, on any path: Bun has one bound for all
 * sockets. An edge may let its consumers send this much; those of other edges are closed as soon as their message is
 * whole. Just above the 10,000,000 bytes of a message that Jetstream must receive in order to ignore what is longer:
 * Bun holds all of what is not whole.
 */
export const MAX_RECEIVED_MESSAGE_BYTES = 10 * 1024 * 1024;

/**
 * No bound, or Bun would answer 413 without our headers: the app has one of its own. What nobody reads of a body, Bun
 * takes from the socket and keeps nothing of it.
 */
const MAX_SERVER_BODY_BYTES = Number.MAX_SAFE_INTEGER;

/** A requestCrawl answers when the host has been looked at, which may take a while. */
export const IDLE_TIMEOUT_SECONDS = 60;

export interface ServerOptions {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  /** Answers everything that no edge does. The second argument is what it gets as `c.env`. */
  readonly app: { fetch(request: Request, env: RequestEnvironment): Response | Promise<Response> };
  /** Path → edge. */
  readonly edges: Readonly<Record<string, Edge>>;
  /** Told about what should not happen in an edge; the caller gets a 500. The app tells of its own. */
  readonly onError?: (error: unknown) => void;
}

/** What the app is told beside the request. */
export interface RequestEnvironment {
  /** As limits see it: behind a local proxy, the forwarded one. */
  readonly remoteAddress: string;
}

export interface RunningServer {
  readonly port: number;
  readonly hostname: string;
  readonly url: string;
  /** Says goodbye to all consumers, then closes the listener. */
  close(): Promise<void>;
}

/**
 * The request with a whole URL; null when its Host is none. Without a Host, as health checks send it, there is no
 * more than a path: that is meant for whoever listens here.
 */
const withOrigin = (request: Request, origin: string): Request | null => {
  if (URL.canParse(request.url)) return request;
  return request.headers.get('host') ? null : new Request(origin + request.url, request);
};

const decorate = (response: Response): Response => {
  response.headers.set('server', SERVER_HEADER);
  response.headers.set('access-control-allow-origin', '*');
  return response;
};

const failure = (status: number, error: string, message: string): Response =>
  decorate(Response.json({ error, message }, { status }));

/** Whether a message has more bytes than that, as UTF-8 if it is text. */
const isLonger = (message: string | Uint8Array, bytes: number): boolean => {
  if (message.length > bytes) return true;
  // A UTF-16 unit makes three bytes at most.
  return typeof message === 'string' && message.length * 3 > bytes && Buffer.byteLength(message) > bytes;
};

/**
 * Starts listening. Throws when the address is taken or not ours.
 */
export const startServer = (options: ServerOptions): RunningServer => {
  const { app, edges, onError = (error: unknown) => console.error('a request failed:', error) } = options;
  const upgradeHeaders = {
    server: SERVER_HEADER,
    'access-control-allow-origin': '*',
    // Left to itself, Bun agrees to the first subprotocol that is offered, whatever it is.
    'sec-websocket-protocol': '',
  };
  const paths = new Map(Object.entries(edges));

  const server: Server<EdgeSocketData> = Bun.serve<EdgeSocketData>({
    hostname: options.host,
    port: options.port,
    maxRequestBodySize: MAX_SERVER_BODY_BYTES,
    idleTimeout: IDLE_TIMEOUT_SECONDS,
    development: false,
    async fetch(received, self) {
      const remoteAddress = remoteAddressOf(self.requestIP(received)?.address ?? '', received.headers);
      const request = withOrigin(received, self.url.origin);
      if (request === null) return failure(400, 'InvalidRequest', 'the Host header names no host');
      const start = request.url.indexOf('/', request.url.indexOf('://') + 3);
      const query = request.url.indexOf('?', start);
      const edge = paths.get(request.url.slice(start, query < 0 ? undefined : query));
      // A preflight is the app's to answer, wherever it goes.
      if (edge !== undefined && request.method !== 'OPTIONS') {
        const refused = edge.upgrade(request, self, { remoteAddress, headers: upgradeHeaders });
        return refused === undefined ? undefined : decorate(refused);
      }
      return decorate(await app.fetch(request, { remoteAddress }));
    },
    error(error) {
      onError(error);
      return failure(500, 'InternalServerError', 'the request failed; it is not your fault');
    },
    websocket: {
      // The edges ping by themselves and judge by progress.
      idleTimeout: 0,
      sendPings: false,
      perMessageDeflate: false,
      backpressureLimit: SOCKET_QUEUE_LIMIT_BYTES,
      closeOnBackpressureLimit: false,
      maxPayloadLength: MAX_RECEIVED_MESSAGE_BYTES,
      open: (socket) => socket.data.handlers.open(socket),
      message(socket, message) {
        const { handlers, maxMessageBytes = MAX_CLIENT_MESSAGE_BYTES } = socket.data;
        if (isLonger(message, maxMessageBytes)) socket.close(1009, 'the message is too long');
        else handlers.message(socket, message);
      },
      drain: (socket) => socket.data.handlers.drain(socket),
      close: (socket, code, reason) => socket.data.handlers.close(socket, code, reason),
      pong: (socket) => socket.data.handlers.pong(socket),
    },
  });

  const hostname = server.hostname ?? options.host;
  const port = server.port ?? options.port;
  return {
    port,
    hostname,
    url: `http://${hostname.includes(':') ? `[${hostname}]` : hostname}:${port}`,
    async close() {
      await Promise.all(Array.from(new Set(paths.values()), (edge) => edge.close()));
      await server.stop(true);
    },
  };
};
