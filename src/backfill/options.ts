/** The command line of the backfill, and what files and URLs on it hold. Pure but for the reading it is given. */
import { parseArgs } from 'node:util';
import { parseHostEntry } from '../hosts/crawl.ts';
import { isDid, isNsid } from '../repo/syntax.ts';
import { parseDidList } from './answers.ts';
import { MAX_LIST_BYTES, MAX_NAMED_COLLECTIONS, parseCollectionList } from './collection-list.ts';
import type { BackfillSpec } from './types.ts';

export const BACKFILL_HELP = `bun run backfill: fill the collection index and the account list, politely and resumably

  --from-relay URL        import from another relay's listReposByCollection, collection by collection:
                          those it counts, those weir has seen, and those of --collections
    --collections LIST    a file, a URL or NSIDs with commas; may be given many times. Plain lists, JSON and
                          pages for people or language models are read alike
    --only                no other collections than those of --collections
  --from-hosts [HOST …]   ask PDSes: listRepos, then each repo; without names all hosts that the relay follows
  --did DID [DID …]       just these accounts, resolved and asked of their PDS
  --dids FILE             the same, a DID per line
  --verify [NSID …]       ask the PDSes about what the index holds; report and mend ghosts and gaps
    --sample N            so many repos, drawn at random (1000)
    --all                 all of them
  --requests N            most requests per five minutes to hosts that share a limit (2500)

  (nothing)               go on with the last run that did not end
  --status                how the last run stands
  --pause                 stop it, to be resumed later; also Ctrl-C
  --cancel                end it for good
  --retry                 try again what the last run gave up

One backfill at a time; it may run beside the relay. Settings come from the environment, as for bun start:
RELAY_DATA_DIR, DATABASE_URL, RELAY_PLC_HOST, RELAY_TRUSTED_DOMAINS, RELAY_ALLOW_INSECURE_HOSTS.
`;

/** DIDs of one run: a file of 40 MB. */
export const MAX_DIDS = 1_000_000;
export const MAX_DID_FILE_BYTES = 64 * 1024 * 1024;
/** Hosts named for one run. */
export const MAX_HOSTS_NAMED = 20_000;
export const DEFAULT_SAMPLE = 1_000;
/** Drawn in memory. */
export const MAX_SAMPLE = 100_000;
/** A window's allowance of Bluesky's hosts is 3,000; the rest is for the relay's own questions. */
export const DEFAULT_REQUESTS_PER_WINDOW = 2_500;
export const MAX_REQUESTS_PER_WINDOW = 1_000_000;

export type Command =
  | { readonly kind: 'help' }
  | { readonly kind: 'resume' | 'status' | 'pause' | 'cancel' | 'retry' }
  | { readonly kind: 'start'; readonly wish: BackfillWish };

/** A run as it was asked for, before files and URLs are read. */
export type BackfillWish =
  | {
      readonly kind: 'relay';
      readonly url: string;
      readonly lists: readonly string[];
      readonly only: boolean;
    }
  | { readonly kind: 'hosts'; readonly hosts: readonly string[] }
  | { readonly kind: 'dids'; readonly dids: readonly string[]; readonly files: readonly string[] }
  | { readonly kind: 'verify'; readonly collections: readonly string[]; readonly sample: number | null };

export type Parsed =
  | {
      readonly ok: true;
      readonly command: Command;
      /** null: as the run has it, or the default. */
      readonly requestsPerWindow: number | null;
      readonly supervised: boolean;
    }
  | { readonly ok: false; readonly message: string };

const no = (message: string): Parsed => ({ ok: false, message });

const baseUrl = (text: string): string | null => {
  try {
    const url = new URL(/^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `https://${text}`);
    const isPlain = url.username === '' && url.password === '' && url.search === '' && url.hash === '';
    if ((url.protocol !== 'https:' && url.protocol !== 'http:') || !isPlain) return null;
    return url.href.replace(/\/+$/, '');
  } catch {
    return null;
  }
};

/** undefined: it is none, or out of bounds. */
const wholeNumber = (text: string, most: number): number | undefined => {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  return value >= 1 && value <= most ? value : undefined;
};

/** Reads the arguments. Never throws. */
export const parseCommand = (args: readonly string[]): Parsed => {
  let parsed: ReturnType<typeof read>;
  try {
    parsed = read(args);
  } catch (error) {
    return no((error as Error).message.split('. ')[0]!);
  }
  const { values, positionals } = parsed;
  const requestsPerWindow =
    values.requests === undefined ? null : wholeNumber(values.requests, MAX_REQUESTS_PER_WINDOW);
  if (requestsPerWindow === undefined)
    return no(`--requests takes a number from 1 to ${MAX_REQUESTS_PER_WINDOW}`);
  const command = (what: Command): Parsed => ({
    ok: true,
    command: what,
    requestsPerWindow,
    supervised: values.supervised === true,
  });
  if (values.help) return command({ kind: 'help' });

  const starts = [
    values['from-relay'] !== undefined,
    values['from-hosts'] === true,
    values.did !== undefined || values.dids !== undefined,
    values.verify === true,
  ].filter(Boolean).length;
  const others = (['status', 'pause', 'cancel', 'retry'] as const).filter((name) => values[name]);
  if (starts + others.length > 1)
    return no('give one of --from-relay, --from-hosts, --did(s), --verify, --status, …');
  if (values.collections !== undefined && values['from-relay'] === undefined)
    return no('--collections goes with --from-relay');
  if (values.only && values.collections === undefined) return no('--only goes with --collections');
  if ((values.sample !== undefined || values.all) && !values.verify)
    return no('--sample and --all go with --verify');

  if (values['from-relay'] !== undefined) {
    if (positionals.length > 0) return no(`what is ${positionals[0]}? See --help`);
    const url = baseUrl(values['from-relay']);
    if (url === null) return no('--from-relay takes an http(s) URL');
    return command({
      kind: 'start',
      wish: { kind: 'relay', url, lists: values.collections ?? [], only: values.only === true },
    });
  }
  if (values['from-hosts']) return command({ kind: 'start', wish: { kind: 'hosts', hosts: positionals } });
  if (values.did !== undefined || values.dids !== undefined) {
    const dids = [...(values.did ?? []), ...positionals];
    return command({ kind: 'start', wish: { kind: 'dids', dids, files: values.dids ?? [] } });
  }
  if (values.verify) {
    if (values.all && values.sample !== undefined) return no('--all or --sample, not both');
    const sample = values.sample === undefined ? DEFAULT_SAMPLE : wholeNumber(values.sample, MAX_SAMPLE);
    if (sample === undefined) return no(`--sample takes a number from 1 to ${MAX_SAMPLE}`);
    return command({
      kind: 'start',
      wish: { kind: 'verify', collections: positionals, sample: values.all ? null : sample },
    });
  }
  if (positionals.length > 0) return no(`what is ${positionals[0]}? See --help`);
  return command({ kind: others[0] ?? 'resume' });
};

const read = (args: readonly string[]) =>
  parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      'from-relay': { type: 'string' },
      collections: { type: 'string', multiple: true },
      only: { type: 'boolean' },
      'from-hosts': { type: 'boolean' },
      did: { type: 'string', multiple: true },
      dids: { type: 'string', multiple: true },
      verify: { type: 'boolean' },
      sample: { type: 'string' },
      all: { type: 'boolean' },
      requests: { type: 'string' },
      status: { type: 'boolean' },
      pause: { type: 'boolean' },
      cancel: { type: 'boolean' },
      retry: { type: 'boolean' },
      // For the relay, which starts this program on behalf of an admin: it ends when the relay does.
      supervised: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });

/** What reading a wish needs of the outside. */
export interface WishReader {
  /** A text file; null: there is none of that name. @throws when it cannot be read or is larger */
  file(name: string, maxBytes: number): Promise<string | null>;
  /** @throws when it cannot be had */
  url(url: string, maxBytes: number): Promise<string>;
  readonly allowInsecure: boolean;
  notice(line: string): void;
}

/** A wish that cannot be granted; the message is for the operator. */
export class WishError extends Error {}

const listOf = async (text: string, reader: WishReader): Promise<string[]> => {
  if (/^https?:\/\//i.test(text)) return parseCollectionList(await reader.url(text, MAX_LIST_BYTES));
  const words = text
    .split(',')
    .map((word) => word.trim())
    .filter((word) => word !== '');
  if (words.length > 0 && words.every(isNsid)) return words;
  const content = await reader.file(text, MAX_LIST_BYTES);
  if (content === null)
    throw new WishError(`--collections ${text}: neither a file, nor a URL, nor NSIDs with commas`);
  return parseCollectionList(content);
};

/**
 * Reads the files and URLs that a wish names, and checks all of it.
 * @throws WishError
 */
export const specOf = async (wish: BackfillWish, reader: WishReader): Promise<BackfillSpec> => {
  switch (wish.kind) {
    case 'relay': {
      const collections = new Set<string>();
      for (const list of wish.lists) {
        const found = await listOf(list, reader);
        if (found.length === 0) throw new WishError(`--collections ${list}: no collections found in it`);
        if (!found.every((name) => name === list))
          reader.notice(`${found.length} collections in ${list.slice(0, 200)}`);
        for (const name of found) collections.add(name);
      }
      if (collections.size > MAX_NAMED_COLLECTIONS)
        throw new WishError(`more than ${MAX_NAMED_COLLECTIONS} collections are named`);
      return { kind: 'relay', url: wish.url, collections: [...collections], only: wish.only };
    }
    case 'hosts': {
      if (wish.hosts.length > MAX_HOSTS_NAMED)
        throw new WishError(`more than ${MAX_HOSTS_NAMED} hosts are named`);
      const hosts = wish.hosts.map((text) => {
        const entry = parseHostEntry(text, reader.allowInsecure);
        if (!entry.ok) throw new WishError(`${text}: ${entry.error}`);
        return entry.hostname;
      });
      return { kind: 'hosts', hosts: [...new Set(hosts)] };
    }
    case 'dids': {
      const dids = new Set<string>();
      for (const did of wish.dids) {
        if (!isDid(did)) throw new WishError(`${did} is not a DID`);
        dids.add(did);
      }
      for (const name of wish.files) {
        const content = await reader.file(name, MAX_DID_FILE_BYTES);
        if (content === null) throw new WishError(`--dids ${name}: there is no such file`);
        const list = parseDidList(content, MAX_DIDS);
        if (!list.isWhole) throw new WishError(`--dids ${name}: more than ${MAX_DIDS} DIDs; split it`);
        if (list.invalid > 0) reader.notice(`${name}: ${list.invalid} lines are not DIDs and are left out`);
        for (const did of list.dids) dids.add(did);
      }
      if (dids.size === 0) throw new WishError('no DIDs are named');
      if (dids.size > MAX_DIDS) throw new WishError(`more than ${MAX_DIDS} DIDs are named`);
      return { kind: 'dids', dids: [...dids] };
    }
    case 'verify':
      for (const name of wish.collections) if (!isNsid(name)) throw new WishError(`${name} is not an NSID`);
      return { kind: 'verify', collections: [...new Set(wish.collections)], sample: wish.sample };
  }
};
