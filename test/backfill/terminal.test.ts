import { describe, expect, test } from 'bun:test';
import type { RunView } from '../../src/backfill/run.ts';
import { bar, createRates, line, type Shown, screen, span, summary } from '../../src/backfill/terminal.ts';
import { type BackfillStatus, noCounters, type SourceRow } from '../../src/backfill/types.ts';

const GROUP = '*.host.bsky.network';

const source = (name: string, fields: Partial<SourceRow> = {}): SourceRow => ({
  sourceId: 1,
  name,
  group: GROUP,
  state: 'waiting',
  cursor: null,
  done: 0,
  total: null,
  pages: 1,
  attempts: 0,
  retryAtMs: 0,
  reason: null,
  detail: '',
  ...fields,
});

const build = () => {
  const first = source(`first${GROUP.slice(1)}`, { done: 1_000, total: 5_000 });
  const second = source(`second${GROUP.slice(1)}`, { done: 0, total: 5_000 });
  const parked = source('pds.example.com', {
    group: 'pds.example.com',
    state: 'parked',
    reason: 'timeout',
    retryAtMs: 400_000,
  });
  const rates = createRates();
  const active = new Map([
    [first, 0],
    [second, 0],
  ]);
  const view: RunView = {
    counters: { ...noCounters(), added: 1_234, ghosts: 5, failures: { timeout: 3 } },
    sources: [first, second, parked],
    active,
    reposInFlight: 0,
    queue: { left: 0, givenUp: 0 },
    phase: 'reading',
  };
  const shown = (nowMs: number): Shown => ({
    runId: 3,
    spec: { kind: 'hosts', hosts: [] },
    view,
    groups: [{ group: GROUP, inFlight: 8, waiting: 30, requests: 0, pausedUntilMs: 70_000, remaining: 0 }],
    startedAtMs: 0,
    nowMs,
    rates,
    notices: [],
  });
  return { first, second, active, view, shown };
};

describe('a terminal', () => {
  test('has a bar for each source and shared group, with rates and time left', () => {
    const { first, second, shown } = build();
    screen(shown(0), 200);
    first.done += 100;
    second.done += 50;
    const lines = screen(shown(10_000), 200);
    const has = (...parts: string[]): boolean =>
      lines.some((text) => parts.every((part) => text.includes(part)));
    expect(has('first.host.bsky.network', '1,100 of 5,000', '10/s', '7 min left')).toBe(true);
    expect(has('second.host.bsky.network', '50 of 5,000', '5.0/s')).toBe(true);
    expect(
      has(`group ${GROUP}`, '1,150 of 10,000', '15/s', '8 under way, 30 wait', 'told to wait 60 s'),
    ).toBe(true);
    expect(has('parked: pds.example.com', 'timeout', 'again in 7 min')).toBe(true);
    expect(has('1,234 new', '5 ghosts', '3 failures')).toBe(true);
    for (const text of screen(shown(20_000), 40)) expect(text.length).toBeLessThan(40);
  });

  test('shows what is done of a page that is still read, and takes no step back for one that is read again', () => {
    const { first, active, shown } = build();
    const doneIn = (lines: string[]): string => lines.find((text) => text.includes('first.host'))!;
    screen(shown(0), 200);
    active.set(first, 80);
    expect(doneIn(screen(shown(10_000), 200))).toContain('1,080 of 5,000  8.0/s');
    first.done += 200;
    active.set(first, 0);
    expect(doneIn(screen(shown(20_000), 200))).toContain('1,200 of 5,000  10/s');
    active.set(first, 50);
    screen(shown(30_000), 200);
    active.set(first, 0);
    const after = doneIn(screen(shown(40_000), 200));
    expect(after).toContain('1,200 of 5,000');
    expect(after).not.toContain('-');
  });

  test('says that it takes longer where nobody told how much there is', () => {
    const { first, second, view, shown } = build();
    second.total = null;
    screen(shown(0), 200);
    first.done += 100;
    second.done += 100;
    const lines = screen(shown(10_000), 200);
    expect(lines[1]).toContain('1,200 of 5,100+  20/s  over 3 min left');
    expect(lines.find((text) => text.includes('second.host'))).toMatch(/ {2}100 {2}10\/s$/);
    expect(line({ ...shown(20_000), view: { ...view, counters: noCounters() } })).toContain('left');
  });

  test('expects no less than the slowest group takes', () => {
    const { first, second, shown } = build();
    const slow = source('slow.example.com', { group: 'slow.example.com', total: 1_000 });
    const { view } = shown(0);
    const at = (nowMs: number): Shown => ({
      ...shown(nowMs),
      view: {
        ...view,
        sources: [first, second, slow],
        active: new Map([
          [first, 0],
          [second, 0],
          [slow, 0],
        ]),
      },
    });
    screen(at(0), 200);
    first.done += 1_000;
    second.done += 1_000;
    slow.done += 1;
    // The one: 7,000 left at 200 a second. The other: 999 at one in ten seconds.
    expect(screen(at(10_000), 200)[1]).toContain('2.8 h left');
  });

  test('has a bar for repos that no source lists, and shows how busy their hosts are', () => {
    const { view, shown } = build();
    const at = (nowMs: number, repos: number, givenUp: number, requests: number): Shown => ({
      ...shown(nowMs),
      spec: { kind: 'dids', dids: [] },
      view: {
        ...view,
        counters: { ...noCounters(), repos },
        sources: [],
        active: new Map(),
        queue: { left: 100 - repos - givenUp, givenUp },
      },
      groups: [
        { group: 'a.example.com', inFlight: 1, waiting: 0, requests, pausedUntilMs: 0, remaining: null },
        { group: 'b.example.com', inFlight: 8, waiting: 9, requests, pausedUntilMs: 0, remaining: null },
      ],
    });
    screen(at(0, 10, 2, 0), 200);
    const lines = screen(at(10_000, 58, 4, 50), 200);
    expect(lines[1]).toContain('62 of 100  5.0/s  8 s left');
    const groups = lines.filter((text) => text.includes('group'));
    expect(groups.map((text) => text.split(/\s+/)[2])).toEqual(['b.example.com', 'a.example.com']);
    expect(groups[0]).toContain('5.0/s asked  8 under way, 9 wait');
  });

  test('that is none gets one line', () => {
    const { shown } = build();
    const text = line(shown(60_000));
    expect(text).not.toContain('\n');
    expect(text).toContain('backfill 3: 1,000 read');
    expect(text).toContain('2 under way, 1 parked');
  });

  test('shows rates that follow slowly and forget what ended', () => {
    const rates = createRates();
    expect(rates.see('a', 0, 0)).toBe(0);
    expect(rates.see('a', 1_000, 10_000)).toBe(100);
    // The mean of the first half minute: 1,000 in 11 s.
    expect(rates.see('a', 1_000, 11_000)).toBeCloseTo(1_000 / 11, 5);
    for (let seconds = 12; seconds <= 60; seconds++) rates.see('a', 1_000, seconds * 1_000);
    const faded = rates.see('a', 1_000, 61_000);
    expect(faded).toBeGreaterThan(5);
    expect(faded).toBeLessThan(20);
    rates.sweep();
    rates.sweep();
    expect(rates.see('a', 1_000, 62_000)).toBe(0);
  });

  test('has words for spans and shares', () => {
    expect([5_000, 90_000, 5_400_000, 360_000_000].map(span)).toEqual(['5 s', '2 min', '1.5 h', '4.2 days']);
    expect(bar(0.5)).toBe('██████████░░░░░░░░░░');
    expect([bar(-1), bar(2)]).toEqual(['░'.repeat(20), '█'.repeat(20)]);
  });
});

describe('a summary', () => {
  const status = (fields: Partial<BackfillStatus>): BackfillStatus => ({
    runId: 3,
    kind: 'hosts',
    startedBy: 'terminal',
    state: 'finished',
    wanted: 'run',
    createdAtMs: 0,
    updatedAtMs: 1_000,
    finishedAtMs: 1_000,
    counters: {
      ...noCounters(),
      imported: 10,
      added: 7,
      known: 3,
      ghosts: 1,
      failures: { timeout: 2, wrong_host: 4 },
    },
    sources: { waiting: 0, parked: 0, done: 3, failed: 0 },
    done: 30,
    total: 30,
    queuedRepos: 0,
    failedRepos: 0,
    shown: [],
    ...fields,
  });
  const text = (fields: Partial<BackfillStatus>): string => summary(status(fields), 2_000).join('\n');

  test('says what came in and what failed by reason', () => {
    const all = text({});
    for (const part of [
      'imported       10',
      'new            7',
      'already known  3',
      'ghosts         1 taken out',
    ])
      expect(all).toContain(part);
    expect(all).toContain('wrong_host 4, timeout 2');
    expect(all).not.toContain('resume');
  });

  test('says how to go on where there is something to go on with', () => {
    expect(text({ state: 'paused' })).toContain('resume it with: bun run backfill');
    expect(text({ state: 'interrupted' })).toContain('resume it with: bun run backfill');
    expect(text({ failedRepos: 1 })).toContain('--retry');
    expect(text({ state: 'cancelled', failedRepos: 1 })).not.toContain('--retry');
  });
});
