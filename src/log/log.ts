import path from 'node:path';
import { LogCorruption } from './corruption.ts';
import { diskFiles, isDiskFull, type LogFiles } from './files.ts';
import { HOST_NAMES_FILE, hostNameLine, readHostNames } from './host-names.ts';
import { createSparseIndex, indexName, writeIndexFile } from './index-file.ts';
import {
  FLAG_DISCONTINUITY,
  FLAG_GROUP_START,
  MAX_LOGGED_RECORD_BYTES,
  recordBytes,
  seqAt,
  timeRoomUs,
  timeUsAt,
  writeRecord,
} from './record.ts';
import { recover } from './recover.ts';
import { encodeSegmentHeader, SEGMENT_HEADER_BYTES, segmentName } from './segment.ts';
import { createTail, type TailPart } from './tail.ts';
import type { Log, LogEntry, LogStats } from './types.ts';
import { createView, type Segment } from './view.ts';

/**
 * The log: the write-ahead log of everything and the bus that all views read.
 *
 * It owns the directory (one writer, locked), the seqs and the log times. It promises: seqs without gap, strictly
 * increasing, never given twice once durable; an event is durable before any reader sees it; what was reported
 * durable is there after any crash; a cursor gives every event after it exactly once, in order. A torn tail is cut
 * off, any other damage stops us. A full disk shortens the window and delays appends, but loses nothing.
 *
 * One append path: records are written straight into memory chunks; a group of them is written to the newest segment
 * with one write and one fdatasync at a time, while the next group collects; then the same chunks become the tail.
 */
export interface LogOptions {
  readonly dir: string;
  /** Records older than this go, whole segments at a time. */
  readonly windowMs: number;
  /** So do the oldest when all segments together would be larger. */
  readonly maxBytes: number;
  /** Default: `DEFAULT_SEGMENT_BYTES`, but not more than an eighth of `maxBytes`. */
  readonly segmentBytes?: number;
  /** A segment is also closed at this age, so that a quiet log forgets, too. Default: a 24th of the window. */
  readonly segmentAgeMs?: number;
  /** Memory for the newest records, shared by all live readers. */
  readonly tailBytes?: number;
  /** Now, µs since the epoch: for the age of segments. (Log time comes with `append`.) */
  readonly clock?: () => number;
  /** Group commits start at least this far apart, so that single events do not cost an fdatasync each. */
  readonly groupDelayMs?: number;
  /** Free disk space below which the window is shortened. */
  readonly reserveBytes?: number;
  /** Pause between attempts to write while the disk is full and nothing is left to remove. */
  readonly retryMs?: number;
  /** Pause between applications of retention; 0: only when `retain` is called. */
  readonly retainEveryMs?: number;
  /** A random 32-bit number, for a new log. */
  readonly seed?: number;
  /** Where a log without any segment begins: after a lost log, behind all seqs that were ever given. Default 1. */
  readonly firstSeq?: number;
  readonly files?: LogFiles;
  /** Something an operator should read. */
  readonly warn?: (message: string) => void;
  /** The log can no longer promise anything (a sync failed, say): the process must end. Called once. */
  readonly fatal?: (error: Error) => void;
}

export const DEFAULT_SEGMENT_BYTES = 256 * 1024 * 1024;
/** A log that is full has at least this many segments, so that what goes at a time is a small part of the window. */
const MIN_SEGMENTS_WHEN_FULL = 8;
export const DEFAULT_TAIL_BYTES = 64 * 1024 * 1024;
/** At most 250 syncs a second; adds 2 ms on average to an event's way, far below what consumers batch by. */
export const DEFAULT_GROUP_DELAY_MS = 4;
/** Two segments of room, and PostgreSQL on the same disk must live, too. */
export const DEFAULT_RESERVE_BYTES = 512 * 1024 * 1024;
/** The sequencer stops taking events in while more than this waits for the disk. */
export const MAX_PENDING_BYTES = 64 * 1024 * 1024;
/** Nobody who minds MAX_PENDING_BYTES gets near this: an append over it is a fault of ours. */
const HARD_PENDING_BYTES = 4 * MAX_PENDING_BYTES;
/** Unit of memory of pending records and tail. Chunks are used again once the tail has dropped all of their parts. */
const CHUNK_BYTES = 256 * 1024;
/** What a group at full speed takes is what the tail has dropped just before it; what a burst needed is given up. */
const MAX_FREE_CHUNKS = 4;
/** A group is closed at this size: bounds one write, and how far a segment outgrows its size. */
const MAX_GROUP_BYTES = 4 * 1024 * 1024;
/** With this much pending, a group commit does not wait for its time. */
const EARLY_COMMIT_BYTES = 1024 * 1024;
/** The disk's free space is asked for after this many written bytes. */
const SPACE_CHECK_BYTES = 64 * 1024 * 1024;

/** Once a minute at the default pause. */
const WARN_EVERY_TRIES = 60;

interface Chunk {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  used: number;
  /** Parts in it that are pending or in the tail. */
  parts: number;
}

interface MutablePart extends TailPart {
  readonly chunk: Chunk;
  lastSeq: number;
  to: number;
}

/** Records that become durable together. */
interface Group {
  readonly parts: MutablePart[];
  bytes: number;
  records: number;
  lastSeq: number;
  firstTimeUs: number;
  lastTimeUs: number;
  /** Earliest log time of the record after it. */
  nextTimeUs: number;
}

/** The one way for appended events not to be written: the disk is full, and we are told to close. */
class NoRoomAtClose extends Error {}

interface Waiter {
  readonly seq: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

type MutableStats = { -readonly [name in keyof LogStats]: LogStats[name] };

const newChunk = (size: number): Chunk => {
  const buffer = Buffer.allocUnsafeSlow(size);
  const bytes = new Uint8Array(buffer.buffer, buffer.byteOffset, size);
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, size), used: 0, parts: 0 };
};

/**
 * Opens the log in `dir`, which is made when absent, and recovers it. Rejects when another process holds it, or
 * with LogCorruption when it is damaged.
 */
export const openLog = async (options: LogOptions): Promise<Log> => {
  const files = options.files ?? diskFiles;
  files.makeDirectory(options.dir);
  await files.syncDirectory(path.dirname(path.resolve(options.dir)));
  const unlock = files.lock(options.dir);
  try {
    return await openLocked(options, files, unlock);
  } catch (error) {
    unlock();
    throw error;
  }
};

const openLocked = async (options: LogOptions, files: LogFiles, unlock: () => void): Promise<Log> => {
  const { dir, windowMs, maxBytes } = options;
  const segmentBytes =
    options.segmentBytes ?? Math.min(DEFAULT_SEGMENT_BYTES, maxBytes / MIN_SEGMENTS_WHEN_FULL);
  const segmentAgeUs = (options.segmentAgeMs ?? windowMs / 24) * 1000;
  const clock = options.clock ?? (() => Date.now() * 1000);
  const groupDelayMs = options.groupDelayMs ?? DEFAULT_GROUP_DELAY_MS;
  const reserveBytes = options.reserveBytes ?? DEFAULT_RESERVE_BYTES;
  const retryMs = options.retryMs ?? 1000;
  const warn = options.warn ?? ((message) => console.warn(message));
  const fatal =
    options.fatal ??
    ((error) => {
      throw error;
    });

  const stats: MutableStats = {
    segments: 0,
    bytes: 0,
    pendingBytes: 0,
    appendedRecords: 0,
    fsyncs: 0,
    lastFsyncMs: 0,
    totalFsyncMs: 0,
    diskReads: 0,
    tailReads: 0,
    diskPressure: false,
    truncatedTailBytes: 0,
  };

  /** Of the newest segment; −1 until there is one. */
  let activeFd = -1;
  /** Where the next group is written; behind everything durable. */
  let activeEnd = 0;
  let activeFirstTimeUs = 0;
  let spaceCheckedAt = 0;
  let writtenBytes = 0;
  let failed: Error | null = null;
  let closing = false;
  let closed = false;

  /** Resolves after `ms`, or at once when woken. */
  let wake: (() => void) | null = null;
  const sleep = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        wake = null;
        resolve();
      };
      const timer = setTimeout(done, ms);
      wake = done;
    });

  const syncData = async (fd: number): Promise<void> => {
    const startedAt = performance.now();
    await files.syncData(fd);
    stats.fsyncs++;
    stats.lastFsyncMs = performance.now() - startedAt;
    stats.totalFsyncMs += stats.lastFsyncMs;
  };

  // ── disk space ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** Removals one after another, each durable before the next: after power loss no gap stands in the middle. */
  let removals: Promise<void> = Promise.resolve();

  const dropOldest = (): number => {
    const segment = view.dropOldest();
    stats.segments--;
    stats.bytes -= segment.bytes;
    removals = removals.then(async () => {
      try {
        files.remove(segment.path);
        try {
          files.remove(path.join(dir, indexName(path.basename(segment.path))));
        } catch {
          // It may never have been written.
        }
        await files.syncDirectory(dir);
      } catch (error) {
        warn(`log: cannot remove ${segment.path}: ${(error as Error).message}`);
      }
    });
    return segment.bytes;
  };

  const setPressure = (pressure: boolean, why: string): void => {
    if (stats.diskPressure === pressure) return;
    stats.diskPressure = pressure;
    warn(`log: ${why}`);
  };

  let roomlessTries = 0;

  /** After a write that the disk had no room for: gives up the oldest segment or, when none is left, waits. */
  const makeRoom = async (): Promise<void> => {
    setPressure(true, 'the disk is full: the replay window is being shortened');
    if (view.segments.length > 1) {
      const oldest = view.segments[0]!;
      warn(`log: disk full, giving up ${oldest.path} (seq ${oldest.firstSeq} to ${oldest.lastSeq})`);
      dropOldest();
      await removals;
      return;
    }
    if (closing)
      throw new NoRoomAtClose(`the disk is full: ${stats.pendingBytes} bytes of events could not be written`);
    if (roomlessTries++ % WARN_EVERY_TRIES === 0)
      warn(
        `log: disk full and nothing left to remove; ${stats.pendingBytes} bytes of events wait, trying again`,
      );
    await sleep(retryMs);
  };

  /** Calls a file system operation until it does not fail for want of room. */
  const withRoom = async (operation: () => Promise<void> | void): Promise<void> => {
    for (;;) {
      try {
        await operation();
        roomlessTries = 0;
        return;
      } catch (error) {
        if (!isDiskFull(error)) throw error;
      }
      await makeRoom();
    }
  };

  /** Writes all of it at this position; starts over from where it stopped when the disk is full in between. */
  const writeAll = async (
    fd: number,
    bytes: Uint8Array,
    from: number,
    to: number,
    position: number,
  ): Promise<void> => {
    let at = from;
    while (at < to) {
      let count = 0;
      try {
        count = files.write(fd, bytes, at, to - at, position + at - from);
      } catch (error) {
        if (!isDiskFull(error)) throw error;
      }
      if (count === 0) await makeRoom();
      at += count;
    }
  };

  /** Gives up the oldest until so many bytes more are within the bound. */
  const keepWithinBytes = (bytes: number): void => {
    while (view.segments.length > 1 && stats.bytes + bytes > maxBytes) dropOldest();
  };

  const retain = (nowUs: number): void => {
    if (closed) return;
    const { segments } = view;
    const oldestTimeUs = nowUs - windowMs * 1000;
    while (segments.length > 1 && segments[0]!.lastTimeUs < oldestTimeUs) dropOldest();
    keepWithinBytes(0);
    spaceCheckedAt = writtenBytes;
    let free: number;
    try {
      free = files.freeBytes(dir);
    } catch (error) {
      warn(`log: cannot tell the free space of ${dir}: ${(error as Error).message}`);
      return;
    }
    if (free < reserveBytes) {
      setPressure(
        true,
        `only ${free} bytes free on the disk, ${reserveBytes} wanted: the replay window is being shortened`,
      );
      while (segments.length > 1 && free < reserveBytes) {
        const oldest = segments[0]!;
        warn(`log: disk nearly full, giving up ${oldest.path} (seq ${oldest.firstSeq} to ${oldest.lastSeq})`);
        free += dropOldest();
      }
    } else if (free >= Math.max(2 * reserveBytes, 2 * segmentBytes)) {
      setPressure(false, 'the disk has room again: the replay window grows back');
    }
    if (rotationDue()) kick();
  };

  // ── segments ───────────────────────────────────────────────────────────────────────────────────────────────────

  const rotationDue = (): boolean =>
    activeEnd > SEGMENT_HEADER_BYTES &&
    (activeEnd >= segmentBytes || clock() - activeFirstTimeUs >= segmentAgeUs);

  /** Makes the next segment's file, its header durable. Returns its descriptor. */
  const createSegment = async (
    file: string,
    firstSeq: number,
    before: Segment | null,
    previousBytes: number,
    previousTimeUs: number,
    earliestTimeUs: number,
  ): Promise<number> => {
    const header = encodeSegmentHeader({
      seed,
      firstSeq,
      previousFirstSeq: before?.firstSeq ?? 0,
      previousBytes,
      previousTimeUs,
      earliestTimeUs,
    });
    let fd = -1;
    await withRoom(() => {
      fd = files.open(file, 'write');
    });
    if (files.size(fd) > SEGMENT_HEADER_BYTES)
      throw new LogCorruption(file, 0, 'segment header', 'a file of the next seq is there already');
    await withRoom(async () => {
      await writeAll(fd, header, 0, header.length, 0);
      await syncData(fd);
      await files.syncDirectory(dir);
    });
    return fd;
  };

  const newSegment = (file: string, firstSeq: number, lastTimeUs: number): Segment => ({
    path: file,
    firstSeq,
    lastSeq: firstSeq - 1,
    bytes: SEGMENT_HEADER_BYTES,
    lastTimeUs,
    index: createSparseIndex(firstSeq),
    closed: false,
    fd: -1,
    users: 0,
  });

  /** Closes the newest segment, all of which is durable, and starts the next. */
  const rotate = async (): Promise<void> => {
    const before = view.segments[view.segments.length - 1]!;
    const firstSeq = before.lastSeq + 1;
    const file = path.join(dir, segmentName(firstSeq));
    writeIndexFile(files, before.path, before.firstSeq, before.bytes, view.indexOf(before));
    const fd = await createSegment(
      file,
      firstSeq,
      before,
      before.bytes,
      before.lastTimeUs,
      durableNextTimeUs,
    );
    files.close(activeFd);
    activeFd = fd;
    activeEnd = SEGMENT_HEADER_BYTES;
    view.addSegment(newSegment(file, firstSeq, before.lastTimeUs));
    stats.segments++;
    stats.bytes += SEGMENT_HEADER_BYTES;
    retain(clock());
  };

  // ── recovery ───────────────────────────────────────────────────────────────────────────────────────────────────

  const recovered = await recover(files, dir, warn);
  stats.truncatedTailBytes = recovered.truncatedTailBytes;
  /** Earliest log time after what is durable, and after what is appended. */
  let durableNextTimeUs = recovered.nextTimeUs;
  let nextTimeUs = recovered.nextTimeUs;
  const seed =
    recovered.segments[0]?.header.seed ?? options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!;
  const recordSeed = BigInt(seed);
  const tailBytes = options.tailBytes ?? DEFAULT_TAIL_BYTES;
  /** Chunks to be written anew. */
  const freeChunks: Chunk[] = [];
  let chunk: Chunk = newChunk(CHUNK_BYTES);
  const tail = createTail(tailBytes, (part) => {
    const used = (part as MutablePart).chunk;
    if (--used.parts > 0 || used === chunk || used.bytes.length !== CHUNK_BYTES) return;
    if (freeChunks.length >= MAX_FREE_CHUNKS) return;
    used.used = 0;
    freeChunks.push(used);
  });
  const segments: Segment[] = recovered.segments.map((segment) => ({
    path: segment.path,
    firstSeq: segment.header.firstSeq,
    lastSeq: segment.lastSeq,
    bytes: segment.bytes,
    lastTimeUs: segment.lastTimeUs,
    index: null,
    closed: true,
    fd: -1,
    users: 0,
  }));
  const view = createView(files, recordSeed, tail, segments);
  if (segments.length === 0) {
    const firstSeq = options.firstSeq ?? 1;
    const file = path.join(dir, segmentName(firstSeq));
    activeFd = await createSegment(file, firstSeq, null, 0, 0, 0);
    segments.push(newSegment(file, firstSeq, 0));
    activeEnd = SEGMENT_HEADER_BYTES;
  } else {
    const newest = segments[segments.length - 1]!;
    newest.closed = false;
    newest.index = recovered.index;
    activeFd = files.open(newest.path, 'write');
    activeEnd = newest.bytes;
    activeFirstTimeUs = recovered.firstTimeUs;
  }
  stats.segments = segments.length;
  for (const segment of segments) stats.bytes += segment.bytes;
  const names = new Set(files.list(dir));
  for (const name of names)
    if (name.endsWith('.idx') && !names.has(name.replace(/\.idx$/, '.seg')))
      files.remove(path.join(dir, name));

  // ── host names ─────────────────────────────────────────────────────────────────────────────────────────────────

  const { names: hostNames, bytes: hostNamesBytes } = readHostNames(files, dir);
  let hostsEnd = hostNamesBytes;
  let hostLines: string[] = [];
  const hostsFd = files.open(path.join(dir, HOST_NAMES_FILE), 'write');
  if (files.size(hostsFd) > hostsEnd) {
    warn(`log: the last line of ${HOST_NAMES_FILE} was never durable; cut off`);
    files.truncate(hostsFd, hostsEnd);
  }
  await files.syncData(hostsFd);
  await files.syncDirectory(dir);

  const flushHostNames = async (): Promise<void> => {
    const bytes = new TextEncoder().encode(hostLines.join(''));
    hostLines = [];
    await withRoom(async () => {
      await writeAll(hostsFd, bytes, 0, bytes.length, hostsEnd);
      await files.syncData(hostsFd);
    });
    hostsEnd += bytes.length;
  };

  // ── append ─────────────────────────────────────────────────────────────────────────────────────────────────────

  let appendedSeq = view.lastSeq;
  /** Groups that wait, oldest first; only the last one still grows. */
  const groups: Group[] = [];
  /** The group that grows; null: the next append starts one. */
  let open: Group | null = null;

  const append = (entry: LogEntry, nowUs: number): number => {
    if (failed !== null) throw failed;
    if (closing) throw new Error('the log is closed');
    const seq = appendedSeq + 1;
    const size = recordBytes(entry, seq);
    if (size > MAX_LOGGED_RECORD_BYTES || entry.seqEnd <= entry.seqStart || entry.seqEnd > entry.frame.length)
      throw new Error('the log takes only frames of at most 5 MB that hold a seq');
    if (stats.pendingBytes + size > HARD_PENDING_BYTES)
      throw new Error(
        `${stats.pendingBytes} bytes wait for the disk: the bound on pending events was not kept`,
      );

    let flags = entry.discontinuity === true ? FLAG_DISCONTINUITY : 0;
    if (open === null || open.bytes >= MAX_GROUP_BYTES) {
      open = { parts: [], bytes: 0, records: 0, lastSeq: 0, firstTimeUs: 0, lastTimeUs: 0, nextTimeUs: 0 };
      groups.push(open);
      flags |= FLAG_GROUP_START;
    }
    if (chunk.used + size > chunk.bytes.length && chunk.parts === 0) chunk.used = 0;
    if (chunk.used + size > chunk.bytes.length)
      chunk = size > CHUNK_BYTES ? newChunk(size) : (freeChunks.pop() ?? newChunk(CHUNK_BYTES));
    const at = chunk.used;
    const timeUs = Math.max(Math.floor(nowUs), nextTimeUs);
    writeRecord(chunk.bytes, chunk.view, at, size, entry, seq, timeUs, flags, recordSeed);
    chunk.used = at + size;

    const part = open.parts[open.parts.length - 1];
    if (part === undefined || part.bytes !== chunk.bytes) {
      chunk.parts++;
      open.parts.push({
        chunk,
        firstSeq: seq,
        lastSeq: seq,
        bytes: chunk.bytes,
        view: chunk.view,
        from: at,
        to: at + size,
      });
    } else {
      part.lastSeq = seq;
      part.to = at + size;
    }
    nextTimeUs = timeUs + timeRoomUs(entry.opCount);
    if (open.records === 0) open.firstTimeUs = timeUs;
    open.records++;
    open.bytes += size;
    open.lastSeq = seq;
    open.lastTimeUs = timeUs;
    open.nextTimeUs = nextTimeUs;
    appendedSeq = seq;
    stats.appendedRecords++;
    stats.pendingBytes += size;
    if (!running) kick();
    else if (dozing && stats.pendingBytes >= EARLY_COMMIT_BYTES) wake?.();
    return seq;
  };

  // ── group commit ───────────────────────────────────────────────────────────────────────────────────────────────

  let running = false;
  /** Waiting for the next group's time, as opposed to waiting for the disk. */
  let dozing = false;
  let loop: Promise<void> = Promise.resolve();
  let lastCommitAt = Number.NEGATIVE_INFINITY;
  let waiters: Waiter[] = [];

  const commit = async (group: Group): Promise<void> => {
    const segment = view.segments[view.segments.length - 1]!;
    const start = activeEnd;
    // When a sync finds no room, what was written may be gone from the page cache: write all of it again.
    await withRoom(async () => {
      let position = start;
      for (const part of group.parts) {
        await writeAll(activeFd, part.bytes, part.from, part.to, position);
        position += part.to - part.from;
      }
      await syncData(activeFd);
    });
    let position = start;
    for (const part of group.parts) {
      segment.index!.note(seqAt(part.view, part.from), timeUsAt(part.view, part.from), position);
      position += part.to - part.from;
    }
    if (start === SEGMENT_HEADER_BYTES) activeFirstTimeUs = group.firstTimeUs;
    activeEnd = position;
    durableNextTimeUs = group.nextTimeUs;
    writtenBytes += group.bytes;
    stats.bytes += group.bytes;
    stats.pendingBytes -= group.bytes;
    view.publish(group.parts, activeEnd, group.lastSeq, group.lastTimeUs);
    const ready = waiters.filter((waiter) => waiter.seq <= group.lastSeq);
    if (ready.length > 0) {
      waiters = waiters.filter((waiter) => waiter.seq > group.lastSeq);
      for (const waiter of ready) waiter.resolve();
    }
  };

  const commitAll = async (): Promise<void> => {
    // Lets the caller's whole batch into the first group.
    await Promise.resolve();
    while (groups.length > 0 || hostLines.length > 0 || rotationDue()) {
      const waitMs = lastCommitAt + groupDelayMs - performance.now();
      if (waitMs > 0 && !closing && stats.pendingBytes < EARLY_COMMIT_BYTES) {
        dozing = true;
        await sleep(waitMs);
        dozing = false;
      }
      lastCommitAt = performance.now();
      if (rotationDue()) await rotate();
      // Until none came meanwhile: no event becomes durable before the name of its host.
      while (hostLines.length > 0) await flushHostNames();
      const group = groups.shift();
      if (group === undefined) continue;
      if (group === open) open = null;
      keepWithinBytes(group.bytes);
      await commit(group);
      if (writtenBytes - spaceCheckedAt >= SPACE_CHECK_BYTES) retain(clock());
    }
  };

  const kick = (): void => {
    if (running || failed !== null || closed) return;
    running = true;
    loop = commitAll().then(
      () => {
        running = false;
        // Something may have come after the last look.
        if (groups.length > 0 || hostLines.length > 0) kick();
      },
      (error) => {
        running = false;
        failed = error as Error;
        for (const waiter of waiters) waiter.reject(failed);
        waiters = [];
        // At close, the caller of close hears it.
        if (!(failed instanceof NoRoomAtClose)) fatal(failed);
      },
    );
  };

  const retainEveryMs = options.retainEveryMs ?? 30_000;
  const timer = retainEveryMs > 0 ? setInterval(() => retain(clock()), retainEveryMs) : null;
  timer?.unref();

  const log: Log = {
    get oldestSeq() {
      return view.oldestSeq;
    },
    get lastSeq() {
      return view.lastSeq;
    },
    get lastTimeUs() {
      return view.lastTimeUs;
    },
    get appendedSeq() {
      return appendedSeq;
    },
    get stats() {
      stats.diskReads = view.counters.diskReads;
      stats.tailReads = view.counters.tailReads;
      return stats;
    },
    hostNames,
    append,
    openCursor: view.openCursor,
    seqBeforeTime: view.seqBeforeTime,
    onDurable: view.onDurable,
    setSkippedDids: view.setSkippedDids,
    get skippedVersion() {
      return view.skipped.version;
    },
    retain,
    whenDurable: (seq) => {
      if (seq <= view.lastSeq) return Promise.resolve();
      if (failed !== null) return Promise.reject(failed);
      if (seq > appendedSeq) return Promise.reject(new Error(`seq ${seq} was not appended`));
      return new Promise((resolve, reject) => waiters.push({ seq, resolve, reject }));
    },
    nameHost: (hostId, hostname) => {
      if (hostNames.get(hostId) === hostname) return;
      hostLines.push(hostNameLine(hostId, hostname));
      hostNames.set(hostId, hostname);
      kick();
    },
    close: async () => {
      if (closed) return;
      closing = true;
      if (timer !== null) clearInterval(timer);
      while (running) {
        wake?.();
        await loop;
      }
      closed = true;
      await removals;
      files.close(activeFd);
      files.close(hostsFd);
      view.close();
      unlock();
      if (failed !== null) throw failed;
    },
  };
  retain(clock());
  return log;
};
