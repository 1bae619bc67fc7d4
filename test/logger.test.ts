import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { createLogger, type Fields, type Level } from '../src/logger.ts';

const loggerWith = (logFormat: 'text' | 'json', logLevel: Level = 'debug') => {
  const lines: string[] = [];
  const logger = createLogger(
    { logFormat, logLevel },
    (line) => lines.push(line),
    () => 0,
  );
  return { logger, lines };
};

/** Anything that ends a line, moves the cursor or turns text around. */
const UNSAFE = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/u;

describe('a log line', () => {
  test('as text begins with time and level, and quotes what is not plain', () => {
    const { logger, lines } = loggerWith('text');
    logger.info('hello world', {
      host: 'a.pds.net:80',
      count: 3,
      isNew: true,
      reason: 'two words',
      empty: '',
    });
    expect(lines).toEqual([
      '1970-01-01T00:00:00.000Z info  hello world host=a.pds.net:80 count=3 isNew=true reason="two words" empty=""',
    ]);
  });

  test('as JSON holds the same, and fields cannot pass for time, level or message', () => {
    const { logger, lines } = loggerWith('json');
    logger.error('bad', { host: 'x', message: 'fake', level: 'fake', time: 'fake' });
    expect(JSON.parse(lines[0]!)).toEqual({
      time: '1970-01-01T00:00:00.000Z',
      level: 'error',
      message: 'bad',
      host: 'x',
    });
  });

  test('is written from the least level on', () => {
    const order: readonly Level[] = ['debug', 'info', 'warn', 'error'];
    order.forEach((least, index) => {
      const { logger, lines } = loggerWith('text', least);
      for (const level of order) logger.log(level, level);
      logger.debug('debug');
      logger.info('info');
      logger.warn('warn');
      logger.error('error');
      expect(lines).toHaveLength(2 * (order.length - index));
    });
  });

  test('stays one harmless line whatever it says', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom('\u001b[2J', '\u009b2J', 'a\nb', '\r', '\u2028', '\u202egnp.exe', '\u0000', '\ud800'),
    );
    for (const format of ['text', 'json'] as const)
      fc.assert(
        fc.property(text, fc.dictionary(fc.constantFrom('a', 'b'), text), (message, fields: Fields) => {
          const { logger, lines } = loggerWith(format);
          logger.warn(message, fields);
          expect(lines).toHaveLength(1);
          expect(UNSAFE.test(lines[0]!)).toBe(false);
          if (format === 'json') expect(JSON.parse(lines[0]!)).toMatchObject({ level: 'warn', message });
        }),
        { numRuns: 300 },
      );
  });
});
