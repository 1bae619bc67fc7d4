import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { KIND } from '../../src/firehose/types.ts';
import { didHash } from '../../src/log/did-hash.ts';
import type { LogOptions } from '../../src/log/log.ts';
import type { Log, LogCursor, LogRecord } from '../../src/log/types.ts';
import { makeEntry, numbers, readAll } from './helpers.ts';
import { createMemoryFiles, type MemoryFiles } from './memory-files.ts';
import { openMemoryLog, START_US } from './memory-log.ts';

const seqsOf = (records: readonly LogRecord[]): number[] => records.map((record) => record.seq);

describe('cursors', () => {
  test('see exactly the events after them, in order, whatever is appended, rotated, restarted and dropped meanwhile', async () => {
    const step = fc.oneof(
      {
        weight: 5,
        arbitrary: fc.record({
          do: fc.constant('append' as const),
          count: fc.integer({ min: 1, max: 12 }),
          bytes: fc.integer({ min: 0, max: 1500 }),
        }),
      },
      { weight: 3, arbitrary: fc.record({ do: fc.constant('durable' as const) }) },
      {
        weight: 3,
        arbitrary: fc.record({
          do: fc.constant('open' as const),
          at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        }),
      },
      {
        weight: 6,
        arbitrary: fc.record({
          do: fc.constant('read' as const),
          which: fc.nat(20),
          maxBytes: fc.integer({ min: 1, max: 6000 }),
        }),
      },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('restart' as const) }) },
      {
        weight: 1,
        arbitrary: fc.record({
          do: fc.constant('retain' as const),
          keep: fc.integer({ min: 2000, max: 20_000 }),
        }),
      },
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 10, maxLength: 60 }),
        fc.integer({ min: 1, max: 20_000 }),
        async (steps, tailBytes) => {
          const files = createMemoryFiles();
          let maxBytes = 1e12;
          const options = {
            segmentBytes: 4000,
            tailBytes,
            get maxBytes() {
              return maxBytes;
            },
          };
          let log = await openMemoryLog(files, options);
          const sizes: number[] = [];
          let readers: { cursor: LogCursor; at: number }[] = [];

          const read = (reader: { cursor: LogCursor; at: number }, bytes: number): boolean => {
            const records = reader.cursor.next(bytes);
            if (records === 'behind') {
              expect(reader.at + 1).toBeLessThan(log.oldestSeq);
              return false;
            }
            expect(seqsOf(records)).toEqual(numbers(reader.at + 1, reader.at + records.length));
            for (const record of records) {
              expect(record.upstreamSeq).toBe(record.seq * 3);
              expect(Buffer.from(record.frame.subarray(-sizes[record.seq - 1]! - 1))).toEqual(
                Buffer.from(
                  makeEntry(record.seq * 3, sizes[record.seq - 1]!).frame.subarray(
                    -sizes[record.seq - 1]! - 1,
                  ),
                ),
              );
            }
            if (records.length === 0) expect(reader.at).toBe(log.lastSeq);
            reader.at += records.length;
            expect(reader.cursor.seq).toBe(reader.at);
            return records.length > 0;
          };

          for (const each of steps) {
            if (each.do === 'append')
              for (let i = 0; i < each.count; i++) {
                sizes.push(each.bytes);
                log.append(makeEntry(sizes.length * 3, each.bytes), START_US);
              }
            else if (each.do === 'durable') await log.whenDurable(log.appendedSeq);
            else if (each.do === 'open') {
              const at = log.oldestSeq - 1 + Math.floor(each.at * (log.lastSeq - log.oldestSeq + 2));
              readers.push({ cursor: log.openCursor(at, { reusesMemory: readers.length % 2 === 1 }), at });
            } else if (each.do === 'read') {
              const reader = readers[each.which % Math.max(1, readers.length)];
              if (reader !== undefined) read(reader, each.maxBytes);
            } else if (each.do === 'restart') {
              await log.close();
              log = await openMemoryLog(files, options);
              expect(log.lastSeq).toBe(sizes.length);
              readers = readers.map(({ at }) => ({ cursor: log.openCursor(at), at }));
            } else {
              maxBytes = each.keep;
              const before = log.oldestSeq;
              log = await reopenWith(log, files, options);
              maxBytes = 1e12;
              expect(log.oldestSeq).toBeGreaterThanOrEqual(before);
              readers = readers.map(({ at }) => ({ cursor: log.openCursor(at), at }));
            }
          }
          await log.whenDurable(log.appendedSeq);
          for (const reader of readers) while (read(reader, 3000));
          for (let at = log.oldestSeq - 1; at <= log.lastSeq; at++)
            expect(seqsOf(readAll(log.openCursor(at)))).toEqual(numbers(at + 1, log.lastSeq));
          await log.close();
        },
      ),
      { numRuns: 120 },
    );
  });

  test('cross from disk to memory while appends go on, fifty at once', async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files, { segmentBytes: 20_000, tailBytes: 30_000 });
    for (let i = 1; i <= 2000; i++) log.append(makeEntry(i, 100), START_US);
    await log.whenDurable(2000);
    const readers = numbers(0, 49).map((i) => ({
      cursor: log.openCursor(i * 40),
      seen: [] as number[],
      from: i * 40,
    }));
    let appended = 2000;
    for (let round = 0; appended < 6000 || readers.some(({ cursor }) => cursor.seq < appended); round++) {
      for (let i = 0; i < 25 && appended < 6000; i++) log.append(makeEntry(++appended, 100), START_US);
      if (round % 3 === 0) await log.whenDurable(log.appendedSeq);
      for (const [i, reader] of readers.entries()) {
        const records = reader.cursor.next(2000 + i * 300);
        expect(records).not.toBe('behind');
        if (records !== 'behind') for (const record of records) reader.seen.push(record.seq);
      }
    }
    for (const { seen, from } of readers) expect(seen).toEqual(numbers(from + 1, 6000));
    expect(log.stats.diskReads).toBeGreaterThan(0);
    expect(log.stats.tailReads).toBeGreaterThan(0);
    await log.close();
  });

  test('at the end of the log share the very records of the tail', async () => {
    const log = await openMemoryLog(createMemoryFiles());
    const [one, two] = [log.openCursor(0), log.openCursor(0)];
    for (let i = 1; i <= 10; i++) log.append(makeEntry(i), START_US);
    await log.whenDurable(10);
    const records = one.next(1e6);
    expect(records).toBe(two.next(1e6));
    expect(records).toHaveLength(10);
    expect(one.inTail).toBe(true);
    await log.close();
  });

  test('give out frames that stay as they are, however much is appended and forgotten after', async () => {
    for (const tailBytes of [1, 600_000, 3_000_000, 30_000_000]) {
      const log = await openMemoryLog(createMemoryFiles(), { tailBytes });
      const cursors = [log.openCursor(0), log.openCursor(0)];
      const held: LogRecord[] = [];
      for (let i = 1; i <= 1500; i++) {
        log.append(makeEntry(i, 2000 + (i % 5) * 1000), START_US);
        if (i % 50 !== 0) continue;
        await log.whenDurable(i);
        held.push(...readAll(cursors[0]!));
        // One that lags by more than what is shared.
        if (i % 500 === 0) held.push(...(cursors[1]!.next(100_000) as LogRecord[]));
      }
      for (const record of held)
        expect(record.frame[record.frame.length - 1]).toBe(record.upstreamSeq & 0xff);
      expect(held.length).toBeGreaterThan(1500);
      expect(new Set(seqsOf(held)).size).toBe(1500);
      await log.close();
    }
  });

  test('that were asked to reuse memory give out the same, valid until they are read again', async () => {
    const log = await openMemoryLog(createMemoryFiles(), { tailBytes: 1 });
    for (let i = 1; i <= 1000; i++) log.append(makeEntry(i, i % 300 === 0 ? 400_000 : 2000), START_US);
    await log.whenDurable(1000);
    const own = readAll(log.openCursor(0));
    const cursor = log.openCursor(0, { reusesMemory: true });
    const buffers = new Set<ArrayBufferLike>();
    for (let at = 0; at < own.length; ) {
      for (const record of cursor.next(100_000) as LogRecord[]) {
        expect(Buffer.compare(record.frame, own[at]!.frame)).toBe(0);
        expect({ ...record, frame: null }).toEqual({ ...own[at]!, frame: null } as never);
        if (record.frame.length < 100_000) buffers.add(record.frame.buffer);
        at++;
      }
    }
    expect(cursor.next(100_000)).toEqual([]);
    expect(buffers.size).toBeLessThan(6);
    await log.close();
  });

  test('that fell out of the window are told so, also in the middle of a block', async () => {
    const files = createMemoryFiles();
    let nowUs = START_US;
    const log = await openMemoryLog(files, {
      segmentBytes: 3000,
      tailBytes: 1,
      windowMs: 1000,
      clock: () => nowUs,
    });
    for (let i = 1; i <= 100; i++) {
      log.append(makeEntry(i), START_US);
      await log.whenDurable(i);
    }
    const cursor = log.openCursor(0);
    expect(seqsOf(cursor.next(1) as LogRecord[])).toEqual([1]);
    nowUs += 5_000_000;
    log.retain(nowUs);
    await Bun.sleep(1);
    expect(log.oldestSeq).toBeGreaterThan(2);
    expect(cursor.next(1)).toBe('behind');
    expect(log.openCursor(0).next(1)).toBe('behind');
    expect(seqsOf(readAll(log.openCursor(log.oldestSeq - 1)))).toEqual(numbers(log.oldestSeq, 100));
    await log.close();
  });

  test('skip taken-down accounts but for #account events, in memory and on disk, until they are let back', async () => {
    const files = createMemoryFiles();
    const bad = didHash('did:plc:bad');
    const entryOf = (i: number) =>
      makeEntry(i, 50, { didHash: i % 3 === 0 ? bad : i, kind: i % 30 === 0 ? KIND.account : KIND.commit });
    for (const tailBytes of [1, 10_000, 1e6]) {
      const log = await openMemoryLog(files, { segmentBytes: 5000, tailBytes });
      const first = log.lastSeq + 1;
      for (let i = first; i < first + 300; i++) log.append(entryOf(i), START_US);
      await log.whenDurable(log.appendedSeq);
      const all = numbers(first, first + 299);
      const visible = all.filter((seq) => seq % 3 !== 0 || seq % 30 === 0);
      const read = (): number[] => seqsOf(readAll(log.openCursor(first - 1), 900));
      expect(read()).toEqual(all);
      log.setSkippedDids(new Set([bad]));
      expect(read()).toEqual(visible);
      expect(seqsOf(readAll(log.openCursor(first - 1, { includeSkipped: true })))).toEqual(all);
      log.setSkippedDids(new Set());
      expect(read()).toEqual(all);
      await log.close();
    }
  });

  test('follow each change of what is skipped at once, also for events that others have read already', async () => {
    const log = await openMemoryLog(createMemoryFiles());
    for (let i = 1; i <= 9; i++) log.append(makeEntry(i, 10, { didHash: i % 3 }), START_US);
    await log.whenDurable(9);
    for (const hashes of [[1], [2], [1, 2], [], [0], [0, 1, 2], [2]]) {
      log.setSkippedDids(new Set(hashes));
      expect(seqsOf(readAll(log.openCursor(0)))).toEqual(
        numbers(1, 9).filter((seq) => !hashes.includes(seq % 3)),
      );
    }
    await log.close();
  });

  test('are not held up by a long run of skipped events, and stand behind it afterwards', async () => {
    const log = await openMemoryLog(createMemoryFiles(), { tailBytes: 1, segmentBytes: 100_000 });
    for (let i = 1; i <= 3000; i++) log.append(makeEntry(i, 500, { didHash: i === 2999 ? 2 : 1 }), START_US);
    await log.whenDurable(3000);
    log.setSkippedDids(new Set([1]));
    const cursor = log.openCursor(0);
    expect(seqsOf(cursor.next(10) as LogRecord[])).toEqual([2999]);
    expect(cursor.next(10)).toEqual([]);
    expect(cursor.seq).toBe(3000);
    await log.close();
  });

  test('give frames of up to 5 MB among small ones, from disk and from memory', async () => {
    const files = createMemoryFiles();
    const sizes = [10, 4_999_900, 20, 300_000, 262_144, 30, 1_000_000];
    const log = await openMemoryLog(files, { segmentBytes: 1e9 });
    for (const [i, size] of sizes.entries()) log.append(makeEntry(i + 1, size), START_US);
    await log.whenDurable(sizes.length);
    expect(seqsOf(readAll(log.openCursor(0)))).toEqual(numbers(1, sizes.length));
    await log.close();
    const again = await openMemoryLog(files);
    for (let at = 0; at <= sizes.length; at++)
      expect(seqsOf(readAll(again.openCursor(at)))).toEqual(numbers(at + 1, sizes.length));
    await again.close();
  });
});

describe('seqBeforeTime', () => {
  test('finds the last event before any time, across segments, restarts and retention', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({ stepUs: fc.integer({ min: 0, max: 50 }), ops: fc.integer({ min: 0, max: 5 }) }),
          {
            minLength: 1,
            maxLength: 120,
          },
        ),
        fc.boolean(),
        async (events, drop) => {
          const files = createMemoryFiles();
          let log = await openMemoryLog(files, { segmentBytes: 1500 });
          let nowUs = START_US;
          for (const [i, { stepUs, ops }] of events.entries()) {
            nowUs += stepUs;
            log.append(makeEntry(i + 1, 10, { opCount: ops }), nowUs);
            if (i % 5 === 0) await log.whenDurable(log.appendedSeq);
          }
          await log.whenDurable(log.appendedSeq);
          await log.close();
          log = await openMemoryLog(files, drop ? { maxBytes: 4000 } : {});
          const records = readAll(log.openCursor(log.oldestSeq - 1));
          for (let timeUs = START_US - 2; timeUs <= log.lastTimeUs + 2; timeUs++) {
            const expected = records.findLast((record) => record.timeUs < timeUs)?.seq ?? log.oldestSeq - 1;
            expect(log.seqBeforeTime(timeUs)).toBe(expected);
          }
          await log.close();
        },
      ),
      { numRuns: 40 },
    );
  });

  test('reads at most two blocks of a large segment', async () => {
    const files = createMemoryFiles();
    let log = await openMemoryLog(files, { segmentBytes: 4_000_000 });
    for (let i = 1; i <= 3000; i++) {
      log.append(makeEntry(i, 3000), START_US + i * 1000);
      if (i % 100 === 0) await log.whenDurable(i);
    }
    await log.whenDurable(3000);
    await log.close();
    log = await openMemoryLog(files);
    for (let i = 1; i <= 3000; i += 37) {
      const before = log.stats.diskReads;
      expect(log.seqBeforeTime(START_US + i * 1000)).toBe(i - 1);
      expect(log.stats.diskReads - before).toBeLessThanOrEqual(2);
      const middle = log.stats.diskReads;
      expect(seqsOf(log.openCursor(i - 1).next(1) as LogRecord[])).toEqual([i]);
      expect(log.stats.diskReads - middle).toBeLessThanOrEqual(2);
    }
    await log.close();
  });
});

describe('log time', () => {
  test('strictly increases with room for every op, also when the clock stands still, steps back, or the log restarts', async () => {
    const files = createMemoryFiles();
    const ops = [0, 1, 200, 3, 0, 7];
    for (const nowUs of [START_US, START_US, START_US - 1e9, START_US + 5, 0]) {
      const log = await openMemoryLog(files, { clock: () => nowUs });
      for (const count of ops) log.append(makeEntry(log.appendedSeq + 1, 10, { opCount: count }), nowUs);
      await log.whenDurable(log.appendedSeq);
      await log.close();
    }
    const log = await openMemoryLog(files);
    const records = readAll(log.openCursor(0));
    expect(records).toHaveLength(30);
    for (let i = 1; i < records.length; i++) {
      const before = records[i - 1]!;
      expect(records[i]!.timeUs).toBeGreaterThanOrEqual(before.timeUs + Math.max(1, before.opCount));
    }
    await log.close();
  });
});

describe('didHash', () => {
  test('is an integer below 2^53, always the same for the same DID', () => {
    expect(didHash('did:plc:ewvi7nxzyoun6zhxrhs64oiz')).toBe(didHash('did:plc:ewvi7nxzyoun6zhxrhs64oiz'));
    const hashes = new Set<number>();
    for (let i = 0; i < 10_000; i++) {
      const hash = didHash(`did:plc:${i}`);
      expect(Number.isSafeInteger(hash) && hash >= 0).toBe(true);
      hashes.add(hash);
    }
    expect(hashes.size).toBe(10_000);
    // XXH3-64 of the empty input is a published test value: 2d06800538d394c2.
    expect(didHash('')).toBe(Number(0x2d06800538d394c2n & ((1n << 53n) - 1n)));
  });
});

const reopenWith = async (log: Log, files: MemoryFiles, options: Partial<LogOptions>): Promise<Log> => {
  await log.close();
  return openMemoryLog(files, options);
};
