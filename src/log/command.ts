import path from 'node:path';
import { KIND_NAMES } from '../firehose/types.ts';
import { type Damage, LogCorruption } from './corruption.ts';
import { diskFiles, type LogFiles } from './files.ts';
import { readHostNames } from './host-names.ts';
import { timeUsAt } from './record.ts';
import { checkChain, listSegments } from './recover.ts';
import {
  findRecord,
  readSegmentHeader,
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
  scanRecords,
  segmentName,
} from './segment.ts';

/**
 * `bun run log inspect|verify [DIR]`: what a log directory holds, read without the lock, so also beside a running
 * relay (up to what is there at that moment). It changes nothing.
 */
const HELP = `Usage: bun run log inspect [DIR] [--json]
       bun run log verify [DIR] [--json]

  inspect   segments with their seqs, times and bytes; records by kind and by host
  verify    reads every byte: checksums, seqs without gap, log times increasing; names all damage by
            file, byte position and kind. Exit code 1 when there is any.

  DIR       the log directory (default: log in $RELAY_DATA_DIR, or ./data/log)
  --json    one JSON object instead of text

Both may be run while a relay writes the log.`;

export interface DamageReport {
  readonly file: string;
  readonly position: number;
  readonly damage: Damage;
  /** Bytes that cannot be read because of it; null when unknown. */
  readonly lostBytes: number | null;
  readonly detail: string;
}

export interface SegmentReport {
  readonly file: string;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly records: number;
  readonly bytes: number;
  readonly firstTimeUs: number;
  readonly lastTimeUs: number;
}

export interface LogReport {
  readonly dir: string;
  readonly segments: readonly SegmentReport[];
  readonly records: number;
  readonly bytes: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly firstTimeUs: number;
  readonly lastTimeUs: number;
  readonly kinds: Readonly<Record<string, number>>;
  /** Most records first. */
  readonly hosts: readonly { readonly id: number; readonly hostname: string; readonly records: number }[];
  readonly damages: readonly DamageReport[];
  /** Bytes at the very end that are not a whole record: being written now, or cut off at the next start. */
  readonly unfinishedTailBytes: number;
}

/** After this many damages the rest of a segment is not searched: it would be one line per record. */
const MAX_DAMAGES_PER_SEGMENT = 100;

/** Reads the whole log. Never throws on damage; throws when the directory cannot be read. */
export const reportLog = (dir: string, files: LogFiles = diskFiles): LogReport => {
  const damages: DamageReport[] = [];
  const segments: SegmentReport[] = [];
  const kinds = new Map<string, number>();
  const hosts = new Map<number, number>();
  let unfinishedTailBytes = 0;
  const firstSeqs = listSegments(files, dir);
  let before: { header: SegmentHeader; path: string; bytes: number; nextSeq: number } | null = null;
  let lastTimeUs = 0;

  const note = (error: unknown, lostBytes: number | null): void => {
    if (!(error instanceof LogCorruption)) throw error;
    const { file, position, damage, detail } = error;
    damages.push({ file, position, damage, lostBytes, detail });
  };

  for (const [i, firstSeq] of firstSeqs.entries()) {
    const newest = i === firstSeqs.length - 1;
    const file = path.join(dir, segmentName(firstSeq));
    let fd: number;
    try {
      fd = files.open(file, 'read');
    } catch (error) {
      // Retention of a running relay took it away after the directory was read.
      if ((error as { code?: string }).code === 'ENOENT' && before === null) continue;
      throw error;
    }
    try {
      const size = files.size(fd);
      const header = readSegmentHeader(files, fd);
      if (header === null) {
        if (newest && size <= SEGMENT_HEADER_BYTES) unfinishedTailBytes += size;
        else note(new LogCorruption(file, 0, 'segment header'), size);
        before = null;
        continue;
      }
      try {
        checkChain(file, firstSeq, header, before);
      } catch (error) {
        note(error, null);
      }
      if (
        before !== null &&
        header.previousFirstSeq === before.header.firstSeq &&
        before.nextSeq !== firstSeq
      )
        note(
          new LogCorruption(
            before.path,
            before.bytes,
            'seq not continuous',
            `it ends before seq ${before.nextSeq}`,
          ),
          null,
        );
      const seed = BigInt(header.seed);
      let records = 0;
      let firstTimeUs = 0;
      let position = SEGMENT_HEADER_BYTES;
      let nextSeq: number = firstSeq;
      lastTimeUs = Math.max(lastTimeUs, header.previousTimeUs);
      for (let found = 0; ; found++) {
        const scan = scanRecords(files, fd, position, size, nextSeq, lastTimeUs, seed, (_bytes, view, at) => {
          records++;
          lastTimeUs = timeUsAt(view, at);
          if (firstTimeUs === 0) firstTimeUs = lastTimeUs;
          const kind = KIND_NAMES[view.getUint8(at + 48)] ?? 'other';
          kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
          const host = view.getUint32(at + 12, true);
          hosts.set(host, (hosts.get(host) ?? 0) + 1);
        });
        nextSeq = scan.nextSeq;
        if (scan.damage === null) break;
        if (scan.damage === 'log time not increasing') {
          // The record is whole but for its time: report it, and go on with it.
          note(new LogCorruption(file, scan.end, scan.damage, `seq ${scan.nextSeq}`), 0);
          if (found >= MAX_DAMAGES_PER_SEGMENT) break;
          position = scan.end;
          lastTimeUs = 0;
          continue;
        }
        const next =
          found >= MAX_DAMAGES_PER_SEGMENT
            ? null
            : findRecord(files, fd, scan.end + 1, size, scan.nextSeq, false, seed);
        if (next === null) {
          if (newest && found < MAX_DAMAGES_PER_SEGMENT) unfinishedTailBytes += size - scan.end;
          else note(new LogCorruption(file, scan.end, scan.damage, `seq ${scan.nextSeq}`), size - scan.end);
          break;
        }
        const lost = next.seq - scan.nextSeq;
        note(
          new LogCorruption(
            file,
            scan.end,
            scan.damage,
            lost === 0
              ? 'foreign bytes'
              : `seq ${scan.nextSeq}${lost > 1 ? ` to ${next.seq - 1}` : ''} cannot be read`,
          ),
          next.position - scan.end,
        );
        position = next.position;
        nextSeq = next.seq;
      }
      segments.push({ file, firstSeq, lastSeq: nextSeq - 1, records, bytes: size, firstTimeUs, lastTimeUs });
      before = { header, path: file, bytes: size, nextSeq };
    } finally {
      files.close(fd);
    }
  }

  let names: ReadonlyMap<number, string> = new Map();
  try {
    names = readHostNames(files, dir).names;
  } catch (error) {
    note(error, null);
  }
  const filled = segments.filter((segment) => segment.records > 0);
  return {
    dir,
    segments,
    records: segments.reduce((sum, segment) => sum + segment.records, 0),
    bytes: segments.reduce((sum, segment) => sum + segment.bytes, 0),
    firstSeq: filled[0]?.firstSeq ?? 0,
    lastSeq: filled[filled.length - 1]?.lastSeq ?? 0,
    firstTimeUs: filled[0]?.firstTimeUs ?? 0,
    lastTimeUs: filled[filled.length - 1]?.lastTimeUs ?? 0,
    kinds: Object.fromEntries([...kinds].sort((a, b) => b[1] - a[1])),
    hosts: [...hosts]
      .sort((a, b) => b[1] - a[1])
      .map(([id, records]) => ({ id, hostname: names.get(id) ?? '', records })),
    damages,
    unfinishedTailBytes,
  };
};

const whole = (value: number): string => value.toLocaleString('en');
const time = (timeUs: number): string => (timeUs === 0 ? '—' : new Date(timeUs / 1000).toISOString());
/** Hosts named in the text output; --json has all. */
const MAX_HOST_LINES = 50;

const printReport = (report: LogReport, verb: string, out: (line: string) => void): void => {
  out(
    `${report.dir}: ${report.segments.length} segments, ${whole(report.records)} records, ${whole(report.bytes)} bytes`,
  );
  out(
    report.records === 0
      ? 'no records'
      : `seq ${report.firstSeq} to ${report.lastSeq}, ${time(report.firstTimeUs)} to ${time(report.lastTimeUs)}`,
  );
  if (verb === 'inspect') {
    for (const segment of report.segments)
      out(
        `  ${path.basename(segment.file)}  seq ${segment.firstSeq} to ${segment.lastSeq}  ` +
          `${time(segment.firstTimeUs)} to ${time(segment.lastTimeUs)}  ${whole(segment.records)} records  ` +
          `${whole(segment.bytes)} bytes`,
      );
    out('kinds:');
    for (const [kind, records] of Object.entries(report.kinds)) out(`  ${kind.padEnd(10)} ${whole(records)}`);
    out('hosts:');
    for (const host of report.hosts.slice(0, MAX_HOST_LINES))
      out(`  ${whole(host.records).padStart(12)}  ${host.id}  ${host.hostname}`);
    if (report.hosts.length > MAX_HOST_LINES) out(`  and ${report.hosts.length - MAX_HOST_LINES} more`);
  }
  if (report.unfinishedTailBytes > 0)
    out(
      `${whole(report.unfinishedTailBytes)} bytes at the end are no whole record: being written just now, or to be cut ` +
        'off at the next start',
    );
  for (const each of report.damages)
    out(
      `DAMAGE ${each.file} at byte ${each.position}: ${each.damage}${each.detail === '' ? '' : `, ${each.detail}`}` +
        `${each.lostBytes === null ? '' : `, ${whole(each.lostBytes)} bytes unreadable`}`,
    );
  out(report.damages.length === 0 ? 'no damage' : `${report.damages.length} damaged places`);
};

/**
 * Runs the command. Returns the exit code: 0, 1 when there is damage, 2 when it was called wrongly or the directory
 * cannot be read.
 */
export const logCommand = async (
  args: string[],
  out: (line: string) => void,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Promise<number> => {
  const flags = args.filter((arg) => arg.startsWith('-'));
  const [verb, given, ...rest] = args.filter((arg) => !arg.startsWith('-'));
  if (flags.includes('--help') || flags.includes('-h') || verb === 'help') {
    out(HELP);
    return 0;
  }
  const unknown = flags.find((flag) => flag !== '--json');
  if ((verb !== 'inspect' && verb !== 'verify') || rest.length > 0 || unknown !== undefined) {
    out(
      unknown === undefined
        ? 'log: say inspect or verify, and at most one directory'
        : `log: unknown option ${unknown}`,
    );
    out(HELP);
    return 2;
  }
  const dir = given ?? path.join(environment.RELAY_DATA_DIR ?? './data', 'log');
  let report: LogReport;
  try {
    report = reportLog(dir);
  } catch (error) {
    out(`log: cannot read ${dir}: ${(error as Error).message}`);
    return 2;
  }
  if (flags.includes('--json')) out(JSON.stringify(report, null, 2));
  else printReport(report, verb, out);
  return report.damages.length === 0 ? 0 : 1;
};
