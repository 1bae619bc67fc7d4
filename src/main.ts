#!/usr/bin/env bun
/** The command line: finds the command, composes it, and turns its end into an exit code. Decides nothing. */
import { ConfigError, configHelp, readConfig } from './config.ts';
import { createLogger, type Logger } from './logger.ts';

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

/** Aborts at SIGINT or SIGTERM, and from then on minds that the stop comes to an end: a second signal is one at once. */
const stopSignal = (logger: Logger): { readonly signal: AbortSignal; readonly asked: Promise<void> } => {
  const stopping = new AbortController();
  const { promise: asked, resolve } = Promise.withResolvers<void>();
  let signalledAtMs = 0;
  const onSignal = (name: string): void => {
    if (stopping.signal.aborted) {
      if (performance.now() - signalledAtMs < SAME_SIGNAL_MS) return;
      logger.warn('stopping at once');
      process.exit(130);
    }
    signalledAtMs = performance.now();
    logger.info('stopping', { signal: name });
    setTimeout(() => {
      logger.error('stopping took too long; what is not stored is made up from the log at the next start');
      process.exit(1);
    }, STOP_TIMEOUT_MS);
    stopping.abort();
    resolve();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  return { signal: stopping.signal, asked };
};

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
  const fatal = (error: unknown): void => {
    // Our own corruption, or a promise we can no longer keep: nothing more may be served or written.
    logger.error('fatal', { error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    process.exit(70);
  };
  process.on('uncaughtException', fatal);
  process.on('unhandledRejection', fatal);
  const { signal, asked } = stopSignal(logger);
  try {
    const { startRelay } = await import('./relay.ts');
    const relay = await startRelay(config, logger, fatal, signal);
    await asked;
    await relay.stop();
  } catch (error) {
    if (error !== signal.reason)
      logger.error('cannot start', { error: error instanceof Error ? error.message : String(error) });
    if (!signal.aborted) return 1;
  }
  logger.info('stopped');
  return 0;
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
