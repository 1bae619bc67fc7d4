/**
 * What the simulated network did and what a relay must make of it. Everything a judge needs to check a whole
 * run stands here, so that it needs none of the relay's own code.
 */
import { closeSync, openSync, writeSync } from 'node:fs';

export interface LedgerEntry {
  /** Position in the ledger, from 1, without gaps. */
  readonly n: number;
  readonly timeMs: number;
  /** `localhost:PORT` of the sending host; empty for what no host did (the directory). */
  readonly host: string;
  /** Upstream seq as it stands in the frame; null for what is not a frame. */
  readonly seq: number | null;
  /** The account the event speaks of; null when there is none. */
  readonly did: string | null;
  readonly rev: string | null;
  /** `commit`, `sync`, `identity`, `account`, another message type, `malformed`, or `host` / `plc` for their faults. */
  readonly kind: string;
  /** `deliver`, or the reason a relay refuses with, or `none` for entries that are no frame. */
  readonly expectation: string;
  /** Other outcomes that are right as well, where timing decides. */
  readonly alternatives?: readonly string[];
  /** The injected fault, if any. */
  readonly fault?: string;
  readonly note?: string;
}

export type LedgerLine = Omit<LedgerEntry, 'n'>;

export interface Ledger {
  /** Writes one entry and returns it. */
  record(line: LedgerLine): LedgerEntry;
  /** The entries still in memory, oldest first. */
  entries(): LedgerEntry[];
  /** Counts since the start: all entries, by expectation, by fault. */
  readonly counts: {
    total: number;
    readonly byExpectation: Map<string, number>;
    readonly byFault: Map<string, number>;
  };
  /** Writes what is still buffered to the file. */
  flush(): void;
  close(): void;
}

/** Enough for a test run; a longer run gives a file. About 250 bytes an entry. */
export const DEFAULT_LEDGER_ENTRIES = 200_000;
const FLUSH_BYTES = 256 * 1024;

/**
 * A ledger that keeps the last `maxEntries` in memory and, with `path`, appends every entry to a file as one
 * JSON line. Throws when the file cannot be opened.
 */
export const createLedger = (options: { maxEntries?: number; path?: string | undefined } = {}): Ledger => {
  const maxEntries = options.maxEntries ?? DEFAULT_LEDGER_ENTRIES;
  const ring: LedgerEntry[] = [];
  let start = 0;
  const file = options.path === undefined ? null : openSync(options.path, 'a');
  let pending = '';
  const counts = { total: 0, byExpectation: new Map<string, number>(), byFault: new Map<string, number>() };
  const flush = (): void => {
    if (file !== null && pending !== '') {
      writeSync(file, pending);
      pending = '';
    }
  };
  return {
    counts,
    flush,
    record: (line) => {
      const entry: LedgerEntry = { n: ++counts.total, ...line };
      counts.byExpectation.set(entry.expectation, (counts.byExpectation.get(entry.expectation) ?? 0) + 1);
      if (entry.fault !== undefined) {
        counts.byFault.set(entry.fault, (counts.byFault.get(entry.fault) ?? 0) + 1);
      }
      if (maxEntries > 0) {
        if (ring.length < maxEntries) ring.push(entry);
        else {
          ring[start] = entry;
          start = (start + 1) % maxEntries;
        }
      }
      if (file !== null) {
        pending += `${JSON.stringify(entry)}\n`;
        if (pending.length >= FLUSH_BYTES) flush();
      }
      return entry;
    },
    entries: () => [...ring.slice(start), ...ring.slice(0, start)],
    close: () => {
      flush();
      if (file !== null) closeSync(file);
    },
  };
};
