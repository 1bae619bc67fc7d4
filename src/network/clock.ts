/** Time as a parameter. */
export interface Clock {
  /** Milliseconds since the epoch. */
  nowMs(): number;
  /** Calls back once after the delay; the answer cancels it. */
  after(delayMs: number, callback: () => void): () => void;
}

/** The machine's clock. Its timers do not keep the process alive. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  after: (delayMs, callback) => {
    const timer = setTimeout(callback, delayMs);
    timer.unref();
    return () => clearTimeout(timer);
  },
};
