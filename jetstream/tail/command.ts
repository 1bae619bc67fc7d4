import { readFileSync } from 'node:fs';
import type { Dictionary } from '../dictionary/types.ts';
import { parseTailArgs, TAIL_HELP } from './args.ts';
import { plain } from './line.ts';
import { runTail, type TailTerminal } from './tail.ts';
import { openDictionary } from './zstd.ts';

/** Lines that wait for the output in this process, before the host is kept waiting. */
const MAX_WAITING_CHARS = 256 * 1024;
/** `bun run` passes a Ctrl-C on to us that the terminal has sent us already: within this it is the same one. */
const SAME_SIGNAL_MS = 1_000;

/**
 * `bun run jetstream tail …`: see TAIL_HELP. Events go to standard output, words about the connection to standard
 * error. Resolves to the exit code: 0 ended by Ctrl-C, --count or a reader that went away, 1 no use in going on,
 * 2 the arguments make no sense.
 */
export const tailCommand = async (args: readonly string[]): Promise<number> => {
  const { stdout, stderr } = process;
  const parsed = parseTailArgs(args);
  if (parsed.ok === 'help') {
    stdout.write(TAIL_HELP);
    return 0;
  }
  if (!parsed.ok) {
    stderr.write(`${plain(parsed.problem)}\n\n${TAIL_HELP}`);
    return 2;
  }
  const { options } = parsed;
  let dictionary: Dictionary | null = null;
  if (options.dictionaryFile !== null) {
    try {
      dictionary = openDictionary(readFileSync(options.dictionaryFile));
    } catch (error) {
      stderr.write(`--dictionary: ${(error as Error).message}\n`);
      return 2;
    }
    if (dictionary === null) {
      stderr.write(`--dictionary: ${plain(options.dictionaryFile)} is not a zstd dictionary\n`);
      return 2;
    }
  }

  const stopping = new AbortController();
  let signalledAtMs: number | null = null;
  const stop = (): void => stopping.abort();
  const onSignal = (): void => {
    if (signalledAtMs !== null && performance.now() - signalledAtMs > SAME_SIGNAL_MS) process.exit(130);
    signalledAtMs ??= performance.now();
    stop();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  // The reader of a pipe went away, as head does.
  stdout.on('error', stop);
  // Counted here: writableLength of standard output stays 0 in Bun, and drain comes late or not at all.
  let waitingChars = 0;
  let resume: (() => void) | null = null;
  stopping.signal.addEventListener('abort', () => resume?.());
  const terminal: TailTerminal = {
    print(line) {
      const text = `${line}\n`;
      waitingChars += text.length;
      stdout.write(text, () => {
        waitingChars -= text.length;
        if (waitingChars < MAX_WAITING_CHARS / 2) resume?.();
      });
      return waitingChars < MAX_WAITING_CHARS;
    },
    drained: () =>
      new Promise((resolve) => {
        resume = resolve;
        if (waitingChars < MAX_WAITING_CHARS / 2 || stopping.signal.aborted) resolve();
      }),
    note: (line) => void stderr.write(`${line}\n`),
    columns: () => (stdout.isTTY ? stdout.columns : null),
    colours: stdout.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb',
  };
  const code = await runTail({ options, dictionary, terminal, signal: stopping.signal });
  // The process ends at once after this: what was printed has to be out.
  if (!stopping.signal.aborted) await new Promise<void>((resolve) => stdout.write('', () => resolve()));
  return code;
};
