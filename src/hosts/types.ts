import type { Reason } from '../reasons.ts';
import type { HostRow, HostSource } from '../state/types.ts';

/** How one connection ended. The words are shown on host pages, in logs and in metrics. */
export type CloseOutcome =
  | { readonly kind: 'unreachable'; readonly detail: string } // DNS, TCP, TLS, handshake timeout
  | { readonly kind: 'forbidden_address'; readonly detail: string } // the SSRF guard refused it
  | { readonly kind: 'http_status'; readonly status: number; readonly retryAfterMs: number | null }
  | { readonly kind: 'closed'; readonly code: number; readonly reason: string }
  | { readonly kind: 'error_frame'; readonly error: string; readonly message: string }
  | { readonly kind: 'silent' } // two ping periods without a pong or a byte
  | { readonly kind: 'malformed' } // kept sending malformed frames
  | { readonly kind: 'throttled'; readonly waitMs: number } // over a long rate limit: come back later from the cursor
  | { readonly kind: 'stopped' }; // by us: shutdown, ban, reconnect

export interface SubscriptionEvents {
  /** `server`: the host's Server header on the upgrade, '' when absent. */
  opened(server: string): void;
  /** A binary message; the bytes are the receiver's to keep. */
  frame(bytes: Uint8Array): void;
  /** A text message: counted, never parsed. */
  text(): void;
  /** Exactly once, also when it never opened. Nothing is called after it. */
  closed(outcome: CloseOutcome): void;
}

/** One outbound WebSocket. */
export interface Subscription {
  readonly paused: boolean;
  /** Stop reading; up to one more read may still arrive. Liveness checks stand still while paused. */
  pause(): void;
  resume(): void;
  /** Ends it at once, paused or not, with the given outcome. */
  end(outcome: CloseOutcome): void;
}

export interface SubscribeOptions {
  readonly hostname: string;
  readonly secure: boolean;
  /** null = live. */
  readonly cursor: number | null;
  readonly userAgent: string;
  readonly allowPrivateAddresses: boolean;
  readonly handshakeTimeoutMs: number;
  readonly pingIntervalMs: number;
  readonly maxFrameBytes: number;
}

export type Subscribe = (options: SubscribeOptions, events: SubscriptionEvents) => Subscription;

/** Rate limits of one host; they delay, never drop. */
export interface HostLimits {
  readonly perSecond: number;
  readonly perHour: number;
  readonly perDay: number;
}

/** What the roster tells the ingest side. */
export interface IngestControl {
  connect(command: {
    readonly hostId: number;
    readonly hostname: string;
    readonly secure: boolean;
    readonly cursor: number | null;
    /** Upstream seqs above the cursor that are already in our log: to be skipped silently. */
    readonly skip: readonly number[];
    readonly limits: HostLimits;
    readonly validation: 'strict' | 'lenient';
  }): void;
  /** The roster is told `closed` with outcome 'stopped' when done. */
  disconnect(hostId: number): void;
  setLimits(hostId: number, limits: HostLimits): void;
}

/** What the page, listHosts, pds/list and metrics show of one host. */
export interface HostView {
  readonly row: HostRow;
  readonly trusted: boolean;
  readonly connected: boolean;
  readonly connectedSinceMs: number | null;
  readonly nextAttemptAtMs: number | null;
  /** The last close, in words; '' when none. */
  readonly lastClose: string;
  readonly lastCloseAtMs: number | null;
  readonly limits: HostLimits;
  readonly accountLimit: number;
  readonly eventsSinceStart: number;
  readonly rejectionsSinceStart: Readonly<Partial<Record<Reason, number>>>;
  /** Why its socket is not being read right now; null = it is. */
  readonly pausedFor: 'rate_limit' | 'pending_identities' | null;
  readonly pendingEvents: number;
}

export type CrawlResult =
  | { readonly ok: true; readonly hostId: number; readonly known: boolean }
  | {
      readonly ok: false;
      readonly error: 'InvalidRequest' | 'HostNotFound' | 'HostBanned' | 'RateLimitExceeded';
      readonly message: string;
      readonly retryAfterSeconds?: number;
    };

/** The hosts room as the API, the metrics and the pages see it. */
export interface Roster {
  /** Oldest first (by id). */
  list(): readonly HostView[];
  get(hostname: string): HostView | null;
  getById(hostId: number): HostView | null;
  /** All checks of section 3; an already known host reconnects now. */
  requestCrawl(hostname: string, options: { readonly source: HostSource }): Promise<CrawlResult>;
  /** Cuts a live connection at once. false: unknown host. */
  ban(hostname: string): Promise<boolean>;
  unban(hostname: string): Promise<boolean>;
  /** Domain and everything below it; cuts live connections. */
  banDomain(domain: string): Promise<void>;
  unbanDomain(domain: string): Promise<void>;
  readonly domainBans: readonly string[];
}
