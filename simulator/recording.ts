/**
 * Traffic made ahead of time, so that it can outrun any relay: a file of frames, played at a rate or as fast
 * as subscribers read.
 *
 * The file, all numbers little-endian:
 *   bytes 0–7     "weirrec1"
 *   u32           length of the header
 *   header        JSON: {options, events, ratePerSecond, startMs, indexOffset}, padded with spaces
 *   frames        one after the other, as they go onto the wire
 *   index         per event, in the order made: u32 host, u32 length of the frame, f64 seq
 *
 * Played frames carry revs of when they were made. The accounts, keys and hosts come from the seed again, so a
 * network built with the header's options serves the right directory; only the repos its hosts serve by HTTP
 * are those before the recording. A recording holds nothing that changes the directory, and every event in it
 * is one to deliver.
 */
import { closeSync, existsSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { createNetwork, type NetworkOptions } from './network.ts';
import { createRandom, mixSeed } from './random.ts';
import type { EventStore } from './stream.ts';
import { STEADY_MIX } from './traffic.ts';

/** The options of a network that decide what its traffic is. */
export type RecordedOptions = Pick<
  NetworkOptions,
  | 'hosts'
  | 'accounts'
  | 'seed'
  | 'largeRepoRecords'
  | 'largeRepoShare'
  | 'p256Share'
  | 'legacyDocumentShare'
  | 'hostZipfExponent'
>;

interface Header {
  readonly options: RecordedOptions;
  readonly events: number;
  readonly ratePerSecond: number;
  readonly startMs: number;
  readonly indexOffset: number;
}

export interface Recording {
  readonly options: RecordedOptions;
  readonly events: number;
  readonly frameBytes: number;
  /** Host index of an event, in the order made. */
  hostAt(event: number): number;
  seqAt(event: number): number;
  frameAt(event: number): Uint8Array;
  /** The events of each host, as indexes in the order made. */
  readonly byHost: readonly Uint32Array[];
}

const MAGIC = Buffer.from('weirrec1');
const HEADER_BYTES = 1024;
const INDEX_ENTRY_BYTES = 16;
const CHUNK_BYTES = 4 * 1024 * 1024;

export interface MakeOptions extends RecordedOptions {
  readonly events: number;
  /** The pace of the clock that revs are made from; not the pace of making or playing. Default 1,000. */
  readonly ratePerSecond?: number;
  /** When the recording begins; by default so that it ends now. */
  readonly startMs?: number;
}

/** Makes a recording and writes it to `path`. Takes roughly 100 µs an event. Throws on I/O errors. */
export const makeRecording = async (path: string, options: MakeOptions): Promise<void> => {
  const { events, ratePerSecond = 1000, startMs: wantedStartMs, ...recorded } = options;
  const startMs = wantedStartMs ?? Date.now() - Math.ceil((events / ratePerSecond) * 1000) - 1000;
  const seed = recorded.seed ?? 1;
  const file = openSync(path, 'w');
  try {
    const index = Buffer.alloc(events * INDEX_ENTRY_BYTES);
    const chunk = Buffer.alloc(CHUNK_BYTES);
    let filled = 0;
    let made = 0;
    let offset = HEADER_BYTES;
    const flush = (): void => {
      writeSync(file, chunk, 0, filled);
      filled = 0;
    };
    writeSync(file, Buffer.alloc(HEADER_BYTES, 0x20));
    let clockMs = startMs;
    const network = await createNetwork({
      ...recorded,
      mix: STEADY_MIX,
      ledgerEntries: 0,
      clock: () => Math.floor(clockMs),
      onEmitted: ({ hostIndex, seq, frame }) => {
        if (typeof frame === 'string' || made >= events) return;
        if (filled + frame.length > CHUNK_BYTES) flush();
        if (frame.length > CHUNK_BYTES) writeSync(file, frame);
        else {
          chunk.set(frame, filled);
          filled += frame.length;
        }
        const at = made++ * INDEX_ENTRY_BYTES;
        index.writeUInt32LE(hostIndex, at);
        index.writeUInt32LE(frame.length, at + 4);
        index.writeDoubleLE(seq, at + 8);
        offset += frame.length;
      },
    });
    const pace = createRandom(mixSeed(seed, 6));
    while (made < events) {
      network.generate(1);
      clockMs += pace.gap(ratePerSecond / 1000);
    }
    flush();
    writeSync(file, index);
    const header: Header = { options: recorded, events, ratePerSecond, startMs, indexOffset: offset };
    const text = Buffer.from(JSON.stringify(header));
    if (12 + text.length > HEADER_BYTES) throw new Error('the recording’s options are too long');
    const start = Buffer.alloc(12);
    MAGIC.copy(start);
    start.writeUInt32LE(HEADER_BYTES - 12, 8);
    writeSync(file, start, 0, 12, 0);
    writeSync(file, text, 0, text.length, 12);
  } finally {
    closeSync(file);
  }
};

/** Opens a recording; frames stay in the file's pages until read. Throws when it is not one, or is cut short. */
export const openRecording = (path: string): Recording => {
  const bytes = Bun.mmap(path);
  if (bytes.length < HEADER_BYTES || !MAGIC.equals(bytes.subarray(0, 8))) {
    throw new Error(`${path} is not a recording`);
  }
  const header = JSON.parse(Buffer.from(bytes.subarray(12, HEADER_BYTES)).toString()) as Header;
  const { events, indexOffset } = header;
  if (bytes.length !== indexOffset + events * INDEX_ENTRY_BYTES) {
    throw new Error(`${path} is cut short: make it again`);
  }
  const index = new DataView(bytes.buffer, bytes.byteOffset + indexOffset, events * INDEX_ENTRY_BYTES);
  const offsets = new Float64Array(events + 1);
  const counts = new Uint32Array(header.options.hosts);
  offsets[0] = HEADER_BYTES;
  for (let event = 0; event < events; event++) {
    const at = event * INDEX_ENTRY_BYTES;
    counts[index.getUint32(at, true)]!++;
    offsets[event + 1] = offsets[event]! + index.getUint32(at + 4, true);
  }
  const byHost = Array.from(counts, (count) => new Uint32Array(count));
  counts.fill(0);
  for (let event = 0; event < events; event++) {
    const host = index.getUint32(event * INDEX_ENTRY_BYTES, true);
    byHost[host]![counts[host]!++] = event;
  }
  return {
    options: header.options,
    events,
    frameBytes: indexOffset - HEADER_BYTES,
    hostAt: (event) => index.getUint32(event * INDEX_ENTRY_BYTES, true),
    seqAt: (event) => index.getFloat64(event * INDEX_ENTRY_BYTES + 8, true),
    frameAt: (event) => bytes.subarray(offsets[event]!, offsets[event + 1]!),
    byHost,
  };
};

/**
 * The recording with these options from `directory`, made first if it is not there. A recording made long ago
 * is as good as a new one: revs only have to grow.
 */
export const cachedRecording = async (directory: string, options: MakeOptions): Promise<Recording> => {
  mkdirSync(directory, { recursive: true });
  const { startMs: _, ...named } = options;
  const name = Bun.hash(JSON.stringify(Object.entries(named).sort())).toString(36);
  const path = join(directory, `${options.hosts}-hosts-${options.events}-events-${name}.weirrec`);
  if (!existsSync(path)) {
    const unfinished = `${path}.${process.pid}`;
    await makeRecording(unfinished, options);
    renameSync(unfinished, path);
  }
  return openRecording(path);
};

/** The events of one host in a recording, of which the first `end` have happened. */
export interface RecordedStore extends EventStore {
  end: number;
}

export const createRecordedStore = (recording: Recording, hostIndex: number): RecordedStore => {
  const events = recording.byHost[hostIndex]!;
  return {
    first: 0,
    end: 0,
    lostSeq: 0,
    frameAt: (position) => recording.frameAt(events[position]!),
    highSeqAt: (position) => recording.seqAt(events[position]!),
  };
};
