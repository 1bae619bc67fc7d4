import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { type Config, ConfigError, configHelp, readConfig } from '../src/config.ts';

const NAMES = [
  'RELAY_API_BIND',
  'RELAY_METRICS_LISTEN',
  'RELAY_DATA_DIR',
  'DATABASE_URL',
  'RELAY_PLC_HOST',
  'RELAY_UPSTREAM',
  'RELAY_HOSTS',
  'RELAY_REPLAY_WINDOW',
  'RELAY_REPLAY_MAX_BYTES',
  'RELAY_ADMIN_PASSWORD',
  'RELAY_TRUSTED_DOMAINS',
  'RELAY_VALIDATION',
  'RELAY_ALLOW_INSECURE_HOSTS',
  'RELAY_INGEST_WORKERS',
  'RELAY_HOST_ACCOUNT_LIMIT',
  'RELAY_NEW_HOSTS_PER_DAY',
  'JETSTREAM_ZSTD_DICTIONARY',
  'LOG_LEVEL',
  'LOG_FORMAT',
] as const;
type Name = (typeof NAMES)[number];

const HOUR_MS = 3_600_000;

const GOOD: readonly [Name, string, Partial<Config>][] = [
  ['RELAY_API_BIND', ':2470', { apiHost: '0.0.0.0', apiPort: 2470 }],
  ['RELAY_API_BIND', ' 127.0.0.1:0 ', { apiHost: '127.0.0.1', apiPort: 0 }],
  ['RELAY_API_BIND', 'relay.example.com:65535', { apiHost: 'relay.example.com', apiPort: 65_535 }],
  ['RELAY_API_BIND', '[::1]:80', { apiHost: '::1', apiPort: 80 }],
  ['RELAY_METRICS_LISTEN', '[::]:9', { metricsHost: '::', metricsPort: 9 }],
  ['RELAY_DATA_DIR', '/var/lib/weir', { dataDir: '/var/lib/weir' }],
  ['DATABASE_URL', '', { databaseUrl: null }],
  ['DATABASE_URL', 'postgres://u:p@h:5432/d', { databaseUrl: 'postgres://u:p@h:5432/d' }],
  ['DATABASE_URL', ' postgresql://h/d?sslmode=require ', { databaseUrl: 'postgresql://h/d?sslmode=require' }],
  ['RELAY_PLC_HOST', 'https://plc.example.com/', { plcUrl: 'https://plc.example.com' }],
  ['RELAY_PLC_HOST', 'http://localhost:2582', { plcUrl: 'http://localhost:2582' }],
  ['RELAY_UPSTREAM', '', { upstreamUrl: null }],
  ['RELAY_UPSTREAM', '  ', { upstreamUrl: null }],
  ['RELAY_UPSTREAM', 'https://relay.example.com', { upstreamUrl: 'https://relay.example.com' }],
  ['RELAY_UPSTREAM', 'http://127.0.0.1:2470/', { upstreamUrl: 'http://127.0.0.1:2470' }],
  ['RELAY_UPSTREAM', 'https://relay.example.com:2470', { upstreamUrl: 'https://relay.example.com:2470' }],
  ['RELAY_UPSTREAM', 'http://[::1]:2470/a/@b', { upstreamUrl: 'http://[::1]:2470/a/@b' }],
  ['RELAY_HOSTS', '', { extraHosts: [] }],
  ['RELAY_HOSTS', ' a.pds.net, https://b.pds.net/,', { extraHosts: ['a.pds.net', 'https://b.pds.net/'] }],
  ['RELAY_REPLAY_WINDOW', '90s', { replayWindowMs: 90_000 }],
  ['RELAY_REPLAY_WINDOW', '15m', { replayWindowMs: HOUR_MS / 4 }],
  ['RELAY_REPLAY_WINDOW', '1.5h', { replayWindowMs: 1.5 * HOUR_MS }],
  ['RELAY_REPLAY_WINDOW', '7d', { replayWindowMs: 7 * 24 * HOUR_MS }],
  ['RELAY_REPLAY_MAX_BYTES', '100000000', { replayMaxBytes: 1e8 }],
  ['RELAY_REPLAY_MAX_BYTES', '1.5TB', { replayMaxBytes: 1.5e12 }],
  ['RELAY_REPLAY_MAX_BYTES', '2GiB', { replayMaxBytes: 2 ** 31 }],
  ['RELAY_REPLAY_MAX_BYTES', '500000KB', { replayMaxBytes: 5e8 }],
  ['RELAY_REPLAY_MAX_BYTES', '128MiB', { replayMaxBytes: 2 ** 27 }],
  ['RELAY_ADMIN_PASSWORD', '', { adminPasswords: [] }],
  ['RELAY_ADMIN_PASSWORD', 'new-secret, old-secret', { adminPasswords: ['new-secret', 'old-secret'] }],
  ['RELAY_TRUSTED_DOMAINS', '', { trustedDomains: [] }],
  [
    'RELAY_TRUSTED_DOMAINS',
    '*.Host.bsky.network,pds.net',
    { trustedDomains: ['*.host.bsky.network', 'pds.net'] },
  ],
  ['RELAY_TRUSTED_DOMAINS', 'localhost', { trustedDomains: ['localhost'] }],
  ['RELAY_VALIDATION', 'lenient', { validation: 'lenient' }],
  ['RELAY_ALLOW_INSECURE_HOSTS', 'true', { allowInsecureHosts: true }],
  ['RELAY_INGEST_WORKERS', '0', { ingestWorkers: 0 }],
  ['RELAY_INGEST_WORKERS', '64', { ingestWorkers: 64 }],
  ['RELAY_HOST_ACCOUNT_LIMIT', '1', { hostAccountLimit: 1 }],
  ['RELAY_NEW_HOSTS_PER_DAY', '0', { newHostsPerDay: 0 }],
  ['JETSTREAM_ZSTD_DICTIONARY', '', { jetstreamZstdDictionary: null }],
  ['JETSTREAM_ZSTD_DICTIONARY', ' v1.dict ', { jetstreamZstdDictionary: 'v1.dict' }],
  ['LOG_LEVEL', 'debug', { logLevel: 'debug' }],
  ['LOG_FORMAT', 'json', { logFormat: 'json' }],
];

const BAD: readonly [Name, readonly string[]][] = [
  [
    'RELAY_API_BIND',
    ['', '2470', ':65536', 'host', 'a b:1', '::1:80', ':123456', ':-1', ':1.5', 'http://x:1'],
  ],
  ['RELAY_METRICS_LISTEN', ['', 'x', ':99999']],
  ['RELAY_DATA_DIR', ['', '   ']],
  ['DATABASE_URL', ['  ', 'mysql://h/d', 'h:5432/d', 'postgres://', 'postgres:// h/d']],
  [
    'RELAY_PLC_HOST',
    [
      '',
      'plc.directory',
      'ftp://plc.directory',
      'https://',
      'https:// a',
      'https://a?b',
      'https://a#',
      'https://b@a',
    ],
  ],
  [
    'RELAY_UPSTREAM',
    [
      'bsky.network',
      'wss://bsky.network',
      'https://bsky.network?',
      'https://bsky.network/?limit=1',
      'https://bsky.network/#x',
      'https://me:pw@relay.example.com',
      'https://@relay.example.com',
      'https://me\\@relay.example.com',
    ],
  ],
  [
    'RELAY_HOSTS',
    ['127.0.0.1', 'a.pds.net,not a host', 'localhost:2583', 'a.pds.net:3000', 'http://a.pds.net'],
  ],
  [
    'RELAY_REPLAY_WINDOW',
    ['', '72', '72 h', '-1h', '0s', 'h', '1w', '9999999d', '1e3h', `${'9'.repeat(400)}s`],
  ],
  [
    'RELAY_REPLAY_MAX_BYTES',
    ['', '0', '99999999', '95MiB', '5 GB', 'GB', '1XB', '-1GB', '99999999999TB', '9'.repeat(400)],
  ],
  ['RELAY_ADMIN_PASSWORD', ['short', 'long-enough,short', ',', ' , ']],
  ['RELAY_TRUSTED_DOMAINS', ['*', '*.', 'a b', 'https://pds.net', 'pds.net:80', '*.*.net', 'pds..net']],
  ['RELAY_VALIDATION', ['', 'Strict', 'off']],
  ['RELAY_ALLOW_INSECURE_HOSTS', ['', '1', 'yes', 'TRUE']],
  ['RELAY_INGEST_WORKERS', ['-1', '65', '1.5', 'two', '1e1']],
  ['RELAY_HOST_ACCOUNT_LIMIT', ['', '0', '-1', '100000001', 'x']],
  ['RELAY_NEW_HOSTS_PER_DAY', ['', '-1', '1000001', 'x']],
  ['JETSTREAM_ZSTD_DICTIONARY', ['a\nb', 'a\0']],
  ['LOG_LEVEL', ['', 'INFO', 'trace']],
  ['LOG_FORMAT', ['', 'JSON', 'xml']],
];

const errorOf = (environment: Record<string, string>): string => {
  try {
    readConfig(environment);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  return '';
};

describe('a setting', () => {
  for (const [name, value, expected] of GOOD)
    test(`${name}=${JSON.stringify(value)} is taken`, () => {
      expect(readConfig({ [name]: value })).toMatchObject(expected as Record<string, unknown>);
    });

  for (const [name, values] of BAD)
    test(`${name} refuses what it cannot use, in one line that names it and says what is accepted`, () => {
      for (const value of values) {
        const message = errorOf({ [name]: value });
        expect(`${value}: ${message}`).toContain(`${name}`);
        expect(message).toContain('accepted');
        expect(message).not.toContain('\n');
        expect(message.length).toBeLessThan(500);
      }
    });

  test('has good and bad values in these tests, whatever it is', () => {
    const withoutPlain = NAMES.filter((name) => !GOOD.some(([tested]) => tested === name));
    expect(withoutPlain).toEqual([]);
    expect(NAMES.filter((name) => !BAD.some(([tested]) => tested === name))).toEqual([]);
  });

  test('has its default when it is absent', () => {
    const config = readConfig({ PATH: '/bin', relay_x: 'ignored', LOGS: 'x' });
    expect(config).toMatchObject({
      apiHost: '0.0.0.0',
      apiPort: 2470,
      metricsPort: 2471,
      dataDir: './data',
      databaseUrl: null,
      plcUrl: 'https://plc.directory',
      upstreamUrl: 'https://bsky.network',
      extraHosts: [],
      replayWindowMs: 72 * HOUR_MS,
      replayMaxBytes: 1e12,
      adminPasswords: [],
      trustedDomains: ['*.host.bsky.network'],
      validation: 'strict',
      allowInsecureHosts: false,
      hostAccountLimit: 100,
      newHostsPerDay: 50,
      logLevel: 'info',
      logFormat: 'text',
    });
    expect(config.ingestWorkers).toBeGreaterThanOrEqual(0);
    expect(config.ingestWorkers).toBeLessThanOrEqual(8);
    expect(readConfig({ RELAY_INGEST_WORKERS: '' }).ingestWorkers).toBe(config.ingestWorkers);
  });

  test('of development lets hosts of this machine in', () => {
    const hosts = 'localhost:2583,http://pds.test:3000';
    expect(errorOf({ RELAY_HOSTS: hosts })).toContain('RELAY_HOSTS');
    expect(readConfig({ RELAY_HOSTS: hosts, RELAY_ALLOW_INSECURE_HOSTS: 'true' }).extraHosts).toEqual([
      'localhost:2583',
      'http://pds.test:3000',
    ]);
  });
});

describe('an unknown name', () => {
  test('that looks like ours stops the start, in one line', () => {
    for (const name of ['RELAY_API_BINDD', 'RELAY_', 'RELAY_\n_X', `RELAY_${'X'.repeat(5_000)}`]) {
      const message = errorOf({ [name]: 'x' });
      expect(message).toContain('is not a setting');
      expect(message).not.toContain('\n');
      expect(message.length).toBeLessThan(500);
    }
  });
});

describe('secrets', () => {
  test('are never shown, also in values that cannot be used', () => {
    const secret = 'hunter2';
    for (const [name, value] of [
      ['RELAY_ADMIN_PASSWORD', secret],
      ['RELAY_ADMIN_PASSWORD', `${secret},${secret}`],
      ['DATABASE_URL', `mysql://u:${secret}@h/d`],
      ['RELAY_PLC_HOST', `ftp://u:${secret}@plc.directory`],
      ['RELAY_UPSTREAM', `wss://u:${secret}@bsky.network`],
      ['RELAY_UPSTREAM', `https://u:${secret}@bsky.network`],
      ['RELAY_UPSTREAM', `https://u:a@${secret}@bsky.network`],
      ['RELAY_UPSTREAM', `https://u:a/${secret}@bsky.network`],
      ['RELAY_UPSTREAM', `https://bsky.network?key=${secret}`],
      ['RELAY_HOSTS', `https://u:${secret}@a.pds.net`],
    ] as const) {
      const message = errorOf({ [name]: value });
      expect(message).toContain(name);
      expect(message).not.toContain(secret);
    }
  });
});

test('whatever the environment says, there is a Config or a ConfigError', () => {
  const entries = fc.dictionary(fc.constantFrom(...NAMES), fc.string({ unit: 'binary', maxLength: 300 }));
  fc.assert(
    fc.property(entries, (environment) => {
      const message = errorOf(environment);
      expect(message).not.toContain('\n');
    }),
  );
});

test('the help lists every setting with its default and what is accepted', () => {
  const help = configHelp();
  for (const name of NAMES) expect(help).toContain(`  ${name} `);
  expect(help.match(/^ {2}[A-Z_]+ /gm)).toHaveLength(NAMES.length);
  for (const shown of [
    ':2470',
    ':2471',
    './data',
    'https://plc.directory',
    '72h',
    '1TB',
    '*.host.bsky.network',
  ])
    expect(help).toContain(`[${shown}]`);
  for (const accepted of ['[HOST]:PORT', 'strict or lenient', 'text or json'])
    expect(help).toContain(accepted);
});
