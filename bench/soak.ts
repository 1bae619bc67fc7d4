/**
 * Does weir's memory stay flat at saturation, with consumers that take nothing and a directory of which a share of
 * the requests hangs? A simulated network makes events as fast as weir reads them; every minute a line is printed.
 *
 * The baseline is the run itself: the mean of its last third may exceed that of the second by 10 % (the first warms
 * up). Exits with 1 if it does. RSS is that of weir's process; PostgreSQL has its own.
 *
 * bun bench/soak.ts [--minutes 15] [--hosts 300] [--workers 0]
 */
import { parseArgs } from 'node:util';
import { cpuOf, loadLine, machineLine, memoryOf } from './machine.ts';
import { startDrain, startSimulator, startWeir, withDirectory } from './processes.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '15' },
    hosts: { type: 'string', default: '300' },
    workers: { type: 'string', default: '0' },
  },
});
const MINUTES = Number(values.minutes);
const HOSTS = Number(values.hosts);
const ACCOUNTS = 6_000;
const STALLED_CONSUMERS = 10;
/** Of the directory requests: they hang until the resolver gives up. More would make the directory the bottleneck. */
const STALLED_SHARE = 0.05;
/** The window moves on within a run, as it does in service. */
const REPLAY_MAX_BYTES = '2GB';
const WARM_UP_EVENTS = 40_000;
const SAMPLE_MS = 5_000;
const MAX_GROWTH = 1.1;

const mean = (numbers: readonly number[]): number =>
  numbers.reduce((sum, each) => sum + each, 0) / numbers.length;

let failed = false;
await withDirectory(async (dataDir) => {
  console.log(`soak · ${machineLine()}`);
  console.log(
    `${HOSTS} hosts as fast as they are read, ${values.workers} ingest workers, ${STALLED_CONSUMERS} stalled consumers and one that reads, ` +
      `${STALLED_SHARE * 100} % of directory requests hang, ${MINUTES} minutes`,
  );
  const simulator = startSimulator({
    live: { hosts: HOSTS, accounts: ACCOUNTS, seed: 3 },
  });
  const { plcUrl, hostnames } = await simulator.hear<{ plcUrl: string; hostnames: string[] }>('ready');
  const weir = await startWeir({
    RELAY_DATA_DIR: dataDir,
    RELAY_PLC_HOST: plcUrl,
    RELAY_HOSTS: hostnames.join(','),
    RELAY_ALLOW_INSECURE_HOSTS: 'true',
    RELAY_TRUSTED_DOMAINS: 'localhost',
    RELAY_INGEST_WORKERS: values.workers,
    RELAY_REPLAY_MAX_BYTES: REPLAY_MAX_BYTES,
  });
  const reader = startDrain({ url: weir.url, looks: true });
  await reader.hear('ready');
  const stalled = startDrain({ url: weir.url, consumers: STALLED_CONSUMERS, stalled: true });
  await stalled.hear('ready');
  for (let connected = 0; connected < HOSTS; await Bun.sleep(100)) {
    simulator.tell({ do: 'connected' });
    connected = await simulator.hear<number>('connected');
  }
  simulator.tell({ do: 'generate', on: true });
  // Most identities are looked up before the directory begins to hang: what hangs then is new accounts and changes.
  reader.tell({ do: 'until', frames: WARM_UP_EVENTS });
  await reader.hear('reached');
  simulator.tell({ do: 'fault', name: 'plc-stall', probability: STALLED_SHARE });

  console.log(
    ' min     ev/s  cores  RSS MB (low–high)   in flight MB  waiting DIDs  log GB  consumers  index behind by   load',
  );
  const minutes: number[] = [];
  let frames = 0;
  let cpuMs = cpuOf(weir.pid);
  for (let minute = 1; minute <= MINUTES; minute++) {
    const startedAt = performance.now();
    const samples: number[] = [];
    while (performance.now() - startedAt < 60_000 - SAMPLE_MS / 2) {
      await Bun.sleep(SAMPLE_MS);
      samples.push(memoryOf(weir.pid).rssMb);
    }
    const elapsedMs = performance.now() - startedAt;
    reader.tell({ do: 'report' });
    const report = await reader.hear<{ frames: number; gaps: number; errors: number }>('report');
    if (report.gaps > 0 || report.errors > 0) {
      failed = true;
      console.log(`the reader saw ${report.gaps} gaps and ${report.errors} unreadable frames`);
    }
    const cpu = cpuOf(weir.pid);
    const [inFlight, pending, logBytes, consumers, indexLag] = await Promise.all([
      weir.metric('relay_ingest_in_flight_bytes'),
      weir.metric('relay_ingest_pending_identities'),
      weir.metric('relay_log_bytes'),
      weir.metric('relay_consumers'),
      weir.metric('relay_collections_lag_events'),
    ]);
    minutes.push(mean(samples));
    console.log(
      `${String(minute).padStart(4)} ${String(Math.round(((report.frames - frames) / elapsedMs) * 1_000)).padStart(8)} ` +
        `${((cpu - cpuMs) / elapsedMs).toFixed(2).padStart(6)} ` +
        `${mean(samples).toFixed(0).padStart(7)} (${Math.min(...samples).toFixed(0)}–${Math.max(...samples).toFixed(0)})`.padEnd(
          20,
        ) +
        `${(inFlight / 1e6).toFixed(1).padStart(11)} ${pending.toFixed(0).padStart(13)} ${(logBytes / 1e9).toFixed(1).padStart(8)} ` +
        `${consumers.toFixed(0).padStart(9)} ${indexLag.toFixed(0).padStart(16)}   ${loadLine()}`,
    );
    frames = report.frames;
    cpuMs = cpu;
  }
  const third = Math.max(1, Math.floor(minutes.length / 3));
  const last = mean(minutes.slice(-third));
  const before = mean(minutes.slice(-2 * third, -third));
  const growth = last / before;
  console.log(
    `mean of the last third ${last.toFixed(0)} MB, of the second ${before.toFixed(0)} MB: × ${growth.toFixed(3)}` +
      (growth > MAX_GROWTH ? '   ← GROWS' : ', flat'),
  );
  if (growth > MAX_GROWTH) failed = true;
  await stalled.stop();
  await reader.stop();
  await weir.stop();
  await simulator.stop();
});
process.exit(failed ? 1 : 0);
