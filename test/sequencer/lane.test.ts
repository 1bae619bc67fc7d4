/** Reports of one ingest thread are taken in the order they came, none left lying. */
import { expect, test } from 'bun:test';
import { createSequencer, type SequencerDeps } from '../../src/sequencer/sequencer.ts';

const sequencerOf = (roster: Partial<SequencerDeps['roster']>, load = async (): Promise<void> => {}) =>
  createSequencer({
    log: { stats: { pendingBytes: 0 } },
    roster: { host: () => undefined, ...roster },
    accounts: { dirtyCount: 0, get: () => undefined, load },
    nowMs: () => 0,
    sleep: async () => {},
    warn: () => {},
  } as unknown as SequencerDeps);

const BATCH = { events: [], rejections: [], progress: [], bytes: 1 };

test('several reports in one turn are all taken, without another report to wake the lane', async () => {
  const opened: number[] = [];
  const lane = sequencerOf({ opened: (hostId) => void opened.push(hostId) }).lane(() => {});
  lane.opened(1, '');
  lane.opened(2, '');
  lane.opened(3, '');
  await Bun.sleep(1);
  expect(opened).toEqual([1, 2, 3]);
});

test('what is reported while a report is being taken comes after it, and batches stay in line', async () => {
  const seen: string[] = [];
  const sequencer = sequencerOf({
    opened: (hostId) => {
      seen.push(`opened ${hostId}`);
      if (hostId === 1) {
        lane.batch(BATCH);
        lane.closed(1, { kind: 'stopped' });
        seen.push('reported');
      }
    },
    closed: (hostId) => void seen.push(`closed ${hostId}`),
  });
  const lane = sequencer.lane((bytes) => void seen.push(`acknowledged ${bytes}`));
  lane.opened(1, '');
  lane.batch({ ...BATCH, bytes: 2 });
  lane.opened(2, '');
  await sequencer.idle();
  await Bun.sleep(1);
  expect(seen).toEqual(['opened 1', 'reported', 'acknowledged 1', 'closed 1', 'acknowledged 2', 'opened 2']);
});
