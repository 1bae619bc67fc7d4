/**
 * The backfill as a process of its own, to be killed by tests: the command as it is, over the plain index of
 * fake-index.ts or with TEST_INDEX=real over the one of the data directory, with retries and time-outs that do not take minutes.
 * Usage: bun child.ts INDEX_FILE ARGS…, with RELAY_DATA_DIR and so on in the environment.
 */
import { backfillCommand, openIndexOf } from '../../src/backfill/command.ts';
import { openFakeIndex } from './fake-index.ts';

const [file, ...args] = process.argv.slice(2);
const code = await backfillCommand(args, (line) => process.stdout.write(`${line}\n`), {
  openIndex: process.env.TEST_INDEX === 'real' ? openIndexOf : async () => openFakeIndex(file!),
  sourceRetryMs: [200, 200, 200],
  repoRetryMs: [200, 200],
  maxTimeoutMs: Number(process.env.TEST_TIMEOUT_MS ?? 20_000),
});
process.exit(code);
