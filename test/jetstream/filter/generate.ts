import fc from 'fast-check';
import type { Filter, JetstreamEvent } from '../../../jetstream/types.ts';
import { KIND } from '../../../src/firehose/types.ts';

/** Few enough that filters and events meet. */
export const DIDS = Array.from({ length: 12 }, (_, i) => `did:plc:${'abcdefghijkl'[i]!.repeat(24)}`);
export const COLLECTIONS = [
  'app.bsky.feed.post',
  'app.bsky.feed.postgate',
  'app.bsky.feed.like',
  'app.bsky.graph.follow',
  'app.bskyx.feed.post',
  'chat.example.message',
  'com.example.a.b.c.d.thing',
];
const PREFIXES = [
  'app.',
  'app.bsky.',
  'app.bsky.feed.',
  'app.bsky.feed.post.',
  '.',
  'com.example.a.',
  'app.bsk',
  '',
];
const KINDS = [KIND.commit, KIND.sync, KIND.identity, KIND.account] as const;

export const anEvent = (more: Partial<JetstreamEvent> = {}): JetstreamEvent => ({
  kind: KIND.commit,
  seq: 1,
  opIndex: 0,
  timeUs: 1_700_000_000_000_000,
  did: DIDS[0]!,
  collection: COLLECTIONS[0]!,
  rkey: '3kabcdefghij2',
  operation: 'create',
  source: null as never,
  ...more,
});

export const events = fc
  .record({
    kind: fc.constantFrom(...KINDS),
    did: fc.constantFrom(...DIDS),
    collection: fc.constantFrom(...COLLECTIONS),
    seq: fc.nat(),
  })
  .map((made) => anEvent({ ...made, collection: made.kind === KIND.commit ? made.collection : '' }));

export const filters: fc.Arbitrary<Filter> = fc.record({
  collections: fc.option(
    fc.record({
      exact: fc.uniqueArray(fc.constantFrom(...COLLECTIONS), { maxLength: 4 }).map((list) => new Set(list)),
      prefixes: fc.array(fc.constantFrom(...PREFIXES), { maxLength: 3 }),
    }),
  ),
  dids: fc.option(fc.uniqueArray(fc.constantFrom(...DIDS), { maxLength: 8 }).map((list) => new Set(list))),
  kinds: fc.nat(31).map((bits) => bits & 0b11110),
  maxMessageSizeBytes: fc.constantFrom(0, 0, 0, 1000),
});

/** The filter without anything of it shared, in another order. */
export const copyOf = (filter: Filter): Filter => ({
  ...filter,
  collections:
    filter.collections === null
      ? null
      : {
          exact: new Set([...filter.collections.exact].reverse()),
          prefixes: [...filter.collections.prefixes].reverse(),
        },
  dids: filter.dids === null ? null : new Set([...filter.dids].reverse()),
});
