/**
 * The sequencer among real accounts and a real roster, with a log and a database in memory: the log remembers what is
 * durable, the database what was flushed, so that a crash can be made by building everything anew from the two.
 */
import { scanFrame } from '../../src/firehose/scan.ts';
import { KIND } from '../../src/firehose/types.ts';
import type { HostRoster, RosterDeps } from '../../src/hosts/roster.ts';
import type { Identity } from '../../src/identity/types.ts';
import type { HostProgress, IngestBatch, VerifiedEvent } from '../../src/ingest/types.ts';
import type { Log, LogEntry, LogRecord } from '../../src/log/types.ts';
import { readCommitDigests } from '../../src/repo/read.ts';
import { type AccountCache, createAccounts, newAccount } from '../../src/sequencer/accounts.ts';
import { createFlusher, type Flusher } from '../../src/sequencer/flusher.ts';
import { applyIdentity } from '../../src/sequencer/identities.ts';
import { rebuild } from '../../src/sequencer/rebuild.ts';
import { createSequencer, type Lane, type Sequencer } from '../../src/sequencer/sequencer.ts';
import type { AccountRow, Flush, HostRow } from '../../src/state/types.ts';
import { rosterWith, row } from '../hosts/fakes.ts';
import { withSeq } from '../log/helpers.ts';

export const START_MS = Date.UTC(2026, 10, 21);

/** A log in memory. */
export const memoryLog = (records: LogRecord[] = [], oldestSeq = 1) => {
  let lastTimeUs = 0;
  const stats = { pendingBytes: 0 };
  const log = {
    records,
    stats,
    /** Everything up to here survives a crash. */
    durableSeq: records.at(-1)?.seq ?? oldestSeq - 1,
    /** While set, nothing becomes durable. */
    gate: null as Promise<void> | null,
    get appendedSeq() {
      return records.at(-1)?.seq ?? oldestSeq - 1;
    },
    get lastSeq() {
      return log.appendedSeq;
    },
    get oldestSeq() {
      return records[0]?.seq ?? oldestSeq;
    },
    append(entry: LogEntry, nowUs: number): number {
      const seq = log.appendedSeq + 1;
      const { bytes } = withSeq({ bytes: entry.frame, seqStart: entry.seqStart, seqEnd: entry.seqEnd }, seq);
      lastTimeUs = Math.max(nowUs, lastTimeUs + 1);
      records.push({ ...entry, seq, timeUs: lastTimeUs, frame: bytes } as unknown as LogRecord);
      return seq;
    },
    async whenDurable(seq: number) {
      await log.gate;
      log.durableSeq = Math.max(log.durableSeq, seq);
    },
    nameHost() {},
    openCursor(from: number) {
      let at = from;
      return {
        get seq() {
          return at;
        },
        next() {
          const next = records.filter(({ seq }) => seq > at).slice(0, 7);
          at = next.at(-1)?.seq ?? at;
          return next;
        },
        close() {},
      };
    },
  };
  return log;
};
export type MemoryLog = ReturnType<typeof memoryLog>;

/** What PostgreSQL would hold. */
export const memoryState = (hosts: readonly HostRow[] = [], accounts: readonly AccountRow[] = []) => {
  const state = {
    accounts: new Map(accounts.map((account) => [account.did, account])),
    hosts: new Map(hosts.map((host) => [host.hostId, host])),
    position: 0,
    flushes: [] as Flush[],
    /** Thrown by the next calls, one each. */
    errors: [] as Error[],
    /** While set, queries wait for it. */
    gate: null as Promise<void> | null,
    async loadAccounts(dids: readonly string[]): Promise<AccountRow[]> {
      // The answer is as of the time of the question, however long it takes.
      const rows = dids.flatMap((did) => state.accounts.get(did) ?? []);
      await state.gate;
      const error = state.errors.shift();
      if (error !== undefined) throw error;
      return rows;
    },
    async flush(flush: Flush): Promise<void> {
      await state.gate;
      const error = state.errors.shift();
      if (error !== undefined) throw error;
      state.flushes.push(flush);
      for (const account of flush.accounts) {
        const stored = state.accounts.get(account.did);
        if (stored?.rev != null && (account.rev === null || account.rev < stored.rev)) continue;
        state.accounts.set(account.did, account);
      }
      for (const host of flush.hosts) state.hosts.set(host.hostId, host);
      state.position = Math.max(state.position, flush.position);
    },
  };
  return state;
};
export type MemoryState = ReturnType<typeof memoryState>;

export interface World {
  readonly log: MemoryLog;
  readonly state: MemoryState;
  readonly roster: HostRoster;
  readonly accounts: AccountCache;
  readonly sequencer: Sequencer;
  readonly flusher: Flusher;
  readonly lane: Lane;
  readonly suspected: string[];
  readonly acknowledged: number[];
  readonly warnings: string[];
  readonly clock: { nowMs: number };
}

export const worldOf = (
  parts: {
    readonly log?: MemoryLog;
    readonly state?: MemoryState;
    readonly validation?: 'strict' | 'lenient';
    readonly roster?: Partial<RosterDeps['config']>;
    readonly sleep?: (ms: number) => Promise<void>;
  } = {},
): World => {
  const log = parts.log ?? memoryLog();
  const state = parts.state ?? memoryState([row(1), row(2)]);
  const clock = { nowMs: START_MS };
  const { roster } = rosterWith({
    rows: [...state.hosts.values()],
    config: {
      trustedDomains: [],
      validation: 'strict',
      allowInsecureHosts: false,
      hostAccountLimit: 100,
      newHostsPerDay: 50,
      userAgent: 'weir/test',
      ...parts.roster,
    },
  });
  const accounts = createAccounts(state, (hostId) => roster.host(hostId)?.hostname);
  const suspected: string[] = [];
  const warnings: string[] = [];
  const acknowledged: number[] = [];
  const sequencer = createSequencer({
    log: log as unknown as Log,
    roster,
    accounts,
    healer: () => ({ stop() {}, suspect: (did) => void suspected.push(did), counters: {} as never }),
    validation: parts.validation ?? 'strict',
    hostGroupOf: (hostname) => hostname,
    nowMs: () => clock.nowMs,
    sleep: parts.sleep ?? (() => Bun.sleep(1)),
    warn: (message) => void warnings.push(message),
  });
  const flusher = createFlusher({
    state,
    log,
    accounts,
    roster,
    takeRejections: () => sequencer.takeRejections(),
    nowMs: () => clock.nowMs,
    warn: (message) => void warnings.push(message),
    position: state.position,
    fatal: () => false,
  });
  const lane = sequencer.lane((bytes) => void acknowledged.push(bytes));
  return { log, state, roster, accounts, sequencer, flusher, lane, suspected, acknowledged, warnings, clock };
};

/** The power goes: what is durable and what was flushed is all there is, and weir starts again from it. */
export const crash = async (world: World, keepUnsynced: number): Promise<World> => {
  const kept = world.log.records.filter(({ seq }) => seq <= world.log.durableSeq + keepUnsynced);
  const state = memoryState([...world.state.hosts.values()], [...world.state.accounts.values()]);
  state.position = world.state.position;
  const next = worldOf({ log: memoryLog(kept), state });
  await rebuild(state.position, {
    log: next.log as unknown as Log,
    roster: next.roster,
    accounts: next.accounts,
    flush: (position) => next.flusher.flush(position),
    progress: () => {},
  });
  return next;
};

/** As ingest would hand it on, verified. */
export const eventOf = (hostId: number, bytes: Uint8Array): VerifiedEvent => {
  const frame = scanFrame(bytes);
  if (!frame.ok) throw new Error(`refused: ${frame.reason} ${frame.detail}`);
  const hasRepo = frame.kind === KIND.commit || frame.kind === KIND.sync;
  const digests = hasRepo ? readCommitDigests(frame)! : { commit: null, data: null };
  const at = frame.prevDataDigestAt;
  return {
    hostId,
    kind: frame.kind,
    upstreamSeq: frame.seq,
    did: frame.did,
    frame: frame.bytes,
    seqStart: frame.seqStart,
    seqEnd: frame.seqEnd,
    opCount: frame.ops.length,
    rev: frame.rev,
    since: frame.since,
    ...digests,
    prevData: at < 0 ? null : Buffer.from(bytes.subarray(at, at + 32)).toString('latin1'),
    lenient: null,
    active: frame.active,
    status: frame.status,
    handle: frame.handle,
  };
};

export const batchOf = (
  events: readonly VerifiedEvent[],
  progress: readonly Omit<HostProgress, 'held'>[] = [],
  more: Partial<IngestBatch> = {},
): IngestBatch => ({
  events,
  rejections: [],
  progress: progress.map((step) => ({ ...step, held: 0 })),
  bytes: events.reduce((sum, { frame }) => sum + frame.length, 0),
  ...more,
});

export const identityOf = (did: string, hostId: number, more: Partial<Identity> = {}): Identity => ({
  did,
  pds: row(hostId).hostname,
  signingKey: { type: 'k256', compressed: new Uint8Array(33).fill(2) },
  handle: 'alice.example.com',
  ...more,
});

/** What the identity desk does before an event gets here: the account is known to live on the host. */
export const identify = async (
  world: World,
  did: string,
  hostId: number,
  more: Partial<Identity> = {},
): Promise<void> => {
  await world.accounts.load([did]);
  let account = world.accounts.get(did);
  if (account === undefined) {
    account = newAccount(did);
    world.accounts.add(account);
  }
  applyIdentity(account, identityOf(did, hostId, more), world.clock.nowMs, world.roster);
  world.accounts.markDirty(account);
};

/** Sequences events one batch each, cursors moving with them. */
export const give = async (world: World, ...events: VerifiedEvent[]): Promise<void> => {
  for (const event of events)
    world.lane.batch(batchOf([event], [{ hostId: event.hostId, cursor: event.upstreamSeq }]));
  await world.sequencer.idle();
};

/** The refusals since the last call, as reasons. */
export const refusals = (world: World): string[] =>
  world.sequencer.takeRejections().map(({ reason }) => reason);

/** A question to the account's PDS, put just now. */
export const askedOf = (world: World, hostId = 1) => ({
  hostname: row(hostId).hostname,
  atMs: world.clock.nowMs + 1,
});
