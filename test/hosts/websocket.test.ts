import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  type CloseFrame,
  controlFrame,
  handshakeRequest,
  MAX_HANDSHAKE_BYTES,
  MessageReader,
  readHandshake,
} from '../../src/hosts/websocket.ts';

const MAX_BYTES = 200_000;

const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

const concat = (parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));

/** A frame as a server sends it. */
const frame = (opcode: number, payload: Uint8Array, { final = true, masked = false, bits = 0 } = {}) => {
  const { length } = payload;
  const head =
    length < 126
      ? [length]
      : length < 65_536
        ? [126, length >> 8, length & 255]
        : [127, 0, 0, 0, 0, length / 2 ** 24, (length >> 16) & 255, (length >> 8) & 255, length & 255];
  head[0]! |= masked ? 128 : 0;
  return concat([Uint8Array.of((final ? 128 : 0) | bits | opcode, ...head), payload]);
};
const BINARY = 2;
const TEXT = 1;
const CONTINUATION = 0;

/** What a reader makes of these reads. */
const read = (reads: readonly Uint8Array[], maxBytes = MAX_BYTES, stopAfter = Number.POSITIVE_INFINITY) => {
  const said: string[] = [];
  const messages: Uint8Array[] = [];
  const sink = {
    get done() {
      return said.length >= stopAfter;
    },
    binary: (bytes: Uint8Array) => {
      messages.push(bytes);
      said.push(`binary ${hex(bytes)}`);
    },
    text: () => void said.push('text'),
    ping: (payload: Uint8Array) => void said.push(`ping ${hex(payload)}`),
    pong: () => void said.push('pong'),
  };
  const reader = new MessageReader(maxBytes);
  let end: CloseFrame | null = null;
  for (const bytes of reads) {
    end = reader.read(bytes.slice(), sink);
    if (end !== null) break;
  }
  // Nothing that was handed on is touched by what comes after it.
  expect(messages.map((message) => `binary ${hex(message)}`)).toEqual(
    said.filter((each) => each.startsWith('binary ')),
  );
  return { said, messages, end };
};

/** `bytes` in pieces of these lengths, again and again. */
const cut = (bytes: Uint8Array, lengths: readonly number[]): Uint8Array[] => {
  const pieces: Uint8Array[] = [];
  for (let at = 0, index = 0; at < bytes.length; index++) {
    const length = lengths[index % lengths.length]!;
    pieces.push(bytes.slice(at, at + length));
    at += length;
  }
  return pieces;
};

/** A message, whole or in fragments, between control frames. */
const arbitraryPart = fc.oneof(
  fc.record({
    kind: fc.constantFrom('binary' as const, 'text' as const),
    payloads: fc.array(
      fc.oneof(
        fc.uint8Array({ maxLength: 140 }),
        fc.integer({ min: 0, max: 70_000 }).map((length) => new Uint8Array(length).fill(length)),
      ),
      { minLength: 1, maxLength: 4 },
    ),
    between: fc.option(fc.uint8Array({ maxLength: 125 })),
  }),
  fc.record({
    kind: fc.constantFrom('ping' as const, 'pong' as const),
    payload: fc.uint8Array({ maxLength: 125 }),
  }),
);

describe('the messages of a connection', () => {
  test('come out whole and in order, however they are fragmented and however the reads cut them', () => {
    fc.assert(
      fc.property(
        fc.array(arbitraryPart, { maxLength: 6 }),
        fc.array(fc.oneof(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 90_000 })), {
          minLength: 1,
          maxLength: 5,
        }),
        (parts, lengths) => {
          const bytes: Uint8Array[] = [];
          const expected: string[] = [];
          for (const part of parts) {
            if ('payload' in part) {
              bytes.push(frame(part.kind === 'ping' ? 9 : 10, part.payload));
              expected.push(part.kind === 'ping' ? `ping ${hex(part.payload)}` : 'pong');
              continue;
            }
            part.payloads.forEach((payload, index) => {
              const final = index === part.payloads.length - 1;
              const opcode = index > 0 ? CONTINUATION : part.kind === 'binary' ? BINARY : TEXT;
              bytes.push(frame(opcode, payload, { final }));
              if (final || part.between === null) return;
              bytes.push(frame(9, part.between));
              expected.push(`ping ${hex(part.between)}`);
            });
            expected.push(part.kind === 'text' ? 'text' : `binary ${hex(Buffer.concat(part.payloads))}`);
          }
          const { said, end } = read(cut(concat(bytes), lengths), 400_000);
          expect(end).toBeNull();
          expect(said).toEqual(expected);
        },
      ),
      { numRuns: 150 },
    );
  });

  test('keep at most about twice their size alive', () => {
    const small = frame(BINARY, new Uint8Array(900));
    const large = frame(BINARY, new Uint8Array(100_000));
    for (const reads of [
      [small],
      [concat([small, small, small])],
      [concat([small, large])],
      cut(large, [999]),
    ])
      for (const message of read(reads).messages)
        expect(message.buffer.byteLength).toBeLessThanOrEqual(2 * message.byteLength + 64);
  });

  test('leave the memory they lie in to their receiver, and give back at once what nobody was given', () => {
    const large = frame(BINARY, new Uint8Array(10_000));
    const small = frame(BINARY, new Uint8Array(2_000));
    const reader = new MessageReader(MAX_BYTES);
    const isHeld = (bytes: Uint8Array): boolean => {
      const chunk = bytes.slice();
      reader.read(chunk, { done: false, binary() {}, text() {}, ping() {}, pong() {} });
      return chunk.byteLength > 0;
    };
    expect(isHeld(large)).toBe(true);
    expect(isHeld(concat([small, large, small]))).toBe(true);
    expect(isHeld(concat([small, small, small]))).toBe(false);
    // A head that is cut, after frames; then what begins with the rest of it, and the last of the payload.
    expect(isHeld(concat([small, small, small, large.subarray(0, 3)]))).toBe(false);
    expect(isHeld(large.subarray(3, 5_000))).toBe(false);
    expect(isHeld(large.subarray(5_000))).toBe(false);
  });

  test('do not take the memory that a read has in common with other bytes', () => {
    const all = concat([new Uint8Array(10_000), frame(BINARY, new Uint8Array(2_000))]);
    new MessageReader(MAX_BYTES).read(all.subarray(10_000), {
      done: false,
      binary() {},
      text() {},
      ping() {},
      pong() {},
    });
    expect(all.length).toBe(12_004);
  });

  test('are of up to the allowed size, in one frame or in fragments', () => {
    const half = new Uint8Array(600);
    const fragments = (last: number) => [
      frame(BINARY, half, { final: false }),
      frame(CONTINUATION, new Uint8Array(last)),
    ];
    expect(read([frame(BINARY, new Uint8Array(1_000))], 1_000).messages.length).toBe(1);
    expect(read([frame(BINARY, new Uint8Array(1_001))], 1_000).end?.code).toBe(1009);
    expect(read(fragments(400), 1_000).messages[0]!.length).toBe(1_000);
    expect(read(fragments(401), 1_000).end?.code).toBe(1009);
  });

  test('of an announced size cost no memory before they come', () => {
    const before = process.memoryUsage().arrayBuffers;
    const sink = { done: false, binary() {}, text() {}, ping() {}, pong() {} };
    const readers = Array.from({ length: 100 }, () => {
      const reader = new MessageReader(8_000_000);
      reader.read(Uint8Array.of(0x82, 127, 0, 0, 0, 0, 0, 0x70, 0, 0, 1), sink);
      return reader;
    });
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(readers.length * 100_000);
  });

  test('stop when the receiver wants no more', () => {
    const bytes = concat([frame(BINARY, ascii('a')), frame(BINARY, ascii('b')), frame(TEXT, ascii('c'))]);
    expect(read([bytes], MAX_BYTES, 1).said).toEqual(['binary 61']);
  });

  test('that break the protocol end the connection with its code for it', () => {
    const breaks: Record<string, Uint8Array> = {
      'reserved bits': frame(BINARY, ascii('x'), { bits: 0x40 }),
      'a mask': frame(BINARY, ascii('xxxx'), { masked: true }),
      'an unknown opcode': frame(3, ascii('x')),
      'an unknown control opcode': frame(11, ascii('x')),
      'a ping in fragments': frame(9, ascii('x'), { final: false }),
      'a ping too long': frame(9, new Uint8Array(126)),
      'a fragment of nothing': frame(CONTINUATION, ascii('x')),
      'a message within a message': concat([
        frame(BINARY, ascii('x'), { final: false }),
        frame(BINARY, ascii('y')),
      ]),
      'a length in two bytes too many': Uint8Array.of(0x82, 126, 0, 1, 0),
      'a length in eight bytes too many': Uint8Array.of(0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 0),
      'a close frame of one byte': frame(8, ascii('x')),
    };
    for (const [name, bytes] of Object.entries(breaks))
      expect(`${name}: ${read([bytes]).end?.code}`).toBe(`${name}: 1002`);
    // Announced and never sent, with all 64 bits set.
    expect(read([new Uint8Array([0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255])]).end?.code).toBe(1009);
  });

  test('end with a close frame: its code and reason, or that it has none', () => {
    const after = frame(BINARY, ascii('late'));
    const closing = (payload: Uint8Array) => read([concat([frame(8, payload), after])]);
    expect(closing(Buffer.concat([Uint8Array.of(3, 240), ascii('FutureCursor')]))).toMatchObject({
      said: [],
      end: { code: 1008, reason: 'FutureCursor' },
    });
    expect(closing(new Uint8Array(0)).end).toEqual({ code: 1005, reason: '' });
    expect(closing(Uint8Array.of(3, 232, 0xff, 0xfe)).end?.code).toBe(1000);
  });

  test('of random bytes never throw, and never hold more than was sent or allowed', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 400 }), { maxLength: 8 }), (reads) => {
        const { messages } = read(reads, 300);
        for (const message of messages) expect(message.length).toBeLessThanOrEqual(300);
      }),
      { numRuns: 2_000 },
    );
  });

  test('are answered with masked control frames', () => {
    const payload = ascii('hello');
    const mask = Uint8Array.of(1, 2, 3, 4);
    const pong = controlFrame('pong', payload, mask);
    expect(hex(pong.subarray(0, 6))).toBe('8a8501020304');
    expect(hex(pong.subarray(6).map((byte, index) => byte ^ mask[index & 3]!))).toBe(hex(payload));
    expect(controlFrame('ping', new Uint8Array(0), mask)[0]).toBe(0x89);
    expect(controlFrame('close', new Uint8Array(0), mask)[0]).toBe(0x88);
  });
});

describe('the opening handshake', () => {
  // The example of RFC 6455, section 1.3.
  const key = 'dGhlIHNhbXBsZSBub25jZQ==';
  const good = [
    'HTTP/1.1 101 Switching Protocols',
    'Server: pds/1.0',
    'Upgrade: WebSocket',
    'Connection: keep-alive, Upgrade',
    'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=',
  ];
  const answer = (lines: readonly string[]) => readHandshake(ascii(`${lines.join('\r\n')}\r\n\r\n`), key);
  const without = (name: string): string[] => good.filter((line) => !line.startsWith(name));

  test('asks with what the protocol wants', () => {
    const lines = handshakeRequest({ host: 'a.net', path: '/x?y=1', userAgent: 'weir/test', key }).split(
      '\r\n',
    );
    expect(lines[0]).toBe('GET /x?y=1 HTTP/1.1');
    expect(lines).toContain('Host: a.net');
    expect(lines).toContain(`Sec-WebSocket-Key: ${key}`);
    expect(lines.slice(-2)).toEqual(['', '']);
  });

  test('opens, tells the Server header, and where the first frame begins', () => {
    const head = `${good.join('\r\n')}\r\n\r\n`;
    expect(readHandshake(ascii(`${head}FRAME`), key)).toEqual({
      kind: 'open',
      server: 'pds/1.0',
      rest: head.length,
    });
    for (let length = 0; length < head.length; length++)
      expect(readHandshake(ascii(head.slice(0, length)), key)).toEqual({ kind: 'more' });
  });

  test('passes over interim answers', () => {
    const early = 'HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n';
    expect(readHandshake(ascii(`${early}${good.join('\r\n')}\r\n\r\n`), key).kind).toBe('open');
    expect(readHandshake(ascii(early), key).kind).toBe('more');
  });

  test('tells a status that is no upgrade, with its Retry-After', () => {
    expect(answer(['HTTP/1.1 429 Too Many Requests', 'retry-after: 17'])).toEqual({
      kind: 'status',
      status: 429,
      retryAfter: '17',
    });
    expect(answer(['HTTP/1.0 502'])).toMatchObject({ kind: 'status', status: 502 });
  });

  test('refuses an answer that is none of ours', () => {
    const wrong = [
      without('Upgrade'),
      without('Connection'),
      without('Sec-WebSocket-Accept'),
      [...without('Sec-WebSocket-Accept'), 'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOp='],
      [...good, 'Sec-WebSocket-Extensions: permessage-deflate'],
      [...good, 'Sec-WebSocket-Protocol: chat'],
      [...good, 'no colon'],
      ['SSH-2.0-OpenSSH'],
      ['HTTP/1.1 1e1 x'],
    ];
    for (const lines of wrong)
      expect(`${lines.at(-1)}: ${answer(lines).kind}`).toBe(`${lines.at(-1)}: invalid`);
  });

  test('ends at headers without end', () => {
    const endless = `${good.join('\r\n')}\r\nX: ${'x'.repeat(MAX_HANDSHAKE_BYTES)}`;
    expect(readHandshake(ascii(endless), key).kind).toBe('invalid');
    expect(readHandshake(ascii(`${endless}\r\n\r\n`), key).kind).toBe('invalid');
  });

  test('never throws', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.string(), (bytes, text) => {
        readHandshake(bytes, key);
        readHandshake(ascii(`HTTP/1.1 101\r\n${text}\r\n\r\n`), key);
      }),
    );
  });
});
