/** Whose PostgreSQL a backfill works on: that of a running relay, one that goes away, or its own. */
import { afterEach, expect, setDefaultTimeout, test } from 'bun:test';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runningDatabase } from '../../src/backfill/database.ts';
import { createWriter } from '../../src/state/connections.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/state/embedded.ts';
import { copyServerFiles } from '../state/postgres.ts';
import { openFakeIndex } from './fake-index.ts';
import { didOf, type FakeServer, fakeRelay } from './fake-servers.ts';

setDefaultTimeout(60_000);

const POST = 'app.bsky.feed.post';
const cleanUp: (() => unknown)[] = [];
afterEach(async () => {
  for (const undo of cleanUp.splice(0).reverse()) await undo();
});

const freshDataDir = async (): Promise<string> => {
  const dataDir = mkdtempSync(join(tmpdir(), 'weir-backfill-'));
  cleanUp.push(() => rmSync(dataDir, { recursive: true, force: true }));
  await copyServerFiles(dataDir);
  return dataDir;
};

const freshRelay = (): FakeServer => {
  const relay = fakeRelay(new Map([[POST, Array.from({ length: 3_000 }, (_, n) => didOf(n))]]));
  cleanUp.push(() => relay.stop());
  return relay;
};

/** @param heard is given all that it said on stderr, each time it says something */
const spawn = (dataDir: string, args: readonly string[], heard: (err: string) => void = () => {}) => {
  const clean = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('RELAY_') && name !== 'DATABASE_URL'),
  ) as Record<string, string>;
  const child = Bun.spawn(
    [process.execPath, join(import.meta.dir, 'child.ts'), join(dataDir, 'fake-index.sqlite'), ...args],
    {
      env: { ...clean, RELAY_DATA_DIR: dataDir, RELAY_ALLOW_INSECURE_HOSTS: 'true' },
      stdout: 'pipe',
      stderr: 'pipe',
    },
  );
  const listen = async (): Promise<string> => {
    const decoder = new TextDecoder();
    let err = '';
    for await (const bytes of child.stderr) {
      err += decoder.decode(bytes, { stream: true });
      heard(err);
    }
    return err;
  };
  return Promise.all([child.exited, child.stdout.text(), listen()]).then(([code, out, err]) => ({
    code,
    out,
    err,
  }));
};

const indexed = async (dataDir: string): Promise<number> => {
  const index = openFakeIndex(join(dataDir, 'fake-index.sqlite'));
  const { length } = index.pairs();
  await index.close();
  return length;
};

test('without a relay, the backfill starts the embedded server itself and stops it again', async () => {
  const dataDir = await freshDataDir();
  const relay = freshRelay();
  expect(runningDatabase(dataDir)).toBe(null);
  const { code, out } = await spawn(dataDir, ['--from-relay', relay.url]);
  expect(code).toBe(0);
  expect(out).toContain('new            3,000');
  expect(await indexed(dataDir)).toBe(3_000);
  expect(runningDatabase(dataDir)).toBe(null);
  expect(existsSync(join(dataDir, 'postgres', 'postmaster.pid'))).toBe(false);
});

test('when the relay that owns the server restarts, the backfill waits for it and goes on', async () => {
  const dataDir = await freshDataDir();
  const relay = freshRelay();
  let embedded: EmbeddedPostgres = await startEmbeddedPostgres({ dataDir, settings: { fsync: 'off' } });
  cleanUp.push(() => embedded.stop());
  expect(runningDatabase(dataDir)).toEqual(embedded.database);
  const { promise: hanging, resolve: hangs } = Promise.withResolvers<void>();
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  relay.fault = async (url) => {
    if (url.searchParams.get('cursor') !== '1000') return null;
    hangs();
    await released;
    return null;
  };
  const { promise: waiting, resolve: waits } = Promise.withResolvers<void>();
  const ended = spawn(dataDir, ['--from-relay', relay.url], (err) => {
    if (err.includes('waiting for it')) waits();
  });
  await hanging;
  await embedded.stop();
  release();
  // One that is back sooner than anybody asks is not missed at all.
  await waiting;
  embedded = await startEmbeddedPostgres({ dataDir, settings: { fsync: 'off' } });
  const { code, out } = await ended;
  expect(code).toBe(0);
  expect(out).toContain(': finished');
  expect(await indexed(dataDir)).toBe(3_000);
});

test('beside a relay that is too old to know of backfills, the operator is told so', async () => {
  const dataDir = await freshDataDir();
  const embedded = await startEmbeddedPostgres({ dataDir, settings: { fsync: 'off' } });
  cleanUp.push(() => embedded.stop());
  const writer = createWriter(embedded.database, () => {}, 1_000);
  await writer.run(5_000, (session) => session.query('select 1'));
  const { code, err } = await spawn(dataDir, ['--status']);
  expect(code).toBe(1);
  expect(err).toContain('restart it');
  await writer.close();
});
