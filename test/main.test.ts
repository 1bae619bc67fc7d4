/** The relay as a process of its own: how it ends. */
import { afterAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

setDefaultTimeout(60_000);

const MAIN = join(import.meta.dir, '..', 'src', 'main.ts');
const dataDir = mkdtempSync(join(tmpdir(), 'weir-main-'));
afterAll(() => rmSync(dataDir, { recursive: true, force: true }));

/** Starts it, stops it once `when` holds for what it has said, and gives its exit code and all it said. */
const stoppedOnce = async (when: (said: string) => boolean, more: Record<string, string> = {}) => {
  const child = Bun.spawn([process.execPath, MAIN, 'serve'], {
    env: {
      PATH: process.env.PATH!,
      RELAY_API_BIND: '127.0.0.1:0',
      RELAY_METRICS_LISTEN: '127.0.0.1:0',
      RELAY_DATA_DIR: dataDir,
      RELAY_UPSTREAM: '',
      ...more,
    },
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'pipe',
  });
  let said = '';
  const listen = async (stream: ReadableStream<Uint8Array>): Promise<void> => {
    for await (const chunk of stream) said += new TextDecoder().decode(chunk);
  };
  const heard = Promise.all([listen(child.stdout), listen(child.stderr)]);
  while (!when(said) && child.exitCode === null) await Bun.sleep(2);
  child.kill('SIGTERM');
  await Promise.all([child.exited, heard]);
  return { code: child.exitCode, said };
};

const isServing = (said: string): boolean => said.includes('serving');

describe('a stop that is asked for', () => {
  test('while a database is waited for ends the waiting, with exit code 0', async () => {
    const { code, said } = await stoppedOnce((text) => text.includes('cannot reach PostgreSQL'), {
      DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none',
    });
    expect(said).toContain('stopped');
    expect(said).not.toContain('cannot start');
    expect(code).toBe(0);
  });

  test('while the embedded server is made or started leaves none, and the next start works', async () => {
    const pidFile = join(dataDir, 'postgres', 'postmaster.pid');
    const isCreating = (said: string): boolean => said.includes('creating the embedded PostgreSQL');
    for (const when of [isCreating, () => existsSync(pidFile), isServing]) {
      expect(await stoppedOnce(when)).toMatchObject({ code: 0, said: expect.stringContaining('stopped') });
      expect(existsSync(pidFile)).toBe(false);
      expect(Bun.spawnSync(['pgrep', '-f', `postgres -D ${dataDir}`]).stdout.toString()).toBe('');
    }
  });
});
