/**
 * The simulated network of a benchmark, in its own process. It plays a recording in steps, or makes events as fast
 * as they are read. Told by lines on stdin, see the cases below.
 */
import { createNetwork } from '../simulator/network.ts';
import { cachedRecording, createRecordedStore, type MakeOptions } from '../simulator/recording.ts';
import { CACHE_DIR, onMessages, say } from './processes.ts';

export interface SimulatedOptions {
  /** Plays this recording; otherwise makes events of `live`. */
  readonly recording?: MakeOptions;
  readonly live?: {
    readonly hosts: number;
    readonly accounts: number;
    readonly seed: number;
  };
}

/** Events made and not yet read that keep the relay saturated: more only fills our memory. */
const MAX_UNREAD = 20_000;
const TICK_MS = 5;
/** How long events are made before sockets get their turn. */
const SLICE_MS = 10;

const options = JSON.parse(process.argv[2]!) as SimulatedOptions;
const recording =
  options.recording === undefined ? null : await cachedRecording(CACHE_DIR, options.recording);
const network = await createNetwork(
  recording === null
    ? { ...options.live!, hostZipfExponent: 0.5, ledgerEntries: 0, largeRepoShare: 0.002 }
    : { ...recording.options, ledgerEntries: 0 },
);
const { hosts, counters } = network;
const stores = recording === null ? [] : hosts.map((host) => createRecordedStore(recording, host.index));
for (const store of stores) hosts[stores.indexOf(store)]!.stream.store = store;
await network.start();
say({ ready: { plcUrl: network.plcUrl, hostnames: hosts.map(({ hostname }) => hostname) } });

let released = 0;
const release = (until: number): void => {
  const touched = new Set<number>();
  for (; released < until; released++) {
    const hostIndex = recording!.hostAt(released);
    stores[hostIndex]!.end++;
    hosts[hostIndex]!.stream.lastSeq = recording!.seqAt(released);
    touched.add(hostIndex);
  }
  for (const hostIndex of touched) hosts[hostIndex]!.stream.pump();
};

const releaseAt = (until: number, rate: number): void => {
  const from = released;
  const startedAtMs = Date.now();
  const timer = setInterval(() => {
    release(Math.min(until, from + Math.floor(((Date.now() - startedAtMs) * rate) / 1000)));
    if (released === until) {
      clearInterval(timer);
      say({ finished: released });
    }
  }, TICK_MS);
  say({ playing: { from, startedAtMs } });
};

let generating = false;
const generate = (): void => {
  if (!generating) return;
  const until = performance.now() + SLICE_MS;
  while (performance.now() < until && counters.events - counters.framesSent < MAX_UNREAD)
    network.generate(16);
  setTimeout(generate, counters.events - counters.framesSent < MAX_UNREAD ? 0 : TICK_MS);
};

process.on('SIGTERM', () => process.exit(0));
await onMessages((message) => {
  switch (message.do) {
    case 'connected':
      say({ connected: counters.connected });
      break;
    case 'release': {
      const until = message.until as number;
      if (message.rate === 'max') release(until);
      else releaseAt(until, message.rate as number);
      break;
    }
    case 'generate':
      generating = message.on as boolean;
      generate();
      break;
    case 'fault':
      network.setFault(message.name as string, message.probability as number);
      break;
    case 'counters':
      say({ counters: { ...counters } });
      break;
  }
});
process.exit(0);
