/**
 * What the terminal shows of a run: bars that stay in place, or a line a minute where there is no terminal. Text out
 * of numbers; writing it is the caller's.
 */
import type { PoliteGroupView } from '../network/politeness.ts';
import type { RunView } from './run.ts';
import { ALL_REPOS } from './sources/verify.ts';
import type { BackfillCounters, BackfillSpec, BackfillStatus, SourceRow } from './types.ts';

/** Sources, groups and parked ones that are named; the others are counted. */
const MAX_SOURCE_LINES = 8;
const MAX_GROUP_LINES = 5;
const MAX_PARKED_LINES = 4;
const BAR_CHARACTERS = 20;
/**
 * How fast a rate follows: the weight of the last sample fades within about half a minute. Until then it is the mean
 * since the beginning, where the first requests go out in a burst.
 */
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

/** Rates of things that grow, smoothed; what falls back (a page that is read again) does not count against them. */
export interface Rates {
  /** Tells how far `name` is and hears its rate per second. */
  see(name: string, done: number, nowMs: number): number;
  /** Forgets what was not seen since the last call. */
  sweep(): void;
}

export const createRates = (): Rates => {
  let rates = new Map<string, { done: number; sinceMs: number; atMs: number; perSecond: number }>();
  let seen = new Set<string>();
  return {
    see(name, done, nowMs) {
      seen.add(name);
      const last = rates.get(name);
      if (last === undefined) {
        rates.set(name, { done, sinceMs: nowMs, atMs: nowMs, perSecond: 0 });
        return 0;
      }
      const elapsedMs = nowMs - last.atMs;
      if (elapsedMs < 500) return last.perSecond;
      const now = (Math.max(0, done - last.done) / elapsedMs) * 1000;
      const weight = Math.max(1 - Math.exp(-elapsedMs / RATE_MEMORY_MS), elapsedMs / (nowMs - last.sinceMs));
      last.perSecond += weight * (now - last.perSecond);
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

const stateCounts = ({ sources, active }: RunView): string => {
  const counts = { waiting: 0, parked: 0, done: 0, failed: 0 };
  for (const source of sources) if (!active.has(source)) counts[source.state]++;
  const parts = [`${active.size} under way`];
  for (const [state, count] of Object.entries(counts)) if (count > 0) parts.push(`${number(count)} ${state}`);
  return parts.join(', ');
};

const clip = (text: string, most: number): string =>
  text.length <= most ? text : `${text.slice(0, most - 1)}…`;

/** How far something is. */
interface Extent {
  readonly done: number;
  /** Expected, at least `done`. */
  readonly total: number;
  /** Of some parts nobody said how many there are: `total` is the least. */
  readonly isLeast: boolean;
}

/** Per second, with a digit where whole numbers would hide that it moves. */
const rateText = (perSecond: number): string =>
  perSecond > 0 && perSecond < 9.95 ? `${Math.max(0.1, perSecond).toFixed(1)}/s` : `${number(perSecond)}/s`;

/** 0: nothing is left, or it does not move. */
const leftMs = ({ done, total }: Extent, perSecond: number): number =>
  perSecond > 0 ? ((total - done) / perSecond) * 1000 : 0;

/** '' for a wait of 0. */
const leftText = (before: string, { isLeast }: Extent, waitMs: number): string =>
  waitMs > 0 ? `${before}${isLeast ? 'over ' : ''}${span(waitMs)} left` : '';

const progressOf = (extent: Extent, perSecond: number, waitMs = leftMs(extent, perSecond)): string => {
  const { done, total, isLeast } = extent;
  const rate = rateText(perSecond);
  if (isLeast && total === done) return `${' '.repeat(BAR_CHARACTERS)}  ${number(done)}  ${rate}`;
  const share = bar(total === 0 ? 1 : done / total);
  return `${share}  ${number(done)} of ${number(total)}${isLeast ? '+' : ''}  ${rate}${leftText('  ', extent, waitMs)}`;
};

const extentOf = ({ active }: RunView, sources: readonly SourceRow[]): Extent => {
  let allDone = 0;
  let total = 0;
  let isLeast = false;
  for (const source of sources) {
    const done = source.done + (active.get(source) ?? 0);
    allDone += done;
    // A finished source has given all there was, whatever was expected of it.
    const expected = source.state === 'done' ? done : source.total;
    total += Math.max(expected ?? 0, done);
    if (expected === null) isLeast = true;
  }
  return { done: allDone, total, isLeast };
};

/** How far a run is: by its sources, or, where it has none, by the repos that are read by themselves. */
const extentOfRun = (view: RunView): Extent => {
  if (view.sources.length > 0) return extentOf(view, view.sources);
  const done = view.counters.repos + view.queue.givenUp;
  return { done, total: done + view.queue.left, isLeast: false };
};

/** How far the sources of one group are, all that it has. */
interface GroupProgress {
  readonly sources: readonly SourceRow[];
  readonly extent: Extent;
  readonly perSecond: number;
}

/** By name, those with a source under way. */
const groupsOf = ({ view, nowMs, rates }: Shown): Map<string, GroupProgress> => {
  const byGroup = new Map<string, SourceRow[]>();
  const names = new Set<string>();
  for (const { group } of view.active.keys()) names.add(group);
  for (const source of view.sources) {
    if (!names.has(source.group)) continue;
    const those = byGroup.get(source.group);
    if (those === undefined) byGroup.set(source.group, [source]);
    else those.push(source);
  }
  return new Map(
    [...byGroup].map(([name, sources]) => {
      const extent = extentOf(view, sources);
      return [name, { sources, extent, perSecond: rates.see(`group ${name}`, extent.done, nowMs) }];
    }),
  );
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

/** Of all, for progressOf: its extent, rate, and wait, which is no less than that of the slowest of the groups at work. */
const progressOfRun = (
  { view, nowMs, rates }: Shown,
  groups: ReadonlyMap<string, GroupProgress>,
): [extent: Extent, perSecond: number, waitMs: number] => {
  const extent = extentOfRun(view);
  const perSecond = rates.see('', extent.done, nowMs);
  let waitMs = leftMs(extent, perSecond);
  for (const group of groups.values()) waitMs = Math.max(waitMs, leftMs(group.extent, group.perSecond));
  return [extent, perSecond, waitMs];
};

/** The screen: at most some 25 lines. */
export const screen = (shown: Shown, columns: number): string[] => {
  const { view, spec, nowMs, rates } = shown;
  const { sources, active, counters } = view;
  const groups = groupsOf(shown);
  const lines = [
    `backfill ${shown.runId}, ${describeSpec(spec)}   ${span(nowMs - shown.startedAtMs)}   (Ctrl-C pauses)`,
    view.phase === 'planning'
      ? 'looking for what there is to read …'
      : `${sources.length > 0 ? 'all   ' : 'repos '} ${progressOf(...progressOfRun(shown, groups))}`,
    countersLine(counters),
  ];
  if (sources.length > 0) lines.push(`${unitOf(spec.kind)}: ${stateCounts(view)}`);
  if (view.queue.left > 0 || view.reposInFlight > 0)
    lines.push(`single repos: ${view.reposInFlight} under way, ${number(view.queue.left)} left`);
  let named = 0;
  for (const source of active.keys()) {
    const extent = extentOf(view, [source]);
    const rate = rates.see(`source ${source.name}`, extent.done, nowMs);
    if (++named <= MAX_SOURCE_LINES)
      lines.push(`  ${nameText(nameOf(spec, source), NAME_CHARACTERS)} ${progressOf(extent, rate)}`);
  }
  if (named > MAX_SOURCE_LINES) lines.push(`  and ${named - MAX_SOURCE_LINES} more`);
  lines.push(...groupLines(shown, groups));
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

const nameText = (name: string, characters: number): string => clip(name, characters).padEnd(characters);

const nameOf = ({ kind }: BackfillSpec, { name }: SourceRow): string =>
  kind === 'verify' && name === ALL_REPOS ? 'all repos of the index' : name;

/** Groups that several sources share or that no source stands for, and those that must wait: the busiest first. */
const groupLines = (
  { groups, nowMs, rates }: Shown,
  withSources: ReadonlyMap<string, GroupProgress>,
): string[] => {
  const polite = new Map(groups.map((group) => [group.group, group]));
  const lines: { readonly text: string; readonly waits: boolean; readonly waiting: number }[] = [];
  for (const name of new Set([...polite.keys(), ...withSources.keys()])) {
    const progress = withSources.get(name);
    const group = polite.get(name);
    const waits = group !== undefined && group.pausedUntilMs > nowMs;
    if (!waits && progress !== undefined && progress.sources.length === 1) continue;
    const parts: string[] = [];
    if (progress === undefined)
      parts.push(`${rateText(rates.see(`asked ${name}`, group!.requests, nowMs))} asked`);
    else if (progress.sources.length > 1) parts.push(progressOf(progress.extent, progress.perSecond));
    if (group !== undefined) {
      parts.push(`${group.inFlight} under way, ${group.waiting} wait`);
      if (waits) parts.push(`told to wait ${span(group.pausedUntilMs - nowMs)}`);
    }
    const text = `  group ${nameText(name, NAME_CHARACTERS - 6)} ${parts.join('  ')}`;
    lines.push({ text, waits, waiting: group?.waiting ?? 0 });
  }
  lines.sort((a, b) => Number(b.waits) - Number(a.waits) || b.waiting - a.waiting);
  const shown = lines.slice(0, MAX_GROUP_LINES).map(({ text }) => text);
  if (lines.length > shown.length) shown.push(`  and ${lines.length - shown.length} more groups`);
  return shown;
};

/** One line, for logs. */
export const line = (shown: Shown): string => {
  const { view, spec, nowMs, rates } = shown;
  if (view.phase === 'planning') return `backfill ${shown.runId}: looking for what there is to read`;
  const [extent, perSecond, waitMs] = progressOfRun(shown, groupsOf(shown));
  const { done, total, isLeast } = extent;
  rates.sweep();
  const share = total === 0 || isLeast ? '' : ` (${((done / total) * 100).toFixed(1)} %)`;
  const waiting = shown.groups.filter(({ pausedUntilMs }) => pausedUntilMs > nowMs).length;
  return (
    `backfill ${shown.runId}: ${number(done)} read${share}, ${rateText(perSecond)}${leftText(', ', extent, waitMs)}; ${countersLine(view.counters)}` +
    (view.sources.length > 0 ? `; ${unitOf(spec.kind)}: ${stateCounts(view)}` : '') +
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
