/**
 * Brings accounts and host cursors up to the end of the log after a start: the database may trail, the log never.
 */
import { latin1 } from '../firehose/cbor.ts';
import { scanFrame } from '../firehose/scan.ts';
import { KIND, type ScannedFrame } from '../firehose/types.ts';
import type { HostState } from '../hosts/host.ts';
import type { HostRoster } from '../hosts/roster.ts';
import { HARD_AHEAD_EVENTS } from '../ingest/bounds.ts';
import type { Log, LogRecord } from '../log/types.ts';
import { readCommitDigests } from '../repo/read.ts';
import { type Account, type AccountCache, newAccount } from './accounts.ts';
import { takeRev } from './decide.ts';
import { isCounted, moveTo } from './identities.ts';

const READ_BYTES = 4 * 1024 * 1024;
/** Stored in between when much has to be made up, so that accounts do not pile up in memory. */
const FLUSH_EVERY_RECORDS = 50_000;
/**
 * How far before its first logged event a host is asked to begin when its cursor was never stored: an earlier one may
 * have been waiting for an identity. What comes that we have not seen before is welcome, what we have is skipped.
 */
const BEFORE_FIRST_EVENT = 1_000;
/** Records before `position` in which the events that hosts are ahead by are looked for: what waits, waits seconds. */
const LOOK_BACK_RECORDS = 20_000;

export interface RebuildDeps {
  readonly log: Pick<Log, 'lastSeq' | 'oldestSeq' | 'openCursor'>;
  readonly roster: Pick<HostRoster, 'host' | 'list' | 'accountsChanged' | 'accountLimitOf' | 'markDirty'>;
  readonly accounts: AccountCache;
  /** Stores everything that changed, which reflects the log up to `position`. */
  readonly flush: (position: number) => Promise<void>;
  readonly progress: (records: number) => void;
  /** Ends it between two reads. What was flushed until then is not read again. */
  readonly signal?: AbortSignal;
}

const noteJudged = (host: HostState, upstreamSeq: number, did: string): void => {
  host.judged ??= { byDid: new Map(), until: 0, cursorEpoch: host.cursorEpoch };
  host.judged.byDid.set(did, upstreamSeq);
  host.judged.until = Math.max(host.judged.until, upstreamSeq);
};

/** What a host sent: its cursor, and what is logged beyond it. */
const applyToHost = (host: HostState, upstreamSeq: number, did: string, seen: Set<number>): void => {
  if (host.cursor > 0 && (upstreamSeq <= host.cursor || host.ahead.has(upstreamSeq))) {
    // What is stored of the host is as of before this record, so its cursor was reset since: it numbers anew.
    host.cursor = 0;
    host.ahead = new Set();
    host.judged = null;
  }
  if (host.cursor === 0) host.cursor = Math.max(1, upstreamSeq - 1 - BEFORE_FIRST_EVENT);
  // How far the cursor may go is not in the log (an earlier event may have been waiting), but this event is.
  if (upstreamSeq > host.cursor) {
    host.ahead.add(upstreamSeq);
    noteJudged(host, upstreamSeq, did);
  }
  seen.add(host.hostId);
};

/** Ingest's bound, and room for what was waiting when it was reached. */
const MAX_AHEAD = HARD_AHEAD_EVENTS + 2_048;

/** The cursor is never further behind than the bound, so all below it that is not logged was dropped on purpose. */
const trimAhead = (host: HostState): void => {
  if (host.ahead.size <= MAX_AHEAD) return;
  const seqs = [...host.ahead].sort((a, b) => a - b);
  const below = seqs.length - MAX_AHEAD;
  host.cursor = seqs[below - 1]!;
  host.ahead = new Set(seqs.slice(below));
  if (host.judged === null) return;
  for (const [did, seq] of host.judged.byDid) if (seq <= host.cursor) host.judged.byDid.delete(did);
};

/** A status that the relay wrote in the host's words, or announced in its own. */
const applyStatus = (account: Account, frame: ScannedFrame, isOurs: boolean): void => {
  const status = frame.active ? null : (frame.status ?? 'deactivated');
  if (isOurs) {
    // Announced: that it may come in after all, or what its PDS says when asked.
    if (account.ownStatus === 'throttled' && status !== 'throttled') account.ownStatus = null;
    if (account.ownStatus === null) account.upstreamStatus = status;
  } else if (account.ownStatus === null) account.upstreamStatus = status;
  // Else the record shows our own status; what the PDS said is lost, and found out when events come.
};

const apply = (record: LogRecord, frame: ScannedFrame, deps: RebuildDeps): void => {
  const { roster, accounts } = deps;
  const host = roster.host(record.hostId);
  let account = accounts.get(frame.did);
  if (account === undefined) {
    account = newAccount(frame.did);
    accounts.add(account);
  }
  const wasCounted = isCounted(account);
  if (!account.known) {
    account.known = true;
    account.hostId = record.hostId;
    const isFull = host !== undefined && host.accountCount >= roster.accountLimitOf(host);
    // Nothing else is logged of an account that has to wait for room.
    if (isFull && frame.kind === KIND.account && !frame.active && frame.status === 'throttled')
      account.ownStatus = 'throttled';
  } else if (account.hostId !== record.hostId) {
    // It moved; where to, the document says.
    if (host !== undefined) moveTo(account, host, roster);
    account.pds = null;
    account.identityAtMs = 0;
    account.pdsIsHost = false;
  }
  if (frame.kind === KIND.commit || frame.kind === KIND.sync) {
    if (account.rev === null || frame.rev > account.rev) {
      const digests = readCommitDigests(frame);
      if (digests === null) throw new Error(`record ${record.seq} of our log holds no commit`);
      const { prevDataDigestAt: at } = frame;
      const prevData = at < 0 ? null : latin1(frame.bytes, at, at + 32);
      takeRev(account, { kind: frame.kind, rev: frame.rev, since: frame.since, ...digests, prevData });
    }
  } else if (frame.kind === KIND.account) {
    applyStatus(account, frame, record.upstreamSeq === 0);
  } else if (frame.kind === KIND.identity) {
    // What was looked up for it is not in the log.
    account.identityAtMs = 0;
    account.pds = null;
  }
  if (host !== undefined && wasCounted !== isCounted(account))
    roster.accountsChanged(host, wasCounted ? -1 : 1);
  accounts.markDirty(account);
};

/** Whose the events are that were logged ahead of stored cursors: the rows have their seqs only. */
const lookBack = (position: number, { log, roster }: RebuildDeps): void => {
  const from = Math.max(position - LOOK_BACK_RECORDS, log.oldestSeq - 1, 0);
  // After a clean stop nobody is: then there is nothing to be read.
  if (from >= position || roster.list().every(({ row }) => row.ahead.length === 0)) return;
  const cursor = log.openCursor(from, { includeSkipped: true });
  try {
    for (;;) {
      const records = cursor.next(READ_BYTES);
      if (records === 'behind') throw new Error('the log moved on while it was read at start');
      if (records.length === 0) return;
      for (const record of records) {
        if (record.seq > position) return;
        const host = roster.host(record.hostId);
        if (host === undefined || record.upstreamSeq === 0 || !host.ahead.has(record.upstreamSeq)) continue;
        const frame = scanFrame(record.frame);
        if (frame.ok) noteJudged(host, record.upstreamSeq, frame.did);
      }
    }
  } finally {
    cursor.close();
  }
};

/**
 * Applies every record after `position`.
 *
 * @returns how many records that were
 * @throws when the log ends before `position`, with what to do about it, or holds what we would not have taken; the
 *   reason of `signal` when that aborts
 */
export const rebuild = async (position: number, deps: RebuildDeps): Promise<number> => {
  const { log } = deps;
  if (position > log.lastSeq)
    throw new Error(
      `the database reflects seq ${position}, but the log ends at ${log.lastSeq}: ` +
        'restore the log, or point DATABASE_URL and RELAY_DATA_DIR at what belongs together',
    );
  let from = position;
  // What the window no longer holds cannot be made up; the accounts' next events will.
  if (from < log.oldestSeq - 1) from = log.oldestSeq - 1;
  lookBack(from, deps);
  const cursor = log.openCursor(from, { includeSkipped: true });
  const seen = new Set<number>();
  let count = 0;
  let sinceFlush = 0;
  const settleHosts = (): void => {
    for (const hostId of seen) {
      const host = deps.roster.host(hostId)!;
      trimAhead(host);
      deps.roster.markDirty(host);
    }
    seen.clear();
  };
  try {
    for (;;) {
      deps.signal?.throwIfAborted();
      const records = cursor.next(READ_BYTES);
      if (records === 'behind') throw new Error('the log moved on while it was read at start');
      if (records.length === 0) break;
      const frames = records.map((record) => {
        const frame = scanFrame(record.frame);
        if (!frame.ok)
          throw new Error(`record ${record.seq} of our log holds a frame we refuse: ${frame.reason}`);
        return frame;
      });
      await deps.accounts.load([...new Set(frames.map(({ did }) => did))]);
      for (let index = 0; index < records.length; index++) {
        const record = records[index]!;
        apply(record, frames[index]!, deps);
        const host = deps.roster.host(record.hostId);
        if (host !== undefined && record.upstreamSeq > 0)
          applyToHost(host, record.upstreamSeq, frames[index]!.did, seen);
      }
      settleHosts();
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
