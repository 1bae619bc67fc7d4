/** Log lines, as text for people or as JSON for machines; one line per event, on standard error. */
import type { Config } from './config.ts';

export type Level = Config['logLevel'];
export type Fields = Readonly<Record<string, string | number | boolean>>;

export interface Logger {
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
  log(level: Level, message: string, fields?: Fields): void;
}

const LEVELS: readonly Level[] = ['debug', 'info', 'warn', 'error'];

/** Ends lines, moves the cursor, or turns text around. JSON does not escape all of it. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: those are what it is about
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g;

/** What comes from outside must not break a line or a terminal. */
const plain = (text: string): string =>
  text.replace(UNSAFE, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);

const shown = (value: string | number | boolean): string => {
  const text = String(value);
  return /^[\w.:/@+-]+$/.test(text) ? text : plain(JSON.stringify(text));
};

/**
 * @param write takes one line without its end
 * @param nowMs the time on the lines, ms since the epoch
 */
export const createLogger = (
  settings: Pick<Config, 'logLevel' | 'logFormat'>,
  write: (line: string) => void = (line) => process.stderr.write(`${line}\n`),
  nowMs: () => number = Date.now,
): Logger => {
  const least = LEVELS.indexOf(settings.logLevel);
  const log = (level: Level, message: string, fields: Fields = {}): void => {
    if (LEVELS.indexOf(level) < least) return;
    const time = new Date(nowMs()).toISOString();
    if (settings.logFormat === 'json') {
      // First in the line, and no field takes their place.
      const head = { time, level, message };
      write(plain(JSON.stringify({ ...head, ...fields, ...head })));
      return;
    }
    const rest = Object.entries(fields).map(([name, value]) => ` ${name}=${shown(value)}`);
    write(`${time} ${level.padEnd(5)} ${plain(message)}${rest.join('')}`);
  };
  return {
    debug: (message, fields) => log('debug', message, fields),
    info: (message, fields) => log('info', message, fields),
    warn: (message, fields) => log('warn', message, fields),
    error: (message, fields) => log('error', message, fields),
    log,
  };
};
