import { createApi } from '../../src/api/api.ts';
import { createPages } from '../../src/api/pages/create-pages.ts';
import type { ConsumerView } from '../../src/api/types.ts';
import type { BackfillStatus } from '../../src/backfill/types.ts';
import type { CollectionReader, CollectionsStatus } from '../../src/collections/types.ts';
import type { CrawlResult, HostView } from '../../src/hosts/types.ts';
import type { AccountRow, GapRow, HostRow, ListedRepo, RejectionRow } from '../../src/state/types.ts';

export const aHost = (
  hostId: number,
  row: Partial<HostRow> = {},
  view: Partial<HostView> = {},
): HostView => ({
  row: {
    hostId,
    hostname: `pds${hostId}.example.com`,
    secure: true,
    source: 'crawl',
    banned: false,
    status: 'active',
    cursor: hostId * 100,
    ahead: [],
    accountCount: 10,
    expectedAccounts: 0,
    accountLimit: null,
    eventsPerSecondLimit: null,
    validation: null,
    createdAtMs: 1_700_000_000_000,
    lastEventAtMs: 1_700_000_500_000,
    connectedUntilMs: 1_700_000_600_000,
    failures: 0,
    ...row,
  },
  trusted: false,
  connected: true,
  connectedSinceMs: 1_700_000_400_000,
  nextAttemptAtMs: null,
  lastClose: '',
  lastCloseAtMs: null,
  limits: { perSecond: 50, perHour: 2500, perDay: 20_000 },
  accountLimit: 100,
  eventsSinceStart: 7,
  rejectionsSinceStart: { rev_stale: 3 },
  pausedFor: null,
  pendingEvents: 0,
  ...view,
});

export const anAccount = (did: string, row: Partial<AccountRow> = {}): AccountRow => ({
  did,
  hostId: 1,
  ownStatus: null,
  upstreamStatus: null,
  rev: '3kabcdefghij2',
  commit: new Uint8Array(32).fill(7),
  data: new Uint8Array(32).fill(8),
  desynchronized: false,
  keyType: 'k256',
  key: new Uint8Array(33),
  handle: 'someone.example.com',
  identityAtMs: 1_700_000_000_000,
  known: true,
  ...row,
});

/** The API over plain arrays. */
export const startApi = (
  world: {
    hosts?: HostView[];
    accounts?: AccountRow[];
    repos?: (ListedRepo & { id: number })[];
    rejections?: RejectionRow[];
    gaps?: GapRow[];
    consumers?: ConsumerView[];
    problems?: string[];
    crawl?: (hostname: string, source: string) => CrawlResult;
    adminPasswords?: string[];
    lookup?: (did: string) => Promise<AccountRow | null>;
    clock?: () => number;
    collections?: CollectionReader;
    collectionsStatus?: CollectionsStatus;
    backfill?: BackfillStatus | null;
  } = {},
) => {
  const hosts = world.hosts ?? [];
  const { collectionsStatus } = world;
  const banned = new Set<string>();
  const errors: unknown[] = [];
  const roster = {
    list: () => hosts,
    get: (hostname: string) => hosts.find((view) => view.row.hostname === hostname) ?? null,
    getById: (hostId: number) => hosts.find((view) => view.row.hostId === hostId) ?? null,
    requestCrawl: async (hostname: string, options: { source: string }): Promise<CrawlResult> =>
      world.crawl?.(hostname, options.source) ?? { ok: true, hostId: 1, known: false },
    ban: async (hostname: string) => {
      banned.add(hostname);
      return hosts.some((view) => view.row.hostname === hostname);
    },
    unban: async (hostname: string) => {
      banned.delete(hostname);
      return hosts.some((view) => view.row.hostname === hostname);
    },
  };
  const state = {
    listRepos: async (cursor: number, limit: number) => {
      const later = (world.repos ?? []).filter((repo) => repo.id > cursor);
      const repos = later.slice(0, limit);
      return { repos, cursor: later.length > limit ? repos[repos.length - 1]!.id : null };
    },
    firstActiveRepo: async (after: number) =>
      (world.repos ?? []).find(
        (repo) => repo.id > after && repo.ownStatus === null && repo.upstreamStatus === null,
      ) ?? null,
    rejectionsOfHost: async () => world.rejections ?? [],
    rejectionsOfAccount: async () => world.rejections ?? [],
    gapsOfHost: async () => world.gaps ?? [],
    counts: async () => ({ accounts: world.accounts?.length ?? 0, hosts: hosts.length }),
  };
  const accounts = {
    lookup: async (did: string) =>
      world.lookup !== undefined
        ? world.lookup(did)
        : (world.accounts?.find((row) => row.did === did) ?? null),
    effective: (row: AccountRow) => {
      const status = row.ownStatus ?? row.upstreamStatus;
      return status === null ? { active: true } : { active: false, status };
    },
  };
  const consumers = () => world.consumers ?? [];
  const app = createApi({
    roster,
    state,
    accounts,
    pages: createPages({
      roster,
      state,
      accounts,
      log: { lastSeq: 1234, oldestSeq: 12 },
      consumers,
      ...(collectionsStatus === undefined ? {} : { collections: () => collectionsStatus }),
      backfill: async () => world.backfill ?? null,
    }),
    ...(world.collections === undefined ? {} : { collections: world.collections }),
    consumers,
    health: () => world.problems ?? [],
    adminPasswords: world.adminPasswords ?? [],
    clock: world.clock ?? (() => 1_700_000_600_000),
    onError: (error) => void errors.push(error),
  });
  return {
    banned,
    errors,
    request: (path: string, init: RequestInit = {}, remoteAddress = '198.51.100.7') =>
      app.request(path, init, { remoteAddress }) as Promise<Response>,
  };
};

/** The parsed body, for tests that look into it. */
// biome-ignore lint/suspicious/noExplicitAny: an answer is whatever the test says it should be
export const json = async (response: Response): Promise<any> => response.json();
