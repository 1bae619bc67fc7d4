/**
 * One outbound WebSocket to a host's `com.atproto.sync.subscribeRepos`. Owns the socket and its liveness, and
 * nothing else: no retries, no parsing. Promises exactly one `closed`, after which nothing is called, however
 * the connection ends: refused, stalled, redirected (never followed), silent, over the frame limit, or by us.
 * Follows the atproto specs "Event Stream" (one frame per binary message) and "Sync".
 */
import WebSocket from 'ws';
import { parseHostname } from '../network/hostname.ts';
import { FORBIDDEN_ADDRESS_CODE, type GuardedLookup, guardedLookup } from '../network/lookup.ts';
import type { CloseOutcome, Subscribe, SubscribeOptions, Subscription, SubscriptionEvents } from './types.ts';

export interface SubscriptionDeps {
  /** Look-ups that guard and pin the address. Default: those of this thread. */
  readonly lookupFor?: (allowPrivateAddresses: boolean) => GuardedLookup;
  readonly nowMs?: () => number;
}

/** Texts from outside (close reasons, error messages) are shown on pages: short, one line. */
const MAX_DETAIL_CHARACTERS = 200;
/** Two whole ping periods without a sign of life end a connection. */
const MAX_SILENT_PERIODS = 2;
/** The wheel visits one of this many slots at a time, so that thousands of pings do not leave in one burst. */
const WHEEL_SLOTS = 30;
/** Backstop over the deadlines of the look-up (whose own ones are shorter) and of the handshake. */
const HANDSHAKE_BACKSTOP_MS = 45_000;

const plain = (text: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is taken out
  text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ').slice(0, MAX_DETAIL_CHARACTERS);

/**
 * Retry-After in ms: seconds or an HTTP date (RFC 9110, section 10.2.3). null: absent or not understood.
 * Never negative; not bounded above, which is the reader's business.
 */
export const parseRetryAfter = (value: string | undefined, nowMs: number): number | null => {
  if (value === undefined) return null;
  const text = value.trim();
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1_000;
  if (!/^[A-Za-z]{3},? /.test(text)) return null;
  const at = Date.parse(text);
  return Number.isNaN(at) ? null : Math.max(0, at - nowMs);
};

interface Pinged {
  /** Called once per ping period. */
  beat(nowMs: number): void;
}

/** Slots of connections, one timer for all of them: it runs only while there are members. */
const createWheel = (periodMs: number, nowMs: () => number) => {
  const slots: Set<Pinged>[] = Array.from({ length: WHEEL_SLOTS }, () => new Set());
  let at = 0;
  let size = 0;
  let timer: ReturnType<typeof setInterval> | null = null;
  const turn = (): void => {
    at = (at + 1) % WHEEL_SLOTS;
    const now = nowMs();
    for (const member of slots[at]!) member.beat(now);
  };
  return {
    get size() {
      return size;
    },
    /** The newcomer joins the slot just visited: its first beat comes a whole period later. */
    add(member: Pinged): () => void {
      const slot = slots[at]!;
      slot.add(member);
      size++;
      timer ??= setInterval(turn, periodMs / WHEEL_SLOTS);
      return () => {
        if (!slot.delete(member)) return;
        size--;
        if (size === 0 && timer !== null) {
          clearInterval(timer);
          timer = null;
        }
      };
    },
  };
};

type Wheel = ReturnType<typeof createWheel>;

/** One wheel per period and thread; periods come from our own configuration, so there are one or two. */
const wheels = new Map<number, Wheel>();

const wheelOf = (periodMs: number, nowMs: () => number): Wheel => {
  let wheel = wheels.get(periodMs);
  if (wheel === undefined) {
    wheel = createWheel(periodMs, nowMs);
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

/**
 * Makes `subscribe` for one thread. `subscribe` opens
 * `ws(s)://HOSTNAME/xrpc/com.atproto.sync.subscribeRepos[?cursor=N]` and reports through `events`; `closed` is
 * never called before `subscribe` has returned. Memory per connection is bounded by `maxFrameBytes` and the
 * socket's own buffers, paused or not.
 */
export const createSubscribe = (deps: SubscriptionDeps = {}): Subscribe => {
  const { lookupFor = guardedLookup, nowMs = Date.now } = deps;

  const open = (options: SubscribeOptions, events: SubscriptionEvents): Subscription => {
    const scheme = options.secure ? 'wss' : 'ws';
    const query = options.cursor === null ? '' : `?cursor=${options.cursor}`;
    const startedAtMs = nowMs();
    let server = '';
    let opened = false;
    let done = false;
    let paused = false;
    let alive = true;
    let silentPeriods = 0;
    /** What an `error` event said; the `close` event that follows ends it. */
    let failure: CloseOutcome | null = null;

    const url = `${scheme}://${options.hostname}/xrpc/com.atproto.sync.subscribeRepos${query}`;
    const socket = new WebSocket(url, {
      perMessageDeflate: false,
      followRedirects: false,
      maxPayload: options.maxFrameBytes,
      handshakeTimeout: options.handshakeTimeoutMs,
      headers: { 'User-Agent': options.userAgent },
      lookup: lookupFor(options.allowPrivateAddresses).lookup,
    } as unknown as WebSocket.ClientOptions);
    socket.binaryType = 'nodebuffer';

    const finish = (outcome: CloseOutcome): void => {
      if (done) return;
      done = true;
      leaveWheel();
      // terminate() and not close(): close() waits for the peer, and for ever while the socket is paused.
      socket.terminate();
      events.closed(outcome);
    };

    const leaveWheel = wheelOf(options.pingIntervalMs, nowMs).add({
      beat(now) {
        if (!opened) {
          if (now - startedAtMs > options.handshakeTimeoutMs + HANDSHAKE_BACKSTOP_MS)
            finish({ kind: 'unreachable', detail: 'the handshake did not end' });
          return;
        }
        if (paused || alive) silentPeriods = 0;
        else if (++silentPeriods >= MAX_SILENT_PERIODS) {
          finish({ kind: 'silent' });
          return;
        }
        alive = false;
        // Paused sockets are pinged too: the answer is not read, but proxies see traffic.
        if (socket.readyState === WebSocket.OPEN) socket.ping();
      },
    });

    socket.on('upgrade', (response) => {
      const header = response.headers.server;
      server = typeof header === 'string' ? plain(header) : '';
    });
    socket.on('open', () => {
      if (done) return;
      opened = true;
      alive = true;
      if (paused) socket.pause();
      events.opened(server);
    });
    socket.on('message', (data: Buffer, isBinary: boolean) => {
      if (done) return;
      alive = true;
      if (isBinary) events.frame(data);
      else events.text();
    });
    socket.on('pong', () => {
      alive = true;
    });
    socket.on('ping', () => {
      alive = true;
    });
    socket.on('unexpected-response', (_request, response) => {
      const status = response.statusCode ?? 0;
      const retryAfter = response.headers['retry-after'];
      finish({ kind: 'http_status', status, retryAfterMs: parseRetryAfter(retryAfter, nowMs()) });
    });
    socket.on('error', (error: Error & { code?: string }) => {
      if (done) return;
      if (error.code === FORBIDDEN_ADDRESS_CODE)
        failure = { kind: 'forbidden_address', detail: plain(error.message) };
      else if (!opened) failure = { kind: 'unreachable', detail: plain(error.message) };
      else if (error.code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH')
        failure = { kind: 'closed', code: 1009, reason: `a frame over ${options.maxFrameBytes} bytes` };
      else failure = { kind: 'closed', code: 1002, reason: plain(error.message) };
    });
    socket.on('close', (code: number, reason: Buffer) => {
      finish(
        failure ??
          (opened
            ? { kind: 'closed', code, reason: plain(String(reason)) }
            : { kind: 'unreachable', detail: 'closed before the handshake ended' }),
      );
    });

    return {
      get paused() {
        return paused;
      },
      pause() {
        if (paused || done) return;
        paused = true;
        if (opened) socket.pause();
      },
      resume() {
        if (!paused || done) return;
        paused = false;
        alive = true;
        silentPeriods = 0;
        if (opened) socket.resume();
      },
      end: finish,
    };
  };

  return (options, events) => {
    // A look-up guards names only: a literal address or a port would pass by it.
    const { hostname, allowPrivateAddresses } = options;
    const parsed = parseHostname(hostname, { allowLocalhost: allowPrivateAddresses });
    return parsed.ok ? open(options, events) : refuse(parsed.error, events);
  };
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
