import { afterAll, afterEach, expect, test } from 'bun:test';
import { mkdtempSync, readdirSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { keyOf } from '../../simulator/account.ts';
import { createConsumer, decodeFrame } from '../../simulator/consumer.ts';
import { createNetwork } from '../../simulator/network.ts';
import { play } from '../../simulator/playback.ts';
import { cachedRecording, makeRecording, openRecording } from '../../simulator/recording.ts';
import { judgeCommit } from './judge.ts';

const OPTIONS = { hosts: 4, accounts: 30, seed: 5, events: 600, largeRepoShare: 0 };
const START_MS = Date.UTC(2026, 9, 1);

const directory = mkdtempSync(join(tmpdir(), 'weir-recording-'));
const closing: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
  for (const name of readdirSync(directory)) rmSync(join(directory, name));
});

afterAll(() => rmSync(directory, { recursive: true }));

const playing = async () => {
  const recording = await cachedRecording(directory, OPTIONS);
  const network = await createNetwork(recording.options);
  closing.push(() => network.stop());
  await network.start();
  const consumers = network.hosts.map(({ hostname }) => createConsumer({ url: `http://${hostname}` }));
  for (const consumer of consumers) closing.push(() => consumer.close());
  while (network.counters.connected < network.hosts.length) await Bun.sleep(1);
  return { recording, network, consumers };
};

test('the same options and start give the same file, byte for byte', async () => {
  const digests: string[] = [];
  for (const name of ['one', 'two']) {
    const path = join(directory, name);
    await makeRecording(path, { ...OPTIONS, events: 200, startMs: START_MS });
    digests.push(Bun.SHA256.hash(await Bun.file(path).bytes(), 'hex'));
  }
  expect(digests[0]).toBe(digests[1]!);
});

test('recorded commits verify against the keys of a network built with the recording’s options', async () => {
  const recording = await cachedRecording(directory, { ...OPTIONS, events: 80 });
  const network = await createNetwork(recording.options);
  let commits = 0;
  for (let event = 0; event < recording.events; event++) {
    const { type, body, did } = decodeFrame(recording.frameAt(event));
    if (type !== '#commit') continue;
    commits++;
    expect(await judgeCommit(body, keyOf(network.find(did!)!, OPTIONS.seed))).toBeNull();
  }
  expect(commits).toBeGreaterThan(60);
});

test('played as fast as they are read, all events of each host arrive in order', async () => {
  const { recording, network, consumers } = await playing();
  const playback = play(network, recording, 'max');
  await playback.finished;
  for (const [host, consumer] of consumers.entries()) {
    const events = [...recording.byHost[host]!];
    await consumer.until(() => consumer.seen.length >= events.length);
    expect(consumer.seen.map(({ seq }) => seq)).toEqual(events.map((event) => recording.seqAt(event)));
  }
  expect(playback.isRead).toBe(true);
  const cursor = recording.seqAt(recording.byHost[0]![10]!);
  const resumed = createConsumer({ url: `http://${network.hosts[0]!.hostname}`, cursor });
  closing.push(() => resumed.close());
  await resumed.until(() => resumed.seen.length === recording.byHost[0]!.length - 11);
  expect(resumed.seen[0]!.seq).toBe(cursor + 1);
});

test('played at a rate, all events happen in the end', async () => {
  const { recording, network, consumers } = await playing();
  const playback = play(network, recording, 5000);
  await playback.finished;
  await Promise.all(
    consumers.map((c, host) => c.until(() => c.seen.length === recording.byHost[host]!.length)),
  );
  expect(() => network.generate(1)).toThrow('plays a recording');
});

test('a file that is cut short or no recording is refused', async () => {
  const path = join(directory, 'cut');
  await makeRecording(path, { ...OPTIONS, events: 20 });
  truncateSync(path, Bun.file(path).size - 5);
  expect(() => openRecording(path)).toThrow('cut short');
  await Bun.write(path, new Uint8Array(5000));
  expect(() => openRecording(path)).toThrow('not a recording');
});
