/**
 * One outbound WebSocket to a host's `com.atproto.sync.subscribeRepos`. Owns the socket and its liveness, and
 * nothing else: no retries, no parsing. Promises exactly one `closed`, after which nothing is called, however
 * the connection ends: refused, stalled, redirected (never followed), silent, over the frame limit, or by us.
 * Follows the atproto specs "Event Stream" (one frame per binary message) and "Sync".
 *
 * There are thousands: one object and one socket each, all handlers and timers shared.
 */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'bun';
import { parseHostname } from '../network/hostname.ts';
import {
  type CheckedAddress,
  type GuardedLookup,
  guardedLookup,
  type LookupResult,
} from '../network/lookup.ts';
import { readRetryAfter } from '../network/retry-after.ts';
import type { CloseOutcome, Subscribe, SubscribeOptions, Subscription, SubscriptionEvents } from './types.ts';
import {
  CLOSE_CODE,
  controlFrame,
  handshakeRequest,
  MessageReader,
  type MessageSink,
  readHandshake,
} from './websocket.ts';

export interface SubscriptionDeps {
  /** Look-ups that guard and pin the address. Default: those of this thread. */
  readonly lookupFor?: (allowPrivateAddresses: boolean) => GuardedLookup;
  readonly nowMs?: () => number;
  /** Certificates to trust instead of the well-known ones. */
  readonly ca?: string;
}

/** Texts from outside (close reasons, error messages) are shown on pages: short, one line. */
const MAX_DETAIL_CHARACTERS = 200;
/** Two whole ping periods without a sign of life end a connection. */
const MAX_SILENT_PERIODS = 2;
/** The wheel visits one of this many slots at a time, so that thousands of pings do not leave in one burst. */
const WHEEL_SLOTS = 30;
/** A connect that takes longer than this gets company: the next address of the host is tried, too. */
const NEXT_ADDRESS_MS = 1_000;
const SECURE_PORT = 443;
const PLAIN_PORT = 80;

const plain = (text: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is taken out
  text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ').slice(0, MAX_DETAIL_CHARACTERS);

interface Pinged {
  /** Called once per ping period. */
  beat(): void;
}

/** Slots of connections, one timer for all of them: it runs only while there are members. */
const createWheel = (periodMs: number) => {
  const slots: Set<Pinged>[] = Array.from({ length: WHEEL_SLOTS }, () => new Set());
  let at = 0;
  let size = 0;
  let timer: ReturnType<typeof setInterval> | null = null;
  const turn = (): void => {
    at = (at + 1) % WHEEL_SLOTS;
    for (const member of slots[at]!) member.beat();
  };
  return {
    get size() {
      return size;
    },
    /** The newcomer joins the slot just visited: its first beat comes a whole period later. Returns the slot. */
    add(member: Pinged): number {
      slots[at]!.add(member);
      size++;
      timer ??= setInterval(turn, periodMs / WHEEL_SLOTS);
      return at;
    },
    remove(member: Pinged, slot: number): void {
      if (!slots[slot]!.delete(member)) return;
      size--;
      if (size === 0 && timer !== null) {
        clearInterval(timer);
        timer = null;
      }
    },
  };
};

type Wheel = ReturnType<typeof createWheel>;

/** One wheel per period and thread; periods come from our own configuration, so there are one or two. */
const wheels = new Map<number, Wheel>();

const wheelOf = (periodMs: number): Wheel => {
  let wheel = wheels.get(periodMs);
  if (wheel === undefined) {
    wheel = createWheel(periodMs);
    wheels.set(periodMs, wheel);
  }
  return wheel;
};

/** Connections of this thread that are being watched: all that have not ended. */
export const watchedConnections = (): number => {
  let sum = 0;
  for (const wheel of wheels.values()) sum += wheel.size;
  return sum;
};

/** What is needed only until the connection is open. */
interface Opening {
  readonly options: SubscribeOptions;
  readonly deps: SubscriptionDeps;
  /** Sec-WebSocket-Key. */
  readonly key: string;
  addresses: readonly CheckedAddress[];
  /** How many of them. */
  tried: number;
  /** Connects on their way. */
  connecting: number;
  /** The server's answer so far. */
  answer: Uint8Array;
  deadline: ReturnType<typeof setTimeout> | undefined;
  next: ReturnType<typeof setTimeout> | undefined;
}

const NO_BYTES = new Uint8Array(0);
const MASK_BYTES = 4;
/** It has no payload, so nothing is masked. */
const PING = controlFrame('ping', NO_BYTES, new Uint8Array(MASK_BYTES));

/** An error of ours inside a socket's callback would be taken for one of the socket: it has to end the process. */
const fault = (error: unknown): void => {
  setImmediate(() => {
    throw error;
  });
};

class SocketSubscription implements Subscription, MessageSink, Pinged {
  /** For the sockets of this thread; their `data` says whose they are. */
  static readonly #handlers = {
    binaryType: 'uint8array' as const,
    open(socket: Socket<SocketSubscription>) {
      try {
        socket.data.#connected(socket);
      } catch (error) {
        fault(error);
      }
    },
    handshake(socket: Socket<SocketSubscription>, trusted: boolean, problem: Error | null) {
      try {
        socket.data.#secured(socket, trusted, problem);
      } catch (error) {
        fault(error);
      }
    },
    data(socket: Socket<SocketSubscription>, bytes: Uint8Array) {
      try {
        const subscription = socket.data;
        if (subscription.#socket === socket) subscription.#received(bytes);
      } catch (error) {
        fault(error);
      }
    },
    drain(socket: Socket<SocketSubscription>) {
      socket.data.#drained();
    },
    close(socket: Socket<SocketSubscription>) {
      try {
        const subscription = socket.data;
        if (subscription.#socket === socket) subscription.#lost('');
      } catch (error) {
        fault(error);
      }
    },
    error(socket: Socket<SocketSubscription>, error: Error) {
      try {
        const subscription = socket.data;
        if (subscription.#socket === socket) subscription.#lost(error.message);
      } catch (error) {
        fault(error);
      }
    },
    connectError(socket: Socket<SocketSubscription>, error: Error) {
      try {
        socket.data.#notConnected(error);
      } catch (error) {
        fault(error);
      }
    },
  };

  done = false;
  paused = false;
  readonly #events: SubscriptionEvents;
  readonly #wheel: Wheel;
  readonly #slot: number;
  readonly #reader: MessageReader;
  /** null: it is open, or it has ended. */
  #opening: Opening | null;
  #socket: Socket<SocketSubscription> | null = null;
  #alive = true;
  #silentPeriods = 0;
  /** Payload of the newest ping of what is being read. */
  #pinged: Uint8Array | null = null;
  /** What the socket did not take of what we sent: nothing may come before it. */
  #unsent: Uint8Array | null = null;

  constructor(options: SubscribeOptions, events: SubscriptionEvents, deps: SubscriptionDeps) {
    this.#events = events;
    this.#reader = new MessageReader(options.maxFrameBytes);
    this.#wheel = wheelOf(options.pingIntervalMs);
    this.#slot = this.#wheel.add(this);
    this.#opening = {
      options,
      deps,
      key: randomBytes(16).toString('base64'),
      addresses: [],
      tried: 0,
      connecting: 0,
      answer: NO_BYTES,
      deadline: undefined,
      next: undefined,
    };
    const lookup = (deps.lookupFor ?? guardedLookup)(options.allowPrivateAddresses);
    const name = options.hostname.replace(/:\d+$/, '');
    void lookup.addresses(name).then((result) => this.#resolved(result));
  }

  pause(): void {
    if (this.paused || this.done) return;
    this.paused = true;
    if (this.#opening === null) this.#socket!.pause();
  }

  resume(): void {
    if (!this.paused || this.done) return;
    this.paused = false;
    this.#alive = true;
    this.#silentPeriods = 0;
    if (this.#opening === null) this.#socket!.resume();
  }

  end(outcome: CloseOutcome): void {
    if (this.done) return;
    this.done = true;
    this.#wheel.remove(this, this.#slot);
    this.#settle();
    // At once, whatever the other end does: no goodbye that it could leave unanswered.
    this.#socket?.terminate();
    this.#events.closed(outcome);
  }

  // --- opening ---

  /** Whatever comes of it: there is nothing more to be opened. */
  #settle(): void {
    if (this.#opening === null) return;
    clearTimeout(this.#opening.deadline);
    clearTimeout(this.#opening.next);
    this.#opening = null;
  }

  #resolved(result: LookupResult): void {
    const opening = this.#opening;
    if (opening === null) return;
    if (!result.ok) {
      const kind = result.kind === 'forbidden_address' ? result.kind : 'unreachable';
      this.end({ kind, detail: plain(result.detail) });
      return;
    }
    opening.addresses = result.addresses;
    opening.deadline = setTimeout(
      () => this.end({ kind: 'unreachable', detail: 'the handshake did not end in time' }),
      opening.options.handshakeTimeoutMs,
    );
    this.#connect(opening);
  }

  /** Begins with the next address, if there is one and none is connected. */
  #connect(opening: Opening): void {
    const address = opening.addresses[opening.tried];
    if (address === undefined || this.#socket !== null || this.done) return;
    opening.tried++;
    opening.connecting++;
    clearTimeout(opening.next);
    opening.next = setTimeout(() => this.#connect(opening), NEXT_ADDRESS_MS);
    const { hostname, secure } = opening.options;
    const { ca } = opening.deps;
    const [name, port] = hostname.split(':');
    Bun.connect({
      // The address that was checked, and no other: a name would be looked up again.
      hostname: address.address,
      port: port === undefined ? (secure ? SECURE_PORT : PLAIN_PORT) : Number(port),
      // The certificate has to be the name's.
      ...(secure
        ? { tls: { serverName: name!, rejectUnauthorized: true, ...(ca === undefined ? {} : { ca }) } }
        : {}),
      socket: SocketSubscription.#handlers,
      data: this,
    }).catch(() => {
      // `connectError` was told.
    });
  }

  #notConnected(error: Error & { code?: string }): void {
    const opening = this.#opening;
    if (opening === null || this.#socket !== null) return;
    opening.connecting--;
    if (opening.tried < opening.addresses.length) this.#connect(opening);
    else if (opening.connecting === 0)
      this.end({ kind: 'unreachable', detail: plain(error.code ?? error.message) });
  }

  #connected(socket: Socket<SocketSubscription>): void {
    if (this.#opening === null || this.#socket !== null) {
      // Too late, or second.
      socket.terminate();
      return;
    }
    this.#socket = socket;
    clearTimeout(this.#opening.next);
    if (!this.#opening.options.secure) this.#ask(this.#opening);
  }

  #secured(
    socket: Socket<SocketSubscription>,
    trusted: boolean,
    problem: (Error & { code?: string }) | null,
  ): void {
    if (this.#opening === null || this.#socket !== socket) return;
    if (trusted && problem === null) this.#ask(this.#opening);
    else
      this.end({
        kind: 'unreachable',
        detail: plain(`TLS: ${problem?.code ?? problem?.message ?? 'not trusted'}`),
      });
  }

  #ask({ options, key }: Opening): void {
    const { hostname, cursor, userAgent } = options;
    const path = `/xrpc/com.atproto.sync.subscribeRepos${cursor === null ? '' : `?cursor=${cursor}`}`;
    this.#send(Buffer.from(handshakeRequest({ host: hostname, path, userAgent, key }), 'latin1'));
  }

  /** Bytes of the answer to our request. Returns what follows it; null: it is not open. */
  #answered(opening: Opening, bytes: Uint8Array): Uint8Array | null {
    const joined = new Uint8Array(opening.answer.length + bytes.length);
    joined.set(opening.answer);
    joined.set(bytes, opening.answer.length);
    opening.answer = joined;
    const answer = readHandshake(opening.answer, opening.key);
    switch (answer.kind) {
      case 'more':
        return null;
      case 'invalid':
        this.end({ kind: 'unreachable', detail: answer.detail });
        return null;
      case 'status': {
        const { status, retryAfter } = answer;
        this.end({
          kind: 'http_status',
          status,
          retryAfterMs: readRetryAfter(retryAfter, (opening.deps.nowMs ?? Date.now)()),
        });
        return null;
      }
      case 'open':
        this.#settle();
        if (this.paused) this.#socket!.pause();
        this.#events.opened(plain(answer.server));
        return opening.answer.subarray(answer.rest);
    }
  }

  // --- open ---

  #received(bytes: Uint8Array): void {
    if (this.done) return;
    this.#alive = true;
    const frames = this.#opening === null ? bytes : this.#answered(this.#opening, bytes);
    if (frames === null) return;
    const close = this.#reader.read(frames, this);
    if (this.done) return;
    if (this.#pinged !== null) {
      this.#send(controlFrame('pong', this.#pinged, randomBytes(MASK_BYTES)));
      this.#pinged = null;
    }
    if (close !== null) this.end({ kind: 'closed', code: close.code, reason: plain(close.reason) });
  }

  binary(bytes: Uint8Array): void {
    this.#events.frame(bytes);
  }

  text(): void {
    this.#events.text();
  }

  ping(payload: Uint8Array): void {
    // One answer to all of a read is enough (RFC 6455, section 5.5.3).
    this.#pinged = payload;
  }

  pong(): void {}

  beat(): void {
    // Until it is open it has a deadline.
    if (this.#opening !== null) return;
    if (this.paused || this.#alive) this.#silentPeriods = 0;
    else if (++this.#silentPeriods >= MAX_SILENT_PERIODS) {
      this.end({ kind: 'silent' });
      return;
    }
    this.#alive = false;
    // Paused sockets are pinged too: the answer is not read, but proxies see traffic.
    this.#send(PING);
  }

  /** Pings and pongs behind something that the socket did not take are left out: the other end does not read. */
  #send(bytes: Uint8Array): void {
    if (this.#unsent !== null) return;
    const sent = Math.max(0, this.#socket!.write(bytes));
    if (sent < bytes.length) this.#unsent = bytes.subarray(sent);
  }

  #drained(): void {
    const bytes = this.#unsent;
    if (bytes === null || this.done) return;
    this.#unsent = null;
    this.#send(bytes);
  }

  /** The connection is gone, without a word of the protocol. */
  #lost(why: string): void {
    if (this.done) return;
    if (this.#opening === null) this.end({ kind: 'closed', code: CLOSE_CODE.abnormal, reason: plain(why) });
    else this.end({ kind: 'unreachable', detail: plain(why || 'closed before the handshake ended') });
  }
}

/**
 * Makes `subscribe` for one thread. `subscribe` opens
 * `ws(s)://HOSTNAME/xrpc/com.atproto.sync.subscribeRepos[?cursor=N]` and reports through `events`; `closed` is
 * never called before `subscribe` has returned. Memory per connection is bounded by `maxFrameBytes` and the
 * socket's own buffers, paused or not.
 */
export const createSubscribe =
  (deps: SubscriptionDeps = {}): Subscribe =>
  (options, events) => {
    const { hostname, allowPrivateAddresses } = options;
    const parsed = parseHostname(hostname, { allowLocalhost: allowPrivateAddresses });
    if (!parsed.ok) return refuse(parsed.error, events);
    return new SocketSubscription(options, events, deps);
  };

/** A subscription that never opens. */
const refuse = (detail: string, events: SubscriptionEvents): Subscription => {
  let done = false;
  const end = (outcome: CloseOutcome): void => {
    if (done) return;
    done = true;
    events.closed(outcome);
  };
  queueMicrotask(() => end({ kind: 'forbidden_address', detail }));
  return { paused: false, pause() {}, resume() {}, end };
};

/** `subscribe` of this thread, over its guarded look-ups. */
export const subscribe: Subscribe = createSubscribe();
