/** What goes wrong at the other end, and what becomes of it. */
import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { rmSync } from 'node:fs';
import { openFakeIndex } from './fake-index.ts';
import { didOf, type FakeServer, fakeRelay } from './fake-servers.ts';
import { type BackfillHarness, startHarness } from './harness.ts';

setDefaultTimeout(60_000);

let harness: BackfillHarness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.stop());
beforeEach(async () => {
  for (const end of ['', '-wal', '-shm']) rmSync(`${harness.indexFile}${end}`, { force: true });
});

const POST = 'app.bsky.feed.post';
const LIKE = 'app.bsky.feed.like';
const dids = (from: number, count: number): string[] =>
  Array.from({ length: count }, (_, n) => didOf(from + n));

const indexed = async (): Promise<number> => {
  const index = openFakeIndex(harness.indexFile);
  const { length } = index.pairs();
  await index.close();
  return length;
};

const imports = async (
  relay: FakeServer,
  more: readonly string[] = [],
  environment: Record<string, string> = {},
): Promise<{ code: number; out: string; err: string }> => {
  try {
    return await harness.run(['--from-relay', relay.url, ...more], environment);
  } finally {
    await relay.stop();
  }
};

/** A page of listReposByCollection. */
const isPage = (url: URL): boolean => url.pathname.endsWith('listReposByCollection');

describe('a relay that', () => {
  test('says 429 with Retry-After is asked again after that, and all comes in', async () => {
    const relay = fakeRelay(new Map([[POST, dids(0, 2_500)]]));
    const askedAtMs: number[] = [];
    let refusals = 0;
    relay.fault = (url) => {
      if (!isPage(url)) return null;
      askedAtMs.push(performance.now());
      if (askedAtMs.length !== 2) return null;
      refusals++;
      return Response.json({ error: 'RateLimitExceeded' }, { status: 429, headers: { 'retry-after': '1' } });
    };
    const { code, out } = await imports(relay);
    expect(code).toBe(0);
    expect(refusals).toBe(1);
    expect(await indexed()).toBe(2_500);
    expect(out).toContain('failures       none');
    // No earlier than it asked for; how much later is the machine's business.
    expect(askedAtMs[2]! - askedAtMs[1]!).toBeGreaterThanOrEqual(990);
  });

  test('repeats its cursors for ever is left with a reason, and the others are read', async () => {
    const relay = fakeRelay(
      new Map([
        [LIKE, dids(5_000, 10)],
        [POST, []],
      ]),
    );
    let page = 0;
    relay.fault = (url) => {
      if (!isPage(url) || url.searchParams.get('collection') !== POST) return null;
      page++;
      return Response.json({ repos: [{ did: didOf(page % 7) }], cursor: `circle ${page % 7}` });
    };
    const { code, out } = await imports(relay);
    expect(code).toBe(0);
    expect(out).toContain(`failed ${POST}: cursor_repeats`);
    expect(out).toContain('1 done, 1 failed');
    expect(out).toContain('bun run backfill --retry');
    expect(page).toBeLessThan(40);
    expect(await indexed()).toBe(10 + 7);
  });

  test('gives empty pages for ever is left with a reason', async () => {
    const relay = fakeRelay(new Map([[POST, dids(0, 1)]]));
    let page = 0;
    relay.fault = (url) => (isPage(url) ? Response.json({ repos: [], cursor: `page ${++page}` }) : null);
    const { out } = await imports(relay, ['--requests', '100000']);
    expect(out).toContain(`failed ${POST}: empty_pages`);
    expect(page).toBe(100);
  });

  test('answers garbage is tried again, and then given up with a reason', async () => {
    const relay = fakeRelay(
      new Map([
        [POST, dids(0, 10)],
        [LIKE, dids(0, 10)],
      ]),
    );
    const garbage = ['<html>', '{}', '{"repos":{}}', '{"repos":[],"cursor":"\\ud800"}', '\xff\xfe'];
    let nth = 0;
    relay.fault = (url) =>
      isPage(url) && url.searchParams.get('collection') === POST
        ? new Response(garbage[nth++ % garbage.length]!)
        : null;
    const { code, out } = await imports(relay);
    expect(code).toBe(0);
    expect(out).toContain(`failed ${POST}: bad_answer`);
    // One try and three more.
    expect(nth).toBe(4);
    expect(await indexed()).toBe(10);
  });

  test('breaks off, says 500 and comes back is read to its end', async () => {
    const relay = fakeRelay(new Map([[POST, dids(0, 3_000)]]));
    let nth = 0;
    relay.fault = (url) => {
      if (!isPage(url)) return null;
      nth++;
      if (nth === 2) return Response.json({ error: 'InternalServerError' }, { status: 500 });
      if (nth === 4) return new Response('x'.repeat(8 * 1024 * 1024));
      return null;
    };
    const { code, out } = await imports(relay);
    expect(code).toBe(0);
    // A page over the bound is nothing that time mends.
    expect(out).toContain(`failed ${POST}: too_large`);
    expect(await indexed()).toBe(2_000);
    const again = fakeRelay(new Map([[POST, dids(0, 3_000)]]));
    // What failed is tried again, where it stood, with the relay that the run was about.
    await harness.sql`update backfill_runs set spec = replace(spec, ${relay.url}, ${again.url})`;
    const retried = await harness.run(['--retry']);
    const cursors = again.requests.map(({ query }) => query.get('cursor'));
    await again.stop();
    expect(retried.code).toBe(0);
    expect(cursors).toEqual(['2000']);
    expect(await indexed()).toBe(3_000);
  });

  test('sends the same repos twice, and such as are none, does no harm', async () => {
    const relay = fakeRelay(new Map([[POST, [...dids(0, 5), ...dids(0, 5), 'did:plc:x', 'nobody', '']]]));
    const { code, out } = await imports(relay);
    expect(code).toBe(0);
    expect(await indexed()).toBe(5);
    expect(out).toContain('3 entries that are not valid');
  });

  test('redirects to an address inside is not followed, though it may itself have a private one', async () => {
    const inside = fakeRelay(new Map([[POST, dids(0, 1)]]));
    inside.fault = () => Response.json({ error: 'InnerSecret' }, { status: 401 });
    const relay = fakeRelay(new Map([[POST, dids(0, 1)]]));
    relay.fault = (url) => (isPage(url) ? Response.redirect(`${inside.url}/admin`) : null);
    const { out } = await imports(relay, [], { RELAY_ALLOW_INSECURE_HOSTS: 'false' });
    expect(out).toContain(`failed ${POST}: forbidden_address`);
    expect(out).not.toContain('InnerSecret');
    expect(inside.requests).toEqual([]);
    await inside.stop();
  });

  test('has no counts, and nothing else is known to ask for, ends the run with a sentence', async () => {
    const { code, err } = await imports(fakeRelay(new Map(), { counts: false }));
    expect(code).toBe(1);
    expect(err).toContain('name some with --collections');
    expect((await harness.run([])).code).toBe(2);
  });
});

describe('one backfill at a time:', () => {
  test('a second is told so, a first can be paused by another process, and resumed', async () => {
    const relay = fakeRelay(new Map([[POST, dids(0, 5_000)]]));
    const { promise: hanging, resolve: hangs } = Promise.withResolvers<void>();
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    relay.fault = async (url) => {
      if (url.searchParams.get('cursor') !== '2000') return null;
      hangs();
      await released;
      return null;
    };
    const first = harness.spawn(['--from-relay', relay.url]);
    await hanging;
    const second = await harness.run(['--from-relay', relay.url]);
    expect(second.code).toBe(1);
    expect(second.err).toContain('already running');
    expect((await harness.run(['--status'])).out).toContain(': running');

    const paused = await harness.run(['--pause']);
    expect(paused.out).toContain(': paused');
    expect(paused.out).toContain('resume it with: bun run backfill');
    const { code, out } = await first.ended;
    expect(code).toBe(0);
    expect(out).toContain(': paused');
    expect(await indexed()).toBe(2_000);
    release();

    const third = await harness.run(['--from-relay', relay.url]);
    expect(third.code).toBe(2);
    expect(third.err).toContain('has not ended');

    const resumed = await harness.run([]);
    await relay.stop();
    expect(resumed.code).toBe(0);
    expect(resumed.out).toContain(': finished');
    expect(resumed.out).toContain('new            5,000');
    expect(await indexed()).toBe(5_000);
  });

  test('Ctrl-C stores where it is and says how to go on; cancelled, there is nothing to go on with', async () => {
    const relay = fakeRelay(new Map([[POST, dids(0, 3_000)]]));
    const { promise: hanging, resolve: hangs } = Promise.withResolvers<void>();
    relay.fault = async (url) => {
      if (url.searchParams.get('cursor') !== '1000') return null;
      hangs();
      // Hangs until it is stopped.
      return new Promise(() => {});
    };
    const child = harness.spawn(['--from-relay', relay.url]);
    await hanging;
    child.process.kill('SIGINT');
    const { code, out } = await child.ended;
    await relay.stop();
    expect(code).toBe(0);
    expect(out).toContain('resume it with: bun run backfill');
    const cancelled = await harness.run(['--cancel']);
    expect(cancelled.out).toContain(': cancelled');
    expect((await harness.run([])).code).toBe(2);
  });
});
