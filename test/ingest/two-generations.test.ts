import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { TwoGenerations } from '../../src/ingest/two-generations.ts';

type Command =
  | { readonly kind: 'get' | 'delete'; readonly key: number }
  | { readonly kind: 'set'; readonly key: number; readonly value: number };

const command: fc.Arbitrary<Command> = fc.oneof(
  fc.record({ kind: fc.constantFrom('get' as const, 'delete' as const), key: fc.nat(12) }),
  fc.record({ kind: fc.constant('set' as const), key: fc.nat(12), value: fc.nat() }),
);

describe('a map of two generations', () => {
  test('never answers anything but the last value set, and never holds more than its bound', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 12 }), fc.array(command, { maxLength: 200 }), (max, commands) => {
        const map = new TwoGenerations<number, number>(max);
        const model = new Map<number, number>();
        for (const command of commands) {
          if (command.kind === 'set') {
            map.set(command.key, command.value);
            model.set(command.key, command.value);
            expect(map.get(command.key)).toBe(command.value);
          } else if (command.kind === 'delete') {
            map.delete(command.key);
            model.delete(command.key);
            expect(map.get(command.key)).toBeUndefined();
          } else {
            const found = map.get(command.key);
            if (found !== undefined) expect(found).toBe(model.get(command.key)!);
          }
          expect(map.size).toBeLessThanOrEqual(max);
        }
      }),
    );
  });

  test('keeps what is read between any two turns of the generations', () => {
    const map = new TwoGenerations<string, number>(10);
    map.set('kept', 1);
    for (let index = 0; index < 1_000; index++) {
      map.set(`other${index}`, index);
      if (index % 3 === 0) expect(map.get('kept')).toBe(1);
    }
    expect(map.get('kept')).toBe(1);
    expect(map.get('other0')).toBeUndefined();
  });

  test('holds the newest half of its bound at the least', () => {
    const map = new TwoGenerations<number, number>(100);
    for (let key = 0; key < 1_000; key++) map.set(key, key);
    for (let key = 951; key < 1_000; key++) expect(map.get(key)).toBe(key);
  });
});
