import { describe, expect, test } from 'bun:test';
import { isDid, isNsid, isPath, isRecordKey, isTid, tidMicroseconds } from '../../src/repo/syntax.ts';
import { linesFixture } from './support.ts';

describe('identifier syntax agrees with the interop vectors', () => {
  const cases: [string, (text: string) => boolean][] = [
    ['did', isDid],
    ['tid', isTid],
    ['nsid', isNsid],
    ['recordkey', isRecordKey],
  ];
  for (const [name, check] of cases) {
    test(`${name}: every valid one is accepted, every invalid one refused`, () => {
      const valid = linesFixture(`interop/syntax/${name}_syntax_valid.txt`);
      const invalid = linesFixture(`interop/syntax/${name}_syntax_invalid.txt`);
      if (valid === null || invalid === null) return;
      expect(valid.length).toBeGreaterThan(3);
      expect(invalid.length).toBeGreaterThan(3);
      expect(valid.filter((text) => !check(text))).toEqual([]);
      expect(invalid.filter(check)).toEqual([]);
    });
  }
});

describe('identifier syntax', () => {
  test('length limits are exact', () => {
    expect(isDid(`did:plc:${'a'.repeat(2040)}`)).toBe(true);
    expect(isDid(`did:plc:${'a'.repeat(2041)}`)).toBe(false);
    expect(isRecordKey('a'.repeat(512))).toBe(true);
    expect(isRecordKey('a'.repeat(513))).toBe(false);
    expect(isNsid(`com.${'a'.repeat(63)}.name`)).toBe(true);
    expect(isNsid(`com.${'a'.repeat(64)}.name`)).toBe(false);
  });

  test('a path is an NSID, one slash and a record key', () => {
    expect(isPath('app.bsky.feed.post/3l6oveex3ii2l')).toBe(true);
    for (const wrong of [
      'app.bsky.feed.post',
      'app.bsky.feed.post/',
      '/3l6o',
      'a/b',
      'app.bsky.feed.post/a/b',
    ]) {
      expect(isPath(wrong)).toBe(false);
    }
    expect(isPath('app.bsky.feed.post/ä')).toBe(false);
  });

  test('a TID names its microseconds exactly', () => {
    const alphabet = '234567abcdefghijklmnopqrstuvwxyz';
    for (const time of [0n, 1n, 1_763_683_505_157_123n, (1n << 53n) - 1n]) {
      let value = (time << 10n) | 7n;
      let tid = '';
      for (let index = 0; index < 13; index++) {
        tid = alphabet[Number(value & 31n)] + tid;
        value >>= 5n;
      }
      expect(isTid(tid)).toBe(true);
      expect(BigInt(tidMicroseconds(tid))).toBe(time);
    }
  });
});
