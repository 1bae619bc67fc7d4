import { encode } from '@ipld/dag-cbor';
import { KIND } from '../../../src/firehose/types.ts';
import type { LogCursor, LogReader, LogRecord } from '../../../src/log/types.ts';

/** A LogReader in an array, with a window that can be moved. */
export interface FakeLog extends LogReader {
  /** Makes n more events of about `bytes` bytes durable, in one group commit. */
  write(n: number, bytes?: number): void;
  /** Everything before this seq leaves the window. */
  trimTo(oldestSeq: number): void;
  readonly openCursors: number;
  readonly reads: number;
}

export const fakeFrame = (seq: number, bytes = 100): Uint8Array => {
  const header = encode({ op: 1, t: '#identity' });
  const body = encode({ seq, did: 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa', pad: new Uint8Array(bytes) });
  const frame = new Uint8Array(header.length + body.length);
  frame.set(header);
  frame.set(body, header.length);
  return frame;
};

export const createFakeLog = (
  options: { firstSeq?: number; didHashOf?: (seq: number) => number } = {},
): FakeLog => {
  const firstSeq = options.firstSeq ?? 1;
  let records: LogRecord[] = [];
  let oldestSeq = firstSeq;
  let lastSeq = firstSeq - 1;
  let skipped: ReadonlySet<number> = new Set();
  let openCursors = 0;
  let reads = 0;
  const listeners = new Set<(lastSeq: number) => void>();

  const openCursor = (seq: number): LogCursor => {
    let position = seq;
    let open = true;
    openCursors++;
    return {
      get seq() {
        return position;
      },
      inTail: true,
      next(maxBytes) {
        if (!open) throw new Error('a closed cursor was read');
        reads++;
        if (position < oldestSeq - 1) return 'behind';
        const found: LogRecord[] = [];
        let bytes = 0;
        for (let index = position + 1 - oldestSeq; index < records.length; index++) {
          const record = records[index]!;
          if (skipped.has(record.didHash)) continue;
          if (found.length > 0 && bytes + record.frame.length > maxBytes) break;
          found.push(record);
          bytes += record.frame.length;
        }
        if (found.length > 0) position = found[found.length - 1]!.seq;
        return found;
      },
      close() {
        if (open) openCursors--;
        open = false;
      },
    };
  };

  return {
    get oldestSeq() {
      return oldestSeq;
    },
    get lastSeq() {
      return lastSeq;
    },
    get lastTimeUs() {
      return lastSeq * 1000;
    },
    openCursor,
    seqBeforeTime: () => lastSeq,
    onDurable(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    setSkippedDids(hashes) {
      skipped = hashes;
    },
    write(n, bytes = 100) {
      for (let count = 0; count < n; count++) {
        const seq = ++lastSeq;
        records.push({
          seq,
          timeUs: seq * 1000,
          hostId: 1,
          upstreamSeq: seq,
          kind: KIND.identity,
          opCount: 0,
          didHash: options.didHashOf?.(seq) ?? 1,
          frame: fakeFrame(seq, bytes),
        });
      }
      for (const listener of listeners) listener(lastSeq);
    },
    trimTo(seq) {
      records = records.slice(seq - oldestSeq);
      oldestSeq = seq;
    },
    get openCursors() {
      return openCursors;
    },
    get reads() {
      return reads;
    },
  };
};
