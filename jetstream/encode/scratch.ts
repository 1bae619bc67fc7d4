/**
 * The memory that messages are written into before they are copied out at their exact size. One for the thread:
 * a message is written from its first byte to its last without anything in between.
 */

/** Holds nearly every message (half a kilobyte on average) without growing. */
const INITIAL_BYTES = 64 * 1024;
/** What a rare giant made it grow to is kept up to here; what is larger is given back after the message. */
const MAX_KEPT_BYTES = 1024 * 1024;
/**
 * What `reserve` keeps free beyond what is asked for: the comma, the colon and the quotes after an item, and the
 * brackets that close all that it stands in (64 at most).
 */
const SLACK_BYTES = 128;

// Buffer's own writers work on any byte array and are the cheapest way from a string to bytes.
const native = Buffer.prototype as unknown as {
  latin1Write(text: string, at: number, bytes: number): number;
  utf8Write(text: string, at: number, bytes: number): number;
};
const { latin1Write, utf8Write } = native;

class Scratch {
  bytes = new Uint8Array(INITIAL_BYTES);
  /** Where the next byte goes. */
  at = 0;

  /** Makes room for so many bytes after `at`. `bytes` may be another array afterwards. */
  reserve(count: number): void {
    const needed = this.at + count + SLACK_BYTES;
    if (needed <= this.bytes.length) return;
    const grown = new Uint8Array(Math.max(needed, this.bytes.length * 2));
    grown.set(this.bytes.subarray(0, this.at));
    this.bytes = grown;
  }

  /** Writes text of which the caller knows that it is ASCII. */
  ascii(text: string): void {
    this.reserve(text.length);
    latin1Write.call(this.bytes, text, this.at, text.length);
    this.at += text.length;
  }

  /** Writes any text as UTF-8. */
  text(text: string): void {
    this.reserve(text.length * 3);
    this.at += utf8Write.call(this.bytes, text, this.at, text.length * 3);
  }

  /** What was written since `at` was 0, as bytes of their own; begins anew. */
  take(): Uint8Array {
    const taken = this.bytes.slice(0, this.at);
    this.reset();
    return taken;
  }

  /** The same where it stands: written over by whatever is written next. */
  view(): Uint8Array {
    return this.bytes.subarray(0, this.at);
  }

  reset(): void {
    this.at = 0;
    if (this.bytes.length > MAX_KEPT_BYTES) this.bytes = new Uint8Array(INITIAL_BYTES);
  }
}

/** The thread's one. */
export const out = new Scratch();
