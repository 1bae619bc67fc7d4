import { describe, expect, test } from 'bun:test';
import { lexParse, lexStringify } from '@atproto/lex-json';
import * as dagCbor from '@ipld/dag-cbor';
import fc from 'fast-check';
import { CID } from 'multiformats/cid';
import { MAX_RECORD_NESTING, recordJson } from '../../../jetstream/encode/record-json.ts';
import { skipItem } from '../../../src/firehose/cbor.ts';
import { choices, cidOf, concat } from '../../repo/support.ts';
import { anyFloat, anyInteger, anyLink, anyRecord, anyText, jsonOf, judgedJson } from './support.ts';

type LexValue = Parameters<typeof lexStringify>[0];

const json = (value: unknown): string => jsonOf(recordJson(dagCbor.encode(value)));
/** The JSON of one value, of any text of CBOR. */
const ofItem = (...item: number[]): string | null => {
  const bytes = recordJson(Uint8Array.of(0xa1, 0x61, 0x61, ...item));
  return bytes === null ? null : jsonOf(bytes).slice('{"a":'.length, -1);
};
/** What the firehose takes as a record. */
const isRecord = (bytes: Uint8Array): boolean =>
  bytes.length > 0 && bytes[0]! >> 5 === 5 && skipItem(bytes, 0, bytes.length, 0) === bytes.length;

/** Whether objects of JavaScript keep the order of the keys, and readers of links take no map for one. */
function isPlain(value: unknown): boolean {
  if (Array.isArray(value)) return value.every(isPlain);
  if (value === null || typeof value !== 'object' || value instanceof Uint8Array) return true;
  if (CID.asCID(value) !== null) return true;
  return Object.entries(value).every(
    ([key, held]) => !/^(\d+|__proto__|toJSON)$/.test(key) && !key.startsWith('$') && isPlain(held),
  );
}

describe('a record as JSON', () => {
  test('is what the judges make of it, to the letter, for any record', () => {
    fc.assert(
      fc.property(anyRecord, (value) => {
        const bytes = dagCbor.encode(value);
        expect(jsonOf(recordJson(bytes))).toBe(judgedJson(bytes));
      }),
      { numRuns: 1500 },
    );
  });

  test('is what @atproto/lex-json writes, and what it reads is the record', () => {
    let compared = 0;
    fc.assert(
      fc.property(anyRecord, (value) => {
        const bytes = dagCbor.encode(value);
        const text = jsonOf(recordJson(bytes));
        const decoded = dagCbor.decode(bytes) as LexValue;
        if (!isPlain(decoded)) return;
        compared++;
        expect(text).toBe(lexStringify(decoded));
        // The round trip goes through the judge alone: its reading of our text, encoded again.
        expect(Buffer.from(dagCbor.encode(withoutMinusZero(lexParse(text)))).toString('hex')).toBe(
          Buffer.from(dagCbor.encode(withoutMinusZero(decoded))).toString('hex'),
        );
        expect(JSON.stringify(JSON.parse(text))).toBe(text);
      }),
      { numRuns: 1000 },
    );
    expect(compared).toBeGreaterThan(300);
  });

  test('has every text as JSON.stringify has it', () => {
    fc.assert(
      fc.property(anyText, (text) =>
        expect(json({ a: text, [text]: 1, '': [text] })).toContain(JSON.stringify(text)),
      ),
    );
    let all = '';
    for (let code = 0; code <= 0x10ffff; code++) {
      if (code >= 0xd800 && code <= 0xdfff) continue;
      all += String.fromCodePoint(code);
      if (all.length < 4096 && code !== 0x10ffff) continue;
      if (json({ a: all }) !== `{"a":${JSON.stringify(all)}}`) throw new Error(`differs before ${code}`);
      all = '';
    }
  });

  test('has every integer with all its digits', () => {
    fc.assert(fc.property(anyInteger, (value) => expect(json({ a: value })).toBe(`{"a":${value}}`)));
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 64n), max: 2n ** 64n - 1n }), (value) => {
        if (value <= Number.MAX_SAFE_INTEGER && value >= Number.MIN_SAFE_INTEGER) return;
        expect(json({ a: value })).toBe(`{"a":${value}}`);
      }),
    );
    for (const value of [2n ** 53n, -(2n ** 53n), 2n ** 53n - 1n, 1n - 2n ** 53n, 2n ** 63n, -(2n ** 64n)]) {
      expect(json({ a: value })).toBe(`{"a":${value}}`);
    }
  });

  test('has every float as JSON.stringify has it, minus zero too', () => {
    fc.assert(
      fc.property(anyFloat, (value) => {
        const bytes = new Uint8Array(8);
        new DataView(bytes.buffer).setFloat64(0, value);
        expect(ofItem(0xfb, ...bytes)).toBe(JSON.stringify(value));
      }),
    );
    expect(ofItem(0xfb, 0x80, 0, 0, 0, 0, 0, 0, 0)).toBe('0');
  });

  test('has links as the text of their CID, of whatever version and codec', () => {
    fc.assert(fc.property(anyLink, (link) => expect(json({ a: link })).toBe(`{"a":{"$link":"${link}"}}`)));
  });

  test('has byte strings as base64 without padding, of any length', () => {
    const draw = choices(1);
    for (let length = 0; length < 300; length++) {
      const bytes = Uint8Array.from({ length }, () => draw(256));
      const text = Buffer.from(bytes).toString('base64').replaceAll('=', '');
      expect(json({ a: bytes })).toBe(`{"a":{"$bytes":"${text}"}}`);
    }
  });

  test('has literal forms for what is empty, nested, and constant', () => {
    const blob = cidOf(Buffer.from('a blob'), 0x55);
    expect(json({})).toBe('{}');
    expect(json({ a: {}, b: [], c: '', d: new Uint8Array(0) })).toBe(
      '{"a":{},"b":[],"c":"","d":{"$bytes":""}}',
    );
    expect(json({ n: null, t: true, f: false, l: [[], [{}], [null]] })).toBe(
      '{"f":false,"l":[[],[{}],[null]],"n":null,"t":true}',
    );
    expect(json({ image: { $type: 'blob', ref: blob, mimeType: 'image/png', size: 5 } })).toBe(
      `{"image":{"ref":{"$link":"${blob}"},"size":5,"$type":"blob","mimeType":"image/png"}}`,
    );
    expect(json({ text: '"\\/\b\t\n\f\r\u0001\u001f\u007f\u2028é😀' })).toBe(
      '{"text":"\\"\\\\/\\b\\t\\n\\f\\r\\u0001\\u001f\u007f\u2028é😀"}',
    );
  });

  test('keeps the order of the encoding, of keys that look like integers, too', () => {
    const bytes = dagCbor.encode({ bb: 1, 10: 2, 9: 3, __proto: 4, a: 5 });
    expect(jsonOf(recordJson(bytes))).toBe('{"9":3,"a":5,"10":2,"bb":1,"__proto":4}');
    const proto = concat([0xa1, 0x69], Buffer.from('__proto__'), [0x01]);
    expect(jsonOf(recordJson(proto))).toBe('{"__proto__":1}');
  });

  test('nests as deep as the bound says and no deeper', () => {
    const nested = (depth: number, head: number[]): Uint8Array =>
      // The outer map is one of them.
      Uint8Array.of(0xa1, 0x61, 0x61, ...Array.from({ length: depth - 1 }, () => head).flat(), 0xf6);
    for (const head of [[0x81], [0xa1, 0x61, 0x61]]) {
      const deepest = nested(MAX_RECORD_NESTING, head);
      expect(jsonOf(recordJson(deepest))).toBe(judgedJson(deepest));
      expect(recordJson(nested(MAX_RECORD_NESTING + 1, head))).toBeNull();
      expect(recordJson(nested(100_000, head))).toBeNull();
    }
  });

  test('is written where there is room for it, however much longer than the record it is', () => {
    for (const item of [[0x40], [0x61, 0x00], [0xf4], [0x80], [0xa0], [0x3b, ...Array(8).fill(0xff)]]) {
      const count = 60_000;
      const bytes = concat(
        [0xa1, 0x61, 0x61, 0x99, count >> 8, count & 255],
        Array.from({ length: count }, () => item).flat(),
      );
      expect(jsonOf(recordJson(bytes))).toBe(judgedJson(bytes));
    }
    const long = {
      text: '\u0001'.repeat(300_000),
      wide: '😀'.repeat(50_000),
      bytes: new Uint8Array(100_001),
    };
    expect(json(long)).toBe(judgedJson(dagCbor.encode(long)));
    expect(json({ a: 1 })).toBe('{"a":1}');
  });

  test('is memory of its own: the next record does not change it', () => {
    const first = recordJson(dagCbor.encode({ text: 'first' }))!;
    recordJson(dagCbor.encode({ text: 'other' }));
    expect(jsonOf(first)).toBe('{"text":"first"}');
    expect(first.byteLength).toBe(first.buffer.byteLength);
  });
});

describe('a record has no JSON', () => {
  test('when it is not one canonical map', () => {
    const cases: Record<string, number[]> = {
      nothing: [],
      'an array': [0x80],
      'a text': [0x60],
      'a number': [0x00],
      'bytes after it': [0xa0, 0x00],
      'cut inside a key': [0xa1, 0x62, 0x61],
      'cut before a value': [0xa1, 0x61, 0x61],
      'cut inside a text': [0xa1, 0x61, 0x61, 0x62, 0x61],
      'cut inside a head': [0xa1, 0x61, 0x61, 0x78],
      'a key that is no text': [0xa1, 0x00, 0x00],
      'keys out of order': [0xa2, 0x61, 0x62, 0x00, 0x61, 0x61, 0x00],
      'a key twice': [0xa2, 0x61, 0x61, 0x00, 0x61, 0x61, 0x00],
      'a map without end': [0xbf, 0xff],
      'a longer head than needed': [0xb8, 0x00],
      'a count beyond the bytes': [0xba, 0xff, 0xff, 0xff, 0xff],
    };
    for (const [name, bytes] of Object.entries(cases)) {
      expect([name, recordJson(Uint8Array.from(bytes))]).toEqual([name, null]);
    }
  });

  test('when a value in it is not DAG-CBOR', () => {
    const cases: Record<string, number[]> = {
      undefined: [0xf7],
      'a float of 16 bits': [0xf9, 0x3c, 0x00],
      'a float of 32 bits': [0xfa, 0x3f, 0x80, 0x00, 0x00],
      NaN: [0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
      infinity: [0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0],
      'an integer with a longer head': [0x18, 0x17],
      'a text with a longer head': [0x78, 0x01, 0x61],
      'a text of unknown length': [0x7f, 0x61, 0x61, 0xff],
      'an array of unknown length': [0x9f, 0xff],
      'another tag': [0xc1, 0x00],
      'a link that is no CID': [0xd8, 0x2a, 0x42, 0x00, 0x01],
      'a link without its zero': [0xd8, 0x2a, 0x42, 0x01, 0x71],
      'a text of 2^32 bytes': [0x7b, 0, 0, 0, 1, 0, 0, 0, 0],
    };
    for (const [name, item] of Object.entries(cases)) expect([name, ofItem(...item)]).toEqual([name, null]);
  });

  test('when a text in it is not UTF-8: overlong, a surrogate, too high, cut, or begun in the middle', () => {
    const cases = [
      [0x80],
      [0xbf],
      [0xc0, 0x80],
      [0xc1, 0xbf],
      [0xc2],
      [0xc2, 0x41],
      [0xe0, 0x80, 0x80],
      [0xe0, 0x9f, 0xbf],
      [0xed, 0xa0, 0x80],
      [0xed, 0xbf, 0xbf],
      [0xe2, 0x82],
      [0xe2, 0x82, 0x41],
      [0xf0, 0x80, 0x80, 0x80],
      [0xf0, 0x8f, 0xbf, 0xbf],
      [0xf4, 0x90, 0x80, 0x80],
      [0xf5, 0x80, 0x80, 0x80],
      [0xf0, 0x9f, 0x98],
      [0xf0, 0x9f, 0x98, 0x41],
      [0xff],
    ];
    for (const bytes of cases) {
      expect(() => new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(bytes))).toThrow();
      // As a value, before other text, and as a key.
      expect(ofItem(0x60 + bytes.length, ...bytes)).toBeNull();
      expect(ofItem(0x61 + bytes.length, ...bytes, 0x41)).toBeNull();
      expect(recordJson(Uint8Array.of(0xa1, 0x60 + bytes.length, ...bytes, 0x00))).toBeNull();
    }
  });

  test('exactly when the firehose would refuse it: random bytes and changed records, never a throw', () => {
    const decoder = new TextDecoder('utf-8', { fatal: true });
    let shown = 0;
    let refused = 0;
    const check = (bytes: Uint8Array): void => {
      const text = recordJson(bytes);
      if (isRecord(bytes)) {
        shown++;
        JSON.parse(decoder.decode(text!));
        return;
      }
      refused++;
      expect(text).toBeNull();
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), check), { numRuns: 2000 });
    fc.assert(
      fc.property(
        anyRecord,
        fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 })), { minLength: 1, maxLength: 3 }),
        fc.option(fc.nat()),
        (value, changes, cut) => {
          const bytes = new Uint8Array(dagCbor.encode(value));
          for (const [at, byte] of changes) bytes[at % bytes.length] = byte;
          check(cut === null ? bytes : bytes.subarray(0, cut % (bytes.length + 1)));
        },
      ),
      { numRuns: 3000 },
    );
    expect(shown).toBeGreaterThan(100);
    expect(refused).toBeGreaterThan(1000);
  });

  test('when any one byte of it makes it unreadable, and each change that is readable is judged', () => {
    const record = {
      text: 'é"\n',
      list: [1, -70_000, 0.5, null, true],
      link: cidOf(Buffer.from('x')),
      bytes: Uint8Array.of(1, 2),
      blob: { ref: cidOf(Buffer.from('y'), 0x55), $type: 'blob' },
    };
    const whole = dagCbor.encode(record);
    for (let at = 0; at < whole.length; at++) {
      for (let byte = 0; byte < 256; byte++) {
        const bytes = new Uint8Array(whole);
        bytes[at] = byte;
        const text = recordJson(bytes);
        if ((text !== null) !== isRecord(bytes)) throw new Error(`byte ${byte} at ${at}`);
        if (text !== null && jsonOf(text) !== judgedJson(bytes))
          throw new Error(`byte ${byte} at ${at}: text`);
      }
    }
  });

  test('in the middle of other bytes: what is around it is not read', () => {
    const record = dagCbor.encode({ text: 'here' });
    const around = concat([0x61], record, [0x61, 0x62, 0x63]);
    expect(jsonOf(recordJson(around, 1, 1 + record.length))).toBe('{"text":"here"}');
    for (let end = 1; end < 1 + record.length; end++) expect(recordJson(around, 1, end)).toBeNull();
    expect(recordJson(around, 1, 2 + record.length)).toBeNull();
  });
});

/** Zeros without sign: JSON has no other. */
function withoutMinusZero(value: unknown): unknown {
  if (value === 0) return 0;
  if (Array.isArray(value)) return value.map(withoutMinusZero);
  if (value === null || typeof value !== 'object' || value instanceof Uint8Array) return value;
  if (CID.asCID(value) !== null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, held]) => [key, withoutMinusZero(held)]));
}
