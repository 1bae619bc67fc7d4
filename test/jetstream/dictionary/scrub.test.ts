import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { scrub } from '../../../jetstream/dictionary/scrub.ts';
import { isStructure, KEYS, TYPES } from '../../../jetstream/dictionary/structure.ts';
import { madeMessages } from '../../../jetstream/dictionary/synthetic/messages.ts';
import { trainDictionary } from '../../../jetstream/dictionary/train/train.ts';
import { createRandom } from '../../../simulator/random.ts';

const scrubbed = (value: unknown, seed = 1): string => {
  const result = scrub(JSON.stringify(value), createRandom(seed));
  if (result === null) throw new Error('not an object');
  return result;
};

/** Strings and fields of a value, wherever they stand. */
const partsOf = (
  value: unknown,
  strings: string[] = [],
  keys: string[] = [],
): { strings: string[]; keys: string[] } => {
  if (typeof value === 'string') strings.push(value);
  else if (Array.isArray(value)) for (const each of value) partsOf(each, strings, keys);
  else if (typeof value === 'object' && value !== null)
    for (const [key, each] of Object.entries(value)) {
      keys.push(key);
      partsOf(each, strings, keys);
    }
  return { strings, keys };
};

const SHAPES: readonly RegExp[] = [
  /^did:plc:[a-z2-7]{24}$/,
  /^did:web:[a-z.]+$/,
  /^bafyrei[a-z2-7]{52}$/,
  /^bafkrei[a-z2-7]{52}$/,
  /^[2-7a-j][2-7a-z]{12}$/,
  /^at:\/\/did:plc:[a-z2-7]{24}\/[\w.]+\/[2-7a-z]{13}$/,
  /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$/,
  /^[a-z]+\.bsky\.social$/,
  /^https:\/\/www\.youtube\.com\/watch\?v=\w+$/,
];

/** Words that no list of ours has: of these letters alone, and long enough not to come up by chance. */
const secret = fc.string({ unit: fc.constantFrom(...'qxzjkvwQXZ'), minLength: 12, maxLength: 30 });
/** Each puts a secret into one of the places where people's words and names are. */
const places: readonly ((word: string) => string)[] = [
  (word) => word,
  (word) => `${word}, and ${word}!\n${word}`,
  (word) => `did:web:${word.toLowerCase()}.example`,
  (word) => `did:example:${word}`,
  (word) => `${word.toLowerCase()}.bsky.social`,
  (word) => `blog.${word.toLowerCase()}.com`,
  (word) => `https://${word.toLowerCase()}.net/${word}?${word}=${word}#${word}`,
  (word) => `https://www.youtube.com/watch?v=${word}`,
  (word) => `http://user:${word}@bsky.app/`,
  (word) => `at://did:web:${word.toLowerCase()}/app.bsky.feed.post/${word}`,
  (word) => `at://${word.toLowerCase()}.com/com.${word.toLowerCase()}.thing/self`,
  (word) => `app.bsky.feed.post#${word}`,
  (word) => `com.${word.toLowerCase()}.thing`,
  (word) => `image/${word}`,
  (word) => `${word}${word}${word}`,
  (word) => `日本語 ${word} ☂`,
];
const string = fc.tuple(secret, fc.constantFrom(...places)).map(([word, place]) => place(word));
const record = fc.letrec<{ value: unknown; record: Record<string, unknown> }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    string,
    fc.boolean(),
    fc.constant(null),
    fc.array(tie('value'), { maxLength: 3 }),
    tie('record'),
  ),
  record: fc.dictionary(fc.oneof(secret, fc.constantFrom(...KEYS)), tie('value'), { maxKeys: 5 }),
})).record;

/** Every run of ten letters of the secrets' alphabet. */
const runs = (text: string): string[] => text.match(/[qxzjkvw]{10,}/gi) ?? [];

describe('scrubbing', () => {
  test('leaves no word, name, link or key of people, wherever it stands', () => {
    fc.assert(
      fc.property(record, fc.nat(), (value, seed) => {
        const result = scrubbed({ kind: 'commit', commit: { record: value } }, seed);
        expect(runs(result)).toEqual([]);
        const before = partsOf(value);
        for (const text of [...before.strings, ...before.keys])
          if (!isStructure(text) && !KEYS.has(text)) expect(result).not.toContain(text);
      }),
      { numRuns: 500 },
    );
  });

  test('leaves no identifier of a message, and each of its shape', () => {
    for (const { json } of madeMessages(500, 3)) {
      const result = scrubbed(JSON.parse(json), 4);
      const before = partsOf(JSON.parse(json));
      const after = partsOf(JSON.parse(result));
      expect(after.keys).toEqual(before.keys);
      expect(after.strings.length).toBe(before.strings.length);
      for (const [i, text] of before.strings.entries()) {
        const now = after.strings[i]!;
        if (text === '' || isStructure(text)) {
          expect(now).toBe(text);
          continue;
        }
        if (text.length >= 10) expect(result).not.toContain(text);
        for (const shape of SHAPES) if (shape.test(text)) expect(now).toMatch(shape);
        expect(Math.abs(now.length - text.length)).toBeLessThan(30);
      }
      expect(Math.abs(result.length - json.length)).toBeLessThan(json.length / 2);
    }
  });

  test('makes the same of the same within a message, so that what repeats still does', () => {
    const did = 'did:plc:qqqqqqqqqqqqqqqqqqqqqqqq';
    const result = JSON.parse(
      scrubbed({ did, kind: 'identity', identity: { did, handle: 'qqqqq.bsky.social' } }),
    );
    expect(result.identity.did).toBe(result.did);
    expect(result.did).not.toBe(did);
    expect(result.identity.handle).toEndWith('.bsky.social');
  });

  test('replaces numbers that could name someone, and keeps instants together', () => {
    const given = {
      did: 'did:plc:x',
      time_us: 1_700_000_000_000_000,
      seq: 29_876_543_210,
      record: { size: 4_915_551_234, width: 640, start: 48.137154, duration: -123_456 },
    };
    const result = JSON.parse(scrubbed({ ...given, time: '2023-11-14T22:13:20.123Z' }));
    expect(result.time_us).not.toBe(given.time_us);
    expect(Math.floor(result.time_us / 1_000)).toBe(Date.parse(result.time));
    expect(String(result.seq)).toHaveLength(11);
    expect(result.seq).not.toBe(given.seq);
    expect(result.record.size).not.toBe(given.record.size);
    expect(result.record.start).not.toBe(given.record.start);
    expect(result.record.duration).toBeLessThan(-99_999);
    expect(result.record.duration).not.toBe(given.record.duration);
    expect(result.record.width).toBe(640);
  });

  test('takes what is no message, or too deep, or full of odd numbers', () => {
    for (const line of ['', 'x', '[1]', '"text"', '12', 'null', '{"a":'])
      expect(scrub(line, createRandom(1))).toBeNull();
    const deep = `${'{"record":'.repeat(5_000)}"qxzjkvwqxzjkvw"${'}'.repeat(5_000)}`;
    expect(scrub(deep, createRandom(1))).not.toContain('qxzjkvw');
    fc.assert(
      fc.property(fc.double(), (number) => {
        const { record: after } = JSON.parse(scrubbed({ record: { size: number } }));
        expect(after.size === null || Number.isFinite(after.size)).toBe(true);
      }),
    );
    expect(scrub('{"__proto__":{"text":"qxzjkvwqxzjkvw"}}', createRandom(1))).not.toContain('qxzjkvw');
  });
});

describe('a dictionary trained on people’s messages', () => {
  const did = 'did:plc:qxzqxzqxzqxzqxzqxzqxzqxz';
  const words = 'Qxzjkvw qxzjkvwq zzxqjkvwqx';
  const handle = 'qxzjkvwqxz.bsky.social';
  /** All by one who always says the same: nothing would be chosen sooner. */
  const lines = madeMessages(300, 6).map(({ json }) => {
    const message = JSON.parse(json) as Record<string, unknown>;
    return JSON.stringify({
      ...message,
      did,
      commit: { record: { $type: 'app.bsky.feed.post', text: words, via: handle } },
    });
  });
  const options = { maxBytes: 8_000, segmentBytes: 600, id: null };
  const textOf = (samples: readonly string[]): string =>
    Buffer.from(
      trainDictionary(
        samples.map((line) => Buffer.from(line)),
        options,
      ),
    ).toString('latin1');

  test('holds none of their words, names and DIDs', () => {
    const random = createRandom(9);
    const dictionary = textOf(lines.map((line) => scrub(line, random)!));
    expect(runs(dictionary)).toEqual([]);
    for (const text of [did, words, handle, ...words.split(' ')]) expect(dictionary).not.toContain(text);
    // What it is for.
    expect(dictionary).toContain('"$type":"app.bsky.feed.post"');
  });

  test('would hold them all without the scrubbing', () => {
    const dictionary = textOf(lines);
    for (const text of [did, words, handle]) expect(dictionary).toContain(text);
  });
});

describe('the closed list', () => {
  test('has every field, type and constant of the made-up messages', () => {
    for (const { json } of madeMessages(3_000, 12)) {
      const { strings, keys } = partsOf(JSON.parse(json));
      for (const key of keys) expect(KEYS.has(key) ? '' : key).toBe('');
      for (const text of strings)
        if (
          /^(app|com|chat|fm|sh|pub|place|site|blue|xyz|social|events|community)\.[a-z.]+\.\w+(#\w+)?$/i.test(
            text,
          ) &&
          !/\.(com|social)$/.test(text)
        )
          expect(TYPES.has(text) ? '' : text).toBe('');
    }
  });
});
