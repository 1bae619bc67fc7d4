import { afterEach, beforeEach, describe, expect, test } from 'bun:test';
import fs from 'node:fs';
import path from 'node:path';
import { logCommand, reportLog } from '../../src/log/command.ts';
import { openLog } from '../../src/log/log.ts';
import { segmentName } from '../../src/log/segment.ts';
import type { Log } from '../../src/log/types.ts';
import { makeDirectory, makeEntry, numbers, readAll } from './helpers.ts';

let place: ReturnType<typeof makeDirectory>;
beforeEach(() => {
  place = makeDirectory();
});
afterEach(() => place.remove());

const open = (dir = place.dir): Promise<Log> =>
  openLog({
    dir,
    windowMs: 1e9,
    maxBytes: 1e12,
    segmentBytes: 20_000,
    groupDelayMs: 0,
    retainEveryMs: 0,
    reserveBytes: 0,
    clock: () => 1e9,
    warn: () => {},
  });

/** A writing process and what it said was durable. */
const startWriter = (dir: string) => {
  const child = Bun.spawn([process.execPath, path.join(import.meta.dir, 'writer-process.ts'), dir], {
    stdout: 'pipe',
    stderr: 'inherit',
  });
  const reader = child.stdout.getReader();
  const decoder = new TextDecoder();
  let text = '';
  const durable = (): number => Number(text.slice(0, text.lastIndexOf('\n')).split('\n').at(-1));
  return {
    pid: child.pid,
    durable,
    /** Reads until at least this much was said to be durable. */
    until: async (seq: number): Promise<void> => {
      while (durable() < seq) {
        const { value, done } = await reader.read();
        if (done) throw new Error('the writer ended by itself');
        text += decoder.decode(value, { stream: true });
      }
    },
    kill: async (): Promise<void> => {
      child.kill(9);
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += decoder.decode(value, { stream: true });
      }
      await child.exited;
    },
  };
};

describe('a writing process', () => {
  test('killed at any moment leaves all it reported durable, and the next one goes on', async () => {
    let durable = 0;
    for (let round = 0; round < 5; round++) {
      const writer = startWriter(place.dir);
      await writer.until(durable + 1 + round * 400);
      await writer.kill();
      durable = writer.durable();
      const log = await open();
      expect(log.lastSeq).toBeGreaterThanOrEqual(durable);
      const records = readAll(log.openCursor(0), 100_000);
      expect(records.map((record) => record.seq)).toEqual(numbers(1, log.lastSeq));
      expect(records.every((record) => record.upstreamSeq === record.seq)).toBe(true);
      expect(log.hostNames.get(7)).toBe('pds.example.com');
      durable = log.lastSeq;
      await log.close();
    }
    expect(reportLog(place.dir).damages).toEqual([]);
  });

  test('keeps others from the directory, by name, until it dies; its log can be verified meanwhile', async () => {
    const writer = startWriter(place.dir);
    await writer.until(500);
    await expect(open()).rejects.toThrow(`in use by another weir (process ${writer.pid})`);
    for (let i = 0; i < 5; i++) {
      const report = reportLog(place.dir);
      expect(report.damages).toEqual([]);
      expect(report.records).toBe(report.lastSeq);
      await writer.until(writer.durable() + 200);
    }
    await writer.kill();
    const log = await open();
    await expect(open()).rejects.toThrow('in use by another weir');
    await log.close();
    const again = await open();
    await again.close();
  });
});

describe('bun run log', () => {
  const run = async (...args: string[]) => {
    const lines: string[] = [];
    const code = await logCommand(args, (line) => lines.push(line), {});
    return { code, text: lines.join('\n') };
  };

  const fill = async (): Promise<void> => {
    const log = await open();
    log.nameHost(7, 'pds.example.com');
    log.nameHost(8, 'other.example');
    for (let i = 1; i <= 200; i++) {
      log.append(makeEntry(i, 300, { hostId: i % 4 === 0 ? 8 : 7, kind: i % 10 === 0 ? 3 : 1 }), i * 1e9);
      if (i % 5 === 0) await log.whenDurable(i);
    }
    await log.close();
  };

  test('inspect tells segments, seqs, times, bytes, kinds and hosts', async () => {
    await fill();
    const { code, text } = await run('inspect', place.dir);
    expect(code).toBe(0);
    expect(text).toContain('seq 1 to 200, 1970-01-01T00:16:40.000Z to 1970-01-03T07:33:20.000Z');
    expect(text).toContain(segmentName(1));
    expect(text).toMatch(/commit\s+180/);
    expect(text).toMatch(/identity\s+20/);
    expect(text).toMatch(/150 {2}7 {2}pds\.example\.com/);
    expect(text).toMatch(/50 {2}8 {2}other\.example/);
    const json = JSON.parse((await run('inspect', place.dir, '--json')).text);
    expect(json).toMatchObject({
      records: 200,
      firstSeq: 1,
      lastSeq: 200,
      kinds: { commit: 180, identity: 20 },
      damages: [],
    });
    expect((await run('verify', place.dir)).code).toBe(0);
  });

  test('verify names every damage with file, position and kind, and goes on behind it', async () => {
    await fill();
    const names = fs
      .readdirSync(place.dir)
      .filter((name) => name.endsWith('.seg'))
      .sort();
    const damage = (name: string, change: (bytes: Uint8Array) => Uint8Array): void => {
      const file = path.join(place.dir, name);
      fs.writeFileSync(file, change(new Uint8Array(fs.readFileSync(file))));
    };
    const flip =
      (at: number) =>
      (bytes: Uint8Array): Uint8Array => {
        bytes[at]! ^= 0x10;
        return bytes;
      };
    damage(names[0]!, (bytes) => flip(300)(flip(10_000)(bytes)));
    damage(names[1]!, (bytes) => bytes.subarray(0, bytes.length - 100));
    damage(names[2]!, flip(3));
    const { code, text } = await run('verify', place.dir);
    expect(code).toBe(1);
    const { damages, records } = JSON.parse((await run('verify', place.dir, '--json')).text) as ReturnType<
      typeof reportLog
    >;
    expect(damages.map(({ file, damage }) => [path.basename(file), damage])).toEqual([
      [names[0]!, 'record checksum'],
      [names[0]!, 'record checksum'],
      [names[1]!, 'record cut off'],
      [names[2]!, 'segment header'],
    ]);
    expect(damages[0]!.position).toBe(64);
    expect(damages[1]!.position).toBeLessThanOrEqual(10_000);
    expect(damages[1]!.position + damages[1]!.lostBytes!).toBeGreaterThan(10_000);
    expect(records).toBeGreaterThan(80);
    for (const each of damages)
      expect(text).toContain(`DAMAGE ${each.file} at byte ${each.position}: ${each.damage}`);
    expect(text).toContain('4 damaged places');
  });

  test('verify notices a missing segment', async () => {
    await fill();
    const names = fs
      .readdirSync(place.dir)
      .filter((name) => name.endsWith('.seg'))
      .sort();
    fs.rmSync(path.join(place.dir, names[1]!));
    const { code, text } = await run('verify', place.dir);
    expect(code).toBe(1);
    expect(text).toContain(`segment missing, ${names[1]} should stand between ${names[0]} and this one`);
  });

  test('an unfinished tail is told, but is no damage', async () => {
    await fill();
    const names = fs
      .readdirSync(place.dir)
      .filter((name) => name.endsWith('.seg'))
      .sort();
    fs.appendFileSync(path.join(place.dir, names.at(-1)!), new Uint8Array(77));
    const { code, text } = await run('verify', place.dir);
    expect(code).toBe(0);
    expect(text).toContain('77 bytes at the end are no whole record');
  });

  test('says how it is called when called wrongly', async () => {
    for (const args of [
      [],
      ['repair'],
      ['inspect', '--fast'],
      ['verify', 'a', 'b'],
      ['verify', path.join(place.dir, 'none')],
    ]) {
      const { code, text } = await run(...args);
      expect(code).toBe(2);
      expect(text.length).toBeGreaterThan(20);
    }
    expect((await run('--help')).code).toBe(0);
  });
});
