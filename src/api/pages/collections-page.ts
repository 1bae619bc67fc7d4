import { html } from 'hono/html';
import type { BackfillStatus } from '../../backfill/types.ts';
import type { CheckFailure, CheckReason, HiddenReason } from '../../collections/types.ts';
import type { CollectionsPage } from '../types.ts';
import { ago, type Html, number, when } from './html.ts';

const CHECK_WORDS: Readonly<Record<CheckReason, string>> = {
  unproven_removal: 'something was deleted, and the commit does not prove what is left',
  sync_event: 'the repo was replaced as a whole (#sync)',
  discontinuity: 'a commit of the repo was missed',
  verify: 'asked for by the operator',
  touched_while_checked: 'an event overtook the answer of the last check',
  shown_again: 'it was hidden, and what it did meanwhile nobody told',
};

const HIDDEN_WORDS: Readonly<Record<HiddenReason, string>> = {
  deleted: 'deleted',
  takendown: 'taken down',
  deactivated: 'deactivated',
  suspended: 'suspended',
  desynchronized: 'desynchronized',
  throttled: 'throttled',
  pds_gone: 'its PDS is gone for good',
  unknown_status: 'a status that we do not know',
};

const FAILURE_WORDS: Readonly<Record<CheckFailure, string>> = {
  unresolved: 'the account could not be resolved',
  no_pds: 'its identity names no usable PDS',
  unreachable: 'its PDS could not be reached',
  timeout: 'its PDS did not answer in time',
  forbidden_address: 'its PDS has an address that we do not connect to',
  too_large: 'the answer was too large',
  rate_limited: 'told to come again later',
  server_error: 'its PDS failed',
  refused: 'its PDS refused, without a word on the repo',
  bad_answer: 'the answer was not what the lexicon says',
  over_bound: 'it has more collections than the index takes',
};

const percent = (done: number, total: number | null): string =>
  total === null || total === 0 ? '' : `${Math.min(100, (done / total) * 100).toFixed(1)} %`;

/** Numbers by a word, each with what the word means. */
const table = <Word extends string>(
  counts: Readonly<Partial<Record<Word, number>>>,
  words: Readonly<Record<Word, string>>,
): Html => {
  const rows = (Object.entries(counts) as [Word, number][]).filter(([, count]) => count > 0);
  return rows.length === 0
    ? html`<p>None.</p>`
    : html`<table>${rows.map(
        ([word, count]) =>
          html`<tr><td><code>${word}</code></td><td>${words[word] ?? ''}</td><td class="number">${number(count)}</td></tr>`,
      )}</table>`;
};

const backfillSection = (run: BackfillStatus, nowMs: number): Html => {
  const { counters } = run;
  const failures = Object.entries(counters.failures).filter(([, count]) => (count ?? 0) > 0);
  return html`
<table>
<tr><th>run</th><td>${number(run.runId)}, ${run.kind}, started by ${run.startedBy} ${ago(run.createdAtMs, nowMs)}</td></tr>
<tr><th>state</th><td class="${run.state === 'interrupted' ? 'bad' : ''}">${run.state}${run.finishedAtMs === null ? html`, last written ${ago(run.updatedAtMs, nowMs)}` : html` ${ago(run.finishedAtMs, nowMs)}`}</td></tr>
<tr><th>read</th><td>${number(run.done)}${run.total === null ? '' : html` of about ${number(run.total)} (${percent(run.done, run.total)})`}</td></tr>
<tr><th>sources</th><td>${Object.entries(run.sources).map(([state, count]) => html`${number(count)} ${state} `)}</td></tr>
<tr><th>imported</th><td>${number(counters.imported)}: ${number(counters.added)} new, ${number(counters.known)} known before</td></tr>
<tr><th>ghosts taken out</th><td>${number(counters.ghosts)}</td></tr>
<tr><th>accounts hidden</th><td>${number(counters.hidden)}</td></tr>
<tr><th>repos to be read</th><td>${number(run.queuedRepos)}, ${number(run.failedRepos)} given up</td></tr>
</table>
${
  failures.length === 0
    ? ''
    : html`<table>${failures.map(([reason, count]) => html`<tr><td><code>${reason}</code></td><td class="number">${number(count ?? 0)}</td></tr>`)}</table>`
}
${
  run.shown.length === 0
    ? ''
    : html`<div class="scroll"><table>
<tr><th>source</th><th>group</th><th>state</th><th class="number">read</th><th class="number">of</th><th>why</th><th>next</th></tr>
${run.shown.map(
  (source) => html`<tr><td>${source.name}</td><td>${source.group}</td>
<td class="${source.state === 'failed' ? 'bad' : source.state === 'parked' ? 'near' : ''}">${source.state}</td>
<td class="number">${number(source.done)}</td><td class="number">${source.total === null ? '' : number(source.total)}</td>
<td>${source.reason === null ? '' : html`<code>${source.reason}</code> ${source.detail}`}</td>
<td>${source.state === 'parked' ? ago(source.retryAtMs, nowMs) : ''}</td></tr>`,
)}</table></div>`
}`;
};

/** How the index of collections stands, and the last backfill. */
export const collectionsPage = ({ status, backfill }: CollectionsPage, nowMs: number): Html => html`
<table>
<tr><th>state</th><td class="${status.problem === '' ? '' : 'bad'}">${status.problem === '' ? 'well' : status.problem}</td></tr>
<tr><th>reflects</th><td>seq ${status.position} of ${status.lastSeq}: ${number(Math.max(0, status.lastSeq - status.position))} events behind, ${number(Math.round(status.lagMs / 1000))} s</td></tr>
<tr><th>collections</th><td><a href="/v1/listCollections">${number(status.collections)}</a></td></tr>
<tr><th>repos</th><td>${number(status.repos)}</td></tr>
<tr><th>rows</th><td>${number(status.rows)}: one for each collection of each repo</td></tr>
<tr><th>gaps</th><td>${number(status.gaps)} stretches of the log passed before they were read</td></tr>
<tr><th>refused</th><td>${number(status.refusedPairs)} pairs over a bound, malformed or of deleted repos; ${number(status.checksRefused)} checks over their bound</td></tr>
<tr><th>places dropped</th><td>${number(status.placesDropped)}: readers of several collections may hear of a repo again</td></tr>
</table>
<h2>Repos that are not told, by reason</h2>
${table(status.hiddenRepos, HIDDEN_WORDS)}
<h2>Repos that are to be checked with their PDS, by reason</h2>
${table(status.checks, CHECK_WORDS)}
<h2>Checks that were given up, by what failed last</h2>
${table(status.givenUp, FAILURE_WORDS)}
<h2>Backfill</h2>
${backfill === null ? html`<p>None has run.</p>` : backfillSection(backfill, nowMs)}
<p>When ${when(nowMs)}; the same as JSON with <code>?format=json</code>.</p>`;
