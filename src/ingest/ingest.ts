/**
 * Ingest: the sockets of some hosts, and everything that can be checked about a frame without deciding
 * anything. Frames go in; verified events and refusals come out in batches, in order per DID.
 *
 * It owns the connections it was told to open, a bounded queue of frames not yet looked at, a bounded place
 * where frames wait for the identity of their DID, and a cache of keys. It decides nothing about accounts:
 * that is the sequencer's.
 *
 * Nothing is lost here: a host's cursor moves only over frames that were handed on or refused, so whatever is
 * thrown away with a connection is sent again by the host.
 */
import { latin1 } from '../firehose/cbor.ts';
import { fillMissing } from '../firehose/edit.ts';
import { scanFrame } from '../firehose/scan.ts';
import { KIND, type ScannedFrame } from '../firehose/types.ts';
import { createLimiters, type Limiter } from '../hosts/limits.ts';
import type { CloseOutcome, HostLimits, Subscribe, Subscription } from '../hosts/types.ts';
import type { Reason, Rejection } from '../reasons.ts';
import { createSigningKey } from '../repo/key.ts';
import type { SigningKey, Verdict } from '../repo/types.ts';
import { verifyCommit, verifySync } from '../repo/verify.ts';
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
const PAUSE_HELD = 4;

export interface IngestOptions {
  readonly subscribe: Subscribe;
  readonly userAgent: string;
  readonly allowPrivateAddresses: boolean;
  readonly handshakeTimeoutMs: number;
  readonly pingIntervalMs: number;
  readonly maxFrameBytes: number;
  /** Bytes of frames received and not yet sequenced; over it sockets are paused. Half of it may wait for identities. */
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
  done: boolean;
}

interface HeldDid {
  items: HeldFrame[];
}

interface Connection {
  readonly hostId: number;
  readonly hostname: string;
  readonly validation: 'strict' | 'lenient';
  readonly limiter: Limiter;
  readonly skip: Set<number>;
  subscription: Subscription | null;
  /** False from the moment it ended: what is left of its frames is thrown away. */
  open: boolean;
  /** Highest upstream seq seen on this connection. */
  lastSeq: number;
  /** Frames waiting for identities, in order of arrival; done ones are taken off the front. */
  held: HeldFrame[];
  heldCount: number;
  heldBytes: number;
  pauses: number;
  resumeAtMs: number;
  reportedPause: PausedFor | null;
  malformedScore: number;
  touched: boolean;
}

interface Queued {
  readonly connection: Connection;
  readonly bytes: Uint8Array;
  readonly receivedAtMs: number;
}

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
  const connections = new Map<number, Connection>();
  const identities = new TwoGenerations<string, CachedIdentity>(MAX_CACHED_IDENTITIES);
  /** By host and DID: what another host sends in an account's name must not hold up the account's own events. */
  const heldDids = new Map<string, HeldDid>();
  // They outlive connections: a host does not get a full bucket by reconnecting.
  const limiters = createLimiters();
  const counters: IngestCounters = {
    frames: 0,
    bytes: 0,
    bytesInFlight: 0,
    heldFrames: 0,
    heldBytes: 0,
    heldDids: 0,
    skippedFrames: 0,
    textMessages: 0,
    pauses: 0,
    identityHits: 0,
    identityMisses: 0,
    discardedFrames: 0,
  };

  let queue: Queued[] = [];
  let queueAt = 0;
  let scheduled = false;
  let stopped = false;
  let batchEvents: VerifiedEvent[] = [];
  let batchRejections: IngestRejection[] = [];
  let batchBytes = 0;
  let touched: Connection[] = [];
  let requests: IdentityRequest[] = [];
  /** In the order they were paused, which is the order they go on in. */
  const pausedForBytes = new Set<Connection>();
  let resuming = false;
  const pausedForRate = new Set<Connection>();

  // --- pausing -------------------------------------------------------------------------------------------

  const reportPause = (connection: Connection): void => {
    const { pauses } = connection;
    const pausedFor =
      pauses & PAUSE_HELD
        ? 'pending_identities'
        : pauses & PAUSE_BYTES
          ? 'bytes_in_flight'
          : pauses & PAUSE_RATE
            ? 'rate_limit'
            : null;
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
    // Pauses for bytes come and go with every burst; only the others are worth a message.
    if (why !== PAUSE_BYTES) reportPause(connection);
  };

  const unpause = (connection: Connection, why: number): void => {
    if (!(connection.pauses & why)) return;
    connection.pauses &= ~why;
    if (connection.pauses === 0 && connection.open) connection.subscription?.resume();
    if (why !== PAUSE_BYTES) reportPause(connection);
  };

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
    let room = options.maxBytesInFlight - counters.bytesInFlight;
    for (const connection of pausedForBytes) {
      if (room <= 0) break;
      room -= MAX_READ_BYTES;
      pausedForBytes.delete(connection);
      unpause(connection, PAUSE_BYTES);
    }
    resumeSoon();
  };

  const resumeSoon = (): void => {
    if (resuming || pausedForBytes.size === 0 || counters.bytesInFlight > resumeBelowBytes) return;
    resuming = true;
    setImmediate(resumeSome);
  };

  const release = (bytes: number): void => {
    counters.bytesInFlight -= bytes;
    resumeSoon();
  };

  const pauseTimer = setInterval(() => {
    if (pausedForRate.size === 0) return;
    const now = nowMs();
    for (const connection of pausedForRate) {
      if (connection.resumeAtMs > now) continue;
      pausedForRate.delete(connection);
      unpause(connection, PAUSE_RATE);
    }
  }, PAUSE_TICK_MS);

  // --- batches -------------------------------------------------------------------------------------------

  const touch = (connection: Connection): void => {
    if (connection.touched) return;
    connection.touched = true;
    touched.push(connection);
  };

  /** Up to where nothing of this connection is waiting. */
  const watermark = (connection: Connection): number => {
    const { held } = connection;
    let done = 0;
    while (done < held.length && held[done]!.done) done++;
    if (done > 0) held.splice(0, done);
    return held.length > 0 ? held[0]!.frame.seq - 1 : connection.lastSeq;
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
      const cursor = watermark(connection);
      const held = connection.heldCount;
      if (connection.open && (cursor > 0 || held > 0))
        progress.push({ hostId: connection.hostId, cursor, held });
    }
    const batch = { events: batchEvents, rejections: batchRejections, progress, bytes: batchBytes };
    batchEvents = [];
    batchRejections = [];
    touched = [];
    batchBytes = 0;
    events.batch(batch);
  };

  const refuse = (
    connection: Connection,
    frame: ScannedFrame | null,
    rejection: Pick<Rejection, 'reason' | 'detail'>,
  ): void => {
    batchRejections.push({
      hostId: connection.hostId,
      did: frame === null ? '' : frame.did,
      kind: frame === null ? 0 : frame.kind,
      upstreamSeq: frame === null ? 0 : frame.seq,
      rev: frame === null ? '' : frame.rev,
      reason: rejection.reason,
      detail: rejection.detail ?? '',
    });
    touch(connection);
    if (batchRejections.length >= MAX_BATCH_EVENTS) sendBatch();
  };

  const handOn = (connection: Connection, frame: ScannedFrame, verdict: Verdict | null): void => {
    let { bytes, seqStart, seqEnd } = frame;
    if (frame.kind === KIND.commit) {
      const { missing } = frame;
      if (missing.tooBig || missing.rebase || missing.blobs) {
        const filled = fillMissing(frame);
        ({ bytes, seqStart, seqEnd } = filled);
      }
    }
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
      commit: verified === null ? null : latin1(verified.commit, 0, 32),
      data: verified === null ? null : latin1(verified.data, 0, 32),
      prevData: verified?.prevData == null ? null : latin1(verified.prevData, 0, 32),
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

  const ask = (connection: Connection, did: string, fresh: boolean): 'ask' => {
    requests.push({ did, fresh, hostname: connection.hostname });
    return 'ask';
  };

  /** Hands on or refuses ('done'), or finds that the identity must be looked up first ('ask', and asks). */
  const examine = (connection: Connection, frame: ScannedFrame, receivedAtMs: number): 'done' | 'ask' => {
    const { did } = frame;
    const identity = identities.get(did);
    if (identity === undefined) {
      counters.identityMisses++;
      // An #identity event says that what is stored is out of date.
      return ask(connection, did, frame.kind === KIND.identity);
    }
    counters.identityHits++;
    const now = nowMs();
    const settled = identity.atMs >= receivedAtMs || now - identity.atMs < SETTLED_MS;
    const finish = (rejection: Pick<Rejection, 'reason' | 'detail'>): 'done' => {
      release(frame.bytes.length);
      refuse(connection, frame, rejection);
      return 'done';
    };

    if (frame.kind === KIND.identity && identity.atMs < receivedAtMs) return ask(connection, did, true);
    if (identity.reason !== null) {
      if (identity.atMs < receivedAtMs && now - identity.atMs > REFUSED_IDENTITY_MS)
        return ask(connection, did, true);
      return finish({ reason: identity.reason });
    }
    if (identity.pds !== connection.hostname) {
      if (!settled) return ask(connection, did, true);
      return finish({ reason: 'wrong_host', detail: `its PDS is ${identity.pds ?? 'unknown'}` });
    }
    if (frame.kind !== KIND.commit && frame.kind !== KIND.sync) {
      handOn(connection, frame, null);
      return 'done';
    }
    if (identity.key === null) {
      if (!settled) return ask(connection, did, true);
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
      if (verdict.reason === 'signature_invalid' && !settled) return ask(connection, did, true);
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
  ): void => {
    const item: HeldFrame = { connection, frame, receivedAtMs, done: false };
    waiting.items.push(item);
    connection.held.push(item);
    connection.heldCount++;
    connection.heldBytes += frame.bytes.length;
    counters.heldFrames++;
    counters.heldBytes += frame.bytes.length;
    counters.heldDids = heldDids.size;
    touch(connection);
    if (
      connection.heldCount >= MAX_HELD_FRAMES_PER_HOST ||
      connection.heldBytes >= MAX_HELD_BYTES_PER_HOST ||
      counters.heldBytes >= maxHeldBytes
    )
      pause(connection, PAUSE_HELD);
  };

  const unhold = (item: HeldFrame): void => {
    const { connection, frame } = item;
    item.done = true;
    connection.heldCount--;
    connection.heldBytes -= frame.bytes.length;
    counters.heldFrames--;
    counters.heldBytes -= frame.bytes.length;
    touch(connection);
    if (
      connection.pauses & PAUSE_HELD &&
      connection.heldCount <= MAX_HELD_FRAMES_PER_HOST / 2 &&
      connection.heldBytes <= MAX_HELD_BYTES_PER_HOST / 2 &&
      (connection.heldCount === 0 || counters.heldBytes < maxHeldBytes)
    )
      unpause(connection, PAUSE_HELD);
  };

  const identified = (answers: readonly IdentityAnswer[]): void => {
    for (const answer of answers) {
      if (answer.again) {
        // Asking goes on only for as long as somebody waits.
        const first = heldDids.get(heldKey(answer.hostname, answer.did))?.items[0];
        if (first !== undefined)
          requests.push({ did: answer.did, fresh: answer.fresh, hostname: first.connection.hostname });
        continue;
      }
      const key =
        answer.keyType === null || answer.key === null
          ? null
          : createSigningKey(answer.keyType, Buffer.from(answer.key, 'latin1'));
      identities.set(answer.did, { pds: answer.pds, key, reason: answer.reason, atMs: answer.atMs });
      const key = heldKey(answer.hostname, answer.did);
      const waiting = heldDids.get(key);
      if (waiting === undefined) continue;
      let at = 0;
      for (; at < waiting.items.length; at++) {
        const item = waiting.items[at]!;
        if (!item.connection.open) continue;
        if (examine(item.connection, item.frame, item.receivedAtMs) === 'ask') break;
        unhold(item);
      }
      waiting.items.splice(0, at);
      if (waiting.items.length === 0) heldDids.delete(key);
    }
    counters.heldDids = heldDids.size;
    sendBatch();
  };

  // --- frames --------------------------------------------------------------------------------------------

  const malformed = (connection: Connection, bytes: Uint8Array, rejection: Rejection): void => {
    release(bytes.length);
    refuse(connection, null, rejection);
    connection.malformedScore++;
    if (connection.malformedScore > MAX_MALFORMED_SCORE) end(connection, { kind: 'malformed' });
  };

  const process = ({ connection, bytes, receivedAtMs }: Queued): void => {
    if (!connection.open) {
      counters.discardedFrames++;
      release(bytes.length);
      return;
    }
    const frame = scanFrame(bytes);
    if (!frame.ok) {
      malformed(connection, bytes, frame);
      return;
    }
    if (connection.malformedScore > 0) connection.malformedScore -= 0.5;
    if (frame.kind === KIND.error) {
      release(bytes.length);
      refuse(connection, frame, { reason: 'host_error_frame', detail: frame.name.slice(0, 64) });
      end(connection, { kind: 'error_frame', error: frame.name, message: frame.message });
      return;
    }
    if (frame.kind === KIND.info) {
      release(bytes.length);
      events.info(connection.hostId, frame.name, frame.message);
      return;
    }
    if (frame.seq === 0 || frame.did === '') {
      release(bytes.length);
      refuse(connection, frame, { reason: 'frame_type_unknown', detail: frame.type.slice(0, 64) });
      return;
    }
    if (frame.seq <= connection.lastSeq) {
      release(bytes.length);
      refuse(connection, frame, { reason: 'seq_not_increasing', detail: `after ${connection.lastSeq}` });
      return;
    }
    connection.lastSeq = frame.seq;
    if (connection.skip.size > 0 && connection.skip.delete(frame.seq)) {
      counters.skippedFrames++;
      release(bytes.length);
      touch(connection);
      return;
    }
    const waiting = heldDids.size === 0 ? undefined : heldDids.get(heldKey(connection.hostname, frame.did));
    if (waiting !== undefined) {
      hold(connection, frame, receivedAtMs, waiting);
    } else if (examine(connection, frame, receivedAtMs) === 'ask') {
      const first: HeldDid = { items: [] };
      heldDids.set(heldKey(connection.hostname, frame.did), first);
      hold(connection, frame, receivedAtMs, first);
    }
  };

  const work = (): void => {
    scheduled = false;
    const until = performance.now() + SLICE_MS;
    let sinceLook = 0;
    while (queueAt < queue.length) {
      process(queue[queueAt]!);
      queueAt++;
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
    if (queue.length > 0) schedule();
  };

  const schedule = (): void => {
    if (scheduled || stopped) return;
    scheduled = true;
    setImmediate(work);
  };

  const receive = (connection: Connection, bytes: Uint8Array): void => {
    if (!connection.open) return;
    const now = nowMs();
    counters.frames++;
    counters.bytes += bytes.length;
    counters.bytesInFlight += bytes.length;
    queue.push({ connection, bytes, receivedAtMs: now });
    const waitMs = connection.limiter.take(now);
    if (waitMs > 0) {
      if (waitMs > MAX_RATE_PAUSE_MS) {
        end(connection, { kind: 'throttled', waitMs });
        return;
      }
      connection.resumeAtMs = now + waitMs;
      pausedForRate.add(connection);
      pause(connection, PAUSE_RATE);
    }
    if (counters.bytesInFlight > options.maxBytesInFlight) {
      // A pause lets one more read through; what arrives far beyond the bound all the same has to come again.
      if (counters.bytesInFlight > 2 * options.maxBytesInFlight) {
        end(connection, { kind: 'throttled', waitMs: OVERLOAD_WAIT_MS });
        return;
      }
      if (!(connection.pauses & PAUSE_BYTES)) pauseForBytes();
    }
    schedule();
  };

  // --- connections ---------------------------------------------------------------------------------------

  const end = (connection: Connection, outcome: CloseOutcome): void => {
    if (connection.subscription !== null) connection.subscription.end(outcome);
    else ended(connection, outcome);
  };

  const ended = (connection: Connection, outcome: CloseOutcome): void => {
    if (!connection.open) return;
    // What was handed on before counts; the rest comes again on the next connection.
    sendBatch();
    connection.open = false;
    connections.delete(connection.hostId);
    pausedForRate.delete(connection);
    pausedForBytes.delete(connection);
    const dids = new Set<string>();
    for (const item of connection.held) {
      if (item.done) continue;
      dids.add(item.frame.did);
      unhold(item);
      release(item.frame.bytes.length);
      counters.discardedFrames++;
    }
    connection.held = [];
    for (const did of dids) {
      const waiting = heldDids.get(did);
      if (waiting === undefined) continue;
      waiting.items = waiting.items.filter((item) => item.connection !== connection);
      if (waiting.items.length === 0) heldDids.delete(did);
    }
    counters.heldDids = heldDids.size;
    events.closed(connection.hostId, outcome);
  };

  return {
    connect(command) {
      if (stopped) return;
      if (connections.has(command.hostId)) throw new Error(`host ${command.hostId} is already connected`);
      const connection: Connection = {
        hostId: command.hostId,
        hostname: command.hostname,
        validation: command.validation,
        limiter: limiters.of(command.hostId, command.limits, nowMs()),
        skip: new Set(command.skip),
        subscription: null,
        open: true,
        lastSeq: command.cursor ?? 0,
        held: [],
        heldCount: 0,
        heldBytes: 0,
        pauses: 0,
        resumeAtMs: 0,
        reportedPause: null,
        malformedScore: 0,
        touched: false,
      };
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
        {
          opened: (server) => events.opened(command.hostId, server),
          frame: (bytes) => receive(connection, bytes),
          text: () => {
            counters.textMessages++;
            if (!connection.open) return;
            refuse(connection, null, { reason: 'frame_not_binary' });
            connection.malformedScore++;
            if (connection.malformedScore > MAX_MALFORMED_SCORE) end(connection, { kind: 'malformed' });
          },
          closed: (outcome) => ended(connection, outcome),
        },
      );
    },
    disconnect(hostId) {
      const connection = connections.get(hostId);
      if (connection !== undefined) end(connection, { kind: 'stopped' });
    },
    setLimits(hostId: number, limits: HostLimits) {
      connections.get(hostId)?.limiter.set(limits);
    },
    identified,
    acknowledge: release,
    counters,
    async stop() {
      stopped = true;
      for (const connection of [...connections.values()]) end(connection, { kind: 'stopped' });
      clearInterval(pauseTimer);
      queue = [];
      queueAt = 0;
    },
  };
};
