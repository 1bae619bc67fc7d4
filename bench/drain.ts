/**
 * Consumers of a firehose, in their own process: `live` or `cold` ones, some of them stalled. Told by lines on stdin.
 * The first one checks that seqs have no gap, and with a recording can say how long events took to get here.
 */

import { cachedRecording, type MakeOptions } from '../simulator/recording.ts';
import { scanFrame } from '../src/firehose/scan.ts';
import { connectFirehose, type FirehoseClient } from './firehose-client.ts';
import { percentile } from './machine.ts';
import { CACHE_DIR, onMessages, say } from './processes.ts';

export interface DrainOptions {
  readonly url: string;
  readonly consumers?: number;
  readonly cursor?: number;
  /** The recording that is played, for latencies. */
  readonly recording?: MakeOptions;
  /** The first one looks into each frame. */
  readonly looks?: boolean;
  /** They read nothing; one that is cut off comes again. */
  readonly stalled?: boolean;
  /** Frames say in their `time` when they were sent, to a millisecond. */
  readonly timed?: boolean;
}

/** A paused socket is not told that it was cut off (its cursor fell out of the window): each comes anew this often. */
const STALLED_MS = 60_000;

const options = JSON.parse(process.argv[2]!) as DrainOptions;
const { url, consumers = 1, looks = false } = options;
const counters = { gaps: 0, lastSeq: 0, errors: 0 };
const latencies: number[] = [];
let timing: { from: number; startedAtMs: number; rate: number } | null = null;
const events = new Map<string, number>();
if (options.recording !== undefined) {
  const recording = await cachedRecording(CACHE_DIR, options.recording);
  for (let event = 0; event < recording.events; event++) {
    const frame = scanFrame(recording.frameAt(event));
    if (frame.ok && frame.rev !== '') events.set(frame.did + frame.rev, event);
  }
}

const TIME_KEY = Buffer.from('dtime');

/** The text of `time`, which is 24 characters long and follows its key and two bytes of length. */
const timeOf = (bytes: Uint8Array): string => {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const at = buffer.indexOf(TIME_KEY) + TIME_KEY.length + 2;
  return buffer.toString('latin1', at, at + 24);
};

const look = (bytes: Uint8Array): void => {
  const frame = scanFrame(bytes);
  if (!frame.ok || frame.seq === 0) {
    counters.errors++;
    return;
  }
  if (counters.lastSeq > 0 && frame.seq !== counters.lastSeq + 1) counters.gaps++;
  counters.lastSeq = frame.seq;
  if (options.timed === true) {
    latencies.push(Date.now() - Date.parse(timeOf(bytes)));
    return;
  }
  if (timing === null || frame.rev === '') return;
  const event = events.get(frame.did + frame.rev);
  if (event === undefined || event < timing.from) return;
  const dueAtMs = timing.startedAtMs + ((event - timing.from) * 1000) / timing.rate;
  latencies.push(Date.now() - dueAtMs);
};

const clients: FirehoseClient[] = [];
let target = Number.POSITIVE_INFINITY;
const frames = (): number => clients.reduce((sum, { counters }) => sum + counters.frames, 0);
const check = (): void => {
  if (frames() < target) return;
  target = Number.POSITIVE_INFINITY;
  say({ reached: { frames: frames(), atMs: Date.now() } });
};
const connect = async (count: number, cursor: number | undefined): Promise<void> => {
  for (let index = 0; index < count; index++) {
    clients.push(
      await connectFirehose({
        url,
        ...(cursor === undefined ? {} : { cursor }),
        ...(clients.length === 0 && looks ? { onFrame: look } : {}),
        onRead: check,
      }),
    );
  }
};
/** One place of a consumer that takes nothing, for ever. */
const stall = async (): Promise<void> => {
  for (;;) {
    try {
      const client = await connectFirehose({
        url,
        ...(options.cursor === undefined ? {} : { cursor: options.cursor }),
      });
      client.pause();
      await Promise.race([client.closed, Bun.sleep(STALLED_MS)]);
      client.resume();
      client.end();
    } catch {
      await Bun.sleep(1_000);
    }
  }
};

if (options.stalled === true) for (let index = 0; index < consumers; index++) void stall();
else await connect(consumers, options.cursor);
say({ ready: { consumers } });

process.on('SIGTERM', () => process.exit(0));
await onMessages((message) => {
  switch (message.do) {
    case 'connect':
      void connect(message.consumers as number, message.cursor as number | undefined);
      break;
    case 'clear':
      latencies.length = 0;
      break;
    case 'until':
      target = message.frames as number;
      check();
      break;
    case 'time':
      timing = message.timing as typeof timing;
      latencies.length = 0;
      break;
    case 'report':
      say({
        report: {
          frames: frames(),
          bytes: clients.reduce((sum, { counters }) => sum + counters.bytes, 0),
          ...counters,
          latencies: latencies.length,
          p50: percentile(latencies, 0.5),
          p99: percentile(latencies, 0.99),
          max: percentile(latencies, 1),
        },
      });
      break;
  }
});
process.exit(0);
