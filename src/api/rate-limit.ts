/** The counts of a limiter. */
export interface RateLimiter {
  /** Counts one use; 0 when it is allowed, otherwise the ms until the next is. A refused use is not counted. */
  take(key: string): number;
  /** ms until the next use is allowed, without counting one; 0 = now. */
  peek(key: string): number;
  forget(key: string): void;
  readonly size: number;
}

/**
 * Fixed windows per key: at most `max` uses within `windowMs` of the first one. Holds at most `maxKeys` keys and
 * forgets the oldest window first, so that strangers cannot fill memory.
 */
export const createRateLimiter = (options: {
  readonly max: number;
  readonly windowMs: number;
  readonly maxKeys: number;
  /** ms, any origin. */
  readonly clock: () => number;
}): RateLimiter => {
  const { max, windowMs, maxKeys, clock } = options;
  const windows = new Map<string, { count: number; readonly endsAtMs: number }>();

  const current = (key: string, nowMs: number) => {
    const found = windows.get(key);
    if (found === undefined) return null;
    if (found.endsAtMs > nowMs) return found;
    windows.delete(key);
    return null;
  };

  const waitMs = (key: string, nowMs: number): number => {
    const found = current(key, nowMs);
    return found === null || found.count < max ? 0 : found.endsAtMs - nowMs;
  };

  return {
    take(key) {
      const nowMs = clock();
      const wait = waitMs(key, nowMs);
      if (wait > 0) return wait;
      const found = current(key, nowMs);
      if (found !== null) {
        found.count++;
        return 0;
      }
      if (windows.size >= maxKeys) {
        const oldest = windows.keys().next();
        if (!oldest.done) windows.delete(oldest.value);
      }
      windows.set(key, { count: 1, endsAtMs: nowMs + windowMs });
      return 0;
    },
    peek: (key) => waitMs(key, clock()),
    forget: (key) => {
      windows.delete(key);
    },
    get size() {
      return windows.size;
    },
  };
};
