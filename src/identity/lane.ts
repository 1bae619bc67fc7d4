import type { Clock } from '../network/clock.ts';

/** How often waiting work is looked over for what has waited too long. */
const SWEEP_INTERVAL_MS = 1_000;

export interface LaneBounds {
  readonly maxInFlight: number;
  readonly maxInFlightPerGroup: number;
  readonly maxQueued: number;
  readonly maxQueuedPerGroup: number;
  /** Queued work that has not had its turn by then is given up. */
  readonly maxWaitMs: number;
}

export interface Lane {
  /**
   * Runs `work` when its turn comes, or calls `giveUp` when that takes too long; exactly one of the two.
   * @returns false when the lane or the group is full, closed, or paused for longer than the longest wait: then neither is called
   */
  submit(group: string, work: () => Promise<unknown>, giveUp: () => void): boolean;
  /** Starts nothing new for so long; what is in flight goes on. A longer pause already set stays. */
  pause(durationMs: number): void;
  readonly inFlight: number;
  readonly queued: number;
  /** Gives up everything that waits. */
  close(): void;
}

interface Waiting {
  readonly work: () => Promise<unknown>;
  readonly giveUp: () => void;
  readonly untilMs: number;
}

/** Work under bounds, with groups taking turns: a group that asks much or answers slowly delays only itself. */
export const createLane = (bounds: LaneBounds, clock: Clock): Lane => {
  /** Only groups with waiting work, the one whose turn is next first. */
  const queues = new Map<string, Waiting[]>();
  const inFlightOf = new Map<string, number>();
  let inFlight = 0;
  let queued = 0;
  let pausedUntilMs = 0;
  let closed = false;
  let cancelSweep: (() => void) | null = null;
  let cancelPause: (() => void) | null = null;

  const start = (group: string, work: () => Promise<unknown>): void => {
    inFlight++;
    inFlightOf.set(group, (inFlightOf.get(group) ?? 0) + 1);
    const leave = (): void => {
      inFlight--;
      const left = inFlightOf.get(group)! - 1;
      if (left === 0) inFlightOf.delete(group);
      else inFlightOf.set(group, left);
      startNext();
    };
    work().then(leave, leave);
  };

  const hasRoom = (group: string): boolean =>
    inFlight < bounds.maxInFlight &&
    (inFlightOf.get(group) ?? 0) < bounds.maxInFlightPerGroup &&
    clock.nowMs() >= pausedUntilMs;

  const startNext = (): void => {
    while (inFlight < bounds.maxInFlight && clock.nowMs() >= pausedUntilMs) {
      let found: string | null = null;
      // Passes by at most maxInFlight / maxInFlightPerGroup groups that have no room.
      for (const group of queues.keys()) {
        if (hasRoom(group)) {
          found = group;
          break;
        }
      }
      if (found === null) return;
      const queue = queues.get(found)!;
      const next = queue.shift()!;
      queued--;
      queues.delete(found);
      if (queue.length > 0) queues.set(found, queue);
      if (next.untilMs <= clock.nowMs()) next.giveUp();
      else start(found, next.work);
    }
  };

  const sweep = (): void => {
    cancelSweep = null;
    const nowMs = clock.nowMs();
    for (const [group, queue] of queues) {
      while (queue.length > 0 && queue[0]!.untilMs <= nowMs) {
        queued--;
        queue.shift()!.giveUp();
      }
      if (queue.length === 0) queues.delete(group);
    }
    if (queued > 0 && !closed) cancelSweep = clock.after(SWEEP_INTERVAL_MS, sweep);
  };

  return {
    submit: (group, work, giveUp) => {
      if (closed) return false;
      const nowMs = clock.nowMs();
      if (pausedUntilMs - nowMs > bounds.maxWaitMs) return false;
      const queue = queues.get(group);
      if (queue === undefined && hasRoom(group)) {
        start(group, work);
        return true;
      }
      if (queued >= bounds.maxQueued || (queue?.length ?? 0) >= bounds.maxQueuedPerGroup) return false;
      const waiting = { work, giveUp, untilMs: nowMs + bounds.maxWaitMs };
      if (queue === undefined) queues.set(group, [waiting]);
      else queue.push(waiting);
      queued++;
      cancelSweep ??= clock.after(SWEEP_INTERVAL_MS, sweep);
      return true;
    },
    pause: (durationMs) => {
      const untilMs = clock.nowMs() + durationMs;
      if (closed || untilMs <= pausedUntilMs) return;
      pausedUntilMs = untilMs;
      cancelPause?.();
      cancelPause = clock.after(durationMs, startNext);
    },
    get inFlight() {
      return inFlight;
    },
    get queued() {
      return queued;
    },
    close: () => {
      closed = true;
      cancelSweep?.();
      cancelPause?.();
      const left = [...queues.values()].flat();
      queues.clear();
      queued = 0;
      for (const { giveUp } of left) giveUp();
    },
  };
};
