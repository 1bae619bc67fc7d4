import { afterAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { findPostgresBinaries, preparePostgresPackage } from '../../src/state/binaries.ts';
import { startEmbeddedPostgres } from '../../src/state/embedded.ts';
import { isPostmasterOf, readPostmaster } from '../../src/state/postmaster.ts';
import { openState } from '../../src/state/state.ts';
import { connectTo, copyServerFiles } from './postgres.ts';
import { account } from './samples.ts';

const base = mkdtempSync(join(tmpdir(), 'weir-embedded-'));
setDefaultTimeout(60_000);
afterAll(() => rmSync(base, { recursive: true, force: true }));

let made = 0;
const freshDir = (): string => join(base, `data${++made}`);

/** A data directory as an earlier run left it: spares the seconds of a first start. */
const usedDir = async (): Promise<string> => {
  const dir = freshDir();
  await copyServerFiles(dir);
  return dir;
};

const until = async (done: () => boolean): Promise<void> => {
  while (!done()) await Bun.sleep(20);
};

const isGone = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return true;
  }
};

/** Starts owner.ts and resolves with what it prints. */
const startOwner = async (dataDir: string) => {
  const owner = Bun.spawn([process.execPath, join(import.meta.dir, 'owner.ts'), dataDir], {
    stdout: 'pipe',
    stderr: 'inherit',
  });
  let text = '';
  for await (const chunk of owner.stdout.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.includes('\n')) break;
  }
  const pids = JSON.parse(text) as { pid: number; serverPid: number; childPid: number };
  return { ...pids, owner };
};

const parentOf = (pid: number): number =>
  Number(Bun.spawnSync(['ps', '-o', 'ppid=', '-p', String(pid)]).stdout.toString());

describe('the embedded server', () => {
  test('starts on a socket alone, with checksums, and keeps its data over a stop', async () => {
    const dataDir = freshDir();
    const first = await startEmbeddedPostgres({ dataDir });
    const sql = connectTo(first.database);
    const [settings] = await sql`select current_setting('listen_addresses') as listen,
      current_setting('data_checksums') as checksums, current_setting('fsync') as fsync,
      current_setting('server_encoding') as encoding, current_setting('synchronous_commit') as synchronous`;
    expect(settings).toEqual({
      listen: '',
      checksums: 'on',
      fsync: 'on',
      encoding: 'UTF8',
      synchronous: 'off',
    });
    expect(statSync(join(dataDir, 'postgres')).mode & 0o777).toBe(0o700);
    await sql`create table kept (n integer)`;
    await sql`insert into kept values (7)`;
    await sql.end();
    const pid = first.pid()!;
    await Promise.all([first.stop(), first.stop()]);
    expect(isGone(pid)).toBe(true);
    expect(existsSync(join(dataDir, 'postgres', 'postmaster.pid'))).toBe(false);

    const second = await startEmbeddedPostgres({ dataDir });
    const again = connectTo(second.database);
    expect([...(await again`select n from kept`)]).toEqual([{ n: 7 }]);
    await again.end();
    await second.stop();
    expect(readdirSync(dataDir)).toEqual(['postgres']);
  });

  test('ends by itself when its owner is killed, and the next start has the data', async () => {
    const dataDir = await usedDir();
    const { owner, serverPid, childPid } = await startOwner(dataDir);
    const supervisor = parentOf(serverPid);
    owner.kill('SIGKILL');
    await owner.exited;
    await until(() => isGone(serverPid) && isGone(supervisor));
    // The process that the owner had started still runs: nothing but the owner held the pipe.
    expect(isGone(childPid)).toBe(false);
    process.kill(childPid, 'SIGKILL');

    const next = await startEmbeddedPostgres({ dataDir });
    const state = await openState({ database: next.database });
    expect(await state.position()).toBe(42);
    expect(await state.loadAccounts(['did:plc:survivor'])).toEqual([account('did:plc:survivor')]);
    await state.close();
    await next.stop();
  });

  test('of a killed owner is waited for by a start right after', async () => {
    const dataDir = await usedDir();
    const { owner, serverPid, childPid } = await startOwner(dataDir);
    owner.kill('SIGKILL');
    const next = await startEmbeddedPostgres({ dataDir });
    process.kill(childPid, 'SIGKILL');
    expect(isGone(serverPid)).toBe(true);
    expect(next.pid()).not.toBe(serverPid);
    const state = await openState({ database: next.database });
    expect(await state.position()).toBe(42);
    await state.close();
    await next.stop();
  });

  test('left behind by a killed owner and a killed supervisor is stopped by the next start', async () => {
    const dataDir = await usedDir();
    const { owner, serverPid, childPid } = await startOwner(dataDir);
    const supervisor = parentOf(serverPid);
    const watcher = Number(
      Bun.spawnSync(['pgrep', '-P', String(supervisor)])
        .stdout.toString()
        .split('\n')
        .find((pid) => pid !== '' && Number(pid) !== serverPid),
    );
    // The watcher first, or it would stop the server.
    for (const pid of [watcher, supervisor]) process.kill(pid, 'SIGKILL');
    owner.kill('SIGKILL');
    await owner.exited;
    process.kill(childPid, 'SIGKILL');
    expect(isPostmasterOf(serverPid, join(dataDir, 'postgres'))).toBe(true);

    const said: string[] = [];
    const next = await startEmbeddedPostgres({ dataDir, log: (_, message) => said.push(message) });
    expect(isGone(serverPid)).toBe(true);
    expect(said.join('\n')).toContain('left behind');
    const state = await openState({ database: next.database });
    expect(await state.position()).toBe(42);
    await state.close();
    await next.stop();
  });

  test('refuses a data directory that another weir is using, and leaves that one alone', async () => {
    const dataDir = await usedDir();
    const first = await startEmbeddedPostgres({ dataDir });
    const pid = first.pid();
    await expect(startEmbeddedPostgres({ dataDir })).rejects.toThrow('Another weir is using');
    expect(first.pid()).toBe(pid);
    const sql = connectTo(first.database);
    expect([...(await sql`select 1 as one`)]).toEqual([{ one: 1 }]);
    await sql.end();
    await first.stop();
  });

  test('is not fooled by a lock file whose number belongs to another process', async () => {
    const dataDir = await usedDir();
    const first = await startEmbeddedPostgres({ dataDir });
    await first.stop();
    const other = Bun.spawn(['sleep', '600']);
    const pgData = join(dataDir, 'postgres');
    writeFileSync(
      join(pgData, 'postmaster.pid'),
      `${other.pid}\n${pgData}\n1\n5432\n${pgData}\n\n1 1\nready   \n`,
    );
    const second = await startEmbeddedPostgres({ dataDir });
    expect(readPostmaster(pgData)?.pid).not.toBe(other.pid);
    expect(other.exitCode).toBeNull();
    other.kill();
    await second.stop();
  });

  test('is not fooled by the socket lock of a server killed together with its owner', async () => {
    const dataDir = await usedDir();
    // Alive and no relation of the server, as an unburied one looks to PostgreSQL.
    const other = Bun.spawn(['sleep', '600']);
    for (const withPidFile of [true, false]) {
      const lock = join(dataDir, 'postgres', '.s.PGSQL.5432.lock');
      const lines = `${other.pid}\n${join(dataDir, 'postgres')}\n0\n5432\n${join(dataDir, 'postgres')}\n`;
      writeFileSync(lock, lines);
      if (withPidFile) writeFileSync(join(dataDir, 'postgres', 'postmaster.pid'), lines);
      const server = await startEmbeddedPostgres({ dataDir });
      await server.stop();
      expect(existsSync(lock)).toBe(false);
    }
    other.kill();
  });

  test('that dies is started again', async () => {
    const dataDir = await usedDir();
    const embedded = await startEmbeddedPostgres({ dataDir });
    const pid = embedded.pid()!;
    process.kill(pid, 'SIGKILL');
    await until(() => embedded.pid() !== null && embedded.pid() !== pid);
    const sql = connectTo(embedded.database);
    expect([...(await sql`select 1 as one`)]).toEqual([{ one: 1 }]);
    await sql.end();
    await embedded.stop();
  });

  test('may be stopped while it is being started again', async () => {
    const dataDir = await usedDir();
    const embedded = await startEmbeddedPostgres({ dataDir });
    process.kill(embedded.pid()!, 'SIGKILL');
    await until(() => embedded.pid() === null);
    await embedded.stop();
    const server = readPostmaster(join(dataDir, 'postgres'));
    expect(server === null || isGone(server.pid)).toBe(true);
  });

  test('has its socket elsewhere when the path is too long for one', async () => {
    const dataDir = join(freshDir(), 'long'.repeat(25));
    await copyServerFiles(dataDir);
    const embedded = await startEmbeddedPostgres({ dataDir });
    const socketDir = dirname(embedded.database.path);
    expect(socketDir.startsWith(tmpdir())).toBe(true);
    expect(statSync(socketDir).mode & 0o777).toBe(0o700);
    const sql = connectTo(embedded.database);
    expect([...(await sql`select 1 as one`)]).toEqual([{ one: 1 }]);
    await sql.end();
    await embedded.stop();
    expect(existsSync(socketDir)).toBe(false);
  });

  test('refuses files of another version, and a folder that is none of its own, with a way out', async () => {
    const old = freshDir();
    mkdirSync(join(old, 'postgres'), { recursive: true });
    await expect(startEmbeddedPostgres({ dataDir: old })).rejects.toThrow('no PG_VERSION');
    writeFileSync(join(old, 'postgres', 'PG_VERSION'), '15\n');
    await expect(startEmbeddedPostgres({ dataDir: old })).rejects.toThrow(
      /written by PostgreSQL 15.*DATABASE_URL/,
    );
  });

  test('leaves nothing half made when a first start was cut short', async () => {
    const dataDir = freshDir();
    mkdirSync(join(dataDir, 'postgres.new-abc'), { recursive: true });
    writeFileSync(join(dataDir, 'postgres.new-abc', 'PG_VERSION'), '18\n');
    const embedded = await startEmbeddedPostgres({ dataDir });
    await embedded.stop();
    expect(readdirSync(dataDir)).toEqual(['postgres']);
  });
});

describe('a start that is called off', () => {
  /** Calls it off once `when` holds. Resolves when nothing runs any more. */
  const callOff = async (dataDir: string, when: () => boolean): Promise<void> => {
    const stop = new AbortController();
    const starting = startEmbeddedPostgres({ dataDir, signal: stop.signal });
    starting.catch(() => {});
    while (!when()) await new Promise((resolve) => setImmediate(resolve));
    stop.abort(new Error('called off'));
    await expect(starting).rejects.toThrow('called off');
    await until(() => Bun.spawnSync(['pgrep', '-f', dataDir]).stdout.length === 0);
  };

  test('while files are made leaves none half made', async () => {
    const dataDir = freshDir();
    await callOff(dataDir, () => existsSync(dataDir) && readdirSync(dataDir).length > 0);
    // Those that were made before it heard of it may stay.
    expect([[], ['postgres']]).toContainEqual(readdirSync(dataDir));
    await (await startEmbeddedPostgres({ dataDir })).stop();
  });

  test('ends the server whenever that is, and the next start works', async () => {
    const dataDir = await usedDir();
    const pidFile = join(dataDir, 'postgres', 'postmaster.pid');
    await callOff(dataDir, () => true);
    let turns = 0;
    // The server is there and does not mind signals yet.
    await callOff(dataDir, () => turns++ > 10);
    await callOff(dataDir, () => existsSync(pidFile));
    const server = await startEmbeddedPostgres({ dataDir });
    await server.stop();
  });

  test('does not wait for the server of another weir', async () => {
    const dataDir = await usedDir();
    const first = await startEmbeddedPostgres({ dataDir });
    const stop = new AbortController();
    const second = startEmbeddedPostgres({ dataDir, signal: stop.signal });
    stop.abort(new Error('called off'));
    await expect(second).rejects.toThrow('called off');
    expect(first.pid()).not.toBeNull();
    await first.stop();
  });
});

describe('the binaries', () => {
  const installed = dirname(dirname(dirname(findPostgresBinaries(join(base, 'unused')).postgres)));

  /** The package as the registry delivers it when no install script has run. */
  const unpacked = (): string => {
    const copy = join(base, `package${++made}`);
    cpSync(installed, copy, { recursive: true, verbatimSymlinks: true });
    const lib = join(copy, 'native', 'lib');
    for (const name of readdirSync(lib))
      if (lstatSync(join(lib, name)).isSymbolicLink()) rmSync(join(lib, name));
    for (const name of ['initdb', 'postgres']) chmodSync(join(copy, 'native', 'bin', name), 0o644);
    return copy;
  };

  test('work when install scripts were not run', async () => {
    const binaries = preparePostgresPackage(unpacked(), join(base, 'unused'));
    expect(binaries.libraryPath).toBeNull();
    const embedded = await startEmbeddedPostgres({ dataDir: freshDir(), binaries });
    expect(embedded.pid()).toBeGreaterThan(1);
    await embedded.stop();
  });

  test('find their libraries by links elsewhere when the package cannot be written to', async () => {
    const copy = unpacked();
    const lib = join(copy, 'native', 'lib');
    const links = join(base, `links${++made}`);
    // Links cannot be made in /proc, by nobody: it stands for a read-only package.
    rmSync(lib, { recursive: true });
    symlinkSync('/proc', lib);
    const binaries = preparePostgresPackage(copy, links);
    expect(binaries.libraryPath).toBe(`${links}:${lib}`);
    expect(readlinkSync(join(links, 'libpq.so.5'))).toStartWith(join(lib, 'libpq.so.5.'));
    rmSync(lib);
    cpSync(join(installed, 'native', 'lib'), lib, { recursive: true, verbatimSymlinks: true });
    for (const name of readdirSync(lib))
      if (lstatSync(join(lib, name)).isSymbolicLink()) rmSync(join(lib, name));

    const embedded = await startEmbeddedPostgres({ dataDir: await usedDir(), binaries });
    expect(embedded.pid()).toBeGreaterThan(1);
    await embedded.stop();
  });
});
