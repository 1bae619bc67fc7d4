/** What an admin of a running relay can do, over HTTP and beside a terminal. */
import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { rmSync } from 'node:fs';
import { Hono } from 'hono';
import { addAdminRoutes } from '../../src/api/admin.ts';
import type { ApiEnv } from '../../src/api/api.ts';
import { createBackfillControl, type RelayBackfill } from '../../src/backfill/control.ts';
import { writeListedAccounts } from '../../src/backfill/listed-accounts.ts';
import { BACKFILL_LOCK, createWriter } from '../../src/state/connections.ts';
import { openState } from '../../src/state/state.ts';
import type { State } from '../../src/state/types.ts';
import { didOf, type FakeServer, fakeRelay } from './fake-servers.ts';
import { type BackfillHarness, startHarness } from './harness.ts';

setDefaultTimeout(60_000);

let harness: BackfillHarness;
let state: State;
let control: RelayBackfill;
let app: Hono<ApiEnv>;
const lines: string[] = [];

const startProcess = (line: (text: string) => void) => {
  const child = harness.spawn(['--supervised']);
  void child.ended.then(({ out, err }) => {
    for (const text of `${out}${err}`.split('\n')) if (text !== '') line(text);
  });
  return {
    exited: child.process.exited,
    end() {
      void child.process.stdin.end();
    },
    kill: () => child.process.kill('SIGKILL'),
  };
};

const createControl = (): RelayBackfill =>
  createBackfillControl({
    database: harness.embedded.database,
    log: (_level, message) => lines.push(message),
    nowMs: Date.now,
    startProcess,
  });

beforeAll(async () => {
  harness = await startHarness();
  state = await openState({ database: harness.embedded.database });
});
afterAll(async () => {
  await state.close();
  await harness.stop();
});
beforeEach(async () => {
  for (const end of ['', '-wal', '-shm']) rmSync(`${harness.indexFile}${end}`, { force: true });
  await harness.sql`delete from backfill_runs`;
  control = createControl();
  app = new Hono<ApiEnv>();
  addAdminRoutes(app, { roster: {} as never, consumers: () => [], backfill: control });
});

const post = async (
  action: string,
  body?: unknown,
): Promise<{ status: number; body: Record<string, unknown> }> => {
  const answer = await app.request(`/admin/backfill/${action}`, {
    method: 'POST',
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
};

const status = async (): Promise<Record<string, never> | null> =>
  ((await (await app.request('/admin/backfill/status')).json()) as { backfill: Record<string, never> | null })
    .backfill;

const until = async (state: string): Promise<void> => {
  while ((await status())?.state !== state) await Bun.sleep(20);
};

const POST = 'app.bsky.feed.post';

/** A relay whose third page hangs until it is let go. */
const holdingRelay = (): { relay: FakeServer; hanging: Promise<void>; release: () => void } => {
  const relay = fakeRelay(new Map([[POST, Array.from({ length: 4_000 }, (_, n) => didOf(n))]]));
  const { promise: hanging, resolve: hangs } = Promise.withResolvers<void>();
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  relay.fault = async (url) => {
    if (url.searchParams.get('cursor') === '2000') {
      hangs();
      await released;
    }
    return null;
  };
  return { relay, hanging, release };
};

describe('the admin routes of the backfill', () => {
  test('start, pause, resume and show a run', async () => {
    const { relay, hanging, release } = holdingRelay();
    expect(await status()).toBe(null);
    const started = await post('start', { from: 'relay', url: relay.url });
    expect(started.status).toBe(200);
    expect(started.body.success).toBe('true');
    await hanging;
    expect((await status())?.state as unknown).toBe('running');
    expect((await post('start', { from: 'hosts' })).status).toBe(409);
    expect((await post('resume')).status).toBe(409);
    expect((await post('pause')).status).toBe(200);
    await until('paused');
    expect((await post('pause')).status).toBe(409);
    release();
    expect((await post('resume')).status).toBe(200);
    await until('finished');
    await relay.stop();
    expect(await status()).toMatchObject({
      runId: started.body.run as never,
      startedBy: 'admin',
      counters: { added: 4_000, imported: 4_000 } as never,
      sources: { done: 1, waiting: 0, parked: 0, failed: 0 } as never,
    });
    await control.stop();
    expect(control.counters).toMatchObject({ added: 4_000, failures: 0, running: 0 });
  });

  test('cancel a run that works, and one that does not', async () => {
    const { relay, hanging } = holdingRelay();
    await post('start', { from: 'relay', url: relay.url });
    await hanging;
    expect((await post('cancel')).status).toBe(200);
    await until('cancelled');
    expect((await post('resume')).status).toBe(409);
    expect((await post('cancel')).status).toBe(409);
    await relay.stop();
    await control.stop();
  });

  test('say what is wrong with a request', async () => {
    for (const body of ['{', {}, { from: 'relay' }, { from: 'dids', dids: ['x'] }]) {
      const answer = await post('start', body);
      expect(answer.status).toBe(400);
      expect(answer.body.error).toBe('InvalidRequest');
    }
    expect((await post('pause')).status).toBe(409);
    expect(await status()).toBe(null);
    await control.stop();
  });
});

describe('a relay that stops', () => {
  test('has its backfill store where it is, and goes on with it when it starts again', async () => {
    const { relay, hanging, release } = holdingRelay();
    await post('start', { from: 'relay', url: relay.url });
    await hanging;
    await control.stop();
    const next = createControl();
    expect((await next.status())?.state).toBe('paused');
    release();
    await next.resumeInterrupted();
    for (;;) {
      const now = await next.status();
      if (now?.state === 'finished') break;
      await Bun.sleep(20);
    }
    expect((await next.status())?.counters.added).toBe(4_000);
    await relay.stop();
    await next.stop();
  });

  test('leaves alone what an admin has paused, and what a terminal has begun', async () => {
    const { relay, hanging, release } = holdingRelay();
    await post('start', { from: 'relay', url: relay.url });
    await hanging;
    await post('pause');
    await until('paused');
    await control.stop();
    const next = createControl();
    await next.resumeInterrupted();
    expect((await next.status())?.state).toBe('paused');
    await harness.sql`update backfill_runs set wanted = 'run', started_by = 'terminal'`;
    await next.resumeInterrupted();
    expect((await next.status())?.state).toBe('paused');
    await next.stop();
    release();
    await relay.stop();
  });
});

describe('the account list', () => {
  test('is written in turns with the relay: whoever appends does so behind all that can be read', async () => {
    const writer = createWriter(harness.embedded.database, () => {}, 1_000, BACKFILL_LOCK);
    const rows = [
      { did: didOf(1), hostId: 1, status: null, rev: '3kabcdefgh222', commit: new Uint8Array(32) },
    ];
    // The relay is amid a flush.
    const { promise: inTurn, resolve: taken } = Promise.withResolvers<void>();
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    const flush = harness.sql.begin(async (sql) => {
      await sql`select pg_advisory_xact_lock(2003134834, 3)`;
      taken();
      await released;
    });
    await inTurn;
    let waits = 0;
    // Rather than holding up the relay, it gives up in the end, with nothing written and its session whole.
    expect(
      await writeListedAccounts(writer, rows, async () => {
        waits++;
      }),
    ).toBe(null);
    expect(waits).toBe(4);
    release();
    await flush;
    expect(await writeListedAccounts(writer, rows)).toBe(1);
    expect(await writeListedAccounts(writer, rows)).toBe(0);
    expect(writer.stats.sessions).toBe(1);
    await writer.close();
  });
});
