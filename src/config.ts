/**
 * The environment, read once and validated: everything else gets a typed `Config` and never looks at
 * `process.env`. A bad value, or a RELAY_* name nobody knows, stops the start with one line that names it
 * and says what is accepted: a misspelt setting must not silently be the default.
 */
import { cpus } from 'node:os';
import * as v from 'valibot';
import { parseHostEntry } from './hosts/crawl.ts';

/** What the environment says, validated. */
export interface Config {
  readonly apiHost: string;
  readonly apiPort: number;
  readonly metricsHost: string;
  readonly metricsPort: number;
  readonly dataDir: string;
  /** null: embedded PostgreSQL in the data directory. */
  readonly databaseUrl: string | null;
  readonly plcUrl: string;
  /** null: none. */
  readonly upstreamUrl: string | null;
  readonly extraHosts: readonly string[];
  readonly replayWindowMs: number;
  readonly replayMaxBytes: number;
  /** Empty: admin routes off. Several secrets for rotation. */
  readonly adminPasswords: readonly string[];
  readonly trustedDomains: readonly string[];
  readonly validation: 'strict' | 'lenient';
  readonly allowInsecureHosts: boolean;
  readonly ingestWorkers: number;
  readonly hostAccountLimit: number;
  readonly newHostsPerDay: number;
  /** A file with the dictionary of Jetstream version 1; null: zstd frames without one. */
  readonly jetstreamZstdDictionary: string | null;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
  readonly logFormat: 'text' | 'json';
}

/** A setting that cannot be used; the message is the one line an operator needs. */
export class ConfigError extends Error {}

interface Setting {
  readonly name: string;
  readonly fallback: string;
  /** Shown instead of the fallback where the default is computed or empty. */
  readonly shownDefault?: string;
  readonly help: string;
  readonly accepts: string;
}

const SETTINGS = [
  {
    name: 'RELAY_API_BIND',
    fallback: ':2470',
    accepts: '[HOST]:PORT',
    help: 'address of the firehose, the sync API, admin routes and pages',
  },
  {
    name: 'RELAY_METRICS_LISTEN',
    fallback: ':2471',
    accepts: '[HOST]:PORT',
    help: 'address of the Prometheus metrics',
  },
  { name: 'RELAY_DATA_DIR', fallback: './data', accepts: 'a directory', help: 'everything weir keeps' },
  {
    name: 'DATABASE_URL',
    fallback: '',
    shownDefault: 'unset: embedded PostgreSQL in the data directory',
    accepts: 'postgres://… or postgresql://…',
    help: 'PostgreSQL for accounts and hosts',
  },
  {
    name: 'RELAY_PLC_HOST',
    fallback: 'https://plc.directory',
    accepts: 'an http(s) URL without credentials, query and fragment',
    help: 'PLC directory that did:plc is resolved by',
  },
  {
    name: 'RELAY_UPSTREAM',
    fallback: 'https://bsky.network',
    accepts: 'an http(s) URL without credentials, query and fragment, or empty for none',
    help: 'relay whose listHosts gives the hosts to follow (asked for nothing else)',
  },
  {
    name: 'RELAY_HOSTS',
    fallback: '',
    shownDefault: 'none',
    accepts: 'hostnames, comma-separated; localhost, ports and http:// only with RELAY_ALLOW_INSECURE_HOSTS',
    help: 'hosts to follow besides',
  },
  {
    name: 'RELAY_REPLAY_WINDOW',
    fallback: '72h',
    accepts: 'a number with s, m, h or d, from 1s to 3650d',
    help: 'how long events stay replayable',
  },
  {
    name: 'RELAY_REPLAY_MAX_BYTES',
    fallback: '1TB',
    accepts: 'a number, or one with KB, MB, GB, TB, KiB, MiB, GiB, TiB; from 100MB to 9000TB',
    help: 'most disk space for the replay window; the older end goes first',
  },
  {
    name: 'RELAY_ADMIN_PASSWORD',
    fallback: '',
    shownDefault: 'unset: admin routes off',
    accepts: 'a secret of 8 characters or more; several, comma-separated, while rotating',
    help: 'password of the user `admin`, and bearer token',
  },
  {
    name: 'RELAY_TRUSTED_DOMAINS',
    fallback: '*.host.bsky.network',
    accepts: 'hostnames or *.domain patterns, comma-separated, or empty',
    help: 'hosts with high rate limits and no account limit',
  },
  {
    name: 'RELAY_VALIDATION',
    fallback: 'strict',
    accepts: 'strict or lenient',
    help: 'lenient forwards, counted, what fails only the MST and op checks',
  },
  {
    name: 'RELAY_ALLOW_INSECURE_HOSTS',
    fallback: 'false',
    accepts: 'true or false',
    help: 'allow ws://, private addresses and localhost:PORT (development)',
  },
  {
    name: 'RELAY_INGEST_WORKERS',
    fallback: '',
    shownDefault: 'cores − 1, at most 8',
    accepts: 'a whole number from 0 (all in the main thread) to 64',
    help: 'threads that read sockets and verify',
  },
  {
    name: 'RELAY_HOST_ACCOUNT_LIMIT',
    fallback: '100',
    accepts: 'a whole number from 1 to 100000000',
    help: 'accounts of a new, untrusted host that came by requestCrawl',
  },
  {
    name: 'RELAY_NEW_HOSTS_PER_DAY',
    fallback: '50',
    accepts: 'a whole number from 0 to 1000000',
    help: 'hosts that requestCrawl may add in a day',
  },
  {
    name: 'JETSTREAM_ZSTD_DICTIONARY',
    fallback: '',
    shownDefault: 'unset: zstd without a dictionary',
    accepts: 'a file: the zstd dictionary of Jetstream version 1 (ID 1612007021)',
    help: 'makes the zstd frames of /subscribe smaller',
  },
  {
    name: 'LOG_LEVEL',
    fallback: 'info',
    accepts: 'debug, info, warn or error',
    help: 'least level that is logged',
  },
  { name: 'LOG_FORMAT', fallback: 'text', accepts: 'text or json', help: 'form of log lines' },
] as const satisfies readonly Setting[];

type SettingName = (typeof SETTINGS)[number]['name'];

const MAX_WINDOW_MS = 3_650 * 86_400_000;
/** Half a minute of the network on a normal day: less is no window, and a restart reads again what was not stored. */
const MIN_REPLAY_BYTES = 1e8;
/** Sums of bytes stay whole numbers. */
const MAX_REPLAY_BYTES = 9e15;
/** Of a bad value or name in a message. */
const MAX_SHOWN_CHARACTERS = 200;

const UNIT_MS: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const UNIT_BYTES: Record<string, number> = {
  '': 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

const text = v.pipe(v.string(), v.trim());

const bind = v.pipe(
  text,
  v.regex(/^(\[[0-9a-fA-F:]+\]|[^:[\]\s]*):\d{1,5}$/),
  v.transform((value) => {
    const colon = value.lastIndexOf(':');
    const host = value.slice(0, colon).replace(/^\[|\]$/g, '');
    return { host: host === '' ? '0.0.0.0' : host, port: Number(value.slice(colon + 1)) };
  }),
  v.check(({ port }) => port <= 65_535),
);

const httpUrl = v.pipe(
  text,
  v.url(),
  // Paths are put behind it, and credentials are not sent.
  v.regex(/^https?:\/\/[^\s/?#@\\]+(\/[^\s?#]*)?$/),
  v.transform((value) => value.replace(/\/+$/, '')),
);

const list = v.pipe(
  text,
  v.transform((value) =>
    value
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== ''),
  ),
);

const wholeNumber = (least: number, most: number) =>
  v.pipe(text, v.regex(/^\d+$/), v.transform(Number), v.minValue(least), v.maxValue(most));

const SCHEMAS = {
  RELAY_API_BIND: bind,
  RELAY_METRICS_LISTEN: bind,
  RELAY_DATA_DIR: v.pipe(text, v.nonEmpty()),
  DATABASE_URL: v.union([
    v.pipe(
      v.literal(''),
      v.transform(() => null),
    ),
    v.pipe(text, v.url(), v.regex(/^postgres(ql)?:\/\/[^\s/?#]*[/?@:\w][^\s]*$/)),
  ]),
  RELAY_PLC_HOST: httpUrl,
  RELAY_UPSTREAM: v.union([
    v.pipe(
      text,
      v.literal(''),
      v.transform(() => null),
    ),
    httpUrl,
  ]),
  RELAY_HOSTS: list,
  RELAY_REPLAY_WINDOW: v.pipe(
    text,
    v.regex(/^\d+(\.\d+)?[smhd]$/),
    v.transform((value) => Math.round(Number(value.slice(0, -1)) * UNIT_MS[value.slice(-1)]!)),
    v.minValue(1_000),
    v.maxValue(MAX_WINDOW_MS),
  ),
  RELAY_REPLAY_MAX_BYTES: v.pipe(
    text,
    v.regex(/^\d+(\.\d+)?([KMGT]i?B)?$/),
    v.transform((value) => {
      const number = Number.parseFloat(value);
      return Math.floor(number * UNIT_BYTES[value.replace(/^[\d.]+/, '')]!);
    }),
    v.minValue(MIN_REPLAY_BYTES),
    v.maxValue(MAX_REPLAY_BYTES),
  ),
  RELAY_ADMIN_PASSWORD: v.pipe(
    text,
    // Nothing but commas is a mistake, not a wish for no admin.
    v.check((value) => value === '' || /[^,\s]/.test(value)),
    list,
    v.check((secrets) => secrets.every((secret) => secret.length >= 8)),
  ),
  RELAY_TRUSTED_DOMAINS: v.pipe(
    list,
    v.check((patterns) => patterns.every((pattern) => /^(\*\.)?([a-z0-9-]+\.)*[a-z0-9-]+$/i.test(pattern))),
    v.transform((patterns) => patterns.map((pattern) => pattern.toLowerCase())),
  ),
  RELAY_VALIDATION: v.pipe(text, v.picklist(['strict', 'lenient'])),
  RELAY_ALLOW_INSECURE_HOSTS: v.pipe(
    text,
    v.picklist(['true', 'false']),
    v.transform((value) => value === 'true'),
  ),
  RELAY_INGEST_WORKERS: v.union([
    v.pipe(
      v.literal(''),
      v.transform(() => null),
    ),
    wholeNumber(0, 64),
  ]),
  RELAY_HOST_ACCOUNT_LIMIT: wholeNumber(1, 100_000_000),
  RELAY_NEW_HOSTS_PER_DAY: wholeNumber(0, 1_000_000),
  JETSTREAM_ZSTD_DICTIONARY: v.pipe(
    text,
    v.check((value) => !/\p{Cc}/u.test(value)),
    v.transform((value) => (value === '' ? null : value)),
  ),
  LOG_LEVEL: v.pipe(text, v.picklist(['debug', 'info', 'warn', 'error'])),
  LOG_FORMAT: v.pipe(text, v.picklist(['text', 'json'])),
} satisfies Record<SettingName, v.GenericSchema<string, unknown>>;

/** One line, short, without the credentials and the query of a URL. */
const shownValue = (value: string): string =>
  JSON.stringify(
    value
      .replace(/\/\/.*@/s, '//…@')
      .replace(/\?.+/s, '?…')
      .slice(0, MAX_SHOWN_CHARACTERS),
  );

/**
 * Reads the settings out of an environment.
 *
 * @param environment names and values, as in `process.env`; other names than weir's are ignored, but an
 *   unknown name that starts with RELAY_ is refused
 * @returns the validated configuration
 * @throws ConfigError with one line that names the setting and says what is accepted
 */
export const readConfig = (environment: Readonly<Record<string, string | undefined>>): Config => {
  const known = new Set<string>(SETTINGS.map(({ name }) => name));
  for (const name of Object.keys(environment)) {
    if (name.startsWith('RELAY_') && !known.has(name))
      throw new ConfigError(
        `${name.replace(/[^ -~]/g, '?').slice(0, MAX_SHOWN_CHARACTERS)} is not a setting of weir; ` +
          '`bun start --help` lists them all',
      );
  }
  const refuse = (name: SettingName, value: string): ConfigError => {
    const { accepts } = SETTINGS.find((setting) => setting.name === name)!;
    // A secret must not end up in a terminal or a log, not even a bad one.
    const isSecret = name === 'RELAY_ADMIN_PASSWORD' || name === 'DATABASE_URL';
    return new ConfigError(`${name}${isSecret ? '' : ` is ${shownValue(value)}`}: accepted is ${accepts}`);
  };
  const read = <Name extends SettingName>(name: Name): v.InferOutput<(typeof SCHEMAS)[Name]> => {
    const value = environment[name] ?? SETTINGS.find((setting) => setting.name === name)!.fallback;
    const result = v.safeParse(SCHEMAS[name], value);
    if (!result.success) throw refuse(name, value);
    return result.output as v.InferOutput<(typeof SCHEMAS)[Name]>;
  };

  const api = read('RELAY_API_BIND');
  const metrics = read('RELAY_METRICS_LISTEN');
  const allowInsecureHosts = read('RELAY_ALLOW_INSECURE_HOSTS');
  const extraHosts = read('RELAY_HOSTS');
  for (const host of extraHosts)
    if (!parseHostEntry(host, allowInsecureHosts).ok) throw refuse('RELAY_HOSTS', host);
  return {
    apiHost: api.host,
    apiPort: api.port,
    metricsHost: metrics.host,
    metricsPort: metrics.port,
    dataDir: read('RELAY_DATA_DIR'),
    databaseUrl: read('DATABASE_URL'),
    plcUrl: read('RELAY_PLC_HOST'),
    upstreamUrl: read('RELAY_UPSTREAM'),
    extraHosts,
    replayWindowMs: read('RELAY_REPLAY_WINDOW'),
    replayMaxBytes: read('RELAY_REPLAY_MAX_BYTES'),
    adminPasswords: read('RELAY_ADMIN_PASSWORD'),
    trustedDomains: read('RELAY_TRUSTED_DOMAINS'),
    validation: read('RELAY_VALIDATION'),
    allowInsecureHosts,
    ingestWorkers: read('RELAY_INGEST_WORKERS') ?? Math.min(8, Math.max(0, cpus().length - 1)),
    hostAccountLimit: read('RELAY_HOST_ACCOUNT_LIMIT'),
    newHostsPerDay: read('RELAY_NEW_HOSTS_PER_DAY'),
    jetstreamZstdDictionary: read('JETSTREAM_ZSTD_DICTIONARY'),
    logLevel: read('LOG_LEVEL'),
    logFormat: read('LOG_FORMAT'),
  };
};

/** The settings as help text: a line each with default and what is accepted. */
export const configHelp = (): string =>
  SETTINGS.map((setting: Setting) => {
    const shown = setting.shownDefault ?? (setting.fallback === '' ? 'empty' : setting.fallback);
    return `  ${setting.name.padEnd(27)} ${setting.help}\n${' '.repeat(30)}${setting.accepts} [${shown}]`;
  }).join('\n');
