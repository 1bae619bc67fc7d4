import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseInUseError, isDatabaseAway } from '../../src/state/connections.ts';
import { startEmbeddedPostgres } from '../../src/state/embedded.ts';
import { openState } from '../../src/state/state.ts';
import { connectTo, copyServerFiles, type TemporaryDatabase, temporaryDatabase } from './postgres.ts';
import { account, flushOf, newHost } from './samples.ts';

setDefaultTimeout(60_000);

let temporary: TemporaryDatabase;
beforeAll(async () => {
  temporary = await temporaryDatabase();
});
afterAll(() => temporary.drop());

const writerPid = async (): Promise<number> => {
  const rows =
    await temporary.sql`select pid from pg_locks where locktype = 'advisory' and granted and objid = 1
    and database = (select oid from pg_database where datname = current_database())`;
  expect(rows.length).toBe(1);
  return rows[0]!.pid as number;
};

/** Resolves when some session waits for a lock. */
const someoneWaits = async (sql: typeof temporary.sql): Promise<void> => {
  for (;;) {
    const [row] = await sql`select count(*)::integer as n from pg_locks where not granted`;
    if (row!.n > 0) return;
    await Bun.sleep(10);
  }
};

describe('one writer per database', () => {
  test('a second weir is turned away with a clear error, and let in when the first is gone', async () => {
    const first = await openState({ database: temporary.database });
    const second = openState({ database: temporary.database, lockWaitMs: 200 });
    await expect(second).rejects.toThrow(DatabaseInUseError);
    await expect(second).rejects.toThrow('Another weir is writing to this database');
    await first.flush(flushOf(1));
    await first.close();
    const third = await openState({ database: temporary.database });
    expect(await third.position()).toBe(1);
    await third.close();
  });

  test('a writer that lost its session takes the lock again with the new one', async () => {
    const state = await openState({ database: temporary.database });
    const before = await writerPid();
    await temporary.sql`select pg_terminate_backend(${before})`;
    // One flush may meet the closing connection; the sequencer tries again.
    await state.flush(flushOf(10)).catch(() => state.flush(flushOf(10)));
    const after = await writerPid();
    expect(after).not.toBe(before);
    expect(await state.position()).toBe(10);
    await state.close();
  });

  test('a writer that lost its session to another weir does not write any more', async () => {
    const first = await openState({ database: temporary.database, lockWaitMs: 200 });
    await temporary.sql`select pg_terminate_backend(${await writerPid()})`;
    const second = await openState({ database: temporary.database });
    await second.flush(flushOf(20));
    const stale = flushOf(99, { accounts: [account('did:plc:stale')] });
    // The first try may only notice that the session is gone.
    for (let attempt = 0; attempt < 2; attempt++) await expect(first.flush(stale)).rejects.toThrow();
    await expect(first.flush(stale)).rejects.toThrow(DatabaseInUseError);
    expect(await second.position()).toBe(20);
    expect(await second.loadAccounts(['did:plc:stale'])).toEqual([]);
    await first.close();
    await second.close();
  });
});

describe('a lost connection', () => {
  test('amid a flush leaves nothing of it behind, whatever else goes on, and the next flush works', async () => {
    const state = await openState({ database: temporary.database });
    await state.flush(flushOf(30));
    // Holds the flush up at its last step, after the accounts and hosts are written.
    const blocker = await temporary.sql.reserve();
    await blocker`begin`;
    await blocker`lock table state_position in access exclusive mode`;
    const flush = flushOf(31, {
      accounts: Array.from({ length: 1_500 }, (_, i) => account(`did:plc:mid${i}`)),
      hosts: [{ ...newHost('mid.example.com'), hostId: 40 }],
    });
    const outcome = state.flush(flush).then(
      () => 'done',
      () => 'rejected',
    );
    await someoneWaits(temporary.sql);
    await temporary.sql`select pg_terminate_backend(${await writerPid()})`;
    expect(await outcome).toBe('rejected');
    await blocker`rollback`;
    blocker.release();
    expect(await state.position()).toBe(30);
    expect(await state.loadAccounts(['did:plc:mid0', 'did:plc:mid1499'])).toEqual([]);
    expect(await state.loadHosts()).toEqual([]);
    await state.flush(flush);
    expect(await state.position()).toBe(31);
    expect((await state.loadAccounts(['did:plc:mid0', 'did:plc:mid1499'])).length).toBe(2);
    await state.close();
  });

  test('of a reader costs at most the question that met it', async () => {
    const state = await openState({ database: temporary.database });
    await Promise.all(Array.from({ length: 20 }, () => state.listRepos(0, 10)));
    await temporary.sql`select pg_terminate_backend(pid) from pg_stat_activity
      where application_name = 'weir' and datname = current_database()`;
    let failures = 0;
    for (let i = 0; i < 40; i++)
      await state.loadHosts().catch(() => {
        failures++;
      });
    expect(failures).toBeLessThan(20);
    expect((await state.listRepos(0, 1)).repos.length).toBe(1);
    await state.close();
  });

  test('to a server killed amid a flush loses that flush whole, and all works again when the server is back', async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'weir-killed-'));
    await copyServerFiles(dataDir);
    const embedded = await startEmbeddedPostgres({ dataDir });
    const state = await openState({ database: embedded.database });
    // A flush alone may be lost with the server, as a whole; a host's number is on disk, and all before it.
    await state.flush(flushOf(1, { accounts: [account('did:plc:before')] }));
    const host = await state.insertHost(newHost('kept.example.com'));
    const blocking = connectTo(embedded.database);
    const blocker = await blocking.reserve();
    await blocker`begin`;
    await blocker`lock table state_position in access exclusive mode`;
    const flush = flushOf(2, { accounts: [account('did:plc:amid')] });
    const outcome = state.flush(flush).then(
      () => 'done',
      () => 'rejected',
    );
    await someoneWaits(blocking);
    const pid = embedded.pid()!;
    process.kill(pid, 'SIGKILL');
    expect(await outcome).toBe('rejected');
    // As the sequencer does: try until the database is back.
    let attempts = 0;
    let before = -1;
    while (before < 0) {
      attempts++;
      before = await state.position().catch((error: unknown) => {
        expect(isDatabaseAway(error)).toBe(true);
        return -1;
      });
      // By way of the query builder, which wraps what went wrong.
      if (before < 0)
        await state.listRepos(0, 1).catch((error: unknown) => expect(isDatabaseAway(error)).toBe(true));
      if (before < 0) await Bun.sleep(50);
    }
    expect(before).toBe(1);
    expect(
      await state.loadAccounts(['did:plc:amid']).catch(() => state.loadAccounts(['did:plc:amid'])),
    ).toEqual([]);
    for (;;) {
      const failed = await state.flush(flush).then(
        () => false,
        () => true,
      );
      if (!failed) break;
      await Bun.sleep(50);
    }
    expect(await state.position()).toBe(2);
    expect((await state.loadAccounts(['did:plc:before', 'did:plc:amid'])).length).toBe(2);
    expect(await state.loadHosts()).toEqual([host]);
    expect(attempts).toBeGreaterThan(1);
    await state.close();
    await blocking.end({ timeout: 0 });
    await embedded.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });
});

test('a server of the operator is reached by its connection string', async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'weir-url-'));
  await copyServerFiles(dataDir);
  const probe = Bun.listen({ hostname: '127.0.0.1', port: 0, socket: { data() {} } });
  const port = String(probe.port);
  probe.stop(true);
  const server = await startEmbeddedPostgres({ dataDir, settings: { listen_addresses: '127.0.0.1', port } });
  const state = await openState({
    database: `postgres://postgres:secret@127.0.0.1:${port}/postgres?sslmode=disable`,
  });
  await state.flush(flushOf(3, { accounts: [account('did:plc:url')] }));
  expect(await state.loadAccounts(['did:plc:url'])).toEqual([account('did:plc:url')]);
  expect(await state.counts()).toEqual({ accounts: 1, hosts: 0 });
  await state.close();
  await server.stop();
  rmSync(dataDir, { recursive: true, force: true });
});

describe('a database that is down at the start', () => {
  test('is waited for, with a word about it', async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'weir-late-'));
    await copyServerFiles(dataDir);
    const database = {
      path: join(dataDir, 'postgres', '.s.PGSQL.5432'),
      user: 'postgres',
      database: 'postgres',
    };
    const said: string[] = [];
    const opening = openState({ database, log: (_, message) => said.push(message) });
    while (said.length === 0) await Bun.sleep(10);
    const late = await startEmbeddedPostgres({ dataDir });
    const state = await opening;
    expect(said[0]).toContain('cannot reach PostgreSQL');
    expect(await state.position()).toBe(0);
    await state.close();
    await late.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });

  test('is given up when asked to', async () => {
    const stop = new AbortController();
    const opening = openState({
      database: 'postgres://nobody@127.0.0.1:1/none',
      signal: stop.signal,
      log: () => stop.abort(new Error('asked to stop')),
    });
    await expect(opening).rejects.toThrow('asked to stop');
  });

  test('is given up when asked to though it never answers', async () => {
    const stop = new AbortController();
    const silent = Bun.listen({
      hostname: '127.0.0.1',
      port: 0,
      socket: { open: () => stop.abort(new Error('asked to stop')), data() {} },
    });
    const database = `postgres://nobody@127.0.0.1:${silent.port}/none`;
    const said: string[] = [];
    const opening = openState({ database, signal: stop.signal, log: (_, message) => said.push(message) });
    await expect(opening).rejects.toThrow('asked to stop');
    // It was not left to the deadline of the connection.
    expect(said).toEqual([]);
    silent.stop(true);
  });

  test('is given up when asked to though another weir holds it, or a migration is under way', async () => {
    const { database, sql } = temporary;
    const first = await openState({ database });
    const stopFirst = new AbortController();
    const refused = openState({ database, signal: stopFirst.signal, lockWaitMs: 3_600_000 });
    refused.catch(() => {});
    const sessions = async (): Promise<number> =>
      (await sql`select 1 from pg_stat_activity where application_name = 'weir' and state = 'idle'`).length;
    while ((await sessions()) < 2) await Bun.sleep(10);
    stopFirst.abort(new Error('asked to stop'));
    await expect(refused).rejects.toThrow('asked to stop');
    await first.close();

    const stopSecond = new AbortController();
    await sql.begin(async (locking) => {
      await locking`lock table drizzle.__drizzle_migrations`;
      const migrating = openState({ database, signal: stopSecond.signal });
      migrating.catch(() => {});
      await someoneWaits(sql);
      stopSecond.abort(new Error('asked to stop'));
      await expect(migrating).rejects.toThrow('asked to stop');
    });
    await (await openState({ database })).close();
  });

  test('is not waited for when it refuses us for good', async () => {
    const wrong = { ...temporary.database, database: 'no_such_database' };
    await expect(openState({ database: wrong })).rejects.toThrow(
      /refuses us.*no_such_database.*DATABASE_URL/,
    );
  });

  test('that was migrated by a newer weir is left alone', async () => {
    const fresh = await temporaryDatabase();
    await (await openState({ database: fresh.database })).close();
    await fresh.sql`insert into drizzle.__drizzle_migrations (hash, created_at) values ('later', 99999999999999)`;
    await expect(openState({ database: fresh.database })).rejects.toThrow('newer weir');
    await fresh.drop();
  });
});
