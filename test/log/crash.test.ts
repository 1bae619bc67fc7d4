import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { LogCorruption } from '../../src/log/corruption.ts';
import { segmentName } from '../../src/log/segment.ts';
import type { Log } from '../../src/log/types.ts';
import { makeEntry, numbers, readAll } from './helpers.ts';
import { createMemoryFiles } from './memory-files.ts';
import { openMemoryLog, START_US } from './memory-log.ts';

const appendGroup = async (log: Log, count: number, payloadBytes = 30): Promise<void> => {
  for (let i = 0; i < count; i++) log.append(makeEntry(log.appendedSeq + 1, payloadBytes), START_US);
  await log.whenDurable(log.appendedSeq);
};

/** All events, and proof that each is what was appended under its seq. */
const eventsOf = (log: Log): number[] =>
  readAll(log.openCursor(log.oldestSeq - 1)).map((record) => {
    expect(record.upstreamSeq).toBe(record.seq);
    return record.seq;
  });

/** A log of three durable groups and a fourth that was written but never synced; the bytes of its one segment. */
const killedLog = async () => {
  const files = createMemoryFiles();
  const log = await openMemoryLog(files);
  for (let group = 0; group < 3; group++) await appendGroup(log, 3);
  const path = `log/${segmentName(1)}`;
  const durableBytes = files.contents(path).length;
  files.syncGate = new Promise(() => {});
  for (let i = 0; i < 3; i++) log.append(makeEntry(log.appendedSeq + 1, 30), START_US);
  await Bun.sleep(1);
  const bytes = files.contents(path);
  expect(bytes.length).toBeGreaterThan(durableBytes);
  return { files: files.killProcess(), path, bytes, durableBytes };
};

describe('a log whose writer was killed', () => {
  test('keeps the durable prefix and whole records behind it, wherever its tail is cut', async () => {
    const { files, path, bytes, durableBytes } = await killedLog();
    const recordBytes = (bytes.length - durableBytes) / 3;
    for (let size = durableBytes; size <= bytes.length; size++) {
      files.replace(path, bytes.slice(0, size));
      const log = await openMemoryLog(files);
      const kept = 9 + Math.floor((size - durableBytes) / recordBytes);
      expect(log.lastSeq).toBe(kept);
      expect(log.stats.truncatedTailBytes).toBe((size - durableBytes) % recordBytes);
      await appendGroup(log, 2);
      expect(eventsOf(log)).toEqual(numbers(1, kept + 2));
      await log.close();
    }
  });

  test('cuts off from the damaged record on, whichever byte of the unsynced group is flipped', async () => {
    const { files, path, bytes, durableBytes } = await killedLog();
    const recordBytes = (bytes.length - durableBytes) / 3;
    for (let at = durableBytes; at < bytes.length; at++) {
      const flipped = bytes.slice();
      flipped[at]! ^= 1 << (at % 8);
      files.replace(path, flipped);
      const log = await openMemoryLog(files);
      expect(log.lastSeq).toBe(9 + Math.floor((at - durableBytes) / recordBytes));
      expect(log.stats.truncatedTailBytes).toBeGreaterThan(0);
      await log.close();
    }
  });

  test('stops at any flipped byte that was durable for certain, and names its record', async () => {
    const { files, path, bytes } = await killedLog();
    // Group three starts after six records: what precedes it was durable when it was written.
    const recordBytes = (bytes.length - 64) / 12;
    for (let at = 64; at < 64 + 6 * recordBytes; at++) {
      const flipped = bytes.slice();
      flipped[at]! ^= 1 << (at % 8);
      files.replace(path, flipped);
      const error = await openMemoryLog(files).then(
        () => null,
        (caught) => caught as LogCorruption,
      );
      expect(error).toBeInstanceOf(LogCorruption);
      expect(error!.position).toBe(64 + Math.floor((at - 64) / recordBytes) * recordBytes);
    }
  });

  test('stops at any flipped byte of a segment header', async () => {
    const { files, path, bytes } = await killedLog();
    for (let at = 0; at < 64; at++) {
      const flipped = bytes.slice();
      flipped[at]! ^= 1 << (at % 8);
      files.replace(path, flipped);
      await expect(openMemoryLog(files)).rejects.toBeInstanceOf(LogCorruption);
    }
  });

  test('opens with a tail of zeros of any length', async () => {
    const { files, path, bytes, durableBytes } = await killedLog();
    for (const zeros of [1, 51, 52, 53, 4096, 300_000, 6_000_000]) {
      const extended = new Uint8Array(durableBytes + zeros);
      extended.set(bytes.subarray(0, durableBytes));
      files.replace(path, extended);
      const log = await openMemoryLog(files);
      expect(log.lastSeq).toBe(9);
      expect(log.stats.truncatedTailBytes).toBe(zeros);
      await appendGroup(log, 1);
      expect(eventsOf(log)).toEqual(numbers(1, 10));
      await log.close();
    }
  });

  test('opens when the newest segment was being created: empty, cut anywhere in its header, or zero', async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files, { segmentBytes: 500 });
    for (let group = 0; group < 10; group++) await appendGroup(log, 3);
    await log.close();
    const next = `log/${segmentName(31)}`;
    const header = files.contents(`log/${segmentName(log.lastSeq - 5)}`).slice(0, 64);
    const beginnings = [
      ...numbers(0, 63).map((size) => header.slice(0, size)),
      new Uint8Array(64),
      new Uint8Array(4096),
    ];
    for (const bytes of beginnings) {
      files.replace(next, bytes);
      const again = await openMemoryLog(files, { segmentBytes: 500 });
      expect(again.lastSeq).toBe(30);
      expect(eventsOf(again)).toEqual(numbers(1, 30));
      await again.close();
    }
    const again = await openMemoryLog(files, { segmentBytes: 500 });
    await appendGroup(again, 3);
    expect(eventsOf(again)).toEqual(numbers(1, 33));
    await again.close();
  });

  test('opens when the very first segment was being created', async () => {
    for (const size of [0, 1, 63]) {
      const files = createMemoryFiles();
      files.replace(`log/${segmentName(1)}`, new Uint8Array(size));
      const log = await openMemoryLog(files);
      expect(log.lastSeq).toBe(0);
      await appendGroup(log, 1);
      expect(eventsOf(log)).toEqual([1]);
      await log.close();
    }
  });
});

describe('closed segments', () => {
  const severalSegments = async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files, { segmentBytes: 1000 });
    for (let group = 0; group < 20; group++) await appendGroup(log, 3);
    await log.close();
    const names = files
      .list('log')
      .filter((name) => name.endsWith('.seg'))
      .sort();
    return { files, paths: names.map((name) => `log/${name}`) };
  };

  test('a missing one in the middle stops the start and is named', async () => {
    const { files, paths } = await severalSegments();
    files.remove(paths[1]!);
    await expect(openMemoryLog(files)).rejects.toThrow(/segment missing.*0{10}/);
  });

  test('one of another size than it had stops the start', async () => {
    const { files, paths } = await severalSegments();
    const bytes = files.contents(paths[1]!);
    files.replace(paths[1]!, bytes.slice(0, -10));
    await expect(openMemoryLog(files)).rejects.toThrow(/segment size/);
  });

  test('a missing oldest one is just a shorter window', async () => {
    const { files, paths } = await severalSegments();
    files.remove(paths[0]!);
    const log = await openMemoryLog(files);
    expect(eventsOf(log)).toEqual(numbers(log.oldestSeq, 60));
    expect(log.oldestSeq).toBeGreaterThan(1);
    await log.close();
  });

  test('damage in one is thrown at the reader with its place, never skipped, and the rest can be read', async () => {
    const { files, paths } = await severalSegments();
    const bytes = files.contents(paths[1]!);
    for (const at of [64, 72, 80, 90, 110, 200, bytes.length - 1]) {
      const damaged = bytes.slice();
      damaged[at]! ^= 4;
      files.replace(paths[1]!, damaged);
      const log = await openMemoryLog(files);
      const cursor = log.openCursor(0);
      let error: unknown = null;
      const seen: number[] = [];
      try {
        for (
          let records = cursor.next(1);
          records !== 'behind' && records.length > 0;
          records = cursor.next(1)
        )
          for (const record of records) seen.push(record.seq);
      } catch (caught) {
        error = caught;
      }
      expect(error).toBeInstanceOf(LogCorruption);
      expect((error as LogCorruption).file).toBe(paths[1]!);
      expect((error as LogCorruption).position).toBeLessThanOrEqual(at);
      expect(seen).toEqual(numbers(1, seen.length));
      const third = Number(paths[2]!.slice(4, 20));
      expect(readAll(log.openCursor(third - 1)).map((record) => record.seq)).toEqual(numbers(third, 60));
      await log.close();
    }
  });

  test('a damaged or missing index beside one is rebuilt', async () => {
    const { files, paths } = await severalSegments();
    for (const path of paths) {
      const index = path.replace('.seg', '.idx');
      try {
        const bytes = files.contents(index);
        bytes[bytes.length >> 1]! ^= 1;
        files.replace(index, bytes);
      } catch {
        // The newest one has none.
      }
    }
    files.remove(paths[0]!.replace('.seg', '.idx'));
    const log = await openMemoryLog(files);
    for (let cursor = 0; cursor <= 60; cursor++)
      expect(readAll(log.openCursor(cursor)).map((record) => record.seq)).toEqual(numbers(cursor + 1, 60));
    await log.close();
  });
});

describe('power loss', () => {
  test('at any moment keeps all that was reported durable, and seqs go on without reuse', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            groups: fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 8 }),
            payloadBytes: fc.integer({ min: 0, max: 900 }),
            unsynced: fc.integer({ min: 0, max: 20 }),
            ticks: fc.integer({ min: 0, max: 12 }),
            seed: fc.integer(),
          }),
          { minLength: 1, maxLength: 5 },
        ),
        async (lives) => {
          let files = createMemoryFiles();
          let durable = 0;
          for (const life of lives) {
            const log = await openMemoryLog(files, { segmentBytes: 8000, tailBytes: 5000, fatal: () => {} });
            log.onDurable((seq) => {
              durable = Math.max(durable, seq);
            });
            expect(log.lastSeq).toBeGreaterThanOrEqual(durable);
            expect(eventsOf(log)).toEqual(numbers(1, log.lastSeq));
            for (const count of life.groups) {
              await appendGroup(log, count, life.payloadBytes);
              log.nameHost(count, `host${count}.example`);
            }
            expect(durable).toBe(log.lastSeq);
            for (let i = 0; i < life.unsynced; i++)
              log.append(makeEntry(log.appendedSeq + 1, life.payloadBytes), START_US);
            for (let i = 0; i < life.ticks; i++) await Promise.resolve();
            let state = life.seed >>> 0;
            files = files.losePower(() => {
              state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
              return state / 2 ** 32;
            });
          }
          const log = await openMemoryLog(files);
          expect(log.lastSeq).toBeGreaterThanOrEqual(durable);
          expect(eventsOf(log)).toEqual(numbers(1, log.lastSeq));
          await log.close();
        },
      ),
      { numRuns: 150 },
    );
  });
});

/** Numbers in [0, 1) from a seed. */
const randomFrom = (seed: number) => {
  let state = seed >>> 0;
  return (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
};

describe('power loss', () => {
  test('after a kill keeps what the log, opened again, showed to readers', async () => {
    for (let seed = 0; seed < 60; seed++) {
      const { files } = await killedLog();
      const log = await openMemoryLog(files);
      expect(log.lastSeq).toBe(12);
      const again = await openMemoryLog(files.losePower(randomFrom(seed)));
      expect(eventsOf(again)).toEqual(numbers(1, 12));
      await again.close();
    }
  });

  test('while old segments are being removed never leaves a gap between those that are left', async () => {
    for (let seed = 0; seed < 60; seed++) {
      const files = createMemoryFiles();
      const log = await openMemoryLog(files, {
        segmentBytes: 300,
        windowMs: 1000,
        segmentAgeMs: 1e9,
        fatal: () => {},
      });
      for (let group = 0; group < 12; group++) await appendGroup(log, 3);
      expect(log.stats.segments).toBeGreaterThan(8);
      log.retain(START_US + 1e9);
      for (let tick = 0; tick < seed % 25; tick++) await Promise.resolve();
      const again = await openMemoryLog(files.losePower(randomFrom(seed * 7919)));
      expect(again.lastSeq).toBe(36);
      expect(eventsOf(again)).toEqual(numbers(again.oldestSeq, 36));
      await again.close();
    }
  });
});

describe('a failed sync', () => {
  test('with EIO is fatal: it is never tried again, and nothing of that group becomes visible', async () => {
    const files = createMemoryFiles();
    const fatal: Error[] = [];
    const log = await openMemoryLog(files, { fatal: (error) => fatal.push(error) });
    await appendGroup(log, 2);
    const { syncs } = files;
    files.syncErrors = [Object.assign(new Error('EIO'), { code: 'EIO' })];
    log.append(makeEntry(3), START_US);
    await expect(log.whenDurable(3)).rejects.toThrow('EIO');
    expect(fatal.map((error) => error.message)).toEqual(['EIO']);
    expect(files.syncs).toBe(syncs + 1);
    expect(log.lastSeq).toBe(2);
    expect(() => log.append(makeEntry(4), START_US)).toThrow('EIO');
    expect(eventsOf(log)).toEqual([1, 2]);
    await expect(log.close()).rejects.toThrow('EIO');
  });
});
