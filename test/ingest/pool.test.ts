/** Real threads, real sockets of this machine. */
import { afterAll, describe, expect, test } from 'bun:test';
import { createIngestPool, type IngestPool } from '../../src/ingest/pool.ts';
import type { IdentityRequest, Ingest, IngestBatch, IngestEvents } from '../../src/ingest/types.ts';
import { accountFrame, commitFrame, keyOf, NO_LIMITS, newAccount, START_MS } from './support.ts';

const account = newAccount();
const frames = Array.from({ length: 20 }, (_, index) =>
  commitFrame(account, index + 1, { atMs: START_MS - 60_000 }),
);
const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';

const hostThatSends = (sent: readonly Uint8Array[]) =>
  Bun.serve({
    port: 0,
    fetch(request, bun) {
      return bun.upgrade(request) ? undefined : new Response('no', { status: 400 });
    },
    websocket: {
      open(socket) {
        for (const frame of sent) socket.sendBinary(frame);
      },
      message() {},
    },
  });
const MAX_FRAME_BYTES = 2_000_000;
const server = hostThatSends([...frames, accountFrame(DID, 21)]);
const largeServer = hostThatSends([accountFrame(DID, 1, { large: new Uint8Array(MAX_FRAME_BYTES - 1_000) })]);
afterAll(() => Promise.all([server.stop(true), largeServer.stop(true)]));

const until = async (what: string, condition: () => boolean): Promise<void> => {
  for (let turn = 0; turn < 1_000; turn++) {
    if (condition()) return;
    await Bun.sleep(10);
  }
  throw new Error(`did not happen: ${what}`);
};

const poolWith = (workers: number, maxBytesInFlight = 10_000_000) => {
  const notes: string[] = [];
  const batches: IngestBatch[] = [];
  const requests: { thread: Pick<Ingest, 'identified'>; request: IdentityRequest }[] = [];
  const died: string[] = [];
  const pool: IngestPool = createIngestPool({
    workers,
    options: {
      userAgent: 'weir/test',
      allowPrivateAddresses: true,
      handshakeTimeoutMs: 5_000,
      pingIntervalMs: 30_000,
      maxFrameBytes: MAX_FRAME_BYTES,
      maxBytesInFlight,
    },
    lane: (thread): IngestEvents => ({
      opened: (hostId) => void notes.push(`opened ${hostId}`),
      closed: (hostId, outcome) => void notes.push(`closed ${hostId} ${outcome.kind}`),
      batch(batch) {
        // Acknowledged frames are not to be read again.
        const events = batch.events.map((event) => ({ ...event, frame: event.frame.slice() }));
        batches.push({ ...batch, events });
        thread.acknowledge(batch.bytes);
      },
      identify: (asked) => void requests.push(...asked.map((request) => ({ thread, request }))),
      info() {},
      paused() {},
    }),
    died: (detail) => void died.push(detail),
  });
  const connect = (hostId: number, { port } = server): void =>
    pool.connect({
      hostId,
      hostname: `localhost:${port}`,
      secure: false,
      cursor: null,
      skip: [],
      limits: NO_LIMITS,
      validation: 'strict',
    });
  const answerAll = (): void => {
    for (const { thread, request } of requests.splice(0))
      thread.identified([
        {
          did: request.did,
          hostname: request.hostname,
          fresh: request.fresh,
          pds: request.hostname,
          ...keyOf(account),
          reason: null,
          atMs: Date.now(),
          again: false,
        },
      ]);
  };
  return { pool, notes, batches, requests, died, connect, answerAll };
};

describe('ingest threads', () => {
  for (const workers of [0, 2])
    test(`${workers}: verify, keep each host's order, give bytes back, and end when told`, async () => {
      const made = poolWith(workers);
      expect(made.pool.threads).toBe(Math.max(1, workers));
      made.connect(1);
      made.connect(2);
      // In one thread, what is asked of one host name is asked once.
      await until('questions', () => made.requests.length === (workers === 0 ? 2 : 4));
      made.answerAll();
      const eventsOf = (hostId: number) =>
        made.batches.flatMap(({ events }) => events.filter((event) => event.hostId === hostId));
      await until('events', () => eventsOf(1).length === 21 && eventsOf(2).length === 21);
      for (const hostId of [1, 2]) {
        const commits = eventsOf(hostId).filter(({ did }) => did === account.did);
        expect(commits.map(({ upstreamSeq }) => upstreamSeq)).toEqual(frames.map((_, index) => index + 1));
        expect(commits.at(-1)!.rev).toBe(account.rev);
        expect(Buffer.from(commits[0]!.frame).equals(frames[0]!)).toBe(true);
      }
      expect(made.batches.flatMap(({ rejections }) => rejections)).toEqual([]);
      await until(
        'counters',
        () => made.pool.counters().frames === 42 && made.pool.counters().bytesInFlight === 0,
      );
      made.pool.disconnect(2);
      await until('a close', () => made.notes.includes('closed 2 stopped'));
      await made.pool.stop();
      expect(made.notes.toSorted()).toEqual(['closed 1 stopped', 'closed 2 stopped', 'opened 1', 'opened 2']);
      expect(made.died).toEqual([]);
    }, 20_000);

  test('however many there are, the largest frame passes each of them', async () => {
    const made = poolWith(2, MAX_FRAME_BYTES / 2);
    expect(made.pool.maxBytesInFlight).toBe(2 * MAX_FRAME_BYTES);
    for (const hostId of [1, 2]) made.connect(hostId, largeServer);
    await until('events', () => {
      made.answerAll();
      expect(made.notes.filter((note) => note.startsWith('closed'))).toEqual([]);
      return made.batches.flatMap(({ events }) => events).length === 2;
    });
    await made.pool.stop();
  }, 20_000);

  test('forget what another one learned anew', async () => {
    const made = poolWith(2);
    made.connect(1);
    await until('questions', () => made.requests.length === 2);
    const [other] = made.requests;
    made.answerAll();
    await until('events', () => made.batches.flatMap(({ events }) => events).length === 21);
    made.connect(2);
    await until('questions of the second', () => made.requests.length === 2);
    for (const { thread, request } of made.requests)
      thread.identified([
        {
          did: request.did,
          hostname: request.hostname,
          fresh: true,
          pds: request.hostname,
          keyType: null,
          key: null,
          reason: null,
          atMs: Date.now(),
          again: false,
        },
      ]);
    made.requests.length = 0;
    made.pool.disconnect(1);
    await until('a close', () => made.notes.includes('closed 1 stopped'));
    made.connect(1);
    await until('questions again', () => made.requests.length === 2);
    expect(made.requests.every(({ thread }) => thread === other!.thread)).toBe(true);
    await made.pool.stop();
  }, 20_000);
});
