import { beforeEach, describe, expect, test } from 'bun:test';
import { lexStringify } from '@atproto/lex-json';
import { readCarWithRoot } from '@atproto/repo';
import * as dagCbor from '@ipld/dag-cbor';
import { decodeFirst } from 'cborg';
import fc from 'fast-check';
import { encodeCounters } from '../../../jetstream/encode/counters.ts';
import { readEvents } from '../../../jetstream/encode/events.ts';
import { encodeV1, encodeV2, lendV1, lendV2 } from '../../../jetstream/encode/message.ts';
import { errorMessage, heartbeatV1, heartbeatV2, infoMessage } from '../../../jetstream/encode/notices.ts';
import { timeText } from '../../../jetstream/encode/time.ts';
import type { JetstreamEvent } from '../../../jetstream/types.ts';
import { KIND } from '../../../src/firehose/types.ts';
import { choices, cidOf, frameOf, framesFixture } from '../../repo/support.ts';
import {
  anyRecord,
  commitOfOps,
  DID,
  jsonOf,
  judgedJson,
  logRecord,
  REV,
  simulatedFrames,
  type TestOp,
  TIME,
  TIME_US,
} from './support.ts';

type LexValue = Parameters<typeof lexStringify>[0];

const NSID = 'network.bsky.jetstream.subscribeEvents';
const POST = 'app.bsky.feed.post';
const v1 = (event: JetstreamEvent): string => jsonOf(encodeV1(event));
const v2 = (event: JetstreamEvent): string => jsonOf(encodeV2(event));
const eventsOf = (frame: Uint8Array): readonly JetstreamEvent[] => readEvents(logRecord(frame));
const one = (frame: Uint8Array): JetstreamEvent => {
  const events = eventsOf(frame);
  expect(events.length).toBe(1);
  return events[0]!;
};
const commit = (...ops: TestOp[]): readonly JetstreamEvent[] => eventsOf(commitOfOps(ops));
const create = (rkey: string, record: unknown, missing = false): TestOp => ({
  action: 'create',
  path: `${POST}/${rkey}`,
  record,
  missing,
});

beforeEach(() => {
  for (const name of Object.keys(encodeCounters)) encodeCounters[name as keyof typeof encodeCounters] = 0;
});

describe('the events of a log record', () => {
  test('are its ops in order, each a microsecond after the one before', () => {
    const record = logRecord(
      commitOfOps([
        create('3k', { text: 'a' }),
        { action: 'update', path: 'app.bsky.actor.profile/self', record: { a: 1 } },
        { action: 'delete', path: `${POST}/3l` },
      ]),
    );
    const events = readEvents(record);
    expect(
      events.map(({ kind, seq, opIndex, timeUs, did, collection, rkey, operation }) => ({
        ...{ kind, seq, opIndex, timeUs, did, collection, rkey, operation },
      })),
    ).toEqual([
      {
        ...{ kind: KIND.commit, seq: 7, opIndex: 0, timeUs: TIME_US, did: DID },
        ...{ collection: POST, rkey: '3k', operation: 'create' },
      },
      {
        ...{ kind: KIND.commit, seq: 7, opIndex: 1, timeUs: TIME_US + 1, did: DID },
        ...{ collection: 'app.bsky.actor.profile', rkey: 'self', operation: 'update' },
      },
      {
        ...{ kind: KIND.commit, seq: 7, opIndex: 2, timeUs: TIME_US + 2, did: DID },
        ...{ collection: POST, rkey: '3l', operation: 'delete' },
      },
    ]);
    expect(events.every(({ source }) => source === record)).toBe(true);
  });

  test('are one for an identity, an account and a sync, and none for what is no event', () => {
    const fields = { seq: 7, did: DID, time: TIME };
    for (const [type, body, kind] of [
      ['#identity', fields, KIND.identity],
      ['#account', { ...fields, active: true }, KIND.account],
      ['#sync', { ...fields, rev: REV, blocks: Uint8Array.of(1) }, KIND.sync],
    ] as const) {
      const event = one(frameOf(type, body));
      expect(event).toMatchObject({ kind, seq: 7, opIndex: 0, timeUs: TIME_US, did: DID });
      expect(event).toMatchObject({ collection: '', rkey: '', operation: '' });
    }
    expect(eventsOf(commitOfOps([]))).toEqual([]);
    expect(eventsOf(frameOf('#info', { name: 'OutdatedCursor' }))).toEqual([]);
    expect(eventsOf(frameOf('#later', { seq: 7, did: DID }))).toEqual([]);
    expect(encodeCounters.unreadableFrames).toBe(0);
  });

  test('are none, counted, where the frame cannot be read or is of another kind than the log says', () => {
    const frame = commitOfOps([create('3k', { a: 1 })]);
    expect(readEvents(logRecord(frame.subarray(0, -1)))).toEqual([]);
    expect(readEvents(logRecord(frame, { kind: KIND.sync }))).toEqual([]);
    expect(readEvents(logRecord(new Uint8Array(0)))).toEqual([]);
    expect(encodeCounters.unreadableFrames).toBe(3);
  });

  test('leave out, counted, an op that has no repository path; the others keep their time', () => {
    const path = (text: string): TestOp => ({ action: 'delete', path: text });
    const events = commit(
      path('"'),
      path('noslash'),
      path(`${POST}/ok`),
      path(`${POST}/a/b`),
      path('é.b.c/d'),
    );
    expect(events.map(({ rkey, opIndex, timeUs }) => [rkey, opIndex, timeUs])).toEqual([
      ['ok', 2, TIME_US + 2],
    ]);
    expect(encodeCounters.invalidPaths).toBe(4);
  });
});

describe('version 1, to the letter', () => {
  const link = cidOf(Buffer.from('x'));

  test('a create and an update', () => {
    const record = { text: 'hi "é"', $type: POST, reply: link, raw: Uint8Array.of(1), langs: [] };
    const cid = cidOf(dagCbor.encode(record));
    const json = `{"raw":{"$bytes":"AQ"},"text":"hi \\"é\\"","$type":"${POST}","langs":[],"reply":{"$link":"${link}"}}`;
    for (const action of ['create', 'update'] as const) {
      const [event] = commit({ action, path: `${POST}/3k`, record });
      expect(v1(event!)).toBe(
        `{"did":"${DID}","time_us":${TIME_US},"kind":"commit","commit":{"rev":"${REV}","operation":"${action}",` +
          `"collection":"${POST}","rkey":"3k","record":${json},"cid":"${cid}"}}`,
      );
    }
  });

  test('a delete has neither record nor cid', () => {
    const [event] = commit({ action: 'delete', path: `${POST}/3k` });
    expect(v1(event!)).toBe(
      `{"did":"${DID}","time_us":${TIME_US},"kind":"commit","commit":{"rev":"${REV}","operation":"delete",` +
        `"collection":"${POST}","rkey":"3k"}}`,
    );
  });

  test('an identity, with a handle where the host sent one', () => {
    const body = { seq: 7, did: DID, time: TIME };
    const start = `{"did":"${DID}","time_us":${TIME_US},"kind":"identity","identity":{"did":"${DID}",`;
    expect(v1(one(frameOf('#identity', { ...body, handle: 'a.example' })))).toBe(
      `${start}"handle":"a.example","seq":7,"time":"${TIME}"}}`,
    );
    expect(v1(one(frameOf('#identity', body)))).toBe(`${start}"seq":7,"time":"${TIME}"}}`);
  });

  test('an account, with a status where the host sent one', () => {
    const body = { seq: 7, did: DID, time: TIME };
    const start = `{"did":"${DID}","time_us":${TIME_US},"kind":"account","account":{`;
    expect(v1(one(frameOf('#account', { ...body, active: true })))).toBe(
      `${start}"active":true,"did":"${DID}","seq":7,"time":"${TIME}"}}`,
    );
    expect(v1(one(frameOf('#account', { ...body, active: false, status: 'takendown' })))).toBe(
      `${start}"active":false,"did":"${DID}","seq":7,"status":"takendown","time":"${TIME}"}}`,
    );
  });

  test('no sync, which counts as nothing', () => {
    const before = { ...encodeCounters };
    expect(
      encodeV1(one(frameOf('#sync', { seq: 7, did: DID, time: TIME, rev: REV, blocks: new Uint8Array(1) }))),
    ).toBeNull();
    expect(encodeCounters).toEqual(before);
  });

  test('the seq is that of the log, whatever stands in the frame', () => {
    const frame = frameOf('#identity', { seq: 7, did: DID, time: TIME });
    const [event] = readEvents(logRecord(frame, { seq: 2 ** 40 }));
    expect(JSON.parse(v1(event!)).identity.seq).toBe(2 ** 40);
  });
});

describe('version 2, to the letter', () => {
  const start = (kind: string): string =>
    `{"$type":"message","payload":{"$type":"${NSID}#${kind}","seq":7,"did":"${DID}","time":"2026-11-21T04:33:55.123456Z",`;
  const body = { seq: 7, did: DID, time: TIME };

  test('a create and a delete', () => {
    const record = { text: 'hi' };
    const events = commit(create('3k', record), { action: 'delete', path: `${POST}/3l` });
    expect(v2(events[0]!)).toBe(
      `${start('commit')}"rev":"${REV}","operation":"create","collection":"${POST}","rkey":"3k",` +
        `"cid":"${cidOf(dagCbor.encode(record))}","record":{"text":"hi"}}}`,
    );
    expect(v2(events[1]!)).toBe(
      `${start('commit').replace('123456', '123457')}"rev":"${REV}","operation":"delete","collection":"${POST}","rkey":"3l"}}`,
    );
  });

  test('an identity, an account and a sync around what the host said, with the seq of the log', () => {
    expect(v2(one(frameOf('#identity', { ...body, handle: 'a.example' })))).toBe(
      `${start('identity')}"identity":{"did":"${DID}","handle":"a.example","seq":7,"time":"${TIME}"}}}`,
    );
    expect(v2(one(frameOf('#account', { ...body, active: false, status: 'deleted' })))).toBe(
      `${start('account')}"account":{"active":false,"did":"${DID}","seq":7,"status":"deleted","time":"${TIME}"}}}`,
    );
    expect(v2(one(frameOf('#sync', { ...body, rev: REV, blocks: Uint8Array.of(1, 2, 3, 4) })))).toBe(
      `${start('sync')}"sync":{"blocks":{"$bytes":"AQIDBA"},"did":"${DID}","rev":"${REV}","seq":7,"time":"${TIME}"}}}`,
    );
  });

  test('text from outside is escaped wherever it stands', () => {
    const text = '"\\\n\u2028é😀';
    const identity = one(frameOf('#identity', { ...body, handle: text, time: text }));
    const account = one(frameOf('#account', { ...body, active: true, status: text, time: text }));
    const sync = one(frameOf('#sync', { ...body, rev: REV, blocks: new Uint8Array(0), time: text }));
    for (const encode of [v1, v2]) {
      expect(encode(identity)).toContain(
        `"handle":${JSON.stringify(text)},"seq":7,"time":${JSON.stringify(text)}}`,
      );
      expect(encode(account)).toContain(`"status":${JSON.stringify(text)},"time":${JSON.stringify(text)}}`);
      JSON.parse(encode(identity));
      JSON.parse(encode(account));
    }
    expect(JSON.parse(v2(sync)).payload.sync.time).toBe(text);
  });

  test('notices and heartbeats', () => {
    const text = (bytes: Uint8Array): string => jsonOf(bytes);
    expect(text(infoMessage('OutdatedCursor', 'from 5'))).toBe(
      `{"$type":"message","payload":{"$type":"${NSID}#info","name":"OutdatedCursor","message":"from 5"}}`,
    );
    expect(text(errorMessage('ConsumerTooSlow', 'é'))).toBe(
      '{"$type":"error","error":"ConsumerTooSlow","message":"é"}',
    );
    expect(text(heartbeatV1(TIME_US))).toBe(`{"time_us":${TIME_US},"kind":"heartbeat","cursor":${TIME_US}}`);
    expect(text(heartbeatV2(9, TIME_US))).toBe(
      `{"$type":"message","payload":{"$type":"${NSID}#heartbeat","cursor":9,"time":"2026-11-21T04:33:55.123456Z"}}`,
    );
  });

  test('the outer time is the log time, to the microsecond', () => {
    const read = (text: string): bigint =>
      BigInt(Date.parse(`${text.slice(0, 19)}Z`)) * 1000n + BigInt(text.slice(20, 26));
    fc.assert(
      fc.property(fc.nat({ max: Number.MAX_SAFE_INTEGER }), (timeUs) => {
        expect(timeText(timeUs)).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
        expect(read(timeText(timeUs))).toBe(BigInt(timeUs));
      }),
    );
    for (const timeUs of [0, 999_999, 1_000_000, TIME_US, TIME_US + 1])
      expect(Number(read(timeText(timeUs)))).toBe(timeUs);
  });
});

describe('an op whose record cannot be had', () => {
  test('is left out and counted once, missing or undecodable; the rest of its commit is not', () => {
    const events = commit(
      create('a', { n: 1 }),
      create('b', { n: 2 }, true),
      create('c', Uint8Array.of(0xa1, 0x61, 0x61, 0xf7)),
      create('d', Uint8Array.of(0x80)),
      create('e', { n: 5 }),
      { action: 'delete', path: `${POST}/f` },
    );
    for (let round = 0; round < 2; round++) {
      expect(events.map((event) => encodeV1(event) !== null)).toEqual([
        true,
        false,
        false,
        false,
        true,
        true,
      ]);
      expect(events.map((event) => encodeV2(event) !== null)).toEqual([
        true,
        false,
        false,
        false,
        true,
        true,
      ]);
    }
    expect(JSON.parse(v1(events[4]!)).commit.record).toEqual({ n: 5 });
    expect(encodeCounters).toMatchObject({ missingRecords: 1, undecodableRecords: 2, encoded: 13 });
  });

  test('is one that has no cid at all', () => {
    const body = { seq: 7, repo: DID, rev: REV, since: null, time: TIME, commit: cidOf(Uint8Array.of(1)) };
    const ops = [{ action: 'create', path: `${POST}/3k`, cid: null }];
    const event = one(frameOf('#commit', { ...body, blocks: new Uint8Array(0), ops }));
    expect([encodeV1(event), encodeV2(event)]).toEqual([null, null]);
    expect(encodeCounters.missingRecords).toBe(1);
  });

  test('or one of blocks that are no CAR: whatever they are, nothing is thrown', () => {
    const record = dagCbor.encode({ a: 1 });
    const cid = cidOf(record);
    const body = { seq: 7, repo: DID, rev: REV, since: null, time: TIME, commit: cid };
    const ops = [{ action: 'create', path: `${POST}/3k`, cid }];
    const prefix = Uint8Array.of(0x01, 0x00, 36 + record.length, ...cid.bytes, ...record);
    let found = 0;
    const check = (blocks: Uint8Array): void => {
      const message = encodeV1(one(frameOf('#commit', { ...body, blocks, ops })));
      if (message === null) return;
      found++;
      expect(JSON.parse(jsonOf(message)).commit.cid).toBe(cid.toString());
    };
    check(prefix);
    expect(found).toBe(1);
    fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), check), { numRuns: 300 });
    fc.assert(
      fc.property(
        fc.nat({ max: prefix.length - 1 }),
        fc.nat({ max: 255 }),
        fc.nat({ max: 20 }),
        (at, byte, cut) => {
          const blocks = new Uint8Array(prefix);
          blocks[at] = byte;
          check(blocks.subarray(0, blocks.length - cut));
        },
      ),
      { numRuns: 1000 },
    );
  });
});

describe('records of a commit', () => {
  test('are each found, however many ops and blocks, also where ops share one', () => {
    const draw = choices(7);
    const ops = Array.from({ length: 200 }, (_, index) => create(`3k${index}`, { n: draw(60) }));
    const others = Array.from({ length: 500 }, (_, index) => dagCbor.encode({ other: index }));
    const events = eventsOf(commitOfOps(ops, others));
    expect(events.length).toBe(200);
    events.forEach((event, index) => {
      const { record, cid } = JSON.parse(v1(event)).commit;
      expect(record).toEqual(ops[index]!.record);
      expect(cid).toBe(cidOf(dagCbor.encode(record)).toString());
    });
  });

  test('are encoded once for both versions, whichever comes first, and the messages agree', () => {
    fc.assert(
      fc.property(anyRecord, fc.boolean(), (record, firstV1) => {
        const bytes = dagCbor.encode(record);
        const [event] = commit(create('3k', bytes));
        const [a, b] = firstV1 ? [v1(event!), v2(event!)] : [v2(event!), v1(event!)];
        const json = judgedJson(bytes);
        for (const text of [a!, b!]) expect(text).toContain(`"record":${json}`);
        expect(v1(event!)).toBe(firstV1 ? a! : b!);
        expect(v2(event!)).toBe(firstV1 ? b! : a!);
      }),
      { numRuns: 300 },
    );
  });

  test('make messages that share no memory, and none that holds more than itself', () => {
    const [event] = commit(create('3k', { text: 'mine' }));
    const [first, second] = [encodeV1(event!)!, encodeV2(event!)!];
    const before = jsonOf(first);
    second.fill(0x20);
    expect(jsonOf(first)).toBe(before);
    for (const message of [first, second]) expect(message.byteLength).toBe(message.buffer.byteLength);
  });
});

/** Every message of these frames, against what @atproto/repo and @atproto/lex-json make of the same bytes. */
async function judgeFrames(frames: readonly Uint8Array[]): Promise<number> {
  let judged = 0;
  for (const [index, frame] of frames.entries()) {
    const record = logRecord(frame, { seq: index + 1, timeUs: TIME_US + index * 1000 });
    const [header, rest] = decodeFirst(frame, dagCbor.decodeOptions as never) as [{ t: string }, Uint8Array];
    const body = dagCbor.decode(rest) as Record<string, unknown>;
    const events = readEvents(record);
    // Lent or kept, the bytes are the same; of other events, since one that was encoded keeps its JSON.
    for (const [at, other] of readEvents(record).entries()) {
      expect(jsonOf(lendV2(other))).toBe(v2(events[at]!));
      expect(lendV1(other) === null ? null : jsonOf(lendV1(other))).toBe(
        header.t === '#sync' ? null : v1(events[at]!),
      );
    }
    if (header.t !== '#commit') {
      const kind = header.t.slice(1);
      const wrapped = { ...body, seq: record.seq };
      const { payload } = JSON.parse(v2(events[0]!));
      expect(payload[kind]).toEqual(JSON.parse(lexStringify(wrapped as LexValue)));
      expect(payload.time).toBe(timeText(record.timeUs));
      if (kind !== 'sync') expect(JSON.parse(v1(events[0]!))[kind]).toEqual(payload[kind]);
      judged++;
      continue;
    }
    const ops = body.ops as { action: string; path: string; cid: unknown }[];
    expect(events.length).toBe(ops.length);
    const { blocks } = await readCarWithRoot(body.blocks as Uint8Array);
    for (const [opIndex, op] of ops.entries()) {
      const [collection, rkey] = op.path.split('/');
      const fields = { rev: body.rev, operation: op.action, collection, rkey };
      const bytes = op.cid === null ? null : blocks.get(op.cid as never)!;
      const held = bytes === null ? {} : { cid: String(op.cid) };
      const json = bytes === null ? '' : lexStringify(dagCbor.decode(bytes) as LexValue);
      const event = events[opIndex]!;
      const first = v1(event);
      const recorded = bytes === null ? held : { ...held, record: JSON.parse(json) };
      expect(JSON.parse(first)).toEqual({
        did: body.repo,
        time_us: record.timeUs + opIndex,
        kind: 'commit',
        commit: { ...fields, ...recorded },
      });
      const second = v2(event);
      expect(JSON.parse(second)).toEqual({
        $type: 'message',
        payload: {
          ...{ $type: `${NSID}#commit`, seq: record.seq, did: body.repo, ...fields, ...recorded },
          time: timeText(record.timeUs + opIndex),
        },
      });
      if (bytes !== null) {
        expect(first).toContain(`"record":${json},"cid":"${op.cid}"}}`);
        expect(second.endsWith(`"cid":"${op.cid}","record":${json}}}`)).toBe(true);
      }
      judged++;
    }
  }
  expect(encodeCounters).toMatchObject({ missingRecords: 0, undecodableRecords: 0, unreadableFrames: 0 });
  return judged;
}

describe('whole streams', () => {
  test('of a real PDS, judged event by event', async () => {
    const frames = framesFixture('realframes/frames.lp.bin');
    if (frames === null) return;
    expect(await judgeFrames(frames)).toBeGreaterThan(frames.length);
  });

  test('of a large repository', async () => {
    const frames = framesFixture('realframes/synth20000.lp.bin');
    if (frames === null) return;
    expect(await judgeFrames(frames.slice(0, 200))).toBeGreaterThanOrEqual(200);
  });

  test('of a simulated network with all kinds of events', async () => {
    expect(await judgeFrames(await simulatedFrames(600, 5))).toBeGreaterThan(600);
  });

  test('with bytes changed: no event or message ever throws', async () => {
    const frames = await simulatedFrames(150, 6);
    const draw = choices(11);
    let messages = 0;
    for (let round = 0; round < 6000; round++) {
      const frame = new Uint8Array(frames[draw(frames.length)]!);
      const record = logRecord(frame);
      for (let changes = draw(3); changes >= 0; changes--) frame[draw(frame.length)] = draw(256);
      for (const event of readEvents(record)) {
        for (const encode of [encodeV1, encodeV2]) {
          const message = encode(event);
          if (message === null) continue;
          JSON.parse(jsonOf(message));
          messages++;
        }
      }
    }
    expect(messages).toBeGreaterThan(1000);
    expect(encodeCounters.unreadableFrames).toBeGreaterThan(10);
  });
});

test('what readEvents did not make is refused loudly', () => {
  const [event] = commit(create('3k', { a: 1 }));
  expect(() => encodeV1({ ...event! })).toThrow(TypeError);
});
