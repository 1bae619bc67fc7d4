/** A consumer that does what consumers do: remembers the last seq it has seen and comes back with it. */
import { type Consumer, createConsumer, type Seen } from '../../simulator/consumer.ts';

export interface Follower {
  /** Over all connections, in order. */
  readonly seen: readonly Seen[];
  readonly lastSeq: number;
  readonly connections: number;
  readonly undecodable: number;
  /** What came that is no event: info and error frames. */
  readonly others: readonly Seen[];
  stop(): Promise<void>;
}

const RETRY_MS = 30;

/** Follows `url` from `cursor` on, until stopped. */
export const follow = (url: string, cursor = 0): Follower => {
  const seen: Seen[] = [];
  const others: Seen[] = [];
  let lastSeq = cursor;
  let connections = 0;
  let undecodable = 0;
  let stopped = false;
  let current: Consumer | null = null;

  const run = async (): Promise<void> => {
    while (!stopped) {
      current = createConsumer({
        url,
        cursor: lastSeq,
        maxSeen: 0,
        onSeen: (one) => {
          if (one.seq === null) {
            others.push(one);
            return;
          }
          lastSeq = one.seq;
          seen.push(one);
        },
      });
      current.opened.then(
        () => {
          connections++;
        },
        () => {},
      );
      await current.closed;
      undecodable += current.counters.undecodable;
      if (!stopped) await Bun.sleep(RETRY_MS);
    }
  };
  const running = run();
  return {
    seen,
    others,
    get lastSeq() {
      return lastSeq;
    },
    get connections() {
      return connections;
    },
    get undecodable() {
      return undecodable;
    },
    async stop() {
      stopped = true;
      await current?.close();
      await running;
    },
  };
};
