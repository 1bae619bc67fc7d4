/**
 * Messages to zstd frames, one frame per message, with or without a dictionary.
 *
 * Promises: each frame says in its header how much it holds and which dictionary it needs, has no checksum, and is
 * memory of its own (but for `lend`). A dictionary is never silently left out: every compressor is tried when it is made, by reading
 * the frame it makes, and after that each frame's descriptor is compared with that first one's.
 */
import zlib from 'node:zlib';
import type { Dictionary } from '../dictionary/types.ts';
import { openContext, type WriteFrame } from './context.ts';
import { decompress } from './decompress.ts';
import { readFrameHeader } from './frame-header.ts';
import { openPackagedContext } from './packaged.ts';

export interface CompressorCounters {
  messages: number;
  /** Before and after; their quotient is the ratio. */
  bytesIn: number;
  bytesOut: number;
}

export interface Compressor {
  /** The frame of one message, in memory of its own. */
  compress(bytes: Uint8Array): Uint8Array;
  /** The same frame, valid only until anything is compressed again: for frames that nobody keeps. */
  lend(bytes: Uint8Array): Uint8Array;
  /** As it stands in every frame; 0: no dictionary. */
  readonly dictionaryId: number;
  /**
   * false: neither the package nor this Bun gives a context that can be kept, or the one they gave has failed; so each
   * message makes one, at a hundred times the cost.
   */
  readonly native: boolean;
  readonly counters: Readonly<CompressorCounters>;
}

export interface CompressorOptions {
  readonly dictionary: Dictionary | null;
  /** 1 is the fastest, 19 the densest; DEFAULT_LEVEL when absent. */
  readonly level?: number;
  /** For tests: another way to get a context. */
  readonly open?: typeof openContext;
}

/** The fastest: level 3 takes half as long again (bench/jetstream-zstd.ts), for frames 2 % smaller. */
export const DEFAULT_LEVEL = 1;
/** Room for frames that is kept. Longer ones, which are rare, get room of their own. */
const KEPT_ROOM_BYTES = 256 * 1024;
/** A frame is never longer than its content by more than this: headers, and 3 bytes for each 128 KB block. */
const roomFor = (length: number): number => length + (length >> 8) + 64;

const trial = Buffer.from('{"did":"did:web:example.com","time_us":1700000000000000,"kind":"commit","n":"☂"}');

/** The documented one where its native code was built, else the one that Bun has within. Both make the same frames. */
const openAny: typeof openContext = (dictionary, level) =>
  openPackagedContext(dictionary, level) ?? openContext(dictionary, level);

/** Why frames made like this one cannot be sent; null when they can. */
const faultOf = (frame: Uint8Array, dictionary: Dictionary | null): string | null => {
  const header = readFrameHeader(frame);
  if (header === null) return 'it makes no zstd frames';
  const id = dictionary?.id ?? 0;
  if (header.dictionaryId !== id) return `its frames name dictionary ${header.dictionaryId}, not ${id}`;
  if (header.contentSize !== trial.length) return 'its frames do not say how much they hold';
  const back = decompress(frame, dictionary, trial.length);
  if (!back.ok) return `its frames cannot be read: ${back.problem}`;
  return Buffer.compare(back.bytes, trial) === 0 ? null : 'its frames hold something else';
};

const perMessage = (dictionary: Dictionary | null, level: number, bytes: Uint8Array): Uint8Array =>
  zlib.zstdCompressSync(bytes, {
    params: { [zlib.constants.ZSTD_c_compressionLevel]: level },
    ...(dictionary === null ? {} : { dictionary: dictionary.bytes }),
  });

const slowFault = (dictionary: Dictionary | null, level: number): string | null => {
  try {
    return faultOf(perMessage(dictionary, level, trial), dictionary);
  } catch (error) {
    return (error as Error).message;
  }
};

/**
 * A compressor for one dictionary and level. Throws when frames cannot be made as promised: with a dictionary from
 * readDictionary, which tried it, that means that this Bun's zstd is not as expected.
 */
export const createCompressor = ({
  dictionary,
  level = DEFAULT_LEVEL,
  open = openAny,
}: CompressorOptions): Compressor => {
  const counters: CompressorCounters = { messages: 0, bytesIn: 0, bytesOut: 0 };
  const room = new Uint8Array(KEPT_ROOM_BYTES);
  /** Of the first frame, the bits that say which dictionary is needed. */
  let idBits = -1;

  let write: WriteFrame | null = open(dictionary?.bytes ?? null, level);
  if (write !== null) {
    const length = write(trial, room);
    if (length < 0 || faultOf(room.subarray(0, length), dictionary) !== null) write = null;
    else idBits = room[4]! & 3;
  }
  if (write === null) {
    const fault = slowFault(dictionary, level);
    if (fault !== null) throw new Error(`zstd does not work as expected: ${fault}`);
  }

  const frameOf = (bytes: Uint8Array): Uint8Array => {
    if (write === null) return perMessage(dictionary, level, bytes);
    const needed = roomFor(bytes.length);
    const target = needed <= room.length ? room : new Uint8Array(needed);
    const length = write(bytes, target);
    if (length < 0 || (target[4]! & 3) !== idBits) {
      write = null;
      return perMessage(dictionary, level, bytes);
    }
    return target.subarray(0, length);
  };

  const lend = (bytes: Uint8Array): Uint8Array => {
    const frame = frameOf(bytes);
    counters.messages++;
    counters.bytesIn += bytes.length;
    counters.bytesOut += frame.length;
    return frame;
  };

  return {
    dictionaryId: dictionary?.id ?? 0,
    get native() {
      return write !== null;
    },
    counters,
    compress(bytes) {
      const frame = lend(bytes);
      return frame.buffer === room.buffer ? frame.slice() : frame;
    },
    lend,
  };
};
