import type { Clock } from '../../src/network/clock.ts';

export interface FakeClock extends Clock {
  /** Moves time on, calls what falls due in order, and lets what that set free run. */
  advance(durationMs: number): Promise<void>;
  readonly timers: number;
}

/** Lets everything that waits only for promises run. */
export const settle = async (turns = 50): Promise<void> => {
  for (let turn = 0; turn < turns; turn++) await Promise.resolve();
};

export const createFakeClock = (startMs = 1_700_000_000_000): FakeClock => {
  let nowMs = startMs;
  const timers = new Set<{ atMs: number; callback: () => void }>();
  return {
    nowMs: () => nowMs,
    after: (delayMs, callback) => {
      const timer = { atMs: nowMs + delayMs, callback };
      timers.add(timer);
      return () => void timers.delete(timer);
    },
    advance: async (durationMs) => {
      await settle();
      const endMs = nowMs + durationMs;
      for (;;) {
        const due = [...timers].filter(({ atMs }) => atMs <= endMs).sort((a, b) => a.atMs - b.atMs)[0];
        if (due === undefined) break;
        timers.delete(due);
        nowMs = Math.max(nowMs, due.atMs);
        due.callback();
        await settle(4);
      }
      nowMs = endMs;
      await settle();
    },
    get timers() {
      return timers.size;
    },
  };
};
