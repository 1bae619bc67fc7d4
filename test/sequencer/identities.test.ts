import { describe, expect, test } from 'bun:test';
import type { IdentityResult, ResolveOptions } from '../../src/identity/types.ts';
import type { IdentityAnswer, IdentityRequest } from '../../src/ingest/types.ts';
import { createIdentityDesk } from '../../src/sequencer/identities.ts';
import { row } from '../hosts/fakes.ts';
import { account as accountSample } from '../state/samples.ts';
import { identityOf, memoryState, worldOf } from './support.ts';

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';

const deskWith = (rows: Parameters<typeof memoryState>[1] = []) => {
  const world = worldOf({ state: memoryState([row(1, { accountCount: 1 }), row(2)], rows) });
  const asked: { did: string; options: ResolveOptions | undefined }[] = [];
  const found = new Map<string, IdentityResult>();
  const later: { delayMs: number; run: () => void }[] = [];
  const answers: IdentityAnswer[] = [];
  const desk = createIdentityDesk({
    accounts: world.accounts,
    roster: world.roster,
    resolver: {
      async resolve(did, options) {
        asked.push({ did, options });
        return found.get(did) ?? { ok: false, passing: false, reason: 'did_not_found', detail: '' };
      },
      counters: {},
      close() {},
    },
    nowMs: () => world.clock.nowMs,
    after: (delayMs, run) => void later.push({ delayMs, run }),
  });
  return {
    world,
    desk,
    asked,
    found,
    later,
    answers,
    async ask(...requests: Partial<IdentityRequest>[]) {
      desk.ask(
        requests.map((request) => ({ did: DID, fresh: false, hostname: row(1).hostname, ...request })),
        (given) => answers.push(...given),
      );
      await Bun.sleep(1);
    },
  };
};

const okay = (did: string, hostId: number, more: Parameters<typeof identityOf>[2] = {}): IdentityResult => ({
  ok: true,
  identity: identityOf(did, hostId, more),
});

describe('the identity desk', () => {
  test('answers from the account that is stored, without a look-up', async () => {
    const made = deskWith([accountSample(DID, { identityAtMs: 77 })]);
    await made.ask({});
    expect(made.asked).toEqual([]);
    expect(made.answers).toEqual([
      {
        did: DID,
        hostname: row(1).hostname,
        fresh: false,
        again: false,
        reason: null,
        pds: row(1).hostname,
        keyType: 'k256',
        key: Buffer.alloc(33, 3).toString('latin1'),
        atMs: 77,
      },
    ]);
    expect(made.desk.counters).toMatchObject({ asked: 1, fromAccounts: 1, waiting: 0 });
  });

  test('looks up what is unknown, to be asked for again, or wanted fresh, for the host that asks', async () => {
    for (const [rows, fresh] of [
      [[], false],
      [[accountSample(DID, { identityAtMs: 0 })], false],
      [[accountSample(DID)], true],
    ] as const) {
      const made = deskWith(rows);
      made.found.set(DID, okay(DID, 1));
      await made.ask({ fresh });
      expect(made.asked).toEqual([{ did: DID, options: { fresh, forHost: row(1).hostname } }]);
      expect(made.answers).toMatchObject([
        { did: DID, pds: row(1).hostname, again: false, fresh, keyType: 'k256' },
      ]);
      expect(made.answers[0]!.atMs).toBe(made.world.clock.nowMs);
      expect(made.world.accounts.get(DID)!.identityAtMs).toBe(made.world.clock.nowMs);
    }
  });

  test('keeps an identity to itself until an event is taken', async () => {
    const made = deskWith();
    made.found.set(DID, okay(DID, 1));
    await made.ask({});
    expect(made.world.accounts.dirtyCount).toBe(0);
    expect(made.world.roster.host(1)!.accountCount).toBe(1);
  });

  test('moves an account, and the counts of both hosts with it', async () => {
    const made = deskWith([accountSample(DID)]);
    made.found.set(DID, okay(DID, 2));
    await made.ask({ fresh: true });
    expect(made.answers).toMatchObject([{ pds: row(2).hostname }]);
    expect(made.world.accounts.get(DID)).toMatchObject({ hostId: 2, pds: row(2).hostname, pdsIsHost: true });
    expect(made.world.roster.host(1)!.accountCount).toBe(0);
    expect(made.world.roster.host(2)!.accountCount).toBe(1);
    expect(made.desk.counters.moved).toBe(1);
    await made.world.flusher.flush();
    expect(made.world.state.accounts.get(DID)!.hostId).toBe(2);
  });

  test('moves no count with an account that does not count', async () => {
    for (const over of [{ upstreamStatus: 'deleted' }, { ownStatus: 'throttled' }]) {
      const made = deskWith([accountSample(DID, over)]);
      made.found.set(DID, okay(DID, 2));
      await made.ask({ fresh: true });
      expect(made.world.roster.host(1)!.accountCount).toBe(1);
      expect(made.world.roster.host(2)!.accountCount).toBe(0);
    }
  });

  test('remembers that an account went where we do not follow, beyond memory too', async () => {
    for (const pds of ['elsewhere.net', null]) {
      const made = deskWith([accountSample(DID)]);
      made.found.set(DID, okay(DID, 1, { pds }));
      await made.ask({ fresh: true });
      expect(made.answers).toMatchObject([{ pds }]);
      expect(made.world.roster.host(1)!.accountCount).toBe(1);
      await made.world.flusher.flush();
      const next = deskWith([...made.world.state.accounts.values()]);
      next.found.set(DID, okay(DID, 1, { pds }));
      await next.ask({});
      expect(next.asked).toHaveLength(1);
      expect(next.answers).toMatchObject([{ pds }]);
    }
  });

  test('says why a DID is unusable for good', async () => {
    const made = deskWith();
    made.found.set(DID, { ok: false, passing: false, reason: 'did_tombstoned', detail: '' });
    await made.ask({});
    expect(made.answers).toMatchObject([{ reason: 'did_tombstoned', pds: null, again: false }]);
  });

  test('asks to be asked again after a passing failure, when its pause is over', async () => {
    const made = deskWith();
    for (const [retryAfterMs, delayMs] of [
      [undefined, 1_000],
      [5_000, 5_000],
      [10_000_000, 60_000],
    ] as const) {
      made.found.set(DID, {
        ok: false,
        passing: true,
        reason: 'did_unresolved',
        detail: '',
        ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
      });
      await made.ask({ fresh: true });
      expect(made.answers).toEqual([]);
      expect(made.desk.counters.waiting).toBe(1);
      const [timer] = made.later.splice(0);
      expect(timer!.delayMs).toBe(delayMs);
      timer!.run();
      await Bun.sleep(1);
      expect(made.answers.splice(0)).toMatchObject([{ did: DID, again: true, fresh: true }]);
      expect(made.desk.counters.waiting).toBe(0);
    }
  });

  test('asks to be asked again when the database is away, before or after the look-up', async () => {
    const made = deskWith();
    made.world.state.errors.push(new Error('away'));
    await made.ask({}, { did: 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb' });
    expect(made.answers).toEqual([]);
    made.later.splice(0)[0]!.run();
    await Bun.sleep(1);
    expect(made.answers.splice(0)).toMatchObject([{ again: true }, { again: true }]);

    made.found.set(DID, okay(DID, 1));
    const asked = made.ask({});
    made.world.state.errors.push(new Error('away'), new Error('away'));
    await asked;
    for (const { run } of made.later.splice(0)) run();
    await Bun.sleep(1);
    expect(made.answers).toMatchObject([{ again: true }]);
    expect(made.world.accounts.get(DID)).toBeUndefined();
  });

  test('answers each request exactly once', async () => {
    const made = deskWith([accountSample(DID)]);
    const dids = Array.from({ length: 20 }, (_, index) => `did:web:a${index}.com`);
    for (const did of dids.slice(0, 10)) made.found.set(did, okay(did, 1));
    await made.ask({}, ...dids.map((did) => ({ did })));
    expect(made.answers.map(({ did }) => did).sort()).toEqual([DID, ...dids].sort());
    expect(made.desk.counters).toMatchObject({ asked: 21, waiting: 0 });
  });
});
