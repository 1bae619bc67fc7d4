/**
 * The edge with simulated sockets, time and log: schedules that real sockets hardly ever produce, such as a socket
 * that closes amid a write, or one that takes half a frame. Deterministic.
 */
import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import type { EdgeSocket, EdgeSocketData } from '../../../src/api/types.ts';
import { createFirehoseEdge } from '../../../src/firehose/edge/edge.ts';
import type { EdgeLimits } from '../../../src/firehose/edge/types.ts';
import { createFakeLog } from './fake-log.ts';
import { decodeFrame, PATH, range } from './harness.ts';
import { createTime, SimulatedSocket } from './simulation.ts';

const seqsOf = (socket: SimulatedSocket): number[] =>
  socket.frames.map((frame) => decodeFrame(frame as Uint8Array).body.seq).filter((seq) => seq !== undefined);

const setUp = (limits: Partial<EdgeLimits> = {}, log = createFakeLog()) => {
  const time = createTime();
  const edge = createFirehoseEdge({ log, clock: time.clock, timers: time.timers, limits });
  const connect = (cursor: number | null, room = Number.POSITIVE_INFINITY): SimulatedSocket => {
    let socket: SimulatedSocket | null = null;
    const server = {
      upgrade(_: Request, options: { data: EdgeSocketData }) {
        socket = new SimulatedSocket(options.data, room);
        return true;
      },
      requestIP: () => ({ address: '198.51.100.1' }),
    };
    const request = new Request(`http://x${PATH}${cursor === null ? '' : `?cursor=${cursor}`}`, {
      headers: { upgrade: 'websocket' },
    });
    const refused = edge.upgrade(request, server as never);
    if (refused !== undefined) throw new Error(`refused: ${refused.status}`);
    edge.websocket.open(socket! as unknown as EdgeSocket);
    return socket!;
  };
  return { time, edge, log, connect };
};

describe('simulated sockets', () => {
  test('whatever they take, drain, or drop dead amid: each gets a gapless prefix, and all of it if it lives', () => {
    const step = fc.oneof(
      fc.record({
        kind: fc.constant('write' as const),
        count: fc.nat(30),
        bytes: fc.constantFrom(10, 3_000),
      }),
      fc.record({
        kind: fc.constant('read' as const),
        who: fc.nat(9),
        bytes: fc.constantFrom(1, 500, 40_000),
      }),
      fc.record({ kind: fc.constant('wait' as const), ms: fc.nat(30) }),
      fc.record({
        kind: fc.constant('connect' as const),
        back: fc.nat(100),
        room: fc.constantFrom(0, 1_000, 1e6),
      }),
      fc.record({ kind: fc.constant('die' as const), who: fc.nat(9), sends: fc.nat(5) }),
      fc.record({ kind: fc.constant('skip' as const), hash: fc.nat(4) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const log = createFakeLog({ didHashOf: (seq) => seq % 5 });
        const { time, edge, connect } = setUp({ replaySliceBytes: 5_000, liveBatchBytes: 9_000 }, log);
        const skipped = new Set<number>();
        log.write(20);
        const sockets: { from: number; socket: SimulatedSocket }[] = [];
        for (const each of steps) {
          const chosen = 'who' in each ? sockets[each.who % Math.max(1, sockets.length)]?.socket : undefined;
          if (each.kind === 'write') log.write(each.count, each.bytes);
          else if (each.kind === 'read') chosen?.read(each.bytes);
          else if (each.kind === 'wait') time.advance(each.ms);
          else if (each.kind === 'die') {
            if (chosen !== undefined) chosen.dyingIn = each.sends;
          } else if (each.kind === 'skip') {
            // Only before anybody reads, so that what each is to see is plain.
            if (sockets.length === 0) skipped.add(each.hash);
            log.setSkippedDids(new Set(skipped));
          } else if (sockets.length < 10) {
            const from = Math.max(0, log.lastSeq - each.back);
            sockets.push({ from, socket: connect(from, each.room) });
          }
        }
        for (let round = 0; round < 400; round++) {
          for (const { socket } of sockets) socket.read(1e6);
          time.advance(25);
        }
        for (const { from, socket } of sockets) {
          const expected = range(from + 1, log.lastSeq).filter((seq) => !skipped.has(seq % 5));
          const seqs = seqsOf(socket);
          expect(seqs).toEqual(expected.slice(0, seqs.length));
          if (socket.readyState === 1) expect(seqs.length).toBe(expected.length);
        }
        const alive = sockets.filter(({ socket }) => socket.readyState === 1).length;
        expect(edge.counters.liveConsumers).toBe(alive);
        expect(edge.counters.rescued).toBe(0);
        expect(log.openCursors).toBe(alive > 0 ? 1 : 0);
      }),
      { numRuns: 300 },
    );
  });

  test('one that comes between two writes, with the first as its cursor, gets only the second', () => {
    const { time, log, connect } = setUp();
    log.write(20);
    const first = connect(20);
    time.advance(0);
    // Its turn comes before the flush of the first write, and the next one's with it.
    const second = connect(20);
    log.write(1);
    const third = connect(21);
    log.write(1);
    time.advance(50);
    expect(seqsOf(first)).toEqual([21, 22]);
    expect(seqsOf(second)).toEqual([21, 22]);
    expect(seqsOf(third)).toEqual([22]);
  });

  test('one that closes amid a live batch gives nobody else a frame twice', () => {
    const { time, log, connect } = setUp();
    const sockets = Array.from({ length: 5 }, () => connect(null));
    time.advance(50);
    sockets[1]!.dyingIn = 2;
    sockets[4]!.dyingIn = 1;
    log.write(10);
    time.advance(50);
    log.write(1);
    time.advance(50);
    for (const index of [0, 2, 3]) expect(seqsOf(sockets[index]!)).toEqual(range(1, 11));
  });

  test('one that closes another in its own write disturbs nobody', () => {
    const { time, log, connect } = setUp();
    const sockets = Array.from({ length: 6 }, () => connect(null));
    time.advance(50);
    // As sockets of one peer may: the third goes down while the fifth is written to.
    const [, , third, , fifth] = sockets;
    const sendBinary = fifth!.sendBinary.bind(fifth);
    fifth!.sendBinary = (frame: Uint8Array) => {
      third!.die();
      return sendBinary(frame);
    };
    log.write(10);
    time.advance(50);
    for (const index of [0, 1, 3, 4, 5]) expect(seqsOf(sockets[index]!)).toEqual(range(1, 10));
  });

  test('the edge comes to rest at the end of the log, also when that end is skipped', () => {
    const log = createFakeLog({ didHashOf: (seq) => seq % 5 });
    log.setSkippedDids(new Set([0]));
    const { time, edge, connect } = setUp({}, log);
    const first = connect(null);
    time.advance(50);
    log.write(5);
    time.advance(50);
    const [second, third] = [connect(5), connect(null)];
    time.settle();
    expect(edge.counters.liveConsumers).toBe(3);
    log.write(5);
    time.advance(50);
    expect(seqsOf(first)).toEqual([1, 2, 3, 4, 6, 7, 8, 9]);
    expect(seqsOf(second)).toEqual([6, 7, 8, 9]);
    expect(seqsOf(third)).toEqual([6, 7, 8, 9]);
  });

  test('frames wait for each other at most a flush interval, and the first after a pause not at all', () => {
    const { time, edge, log, connect } = setUp({ flushIntervalMs: 20 });
    const socket = connect(null);
    time.advance(100);
    log.write(1);
    time.settle();
    expect(seqsOf(socket)).toEqual([1]);
    const flushes = edge.counters.liveFlushes;
    for (let ms = 0; ms < 19; ms++) {
      log.write(1);
      time.advance(1);
    }
    expect(seqsOf(socket)).toEqual([1]);
    time.advance(1);
    expect(seqsOf(socket)).toEqual(range(1, 20));
    expect(edge.counters.liveFlushes - flushes).toBe(1);
  });

  test('those who catch up take turns', () => {
    const { time, log, connect } = setUp({ replaySliceBytes: 2_000, replayBudgetMs: 0 });
    log.write(200);
    const sockets = [connect(0), connect(0), connect(0)];
    let most = 0;
    const watch = () => {
      const counts = sockets.map((socket) => socket.frames.length);
      most = Math.max(most, Math.max(...counts) - Math.min(...counts));
    };
    for (const socket of sockets) {
      const sendBinary = socket.sendBinary.bind(socket);
      socket.sendBinary = (frame: Uint8Array) => {
        watch();
        return sendBinary(frame);
      };
    }
    time.advance(10);
    for (const socket of sockets) expect(seqsOf(socket)).toEqual(range(1, 200));
    // Never further apart than one turn.
    expect(most).toBeLessThanOrEqual(20);
  });

  test('a queue that stays full gets no more frames, however often a drain frees a little of it', () => {
    const { time, log, connect } = setUp({ maxQueuedBytes: 10_000 });
    const socket = connect(null, 0);
    time.advance(50);
    log.write(1, 50_000);
    time.advance(50);
    log.write(10, 1_000);
    for (let count = 0; count < 40; count++) {
      socket.read(1_000);
      time.advance(20);
      expect(socket.frames.length).toBe(1);
    }
    socket.read(10_000);
    socket.read(1e6);
    time.advance(20);
    socket.read(1e6);
    time.advance(20);
    expect(seqsOf(socket)).toEqual(range(1, 11));
  });
});
