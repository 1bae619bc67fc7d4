/**
 * The client's side of the WebSocket protocol as a subscription needs it: the opening handshake as text, the
 * messages in what a socket reads, the control frames it answers with. Pure: no sockets, no timers, no randomness.
 *
 * A socket of a library costs four times the memory and a multiple of the work per message: with thousands of hosts
 * that is most of what a relay spends beside verifying.
 *
 * Promises: nothing is handed on twice, out of order or in part; what is not the protocol ends the connection with
 * the code that the protocol has for it; memory per connection is bounded by the largest message allowed, and grows
 * only with bytes that did arrive. Extensions are never offered, so never accepted.
 * Source: RFC 6455, sections 4.1, 4.2.2, 5 and 7.4.
 */

import { giveBack } from '../network/give-back.ts';

/** Status line and headers of an answer: servers send some hundred bytes. */
export const MAX_HANDSHAKE_BYTES = 16 * 1024;
/** RFC 6455, section 5.5. */
const MAX_CONTROL_BYTES = 125;
/** A message that comes in several reads begins with this much memory, and gets more as it comes. */
const FIRST_PART_BYTES = 64 * 1024;
const ACCEPT_GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

const CONTINUATION = 0x0;
const TEXT = 0x1;
const BINARY = 0x2;
const CLOSE = 0x8;
const PING = 0x9;
const PONG = 0xa;

/** The codes of RFC 6455, section 7.4.1, that we end connections with or report. */
export const CLOSE_CODE = { protocolError: 1002, noStatus: 1005, abnormal: 1006, tooLarge: 1009 } as const;

const NO_BYTES = new Uint8Array(0);

/** `key`: 16 random bytes in base64. The header values must not hold line breaks. */
export const handshakeRequest = (request: {
  readonly host: string;
  readonly path: string;
  readonly userAgent: string;
  readonly key: string;
}): string =>
  `GET ${request.path} HTTP/1.1\r\nHost: ${request.host}\r\nUser-Agent: ${request.userAgent}\r\n` +
  `Upgrade: websocket\r\nConnection: Upgrade\r\n` +
  `Sec-WebSocket-Key: ${request.key}\r\nSec-WebSocket-Version: 13\r\n\r\n`;

export type HandshakeAnswer =
  /** `rest`: where in `bytes` the first frame begins. */
  | { readonly kind: 'open'; readonly server: string; readonly rest: number }
  | { readonly kind: 'status'; readonly status: number; readonly retryAfter: string | undefined }
  | { readonly kind: 'invalid'; readonly detail: string }
  /** Not all of it is here. */
  | { readonly kind: 'more' };

const invalid = (detail: string): HandshakeAnswer => ({ kind: 'invalid', detail });

/** Index of the empty line's first byte, that is of "\r\n\r\n"; −1: not there. */
const endOfHead = (bytes: Uint8Array, from: number): number => {
  for (let at = bytes.indexOf(13, from); at !== -1; at = bytes.indexOf(13, at + 1))
    if (bytes[at + 1] === 10 && bytes[at + 2] === 13 && bytes[at + 3] === 10) return at;
  return -1;
};

/** What the server answered so far, from its first byte; `key` as it was sent. */
export const readHandshake = (bytes: Uint8Array, key: string): HandshakeAnswer => {
  for (let from = 0; ; ) {
    const end = endOfHead(bytes, from);
    if (end === -1 || end > MAX_HANDSHAKE_BYTES)
      return bytes.length > MAX_HANDSHAKE_BYTES ? invalid('its headers do not end') : { kind: 'more' };
    const head = Buffer.from(bytes.buffer, bytes.byteOffset + from, end - from).toString('latin1');
    const lines = head.split('\r\n');
    const status = Number(/^HTTP\/1\.\d (\d{3})(?: |$)/.exec(lines[0]!)?.[1] ?? 0);
    if (status === 0) return invalid('its answer is not HTTP');
    from = end + 4;
    // Interim answers say nothing of the one to come (RFC 9110, section 15.2).
    if (status < 200 && status !== 101) continue;
    const headers = new Map<string, string>();
    for (let index = 1; index < lines.length; index++) {
      const line = lines[index]!;
      const colon = line.indexOf(':');
      if (colon <= 0) return invalid('a header without a name');
      const name = line.slice(0, colon).toLowerCase();
      const value = line.slice(colon + 1).trim();
      const before = headers.get(name);
      headers.set(name, before === undefined ? value : `${before}, ${value}`);
    }
    if (status !== 101) return { kind: 'status', status, retryAfter: headers.get('retry-after') };
    if (headers.get('upgrade')?.toLowerCase() !== 'websocket')
      return invalid('it does not upgrade to a WebSocket');
    if (!/(?:^|,)\s*upgrade\s*(?:,|$)/i.test(headers.get('connection') ?? ''))
      return invalid('its answer has no Connection: Upgrade');
    const accept = new Bun.CryptoHasher('sha1').update(key + ACCEPT_GUID).digest('base64');
    if (headers.get('sec-websocket-accept') !== accept) return invalid('its Sec-WebSocket-Accept is wrong');
    if (headers.has('sec-websocket-extensions') || headers.has('sec-websocket-protocol'))
      return invalid('it chose an extension or protocol that was not offered');
    return { kind: 'open', server: headers.get('server') ?? '', rest: from };
  }
};

/** A whole control frame of a client. `mask`: four random bytes; the payload has at most 125. */
export const controlFrame = (
  kind: 'ping' | 'pong' | 'close',
  payload: Uint8Array,
  mask: Uint8Array,
): Uint8Array => {
  const frame = new Uint8Array(6 + payload.length);
  frame[0] = 0x80 | (kind === 'ping' ? PING : kind === 'pong' ? PONG : CLOSE);
  frame[1] = 0x80 | payload.length;
  frame.set(mask, 2);
  for (let index = 0; index < payload.length; index++) frame[6 + index] = payload[index]! ^ mask[index & 3]!;
  return frame;
};

/** Why a connection has to end, or ended, by the words of the protocol. */
export interface CloseFrame {
  readonly code: number;
  /** From outside. */
  readonly reason: string;
}

/** Who gets the messages. Called in the order of their arrival, from within `read`. */
export interface MessageSink {
  /** Its own from now on; keeps at most about twice its size alive. */
  binary(bytes: Uint8Array): void;
  text(): void;
  /** A ping, with its payload to be sent back. */
  ping(payload: Uint8Array): void;
  pong(): void;
  /** True: it wants nothing more. */
  readonly done: boolean;
}

/** Bytes [from, to) as what may be kept: the memory they lie in when they are most of it, else a copy. */
const keep = (bytes: Uint8Array, from: number, to: number): Uint8Array =>
  (to - from) * 2 >= bytes.buffer.byteLength
    ? new Uint8Array(bytes.buffer, bytes.byteOffset + from, to - from)
    : new Uint8Array(bytes.subarray(from, to));

const failure = (detail: string): CloseFrame => ({ code: CLOSE_CODE.protocolError, reason: detail });

/** Reads one connection's frames, however they are cut into reads. */
export class MessageReader {
  readonly #maxBytes: number;
  /** Bytes of a frame head that is not all here. */
  #head: Uint8Array | null = null;
  /** The payload of a frame that is not all here: its memory, how much is there, and how much there will be. */
  #part: Uint8Array = NO_BYTES;
  #partBytes = 0;
  #wantedBytes = 0;
  #opcode = 0;
  #final = false;
  /** Of the message whose fragments come: TEXT, BINARY, or 0. */
  #message = 0;
  /** The payloads of its fragments so far. Of a text only the size counts. */
  #fragments: Uint8Array = NO_BYTES;
  #messageBytes = 0;
  /** Memory that a message of the present read lies in: its receiver's. */
  #handedOn: ArrayBufferLike | null = null;

  /** `maxBytes`: of one message. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /**
   * Takes the next bytes, which are its own from now on. Returns how the connection ends: by the server's close
   * frame or for what is wrong; null while it goes on.
   */
  read(chunk: Uint8Array, sink: MessageSink): CloseFrame | null {
    let bytes = chunk;
    if (this.#head !== null) {
      bytes = new Uint8Array(this.#head.length + chunk.length);
      bytes.set(this.#head);
      bytes.set(chunk, this.#head.length);
      this.#head = null;
      giveBack(chunk);
    }
    const end = this.#readAll(bytes, sink);
    if (this.#handedOn !== bytes.buffer) giveBack(bytes);
    this.#handedOn = null;
    return end;
  }

  #readAll(bytes: Uint8Array, sink: MessageSink): CloseFrame | null {
    let at = 0;
    while (at < bytes.length && !sink.done) {
      if (this.#wantedBytes > 0) {
        const until = Math.min(bytes.length, at + this.#wantedBytes - this.#partBytes);
        this.#grow(this.#partBytes + until - at);
        this.#part.set(
          at === 0 && until === bytes.length ? bytes : bytes.subarray(at, until),
          this.#partBytes,
        );
        this.#partBytes += until - at;
        at = until;
        if (this.#partBytes < this.#wantedBytes) return null;
        const payload = this.#part;
        this.#part = NO_BYTES;
        this.#partBytes = 0;
        this.#wantedBytes = 0;
        const end = this.#frame(payload, 0, payload.length, sink);
        if (end !== null) return end;
        continue;
      }

      const left = bytes.length - at;
      const second = bytes[at + 1]!;
      const headBytes = left < 2 ? 2 : (second & 127) === 126 ? 4 : (second & 127) === 127 ? 10 : 2;
      if (left < headBytes) {
        this.#head = bytes.slice(at);
        return null;
      }
      const first = bytes[at]!;
      const opcode = first & 15;
      const final = first >= 128;
      if ((first & 0x70) !== 0) return failure('reserved bits are set');
      if (second >= 128) return failure('a masked frame');
      let length = second;
      if (second === 126) {
        length = bytes[at + 2]! * 256 + bytes[at + 3]!;
        if (length < 126) return failure('a length in more bytes than it needs');
      } else if (second === 127) {
        length = 0;
        for (let index = 2; index < 10; index++) length = length * 256 + bytes[at + index]!;
        if (length < 65_536) return failure('a length in more bytes than it needs');
      }
      if (opcode >= CLOSE) {
        if (opcode > PONG) return failure('an unknown opcode');
        if (!final || length > MAX_CONTROL_BYTES) return failure('a control frame in parts or too long');
      } else {
        if (opcode > BINARY) return failure('an unknown opcode');
        if ((opcode === CONTINUATION) !== (this.#message !== 0)) return failure('fragments out of order');
        if (this.#messageBytes + length > this.#maxBytes)
          return { code: CLOSE_CODE.tooLarge, reason: `a frame over ${this.#maxBytes} bytes` };
      }
      at += headBytes;
      this.#opcode = opcode;
      this.#final = final;
      if (length > bytes.length - at) {
        this.#wantedBytes = length;
        continue;
      }
      const end = this.#frame(bytes, at, at + length, sink);
      if (end !== null) return end;
      at += length;
    }
    return null;
  }

  /** A whole frame, its payload in bytes [from, to). */
  #frame(bytes: Uint8Array, from: number, to: number, sink: MessageSink): CloseFrame | null {
    switch (this.#opcode) {
      case PING:
        sink.ping(bytes.slice(from, to));
        return null;
      case PONG:
        sink.pong();
        return null;
      case CLOSE:
        return closeFrame(bytes.subarray(from, to));
      case BINARY:
        if (this.#final) {
          const message = keep(bytes, from, to);
          if (message.buffer === bytes.buffer) this.#handedOn = bytes.buffer;
          sink.binary(message);
          return null;
        }
        break;
      case TEXT:
        if (this.#final) {
          sink.text();
          return null;
        }
        break;
    }
    if (this.#opcode !== CONTINUATION) this.#message = this.#opcode;
    const isBinary = this.#message === BINARY;
    if (isBinary) this.#append(bytes, from, to);
    this.#messageBytes += to - from;
    if (!this.#final) return null;
    const message = this.#fragments.subarray(0, this.#messageBytes);
    this.#message = 0;
    this.#fragments = NO_BYTES;
    this.#messageBytes = 0;
    if (isBinary) sink.binary(message);
    else sink.text();
    return null;
  }

  /** Room for the payload so far: never more than twice what has come, and in the end exactly its size. */
  #grow(bytes: number): void {
    if (bytes <= this.#part.length) return;
    const grown = new Uint8Array(Math.min(this.#wantedBytes, Math.max(FIRST_PART_BYTES, 2 * bytes)));
    grown.set(this.#part.subarray(0, this.#partBytes));
    this.#part = grown;
  }

  #append(bytes: Uint8Array, from: number, to: number): void {
    const total = this.#messageBytes + to - from;
    if (total > this.#fragments.length) {
      const grown = new Uint8Array(Math.min(this.#maxBytes, 2 * total));
      grown.set(this.#fragments.subarray(0, this.#messageBytes));
      this.#fragments = grown;
    }
    this.#fragments.set(bytes.subarray(from, to), this.#messageBytes);
  }
}

/** The server's close frame by its payload. */
const closeFrame = (payload: Uint8Array): CloseFrame => {
  if (payload.length === 0) return { code: CLOSE_CODE.noStatus, reason: '' };
  if (payload.length === 1) return failure('a close frame of one byte');
  return {
    code: payload[0]! * 256 + payload[1]!,
    reason: new TextDecoder().decode(payload.subarray(2)),
  };
};
