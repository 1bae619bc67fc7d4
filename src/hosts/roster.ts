/**
 * The roster: every host we know, what it is doing, and when it is tried next. The only writer of host status and
 * the only one that connects and disconnects. One timer for all hosts; at most MAX_OPENING connections being
 * opened at a time; at most one connection per host.
 *
 * The ingest side reports `opened`, `closed`, `info`, `paused`; the sequencer writes its fields of HostState (see
 * host.ts), calls `eventTaken`, `rejected`, `accountsChanged`, and takes what is to be stored by `takeDirty`.
 */
import type { Config } from '../config.ts';
import type { Clock } from '../network/clock.ts';
import type { GuardedFetch } from '../network/fetch.ts';
import type { Reason } from '../reasons.ts';
import type { GapRow, HostRow, HostSource, RejectionRow, State } from '../state/types.ts';
import { createCrawl, parseHostEntry } from './crawl.ts';
import { type HostState, newHostRow, rowOf } from './host.ts';
import {
  backoffMs,
  type GapCause,
  type Life,
  type LifeInput,
  newLife,
  nextWakeMs,
  step,
} from './lifecycle.ts';
import { accountLimitFor, isTrusted, limitsFor, NAMED_HOST_MIN_ACCOUNTS } from './limits.ts';
import { createSchedule } from './schedule.ts';
import type { CloseOutcome, CrawlResult, HostLimits, HostView, IngestControl, Roster } from './types.ts';
import { closeInWords, isRelayServer } from './words.ts';

/** Connections being opened at once: DNS and TLS of more would starve the process and the resolver. */
export const MAX_OPENING = 64;
/** First attempts are spread by this much per host: 3,000 hosts in 15 s, a handshake each 5 ms. */
export const START_SPACING_MS = 5;
/** After a restart the backoff of failing hosts goes on, but nobody waits longer than this for the first attempt. */
const MAX_RESTART_BACKOFF_MS = 5 * 60_000;
/** Seven times today's network. A host costs about 2 KB and a socket. */
export const MAX_HOSTS = 20_000;
/** An account count that moved by this share (and this many) makes new rate limits. */
const LIMITS_CHANGE_SHARE = 0.1;
const LIMITS_CHANGE_ACCOUNTS = 100;
/** Gaps and rejections waiting to be stored; the oldest go first. Only a database that is away fills them. */
const MAX_PENDING_NOTES = 10_000;
/** Domain bans are made by the operator one by one. */
const MAX_DOMAIN_BANS = 10_000;
const MAX_TIMER_MS = 60_000;

const SOURCE_RANK: Readonly<Record<HostSource, number>> = { crawl: 0, upstream: 1, config: 2, admin: 3 };

const GAP_WORDS: Readonly<Record<GapCause, string>> = {
  cursor_too_old: 'cursor_too_old: we were away from it for longer than a cursor may be old',
  future_cursor: 'future_cursor: the host says our cursor is ahead of its stream',
  cursor_fails: 'cursor_fails: connections with our cursor kept failing, one without it did not',
};

export interface RosterConfig
  extends Pick<
    Config,
    'trustedDomains' | 'validation' | 'allowInsecureHosts' | 'hostAccountLimit' | 'newHostsPerDay'
  > {
  readonly userAgent: string;
}

export interface RosterDeps {
  readonly rows: readonly HostRow[];
  readonly domainBans: readonly string[];
  readonly state: Pick<State, 'insertHost' | 'setDomainBan'>;
  readonly ingest: IngestControl;
  readonly clock: Clock;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  readonly fetch: GuardedFetch;
  readonly config: RosterConfig;
  /** Called when a change should be stored soon rather than with the next flush (bans). */
  readonly storeSoon?: () => Promise<void>;
  /** One line for the log. */
  readonly log?: (level: 'info' | 'warn', message: string, fields: Record<string, string | number>) => void;
}

/** What is to be stored with the next flush. */
export interface Dirty {
  readonly hosts: readonly HostRow[];
  readonly gaps: readonly GapRow[];
  readonly rejections: readonly RejectionRow[];
}

export interface NewHost {
  readonly hostname: string;
  /** What the upstream relay counts; absent: unknown. */
  readonly accountCount?: number;
}

export interface RosterCounters {
  hosts: number;
  /** Not banned. */
  wanted: number;
  /** Being opened now. */
  opening: number;
  /** Open now. */
  connected: number;
  /** Due, but no slot free. */
  waitingForSlot: number;
  attempts: number;
  opened: number;
  closed: number;
  gaps: number;
  cursorResets: number;
  relaysRefused: number;
  notesDropped: number;
  hostsRefused: number;
}

export interface HostRoster extends Roster {
  /** Begins to connect. */
  start(): void;
  /** Ends all connections; resolves when the ingest side has reported all of them closed. */
  stop(): Promise<void>;

  /** The mutable host, for the sequencer; its fields are owned as host.ts says. */
  host(hostId: number): HostState | undefined;
  hostByName(hostname: string): HostState | undefined;

  // The ingest side. Unknown ids and reports that do not fit the host's phase are ignored.
  opened(hostId: number, server: string): void;
  closed(hostId: number, outcome: CloseOutcome): void;
  info(hostId: number, name: string, message: string): void;
  paused(hostId: number, pausedFor: HostView['pausedFor']): void;

  // The sequencer.
  /** An event of the host was appended. */
  eventTaken(host: HostState): void;
  rejected(host: HostState, reason: Reason): void;
  accountsChanged(host: HostState, delta: number): void;
  /** How many accounts the host may have. */
  accountLimitOf(host: HostState): number;
  markDirty(host: HostState): void;
  /** Rows of all hosts that changed since the last call, and the notes. They are the caller's now. */
  takeDirty(): Dirty;
  /** Storing failed: hosts and notes count as changed again. */
  giveBack(dirty: Dirty): void;

  /**
   * Adds hosts that the operator or the upstream relay names, without asking each of them: syntax, bans and the
   * number of hosts are checked here, the address when connecting, the relay mark on the upgrade.
   */
  addHosts(
    hosts: readonly NewHost[],
    source: HostSource,
  ): Promise<{ readonly added: number; readonly known: number; readonly refused: number }>;

  // The operator. false: unknown host. They throw a RangeError for what is no limit: no number, or below 0.
  /** Accounts that waited for room come in with their next events. */
  setAccountLimit(hostname: string, limit: number | null): boolean;
  setEventsPerSecondLimit(hostname: string, perSecond: number | null): boolean;
  /** Takes effect with the host's next connection. */
  setValidation(hostname: string, validation: 'strict' | 'lenient' | null): boolean;
  /** Cuts the connection; it is opened again in a second or two. */
  reconnect(hostname: string): boolean;

  readonly counters: Readonly<RosterCounters>;
  readonly crawlCounters: Readonly<Record<string, number>>;
}

const withoutPort = (hostname: string): string => {
  const colon = hostname.indexOf(':');
  return colon === -1 ? hostname : hostname.slice(0, colon);
};

/** Lower case, without a leading `*.` or dot; null: not a domain. */
export const normalizeDomain = (text: string): string | null => {
  const domain = text
    .trim()
    .toLowerCase()
    .replace(/^\*?\./, '')
    .replace(/\.$/, '');
  if (domain.length > 253 || !/^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$/.test(domain)) return null;
  return domain;
};

export const createRoster = (deps: RosterDeps): HostRoster => {
  const { ingest, clock, random, config } = deps;
  const byId = new Map<number, HostState>();
  const byName = new Map<string, HostState>();
  const domainBans = new Set(deps.domainBans);
  const schedule = createSchedule<HostState>();
  /** Due, in the order they became due, waiting for a slot. */
  const ready = new Set<HostState>();
  const inserting = new Map<string, Promise<HostState | null>>();
  let dirty = new Set<HostState>();
  let gaps: GapRow[] = [];
  let rejections: RejectionRow[] = [];
  let cancelTimer: (() => void) | null = null;
  let timerAtMs = Number.POSITIVE_INFINITY;
  let running = false;
  let stopping = false;
  let rampAtMs = 0;
  let allClosed: (() => void) | null = null;
  /** Hosts with a connection that is not reported closed. */
  let sockets = 0;
  const counters: RosterCounters = {
    hosts: 0,
    wanted: 0,
    opening: 0,
    connected: 0,
    waitingForSlot: 0,
    attempts: 0,
    opened: 0,
    closed: 0,
    gaps: 0,
    cursorResets: 0,
    relaysRefused: 0,
    notesDropped: 0,
    hostsRefused: 0,
  };

  const note = <T>(list: T[], item: T): void => {
    if (list.length >= MAX_PENDING_NOTES) {
      list.shift();
      counters.notesDropped++;
    }
    list.push(item);
  };

  /** What the host sent after this cursor may be lost; up to where, nobody knows. */
  const recordGap = (host: HostState, cursor: number, why: string): void => {
    counters.gaps++;
    // A host may number as high as there are seqs: after the last one comes none.
    const fromSeq = Math.min(cursor + 1, Number.MAX_SAFE_INTEGER);
    note(gaps, { hostId: host.hostId, fromSeq, toSeq: 0, why, atMs: clock.nowMs() });
    deps.log?.('warn', 'gap in the stream of a host', { host: host.hostname, fromSeq, why });
  };

  // ---- limits ----

  const accountsOf = (host: HostState): number =>
    Math.max(host.accountCount, host.expectedAccounts, host.source === 'crawl' ? 0 : NAMED_HOST_MIN_ACCOUNTS);

  const freshLimits = (host: HostState): HostLimits => {
    host.accountsAtLimits = host.accountCount;
    return limitsFor({
      accounts: accountsOf(host),
      trusted: host.trusted,
      perSecondOverride: host.eventsPerSecondLimit,
    });
  };

  const renewLimits = (host: HostState): void => {
    host.limits = freshLimits(host);
    if (host.life.phase === 'connecting' || host.life.phase === 'open')
      ingest.setLimits(host.hostId, host.limits);
  };

  const accountLimitOf = (host: HostState): number =>
    accountLimitFor({
      override: host.accountLimit,
      trusted: host.trusted,
      source: host.source,
      expectedAccounts: host.expectedAccounts,
      crawlDefault: config.hostAccountLimit,
    });

  const statusOf = (host: HostState): string =>
    host.life.status === 'active' && host.accountCount >= accountLimitOf(host)
      ? 'throttled'
      : host.life.status;

  // ---- bans ----

  const isDomainBanned = (hostname: string): boolean => {
    if (domainBans.size === 0) return false;
    let name = withoutPort(hostname);
    for (;;) {
      if (domainBans.has(name)) return true;
      const dot = name.indexOf('.');
      if (dot === -1) return false;
      name = name.slice(dot + 1);
    }
  };

  // ---- the machine, and what follows from its effects ----

  const hasSocket = ({ phase }: Life): boolean =>
    phase === 'connecting' || phase === 'open' || phase === 'closing';

  const giveUpCursor = (host: HostState, cursor: number, cause: GapCause): void => {
    counters.cursorResets++;
    recordGap(host, cursor, GAP_WORDS[cause]);
  };

  /**
   * What a host is asked to begin after; null: live. One that has sent nothing since we are connected to it has no
   * cursor, but what it sends while we are away is in its window: it is asked for its oldest event (0).
   */
  const resumeCursor = ({ cursor, life }: HostState): number | null =>
    cursor > 0 || life.connectedUntilMs !== null ? cursor : null;

  const connect = (host: HostState, cursor: number | null): void => {
    counters.attempts++;
    host.cursorAtConnect = cursor;
    host.eventsAtConnect = host.eventsSinceStart;
    host.limits = freshLimits(host);
    ingest.connect({
      hostId: host.hostId,
      hostname: host.hostname,
      secure: host.secure,
      cursor,
      skip: [...host.ahead],
      limits: host.limits,
      validation: host.validation ?? config.validation,
    });
  };

  const setCursor = (host: HostState, cursor: number, ahead: Set<number>): void => {
    host.cursor = cursor;
    host.ahead = ahead;
    host.cursorEpoch++;
  };

  const apply = (host: HostState, input: LifeInput): void => {
    const before = host.life;
    const { life, effects } = step(before, input, clock.nowMs(), random());
    host.life = life;
    if (life.phase !== before.phase) {
      sockets += Number(hasSocket(life)) - Number(hasSocket(before));
      if (before.phase === 'connecting') counters.opening--;
      if (before.phase === 'open') counters.connected--;
      if (life.phase === 'connecting') counters.opening++;
      if (life.phase === 'open') counters.connected++;
      if (life.phase !== 'waiting' && ready.delete(host)) counters.waitingForSlot--;
    }
    counters.wanted += Number(before.status === 'banned') - Number(life.status === 'banned');
    if (
      life.status !== before.status ||
      life.failures !== before.failures ||
      life.connectedUntilMs !== before.connectedUntilMs
    )
      dirty.add(host);
    for (const effect of effects) {
      switch (effect.kind) {
        case 'reset_cursor':
          giveUpCursor(host, host.cursor, effect.cause);
          setCursor(host, 0, new Set());
          dirty.add(host);
          break;
        case 'connect_trial':
          host.heldCursor = { cursor: host.cursor, ahead: host.ahead };
          setCursor(host, 0, new Set());
          connect(host, null);
          break;
        case 'trial_kept':
          if (host.heldCursor !== null) giveUpCursor(host, host.heldCursor.cursor, 'cursor_fails');
          host.heldCursor = null;
          dirty.add(host);
          break;
        case 'trial_ended':
          if (host.heldCursor !== null) setCursor(host, host.heldCursor.cursor, host.heldCursor.ahead);
          host.heldCursor = null;
          break;
        case 'connect':
          connect(host, resumeCursor(host));
          break;
        case 'disconnect':
          ingest.disconnect(host.hostId);
          break;
      }
    }
    if (!ready.has(host)) schedule.set(host, nextWakeMs(host.life));
    if (before.phase === 'connecting' && life.phase !== 'connecting') fillSlots();
    arm();
  };

  const tick = (host: HostState): void =>
    apply(host, { kind: 'tick', hasCursor: resumeCursor(host) !== null });

  let filling = false;
  const fillSlots = (): void => {
    // A connect that ends at once frees its slot within this loop: no deeper, or thousands would pile up the stack.
    if (!running || filling) return;
    filling = true;
    for (const host of ready) {
      if (counters.opening >= MAX_OPENING) break;
      ready.delete(host);
      counters.waitingForSlot--;
      tick(host);
    }
    filling = false;
  };

  const runDue = (): void => {
    cancelTimer = null;
    timerAtMs = Number.POSITIVE_INFINITY;
    if (!running) return;
    const nowMs = clock.nowMs();
    for (;;) {
      const host = schedule.takeDue(nowMs);
      if (host === null) break;
      if (host.life.phase !== 'waiting') tick(host);
      else {
        ready.add(host);
        counters.waitingForSlot++;
      }
    }
    fillSlots();
    arm();
  };

  const arm = (): void => {
    const earliestMs = schedule.earliestMs;
    if (!running || earliestMs === null || earliestMs >= timerAtMs) return;
    cancelTimer?.();
    const nowMs = clock.nowMs();
    const delayMs = Math.min(MAX_TIMER_MS, Math.max(0, earliestMs - nowMs));
    timerAtMs = nowMs + delayMs;
    cancelTimer = clock.after(delayMs, runDue);
  };

  const nextRampMs = (nowMs: number): number => {
    rampAtMs = Math.max(nowMs, rampAtMs) + START_SPACING_MS;
    return rampAtMs;
  };

  // ---- the table ----

  const adopt = (row: HostRow, firstAttemptAtMs: number): HostState => {
    const host: HostState = {
      hostId: row.hostId,
      hostname: row.hostname,
      secure: row.secure,
      createdAtMs: row.createdAtMs,
      cursor: row.cursor,
      ahead: new Set(row.ahead),
      judged: null,
      accountCount: row.accountCount,
      pendingEvents: 0,
      cursorEpoch: 0,
      source: row.source,
      life: newLife({
        banned: row.banned || isDomainBanned(row.hostname),
        status: row.status,
        failures: row.failures,
        firstAttemptAtMs,
        connectedUntilMs: row.connectedUntilMs,
      }),
      ownBan: row.banned,
      trusted: isTrusted(withoutPort(row.hostname), config.trustedDomains),
      expectedAccounts: row.expectedAccounts,
      accountLimit: row.accountLimit,
      eventsPerSecondLimit: row.eventsPerSecondLimit,
      validation: row.validation,
      limits: { perSecond: 0, perHour: 0, perDay: 0 },
      server: '',
      lastClose: '',
      lastCloseAtMs: null,
      lastEventAtMs: row.lastEventAtMs,
      eventsSinceStart: 0,
      rejectionsSinceStart: {},
      pausedFor: null,
      cursorAtConnect: null,
      eventsAtConnect: 0,
      heldCursor: null,
      accountsAtLimits: 0,
    };
    host.limits = freshLimits(host);
    byId.set(host.hostId, host);
    byName.set(host.hostname, host);
    counters.hosts = byId.size;
    if (host.life.status !== 'banned') counters.wanted++;
    schedule.set(host, nextWakeMs(host.life));
    return host;
  };

  const insert = (entry: {
    readonly hostname: string;
    readonly secure: boolean;
    readonly source: HostSource;
  }): Promise<HostState | null> => {
    const existing = byName.get(entry.hostname);
    if (existing !== undefined) return Promise.resolve(existing);
    const pending = inserting.get(entry.hostname);
    if (pending !== undefined) return pending;
    if (byId.size + inserting.size >= MAX_HOSTS) {
      counters.hostsRefused++;
      return Promise.resolve(null);
    }
    const store = async (): Promise<HostState> => {
      const { hostname, secure, source } = entry;
      const row = await deps.state.insertHost(
        newHostRow({ hostname, secure, source, createdAtMs: clock.nowMs() }),
      );
      const host = adopt(row, nextRampMs(clock.nowMs()));
      arm();
      return host;
    };
    const promise = store().finally(() => inserting.delete(entry.hostname));
    inserting.set(entry.hostname, promise);
    return promise;
  };

  /** A host that the operator or the upstream names is no longer limited like one that came by itself. */
  const raiseSource = (host: HostState, source: HostSource): void => {
    if (SOURCE_RANK[source] <= SOURCE_RANK[host.source]) return;
    host.source = source;
    renewLimits(host);
    dirty.add(host);
  };

  const viewOf = (host: HostState): HostView => ({
    row: rowOf(host, statusOf(host)),
    trusted: host.trusted,
    connected: host.life.phase === 'open',
    connectedSinceMs: host.life.openedAtMs,
    nextAttemptAtMs: host.life.nextAttemptAtMs,
    lastClose: host.lastClose,
    lastCloseAtMs: host.lastCloseAtMs,
    limits: host.limits,
    accountLimit: accountLimitOf(host),
    eventsSinceStart: host.eventsSinceStart,
    rejectionsSinceStart: host.rejectionsSinceStart,
    pausedFor: host.pausedFor,
    pendingEvents: host.pendingEvents,
  });

  const startedAtMs = clock.nowMs();
  // Ids grow with age, and `list` promises oldest first.
  for (const row of deps.rows.toSorted((a, b) => a.hostId - b.hostId)) adopt(row, startedAtMs);

  const crawl = createCrawl({
    roster: {
      isBanned: (hostname) => {
        const host = byName.get(hostname);
        return host === undefined ? isDomainBanned(hostname) : host.life.banned;
      },
      retryKnown(hostname, source) {
        const host = byName.get(hostname);
        if (host === undefined) return null;
        raiseSource(host, source);
        apply(host, { kind: 'crawl' });
        return host.hostId;
      },
      insert: async (entry) => (await insert(entry))?.hostId ?? null,
    },
    fetch: deps.fetch,
    clock,
    userAgent: config.userAgent,
    allowInsecureHosts: config.allowInsecureHosts,
    newHostsPerDay: config.newHostsPerDay,
    recentCrawls: deps.rows.filter((row) => row.source === 'crawl').map((row) => row.createdAtMs),
  });

  const find = (hostname: string): HostState | undefined => {
    const parsed = parseHostEntry(hostname, true);
    return parsed.ok ? byName.get(parsed.hostname) : undefined;
  };

  /** Brings the machine in line with the host's own ban and the domain bans. */
  const settleBan = (host: HostState): void => {
    const banned = host.ownBan || isDomainBanned(host.hostname);
    if (banned === host.life.banned) return;
    apply(host, { kind: banned ? 'ban' : 'unban' });
    dirty.add(host);
  };

  const setOwnBan = async (hostname: string, banned: boolean): Promise<boolean> => {
    const host = find(hostname);
    if (host === undefined) return false;
    host.ownBan = banned;
    dirty.add(host);
    settleBan(host);
    await deps.storeSoon?.();
    return true;
  };

  const closed = (host: HostState, outcome: CloseOutcome): void => {
    if (!hasSocket(host.life)) return;
    counters.closed++;
    host.pausedFor = null;
    // Our own disconnect says nothing; what was said before it (a ban's reason) is worth more.
    if (outcome.kind !== 'stopped' || host.life.phase !== 'closing') {
      host.lastClose = closeInWords(outcome);
      host.lastCloseAtMs = clock.nowMs();
    }
    apply(host, {
      kind: 'closed',
      outcome,
      events: host.eventsSinceStart - host.eventsAtConnect,
      progressed: host.cursor !== (host.cursorAtConnect ?? 0),
      hasCursor: host.cursorAtConnect !== null,
    });
    if (stopping && sockets === 0) allClosed?.();
  };

  return {
    start() {
      if (running) return;
      running = true;
      const nowMs = clock.nowMs();
      // Large hosts first: most of the network is back within the first seconds of the ramp.
      const order = [...byId.values()].toSorted((a, b) => b.accountCount - a.accountCount);
      for (const host of order) {
        if (host.life.phase !== 'waiting') continue;
        const backoff =
          host.life.failures === 0
            ? 0
            : Math.min(MAX_RESTART_BACKOFF_MS, backoffMs(host.life.failures, random()));
        const atMs = nextRampMs(nowMs) + backoff + Math.floor(random() * START_SPACING_MS);
        host.life = { ...host.life, nextAttemptAtMs: atMs };
        schedule.set(host, atMs);
      }
      arm();
    },
    stop() {
      stopping = true;
      cancelTimer?.();
      cancelTimer = null;
      running = false;
      const done = new Promise<void>((resolve) => {
        allClosed = resolve;
      });
      for (const host of byId.values()) apply(host, { kind: 'shutdown' });
      if (sockets === 0) allClosed?.();
      return done;
    },

    host: (hostId) => byId.get(hostId),
    hostByName: find,

    opened(hostId, server) {
      const host = byId.get(hostId);
      if (host === undefined || host.life.phase !== 'connecting') return;
      counters.opened++;
      host.server = server;
      apply(host, { kind: 'opened' });
      if (!isRelayServer(server)) return;
      counters.relaysRefused++;
      host.ownBan = true;
      host.lastClose = `banned: a relay, by its Server header (${server.slice(0, 100)})`;
      host.lastCloseAtMs = clock.nowMs();
      note(rejections, {
        hostId,
        did: '',
        reason: 'host_banned',
        detail: 'the Server header of its upgrade says it is a relay',
        upstreamSeq: 0,
        rev: '',
        atMs: clock.nowMs(),
      });
      deps.log?.('warn', 'banned a host that says it is a relay', { host: host.hostname, server });
      settleBan(host);
    },
    closed(hostId, outcome) {
      const host = byId.get(hostId);
      if (host !== undefined) closed(host, outcome);
    },
    info(hostId, name, message) {
      const host = byId.get(hostId);
      if (host === undefined || name !== 'OutdatedCursor') return;
      // Asked for its oldest event it says so of what it sent before we were first connected.
      if (host.cursorAtConnect !== null && host.cursorAtConnect > 0)
        recordGap(host, host.cursorAtConnect, `outdated_cursor: ${message.slice(0, 200)}`);
    },
    paused(hostId, pausedFor) {
      const host = byId.get(hostId);
      if (host !== undefined) host.pausedFor = pausedFor;
    },

    eventTaken(host) {
      // Only a trial is waiting to hear of its first event.
      if (host.heldCursor !== null) apply(host, { kind: 'event' });
      host.eventsSinceStart++;
      host.lastEventAtMs = clock.nowMs();
      dirty.add(host);
    },
    rejected(host, reason) {
      host.rejectionsSinceStart[reason] = (host.rejectionsSinceStart[reason] ?? 0) + 1;
    },
    accountsChanged(host, delta) {
      host.accountCount = Math.max(0, host.accountCount + delta);
      dirty.add(host);
      const moved = Math.abs(host.accountCount - host.accountsAtLimits);
      if (moved >= LIMITS_CHANGE_ACCOUNTS && moved >= host.accountsAtLimits * LIMITS_CHANGE_SHARE)
        renewLimits(host);
    },
    accountLimitOf,
    markDirty(host) {
      dirty.add(host);
    },
    takeDirty() {
      const taken = {
        hosts: Array.from(dirty, (host) => rowOf(host, statusOf(host))),
        gaps,
        rejections,
      };
      dirty = new Set();
      gaps = [];
      rejections = [];
      return taken;
    },
    giveBack(given) {
      for (const row of given.hosts) {
        const host = byId.get(row.hostId);
        if (host !== undefined) dirty.add(host);
      }
      const newer = { gaps, rejections };
      gaps = [];
      rejections = [];
      for (const gap of [...given.gaps, ...newer.gaps]) note(gaps, gap);
      for (const rejection of [...given.rejections, ...newer.rejections]) note(rejections, rejection);
    },

    async addHosts(hosts, source) {
      const result = { added: 0, known: 0, refused: 0 };
      for (const { hostname: text, accountCount } of hosts) {
        const entry = parseHostEntry(text, config.allowInsecureHosts);
        if (!entry.ok || (!byName.has(entry.hostname) && isDomainBanned(entry.hostname))) {
          result.refused++;
          continue;
        }
        const before = byName.get(entry.hostname);
        const host = before ?? (await insert({ hostname: entry.hostname, secure: entry.secure, source }));
        if (host === null) {
          result.refused++;
          continue;
        }
        if (before === undefined) result.added++;
        else {
          result.known++;
          raiseSource(host, source);
        }
        if (accountCount === undefined || !Number.isSafeInteger(accountCount) || accountCount < 0) continue;
        if (accountCount === host.expectedAccounts) continue;
        host.expectedAccounts = accountCount;
        renewLimits(host);
        dirty.add(host);
      }
      return result;
    },

    list: () => Array.from(byId.values(), viewOf),
    get(hostname) {
      const host = find(hostname);
      return host === undefined ? null : viewOf(host);
    },
    getById(hostId) {
      const host = byId.get(hostId);
      return host === undefined ? null : viewOf(host);
    },
    requestCrawl: (hostname, { source }): Promise<CrawlResult> => crawl.request(hostname, source),
    ban: (hostname) => setOwnBan(hostname, true),
    unban: (hostname) => setOwnBan(hostname, false),
    async banDomain(text) {
      const domain = normalizeDomain(text);
      if (domain === null) throw new RangeError('not a domain name');
      if (domainBans.size >= MAX_DOMAIN_BANS && !domainBans.has(domain))
        throw new RangeError('too many domain bans');
      domainBans.add(domain);
      for (const host of byId.values()) settleBan(host);
      await deps.state.setDomainBan(domain, true);
    },
    async unbanDomain(text) {
      const domain = normalizeDomain(text);
      if (domain === null) throw new RangeError('not a domain name');
      domainBans.delete(domain);
      for (const host of byId.values()) settleBan(host);
      await deps.state.setDomainBan(domain, false);
    },
    get domainBans() {
      return [...domainBans].sort();
    },

    setAccountLimit(hostname, limit) {
      if (limit !== null && !(Number.isSafeInteger(limit) && limit >= 0))
        throw new RangeError('an account limit is a whole number of accounts');
      const host = find(hostname);
      if (host === undefined) return false;
      host.accountLimit = limit;
      dirty.add(host);
      return true;
    },
    setEventsPerSecondLimit(hostname, perSecond) {
      if (perSecond !== null && !(Number.isFinite(perSecond) && perSecond >= 0))
        throw new RangeError('a limit of events per second is a number');
      const host = find(hostname);
      if (host === undefined) return false;
      host.eventsPerSecondLimit = perSecond;
      renewLimits(host);
      dirty.add(host);
      return true;
    },
    setValidation(hostname, validation) {
      const host = find(hostname);
      if (host === undefined) return false;
      host.validation = validation;
      dirty.add(host);
      return true;
    },
    reconnect(hostname) {
      const host = find(hostname);
      if (host === undefined) return false;
      if (host.life.phase === 'open') ingest.disconnect(host.hostId);
      else apply(host, { kind: 'crawl' });
      return true;
    },

    counters,
    crawlCounters: crawl.counters,
  };
};
