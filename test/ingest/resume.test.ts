import { expect, test } from 'bun:test';
import { accountFrame, ingestWith } from './support.ts';

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';
/** Room for the reads of two sockets. */
const MAX_BYTES = 1024 * 1024;

test('sockets paused at the bound are resumed some at a time, as many as there is room for their reads, the longest waiting first', async () => {
  const made = ingestWith({ maxBytesInFlight: MAX_BYTES });
  try {
    const sockets = Array.from({ length: 7 }, (_, index) => made.connect(index + 1));
    const first = sockets[0]!;
    first.frame(accountFrame(DID, 1));
    await made.settle();
    made.answerAll();
    await made.settle();
    const padding = 'x'.repeat(50_000);
    for (let seq = 2; !first.paused; seq++) first.frame(accountFrame(DID, seq, { padding }));
    expect(sockets.map(({ paused }) => paused)).toEqual(sockets.map(() => true));
    await made.settle();
    made.acknowledgeAll();
    const resumed: number[] = [];
    while (resumed.at(-1) !== sockets.length) {
      await new Promise((resolve) => setImmediate(resolve));
      const open = sockets.findIndex(({ paused }) => paused);
      resumed.push(open === -1 ? sockets.length : open);
      expect(sockets.filter(({ paused }) => !paused)).toHaveLength(resumed.at(-1)!);
      expect(resumed.length).toBeLessThan(100);
    }
    expect(new Set(resumed.filter((count) => count > 0))).toEqual(new Set([2, 4, 6, 7]));
  } finally {
    await made.ingest.stop();
  }
});
