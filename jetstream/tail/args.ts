import { parseArgs } from 'node:util';
import { isDid, isNsid } from '../../src/repo/syntax.ts';
import { MAX_WANTED_COLLECTIONS, MAX_WANTED_DIDS } from '../filter/limits.ts';
import type { Version } from '../types.ts';

export const TAIL_HELP = `Usage: bun run jetstream tail [options]

Prints what happens in the network as it happens, one line an event, from any Jetstream host.

  --host URL          the host (ws://localhost:2470); a bare name means wss://
  --collection NSID   only records of this collection, or of those under a prefix: app.bsky.graph.*
                      may be given many times; accounts and identities are shown all the same
  --did DID           only this account; may be given many times
  --cursor N          begin there: µs since the epoch, or a seq; without it, now
  --v2                network.bsky.jetstream.subscribeEvents instead of /subscribe
  --kind KIND         with --v2: only commit, identity, account or sync; may be given many times
  --compress          let the host compress with zstd
  --dictionary FILE   with --compress: the dictionary, where the host uses one that it does not give out
  --json              the messages themselves, one a line
  --count N           stop after N events
  --help              this text

After a break it comes back by itself and goes on where it was. Ctrl-C ends it.
NO_COLOR=1 turns colours off; they are only ever on in a terminal.
`;

export interface TailOptions {
  /** ws: or wss:, with a path when one was given. */
  readonly host: URL;
  readonly version: Version;
  readonly collections: readonly string[];
  readonly dids: readonly string[];
  readonly kinds: readonly string[];
  /** A decimal integer. null: live. */
  readonly cursor: string | null;
  readonly compress: boolean;
  readonly dictionaryFile: string | null;
  readonly json: boolean;
  /** null: no end. */
  readonly count: number | null;
}

export type TailArgs =
  | { readonly ok: true; readonly options: TailOptions }
  | { readonly ok: 'help' }
  /** In words for the one who typed it. */
  | { readonly ok: false; readonly problem: string };

export const DEFAULT_HOST = 'ws://localhost:2470';

const OPTIONS = {
  host: { type: 'string' },
  collection: { type: 'string', multiple: true },
  did: { type: 'string', multiple: true },
  kind: { type: 'string', multiple: true },
  cursor: { type: 'string' },
  compress: { type: 'boolean' },
  dictionary: { type: 'string' },
  v2: { type: 'boolean' },
  json: { type: 'boolean' },
  count: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const;

const KINDS = ['commit', 'identity', 'account', 'sync'];
const SCHEMES: Readonly<Record<string, string>> = {
  'http:': 'ws:',
  'https:': 'wss:',
  'ws:': 'ws:',
  'wss:': 'wss:',
};

/** ws://, wss://, http://, https:// or a name, which means wss:// unless it is this machine. null: none of these. */
const readHost = (text: string): URL | null => {
  const isBare = !/^[a-z]+:\/\//i.test(text);
  const isLocal = /^(localhost|127\.0\.0\.1|\[::1\])(:|\/|$)/.test(text);
  const url = URL.parse(isBare ? `${isLocal ? 'ws' : 'wss'}://${text}` : text);
  const scheme = url === null ? undefined : SCHEMES[url.protocol];
  if (url === null || scheme === undefined || url.hostname === '') return null;
  return new URL(scheme + url.href.slice(url.protocol.length));
};

const isCollection = (text: string): boolean =>
  isNsid(text) || (text.endsWith('.*') && (isNsid(text.slice(0, -2)) || isNsid(`${text.slice(0, -2)}.x`)));

/** Reads the arguments after `tail`. Never throws. */
export const parseTailArgs = (args: readonly string[]): TailArgs => {
  const wrong = (problem: string): TailArgs => ({ ok: false, problem });
  let values: ReturnType<typeof parseArgs<{ options: typeof OPTIONS; args: string[] }>>['values'];
  try {
    ({ values } = parseArgs({ args: [...args], options: OPTIONS, strict: true, allowPositionals: false }));
  } catch (error) {
    return wrong(error instanceof Error ? error.message : String(error));
  }
  if (values.help === true) return { ok: 'help' };

  const host = readHost(values.host ?? DEFAULT_HOST);
  if (host === null) return wrong(`--host: ${values.host} is not the address of a host`);
  const collections = values.collection ?? [];
  for (const collection of collections) {
    if (!isCollection(collection)) {
      return wrong(`--collection: ${collection} is not a collection; try app.bsky.feed.post or app.bsky.*`);
    }
  }
  if (collections.length > MAX_WANTED_COLLECTIONS) {
    return wrong(`--collection: at most ${MAX_WANTED_COLLECTIONS} may be given`);
  }
  const dids = values.did ?? [];
  for (const did of dids) if (!isDid(did)) return wrong(`--did: ${did} is not a DID; try did:plc:…`);
  if (dids.length > MAX_WANTED_DIDS) return wrong(`--did: at most ${MAX_WANTED_DIDS} may be given`);
  const version: Version = values.v2 === true ? 'v2' : 'v1';
  const kinds = values.kind ?? [];
  for (const kind of kinds) {
    if (!KINDS.includes(kind)) return wrong(`--kind: ${kind} is none of ${KINDS.join(', ')}`);
  }
  if (kinds.length > 0 && version === 'v1') return wrong('--kind needs --v2');
  const cursor = values.cursor ?? null;
  if (cursor !== null && !/^\d{1,16}$/.test(cursor)) {
    return wrong(`--cursor: ${cursor} is not a number of microseconds or a seq`);
  }
  const dictionaryFile = values.dictionary ?? null;
  if (dictionaryFile !== null && values.compress !== true) return wrong('--dictionary needs --compress');
  const count = values.count === undefined ? null : Number(values.count);
  if (count !== null && !(/^\d{1,15}$/.test(values.count!) && count > 0)) {
    return wrong(`--count: ${values.count} is not a number of events`);
  }
  return {
    ok: true,
    options: {
      host,
      version,
      collections,
      dids,
      kinds: [...new Set(kinds)],
      cursor,
      compress: values.compress === true,
      dictionaryFile,
      json: values.json === true,
      count,
    },
  };
};
