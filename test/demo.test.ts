import { expect, setDefaultTimeout, test } from 'bun:test';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { parseMetrics } from '../src/demo.ts';

setDefaultTimeout(60_000);

const main = path.join(import.meta.dir, '..', 'src', 'main.ts');

test('the demo shows events going in and out each second, and leaves nothing behind', async () => {
  const child = Bun.spawn(
    [process.execPath, main, 'demo', '--hosts', '3', '--accounts', '20', '--rate', '60', '--duration', '4'],
    { stdout: 'pipe', stderr: 'pipe' },
  );
  const text = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  const summaries = text.split('\n').filter((line) => line.startsWith('hosts '));
  expect(summaries.length).toBeGreaterThanOrEqual(2);
  const last = /hosts 3 {2}in (\d+)\/s {2}out (\d+)\/s .* memory (\d+) MiB {2}http:/.exec(summaries.at(-1)!);
  expect(last).not.toBeNull();
  for (const shown of last!.slice(1)) expect(Number(shown)).toBeGreaterThan(0);
  const dataDir = /everything it makes is in ([^,]+),/.exec(text)![1]!;
  expect(existsSync(dataDir)).toBe(false);
});

test('a metrics page becomes series and values', () => {
  const sample = parseMetrics('# HELP a b\na 1\nb{x="y",z="w"} 2.5\nnonsense\n');
  expect([...sample]).toEqual([
    ['a', 1],
    ['b{x="y",z="w"}', 2.5],
  ]);
});
