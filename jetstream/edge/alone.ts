/**
 * What one client reads that is alone at its place in the log: memory that is written over again by the next
 * stretch, so that a client that reads at full speed leaves nothing behind to be collected. It promises: nothing is
 * given out that has left the window, nor anything of a skipped DID once the log says that it is skipped.
 */
import type { LogCursor, LogReader, LogRecord } from '../../src/log/types.ts';
import type { JetstreamCounters } from './types.ts';

const NOTHING: readonly LogRecord[] = [];

export class Alone {
  /** All that are to be seen from one seq to another, valid until the next `read`. */
  records: readonly LogRecord[] = NOTHING;
  #fromSeq = 0;
  toSeq = -1;
  readonly #log: LogReader;
  readonly #blockBytes: number;
  readonly #counters: Pick<JetstreamCounters, 'blocksAlone'>;
  #cursor: LogCursor | null = null;
  #skippedVersion: number | undefined;

  constructor(log: LogReader, blockBytes: number, counters: Pick<JetstreamCounters, 'blocksAlone'>) {
    this.#log = log;
    this.#blockBytes = blockBytes;
    this.#counters = counters;
    this.#skippedVersion = log.skippedVersion;
  }

  /**
   * Makes `records` hold what follows from `seq` on, and answers the index of the first with that seq or a later one.
   * 'behind': it has left the window. null: there is nothing from there to the end of the log that is to be seen.
   * Throws when the log is damaged.
   */
  read(seq: number): number | 'behind' | null {
    const log = this.#log;
    if (log.skippedVersion !== this.#skippedVersion) {
      this.#skippedVersion = log.skippedVersion;
      this.close();
    }
    if (seq < log.oldestSeq) return 'behind';
    if (seq > log.lastSeq) return null;
    if (seq < this.#fromSeq || seq > this.toSeq) {
      if (this.#cursor?.seq !== seq - 1) {
        this.close();
        this.#cursor = log.openCursor(seq - 1, { reusesMemory: true });
      }
      let records: readonly LogRecord[] | 'behind';
      try {
        records = this.#cursor.next(this.#blockBytes);
      } catch (error) {
        this.close();
        throw error;
      }
      if (records === 'behind' || records.length === 0) {
        this.close();
        return records === 'behind' ? 'behind' : null;
      }
      this.#counters.blocksAlone++;
      this.records = records;
      this.#fromSeq = seq;
      this.toSeq = this.#cursor.seq;
    }
    const { records } = this;
    let low = 0;
    let high = records.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (records[middle]!.seq < seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Gives memory and reading position back. It may be read again. */
  close(): void {
    this.#cursor?.close();
    this.#cursor = null;
    this.records = NOTHING;
    this.#fromSeq = 0;
    this.toSeq = -1;
  }
}
