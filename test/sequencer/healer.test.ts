import { describe, expect, test } from 'bun:test';
import type { FetchResult } from '../../src/network/fetch.ts';
import { createHealer } from '../../src/sequencer/healer.ts';
import { answer } from '../hosts/fakes.ts';

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';
const HOST = { hostname: 'a.pds.net', secure: true };

const healerWith = (reply: (url: string) => FetchResult | Promise<FetchResult>) => {
  const urls: string[] = [];
  const found: [string, string | null][] = [];
  const healer = createHealer({
    async fetch(url) {
      urls.push(url);
      return reply(url);
    },
    userAgent: 'weir/test',
    allowPrivateAddresses: false,
    found: (did, status) => void found.push([did, status]),
    nowMs: () => 0,
  });
  return { healer, urls, found };
};

describe('the healer', () => {
  test('asks the PDS, and tells what it says', async () => {
    for (const [body, expected] of [
      [{ did: DID, active: true }, null],
      [{ did: DID, active: false }, 'deactivated'],
      [{ did: DID, active: false, status: 'takendown' }, 'takendown'],
      [{ did: DID, active: false, status: 'x'.repeat(100) }, 'x'.repeat(64)],
    ] as const) {
      const made = healerWith(() => answer(body));
      made.healer.suspect(DID, HOST);
      await Bun.sleep(1);
      expect(made.urls).toEqual([
        'https://a.pds.net/xrpc/com.atproto.sync.getRepoStatus?did=did%3Aplc%3Aaaaaaaaaaaaaaaaaaaaaaaaa',
      ]);
      expect(made.found).toEqual([[DID, expected]]);
    }
  });

  test('believes nothing but an answer about this account', async () => {
    const bad: FetchResult[] = [
      answer({ did: 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb', active: true }),
      answer({ active: true }),
      answer({ did: DID }),
      answer({ did: DID, active: 'yes' }),
      answer('not JSON'),
      answer('null'),
      answer({ did: DID, active: true }, { status: 500 }),
    ];
    for (const reply of bad) {
      const made = healerWith(() => reply);
      made.healer.suspect(DID, HOST);
      await Bun.sleep(1);
      expect(made.found).toEqual([]);
      expect(made.healer.counters.failed).toBe(1);
    }
  });

  test('asks about an account once in a while only', async () => {
    const made = healerWith(() => answer({ did: DID, active: false }));
    for (let count = 0; count < 10; count++) {
      made.healer.suspect(DID, HOST);
      await Bun.sleep(0);
    }
    expect(made.urls).toHaveLength(1);
    expect(made.healer.counters.suspected).toBe(10);
  });

  test('does not let one slow host keep others waiting, nor fill the queue', async () => {
    const slow = Promise.withResolvers<FetchResult>();
    const made = healerWith((url) =>
      url.includes('slow') ? slow.promise : answer({ did: DID, active: true }),
    );
    for (let count = 0; count < 5_000; count++)
      made.healer.suspect(`did:web:a${count}.com`, { hostname: 'slow.pds.net', secure: true });
    expect(made.healer.counters.dropped).toBeGreaterThan(4_000);
    made.healer.suspect(DID, HOST);
    await Bun.sleep(1);
    expect(made.found).toEqual([[DID, null]]);
    const asked = made.urls.length;
    expect(asked).toBe(3);
    slow.resolve(answer({}, { status: 500 }));
    await Bun.sleep(5);
    expect(made.urls.length).toBeGreaterThan(asked + 50);
  });

  test('once stopped asks nobody more, and tells nothing of answers that come afterwards', async () => {
    const slow = Promise.withResolvers<FetchResult>();
    const made = healerWith(() => slow.promise);
    for (const did of ['did:web:a.com', 'did:web:b.com', 'did:web:c.com']) made.healer.suspect(did, HOST);
    expect(made.urls).toHaveLength(2);
    made.healer.stop();
    slow.resolve(answer({ did: 'did:web:a.com', active: true }));
    await Bun.sleep(5);
    made.healer.suspect('did:web:d.com', HOST);
    expect(made.urls).toHaveLength(2);
    expect(made.found).toEqual([]);
  });
});
