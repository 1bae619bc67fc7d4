/**
 * The cheapest firehose client there can be: a TCP socket and a reader of WebSocket frames (RFC 6455, section 5.2),
 * so that what is measured is the relay and not its consumers.
 */
import type { Socket } from 'bun';

const PATH = '/xrpc/com.atproto.sync.subscribeRepos';
const OPCODE_BINARY = 2;
const OPCODE_CLOSE = 8;
const OPCODE_PING = 9;
/** A pong without content, masked by zeros. */
const PONG = new Uint8Array([0x8a, 0x80, 0, 0, 0, 0]);
const HEAD_END = Buffer.from('\r\n\r\n');

export interface FirehoseClient {
  readonly counters: { frames: number; bytes: number };
  /** Resolves when the connection is gone. */
  readonly closed: Promise<void>;
  /** Stops reading, so that the server's buffers fill. */
  pause(): void;
  resume(): void;
  end(): void;
}

export interface FirehoseClientOptions {
  /** http://HOST:PORT */
  readonly url: string;
  readonly cursor?: number;
  /** Gets each whole frame, valid during the call. Without it frames are only counted. */
  readonly onFrame?: (frame: Uint8Array) => void;
  /** Called after each read, with the counters brought up to date. */
  readonly onRead?: () => void;
}

/** Resolves when the server has taken the upgrade. Rejects when it has not. */
export const connectFirehose = async (options: FirehoseClientOptions): Promise<FirehoseClient> => {
  const { hostname, port } = new URL(options.url);
  const { onFrame, onRead } = options;
  const query = options.cursor === undefined ? '' : `?cursor=${options.cursor}`;
  const counters = { frames: 0, bytes: 0 };
  const opened = Promise.withResolvers<void>();
  const closed = Promise.withResolvers<void>();
  let isOpen = false;
  /** What came last and is not a whole head, or with `onFrame` not a whole frame. */
  let rest: Uint8Array = new Uint8Array();
  /** Bytes of the frame under way that are still to come and only counted. */
  let skip = 0;

  const read = (socket: Socket<undefined>, data: Uint8Array): void => {
    let at = 0;
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
      else if (length === 127) length = new DataView(data.buffer, data.byteOffset + at + 6, 4).getUint32(0);
      const opcode = data[at]! & 0x0f;
      if (onFrame !== undefined && left < head + length) break;
      at += head;
      if (opcode === OPCODE_BINARY) {
        counters.frames++;
        counters.bytes += length;
        onFrame?.(data.subarray(at, at + length));
      } else if (opcode === OPCODE_PING) socket.write(PONG);
      else if (opcode === OPCODE_CLOSE) socket.end();
      skip = length;
    }
    rest = at < data.length ? data.slice(at) : new Uint8Array();
  };

  const socket = await Bun.connect({
    hostname,
    port: Number(port),
    socket: {
      open(socket) {
        socket.write(
          `GET ${PATH}${query} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
            'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUser-Agent: weir-bench\r\n\r\n',
        );
      },
      data(socket, chunk) {
        let data: Uint8Array = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
        if (!isOpen) {
          const end = Buffer.from(data.buffer, data.byteOffset, data.length).indexOf(HEAD_END);
          if (end < 0) {
            rest = data.slice();
            return;
          }
          const status = Buffer.from(data.subarray(0, 12)).toString('latin1');
          if (status !== 'HTTP/1.1 101') opened.reject(new Error(`the relay answered ${status}`));
          isOpen = true;
          opened.resolve();
          data = data.subarray(end + HEAD_END.length);
        }
        read(socket, data);
        onRead?.();
      },
      close() {
        opened.reject(new Error('the relay closed the connection'));
        closed.resolve();
      },
    },
  });
  await opened.promise;
  return {
    counters,
    closed: closed.promise,
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    end: () => socket.end(),
  };
};
