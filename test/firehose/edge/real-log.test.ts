import { afterEach, describe, expect, test } from 'bun:test';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { encode } from 'cborg';
import fc from 'fast-check';
import { KIND } from '../../../src/firehose/types.ts';
import { openLog } from '../../../src/log/log.ts';
import type { Log } from '../../../src/log/types.ts';
import { type Client, connect, range, startEdge, until } from './harness.ts';

/** Small segments and a small tail: cursors cross files and the seam between disk and memory all the time. */
const small = (dir: string) => ({
  dir,
  windowMs: 3_600_000,
  maxBytes: 1e12,
  segmentBytes: 40_000,
  tailBytes: 30_000,
  groupDelayMs: 1,
  reserveBytes: 0,
  retainEveryMs: 0,
});

const header = encode({ t: '#identity', op: 1 });
const write = (log: Log, count: number, bytes: number): void => {
  for (let index = 0; index < count; index++) {
    const head = encode('seq');
    const rest = [encode('pad'), encode(new Uint8Array(bytes))];
    const before = Buffer.concat([header, Uint8Array.of(0xa2), head]);
    const frame = Buffer.concat([before, encode(1), ...rest]);
    log.append(
      {
        hostId: 1,
        upstreamSeq: log.appendedSeq + 1,
        kind: KIND.identity,
        opCount: 0,
        didHash: (log.appendedSeq + 1) % 10,
        frame,
        seqStart: before.length,
        seqEnd: before.length + 1,
      },
      Date.now() * 1000,
    );
  }
};

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const directory = (): string => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'weir-edge-'));
  cleanups.push(() => fs.rmSync(dir, { recursive: true, force: true }));
  return dir;
};

const opened = (client: Client) => until(() => client.socket.readyState === 1, 'the socket opens');
const got = (client: Client, n: number) => until(() => client.seqs.length >= n, `${n} events`);

describe('on the real log', () => {
  test('every cursor gives every later event once, over files, the seam, live, and a restart', async () => {
    const dir = directory();
    let log = await openLog(small(dir));
    write(log, 300, 500);
    await log.whenDurable(300);
    let running = startEdge({ log });
    // Before the restart and after it.
    for (const round of [0, 1]) {
      const last = 300 + round * 50;
      const clients = range(0, last).map((cursor) => ({
        cursor,
        client: connect(running.url, { cursor, decode: false }),
      }));
      await Promise.all(clients.map(({ client }) => opened(client)));
      for (let step = 0; step < 5; step++) {
        write(log, 10, 500);
        await log.whenDurable(log.appendedSeq);
      }
      await Promise.all(clients.map(({ cursor, client }) => got(client, last + 50 - cursor)));
      for (const { cursor, client } of clients) expect(client.seqs).toEqual(range(cursor + 1, last + 50));
      expect(running.edge.counters.rescued).toBe(0);
      await running.server.close();
      await log.close();
      if (round === 0) {
        log = await openLog(small(dir));
        running = startEdge({ log });
      }
    }
  }, 30_000);

  test('whoever stops and goes gets everything once, while the log grows', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            count: fc.nat(60),
            bytes: fc.constantFrom(20, 2_000, 30_000),
            toggle: fc.nat(3),
            waitMs: fc.nat(4),
          }),
          { minLength: 5, maxLength: 30 },
        ),
        async (steps) => {
          const log = await openLog(small(directory()));
          write(log, 40, 1000);
          await log.whenDurable(40);
          const { edge, server, url } = startEdge({ log, limits: { replaySliceBytes: 30_000 } });
          const clients = [0, 7, 40, 40].map((cursor) => ({
            cursor,
            client: connect(url, { cursor, decode: false }),
          }));
          await Promise.all(clients.map(({ client }) => opened(client)));
          const socket = (index: number) =>
            clients[index]!.client.socket as unknown as { pause(): void; resume(): void };
          const paused = new Set<number>();
          for (const { count, bytes, toggle, waitMs } of steps) {
            write(log, count, bytes);
            if (paused.delete(toggle)) socket(toggle).resume();
            else {
              paused.add(toggle);
              socket(toggle).pause();
            }
            await Bun.sleep(waitMs);
          }
          for (const index of paused) socket(index).resume();
          const last = log.appendedSeq;
          await Promise.all(clients.map(({ cursor, client }) => got(client, last - cursor)));
          for (const { cursor, client } of clients) expect(client.seqs).toEqual(range(cursor + 1, last));
          expect(edge.counters.rescued).toBe(0);
          await server.close();
          await log.close();
        },
      ),
      { numRuns: 8 },
    );
  }, 30_000);

  test('skipped accounts are skipped on disk, in memory and live, and nothing else is', async () => {
    const log = await openLog(small(directory()));
    cleanups.push(() => log.close());
    write(log, 200, 500);
    await log.whenDurable(200);
    log.setSkippedDids(new Set([3, 9]));
    const { server, url } = startEdge({ log });
    cleanups.push(() => server.close());
    const client = connect(url, { cursor: 0 });
    const live = connect(url);
    await Promise.all([opened(client), opened(live)]);
    write(log, 30, 500);
    const kept = range(1, 230).filter((seq) => seq % 10 !== 3 && seq % 10 !== 9);
    await Promise.all([got(client, kept.length), got(live, 24)]);
    expect(client.seqs).toEqual(kept);
    expect(live.seqs).toEqual(kept.filter((seq) => seq > 200));
  });

  test('retention moves the window: old cursors are told, new ones are served', async () => {
    const log = await openLog({ ...small(directory()), maxBytes: 120_000 });
    cleanups.push(() => log.close());
    for (let round = 0; round < 10; round++) {
      write(log, 50, 500);
      await log.whenDurable(log.appendedSeq);
    }
    log.retain(Date.now() * 1000);
    expect(log.oldestSeq).toBeGreaterThan(1);
    const { server, url } = startEdge({ log });
    cleanups.push(() => server.close());
    const { oldestSeq } = log;
    const [old, first, edgeOfIt] = [
      connect(url, { cursor: 1 }),
      connect(url, { cursor: 0 }),
      connect(url, { cursor: oldestSeq - 1 }),
    ];
    await Promise.all([old, first, edgeOfIt].map((client) => got(client, 501 - oldestSeq)));
    for (const client of [old, first, edgeOfIt]) expect(client.seqs).toEqual(range(oldestSeq, 500));
    expect(old.messages[0]!.body.name).toBe('OutdatedCursor');
    expect(first.messages[0]!.header.t).toBe('#identity');
    expect(edgeOfIt.messages[0]!.header.t).toBe('#identity');
  });
});
