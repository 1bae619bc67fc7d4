#!/usr/bin/env bun
/** The command line of the JSON view: finds the command and turns its end into an exit code. Decides nothing. */

const HELP = `Usage: bun run jetstream COMMAND

  tail               print a live, readable stream from any Jetstream host
  train-dictionary   train a zstd dictionary from records, without people's text

Each takes --help.
`;

const run = async (): Promise<number> => {
  const [command = 'help', ...args] = process.argv.slice(2);
  switch (command) {
    case 'tail':
      return (await import('./tail/command.ts')).tailCommand(args);
    case 'train-dictionary':
      return (await import('./dictionary/train-command.ts')).trainDictionaryCommand(args);
    case 'help':
    case '--help':
    case '-h':
      process.stdout.write(HELP);
      return 0;
    default:
      process.stderr.write(`unknown command ${command}\n\n${HELP}`);
      return 2;
  }
};

process.exit(await run());
