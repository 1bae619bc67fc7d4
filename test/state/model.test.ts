import { afterAll, beforeAll, expect, setDefaultTimeout, test } from 'bun:test';
import fc from 'fast-check';
import { openState } from '../../src/state/state.ts';
import type { AccountRow, Flush, HostRow, State } from '../../src/state/types.ts';
import { type TemporaryDatabase, temporaryDatabase } from './postgres.ts';
import { tid } from './samples.ts';

setDefaultTimeout(60_000);

let temporary: TemporaryDatabase;
let state: State;
beforeAll(async () => {
  temporary = await temporaryDatabase();
  state = await openState({ database: temporary.database });
});
afterAll(async () => {
  await state.close();
  await temporary.drop();
});

const text = fc.string({ unit: 'grapheme', maxLength: 40 }).map((value) => value.replaceAll('\u0000', ''));
const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });

const accountRow: fc.Arbitrary<AccountRow> = fc.record({
  did: fc.integer({ min: 0, max: 12 }).map((n) => `did:plc:model${n}`),
  hostId: fc.integer({ min: 1, max: 4 }),
  ownStatus: fc.option(fc.constantFrom('takendown', 'suspended', 'throttled')),
  upstreamStatus: fc.option(fc.oneof(fc.constantFrom('deleted', 'deactivated'), text)),
  rev: fc.option(fc.integer({ min: 1, max: 30 }).map(tid), { freq: 5 }),
  commit: fc.option(bytes(32)),
  data: fc.option(bytes(32)),
  desynchronized: fc.boolean(),
  keyType: fc.constantFrom('p256', 'k256', null),
  key: fc.option(bytes(33)),
  handle: fc.option(text),
  identityAtMs: fc.oneof(fc.maxSafeNat(), fc.constant(0)),
  known: fc.constant(true),
});

const hostRow: fc.Arbitrary<HostRow> = fc.integer({ min: 1, max: 5 }).chain((hostId) =>
  fc.record({
    hostId: fc.constant(hostId),
    hostname: fc.constant(`host${hostId}.example.com`),
    secure: fc.boolean(),
    source: fc.constantFrom('upstream', 'config', 'crawl', 'admin'),
    banned: fc.boolean(),
    status: fc.constantFrom('active', 'idle', 'offline', 'throttled', 'banned'),
    cursor: fc.maxSafeNat(),
    ahead: fc.array(fc.maxSafeNat(), { maxLength: 8 }),
    accountCount: fc.nat(),
    expectedAccounts: fc.nat(),
    accountLimit: fc.option(fc.nat()),
    eventsPerSecondLimit: fc.option(fc.double({ noNaN: true, noDefaultInfinity: true, min: 0.1, max: 1e9 })),
    validation: fc.constantFrom('strict', 'lenient', null),
    createdAtMs: fc.maxSafeNat(),
    lastEventAtMs: fc.maxSafeNat(),
    connectedUntilMs: fc.option(fc.maxSafeNat()),
    failures: fc.nat(),
  }),
);

const flush: fc.Arbitrary<Flush> = fc.record({
  position: fc.nat(1_000),
  accounts: fc.array(accountRow, { maxLength: 12 }),
  hosts: fc.array(hostRow, { maxLength: 6 }),
  rejections: fc.constant([]),
  gaps: fc.constant([]),
});

/** What the contract says, on plain maps. */
const model = () => {
  const accounts = new Map<string, AccountRow>();
  const hosts = new Map<number, HostRow>();
  const listed: string[] = [];
  let position = 0;
  return {
    accounts,
    hosts,
    listed,
    position: () => position,
    apply(next: Flush) {
      const firstListed: string[] = [];
      for (const row of next.accounts) {
        const old = accounts.get(row.did);
        if (old !== undefined && old.rev !== null && (row.rev === null || row.rev < old.rev)) continue;
        accounts.set(row.did, row);
        if (row.rev !== null && !listed.includes(row.did)) firstListed.push(row.did);
      }
      // Within one flush the order is that of first mention; between flushes it is that of the flushes.
      const mentioned = [...new Set(next.accounts.map((row) => row.did))];
      listed.push(...mentioned.filter((did) => firstListed.includes(did)));
      for (const row of next.hosts) hosts.set(row.hostId, row);
      position = Math.max(position, next.position);
    },
  };
};

test('any sequence of flushes leaves what the model leaves', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(flush, { minLength: 1, maxLength: 8 }), async (flushes) => {
      await temporary.sql`truncate accounts, hosts, state_position`;
      const expected = model();
      for (const next of flushes) {
        await state.flush(next);
        expected.apply(next);
      }
      expect(await state.position()).toBe(expected.position());
      const dids = Array.from({ length: 13 }, (_, n) => `did:plc:model${n}`);
      const found = new Map((await state.loadAccounts(dids)).map((row) => [row.did, row]));
      expect(found).toEqual(expected.accounts);
      expect(await state.loadHosts()).toEqual(
        [...expected.hosts.values()].sort((a, b) => a.hostId - b.hostId),
      );
      const listed: string[] = [];
      for (let cursor: number | null = 0; cursor !== null; ) {
        const page = await state.listRepos(cursor, 2);
        listed.push(...page.repos.map((repo) => repo.did));
        cursor = page.cursor;
        expect(page.repos.length > 0 || cursor === null).toBe(true);
      }
      const withCommit = (did: string): boolean => expected.accounts.get(did)!.commit !== null;
      expect(listed).toEqual(expected.listed.filter(withCommit));
      expect(await state.takedowns()).toEqual(
        [...expected.accounts.values()]
          .filter((row) => row.ownStatus === 'takendown')
          .map((row) => row.did)
          .sort(),
      );
    }),
    { numRuns: 60 },
  );
});
