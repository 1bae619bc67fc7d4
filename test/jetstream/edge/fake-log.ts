import type { Codec } from '../../../jetstream/edge/types.ts';
import type { JetstreamEvent } from '../../../jetstream/types.ts';
import { KIND, type Kind } from '../../../src/firehose/types.ts';
import { didHash } from '../../../src/log/did-hash.ts';
import type { CursorOptions, LogCursor, LogReader, LogRecord } from '../../../src/log/types.ts';

/** What a record of the fake log is about. */
export interface FakeRecord {
  readonly kind: Kind;
  readonly did: string;
  /** Collections of a commit's ops. */
  readonly collections: readonly string[];
  /** About the bytes of each message. */
  readonly bytes: number;
}

/** A LogReader in an array, with a window that can be moved, log times with gaps, and a restart. */
export interface FakeLog extends LogReader {
  /** Makes records durable, in one group commit. */
  write(records: readonly FakeRecord[]): void;
  /** Everything before this seq leaves the window. */
  trimTo(oldestSeq: number): void;
  readonly records: readonly (LogRecord & { readonly about: FakeRecord })[];
  readonly openCursors: number;
  readonly reads: number;
  /** Reads whose records hold only until the next one. */
  readonly lentReads: number;
}

/** A record in memory that is written over: whoever looks at it later is found out. */
class LentRecord {
  readonly #record: LogRecord & { readonly about: FakeRecord };
  readonly #isValid: () => boolean;
  constructor(record: LogRecord & { readonly about: FakeRecord }, isValid: () => boolean) {
    this.#record = record;
    this.#isValid = isValid;
  }
  get #held() {
    if (!this.#isValid()) throw new Error('a record was looked at whose memory was written over');
    return this.#record;
  }
  get seq() {
    return this.#record.seq;
  }
  get timeUs() {
    return this.#held.timeUs;
  }
  get hostId() {
    return this.#held.hostId;
  }
  get upstreamSeq() {
    return this.#held.upstreamSeq;
  }
  get kind() {
    return this.#held.kind;
  }
  get opCount() {
    return this.#held.opCount;
  }
  get didHash() {
    return this.#held.didHash;
  }
  get frame() {
    return this.#held.frame;
  }
  get about() {
    return this.#held.about;
  }
}

const EPOCH_US = 1_700_000_000_000_000;

export const createFakeLog = (options: { firstSeq?: number } = {}): FakeLog => {
  const firstSeq = options.firstSeq ?? 1;
  const records: (LogRecord & { readonly about: FakeRecord })[] = [];
  let oldestSeq = firstSeq;
  let nextTimeUs = EPOCH_US;
  let skipped: ReadonlySet<number> = new Set();
  let skippedVersion = 0;
  let openCursors = 0;
  let reads = 0;
  let lentReads = 0;
  const listeners = new Set<(lastSeq: number) => void>();
  const lastSeq = (): number => firstSeq - 1 + records.length;

  const openCursor = (seq: number, options: CursorOptions = {}): LogCursor => {
    let position = seq;
    let generation = 0;
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
        const own = ++generation;
        const isValid = () => own === generation;
        if (options.reusesMemory) lentReads++;
        if (position < oldestSeq - 1) return 'behind';
        const found: LogRecord[] = [];
        let bytes = 0;
        while (position < lastSeq()) {
          const record = records[position + 1 - firstSeq]!;
          if (!skipped.has(record.didHash) || record.kind === KIND.account) {
            if (found.length > 0 && bytes + record.frame.length > maxBytes) break;
            found.push(options.reusesMemory ? new LentRecord(record, isValid) : record);
            bytes += record.frame.length;
          }
          position++;
        }
        return found;
      },
      close() {
        if (open) openCursors--;
        open = false;
        generation++;
      },
    };
  };

  return {
    records,
    get oldestSeq() {
      return oldestSeq;
    },
    get lastSeq() {
      return lastSeq();
    },
    get lastTimeUs() {
      return records.at(-1)?.timeUs ?? 0;
    },
    openCursor,
    seqBeforeTime(timeUs) {
      const first = records.find((record) => record.seq >= oldestSeq && record.timeUs >= timeUs);
      return first === undefined ? lastSeq() : first.seq - 1;
    },
    onDurable(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    setSkippedDids(hashes) {
      skipped = hashes;
      skippedVersion++;
    },
    get skippedVersion() {
      return skippedVersion;
    },
    write(abouts) {
      for (const about of abouts) {
        const seq = lastSeq() + 1;
        const opCount = about.kind === KIND.commit ? about.collections.length : 0;
        records.push({
          seq,
          timeUs: nextTimeUs,
          hostId: 1,
          upstreamSeq: seq,
          kind: about.kind,
          opCount,
          didHash: didHash(about.did),
          frame: new Uint8Array(50 + about.bytes),
          about,
        });
        // Now and then there is more room than the ops need.
        nextTimeUs += Math.max(1, opCount) + (seq % 3 === 0 ? 1_000 : 0);
      }
      for (const listener of listeners) listener(lastSeq());
    },
    trimTo(seq) {
      oldestSeq = seq;
    },
    get openCursors() {
      return openCursors;
    },
    get reads() {
      return reads;
    },
    get lentReads() {
      return lentReads;
    },
  };
};

/** What messages of the fake codec say. */
export interface Told {
  readonly v: 1 | 2;
  readonly seq: number;
  readonly op: number;
  readonly t: number;
}

/** The events that a record holds, whoever wants them. */
export const eventsOf = (record: LogRecord): JetstreamEvent[] => {
  const { about } = record as LogRecord & { about: FakeRecord };
  const event = (opIndex: number, collection: string): JetstreamEvent => ({
    kind: record.kind,
    seq: record.seq,
    opIndex,
    timeUs: record.timeUs + opIndex,
    did: about.did,
    collection,
    rkey: collection === '' ? '' : 'self',
    operation: collection === '' ? '' : 'create',
    source: record,
  });
  return about.kind === KIND.commit
    ? about.collections.map((collection, index) => event(index, collection))
    : [event(0, '')];
};

/** Collection whose records cannot be encoded. */
export const UNDECODABLE = 'test.weir.undecodable';

/** Counts how often each event was encoded. */
export const createFakeCodec = () => {
  const encodes = new Map<string, number>();
  let reads = 0;
  /** What is lent is written over by the next. */
  let lent: Uint8Array | null = null;
  const lend = (bytes: Uint8Array | null): Uint8Array | null => {
    lent?.fill(0);
    lent = bytes;
    return bytes;
  };
  const encode = (v: 1 | 2, event: JetstreamEvent): Uint8Array | null => {
    const key = `${v}:${event.seq}:${event.opIndex}`;
    encodes.set(key, (encodes.get(key) ?? 0) + 1);
    if (event.collection === UNDECODABLE || (v === 1 && event.kind === KIND.sync)) return null;
    const { bytes } = (event.source as LogRecord & { about: FakeRecord }).about;
    const told: Told = { v, seq: event.seq, op: event.opIndex, t: event.timeUs };
    return new TextEncoder().encode(JSON.stringify({ ...told, pad: 'ü'.repeat(bytes / 2) }));
  };
  const codec: Codec = {
    readEvents(record) {
      reads++;
      return eventsOf(record);
    },
    encodeV1: (event) => encode(1, event),
    encodeV2: (event) => encode(2, event),
    lendV1: (event) => lend(encode(1, event)),
    lendV2: (event) => lend(encode(2, event)),
  };
  return {
    codec,
    encodes,
    get reads() {
      return reads;
    },
    get mostEncodes() {
      return Math.max(0, ...encodes.values());
    },
  };
};
