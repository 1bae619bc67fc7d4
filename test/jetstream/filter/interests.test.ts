import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  BYTES_PER_DID,
  BYTES_PER_INTEREST,
  createInterests,
  type Group,
} from '../../../jetstream/filter/interests.ts';
import { matches } from '../../../jetstream/filter/match.ts';
import type { Filter, JetstreamEvent } from '../../../jetstream/types.ts';
import { KIND } from '../../../src/firehose/types.ts';
import { anEvent, COLLECTIONS, copyOf, DIDS, events, filters } from './generate.ts';

const EVERYTHING: Filter = { collections: null, dids: null, kinds: 0b11110, maxMessageSizeBytes: 0 };

type Step =
  | { readonly does: 'join'; readonly filter: Filter }
  | { readonly does: 'joinAgain'; readonly pick: number }
  | { readonly does: 'leave'; readonly pick: number }
  | { readonly does: 'route'; readonly events: readonly JetstreamEvent[] };

const steps: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ does: fc.constant('join' as const), filter: filters }),
  fc.record({ does: fc.constant('joinAgain' as const), pick: fc.nat() }),
  fc.record({ does: fc.constant('leave' as const), pick: fc.nat() }),
  fc.record({ does: fc.constant('route' as const), events: fc.array(events, { maxLength: 12 }) }),
);

/** What route must say, by asking each filter. */
const expectRouted = (
  live: readonly Group[],
  routed: readonly Group[],
  given: readonly JetstreamEvent[],
): void => {
  expect(new Set(routed).size).toBe(routed.length);
  const groups = new Set(live);
  for (const group of routed) expect(groups.has(group)).toBe(true);
  for (const group of groups) {
    const wanted = given.filter((event) => matches(group.filter, event));
    expect(routed.includes(group)).toBe(wanted.length > 0);
    if (wanted.length > 0) {
      expect(group.batch.length).toBe(wanted.length);
      for (const [i, event] of wanted.entries()) expect(group.batch[i]).toBe(event);
    }
  }
};

describe('interests', () => {
  test('give every group exactly what its filter matches, in order, after any joins and leaves', () => {
    fc.assert(
      fc.property(fc.array(steps, { maxLength: 60 }), (run) => {
        const interests = createInterests();
        /** One entry for each member. */
        const members: Group[] = [];
        for (const step of run) {
          if (step.does === 'join') {
            members.push(interests.join(step.filter)!);
          } else if (step.does === 'joinAgain' && members.length > 0) {
            const { filter } = members[step.pick % members.length]!;
            members.push(interests.join(copyOf(filter))!);
            expect(members[members.length - 1]!.filter).toBe(filter);
          } else if (step.does === 'leave' && members.length > 0) {
            interests.leave(members.splice(step.pick % members.length, 1)[0]!);
          } else if (step.does === 'route') {
            expectRouted(members, interests.route(step.events), step.events);
          }
          const live = new Set(members);
          expect(interests.stats.groups).toBe(live.size);
          expect(interests.stats.dids).toBe(
            [...live].reduce((sum, { filter }) => sum + (filter.dids?.size ?? 0), 0),
          );
          expect(interests.stats.distinctDids).toBe(
            new Set([...live].flatMap(({ filter }) => [...(filter.dids ?? [])])).size,
          );
          for (const group of live) {
            expect(group.members).toBe(members.filter((member) => member === group).length);
          }
        }
        for (const member of members) interests.leave(member);
        expect(interests.stats).toEqual({ groups: 0, dids: 0, distinctDids: 0, bytes: 0 });
        expect(interests.route([anEvent()])).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });

  test('share a group among equal filters only', () => {
    const interests = createInterests<string>();
    const filter: Filter = {
      collections: { exact: new Set(COLLECTIONS), prefixes: ['a.', 'b.'] },
      dids: new Set(DIDS),
      kinds: 0b11110,
      maxMessageSizeBytes: 0,
    };
    const group = interests.join(filter)!;
    group.attachment = 'mine';
    expect(interests.join(copyOf(filter))).toBe(group);
    const others: Filter[] = [
      { ...filter, maxMessageSizeBytes: 1 },
      { ...filter, kinds: 0b10 },
      { ...filter, dids: null },
      { ...filter, dids: new Set() },
      { ...filter, dids: new Set(DIDS.slice(1)) },
      { ...filter, dids: new Set([...DIDS.slice(1), 'did:web:example.com']) },
      { ...filter, collections: null },
      { ...filter, collections: { exact: new Set(), prefixes: ['a.', 'b.'] } },
      { ...filter, collections: { exact: new Set(COLLECTIONS), prefixes: ['a.'] } },
    ];
    const groups = new Set([group, ...others.map((other) => interests.join(other)!)]);
    expect(groups.size).toBe(others.length + 1);
    interests.leave(group);
    expect(group.attachment).toBe('mine');
    interests.leave(group);
    expect(group.attachment).toBeUndefined();
    expect(() => interests.leave(group)).toThrow();
  });

  test('hold equal DIDs of different filters once', () => {
    const interests = createInterests();
    // As they come from outside: equal, and not the same.
    const parsed = () => new Set<string>(JSON.parse(JSON.stringify(DIDS)));
    const first = interests.join({ ...EVERYTHING, dids: parsed() })!;
    interests.join({ ...EVERYTHING, dids: parsed(), kinds: 0b10 });
    const length = DIDS.reduce((sum, did) => sum + did.length, 0);
    expect(interests.stats).toEqual({
      groups: 2,
      dids: 24,
      distinctDids: 12,
      bytes: 24 * BYTES_PER_INTEREST + 12 * BYTES_PER_DID + length,
    });
    interests.leave(first);
    expect(interests.stats).toMatchObject({ groups: 1, dids: 12, distinctDids: 12 });
    expect(interests.route([anEvent()])).toHaveLength(1);
  });

  test('refuse DIDs beyond their bound, and nothing else', () => {
    const size = DIDS.reduce((sum, did) => sum + did.length + BYTES_PER_DID + BYTES_PER_INTEREST, 0);
    const interests = createInterests({ maxBytes: size });
    const full = interests.join({ ...EVERYTHING, dids: new Set(DIDS) })!;
    expect(interests.stats.bytes).toBe(size);
    expect(interests.join({ ...EVERYTHING, dids: new Set(['did:web:example.com']) })).toBeNull();
    expect(interests.join({ ...EVERYTHING, dids: new Set(DIDS) })).toBe(full);
    expect(interests.join(EVERYTHING)).not.toBeNull();
    expect(interests.join({ ...EVERYTHING, dids: new Set() })).not.toBeNull();
    interests.leave(full);
    interests.leave(full);
    expect(interests.join({ ...EVERYTHING, dids: new Set(['did:web:example.com']) })).not.toBeNull();
  });

  test('ask of each event the same few things, be there one DID or 10,000', () => {
    const asked = (count: number): number => {
      let questions = 0;
      const interests = createInterests();
      for (let client = 0; client < 50; client++) {
        const dids = Array.from({ length: count }, (_, i) => `did:web:c${client}n${i}.example`);
        interests.join({ ...EVERYTHING, dids: new Set(dids) });
      }
      const counting = new Proxy(anEvent({ kind: KIND.identity, did: 'did:web:c7n0.example' }), {
        get(target, name: keyof JetstreamEvent) {
          questions++;
          return target[name];
        },
      });
      expect(interests.route([counting])).toHaveLength(1);
      return questions;
    };
    expect(asked(10_000 / 50)).toBe(asked(1));
  });
});
