import { describe, expect, test } from 'bun:test';
import { segmentName } from '../../src/log/segment.ts';
import type { Log } from '../../src/log/types.ts';
import { makeEntry, numbers, readAll } from './helpers.ts';
import { createMemoryFiles } from './memory-files.ts';
import { openMemoryLog, START_US } from './memory-log.ts';

const SECOND_US = 1_000_000;

const append = async (log: Log, count: number, nowUs = START_US): Promise<void> => {
  for (let i = 0; i < count; i++) {
    log.append(makeEntry(log.appendedSeq + 1, 100), nowUs);
    await log.whenDurable(log.appendedSeq);
  }
};

const seqsOf = (log: Log): number[] => readAll(log.openCursor(log.oldestSeq - 1)).map((record) => record.seq);

/** Lets what was started run to where it waits for time. */
const settled = (): Promise<void> => Bun.sleep(2);

const disk = (code: string): Error => Object.assign(new Error(code), { code });

describe('retention', () => {
  test('removes whole segments whose newest event is older than the window, and no others', async () => {
    const files = createMemoryFiles();
    let nowUs = START_US;
    const log = await openMemoryLog(files, {
      segmentBytes: 1000,
      windowMs: 10_000,
      segmentAgeMs: 1e9,
      clock: () => nowUs,
    });
    const times: number[] = [];
    for (let i = 0; i < 60; i++) {
      nowUs += SECOND_US / 2;
      times.push(nowUs);
      await append(log, 1, nowUs);
      const seqs = seqsOf(log);
      expect(seqs.at(-1)).toBe(i + 1);
      // Every event of the window is there…
      expect(times[log.oldestSeq - 1]! <= nowUs - 10 * SECOND_US || log.oldestSeq === 1).toBe(true);
    }
    // … and what is older goes, but for the segment that reaches into the window.
    expect(log.oldestSeq).toBeGreaterThan(25);
    await log.close();
    expect(files.list('log').filter((name) => name.endsWith('.seg'))).toHaveLength(log.stats.segments);
    expect(files.list('log').filter((name) => name.endsWith('.idx')).length).toBeLessThan(log.stats.segments);
  });

  test('of a quiet log closes the newest segment by age, so that it is forgotten in time, too; seqs go on', async () => {
    const files = createMemoryFiles();
    let nowUs = START_US;
    const options = { windowMs: 24_000, clock: () => nowUs };
    let log = await openMemoryLog(files, options);
    await append(log, 3);
    for (let second = 0; second < 30; second++) {
      nowUs += SECOND_US;
      log.retain(nowUs);
      await settled();
    }
    expect([log.oldestSeq, log.lastSeq, log.stats.segments]).toEqual([4, 3, 1]);
    expect(log.lastTimeUs).toBe(START_US + 2);
    expect(log.openCursor(0).next(1000)).toBe('behind');
    expect(log.openCursor(3).next(1000)).toEqual([]);
    await log.close();
    log = await openMemoryLog(files, options);
    expect([log.oldestSeq, log.lastSeq]).toEqual([4, 3]);
    await append(log, 1, 0);
    const [record] = readAll(log.openCursor(3));
    expect(record!.seq).toBe(4);
    expect(record!.timeUs).toBeGreaterThan(START_US + 2);
    await log.close();
  });

  test('keeps the log within its bytes, but never removes the segment being written', async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files, { segmentBytes: 2000, maxBytes: 10_000 });
    for (let i = 0; i < 200; i++) {
      await append(log, 1);
      expect(log.stats.bytes).toBeLessThanOrEqual(10_000);
    }
    expect(seqsOf(log)).toEqual(numbers(log.oldestSeq, 200));
    await log.close();
    const tiny = await openMemoryLog(files, { segmentBytes: 2000, maxBytes: 1 });
    expect(tiny.stats.segments).toBe(1);
    expect(seqsOf(tiny)).toEqual(numbers(tiny.oldestSeq, 200));
    await tiny.close();
  });

  test('by bytes takes off a small part of the window at a time, however small it is', async () => {
    const maxBytes = 50_000;
    const files = createMemoryFiles();
    const log = await openMemoryLog(files, { maxBytes });
    let isFull = false;
    for (let i = 0; i < 1_000; i++) {
      const { oldestSeq } = log;
      await append(log, 1);
      isFull ||= log.oldestSeq > oldestSeq;
      expect(log.stats.bytes).toBeLessThanOrEqual(maxBytes);
      if (isFull) expect(log.stats.bytes).toBeGreaterThan(maxBytes * 0.8);
    }
    expect(isFull).toBe(true);
    expect(seqsOf(log)).toEqual(numbers(log.oldestSeq, 1_000));
    await log.close();
  });

  test('judges by the events, so a clock that steps back removes nothing', async () => {
    const files = createMemoryFiles();
    let nowUs = START_US;
    const log = await openMemoryLog(files, { segmentBytes: 1000, windowMs: 10_000, clock: () => nowUs });
    await append(log, 50);
    nowUs -= 1e12;
    log.retain(nowUs);
    await append(log, 50, nowUs);
    expect(seqsOf(log)).toEqual(numbers(1, 100));
    await log.close();
  });
});

describe('a full disk', () => {
  test('shortens the window, loudly, and loses no event', async () => {
    const files = createMemoryFiles();
    files.capacity = 20_000;
    const warnings: string[] = [];
    const log = await openMemoryLog(files, { segmentBytes: 2000, warn: (message) => warnings.push(message) });
    const live = log.openCursor(0);
    const seen: number[] = [];
    for (let i = 0; i < 300; i++) {
      await append(log, 1);
      for (const record of readAll(live)) seen.push(record.seq);
      expect(files.used).toBeLessThanOrEqual(20_000);
    }
    expect(seen).toEqual(numbers(1, 300));
    expect(log.stats.diskPressure).toBe(true);
    expect(warnings.some((message) => message.includes('disk'))).toBe(true);
    expect(log.oldestSeq).toBeGreaterThan(150);
    expect(seqsOf(log)).toEqual(numbers(log.oldestSeq, 300));
    await log.close();
    const again = await openMemoryLog(files);
    expect(seqsOf(again)).toEqual(numbers(again.oldestSeq, 300));
    await again.close();
  });

  test('with nothing left to remove lets appends wait, and they go on where they stopped when there is room', async () => {
    const files = createMemoryFiles();
    files.capacity = 5000;
    const log = await openMemoryLog(files, { segmentBytes: 100_000 });
    for (let i = 1; i <= 60; i++) log.append(makeEntry(i, 100), START_US);
    await settled();
    expect(log.lastSeq).toBe(0);
    expect(log.stats.pendingBytes).toBeGreaterThan(5000);
    expect(files.used).toBe(5000);
    for (let i = 61; i <= 70; i++) log.append(makeEntry(i, 100), START_US);
    await settled();
    expect(log.lastSeq).toBe(0);
    files.capacity = 1e6;
    await log.whenDurable(70);
    expect(log.stats.pendingBytes).toBe(0);
    expect(seqsOf(log)).toEqual(numbers(1, 70));
    log.retain(START_US);
    expect(log.stats.diskPressure).toBe(false);
    await log.close();
    const again = await openMemoryLog(files);
    expect(seqsOf(again)).toEqual(numbers(1, 70));
    expect(again.stats.truncatedTailBytes).toBe(0);
    await again.close();
  });

  test('and then a kill leaves a log that opens with what was durable', async () => {
    let files = createMemoryFiles();
    const log = await openMemoryLog(files, { fatal: () => {} });
    await append(log, 5);
    files.capacity = files.used + 1000;
    for (let i = 6; i <= 60; i++) log.append(makeEntry(i, 100), START_US);
    await settled();
    expect(log.lastSeq).toBe(5);
    files = files.killProcess();
    const again = await openMemoryLog(files);
    expect(again.lastSeq).toBeGreaterThanOrEqual(5);
    expect(again.lastSeq).toBeLessThan(12);
    expect(seqsOf(again)).toEqual(numbers(1, again.lastSeq));
    await again.close();
  });

  test('found only by the sync is met by writing all of the group again', async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files, { segmentBytes: 1000 });
    await append(log, 20);
    files.syncErrors = [disk('ENOSPC'), disk('EDQUOT')];
    await append(log, 1);
    expect(seqsOf(log)).toEqual(numbers(log.oldestSeq, 21));
    expect(log.stats.diskPressure).toBe(true);
    await log.close();
    const again = await openMemoryLog(files);
    expect(seqsOf(again)).toEqual(numbers(again.oldestSeq, 21));
    await again.close();
  });

  test('does not keep a closing log for ever: close says what could not be written', async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files, { retryMs: 60_000 });
    files.capacity = files.used;
    log.append(makeEntry(1, 100), START_US);
    await settled();
    await expect(log.close()).rejects.toThrow(/disk is full/);
    files.capacity = 1e6;
    const again = await openMemoryLog(files);
    expect(again.lastSeq).toBe(0);
    await again.close();
  });

  test('is kept away from by a reserve: the window shrinks before writes fail, and pressure ends with room', async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files, { segmentBytes: 2000, reserveBytes: 10_000 });
    await append(log, 200);
    const { oldestSeq } = log;
    expect(log.stats.diskPressure).toBe(false);
    files.capacity = files.used + 4000;
    log.retain(START_US);
    await settled();
    expect(log.stats.diskPressure).toBe(true);
    expect(log.oldestSeq).toBeGreaterThan(oldestSeq);
    expect(files.freeBytes('log')).toBeGreaterThanOrEqual(10_000);
    log.retain(START_US);
    expect(log.stats.diskPressure).toBe(true);
    files.capacity += 100_000;
    log.retain(START_US);
    expect(log.stats.diskPressure).toBe(false);
    expect(seqsOf(log)).toEqual(numbers(log.oldestSeq, 200));
    await log.close();
  });
});

describe('short writes', () => {
  test('are gone on with at the right place', async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files);
    for (let i = 1; i <= 50; i++) {
      files.shortWrite = i * 3;
      await append(log, 1);
    }
    await log.close();
    const again = await openMemoryLog(files);
    expect(again.stats.truncatedTailBytes).toBe(0);
    expect(seqsOf(again)).toEqual(numbers(1, 50));
    await again.close();
  });
});

describe('group commit', () => {
  test('syncs once for all that came while the sync before was under way, and reports in order', async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files);
    const reported: number[] = [];
    const stop = log.onDurable((seq) => {
      expect(log.lastSeq).toBe(seq);
      reported.push(seq);
    });
    let release = (): void => {};
    files.syncGate = new Promise((resolve) => {
      release = resolve;
    });
    log.append(makeEntry(1), START_US);
    await settled();
    for (let i = 2; i <= 500; i++) log.append(makeEntry(i), START_US);
    await settled();
    expect([log.lastSeq, log.appendedSeq, reported.length]).toEqual([0, 500, 0]);
    const { syncs } = files;
    files.syncGate = null;
    release();
    await log.whenDurable(500);
    expect(reported).toEqual([1, 500]);
    expect(files.syncs - syncs).toBe(2);
    stop();
    await append(log, 1);
    expect(reported).toEqual([1, 500]);
    await log.close();
  });

  test('makes host names durable with the events of the host', async () => {
    let files = createMemoryFiles();
    const log = await openMemoryLog(files);
    log.nameHost(7, 'pds.example.com');
    log.nameHost(7, 'pds.example.com');
    log.nameHost(8, 'localhost:2583');
    await append(log, 1);
    log.nameHost(7, 'renamed.example.com');
    await append(log, 1);
    expect(() => log.nameHost(9, 'two words')).toThrow();
    expect(new TextDecoder().decode(files.contents('log/hosts.txt'))).toBe(
      '7 pds.example.com\n8 localhost:2583\n7 renamed.example.com\n',
    );
    let state = 1;
    files = files.losePower(() => {
      state = (state * 48271) % 2147483647;
      return state / 2147483647;
    });
    files.replace('log/hosts.txt', new Uint8Array([...files.contents('log/hosts.txt'), 49, 48, 32, 104]));
    const again = await openMemoryLog(files);
    expect([...again.hostNames]).toEqual([
      [7, 'renamed.example.com'],
      [8, 'localhost:2583'],
    ]);
    again.nameHost(10, 'ten.example');
    await again.close();
    expect(new TextDecoder().decode(files.contents('log/hosts.txt'))).toEndWith('\n10 ten.example\n');
  });

  test('never makes an event durable before the name of its host, also when both come during a sync', async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files);
    log.onDurable((seq) => {
      const named = new TextDecoder().decode(files.contents('log/hosts.txt'));
      for (const record of readAll(log.openCursor(seq - 1))) expect(named).toContain(`${record.hostId} host`);
    });
    for (let i = 1; i <= 100; i++) {
      log.nameHost(i, `host${i}.example`);
      log.append(makeEntry(i, 10, { hostId: i }), START_US);
      for (let tick = 0; tick < i % 9; tick++) await Promise.resolve();
    }
    await log.whenDurable(100);
    await log.close();
  });

  test('refuses what is no frame with a seq, and appends after close', async () => {
    const files = createMemoryFiles();
    const log = await openMemoryLog(files);
    const entry = makeEntry(1);
    expect(() => log.append({ ...entry, seqStart: 0, seqEnd: 0 }, START_US)).toThrow();
    expect(() => log.append({ ...entry, seqEnd: entry.frame.length + 1 }, START_US)).toThrow();
    expect(() => log.append({ ...entry, frame: new Uint8Array(6_000_000) }, START_US)).toThrow();
    await append(log, 1);
    await log.close();
    expect(() => log.append(entry, START_US)).toThrow(/closed/);
    expect(files.list('log')).toContain(segmentName(1));
  });
});
