/**
 * The Jetstream edge with simulated sockets, time, log and messages: schedules that real sockets hardly ever produce.
 * Deterministic.
 */
import { describe, expect, setDefaultTimeout, test } from 'bun:test';
import fc from 'fast-check';
import { createJetstreamEdge, V1_PATH, V2_PATH } from '../../../jetstream/edge/edge.ts';
import type { Compression, JetstreamLimits } from '../../../jetstream/edge/types.ts';
import { matches } from '../../../jetstream/filter/match.ts';
import type { Filter, JetstreamEvent } from '../../../jetstream/types.ts';
import type { EdgeSocket, EdgeSocketData } from '../../../src/api/types.ts';
import { KIND } from '../../../src/firehose/types.ts';
import { didHash } from '../../../src/log/did-hash.ts';
import { createTime, SimulatedSocket } from '../../firehose/edge/simulation.ts';
import {
  createFakeCodec,
  createFakeLog,
  eventsOf,
  type FakeRecord,
  type Told,
  UNDECODABLE,
} from './fake-log.ts';

setDefaultTimeout(60_000);

const DIDS = [
  'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa',
  'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb',
  'did:plc:cccccccccccccccccccccccc',
];
const COLLECTIONS = [
  'app.bsky.feed.post',
  'app.bsky.feed.like',
  'app.bsky.graph.follow',
  'com.example.thing',
];

const zstd = (mark: number): Compression['v1'] & { count: number } => {
  /** Is written over by the next. */
  let lent: Uint8Array | null = null;
  const compressor = {
    count: 0,
    compress(bytes: Uint8Array): Uint8Array {
      compressor.count++;
      const out = new Uint8Array(bytes.length + 1);
      out[0] = mark;
      out.set(bytes, 1);
      return out;
    },
    lend(bytes: Uint8Array): Uint8Array {
      lent?.fill(0);
      lent = compressor.compress(bytes);
      return lent;
    },
  };
  return compressor;
};

const setUp = (limits: Partial<JetstreamLimits> = {}, log = createFakeLog()) => {
  const time = createTime();
  const fake = createFakeCodec();
  const compressors = { v1: zstd(1), own: zstd(2) };
  const compression: Compression = {
    v1: compressors.v1,
    byId: (id) => (id === '7' ? compressors.own : null),
    currentId: '7',
  };
  const edge = createJetstreamEdge({
    log,
    clock: time.clock,
    timers: time.timers,
    limits: { maxConsumersPerAddress: 200, ...limits },
    codec: fake.codec,
    compression,
  });
  const ask = (
    path: string,
    query: string,
    room = Number.POSITIVE_INFINITY,
    headers: Record<string, string> = {},
  ) => {
    let socket: SimulatedSocket | null = null;
    let upgradeHeaders: Record<string, string> = {};
    const server = {
      upgrade(_: Request, options: { data: EdgeSocketData; headers: Record<string, string> }) {
        socket = new SimulatedSocket(options.data, room);
        upgradeHeaders = options.headers;
        return true;
      },
      requestIP: () => ({ address: '198.51.100.1' }),
    };
    const request = new Request(`http://x${path}${query}`, { headers: { upgrade: 'websocket', ...headers } });
    const handlers = edge.paths[path]!;
    const refused = handlers.upgrade(request, server as never);
    if (refused !== undefined) return { refused, socket: null, upgradeHeaders };
    handlers.websocket.open(socket! as unknown as EdgeSocket);
    return { refused: null, socket: socket!, upgradeHeaders };
  };
  const connect = (path: string, query = '', room?: number): SimulatedSocket => {
    const { socket, refused } = ask(path, query, room);
    if (socket === null) throw new Error(`refused: ${refused.status}`);
    return socket;
  };
  const say = (socket: SimulatedSocket, message: string | Uint8Array) =>
    socket.data.handlers.message(socket as unknown as EdgeSocket, message);
  return { time, edge, log, fake, compressors, ask, connect, say };
};

const text = new TextDecoder();
/** The messages, with compression taken off. */
const jsonOf = (socket: SimulatedSocket): Record<string, unknown>[] =>
  socket.frames.map((frame) =>
    JSON.parse(typeof frame === 'string' ? frame : text.decode(frame.subarray(1))),
  );
const toldTo = (socket: SimulatedSocket): string[] =>
  jsonOf(socket)
    .filter((message) => 'op' in message)
    .map((message) => `${(message as unknown as Told).seq}.${(message as unknown as Told).op}`);
const nameOf = (event: JetstreamEvent): string => `${event.seq}.${event.opIndex}`;

const commit = (did: number, collections: readonly number[], bytes = 20): FakeRecord => ({
  kind: KIND.commit,
  did: DIDS[did]!,
  collections: collections.map((index) => COLLECTIONS[index] ?? UNDECODABLE),
  bytes,
});
const identity = (did: number): FakeRecord => ({
  kind: KIND.identity,
  did: DIDS[did]!,
  collections: [],
  bytes: 20,
});

const arbitraryRecord = fc.oneof(
  {
    weight: 5,
    arbitrary: fc
      .record({
        did: fc.nat(2),
        collections: fc.array(fc.nat(4), { maxLength: 5 }),
        bytes: fc.constantFrom(10, 10, 3_000),
      })
      .map(({ did, collections, bytes }) => commit(did, collections, bytes)),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constantFrom(KIND.sync, KIND.identity, KIND.account, KIND.unknown),
      did: fc.constantFrom(...DIDS),
      collections: fc.constant([]),
      bytes: fc.constant(10),
    }),
  },
);

interface Wish {
  readonly collections: readonly string[];
  readonly dids: readonly string[];
  readonly maxMessageSizeBytes: number;
}
const arbitraryWish: fc.Arbitrary<Wish> = fc.record({
  collections: fc.oneof(
    fc.constant([]),
    fc.subarray([...COLLECTIONS, 'app.bsky.feed.*', 'app.bsky.*'], { minLength: 1 }),
  ),
  dids: fc.oneof(fc.constant([]), fc.subarray(DIDS, { minLength: 1 })),
  maxMessageSizeBytes: fc.constantFrom(0, 0, 0, 500),
});
const V1_KINDS = (1 << KIND.commit) | (1 << KIND.identity) | (1 << KIND.account);
const filterOf = (wish: Wish, version: 'v1' | 'v2'): Filter => ({
  collections:
    wish.collections.length === 0
      ? null
      : {
          exact: new Set(wish.collections.filter((each) => !each.endsWith('*'))),
          prefixes: wish.collections.filter((each) => each.endsWith('*')).map((each) => each.slice(0, -1)),
        },
  dids: wish.dids.length === 0 ? null : new Set(wish.dids),
  kinds: version === 'v1' ? V1_KINDS : V1_KINDS | (1 << KIND.sync),
  maxMessageSizeBytes: wish.maxMessageSizeBytes,
});
const queryOf = (wish: Wish, version: 'v1' | 'v2', more: Record<string, string>): string => {
  const params = new URLSearchParams(more);
  for (const each of wish.collections)
    params.append(version === 'v1' ? 'wantedCollections' : 'collections', each);
  for (const each of wish.dids) params.append(version === 'v1' ? 'wantedDids' : 'dids', each);
  if (wish.maxMessageSizeBytes > 0) params.set('maxMessageSizeBytes', String(wish.maxMessageSizeBytes));
  return `?${params}`;
};
/** Whether the message of an event of the fake codec is sent to this filter. */
const isSent = (filter: Filter, event: JetstreamEvent): boolean =>
  matches(filter, event) &&
  event.collection !== UNDECODABLE &&
  !(filter.maxMessageSizeBytes > 0 && (event.source as unknown as { about: FakeRecord }).about.bytes > 1_000);

describe('the seam of replay and live', () => {
  const step = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('write' as const),
        records: fc.array(arbitraryRecord, { maxLength: 15 }),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('read' as const),
        who: fc.nat(9),
        bytes: fc.constantFrom(1, 500, 40_000),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.oneof(fc.nat(3), fc.nat(30)) }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant('connect' as const),
        back: fc.oneof(fc.nat(2), fc.nat(60)),
        cursor: fc.constantFrom('none' as const, 'seq' as const, 'time' as const),
        op: fc.nat(4),
        room: fc.constantFrom(0, 1_000, 1e6, 1e9, 1e9),
        version: fc.constantFrom('v1' as const, 'v2' as const),
        zstd: fc.boolean(),
        wish: arbitraryWish,
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant('update' as const), who: fc.nat(9), wish: arbitraryWish }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant('die' as const), who: fc.nat(9), sends: fc.nat(5) }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('restart' as const), who: fc.nat(9) }) },
  );

  test('whatever is written, taken, updated, dies and comes again: each event once, in order, as the filter says', () => {
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 70, size: 'max' }),
        fc.boolean(),
        fc.boolean(),
        (steps, tinyCache, readsAlone) => {
          const { time, edge, log, fake, connect, say } = setUp({
            blockBytes: 3_000,
            ...(tinyCache ? { maxCacheBytes: 20_000, maxLogCursors: 2 } : {}),
            ...(readsAlone ? { aloneSeqs: 3, maxAlone: 4 } : {}),
          });
          log.write(Array.from({ length: 20 }, (_, index) => commit(index % 3, [0, 1, 2])));
          const events = (): JetstreamEvent[] => log.records.flatMap((record) => eventsOf(record));
          interface Player {
            socket: SimulatedSocket;
            readonly version: 'v1' | 'v2';
            readonly query: Record<string, string>;
            /** What it was to get before its last options_update, and where that came. */
            expected: string[];
            from: (event: JetstreamEvent) => boolean;
            filter: Filter;
            wish: Wish;
          }
          const players: Player[] = [];
          for (const each of steps) {
            const chosen = 'who' in each ? players[each.who % Math.max(1, players.length)] : undefined;
            if (each.kind === 'write') log.write(each.records);
            else if (each.kind === 'read') chosen?.socket.read(each.bytes);
            else if (each.kind === 'wait') time.advance(each.ms);
            else if (each.kind === 'die') {
              if (chosen !== undefined) chosen.socket.dyingIn = each.sends;
            } else if (each.kind === 'update') {
              // Exact places are known when it has come to rest at the end: then the new filter holds from here on.
              if (chosen === undefined || chosen.version !== 'v1' || chosen.socket.readyState !== 1) continue;
              for (let round = 0; round < 60; round++) {
                chosen.socket.read(1e6);
                time.advance(25);
              }
              if (chosen.socket.readyState !== 1) continue;
              const { from, filter } = chosen;
              chosen.expected.push(
                ...events()
                  .filter((event) => from(event) && isSent(filter, event))
                  .map(nameOf),
              );
              const end = log.lastSeq;
              chosen.from = (event) => event.seq > end;
              chosen.filter = filterOf(each.wish, 'v1');
              chosen.wish = each.wish;
              say(
                chosen.socket,
                JSON.stringify({
                  type: 'options_update',
                  payload: {
                    wantedCollections: each.wish.collections,
                    wantedDids: each.wish.dids,
                    maxMessageSizeBytes: each.wish.maxMessageSizeBytes,
                  },
                }),
              );
            } else if (each.kind === 'restart') {
              // It goes, and comes again with the time or seq of the last event it got, which is inclusive.
              if (chosen === undefined || chosen.socket.readyState !== 1) continue;
              const told = jsonOf(chosen.socket).filter((message) => 'op' in message) as unknown as Told[];
              const last = told.at(-1);
              if (last === undefined) continue;
              chosen.socket.die();
              const before = toldTo(chosen.socket);
              const expectedSoFar = [
                ...chosen.expected,
                ...events()
                  .filter((event) => chosen.from(event) && isSent(chosen.filter, event))
                  .map(nameOf),
              ];
              expect(before).toEqual(expectedSoFar.slice(0, before.length));
              const { t } = last;
              chosen.expected = [];
              chosen.from = (event) => event.timeUs >= t;
              chosen.socket = connect(
                chosen.version === 'v1' ? V1_PATH : V2_PATH,
                queryOf(chosen.wish, chosen.version, { ...chosen.query, cursor: String(t) }),
              );
            } else if (players.length < 10) {
              const { version, wish } = each;
              const seq = Math.max(1, log.lastSeq - each.back);
              const record = log.records[seq - 1]!;
              const cursor =
                each.cursor === 'none' ? null : each.cursor === 'seq' ? seq : record.timeUs + each.op;
              const end = log.lastSeq;
              const query: Record<string, string> = {};
              if (each.zstd && version === 'v1') query.compress = 'true';
              if (each.zstd && version === 'v2') query.zstdDictionary = '7';
              const socket = connect(
                version === 'v1' ? V1_PATH : V2_PATH,
                queryOf(wish, version, { ...query, ...(cursor === null ? {} : { cursor: String(cursor) }) }),
                each.room,
              );
              players.push({
                socket,
                version,
                query,
                expected: [],
                from: (event) =>
                  event.seq > end ||
                  (each.cursor === 'seq' && event.seq >= seq) ||
                  (each.cursor === 'time' && event.timeUs >= cursor!),
                filter: filterOf(wish, version),
                wish,
              });
            }
          }
          for (let round = 0; round < 300; round++) {
            for (const { socket } of players) socket.read(1e6);
            time.advance(25);
          }
          let alive = 0;
          for (const { socket, expected, from, filter } of players) {
            const all = [
              ...expected,
              ...events()
                .filter((event) => from(event) && isSent(filter, event))
                .map(nameOf),
            ];
            const told = toldTo(socket);
            expect(told).toEqual(all.slice(0, told.length));
            if (socket.readyState !== 1) continue;
            alive++;
            expect(told.length).toBe(all.length);
          }
          expect(edge.counters.liveConsumers).toBe(alive);
          expect(edge.counters.rescued).toBe(0);
          expect(log.openCursors).toBeLessThanOrEqual((tinyCache ? 2 : 32) + (readsAlone ? 4 : 0));
          if (alive === 0) expect(log.openCursors).toBe(0);
          // What nobody is there to share is forgotten.
          const stays = !steps.some(({ kind }) => kind === 'die' || kind === 'restart');
          if (stays && !tinyCache && !readsAlone) expect(fake.mostEncodes).toBeLessThanOrEqual(1);
        },
      ),
      { numRuns: 1_000 },
    );
  });

  const liveOnes = (set: ReturnType<typeof setUp>, n: number): SimulatedSocket[] => {
    const sockets = Array.from({ length: n }, () => set.connect(V1_PATH));
    set.time.advance(50);
    return sockets;
  };
  const commits = (n: number): FakeRecord[] =>
    Array.from({ length: n }, (_, index) => commit(index % 3, [0, 1]));
  const names = (first: number, last: number): string[] =>
    Array.from({ length: last - first + 1 }, (_, index) => [
      `${first + index}.0`,
      `${first + index}.1`,
    ]).flat();

  test('one that closes amid a live batch gives nobody else an event twice', () => {
    const set = setUp();
    const sockets = liveOnes(set, 5);
    sockets[1]!.dyingIn = 2;
    sockets[4]!.dyingIn = 1;
    set.log.write(commits(10));
    set.time.advance(50);
    set.log.write(commits(1));
    set.time.advance(50);
    for (const index of [0, 2, 3]) expect(toldTo(sockets[index]!)).toEqual(names(1, 11));
    expect(set.edge.counters.liveConsumers).toBe(3);
  });

  test('one that closes another in its own write disturbs nobody', () => {
    const set = setUp();
    const sockets = liveOnes(set, 6);
    const [, , third, , fifth] = sockets;
    const sendText = fifth!.sendText.bind(fifth);
    fifth!.sendText = (message) => {
      third!.die();
      return sendText(message);
    };
    set.log.write(commits(10));
    set.time.advance(50);
    for (const index of [0, 1, 3, 4, 5]) expect(toldTo(sockets[index]!)).toEqual(names(1, 10));
  });

  test('a message that a full socket does not take at all is sent again', () => {
    const set = setUp();
    const socket = set.connect(V1_PATH, '', 0);
    set.time.advance(50);
    set.log.write(commits(3));
    const sendText = socket.sendText.bind(socket);
    let refusals = 1;
    socket.sendText = (message) => {
      if (refusals-- <= 0) return sendText(message);
      socket.queued = 10;
      return 0;
    };
    set.time.advance(50);
    expect(toldTo(socket)).toEqual([]);
    for (let round = 0; round < 20; round++) {
      socket.read(1e6);
      set.time.advance(25);
    }
    expect(toldTo(socket)).toEqual(names(1, 3));
  });

  test('who comes with a cursor behind what the live ones were given waits for them', () => {
    const set = setUp();
    liveOnes(set, 1);
    set.log.write(commits(1));
    set.time.advance(0);
    // Not flushed yet: the next flush is 20 ms after the last one.
    set.log.write([commit(0, [0, 1]), commit(0, [0, 1])]);
    const inside = set.connect(V1_PATH, `?cursor=${set.log.records[2]!.timeUs + 1}`);
    const insideNext = set.connect(V1_PATH, `?cursor=${set.log.records[1]!.timeUs + 1}`);
    const bySeq = set.connect(V2_PATH, '?cursor=3');
    const live = set.connect(V1_PATH);
    const future = set.connect(V1_PATH, '?cursor=9000000000000000');
    set.log.write(commits(1));
    set.time.advance(100);
    expect(toldTo(inside)).toEqual(['3.1', ...names(4, 4)]);
    expect(toldTo(insideNext)).toEqual(['2.1', ...names(3, 4)]);
    expect(toldTo(bySeq)).toEqual(names(3, 4));
    expect(toldTo(live)).toEqual(names(4, 4));
    expect(toldTo(future)).toEqual(names(4, 4));
  });

  test('an update amid a replay and amid live holds from the next event on: nothing twice, nothing in another order', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            records: fc.array(arbitraryRecord, { maxLength: 20 }),
            wish: arbitraryWish,
            ms: fc.nat(25),
            bytes: fc.nat(4_000),
          }),
          { minLength: 1, maxLength: 12 },
        ),
        fc.constantFrom(0, 2_000, 1e9),
        fc.constantFrom(2, 5_000),
        (steps, room, aloneSeqs) => {
          const { time, log, connect, say } = setUp({ blockBytes: 1_000, replayBudgetMs: 0, aloneSeqs });
          log.write(commits(30));
          const socket = connect(V1_PATH, '?cursor=1', room);
          const filters = [filterOf({ collections: [], dids: [], maxMessageSizeBytes: 0 }, 'v1')];
          for (const { records, wish, ms, bytes } of steps) {
            log.write(records);
            time.advance(ms);
            socket.read(bytes);
            filters.push(filterOf(wish, 'v1'));
            const { collections: wantedCollections, dids: wantedDids, maxMessageSizeBytes } = wish;
            const payload = { wantedCollections, wantedDids, maxMessageSizeBytes };
            say(socket, JSON.stringify({ type: 'options_update', payload }));
          }
          for (let round = 0; round < 300; round++) {
            socket.read(1e6);
            time.advance(25);
          }
          const told = toldTo(socket);
          const events = log.records.flatMap((record) => eventsOf(record));
          const order = new Map(events.map((event, index) => [nameOf(event), index]));
          const places = told.map((name) => order.get(name)!);
          expect(places).toEqual([...new Set(places)].sort((a, b) => a - b));
          // The filters take turns in order: each event is judged by one of them, never by one from before.
          let current = 0;
          const got = new Set(told);
          for (const event of events) {
            const isTold = got.has(nameOf(event));
            while (current < filters.length && isSent(filters[current]!, event) !== isTold) current++;
            expect(current).toBeLessThan(filters.length);
          }
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('what is shared', () => {
  test('a hundred clients that replay the same range have it read, encoded and compressed once', () => {
    const { time, edge, log, fake, compressors, connect } = setUp();
    log.write(Array.from({ length: 500 }, (_, index) => commit(index % 3, [0, 1])));
    const sockets = Array.from({ length: 100 }, (_, index) =>
      connect(V1_PATH, `?cursor=1${index % 2 === 0 ? '&compress=true' : ''}`),
    );
    time.advance(1_000);
    for (const socket of sockets) expect(toldTo(socket).length).toBe(1_000);
    expect(fake.mostEncodes).toBe(1);
    expect(fake.reads).toBe(500);
    expect(compressors.v1.count).toBe(1_000);
    expect(edge.counters.encodesV1).toBe(1_000);
    expect(edge.counters.encodesV2).toBe(0);
  });

  test('an event that nobody wants is never encoded', () => {
    const { time, edge, log, fake, connect } = setUp();
    const live = connect(V1_PATH, `?wantedDids=${DIDS[0]}`);
    time.advance(50);
    log.write([commit(1, [0, 1]), commit(0, [2]), identity(1)]);
    time.advance(50);
    const replaying = connect(V2_PATH, '?cursor=1&collections=app.bsky.graph.follow&kinds=commit');
    time.advance(50);
    expect(toldTo(live)).toEqual(['2.0']);
    expect(toldTo(replaying)).toEqual(['2.0']);
    expect([...fake.encodes.keys()].sort()).toEqual(['1:2:0', '2:2:0']);
    expect(edge.counters.filtered).toBeGreaterThan(0);
  });

  test('those that catch up with a few DIDs do not look into records of others', () => {
    const { time, log, fake, connect } = setUp();
    log.write(Array.from({ length: 300 }, (_, index) => commit(index % 3, [0])));
    const socket = connect(V1_PATH, `?cursor=1&wantedDids=${DIDS[1]}`);
    time.advance(100);
    expect(toldTo(socket).length).toBe(100);
    expect(fake.reads).toBe(100);
  });
});

describe('one that is alone at its place', () => {
  const far = { blockBytes: 5_000, aloneSeqs: 100 };

  test('reads into memory of its own up to where others may be, and leaves nothing in the cache', () => {
    const { time, edge, log, fake, compressors, connect } = setUp({ ...far, replayBudgetMs: 0 });
    log.write(Array.from({ length: 1_000 }, (_, index) => commit(index % 3, [0, 1])));
    const socket = connect(V2_PATH, '?cursor=1&zstdDictionary=7');
    time.step();
    time.step();
    expect(log.lentReads).toBeGreaterThan(0);
    expect(edge.counters.cachedBlocks).toBe(0);
    time.advance(100);
    expect(toldTo(socket).length).toBe(2_000);
    expect(log.lentReads).toBe(edge.counters.blocksAlone);
    expect(edge.counters.blocksAlone).toBeGreaterThan(5 * edge.counters.blocksRead);
    expect(edge.counters.encodesV2).toBe(2_000);
    expect(fake.mostEncodes).toBe(1);
    expect(compressors.own.count).toBe(2_000);
    socket.die();
    expect(log.openCursors).toBe(0);
  });

  test('is told what its filter wants of it, and counted as all others are', () => {
    const asked = `?cursor=1&wantedDids=${DIDS[1]}&wantedCollections=app.bsky.feed.post&maxMessageSizeBytes=500`;
    const records = Array.from({ length: 600 }, (_, index) =>
      commit(index % 3, [0, 9, 1], index % 10 === 0 ? 3_000 : 20),
    );
    const outcomes = [100, 1e9].map((aloneSeqs) => {
      const { time, edge, log, connect } = setUp({ blockBytes: 5_000, aloneSeqs });
      log.write(records);
      const socket = connect(V1_PATH, asked, 3_000);
      for (let round = 0; round < 500; round++) {
        socket.read(700);
        time.advance(2);
      }
      const { filtered, oversize, encodesV1, undecodable, deliveries, deliveredBytes, replayRecords } =
        edge.counters;
      expect(log.lentReads > 0).toBe(aloneSeqs === 100);
      return {
        told: toldTo(socket),
        counts: { filtered, oversize, undecodable, deliveries, deliveredBytes },
        // What is left when a socket is full is looked at once more where nothing is kept.
        atLeast: [encodesV1 >= deliveries, replayRecords >= deliveries],
      };
    });
    expect(outcomes[0]!.told.length).toBe(180);
    expect(outcomes[0]!.told).toEqual(outcomes[1]!.told);
    const { filtered: _, ...alone } = outcomes[0]!.counts;
    const { filtered: __, ...shared } = outcomes[1]!.counts;
    expect(alone).toEqual(shared);
    expect(outcomes[0]!.atLeast).toEqual([true, true]);
  });

  test('shares again with who comes near it', () => {
    const { time, edge, log, connect } = setUp({ ...far, replayBudgetMs: 0 });
    log.write(Array.from({ length: 1_000 }, (_, index) => commit(index % 3, [0])));
    const first = connect(V1_PATH, '?cursor=1');
    time.step();
    const alone = edge.counters.blocksAlone;
    expect(alone).toBe(1);
    const second = connect(V1_PATH, '?cursor=1');
    time.advance(100);
    expect(edge.counters.blocksAlone).toBe(alone);
    expect(edge.counters.blocksShared).toBeGreaterThan(10);
    for (const socket of [first, second]) expect(toldTo(socket).length).toBe(1_000);
  });

  test('gets nothing of an account that is taken down meanwhile, though its block was read before', () => {
    const { time, log, connect } = setUp({ ...far, blockBytes: 1e6 });
    log.write(Array.from({ length: 600 }, (_, index) => commit(index % 3, [0])));
    const socket = connect(V1_PATH, '?cursor=1', 500);
    time.advance(5);
    const before = toldTo(socket).length;
    expect(before).toBeGreaterThan(0);
    expect(log.lentReads).toBe(1);
    log.setSkippedDids(new Set([didHash(DIDS[1]!)]));
    for (let round = 0; round < 300; round++) {
      socket.read(1e6);
      time.advance(5);
    }
    const after = toldTo(socket).slice(before);
    expect(after.length).toBeGreaterThan(300);
    for (const name of after) expect((Number.parseInt(name, 10) - 1) % 3).not.toBe(1);
  });

  test('that falls out of the window while its socket is full is told so', () => {
    const { time, edge, log, connect } = setUp({ ...far, blockBytes: 1e6 });
    log.write(Array.from({ length: 600 }, (_, index) => commit(index % 3, [0])));
    const socket = connect(V1_PATH, '?cursor=1', 500);
    time.advance(5);
    log.trimTo(400);
    socket.read(1e6);
    time.advance(5);
    expect(edge.counters.tooSlow).toBe(1);
    expect(log.openCursors).toBe(0);
  });
});

describe('memory', () => {
  test('the cache stays within its bytes and blocks, whatever is read and made, and is empty when nobody is there', () => {
    const maxCacheBytes = 400_000;
    const { time, edge, log, connect } = setUp({
      blockBytes: 10_000,
      maxCacheBytes,
      maxBlocks: 12,
      maxLogCursors: 4,
    });
    // One block with all of its messages in all forms is about as much again.
    const slack = 150_000;
    let most = 0;
    const sockets: SimulatedSocket[] = [];
    for (let round = 0; round < 30; round++) {
      log.write(Array.from({ length: 40 }, (_, index) => commit(index % 3, [0, 1], 300)));
      const cursor = 1 + ((round * 37) % log.lastSeq);
      sockets.push(
        connect(V1_PATH, `?cursor=${cursor}`, 20_000),
        connect(V2_PATH, `?cursor=${cursor}&zstdDictionary=7`),
      );
      sockets.push(connect(V1_PATH, `?cursor=${cursor}&compress=true`, 20_000));
      for (let turn = 0; turn < 5; turn++) {
        for (const socket of sockets) socket.read(5_000);
        time.advance(10);
        most = Math.max(most, edge.counters.cachedBytes);
        expect(edge.counters.cachedBlocks).toBeLessThanOrEqual(12);
        expect(log.openCursors).toBeLessThanOrEqual(4);
      }
    }
    expect(most).toBeGreaterThan(maxCacheBytes / 2);
    expect(most).toBeLessThan(maxCacheBytes + slack);
    expect(edge.counters.blocksDropped).toBeGreaterThan(10);
    for (const socket of sockets) socket.die();
    expect(edge.counters.cachedBytes).toBe(0);
    expect(log.openCursors).toBe(0);
  });
});

describe('heartbeats', () => {
  const beats = (socket: SimulatedSocket) =>
    jsonOf(socket).flatMap((message) => {
      if (message.kind === 'heartbeat') return [message.cursor as number];
      const payload = message.payload as { $type: string; cursor: number } | undefined;
      return payload?.$type.endsWith('#heartbeat') ? [payload.cursor] : [];
    });

  test('come every ten seconds of silence to those who asked, and to nobody else', () => {
    const { time, log, connect } = setUp();
    log.write([commit(0, [0, 1])]);
    const asked = [connect(V1_PATH, '?heartbeat=true'), connect(V2_PATH, '?heartbeat=true&zstdDictionary=7')];
    const others = [
      connect(V1_PATH),
      connect(V2_PATH, '?heartbeat=1'),
      connect(V1_PATH, '?heartbeat=true&requireHello=true'),
    ];
    time.advance(35_000);
    for (const socket of asked) expect(beats(socket).length).toBe(3);
    for (const socket of others) expect(socket.frames.length).toBe(0);
    // Not while there is something to be sent.
    for (let second = 0; second < 30; second++) {
      log.write([commit(0, [0])]);
      time.advance(1_000);
    }
    for (const socket of asked) expect(beats(socket).length).toBe(3);
    // What is only filtered out is silence.
    const filtered = connect(V1_PATH, `?heartbeat=true&wantedDids=${DIDS[1]}`);
    for (let second = 0; second < 25; second++) {
      log.write([commit(0, [0])]);
      time.advance(1_000);
    }
    expect(beats(filtered).length).toBe(2);
  });

  test('their cursor gives exactly what comes after, in both versions, wherever it was given', () => {
    const { time, log, connect } = setUp();
    log.write([commit(0, [0, 1, 2]), commit(1, [0, 1])]);
    const sockets = [
      connect(V1_PATH, '?heartbeat=true'),
      connect(V1_PATH, '?heartbeat=true&cursor=1'),
      connect(V2_PATH, '?heartbeat=true'),
      connect(V1_PATH, `?heartbeat=true&wantedDids=${DIDS[2]}&cursor=1`),
    ];
    for (let round = 0; round < 4; round++) {
      time.advance(12_000);
      const end = log.lastSeq;
      const returning = sockets.map((socket) => beats(socket).at(-1)!);
      log.write([commit(0, [0, 1, 2]), commit(1, [])]);
      for (const [index, cursor] of returning.entries()) {
        const again = connect(index === 2 ? V2_PATH : V1_PATH, `?cursor=${cursor}`);
        time.advance(100);
        expect(toldTo(again)).toEqual([`${end + 1}.0`, `${end + 1}.1`, `${end + 1}.2`]);
        again.die();
      }
    }
  });
});

describe('those that catch up', () => {
  test('do not delay live ones: a flush comes between their turns', () => {
    const { time, edge, log, connect } = setUp({ blockBytes: 2_000, replayBudgetMs: 0 });
    log.write(Array.from({ length: 400 }, (_, index) => commit(index % 3, [0])));
    const live = connect(V1_PATH);
    time.advance(50);
    const sockets = Array.from({ length: 40 }, () => connect(V1_PATH, '?cursor=1'));
    log.write([commit(0, [0])]);
    // One round of the event loop: one turn of those that catch up, and the flush.
    time.step();
    time.step();
    expect(toldTo(live)).toEqual(['401.0']);
    expect(edge.counters.laggingConsumers).toBe(40);
    expect(edge.counters.replayReads).toBeLessThan(10);
    time.advance(100);
    for (const socket of sockets) expect(toldTo(socket).length).toBe(401);
  });

  test('go together: the one furthest behind first, so that the others find what it read', () => {
    const { time, edge, log, fake, connect } = setUp({ blockBytes: 5_000, maxBlocks: 3 });
    log.write(Array.from({ length: 2_000 }, (_, index) => commit(index % 3, [0])));
    const sockets = Array.from({ length: 50 }, () => connect(V1_PATH, '?cursor=1'));
    time.advance(100);
    for (const socket of sockets) expect(toldTo(socket).length).toBe(2_000);
    expect(fake.mostEncodes).toBe(1);
    expect(edge.counters.blocksShared).toBeGreaterThan(40 * edge.counters.blocksRead);
  });
});

describe('those that come one after the other', () => {
  test('come up with who is ahead of them, as long as what that one read is held', () => {
    const { time, edge, log, fake, connect } = setUp({ blockBytes: 2_000, replayBudgetMs: 0 });
    log.write(Array.from({ length: 1_000 }, (_, index) => commit(index % 3, [0])));
    const sockets: SimulatedSocket[] = [];
    for (let index = 0; index < 10; index++) {
      sockets.push(connect(V1_PATH, '?cursor=1'));
      time.step();
    }
    while (edge.counters.blocksRead < 10) time.step();
    for (let round = 0; round < 12; round++) time.step();
    // All are at the same place by then: within one block of each other.
    const seqs = edge.consumers().map(({ seq }) => seq);
    expect(Math.max(...seqs) - Math.min(...seqs)).toBeLessThan(40);
    expect(Math.max(...seqs)).toBeLessThan(1_000);
    time.advance(100);
    for (const socket of sockets) expect(toldTo(socket).length).toBe(1_000);
    expect(fake.mostEncodes).toBe(1);
  });
});

describe('one that leads', () => {
  const start = (maxTurnsWaited: number) => {
    const set = setUp({ blockBytes: 2_000, replayBudgetMs: 0, maxBlocks: 12, maxTurnsWaited });
    set.log.write(Array.from({ length: 3_000 }, (_, index) => commit(index % 3, [0])));
    return set;
  };

  test('waits for those not far behind it, so that less is read twice', () => {
    const encodes = [0, 3].map((maxTurnsWaited) => {
      const { time, edge, connect } = start(maxTurnsWaited);
      const sockets = Array.from({ length: 8 }, () => {
        const socket = connect(V1_PATH, '?cursor=1');
        for (let turn = 0; turn < 12; turn++) time.step();
        return socket;
      });
      time.advance(200);
      for (const socket of sockets) expect(toldTo(socket).length).toBe(3_000);
      return edge.counters.encodesV1;
    });
    expect(encodes[1]!).toBeLessThan(encodes[0]! / 2);
  });

  test('goes on all the same, however many come after it', () => {
    const { time, edge, connect } = start(3);
    const first = connect(V1_PATH, '?cursor=1');
    for (let turn = 0; turn < 30; turn++) time.step();
    const told = toldTo(first).length;
    let turns = 0;
    while (toldTo(first).length === told) {
      connect(V1_PATH, '?cursor=1');
      time.step();
      expect(turns++).toBeLessThan(200);
    }
    const allAreThere = (): boolean => edge.consumers().every(({ seq }) => seq === 3_000);
    for (let turn = 0; turn < 50_000 && !allAreThere(); turn++) time.step();
    expect(allAreThere()).toBe(true);
  });
});

describe('takedowns', () => {
  test('what is in the cache is forgotten: nobody gets events of an account that is taken down', () => {
    const { time, log, connect } = setUp();
    log.write(Array.from({ length: 30 }, (_, index) => commit(index % 3, [0])));
    const first = connect(V1_PATH, '?cursor=1');
    time.advance(50);
    expect(toldTo(first).length).toBe(30);
    log.setSkippedDids(new Set([didHash(DIDS[1]!)]));
    const second = connect(V1_PATH, '?cursor=1');
    time.advance(50);
    expect(toldTo(second).length).toBe(20);
    log.setSkippedDids(new Set());
    const third = connect(V1_PATH, '?cursor=1');
    time.advance(50);
    expect(toldTo(third).length).toBe(30);
  });
});
