/**
 * The log alone: appends a second, and one cold cursor through segments against readSync of the same bytes in the
 * same blocks, which is the least any reader could do. Run: bun bench/replay-log.ts [FRAMES]
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { MAX_PENDING_BYTES, openLog } from '../src/log/log.ts';
import { BLOCK_BYTES } from '../src/log/segment.ts';

const FRAMES = Number(process.argv[2] ?? 100_000);
const FRAME_BYTES = 3500;

const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'weir-bench-log-'));
const options = { dir, windowMs: 72 * 3_600_000, maxBytes: 1e12, tailBytes: 1, reserveBytes: 0 };
const perSecond = (count: number, ms: number): string => Math.round((count * 1000) / ms).toLocaleString('en');
const rssMb = (): number => Math.round(process.memoryUsage.rss() / 1e6);

try {
  const frame = crypto.getRandomValues(new Uint8Array(FRAME_BYTES));
  const entry = {
    hostId: 1,
    upstreamSeq: 1,
    kind: 1,
    opCount: 1,
    didHash: 5,
    frame,
    seqStart: 20,
    seqEnd: 25,
  } as const;

  let log = await openLog(options);
  let startedAt = performance.now();
  for (let i = 0; i < FRAMES; i++) {
    log.append(entry, Date.now() * 1000);
    if (log.stats.pendingBytes > MAX_PENDING_BYTES / 4) await log.whenDurable(log.appendedSeq);
  }
  await log.whenDurable(log.appendedSeq);
  const appendMs = performance.now() - startedAt;
  const { fsyncs } = log.stats;
  await log.close();

  startedAt = performance.now();
  log = await openLog(options);
  const openMs = performance.now() - startedAt;

  const baseline = (): number => {
    const block = new Uint8Array(BLOCK_BYTES);
    const started = performance.now();
    for (const name of fs.readdirSync(dir).filter((each) => each.endsWith('.seg'))) {
      const fd = fs.openSync(path.join(dir, name), 'r');
      for (let at = 0; ; ) {
        const count = fs.readSync(fd, block, 0, block.length, at);
        if (count === 0) break;
        at += count;
      }
      fs.closeSync(fd);
    }
    return performance.now() - started;
  };
  const replay = (): number => {
    const started = performance.now();
    const cursor = log.openCursor(0);
    let frames = 0;
    for (;;) {
      const records = cursor.next(64 * 1024);
      if (records === 'behind') throw new Error('behind');
      if (records.length === 0) break;
      frames += records.length;
    }
    cursor.close();
    if (frames !== FRAMES) throw new Error(`${frames} frames read, not ${FRAMES}`);
    return performance.now() - started;
  };
  const best = (run: () => number): number => Math.min(run(), run(), run());
  const baselineMs = best(baseline);
  const replayMs = best(replay);

  console.log(
    `machine: ${os.cpus()[0]?.model} × ${os.cpus().length}, Bun ${Bun.version}, ${FRAMES} frames of ${FRAME_BYTES} B`,
  );
  console.log(`append to durable: ${perSecond(FRAMES, appendMs)} frames/s, ${fsyncs} syncs`);
  console.log(`open with recovery: ${openMs.toFixed(0)} ms`);
  console.log(`baseline, readSync of ${BLOCK_BYTES / 1024} KiB: ${perSecond(FRAMES, baselineMs)} frames/s`);
  console.log(
    `cold cursor, checksums verified: ${perSecond(FRAMES, replayMs)} frames/s, ` +
      `${(baselineMs / replayMs).toFixed(2)} × the baseline; RSS ${rssMb()} MB`,
  );
  await log.close();
} finally {
  fs.rmSync(dir, { recursive: true, force: true });
}
