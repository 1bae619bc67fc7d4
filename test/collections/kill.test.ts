/** The index across kills of the processes that write it. */
import { afterEach, expect, setDefaultTimeout, test } from 'bun:test';
import { join } from 'node:path';
import { openCollectionReader } from '../../src/collections/store/reader.ts';
import { openStore } from '../../src/collections/store/store.ts';
import { HISTORY_COLLECTIONS, makeHistory, type Truth } from './history.ts';
import { didOf, makeDirectory, query, walk } from './samples.ts';

setDefaultTimeout(60_000);

const removals: (() => void)[] = [];
afterEach(() => {
  for (const remove of removals.splice(0)) remove();
});

const start = (...args: readonly string[]) => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, 'writer-process.ts'), ...args], {
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'inherit',
  });
  return child;
};

/** The lines a process says, until it ends or `stop` is true of one. */
const lines = async (
  child: ReturnType<typeof start>,
  stop: (line: string) => boolean,
): Promise<readonly string[]> => {
  const said: string[] = [];
  let rest = '';
  for await (const chunk of child.stdout as ReadableStream<Uint8Array>) {
    const parts = (rest + new TextDecoder().decode(chunk)).split('\n');
    rest = parts.pop()!;
    for (const part of parts) {
      said.push(part);
      if (stop(part)) child.kill('SIGKILL');
    }
  }
  await child.exited;
  return said;
};

const expectTruth = (path: string, truth: Truth): void => {
  const reader = openCollectionReader(path);
  for (const collection of HISTORY_COLLECTIONS) {
    const expected = [...truth].filter(([, held]) => held.has(collection)).map(([did]) => did);
    const listed = walk(reader, query([collection]));
    expect(listed.toSorted()).toEqual(expected.toSorted());
    expect(reader.count(collection)?.dids ?? 0).toBe(expected.length);
  }
  expect(walk(reader, query([])).toSorted()).toEqual([...truth.keys()].toSorted());
  reader.close();
};

test('the follower of the log, killed again and again, loses nothing and repeats nothing', async () => {
  const directory = makeDirectory();
  removals.push(directory.remove);
  const seed = 3;
  const events = 3_000;
  let stored = 0;
  let kills = 0;
  for (const target of [25, 400, 430, 1_100, 1_300, 2_000, 2_700]) {
    const said = await lines(start('follow', directory.path, String(seed), String(events)), (line) => {
      expect(line).toMatch(/^\d+$/);
      return Number(line) >= target;
    });
    // It goes on where it was, never before what it said it had.
    expect(Number(said[0])).toBeGreaterThanOrEqual(stored);
    stored = Number(said[said.length - 1]);
    if (stored < events) kills++;
    const store = openStore(directory.path);
    store.transaction(() => {});
    expect(store.seq).toBeGreaterThanOrEqual(stored);
    const seq = store.seq!;
    store.close();
    // What is stored is exactly what the log says up to the stored seq.
    expectTruth(directory.path, makeHistory(seed, seq).truth);
  }
  expect(kills).toBeGreaterThan(4);
  await lines(start('follow', directory.path, String(seed), String(events)), () => false);
  expectTruth(directory.path, makeHistory(seed, events).truth);
});

test('writers of two processes, one of them killed, keep all they said they had added, each once', async () => {
  const directory = makeDirectory();
  removals.push(directory.remove);
  // Away from the accounts of the history.
  const first = 100;
  const writing = start('write', directory.path, String(first));
  const following = start('follow', directory.path, '5', '2500');
  const follower = lines(following, () => false);
  const said = await lines(writing, (line) => Number(line) >= first + 150);
  await follower;
  expect(following.exitCode).toBe(0);
  const last = Number(said[said.length - 1]);
  const truth = new Map(makeHistory(5, 2_500).truth);
  for (let index = first; index <= last; index++)
    truth.set(didOf(index), new Set(HISTORY_COLLECTIONS.slice(0, 1 + (index % 3))));
  // What it had added and could not say any more.
  const reader = openCollectionReader(directory.path);
  const unsaid = didOf(last + 1);
  if (walk(reader, query([])).includes(unsaid))
    truth.set(unsaid, new Set(HISTORY_COLLECTIONS.slice(0, 1 + ((last + 1) % 3))));
  reader.close();
  expectTruth(directory.path, truth);
});
