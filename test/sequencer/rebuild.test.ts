import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { HARD_AHEAD_EVENTS } from '../../src/ingest/bounds.ts';
import type { Log } from '../../src/log/types.ts';
import { accountRow } from '../../src/sequencer/accounts.ts';
import { rebuild } from '../../src/sequencer/rebuild.ts';
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
  memoryLog,
  memoryState,
  type World,
  worldOf,
} from './support.ts';

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';
const OTHER = 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb';

/** What is known of an account, but for what was looked up for it. */
const known = (world: World, did: string) => {
  const account = world.accounts.get(did);
  if (account === undefined || !account.known) return null;
  const { hostId, ownStatus, upstreamStatus, rev, commit, data, desynchronized } = account;
  return { hostId, ownStatus, upstreamStatus, rev, commit, data, desynchronized };
};

const loggedBy = (world: World, hostId: number): number[] =>
  world.log.records
    .filter((record) => record.hostId === hostId && record.upstreamSeq > 0)
    .map(({ upstreamSeq }) => upstreamSeq);

interface Sent {
  readonly seq: number;
  readonly hostId: number;
  readonly did: string;
  readonly bytes: Uint8Array;
}

/** Streams of two hosts with three accounts each, as they might be. */
const streams = (choices: readonly number[]): Sent[][] => {
  const hosts: Sent[][] = [[], []];
  const accounts = Array.from({ length: 6 }, () => newAccount());
  choices.forEach((choice, index) => {
    const which = choice % 6;
    const account = accounts[which]!;
    const hostId = (which % 2) + 1;
    const stream = hosts[hostId - 1]!;
    const seq = (stream.at(-1)?.seq ?? 100 * hostId) + 1 + (index % 3);
    const send = (bytes: Uint8Array): void => void stream.push({ seq, hostId, did: account.did, bytes });
    switch (Math.floor(choice / 6) % 10) {
      case 0:
        send(accountFrame(account.did, seq, { active: false, status: 'deactivated' }));
        break;
      case 1:
        send(accountFrame(account.did, seq, { active: false, status: 'deleted' }));
        break;
      case 2:
      case 3:
        send(accountFrame(account.did, seq));
        break;
      case 4:
        send(identityFrame(account.did, seq));
        break;
      case 5:
        // A commit that nobody gets to see.
        commitFrame(account, seq);
        send(commitFrame(account, seq));
        break;
      case 6:
        if (account.rev !== '') send(syncFrame(account, seq));
        else send(commitFrame(account, seq));
        break;
      default:
        send(commitFrame(account, seq));
    }
  });
  return hosts;
};

/** Ingest of one connection: hands on in order per DID, some DIDs wait, cursors stay below what waits. */
const connectionOf = (world: World, stream: readonly Sent[], hostId: number) => {
  const host = world.roster.host(hostId)!;
  const skip = new Set(host.ahead);
  const rest = stream.filter(({ seq }) => seq > host.cursor);
  const start = host.cursor;
  let at = 0;
  let held: Sent[] = [];
  const waiting = new Set<string>();
  const progress = () => {
    const lastSeq = at === 0 ? start : rest[at - 1]!.seq;
    const cursor = held.length > 0 ? held[0]!.seq - 1 : lastSeq;
    return cursor > 0 ? [{ hostId, cursor }] : [];
  };
  const hand = async (events: readonly Sent[]): Promise<void> => {
    for (const { did } of events) {
      const account = world.accounts.get(did);
      if (account === undefined || account.pds === null) await identify(world, did, hostId);
    }
    world.lane.batch(
      batchOf(
        events.map(({ bytes }) => eventOf(hostId, bytes)),
        progress(),
      ),
    );
    await world.sequencer.idle();
  };
  return {
    get isDone() {
      return at === rest.length && held.length === 0;
    },
    async step(choice: number): Promise<void> {
      const next = rest[at];
      if (next === undefined || choice % 4 === 0) {
        const did = held[0]?.did;
        if (did === undefined) return;
        waiting.delete(did);
        const released = held.filter((item) => item.did === did);
        held = held.filter((item) => item.did !== did);
        await hand(released);
        return;
      }
      at++;
      if (skip.has(next.seq)) await hand([]);
      else if (waiting.has(next.did) || choice % 5 === 0) {
        waiting.add(next.did);
        held.push(next);
        await hand([]);
      } else await hand([next]);
    },
  };
};

describe('after a crash', () => {
  test('with whatever stored, whatever durable, nothing is lost and nothing comes twice, and accounts end as without it', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat(1_000), { minLength: 1, maxLength: 30 }),
        fc.infiniteStream(fc.nat(10_000)),
        async (choices, turns) => {
          const sent = streams(choices);
          const turn = (): number => turns.next().value as number;
          const calm = worldOf();
          for (const stream of sent)
            for (const item of stream) {
              await identify(calm, item.did, item.hostId);
              await give(calm, eventOf(item.hostId, item.bytes));
            }

          let world = worldOf();
          let connections = sent.map((stream, index) => connectionOf(world, stream, index + 1));
          let crashes = 0;
          while (connections.some(({ isDone }) => !isDone)) {
            const choice = turn();
            await connections[choice % 2]!.step(Math.floor(choice / 2));
            if (choice % 7 === 0) await world.flusher.flush();
            if (choice % 11 === 0) await world.log.whenDurable(world.log.appendedSeq - (turn() % 3));
            // A host's very first event may be lost with its cursor: it is followed live until one is stored.
            const isFollowed = [1, 2].every((hostId) => (world.state.hosts.get(hostId)?.cursor ?? 0) > 0);
            if (isFollowed && choice % 13 === 0 && crashes < 4) {
              crashes++;
              world = await crash(world, turn() % 4);
              connections = sent.map((stream, index) => connectionOf(world, stream, index + 1));
            }
          }
          for (const hostId of [1, 2]) {
            const logged = loggedBy(world, hostId);
            expect(new Set(logged).size).toBe(logged.length);
            expect(logged.toSorted((a, b) => a - b)).toEqual(loggedBy(calm, hostId));
            expect(world.roster.host(hostId)!.cursor).toBe(calm.roster.host(hostId)!.cursor);
            expect(world.roster.host(hostId)!.accountCount).toBe(calm.roster.host(hostId)!.accountCount);
            expect(world.roster.host(hostId)!.ahead.size).toBe(0);
          }
          for (const { did } of sent.flat()) {
            if (world.accounts.get(did) === undefined) await world.accounts.load([did]);
            expect(known(world, did)).toEqual(known(calm, did));
          }
        },
      ),
      { numRuns: Number(process.env.WEIR_RUNS ?? 300) },
    );
  });

  test('a rebuild that is itself cut short goes on where it was stored', async () => {
    const world = worldOf();
    const account = newAccount();
    await identify(world, account.did, 1);
    for (let seq = 1; seq <= 20; seq++) await give(world, eventOf(1, commitFrame(account, seq)));
    await world.log.whenDurable(20);
    const first = worldOf({ log: memoryLog(world.log.records), state: memoryState([row(1), row(2)]) });
    const stop = new AbortController();
    let reads = 0;
    const cut = {
      lastSeq: 20,
      oldestSeq: 1,
      openCursor(from: number) {
        const cursor = first.log.openCursor(from);
        return {
          get seq() {
            return cursor.seq;
          },
          next: () => {
            if (++reads === 2) stop.abort(new Error('cut short'));
            return cursor.next();
          },
          close() {},
        };
      },
    };
    const deps = {
      roster: first.roster,
      accounts: first.accounts,
      flush: (position: number) => first.flusher.flush(position),
      progress: () => {},
      signal: stop.signal,
    };
    await expect(rebuild(0, { ...deps, log: cut as unknown as Log })).rejects.toThrow('cut short');
    await first.flusher.flush(14);
    const second = await crash(first, 0);
    expect(known(second, account.did)).toEqual(known(world, account.did));
    expect(second.roster.host(1)!.accountCount).toBe(1);
  });
});

describe('a host', () => {
  test('that was never stored is asked for what came before its first logged event, too: an earlier one may have waited', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    world.lane.batch(batchOf([eventOf(1, accountFrame(DID, 5_001))], [{ hostId: 1, cursor: 4_999 }]));
    await world.sequencer.idle();
    await world.log.whenDurable(1);
    const next = await crash(world, 0);
    const host = next.roster.host(1)!;
    expect(host.cursor).toBeLessThan(5_000);
    expect(host.cursor).toBeGreaterThan(3_000);
    expect([...host.ahead]).toEqual([5_001]);
  });

  test('that began to number anew is not taken to be ahead by its old cursor', async () => {
    const world = worldOf({
      state: memoryState([row(1, { cursor: 1_000_000, ahead: [1_000_002] }), row(2)]),
    });
    await identify(world, DID, 1);
    const host = world.roster.host(1)!;
    host.cursor = 0;
    host.ahead = new Set();
    await give(world, eventOf(1, accountFrame(DID, 1)), eventOf(1, accountFrame(DID, 2)));
    await world.log.whenDurable(2);
    const next = (await crash(world, 0)).roster.host(1)!;
    expect(next.cursor).toBe(1);
    expect([...next.ahead]).toEqual([2]);
  });

  test('of which very much is logged beyond the stored cursor keeps a bounded part of it in mind', async () => {
    const count = HARD_AHEAD_EVENTS + 5_000;
    const log = memoryLog();
    const event = eventOf(1, accountFrame(DID, 1));
    for (let seq = 11; seq < 11 + count; seq++)
      log.append({ ...event, hostId: 1, didHash: 0, upstreamSeq: seq } as never, 1);
    const whole = log.records;
    const world = worldOf({ state: memoryState([row(1, { cursor: 10 }), row(2)]) });
    await rebuild(0, {
      log: {
        lastSeq: count,
        oldestSeq: 1,
        openCursor: (from: number) => {
          let at = from;
          return {
            get seq() {
              return at;
            },
            next: () => {
              const records = whole.slice(at, at + 4_000);
              at += records.length;
              return records;
            },
            close() {},
          };
        },
      } as unknown as Log,
      roster: world.roster,
      accounts: world.accounts,
      flush: async () => {},
      progress: () => {},
    });
    const host = world.roster.host(1)!;
    expect(host.ahead.size).toBeGreaterThanOrEqual(HARD_AHEAD_EVENTS);
    expect(host.ahead.size).toBeLessThan(HARD_AHEAD_EVENTS + 4_000);
    expect(Math.min(...host.ahead)).toBe(host.cursor + 1);
    expect(Math.max(...host.ahead)).toBe(10 + count);
  });
});

describe('an account', () => {
  test('that moved is found on its new host, its identity to be asked for, and counted there', async () => {
    const world = worldOf();
    const account = newAccount();
    await identify(world, account.did, 1);
    await give(world, eventOf(1, commitFrame(account, 1)));
    await world.flusher.flush();
    await identify(world, account.did, 2);
    await give(world, eventOf(2, commitFrame(account, 1)));
    await world.log.whenDurable(2);
    const next = await crash(world, 0);
    expect(known(next, account.did)).toEqual(known(world, account.did));
    expect(next.accounts.get(account.did)).toMatchObject({ hostId: 2, pds: null, identityAtMs: 0 });
    expect([1, 2].map((hostId) => next.roster.host(hostId)!.accountCount)).toEqual([0, 1]);
  });

  test('that got out of step by what came before its last commit is shown so', async () => {
    const world = worldOf();
    const account = newAccount();
    await identify(world, account.did, 1);
    await give(world, eventOf(1, commitFrame(account, 1)));
    const first = account.rev;
    commitFrame(account, 2);
    // It names the rev we hold, but builds on another tree.
    await give(world, eventOf(1, commitFrame(account, 3, { change: (body) => ({ ...body, since: first }) })));
    expect(known(world, account.did)!.desynchronized).toBe(true);
    await world.log.whenDurable(2);
    expect(known(await crash(world, 0), account.did)).toEqual(known(world, account.did));
  });

  test('never goes back to an older rev, whatever position is stored', async () => {
    const world = worldOf();
    const account = newAccount();
    await identify(world, account.did, 1);
    await give(world, eventOf(1, commitFrame(account, 1)), eventOf(1, commitFrame(account, 2)));
    await world.flusher.flush();
    world.state.position = 0;
    const next = await crash(world, 0);
    expect(known(next, account.did)).toEqual(known(world, account.did));
    expect(next.roster.host(1)!.accountCount).toBe(1);
  });

  test('whose #identity was logged is asked for anew', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    await give(world, eventOf(1, accountFrame(DID, 1)));
    await world.flusher.flush();
    await give(world, eventOf(1, identityFrame(DID, 2)));
    await world.log.whenDurable(2);
    const next = await crash(world, 0);
    expect(accountRow(next.accounts.get(DID)!).identityAtMs).toBe(0);
  });

  test('that the relay took down keeps that, and what its PDS was last known to say', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    await give(world, eventOf(1, accountFrame(DID, 1)));
    world.accounts.get(DID)!.ownStatus = 'takendown';
    world.accounts.markDirty(world.accounts.get(DID)!);
    await world.flusher.flush();
    await give(world, eventOf(1, accountFrame(DID, 2)));
    await world.log.whenDurable(2);
    const next = await crash(world, 0);
    expect(known(next, DID)).toMatchObject({ ownStatus: 'takendown', upstreamStatus: null });
    expect(next.roster.host(1)!.accountCount).toBe(1);
  });

  test('over the limit of its host waits again, and one that came in is in', async () => {
    const world = worldOf({ state: memoryState([row(1, { accountLimit: 1 }), row(2)]) });
    await identify(world, DID, 1);
    await identify(world, OTHER, 1);
    await give(world, eventOf(1, accountFrame(DID, 1)), eventOf(1, accountFrame(OTHER, 2)));
    expect(known(world, OTHER)!.ownStatus).toBe('throttled');
    await world.log.whenDurable(2);
    const next = await crash(world, 0);
    expect(known(next, OTHER)).toEqual(known(world, OTHER));
    expect(next.roster.host(1)!.accountCount).toBe(1);

    await world.flusher.flush();
    world.roster.setAccountLimit(row(1).hostname, 2);
    await give(world, eventOf(1, accountFrame(OTHER, 3)));
    expect(world.log.records).toHaveLength(4);
    await world.log.whenDurable(4);
    const admitted = await crash(world, 0);
    expect(known(admitted, OTHER)).toEqual(known(world, OTHER));
    expect(admitted.roster.host(1)!.accountCount).toBe(2);
  });

  test('of which nothing but a listing told counts from its first logged event', async () => {
    const none = { rev: null, commit: null, data: null, keyType: null, key: null, handle: null };
    const listed = [DID, OTHER].map((did) =>
      accountSample(did, { ...none, identityAtMs: 0, known: false, hostId: did === DID ? 1 : 2 }),
    );
    const world = worldOf({ state: memoryState([row(1), row(2, { accountCount: 7 })], listed) });
    for (const did of [DID, OTHER]) {
      await identify(world, did, 1);
      await give(world, eventOf(1, accountFrame(did, did === DID ? 1 : 2)));
    }
    await give(world, eventOf(1, accountFrame(OTHER, 3, { active: false, status: 'deleted' })));
    await world.log.whenDurable(3);
    const next = await crash(world, 0);
    for (const { roster } of [world, next])
      expect([1, 2].map((hostId) => roster.host(hostId)!.accountCount)).toEqual([1, 7]);
    for (const did of [DID, OTHER]) expect(known(next, did)).toEqual(known(world, did));
  });

  test('that was healed stays healed', async () => {
    const world = worldOf();
    await identify(world, DID, 1);
    await give(world, eventOf(1, accountFrame(DID, 1, { active: false, status: 'deleted' })));
    await world.flusher.flush();
    world.sequencer.healed(DID, null, askedOf(world));
    await world.log.whenDurable(2);
    const next = await crash(world, 0);
    expect(known(next, DID)!.upstreamStatus).toBeNull();
    expect(next.roster.host(1)!.accountCount).toBe(1);
  });
});

describe('a rebuild', () => {
  test('from before the window takes what the window holds', async () => {
    const world = worldOf();
    const account = newAccount();
    await identify(world, account.did, 1);
    for (let seq = 1; seq <= 6; seq++) await give(world, eventOf(1, commitFrame(account, seq)));
    const log = memoryLog(world.log.records.slice(3));
    const next = worldOf({ log, state: memoryState([row(1), row(2)]) });
    const count = await rebuild(1, {
      log: log as unknown as Log,
      roster: next.roster,
      accounts: next.accounts,
      flush: async () => {},
      progress: () => {},
    });
    expect(count).toBe(3);
    expect(known(next, account.did)!.rev).toBe(account.rev);
  });

  test('refuses a log that ends before what the database reflects', async () => {
    const world = worldOf();
    expect(
      rebuild(5, {
        log: world.log as unknown as Log,
        roster: world.roster,
        accounts: world.accounts,
        flush: async () => {},
        progress: () => {},
      }),
    ).rejects.toThrow('the log ends at 0');
  });
});
