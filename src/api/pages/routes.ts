/**
 * Pages for people, as plain HTML; none needs a script, and only the one that helps to connect has one. The same as
 * JSON by `Accept: application/json` or `?format=json`. Anyone may read them: why a host or an account is not served
 * must never be a secret.
 */
import type { Hono } from 'hono';
import { html } from 'hono/html';
import * as v from 'valibot';
import type { HostView } from '../../hosts/types.ts';
import type { RejectionRow } from '../../state/types.ts';
import type { ApiEnv } from '../api.ts';
import { cidText } from '../cid.ts';
import { didSchema, hostnameSchema } from '../params.ts';
import type { AccountPage, HostPage, Pages, Summary } from '../types.ts';
import { VERSION } from '../version.ts';
import { xrpcError } from '../xrpc-error.ts';
import { collectionsPage } from './collections-page.ts';
import { isNearLimit, rejectionCount, SORTS, type Sort, sortHosts, statusOf } from './host-order.ts';
import { ago, type Html, number, when } from './html.ts';
import { addJetstreamPage } from './jetstream.ts';
import { send, socketOrigin, wantsJson } from './respond.ts';

/** Of a page of the host list: 10 µs each, in which nothing else is done. */
export const MAX_HOST_ROWS = 100;
/** Of the host list as JSON, which takes a quarter of that time. */
export const MAX_LISTED_HOSTS = 5_000;

const hostJson = (view: HostView) => ({
  hostname: view.row.hostname,
  hostId: view.row.hostId,
  status: statusOf(view),
  source: view.row.source,
  trusted: view.trusted,
  connected: view.connected,
  connectedSinceMs: view.connectedSinceMs,
  nextAttemptAtMs: view.nextAttemptAtMs,
  lastClose: view.lastClose,
  lastCloseAtMs: view.lastCloseAtMs,
  lastEventAtMs: view.row.lastEventAtMs,
  failures: view.row.failures,
  cursor: view.row.cursor,
  accountCount: view.row.accountCount,
  accountLimit: view.accountLimit,
  nearAccountLimit: isNearLimit(view),
  limits: view.limits,
  pausedFor: view.pausedFor,
  pendingEvents: view.pendingEvents,
  eventsSinceStart: view.eventsSinceStart,
  rejectionsSinceStart: view.rejectionsSinceStart,
});

const accountJson = (data: AccountPage) => ({
  did: data.row.did,
  host: data.host?.row.hostname ?? null,
  active: data.active,
  status: data.status,
  ownStatus: data.row.ownStatus,
  upstreamStatus: data.row.upstreamStatus,
  rev: data.row.rev,
  head: data.row.commit === null ? null : cidText(data.row.commit),
  desynchronized: data.row.desynchronized,
  handle: data.row.handle,
  identityAtMs: data.row.identityAtMs,
  rejections: data.rejections,
});

/** Text as one part of a URL. Half a character, which a cut may leave, is replaced. */
const urlPart = (text: string): string => encodeURIComponent(text.toWellFormed());

const PAUSES = {
  rate_limit: 'its rate limit',
  pending_identities: 'identities that cannot be resolved right now',
} as const;

const rejectionTable = (rejections: readonly RejectionRow[], nowMs: number): Html =>
  rejections.length === 0
    ? html`<p>None.</p>`
    : html`<div class="scroll"><table>
<tr><th>when</th><th>reason</th><th>detail</th><th>account</th><th class="number">host's seq</th><th>rev</th></tr>
${rejections.map(
  (
    row,
  ) => html`<tr><td title="${when(row.atMs)}">${ago(row.atMs, nowMs)}</td><td><code>${row.reason}</code></td>
<td>${row.detail}</td><td>${row.did === '' ? '' : html`<a href="/accounts/${urlPart(row.did)}"><code>${row.did}</code></a>`}</td>
<td class="number">${row.upstreamSeq}</td><td><code>${row.rev}</code></td></tr>`,
)}</table></div>`;

const frontPage = (summary: Summary, sockets: string, hasCollections: boolean): Html => html`
<p>An AT Protocol relay: it follows every host it knows, verifies what they send, orders and keeps it, and serves it
as one stream. Version ${VERSION}.</p>
<table>
<tr><th>hosts</th><td><a href="/hosts">${number(summary.connectedHosts)} connected of ${number(summary.hosts)}</a></td></tr>
<tr><th>accounts</th><td>${number(summary.accounts)}</td></tr>
<tr><th>consumers</th><td>${number(summary.consumers)}</td></tr>
<tr><th>replay window</th><td>seq ${summary.oldestSeq} to ${summary.lastSeq}</td></tr>
</table>
<h2>Connect</h2>
<pre>${sockets}/xrpc/com.atproto.sync.subscribeRepos</pre>
<p>With <code>?cursor=0</code> from the oldest event kept, with <code>?cursor=N</code> from the one after seq N.</p>
<p>The same as JSON, filtered as you like: <a href="/jetstream">how to connect</a>.</p>
<pre>${sockets}/subscribe</pre>
<h2>Endpoints</h2>
<ul>
<li><code>com.atproto.sync.subscribeRepos</code> (WebSocket)</li>
<li><a href="/xrpc/com.atproto.sync.listHosts"><code>com.atproto.sync.listHosts</code></a>,
<code>getHostStatus</code>, <code>requestCrawl</code></li>
<li><a href="/xrpc/com.atproto.sync.listRepos"><code>com.atproto.sync.listRepos</code></a>,
<code>getRepoStatus</code>, <code>getLatestCommit</code>, <code>getRepo</code></li>
${
  hasCollections
    ? html`<li><code>com.atproto.sync.listReposByCollection</code>, <a href="/v1/listCollections"><code>/v1/listCollections</code></a>,
<a href="/collections"><code>/collections</code></a>: how the index of collections stands</li>
`
    : ''
}<li><a href="/jetstream"><code>/subscribe</code></a>, <code>network.bsky.jetstream.subscribeEvents</code>
(WebSockets), <code>network.bsky.jetstream.getZstdDictionary</code></li>
<li><a href="/_health"><code>/_health</code></a></li>
<li><a href="/hosts"><code>/hosts</code></a>, <code>/hosts/HOSTNAME</code>, <code>/accounts/DID</code>: why something
is or is not served; as JSON with <code>?format=json</code></li>
</ul>`;

/** Which part of the host list is shown. */
interface HostQuery {
  readonly sort: Sort;
  /** Empty: all. */
  readonly status: string;
  /** How many are passed by. */
  readonly from: number;
}

const hostsPage = (
  views: readonly HostView[],
  shown: readonly HostView[],
  total: number,
  { sort, status, from }: HostQuery,
  nowMs: number,
): Html => {
  const counts = new Map<string, number>();
  for (const view of views) counts.set(statusOf(view), (counts.get(statusOf(view)) ?? 0) + 1);
  const header = (label: string, key: Sort, css = '') =>
    html`<th class="${css}">${sort === key ? label : html`<a href="?sort=${key}&amp;status=${urlPart(status)}">${label}</a>`}</th>`;
  const turn = (word: string, to: number) =>
    html` · <a href="?sort=${sort}&amp;status=${urlPart(status)}&amp;from=${to}">${word}</a>`;
  return html`
<p><a href="?sort=${sort}">all ${number(views.length)}</a>
${[...counts].map(([word, count]) => html` · <a href="?sort=${sort}&amp;status=${urlPart(word)}">${word} ${number(count)}</a>`)}
${sort === 'problems' ? '' : html` · <a href="?sort=problems">problems first</a>`}</p>
<div class="scroll"><table>
<tr>${header('host', 'hostname')}${header('status', 'status')}<th>connection</th>${header('accounts', 'accounts', 'number')}
${header('events', 'events', 'number')}${header('rejected', 'rejections', 'number')}<th>last event</th></tr>
${shown.map(
  (view) => html`<tr><td><a href="/hosts/${urlPart(view.row.hostname)}">${view.row.hostname}</a></td>
<td class="${statusOf(view) === 'active' ? '' : 'bad'}">${statusOf(view)}</td>
<td>${
    view.connected
      ? view.pausedFor === null
        ? 'connected'
        : html`<span class="near">paused for ${PAUSES[view.pausedFor]}</span>`
      : html`${view.lastClose === '' ? 'not connected' : view.lastClose}${view.nextAttemptAtMs === null ? '' : `, next attempt ${ago(view.nextAttemptAtMs, nowMs)}`}`
  }</td>
<td class="number ${isNearLimit(view) ? 'near' : ''}">${number(view.row.accountCount)}${isNearLimit(view) ? ` of ${number(view.accountLimit)}` : ''}</td>
<td class="number">${number(view.eventsSinceStart)}</td><td class="number">${number(rejectionCount(view))}</td>
<td title="${when(view.row.lastEventAtMs)}">${ago(view.row.lastEventAtMs, nowMs)}</td></tr>`,
)}</table></div>
<p>${shown.length === 0 ? 'None' : `${number(from + 1)} to ${number(from + shown.length)}`} of ${number(total)}${
    from === 0 ? '' : turn('previous', Math.max(0, from - MAX_HOST_ROWS))
  }${from + shown.length < total ? turn('next', from + shown.length) : ''}</p>`;
};

const hostPage = ({ view, rejections, gaps }: HostPage, nowMs: number): Html => {
  const { row, limits } = view;
  const reasons = Object.entries(view.rejectionsSinceStart).filter(([, count]) => (count ?? 0) > 0);
  return html`
<table>
<tr><th>status</th><td class="${statusOf(view) === 'active' ? '' : 'bad'}">${statusOf(view)}</td></tr>
<tr><th>connection</th><td>${view.connected ? `connected, since ${when(view.connectedSinceMs)}` : 'not connected'}</td></tr>
<tr><th>paused for</th><td>${view.pausedFor === null ? 'nothing: its stream is read' : PAUSES[view.pausedFor]}</td></tr>
<tr><th>last close</th><td>${view.lastClose === '' ? 'none since the start' : `${view.lastClose} (${when(view.lastCloseAtMs)})`}</td></tr>
<tr><th>next attempt</th><td>${view.nextAttemptAtMs === null ? '–' : `${ago(view.nextAttemptAtMs, nowMs)} (${when(view.nextAttemptAtMs)})`}, after ${row.failures} failures in a row</td></tr>
<tr><th>cursor</th><td>${row.cursor === 0 ? 'none yet' : row.cursor}, ${number(row.ahead.length)} events taken ahead of it</td></tr>
<tr><th>last event</th><td>${ago(row.lastEventAtMs, nowMs)} (${when(row.lastEventAtMs)})</td></tr>
<tr><th>waiting events</th><td>${number(view.pendingEvents)}</td></tr>
<tr><th>accounts</th><td class="${isNearLimit(view) ? 'near' : ''}">${number(row.accountCount)} of at most ${number(view.accountLimit)}</td></tr>
<tr><th>rate limits</th><td>${number(limits.perSecond)} per second, ${number(limits.perHour)} per hour, ${number(limits.perDay)} per day</td></tr>
<tr><th>trusted</th><td>${view.trusted ? 'yes' : 'no'}</td></tr>
<tr><th>came by</th><td>${row.source}, ${when(row.createdAtMs)}</td></tr>
<tr><th>since the start</th><td>${number(view.eventsSinceStart)} events, ${number(rejectionCount(view))} rejected</td></tr>
</table>
<h2>Rejected since the start, by reason</h2>
${
  reasons.length === 0
    ? html`<p>None.</p>`
    : html`<table>${reasons.map(([reason, count]) => html`<tr><td><code>${reason}</code></td><td class="number">${number(count ?? 0)}</td></tr>`)}</table>`
}
<h2>Last rejections</h2>
${rejectionTable(rejections, nowMs)}
<h2>Gaps: what we know we did not get</h2>
${
  gaps.length === 0
    ? html`<p>None.</p>`
    : html`<table><tr><th>when</th><th class="number">from the host's seq</th><th class="number">to</th><th>why</th></tr>
${gaps.map((gap) => html`<tr><td>${when(gap.atMs)}</td><td class="number">${gap.fromSeq}</td><td class="number">${gap.toSeq === 0 ? 'unknown' : gap.toSeq}</td><td>${gap.why}</td></tr>`)}</table>`
}`;
};

const accountPage = (data: AccountPage, nowMs: number): Html => {
  const { row } = data;
  return html`
<table>
<tr><th>status</th><td class="${data.active ? '' : 'bad'}">${data.active ? 'active' : (data.status ?? 'inactive')}</td></tr>
<tr><th>by this relay</th><td>${row.ownStatus ?? 'no decision'}</td></tr>
<tr><th>by its host</th><td>${row.upstreamStatus ?? 'active'}</td></tr>
<tr><th>host</th><td>${data.host === null ? 'unknown' : html`<a href="/hosts/${urlPart(data.host.row.hostname)}">${data.host.row.hostname}</a>`}</td></tr>
<tr><th>handle</th><td>${row.handle ?? 'none known'}</td></tr>
<tr><th>rev</th><td><code>${row.rev ?? 'no commit seen yet'}</code></td></tr>
<tr><th>head</th><td><code>${row.commit === null ? '–' : cidText(row.commit)}</code></td></tr>
<tr><th>chain</th><td>${row.desynchronized ? 'a commit was missed; whole again with the next #sync' : 'whole'}</td></tr>
<tr><th>identity resolved</th><td>${ago(row.identityAtMs, nowMs)}</td></tr>
</table>
<h2>Last rejections</h2>
${rejectionTable(data.rejections, nowMs)}`;
};

/** Adds the pages to the app. */
export const addPages = (
  app: Hono<ApiEnv>,
  dependencies: { readonly pages: Pages; readonly clock: () => number },
): void => {
  const { pages, clock } = dependencies;

  app.get('/', async (c) => {
    const summary = await pages.summary();
    if (wantsJson(c)) return c.json({ name: 'weir', version: VERSION, ...summary });
    return send(c, 'weir', frontPage(summary, socketOrigin(c), pages.collections !== undefined));
  });

  addJetstreamPage(app);

  app.get('/hosts', (c) => {
    const asked = c.req.query('sort');
    const sort = SORTS.find((known) => known === asked) ?? 'problems';
    const status = (c.req.query('status') ?? '').slice(0, 64);
    const views = pages.hosts();
    const matching = status === '' ? views : views.filter((view) => statusOf(view) === status);
    const fromText = c.req.query('from') ?? '';
    const from = /^\d{1,9}$/.test(fromText) ? Number(fromText) : 0;
    const isJson = wantsJson(c);
    const rows = isJson ? MAX_LISTED_HOSTS : MAX_HOST_ROWS;
    const shown = sortHosts(matching, sort).slice(from, from + rows);
    if (isJson) return c.json({ total: matching.length, hosts: shown.map(hostJson) });
    return send(c, 'Hosts', hostsPage(views, shown, matching.length, { sort, status, from }, clock()));
  });

  app.get('/hosts/:hostname', async (c) => {
    const hostname = v.safeParse(hostnameSchema, c.req.param('hostname'));
    const found = hostname.success ? await pages.host(hostname.output) : null;
    if (found === null) return xrpcError(c, 404, 'HostNotFound', 'this relay does not know the host');
    if (wantsJson(c)) {
      return c.json({ ...hostJson(found.view), rejections: found.rejections, gaps: found.gaps });
    }
    return send(c, found.view.row.hostname, hostPage(found, clock()));
  });

  app.get('/collections', async (c) => {
    const found = await pages.collections?.();
    if (found === undefined) return xrpcError(c, 404, 'NotFound', 'this relay keeps no index of collections');
    if (wantsJson(c)) return c.json(found);
    return send(c, 'Collections', collectionsPage(found, clock()));
  });

  app.get('/accounts/:did', async (c) => {
    const did = v.safeParse(didSchema, c.req.param('did'));
    const found = did.success ? await pages.account(did.output) : null;
    if (found === null) return xrpcError(c, 404, 'RepoNotFound', 'this relay does not know the account');
    if (wantsJson(c)) return c.json(accountJson(found));
    return send(c, found.row.did, accountPage(found, clock()));
  });
};
