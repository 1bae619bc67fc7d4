import { afterEach, beforeEach, describe, expect, type Mock, spyOn, test } from 'bun:test';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { loadDictionary } from '../../../jetstream/dictionary/dictionary.ts';
import { madeMessages } from '../../../jetstream/dictionary/synthetic/messages.ts';
import { trainDictionaryCommand } from '../../../jetstream/dictionary/train-command.ts';

let directory = '';
let out = '';
let printed = '';
let spies: Mock<(...args: never[]) => unknown>[] = [];
beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'weir-train-'));
  out = path.join(directory, 'new.zdict');
  printed = '';
  const print = (text: unknown): boolean => {
    printed += `${text}\n`;
    return true;
  };
  spies = [
    spyOn(process.stdout, 'write').mockImplementation(print as never),
    spyOn(process.stderr, 'write').mockImplementation(print as never),
    spyOn(console, 'log').mockImplementation(print),
    spyOn(console, 'warn').mockImplementation(print),
  ] as never;
});
afterEach(() => {
  for (const spy of spies) spy.mockRestore();
  rmSync(directory, { recursive: true });
});

describe('jetstream train-dictionary', () => {
  test('writes a dictionary trained on made-up messages, and says how good it is', async () => {
    expect(await trainDictionaryCommand(['--synthetic', '400', '--size', '8000', '--out', out])).toBe(0);
    const read = loadDictionary(out);
    if (!read.ok) throw new Error(read.problem);
    expect(read.dictionary.bytes.length).toBeLessThanOrEqual(8_000);
    expect(printed).toContain(`ID ${read.dictionary.id}`);
    expect(printed).toContain(read.dictionary.sha256);
    expect(printed).toMatch(/ratio .* [2-4]\.\d\d with it, 1\.\d\d without/);
  });

  test('makes the same of the same seed, with the ID that is asked for', async () => {
    const train = async (name: string, ...args: string[]): Promise<Buffer> => {
      const file = path.join(directory, name);
      expect(
        await trainDictionaryCommand(['--synthetic', '200', '--size', '2000', ...args, '--out', file]),
      ).toBe(0);
      return readFileSync(file);
    };
    const first = await train('1');
    expect(Buffer.compare(await train('2'), first)).toBe(0);
    expect(Buffer.compare(await train('3', '--seed', '2'), first)).not.toBe(0);
    const named = await train('4', '--id', '99999');
    expect(named.readUInt32LE(4)).toBe(99_999);
    expect(Buffer.compare(named.subarray(8), first.subarray(8))).toBe(0);
  });

  test('trains on the messages of a file, and takes people out of them', async () => {
    const word = 'zqxjkvwzqxjkvw';
    const lines = madeMessages(300, 4, ['v1']).map(({ json }) =>
      JSON.stringify({
        ...JSON.parse(json),
        commit: { record: { text: word, $type: 'app.bsky.feed.post' } },
      }),
    );
    const file = path.join(directory, 'messages.ndjson');
    writeFileSync(file, `${lines.join('\n')}\nnot json\n\n[]\n`);
    expect(await trainDictionaryCommand(['--from', file, '--size', '4000', '--out', out])).toBe(0);
    expect(printed).toContain('2 lines are no JSON objects');
    expect(loadDictionary(out).ok).toBe(true);
    const dictionary = readFileSync(out, 'latin1');
    expect(dictionary).not.toContain(word);
    expect(dictionary).toContain('app.bsky.feed.post');
  });

  test('never writes over a file that is there', async () => {
    writeFileSync(out, 'precious');
    expect(await trainDictionaryCommand(['--synthetic', '200', '--out', out])).toBe(2);
    expect(printed).toContain('is there already');
    expect(readFileSync(out, 'utf8')).toBe('precious');
  });

  test('explains itself', async () => {
    expect(await trainDictionaryCommand(['--help'])).toBe(0);
    for (const option of ['--from', '--synthetic', '--version', '--size', '--id', '--seed', '--out'])
      expect(printed).toContain(option);
  });

  test.each([
    [[], '--out is missing'],
    [['--wrong'], '--wrong'],
    [['more', '--out', 'x'], 'more'],
    [['--from', 'a', '--synthetic', '200', '--out', 'x'], 'exclude each other'],
    [['--size', '112641', '--out', 'x'], '--size: 112641'],
    [['--size', '10', '--out', 'x'], '--size: 10'],
    [['--id', '1612007021', '--out', 'x'], 'version 1'],
    [['--id', '32767', '--out', 'x'], '--id: 32767'],
    [['--id', '2147483648', '--out', 'x'], '--id: 2147483648'],
    [['--synthetic', '-5', '--out', 'x'], '--synthetic'],
    [['--synthetic', '1000000', '--out', 'x'], '--synthetic: 1000000'],
    [['--version', 'v3', '--out', 'x'], '--version: v3'],
  ])('refuses %p', async (args, problem) => {
    expect(await trainDictionaryCommand(args)).toBe(2);
    expect(printed).toContain(problem);
    expect(printed).toContain('Usage:');
  });

  test('says so when the file is not there, or has too little in it', async () => {
    expect(await trainDictionaryCommand(['--from', path.join(directory, 'none'), '--out', out])).toBe(1);
    expect(printed).toContain('ENOENT');
    const file = path.join(directory, 'few');
    writeFileSync(file, '{"text":"one"}\n');
    expect(await trainDictionaryCommand(['--from', file, '--out', out])).toBe(1);
    expect(printed).toContain('1 messages are too few');
    expect(existsSync(out)).toBe(false);
  });
});
