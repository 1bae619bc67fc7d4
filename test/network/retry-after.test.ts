import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { readRetryAfter } from '../../src/network/retry-after.ts';

const nowMs = Date.UTC(2026, 0, 1);

describe('Retry-After', () => {
  test('is seconds or a date, never negative, and null when it is neither', () => {
    expect(readRetryAfter('120', nowMs)).toBe(120_000);
    expect(readRetryAfter(' 0.25 ', nowMs)).toBe(250);
    expect(readRetryAfter('Thu, 01 Jan 2026 00:01:00 GMT', nowMs)).toBe(60_000);
    expect(readRetryAfter('Wed, 31 Dec 2025 00:01:00 GMT', nowMs)).toBe(0);
    for (const bad of [null, undefined, '', 'soon', '-5', '1e9', '99999999999999999999', '2026-01-01'])
      expect(readRetryAfter(bad, nowMs)).toBeNull();
  });

  test('whatever stands in it, nothing throws and no wait is negative or endless', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.string().map((text) => `Thu, ${text}`),
        ),
        (value) => {
          const waitMs = readRetryAfter(value, nowMs);
          return waitMs === null || (waitMs >= 0 && Number.isFinite(waitMs));
        },
      ),
    );
  });
});
