/**
 * Whether this relay does its work. A process that answers is not yet healthy: what counts is that events can
 * come in, be kept, and go out.
 */

/** What is looked at; small functions, asked at each request. */
export interface HealthSources {
  /** Why the log does not take writes; null = it does. */
  logProblem(): string | null;
  /** When the state's writes to the database began to fail without a success since, ms; null = they succeed. */
  stateFailingSinceMs(): number | null;
  /** Longest the event loop was held up within the last minute, ms. */
  maxEventLoopLagMs(): number;
  /** Hosts we should be connected to, and are. Banned ones do not count. */
  hosts(): { readonly wanted: number; readonly connected: number };
}

/** The database may be restarted without an alarm; the log keeps everything meanwhile. */
export const STATE_FAILING_MS = 60_000;
/** Longer than any garbage collection. */
export const EVENT_LOOP_STUCK_MS = 5_000;
/** All hosts gone for this long is our network, not theirs. Also the time a start may take to reach the first. */
export const NO_HOSTS_MS = 120_000;

/** Returns a function that gives the problems right now, in words; none = healthy. */
export const createHealth = (sources: HealthSources, clock: () => number = Date.now): (() => string[]) => {
  let withoutHostsSinceMs: number | null = null;
  return () => {
    const nowMs = clock();
    const problems: string[] = [];
    const logProblem = sources.logProblem();
    if (logProblem !== null) problems.push(`the log does not take writes: ${logProblem}`);
    const failingSinceMs = sources.stateFailingSinceMs();
    if (failingSinceMs !== null && nowMs - failingSinceMs >= STATE_FAILING_MS) {
      problems.push(
        `the database takes no writes for ${Math.round((nowMs - failingSinceMs) / 1000)} seconds`,
      );
    }
    const lagMs = sources.maxEventLoopLagMs();
    if (lagMs >= EVENT_LOOP_STUCK_MS) problems.push(`the event loop was held up for ${Math.round(lagMs)} ms`);
    const { wanted, connected } = sources.hosts();
    if (wanted === 0 || connected > 0) {
      withoutHostsSinceMs = null;
    } else {
      withoutHostsSinceMs ??= nowMs;
      if (nowMs - withoutHostsSinceMs >= NO_HOSTS_MS) {
        problems.push(`none of ${wanted} hosts is connected`);
      }
    }
    return problems;
  };
};
