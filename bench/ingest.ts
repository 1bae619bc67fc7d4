/**
 * How many events a second go from hosts' sockets into the durable log and out to one consumer, strictly verified,
 * and what does one cost? weir runs as it does in service (`serve`, embedded PostgreSQL) in its own process; a
 * simulated network plays a recording at it; a consumer reads the firehose and checks that seqs have no gap.
 *
 * The baseline is the least that any relay has to do: scanning and verifying the same frames in a loop, on one thread of
 * the same machine; as weir does it, and with the signatures left to the libsecp256k1 of the package, which stays what it
 * is while weir changes. On a machine shared with others it swings by half within seconds, and is slower when all of it is
 * busy, so it is measured all along a case, a little at a time, and the middle counts. The ratio to it holds better than
 * events per second.
 *
 * bun bench/ingest.ts [case…]      cases: see CASES below; all by default
 */

import { keyOf } from '../simulator/account.ts';
import { createNetwork } from '../simulator/network.ts';
import { cachedRecording, type MakeOptions, type Recording } from '../simulator/recording.ts';
import { scanFrame } from '../src/firehose/scan.ts';
import { KIND } from '../src/firehose/types.ts';
import { openPackagedK256 } from '../src/repo/k256.ts';
import { createK256Key, createSigningKey } from '../src/repo/key.ts';
import type { SigningKey } from '../src/repo/types.ts';
import { verifyCommit } from '../src/repo/verify.ts';
import { cpuBetween, cpuByThread, cpuOf, loadLine, machineLine, memoryOf, percentile } from './machine.ts';
import { CACHE_DIR, startDrain, startSimulator, startWeir, withDirectory } from './processes.ts';

interface Case {
  readonly hosts: number;
  readonly workers: number;
  /** Events per second, or as fast as weir takes them. */
  readonly rate: number | 'max';
  /** Events in the measured part. */
  readonly events: number;
}

const CASES: Record<string, Case> = {
  'max-w0': { hosts: 300, workers: 0, rate: 'max', events: 90_000 },
  'max-w1': { hosts: 300, workers: 1, rate: 'max', events: 90_000 },
  'max-3000-w0': { hosts: 3_000, workers: 0, rate: 'max', events: 45_000 },
  // Long enough for the compiler to be done: what is measured is the service, which runs for months.
  '2000-3000-w0': { hosts: 3_000, workers: 0, rate: 2_000, events: 150_000 },
  '2000-3000-w1': { hosts: 3_000, workers: 1, rate: 2_000, events: 150_000 },
};
/** Played first, at a moderate rate: every identity is looked up once, code becomes warm. */
const WARM_UP = { events: 15_000, rate: 2_500 };
const FLOOR_FRAMES = 6_000;
/** The compiler's own time is in them. */
const FLOOR_WARM_UP_ROUNDS = 5;
/** So many of the frames at a time while a case runs: a few hundredths of a core. */
const FLOOR_SAMPLE_FRAMES = 100;
const FLOOR_SAMPLE_EVERY_MS = 500;

const recordingFor = (hosts: number): MakeOptions => ({
  hosts,
  accounts: 6_000,
  events: WARM_UP.events + (hosts > 1_000 ? 150_000 : 90_000),
  seed: 1,
  // Flatter than the live network, so that the end of a run is not the end of one large host alone.
  hostZipfExponent: 0.5,
  largeRepoShare: 0.005,
});

/** Microseconds of CPU to scan and verify one of the recording's commits. */
interface Floor {
  /** As weir does it. */
  readonly own: number;
  /** null where the package has no library for this machine. */
  readonly byPackage: number | null;
}

/** Measures it by the next few frames each time it is called. */
const prepareVerification = async (recording: Recording): Promise<() => Floor> => {
  const network = await createNetwork({ ...recording.options, ledgerEntries: 0 });
  const ownKeys = new Map<string, SigningKey>();
  const packaged = openPackagedK256();
  const packageKeys = new Map<string, SigningKey>();
  const frames: Uint8Array[] = [];
  for (let event = WARM_UP.events; frames.length < FLOOR_FRAMES && event < recording.events; event++) {
    const bytes = recording.frameAt(event);
    const frame = scanFrame(bytes);
    if (!frame.ok || frame.kind !== KIND.commit) continue;
    frames.push(bytes.slice());
    if (ownKeys.has(frame.did)) continue;
    const key = keyOf(network.find(frame.did)!, recording.options.seed ?? 1);
    const own = createSigningKey(key.type, key.publicKey)!;
    ownKeys.set(frame.did, own);
    if (packaged !== null)
      packageKeys.set(frame.did, key.type === 'k256' ? createK256Key(packaged, key.publicKey)! : own);
  }
  const options = { nowMs: Date.now(), validation: 'strict', firstCommit: true } as const;
  const round = (keys: ReadonlyMap<string, SigningKey>, from: number, count: number): number => {
    // CPU time and not the clock: other things may run on this machine.
    const before = process.cpuUsage();
    for (let index = from; index < from + count; index++) {
      const frame = scanFrame(frames[index]!);
      if (!frame.ok) throw new Error(frame.reason);
      const verdict = verifyCommit(frame, keys.get(frame.did)!, options);
      if (!verdict.ok) throw new Error(verdict.reason);
    }
    const { user, system } = process.cpuUsage(before);
    return (user + system) / count;
  };
  const floorOf = (from: number, count: number): Floor => ({
    own: round(ownKeys, from, count),
    byPackage: packaged === null ? null : round(packageKeys, from, count),
  });
  for (let warmUp = 0; warmUp < FLOOR_WARM_UP_ROUNDS; warmUp++) floorOf(0, frames.length);
  let next = 0;
  return () => {
    if (next + FLOOR_SAMPLE_FRAMES > frames.length) next = 0;
    next += FLOOR_SAMPLE_FRAMES;
    return floorOf(next - FLOOR_SAMPLE_FRAMES, FLOOR_SAMPLE_FRAMES);
  };
};

const run = async (
  name: string,
  { hosts, workers, rate, events }: Case,
  verify: () => Floor,
): Promise<void> =>
  withDirectory(async (dataDir) => {
    const recording = recordingFor(hosts);
    const simulator = startSimulator({ recording });
    const { plcUrl, hostnames } = await simulator.hear<{ plcUrl: string; hostnames: string[] }>('ready');
    const weir = await startWeir({
      RELAY_DATA_DIR: dataDir,
      RELAY_PLC_HOST: plcUrl,
      RELAY_HOSTS: hostnames.join(','),
      RELAY_ALLOW_INSECURE_HOSTS: 'true',
      RELAY_TRUSTED_DOMAINS: 'localhost',
      RELAY_INGEST_WORKERS: String(workers),
    });
    const drain = startDrain({
      url: weir.url,
      looks: true,
      ...(rate === 'max' ? {} : { recording }),
    });
    await drain.hear('ready');
    for (;;) {
      simulator.tell({ do: 'connected' });
      if ((await simulator.hear<number>('connected')) === hosts) break;
      await Bun.sleep(100);
    }
    const idleMb = memoryOf(weir.pid).rssMb;
    const reach = (frames: number): Promise<{ frames: number; atMs: number }> => {
      drain.tell({ do: 'until', frames });
      return drain.hear('reached');
    };
    simulator.tell({ do: 'release', until: WARM_UP.events, rate: WARM_UP.rate });
    await simulator.hear('playing');
    await reach(WARM_UP.events);

    const load = loadLine();
    const all = WARM_UP.events + events;
    simulator.tell({ do: 'release', until: all, rate });
    if (rate !== 'max') {
      const playing = await simulator.hear<object>('playing');
      drain.tell({ do: 'time', timing: { ...playing, rate } });
    }
    // The beginning and the last tenth are not measured: what is, is the flow.
    const from = await reach(WARM_UP.events + events * (rate === 'max' ? 0.1 : 0.4));
    const threadsBefore = cpuByThread(weir.pid);
    const cpuBefore = cpuOf(weir.pid);
    const healthMs: number[] = [];
    const residentMb: number[] = [];
    let measuring = true;
    let sampledAtMs = 0;
    const floors: Floor[] = [];
    const watching = (async () => {
      while (measuring) {
        healthMs.push((await weir.health()).ms);
        residentMb.push(memoryOf(weir.pid).rssMb);
        if (performance.now() - sampledAtMs >= FLOOR_SAMPLE_EVERY_MS) {
          sampledAtMs = performance.now();
          floors.push(verify());
        }
        await Bun.sleep(100);
      }
    })();
    const until = await reach(WARM_UP.events + events * 0.9);
    const threads = cpuBetween(threadsBefore, cpuByThread(weir.pid));
    const cpuMs = cpuOf(weir.pid) - cpuBefore;
    const { peakMb } = memoryOf(weir.pid);
    measuring = false;
    await watching;
    const end = await reach(all);
    drain.tell({ do: 'report' });
    const report = await drain.hear<Record<string, number>>('report');
    const lag = await weir.metric('relay_event_loop_lag_max_seconds');
    await drain.stop();
    await weir.stop();
    await simulator.stop();
    const ownUs = floors.map(({ own }) => own);
    const floorUs = percentile(ownUs, 0.5);
    const packageUs = percentile(
      floors.flatMap(({ byPackage }) => byPackage ?? []),
      0.5,
    );

    const elapsedMs = until.atMs - from.atMs;
    const measured = until.frames - from.frames;
    const perSecond = (measured / elapsedMs) * 1_000;
    const perEventUs = (cpuMs * 1_000) / measured;
    const cores = (ms: number): string => (ms / elapsedMs).toFixed(2);
    const shown = threads.filter(([, ms]) => ms > elapsedMs * 0.005);
    console.log(
      `\n${name}: ${hosts} hosts, ${workers} ingest workers, ${rate === 'max' ? 'saturated' : `${rate} ev/s`} (load ${load})`,
    );
    console.log(
      `  ${Math.round(perSecond).toLocaleString('en')} ev/s on ${cores(cpuMs)} cores: ` +
        `${shown.map(([group, ms]) => `${group} ${cores(ms)}`).join(', ')}`,
    );
    console.log(
      `  ${perEventUs.toFixed(1)} µs of CPU per event = ${(perEventUs / floorUs).toFixed(2)} × verification alone (${floorUs.toFixed(1)} µs; ${percentile(ownUs, 0).toFixed(0)} to ${percentile(ownUs, 1).toFixed(0)})` +
        `; throughput is ${((perSecond * floorUs) / 1e4).toFixed(0)} % of what one core could verify`,
    );
    if (floors[0]?.byPackage != null)
      console.log(
        `  = ${(perEventUs / packageUs).toFixed(2)} × verification by the package's libsecp256k1 (${packageUs.toFixed(1)} µs), ` +
          `${((perSecond * packageUs) / 1e4).toFixed(0)} % of what one core could verify by it`,
      );
    console.log(
      `  RSS ${percentile(residentMb, 0.5).toFixed(0)} MB in the middle, ${percentile(residentMb, 1).toFixed(0)} at most (connected and idle ${idleMb.toFixed(0)}, ever ${peakMb.toFixed(0)})` +
        (rate === 'max'
          ? ''
          : `; from the host's send to the consumer p50 ${report.p50!.toFixed(1)} ms, p99 ${report.p99!.toFixed(1)} ms`),
    );
    console.log(
      `  /_health p50 ${percentile(healthMs, 0.5).toFixed(1)} ms, worst ${percentile(healthMs, 1).toFixed(1)} ms; ` +
        `event loop held up at most ${(lag * 1_000).toFixed(0)} ms`,
    );
    console.log(
      `  delivered ${end.frames} of ${all}, ${report.gaps} gaps, ${report.errors} unreadable` +
        (end.frames === all && report.gaps === 0 && report.errors === 0 ? '' : '   ← WRONG'),
    );
  });

const names = process.argv.slice(2);
for (const name of names)
  if (CASES[name] === undefined) {
    console.error(`no case ${name}; there are ${Object.keys(CASES).join(', ')}`);
    process.exit(2);
  }
console.log(`ingest · ${machineLine()}`);
const verifications = new Map<number, () => Floor>();
for (const [name, each] of Object.entries(CASES)) {
  if (names.length > 0 && !names.includes(name)) continue;
  if (!verifications.has(each.hosts)) {
    const recording = await cachedRecording(CACHE_DIR, recordingFor(each.hosts));
    verifications.set(each.hosts, await prepareVerification(recording));
  }
  await run(name, each, verifications.get(each.hosts)!);
}
process.exit(0);
