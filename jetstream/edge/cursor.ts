import { MAX_OPS } from '../../src/firehose/types.ts';
import type { LogReader } from '../../src/log/types.ts';
import { FIRST_CURSOR_US } from '../filter/limits.ts';

/**
 * Where a client begins: with the events of `seq`, of this one record only those with timeUs ≥ `fromTimeUs`, and
 * then all that follow.
 */
export interface Place {
  readonly seq: number;
  readonly fromTimeUs: number;
  /**
   * live: no cursor. seq, time: inside the window. future: as live. outdated: older than the window, so that it
   * begins with the oldest event.
   */
  readonly kind: 'live' | 'seq' | 'time' | 'future' | 'outdated';
}

/**
 * Finds the place of a cursor, which is inclusive: a seq, or from FIRST_CURSOR_US on a time_us. The latter may lie
 * within the ops of a commit.
 */
export const placeOf = (
  log: Pick<LogReader, 'oldestSeq' | 'lastSeq' | 'lastTimeUs' | 'seqBeforeTime'>,
  cursor: number | null,
): Place => {
  const { oldestSeq, lastSeq } = log;
  const end = lastSeq + 1;
  if (cursor === null) return { kind: 'live', seq: end, fromTimeUs: 0 };
  if (cursor < FIRST_CURSOR_US) {
    if (cursor > lastSeq) return { kind: 'future', seq: end, fromTimeUs: 0 };
    if (cursor >= oldestSeq) return { kind: 'seq', seq: cursor, fromTimeUs: 0 };
    // Where nothing was removed yet, the oldest event is all that was asked for.
    return { kind: oldestSeq === 1 ? 'seq' : 'outdated', seq: oldestSeq, fromTimeUs: 0 };
  }
  if (cursor >= log.lastTimeUs + MAX_OPS) return { kind: 'future', seq: end, fromTimeUs: 0 };
  const before = log.seqBeforeTime(cursor);
  // The record before may have ops as late as that.
  if (before >= oldestSeq) return { kind: 'time', seq: before, fromTimeUs: cursor };
  const isOldest = oldestSeq === 1 || log.seqBeforeTime(cursor + 1) >= oldestSeq;
  return { kind: isOldest ? 'time' : 'outdated', seq: oldestSeq, fromTimeUs: 0 };
};
