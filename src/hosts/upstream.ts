/**
 * The host list of another relay, by `com.atproto.sync.listHosts` (atproto lexicon), all pages. Promises: hosts are
 * handed on as pages arrive; pages, hosts and bytes are bounded; an upstream that cannot be reached is retried for
 * ever with growing waits, and said so plainly; nothing it sends can do more than name hosts.
 */
import type { Clock } from '../network/clock.ts';
import type { GuardedFetch } from '../network/fetch.ts';
import { backoffMs } from './lifecycle.ts';
import type { NewHost } from './roster.ts';
import { MAX_HOSTS } from './roster.ts';

const PAGE_LIMIT = 1_000;
/** A page of 1,000 hosts is about 150 KB. */
const PAGE_MAX_BYTES = 2 * 1024 * 1024;
const PAGE_TIMEOUT_MS = 30_000;
/** Small pages are the upstream's right, endless ones are not. */
const MAX_PAGES = 200;
const MAX_CURSOR_CHARACTERS = 1_000;
/** The list is read again this often: new PDSes may have asked the upstream only. */
export const REFRESH_MS = 6 * 3_600_000;

export interface UpstreamDeps {
  /** RELAY_UPSTREAM: a URL, with or without a trailing slash. */
  readonly url: string;
  readonly fetch: GuardedFetch;
  readonly clock: Clock;
  readonly random: () => number;
  readonly userAgent: string;
  /** A page of hosts, duplicates and banned ones already left out. The next page is read when it has resolved. */
  readonly addHosts: (hosts: readonly NewHost[]) => Promise<unknown>;
  readonly log?: (level: 'info' | 'warn', message: string, fields: Record<string, string | number>) => void;
}

export type HostListResult =
  | { readonly ok: true; readonly hosts: number; readonly pages: number }
  | { readonly ok: false; readonly hosts: number; readonly pages: number; readonly detail: string };

interface Page {
  readonly hosts: readonly NewHost[];
  readonly cursor: string | null;
}

/** One page as the lexicon has it; null: not such a page. Entries that are not hosts are left out. */
const parsePage = (body: Uint8Array): Page | null => {
  let page: unknown;
  try {
    page = JSON.parse(new TextDecoder().decode(body));
  } catch {
    return null;
  }
  if (typeof page !== 'object' || page === null) return null;
  const { hosts, cursor } = page as { hosts?: unknown; cursor?: unknown };
  if (!Array.isArray(hosts)) return null;
  const found: NewHost[] = [];
  for (const host of hosts.slice(0, PAGE_LIMIT * 10)) {
    if (typeof host !== 'object' || host === null) continue;
    const { hostname, accountCount, status } = host as Record<string, unknown>;
    if (typeof hostname !== 'string' || hostname.length > 260 || status === 'banned') continue;
    const counted =
      typeof accountCount === 'number' && Number.isSafeInteger(accountCount) && accountCount >= 0;
    found.push(counted ? { hostname, accountCount } : { hostname });
  }
  const more = typeof cursor === 'string' && cursor !== '' && cursor.length <= MAX_CURSOR_CHARACTERS;
  return { hosts: found, cursor: more ? cursor : null };
};

/** Reads the whole list once, until `isStopped`. Pages that arrived before a failure have been handed on. */
export const readHostList = async (
  deps: Pick<UpstreamDeps, 'url' | 'fetch' | 'userAgent' | 'addHosts'>,
  isStopped = (): boolean => false,
): Promise<HostListResult> => {
  const seen = new Set<string>();
  const cursors = new Set<string>();
  const base = deps.url.replace(/\/+$/, '');
  let cursor: string | null = null;
  let pages = 0;
  const failed = (detail: string): HostListResult => ({ ok: false, hosts: seen.size, pages, detail });
  do {
    if (pages >= MAX_PAGES) return failed(`more than ${MAX_PAGES} pages`);
    const query = new URLSearchParams({ limit: String(PAGE_LIMIT) });
    if (cursor !== null) query.set('cursor', cursor);
    const answer = await deps.fetch(`${base}/xrpc/com.atproto.sync.listHosts?${query}`, {
      timeoutMs: PAGE_TIMEOUT_MS,
      maxBytes: PAGE_MAX_BYTES,
      allowPrivateAddresses: 'named_origin',
      userAgent: deps.userAgent,
      redirects: 2,
      keepAlive: true,
    });
    if (isStopped()) return failed('stopped');
    if (!answer.ok) return failed(`${answer.kind}: ${answer.detail}`);
    if (answer.status !== 200) return failed(`HTTP status ${answer.status}`);
    const page = parsePage(answer.body);
    if (page === null) return failed('not a listHosts answer');
    pages++;
    const fresh: NewHost[] = [];
    for (const host of page.hosts) {
      const name = host.hostname.toLowerCase();
      if (seen.has(name)) continue;
      if (seen.size >= MAX_HOSTS) return failed(`more than ${MAX_HOSTS} hosts`);
      seen.add(name);
      fresh.push(host);
    }
    if (fresh.length > 0) await deps.addHosts(fresh);
    cursor = page.cursor;
    if (cursor !== null) {
      if (cursors.has(cursor)) return failed('its cursor goes in circles');
      cursors.add(cursor);
    }
  } while (cursor !== null);
  return { ok: true, hosts: seen.size, pages };
};

export interface Upstream {
  start(): void;
  stop(): void;
  readonly counters: Readonly<{ reads: number; failures: number; hosts: number; lastReadAtMs: number }>;
  /** '' when the last reading went well or none has ended. */
  readonly problem: string;
}

/** Keeps reading the upstream's host list: at the start, after failures with growing waits, and every few hours. */
export const createUpstream = (deps: UpstreamDeps): Upstream => {
  const counters = { reads: 0, failures: 0, hosts: 0, lastReadAtMs: 0 };
  let problem = '';
  let failures = 0;
  let stopped = true;
  let cancel: (() => void) | null = null;

  const read = async (): Promise<void> => {
    let result: HostListResult;
    try {
      result = await readHostList(deps, () => stopped);
    } catch (error) {
      // addHosts failed: our own database, which is the same to this loop as an upstream that is away.
      const detail = error instanceof Error ? error.message.slice(0, 200) : 'failed';
      result = { ok: false, hosts: 0, pages: 0, detail };
    }
    if (stopped) return;
    counters.reads++;
    counters.hosts = result.hosts;
    let waitMs = REFRESH_MS;
    if (result.ok) {
      failures = 0;
      problem = '';
      counters.lastReadAtMs = deps.clock.nowMs();
      deps.log?.('info', 'read the host list of the upstream relay', {
        upstream: deps.url,
        hosts: result.hosts,
        pages: result.pages,
      });
    } else {
      failures++;
      counters.failures++;
      problem = `cannot read the host list of ${deps.url}: ${result.detail}`;
      waitMs = backoffMs(failures, deps.random());
      deps.log?.('warn', `${problem}; trying again`, {
        hosts: result.hosts,
        retryInSeconds: Math.round(waitMs / 1_000),
      });
    }
    cancel = deps.clock.after(waitMs, () => void read());
  };

  return {
    start() {
      if (!stopped) return;
      stopped = false;
      void read();
    },
    stop() {
      stopped = true;
      cancel?.();
    },
    counters,
    get problem() {
      return problem;
    },
  };
};
