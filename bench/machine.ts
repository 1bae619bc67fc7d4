/** What a benchmark needs to know of the machine and of other processes: read from /proc, so Linux only. */
import { readdirSync, readFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';

/** Linux reports CPU time in hundredths of a second to programs, whatever the kernel ticks at. */
const TICK_MS = 10;

/** One line for the head of a report: what was measured on, and how busy it was with other things. */
export const machineLine = (): string =>
  `${cpus()[0]?.model ?? 'unknown CPU'} × ${cpus().length}, Bun ${Bun.version}, load before ${loadLine()}`;

/** Load averages of 1 and 5 minutes. */
export const loadLine = (): string => {
  const [one = 0, five = 0] = loadavg();
  return `${one.toFixed(2)} / ${five.toFixed(2)}`;
};

/** CPU time of a process so far, ms, by threads of the same name; `main` is its first thread. */
export const cpuByThread = (pid: number): Map<string, number> => {
  const groups = new Map<string, number>();
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    let text: string;
    try {
      text = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
    } catch {
      continue;
    }
    const end = text.lastIndexOf(')');
    const name =
      Number(thread) === pid ? 'main' : text.slice(text.indexOf('(') + 1, end).replace(/[\s#\d]+$/, '');
    const fields = text.slice(end + 2).split(' ');
    const ms = (Number(fields[11]) + Number(fields[12])) * TICK_MS;
    groups.set(name, (groups.get(name) ?? 0) + ms);
  }
  return groups;
};

/** What each group of threads used between two readings, ms; the busiest first. */
export const cpuBetween = (before: Map<string, number>, after: Map<string, number>): [string, number][] =>
  [...after]
    .map(([name, ms]): [string, number] => [name, ms - (before.get(name) ?? 0)])
    .filter(([, ms]) => ms > 0)
    .sort(([, one], [, other]) => other - one);

/** CPU time of a whole process so far, ms: threads that have ended count as well. */
export const cpuOf = (pid: number): number => {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
};

/** Resident memory now and the most it ever was, MB. */
export const memoryOf = (pid: number): { rssMb: number; peakMb: number } => {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
  return { rssMb: field('VmRSS') / 1024, peakMb: field('VmHWM') / 1024 };
};

/** The value below which `share` of the numbers lie; NaN when there are none. */
export const percentile = (numbers: readonly number[], share: number): number => {
  const sorted = Float64Array.from(numbers).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
};
