/**
 * The sequencer: the one place that decides. It takes verified events from ingest, applies the rules of accounts
 * and hosts, gives each event that passes its seq by appending it to the log, and keeps accounts and host cursors.
 *
 * It is the only writer of accounts, of the log, and of the event fields of hosts. Everything it knows is stored
 * behind the log: rows are written only when the events they reflect are durable, so a crash at any point loses
 * and repeats nothing.
 */
import { maxSequencedBytes, removeField, setAccountStatus } from '../firehose/edit.ts';
import { accountFrame } from '../firehose/encode.ts';
import { scanFrame } from '../firehose/scan.ts';
import { KIND, MAX_FRAME_BYTES } from '../firehose/types.ts';
import type { HostState } from '../hosts/host.ts';
import type { HostRoster } from '../hosts/roster.ts';
import type { CloseOutcome } from '../hosts/types.ts';
import type { IngestBatch, IngestRejection, PausedFor, VerifiedEvent } from '../ingest/types.ts';
import { didHash } from '../log/did-hash.ts';
import { MAX_PENDING_BYTES } from '../log/log.ts';
import type { Log } from '../log/types.ts';
import type { Reason } from '../reasons.ts';
import { tidMicroseconds } from '../repo/syntax.ts';
import type { RejectionRow } from '../state/types.ts';
import { type Account, type AccountCache, MAX_DIRTY_ACCOUNTS, newAccount } from './accounts.ts';
import { decide, effectiveStatus } from './decide.ts';
import type { Healer } from './healer.ts';
import { isCounted, moveTo } from './identities.ts';

/** Explanations kept until the next flush; more in one flush are only counted. */
const MAX_PENDING_REJECTIONS = 1_000;
/** How often a full disk or an absent database is looked at again. */
const ROOM_POLL_MS = 20;
/** A database that fails is asked again after this. */
const LOAD_RETRY_MS = 500;

/** Reasons that are normal in a healthy stream: counted, not kept as explanations. */
const QUIET: ReadonlySet<Reason> = new Set<Reason>(['rev_stale']);

export interface SequencerDeps {
  readonly log: Log;
  readonly roster: HostRoster;
  readonly accounts: AccountCache;
  readonly healer: () => Healer;
  readonly validation: 'strict' | 'lenient';
  readonly hostGroupOf: (hostname: string) => string;
  readonly nowMs: () => number;
  readonly sleep: (ms: number) => Promise<void>;
  readonly warn: (message: string, fields?: Record<string, string | number>) => void;
}

/** Counts of one host group. */
export interface GroupCounts {
  /** Indexed by kind. */
  readonly events: number[];
  readonly rejections: Map<Reason, number>;
}

/** What one ingest thread reports, in order. */
export interface Lane {
  batch(batch: IngestBatch): void;
  opened(hostId: number, server: string): void;
  closed(hostId: number, outcome: CloseOutcome): void;
  info(hostId: number, name: string, message: string): void;
  paused(hostId: number, pausedFor: PausedFor | null): void;
}

export interface Sequencer {
  /** One per ingest thread. `acknowledge` gives bytes back once a batch is sequenced. */
  lane(acknowledge: (bytes: number) => void): Lane;
  /** What a PDS says of an account that we hold as inactive (null = active). */
  healed(
    did: string,
    status: string | null,
    asked: { readonly hostname: string; readonly atMs: number },
  ): void;
  takeRejections(): RejectionRow[];
  /** Resolves when everything that came in is sequenced. */
  idle(): Promise<void>;
  /**
   * For shutting down: nothing waits for the database or the disk any more. What cannot be sequenced at once is
   * thrown away, with all that follows it in its lane; no cursor moved over it, so the hosts send it again.
   */
  drain(): void;
  readonly groups: ReadonlyMap<string, GroupCounts>;
  readonly counters: {
    events: number;
    discontinuities: number;
    lenient: number;
    rewritten: number;
    healed: number;
    newAccounts: number;
    throttledAccounts: number;
    waitsForRoom: number;
    queuedBatches: number;
    unexplained: number;
    /** Events thrown away at shutdown. */
    undone: number;
    /** Events that were refused before a crash, and came again. */
    refusedBefore: number;
  };
  /** Newest commit's own time against its time in the log, seconds; 0 before the first. */
  readonly lagSeconds: number;
}

type Item =
  | { readonly kind: 'batch'; readonly batch: IngestBatch }
  | { readonly kind: 'call'; readonly call: () => void };

/** Any length will do: the frame is scanned for where its seq stands, and the log puts the real one in. */
const PLACEHOLDER_SEQ = 1;

/** Whether consumers, and we ourselves when we read the log, would refuse the frame once it has its seq. */
const isTooLarge = ({ frame, seqStart, seqEnd }: VerifiedEvent): boolean =>
  maxSequencedBytes({ bytes: frame, seqStart, seqEnd }) > MAX_FRAME_BYTES;

export const createSequencer = (deps: SequencerDeps): Sequencer => {
  const { log, roster, accounts, nowMs } = deps;
  const groups = new Map<string, GroupCounts>();
  const groupOfHost = new Map<number, GroupCounts>();
  const namedHosts = new Set<number>();
  let rejections: RejectionRow[] = [];
  const running = new Set<Promise<void>>();
  let lagSeconds = 0;
  let draining = false;
  const counters = {
    events: 0,
    discontinuities: 0,
    lenient: 0,
    rewritten: 0,
    healed: 0,
    newAccounts: 0,
    throttledAccounts: 0,
    waitsForRoom: 0,
    queuedBatches: 0,
    unexplained: 0,
    undone: 0,
    refusedBefore: 0,
  };

  const groupOf = (host: HostState): GroupCounts => {
    let counts = groupOfHost.get(host.hostId);
    if (counts === undefined) {
      const name = deps.hostGroupOf(host.hostname);
      counts = groups.get(name);
      if (counts === undefined) {
        counts = { events: [0, 0, 0, 0, 0, 0, 0, 0], rejections: new Map() };
        groups.set(name, counts);
      }
      groupOfHost.set(host.hostId, counts);
    }
    return counts;
  };

  const refuse = (
    host: HostState,
    what: Pick<IngestRejection, 'did' | 'upstreamSeq' | 'rev' | 'reason' | 'detail'>,
  ): void => {
    const group = groupOf(host);
    group.rejections.set(what.reason, (group.rejections.get(what.reason) ?? 0) + 1);
    roster.rejected(host, what.reason);
    if (QUIET.has(what.reason)) return;
    if (rejections.length >= MAX_PENDING_REJECTIONS) {
      counters.unexplained++;
      return;
    }
    rejections.push({
      hostId: host.hostId,
      did: what.did,
      reason: what.reason,
      detail: what.detail,
      upstreamSeq: what.upstreamSeq,
      rev: what.rev,
      atMs: nowMs(),
    });
  };

  const append = (
    host: HostState,
    event: Pick<VerifiedEvent, 'kind' | 'did' | 'opCount' | 'upstreamSeq' | 'frame' | 'seqStart' | 'seqEnd'>,
    discontinuity = false,
  ): void => {
    if (!namedHosts.has(host.hostId)) {
      namedHosts.add(host.hostId);
      log.nameHost(host.hostId, host.hostname);
    }
    log.append(
      {
        hostId: host.hostId,
        upstreamSeq: event.upstreamSeq,
        kind: event.kind,
        opCount: event.opCount,
        didHash: didHash(event.did),
        frame: event.frame,
        seqStart: event.seqStart,
        seqEnd: event.seqEnd,
        discontinuity,
      },
      nowMs() * 1000,
    );
    groupOf(host).events[event.kind]!++;
    counters.events++;
  };

  /** Tells consumers of a status that the relay itself found out or decided. */
  const announce = (host: HostState, account: Account): void => {
    const status = effectiveStatus(account);
    const scanned = scanFrame(
      accountFrame({
        seq: PLACEHOLDER_SEQ,
        did: account.did,
        time: new Date(nowMs()).toISOString(),
        active: status === null,
        status,
      }),
    );
    if (!scanned.ok) throw new Error(`our own #account frame is refused: ${scanned.reason}`);
    append(host, {
      kind: KIND.account,
      did: account.did,
      opCount: 0,
      // Not of the host's stream.
      upstreamSeq: 0,
      frame: scanned.bytes,
      seqStart: scanned.seqStart,
      seqEnd: scanned.seqEnd,
    });
  };

  const rewritten = (account: Account, event: VerifiedEvent, rewrite: 'drop_handle' | 'own_status') => {
    counters.rewritten++;
    const scanned = scanFrame(event.frame);
    if (!scanned.ok) throw new Error(`a frame that was taken is refused now: ${scanned.reason}`);
    const edited =
      rewrite === 'drop_handle'
        ? removeField(scanned, 'handle')
        : setAccountStatus(scanned, false, account.ownStatus);
    return { ...event, frame: edited.bytes, seqStart: edited.seqStart, seqEnd: edited.seqEnd };
  };

  /** A host's accounts beyond its limit are kept, but wait; when there is room, they come in and consumers are told. */
  const admit = (host: HostState, account: Account): void => {
    const hasRoom = host.accountCount < roster.accountLimitOf(host);
    if (!account.known) {
      account.known = true;
      counters.newAccounts++;
      if (!hasRoom) {
        account.ownStatus = 'throttled';
        counters.throttledAccounts++;
      }
      accounts.markDirty(account);
    } else if (account.ownStatus === 'throttled' && hasRoom) {
      account.ownStatus = null;
      accounts.markDirty(account);
      announce(host, account);
    }
  };

  const wasRefused = ({ judged, cursorEpoch }: HostState, { did, upstreamSeq }: VerifiedEvent): boolean =>
    judged !== null && judged.cursorEpoch === cursorEpoch && upstreamSeq < (judged.byDid.get(did) ?? 0);

  /** Beyond the cursor, so that it may come again: it is judged by what is known at its place in the stream. */
  const remember = (host: HostState, upstreamSeq: number, cursor: number): void => {
    if (upstreamSeq > cursor && upstreamSeq > host.cursor) host.ahead.add(upstreamSeq);
  };

  const sequence = (host: HostState, event: VerifiedEvent, cursor: number): void => {
    // Whatever becomes of it.
    remember(host, event.upstreamSeq, cursor);
    if (wasRefused(host, event)) {
      counters.refusedBefore++;
      return;
    }
    if (host.life.banned) {
      refuse(host, { ...event, reason: 'host_banned', detail: '' });
      return;
    }
    if (isTooLarge(event)) {
      refuse(host, { ...event, reason: 'frame_too_large', detail: 'with a seq of ours and all fields' });
      return;
    }
    let account = accounts.get(event.did);
    if (account === undefined) {
      // Ingest checked the event by an identity that it still knows and we do not: no event of it was taken yet.
      account = newAccount(event.did);
      account.pds = host.hostname;
      accounts.add(account);
    }
    if (account.pds !== host.hostname) {
      refuse(host, { ...event, reason: 'wrong_host', detail: `its PDS is ${account.pds ?? 'unknown'}` });
      return;
    }
    if (account.hostId !== host.hostId) {
      // Its document named this host when nobody followed it yet.
      moveTo(account, host, roster);
      account.pdsIsHost = true;
    }
    const wasCounted = isCounted(account);
    admit(host, account);
    const decision = decide(account, event, host.validation ?? deps.validation);
    if (wasCounted !== isCounted(account)) roster.accountsChanged(host, wasCounted ? -1 : 1);
    if (!decision.ok) {
      if (decision.reason === 'account_inactive') deps.healer().suspect(event.did, host);
      refuse(host, { ...event, reason: decision.reason, detail: decision.detail });
      return;
    }
    accounts.markDirty(account);
    if (event.kind === KIND.account) account.statusAtMs = nowMs();
    if (decision.discontinuity) counters.discontinuities++;
    if (decision.lenient !== null || event.lenient !== null) counters.lenient++;
    const logged = decision.rewrite === null ? event : rewritten(account, event, decision.rewrite);
    if (isTooLarge(logged)) {
      refuse(host, { ...event, reason: 'frame_too_large', detail: 'with the status that the relay shows' });
      return;
    }
    append(host, logged, decision.discontinuity);
    roster.eventTaken(host);
  };

  const advance = (host: HostState, cursor: number): void => {
    if (cursor <= host.cursor) return;
    host.cursor = cursor;
    if (host.ahead.size > 0) {
      for (const seq of host.ahead) if (seq <= cursor) host.ahead.delete(seq);
    }
    if (host.judged !== null && cursor >= host.judged.until) host.judged = null;
    roster.markDirty(host);
  };

  const isFull = (): boolean =>
    log.stats.pendingBytes > MAX_PENDING_BYTES || accounts.dirtyCount > MAX_DIRTY_ACCOUNTS;

  /** Waits until log and accounts have room. False: there is none and we are shutting down. */
  const room = async (): Promise<boolean> => {
    while (isFull()) {
      if (draining) return false;
      counters.waitsForRoom++;
      await deps.sleep(ROOM_POLL_MS);
    }
    return true;
  };

  /** Waits until the accounts of a batch are in memory. False: they cannot be had and we are shutting down. */
  const load = async (batch: IngestBatch): Promise<boolean> => {
    const absent = new Set<string>();
    for (const event of batch.events) if (accounts.get(event.did) === undefined) absent.add(event.did);
    while (absent.size > 0) {
      try {
        await accounts.load([...absent]);
        return true;
      } catch (error) {
        if (draining) return false;
        deps.warn('cannot read accounts, waiting for the database', { error: String(error) });
        await deps.sleep(LOAD_RETRY_MS);
      }
    }
    return true;
  };

  const take = (batch: IngestBatch): void => {
    const cursors = new Map<number, number>();
    for (const { hostId, cursor, held } of batch.progress) {
      cursors.set(hostId, cursor);
      const host = roster.host(hostId);
      if (host !== undefined) host.pendingEvents = held;
    }
    const { events } = batch;
    for (let index = 0; index < events.length; index++) {
      const event = events[index]!;
      const host = roster.host(event.hostId);
      if (host === undefined) continue;
      sequence(host, event, cursors.get(event.hostId) ?? 0);
    }
    for (const rejection of batch.rejections) {
      const host = roster.host(rejection.hostId);
      if (host === undefined) continue;
      refuse(host, rejection);
      if (rejection.judged) remember(host, rejection.upstreamSeq, cursors.get(rejection.hostId) ?? 0);
    }
    for (const [hostId, cursor] of cursors) {
      const host = roster.host(hostId);
      if (host !== undefined) advance(host, cursor);
    }
    for (let index = events.length - 1; index >= 0; index--) {
      const { rev } = events[index]!;
      if (rev === '') continue;
      lagSeconds = Math.max(0, nowMs() / 1e3 - tidMicroseconds(rev) / 1e6);
      break;
    }
  };

  return {
    lane(acknowledge) {
      const queue: Item[] = [];
      let busy = false;
      /** Something was thrown away: what follows it must not move cursors over it. */
      let broken = false;

      const run = async (): Promise<void> => {
        for (;;) {
          const item = queue.shift();
          if (item === undefined) {
            // Here and not when the promise settles: what is pushed in between would be left lying.
            busy = false;
            return;
          }
          if (item.kind === 'call') {
            item.call();
            continue;
          }
          counters.queuedBatches--;
          if (!broken && isFull() && !(await room())) broken = true;
          if (!broken && !(await load(item.batch))) broken = true;
          if (broken) counters.undone += item.batch.events.length;
          else take(item.batch);
          acknowledge(item.batch.bytes);
        }
      };
      const push = (item: Item): void => {
        queue.push(item);
        if (busy) return;
        busy = true;
        const work = run().finally(() => running.delete(work));
        running.add(work);
      };
      const call = (what: () => void): void => push({ kind: 'call', call: what });

      return {
        batch(batch) {
          counters.queuedBatches++;
          push({ kind: 'batch', batch });
        },
        opened: (hostId, server) => call(() => roster.opened(hostId, server)),
        closed: (hostId, outcome) =>
          call(() => {
            const host = roster.host(hostId);
            if (host !== undefined) host.pendingEvents = 0;
            roster.closed(hostId, outcome);
          }),
        info: (hostId, name, message) => call(() => roster.info(hostId, name, message)),
        paused: (hostId, pausedFor) => call(() => roster.paused(hostId, pausedFor)),
      };
    },
    healed(did, status, asked) {
      const account = accounts.get(did);
      if (account === undefined || account.upstreamStatus === status || account.upstreamStatus === null)
        return;
      // What it has said on its stream since it was asked is newer, and another PDS has nothing to say.
      if (account.statusAtMs >= asked.atMs || account.pds !== asked.hostname) return;
      const host = roster.host(account.hostId);
      if (host === undefined) return;
      const wasCounted = isCounted(account);
      account.upstreamStatus = status;
      accounts.markDirty(account);
      if (wasCounted !== isCounted(account)) roster.accountsChanged(host, wasCounted ? -1 : 1);
      counters.healed++;
      announce(host, account);
    },
    takeRejections() {
      const taken = rejections;
      rejections = [];
      return taken;
    },
    async idle() {
      while (running.size > 0) await Promise.all(running);
    },
    drain() {
      draining = true;
    },
    groups,
    counters,
    get lagSeconds() {
      return lagSeconds;
    },
  };
};
