/**
 * The page that helps to connect to the JSON view: a form that becomes a URL, and snippets to copy. It is built
 * here, by the rules by which the endpoints judge; its script only asks for it again while one types, and opens
 * a WebSocket on demand.
 */
import type { Context, Hono } from 'hono';
import { html, raw } from 'hono/html';
import { MAX_WANTED_COLLECTIONS, MAX_WANTED_DIDS } from '../../../jetstream/filter/limits.ts';
import { parseV1Request, parseV2Request } from '../../../jetstream/filter/options.ts';
import type { ApiEnv } from '../api.ts';
import type { Html } from './html.ts';
import { send, socketOrigin, wantsJson } from './respond.ts';

const V1_PATH = '/subscribe';
const V2_PATH = '/xrpc/network.bsky.jetstream.subscribeEvents';
const DICTIONARY_PATH = '/xrpc/network.bsky.jetstream.getZstdDictionary';
const KINDS = ['commit', 'identity', 'account', 'sync'] as const;

/** Of one field of the form. Servers take about 16,000 characters of a request's head; more goes by options_update. */
const MAX_FIELD_CHARS = 6_000;

/** What the form holds, as it was typed. */
interface Choice {
  readonly version: 'v1' | 'v2';
  readonly collections: string;
  readonly dids: string;
  readonly kinds: readonly string[];
  readonly cursor: string;
  readonly compress: boolean;
  readonly heartbeat: boolean;
}

const readChoice = (c: Context): Choice => {
  const params = new URL(c.req.url).searchParams;
  const field = (name: string): string => (params.get(name) ?? '').slice(0, MAX_FIELD_CHARS).toWellFormed();
  const kinds = params.getAll('kinds');
  return {
    version: params.get('version') === 'v2' ? 'v2' : 'v1',
    collections: field('collections'),
    dids: field('dids'),
    kinds: KINDS.filter((kind) => kinds.includes(kind)),
    cursor: field('cursor').trim(),
    compress: params.has('compress'),
    heartbeat: params.has('heartbeat'),
  };
};

const words = (text: string): string[] => text.split(/[\s,]+/).filter((word) => word !== '');

/** The parameters a choice means. A dictionary has to be fetched first: of it only the name is there. */
const urlOf = (choice: Choice, origin: string, options: { readonly isCompressed: boolean }): URL => {
  const isV1 = choice.version === 'v1';
  const url = new URL(origin + (isV1 ? V1_PATH : V2_PATH));
  const params = url.searchParams;
  for (const word of words(choice.collections))
    params.append(isV1 ? 'wantedCollections' : 'collections', word);
  for (const word of words(choice.dids)) params.append(isV1 ? 'wantedDids' : 'dids', word);
  if (!isV1) for (const kind of choice.kinds) params.append('kinds', kind);
  if (choice.cursor !== '') params.set('cursor', choice.cursor);
  if (isV1 && options.isCompressed) params.set('compress', 'true');
  if (choice.heartbeat) params.set('heartbeat', 'true');
  // DIDs are easier to read with their colons, which may stand in a query as they are.
  url.search = url.search.replaceAll('%3A', ':');
  return url;
};

/** For a shell: text in single quotes. */
const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

const script = (url: string, version: 'v1' | 'v2'): string => `let cursor;
const connect = () => {
  const url = new URL(${JSON.stringify(url)});
  if (cursor !== undefined) url.searchParams.set('cursor', cursor);
  const socket = new WebSocket(url);
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    cursor = ${version === 'v1' ? 'message.time_us' : 'message.payload?.seq ?? cursor'};
    console.log(message);
  };
  socket.onclose = () => setTimeout(connect, 1000);
};
connect();`;

/** What the page tells, and the same as JSON. */
export interface Connecting {
  readonly url: string;
  /** Why the relay would refuse it; '' = it would not. */
  readonly problem: string;
  readonly websocat: string;
  readonly tail: string;
  readonly javascript: string;
  /** Without compression, for a browser. */
  readonly preview: string;
}

const connecting = (choice: Choice, origin: string): Connecting => {
  const { version } = choice;
  const url = urlOf(choice, origin, { isCompressed: choice.compress });
  const preview = urlOf(choice, origin, { isCompressed: false }).href;
  const judged = version === 'v1' ? parseV1Request(url, new Headers()) : parseV2Request(url);
  const isPiped = choice.compress && version === 'v1';
  const tail = [
    'bun run jetstream tail',
    `--host ${quoted(origin)}`,
    ...words(choice.collections).map((word) => `--collection ${quoted(word)}`),
    ...words(choice.dids).map((word) => `--did ${quoted(word)}`),
    ...(version === 'v2' ? ['--v2', ...choice.kinds.map((kind) => `--kind ${kind}`)] : []),
    ...(choice.cursor === '' ? [] : [`--cursor ${quoted(choice.cursor)}`]),
    ...(choice.compress ? ['--compress'] : []),
  ];
  return {
    url: url.href,
    problem: judged.ok ? '' : 'text' in judged ? judged.text : judged.message,
    websocat: isPiped ? `websocat -b ${quoted(url.href)} | zstd -dc` : `websocat ${quoted(url.href)}`,
    tail: tail.join(' '),
    javascript: script(preview, version),
    preview,
  };
};

/** Fills in what changed while one types, and shows the stream when asked to. Without it, the form is sent. */
const SCRIPT = `
const form = document.querySelector('form');
const byId = (id) => document.getElementById(id);
const live = byId('live');
const watch = byId('watch');
const MAX_LINES = 200;
let preview = live.dataset.url;
let socket = null;
let lines = [];
let asked = 0;
let timer;
let isDrawing = false;
const draw = () => {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    live.textContent = lines.join('\\n');
    live.scrollTop = live.scrollHeight;
  });
};
const say = (line) => {
  lines.push(line.length > 400 ? line.slice(0, 400) + '…' : line);
  if (lines.length > MAX_LINES) lines = lines.slice(-MAX_LINES);
  draw();
};
const stop = () => {
  const old = socket;
  socket = null;
  watch.textContent = 'Watch live';
  if (old !== null) old.close();
};
const start = () => {
  lines = [];
  live.hidden = false;
  say('connecting to ' + preview);
  watch.textContent = 'Stop';
  let own;
  try {
    own = new WebSocket(preview);
  } catch (error) {
    say(String(error));
    stop();
    return;
  }
  socket = own;
  own.onopen = () => say('connected');
  own.onmessage = ({ data }) => {
    if (socket === own) say(typeof data === 'string' ? data : '(binary)');
  };
  own.onclose = ({ code, reason }) => {
    if (socket !== own) return;
    say('closed ' + code + ' ' + reason);
    stop();
  };
};
watch.hidden = false;
watch.onclick = () => (socket === null ? start() : stop());
const ask = async () => {
  const own = ++asked;
  const params = new URLSearchParams(new FormData(form));
  history.replaceState(null, '', '?' + params);
  params.set('format', 'json');
  const answer = await fetch('/jetstream?' + params);
  if (own !== asked || !answer.ok) return;
  const data = await answer.json();
  for (const name of ['url', 'websocat', 'tail', 'javascript', 'problem']) byId(name).textContent = data[name];
  const changed = preview !== data.preview;
  preview = data.preview;
  if (changed && socket !== null) {
    stop();
    if (data.problem === '') start();
  }
};
form.oninput = () => {
  clearTimeout(timer);
  timer = setTimeout(ask, 250);
};
form.onsubmit = (event) => {
  event.preventDefault();
  ask();
};
byId('copy').hidden = false;
byId('copy').onclick = () => navigator.clipboard?.writeText(byId('url').textContent);
`;

const SCRIPT_HASH = new Bun.CryptoHasher('sha256').update(SCRIPT).digest('base64');

const checkbox = (name: string, value: string, label: string, isOn: boolean): Html =>
  html`<label><input type="checkbox" name="${name}" value="${value}" ${isOn ? raw('checked') : ''}> ${label}</label>`;

const option = (value: string, label: string, chosen: string): Html =>
  html`<option value="${value}" ${value === chosen ? raw('selected') : ''}>${label}</option>`;

const count = (value: number): string => value.toLocaleString('en-US');

const jetstreamPage = (choice: Choice, told: Connecting, origin: string): Html => html`
<p>The relay's stream as JSON, one message an event, over a WebSocket: for any language, without an SDK. It speaks
the protocol of Jetstream, so its clients work with it as they are; only the address is another.</p>
<table>
<tr><th>version 1</th><td><code>${origin}${V1_PATH}</code></td></tr>
<tr><th>version 2</th><td><code>${origin}${V2_PATH}</code></td></tr>
</table>

<h2>What do you want to see?</h2>
<form method="get" action="/jetstream">
<label for="version">endpoint</label>
<select id="version" name="version">${option('v1', 'version 1: what nearly every client speaks', choice.version)}${option('v2', 'version 2: kinds, #sync, cursors by seq', choice.version)}</select>
<label for="collections">collections</label>
<textarea id="collections" name="collections" rows="2" maxlength="${MAX_FIELD_CHARS}" placeholder="app.bsky.feed.post app.bsky.graph.*">${choice.collections}</textarea>
<label for="dids">DIDs</label>
<textarea id="dids" name="dids" rows="2" maxlength="${MAX_FIELD_CHARS}" placeholder="did:plc:…">${choice.dids}</textarea>
<label for="cursor">cursor</label>
<input id="cursor" type="text" name="cursor" value="${choice.cursor}" placeholder="empty: from now on">
<span>more</span>
<span>${checkbox('compress', 'true', 'compress', choice.compress)}${checkbox('heartbeat', 'true', 'heartbeat', choice.heartbeat)}
version 2 only: ${KINDS.map((kind) => checkbox('kinds', kind, kind, choice.kinds.includes(kind)))}</span>
<span><button type="submit">Build the URL</button> <button type="button" id="copy" hidden>Copy it</button>
<button type="button" id="watch" hidden>Watch live</button></span>
</form>
<p class="bad" id="problem">${told.problem}</p>
<pre id="url">${told.url}</pre>
<pre id="live" data-url="${told.preview}" hidden></pre>

<h2>On the command line</h2>
<pre id="websocat">${told.websocat}</pre>
<p>Or with a checkout of weir, readable and with reconnects:</p>
<pre id="tail">${told.tail}</pre>

<h2>In JavaScript</h2>
<pre id="javascript">${told.javascript}</pre>

<h2>Parameters</h2>
<div class="scroll"><table>
<tr><th>version 1</th><th>version 2</th><th>what it does</th></tr>
<tr><td class="name"><code>wantedCollections</code></td><td class="name"><code>collections</code></td><td>only commits to these collections; give it
once for each, at most ${MAX_WANTED_COLLECTIONS}. <code>app.bsky.graph.*</code> takes all that begins so. Identities and accounts come all the
same.</td></tr>
<tr><td class="name"><code>wantedDids</code></td><td class="name"><code>dids</code></td><td>only these accounts, of every kind of event; at most ${count(MAX_WANTED_DIDS)}</td></tr>
<tr><td></td><td><code>kinds</code></td><td><code>commit</code>, <code>identity</code>, <code>account</code>, <code>sync</code>;
all without it. Version 1 has no <code>sync</code>.</td></tr>
<tr><td class="name"><code>cursor</code></td><td class="name"><code>cursor</code></td><td>where to begin, see below</td></tr>
<tr><td class="name"><code>compress=true</code></td><td class="name"><code>zstdDictionary=ID</code></td><td>zstd, see below</td></tr>
<tr><td class="name"><code>maxMessageSizeBytes</code></td><td class="name"><code>maxMessageSizeBytes</code></td><td>events with more bytes of JSON are left
out</td></tr>
<tr><td><code>requireHello=true</code></td><td></td><td>nothing is sent before your first <code>options_update</code></td></tr>
<tr><td class="name"><code>heartbeat=true</code></td><td class="name"><code>heartbeat=true</code></td><td>on a quiet stream, a message with the current
cursor every 10 s. An extension of this relay: nobody gets it unasked.</td></tr>
</table></div>

<h2>Cursors</h2>
<p>A cursor is the <code>time_us</code> of an event (microseconds since 1970), or its <code>seq</code>, which is any number
below 10<sup>15</sup>. It is inclusive: come back with that of the last event you have dealt with, and it comes again,
first of all. Both mean the same on every relay that serves the same log, and after every restart. One from the
future means from now on; one that is older than what is kept means the oldest event, but for a <code>seq</code> in
version 2, which is refused with <code>CursorTooOld</code>.</p>

<h2>Many DIDs</h2>
<p>A URL has room for some hundred DIDs. In version 1, connect with <code>requireHello=true</code> and send a text message,
at any time again; it replaces all of the filter:</p>
<pre>{"type":"options_update","payload":{"wantedCollections":["app.bsky.feed.post"],"wantedDids":["did:plc:…"],"maxMessageSizeBytes":0}}</pre>

<h2>Compression</h2>
<p>Version 1: with <code>compress=true</code>, or the header <code>Socket-Encoding: zstd</code>, each message is a binary one
that holds one zstd frame. Whatever dictionary the frames need is named in their header; clients that have the
dictionary of Jetstream loaded read them either way. Version 2: fetch the dictionary from
<a href="${DICTIONARY_PATH}"><code>${DICTIONARY_PATH}</code></a>, once, and name its ID, which stands in bytes 4 to 7 of it as a little-endian integer.
permessage-deflate is declined.</p>
<script>${raw(SCRIPT)}</script>
`;

/** Adds `GET /jetstream`. */
export const addJetstreamPage = (app: Hono<ApiEnv>): void => {
  app.get('/jetstream', (c) => {
    const choice = readChoice(c);
    const origin = socketOrigin(c);
    const told = connecting(choice, origin);
    if (wantsJson(c)) return c.json(told);
    // Named one by one: not every browser takes 'self' for WebSockets, too.
    const { host } = new URL(c.req.url);
    const sockets = /^[a-zA-Z0-9.:[\]-]+$/.test(host) ? ` ws://${host} wss://${host}` : '';
    return send(c, 'Jetstream', jetstreamPage(choice, told, origin), [
      `script-src 'sha256-${SCRIPT_HASH}'`,
      `connect-src 'self'${sockets}`,
      "form-action 'self'",
      "base-uri 'none'",
    ]);
  });
};
