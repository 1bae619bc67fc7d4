import { afterEach, beforeEach, describe, expect, test } from 'bun:test';
import { decodeFirst } from 'cborg';
import { type LogOptions, openLog } from '../../src/log/log.ts';
import type { Log } from '../../src/log/types.ts';
import { makeDirectory, makeEntry, numbers, readAll } from './helpers.ts';

let place: ReturnType<typeof makeDirectory>;
beforeEach(() => {
  place = makeDirectory();
});
afterEach(() => place.remove());

const HOUR_MS = 3_600_000;
const START_US = 1_800_000_000_000_000;

const open = (more: Partial<LogOptions> = {}): Promise<Log> =>
  openLog({
    dir: place.dir,
    windowMs: 72 * HOUR_MS,
    maxBytes: 1e12,
    groupDelayMs: 0,
    retainEveryMs: 0,
    reserveBytes: 0,
    clock: () => START_US,
    warn: (message) => {
      throw new Error(`unexpected warning: ${message}`);
    },
    ...more,
  });

const seqOfFrame = (frame: Uint8Array): number => {
  const [, body] = decodeFirst(frame);
  return (decodeFirst(body)[0] as { seq: number }).seq;
};

describe('a new log', () => {
  test('is empty, gives out seq 1 first, and nothing is visible before it is durable', async () => {
    const log = await open();
    expect([log.oldestSeq, log.lastSeq, log.lastTimeUs, log.appendedSeq]).toEqual([1, 0, 0, 0]);
    const cursor = log.openCursor(0);
    expect(log.append(makeEntry(500), START_US)).toBe(1);
    expect(cursor.next(1e6)).toEqual([]);
    expect([log.lastSeq, log.appendedSeq]).toEqual([0, 1]);
    await log.whenDurable(1);
    const [record] = readAll(cursor);
    expect(record).toMatchObject({
      seq: 1,
      timeUs: START_US,
      hostId: 7,
      upstreamSeq: 500,
      kind: 1,
      opCount: 1,
    });
    expect(seqOfFrame(record!.frame)).toBe(1);
    await log.close();
  });

  test('splices its seq into the frame and leaves every other byte as it was', async () => {
    const log = await open({ segmentBytes: 5000 });
    const upstream = [1, 23, 24, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1];
    const entries = numbers(1, 600).map((i) => makeEntry(upstream[i % upstream.length]!, i));
    for (const entry of entries) log.append(entry, START_US);
    await log.whenDurable(600);
    for (const record of readAll(log.openCursor(0))) {
      const entry = entries[record.seq - 1]!;
      expect(seqOfFrame(record.frame)).toBe(record.seq);
      expect(record.upstreamSeq).toBe(entry.upstreamSeq);
      const width = record.frame.length - entry.frame.length + entry.seqEnd - entry.seqStart;
      expect(Buffer.from(record.frame.subarray(0, entry.seqStart))).toEqual(
        Buffer.from(entry.frame.subarray(0, entry.seqStart)),
      );
      expect(Buffer.from(record.frame.subarray(entry.seqStart + width))).toEqual(
        Buffer.from(entry.frame.subarray(entry.seqEnd)),
      );
    }
    await log.close();
  });
});

describe('a log opened again', () => {
  test('goes on with the next seq and gives every event to every cursor, across segments', async () => {
    for (let round = 0; round < 4; round++) {
      const log = await open({ segmentBytes: 3000, tailBytes: 4000 });
      expect(log.lastSeq).toBe(round * 100);
      for (let i = 0; i < 100; i++) {
        log.append(makeEntry(round * 100 + i + 1), START_US);
        if (i % 7 === 0) await log.whenDurable(log.appendedSeq);
      }
      await log.whenDurable(log.appendedSeq);
      const last = (round + 1) * 100;
      for (let cursor = 0; cursor <= last; cursor++) {
        const records = readAll(log.openCursor(cursor), 700);
        expect(records.map((record) => record.seq)).toEqual(numbers(cursor + 1, last));
        expect(records.map((record) => record.upstreamSeq)).toEqual(numbers(cursor + 1, last));
      }
      expect(log.stats.segments).toBeGreaterThan(round * 3);
      await log.close();
    }
  });
});
