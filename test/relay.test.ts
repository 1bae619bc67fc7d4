/** What stops the start of a relay, and how it stops itself. */
import { afterAll, expect, setDefaultTimeout, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readConfig } from '../src/config.ts';
import { createLogger } from '../src/logger.ts';
import { startRelay } from '../src/relay.ts';
import { startEmbeddedPostgres } from '../src/state/embedded.ts';
import {
  createConsumer,
  dataDirectory,
  environmentOf,
  removeDirectories,
  startNetwork,
} from './oracle/harness.ts';
import { connectTo, copyServerFiles } from './state/postgres.ts';

setDefaultTimeout(60_000);

const dataDir = mkdtempSync(join(tmpdir(), 'weir-relay-'));
afterAll(() => rmSync(dataDir, { recursive: true, force: true }));

const start = (signal?: AbortSignal) => {
  const config = readConfig({
    RELAY_API_BIND: '127.0.0.1:0',
    RELAY_METRICS_LISTEN: '127.0.0.1:0',
    RELAY_DATA_DIR: dataDir,
    RELAY_UPSTREAM: '',
    RELAY_INGEST_WORKERS: '0',
    LOG_LEVEL: 'error',
  });
  const fatal = (error: unknown): void => {
    throw error;
  };
  return startRelay(config, createLogger(config), fatal, signal);
};

test('a log that ends before what the database reflects stops the start, which leaves nothing running', async () => {
  await copyServerFiles(dataDir);
  await (await start()).stop();

  const setPosition = async (position: number): Promise<void> => {
    const server = await startEmbeddedPostgres({ dataDir });
    const sql = connectTo(server.database);
    await sql`update state_position set position = ${position}`;
    if ((await sql`select 1 from state_position`).length === 0)
      await sql`insert into state_position (position) values (${position})`;
    await sql.end();
    await server.stop();
  };
  await setPosition(5);
  await expect(start()).rejects.toThrow('the database reflects seq 5, but the log ends at 0');

  // Neither the log's lock nor the database is held any more.
  await setPosition(0);
  const relay = await start();
  expect(((await (await fetch(`${relay.url}/_health`)).json()) as { status: string }).status).toBe('ok');
  await relay.stop();
});

test('a start that is called off, whenever that is, leaves nothing running', async () => {
  for (let looks = 1; ; looks++) {
    const stop = new AbortController();
    const { signal } = stop;
    let look = 0;
    signal.throwIfAborted = () => {
      if (++look === looks) stop.abort(new Error('called off'));
      AbortSignal.prototype.throwIfAborted.call(signal);
    };
    const starting = start(signal);
    const outcome = await starting.catch((error: Error) => error.message);
    if (outcome === 'called off') continue;
    // It got through: so neither the log's lock nor the database was held by those before.
    expect(looks).toBeGreaterThan(4);
    await (await starting).stop();
    return;
  }
});

test('a stop under way, consumers get all that came to be durable before they are told', async () => {
  const network = await startNetwork({ hosts: 2, accounts: 40, ratePerSecond: 1_000 });
  const config = readConfig(environmentOf(network, await dataDirectory()));
  const relay = await startRelay(config, createLogger(config), (error) => {
    throw error;
  });
  const consumer = createConsumer({ url: relay.url, cursor: 0 });
  await consumer.until(() => consumer.lastSeq !== null && consumer.lastSeq > 500);
  await relay.stop();
  expect(await consumer.closed).toMatchObject({ code: 1001 });
  expect(consumer.lastSeq).toBe(relay.log.lastSeq);
  await network.stop();
  removeDirectories();
});

test('when the log is lost, seqs go on far behind those that were given', async () => {
  const server = await startEmbeddedPostgres({ dataDir });
  const sql = connectTo(server.database);
  await sql`update state_position set position = 5`;
  await sql.end();
  await server.stop();
  rmSync(join(dataDir, 'log'), { recursive: true });
  const relay = await start();
  expect(relay.log.appendedSeq).toBe(1_000_004);
  await relay.stop();
  const again = await start();
  expect(again.log.appendedSeq).toBe(1_000_004);
  await again.stop();
});

test('when the database is lost, hosts keep the ids that the log knows them by', async () => {
  const relay = await start();
  relay.log.nameHost(7, 'seven.example.com');
  relay.log.nameHost(3, 'three.example.com');
  await relay.stop();
  rmSync(join(dataDir, 'postgres'), { recursive: true });
  await copyServerFiles(dataDir);
  const again = await start();
  expect(again.roster.list().map(({ row }) => [row.hostId, row.hostname])).toEqual([
    [3, 'three.example.com'],
    [7, 'seven.example.com'],
  ]);
  await again.roster.addHosts([{ hostname: 'next.example.com' }], 'admin');
  expect(again.roster.get('next.example.com')?.row.hostId).toBe(8);
  await again.stop();
});
