/**
 * The public com.atproto.sync.* routes, but for subscribeRepos (an edge) and listReposByCollection (collections.ts).
 * Source: the lexicons of the same names. Cursors are the id of a page's last row: rows are only ever appended,
 * so a cursor stays good for months, and a page is never empty while more follow. A page of listRepos with room for
 * more than one has an active repo while one follows: as its last, which comes again in its own place.
 */
import type { Context, Hono } from 'hono';
import * as v from 'valibot';
import type { HostView } from '../hosts/types.ts';
import type { AccountRow, ListedRepo } from '../state/types.ts';
import type { ApiEnv } from './api.ts';
import { cidText } from './cid.ts';
import { checkBody, checkQuery, cursorSchema, didSchema, hostnameSchema, limitSchema } from './params.ts';
import type { RateLimiter } from './rate-limit.ts';
import { addressKey, isLoopback } from './remote-address.ts';
import type { Accounts, ApiRoster, ApiState } from './types.ts';
import { tooMany, xrpcError } from './xrpc-error.ts';

/** Lexicon listHosts: default and maximum. */
export const LIST_HOSTS_LIMIT = { preset: 200, max: 1000 } as const;
/** Lexicon listRepos: default and maximum. */
export const LIST_REPOS_LIMIT = { preset: 500, max: 1000 } as const;

export interface SyncRoutes {
  readonly roster: ApiRoster;
  readonly state: Pick<ApiState, 'listRepos' | 'firstActiveRepo'>;
  readonly accounts: Accounts;
  /** Of requestCrawl, per address. */
  readonly crawlLimiter: RateLimiter;
}

const hostBody = ({ row }: HostView) => ({
  hostname: row.hostname,
  // 0: nothing was taken from it yet, and there is no seq to tell.
  ...(row.cursor > 0 ? { seq: row.cursor } : {}),
  accountCount: row.accountCount,
  status: row.banned ? 'banned' : row.status,
});

const statusOf = (repo: ListedRepo): string | null => repo.ownStatus ?? repo.upstreamStatus;

const repoBody = (repo: ListedRepo) => {
  const status = statusOf(repo);
  return {
    did: repo.did,
    head: cidText(repo.commit),
    rev: repo.rev,
    active: status === null,
    ...(status === null ? {} : { status }),
  };
};

/** What an inactive account's repo is refused with. */
const inactiveError = (status: string | undefined): { error: string; message: string } => {
  if (status === 'takendown') return { error: 'RepoTakendown', message: 'the repo has been taken down' };
  if (status === 'suspended') return { error: 'RepoSuspended', message: 'the repo has been suspended' };
  if (status === 'deleted') return { error: 'RepoNotFound', message: 'the repo has been deleted' };
  if (status === undefined || status === 'deactivated') {
    return { error: 'RepoDeactivated', message: 'the repo has been deactivated' };
  }
  return { error: 'RepoDeactivated', message: `the repo is inactive: ${status.slice(0, 64)}` };
};

/** Adds the routes to the app. */
export const addSyncRoutes = (app: Hono<ApiEnv>, dependencies: SyncRoutes): void => {
  const { roster, state, accounts, crawlLimiter } = dependencies;
  const invalid = (c: Context, message: string) => xrpcError(c, 400, 'InvalidRequest', message);

  app.post('/xrpc/com.atproto.sync.requestCrawl', async (c) => {
    const address = c.env.remoteAddress;
    if (!isLoopback(address)) {
      const waitMs = crawlLimiter.take(addressKey(address));
      if (waitMs > 0) return tooMany(c, 'too many requests from this address', waitMs);
    }
    const body = await checkBody(c.req.raw, v.object({ hostname: hostnameSchema }));
    if (!body.ok) return invalid(c, body.message);
    const result = await roster.requestCrawl(body.value.hostname, { source: 'crawl' });
    if (result.ok) return c.body(null, 200);
    if (result.error === 'RateLimitExceeded') {
      return tooMany(c, result.message, (result.retryAfterSeconds ?? 60) * 1000);
    }
    return xrpcError(c, result.error === 'HostBanned' ? 403 : 400, result.error, result.message);
  });

  const listHostsParams = v.object({
    limit: limitSchema(LIST_HOSTS_LIMIT.preset, LIST_HOSTS_LIMIT.max),
    cursor: cursorSchema,
  });
  app.get('/xrpc/com.atproto.sync.listHosts', (c) => {
    const query = checkQuery(c.req.url, listHostsParams);
    if (!query.ok) return invalid(c, query.message);
    const { limit, cursor } = query.value;
    const page: HostView[] = [];
    let more = false;
    for (const view of roster.list()) {
      if (view.row.hostId <= cursor) continue;
      if (page.length === limit) {
        more = true;
        break;
      }
      page.push(view);
    }
    return c.json({
      hosts: page.map(hostBody),
      ...(more ? { cursor: String(page[page.length - 1]!.row.hostId) } : {}),
    });
  });

  const hostParams = v.object({ hostname: hostnameSchema });
  app.get('/xrpc/com.atproto.sync.getHostStatus', (c) => {
    const query = checkQuery(c.req.url, hostParams);
    if (!query.ok) return invalid(c, query.message);
    const view = roster.get(query.value.hostname);
    if (view === null) return xrpcError(c, 400, 'HostNotFound', 'this relay does not know the host');
    return c.json(hostBody(view));
  });

  const listReposParams = v.object({
    limit: limitSchema(LIST_REPOS_LIMIT.preset, LIST_REPOS_LIMIT.max),
    cursor: cursorSchema,
  });
  app.get('/xrpc/com.atproto.sync.listRepos', async (c) => {
    const query = checkQuery(c.req.url, listReposParams);
    if (!query.ok) return invalid(c, query.message);
    const { limit, cursor } = query.value;
    let page = await state.listRepos(cursor, limit);
    if (page.cursor !== null && limit > 1 && page.repos.every((repo) => statusOf(repo) !== null)) {
      // A client that sees no active repo believes that it has seen all: the next one stands in for the page's last.
      const active = await state.firstActiveRepo(page.cursor);
      if (active !== null) {
        page = await state.listRepos(cursor, limit - 1);
        page.repos.push(active);
      }
    }
    return c.json({
      repos: page.repos.map(repoBody),
      ...(page.cursor === null ? {} : { cursor: String(page.cursor) }),
    });
  });

  const didParams = v.object({ did: didSchema });
  const notFound = (c: Context) => xrpcError(c, 400, 'RepoNotFound', 'this relay does not know the repo');

  app.get('/xrpc/com.atproto.sync.getRepoStatus', async (c) => {
    const query = checkQuery(c.req.url, didParams);
    if (!query.ok) return invalid(c, query.message);
    const row = await accounts.lookup(query.value.did);
    if (row === null) return notFound(c);
    const { active, status } = accounts.effective(row);
    return c.json({
      did: row.did,
      active,
      ...(active || status === undefined ? {} : { status }),
      // The lexicon: rev is there only when active.
      ...(active && row.rev !== null ? { rev: row.rev } : {}),
    });
  });

  /** The account when its repo may be given out; otherwise the answer that says why not. */
  const served = async (c: Context): Promise<AccountRow | Response> => {
    const query = checkQuery(c.req.url, didParams);
    if (!query.ok) return invalid(c, query.message);
    const row = await accounts.lookup(query.value.did);
    if (row === null) return notFound(c);
    const { active, status } = accounts.effective(row);
    if (active) return row;
    const { error, message } = inactiveError(status);
    return xrpcError(c, 400, error, message);
  };

  app.get('/xrpc/com.atproto.sync.getLatestCommit', async (c) => {
    const row = await served(c);
    if (row instanceof Response) return row;
    if (row.commit === null || row.rev === null) {
      return xrpcError(c, 400, 'RepoNotFound', 'this relay has not seen a commit of the repo yet');
    }
    return c.json({ cid: cidText(row.commit), rev: row.rev });
  });

  app.get('/xrpc/com.atproto.sync.getRepo', async (c) => {
    const row = await served(c);
    if (row instanceof Response) return row;
    const host = roster.getById(row.hostId);
    if (host === null) return notFound(c);
    const { pathname, search } = new URL(c.req.url);
    return c.redirect(
      `${host.row.secure ? 'https' : 'http'}://${host.row.hostname}${pathname}${search}`,
      302,
    );
  });
};
