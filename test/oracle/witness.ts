/**
 * Stands beside the simulated hosts and keeps every frame that leaves them with what the ledger says of it, so
 * that a run can be judged afterwards whatever windows the hosts have lost meanwhile.
 */
import type { LedgerEntry } from '../../simulator/ledger.ts';
import type { Network } from '../../simulator/network.ts';
import type { MemoryStore } from '../../simulator/stream.ts';

/** One frame of a host, and what a relay must make of it. */
export interface Sent {
  readonly entry: LedgerEntry;
  readonly frame: Uint8Array | string;
}

export interface Witness {
  /** Frames of all hosts in the order they were sent. Throws when ledger and hosts do not tell the same story. */
  sent(): Sent[];
}

/** Starts to watch. Call before the network's first event; the ledger must hold the whole run. */
export const watch = (network: Network): Witness => {
  const frames = new Map<string, (Uint8Array | string)[]>();
  for (const host of network.hosts) {
    const store = host.stream.store as MemoryStore;
    const append = store.append.bind(store);
    store.append = (seq, frame, isLiveOnly) => {
      const kept = frames.get(host.hostname);
      if (kept === undefined) frames.set(host.hostname, [frame]);
      else kept.push(frame);
      return append(seq, frame, isLiveOnly);
    };
  }
  return {
    sent() {
      const used = new Map<string, number>();
      const sent: Sent[] = [];
      for (const entry of network.ledger.entries()) {
        if (entry.kind === 'host' || entry.kind === 'plc') continue;
        const at = used.get(entry.host) ?? 0;
        const frame = frames.get(entry.host)?.[at];
        if (frame === undefined) throw new Error(`the ledger has an event that ${entry.host} did not send`);
        used.set(entry.host, at + 1);
        sent.push({ entry, frame });
      }
      for (const [hostname, kept] of frames) {
        if (used.get(hostname) !== kept.length) throw new Error(`${hostname} sent what is not in the ledger`);
      }
      return sent;
    },
  };
};
