/**
 * What does compressing a message cost, and what does the dictionary gain? Prints, for messages of version 2 from
 * three sources, the ratio and the microseconds per message at levels 1 and 3 with the dictionary of weir, without
 * one, and with a context made for each message. Baseline: Bun.zstdCompressSync. All parts take turns in each round
 * and the best round counts: on a shared machine the ratios say more than the microseconds.
 *
 * The sources: made-up messages of a seed that the training did not see, those of the simulator, whose records know
 * nothing of the trainer's, and recorded frames of a real PDS where the fixtures are at hand.
 *
 * bun bench/jetstream-zstd.ts [ROUNDS]     default 10
 */
import { createCompressor } from '../jetstream/compress/compressor.ts';
import { loadOwnDictionary } from '../jetstream/dictionary/dictionary.ts';
import { madeMessages } from '../jetstream/dictionary/synthetic/messages.ts';
import { readEvents } from '../jetstream/encode/events.ts';
import { encodeV2 } from '../jetstream/encode/message.ts';
import { cachedRecording } from '../simulator/recording.ts';
import { scanFrame } from '../src/firehose/scan.ts';
import { framesFixture } from '../test/repo/support.ts';
import { machineLine } from './machine.ts';
import { CACHE_DIR } from './processes.ts';

const ROUNDS = Number(process.argv[2] ?? 10);
const MESSAGES = 3000;
const HELD_OUT_SEED = 4_711;
/** A context for each message takes so long that a few have to do. */
const SLOW_MESSAGES = 100;

const own = loadOwnDictionary();
if (!own.ok) throw new Error(own.problem);
const { dictionary } = own;

/** The messages of these frames. */
const messagesOf = (frames: readonly Uint8Array[]): Uint8Array[] =>
  frames.flatMap((bytes, index) => {
    const frame = scanFrame(bytes);
    if (!frame.ok) return [];
    const record = {
      seq: index + 1,
      timeUs: 1_795_235_635_000_000 + index * 1000,
      hostId: 1,
      upstreamSeq: frame.seq,
      kind: frame.kind,
      opCount: frame.ops.length,
      didHash: 0,
      frame: bytes,
    };
    return readEvents(record).flatMap((event) => encodeV2(event) ?? []);
  });

const measure = (source: string, messages: readonly Uint8Array[]): void => {
  const parts: { name: string; compress(bytes: Uint8Array): Uint8Array; count: number }[] = [
    {
      name: 'baseline: Bun.zstdCompressSync',
      compress: (bytes) => Bun.zstdCompressSync(bytes as Uint8Array<ArrayBuffer>),
      count: messages.length,
    },
  ];
  for (const level of [1, 3]) {
    parts.push(
      {
        name: `no dictionary, level ${level}`,
        ...createCompressor({ dictionary: null, level }),
        count: messages.length,
      },
      {
        name: `dictionary, level ${level}`,
        ...createCompressor({ dictionary, level }),
        count: messages.length,
      },
    );
  }
  parts.push({
    name: 'dictionary, a context for each message',
    ...createCompressor({ dictionary, open: () => null }),
    count: Math.min(SLOW_MESSAGES, messages.length),
  });
  const best = parts.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < ROUNDS; round++) {
    parts.forEach(({ compress, count }, part) => {
      const start = Bun.nanoseconds();
      for (let i = 0; i < count; i++) compress(messages[i]!);
      best[part] = Math.min(best[part]!, (Bun.nanoseconds() - start) / 1000 / count);
    });
  }
  const bytesIn = messages.reduce((sum, { length }) => sum + length, 0);
  console.log(`\n${source}: ${messages.length} messages of ${Math.round(bytesIn / messages.length)} bytes`);
  parts.forEach(({ name, compress }, part) => {
    const bytesOut = messages.reduce((sum, bytes) => sum + compress(bytes).length, 0);
    console.log(
      `  ${name.padEnd(40)} ratio ${(bytesIn / bytesOut).toFixed(2)}  ${best[part]!.toFixed(1).padStart(6)} µs/message`,
    );
  });
};

console.log(`jetstream-zstd · ${machineLine()}`);
console.log(`dictionary ${dictionary.id}, ${dictionary.bytes.length} bytes`);
measure(
  'made up, not seen in training',
  madeMessages(MESSAGES, HELD_OUT_SEED, ['v2']).map(({ json }) => Buffer.from(json)),
);
const recording = await cachedRecording(CACHE_DIR, { hosts: 20, accounts: 5000, seed: 3, events: MESSAGES });
measure('simulator', messagesOf(Array.from({ length: MESSAGES }, (_, i) => recording.frameAt(i).slice())));
for (const [name, file] of [
  ['a real PDS, small repositories', 'realframes/frames.lp.bin'],
  ['one repository of 20,000 records', 'realframes/synth20000.lp.bin'],
] as const) {
  const frames = framesFixture(file);
  if (frames !== null) measure(name, messagesOf(frames));
}
