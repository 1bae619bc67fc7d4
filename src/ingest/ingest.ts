/**
 * Ingest: the sockets of some hosts, and everything that can be checked about a frame without deciding
 * anything. Frames go in; verified events and refusals come out in batches, in order per DID.
 *
 * It owns the connections it was told to open, a bounded queue of frames not yet looked at, a bounded place
 * where frames wait for the identity of their DID, and a cache of keys. It decides nothing about accounts:
 * that is the sequencer's.
 *
 * Nothing is lost here: a host's cursor moves only over frames that were handed on or refused, so whatever is
 * thrown away with a connection is sent again by the host. Nothing grows: what was received and is not sequenced,
 * refusals included, is counted in bytes, and over the bound sockets are not read.
 */
import { mend } from '../firehose/edit.ts';
import { scanFrame } from '../firehose/scan.ts';
import { KIND, type ScannedFrame } from '../firehose/types.ts';
import { createLimiters, type Limiter } from '../hosts/limits.ts';
import type {
  CloseOutcome,
  HostLimits,
  IngestControl,
  Subscribe,
  Subscription,
  SubscriptionEvents,
} from '../hosts/types.ts';
import { giveBack } from '../network/give-back.ts';
import type { Reason, Rejection } from '../reasons.ts';
import { createSigningKey } from '../repo/key.ts';
import type { SigningKey, Verdict } from '../repo/types.ts';
import { verifyCommit, verifySync } from '../repo/verify.ts';
import { HARD_AHEAD_EVENTS, MAX_AHEAD_EVENTS } from './bounds.ts';
import { NO_COUNTERS } from './counters.ts';
import { TwoGenerations } from './two-generations.ts';
import type {
  HostProgress,
  IdentityAnswer,
  IdentityRequest,
  Ingest,
  IngestCounters,
  IngestEvents,
  IngestRejection,
  PausedFor,
  VerifiedEvent,
} from './types.ts';

/** Keys kept ready: about 0.5 KB each. A miss costs a message to the core. */
const MAX_CACHED_IDENTITIES = 50_000;
/** A batch is handed on at the latest when it holds this much: large enough to share the cost of a message. */
const MAX_BATCH_EVENTS = 128;
const MAX_BATCH_BYTES = 512 * 1024;
/** How long frames are worked on before timers, pings and control messages get their turn. */
const SLICE_MS = 8;
/** What one host may have waiting for identities before its socket is no longer read. */
const MAX_HELD_FRAMES_PER_HOST = 512;
const MAX_HELD_BYTES_PER_HOST = 2 * 1024 * 1024;
/** One read may bring thousands more: with so many the connection ends, or few hosts would have all there is to ask. */
const HARD_HELD_FRAMES_PER_HOST = 2 * MAX_HELD_FRAMES_PER_HOST;
/** DIDs being asked for, those included whose frames went with their connection: the answers are still to come. */
const MAX_ASKED_DIDS = 20_000;
/**
 * A connection that begins with so many frames from before its cursor, or three of them far below it: the host numbers
 * anew. Some only begin a batch early.
 */
const MAX_FRAMES_BELOW_CURSOR = 1_000;
const FAR_BELOW_CURSOR_WEIGHT = 334;
const FAR_BELOW_CURSOR = 10_000;
/** #info frames of one connection that are passed on; a host has one to say. */
const MAX_INFOS = 8;
/** A fresh look-up this recent settles a doubt about key or host; within it a doubtful frame is refused. */
const SETTLED_MS = 10_000;
/** How long a DID that is unusable for good is refused without asking again. */
const REFUSED_IDENTITY_MS = 60_000;
/** A rate limit that needs longer than this ends the connection, to be resumed from the cursor. */
const MAX_RATE_PAUSE_MS = 30_000;
/** Malformed frames weigh 1, good ones take half of one off; above this the host is cut. */
const MAX_MALFORMED_SCORE = 100;
/** How long a host is left alone whose frames do not fit into the bounds at all. */
const OVERLOAD_WAIT_MS = 30_000;
/** What one read of a socket may bring: as many sockets are resumed at a time as there is room for their reads. */
const MAX_READ_BYTES = 512 * 1024;
/** Resolution of rate-limit pauses. */
const PAUSE_TICK_MS = 50;

const PAUSE_RATE = 1;
const PAUSE_BYTES = 2;
/** By what the host itself has waiting, */
const PAUSE_HELD = 4;
/** by what all hosts together have waiting, */
const PAUSE_HELD_BY_ALL = 8;
/** and by what went ahead of what is waiting. */
const PAUSE_AHEAD = 16;
const PAUSE_IDENTITIES = PAUSE_HELD | PAUSE_HELD_BY_ALL | PAUSE_AHEAD;

export interface IngestOptions {
  readonly subscribe: Subscribe;
  readonly userAgent: string;
  readonly allowPrivateAddresses: boolean;
  readonly handshakeTimeoutMs: number;
  readonly pingIntervalMs: number;
  readonly maxFrameBytes: number;
  /**
   * Bytes of frames received and not yet sequenced; over it sockets are paused. Half as much again may wait for
   * identities: it is counted apart, so that those who wait for a directory do not stop those who do not.
   */
  readonly maxBytesInFlight: number;
  readonly nowMs: () => number;
}

interface CachedIdentity {
  readonly pds: string | null;
  readonly key: SigningKey | null;
  readonly reason: Reason | null;
  readonly atMs: number;
}

interface HeldFrame {
  readonly connection: Connection;
  readonly frame: ScannedFrame;
  readonly receivedAtMs: number;
  /** A fresh look-up was asked for after it came. */
  covered: boolean;
}

/** Exists for as long as an answer is to come, also when those who waited are gone. */
interface HeldDid {
  items: HeldFrame[];
}

/** What happens to a connection, for all of a thread's. */
interface ConnectionOwner {
  opened(connection: Connection, server: string): void;
  frame(connection: Connection, bytes: Uint8Array): void;
  text(connection: Connection): void;
  closed(connection: Connection, outcome: CloseOutcome): void;
}

const NO_FRAMES: ReadonlySet<HeldFrame> = new Set();

/** One host's connection: plain state, and the way for its socket to its owner. There are thousands, so no closures. */
class Connection implements SubscriptionEvents {
  readonly owner: ConnectionOwner;
  readonly hostId: number;
  readonly hostname: string;
  readonly validation: 'strict' | 'lenient';
  readonly limiter: Limiter;
  /** Seqs to be passed over; null = none. */
  skip: Set<number> | null;
  subscription: Subscription | null = null;
  /** False from the moment it ended: what is left of its frames is thrown away. */
  open = true;
  /** Its end is known, and comes after the frames that are queued. */
  ending = false;
  /** The cursor it was opened with; null = live. */
  readonly cursor: number | null;
  /** Frames that came before any above the cursor; one far below it counts as many. */
  belowCursor = 0;
  infos = 0;
  /** Highest upstream seq seen on this connection, at least the cursor. */
  lastSeq: number;
  /** Frames waiting for identities, in order of arrival. Empty for most hosts at most times. */
  held: ReadonlySet<HeldFrame> = NO_FRAMES;
  heldBytes = 0;
  /** Events handed on, or skipped, since something was waiting: not fewer than there are above the watermark. */
  aheadEvents = 0;
  pauses = 0;
  resumeAtMs = 0;
  reportedPause: PausedFor | null = null;
  malformedScore = 0;
  touched = false;

  constructor(owner: ConnectionOwner, command: Parameters<IngestControl['connect']>[0], limiter: Limiter) {
    this.owner = owner;
    this.hostId = command.hostId;
    this.hostname = command.hostname;
    this.validation = command.validation;
    this.limiter = limiter;
    this.skip = command.skip.length === 0 ? null : new Set(command.skip);
    this.cursor = command.cursor;
    this.lastSeq = command.cursor ?? 0;
  }

  hold(item: HeldFrame): void {
    if (this.held === NO_FRAMES) this.held = new Set();
    (this.held as Set<HeldFrame>).add(item);
  }

  unhold(item: HeldFrame): void {
    (this.held as Set<HeldFrame>).delete(item);
    if (this.held.size === 0) this.held = NO_FRAMES;
  }

  opened(server: string): void {
    this.owner.opened(this, server);
  }

  frame(bytes: Uint8Array): void {
    this.owner.frame(this, bytes);
  }

  text(): void {
    this.owner.text(this);
  }

  closed(outcome: CloseOutcome): void {
    this.owner.closed(this, outcome);
  }
}

interface Queued {
  readonly connection: Connection;
  readonly bytes: Uint8Array;
  readonly receivedAtMs: number;
  /** Not a frame: the end of the connection. */
  readonly outcome: CloseOutcome | null;
}

const NO_BYTES = new Uint8Array(0);

const heldKey = (hostname: string, did: string): string => `${hostname} ${did}`;

/**
 * Builds one ingest thread's worth of hosts.
 *
 * @param options limits, names and the clock (ms since the epoch)
 * @param events where results go; called from this thread only, batches in order
 */
export const createIngest = (options: IngestOptions, events: IngestEvents): Ingest => {
  const { nowMs } = options;
  const resumeBelowBytes = options.maxBytesInFlight / 2;
  const maxHeldBytes = options.maxBytesInFlight / 2;
  const heldRoomBelowBytes = maxHeldBytes * 0.75;
  const connections = new Map<number, Connection>();
  const identities = new TwoGenerations<string, CachedIdentity>(MAX_CACHED_IDENTITIES);
  /** By host and DID: what another host sends in an account's name must not hold up the account's own events. */
  const heldDids = new Map<string, HeldDid>();
  // They outlive connections: a host does not get a full bucket by reconnecting.
  const limiters = createLimiters();
  const counters: IngestCounters = { ...NO_COUNTERS };

  let queue: Queued[] = [];
  let queueAt = 0;
  let scheduled = false;
  let stopped = false;
  let batchEvents: VerifiedEvent[] = [];
  let batchRejections: IngestRejection[] = [];
  let batchBytes = 0;
  /** Events of the batches that are not acknowledged, the oldest first. */
  const underWay: (readonly VerifiedEvent[])[] = [];
  let touched: Connection[] = [];
  let requests: IdentityRequest[] = [];
  /** In the order they were paused, which is the order they go on in. */
  const pausedForBytes = new Set<Connection>();
  let resuming = false;
  const pausedForRate = new Set<Connection>();
  let pausedForHeld = new Set<Connection>();

  // --- pausing -------------------------------------------------------------------------------------------

  /** Pauses for bytes come and go with every burst, and are nobody's in particular: they are not reported. */
  const reportPause = (connection: Connection): void => {
    const { pauses } = connection;
    const pausedFor =
      pauses & PAUSE_IDENTITIES ? 'pending_identities' : pauses & PAUSE_RATE ? 'rate_limit' : null;
    if (pausedFor === connection.reportedPause) return;
    connection.reportedPause = pausedFor;
    events.paused(connection.hostId, pausedFor);
  };

  const pause = (connection: Connection, why: number): void => {
    if (connection.pauses & why) return;
    if (connection.pauses === 0) {
      counters.pauses++;
      connection.subscription?.pause();
    }
    connection.pauses |= why;
    reportPause(connection);
  };

  const unpause = (connection: Connection, why: number): void => {
    if (!(connection.pauses & why)) return;
    connection.pauses &= ~why;
    if (connection.pauses === 0 && connection.open) connection.subscription?.resume();
    reportPause(connection);
  };

  /** Of those that can be sequenced: who waits for an identity is counted apart. */
  const activeBytes = (): number => counters.bytesInFlight - counters.heldBytes;

  /** All of them: each that is not paused brings one more read, and hundreds of reads are several times the bound. */
  const pauseForBytes = (): void => {
    for (const connection of connections.values()) {
      if (connection.pauses & PAUSE_BYTES) continue;
      pausedForBytes.add(connection);
      pause(connection, PAUSE_BYTES);
    }
  };

  /** Some at a time, until all go on or the bound is near again. */
  const resumeSome = (): void => {
    resuming = false;
    let room = options.maxBytesInFlight - activeBytes();
    for (const connection of pausedForBytes) {
      if (room <= 0) break;
      room -= MAX_READ_BYTES;
      pausedForBytes.delete(connection);
      unpause(connection, PAUSE_BYTES);
    }
    resumeSoon();
  };

  /** Call when fewer bytes are in flight, or more of them wait for identities. */
  const resumeSoon = (): void => {
    if (resuming || stopped || pausedForBytes.size === 0 || activeBytes() > resumeBelowBytes) return;
    resuming = true;
    setImmediate(resumeSome);
  };

  const release = (bytes: number): void => {
    counters.bytesInFlight -= bytes;
    resumeSoon();
  };

  const acknowledge = (bytes: number): void => {
    const sequenced = underWay.shift();
    if (sequenced === undefined) throw new Error('a batch was acknowledged that is not under way');
    for (const { frame } of sequenced) giveBack(frame);
    release(bytes);
  };

  const resumeForRate = (): void => {
    if (pausedForRate.size === 0) return;
    const now = nowMs();
    for (const connection of pausedForRate) {
      if (connection.resumeAtMs > now) continue;
      const waitMs = connection.limiter.waitMs(now);
      if (waitMs > 0) {
        connection.resumeAtMs = now + waitMs;
        continue;
      }
      pausedForRate.delete(connection);
      unpause(connection, PAUSE_RATE);
    }
  };
  const pauseTimer = setInterval(resumeForRate, PAUSE_TICK_MS);

  // --- batches -------------------------------------------------------------------------------------------

  const touch = (connection: Connection): void => {
    if (connection.touched) return;
    connection.touched = true;
    touched.push(connection);
  };

  /** Up to where nothing of this connection is waiting. */
  const watermark = (connection: Connection): number => {
    for (const first of connection.held) return first.frame.seq - 1;
    return connection.lastSeq;
  };

  const sendBatch = (): void => {
    if (requests.length > 0) {
      const asked = requests;
      requests = [];
      events.identify(asked);
    }
    if (batchEvents.length === 0 && batchRejections.length === 0 && touched.length === 0) return;
    const progress: HostProgress[] = [];
    for (const connection of touched) {
      connection.touched = false;
      if (!connection.open) continue;
      const cursor = watermark(connection);
      const held = connection.held.size;
      if (cursor > 0 || held > 0) progress.push({ hostId: connection.hostId, cursor, held });
    }
    touched = [];
    if (batchEvents.length + batchRejections.length + progress.length === 0) return;
    const batch = { events: batchEvents, rejections: batchRejections, progress, bytes: batchBytes };
    batchEvents = [];
    batchRejections = [];
    batchBytes = 0;
    underWay.push(batch.events);
    events.batch(batch);
  };

  /**
   * `bytes`: of the frame. They count as in flight until the refusal is taken note of.
   * `judged`: see IngestRejection.
   */
  const refuse = (
    connection: Connection,
    frame: ScannedFrame | null,
    bytes: number,
    rejection: Pick<Rejection, 'reason' | 'detail'>,
    judged = false,
  ): void => {
    if (judged && connection.held.size > 0) connection.aheadEvents++;
    batchBytes += bytes;
    batchRejections.push({
      hostId: connection.hostId,
      did: frame === null ? '' : frame.did,
      upstreamSeq: frame === null ? 0 : frame.seq,
      rev: frame === null ? '' : frame.rev,
      judged,
      reason: rejection.reason,
      detail: rejection.detail ?? '',
    });
    touch(connection);
    if (batchRejections.length >= MAX_BATCH_EVENTS || batchBytes >= MAX_BATCH_BYTES) sendBatch();
  };

  const handOn = (connection: Connection, frame: ScannedFrame, verdict: Verdict | null): void => {
    const { bytes, seqStart, seqEnd } = mend(frame);
    if (connection.held.size > 0) connection.aheadEvents++;
    const verified = verdict?.ok ? verdict : null;
    batchEvents.push({
      hostId: connection.hostId,
      kind: frame.kind,
      upstreamSeq: frame.seq,
      did: frame.did,
      frame: bytes,
      seqStart,
      seqEnd,
      opCount: frame.ops.length,
      rev: frame.rev,
      since: frame.since,
      commit: verified === null ? null : verified.commit,
      data: verified === null ? null : verified.data,
      prevData: verified === null ? null : verified.prevData,
      lenient: verified === null ? null : verified.lenient,
      active: frame.active,
      status: frame.status,
      handle: frame.handle,
    });
    batchBytes += frame.bytes.length;
    touch(connection);
    if (batchEvents.length >= MAX_BATCH_EVENTS || batchBytes >= MAX_BATCH_BYTES) sendBatch();
  };

  // --- deciding on one frame -----------------------------------------------------------------------------

  const ask = (connection: Connection, did: string, fresh: boolean): void => {
    requests.push({ did, fresh, hostname: connection.hostname });
  };

  /**
   * Hands on or refuses ('done'), or finds that the identity must be asked for first.
   *
   * @param answered what is cached answers a fresh question that was asked after the frame came
   */
  const examine = (
    connection: Connection,
    frame: ScannedFrame,
    receivedAtMs: number,
    answered: boolean,
  ): 'done' | 'ask' | 'ask_fresh' => {
    const { did } = frame;
    const identity = identities.get(did);
    if (identity === undefined) {
      counters.identityMisses++;
      // An #identity event says that what is stored is out of date.
      return frame.kind === KIND.identity ? 'ask_fresh' : 'ask';
    }
    counters.identityHits++;
    const now = nowMs();
    const ageMs = now - identity.atMs;
    // Looked up after the frame had come: what is known is what counts.
    const current = answered || identity.atMs >= receivedAtMs;
    const settled = current || (ageMs >= 0 && ageMs < SETTLED_MS);
    const finish = (rejection: Pick<Rejection, 'reason' | 'detail'>): 'done' => {
      refuse(connection, frame, frame.bytes.length, rejection, true);
      return 'done';
    };

    if (frame.kind === KIND.identity && !current) return 'ask_fresh';
    if (identity.reason !== null) {
      // The last word of a PDS on an account that the directory no longer knows: that it is gone.
      if (frame.kind === KIND.account && identity.pds === connection.hostname) {
        handOn(connection, frame, null);
        return 'done';
      }
      if (!current && (ageMs < 0 || ageMs > REFUSED_IDENTITY_MS)) return 'ask_fresh';
      return finish({ reason: identity.reason });
    }
    if (identity.pds !== connection.hostname) {
      // Right after a migration the new PDS speaks within moments of the last look-up.
      if (!current) return 'ask_fresh';
      if (identity.pds === null) return finish({ reason: 'did_no_pds' });
      return finish({ reason: 'wrong_host', detail: `its PDS is ${identity.pds}` });
    }
    if (frame.kind !== KIND.commit && frame.kind !== KIND.sync) {
      handOn(connection, frame, null);
      return 'done';
    }
    if (identity.key === null) {
      if (!settled) return 'ask_fresh';
      return finish({ reason: 'did_no_signing_key' });
    }
    const verdict =
      frame.kind === KIND.commit
        ? verifyCommit(frame, identity.key, {
            nowMs: now,
            validation: connection.validation,
            // Whether the repo is known is the sequencer's to say; it refuses a missing prevData then.
            firstCommit: true,
          })
        : verifySync(frame, identity.key, { nowMs: now });
    if (!verdict.ok) {
      if (verdict.reason === 'signature_invalid' && !settled) return 'ask_fresh';
      return finish(verdict);
    }
    handOn(connection, frame, verdict);
    return 'done';
  };

  // --- waiting for identities ----------------------------------------------------------------------------

  const hold = (
    connection: Connection,
    frame: ScannedFrame,
    receivedAtMs: number,
    waiting: HeldDid,
    covered: boolean,
  ): void => {
    const item: HeldFrame = { connection, frame, receivedAtMs, covered };
    waiting.items.push(item);
    connection.hold(item);
    connection.heldBytes += frame.bytes.length;
    counters.heldFrames++;
    counters.heldBytes += frame.bytes.length;
    counters.heldDids = heldDids.size;
    touch(connection);
    if (connection.held.size >= MAX_HELD_FRAMES_PER_HOST || connection.heldBytes >= MAX_HELD_BYTES_PER_HOST)
      pause(connection, PAUSE_HELD);
    if (counters.heldBytes >= maxHeldBytes) {
      pausedForHeld.add(connection);
      pause(connection, PAUSE_HELD_BY_ALL);
    }
    resumeSoon();
  };

  /** From here on it is in flight like others, or thrown away. */
  const unhold = (item: HeldFrame): void => {
    const { connection, frame } = item;
    connection.unhold(item);
    connection.heldBytes -= frame.bytes.length;
    counters.heldFrames--;
    counters.heldBytes -= frame.bytes.length;
    touch(connection);
    if (
      connection.held.size <= MAX_HELD_FRAMES_PER_HOST / 2 &&
      connection.heldBytes <= MAX_HELD_BYTES_PER_HOST / 2
    )
      unpause(connection, PAUSE_HELD);
    if (connection.held.size === 0) {
      connection.aheadEvents = 0;
      unpause(connection, PAUSE_AHEAD);
      pausedForHeld.delete(connection);
      unpause(connection, PAUSE_HELD_BY_ALL);
    }
    if (pausedForHeld.size > 0 && counters.heldBytes <= heldRoomBelowBytes) {
      const waiting = pausedForHeld;
      pausedForHeld = new Set();
      for (const other of waiting) unpause(other, PAUSE_HELD_BY_ALL);
    }
  };

  const coverAll = (waiting: HeldDid): void => {
    for (const item of waiting.items) item.covered = true;
  };

  const identified = (answers: readonly IdentityAnswer[]): void => {
    if (stopped) return;
    for (const answer of answers) {
      const place = heldKey(answer.hostname, answer.did);
      const waiting = heldDids.get(place);
      if (answer.again) {
        if (waiting === undefined) continue;
        // Asking goes on only for as long as somebody waits.
        const first = waiting.items[0];
        if (first === undefined) heldDids.delete(place);
        else {
          ask(first.connection, answer.did, answer.fresh);
          if (answer.fresh) coverAll(waiting);
        }
        continue;
      }
      const key =
        answer.keyType === null || answer.key === null
          ? null
          : createSigningKey(answer.keyType, Buffer.from(answer.key, 'latin1'));
      identities.set(answer.did, { pds: answer.pds, key, reason: answer.reason, atMs: answer.atMs });
      if (waiting === undefined) continue;
      // A list of its own: what ends a connection takes its frames out of `waiting.items`.
      const { items } = waiting;
      waiting.items = [];
      let verdict: 'done' | 'ask' | 'ask_fresh' = 'done';
      let at = 0;
      for (; at < items.length; at++) {
        const item = items[at]!;
        if (!item.connection.open) continue;
        verdict = examine(item.connection, item.frame, item.receivedAtMs, answer.fresh && item.covered);
        if (verdict !== 'done') break;
        unhold(item);
      }
      if (verdict === 'done') {
        heldDids.delete(place);
        continue;
      }
      waiting.items = items.slice(at).filter(({ connection }) => connection.open);
      ask(items[at]!.connection, answer.did, verdict === 'ask_fresh');
      if (verdict === 'ask_fresh') coverAll(waiting);
    }
    counters.heldDids = heldDids.size;
    sendBatch();
  };

  // --- frames --------------------------------------------------------------------------------------------

  const malformed = (connection: Connection, bytes: number, rejection: Rejection): void => {
    refuse(connection, null, bytes, rejection);
    connection.malformedScore++;
    if (connection.malformedScore > MAX_MALFORMED_SCORE) end(connection, { kind: 'malformed' });
  };

  const discard = (bytes: number): void => {
    counters.discardedFrames++;
    release(bytes);
  };

  /** What does not fit into the bounds comes again. */
  const overloaded = (connection: Connection, bytes: number): void => {
    discard(bytes);
    end(connection, { kind: 'throttled', waitMs: OVERLOAD_WAIT_MS });
  };

  /** A frame that is not above all before it on this connection. */
  const notIncreasing = (connection: Connection, frame: ScannedFrame): void => {
    const { cursor, lastSeq } = connection;
    if (cursor !== null && lastSeq === cursor) {
      if (frame.seq === cursor) {
        // Some hosts begin with the event at the cursor.
        counters.skippedFrames++;
        release(frame.bytes.length);
        return;
      }
      const isFar = cursor - frame.seq > Math.min(FAR_BELOW_CURSOR, cursor / 2);
      connection.belowCursor += isFar ? FAR_BELOW_CURSOR_WEIGHT : 1;
    }
    refuse(connection, frame, frame.bytes.length, {
      reason: 'seq_not_increasing',
      detail: `after ${lastSeq}`,
    });
    // We would be deaf to all it says until its numbers get there: its cursor means nothing any more.
    if (connection.belowCursor >= MAX_FRAMES_BELOW_CURSOR)
      end(connection, {
        kind: 'error_frame',
        error: 'FutureCursor',
        message: `it was asked to go on after ${cursor} and went on with ${frame.seq}`,
      });
  };

  const process = ({ connection, bytes, receivedAtMs, outcome }: Queued): void => {
    if (!connection.open) {
      if (outcome === null) discard(bytes.length);
      return;
    }
    if (outcome !== null) {
      ended(connection, outcome);
      return;
    }
    const frame = scanFrame(bytes);
    if (!frame.ok) {
      malformed(connection, bytes.length, frame);
      return;
    }
    if (connection.malformedScore > 0) connection.malformedScore -= 0.5;
    if (frame.kind === KIND.error) {
      refuse(connection, frame, bytes.length, {
        reason: 'host_error_frame',
        detail: frame.name.slice(0, 64),
      });
      end(connection, { kind: 'error_frame', error: frame.name, message: frame.message });
      return;
    }
    if (frame.kind === KIND.info) {
      release(bytes.length);
      if (++connection.infos <= MAX_INFOS) events.info(connection.hostId, frame.name, frame.message);
      return;
    }
    if (frame.seq === 0 || frame.did === '') {
      refuse(connection, frame, bytes.length, {
        reason: 'frame_type_unknown',
        detail: frame.type.slice(0, 64),
      });
      return;
    }
    if (frame.seq <= connection.lastSeq) {
      notIncreasing(connection, frame);
      return;
    }
    if (connection.skip?.delete(frame.seq)) {
      if (connection.skip.size === 0) connection.skip = null;
      connection.lastSeq = frame.seq;
      if (connection.held.size > 0) connection.aheadEvents++;
      counters.skippedFrames++;
      release(bytes.length);
      touch(connection);
      return;
    }
    if (connection.aheadEvents >= HARD_AHEAD_EVENTS || connection.held.size >= HARD_HELD_FRAMES_PER_HOST) {
      overloaded(connection, bytes.length);
      return;
    }
    const seqBefore = connection.lastSeq;
    connection.lastSeq = frame.seq;
    const place = heldDids.size === 0 ? '' : heldKey(connection.hostname, frame.did);
    const waiting = place === '' ? undefined : heldDids.get(place);
    if (waiting !== undefined) {
      hold(connection, frame, receivedAtMs, waiting, false);
    } else {
      const verdict = examine(connection, frame, receivedAtMs, false);
      if (verdict !== 'done') {
        if (heldDids.size >= MAX_ASKED_DIDS) {
          connection.lastSeq = seqBefore;
          overloaded(connection, bytes.length);
          return;
        }
        const first: HeldDid = { items: [] };
        heldDids.set(heldKey(connection.hostname, frame.did), first);
        ask(connection, frame.did, verdict === 'ask_fresh');
        hold(connection, frame, receivedAtMs, first, verdict === 'ask_fresh');
      }
    }
    if (connection.aheadEvents >= MAX_AHEAD_EVENTS) pause(connection, PAUSE_AHEAD);
  };

  const work = (): void => {
    scheduled = false;
    if (stopped) return;
    const until = performance.now() + SLICE_MS;
    let sinceLook = 0;
    while (queueAt < queue.length) {
      process(queue[queueAt++]!);
      if (++sinceLook === 8) {
        sinceLook = 0;
        if (performance.now() >= until) break;
      }
    }
    if (queueAt >= queue.length) {
      queue = [];
      queueAt = 0;
    } else if (queueAt > 1024) {
      queue = queue.slice(queueAt);
      queueAt = 0;
    }
    sendBatch();
    if (queueAt < queue.length) schedule();
  };

  const schedule = (): void => {
    if (scheduled || stopped) return;
    scheduled = true;
    setImmediate(work);
  };

  const enqueue = (connection: Connection, bytes: Uint8Array, outcome: CloseOutcome | null): void => {
    queue.push({ connection, bytes, receivedAtMs: nowMs(), outcome });
    schedule();
  };

  const receive = (connection: Connection, bytes: Uint8Array): void => {
    if (!connection.open || connection.ending) return;
    counters.frames++;
    counters.bytes += bytes.length;
    counters.bytesInFlight += bytes.length;
    enqueue(connection, bytes, null);
    const now = nowMs();
    const waitMs = connection.limiter.take(now);
    if (waitMs > MAX_RATE_PAUSE_MS) {
      // Its end is reported after the frames that are queued: what it got tokens for goes on, or it would never get ahead.
      connection.subscription?.end({ kind: 'throttled', waitMs });
      return;
    }
    if (waitMs > 0) {
      connection.resumeAtMs = now + waitMs;
      pausedForRate.add(connection);
      pause(connection, PAUSE_RATE);
    }
    if (activeBytes() <= options.maxBytesInFlight) return;
    // A pause lets one more read through; what arrives far beyond the bound all the same has to come again.
    if (activeBytes() > 2 * options.maxBytesInFlight)
      end(connection, { kind: 'throttled', waitMs: OVERLOAD_WAIT_MS });
    else if (!(connection.pauses & PAUSE_BYTES)) pauseForBytes();
  };

  // --- connections ---------------------------------------------------------------------------------------

  /** By us, at once: frames that are queued have to come again. */
  const end = (connection: Connection, outcome: CloseOutcome): void => {
    if (!connection.open) return;
    if (!connection.ending) {
      connection.ending = true;
      connection.subscription?.end(outcome);
    }
    ended(connection, outcome);
  };

  const ended = (connection: Connection, outcome: CloseOutcome): void => {
    // What was handed on before counts; the rest comes again on the next connection.
    sendBatch();
    connection.open = false;
    connections.delete(connection.hostId);
    pausedForRate.delete(connection);
    pausedForBytes.delete(connection);
    const places = new Set<string>();
    for (const item of [...connection.held]) {
      places.add(heldKey(connection.hostname, item.frame.did));
      unhold(item);
      discard(item.frame.bytes.length);
    }
    for (const place of places) {
      // It stays, maybe with nobody left in it, until the answer is here: else it would be asked for twice.
      const waiting = heldDids.get(place);
      if (waiting !== undefined)
        waiting.items = waiting.items.filter((item) => item.connection !== connection);
    }
    events.closed(connection.hostId, outcome);
  };

  const owner: ConnectionOwner = {
    opened: (connection, server) => events.opened(connection.hostId, server),
    frame: receive,
    text(connection) {
      counters.textMessages++;
      if (!connection.open || connection.ending) return;
      schedule();
      malformed(connection, 0, { ok: false, reason: 'frame_not_binary' });
    },
    closed(connection, outcome) {
      if (!connection.open || connection.ending) return;
      connection.ending = true;
      // After the frames that came before: a host that closes after each burst gets ahead all the same.
      enqueue(connection, NO_BYTES, outcome);
    },
  };

  return {
    connect(command) {
      if (stopped) return;
      if (connections.has(command.hostId)) throw new Error(`host ${command.hostId} is already connected`);
      const connection = new Connection(owner, command, limiters.of(command.hostId, command.limits, nowMs()));
      connections.set(command.hostId, connection);
      connection.subscription = options.subscribe(
        {
          hostname: command.hostname,
          secure: command.secure,
          cursor: command.cursor,
          userAgent: options.userAgent,
          allowPrivateAddresses: options.allowPrivateAddresses,
          handshakeTimeoutMs: options.handshakeTimeoutMs,
          pingIntervalMs: options.pingIntervalMs,
          maxFrameBytes: options.maxFrameBytes,
        },
        connection,
      );
    },
    disconnect(hostId) {
      const connection = connections.get(hostId);
      if (connection !== undefined) end(connection, { kind: 'stopped' });
    },
    setLimits(hostId: number, limits: HostLimits) {
      const connection = connections.get(hostId);
      if (connection === undefined) return;
      connection.limiter.set(limits);
      // What it has to wait for was reckoned by the old ones.
      connection.resumeAtMs = 0;
    },
    identified,
    forget(did) {
      identities.delete(did);
    },
    acknowledge,
    counters,
    async stop() {
      for (const connection of [...connections.values()]) end(connection, { kind: 'stopped' });
      stopped = true;
      clearInterval(pauseTimer);
      for (; queueAt < queue.length; queueAt++) {
        const { bytes, outcome } = queue[queueAt]!;
        if (outcome === null) discard(bytes.length);
      }
      queue = [];
      queueAt = 0;
      heldDids.clear();
      counters.heldDids = 0;
    },
  };
};
