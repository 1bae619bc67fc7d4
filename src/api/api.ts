/**
 * The HTTP API: public XRPC routes, health, admin routes and pages for people. It owns no state but the
 * per-address limits and the number of requests in work; everything it tells comes from its dependencies. Errors are
 * JSON, whoever asks.
 */
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { cors } from 'hono/cors';
import type { BackfillControl } from '../backfill/types.ts';
import type { CollectionReader } from '../collections/types.ts';
import { isDatabaseAway } from '../state/connections.ts';
import { addAdminRoutes } from './admin.ts';
import { adminAuth } from './admin-auth.ts';
import { addCollectionRoutes } from './collections.ts';
import { addPages } from './pages/routes.ts';
import { createRateLimiter } from './rate-limit.ts';
import type { RequestEnvironment } from './server.ts';
import { addSyncRoutes } from './sync.ts';
import type { Accounts, ApiRoster, ApiState, ConsumerView, Pages } from './types.ts';
import { VERSION } from './version.ts';
import { xrpcError } from './xrpc-error.ts';

/** What every handler gets as `c.env`. */
export interface ApiEnv {
  Bindings: RequestEnvironment;
}

export interface ApiOptions {
  readonly roster: ApiRoster;
  readonly state: Pick<ApiState, 'listRepos' | 'firstActiveRepo'>;
  readonly accounts: Accounts;
  readonly pages: Pages;
  /** Reads of the collection index; absent: its routes answer MethodNotImplemented. */
  readonly collections?: CollectionReader;
  /** Absent: no admin routes for it. */
  readonly backfill?: BackfillControl;
  /** All consumers of all edges. */
  readonly consumers: () => readonly ConsumerView[];
  /** The problems right now, in words; none = healthy. See createHealth. */
  readonly health: () => readonly string[];
  /**
   * Answers network.bsky.jetstream.getZstdDictionary: the query parameter `id`, null for the current one, and the
   * header If-None-Match. Without it there is no such method.
   */
  readonly zstdDictionary?: (id: string | null, ifNoneMatch: string | null) => Response;
  /** Empty: admin routes off. */
  readonly adminPasswords: readonly string[];
  /** ms since the epoch. */
  readonly clock?: () => number;
  /** Told about what should not happen; the caller gets a 500. */
  readonly onError?: (error: unknown, path: string) => void;
}

/** requestCrawl per address: a PDS asks every 20 minutes at most. */
export const CRAWL_REQUESTS = { max: 20, windowMs: 5 * 60_000 } as const;
/** Failed logins per address. */
export const FAILED_LOGINS = { max: 5, windowMs: 5 * 60_000 } as const;
/** Addresses that each of the two limits remembers; about 1 MB. */
export const MAX_LIMITED_ADDRESSES = 10_000;

/** Bodies are a hostname in JSON. */
export const MAX_BODY_BYTES = 16 * 1024;
/** Requests in work at once, most of which wait for the database: more would only wait longer. */
export const MAX_REQUESTS_IN_WORK = 512;

/** While the database is away, every request that needs it fails: one of them is told in so long. */
const TELL_AWAY_EVERY_MS = 10_000;

/** Builds the app. Call `fetch(request, { remoteAddress })`; startServer does. */
export const createApi = (options: ApiOptions): Hono<ApiEnv> => {
  const clock = options.clock ?? Date.now;
  const app = new Hono<ApiEnv>();

  // For preflights; the headers that every answer has are the server's.
  app.use(cors({ origin: '*', allowMethods: ['GET', 'HEAD', 'POST', 'OPTIONS'], maxAge: 86_400 }));

  const health = (c: Parameters<typeof xrpcError>[0]) => {
    const problems = options.health();
    if (problems.length === 0) return c.json({ status: 'ok', version: VERSION });
    return c.json({ status: 'unhealthy', version: VERSION, message: problems.join('; '), problems }, 503);
  };
  app.get('/_health', health);
  app.get('/xrpc/_health', health);

  // After the health routes: an overloaded relay still tells how it is.
  let inWork = 0;
  app.use(async (c, next) => {
    if (inWork >= MAX_REQUESTS_IN_WORK) {
      return xrpcError(c, 503, 'NotAvailable', 'the relay is busy', { 'retry-after': '5' });
    }
    inWork++;
    try {
      await next();
    } finally {
      inWork--;
    }
    return;
  });
  app.use(
    bodyLimit({
      maxSize: MAX_BODY_BYTES,
      onError: (c) => xrpcError(c, 413, 'PayloadTooLarge', `a body may have ${MAX_BODY_BYTES} bytes`),
    }),
  );

  addSyncRoutes(app, {
    roster: options.roster,
    state: options.state,
    accounts: options.accounts,
    crawlLimiter: createRateLimiter({ ...CRAWL_REQUESTS, maxKeys: MAX_LIMITED_ADDRESSES, clock }),
  });

  if (options.collections !== undefined) addCollectionRoutes(app, options.collections);

  const { zstdDictionary } = options;
  if (zstdDictionary !== undefined) {
    app.get('/xrpc/network.bsky.jetstream.getZstdDictionary', (c) =>
      zstdDictionary(c.req.query('id') ?? null, c.req.header('if-none-match') ?? null),
    );
  }

  app.use(
    '/admin/*',
    adminAuth({
      passwords: options.adminPasswords,
      failures: createRateLimiter({ ...FAILED_LOGINS, maxKeys: MAX_LIMITED_ADDRESSES, clock }),
    }),
  );
  addAdminRoutes(app, {
    roster: options.roster,
    consumers: options.consumers,
    ...(options.backfill === undefined ? {} : { backfill: options.backfill }),
  });
  addPages(app, { pages: options.pages, clock });

  app.notFound((c) => {
    const { path } = c.req;
    const known = app.routes.filter((route) => route.path === path && route.method !== 'ALL');
    if (known.length > 0) {
      const allow = [...new Set(known.map((route) => route.method))].join(', ');
      return xrpcError(c, 405, 'InvalidRequest', `this method takes ${allow}`, { allow });
    }
    if (/^\/xrpc\/[a-zA-Z0-9.-]+$/.test(path)) {
      return xrpcError(c, 501, 'MethodNotImplemented', 'this relay does not have the method');
    }
    return xrpcError(c, 404, 'NotFound', 'there is nothing here');
  });

  const report =
    options.onError ?? ((cause: unknown, path: string) => console.error(`request to ${path} failed:`, cause));
  let toldAwayAtMs = Number.NEGATIVE_INFINITY;
  app.onError((error, c) => {
    // Who hangs up amid a body is no failure of ours, and hears no answer.
    if (error.name === 'AbortError' && c.req.raw.signal.aborted) {
      return xrpcError(c, 400, 'InvalidRequest', 'the request ended before its body did');
    }
    if (isDatabaseAway(error)) {
      if (clock() - toldAwayAtMs >= TELL_AWAY_EVERY_MS) {
        toldAwayAtMs = clock();
        report(error, c.req.path);
      }
      return xrpcError(c, 503, 'NotAvailable', 'the database cannot be asked now', { 'retry-after': '5' });
    }
    report(error, c.req.path);
    return xrpcError(c, 500, 'InternalServerError', 'the request failed; it is not your fault');
  });

  return app;
};
