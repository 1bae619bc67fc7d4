import { expect, test } from 'bun:test';
import fc from 'fast-check';
import { formatTid, tidMicros } from '../../simulator/tid.ts';

/** The spec's own words: the 64-bit number, big end first, in base32-sortable, 13 characters. */
const bySpec = (micros: number, clockId: number): string => {
  const value = (BigInt(micros) << 10n) | BigInt(clockId);
  return value
    .toString(32)
    .padStart(13, '0')
    .replace(/./g, (digit) => '234567abcdefghijklmnopqrstuvwxyz'[Number.parseInt(digit, 32)]!);
};

test('a TID is its number in base32-sortable, and gives its microseconds back', () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.nat(1023), (micros, clockId) => {
      const tid = formatTid(micros, clockId);
      expect(tid).toBe(bySpec(micros, clockId));
      expect(tidMicros(tid)).toBe(micros);
    }),
  );
});
