import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { spawnSync } from 'node:child_process';
import { is } from 'drizzle-orm';
import { getTableConfig, PgTable } from 'drizzle-orm/pg-core';
import { drizzle } from 'drizzle-orm/pg-proxy';
import { migrate as drizzleMigrate } from 'drizzle-orm/pg-proxy/migrator';
import * as schema from '../../src/state/schema.ts';
import { MAX_PLACES_LOOKED_AHEAD, openState } from '../../src/state/state.ts';
import type { GapRow, RejectionRow, State } from '../../src/state/types.ts';
import { type TemporaryDatabase, temporaryDatabase } from './postgres.ts';
import { account, digest, flushOf, newHost, tid } from './samples.ts';

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

/** For tests about a whole table. */
const emptyTables = () => temporary.sql`truncate accounts, hosts, state_position`;

const one = async (did: string) => (await state.loadAccounts([did]))[0];

describe('an empty database', () => {
  test('is migrated once and answers as empty; a second start finds everything in place', async () => {
    const fresh = await temporaryDatabase();
    const empty = await openState({ database: fresh.database });
    expect(await empty.position()).toBe(0);
    expect(await empty.loadHosts()).toEqual([]);
    expect(await empty.loadAccounts(['did:plc:nobody'])).toEqual([]);
    expect(await empty.loadAccounts([])).toEqual([]);
    expect(await empty.listRepos(0, 10)).toEqual({ repos: [], cursor: null });
    expect(await empty.takedowns()).toEqual([]);
    expect(await empty.domainBans()).toEqual([]);
    expect(await empty.counts()).toEqual({ accounts: 0, hosts: 0 });
    await empty.flush(flushOf(7, { accounts: [account('did:plc:stays')] }));
    await empty.close();
    const after = await openState({ database: fresh.database });
    expect(await after.position()).toBe(7);
    expect(await after.loadAccounts(['did:plc:stays'])).toEqual([account('did:plc:stays')]);
    await after.close();
    await fresh.drop();
  });
});

describe('migrations', () => {
  test('leave nothing to do for the migrator of drizzle, which keeps the same record of them', async () => {
    const left: string[][] = [];
    await drizzleMigrate(
      drizzle(async (text, params) => ({
        rows: [...(await temporary.sql.unsafe(text, params as string[]))],
      })),
      async (statements) => {
        left.push(statements);
      },
      { migrationsFolder: 'migrations' },
    );
    expect(left).toEqual([[]]);
  });

  test('make the tables of the schema, column by column', async () => {
    const columns = await temporary.sql<{ made: string }[]>`
      select class.relname || '.' || attname || ' ' || format_type(atttypid, atttypmod)
        || case when collname = 'C' then ' COLLATE "C"' else '' end
        || case when attnotnull then ' not null' else '' end as made
      from pg_attribute
      join pg_class class on class.oid = attrelid and relkind = 'r' and relnamespace = 'public'::regnamespace
      left join pg_collation on pg_collation.oid = attcollation
      where attnum > 0 and not attisdropped`;
    const said = Object.values(schema)
      .filter((each) => is(each, PgTable))
      .map(getTableConfig)
      .flatMap(({ name: table, columns }) =>
        columns.map(
          (column) =>
            `${table}.${column.name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)} ` +
            `${column.getSQLType().replace('bigserial', 'bigint')}${column.notNull ? ' not null' : ''}`,
        ),
      );
    expect(said.length).toBeGreaterThan(50);
    expect(columns.map(({ made }) => made).toSorted()).toEqual(said.toSorted());
  });

  test('do not bring the query builder of drizzle into the memory of the relay', () => {
    const loaded = spawnSync(
      process.execPath,
      ['-e', "await import('./src/relay.ts'); console.log(Object.keys(require.cache).join('\\n'))"],
      { encoding: 'utf8' },
    ).stdout.split('\n');
    expect(loaded.filter((file) => file.endsWith('/src/state/migrate.ts'))).toHaveLength(1);
    expect(loaded.filter((file) => file.includes('/drizzle-orm/'))).toEqual([
      expect.stringMatching(/\/drizzle-orm\/migrator\.js$/),
    ]);
  });
});

describe('a database that was empty a moment ago', () => {
  test('is looked up by its index, not read whole by the plan of then', async () => {
    const fresh = await temporaryDatabase();
    const young = await openState({ database: fresh.database });
    const dids = Array.from({ length: 20_000 }, (_, number) => `did:plc:young${number}`);
    // As often as makes PostgreSQL settle on a plan.
    for (let time = 0; time < 10; time++) await young.loadAccounts(dids.slice(0, 10));
    await young.flush(flushOf(1, { accounts: dids.map((did) => account(did)) }));
    const reads = async () => {
      const [row] = await fresh.sql`
        select seq_tup_read::int as whole, idx_scan::int as by_index from pg_stat_user_tables where relname = 'accounts'`;
      return row as unknown as { whole: number; by_index: number };
    };
    const before = await reads();
    expect(await young.loadAccounts(dids.slice(0, 10))).toHaveLength(10);
    // Sessions tell their counts when they end.
    await young.close();
    let after = await reads();
    for (let look = 0; look < 200 && after.by_index === before.by_index; look++) {
      await Bun.sleep(50);
      after = await reads();
    }
    expect(after.by_index).toBeGreaterThan(before.by_index);
    expect(after.whole).toBe(0);
    await fresh.drop();
  });
});

describe('a database of an older weir', () => {
  test('gives its hosts, their accounts counted anew; what an upstream host has is expected of it', async () => {
    const older = await temporaryDatabase();
    const before = await openState({ database: older.database });
    const rows = [
      await before.insertHost(newHost('big.example.com', { source: 'upstream', accountCount: 1 })),
      await before.insertHost(newHost('own.example.com', { source: 'crawl', accountCount: 90 })),
    ];
    const none = { rev: null, commit: null, data: null };
    await before.flush(
      flushOf(1, {
        accounts: [
          account('did:plc:a'),
          account('did:plc:b', { ...none, upstreamStatus: 'deactivated' }),
          account('did:plc:c', { ownStatus: 'takendown' }),
          account('did:plc:d', { ...none, upstreamStatus: 'deleted' }),
          account('did:plc:e', { ownStatus: 'throttled' }),
          account('did:plc:f', { ...none, identityAtMs: 0 }),
          account('did:plc:g', { ...none, identityAtMs: 0, known: false }),
        ],
      }),
    );
    await older.sql`update accounts set listed_rev = ${tid(1)} where did = 'did:plc:g'`;
    await older.sql`update accounts set identity_at_ms = 0 where identity_at_ms = -1`;
    await before.close();
    await older.sql`alter table hosts drop column connected_until_ms, drop column expected_accounts`;
    await older.sql`delete from drizzle.__drizzle_migrations where id > 3`;
    const after = await openState({ database: older.database });
    expect(await after.loadHosts()).toEqual([
      { ...rows[0]!, connectedUntilMs: null, accountCount: 4, expectedAccounts: 4 },
      { ...rows[1]!, connectedUntilMs: null, accountCount: 0, expectedAccounts: 0 },
    ]);
    await after.close();
    await older.drop();
  });
});

describe('accounts', () => {
  test('come back as they were written', async () => {
    const full = account('did:plc:full', {
      ownStatus: 'takendown',
      upstreamStatus: 'deactivated',
      keyType: 'p256',
    });
    const bare = account('did:web:bare.example.com', {
      rev: null,
      commit: null,
      data: null,
      keyType: null,
      key: null,
      handle: null,
      identityAtMs: 0,
      desynchronized: true,
    });
    await state.flush(flushOf(1, { accounts: [full, bare] }));
    expect(await one(full.did)).toEqual(full);
    expect(await one(bare.did)).toEqual(bare);
  });

  test('never take an older rev, nor forget their rev', async () => {
    const did = 'did:plc:revs';
    const newer = account(did, { rev: tid(20), commit: digest(20) });
    await state.flush(flushOf(1, { accounts: [newer] }));
    await state.flush(
      flushOf(1, { accounts: [account(did, { rev: tid(19), handle: 'older.example.com' })] }),
    );
    expect(await one(did)).toEqual(newer);
    await state.flush(flushOf(1, { accounts: [account(did, { rev: null, commit: null, data: null })] }));
    expect(await one(did)).toEqual(newer);
  });

  test('take a new status, identity and host at the same rev', async () => {
    const did = 'did:plc:moves';
    await state.flush(flushOf(1, { accounts: [account(did)] }));
    const moved = account(did, {
      hostId: 9,
      upstreamStatus: 'deactivated',
      handle: 'new.example.com',
      keyType: 'p256',
    });
    await state.flush(flushOf(1, { accounts: [moved] }));
    expect(await one(did)).toEqual(moved);
  });

  test('that come several times in one flush are stored with the newest rev', async () => {
    const did = 'did:plc:twice';
    const newest = account(did, { rev: tid(5), handle: 'last.example.com' });
    await state.flush(
      flushOf(1, {
        accounts: [account(did), account(did, { rev: tid(5) }), newest, account(did, { rev: tid(4) })],
      }),
    );
    expect(await one(did)).toEqual(newest);
  });

  test('keep text of any kind, and lose only what PostgreSQL cannot hold', async () => {
    const did = 'did:plc:text';
    const odd = `"a", {b} \\ 'c' NULL ü 🦋\n`;
    await state.flush(
      flushOf(1, { accounts: [account(did, { upstreamStatus: odd, handle: 'nul\u0000.test' })] }),
    );
    expect(await one(did)).toMatchObject({ upstreamStatus: odd, handle: 'nul\ufffd.test' });
    expect(await state.loadAccounts(['did:plc:\u0000'])).toEqual([]);
  });

  test('are written and read back in thousands', async () => {
    const many = Array.from({ length: 2_345 }, (_, i) => account(`did:plc:many${i}`, { rev: tid(i + 1) }));
    await state.flush(flushOf(1, { accounts: many }));
    const found = await state.loadAccounts(many.map((row) => row.did));
    expect(found.length).toBe(many.length);
    expect(new Map(found.map((row) => [row.did, row.rev]))).toEqual(
      new Map(many.map((row) => [row.did, row.rev])),
    );
  });

  test('taken down by the relay are listed', async () => {
    await state.flush(
      flushOf(1, {
        accounts: [
          account('did:plc:down', { ownStatus: 'takendown' }),
          account('did:plc:throttled', { ownStatus: 'throttled' }),
          account('did:plc:upstreamdown', { upstreamStatus: 'takendown' }),
        ],
      }),
    );
    expect(await state.takedowns()).toContain('did:plc:down');
    expect(await state.takedowns()).not.toContain('did:plc:throttled');
    expect(await state.takedowns()).not.toContain('did:plc:upstreamdown');
  });
});

describe('a flush', () => {
  test('moves the position forward and never back', async () => {
    await state.flush(flushOf(100));
    await state.flush(flushOf(50));
    expect(await state.position()).toBe(100);
    await state.flush(flushOf(2 ** 53 - 1));
    expect(await state.position()).toBe(2 ** 53 - 1);
  });

  test('of which one row fails is not applied at all, and the next one works', async () => {
    await emptyTables();
    const host = await state.insertHost(newHost('a.example.com'));
    const failuresBefore = state.counters.flushFailures!;
    const good = flushOf(5, { accounts: [account('did:plc:good')] });
    // The name of another host: refused by the database after the accounts are written.
    const bad = { ...good, hosts: [{ ...host, hostId: host.hostId + 1 }] };
    await expect(state.flush(bad)).rejects.toThrow(/hosts_hostname_key/);
    expect(await state.position()).toBe(0);
    expect(await state.loadAccounts(['did:plc:good'])).toEqual([]);
    await state.flush(good);
    expect(await state.position()).toBe(5);
    expect(await state.loadAccounts(['did:plc:good'])).toEqual([account('did:plc:good')]);
    expect(state.counters.flushFailures).toBe(failuresBefore + 1);
  });

  test('with numbers that are no numbers is refused, for that is a mistake of ours', async () => {
    const wrong = flushOf(1, { accounts: [account('did:plc:nan', { identityAtMs: Number.NaN })] });
    await expect(state.flush(wrong)).rejects.toThrow('cannot be stored');
    expect(await state.loadAccounts(['did:plc:nan'])).toEqual([]);
  });

  test('with an explanation that cannot be stored as it is stores what it can of it, and all the rest', async () => {
    await emptyTables();
    const rejection = {
      hostId: 4_242,
      did: 'did:plc:\u0000',
      reason: 'car_invalid',
      detail: 'x'.repeat(10_000),
      rev: '',
      atMs: 1,
    };
    const gap = { hostId: 4_242, toSeq: 0, why: 'test', atMs: 1 };
    const seqs = [2 ** 53, Number.NaN, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY, -1, 1.5];
    await state.flush(
      flushOf(7, {
        accounts: [account('did:plc:beside')],
        rejections: seqs.map((upstreamSeq) => ({ ...rejection, upstreamSeq })),
        gaps: seqs.map((fromSeq) => ({ ...gap, fromSeq })),
      }),
    );
    const stored = [2 ** 53 - 1, 0, 0, 2 ** 53 - 1, 0, 1].reverse();
    expect((await state.rejectionsOfHost(4_242, 10)).map((row) => row.upstreamSeq)).toEqual(stored);
    expect((await state.gapsOfHost(4_242, 10)).map((row) => row.fromSeq)).toEqual(stored);
    expect(await state.position()).toBe(7);
    expect(await one('did:plc:beside')).toBeDefined();
  });

  test('may be asked for while another is under way', async () => {
    const all = Array.from({ length: 8 }, (_, i) =>
      state.flush(flushOf(1, { accounts: [account('did:plc:busy', { rev: tid(100 + i) })] })),
    );
    await Promise.all(all);
    expect((await one('did:plc:busy'))?.rev).toBe(tid(107));
  });
});

describe('hosts', () => {
  test('get numbers in the order of their coming, and keep them', async () => {
    await emptyTables();
    const [first, second, again] = await Promise.all([
      state.insertHost(newHost('one.example.com')),
      state.insertHost(newHost('two.example.com', { ahead: [5, 7, 2 ** 53 - 1], eventsPerSecondLimit: 0.5 })),
      state.insertHost(newHost('one.example.com', { source: 'crawl' })),
    ]);
    expect([first.hostId, second.hostId]).toEqual([1, 2]);
    expect(again).toEqual(first);
    expect(await state.loadHosts()).toEqual([first, second]);
  });

  test('are overwritten by a flush in every field', async () => {
    const host = await state.insertHost(newHost('changes.example.com'));
    const changed = {
      ...host,
      secure: false,
      source: 'admin' as const,
      banned: true,
      status: 'banned',
      cursor: 2 ** 53 - 1,
      ahead: [3, 4],
      accountCount: 500_000,
      expectedAccounts: 600_000,
      accountLimit: 1_000_000,
      eventsPerSecondLimit: 12.5,
      validation: 'lenient' as const,
      createdAtMs: 1,
      lastEventAtMs: 2,
      connectedUntilMs: 4,
      failures: 3,
    };
    await state.flush(flushOf(1, { hosts: [host, changed] }));
    expect((await state.loadHosts()).find((row) => row.hostId === host.hostId)).toEqual(changed);
    await state.flush(flushOf(1, { hosts: [host] }));
    expect((await state.loadHosts()).find((row) => row.hostId === host.hostId)).toEqual(host);
  });

  test('known from a flush alone are not numbered twice', async () => {
    await state.flush(flushOf(1, { hosts: [{ ...newHost('far.example.com'), hostId: 5_000 }] }));
    expect((await state.insertHost(newHost('next.example.com'))).hostId).toBe(5_001);
  });
});

describe('listRepos', () => {
  test('gives every repo once, in append order, one per page, while repos are added and changed', async () => {
    await emptyTables();
    const expected: string[] = [];
    let next = 0;
    const add = async (count: number) => {
      const rows = Array.from({ length: count }, () => account(`did:plc:r${(next * 7919) % 1009}x${next++}`));
      expected.push(...rows.map((row) => row.did));
      await state.flush(flushOf(next, { accounts: rows }));
    };
    await add(5);
    const seen: string[] = [];
    let cursor = 0;
    for (let page = 0; page < 40; page++) {
      const answer = await state.listRepos(cursor, 1);
      expect(answer.repos.length).toBe(1);
      seen.push(answer.repos[0]!.did);
      if (answer.cursor === null) break;
      cursor = answer.cursor;
      if (page < 6) await add(2);
      // A change of an old row must not move it.
      await state.flush(flushOf(next, { accounts: [account(expected[0]!, { rev: tid(page + 2) })] }));
    }
    expect(seen).toEqual(expected);
  });

  test('leaves out accounts without a rev, and appends them when they get their first', async () => {
    await emptyTables();
    const empty = account('did:plc:later', { rev: null, commit: null, data: null });
    await state.flush(flushOf(1, { accounts: [empty, account('did:plc:first'), account('did:plc:second')] }));
    const page = await state.listRepos(0, 1);
    expect(page.repos.map((repo) => repo.did)).toEqual(['did:plc:first']);
    await state.flush(
      flushOf(2, { accounts: [{ ...empty, rev: tid(9), commit: digest(9), data: digest(9) }] }),
    );
    const rest = await state.listRepos(page.cursor!, 10);
    expect(rest.repos).toEqual([
      { did: 'did:plc:second', commit: digest(1), rev: tid(1), ownStatus: null, upstreamStatus: null },
      { did: 'did:plc:later', commit: digest(9), rev: tid(9), ownStatus: null, upstreamStatus: null },
    ]);
    expect(rest.cursor).toBeNull();
  });

  test('passes by repos without a commit, however many, within one page', async () => {
    await emptyTables();
    const bare = Array.from({ length: 50 }, (_, at) => account(`did:plc:bare${at}`, { commit: null }));
    await state.flush(flushOf(1, { accounts: bare }));
    await state.flush(flushOf(2, { accounts: [account('did:plc:whole')] }));
    const page = await state.listRepos(0, 1);
    expect(page.repos.map((repo) => repo.did)).toEqual(['did:plc:whole']);
    expect(page.cursor).toBeNull();
  });

  test('finds the first active repo behind a place, but does not look for it too far', async () => {
    await emptyTables();
    const add = async (did: string, fields: Parameters<typeof account>[1] = {}) => {
      await state.flush(flushOf(1, { accounts: [account(did, fields)] }));
      const [row] = await temporary.sql`select append_id from accounts where did = ${did}`;
      return Number(row!.append_id);
    };
    const first = await add('did:plc:first');
    await add('did:plc:taken', { ownStatus: 'takendown' });
    await add('did:plc:away', { upstreamStatus: 'deactivated' });
    await add('did:plc:bare', { commit: null });
    const next = await add('did:plc:next');
    expect((await state.firstActiveRepo(first - 1))?.did).toBe('did:plc:first');
    expect(await state.firstActiveRepo(first)).toEqual({
      did: 'did:plc:next',
      commit: digest(1),
      rev: tid(1),
      ownStatus: null,
      upstreamStatus: null,
    });
    expect(await state.firstActiveRepo(next)).toBeNull();
    await temporary.sql`update accounts set append_id = ${first + MAX_PLACES_LOOKED_AHEAD} where append_id = ${next}`;
    expect((await state.firstActiveRepo(first))?.did).toBe('did:plc:next');
    await temporary.sql`update accounts set append_id = append_id + 1 where did = 'did:plc:next'`;
    expect(await state.firstActiveRepo(first)).toBeNull();
  });
});

describe('what is kept for people', () => {
  const rejection = (hostId: number, n: number, did = 'did:plc:rejected'): RejectionRow => ({
    hostId,
    did,
    reason: 'rev_stale',
    detail: `no ${n}`,
    upstreamSeq: n,
    rev: tid(n),
    atMs: n,
  });

  test('are the newest 200 rejections of each host, newest first', async () => {
    await state.flush(flushOf(1, { rejections: [rejection(1, 1)] }));
    for (let from = 0; from < 500; from += 125)
      await state.flush(
        flushOf(1, { rejections: Array.from({ length: 125 }, (_, i) => rejection(2, from + i + 1)) }),
      );
    const kept = await state.rejectionsOfHost(2, 1_000);
    expect(kept.map((row) => row.upstreamSeq)).toEqual(Array.from({ length: 200 }, (_, i) => 500 - i));
    expect(kept[0]).toEqual(rejection(2, 500));
    expect((await state.rejectionsOfHost(2, 3)).length).toBe(3);
    expect(await state.rejectionsOfHost(1, 10)).toEqual([rejection(1, 1)]);
  });

  test('do not grow with a flood from one host within one flush', async () => {
    const flood = Array.from({ length: 5_000 }, (_, i) => rejection(3, i + 1));
    await state.flush(flushOf(1, { rejections: [rejection(4, 1), ...flood] }));
    expect((await state.rejectionsOfHost(3, 1_000)).map((row) => row.upstreamSeq)).toEqual(
      Array.from({ length: 200 }, (_, i) => 5_000 - i),
    );
    expect(await state.rejectionsOfHost(4, 10)).toEqual([rejection(4, 1)]);
  });

  test('are found by account, and survive hostile text', async () => {
    const nasty = {
      ...rejection(5, 1, `did:plc:${'\u{1F98B}'.repeat(3_000)}\u0000`),
      detail: '\u0000'.repeat(10_000),
    };
    await state.flush(flushOf(1, { rejections: [nasty, rejection(5, 2, 'did:plc:mine')] }));
    expect(await state.rejectionsOfAccount('did:plc:mine', 10)).toEqual([rejection(5, 2, 'did:plc:mine')]);
    expect(await state.rejectionsOfAccount('did:plc:\u0000', 10)).toEqual([]);
    expect((await state.rejectionsOfHost(5, 10)).length).toBe(2);
  });

  test('are the newest 100 gaps of each host', async () => {
    const gap = (n: number): GapRow => ({ hostId: 6, fromSeq: n, toSeq: 0, why: 'cursor too old', atMs: n });
    await state.flush(flushOf(1, { gaps: Array.from({ length: 70 }, (_, i) => gap(i + 1)) }));
    await state.flush(flushOf(1, { gaps: Array.from({ length: 70 }, (_, i) => gap(i + 71)) }));
    const kept = await state.gapsOfHost(6, 1_000);
    expect(kept.map((row) => row.fromSeq)).toEqual(Array.from({ length: 100 }, (_, i) => 140 - i));
    expect(kept[0]).toEqual(gap(140));
  });

  test('are domain bans', async () => {
    await state.setDomainBan('bad.example.com', true);
    await state.setDomainBan('bad.example.com', true);
    await state.setDomainBan('worse.example.com', true);
    expect(new Set(await state.domainBans())).toEqual(new Set(['bad.example.com', 'worse.example.com']));
    await state.setDomainBan('bad.example.com', false);
    expect(await state.domainBans()).toEqual(['worse.example.com']);
  });
});
