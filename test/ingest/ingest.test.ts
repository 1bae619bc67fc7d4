import { afterEach, describe, expect, test } from 'bun:test';
import { decode } from '@ipld/dag-cbor';
import { decodeFirst } from 'cborg';
import { encodeError, encodeMessage } from '../../simulator/frames.ts';
import { createKey } from '../../simulator/keys.ts';
import { KIND } from '../../src/firehose/types.ts';
import { HARD_AHEAD_EVENTS, MAX_AHEAD_EVENTS } from '../../src/ingest/bounds.ts';
import {
  accountFrame,
  commitFrame,
  identityFrame,
  ingestWith,
  keyOf,
  newAccount,
  START_MS,
  syncFrame,
} from './support.ts';

const running: { stop(): Promise<void> }[] = [];
const start = (...args: Parameters<typeof ingestWith>) => {
  const made = ingestWith(...args);
  running.push(made.ingest);
  return made;
};
afterEach(async () => {
  for (const ingest of running.splice(0)) await ingest.stop();
});

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';
const TIME = '2026-11-21T00:00:00.000Z';
const OTHER = 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb';

describe('verified events', () => {
  test('commits and syncs of both key types are handed on with what was verified', async () => {
    for (const type of ['k256', 'p256'] as const) {
      const made = start();
      const account = newAccount(type);
      const socket = made.connect(1);
      socket.frame(commitFrame(account, 5));
      socket.frame(commitFrame(account, 6));
      socket.frame(syncFrame(account, 9));
      await made.settle();
      made.answerAll(() => keyOf(account));
      await made.settle();
      const [first, second, sync] = made.handedOn();
      expect(made.refused()).toEqual([]);
      expect(first).toMatchObject({ kind: KIND.commit, upstreamSeq: 5, did: account.did, opCount: 1 });
      expect(first!.prevData).toBeNull();
      expect(second!.prevData).toBe(first!.data);
      expect(second!.since).toBe(first!.rev);
      expect(sync).toMatchObject({
        kind: KIND.sync,
        upstreamSeq: 9,
        data: second!.data,
        commit: second!.commit,
      });
      expect(Buffer.from(account.commitDigest!).toString('latin1')).toBe(second!.commit!);
      expect(made.cursorOf(1)).toBe(9);
    }
  });

  test('fields that some hosts leave out are filled in, and optional ones that say nothing are taken out', async () => {
    const made = start();
    const account = newAccount();
    const socket = made.connect(1);
    const without = (body: Record<string, unknown>) => ({ ...body, tooBig: undefined, blobs: undefined });
    socket.frame(commitFrame(account, 1, { change: without }));
    socket.frame(accountFrame(account.did, 2, { status: null }));
    socket.frame(
      encodeMessage({ type: '#identity', body: { did: account.did, seq: 3, time: TIME, handle: null } }),
    );
    await made.settle();
    made.answerAll(() => keyOf(account));
    await made.settle();
    expect(made.refused()).toEqual([]);
    const bodies = made.handedOn().map(({ frame }): Record<string, unknown> => decode(decodeFirst(frame)[1]));
    expect(bodies).toMatchObject([{ tooBig: false, blobs: [] }, { active: true }, { did: account.did }]);
    expect(bodies[1]).not.toHaveProperty('status');
    expect(bodies[2]).not.toHaveProperty('handle');
    made.acknowledgeAll();
    expect(made.ingest.counters.bytesInFlight).toBe(0);
  });
});

describe('order', () => {
  test('frames of a DID wait in order for its identity, while others go on and the cursor stays below', async () => {
    const made = start();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 10));
    await made.settle();
    expect(made.requests).toEqual([{ did: DID, fresh: false, hostname: 'host1.pds.net' }]);
    const [request] = made.requests.splice(0);
    socket.frame(accountFrame(OTHER, 11));
    socket.frame(accountFrame(DID, 12));
    await made.settle();
    made.answerAll();
    await made.settle();
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([11]);
    expect(made.cursorOf(1)).toBe(9);
    expect(made.ingest.counters.heldFrames).toBe(2);
    made.ingest.identified([made.answer(request!)]);
    await made.settle();
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([11, 10, 12]);
    expect(made.cursorOf(1)).toBe(12);
    expect(made.requests).toEqual([]);
  });

  test('how much of a host waits is reported with its progress', async () => {
    const made = start();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    socket.frame(accountFrame(DID, 2));
    await made.settle();
    expect(made.batches().at(-1)!.progress).toEqual([{ hostId: 1, cursor: 0, held: 2 }]);
    made.answerAll();
    expect(made.batches().at(-1)!.progress).toEqual([{ hostId: 1, cursor: 2, held: 0 }]);
  });

  test('one host saying things in the name of an account does not hold up what its own PDS says', async () => {
    const made = start();
    const bad = made.connect(1);
    const good = made.connect(2);
    bad.frame(accountFrame(DID, 1));
    await made.settle();
    const [stuck] = made.requests.splice(0);
    expect(stuck!.hostname).toBe('host1.pds.net');
    good.frame(accountFrame(DID, 1));
    await made.settle();
    made.answerAll();
    await made.settle();
    expect(made.handedOn()).toHaveLength(1);
    expect(made.handedOn()[0]!.hostId).toBe(2);
  });
});

describe('a connection with a cursor', () => {
  test('skips what is logged already, silently, and what begins at the cursor itself', async () => {
    const made = start();
    const socket = made.connect(1, { cursor: 10, skip: [11, 13] });
    for (const seq of [10, 11, 12, 13, 14]) socket.frame(accountFrame(DID, seq));
    await made.settle();
    made.answerAll();
    await made.settle();
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([12, 14]);
    expect(made.refused()).toEqual([]);
    expect(made.ingest.counters.skippedFrames).toBe(3);
    expect(made.cursorOf(1)).toBe(14);
    made.acknowledgeAll();
    expect(made.ingest.counters.bytesInFlight).toBe(0);
  });

  test('drops and counts a frame that is not above the one before, and goes on', async () => {
    const made = start();
    const socket = made.connect(1);
    for (const seq of [5, 5, 4, 6]) socket.frame(accountFrame(DID, seq));
    await made.settle();
    made.answerAll();
    await made.settle();
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([5, 6]);
    expect(made.refused().map(({ reason, upstreamSeq }) => [reason, upstreamSeq])).toEqual([
      ['seq_not_increasing', 5],
      ['seq_not_increasing', 4],
    ]);
    expect(made.closes()).toEqual([]);
  });

  test('that goes on from far below it means the host numbers anew: the cursor is given up', async () => {
    const made = start();
    const socket = made.connect(1, { cursor: 1_000 });
    for (const seq of [3, 4, 5]) socket.frame(accountFrame(DID, seq));
    await made.settle();
    expect(made.closes()).toMatchObject([{ kind: 'error_frame', error: 'FutureCursor' }]);
    expect(made.refused()).toHaveLength(3);
    expect(made.cursorOf(1)).toBeLessThanOrEqual(1_000);
  });

  test('is not given up for a host that begins a batch early, but for one whose numbers only grow up to it', async () => {
    const made = start();
    const early = made.connect(1, { cursor: 1_000 });
    for (let seq = 900; seq <= 1_001; seq++) early.frame(accountFrame(DID, seq));
    const anew = made.connect(2, { cursor: 1_000_000 });
    for (let seq = 990_000; seq < 991_000 && anew.outcome === null; seq++) anew.frame(accountFrame(DID, seq));
    await made.settle();
    made.answerAll();
    await made.settle();
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([1_001]);
    expect(made.closes()).toMatchObject([{ kind: 'error_frame', error: 'FutureCursor' }]);
  });

  test('is not given up for two stray frames', async () => {
    const made = start();
    const socket = made.connect(1, { cursor: 1_000 });
    for (const seq of [3, 4, 1_001, 5, 6, 7, 1_002]) socket.frame(accountFrame(DID, seq));
    await made.settle();
    made.answerAll();
    await made.settle();
    expect(made.closes()).toEqual([]);
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([1_001, 1_002]);
  });
});

describe('bad frames', () => {
  test('cost that frame only, until there are too many of them', async () => {
    const made = start();
    const socket = made.connect(1);
    for (let count = 0; count < 100; count++) socket.frame(Uint8Array.of(0xff));
    socket.frame(accountFrame(DID, 1));
    await made.settle();
    expect(made.closes()).toEqual([]);
    expect(made.refused()).toHaveLength(100);
    socket.frame(Uint8Array.of(0xff));
    await made.settle();
    expect(made.closes()).toEqual([{ kind: 'malformed' }]);
  });

  test('good frames make up for bad ones', async () => {
    const made = start();
    const socket = made.connect(1);
    let seq = 0;
    for (let count = 0; count < 300; count++) {
      socket.frame(Uint8Array.of(0xff));
      socket.frame(accountFrame(DID, ++seq));
      socket.frame(accountFrame(DID, ++seq));
      if (count % 50 === 0) await made.settle();
      made.answerAll();
    }
    await made.settle();
    made.answerAll();
    expect(made.closes()).toEqual([]);
    expect(made.refused()).toHaveLength(300);
  });

  test('text messages are refused and counted likewise, also when nothing else comes', async () => {
    const made = start();
    const socket = made.connect(1);
    socket.events.text();
    await made.settle();
    expect(made.refused().map(({ reason }) => reason)).toEqual(['frame_not_binary']);
    for (let count = 0; count < 100; count++) socket.events.text();
    await made.settle();
    expect(made.closes()).toEqual([{ kind: 'malformed' }]);
    expect(made.refused()).toHaveLength(101);
  });

  test("a host's error frame ends the connection, after what came before it", async () => {
    const made = start();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    await made.settle();
    made.answerAll();
    socket.frame(accountFrame(DID, 2));
    socket.frame(encodeError('ConsumerTooSlow', 'too slow'));
    socket.frame(accountFrame(DID, 3));
    await made.settle();
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([1, 2]);
    expect(made.refused().map(({ reason }) => reason)).toEqual(['host_error_frame']);
    expect(made.closes()).toEqual([{ kind: 'error_frame', error: 'ConsumerTooSlow', message: 'too slow' }]);
    expect(made.notes.at(-1)!.kind).toBe('closed');
    made.acknowledgeAll();
    expect(made.ingest.counters.bytesInFlight).toBe(0);
  });

  test('#info is passed on a few times; unknown types without a seq or DID are refused', async () => {
    const made = start();
    const socket = made.connect(1);
    for (let count = 0; count < 50; count++)
      socket.frame(encodeMessage({ type: '#info', body: { name: 'OutdatedCursor' } }));
    socket.frame(encodeMessage({ type: '#new', body: { what: 1 } }));
    socket.frame(encodeMessage({ type: '#new', body: { did: DID, seq: 1 } }));
    await made.settle();
    made.answerAll();
    const infos = made.notes.filter(({ kind }) => kind === 'info');
    expect(infos.length).toBeGreaterThan(0);
    expect(infos.length).toBeLessThan(10);
    expect(made.refused().map(({ reason }) => reason)).toEqual(['frame_type_unknown']);
    expect(made.handedOn()).toMatchObject([{ kind: KIND.unknown, did: DID, upstreamSeq: 1 }]);
  });
});

describe('identities', () => {
  test('a bad signature is asked about anew once, then refused; a new key makes it good', async () => {
    for (const rotated of [false, true]) {
      const made = start();
      const account = newAccount();
      const socket = made.connect(1);
      socket.frame(commitFrame(account, 1));
      await made.settle();
      made.answerAll(() => keyOf(account));
      expect(made.handedOn()).toHaveLength(1);
      made.advance(60_000);
      const newKey = createKey('k256', Buffer.alloc(32, 77));
      socket.frame(commitFrame(account, 2, { sign: newKey.sign }));
      await made.settle();
      expect(made.requests).toMatchObject([{ did: account.did, fresh: true }]);
      made.advance(1);
      made.answerAll(() => keyOf(rotated ? { key: newKey } : account));
      await made.settle();
      expect(made.requests).toEqual([]);
      expect(made.handedOn()).toHaveLength(rotated ? 2 : 1);
      expect(made.refused().map(({ reason }) => reason)).toEqual(rotated ? [] : ['signature_invalid']);
      expect(made.cursorOf(1)).toBe(2);
    }
  });

  test('#identity makes the identity be looked up anew before it is passed on, and what comes behind it waits', async () => {
    const made = start();
    const account = newAccount();
    const socket = made.connect(1);
    socket.frame(commitFrame(account, 1));
    await made.settle();
    made.answerAll(() => keyOf(account));
    made.advance(1);
    socket.frame(identityFrame(account.did, 2));
    const newKey = createKey('p256', Buffer.alloc(32, 78));
    account.key = newKey;
    socket.frame(commitFrame(account, 3));
    await made.settle();
    expect(made.requests).toMatchObject([{ fresh: true }]);
    made.advance(1);
    made.answerAll(() => keyOf({ key: newKey }));
    await made.settle();
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([1, 2, 3]);
    expect(made.refused()).toEqual([]);
  });

  test('#identity that came while an older question was on its way asks once more', async () => {
    const made = start();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    await made.settle();
    const [first] = made.requests.splice(0);
    const askedAtMs = made.nowMs;
    made.advance(5);
    socket.frame(identityFrame(DID, 2));
    await made.settle();
    expect(made.requests).toEqual([]);
    made.ingest.identified([made.answer(first!, { atMs: askedAtMs })]);
    expect(made.requests).toMatchObject([{ fresh: true }]);
    made.answerAll();
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([1, 2]);
  });

  test('a clock that jumps back makes nobody ask for ever', async () => {
    const made = start();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    socket.frame(identityFrame(DID, 2));
    await made.settle();
    made.advance(-3_600_000);
    let asked = 0;
    for (; made.requests.length > 0 && asked < 10; asked++) made.answerAll();
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([1, 2]);
    expect(asked).toBe(2);
  });

  test('a DID that lives elsewhere is asked about anew once and refused; where the directory was late, it comes in', async () => {
    for (const moved of [false, true]) {
      const made = start();
      const socket = made.connect(1);
      socket.frame(accountFrame(DID, 1));
      await made.settle();
      made.answerAll(() => ({ pds: 'elsewhere.net', atMs: START_MS - 100_000 }));
      expect(made.requests).toMatchObject([{ fresh: true }]);
      made.answerAll(() => (moved ? {} : { pds: 'elsewhere.net' }));
      await made.settle();
      expect(made.handedOn()).toHaveLength(moved ? 1 : 0);
      expect(made.refused().map(({ reason }) => reason)).toEqual(moved ? [] : ['wrong_host']);
      expect(made.cursorOf(1)).toBe(1);
      expect(made.requests).toEqual([]);
    }
  });

  test('a DID without a PDS, or without a key for what must be signed, is refused for that', async () => {
    const made = start();
    const account = newAccount();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    socket.frame(commitFrame(account, 2));
    await made.settle();
    made.answerAll(({ did }) => (did === DID ? { pds: null } : {}));
    made.answerAll(({ did }) => (did === DID ? { pds: null } : {}));
    expect(
      made
        .refused()
        .map(({ reason }) => reason)
        .sort(),
    ).toEqual(['did_no_pds', 'did_no_signing_key']);
    expect(made.handedOn()).toEqual([]);
    expect(made.cursorOf(1)).toBe(2);
  });

  test('a DID unusable for good is refused without asking, for a while', async () => {
    const made = start();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    await made.settle();
    made.answerAll(() => ({ pds: null, reason: 'did_not_found' }));
    made.advance(30_000);
    socket.frame(accountFrame(DID, 2));
    await made.settle();
    expect(made.requests).toEqual([]);
    made.advance(40_000);
    socket.frame(accountFrame(DID, 3));
    await made.settle();
    expect(made.requests).toMatchObject([{ fresh: true }]);
    made.answerAll();
    expect(made.refused().map(({ reason }) => reason)).toEqual(['did_not_found', 'did_not_found']);
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([3]);
  });

  test('the last word of its PDS on an account that is gone from the directory is passed on', async () => {
    const made = start();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1, { active: false, status: 'deleted' }));
    await made.settle();
    made.answerAll(({ hostname }) => ({ pds: hostname, reason: 'did_tombstoned' }));
    expect(made.handedOn()).toMatchObject([{ kind: KIND.account, active: false, status: 'deleted' }]);
  });

  test('asked to ask again it does, for as long as somebody waits', async () => {
    const made = start();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    await made.settle();
    for (let turn = 0; turn < 3; turn++) {
      made.answerAll(() => ({ again: true }));
      expect(made.requests).toMatchObject([{ did: DID, fresh: false }]);
    }
    socket.close();
    await made.settle();
    made.answerAll(() => ({ again: true }));
    expect(made.requests).toEqual([]);
    expect(made.ingest.counters.heldDids).toBe(0);
  });

  test('a host that comes and goes while the directory is silent does not make questions pile up', async () => {
    const made = start();
    for (let turn = 0; turn < 50; turn++) {
      const socket = made.connect(1);
      socket.frame(accountFrame(DID, 1));
      await made.settle();
      socket.close();
      await made.settle();
    }
    expect(made.requests).toHaveLength(1);
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    await made.settle();
    made.answerAll(() => ({ again: true }));
    expect(made.requests).toHaveLength(1);
    made.answerAll();
    expect(made.handedOn()).toHaveLength(1);
    expect(made.ingest.counters.heldDids).toBe(0);
  });

  test('what another thread learned is asked for again', async () => {
    const made = start();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    await made.settle();
    made.answerAll();
    made.ingest.forget(DID);
    socket.frame(accountFrame(DID, 2));
    await made.settle();
    expect(made.requests).toMatchObject([{ did: DID, fresh: false }]);
  });
});

describe('bytes in flight', () => {
  test('are given back with their memory, batch by batch', async () => {
    const account = newAccount();
    const made = start();
    const socket = made.connect(1);
    for (const seq of [1, 2]) {
      socket.frame(commitFrame(account, seq, { textBytes: 2_000 }));
      await made.settle();
      made.answerAll(() => keyOf(account));
      await made.settle();
    }
    const [first, second] = made.handedOn();
    const itsBatch = made.batches().findIndex(({ events }) => events.includes(first!));
    for (const bytes of made.unacknowledged.splice(0, itsBatch + 1)) made.ingest.acknowledge(bytes);
    expect([first!.frame.length, second!.frame.length > 0]).toEqual([0, true]);
    made.acknowledgeAll();
    expect(second!.frame.length).toBe(0);
    expect(() => made.ingest.acknowledge(1)).toThrow('not under way');
  });

  test('over the bound all sockets pause, and go on when enough is sequenced', async () => {
    const made = start({ maxBytesInFlight: 10_000 });
    const one = made.connect(1);
    const two = made.connect(2);
    let seq = 1;
    one.frame(accountFrame(DID, 1));
    await made.settle();
    made.answerAll();
    while (!one.paused) one.frame(accountFrame(DID, ++seq));
    expect(two.paused).toBe(true);
    expect(made.ingest.counters.bytesInFlight).toBeLessThan(10_400);
    await made.settle();
    expect(made.handedOn()).toHaveLength(seq);
    expect(one.paused).toBe(true);
    made.acknowledgeAll();
    await made.settle();
    expect([one.paused, two.paused]).toEqual([false, false]);
    expect(made.ingest.counters.bytesInFlight).toBe(0);
  });

  test('far over the bound the host that still sends is cut, to come again later; nothing of it is lost', async () => {
    const made = start({ maxBytesInFlight: 10_000 });
    const socket = made.connect(1);
    let seq = 0;
    while (socket.outcome === null) socket.frame(accountFrame(DID, ++seq));
    expect(made.closes()).toMatchObject([{ kind: 'throttled' }]);
    await made.settle();
    expect(made.handedOn()).toEqual([]);
    expect(made.cursorOf(1)).toBe(0);
    expect(made.ingest.counters.bytesInFlight).toBe(0);
    expect(made.ingest.counters.discardedFrames).toBe(seq);
  });

  test('refusals count, too: who sends nothing but bad things cannot fill the memory of a stuck sequencer', async () => {
    const made = start({ maxBytesInFlight: 10_000 });
    const socket = made.connect(1);
    let seq = 1;
    socket.frame(accountFrame(DID, 1_000_000));
    while (!socket.paused && seq < 1_000) {
      socket.frame(accountFrame(DID, ++seq));
      await made.settle();
      made.answerAll();
    }
    expect(socket.paused).toBe(true);
    expect(made.refused().every(({ reason }) => reason === 'seq_not_increasing')).toBe(true);
    made.acknowledgeAll();
    await made.settle();
    expect(socket.paused).toBe(false);
    expect(made.ingest.counters.bytesInFlight).toBe(0);
  });

  test('frames that wait for a silent directory do not stop hosts whose accounts are known', async () => {
    const made = start({ maxBytesInFlight: 20_000 });
    const good = made.connect(1);
    good.frame(accountFrame(DID, 1));
    await made.settle();
    made.answerAll();
    // Unknown accounts of many hosts fill all the room for those that wait.
    for (let hostId = 2; hostId < 40; hostId++) {
      const socket = made.connect(hostId);
      for (let seq = 1; seq < 40 && !socket.paused; seq++) socket.frame(accountFrame(OTHER, seq));
      await made.settle();
    }
    expect(made.ingest.counters.heldBytes).toBeGreaterThanOrEqual(10_000);
    for (let seq = 2; seq < 500; seq++) {
      expect(good.paused).toBe(false);
      good.frame(accountFrame(DID, seq));
      await made.settle();
      made.acknowledgeAll();
      if (good.paused) await made.settle();
    }
    expect(made.handedOn().filter(({ hostId }) => hostId === 1)).toHaveLength(499);
  });
});

describe('what waits for identities', () => {
  test('is bounded per host: it pauses, says why, and goes on when half of it is answered', async () => {
    const made = start();
    const socket = made.connect(1);
    let seq = 0;
    const did = (index: number) => `did:web:a${index}.example.com`;
    while (!socket.paused && seq < 2_000) {
      socket.frame(accountFrame(did(++seq), seq));
      await made.settle();
    }
    expect(seq).toBe(512);
    expect(made.notes.filter(({ kind }) => kind === 'paused')).toMatchObject([
      { hostId: 1, pausedFor: 'pending_identities' },
    ]);
    const asked = made.requests.splice(0);
    made.ingest.identified(asked.slice(0, 255).map((request) => made.answer(request)));
    expect(socket.paused).toBe(true);
    made.ingest.identified(asked.slice(255, 256).map((request) => made.answer(request)));
    expect(socket.paused).toBe(false);
    expect(made.notes.at(-2)).toMatchObject({ kind: 'paused', pausedFor: null });
    expect(made.cursorOf(1)).toBe(256);
  });

  test('of all hosts together is bounded, and a host paused for others goes on when theirs drains, its own still waiting', async () => {
    const made = start({ maxBytesInFlight: 20_000 });
    const first = made.connect(1);
    let seq = 0;
    while (!first.paused) {
      first.frame(accountFrame(DID, ++seq));
      await made.settle();
    }
    expect(made.ingest.counters.heldBytes).toBeGreaterThanOrEqual(10_000);
    const second = made.connect(2);
    second.frame(accountFrame(OTHER, 1));
    await made.settle();
    expect(second.paused).toBe(true);
    const [ofFirst] = made.requests.splice(0);
    made.ingest.identified([made.answer(ofFirst!)]);
    expect(second.paused).toBe(false);
    expect(made.ingest.counters.heldFrames).toBe(1);
  });

  test('holds back no more than a bounded number of later events of its host', async () => {
    const made = start({ maxBytesInFlight: 100_000_000 });
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    await made.settle();
    const [stuck] = made.requests.splice(0);
    socket.frame(accountFrame(OTHER, 2));
    await made.settle();
    made.answerAll();
    let seq = 2;
    while (!socket.paused && seq < 2 * HARD_AHEAD_EVENTS) {
      for (let count = 0; count < 64; count++) socket.frame(accountFrame(OTHER, ++seq));
      await made.settle();
    }
    expect(seq).toBeLessThan(MAX_AHEAD_EVENTS + 200);
    expect(made.notes.findLast(({ kind }) => kind === 'paused')).toMatchObject({
      pausedFor: 'pending_identities',
    });
    made.ingest.identified([made.answer(stuck!)]);
    expect(socket.paused).toBe(false);
    expect(made.cursorOf(1)).toBe(seq);
  });

  test('what is refused meanwhile counts as ahead, too, and is told as judged, so that it is not judged again', async () => {
    const made = start({ maxBytesInFlight: 100_000_000 });
    const socket = made.connect(1, { cursor: 10 });
    socket.frame(accountFrame(DID, 11));
    await made.settle();
    made.requests.splice(0);
    made.advance(1);
    socket.frame(accountFrame(OTHER, 12));
    socket.frame(accountFrame(OTHER, 12));
    await made.settle();
    made.answerAll(() => ({ pds: 'old.pds.net' }));
    await made.settle();
    made.answerAll(() => ({ pds: 'old.pds.net' }));
    await made.settle();
    expect(made.refused()).toMatchObject([
      { upstreamSeq: 12, reason: 'seq_not_increasing', judged: false },
      { upstreamSeq: 12, reason: 'wrong_host', judged: true },
    ]);
    let seq = 12;
    while (!socket.paused && seq < 2 * HARD_AHEAD_EVENTS) {
      for (let count = 0; count < 64; count++) socket.frame(accountFrame(OTHER, ++seq));
      await made.settle();
      made.answerAll(() => ({ pds: 'old.pds.net' }));
    }
    expect(seq).toBeLessThan(MAX_AHEAD_EVENTS + 700);
  });

  test('a few hosts that bring accounts without end are cut, and leave alone those whose accounts are known', async () => {
    const made = start({ maxBytesInFlight: 100_000_000 });
    const good = made.connect(100);
    good.frame(accountFrame(DID, 1));
    await made.settle();
    made.answerAll();
    let number = 0;
    for (let hostId = 1; hostId <= 25; hostId++) {
      const socket = made.connect(hostId);
      // One read: the socket is paused amid it.
      for (let seq = 1; seq <= 3_000 && socket.outcome === null; seq++)
        socket.frame(accountFrame(`did:web:a${number++}.example.com`, seq));
      while (made.closes().length < hostId) await made.settle();
    }
    expect(made.closes().every(({ kind }) => kind === 'throttled')).toBe(true);
    expect(made.ingest.counters.heldDids).toBe(20_000);
    good.frame(accountFrame(DID, 2));
    await made.settle();
    expect(good.outcome).toBeNull();
    expect(made.handedOn().at(-1)).toMatchObject({ hostId: 100, upstreamSeq: 2 });
  });

  test('a host that gets far beyond that bound all the same is cut', async () => {
    const made = start({ maxBytesInFlight: 100_000_000 });
    const skip = Array.from({ length: HARD_AHEAD_EVENTS }, (_, index) => index + 2);
    const socket = made.connect(1, { skip });
    socket.frame(accountFrame(DID, 1));
    for (const seq of skip) socket.frame(accountFrame(OTHER, seq));
    socket.frame(accountFrame(OTHER, HARD_AHEAD_EVENTS + 2));
    while (made.closes().length === 0) await made.settle();
    expect(made.closes()).toMatchObject([{ kind: 'throttled' }]);
    expect(made.handedOn()).toEqual([]);
    await made.settle();
    expect(made.ingest.counters).toMatchObject({ bytesInFlight: 0, heldBytes: 0, heldFrames: 0 });
  });
});

/** The account is known to live on host 1. */
const identify = (made: ReturnType<typeof ingestWith>, did: string): void =>
  made.ingest.identified([
    made.answer({ did, hostname: 'host1.pds.net', fresh: false }, { pds: 'host1.pds.net' }),
  ]);

describe('rate limits', () => {
  test('pause the socket, and what one read brought beyond them is made up for before the next', async () => {
    const made = start();
    const limits = { perSecond: 10, perHour: 1e9, perDay: 1e9 };
    const socket = made.connect(1, { limits });
    for (let seq = 1; seq <= 10; seq++) socket.frame(accountFrame(DID, seq));
    expect(socket.paused).toBe(false);
    for (let seq = 11; seq <= 20; seq++) socket.frame(accountFrame(DID, seq));
    expect(socket.paused).toBe(true);
    await made.settle();
    made.answerAll();
    await made.settle();
    expect(made.handedOn()).toHaveLength(20);
    expect(made.notes).toContainEqual({ kind: 'paused', hostId: 1, pausedFor: 'rate_limit' });
    made.advance(500);
    await Bun.sleep(120);
    expect(socket.paused).toBe(true);
    made.advance(500);
    await Bun.sleep(120);
    expect(socket.paused).toBe(false);
  });

  test('new limits take effect on a host that waits by the old ones', async () => {
    const made = start();
    const socket = made.connect(1, { limits: { perSecond: 1e9, perHour: 200, perDay: 1e9 } });
    for (let seq = 1; seq <= 201; seq++) socket.frame(accountFrame(DID, seq));
    expect(socket.paused).toBe(true);
    made.ingest.setLimits(1, { perSecond: 1e9, perHour: 1e9, perDay: 1e9 });
    made.advance(1_000);
    await Bun.sleep(120);
    expect(socket.paused).toBe(false);
  });

  test('that need too long end the connection, to come back later', async () => {
    const made = start();
    const socket = made.connect(1, { limits: { perSecond: 1e9, perHour: 10, perDay: 1e9 } });
    for (let seq = 1; seq <= 11; seq++) if (socket.outcome === null) socket.frame(accountFrame(DID, seq));
    await made.settle();
    made.answerAll();
    await made.settle();
    expect(made.closes()).toEqual([{ kind: 'throttled', waitMs: 360_000 }]);
    made.acknowledgeAll();
    expect(made.ingest.counters.bytesInFlight).toBe(0);
  });

  test('that need too long let through what was read until then, so that each connection gets ahead', async () => {
    const made = start();
    const limits = { perSecond: 1e9, perHour: 10, perDay: 1e9 };
    identify(made, DID);
    const socket = made.connect(1, { limits });
    for (let seq = 1; seq <= 20; seq++) if (socket.outcome === null) socket.frame(accountFrame(DID, seq));
    await made.settle();
    expect(made.handedOn()).toHaveLength(11);
    expect(made.cursorOf(1)).toBe(11);
    expect(made.closes()).toMatchObject([{ kind: 'throttled' }]);
  });

  test('are not to be had anew by reconnecting', async () => {
    const made = start();
    const limits = { perSecond: 50, perHour: 2_500, perDay: 20_000 };
    identify(made, DID);
    const startMs = made.nowMs;
    let seq = 0;
    for (let connection = 0; connection < 100; connection++) {
      const socket = made.connect(1, { limits });
      for (let frame = 0; frame < 400; frame++)
        if (socket.outcome === null) socket.frame(accountFrame(DID, ++seq));
      socket.close();
      await made.settle();
      made.advance(2_000);
    }
    const seconds = (made.nowMs - startMs) / 1_000;
    // What is full at first, what comes in, half a minute's worth that may be owed, and one for each connection.
    expect(made.handedOn().length).toBeLessThan(2_500 + (seconds + 30) * (2_500 / 3_600) + 100);
  });

  test('that are over are not mistaken for another pause', async () => {
    const made = start({ maxBytesInFlight: 200_000 });
    identify(made, DID);
    const socket = made.connect(1, { limits: { perSecond: 5, perHour: 1e9, perDay: 1e9 } });
    for (let seq = 1; seq <= 9; seq++) socket.frame(accountFrame(DID, seq, { padding: 'x'.repeat(40_000) }));
    await made.settle();
    made.advance(5_000);
    await Bun.sleep(120);
    made.acknowledgeAll();
    await made.settle();
    expect(socket.paused).toBe(false);
    const reports = made.notes.flatMap((note) => (note.kind === 'paused' ? [note.pausedFor] : []));
    expect(reports).toEqual(['rate_limit', null]);
  });
});

describe('the end of a connection', () => {
  test('by the host comes after the frames it had sent', async () => {
    const made = start();
    const socket = made.connect(1);
    socket.frame(accountFrame(DID, 1));
    await made.settle();
    made.answerAll();
    socket.frame(accountFrame(DID, 2));
    socket.frame(accountFrame(DID, 3));
    socket.close();
    expect(made.closes()).toEqual([]);
    await made.settle();
    expect(made.handedOn().map(({ upstreamSeq }) => upstreamSeq)).toEqual([1, 2, 3]);
    expect(made.cursorOf(1)).toBe(3);
    expect(made.notes.at(-1)).toMatchObject({ kind: 'closed', outcome: { kind: 'closed' } });
  });

  test('by us comes at once, also between the end that the host made and its report', async () => {
    for (const closedFirst of [false, true]) {
      const made = start();
      const socket = made.connect(1);
      socket.frame(accountFrame(DID, 1));
      if (closedFirst) socket.close();
      made.ingest.disconnect(1);
      expect(made.closes()).toEqual([{ kind: 'stopped' }]);
      await made.settle();
      expect(made.closes()).toHaveLength(1);
      expect(made.handedOn()).toEqual([]);
      expect(made.ingest.counters.bytesInFlight).toBe(0);
      made.ingest.disconnect(1);
      made.connect(1);
      expect(made.closes()).toHaveLength(1);
    }
  });

  test('throws away what waits, gives its bytes back, and lets others go on', async () => {
    const made = start();
    const socket = made.connect(1);
    const other = made.connect(2);
    socket.frame(accountFrame(DID, 4));
    other.frame(accountFrame(DID, 1));
    await made.settle();
    socket.close();
    await made.settle();
    expect(made.cursorOf(1)).toBe(3);
    expect(made.ingest.counters).toMatchObject({ heldFrames: 1, discardedFrames: 1 });
    made.answerAll();
    expect(made.handedOn()).toMatchObject([{ hostId: 2 }]);
    made.acknowledgeAll();
    expect(made.ingest.counters).toMatchObject({
      bytesInFlight: 0,
      heldBytes: 0,
      heldFrames: 0,
      heldDids: 0,
    });
  });

  test('of everything leaves nothing in flight and calls nothing more', async () => {
    const made = ingestWith();
    const socket = made.connect(1);
    made.connect(2);
    socket.frame(accountFrame(DID, 1));
    await made.settle();
    socket.frame(accountFrame(OTHER, 2));
    const requests = made.requests.splice(0);
    await made.ingest.stop();
    expect(made.closes()).toEqual([{ kind: 'stopped' }, { kind: 'stopped' }]);
    const notes = made.notes.length;
    made.ingest.identified(requests.map((request) => made.answer(request)));
    made.acknowledgeAll();
    await made.settle();
    expect(made.notes).toHaveLength(notes);
    expect(made.ingest.counters).toMatchObject({
      bytesInFlight: 0,
      heldBytes: 0,
      heldFrames: 0,
      heldDids: 0,
    });
  });
});
