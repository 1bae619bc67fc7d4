import { describe, expect, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { parseDid } from '../../src/identity/did.ts';
import { fixture } from './fixture.ts';

const strict = { allowInsecure: false };
const insecure = { allowInsecure: true };

describe('a DID that can be resolved', () => {
  test('is a did:plc of exactly 24 base32 characters', () => {
    const did = 'did:plc:7iza6de2dwap2sbkpav7c6c6';
    expect(parseDid(did, strict)).toEqual({ method: 'plc', did });
    for (const wrong of [
      `${did}a`,
      did.slice(0, -1),
      did.toUpperCase(),
      'did:plc:7IZA6DE2DWAP2SBKPAV7C6C6',
      'did:plc:7iza6de2dwap2sbkpav7c6c1',
      'did:plc:7iza6de2dwap2sbkpav7c6c/',
      `${did}\n`,
      ` ${did}`,
      `${did}#atproto`,
      'did:plc:',
    ]) {
      expect(parseDid(wrong, strict)).toBeNull();
    }
  });

  test('is a did:web of a host name only', () => {
    expect(parseDid('did:web:pds.example.com', strict)).toEqual({
      method: 'web',
      did: 'did:web:pds.example.com',
      hostname: 'pds.example.com',
      url: 'https://pds.example.com/.well-known/did.json',
    });
    for (const wrong of [
      'did:web:',
      'did:web:localhost',
      'did:web:localhost%3A2583',
      'did:web:example.com%3A8443',
      'did:web:example.com:user:alice',
      'did:web:Example.com',
      'did:web:127.0.0.1',
      'did:web:2130706433',
      'did:web:%5B%3A%3A1%5D',
      'did:web:example.com%2Fpath',
      'did:web:example.com/path',
      'did:web:user%40example.com',
      'did:web:example.com?x',
      'did:web:example.com#x',
      'did:web:pds.internal',
      'did:web:example.com.',
      `did:web:${'a.'.repeat(200)}com`,
    ]) {
      expect(parseDid(wrong, strict)).toBeNull();
    }
  });

  test('may be a local did:web in development, fetched by http', () => {
    expect(parseDid('did:web:localhost%3A2583', insecure)).toMatchObject({
      hostname: 'localhost:2583',
      url: 'http://localhost:2583/.well-known/did.json',
    });
    expect(parseDid('did:web:example.com', insecure)).toMatchObject({
      url: 'https://example.com/.well-known/did.json',
    });
    for (const wrong of ['did:web:localhost:2583', 'did:web:127.0.0.1%3A80', 'did:web:localhost%3A0']) {
      expect(parseDid(wrong, insecure)).toBeNull();
    }
  });

  test('is of no other method', () => {
    for (const wrong of [
      'did:key:zQ3shZc2QzApp2oymGvQbzP8eKheVshBHbU4ZYjeXqwSKEn6N',
      'did:onion:x',
      'did',
      '',
      null,
      3,
    ]) {
      expect(parseDid(wrong, strict)).toBeNull();
    }
  });

  test('is never one of the interop list of invalid DIDs', () => {
    const path = fixture('interop/syntax/did_syntax_invalid.txt');
    if (path === null) return;
    const lines = readFileSync(path, 'utf8')
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'));
    expect(lines.length).toBeGreaterThan(0);
    for (const line of lines) expect([line, parseDid(line, insecure)]).toEqual([line, null]);
  });

  test('gives a URL on exactly its host, and nothing throws', () => {
    const texts = fc.oneof(
      fc.string(),
      fc.string().map((text) => `did:web:${text}`),
      fc.domain().map((domain) => `did:web:${domain}`),
      fc.stringMatching(/^did:web:[a-z0-9.%:/@#?-]{0,30}$/),
    );
    fc.assert(
      fc.property(texts, fc.boolean(), (text, allowInsecure) => {
        const did = parseDid(text, { allowInsecure });
        if (did?.method !== 'web') return;
        const url = new URL(did.url);
        const { hostname } = did;
        expect(url.host === hostname || `${url.host}:80` === hostname).toBe(true);
        expect(url.pathname + url.search + url.hash).toBe('/.well-known/did.json');
      }),
      { numRuns: 2000 },
    );
  });
});
