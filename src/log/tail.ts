import { KIND, type Kind } from '../firehose/types.ts';
import { frameLengthAt, RECORD_HEADER_BYTES, readRecord } from './record.ts';
import type { LogRecord } from './types.ts';

/**
 * The newest durable records in memory, shared by all live readers. What a group commit wrote goes on living here in
 * the very chunk it was written from; bounded in bytes, the oldest parts go first and their chunks are written anew.
 * (New memory for each chunk costs three times the append itself in page faults, and RSS grows to several times the
 * bound while it waits for the garbage collector.) So readers get copies: one per part, shared by all who read it
 * while it is new, which is what live readers do. Frames that were given out therefore never change.
 */

/** Consecutive whole records in memory. */
export interface TailPart {
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly from: number;
  readonly to: number;
}

interface HeldPart {
  readonly part: TailPart;
  readonly firstSeq: number;
  readonly lastSeq: number;
  /** Made for the first reader, forgotten when the part is no longer new. */
  records: readonly LogRecord[] | null;
  /** The records without those of skipped DIDs, as of `skipVersion`. */
  visible: readonly LogRecord[];
  skipVersion: number;
}

/** What a part costs beside its bytes, rounded up: bounds memory when groups are single small events. */
const PART_OVERHEAD_BYTES = 256;

/**
 * Parts are new, their records made once for all, while this much was pushed at or after them: what comes at full
 * speed within the tick of the edges, each of which reads once for all of its live consumers. The longer a copy
 * lives, the likelier it outlives a minor collection, and then costs memory until the next full one.
 */
export const SHARED_BYTES = 512 * 1024;

/** A read that came to the end of a part with this much does not start another: so that lists can be shared. */
const ENOUGH_BYTES = 64 * 1024;

/** The DIDs that readers do not get. Replaced as a whole; the version tells cached lists that they are old. */
export interface Skipped {
  didHashes: ReadonlySet<number>;
  version: number;
}

/**
 * Whether a reader is not to see this record: anything of a skipped DID but its #account events, which carry no
 * content and are how consumers learn of the takedown itself.
 */
export const isSkipped = (didHashes: ReadonlySet<number>, didHash: number, kind: Kind): boolean =>
  didHashes.size !== 0 && kind !== KIND.account && didHashes.has(didHash);

export interface TailRead {
  readonly records: readonly LogRecord[];
  /** Up to this seq, everything was given out or skipped. */
  readonly reached: number;
}

export interface Tail {
  /** First seq held; Infinity when nothing is. */
  readonly firstSeq: number;
  readonly heldBytes: number;
  push(part: TailPart): void;
  /** Records from `seq` on, which must be held: at most about `maxBytes`, at least one if there is one to be seen. */
  read(seq: number, maxBytes: number, skipped: Skipped | null): TailRead;
}

/** Index of the first record with seq ≥ the given one. */
const lowerBound = (records: readonly LogRecord[], seq: number): number => {
  let low = 0;
  let high = records.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (records[middle]!.seq < seq) low = middle + 1;
    else high = middle;
  }
  return low;
};

/**
 * Copies records of a part out of its chunk: from `seq` on, at most about `maxBytes`, at least one.
 */
const copyRecords = (part: TailPart, seq: number, maxBytes: number): LogRecord[] => {
  const { view, to } = part;
  let from = part.from;
  for (let at = part.firstSeq; at < seq; at++) from += RECORD_HEADER_BYTES + frameLengthAt(view, from);
  let end = from;
  do end += RECORD_HEADER_BYTES + frameLengthAt(view, end);
  while (end < to && end - from + RECORD_HEADER_BYTES + frameLengthAt(view, end) <= maxBytes);
  const bytes = part.bytes.slice(from, end);
  const copy = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const records: LogRecord[] = [];
  for (let at = 0; at < bytes.length; ) {
    const record = readRecord(bytes, copy, at);
    records.push(record);
    at += RECORD_HEADER_BYTES + record.frame.length;
  }
  return records;
};

/**
 * `maxBytes` bounds what is held; `release` is called for each part that is dropped, whose bytes may then be
 * written over.
 */
export const createTail = (maxBytes: number, release: (part: TailPart) => void): Tail => {
  let parts: HeldPart[] = [];
  /** parts[0, head) are gone; compacted now and then, so that dropping one is O(1). */
  let head = 0;
  /** parts[head, sharedFrom) are no longer new. */
  let sharedFrom = 0;
  let heldBytes = 0;
  let sharedBytes = 0;

  const sizeOf = (part: TailPart): number => part.to - part.from + PART_OVERHEAD_BYTES;

  const visible = (records: readonly LogRecord[], didHashes: ReadonlySet<number>): readonly LogRecord[] =>
    records.some((record) => isSkipped(didHashes, record.didHash, record.kind))
      ? records.filter((record) => !isSkipped(didHashes, record.didHash, record.kind))
      : records;

  /** All records of a new part that are to be seen: the same list for every reader. */
  const sharedRecords = (held: HeldPart, skipped: Skipped | null): readonly LogRecord[] => {
    held.records ??= copyRecords(held.part, held.firstSeq, Number.POSITIVE_INFINITY);
    if (skipped === null || skipped.didHashes.size === 0) return held.records;
    if (held.skipVersion !== skipped.version) {
      held.visible = visible(held.records, skipped.didHashes);
      held.skipVersion = skipped.version;
    }
    return held.visible;
  };

  const find = (seq: number): number => {
    let low = head;
    let high = parts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (parts[middle]!.firstSeq <= seq) low = middle;
      else high = middle - 1;
    }
    return low;
  };

  return {
    get firstSeq() {
      return head < parts.length ? parts[head]!.firstSeq : Number.POSITIVE_INFINITY;
    },
    get heldBytes() {
      return heldBytes;
    },
    push: (part) => {
      const { firstSeq, lastSeq } = part;
      parts.push({ part, firstSeq, lastSeq, records: null, visible: [], skipVersion: 0 });
      heldBytes += sizeOf(part);
      sharedBytes += sizeOf(part);
      while (sharedBytes > SHARED_BYTES && sharedFrom < parts.length - 1) {
        const held = parts[sharedFrom++]!;
        held.records = null;
        held.visible = [];
        held.skipVersion = 0;
        sharedBytes -= sizeOf(held.part);
      }
      while (heldBytes > maxBytes && head < parts.length) {
        const dropped = parts[head]!.part;
        heldBytes -= sizeOf(dropped);
        if (head === sharedFrom) {
          sharedBytes -= sizeOf(dropped);
          sharedFrom++;
        }
        parts[head] = undefined as unknown as HeldPart;
        head++;
        release(dropped);
      }
      if (head > 1024 && head * 2 > parts.length) {
        parts = parts.slice(head);
        sharedFrom -= head;
        head = 0;
      }
    },
    read: (seq, maxBytes, skipped) => {
      let out: LogRecord[] | null = null;
      let whole: readonly LogRecord[] | null = null;
      let bytes = 0;
      let reached = seq - 1;
      for (let i = find(seq); i < parts.length; i++) {
        const held = parts[i]!;
        const { part } = held;
        let records: readonly LogRecord[];
        let start = 0;
        let until = held.lastSeq;
        if (i >= sharedFrom) {
          records = sharedRecords(held, skipped);
          if (reached >= held.firstSeq) start = lowerBound(records, reached + 1);
        } else {
          records = copyRecords(part, Math.max(reached + 1, held.firstSeq), maxBytes - bytes);
          until = records[records.length - 1]!.seq;
          if (skipped !== null) records = visible(records, skipped.didHashes);
        }
        if (start === 0 && until === held.lastSeq && bytes + part.to - part.from <= maxBytes) {
          // The whole part fits; when it is all there is, every reader gets the same list.
          if (records.length > 0) {
            if (whole === null && out === null) whole = records;
            else {
              out ??= whole!.slice();
              for (let k = 0; k < records.length; k++) out.push(records[k]!);
            }
          }
          bytes += part.to - part.from;
          reached = until;
          if (bytes >= ENOUGH_BYTES && (whole !== null || out !== null)) break;
          continue;
        }
        const any = out !== null || whole !== null;
        let k = start;
        for (; k < records.length; k++) {
          const record = records[k]!;
          if (bytes + record.frame.length > maxBytes && (any || k > start)) break;
          out ??= whole === null ? [] : whole.slice();
          out.push(record);
          bytes += record.frame.length;
          reached = record.seq;
        }
        if (k < records.length) break;
        reached = until;
        // What was copied of a part may end within it, or hold nothing to be seen: then it is read on from there.
        if (bytes >= maxBytes) break;
        if (until < held.lastSeq) {
          if (out !== null || whole !== null) break;
          i--;
        }
      }
      return { records: out ?? whole ?? [], reached };
    },
  };
};
