import { afterAll, describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  createResolver,
  PLC_BOUNDS,
  pauseMs,
  type ResolverSettings,
  WEB_BOUNDS,
} from '../../src/identity/resolver.ts';
import type { IdentityResult } from '../../src/identity/types.ts';
import type { FetchOptions, FetchResult, GuardedFetch } from '../../src/network/fetch.ts';
import { createFakeClock, settle } from '../network/fake-clock.ts';
import { leastGrowth } from '../network/growth.ts';

const stops: (() => void)[] = [];
afterAll(() => {
  for (const stop of stops) stop();
});

const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';
const plcDid = (number: number): string => {
  let rest = number;
  let text = '';
  for (let at = 0; at < 24; at++) {
    text = BASE32[rest % 32]! + text;
    rest = Math.floor(rest / 32);
  }
  return `did:plc:${text}`;
};
const DID = plcDid(1);

const documentOf = (did: string, pds = 'https://pds.example.com') => ({
  id: did,
  service: [{ id: '#atproto_pds', type: 'AtprotoPersonalDataServer', serviceEndpoint: pds }],
});

const answer = (status: number, body: unknown = '', headers: Record<string, string> = {}): FetchResult => ({
  ok: true,
  status,
  headers,
  body: new TextEncoder().encode(typeof body === 'string' ? body : JSON.stringify(body)),
});
const good = (url: string): FetchResult => {
  const name = url.slice(url.lastIndexOf('/') + 1);
  return answer(200, documentOf(name === 'did.json' ? `did:web:${new URL(url).host}` : name));
};

/** A resolver whose network is a function and whose time stands still unless advanced. */
const setUp = (
  network: (url: string, options: FetchOptions) => FetchResult | Promise<FetchResult> = good,
  settings: Partial<ResolverSettings> = {},
) => {
  const clock = createFakeClock();
  const asked: string[] = [];
  const fetch: GuardedFetch = async (url, options) => {
    asked.push(url);
    return network(url, options);
  };
  const resolver = createResolver({
    plcUrl: 'https://plc.example.com/',
    allowInsecure: false,
    clock,
    fetch,
    ...settings,
  });
  return { clock, asked, resolver, counters: resolver.counters };
};

/** A network that answers only when told to. */
const held = () => {
  const waiting: { url: string; answer: (result: FetchResult) => Promise<void> }[] = [];
  const network = (url: string) =>
    new Promise<FetchResult>((resolve) =>
      waiting.push({
        url,
        answer: async (result) => {
          resolve(result);
          await settle();
        },
      }),
    );
  return { waiting, network };
};

const reasonOf = (result: IdentityResult) =>
  result.ok ? 'ok' : `${result.passing ? 'passing' : 'lasting'} ${result.reason}`;

describe('what the network says', () => {
  test('a document becomes an identity, by PLC and by web', async () => {
    const { resolver, asked } = setUp();
    expect(await resolver.resolve(DID)).toMatchObject({
      ok: true,
      identity: { did: DID, pds: 'pds.example.com' },
    });
    expect((await resolver.resolve('did:web:alice.example.com')).ok).toBe(true);
    expect(asked).toEqual([
      `https://plc.example.com/${DID}`,
      'https://alice.example.com/.well-known/did.json',
    ]);
  });

  const broken = (
    kind: 'timeout' | 'unreachable' | 'forbidden_address' | 'too_large' | 'bad_redirect',
  ): FetchResult => ({
    ok: false,
    kind,
    detail: 'x',
  });
  test.each([
    ['404', answer(404), 'lasting did_not_found', 'lasting did_not_found'],
    ['410', answer(410), 'lasting did_tombstoned', 'lasting did_not_found'],
    ['429', answer(429), 'passing did_unresolved', 'passing did_unresolved'],
    ['400', answer(400), 'passing did_unresolved', 'passing did_unresolved'],
    ['403', answer(403), 'passing did_unresolved', 'passing did_unresolved'],
    ['500', answer(500), 'passing did_unresolved', 'passing did_unresolved'],
    ['503', answer(503), 'passing did_unresolved', 'passing did_unresolved'],
    ['204', answer(204), 'passing did_unresolved', 'passing did_unresolved'],
    ['a timeout', broken('timeout'), 'passing did_unresolved', 'passing did_unresolved'],
    ['no connection', broken('unreachable'), 'passing did_unresolved', 'passing did_unresolved'],
    ['a forbidden address', broken('forbidden_address'), 'passing did_unresolved', 'lasting did_unsupported'],
    ['a huge body', broken('too_large'), 'passing did_unresolved', 'lasting did_document_invalid'],
    ['a bad redirect', broken('bad_redirect'), 'passing did_unresolved', 'lasting did_document_invalid'],
    ['an HTML page', answer(200, '<html>'), 'passing did_unresolved', 'lasting did_document_invalid'],
    [
      'broken UTF-8',
      { ...answer(200), body: Uint8Array.of(0x22, 0xff, 0x22) },
      'passing did_unresolved',
      'lasting did_document_invalid',
    ],
    ['a list', answer(200, []), 'lasting did_document_invalid', 'lasting did_document_invalid'],
    [
      'another DID',
      answer(200, documentOf(plcDid(2))),
      'lasting did_document_invalid',
      'lasting did_document_invalid',
    ],
  ] as [string, FetchResult, string, string][])('%s is judged', async (_, said, plc, web) => {
    const { resolver } = setUp(() => said);
    expect(reasonOf(await resolver.resolve(DID))).toBe(plc);
    expect(reasonOf(await resolver.resolve('did:web:alice.example.com'))).toBe(web);
  });

  test.each([
    'did:key:zQ3sh',
    'did:web:localhost',
    'did:web:127.0.0.1',
    'did:web:a.b:c',
    'did:plc:short',
    'x',
    '',
  ])('%p is not even asked for', async (did) => {
    const { resolver, asked } = setUp();
    expect(reasonOf(await resolver.resolve(did))).toBe('lasting did_unsupported');
    expect(asked).toEqual([]);
  });

  test('never rejects, whatever comes', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.anything(),
        fc.jsonValue(),
        fc.integer({ min: 0, max: 999 }),
        async (did, body, status) => {
          const { resolver } = setUp(() => answer(status, JSON.stringify(body)));
          expect(typeof (await resolver.resolve(did as string)).ok).toBe('boolean');
          expect(typeof (await resolver.resolve(DID)).ok).toBe('boolean');
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('questions about one DID', () => {
  test('at the same time share one look-up', async () => {
    const { waiting, network } = held();
    const { resolver, asked, counters } = setUp(network);
    const all = Array.from({ length: 1_000 }, () => resolver.resolve(DID));
    await settle();
    await waiting[0]!.answer(good(waiting[0]!.url));
    const results = await Promise.all(all);
    expect(asked.length).toBe(1);
    expect(counters.coalesced).toBe(999);
    expect(new Set(results).size).toBe(1);
  });

  test('are answered from memory for minutes, not longer', async () => {
    const { resolver, asked, clock } = setUp();
    await resolver.resolve(DID);
    await clock.advance(119_000);
    await resolver.resolve(DID);
    expect(asked.length).toBe(1);
    await clock.advance(2_000);
    await resolver.resolve(DID);
    expect(asked.length).toBe(2);
  });

  test('a fresh one passes by the memory', async () => {
    let pds = 'https://old.example.com';
    const { resolver } = setUp(() => answer(200, documentOf(DID, pds)));
    await resolver.resolve(DID);
    pds = 'https://new.example.com';
    expect(await resolver.resolve(DID)).toMatchObject({ identity: { pds: 'old.example.com' } });
    expect(await resolver.resolve(DID, { fresh: true })).toMatchObject({
      identity: { pds: 'new.example.com' },
    });
    expect(await resolver.resolve(DID)).toMatchObject({ identity: { pds: 'new.example.com' } });
  });

  test('a fresh one never takes the answer of a request that was sent before it', async () => {
    const { waiting, network } = held();
    const { resolver, asked } = setUp(network);
    const first = resolver.resolve(DID);
    await settle();
    const fresh = resolver.resolve(DID, { fresh: true });
    const alsoFresh = resolver.resolve(DID, { fresh: true });
    await settle();
    expect(asked.length).toBe(1);
    await waiting[0]!.answer(answer(200, documentOf(DID, 'https://old.example.com')));
    expect(asked.length).toBe(2);
    await waiting[1]!.answer(answer(200, documentOf(DID, 'https://new.example.com')));
    expect(await first).toMatchObject({ identity: { pds: 'old.example.com' } });
    expect(await fresh).toMatchObject({ identity: { pds: 'new.example.com' } });
    expect(await alsoFresh).toBe(await fresh);
  });

  test('fresh ones come as a burst of eight, then one in ten seconds; between, the answer is when to come back', async () => {
    const { resolver, asked, clock, counters } = setUp();
    const limited: IdentityResult[] = [];
    for (let index = 0; index < 100; index++) {
      const result = await resolver.resolve(DID, { fresh: true });
      if (!result.ok) limited.push(result);
    }
    expect(asked.length).toBe(8);
    expect(limited.length).toBe(92);
    expect(counters.freshLimited).toBe(92);
    expect(limited[0]).toMatchObject({ passing: true, reason: 'did_unresolved', retryAfterMs: 10_000 });
    for (let second = 0; second < 200; second++) {
      await clock.advance(1_000);
      await resolver.resolve(DID, { fresh: true });
    }
    expect(asked.length).toBe(8 + 20);
    expect((await resolver.resolve(plcDid(2), { fresh: true })).ok).toBe(true);
    expect(asked.length).toBe(29);
  });

  test('one host asking too often for an account leaves another its turn', async () => {
    const { resolver, asked } = setUp();
    for (let index = 0; index < 20; index++)
      await resolver.resolve(DID, { fresh: true, forHost: 'noise.example.com' });
    expect(asked.length).toBe(8);
    expect((await resolver.resolve(DID, { fresh: true, forHost: 'pds.example.com' })).ok).toBe(true);
    expect(asked.length).toBe(9);
  });

  test('a refreshed failure replaces what was known', async () => {
    let said = answer(200, documentOf(DID));
    const { resolver } = setUp(() => said);
    await resolver.resolve(DID);
    said = answer(410);
    expect(reasonOf(await resolver.resolve(DID, { fresh: true }))).toBe('lasting did_tombstoned');
    expect(reasonOf(await resolver.resolve(DID))).toBe('lasting did_tombstoned');
  });
});

describe('failures', () => {
  const askEvery = async (
    { resolver, clock, asked }: ReturnType<typeof setUp>,
    did: string,
    stepMs: number,
    steps: number,
  ) => {
    const atMs: number[] = [];
    for (let step = 0; step < steps; step++) {
      const before = asked.length;
      await resolver.resolve(did);
      if (asked.length > before) atMs.push(step * stepMs);
      await clock.advance(stepMs);
    }
    return atMs;
  };

  test('that pass are asked again after a growing pause of at most a minute', async () => {
    const atMs = await askEvery(
      setUp(() => answer(500)),
      DID,
      1_000,
      300,
    );
    expect(atMs.slice(0, 7)).toEqual([0, 2_000, 6_000, 14_000, 30_000, 62_000, 122_000]);
    expect(atMs[7]! - atMs[6]!).toBe(60_000);
  });

  test('that last are asked again after a growing pause of at most ten minutes', async () => {
    const atMs = await askEvery(
      setUp(() => answer(404)),
      DID,
      10_000,
      400,
    );
    expect(atMs.slice(0, 6)).toEqual([0, 30_000, 90_000, 210_000, 450_000, 930_000]);
    expect(atMs[7]! - atMs[6]!).toBe(600_000);
  });

  test('say when to ask again', async () => {
    const { resolver, clock } = setUp(() => answer(500));
    expect(await resolver.resolve(DID)).toMatchObject({ retryAfterMs: 2_000 });
    await clock.advance(1_500);
    expect(await resolver.resolve(DID)).toMatchObject({ retryAfterMs: 500 });
  });

  test('are forgotten by a success', async () => {
    let said = answer(500);
    const { resolver, clock } = setUp(() => said);
    for (let index = 0; index < 10; index++) {
      await resolver.resolve(DID);
      await clock.advance(61_000);
    }
    said = answer(200, documentOf(DID));
    expect((await resolver.resolve(DID)).ok).toBe(true);
    said = answer(500);
    await clock.advance(200_000);
    expect(await resolver.resolve(DID)).toMatchObject({ retryAfterMs: 2_000 });
  });

  test('of a did:web server that is dead for minutes become lasting while others answer, and heal', async () => {
    let isDead = true;
    const set = setUp((url) =>
      isDead && url.includes('dead') ? { ok: false, kind: 'timeout', detail: 'x' } : good(url),
    );
    const { resolver, clock } = set;
    const dead = 'did:web:dead.example.com';
    const results: string[] = [];
    for (let minute = 0; minute < 8; minute++) {
      results.push(reasonOf(await resolver.resolve(dead)));
      await resolver.resolve(plcDid(minute), { fresh: true });
      await clock.advance(61_000);
    }
    expect(results.slice(0, 5)).toEqual(new Array(5).fill('passing did_unresolved'));
    expect(results.at(-1)).toBe('lasting did_not_found');
    isDead = false;
    expect((await resolver.resolve(dead, { fresh: true })).ok).toBe(true);
    expect((await resolver.resolve(dead)).ok).toBe(true);
  });

  test('of everything at once stay passing: that is our own network', async () => {
    const { resolver, clock } = setUp(() => ({ ok: false, kind: 'unreachable', detail: 'x' }));
    for (let minute = 0; minute < 30; minute++) {
      expect(reasonOf(await resolver.resolve('did:web:a.example.com'))).toBe('passing did_unresolved');
      expect(reasonOf(await resolver.resolve(DID))).toBe('passing did_unresolved');
      await clock.advance(61_000);
    }
  });
});

describe('a directory that says 429', () => {
  test('is left alone for as long as it says, and then asked again', async () => {
    let said: FetchResult | null = answer(429, '', { 'retry-after': '20' });
    const { resolver, asked, clock, counters } = setUp((url) => said ?? good(url));
    expect(await resolver.resolve(DID)).toMatchObject({ passing: true, retryAfterMs: 20_000 });
    said = null;
    const waiting = [2, 3, 4].map((number) => resolver.resolve(plcDid(number)));
    await clock.advance(19_000);
    expect(asked.length).toBe(1);
    expect(counters.queuedPlc).toBe(3);
    await clock.advance(1_001);
    for (const result of await Promise.all(waiting)) expect(result.ok).toBe(true);
    expect(counters.rateLimited).toBe(1);
  });

  test('for long refuses at once instead of letting everybody wait', async () => {
    const { resolver, asked } = setUp(() => answer(429, '', { 'retry-after': '120' }));
    await resolver.resolve(DID);
    expect(reasonOf(await resolver.resolve(plcDid(2)))).toBe('passing did_unresolved');
    expect(asked.length).toBe(1);
  });

  test('does not stop did:web; a did:web server that says 429 stops only itself', async () => {
    const { resolver, asked } = setUp((url) =>
      url.includes('plc') || url.includes('busy') ? answer(429, '', { 'retry-after': '25' }) : good(url),
    );
    await resolver.resolve('did:web:busy.example.com');
    await resolver.resolve(DID);
    expect((await resolver.resolve('did:web:alice.example.org')).ok).toBe(true);
    expect(await resolver.resolve('did:web:busy.example.com')).toMatchObject({ retryAfterMs: 25_000 });
    expect(asked.length).toBe(3);
  });

  test('may say it in seconds or as a date; nonsense and extremes are bounded', () => {
    const nowMs = Date.parse('2026-11-20T12:00:00Z');
    for (const [value, expected] of [
      ['30', 30_000],
      ['0', 1_000],
      ['-5', 10_000],
      ['999999999', 300_000],
      ['Fri, 20 Nov 2026 12:00:40 GMT', 40_000],
      ['Fri, 20 Nov 2020 12:00:40 GMT', 1_000],
      ['soon', 10_000],
      ['', 10_000],
      [undefined, 10_000],
    ] as const) {
      expect([value, pauseMs(value, nowMs)]).toEqual([value, expected]);
    }
  });
});

describe('a directory that stalls', () => {
  test('leaves 10,000 questions bounded, answered and followed by nothing', async () => {
    const { network } = held();
    const { resolver, counters, clock, asked } = setUp(async (url, options) => {
      const stalled = network(url);
      return Promise.race([
        stalled,
        new Promise<FetchResult>((resolve) => {
          clock.after(options.timeoutMs, () => resolve({ ok: false, kind: 'timeout', detail: 'x' }));
        }),
      ]);
    });
    let answered = 0;
    let passing = 0;
    for (let number = 0; number < 10_000; number++) {
      void resolver.resolve(plcDid(number), { forHost: `host${number % 50}` }).then((result) => {
        answered++;
        if (!result.ok && result.passing) passing++;
      });
    }
    await settle();
    expect(counters.inFlightPlc).toBe(PLC_BOUNDS.maxInFlight);
    expect(counters.queuedPlc).toBe(PLC_BOUNDS.maxQueued);
    expect(counters.overloaded).toBe(10_000 - PLC_BOUNDS.maxInFlight - PLC_BOUNDS.maxQueued);
    expect(answered).toBe(counters.overloaded!);
    for (let second = 0; second < 45; second++) await clock.advance(1_000);
    expect([answered, passing]).toEqual([10_000, 10_000]);
    expect([counters.inFlightPlc, counters.queuedPlc]).toEqual([0, 0]);
    expect(asked.length).toBeLessThan(200);
    expect(clock.timers).toBe(0);
  });

  test('does not hold up did:web, nor dead web servers each other or the directory', async () => {
    const { network, waiting } = held();
    const { resolver, counters } = setUp((url) => (/plc|dead/.test(url) ? network(url) : good(url)));
    for (let number = 0; number < 200; number++) {
      void resolver.resolve(plcDid(number));
      void resolver.resolve(`did:web:n${number}.dead.com`);
    }
    await settle();
    expect(counters.inFlightWeb).toBe(WEB_BOUNDS.maxInFlightPerGroup);
    expect((await resolver.resolve('did:web:alice.example.com')).ok).toBe(true);
    await waiting[0]!.answer(good(waiting[0]!.url));
    expect(counters.successes).toBe(2);
  });

  test('one host that floods delays another by no more than a turn', async () => {
    const { network, waiting } = held();
    const { resolver, counters } = setUp(network);
    for (let number = 0; number < 2_000; number++)
      void resolver.resolve(plcDid(number), { forHost: 'flood' });
    await settle();
    expect(counters.inFlightPlc).toBe(PLC_BOUNDS.maxInFlightPerGroup);
    expect(counters.queuedPlc).toBe(PLC_BOUNDS.maxQueuedPerGroup);
    let isAnswered = false;
    void resolver.resolve(plcDid(9_999), { forHost: 'small' }).then(() => {
      isAnswered = true;
    });
    await settle();
    const own = waiting.find(({ url }) => url.endsWith(plcDid(9_999)))!;
    await own.answer(good(own.url));
    expect(isAnswered).toBe(true);
  });
});

describe('memory', () => {
  test('holds a bounded number of identities and failures, whatever is asked', async () => {
    const { resolver, counters } = setUp((url) => (url.endsWith('a') ? answer(404) : good(url)));
    for (let number = 0; number < 60_000; number++) {
      await resolver.resolve(number % 2 === 0 ? plcDid(number * 32) : plcDid(number * 32 + 1));
    }
    expect(counters.rememberedIdentities).toBe(1_000);
    expect(counters.rememberedFailures).toBe(20_000);
    expect([counters.inFlightPlc, counters.queuedPlc]).toEqual([0, 0]);
  });
});

describe('closing', () => {
  test('answers what waits, and everything after, as passing', async () => {
    const { network } = held();
    const { resolver, counters } = setUp(network);
    const waiting = Array.from({ length: 100 }, (_, number) => resolver.resolve(plcDid(number)));
    await settle();
    resolver.close();
    expect(reasonOf(await waiting[99]!)).toBe('passing did_unresolved');
    expect(reasonOf(await resolver.resolve(plcDid(500)))).toBe('passing did_unresolved');
    expect(counters.queuedPlc).toBe(0);
  });
});

describe('over real sockets', () => {
  const serve = (fetch: (request: Request) => Response | Promise<Response>) => {
    const server = Bun.serve({ port: 0, hostname: '127.0.0.1', fetch });
    stops.push(() => server.stop(true));
    return server.port!;
  };

  test('thousands of DIDs are resolved over few connections, and memory stays flat', async () => {
    const port = serve((request) => {
      const did = new URL(request.url).pathname.slice(1);
      return did.endsWith('a')
        ? new Response('not registered', { status: 404 })
        : Response.json(documentOf(did));
    });
    const resolver = createResolver({ plcUrl: `http://127.0.0.1:${port}`, allowInsecure: false });
    const dids = 2_000;
    const growth = await leastGrowth(async (round) => {
      const from = round * 10_000;
      for (let at = from; at < from + dids; at += 500) {
        await Promise.all(Array.from({ length: 500 }, (_, index) => resolver.resolve(plcDid(at + index))));
      }
    });
    expect(resolver.counters.successes! + resolver.counters.failed_did_not_found!).toBe(5 * dids);
    expect(resolver.counters.failedPassing).toBe(0);
    // An identity remembered is a few objects and half a KB; a held response would be dozens, and its body.
    expect(growth.objects).toBeLessThan(20 * dids);
    expect(growth.rssBytes).toBeLessThan(dids * 5 * 1024);
    resolver.close();
  }, 20_000);

  test('a huge document, a local redirect and broken JSON from a web server are lasting failures', async () => {
    const web = (answerWith: () => Response) => `did:web:localhost%3A${serve(answerWith)}`;
    const resolver = createResolver({ plcUrl: 'http://127.0.0.1:1', allowInsecure: true });
    const huge = web(() => new Response('x'.repeat(65 * 1024)));
    const brokenJson = web(() => new Response('{"id":'));
    const loop = web(
      () => new Response(null, { status: 302, headers: { location: '/.well-known/did.json' } }),
    );
    for (const did of [huge, brokenJson, loop]) {
      expect(reasonOf(await resolver.resolve(did))).toBe('lasting did_document_invalid');
    }
    expect(reasonOf(await resolver.resolve(DID))).toBe('passing did_unresolved');
    resolver.close();
  });
});
