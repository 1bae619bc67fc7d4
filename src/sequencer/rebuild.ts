/**
 * Brings accounts and host cursors up to the end of the log after a start: the database may trail, the log never.
 */
import { scanFrame } from '../firehose/scan.ts';
import { KIND } from '../firehose/types.ts';
import type { HostRoster } from '../hosts/roster.ts';
import { LogCorruption } from '../log/corruption.ts';
import type { Log, LogRecord } from '../log/types.ts';
import { readCommitDigests } from '../repo/read.ts';
import { type AccountCache, newAccount } from './accounts.ts';
import { isCounted } from './identities.ts';

const READ_BYTES = 4 * 1024 * 1024;
/** Stored in between when much has to be made up, so that accounts do not pile up in memory. */
const FLUSH_EVERY_RECORDS = 50_000;

export interface RebuildDeps {
  readonly log: Log;
  readonly roster: Pick<HostRoster, 'host' | 'accountsChanged' | 'markDirty'>;
  readonly accounts: AccountCache;
  readonly flush: (position: number) => Promise<void>;
  readonly progress: (records: number) => void;
}

const apply = (record: LogRecord, deps: RebuildDeps): void => {
  const frame = scanFrame(record.frame);
  if (!frame.ok) throw new Error(`record ${record.seq} of our log holds a frame we refuse: ${frame.reason}`);
  const { roster, accounts } = deps;
  const host = roster.host(record.hostId);
  if (host !== undefined && host.cursor === 0 && record.upstreamSeq > 0) {
    // Its first events: the crash came before its cursor was stored for the first time.
    host.cursor = record.upstreamSeq - 1;
  }
  if (host !== undefined && record.upstreamSeq > host.cursor) {
    // How far the host's cursor may go is not in the log (an earlier event may have been waiting), but this one is.
    host.ahead.add(record.upstreamSeq);
    roster.markDirty(host);
  }
  let account = accounts.get(frame.did);
  if (account === undefined) {
    account = newAccount(frame.did);
    accounts.add(account);
  }
  if (!account.known) {
    account.known = true;
    account.hostId = record.hostId;
    if (host !== undefined) roster.accountsChanged(host, 1);
  }
  if (frame.kind === KIND.commit || frame.kind === KIND.sync) {
    if (account.rev !== null && frame.rev <= account.rev) return;
    const digests = readCommitDigests(frame);
    if (digests === null) throw new Error(`record ${record.seq} of our log holds no commit`);
    account.desynchronized =
      frame.kind === KIND.commit && account.rev !== null && frame.since !== account.rev;
    account.rev = frame.rev;
    account.commit = digests.commit;
    account.data = digests.data;
  } else if (frame.kind === KIND.account && account.ownStatus === null) {
    const wasCounted = isCounted(account);
    account.upstreamStatus = frame.active ? null : (frame.status ?? 'deactivated');
    if (host !== undefined && wasCounted !== isCounted(account))
      roster.accountsChanged(host, wasCounted ? -1 : 1);
  } else if (frame.kind === KIND.identity) {
    // What was looked up for it is not in the log.
    account.identityAtMs = 0;
    account.pds = null;
  }
  accounts.markDirty(account);
};

/**
 * Applies every record after `position`.
 *
 * @returns how many records that were
 * @throws when the log does not hold what the database says it did
 */
export const rebuild = async (position: number, deps: RebuildDeps): Promise<number> => {
  const { log } = deps;
  if (position > log.lastSeq)
    throw new LogCorruption(
      'the newest segment',
      0,
      'segment missing',
      `the database reflects seq ${position}, the log ends at ${log.lastSeq}`,
    );
  let from = position;
  // What the window no longer holds cannot be made up; the accounts' next events will.
  if (from < log.oldestSeq - 1) from = log.oldestSeq - 1;
  const cursor = log.openCursor(from, { includeSkipped: true });
  let count = 0;
  let sinceFlush = 0;
  try {
    for (;;) {
      const records = cursor.next(READ_BYTES);
      if (records === 'behind') throw new Error('the log moved on while it was read at start');
      if (records.length === 0) break;
      const dids: string[] = [];
      for (const record of records) {
        const frame = scanFrame(record.frame);
        if (frame.ok) dids.push(frame.did);
      }
      await deps.accounts.load([...new Set(dids)]);
      for (const record of records) apply(record, deps);
      count += records.length;
      sinceFlush += records.length;
      if (sinceFlush >= FLUSH_EVERY_RECORDS) {
        sinceFlush = 0;
        await deps.flush(cursor.seq);
        deps.progress(count);
      }
    }
  } finally {
    cursor.close();
  }
  return count;
};
