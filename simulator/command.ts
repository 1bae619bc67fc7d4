/** `bun run simulate`: the simulated network alone, for any relay to follow. */
import { parseArgs } from 'node:util';
import { FAULT_GROUPS, faultsNamed } from './faults.ts';
import { createNetwork } from './network.ts';

const HELP = `usage: bun run simulate [options]

Starts a PLC directory and PDS hosts on ports of localhost, with accounts that sign real commits.

  --hosts N          number of hosts (10)
  --accounts N       number of accounts over all hosts (200)
  --rate N           events per second over all hosts (20)
  --seed N           same seed, same accounts, keys, records and order of events (1)
  --port N           port of the directory; hosts follow from N+1 (2582; 0: any free ports)
  --window N         events each host keeps for cursors (10000)
  --large-share X    share of accounts with a repo of 20,000 records, 0 to 1 (0.01)
  --fault NAME=P     make a fault happen with probability P, 0 to 1; may be given many times.
                     Event faults per event, host faults per second, directory faults per request.
                     A group's name stands for all its faults: ${Object.keys(FAULT_GROUPS).join(', ')}
  --list-faults      the names of all faults
  --ledger FILE      append every event and what a relay must make of it, one JSON line each
  --duration N       stop after N seconds (runs until stopped)
  --help             this text
`;

const OPTIONS = {
  hosts: { type: 'string' },
  accounts: { type: 'string' },
  rate: { type: 'string' },
  seed: { type: 'string' },
  port: { type: 'string' },
  window: { type: 'string' },
  'large-share': { type: 'string' },
  fault: { type: 'string', multiple: true },
  'list-faults': { type: 'boolean' },
  ledger: { type: 'string' },
  duration: { type: 'string' },
  help: { type: 'boolean' },
} as const;

interface Range {
  readonly least: number;
  readonly most: number;
  readonly whole: boolean;
}

const sum = (numbers: Iterable<number>): number => {
  let total = 0;
  for (const number of numbers) total += number;
  return total;
};

const DEFAULT_PORT = 2582;
const MAX_PORT = 65_535;

const readNumber = (name: string, text: string | undefined, fallback: number, range: Range): number => {
  if (text === undefined) return fallback;
  const value = Number(text);
  const { least, most, whole } = range;
  if (text.trim() === '' || !(value >= least && value <= most) || (whole && !Number.isInteger(value))) {
    throw new Error(`--${name}: ${whole ? 'a whole number' : 'a number'} from ${least} to ${most} is needed`);
  }
  return value;
};

const readFaults = (texts: readonly string[]): Record<string, number> => {
  const faults: Record<string, number> = {};
  for (const text of texts) {
    const [name = '', probability] = text.split('=');
    if (faultsNamed(name).length === 0) throw new Error(`--fault: there is no fault named “${name}”`);
    faults[name] = readNumber(`fault ${name}`, probability ?? '', 0, { least: 0, most: 1, whole: false });
  }
  return faults;
};

/**
 * Runs the command until it is stopped (SIGINT, SIGTERM, `--duration`). Prints by `out`, one line a call.
 * Resolves to the exit code: 0, or 2 when the arguments make no sense, or 1 when a port is taken.
 */
export const simulateCommand = async (
  args: readonly string[],
  out: (line: string) => void,
): Promise<number> => {
  let network: Awaited<ReturnType<typeof createNetwork>>;
  let durationSeconds: number;
  try {
    const { values } = parseArgs({ args: [...args], options: OPTIONS, strict: true });
    if (values.help === true) {
      out(HELP);
      return 0;
    }
    if (values['list-faults'] === true) {
      for (const [group, names] of Object.entries(FAULT_GROUPS)) {
        out(`${group}:`);
        for (const name of names) out(`  ${name}`);
      }
      return 0;
    }
    const hosts = readNumber('hosts', values.hosts, 10, { least: 1, most: 10_000, whole: true });
    const port = readNumber('port', values.port, DEFAULT_PORT, {
      least: 0,
      most: MAX_PORT - hosts,
      whole: true,
    });
    durationSeconds = readNumber('duration', values.duration, 0, { least: 0, most: 1e9, whole: false });
    network = await createNetwork({
      hosts,
      accounts: readNumber('accounts', values.accounts, 200, { least: 1, most: 5_000_000, whole: true }),
      ratePerSecond: readNumber('rate', values.rate, 20, { least: 0, most: 50_000, whole: false }),
      seed: readNumber('seed', values.seed, 1, { least: 0, most: 0xffff_ffff, whole: true }),
      plcPort: port,
      basePort: port === 0 ? 0 : port + 1,
      windowEvents: readNumber('window', values.window, 10_000, { least: 100, most: 1e7, whole: true }),
      largeRepoShare: readNumber('large-share', values['large-share'], 0.01, {
        least: 0,
        most: 1,
        whole: false,
      }),
      faults: readFaults(values.fault ?? []),
      ledgerPath: values.ledger,
      ledgerEntries: 0,
    });
  } catch (error) {
    out(`simulate: ${error instanceof Error ? error.message : String(error)}`);
    out('simulate: --help lists what is accepted');
    return 2;
  }
  try {
    await network.start();
  } catch (error) {
    out(`simulate: cannot start: ${error instanceof Error ? error.message : String(error)}`);
    await network.stop();
    return 1;
  }

  const { hosts, counters, plcUrl } = network;
  out(`directory  ${plcUrl}`);
  out(`hosts      ${hosts[0]!.hostname} … ${hosts[hosts.length - 1]!.hostname} (${hosts.length})`);
  out(`accounts   ${network.accounts.length}`);
  out('');
  out('To point weir at it (it finds the hosts by the listHosts the directory offers):');
  out(`  RELAY_PLC_HOST=${plcUrl} RELAY_UPSTREAM=${plcUrl} RELAY_ALLOW_INSECURE_HOSTS=true bun start`);
  const shown = hosts.slice(0, 20).map(({ hostname }) => hostname);
  out('or by name:');
  out(
    `  RELAY_PLC_HOST=${plcUrl} RELAY_UPSTREAM= RELAY_HOSTS=${shown.join(',')}${hosts.length > 20 ? ',…' : ''} RELAY_ALLOW_INSECURE_HOSTS=true bun start`,
  );
  out('');
  out('Stop it with Ctrl-C. It leaves nothing behind but the ledger file, if one was asked for.');
  out('');

  let lastEvents = 0;
  let lastSent = 0;
  let second = 0;
  const status = (): void => {
    second++;
    const memoryMb = Math.round(process.memoryUsage.rss() / 1024 / 1024);
    out(
      `${String(second).padStart(5)} s  events ${counters.events} (${counters.events - lastEvents}/s)  ` +
        `sent ${counters.framesSent} (${counters.framesSent - lastSent}/s)  ` +
        `subscribers ${counters.connected}  window ${Math.round(counters.windowBytes / 1024)} KB  ` +
        `faults ${sum(network.ledger.counts.byFault.values())}  memory ${memoryMb} MB`,
    );
    lastEvents = counters.events;
    lastSent = counters.framesSent;
  };
  await new Promise<void>((resolve) => {
    const timers: Timer[] = [setInterval(status, 1000)];
    const stop = (): void => {
      for (const timer of timers) clearTimeout(timer);
      process.off('SIGINT', stop);
      process.off('SIGTERM', stop);
      resolve();
    };
    process.on('SIGINT', stop);
    process.on('SIGTERM', stop);
    if (durationSeconds > 0) timers.push(setTimeout(stop, durationSeconds * 1000));
  });
  await network.stop();
  network.ledger.close();
  out('stopped');
  return 0;
};
