/**
 * What does it cost to make an event's JSON? Prints microseconds per commit for locating the events and per op for
 * the messages, beside what libraries take for the record alone: @ipld/dag-cbor and @atproto/lex-json, and
 * @ipld/dag-cbor with JSON.stringify. All parts take turns in each round and the best round counts: on a shared
 * machine the ratios say more than the microseconds. The scan of the frame is measured beside, since locating the
 * events is that and little more.
 *
 * bun bench/jetstream-encode.ts [ROUNDS]     default 30
 */
import { lexStringify } from '@atproto/lex-json';
import * as dagCbor from '@ipld/dag-cbor';
import { type LocatedEvent, locateRecords, readEvents } from '../jetstream/encode/events.ts';
import { encodeV1, encodeV2 } from '../jetstream/encode/message.ts';
import { recordJson } from '../jetstream/encode/record-json.ts';
import { cachedRecording } from '../simulator/recording.ts';
import { scanFrame } from '../src/firehose/scan.ts';
import { KIND } from '../src/firehose/types.ts';
import type { LogRecord } from '../src/log/types.ts';
import { framesFixture } from '../test/repo/support.ts';
import { machineLine } from './machine.ts';
import { CACHE_DIR } from './processes.ts';

const ROUNDS = Number(process.argv[2] ?? 30);
const EVENTS = 3000;

/** The commits among these frames, as the log has them. */
const commitsOf = (frames: readonly Uint8Array[]): LogRecord[] =>
  frames.flatMap((bytes, index) => {
    const frame = scanFrame(bytes);
    if (!frame.ok || frame.kind !== KIND.commit) return [];
    return {
      seq: index + 1,
      timeUs: 1_795_235_635_000_000 + index * 1000,
      hostId: 1,
      upstreamSeq: frame.seq,
      kind: frame.kind,
      opCount: frame.ops.length,
      didHash: 0,
      frame: bytes,
    };
  });

/** Links and bytes as JSON.stringify needs them. */
const replacer = (_: string, value: unknown): unknown => {
  if (value instanceof Uint8Array)
    return { $bytes: Buffer.from(value).toString('base64').replace(/=+$/, '') };
  if (value === null || typeof value !== 'object') return value;
  // multiformats gives its CIDs a toJSON of another form, which has run before the replacer.
  const link = (value as { '/'?: unknown })['/'];
  return typeof link === 'string' ? { $link: link } : value;
};

function measure(name: string, commits: readonly LogRecord[]): void {
  const utf8 = new TextEncoder();
  const best = new Map<string, number>();
  const time = (part: string, count: number, run: () => void): void => {
    const start = Bun.nanoseconds();
    run();
    const us = (Bun.nanoseconds() - start) / 1000 / count;
    best.set(part, Math.min(best.get(part) ?? Number.POSITIVE_INFINITY, us));
  };
  const fresh = (): LocatedEvent[] => commits.flatMap((commit) => readEvents(commit) as LocatedEvent[]);
  const ops = fresh();
  for (const event of ops) if (!event.located) locateRecords(event.siblings);
  const records = ops
    .filter(({ recordStart }) => recordStart > 0)
    .map(({ source, recordStart, recordEnd }) => source.frame.subarray(recordStart, recordEnd));
  let bytes = 0;
  for (let round = 0; round < ROUNDS; round++) {
    time('scan', commits.length, () => {
      for (const { frame } of commits) scanFrame(frame);
    });
    time('events', commits.length, () => {
      for (const commit of commits) readEvents(commit);
    });
    const [first, second, both] = [fresh(), fresh(), fresh()];
    bytes = 0;
    time('v1', ops.length, () => {
      for (const event of first) bytes += encodeV1(event)!.length;
    });
    time('v2', ops.length, () => {
      for (const event of second) encodeV2(event);
    });
    time('both', ops.length, () => {
      for (const event of both) {
        encodeV1(event);
        encodeV2(event);
      }
    });
    time('record', records.length, () => {
      for (const record of records) recordJson(record);
    });
    time('lex-json', records.length, () => {
      for (const record of records) utf8.encode(lexStringify(dagCbor.decode(record)));
    });
    time('stringify', records.length, () => {
      for (const record of records) utf8.encode(JSON.stringify(dagCbor.decode(record), replacer));
    });
  }
  const us = (part: string): number => best.get(part)!;
  const line = (text: string, part: string, more = ''): void =>
    console.log(`  ${text.padEnd(44)}${us(part).toFixed(2).padStart(7)} µs${more}`);
  const times = (part: string): string => `   = ${(us(part) / us('record')).toFixed(1)} × ours`;
  console.log(
    `\n${name}: ${commits.length} commits, ${(ops.length / commits.length).toFixed(2)} ops each, ` +
      `${Math.round(bytes / ops.length)} bytes a message of v1`,
  );
  line('scan of the frame, per commit', 'scan');
  line('events located, with that scan, per commit', 'events');
  line('message of v1, per op', 'v1');
  line('message of v2, per op', 'v2');
  line('both messages, per op', 'both');
  line('record alone, as bytes, per record', 'record');
  line('  @ipld/dag-cbor and @atproto/lex-json', 'lex-json', times('lex-json'));
  line('  @ipld/dag-cbor and JSON.stringify', 'stringify', times('stringify'));
  const whole = us('events') / (ops.length / commits.length) + us('v1');
  console.log(
    `  from log record to message of v1, per op: ${whole.toFixed(2)} µs, ${Math.round(1e6 / whole)} events/s`,
  );
}

console.log(`jetstream-encode · ${machineLine()}`);
const recording = await cachedRecording(CACHE_DIR, { hosts: 20, accounts: 5000, seed: 3, events: EVENTS });
measure(
  'simulated network',
  commitsOf(Array.from({ length: recording.events }, (_, event) => recording.frameAt(event).slice())),
);
for (const [name, file] of [
  ['real PDS, small repositories', 'realframes/frames.lp.bin'],
  ['one repository of 20,000 records', 'realframes/synth20000.lp.bin'],
] as const) {
  const frames = framesFixture(file);
  if (frames !== null) measure(name, commitsOf(frames));
}
