import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { parseV1Request, parseV2Request } from '../../jetstream/filter/options.ts';
import { parseTailArgs } from '../../jetstream/tail/args.ts';
import { json, startApi } from './fixtures.ts';

const { request, errors } = startApi();
const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';
const ORIGIN = 'http://relay.example';

const ask = async (choice: Record<string, string | readonly string[]> = {}, headers = {}) => {
  const params = new URLSearchParams({ format: 'json' });
  for (const [name, value] of Object.entries(choice)) {
    for (const one of [value].flat()) params.append(name, one);
  }
  return json(await request(`${ORIGIN}/jetstream?${params}`, { headers }));
};
const show = async (query = ''): Promise<{ text: string; answer: Response }> => {
  const answer = await request(`${ORIGIN}/jetstream?${query}`);
  return { answer, text: await answer.text() };
};

describe('the page that helps to connect', () => {
  test('is linked from the front page, which names the endpoint, too', async () => {
    const text = await (await request(`${ORIGIN}/`)).text();
    expect(text).toContain('href="/jetstream"');
    expect(text).toContain('ws://relay.example/subscribe');
  });

  test('tells both endpoints of this relay, and all parameters', async () => {
    const { text, answer } = await show();
    expect(answer.headers.get('content-type')).toStartWith('text/html');
    for (const part of [
      'ws://relay.example/subscribe',
      'ws://relay.example/xrpc/network.bsky.jetstream.subscribeEvents',
      ...'wantedCollections wantedDids maxMessageSizeBytes requireHello compress zstdDictionary kinds'.split(
        ' ',
      ),
      'getZstdDictionary',
      'options_update',
      'heartbeat',
    ]) {
      expect(text).toContain(part);
    }
  });

  test('names wss:// behind a proxy that has TLS', async () => {
    expect((await ask({}, { 'x-forwarded-proto': 'https' })).url).toBe('wss://relay.example/subscribe');
    expect((await ask({}, { 'x-forwarded-proto': 'nonsense' })).url).toBe('ws://relay.example/subscribe');
  });

  test('turns what was typed into a URL and snippets', async () => {
    const choice = {
      collections: 'app.bsky.feed.post, app.bsky.graph.*\n',
      dids: DID,
      cursor: ' 1725519626134432 ',
      compress: 'true',
      heartbeat: 'true',
    };
    const query = `wantedCollections=app.bsky.feed.post&wantedCollections=app.bsky.graph.*&wantedDids=${DID}&cursor=1725519626134432`;
    const url = `ws://relay.example/subscribe?${query}&compress=true&heartbeat=true`;
    const preview = `ws://relay.example/subscribe?${query}&heartbeat=true`;
    const told = await ask(choice);
    expect(told).toMatchObject({ url, preview, problem: '', websocat: `websocat -b '${url}' | zstd -dc` });
    expect(told.javascript).toContain(JSON.stringify(preview));

    const second = await ask({ ...choice, version: 'v2', kinds: ['sync', 'commit', 'nonsense'] });
    expect(second.url).toBe(
      `ws://relay.example/xrpc/network.bsky.jetstream.subscribeEvents?collections=app.bsky.feed.post&collections=app.bsky.graph.*&dids=${DID}&kinds=commit&kinds=sync&cursor=1725519626134432&heartbeat=true`,
    );
    expect(second.websocat).toBe(`websocat '${second.url}'`);
  });

  test('says what the relay would refuse, in its words', async () => {
    expect((await ask({ collections: 'app.bsky.fo*' })).problem).toBe(
      'invalid subscriber options: invalid collection: app.bsky.fo*',
    );
    expect((await ask({ version: 'v2', kinds: 'sync', collections: 'app.bsky.*' })).problem).toContain(
      'kinds excludes commit',
    );
    const { text } = await show('collections=app.bsky.fo*');
    expect(text).toContain('invalid collection: app.bsky.fo*');
  });

  test('loads nothing from elsewhere, and may run its own script alone', async () => {
    const { text, answer } = await show();
    const policy = answer.headers.get('content-security-policy')!;
    const scripts = [...text.matchAll(/<script>([\s\S]*?)<\/script>/g)].map((match) => match[1]!);
    expect(scripts).toHaveLength(1);
    const hash = new Bun.CryptoHasher('sha256').update(scripts[0]!).digest('base64');
    expect(policy).toContain(`script-src 'sha256-${hash}'`);
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain("connect-src 'self' ws://relay.example wss://relay.example");
    expect(text).not.toMatch(/(src|href)="(https?:)?\/\//);
    // It parses.
    expect(() => new Function(scripts[0]!)).not.toThrow();
    const other = await request('http://a;b,c/jetstream');
    expect(other.headers.get('content-security-policy')).toContain("connect-src 'self'; form-action");
  });

  test('makes sense of anything: no markup, a URL that means what was typed, snippets that run', async () => {
    const typed = fc.oneof(
      fc.constantFrom(
        '',
        'app.bsky.feed.post',
        'a.*',
        DID,
        `'; rm -rf /; '`,
        '$(x)',
        '"><b id=x>',
        '</script>',
        '&x=1#',
      ),
      fc.string({ unit: 'binary', maxLength: 20 }).map((text) => text.toWellFormed()),
    );
    const plainNames = await names((await show()).text);
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          version: fc.constantFrom('v1', 'v2', 'x'),
          collections: typed,
          dids: typed,
          cursor: typed,
          kinds: fc.array(fc.constantFrom('commit', 'sync', 'x')),
        }),
        async (choice) => {
          const told = await ask(choice);
          const url = new URL(told.url);
          const parsed = choice.version === 'v2' ? parseV2Request(url) : parseV1Request(url, new Headers());
          expect(told.problem === '').toBe(parsed.ok);
          const words = choice.collections.split(/[\s,]+/).filter((word) => word !== '');
          const name = choice.version === 'v2' ? 'collections' : 'wantedCollections';
          expect(url.searchParams.getAll(name)).toEqual(words);
          expect(() => new Function(told.javascript)).not.toThrow();
          if (!/[\0\ufffd]/.test(told.tail)) {
            const out = Bun.spawnSync([
              'sh',
              '-c',
              `for a in ${told.tail.slice('bun run '.length)}; do printf '%s\\0' "$a"; done`,
            ]);
            const args = out.stdout.toString().split('\0').slice(0, -1);
            expect(args.slice(0, 2)).toEqual(['jetstream', 'tail']);
            if (parsed.ok) expect(parseTailArgs(args.slice(2)).ok).toBeOneOf([true, false]);
            for (const word of words) expect(args).toContain(word);
          }
          const { text } = await show(String(new URLSearchParams(choice as never)));
          const made = await names(text);
          expect([...made].filter((one) => !plainNames.has(one) && one !== '@checked')).toEqual([]);
        },
      ),
      { numRuns: 100 },
    );
    expect(errors).toEqual([]);
  });
});

/** Elements and attributes as a parser of HTML sees them. */
const names = async (text: string): Promise<Set<string>> => {
  const found = new Set<string>();
  await new HTMLRewriter()
    .on('*', {
      element(element) {
        found.add(element.tagName);
        for (const [attribute] of element.attributes) found.add(`@${attribute}`);
      },
    })
    .transform(new Response(text))
    .text();
  return found;
};
