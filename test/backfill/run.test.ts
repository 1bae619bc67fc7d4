/** The order of one run, without a database and without servers. */
import { describe, expect, test } from 'bun:test';
import { startRun } from '../../src/backfill/run.ts';
import { noCounters, type RunRow, type SourceRow } from '../../src/backfill/types.ts';
import { createFakeClock } from '../network/fake-clock.ts';

const MAX_ACTIVE = 3;

const run: RunRow = {
  runId: 1,
  spec: { kind: 'relay', url: 'https://relay.example.com', collections: [], only: false },
  startedBy: 'terminal',
  createdAtMs: 0,
  state: 'running',
  wanted: 'run',
  planned: true,
  updatedAtMs: 0,
  finishedAtMs: null,
  counters: noCounters(),
};

const sourceRow = (sourceId: number, more: Partial<SourceRow> = {}): SourceRow => ({
  sourceId,
  name: `com.example.c${sourceId}`,
  group: 'relay.example.com',
  state: 'waiting',
  cursor: null,
  done: 0,
  total: null,
  pages: 0,
  attempts: 0,
  retryAtMs: 0,
  reason: null,
  detail: '',
  ...more,
});

describe('a run', () => {
  test('waits without looking while its places are taken, though a parked source is due, and takes that next', async () => {
    const clock = createFakeClock();
    let timers = 0;
    const parked = sourceRow(9, { state: 'parked', attempts: 1, retryAtMs: clock.nowMs() - 1 });
    const rows = [sourceRow(1), sourceRow(2), sourceRow(3), parked];
    const asked: string[] = [];
    const release: (() => void)[] = [];
    const stopping = new AbortController();
    const { ended } = startRun(run, {
      progress: {
        setState: async () => {},
        beat: async () => 'run',
        sources: async () => rows,
        commit: async () => {},
        queue: async () => ({ left: 0, nextAtMs: null, givenUp: 0 }),
        dueRepos: async () => [],
      } as never,
      index: {} as never,
      repos: {} as never,
      knownAccounts: async () => new Map(),
      hostIdOf: async () => 0,
      sources: {
        maxActive: MAX_ACTIVE,
        maxPerGroup: MAX_ACTIVE,
        plan: async () => ({ sources: [], repos: [] }),
        readPage: async ({ name }) => {
          asked.push(name);
          await new Promise<void>((resolve) => release.push(resolve));
          return { ok: true, cursor: null, entries: 1, counters: noCounters(), failures: [] };
        },
      },
      clock: {
        nowMs: clock.nowMs,
        after: (delayMs, callback) => {
          timers++;
          return clock.after(delayMs, callback);
        },
      },
      random: () => 0.5,
      signal: stopping.signal,
      stop: () => stopping.abort(),
      notice: () => {},
    });
    await clock.advance(10_000);
    expect(asked.length).toBe(MAX_ACTIVE);
    // A beat a second and a look at the queue every two, each with what it wakes.
    expect(timers).toBeLessThan(60);
    release.shift()!();
    await clock.advance(0);
    expect(asked.at(-1)).toBe(parked.name);
    while (release.length > 0) release.shift()!();
    await clock.advance(10_000);
    expect(await ended).toBe('finished');
  });
});
