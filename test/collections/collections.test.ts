/** The index as the relay has it: the thread that follows a log, calls, sweeps. */
import { Database } from 'bun:sqlite';
import { afterEach, beforeEach, describe, expect, test } from 'bun:test';
import { batchBytes, decodeBatch, encodeBatch } from '../../src/collections/batch.ts';
import { type Collections, openCollections } from '../../src/collections/collections.ts';
import { GONE_AFTER_MS, goneHosts, MIN_GONE_FAILURES } from '../../src/collections/gone-hosts.ts';
import type { BatchMessage } from '../../src/collections/messages.ts';
import { MAX_INDEX_BYTES_IN_FLIGHT, startPump } from '../../src/collections/pump.ts';
import { MAX_PAIRS_PER_CALL } from '../../src/collections/store/bounds.ts';
import { openCollectionWriter } from '../../src/collections/writer.ts';
import { scanFrame } from '../../src/firehose/scan.ts';
import { KIND } from '../../src/firehose/types.ts';
import { newLife, step } from '../../src/hosts/lifecycle.ts';
import type { HostView } from '../../src/hosts/types.ts';
import type { LogRecord } from '../../src/log/types.ts';
import { HISTORY_COLLECTIONS, MemoryLog, makeHistory, type Truth } from './history.ts';
import { didOf, makeDirectory, query, walk } from './samples.ts';

const EVENTS = 600;
const { records, truth } = makeHistory(11, EVENTS);

let directory: ReturnType<typeof makeDirectory>;
let open: Collections[] = [];
let warnings: string[] = [];
let fatal: Error[] = [];
beforeEach(() => {
  directory = makeDirectory();
  open = [];
  warnings = [];
  fatal = [];
});
afterEach(async () => {
  for (const collections of open) await collections.stop();
  directory.remove();
});

const start = async (log: MemoryLog, takendown: readonly string[] = []): Promise<Collections> => {
  const collections = await openCollections({
    path: directory.path,
    log,
    takendown,
    warn: (message) => warnings.push(message),
    fatal: (error) => fatal.push(error),
  });
  open.push(collections);
  return collections;
};
const until = async (condition: () => boolean): Promise<void> => {
  for (let tries = 0; !condition(); tries++) {
    if (tries > 3_000) throw new Error('it does not come');
    await Bun.sleep(2);
  }
};
const reached = (collections: Collections, seq: number) => until(() => collections.status().position >= seq);
const stop = async (collections: Collections): Promise<void> => {
  open.splice(open.indexOf(collections), 1);
  await collections.stop();
};
const expectTruth = (collections: Collections, expected: Truth): void => {
  for (const name of HISTORY_COLLECTIONS)
    expect(walk(collections.reader, query([name])).toSorted()).toEqual(
      [...expected]
        .filter(([, held]) => held.has(name))
        .map(([did]) => did)
        .toSorted(),
    );
};

describe('the thread', () => {
  test('follows the log as it grows, stops, and goes on where it was', async () => {
    const log = new MemoryLog(records, 100);
    let collections = await start(log);
    await reached(collections, 100);
    expectTruth(collections, makeHistory(11, 100).truth);
    log.grow(300);
    await reached(collections, 300);
    expectTruth(collections, makeHistory(11, 300).truth);
    await stop(collections);
    log.grow(EVENTS);
    collections = await start(log);
    expect(collections.status().position).toBe(300);
    await reached(collections, EVENTS);
    expectTruth(collections, truth);
    expect(collections.status()).toMatchObject({ lastSeq: EVENTS, lagMs: 0, problem: '' });
    expect(warnings).toEqual([]);
    expect(fatal).toEqual([]);
  });

  test('that is behind the window of the log goes on with the oldest, counts it and says so', async () => {
    const log = new MemoryLog(records, 50);
    const first = await start(log);
    await reached(first, 50);
    await stop(first);
    log.oldestSeq = 101;
    log.grow(120);
    const collections = await start(log);
    await reached(collections, 120);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain('the log does not hold what the collection index would read next');
    expect(warnings[0]).toContain('`bun run backfill --verify --all`');
    await until(() => collections.status().gaps === 1);
  });

  test('shows what it did not take, over restarts, too', async () => {
    const log = new MemoryLog(records, 50);
    for (const refused of [2, 4]) {
      const collections = await start(log);
      await collections.writer.add([
        { did: didOf(500), collections: ['no nsid', 'none', 'com.example.one'] },
      ]);
      await until(() => collections.status().refusedPairs === refused);
      expect(collections.status()).toMatchObject({ gaps: 0, checksRefused: 0, placesDropped: 0 });
      expect(collections.totals().refusedPairs).toBe(refused);
      await stop(collections);
    }
  });

  test('of a new index on an old log says what it lacks', async () => {
    const log = new MemoryLog(records, 120);
    log.oldestSeq = 101;
    const collections = await start(log);
    await reached(collections, 120);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain('the collection index is new');
  });

  test('of an index that is ahead of its log (one that was lost) begins with what there is', async () => {
    const first = await start(new MemoryLog(records, 300));
    await reached(first, 300);
    await stop(first);
    const collections = await start(new MemoryLog(records, 80));
    await until(() => collections.status().position === 80);
    expect(warnings).toHaveLength(1);
  });

  test('schedules a check where the log says that a commit did not follow on', async () => {
    const at = records.findIndex(({ kind }) => kind === KIND.commit);
    const commit: LogRecord = { ...records[at]!, seq: 1, discontinuity: true };
    const collections = await start(new MemoryLog([commit]));
    await reached(collections, 1);
    const checks = await collections.writer.nextChecks(Date.now(), 10);
    expect(checks.map(({ reason }) => reason)).toEqual(['discontinuity']);
    await until(() => collections.status().checks.discontinuity === 1);
  });

  test('hides whom the relay has taken down, also when it is made anew from a log that tells nothing of that', async () => {
    const [did, held] = [...truth].find(([, { size }]) => size > 0)!;
    const [collection] = held as ReadonlySet<string>;
    const shown = (collections: Collections) => walk(collections.reader, query([collection!]));
    const others = new Map([...truth].filter(([other]) => other !== did));
    const log = new MemoryLog(records);
    let collections = await start(log, [did]);
    await reached(collections, EVENTS);
    expectTruth(collections, others);
    expect(walk(collections.reader, query([]))).not.toContain(did);
    await stop(collections);

    // An index that had it listed.
    directory.remove();
    directory = makeDirectory();
    collections = await start(log);
    await reached(collections, EVENTS);
    expect(shown(collections)).toContain(did);
    await stop(collections);
    collections = await start(log, [did]);
    await until(() => !shown(collections).includes(did));
    expectTruth(collections, others);
    await stop(collections);

    // Not taken down any more: its next event shows it, and a check tells what it has by then.
    const at = records.findLastIndex(({ kind, frame }) => {
      const scanned = scanFrame(frame);
      return kind === KIND.commit && scanned.ok && scanned.did === did;
    });
    const next = { ...records[at]!, seq: EVENTS + 1 };
    collections = await start(new MemoryLog([...records, next]));
    await reached(collections, EVENTS + 1);
    expect(walk(collections.reader, query([]))).toContain(did);
    const checks = await collections.writer.nextChecks(Date.now(), 100);
    expect(checks).toContainEqual({ did, reason: 'shown_again', attempts: 0 });
  });

  test('refuses to start on a file of a newer weir, and leaves nothing running', async () => {
    await (await openCollectionWriter(directory.path)).close();
    const db = new Database(directory.path);
    db.run('pragma user_version = 9');
    db.close();
    await expect(start(new MemoryLog(records))).rejects.toThrow(/newer weir/);
    expect(fatal).toEqual([]);
  });

  test('ends for damage that it meets later, with what to do', async () => {
    const log = new MemoryLog(records, 200);
    const collections = await start(log);
    await reached(collections, 200);
    const db = new Database(directory.path);
    db.run('delete from chunks');
    db.close();
    log.grow(EVENTS);
    await until(() => fatal.length > 0);
    expect(fatal[0]!.message).toMatch(/damaged/);
    expect(collections.status().problem).toMatch(/damaged/);
    await expect(collections.writer.add([{ did: didOf(1), collections: [] }])).rejects.toThrow(/damaged/);
    expect(fatal).toHaveLength(1);
  });

  test('waits for another writer that does not end, and tells nobody that it stored what it did not', async () => {
    const log = new MemoryLog(records, 50);
    const collections = await start(log);
    await reached(collections, 50);
    const db = new Database(directory.path);
    db.run('begin immediate');
    log.grow(EVENTS);
    await Bun.sleep(200);
    expect(collections.status().position).toBe(50);
    db.run('rollback');
    db.close();
    await reached(collections, EVENTS);
    expectTruth(collections, truth);
    expect(fatal).toEqual([]);
  });

  test('answers calls, refuses what is too much, and ends with answers to all', async () => {
    const collections = await start(new MemoryLog(records, 0));
    const { writer, reader } = collections;
    expect(await writer.add([{ did: didOf(70), collections: ['com.example.one'] }])).toEqual({
      added: 1,
      known: 0,
      refused: 0,
    });
    expect(walk(reader, query(['com.example.one']))).toEqual([didOf(70)]);
    const watch = await writer.begin(didOf(70));
    expect(await writer.apply(didOf(70), watch, { collections: [] })).toMatchObject({ removed: 1 });
    expect(await writer.scheduleChecks([didOf(70), didOf(71)], 'verify')).toBe(2);
    expect(await writer.collections(null, 10)).toEqual(['com.example.one']);
    const many = Array.from({ length: MAX_PAIRS_PER_CALL + 1 }, () => ({ did: didOf(1), collections: [] }));
    expect(await writer.add(many).catch((error: Error) => error.message)).toMatch(/more than/);
    const late = writer.begin(didOf(72));
    await stop(collections);
    expect(await late.then(String, (error: Error) => error.message)).toMatch(/^\d+$|closed/);
    expect(await writer.begin(didOf(72)).catch((error: Error) => error.message)).toMatch(/closed/);
  });

  test('sweeps for hosts that are gone, beside the log', async () => {
    const log = new MemoryLog(records);
    const collections = await start(log);
    await reached(collections, EVENTS);
    collections.sweep([1, 2]);
    await until(() => (collections.status().hiddenRepos.pds_gone ?? 0) > 0);
    await until(() => walk(collections.reader, query([])).length === 0);
    collections.sweep([]);
    await until(() => walk(collections.reader, query([])).length === truth.size);
    expectTruth(collections, truth);
  });
});

describe('batches', () => {
  test('hold the frames of the kinds that tell something, and the seq of all', () => {
    const record = (
      seq: number,
      kind: LogRecord['kind'],
      bytes: number,
      discontinuity = false,
    ): LogRecord => ({
      seq,
      timeUs: seq * 10,
      hostId: seq * 100,
      upstreamSeq: seq,
      kind,
      opCount: 0,
      didHash: 0,
      frame: new Uint8Array(bytes).fill(seq),
      discontinuity,
    });
    const given = [
      record(1, KIND.commit, 3, true),
      record(2, KIND.identity, 5),
      record(3, KIND.account, 0),
      record(4, KIND.sync, 70_000),
      record(5, KIND.unknown, 1),
    ];
    // What was in the memory before, behind the end too, is not taken for records.
    const memory = new SharedArrayBuffer(batchBytes(given) + 100);
    new Uint8Array(memory).fill(0xff);
    encodeBatch(given, memory);
    const batch = decodeBatch(memory);
    expect(batch).toMatchObject({ seq: 5, timeUs: 50 });
    expect(
      batch.records.map(({ hostId, discontinuity, frame }) => [
        hostId,
        discontinuity,
        frame.length,
        frame[0],
      ]),
    ).toEqual([
      [100, true, 3, 1],
      [300, false, 0, undefined],
      [400, false, 70_000, 4],
    ] as never);
  });

  test('in flight are bounded, however slow the index is', async () => {
    const frame = new Uint8Array(100_000);
    const large = Array.from(
      { length: 200 },
      (_, index): LogRecord => ({ ...records[0]!, seq: index + 1, frame }),
    );
    const log = new MemoryLog(large, large.length, 4);
    const sent: BatchMessage[] = [];
    const memories = new Map<number, SharedArrayBuffer>();
    let most = 0;
    const pump = startPump(0, {
      log,
      send: (batch) => {
        sent.push(batch);
        if (batch.memory !== undefined) memories.set(batch.slot, batch.memory);
        most = Math.max(most, pump.bytesInFlight);
      },
      gap: () => {},
      fatal: (error) => fatal.push(error as Error),
    });
    await until(() => pump.bytesInFlight >= MAX_INDEX_BYTES_IN_FLIGHT);
    await Bun.sleep(20);
    const waiting = sent.length;
    expect(waiting).toBeLessThan(50);
    let stored = 0;
    await until(() => {
      if (stored < sent.length) pump.stored(sent[stored++]!.slot);
      return stored === 50;
    });
    expect(most).toBeLessThan(MAX_INDEX_BYTES_IN_FLIGHT + 600_000);
    expect(memories.size).toBe(waiting);
    pump.stop();
    expect(fatal).toEqual([]);
  });
});

test('a busy thread that has few turns gives the index many batches in each', async () => {
  const frame = new Uint8Array(100_000);
  const large = Array.from(
    { length: 60 },
    (_, index): LogRecord => ({ ...records[0]!, seq: index + 1, frame }),
  );
  const sent: BatchMessage[] = [];
  const pump = startPump(0, {
    log: new MemoryLog(large, large.length, 4),
    send: (batch) => sent.push(batch),
    gap: () => {},
    fatal: (error) => fatal.push(error as Error),
    nowMs: () => 0,
  });
  await until(() => sent.length > 0);
  // Until no more may be in flight, in the one turn in which it began.
  expect(pump.bytesInFlight).toBeGreaterThanOrEqual(MAX_INDEX_BYTES_IN_FLIGHT);
  pump.stop();
  expect(fatal).toEqual([]);
});

describe('memory of batches', () => {
  test('is sent once, holds what was given until that is stored, and is not kept when it is unusually large', async () => {
    const sizes = [100, 700_000, 200, 300, 600_000, 400, 50_000, 60_000];
    const large = Array.from(
      { length: 400 },
      (_, index): LogRecord => ({
        ...records[0]!,
        seq: index + 1,
        frame: new Uint8Array(sizes[index % sizes.length]!).fill(index),
      }),
    );
    const waiting: { readonly slot: number; readonly memory: SharedArrayBuffer; readonly was: string }[] = [];
    const memories: SharedArrayBuffer[] = [];
    let sent = 0;
    let last = 0;
    const look = (memory: SharedArrayBuffer): string => {
      const { seq, records: given } = decodeBatch(memory);
      return `${seq}: ${given.map(({ frame }) => `${frame.length} × ${frame[0]}`).join()}`;
    };
    const pump = startPump(0, {
      log: new MemoryLog(large, large.length, 3),
      send: ({ slot, memory, once }) => {
        if (memory !== undefined && once !== true) {
          expect(memories[slot]).toBeUndefined();
          memories[slot] = memory;
        }
        const its = memory ?? memories[slot]!;
        expect(waiting.map((each) => each.slot)).not.toContain(slot);
        waiting.push({ slot, memory: its, was: look(its) });
        sent++;
        last = decodeBatch(its).seq;
      },
      gap: () => {},
      fatal: (error) => fatal.push(error as Error),
    });
    await until(() => {
      // The oldest is stored when there is nothing more to be given, or now and then before.
      if (waiting.length > 1 || (last === large.length && waiting.length > 0)) {
        const { slot, memory, was } = waiting.shift()!;
        expect(look(memory)).toBe(was);
        pump.stored(slot);
      }
      return last === large.length && waiting.length === 0;
    });
    expect(sent).toBeGreaterThan(100);
    expect(memories.length).toBeLessThan(8);
    expect(pump.bytesInFlight).toBe(0);
    pump.stop();
    expect(fatal).toEqual([]);
  });
});

test('a host is gone for good when it was not reached in a month of trying, however long it said nothing', () => {
  const nowMs = 1e12;
  const host = (hostId: number, more: object, row: object = {}): HostView =>
    ({
      connected: false,
      ...more,
      row: {
        hostId,
        status: 'offline',
        failures: MIN_GONE_FAILURES,
        connectedUntilMs: nowMs - GONE_AFTER_MS - 1,
        createdAtMs: 0,
        lastEventAtMs: 0,
        ...row,
      },
    }) as unknown as HostView;
  expect(
    goneHosts(
      [
        host(9, {}),
        host(2, {}),
        host(3, { connected: true }),
        host(4, {}, { status: 'active' }),
        // Silent all the time, but connected until then.
        host(5, {}, { connectedUntilMs: nowMs - GONE_AFTER_MS }),
        host(6, {}, { createdAtMs: nowMs - 1 }),
        // It was we who were away.
        host(7, {}, { failures: MIN_GONE_FAILURES - 1 }),
        host(8, {}, { status: 'banned' }),
      ],
      nowMs,
    ),
  ).toEqual([2, 9]);
});

test('a host of the roster that is quiet for a month and then fails once is not gone', () => {
  let nowMs = 1e12;
  const tick = { kind: 'tick', hasCursor: true } as const;
  let life = newLife({
    banned: false,
    status: 'idle',
    failures: 0,
    firstAttemptAtMs: nowMs,
    connectedUntilMs: nowMs,
  });
  const go = (input: Parameters<typeof step>[1]): void => {
    life = step(life, input, nowMs, 0.5).life;
  };
  const view = (): HostView =>
    ({
      connected: life.phase === 'open',
      row: {
        hostId: 7,
        connectedUntilMs: life.connectedUntilMs,
        status: life.status,
        failures: life.failures,
        createdAtMs: 0,
        lastEventAtMs: 0,
      },
    }) as unknown as HostView;
  const fail = (): void => {
    nowMs = life.nextAttemptAtMs!;
    go(tick);
    const outcome = { kind: 'unreachable', detail: '' } as const;
    go({ kind: 'closed', outcome, events: 0, progressed: false, hasCursor: true });
  };
  go(tick);
  go({ kind: 'opened' });
  nowMs += GONE_AFTER_MS + 1;
  go({
    kind: 'closed',
    outcome: { kind: 'silent' },
    events: 0,
    progressed: false,
    hasCursor: true,
  });
  fail();
  expect(life.status).toBe('offline');
  expect(goneHosts([view()], nowMs)).toEqual([]);
  const lostAtMs = nowMs;
  while (goneHosts([view()], nowMs).length === 0) fail();
  expect(nowMs - lostAtMs).toBeGreaterThan(GONE_AFTER_MS - 24 * 3_600_000);
  expect(nowMs - lostAtMs).toBeLessThan(GONE_AFTER_MS + 24 * 3_600_000);
});
