import { expect, test } from 'bun:test';
import fc from 'fast-check';
import { createSchedule } from '../../src/hosts/schedule.ts';

test('a schedule gives out exactly what is due, earliest first, however its members were moved', () => {
  const move = fc.record({ member: fc.nat(60), due: fc.option(fc.nat(1_000), { nil: null }) });
  fc.assert(
    fc.property(fc.array(move, { minLength: 150, maxLength: 300 }), fc.nat(1_000), (moves, nowMs) => {
      const schedule = createSchedule<{ id: number }>();
      const members = Array.from({ length: 61 }, (_, id) => ({ id }));
      const model = new Map<number, number>();
      for (const { member, due } of moves) {
        schedule.set(members[member]!, due);
        if (due === null) model.delete(member);
        else model.set(member, due);
      }
      expect(schedule.size).toBe(model.size);
      expect(schedule.earliestMs).toBe(model.size === 0 ? null : Math.min(...model.values()));
      const given: number[] = [];
      for (let next = schedule.takeDue(nowMs); next !== null; next = schedule.takeDue(nowMs)) {
        given.push(model.get(next.id)!);
        model.delete(next.id);
      }
      expect(given).toEqual(given.toSorted((a, b) => a - b));
      expect([...model.values()].every((due) => due > nowMs)).toBe(true);
    }),
    { numRuns: 300 },
  );
});
