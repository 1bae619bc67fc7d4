import { describe, expect, test } from 'bun:test';
import path from 'node:path';
import { startFakeHost } from './fake-host.ts';

const MAIN = path.resolve(import.meta.dir, '../../../jetstream/main.ts');
const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';

const post = (timeUs: number): string =>
  JSON.stringify({
    did: DID,
    time_us: timeUs,
    kind: 'commit',
    commit: {
      operation: 'create',
      collection: 'app.bsky.feed.post',
      rkey: 'r',
      record: { text: `n${timeUs}` },
    },
  });

const run = (args: readonly string[], env: Record<string, string> = {}) =>
  Bun.spawn([process.execPath, MAIN, ...args], {
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'pipe',
    env: { ...process.env, ...env },
  });

/** Sends events without end, as fast as they are taken. */
const endless = () =>
  startFakeHost({
    serve: ({ socket }) => {
      let timeUs = 1;
      const timer = setInterval(() => {
        if (socket.readyState !== WebSocket.OPEN) {
          clearInterval(timer);
          return;
        }
        for (let i = 0; i < 50; i++) socket.send(post(timeUs++));
      }, 1);
    },
  });

describe('bun run jetstream', () => {
  test('tail prints lines to standard output, words to standard error, and ends with 0', async () => {
    const host = endless();
    const child = run(['tail', '--host', host.host, '--count', '1000']);
    const [out, words] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    expect(await child.exited).toBe(0);
    const lines = out.trimEnd().split('\n');
    expect(lines).toHaveLength(1000);
    expect(lines.at(-1)).toEndWith(' n1000');
    // Not a terminal: no colours.
    expect(out).not.toContain('\u001b');
    expect(words).toStartWith(`following ${host.host}/subscribe`);
    await host.close();
  });

  test.each(['SIGINT', 'SIGTERM'] as const)('tail ends cleanly by %s', async (signal) => {
    const host = endless();
    const child = run(['tail', '--host', host.host]);
    const reader = child.stdout.getReader();
    await reader.read();
    child.kill(signal);
    while (!(await reader.read()).done);
    expect(await child.exited).toBe(0);
    expect(child.signalCode).toBeNull();
    await host.close();
  });

  test('tail ends cleanly when its reader has gone', async () => {
    const host = endless();
    const child = Bun.spawn(
      [
        'sh',
        '-c',
        `("$0" "$1" tail --host "$2"; echo "ended with $?" >&2) | head -n 3`,
        process.execPath,
        MAIN,
        host.host,
      ],
      { stdin: 'ignore', stdout: 'pipe', stderr: 'pipe' },
    );
    const [out, words] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    expect(out.trimEnd().split('\n')).toHaveLength(3);
    expect(words).toContain('ended with 0');
    expect(words).not.toContain('EPIPE');
    await child.exited;
    await host.close();
  });

  test('tells what is wrong with arguments, with 2', async () => {
    for (const [args, words] of [
      [['tail', '--cursor', 'x'], '--cursor: x'],
      [['tail', '--compress', '--dictionary', '/nowhere/at/all'], '--dictionary: '],
      [['nonsense'], 'unknown command nonsense'],
    ] as const) {
      const child = run(args);
      expect(await child.stderr.text()).toContain(words);
      expect(await child.exited).toBe(2);
    }
  });

  test('helps', async () => {
    for (const [args, words] of [
      [[], 'tail'],
      [['--help'], 'tail'],
      [['tail', '--help'], '--collection NSID'],
    ] as const) {
      const child = run(args);
      expect(await child.stdout.text()).toContain(words);
      expect(await child.exited).toBe(0);
    }
  });
});
