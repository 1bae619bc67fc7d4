/** `bun run bench`: runs the benchmarks named, each in a process of its own, one after the other. */
import { join } from 'node:path';

/** Everything here that is a program by itself, and what it measures. */
const BENCHMARKS: Record<string, string> = {
  verify: 'verifying a commit, by its parts',
  'replay-log': 'the log alone: appends, and one cold cursor',
  state: 'the database: flushes, reads, memory, start',
  fanout: 'the firehose edge: 100 and 1,000 consumers',
  ingest: 'sockets to durable log with one consumer, 300 and 3,000 hosts (minutes)',
  replay: 'cold consumers through the window, alone and beside live ones',
  jetstream: 'the JSON view: 100 to 1,000 clients, plain and zstd, filtered, cold (minutes)',
  'jetstream-encode': "the JSON view's encoding: events located, messages built, against libraries",
  'jetstream-zstd': "the JSON view's compression, with and without a dictionary",
  collections:
    'the collection index: bytes a row, pairs a second, pages while it is written (10M rows: many minutes)',
  restart: 'start with 3,000 hosts and 1M accounts',
  soak: 'memory at saturation, with stalled consumers and a stalled directory (15 minutes)',
};
/** Left out unless named. */
const LONG = new Set(['soak', 'collections']);

const HELP = `usage: bun run bench [NAME…] [-- ARGUMENTS]

Without names, all but ${[...LONG].join(', ')}. ARGUMENTS go to each of the chosen ones; what they take stands at the head of
bench/NAME.ts. Use it on a machine that does nothing else.

${Object.entries(BENCHMARKS)
  .map(([name, what]) => `  ${name.padEnd(16)} ${what}`)
  .join('\n')}
`;

const given = process.argv.slice(2);
const split = given.indexOf('--');
const names = split < 0 ? given : given.slice(0, split);
const passed = split < 0 ? [] : given.slice(split + 1);
if (names.includes('--help') || names.includes('-h')) {
  process.stdout.write(HELP);
  process.exit(0);
}
const unknown = names.find((name) => BENCHMARKS[name] === undefined);
if (unknown !== undefined) {
  process.stderr.write(`there is no benchmark ${unknown}\n\n${HELP}`);
  process.exit(2);
}
let failed = 0;
for (const name of names.length > 0 ? names : Object.keys(BENCHMARKS).filter((each) => !LONG.has(each))) {
  console.log(`\n=== ${name}: ${BENCHMARKS[name]}`);
  const child = Bun.spawn([process.execPath, join(import.meta.dir, `${name}.ts`), ...passed], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if ((await child.exited) !== 0) failed++;
}
process.exit(failed === 0 ? 0 : 1);
