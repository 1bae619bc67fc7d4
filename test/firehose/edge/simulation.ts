import type { EdgeSocket, EdgeSocketData } from '../../../src/api/types.ts';

/** A clock and timers that stand still until they are told to go on. */
export const createTime = () => {
  let nowMs = 1_000_000;
  let lastTimer = 0;
  let immediates: (() => void)[] = [];
  const timers = new Map<number, { readonly atMs: number; readonly run: () => void }>();

  /** Runs what is due now. Fails when there is no end to it. */
  const settle = (): number => {
    let rounds = 0;
    while (immediates.length > 0) {
      if (++rounds > 2000) throw new Error('the edge spins');
      const due = immediates;
      immediates = [];
      for (const run of due) run();
    }
    return rounds;
  };

  return {
    clock: () => nowMs,
    timers: {
      setTimeout(run: () => void, delayMs: number) {
        timers.set(++lastTimer, { atMs: nowMs + delayMs, run });
        return lastTimer;
      },
      clearTimeout: (handle: unknown) => void timers.delete(handle as number),
      setImmediate: (run: () => void) => void immediates.push(run),
    },
    settle,
    /** One round of the event loop: what is due now, and nothing that this makes due. */
    step() {
      const due = immediates;
      immediates = [];
      for (const run of due) run();
    },
    advance(ms: number) {
      settle();
      const untilMs = nowMs + ms;
      for (;;) {
        const next = [...timers]
          .filter(([, timer]) => timer.atMs <= untilMs)
          .sort((a, b) => a[1].atMs - b[1].atMs)[0];
        if (next === undefined) break;
        timers.delete(next[0]);
        nowMs = Math.max(nowMs, next[1].atMs);
        next[1].run();
        settle();
      }
      nowMs = untilMs;
    },
  };
};

/** A server socket whose other side takes and reads as the test says. */
export class SimulatedSocket {
  readonly data: EdgeSocketData;
  readyState = 1;
  /** Bytes that the other side's buffers still take. */
  room: number;
  queued = 0;
  /** Closes by itself after this many more sends. */
  dyingIn = Number.POSITIVE_INFINITY;
  pings = 0;
  closedWith: { code: number; reason: string } | null = null;
  readonly frames: (Uint8Array | string)[] = [];

  constructor(data: EdgeSocketData, room: number) {
    this.data = data;
    this.room = room;
  }

  cork(run: (socket: unknown) => void) {
    run(this);
  }
  sendBinary(frame: Uint8Array): number {
    return this.#take(frame);
  }
  sendText(text: string): number {
    return this.#take(text);
  }
  #take(frame: Uint8Array | string): number {
    if (this.readyState !== 1) return 0;
    if (this.dyingIn-- <= 0) {
      this.die();
      return 0;
    }
    // As the real one: what it takes is its own from then on.
    this.frames.push(typeof frame === 'string' ? frame : frame.slice());
    if (this.queued === 0 && this.room >= frame.length) {
      this.room -= frame.length;
      return frame.length;
    }
    this.queued += frame.length - (this.queued === 0 ? this.room : 0);
    this.room = 0;
    return -1;
  }
  getBufferedAmount() {
    return this.queued;
  }
  ping() {
    this.pings++;
  }
  close(code: number, reason: string) {
    if (this.readyState !== 1) return;
    this.closedWith = { code, reason };
    this.die();
  }
  terminate() {
    this.die();
  }
  die() {
    if (this.readyState !== 1) return;
    this.readyState = 3;
    this.data.handlers.close(this as unknown as EdgeSocket, 1006, '');
  }
  /** The other side reads. */
  read(bytes: number) {
    if (this.readyState !== 1) return;
    const written = Math.min(this.queued, bytes);
    this.queued -= written;
    this.room += bytes - written;
    if (written > 0) this.data.handlers.drain(this as unknown as EdgeSocket);
  }
}
