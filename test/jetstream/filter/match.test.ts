import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { matches } from '../../../jetstream/filter/match.ts';
import type { Filter } from '../../../jetstream/types.ts';
import { KIND } from '../../../src/firehose/types.ts';
import { anEvent, DIDS, events, filters } from './generate.ts';

const filter = (more: Partial<Filter>): Filter => ({
  collections: null,
  dids: null,
  kinds: (1 << KIND.commit) | (1 << KIND.identity) | (1 << KIND.account),
  maxMessageSizeBytes: 0,
  ...more,
});
const post = anEvent({ collection: 'app.bsky.feed.post' });

describe('a filter', () => {
  test('takes a collection by its name or by a prefix of it', () => {
    for (const [wanted, prefixes, expected] of [
      [['app.bsky.feed.post'], [], true],
      [['app.bsky.feed.like'], [], false],
      [[], ['app.bsky.'], true],
      [[], ['app.bsky.feed.post.'], false],
      [[], ['chat.'], false],
      [['app.bsky.feed.like'], ['app.bsky.feed.'], true],
      [[], [], false],
    ] as const) {
      expect(matches(filter({ collections: { exact: new Set(wanted), prefixes } }), post)).toBe(expected);
    }
  });

  test('lets identity and account through whatever the collections, and only of wanted DIDs', () => {
    const collections = { exact: new Set(['app.bsky.feed.like']), prefixes: [] };
    for (const kind of [KIND.identity, KIND.account]) {
      const event = anEvent({ kind, collection: '' });
      expect(matches(filter({ collections }), event)).toBe(true);
      expect(matches(filter({ collections, dids: new Set([DIDS[0]!]) }), event)).toBe(true);
      expect(matches(filter({ collections, dids: new Set([DIDS[1]!]) }), event)).toBe(false);
    }
  });

  test('takes the kinds it names', () => {
    expect(matches(filter({}), anEvent({ kind: KIND.sync, collection: '' }))).toBe(false);
    expect(matches(filter({ kinds: 1 << KIND.sync }), anEvent({ kind: KIND.sync, collection: '' }))).toBe(
      true,
    );
    expect(matches(filter({ kinds: 1 << KIND.sync }), post)).toBe(false);
  });

  test('is the three conditions together, said in another way', () => {
    fc.assert(
      fc.property(filters, events, (wanted, event) => {
        const kinds = [KIND.commit, KIND.sync, KIND.identity, KIND.account].filter(
          (kind) => Math.floor(wanted.kinds / 2 ** kind) % 2 === 1,
        );
        const byKind = kinds.includes(event.kind as never);
        const byDid = wanted.dids === null || [...wanted.dids].includes(event.did);
        const patterns = wanted.collections && [
          ...[...wanted.collections.exact].map((name) => `^${RegExp.escape(name)}$`),
          ...wanted.collections.prefixes.map((prefix) => `^${RegExp.escape(prefix)}`),
        ];
        const byCollection =
          event.kind !== KIND.commit ||
          patterns === null ||
          patterns.some((pattern) => new RegExp(pattern).test(event.collection));
        expect(matches(wanted, event)).toBe(byKind && byDid && byCollection);
      }),
      { numRuns: 2000 },
    );
  });
});
