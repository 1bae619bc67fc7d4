import { KIND, type Kind } from '../firehose/types.ts';
import { RECORD_HEADER_BYTES, readRecord } from './record.ts';
import type { LogRecord } from './types.ts';

/**
 * The newest durable records in memory, shared by all live readers: what a group commit wrote goes on living here as
 * it is, and its records are made once, when the first reader comes. Bounded in bytes; the oldest parts go first.
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

interface HeldPart extends TailPart {
  readonly heldBytes: number;
  records: readonly LogRecord[] | null;
  /** The records without those of skipped DIDs, as of `skipVersion`. */
  visible: readonly LogRecord[] | null;
  skipVersion: number;
}

/** What one record object with its frame view costs beside its bytes; measured, rounded up. */
const RECORD_OVERHEAD_BYTES = 256;

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

export interface Tail {
  /** First seq held; Infinity when nothing is. */
  readonly firstSeq: number;
  readonly heldBytes: number;
  push(part: TailPart): void;
  /**
   * Records from `seq` on, which must be held: at most about `maxBytes`, at least one record if one is to be seen.
   * `reached` is the seq up to which everything was given out or skipped.
   */
  read(seq: number, maxBytes: number, skipped: Skipped | null): TailRead;
}

export interface TailRead {
  readonly records: readonly LogRecord[];
  readonly reached: number;
}

export const createTail = (maxBytes: number): Tail => {
  let parts: HeldPart[] = [];
  /** parts[0, head) are gone; compacted now and then, so that dropping one is O(1). */
  let head = 0;
  let heldBytes = 0;

  const recordsOf = (part: HeldPart): readonly LogRecord[] => {
    if (part.records !== null) return part.records;
    const records: LogRecord[] = [];
    for (let at = part.from; at < part.to; ) {
      const record = readRecord(part.bytes, part.view, at);
      records.push(record);
      at += RECORD_HEADER_BYTES + record.frame.length;
    }
    part.records = records;
    return records;
  };

  const visibleOf = (part: HeldPart, skipped: Skipped | null): readonly LogRecord[] => {
    const records = recordsOf(part);
    if (skipped === null || skipped.didHashes.size === 0) return records;
    if (part.visible === null || part.skipVersion !== skipped.version) {
      const { didHashes } = skipped;
      const anySkipped = records.some((record) => isSkipped(didHashes, record.didHash, record.kind));
      part.visible = anySkipped
        ? records.filter((record) => !isSkipped(didHashes, record.didHash, record.kind))
        : records;
      part.skipVersion = skipped.version;
    }
    return part.visible;
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

  return {
    get firstSeq() {
      return head < parts.length ? parts[head]!.firstSeq : Number.POSITIVE_INFINITY;
    },
    get heldBytes() {
      return heldBytes;
    },
    push: (part) => {
      const held = part.to - part.from + (part.lastSeq - part.firstSeq + 1) * RECORD_OVERHEAD_BYTES;
      parts.push({ ...part, heldBytes: held, records: null, visible: null, skipVersion: 0 });
      heldBytes += held;
      while (heldBytes > maxBytes && head < parts.length) {
        heldBytes -= parts[head]!.heldBytes;
        // Let the bytes go at once, not at the next compaction.
        parts[head] = undefined as unknown as HeldPart;
        head++;
      }
      if (head > 1024 && head * 2 > parts.length) {
        parts = parts.slice(head);
        head = 0;
      }
    },
    read: (seq, maxBytes, skipped) => {
      let out: LogRecord[] | null = null;
      let whole: readonly LogRecord[] | null = null;
      let bytes = 0;
      let reached = seq - 1;
      for (let i = find(seq); i < parts.length; i++) {
        const part = parts[i]!;
        const records = visibleOf(part, skipped);
        const start = seq <= part.firstSeq ? 0 : lowerBound(records, seq);
        if (start === 0 && bytes + part.to - part.from <= maxBytes) {
          // The whole part fits; when it is all there is, every reader gets the same list.
          if (records.length > 0) {
            if (whole === null && out === null) whole = records;
            else {
              out ??= whole!.slice();
              for (let k = 0; k < records.length; k++) out.push(records[k]!);
            }
          }
          bytes += part.to - part.from;
          reached = part.lastSeq;
          continue;
        }
        let k = start;
        const any = out !== null || whole !== null;
        for (; k < records.length; k++) {
          const record = records[k]!;
          if (bytes + record.frame.length > maxBytes && (any || k > start)) break;
          out ??= whole === null ? [] : whole.slice();
          out.push(record);
          bytes += record.frame.length;
        }
        if (k < records.length) {
          reached = k === 0 ? part.firstSeq - 1 : Math.max(reached, records[k - 1]!.seq);
          break;
        }
        reached = part.lastSeq;
        if (bytes >= maxBytes) break;
      }
      return { records: out ?? whole ?? [], reached };
    },
  };
};
