import type { Version } from '../types.ts';

/**
 * Where a stream is, and what to leave out after a reconnect: cursors are inclusive, so that the last event comes
 * again, in version 2 with all ops of its commit, which share a seq.
 */
export const createPosition = (version: Version, cursor: string | null) => {
  /** The last position, and how many events came that stand at it. */
  let last: number | null = null;
  let seen = 0;
  /** Since the reconnect: whether events may come again, and how many at `last` came. */
  let repeating = false;
  let repeated = 0;
  return {
    /** The cursor to connect with, in decimal digits; null: live. Events may come again from here on. */
    resume(): string | null {
      repeating = last !== null;
      repeated = 0;
      return last === null ? cursor : String(last);
    },
    /** Whether an event at this position is new. */
    take(position: number): boolean {
      if (last !== null && repeating) {
        if (position < last) return false;
        if (position === last && repeated < seen) {
          repeated++;
          return false;
        }
        if (position > last) repeating = false;
      }
      if (position === last) {
        seen++;
        repeated++;
      } else {
        last = position;
        // A time names one event, a seq as many as come.
        seen = version === 'v1' ? Infinity : 1;
      }
      return true;
    },
    /** A heartbeat: everything before this was given, or is not wanted; what is at it may be yet to come. */
    reached(position: number): void {
      if (last !== null && position <= last) return;
      last = position;
      seen = 0;
      repeated = 0;
    },
  };
};
