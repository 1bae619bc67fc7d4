#!/usr/bin/env bun
/** The command line: finds the command, composes it, and turns its end into an exit code. Decides nothing. */
import { ConfigError, configHelp, readConfig } from './config.ts';
import { createLogger } from './logger.ts';

const HELP = `weir, an AT Protocol relay

  bun start              follow the hosts, serve the firehose (the command serve)
  bun run demo           all of it on this machine, without a network, with a summary
  bun run simulate       a simulated network alone, for any relay to follow
  bun run log            inspect or verify a log directory
  bun run backfill       fill the collection index and the account list from another relay or from hosts

Each takes --help.
`;

const SERVE_HELP = `bun start: run the relay. Settings come from the environment:

${configHelp()}

Stop it with Ctrl-C (SIGINT) or SIGTERM. Everything it keeps is in RELAY_DATA_DIR.
`;

/** `bun run` passes a Ctrl-C on to us that the terminal has sent us already: within this it is the same one. */
const SAME_SIGNAL_MS = 1_000;
/** A shutdown that hangs must not hang for ever: supervisors kill after about this. */
const STOP_TIMEOUT_MS = 25_000;

const serve = async (args: readonly string[]): Promise<number> => {
  if (args.includes('--help') || args.includes('-h')) {
    process.stdout.write(SERVE_HELP);
    return 0;
  }
  if (args.length > 0) {
    process.stderr.write(`unknown argument ${args[0]}; settings come from the environment, see --help\n`);
    return 2;
  }
  const config = readConfig(process.env);
  const logger = createLogger(config);
  const { startRelay } = await import('./relay.ts');
  const { promise: ended, resolve: end } = Promise.withResolvers<number>();
  const fatal = (error: unknown): void => {
    // Our own corruption, or a promise we can no longer keep: nothing more may be served or written.
    logger.error('fatal', { error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    process.exit(70);
  };
  process.on('uncaughtException', fatal);
  process.on('unhandledRejection', fatal);
  let signalledAtMs: number | null = null;
  const onSignal = (signal: string): void => {
    if (signalledAtMs !== null) {
      if (performance.now() - signalledAtMs < SAME_SIGNAL_MS) return;
      logger.warn('stopping at once');
      process.exit(130);
    }
    signalledAtMs = performance.now();
    logger.info('stopping', { signal });
    end(0);
  };
  process.on('SIGINT', () => onSignal('SIGINT'));
  process.on('SIGTERM', () => onSignal('SIGTERM'));
  let relay: Awaited<ReturnType<typeof startRelay>>;
  try {
    relay = await startRelay(config, logger, fatal);
  } catch (error) {
    logger.error('cannot start', { error: error instanceof Error ? error.message : String(error) });
    return 1;
  }
  const code = await ended;
  const timer = setTimeout(() => {
    logger.error('stopping took too long; what is not stored is made up from the log at the next start');
    process.exit(1);
  }, STOP_TIMEOUT_MS);
  await relay.stop();
  clearTimeout(timer);
  logger.info('stopped');
  return code;
};

const run = async (): Promise<number> => {
  const [command = 'help', ...args] = process.argv.slice(2);
  const out = (line: string): void => {
    process.stdout.write(`${line}\n`);
  };
  switch (command) {
    case 'serve':
      return serve(args);
    case 'demo':
      return (await import('./demo.ts')).demoCommand(args, out);
    case 'simulate':
      return (await import('../simulator/command.ts')).simulateCommand(args, out);
    case 'log':
      return (await import('./log/command.ts')).logCommand(args, out);
    case 'backfill':
      return (await import('./backfill/command.ts')).backfillCommand(args, out);
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

try {
  process.exit(await run());
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exit(2);
}
