import { type LogOptions, openLog } from '../../src/log/log.ts';
import type { Log } from '../../src/log/types.ts';
import type { MemoryFiles } from './memory-files.ts';

/** The time of the clock of these logs, µs. */
export const START_US = 1_800_000_000_000_000;

/** A log in memory that waits for nothing, rotates and retains only as told, and never reaches a bound by itself. */
export const openMemoryLog = (files: MemoryFiles, more: Partial<LogOptions> = {}): Promise<Log> =>
  openLog({
    dir: 'log',
    files,
    windowMs: 1e9,
    maxBytes: 1e12,
    groupDelayMs: 0,
    retainEveryMs: 0,
    retryMs: 1,
    reserveBytes: 0,
    clock: () => START_US,
    warn: () => {},
    seed: 99,
    ...more,
  });
