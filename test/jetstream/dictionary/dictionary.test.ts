import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import {
  loadDictionary,
  loadOwnDictionary,
  loadV1Dictionary,
  MAX_DICTIONARY_BYTES,
  OWN_DICTIONARY_PATH,
  readDictionary,
  V1_DICTIONARY,
} from '../../../jetstream/dictionary/dictionary.ts';
import { createDictionaries } from '../../../jetstream/dictionary/registry.ts';
import type { Dictionary } from '../../../jetstream/dictionary/types.ts';

const own = loadOwnDictionary();
if (!own.ok) throw new Error(own.problem);
const { dictionary } = own;

/** Whoever changes the file gives it another ID, and these three here. */
const OWN_ID = 384_892_261;
const OWN_BYTES = 16_266;
const OWN_SHA256 = '552d7a336f7e447704145ed86851a52d9f514c353db4a0ac13a02ebfef4017ac';

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'weir-dictionary-'));
});
afterAll(() => rmSync(directory, { recursive: true }));
const fileOf = (bytes: Uint8Array): string => {
  const file = path.join(directory, `${createHash('sha256').update(bytes).digest('hex').slice(0, 8)}.zdict`);
  writeFileSync(file, bytes);
  return file;
};
/** Our dictionary under another ID. */
const renamed = (id: number): Uint8Array => {
  const bytes = Uint8Array.from(dictionary.bytes);
  new DataView(bytes.buffer).setUint32(4, id, true);
  return bytes;
};
const problemOf = (read: ReturnType<typeof readDictionary>): string => (read.ok ? '' : read.problem);

describe('our dictionary', () => {
  test('is what it was when its ID was given: other bytes need another ID', () => {
    expect({ id: dictionary.id, byteLength: dictionary.bytes.length, sha256: dictionary.sha256 }).toEqual({
      id: OWN_ID,
      byteLength: OWN_BYTES,
      sha256: OWN_SHA256,
    });
  });

  test('has an ID that anyone may take (RFC 8878, section 5), and not that of version 1', () => {
    expect(dictionary.id).toBeGreaterThanOrEqual(32_768);
    expect(dictionary.id).toBeLessThan(2 ** 31);
    expect(dictionary.id).not.toBe(V1_DICTIONARY.id);
  });
});

describe('the ID of version 1', () => {
  test('is never taken for other bytes', () => {
    expect(problemOf(readDictionary(renamed(V1_DICTIONARY.id)))).toContain('is not it');
    // Nor for others of the same length.
    const padded = new Uint8Array(V1_DICTIONARY.byteLength);
    padded.set(renamed(V1_DICTIONARY.id));
    expect(problemOf(readDictionary(padded))).toContain(V1_DICTIONARY.sha256);
    expect(problemOf(loadV1Dictionary(fileOf(padded)))).toContain('is not it');
  });

  test('is the only one that an operator may give for version 1', () => {
    const file = fileOf(renamed(40_000));
    expect(loadDictionary(file)).toMatchObject({ ok: true, dictionary: { id: 40_000 } });
    const problem = problemOf(loadV1Dictionary(file));
    expect(problem).toContain(file);
    expect(problem).toContain('1612007021');
    expect(loadV1Dictionary(OWN_DICTIONARY_PATH).ok).toBe(false);
  });
});

describe('reading a dictionary', () => {
  test('answers it with its ID, its bytes and their hash', () => {
    expect(readDictionary(dictionary.bytes)).toEqual({ ok: true, dictionary });
  });

  test('says what is wrong: no file, a folder, not a dictionary, no ID, too large, tables that are none', () => {
    expect(problemOf(loadDictionary(path.join(directory, 'none')))).toContain('ENOENT');
    expect(problemOf(loadDictionary(directory))).toContain('EISDIR');
    expect(problemOf(loadDictionary(fileOf(new Uint8Array(100))))).toContain('0xEC30A437');
    expect(problemOf(readDictionary(new Uint8Array(0)))).toContain('0xEC30A437');
    expect(problemOf(readDictionary(renamed(0)))).toContain('ID 0');
    const large = new Uint8Array(MAX_DICTIONARY_BYTES + 1);
    large.set(dictionary.bytes);
    expect(problemOf(readDictionary(large))).toContain('more than');
    expect(problemOf(loadDictionary(fileOf(large)))).toContain('more than');
    const broken = Uint8Array.from(dictionary.bytes).fill(0xff, 8, 100);
    expect(problemOf(readDictionary(broken))).toContain('cannot be compressed with');
  });

  test('of a damaged one either says so or gives one that works', () => {
    fc.assert(
      fc.property(fc.nat(300), fc.nat(255), fc.nat(dictionary.bytes.length), (at, byte, length) => {
        const bytes = dictionary.bytes.slice(0, Math.max(length, 20));
        bytes[at % bytes.length] = byte;
        const read = readDictionary(bytes);
        if (!read.ok) expect(read.problem).not.toBe('');
      }),
      { numRuns: 100 },
    );
  });
});

describe('getZstdDictionary', () => {
  const second = readDictionary(renamed(40_001));
  if (!second.ok) throw new Error(second.problem);
  const dictionaries = createDictionaries([dictionary, second.dictionary]);

  test('gives the bytes, for good', async () => {
    for (const each of [dictionary, second.dictionary]) {
      const response = dictionaries.getZstdDictionary(String(each.id), null);
      expect(response.status).toBe(200);
      expect(response.headers.get('content-type')).toBe('application/octet-stream');
      expect(response.headers.get('cache-control')).toContain('immutable');
      expect(response.headers.get('etag')).toBe(`"${each.sha256}"`);
      expect(Buffer.compare(await response.bytes(), each.bytes)).toBe(0);
    }
  });

  test('gives the current one to who names none, and not for good', async () => {
    const response = dictionaries.getZstdDictionary(null, null);
    expect(response.status).toBe(200);
    expect(response.headers.get('cache-control')).not.toContain('immutable');
    expect(Buffer.compare(await response.bytes(), dictionary.bytes)).toBe(0);
  });

  test('answers 304 without a body to who has it', async () => {
    const id = String(dictionary.id);
    const etag = `"${dictionary.sha256}"`;
    for (const tag of [etag, `W/${etag}`, `"other", ${etag}`, '*']) {
      const response = dictionaries.getZstdDictionary(id, tag);
      expect(response.status).toBe(304);
      expect(response.headers.get('etag')).toBe(etag);
      expect(await response.text()).toBe('');
    }
    expect(dictionaries.getZstdDictionary(id, '"other"').status).toBe(200);
  });

  test('answers 404 DictionaryNotFound for another ID, that of version 1 included', async () => {
    for (const id of ['1', '4294967296', '1612007021']) {
      const response = dictionaries.getZstdDictionary(id, null);
      expect(response.status).toBe(404);
      expect(await response.json()).toMatchObject({
        error: 'DictionaryNotFound',
        message: expect.stringContaining(String(dictionary.id)),
      });
    }
    expect(createDictionaries([]).getZstdDictionary(null, null).status).toBe(404);
  });

  test('answers 400 for what is no ID', async () => {
    for (const id of ['', 'x', '-1', '1.5', ' 1', '99999999999', '0x10']) {
      const response = dictionaries.getZstdDictionary(id, null);
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ error: 'InvalidRequest' });
    }
  });

  test('is not offered for two dictionaries of one ID', () => {
    const other: Dictionary = { ...dictionary, sha256: '00' };
    expect(() => createDictionaries([dictionary, other])).toThrow(/one|have the ID/);
    expect(createDictionaries([dictionary, dictionary]).current).toBe(dictionary);
  });
});
