import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { encode } from 'cborg';
import { KIND } from '../../src/firehose/types.ts';
import { RECORD_HEADER_BYTES, recordBytes, writeRecord } from '../../src/log/record.ts';
import type { LogCursor, LogEntry, LogRecord } from '../../src/log/types.ts';

/** A directory of its own for one test; `remove` it at the end. */
export const makeDirectory = (): { readonly dir: string; readonly remove: () => void } => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'weir-log-'));
  return { dir, remove: () => fs.rmSync(dir, { recursive: true, force: true }) };
};

/**
 * A frame of two CBOR items with a seq in it, encoded by an independent library. `upstreamSeq` makes it unlike others.
 */
export const makeEntry = (
  upstreamSeq: number,
  payloadBytes = 40,
  more: Partial<Omit<LogEntry, 'frame' | 'seqStart' | 'seqEnd'>> = {},
): LogEntry => {
  const head = encode({ t: '#commit', op: 1 });
  const seq = encode(upstreamSeq);
  const rest = encode(new Uint8Array(payloadBytes).fill(upstreamSeq & 0xff));
  const frame = new Uint8Array(head.length + 5 + seq.length + 7 + rest.length);
  let at = 0;
  const put = (bytes: Uint8Array): void => {
    frame.set(bytes, at);
    at += bytes.length;
  };
  put(head);
  put(Uint8Array.of(0xa2));
  put(encode('seq'));
  const seqStart = at;
  put(seq);
  const seqEnd = at;
  put(encode('blocks'));
  put(rest);
  return {
    hostId: 7,
    upstreamSeq,
    kind: KIND.commit,
    opCount: 1,
    didHash: upstreamSeq % 10,
    ...more,
    frame: frame.subarray(0, at),
    seqStart,
    seqEnd,
  };
};

/** The frame as the log writes it: with `seq` in place of its own. */
export const withSeq = (
  frame: { readonly bytes: Uint8Array; readonly seqStart: number; readonly seqEnd: number },
  seq: number,
): { readonly bytes: Uint8Array; readonly seqStart: number; readonly seqEnd: number } => {
  const { bytes, seqStart, seqEnd } = frame;
  const entry = { ...makeEntry(1), frame: bytes, seqStart, seqEnd };
  const size = recordBytes(entry, seq);
  const record = new Uint8Array(size);
  writeRecord(record, new DataView(record.buffer), 0, size, entry, seq, 1, 0, 0n);
  const written = record.slice(RECORD_HEADER_BYTES);
  return { bytes: written, seqStart, seqEnd: seqEnd + written.length - bytes.length };
};

/** Reads a cursor to its end. */
export const readAll = (cursor: LogCursor, maxBytes = 10_000): LogRecord[] => {
  const all: LogRecord[] = [];
  for (;;) {
    const records = cursor.next(maxBytes);
    if (records === 'behind') throw new Error(`the cursor fell behind at seq ${cursor.seq}`);
    if (records.length === 0) return all;
    all.push(...records);
  }
};

export const numbers = (first: number, last: number): number[] =>
  Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);
