/**
 * One host in memory, and who writes which of its fields. The roster is the only writer of most; the sequencer
 * writes what follows from events. Nobody else writes anything.
 */
import type { Reason } from '../reasons.ts';
import type { HostRow, HostSource } from '../state/types.ts';
import type { Life } from './lifecycle.ts';
import type { HostLimits, HostView } from './types.ts';

/**
 * Events of a DID come to the sequencer in their order. So what comes again after a crash and stands before a logged
 * event of its DID, but is not logged itself, was refused; by what is known now it might be taken, in the wrong order.
 */
export interface JudgedBefore {
  /** DID → upstream seq of its last logged event. */
  readonly byDid: Map<string, number>;
  /** The greatest of them: a cursor there needs none of this. */
  until: number;
  /** Void when the cursor was set since. */
  readonly cursorEpoch: number;
}

export interface HostState {
  readonly hostId: number;
  readonly hostname: string;
  readonly secure: boolean;
  readonly createdAtMs: number;

  // ---- written by the sequencer ----
  /**
   * Upstream seq up to which everything is in our log or dropped on purpose; 0 = nothing came yet. May run ahead of
   * the disk: a row taken by `takeDirty` may be stored only when all that was appended before is durable.
   * Never write what came in under an older `cursorEpoch`.
   */
  cursor: number;
  /** Upstream seqs above `cursor` that are already in our log, or were refused by the sequencer. */
  ahead: Set<number>;
  /** What was judged before a crash beyond what is stored; null = nothing. */
  judged: JudgedBefore | null;
  /** Accounts of this host that are not deleted. Change it through `roster.accountsChanged`. */
  accountCount: number;
  /** Events held for this host (waiting for an identity). */
  pendingEvents: number;

  // ---- written by the roster ----
  /** Grows whenever the roster sets `cursor` and `ahead` itself (reset to live, trial): older progress is void. */
  cursorEpoch: number;
  source: HostSource;
  life: Life;
  /** Banned itself (not merely below a banned domain). */
  ownBan: boolean;
  trusted: boolean;
  /** What the upstream relay counts; 0 = unknown. */
  expectedAccounts: number;
  accountLimit: number | null;
  eventsPerSecondLimit: number | null;
  validation: 'strict' | 'lenient' | null;
  limits: HostLimits;
  /** Server header of the last upgrade. */
  server: string;
  lastClose: string;
  lastCloseAtMs: number | null;
  lastEventAtMs: number;
  eventsSinceStart: number;
  readonly rejectionsSinceStart: Partial<Record<Reason, number>>;
  pausedFor: HostView['pausedFor'];

  // ---- of the running or last connection, written by the roster ----
  /** What it was asked to begin after; null = live. */
  cursorAtConnect: number | null;
  eventsAtConnect: number;
  /** Cursor put aside while a connection without it is tried. */
  heldCursor: { readonly cursor: number; readonly ahead: Set<number> } | null;
  accountsAtLimits: number;
}

/** The row as it would be stored now. */
export const rowOf = (host: HostState, status: string): HostRow => {
  const kept = host.heldCursor !== null && host.cursor === 0 ? host.heldCursor : host;
  return {
    hostId: host.hostId,
    hostname: host.hostname,
    secure: host.secure,
    source: host.source,
    banned: host.ownBan,
    status,
    cursor: kept.cursor,
    ahead: kept.ahead.size === 0 ? [] : [...kept.ahead].sort((a, b) => a - b),
    accountCount: host.accountCount,
    expectedAccounts: host.expectedAccounts,
    accountLimit: host.accountLimit,
    eventsPerSecondLimit: host.eventsPerSecondLimit,
    validation: host.validation,
    createdAtMs: host.createdAtMs,
    lastEventAtMs: host.lastEventAtMs,
    connectedUntilMs: host.life.connectedUntilMs,
    failures: host.life.failures,
  };
};

/** The row of a host that nothing is known of yet. */
export const newHostRow = (
  host: Pick<HostRow, 'hostname' | 'secure' | 'source' | 'createdAtMs'>,
): Omit<HostRow, 'hostId'> => ({
  ...host,
  banned: false,
  status: 'idle',
  cursor: 0,
  ahead: [],
  accountCount: 0,
  expectedAccounts: 0,
  accountLimit: null,
  eventsPerSecondLimit: null,
  validation: null,
  lastEventAtMs: 0,
  connectedUntilMs: null,
  failures: 0,
});
