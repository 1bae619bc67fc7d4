import { monitorEventLoopDelay } from 'node:perf_hooks';

/** How late timers of the event loop were, ms. */
export interface EventLoopLag {
  /** Of the last and the current window together, so that a spike is seen for at least one window. */
  readonly maxMs: number;
  /** Of the last whole window; 0 before there was one. */
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface EventLoopSampler {
  readonly lag: EventLoopLag;
  stop(): void;
}

/** What is sampled; the runtime's own histogram by default. Values in ns. */
export interface DelayHistogram {
  enable(): unknown;
  disable(): unknown;
  reset(): void;
  readonly max: number;
  percentile(percentile: number): number;
}

/** One window is a usual scrape interval twice over. */
export const LAG_WINDOW_MS = 30_000;

/** A sample every 20 ms costs nothing and misses nothing worth a name. */
export const LAG_RESOLUTION_MS = 20;

/**
 * Watches the event loop's delay with the runtime's histogram, in windows, so that a spike an hour ago is not
 * shown for ever.
 */
export const createEventLoopSampler = (
  options: {
    readonly histogram?: DelayHistogram;
    readonly setInterval?: (run: () => void, everyMs: number) => { unref?(): unknown };
    readonly clearInterval?: (handle: unknown) => void;
  } = {},
): EventLoopSampler => {
  const histogram = options.histogram ?? monitorEventLoopDelay({ resolution: LAG_RESOLUTION_MS });
  const start = options.setInterval ?? ((run, everyMs) => setInterval(run, everyMs));
  const stop = options.clearInterval ?? ((handle) => clearInterval(handle as ReturnType<typeof setInterval>));
  let last: EventLoopLag = { maxMs: 0, p50Ms: 0, p99Ms: 0 };

  /** An empty histogram answers with numbers that mean nothing. */
  const ms = (nanoseconds: number): number =>
    Number.isFinite(nanoseconds) && nanoseconds > 0 && nanoseconds < 1e15 ? nanoseconds / 1e6 : 0;

  histogram.enable();
  const interval = start(() => {
    last = {
      maxMs: ms(histogram.max),
      p50Ms: ms(histogram.percentile(50)),
      p99Ms: ms(histogram.percentile(99)),
    };
    histogram.reset();
  }, LAG_WINDOW_MS);
  interval.unref?.();

  return {
    get lag() {
      return { ...last, maxMs: Math.max(last.maxMs, ms(histogram.max)) };
    },
    stop() {
      stop(interval);
      histogram.disable();
    },
  };
};
