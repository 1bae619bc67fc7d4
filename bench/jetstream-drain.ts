/**
 * Jetstream clients in their own process: plain TCP sockets that count what they get, and a few real WebSockets
 * ("probes") that look into every message. Told by lines on stdin.
 */
import { percentile } from './machine.ts';
import { onMessages, say } from './processes.ts';

interface Clients {
  /** http://HOST:PORT */
  readonly url: string;
  readonly path: string;
  readonly headers?: Record<string, string>;
  readonly count: number;
  readonly probes: number;
  /** Messages sent by each client when it is open. */
  readonly hellos?: readonly string[];
}

const OPCODE_PING = 9;
const PONG = new Uint8Array([0x8a, 0x80, 0, 0, 0, 0]);
const HEAD_END = Buffer.from('\r\n\r\n');

let messages = 0;
let bytes = 0;
let target = Number.POSITIVE_INFINITY;
let probeMessages = 0;
let disorder = 0;
const latencies: number[] = [];
let timed = false;
let closed = 0;

const check = (): void => {
  if (messages < target) return;
  target = Number.POSITIVE_INFINITY;
  say({ reached: { messages, bytes, atMs: Date.now() } });
};

/** A client message (RFC 6455, section 5.2), masked by zeros. */
const clientMessage = (text: string): Uint8Array => {
  const body = Buffer.from(text);
  const head =
    body.length < 126
      ? Buffer.from([0x81, 0x80 | body.length])
      : body.length < 65_536
        ? Buffer.from([0x81, 0xfe, body.length >> 8, body.length & 255])
        : Buffer.from([
            ...[0x81, 0xff, 0, 0, 0, 0],
            ...[body.length >>> 24, (body.length >> 16) & 255, (body.length >> 8) & 255, body.length & 255],
          ]);
  return Buffer.concat([head, Buffer.alloc(4), body]);
};

/** Counts messages of one socket without looking into them. */
const connectCounter = async (clients: Clients, hello: string | undefined): Promise<void> => {
  const { hostname, port } = new URL(clients.url);
  const opened = Promise.withResolvers<void>();
  let isOpen = false;
  let rest: Uint8Array = new Uint8Array();
  let skip = 0;
  const headers = Object.entries(clients.headers ?? {})
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('');
  await Bun.connect({
    hostname,
    port: Number(port),
    socket: {
      open: (socket) =>
        void socket.write(
          `GET ${clients.path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
            `Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n${headers}\r\n`,
        ),
      data(socket, chunk) {
        let data: Uint8Array = chunk;
        if (!isOpen) {
          data = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
          const end = Buffer.from(data.buffer, data.byteOffset, data.length).indexOf(HEAD_END);
          if (end < 0) {
            rest = data.slice();
            return;
          }
          rest = new Uint8Array();
          if (!Buffer.from(data.subarray(0, 12)).equals(Buffer.from('HTTP/1.1 101')))
            opened.reject(new Error(Buffer.from(data.subarray(0, 200)).toString('latin1')));
          isOpen = true;
          if (hello !== undefined) socket.write(clientMessage(hello));
          opened.resolve();
          data = data.subarray(end + HEAD_END.length);
        }
        bytes += data.length;
        let at = 0;
        if (rest.length > 0) {
          data = Buffer.concat([rest, data]);
          rest = new Uint8Array();
        }
        for (;;) {
          if (skip > 0) {
            const taken = Math.min(skip, data.length - at);
            skip -= taken;
            at += taken;
          }
          const left = data.length - at;
          if (left < 2) break;
          let length = data[at + 1]! & 0x7f;
          const head = length < 126 ? 2 : length === 126 ? 4 : 10;
          if (left < head) break;
          if (length === 126) length = (data[at + 2]! << 8) | data[at + 3]!;
          else if (length === 127)
            length = new DataView(data.buffer, data.byteOffset + at + 6, 4).getUint32(0);
          if ((data[at]! & 0x0f) === OPCODE_PING) socket.write(PONG);
          else messages++;
          at += head;
          skip = length;
        }
        if (at < data.length) rest = data.slice(at);
        check();
      },
      close: () => {
        closed++;
      },
      error: () => {},
    },
  });
  await opened.promise;
};

const TIME = '"time_us":';

const connectProbe = (clients: Clients, hello: string | undefined): Promise<void> =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(`${clients.url.replace('http', 'ws')}${clients.path}`, {
      headers: clients.headers ?? {},
    });
    socket.binaryType = 'arraybuffer';
    let last = 0;
    socket.onopen = () => {
      if (hello !== undefined) socket.send(hello);
      resolve();
    };
    socket.onerror = () => reject(new Error('a probe could not connect'));
    socket.onclose = () => {
      closed++;
    };
    socket.onmessage = ({ data }) => {
      messages++;
      probeMessages++;
      const text =
        typeof data === 'string'
          ? data
          : new TextDecoder().decode(Bun.zstdDecompressSync(new Uint8Array(data as ArrayBuffer)));
      const at = text.indexOf(TIME) + TIME.length;
      const timeUs = Number(text.slice(at, at + 16));
      if (timeUs <= last) disorder++;
      last = timeUs;
      if (timed) latencies.push(performance.timeOrigin + performance.now() - timeUs / 1000);
      check();
    };
  });

process.on('SIGTERM', () => process.exit(0));
say({ ready: {} });
await onMessages(async (message) => {
  switch (message.do) {
    case 'connect': {
      const clients = message.clients as Clients;
      for (let index = 0; index < clients.count; index++) {
        const hello = clients.hellos?.[index % clients.hellos.length];
        if (index < clients.probes) await connectProbe(clients, hello);
        else await connectCounter(clients, hello);
      }
      say({ connected: clients.count });
      break;
    }
    case 'until':
      target = message.messages as number;
      check();
      break;
    case 'clear':
      messages = 0;
      bytes = 0;
      probeMessages = 0;
      disorder = 0;
      latencies.length = 0;
      timed = true;
      say({ cleared: {} });
      break;
    case 'report':
      say({
        report: {
          messages,
          bytes,
          probeMessages,
          disorder,
          closed,
          p50: percentile(latencies, 0.5),
          p99: percentile(latencies, 0.99),
        },
      });
      break;
  }
});
process.exit(0);
