import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { parseHostname, pdsHostOfEndpoint } from '../../src/network/hostname.ts';

const publicOnly = { allowLocalhost: false };
const development = { allowLocalhost: true };

describe('a public host name', () => {
  test.each([
    ['example.com', 'example.com'],
    ['Morel.US-East.Host.Bsky.Network', 'morel.us-east.host.bsky.network'],
    ['xn--bcher-kva.de', 'xn--bcher-kva.de'],
    ['a.xn--p1ai', 'a.xn--p1ai'],
    ['1.2.3.example.com', '1.2.3.example.com'],
    ['0x7f.com', '0x7f.com'],
    [`${'a'.repeat(63)}.com`, `${'a'.repeat(63)}.com`],
  ])('%s is taken as %s', (text, hostname) => {
    expect(parseHostname(text, publicOnly)).toEqual({ ok: true, hostname });
  });

  test.each([
    ['127.0.0.1', 'IP address'],
    ['8.8.8.8', 'IP address'],
    ['2130706433', 'IP address'],
    ['0x7f000001', 'IP address'],
    ['017700000001', 'IP address'],
    ['0177.0.0.1', 'IP address'],
    ['0x7f.1', 'IP address'],
    ['127.1', 'IP address'],
    ['example.0x7f', 'IP address'],
    ['[::1]', 'IP address'],
    ['::1', 'IP address'],
    ['2606:4700::1111', 'IP address'],
    ['[2606:4700::1111]:443', 'IP address'],
    ['example.com:443', 'port'],
    ['localhost:2583', 'port'],
    ['localhost', 'two labels'],
    ['example', 'two labels'],
    ['pds.local', 'reserved'],
    ['pds.internal', 'reserved'],
    ['pds.localhost', 'reserved'],
    ['pds.test', 'reserved'],
    ['pds.invalid', 'reserved'],
    ['pds.example', 'reserved'],
    ['pds.onion', 'reserved'],
    ['1.0.0.127.in-addr.arpa', 'reserved'],
    ['PDS.LOCAL', 'reserved'],
    ['https://example.com', 'URL'],
    ['example.com/', 'domain name'],
    ['example.com.', 'domain name'],
    ['.example.com', 'domain name'],
    ['example..com', 'domain name'],
    ['-example.com', 'domain name'],
    ['example-.com', 'domain name'],
    ['exa_mple.com', 'domain name'],
    ['exa mple.com', 'domain name'],
    ['example.com\n', 'domain name'],
    ['example.com\0.evil.org', 'domain name'],
    ['user@example.com', 'domain name'],
    ['example.com?x', 'domain name'],
    ['example.com#x', 'domain name'],
    ['example%2ecom', 'domain name'],
    ['bücher.de', 'domain name'],
    ['１２７.com', 'domain name'],
    ['example。com', 'domain name'],
    [`${'a'.repeat(64)}.com`, 'domain name'],
    [`${'a.'.repeat(126)}com`, 'too long'],
    ['', 'missing'],
    [undefined, 'missing'],
    [42, 'missing'],
    [{ toString: () => 'example.com' }, 'missing'],
  ])('%p is refused with a word about the %s', (text, word) => {
    const result = parseHostname(text, publicOnly);
    expect(result.ok).toBe(false);
    expect(result.ok ? '' : result.error).toContain(word);
  });

  test('of any length is refused quickly', () => {
    expect(parseHostname('a'.repeat(1_000_000), publicOnly).ok).toBe(false);
    expect(pdsHostOfEndpoint(`https://${'a.'.repeat(500_000)}com`, { allowInsecure: false })).toBeNull();
  });

  test('parses again to itself, in lower case, and never throws', () => {
    fc.assert(
      fc.property(fc.oneof(fc.anything(), fc.domain(), fc.string(), fc.ipV4Extended(), fc.ipV6()), (text) => {
        for (const rules of [publicOnly, development]) {
          const result = parseHostname(text, rules);
          if (!result.ok) continue;
          expect(result.hostname).toBe(String(text).toLowerCase());
          expect(parseHostname(result.hostname, rules)).toEqual(result);
        }
      }),
      { numRuns: 2000 },
    );
  });

  test('is left unchanged by URL parsing: no spelling of an IP address, no hidden syntax', () => {
    const pieces = fc.array(
      fc.constantFrom('0', '1', '127', '0x7f', 'a', 'com', '.', '-', '%2e', '@', ':', '/', '８'),
      {
        maxLength: 9,
      },
    );
    fc.assert(
      fc.property(pieces, (parts) => {
        for (const rules of [publicOnly, development]) {
          const result = parseHostname(parts.join(''), rules);
          if (result.ok) {
            const url = new URL(`ws://${result.hostname}/`);
            expect(url.host === result.hostname || `${url.host}:80` === result.hostname).toBe(true);
            expect(/^[\d.]+$/.test(url.hostname)).toBe(false);
          }
        }
      }),
      { numRuns: 5000 },
    );
  });
});

describe('a host name in development', () => {
  test.each(['localhost', 'localhost:2583', 'pds:3000', 'pds.internal', 'a.test:80', 'example.com'])(
    '%s is taken',
    (text) => {
      expect(parseHostname(text, development)).toEqual({ ok: true, hostname: text });
    },
  );

  test.each([
    '127.0.0.1:80',
    '127.0.0.1',
    '[::1]:80',
    '2130706433:80',
    'localhost:',
    'localhost:0',
    'localhost:080',
    'localhost:65536',
    'localhost:99999999999',
    'localhost:8o',
    'localhost:80:80',
    ':80',
  ])('%s is refused', (text) => {
    expect(parseHostname(text, development).ok).toBe(false);
  });
});

describe('the PDS endpoint of a DID document', () => {
  const strict = { allowInsecure: false };
  const insecure = { allowInsecure: true };

  test.each([
    ['https://example.com', 'example.com'],
    ['https://example.com/', 'example.com'],
    ['HTTPS://Example.COM:443/', 'example.com'],
  ])('%s is the host %s', (url, hostname) => {
    expect(pdsHostOfEndpoint(url, strict)).toEqual({ hostname, secure: true });
  });

  test.each([
    'http://example.com',
    'https://example.com:8443',
    'https://localhost',
    'https://localhost:2583',
    'https://127.0.0.1',
    'https://[::1]',
    'https://user@example.com',
    'https://user:pass@example.com',
    'https://example.com/path',
    'https://example.com//',
    'https://example.com?x=1',
    'https://example.com#x',
    'https://example.com\\',
    'https:/example.com',
    'https:example.com',
    'wss://example.com',
    ' https://example.com',
    'https://example.com\n',
    'https://exa\tmple.com',
    'https://',
    '',
    null,
    7,
    [['https://example.com']],
    { uri: 'https://example.com' },
  ])('%p is none', (url) => {
    expect(pdsHostOfEndpoint(url, strict)).toBeNull();
  });

  test.each([
    ['http://localhost:2583', { hostname: 'localhost:2583', secure: false }],
    ['http://example.com:80', { hostname: 'example.com', secure: false }],
    ['https://example.com:80', { hostname: 'example.com:80', secure: true }],
    ['http://example.com:443/', { hostname: 'example.com:443', secure: false }],
    ['https://pds.internal', { hostname: 'pds.internal', secure: true }],
  ])('%s is taken in development', (url, expected) => {
    expect(pdsHostOfEndpoint(url, insecure)).toEqual(expected);
  });

  test('never throws', () => {
    fc.assert(
      fc.property(fc.oneof(fc.anything(), fc.webUrl(), fc.string()), (url) => {
        const result = pdsHostOfEndpoint(url, strict);
        if (result !== null) expect(parseHostname(result.hostname, publicOnly).ok).toBe(true);
      }),
      { numRuns: 2000 },
    );
  });
});
