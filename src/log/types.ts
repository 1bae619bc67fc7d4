import type { Kind } from '../firehose/types.ts';

/** What the sequencer hands over for one event. */
export interface LogEntry {
  readonly hostId: number;
  readonly upstreamSeq: number;
  readonly kind: Kind;
  /** Number of ops of a commit, 0 otherwise: the log leaves that much room in log time. */
  readonly opCount: number;
  readonly didHash: number;
  /** The frame as it is to be served, but for its seq value, which stands at [seqStart, seqEnd). */
  readonly frame: Uint8Array;
  readonly seqStart: number;
  readonly seqEnd: number;
  /** A commit that does not follow on the one before: remembered for views, consumers see it by themselves. */
  readonly discontinuity?: boolean;
}

/** One durable event as readers see it. `frame` is shared by all readers: never write to it. */
export interface LogRecord {
  readonly seq: number;
  /** Log time, µs since the epoch: strictly increasing, the next one is at least max(1, opCount) later. */
  readonly timeUs: number;
  readonly hostId: number;
  readonly upstreamSeq: number;
  readonly kind: Kind;
  readonly opCount: number;
  readonly didHash: number;
  readonly frame: Uint8Array;
  /** When it was sequenced, the commit did not follow on what we held of its repo. */
  readonly discontinuity?: boolean;
}

/** A reading position. Not shared between readers. */
export interface LogCursor {
  /** seq of the last record given out or skipped, or of the cursor it was opened with. */
  readonly seq: number;
  /**
   * The next durable records after `seq`, in order, without gaps but for skipped DIDs; at most about `maxBytes`
   * (always at least one record when there is one). [] at the end; 'behind' when the cursor fell out of the window.
   * A record whose bytes fail their checksum throws LogCorruption: our own corruption stops us loudly.
   */
  next(maxBytes: number): readonly LogRecord[] | 'behind';
  /** Whether the next read would be served by the hot tail in memory. */
  readonly inTail: boolean;
  close(): void;
}

export interface CursorOptions {
  /** Gives out skipped DIDs, too. */
  readonly includeSkipped?: boolean;
  /**
   * Reads into the same memory again and again: frames are only valid until the next call of `next`. For one reader
   * that goes through much of the log and keeps nothing of it: 0.6 µs a record of 3.3 KB instead of 0.8, and no blocks
   * to be collected.
   */
  readonly reusesMemory?: boolean;
}

export interface LogReader {
  /** Oldest seq that can be read; lastSeq + 1 when the log is empty. */
  readonly oldestSeq: number;
  /** Newest durable seq; 0 when nothing was ever written. */
  readonly lastSeq: number;
  /** Log time of the newest durable record, µs; 0 when none. */
  readonly lastTimeUs: number;
  /** Reads from the first record with seq > `seq`. Valid for oldestSeq − 1 ≤ seq ≤ lastSeq; otherwise next() answers 'behind' or []. With `includeSkipped`, skipped DIDs are given out, too (views that rebuild state). */
  openCursor(seq: number, options?: CursorOptions): LogCursor;
  /** The seq before the first record with timeUs ≥ the given time (a cursor to open), by binary search; lastSeq when it is in the future. */
  seqBeforeTime(timeUs: number): number;
  /** Called after each group commit became durable, in order. Returns the unsubscribe function. */
  onDurable(listener: (lastSeq: number) => void): () => void;
  /** Replaces the set of DID hashes that cursors skip (taken-down accounts). Their #account events are given out all the same: they are how consumers learn of the takedown. */
  setSkippedDids(didHashes: ReadonlySet<number>): void;
  /** Changes with each setSkippedDids: whoever keeps what cursors gave out has to forget it then. */
  readonly skippedVersion?: number;
}

export interface LogStats {
  readonly segments: number;
  readonly bytes: number;
  readonly pendingBytes: number;
  readonly appendedRecords: number;
  readonly fsyncs: number;
  readonly lastFsyncMs: number;
  readonly totalFsyncMs: number;
  readonly diskReads: number;
  readonly tailReads: number;
  /** True while the window is being kept shorter than configured because the disk is (nearly) full. */
  readonly diskPressure: boolean;
  readonly truncatedTailBytes: number;
}

export interface Log extends LogReader {
  /** Assigns the next seq, splices it into the frame, queues the record for the next group commit. Returns the seq. */
  append(entry: LogEntry, nowUs: number): number;
  /** seq of the last appended record, durable or not. */
  readonly appendedSeq: number;
  /** Resolves when everything up to `seq` is durable. */
  whenDurable(seq: number): Promise<void>;
  /** Remembers, durably and once, the hostname of an id, so that the log can be read without the database. */
  nameHost(hostId: number, hostname: string): void;
  readonly hostNames: ReadonlyMap<number, string>;
  readonly stats: LogStats;
  /** Applies retention; called by the log's own timer and before a write that would fill the disk. */
  retain(nowUs: number): void;
  /** Everything appended is durable, files closed. */
  close(): Promise<void>;
}
