/** Plays a recording on a started network's hosts. */
import type { Network } from './network.ts';
import { createRecordedStore, type Recording } from './recording.ts';

export interface Playback {
  /** Events that have happened so far. */
  readonly released: number;
  /** Whether every subscriber has been given everything. */
  readonly isRead: boolean;
  /** Resolves when the last event has happened. */
  readonly finished: Promise<void>;
  stop(): void;
}

const TICK_MS = 5;

/**
 * Lets the recording's events happen: `rate` per second over all hosts, or `max`, all at once, so that each
 * subscriber reads as fast as it can. Call it once subscribers are connected: one that comes without a cursor
 * later starts at the end. The network must have the recording's options and no rate of its own. Throws when
 * it does not fit.
 */
export const play = (network: Network, recording: Recording, rate: number | 'max'): Playback => {
  const { hosts } = network;
  if (hosts.length !== recording.options.hosts) throw new Error('the recording has another number of hosts');
  if (network.ratePerSecond !== 0) throw new Error('a network that plays a recording has no rate of its own');
  const stores = hosts.map((host) => {
    const events = recording.byHost[host.index]!;
    const first = events.length === 0 ? 0 : recording.seqAt(events[0]!);
    if (events.length > 0 && host.stream.lastSeq !== first - 1) {
      throw new Error('the network has had events already, or another seed');
    }
    return createRecordedStore(recording, host.index);
  });
  for (const host of hosts) {
    host.stream.store = stores[host.index]!;
    for (const subscriber of host.stream.subscribers) subscriber.position = 0;
  }

  let released = 0;
  const { promise: finished, resolve: finish } = Promise.withResolvers<void>();
  const release = (until: number): void => {
    const touched = new Set<number>();
    for (; released < until; released++) {
      const hostIndex = recording.hostAt(released);
      stores[hostIndex]!.end++;
      hosts[hostIndex]!.stream.lastSeq = recording.seqAt(released);
      touched.add(hostIndex);
    }
    for (const hostIndex of touched) hosts[hostIndex]!.stream.pump();
    if (released === recording.events) {
      if (timer !== null) clearInterval(timer);
      finish();
    }
  };

  let timer: Timer | null = null;
  if (rate === 'max') release(recording.events);
  else {
    const startMs = performance.now();
    timer = setInterval(() => {
      const due = Math.floor(((performance.now() - startMs) * rate) / 1000);
      release(Math.min(recording.events, due));
    }, TICK_MS);
  }
  return {
    get released() {
      return released;
    },
    get isRead() {
      if (released < recording.events) return false;
      for (const host of hosts) {
        for (const subscriber of host.stream.subscribers) {
          if (subscriber.position < host.stream.store.end) return false;
        }
      }
      return true;
    },
    finished,
    stop: () => {
      if (timer !== null) clearInterval(timer);
    },
  };
};
