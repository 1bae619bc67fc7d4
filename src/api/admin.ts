/** The admin routes, in the shapes that existing operator tools speak. Authentication comes before them. */
import type { Context, Hono } from 'hono';
import * as v from 'valibot';
import { parseAdminSpec } from '../backfill/admin-spec.ts';
import type { BackfillControl, BackfillReply } from '../backfill/types.ts';
import type { HostView } from '../hosts/types.ts';
import type { ApiEnv } from './api.ts';
import { checkBody, checkQuery, hostnameSchema } from './params.ts';
import type { ApiRoster, ConsumerView } from './types.ts';
import { tooMany, xrpcError } from './xrpc-error.ts';

const SUCCESS = { success: 'true' } as const;

/** One host with the keys that dashboards know. */
const listRow = (view: HostView) => {
  const { row, limits } = view;
  return {
    ID: row.hostId,
    CreatedAt: new Date(row.createdAtMs).toISOString(),
    Host: row.hostname,
    SSL: row.secure,
    Cursor: row.cursor,
    Registered: !row.banned,
    Blocked: row.banned,
    CrawlRateLimit: limits.perSecond,
    RepoCount: row.accountCount,
    RepoLimit: view.accountLimit,
    HasActiveConnection: view.connected,
    EventsSeenSinceStartup: view.eventsSinceStart,
    PerSecondEventRate: { Max: limits.perSecond, Window: 1 },
    PerHourEventRate: { Max: limits.perHour, Window: 3_600 },
    PerDayEventRate: { Max: limits.perDay, Window: 86_400 },
    UserCount: row.accountCount,
  };
};

/** Adds the routes to the app. */
export const addAdminRoutes = (
  app: Hono<ApiEnv>,
  dependencies: {
    readonly roster: ApiRoster;
    readonly consumers: () => readonly ConsumerView[];
    readonly backfill?: BackfillControl;
  },
): void => {
  const { roster, consumers } = dependencies;

  app.post('/admin/pds/requestCrawl', async (c) => {
    const body = await checkBody(c.req.raw, v.object({ hostname: hostnameSchema }));
    if (!body.ok) return xrpcError(c, 400, 'InvalidRequest', body.message);
    const result = await roster.requestCrawl(body.value.hostname, { source: 'admin' });
    if (result.ok) return c.json(SUCCESS);
    if (result.error === 'RateLimitExceeded') {
      return tooMany(c, result.message, (result.retryAfterSeconds ?? 60) * 1000);
    }
    return xrpcError(c, result.error === 'HostBanned' ? 403 : 400, result.error, result.message);
  });

  app.get('/admin/pds/list', (c) => c.json(roster.list().map(listRow)));

  const hostParams = v.object({ host: hostnameSchema });
  for (const [path, act] of [
    ['/admin/pds/block', (host: string) => roster.ban(host)],
    ['/admin/pds/unblock', (host: string) => roster.unban(host)],
  ] as const) {
    app.post(path, async (c) => {
      const query = checkQuery(c.req.url, hostParams);
      if (!query.ok) return xrpcError(c, 400, 'InvalidRequest', query.message);
      if (await act(query.value.host)) return c.json(SUCCESS);
      return xrpcError(c, 404, 'HostNotFound', 'this relay does not know the host');
    });
  }

  app.get('/admin/consumers/list', (c) =>
    c.json(
      consumers().map((consumer) => ({
        id: consumer.id,
        edge: consumer.edge,
        remote_addr: consumer.remoteAddress,
        user_agent: consumer.userAgent,
        events_consumed: consumer.eventsSent,
        connected_at: new Date(consumer.connectedAtMs).toISOString(),
        seq: consumer.seq,
        behind: consumer.behind,
        mode: consumer.mode,
        queued_bytes: consumer.queuedBytes,
      })),
    ),
  );

  if (dependencies.backfill !== undefined) addBackfillRoutes(app, dependencies.backfill);
};

/** Start, pause, resume, cancel, status. A refusal (nothing to pause, one is running already) is a 409. */
const addBackfillRoutes = (app: Hono<ApiEnv>, backfill: BackfillControl): void => {
  const answer = (c: Context<ApiEnv>, reply: BackfillReply): Response =>
    reply.ok ? c.json({ ...SUCCESS, run: reply.runId }) : xrpcError(c, 409, 'InvalidRequest', reply.message);

  app.post('/admin/backfill/start', async (c) => {
    let body: unknown;
    try {
      body = await c.req.raw.json();
    } catch {
      return xrpcError(c, 400, 'InvalidRequest', 'the body must be JSON');
    }
    const parsed = parseAdminSpec(body);
    if (!parsed.ok) return xrpcError(c, 400, 'InvalidRequest', parsed.message);
    return answer(c, await backfill.start(parsed.spec));
  });
  app.post('/admin/backfill/pause', async (c) => answer(c, await backfill.pause()));
  app.post('/admin/backfill/resume', async (c) => answer(c, await backfill.resume()));
  app.post('/admin/backfill/cancel', async (c) => answer(c, await backfill.cancel()));
  app.get('/admin/backfill/status', async (c) => c.json({ backfill: await backfill.status() }));
};
