import { describe, expect, test } from 'bun:test';
import { decode } from '@ipld/dag-cbor';
import { decodeFirst } from 'cborg';
import fc from 'fast-check';
import { encodeMessage } from '../../simulator/frames.ts';
import { scanFrame } from '../../src/firehose/scan.ts';
import { KIND } from '../../src/firehose/types.ts';
import { MAX_PENDING_BYTES } from '../../src/log/log.ts';
import { accountRow, newAccount as emptyAccount } from '../../src/sequencer/accounts.ts';
import { row } from '../hosts/fakes.ts';
import { accountFrame, commitFrame, identityFrame, newAccount, syncFrame } from '../ingest/support.ts';
import { account as accountSample } from '../state/samples.ts';
import {
  askedOf,
  batchOf,
  crash,
  eventOf,
  give,
  identify,
  memoryState,
  refusals,
  type World,
  worldOf,
} from './support.ts';

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';

/** Body of a logged frame, by an independent decoder. */
const bodyOf = (frame: Uint8Array): Record<string, unknown> => decode(decodeFirst(frame)[1]);
const logged = (world: World): Record<string, unknown>[] =>
  world.log.records.map(({ frame }) => bodyOf(frame));
const takeDown = (world: World, did: string, status: string | null): void => {
  const account = world.accounts.get(did)!;
  account.ownStatus = status;
  world.accounts.markDirty(account);
};

describe('an event that is taken', () => {
  test('gets the next seq, and updates account, cursor and counts', async () => {
    const world = worldOf();
    const account = newAccount();
    await identify(world, account.did, 1);
    await give(world, eventOf(1, commitFrame(account, 7)), eventOf(1, commitFrame(account, 9)));
    await give(world, eventOf(1, syncFrame(account, 10)));
    expect(refusals(world)).toEqual([]);
    expect(
      world.log.records.map(({ seq, upstreamSeq, hostId, kind }) => [seq, upstreamSeq, hostId, kind]),
    ).toEqual([
      [1, 7, 1, KIND.commit],
      [2, 9, 1, KIND.commit],
    ]);
    expect(logged(world).map(({ seq, rev }) => [seq, rev])).toEqual([
      [1, expect.any(String)],
      [2, account.rev],
    ]);
    expect(world.accounts.get(account.did)).toMatchObject({ rev: account.rev, known: true, hostId: 1 });
    expect(world.roster.host(1)).toMatchObject({ cursor: 10, accountCount: 1 });
    const group = world.sequencer.groups.get(row(1).hostname)!;
    expect(group.events[KIND.commit]).toBe(2);
    expect(group.rejections.get('rev_stale')).toBe(1);
    expect(world.sequencer.counters).toMatchObject({ events: 2, newAccounts: 1, queuedBatches: 0 });
    expect(world.acknowledged).toHaveLength(3);
  });

  test('comes in although only ingest still knows its identity', async () => {
    const world = worldOf();
    const account = newAccount();
    await give(world, eventOf(1, commitFrame(account, 1)));
    expect(world.log.records).toHaveLength(1);
    const held = world.accounts.get(account.did)!;
    expect(held).toMatchObject({ pds: row(1).hostname, identityAtMs: 0, hostId: 1 });
    expect(accountRow(held).identityAtMs).toBe(0);
  });

  test('that does not follow is passed on and counted, and the account shown as out of step until a #sync', async () => {
    const world = worldOf();
    const account = newAccount();
    await identify(world, account.did, 1);
    await give(world, eventOf(1, commitFrame(account, 1)));
    commitFrame(account, 2);
    await give(world, eventOf(1, commitFrame(account, 3)));
    expect(world.sequencer.counters.discontinuities).toBe(1);
    expect(world.accounts.get(account.did)!.desynchronized).toBe(true);
    const missed = commitFrame(account, 4);
    expect(missed.length).toBeGreaterThan(0);
    await give(world, eventOf(1, syncFrame(account, 5)));
    expect(world.accounts.get(account.did)!.desynchronized).toBe(false);
    expect(world.log.records).toHaveLength(3);
  });
});

describe('an event that is refused', () => {
  test('from a host that is not the PDS, or is banned, is explained and moves the cursor', async () => {
    const world = worldOf();
    await identify(world, DID, 2);
    await give(world, eventOf(1, accountFrame(DID, 4)));
    await world.roster.ban(row(2).hostname);
    await give(world, eventOf(2, accountFrame(DID, 8)));
    expect(world.sequencer.takeRejections()).toMatchObject([
      { hostId: 1, did: DID, reason: 'wrong_host', upstreamSeq: 4 },
      { hostId: 2, did: DID, reason: 'host_banned', upstreamSeq: 8 },
    ]);
    expect(world.log.records).toEqual([]);
    expect(world.roster.host(1)!.cursor).toBe(4);
    expect(world.roster.host(2)!.cursor).toBe(8);
  });

  test('of an account that is inactive upstream makes its PDS be asked, and a healed account is announced', async () => {
    const world = worldOf();
    const account = newAccount();
    await identify(world, account.did, 1);
    await give(world, eventOf(1, accountFrame(account.did, 1, { active: false, status: 'deactivated' })));
    const lost = eventOf(1, commitFrame(account, 2));
    await give(world, lost);
    expect(refusals(world)).toEqual(['account_inactive']);
    expect(world.suspected).toEqual([account.did]);
    world.sequencer.healed(account.did, 'deactivated', askedOf(world));
    expect(world.log.records).toHaveLength(1);
    world.sequencer.healed(account.did, null, askedOf(world));
    expect(logged(world).at(-1)).toMatchObject({ did: account.did, active: true, seq: 2 });
    expect(logged(world).at(-1)).not.toHaveProperty('status');
    expect(world.log.records.at(-1)).toMatchObject({ upstreamSeq: 0, kind: KIND.account, hostId: 1 });
    await give(world, eventOf(1, commitFrame(account, 3)));
    expect(world.log.records).toHaveLength(3);
    world.sequencer.healed(account.did, 'deactivated', askedOf(world));
    expect(world.log.records).toHaveLength(3);
  });

  test('healing does not undo what was said since the question, nor listen to a PDS that the account has left', async () => {
    const world = worldOf();
    const account = newAccount();
    await identify(world, account.did, 1);
    const before = { ...askedOf(world), atMs: world.clock.nowMs - 1 };
    await give(world, eventOf(1, accountFrame(account.did, 1, { active: false, status: 'deactivated' })));
    world.sequencer.healed(account.did, null, before);
    world.sequencer.healed(account.did, null, askedOf(world, 2));
    expect(world.accounts.get(account.did)!.upstreamStatus).toBe('deactivated');
    expect(world.log.records).toHaveLength(1);
  });

  test('by ingest is counted and explained; what is normal in a healthy stream is only counted', async () => {
    const world = worldOf();
    const rejection = { hostId: 1, did: DID, upstreamSeq: 3, rev: '', judged: true, detail: 'x' };
    world.lane.batch(
      batchOf([], [{ hostId: 1, cursor: 3 }], {
        rejections: [
          { ...rejection, reason: 'signature_invalid' },
          { ...rejection, reason: 'rev_stale' },
        ],
      }),
    );
    await world.sequencer.idle();
    expect(refusals(world)).toEqual(['signature_invalid']);
    expect(world.roster.getById(1)!.rejectionsSinceStart).toEqual({ signature_invalid: 1, rev_stale: 1 });
    expect(world.roster.host(1)!.cursor).toBe(3);
  });

  test('beyond the cursor is remembered when it was judged, so that it is not judged again by what came later', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    const rejection = { hostId: 1, did: DID, rev: '', detail: '' };
    world.lane.batch(
      batchOf([], [{ hostId: 1, cursor: 10 }], {
        rejections: [
          { ...rejection, upstreamSeq: 12, judged: true, reason: 'wrong_host' },
          { ...rejection, upstreamSeq: 11, judged: false, reason: 'seq_not_increasing' },
          { ...rejection, upstreamSeq: 9, judged: true, reason: 'wrong_host' },
        ],
      }),
    );
    world.lane.batch(batchOf([eventOf(1, accountFrame(DID, 13))], [{ hostId: 1, cursor: 10 }]));
    await world.sequencer.idle();
    expect([...world.roster.host(1)!.ahead]).toEqual([12, 13]);
    world.lane.batch(batchOf([], [{ hostId: 1, cursor: 12 }]));
    await world.sequencer.idle();
    expect([...world.roster.host(1)!.ahead]).toEqual([13]);
  });

  test('is explained a bounded number of times between two flushes', async () => {
    const world = worldOf();
    const rejections = Array.from({ length: 3_000 }, (_, index) => ({
      hostId: 1,
      did: DID,
      upstreamSeq: index,
      rev: '',
      judged: true,
      reason: 'car_invalid' as const,
      detail: '',
    }));
    world.lane.batch(batchOf([], [], { rejections }));
    await world.sequencer.idle();
    expect(refusals(world)).toHaveLength(1_000);
    expect(world.sequencer.counters.unexplained).toBe(2_000);
  });
});

describe('the cursor of a host, with the seqs ahead of it', () => {
  test('describes exactly what was logged or dropped, whatever order events come in', async () => {
    const plan = fc.array(
      fc.record({ hostId: fc.integer({ min: 1, max: 2 }), isHeld: fc.boolean(), isGood: fc.boolean() }),
      { maxLength: 40 },
    );
    await fc.assert(
      fc.asyncProperty(plan, fc.array(fc.nat(5), { maxLength: 40 }), async (steps, turns) => {
        const world = worldOf();
        await identify(world, DID, 1);
        await identify(world, 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb', 2);
        /** Per host: seqs that wait, and the last one seen: what ingest's watermark is made of. */
        const held = new Map<number, number[]>([
          [1, []],
          [2, []],
        ]);
        const last = new Map<number, number>([
          [1, 0],
          [2, 0],
        ]);
        const given = new Map<number, Set<number>>([
          [1, new Set()],
          [2, new Set()],
        ]);
        const eventFor = (hostId: number, seq: number) =>
          eventOf(hostId, accountFrame(hostId === 1 ? DID : 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb', seq));
        const progress = () =>
          [1, 2].flatMap((hostId) => {
            const first = held.get(hostId)![0];
            const cursor = first === undefined ? last.get(hostId)! : first - 1;
            return cursor > 0 ? [{ hostId, cursor }] : [];
          });
        const check = (): void => {
          for (const hostId of [1, 2]) {
            const host = world.roster.host(hostId)!;
            const waiting = new Set(held.get(hostId)!);
            const inLog = new Set(
              world.log.records
                .filter((record) => record.hostId === hostId)
                .map(({ upstreamSeq }) => upstreamSeq),
            );
            for (let seq = 1; seq <= last.get(hostId)!; seq++) {
              const covered = seq <= host.cursor || host.ahead.has(seq);
              if (waiting.has(seq)) expect(covered).toBe(false);
              // Refused ones, too: they must not be judged again by what is known later.
              else if (given.get(hostId)!.has(seq)) expect(covered).toBe(true);
            }
            for (const seq of host.ahead) expect(seq > host.cursor && given.get(hostId)!.has(seq)).toBe(true);
            for (const seq of inLog) expect(given.get(hostId)!.has(seq)).toBe(true);
            if (waiting.size === 0) expect(host.cursor).toBe(last.get(hostId)!);
          }
        };
        let turn = 0;
        for (const { hostId, isHeld, isGood } of steps) {
          const seq = last.get(hostId)! + 1 + (turns[turn++] ?? 0);
          last.set(hostId, seq);
          const release = (turns[turn] ?? 0) > 3 ? held.get(hostId)!.splice(0, 1) : [];
          if (isHeld) held.get(hostId)!.push(seq);
          const events = release.map((old) => eventFor(hostId, old));
          if (!isHeld) events.push(eventFor(isGood ? hostId : 3 - hostId, seq));
          for (const event of events) given.get(hostId)!.add(event.upstreamSeq);
          world.lane.batch(
            batchOf(
              events.map((event) => ({ ...event, hostId })),
              progress(),
            ),
          );
          await world.sequencer.idle();
          check();
        }
        for (const hostId of [1, 2]) {
          const rest = held.get(hostId)!.splice(0);
          for (const seq of rest) given.get(hostId)!.add(seq);
          world.lane.batch(
            batchOf(
              rest.map((seq) => eventFor(hostId, seq)),
              progress(),
            ),
          );
        }
        await world.sequencer.idle();
        check();
        for (const hostId of [1, 2]) expect(world.roster.host(hostId)!.ahead.size).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test('shows how much waits, until the connection ends', async () => {
    const world = worldOf();
    world.lane.batch({ ...batchOf([]), progress: [{ hostId: 1, cursor: 0, held: 12 }] });
    await world.sequencer.idle();
    expect(world.roster.getById(1)!.pendingEvents).toBe(12);
    expect(world.roster.host(1)!.cursor).toBe(0);
    world.lane.closed(1, { kind: 'stopped' });
    await world.sequencer.idle();
    expect(world.roster.getById(1)!.pendingEvents).toBe(0);
  });
});

describe('the account limit', () => {
  test('lets accounts wait, and in again when there is room, with an #account that says so before their event', async () => {
    const world = worldOf({ state: memoryState([row(1, { source: 'crawl', accountLimit: 1 })]) });
    const one = newAccount();
    const two = newAccount();
    await identify(world, one.did, 1);
    await identify(world, two.did, 1);
    await give(world, eventOf(1, commitFrame(one, 1)), eventOf(1, commitFrame(two, 2)));
    expect(refusals(world)).toEqual(['account_limit']);
    expect(world.accounts.get(two.did)).toMatchObject({ ownStatus: 'throttled', known: true });
    expect(world.roster.host(1)!.accountCount).toBe(1);
    expect(world.sequencer.counters).toMatchObject({ newAccounts: 2, throttledAccounts: 1 });
    world.roster.setAccountLimit(row(1).hostname, 2);
    await give(world, eventOf(1, commitFrame(two, 3)));
    expect(logged(world).slice(1)).toMatchObject([
      { did: two.did, active: true, seq: 2 },
      { repo: two.did, seq: 3 },
    ]);
    expect(world.accounts.get(two.did)!.ownStatus).toBeNull();
    expect(world.roster.host(1)!.accountCount).toBe(2);
  });

  test('is not filled by deleted accounts, and deleting makes room', async () => {
    const world = worldOf({ state: memoryState([row(1, { accountLimit: 1 })]) });
    await identify(world, DID, 1);
    await give(world, eventOf(1, accountFrame(DID, 1)));
    expect(world.roster.host(1)!.accountCount).toBe(1);
    await give(world, eventOf(1, accountFrame(DID, 2, { active: false, status: 'deleted' })));
    expect(world.roster.host(1)!.accountCount).toBe(0);
    const other = newAccount();
    await identify(world, other.did, 1);
    await give(world, eventOf(1, commitFrame(other, 3)));
    expect(refusals(world)).toEqual([]);
    expect(world.roster.host(1)!.accountCount).toBe(1);
  });
});

describe('an account of which nothing but a listing has told', () => {
  /** As the backfill writes it. */
  const listed = (did: string, upstreamStatus: string | null = null) =>
    accountSample(did, {
      upstreamStatus,
      rev: null,
      commit: null,
      data: null,
      keyType: null,
      key: null,
      handle: null,
      identityAtMs: 0,
      known: false,
    });
  const countsOf = (world: World) => [1, 2].map((hostId) => world.roster.host(hostId)!.accountCount);

  test('counts once, from its first event, within the limit of its host', async () => {
    const accounts = Array.from({ length: 5 }, () => newAccount());
    const world = worldOf({
      state: memoryState(
        [row(1, { accountLimit: 3 }), row(2)],
        accounts.map(({ did }) => listed(did)),
      ),
    });
    for (const { did } of accounts) await identify(world, did, 1);
    expect(countsOf(world)).toEqual([0, 0]);
    for (const seq of [1, 2])
      for (const [index, account] of accounts.entries())
        await give(world, eventOf(1, commitFrame(account, 5 * seq + index)));
    expect(countsOf(world)).toEqual([3, 0]);
    expect(world.sequencer.counters).toMatchObject({ events: 6, newAccounts: 5, throttledAccounts: 2 });
    await world.flusher.flush();
    expect([...world.state.accounts.values()].every(({ known }) => known)).toBe(true);
    expect(world.state.hosts.get(1)!.accountCount).toBe(3);
  });

  test('that moves before its first event takes nothing from the host that listed it', async () => {
    const account = newAccount();
    const world = worldOf({
      state: memoryState([row(1, { accountCount: 4 }), row(2)], [listed(account.did)]),
    });
    await identify(world, account.did, 2);
    expect(countsOf(world)).toEqual([4, 0]);
    await give(world, eventOf(2, commitFrame(account, 1)));
    expect(countsOf(world)).toEqual([4, 1]);
    await identify(world, account.did, 1);
    expect(countsOf(world)).toEqual([5, 0]);
  });

  test('as inactive is asked about at its first event, and counts once', async () => {
    const account = newAccount();
    const world = worldOf({ state: memoryState([row(1), row(2)], [listed(account.did, 'deactivated')]) });
    await identify(world, account.did, 1);
    await give(world, eventOf(1, commitFrame(account, 1)));
    expect(refusals(world)).toEqual(['account_inactive']);
    world.sequencer.healed(account.did, null, askedOf(world));
    await give(world, eventOf(1, commitFrame(account, 2)));
    expect(logged(world).map(({ seq }) => seq)).toEqual([1, 2]);
    expect(countsOf(world)).toEqual([1, 0]);
  });

  test('as deleted does not count until it is back', async () => {
    const world = worldOf({ state: memoryState([row(1), row(2)], [listed(DID, 'deleted')]) });
    await identify(world, DID, 1);
    await give(world, eventOf(1, accountFrame(DID, 1, { active: false, status: 'deleted' })));
    expect(countsOf(world)).toEqual([0, 0]);
    await give(world, eventOf(1, accountFrame(DID, 2)));
    expect(countsOf(world)).toEqual([1, 0]);
  });
});

test('an account that moved to a PDS which is followed only later counts there from its next event', async () => {
  const account = newAccount();
  const world = worldOf({ state: memoryState([row(1)]) });
  await identify(world, account.did, 1);
  await give(world, eventOf(1, commitFrame(account, 1)));
  await identify(world, account.did, 1, { pds: 'late.pds.net' });
  await world.roster.addHosts([{ hostname: 'late.pds.net' }], 'admin');
  const late = world.roster.hostByName('late.pds.net')!;
  await give(world, eventOf(late.hostId, commitFrame(account, 1)));
  expect(world.roster.host(1)!.accountCount).toBe(0);
  expect(late.accountCount).toBe(1);
  expect(world.accounts.get(account.did)!.hostId).toBe(late.hostId);
});

describe('a frame whose words have to change', () => {
  test('loses a handle that the document does not have, and keeps what nobody knows', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    const body = { did: DID, seq: 3, time: '2026-11-21T00:00:00.000Z', handle: 'mallory.example.com' };
    await give(
      world,
      eventOf(1, encodeMessage({ type: '#identity', body: { ...body, a: 1, unknown: [1, { b: 'x' }] } })),
    );
    await give(world, eventOf(1, identityFrame(DID, 4, 'alice.example.com')));
    expect(logged(world)).toEqual([
      { did: DID, seq: 1, time: body.time, a: 1, unknown: [1, { b: 'x' }] },
      { did: DID, seq: 2, time: expect.any(String), handle: 'alice.example.com' },
    ]);
    expect(world.sequencer.counters.rewritten).toBe(1);
  });

  test('shows our own status instead of the PDS’, which is remembered for when ours is lifted', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    await give(world, eventOf(1, accountFrame(DID, 1)));
    takeDown(world, DID, 'takendown');
    await give(world, eventOf(1, accountFrame(DID, 2, { zz: 5 })));
    await give(world, eventOf(1, accountFrame(DID, 3, { active: false, status: 'deactivated', zz: 5 })));
    expect(logged(world).slice(1)).toEqual([
      { did: DID, seq: 2, time: expect.any(String), active: false, status: 'takendown', zz: 5 },
      { did: DID, seq: 3, time: expect.any(String), active: false, status: 'takendown', zz: 5 },
    ]);
    expect(world.accounts.get(DID)).toMatchObject({ ownStatus: 'takendown', upstreamStatus: 'deactivated' });
    await give(world, eventOf(1, identityFrame(DID, 4)));
    expect(refusals(world)).toEqual(['account_takendown']);
  });

  test('and would be too large then is refused', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    await give(world, eventOf(1, accountFrame(DID, 1)));
    takeDown(world, DID, 'takendown');
    const probe = accountFrame(DID, 2, { zz: new Uint8Array(4_900_000) });
    const full = accountFrame(DID, 2, { zz: new Uint8Array(4_900_000 + 5_000_000 - probe.length) });
    expect(full.length).toBe(5_000_000);
    await give(world, eventOf(1, full));
    expect(refusals(world)).toEqual(['frame_too_large']);
    expect(world.log.records).toHaveLength(1);
  });
});

describe('a frame that our own seq makes too large', () => {
  const padded = (frameBytes: number, seq: number): Uint8Array => {
    const probe = accountFrame(DID, seq, { zz: new Uint8Array(4_900_000) });
    return accountFrame(DID, seq, { zz: new Uint8Array(4_900_000 + frameBytes - probe.length) });
  };

  test('is refused before it changes anything; one that fits with any seq of ours is taken', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    // The host's seq takes one byte, the largest of ours nine.
    await give(world, eventOf(1, padded(5_000_000 - 8 + 1, 1)));
    expect(refusals(world)).toEqual(['frame_too_large']);
    expect(world.log.records).toHaveLength(0);
    await give(world, eventOf(1, padded(5_000_000 - 8, 2)));
    expect(world.log.records).toHaveLength(1);
  });

  test('never gets into the log, from which nobody could read it', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    for (let seq = 1; seq <= 30; seq++) await give(world, eventOf(1, accountFrame(DID, seq)));
    for (const bytes of [4_999_990, 4_999_992, 4_999_995, 5_000_000])
      await give(world, eventOf(1, padded(bytes, 31 + (bytes % 100))));
    for (const { frame } of world.log.records) expect(scanFrame(frame)).toMatchObject({ ok: true });
    await crash(world, Number.POSITIVE_INFINITY);
  });
});

describe('a lane', () => {
  test('takes closes after the batches before them, and other lanes do not wait for it', async () => {
    const world = worldOf();
    const state = world.state;
    await identify(world, DID, 2);
    const database = Promise.withResolvers<void>();
    state.gate = database.promise;
    const account = newAccount();
    world.lane.batch(batchOf([eventOf(1, commitFrame(account, 5))], [{ hostId: 1, cursor: 5 }]));
    world.lane.paused(1, 'rate_limit');
    const other = world.sequencer.lane(() => {});
    other.batch(batchOf([eventOf(2, accountFrame(DID, 1))], [{ hostId: 2, cursor: 1 }]));
    await Bun.sleep(5);
    expect(world.roster.host(1)!.pausedFor).toBeNull();
    expect(world.log.records).toMatchObject([{ hostId: 2 }]);
    database.resolve();
    await world.sequencer.idle();
    expect(world.roster.host(1)!.pausedFor).toBe('rate_limit');
    expect(world.log.records.map(({ hostId }) => hostId)).toEqual([2, 1]);
  });

  test('waits for the database when it is away, and loses nothing', async () => {
    const world = worldOf();
    world.state.errors.push(new Error('away'), new Error('still away'));
    const account = newAccount();
    await give(world, eventOf(1, commitFrame(account, 5)));
    expect(world.log.records).toHaveLength(1);
    expect(world.warnings).toHaveLength(2);
  });

  test('waits while too much waits for the disk, or too many accounts for the database', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    world.log.stats.pendingBytes = MAX_PENDING_BYTES + 1;
    world.lane.batch(batchOf([eventOf(1, accountFrame(DID, 5))], [{ hostId: 1, cursor: 5 }]));
    await Bun.sleep(10);
    expect(world.log.records).toEqual([]);
    expect(world.acknowledged).toEqual([]);
    world.log.stats.pendingBytes = 0;
    await world.sequencer.idle();
    expect(world.log.records).toHaveLength(1);
    expect(world.sequencer.counters.waitsForRoom).toBeGreaterThan(0);

    for (let index = 0; index <= 200_000; index++)
      world.accounts.markDirty({ ...emptyAccount(`did:web:a${index}.com`), known: true });
    world.lane.batch(batchOf([eventOf(1, accountFrame(DID, 6))], [{ hostId: 1, cursor: 6 }]));
    await Bun.sleep(10);
    expect(world.log.records).toHaveLength(1);
    await world.flusher.flush();
    await world.sequencer.idle();
    expect(world.log.records).toHaveLength(2);
  });

  test('at shutdown throws away what it would have to wait for, and all that follows, without moving cursors', async () => {
    const world = worldOf();
    world.state.errors.push(...Array.from({ length: 1_000 }, () => new Error('away')));
    const account = newAccount();
    world.lane.batch(batchOf([eventOf(1, commitFrame(account, 5))], [{ hostId: 1, cursor: 5 }]));
    world.lane.batch(batchOf([], [{ hostId: 1, cursor: 9 }]));
    world.lane.paused(1, 'rate_limit');
    await Bun.sleep(5);
    world.sequencer.drain();
    await world.sequencer.idle();
    expect(world.roster.host(1)).toMatchObject({ cursor: 0, pausedFor: 'rate_limit' });
    expect(world.log.records).toEqual([]);
    expect(world.acknowledged).toHaveLength(2);
    expect(world.sequencer.counters.undone).toBe(1);
  });
});
