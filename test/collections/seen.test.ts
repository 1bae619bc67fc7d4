import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { words } from '../../src/collections/store/did.ts';
import { createSeenPairs } from '../../src/collections/store/seen.ts';

/** Sets the words that the table reads to those of the nth account. */
const account = (n: number): void => {
  for (let word = 0; word < 4; word++) words[word] = (Math.imul(n + 1, 0x2545f491 + word * 0x9e37) >>> 2) | 0;
};

describe('pairs that were seen', () => {
  test('are never taken for others, whatever is added, changed, removed and forgotten', () => {
    const step = fc.record({
      what: fc.constantFrom('add', 'add', 'add', 'remove', 'clear'),
      account: fc.nat(40),
      collection: fc.integer({ min: 1, max: 6 }),
      hostId: fc.integer({ min: 1, max: 3 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300 }), fc.constantFrom(4, 16, 64), (steps, size) => {
        const seen = createSeenPairs(size);
        const model = new Map<string, number>();
        for (const { what, account: n, collection, hostId } of steps) {
          account(n);
          const key = `${n} ${collection}`;
          if (what === 'add') {
            seen.add(collection, hostId);
            model.set(key, hostId);
            expect(seen.has(collection, hostId)).toBe(true);
          } else if (what === 'remove') {
            seen.remove(collection);
            model.delete(key);
          } else if (n === 0) {
            seen.clear();
            model.clear();
          }
        }
        for (let n = 0; n <= 40; n++)
          for (let collection = 1; collection <= 6; collection++)
            for (let hostId = 1; hostId <= 3; hostId++) {
              account(n);
              if (seen.has(collection, hostId)) expect(model.get(`${n} ${collection}`)).toBe(hostId);
            }
      }),
    );
  });

  test('are remembered as the table grows from a small one, but for the few that fall together', () => {
    const seen = createSeenPairs(1 << 20);
    const known = (): number => {
      let count = 0;
      for (let n = 0; n < 100_000; n++) {
        account(n);
        if (seen.has(2, 7)) count++;
      }
      return count;
    };
    for (let n = 0; n < 100_000; n++) {
      account(n);
      seen.add(2, 7);
    }
    expect(known()).toBeGreaterThan(90_000);
    seen.clear();
    expect(known()).toBe(0);
  });

  test('have a size that is a power of two', () => {
    for (const size of [0, 3, 6, 100]) expect(() => createSeenPairs(size)).toThrow('power of two');
  });
});
