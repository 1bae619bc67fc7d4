/**
 * An ingest thread: the same `createIngest` as in the main thread, behind messages.
 */
import { subscribe } from '../hosts/subscription.ts';
import { createBatchMemory, type Piece } from './batch-memory.ts';
import { createIngest } from './ingest.ts';
import type { FromWorker, ToWorker, WorkerOptions } from './messages.ts';
import { encodeBatch } from './wire.ts';

declare const self: Worker & { onmessage: ((event: MessageEvent<ToWorker>) => void) | null };

/** Counters travel this often. */
const COUNTERS_EVERY_MS = 1_000;

const start = (options: WorkerOptions): ((message: ToWorker) => void) => {
  const send = (message: FromWorker): void => self.postMessage(message);
  const batchMemory = createBatchMemory();
  const sentOver = new Set<Piece>();
  const sendPiece = (piece: Piece): void => {
    const { number, memory } = piece;
    send({ kind: 'batch', number, memory: sentOver.has(piece) ? null : memory });
    sentOver.add(piece);
  };
  const ingest = createIngest(
    { ...options, subscribe, nowMs: Date.now },
    {
      opened: (hostId, server) => send({ kind: 'opened', hostId, server }),
      closed: (hostId, outcome) => send({ kind: 'closed', hostId, outcome }),
      batch(batch) {
        let piece: Piece | null = null;
        const memory = encodeBatch(batch, (bytes) => {
          piece = batchMemory.take(bytes);
          return piece === null ? new ArrayBuffer(bytes) : piece.memory;
        });
        if (memory instanceof ArrayBuffer) self.postMessage(memory, [memory]);
        else sendPiece(piece!);
      },
      identify: (requests) => send({ kind: 'identify', requests }),
      info: (hostId, name, message) => send({ kind: 'info', hostId, name, message }),
      paused: (hostId, pausedFor) => send({ kind: 'paused', hostId, pausedFor }),
    },
  );
  const timer = setInterval(
    () => send({ kind: 'counters', counters: { ...ingest.counters } }),
    COUNTERS_EVERY_MS,
  );
  return (message) => {
    switch (message.kind) {
      case 'connect':
        return ingest.connect(message.command);
      case 'disconnect':
        return ingest.disconnect(message.hostId);
      case 'limits':
        return ingest.setLimits(message.hostId, message.limits);
      case 'identified':
        return ingest.identified(message.answers);
      case 'forget':
        return ingest.forget(message.did);
      case 'acknowledge':
        batchMemory.acknowledged();
        return ingest.acknowledge(message.bytes);
      case 'stop':
        clearInterval(timer);
        ingest.stop().then(() => {
          send({ kind: 'stopped' });
          // Nobody terminates this thread from outside: that could hit native code in the middle.
          self.onmessage = null;
          process.exit(0);
        });
        return;
      case 'start':
        throw new Error('started twice');
    }
  };
};

let handle: ((message: ToWorker) => void) | null = null;
self.onmessage = ({ data }) => {
  if (handle !== null) handle(data);
  else if (data.kind === 'start') handle = start(data.options);
};
