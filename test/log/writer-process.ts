/** A process that appends until it is killed, and says on stdout what was reported durable. Arguments: directory. */
import { openLog } from '../../src/log/log.ts';
import { makeEntry } from './helpers.ts';

const log = await openLog({
  dir: process.argv[2]!,
  windowMs: 1e9,
  maxBytes: 1e12,
  segmentBytes: 200_000,
  groupDelayMs: 0,
  reserveBytes: 0,
});
log.onDurable((seq) => {
  process.stdout.write(`${seq}\n`);
});
log.nameHost(7, 'pds.example.com');
for (;;) {
  const count = 1 + (log.appendedSeq % 20);
  for (let i = 0; i < count; i++)
    log.append(makeEntry(log.appendedSeq + 1, 200 + (i % 7) * 300), Date.now() * 1000);
  await log.whenDurable(log.appendedSeq - 5);
}
