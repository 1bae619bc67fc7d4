import { expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { simulateCommand } from '../../simulator/command.ts';
import { createConsumer } from '../../simulator/consumer.ts';
import { createNetwork } from '../../simulator/network.ts';

const run = async (...args: string[]): Promise<{ code: number; text: string }> => {
  const lines: string[] = [];
  const code = await simulateCommand(args, (line) => lines.push(line));
  return { code, text: lines.join('\n') };
};

test('bad arguments are refused with a line that names them', async () => {
  for (const [args, named] of [
    [['--hosts', 'many'], '--hosts'],
    [['--hosts', '0'], '--hosts'],
    [['--rate', '-1'], '--rate'],
    [['--fault', 'no-such-thing=1'], 'no-such-thing'],
    [['--fault', 'seq-gap'], 'seq-gap'],
    [['--fault', 'seq-gap=2'], 'seq-gap'],
    [['--colour', 'blue'], '--colour'],
  ] as const) {
    const { code, text } = await run(...args);
    expect(code).toBe(2);
    expect(text).toContain(named);
  }
});

test('help and the list of faults are printed', async () => {
  expect(await run('--help')).toMatchObject({ code: 0, text: expect.stringContaining('--fault NAME=P') });
  expect(await run('--list-faults')).toMatchObject({
    code: 0,
    text: expect.stringContaining('signature-high-s'),
  });
});

test('it says where to point a relay, keeps a ledger, and stops by itself', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'weir-simulate-'));
  try {
    const path = join(directory, 'ledger.jsonl');
    const args = ['--port', '0', '--hosts', '3', '--accounts', '9', '--rate', '400', '--large-share', '0'];
    const { code, text } = await run(
      ...args,
      '--duration',
      '0.4',
      '--fault',
      'commits=0.05',
      '--ledger',
      path,
    );
    expect(code).toBe(0);
    expect(text).toMatch(/RELAY_PLC_HOST=http:\/\/localhost:\d+ RELAY_UPSTREAM=http:\/\/localhost:\d+/);
    expect(text).toContain('Ctrl-C');
    const entries = (await Bun.file(path).text())
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(entries.map(({ n }) => n)).toEqual(entries.map((_, i) => i + 1));
    expect(entries.some(({ expectation }) => expectation === 'deliver')).toBe(true);
    expect(entries.some(({ fault }) => fault !== undefined)).toBe(true);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('a taken port is said, and nothing stays open', async () => {
  const taken = Bun.serve({ port: 0, hostname: 'localhost', fetch: () => new Response() });
  try {
    const { code, text } = await run('--port', String(taken.port));
    expect(code).toBe(1);
    expect(text).toContain('cannot start');
  } finally {
    await taken.stop(true);
  }
});

test('300 hosts start, are followed, stop and start again, and leave no port open', async () => {
  const network = await createNetwork({ hosts: 300, accounts: 300, largeRepoShare: 0 });
  const ports: number[] = [];
  for (let round = 0; round < 2; round++) {
    await network.start();
    const consumers = network.hosts.map(({ hostname }) => createConsumer({ url: `http://${hostname}` }));
    await Promise.all(consumers.map(({ opened }) => opened));
    while (network.counters.connected < 300) await Bun.sleep(1);
    const before = network.hosts.map(({ stream }) => stream.lastSeq);
    network.generate(300);
    await Promise.all(
      network.hosts.map(async ({ stream }, i) => {
        if (stream.lastSeq > before[i]!)
          await consumers[i]!.until(() => consumers[i]!.lastSeq === stream.lastSeq);
      }),
    );
    if (round === 0) ports.push(...network.hosts.map(({ port }) => port));
    else expect(network.hosts.map(({ port }) => port)).toEqual(ports);
    await network.stop();
    await Promise.all(consumers.map(({ closed }) => closed));
    expect(network.counters.connected).toBe(0);
    expect(network.plcUrl).toBe('');
    const answers = await Promise.all(
      ports.slice(0, 20).map((port) =>
        fetch(`http://localhost:${port}/`).then(
          () => 'open',
          () => 'closed',
        ),
      ),
    );
    expect(new Set(answers)).toEqual(new Set(['closed']));
  }
}, 30_000);
