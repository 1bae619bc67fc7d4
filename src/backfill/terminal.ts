/**
 * What the terminal shows of a run: bars that stay in place, or a line a minute where there is no terminal. Text out
 * of numbers; writing it is the caller's.
 */
import type { PoliteGroupView } from '../network/politeness.ts';
import type { RunView } from './run.ts';
import type { BackfillCounters, BackfillSpec, BackfillStatus, SourceRow } from './types.ts';

/** Sources, groups and parked ones that are named; the others are counted. */
const MAX_SOURCE_LINES = 8;
const MAX_GROUP_LINES = 5;
const MAX_PARKED_LINES = 4;
const BAR_CHARACTERS = 20;
/** How fast a rate follows: the weight of the last sample fades within about half a minute. */
const RATE_MEMORY_MS = 30_000;
const NAME_CHARACTERS = 36;

export const number = (value: number): string => Math.round(value).toLocaleString('en');

/** A time span for people. */
export const span = (ms: number): string => {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 90) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = minutes / 60;
  return hours < 36 ? `${hours.toFixed(1)} h` : `${(hours / 24).toFixed(1)} days`;
};

/** `share` 0…1. */
export const bar = (share: number): string => {
  const full = Math.round(Math.min(1, Math.max(0, share)) * BAR_CHARACTERS);
  return '█'.repeat(full) + '░'.repeat(BAR_CHARACTERS - full);
};

/** Rates of things that only grow, smoothed. */
export interface Rates {
  /** Tells how far `name` is and hears its rate per second. */
  see(name: string, done: number, nowMs: number): number;
  /** Forgets what was not seen since the last call. */
  sweep(): void;
}

export const createRates = (): Rates => {
  let rates = new Map<string, { done: number; atMs: number; perSecond: number | null }>();
  let seen = new Set<string>();
  return {
    see(name, done, nowMs) {
      seen.add(name);
      const last = rates.get(name);
      if (last === undefined) {
        rates.set(name, { done, atMs: nowMs, perSecond: null });
        return 0;
      }
      const elapsedMs = nowMs - last.atMs;
      if (elapsedMs < 500) return last.perSecond ?? 0;
      const now = ((done - last.done) / elapsedMs) * 1000;
      const weight = 1 - Math.exp(-elapsedMs / RATE_MEMORY_MS);
      last.perSecond = last.perSecond === null ? now : last.perSecond + weight * (now - last.perSecond);
      last.done = done;
      last.atMs = nowMs;
      return last.perSecond;
    },
    sweep() {
      if (rates.size > seen.size) rates = new Map([...rates].filter(([name]) => seen.has(name)));
      seen = new Set();
    },
  };
};

/** What a run is about, in a few words. */
export const describeSpec = (spec: BackfillSpec): string => {
  switch (spec.kind) {
    case 'relay':
      return `import from ${spec.url}`;
    case 'hosts':
      return spec.hosts.length === 0 ? 'from all hosts' : `from ${spec.hosts.length} hosts`;
    case 'dids':
      return 'of single accounts';
    case 'verify':
      return spec.sample === null ? 'verification of all' : `verification of ${number(spec.sample)}`;
  }
};

const unitOf = (kind: BackfillSpec['kind']): string =>
  kind === 'hosts' ? 'hosts' : kind === 'dids' ? 'lists' : 'collections';

const failuresOf = (counters: BackfillCounters): number =>
  Object.values(counters.failures).reduce((sum, count) => sum + count, 0);

const countersLine = (counters: BackfillCounters): string =>
  `${number(counters.added)} new, ${number(counters.known)} known, ${number(counters.ghosts)} ghosts, ` +
  `${number(counters.hidden)} hidden, ${number(counters.accounts)} accounts listed, ${number(failuresOf(counters))} failures`;

const stateCounts = (sources: readonly SourceRow[], active: ReadonlySet<SourceRow>): string => {
  const counts = { waiting: 0, parked: 0, done: 0, failed: 0 };
  for (const source of sources) if (!active.has(source)) counts[source.state]++;
  const parts = [`${active.size} under way`];
  for (const [state, count] of Object.entries(counts)) if (count > 0) parts.push(`${number(count)} ${state}`);
  return parts.join(', ');
};

const clip = (text: string, most: number): string =>
  text.length <= most ? text : `${text.slice(0, most - 1)}…`;

const progressOf = (done: number, total: number | null, perSecond: number): string => {
  const rate = `${number(perSecond)}/s`;
  if (total === null) return `${' '.repeat(BAR_CHARACTERS)}  ${number(done)}  ${rate}`;
  const most = Math.max(total, done);
  const left = perSecond > 0 && most > done ? `  ${span(((most - done) / perSecond) * 1000)} left` : '';
  return `${bar(most === 0 ? 1 : done / most)}  ${number(done)} of ${number(most)}  ${rate}${left}`;
};

const totalsOf = (sources: readonly SourceRow[]): { done: number; total: number | null } => {
  let done = 0;
  let total: number | null = 0;
  for (const source of sources) {
    done += source.done;
    // A finished source has given all there was, whatever was expected of it.
    const expected = source.state === 'done' ? source.done : source.total;
    if (total !== null) total = expected === null ? null : total + Math.max(expected, source.done);
  }
  return { done, total };
};

export interface Shown {
  readonly runId: number;
  readonly spec: BackfillSpec;
  readonly view: RunView;
  readonly groups: readonly PoliteGroupView[];
  readonly startedAtMs: number;
  readonly nowMs: number;
  readonly rates: Rates;
  /** Latest sentences for the operator. */
  readonly notices: readonly string[];
}

/** The screen: at most some 25 lines. */
export const screen = (shown: Shown, columns: number): string[] => {
  const { view, spec, nowMs, rates } = shown;
  const { sources, active, counters } = view;
  const { done, total } = totalsOf(sources);
  const lines = [
    `backfill ${shown.runId}, ${describeSpec(spec)}   ${span(nowMs - shown.startedAtMs)}   (Ctrl-C pauses)`,
    view.phase === 'planning'
      ? 'looking for what there is to read …'
      : sources.length > 0
        ? `all    ${progressOf(done, total, rates.see('', done, nowMs))}`
        : `repos  ${number(counters.repos)} read, ${number(rates.see('', counters.repos, nowMs))}/s`,
    countersLine(counters),
  ];
  if (sources.length > 0) lines.push(`${unitOf(spec.kind)}: ${stateCounts(sources, active)}`);
  if ((view.queueLeft ?? 0) > 0 || view.reposInFlight > 0)
    lines.push(
      `single repos: ${view.reposInFlight} under way${view.queueLeft === null ? '' : `, ${number(view.queueLeft)} left when last counted`}`,
    );
  let named = 0;
  for (const source of active) {
    const rate = rates.see(`source ${source.name}`, source.done, nowMs);
    if (++named <= MAX_SOURCE_LINES)
      lines.push(
        `  ${clip(source.name, NAME_CHARACTERS).padEnd(NAME_CHARACTERS)} ${progressOf(source.done, source.total, rate)}`,
      );
  }
  if (named > MAX_SOURCE_LINES) lines.push(`  and ${named - MAX_SOURCE_LINES} more`);
  lines.push(...groupLines(shown));
  const parked = sources.filter(({ state }) => state === 'parked').sort((a, b) => a.retryAtMs - b.retryAtMs);
  for (const source of parked.slice(0, MAX_PARKED_LINES))
    lines.push(
      `  parked: ${clip(source.name, NAME_CHARACTERS)}  ${source.reason}, again in ${span(source.retryAtMs - nowMs)}`,
    );
  if (parked.length > MAX_PARKED_LINES) lines.push(`  and ${parked.length - MAX_PARKED_LINES} more parked`);
  lines.push(...shown.notices);
  rates.sweep();
  return lines.map((line) => clip(line, Math.max(20, columns - 1)));
};

/** Groups that several sources share, and those that must wait. */
const groupLines = ({ view, groups, nowMs, rates }: Shown): string[] => {
  const bySource = new Map<string, SourceRow[]>();
  for (const source of view.sources) {
    const those = bySource.get(source.group);
    if (those === undefined) bySource.set(source.group, [source]);
    else those.push(source);
  }
  const polite = new Map(groups.map((group) => [group.group, group]));
  const lines: string[] = [];
  for (const name of new Set([...polite.keys(), ...bySource.keys()])) {
    if (lines.length >= MAX_GROUP_LINES) break;
    const sources = bySource.get(name) ?? [];
    const group = polite.get(name);
    const waits = group !== undefined && group.pausedUntilMs > nowMs;
    const isActive = sources.some((source) => view.active.has(source));
    if (!waits && !(isActive && sources.length > 1)) continue;
    const parts: string[] = [];
    if (sources.length > 1) {
      const { done, total } = totalsOf(sources);
      parts.push(progressOf(done, total, rates.see(`group ${name}`, done, nowMs)));
    }
    if (group !== undefined) {
      parts.push(`${group.inFlight} asked, ${group.waiting} wait`);
      if (waits) parts.push(`told to wait ${span(group.pausedUntilMs - nowMs)}`);
    }
    lines.push(`  group ${clip(name, NAME_CHARACTERS - 6).padEnd(NAME_CHARACTERS - 6)} ${parts.join('  ')}`);
  }
  return lines;
};

/** One line, for logs. */
export const line = (shown: Shown): string => {
  const { view, spec, nowMs, rates } = shown;
  const { done, total } = totalsOf(view.sources);
  const what = view.sources.length > 0 ? done : view.counters.repos;
  const rate = rates.see('', what, nowMs);
  rates.sweep();
  const share =
    total === null || total === 0 || view.sources.length === 0
      ? ''
      : ` (${((done / total) * 100).toFixed(1)} %)`;
  const waiting = shown.groups.filter(({ pausedUntilMs }) => pausedUntilMs > nowMs).length;
  return (
    `backfill ${shown.runId}: ${number(what)} read${share}, ${number(rate)}/s; ${countersLine(view.counters)}` +
    (view.sources.length > 0 ? `; ${unitOf(spec.kind)}: ${stateCounts(view.sources, view.active)}` : '') +
    (waiting > 0 ? `; ${waiting} groups told us to wait` : '')
  );
};

/** The last words of a run, and the answer to --status. */
export const summary = (status: BackfillStatus, nowMs: number): string[] => {
  const { counters, sources } = status;
  const endMs = status.finishedAtMs ?? status.updatedAtMs;
  const lines = [
    `backfill ${status.runId} (${status.kind}): ${status.state}, begun ${new Date(status.createdAtMs).toISOString()}, ` +
      (status.state === 'running' ? 'at work' : `last at work ${span(nowMs - endMs)} ago`),
    `  imported       ${number(counters.imported)} (repo, collection) pairs read, ${number(counters.repos)} repos asked`,
    `  new            ${number(counters.added)}`,
    `  already known  ${number(counters.known)}`,
    `  ghosts         ${number(counters.ghosts)} taken out; ${number(counters.hidden)} accounts hidden`,
    `  accounts       ${number(counters.accounts)} listed`,
  ];
  if (counters.invalid > 0)
    lines.push(`  left out       ${number(counters.invalid)} entries that are not valid`);
  const counts = Object.entries(sources).filter(([, count]) => count > 0);
  if (counts.length > 0)
    lines.push(
      `  ${(status.kind === 'hosts' ? 'hosts' : 'collections').padEnd(13)}  ${counts.map(([state, count]) => `${number(count)} ${state}`).join(', ')}` +
        (status.total === null ? '' : `; ${number(status.done)} of ${number(status.total)} entries`),
    );
  if (status.queuedRepos > 0) lines.push(`  single repos   ${number(status.queuedRepos)} still to be read`);
  const failures = Object.entries(counters.failures).sort((a, b) => b[1] - a[1]);
  lines.push(
    failures.length === 0
      ? '  failures       none'
      : `  failures       ${failures.map(([reason, count]) => `${reason} ${number(count)}`).join(', ')}`,
  );
  for (const source of status.shown)
    if (source.state === 'failed' || source.state === 'parked')
      lines.push(
        `    ${source.state} ${source.name}: ${source.reason} (${source.detail})` +
          (source.state === 'parked' ? `, again in ${span(source.retryAtMs - nowMs)}` : ''),
      );
  if (status.state === 'paused' || status.state === 'interrupted')
    lines.push('  resume it with: bun run backfill');
  else if (status.state === 'finished' && (sources.failed > 0 || status.failedRepos > 0))
    lines.push('  try again what failed with: bun run backfill --retry');
  return lines;
};
