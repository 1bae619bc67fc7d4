/**
 * A process that is killed. `follow PATH SEED EVENTS` follows a log and says each seq it has stored; `write PATH FROM`
 * adds repos one after the other, from a number on, and says each that was added.
 */
import { openCollections } from '../../src/collections/collections.ts';
import { openCollectionWriter } from '../../src/collections/writer.ts';
import { HISTORY_COLLECTIONS, MemoryLog, makeHistory } from './history.ts';
import { didOf } from './samples.ts';

const [mode, path, first, second] = process.argv.slice(2) as [string, string, string, string];
const say = (text: string): void => {
  process.stdout.write(`${text}\n`);
};
const fatal = (error: unknown): void => {
  say(`fatal ${error}`);
  process.exit(1);
};

if (mode === 'follow') {
  const { records } = makeHistory(Number(first), Number(second));
  const log = new MemoryLog(records);
  const collections = await openCollections({
    path,
    log,
    takendown: [],
    warn: (message) => say(`warn ${message}`),
    fatal,
  });
  for (let last = -1; ; await Bun.sleep(0)) {
    const { position } = collections.status();
    if (position !== last) say(String(position));
    last = position;
    if (position >= records.length) break;
  }
  await collections.stop();
  process.exit(0);
} else {
  const writer = await openCollectionWriter(path);
  for (let index = Number(first); ; index++) {
    await writer.add([{ did: didOf(index), collections: HISTORY_COLLECTIONS.slice(0, 1 + (index % 3)) }]);
    say(String(index));
  }
}
