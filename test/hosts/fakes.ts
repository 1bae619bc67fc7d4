import type { HostRoster, RosterDeps } from '../../src/hosts/roster.ts';
import { createRoster } from '../../src/hosts/roster.ts';
import type { CloseOutcome, IngestControl } from '../../src/hosts/types.ts';
import type { Clock } from '../../src/network/clock.ts';
import type { FetchResult, GuardedFetch } from '../../src/network/fetch.ts';
import type { HostRow, State } from '../../src/state/types.ts';

/** A clock that stands still until told otherwise. */
export const fakeClock = (startMs = Date.UTC(2026, 10, 1)) => {
  let nowMs = startMs;
  let timers: { atMs: number; run: () => void }[] = [];
  const clock: Clock = {
    nowMs: () => nowMs,
    after(delayMs, run) {
      const timer = { atMs: nowMs + Math.max(0, delayMs), run };
      timers.push(timer);
      return () => {
        timers = timers.filter((other) => other !== timer);
      };
    },
  };
  return {
    clock,
    get timers() {
      return timers.length;
    },
    /** Runs timers in order until `ms` have passed. */
    advance(ms: number) {
      const untilMs = nowMs + ms;
      for (;;) {
        const next = timers.reduce<(typeof timers)[number] | null>(
          (first, timer) =>
            timer.atMs <= untilMs && (first === null || timer.atMs < first.atMs) ? timer : first,
          null,
        );
        if (next === null) break;
        timers = timers.filter((other) => other !== next);
        nowMs = Math.max(nowMs, next.atMs);
        next.run();
      }
      nowMs = untilMs;
    },
  };
};

/** A small seeded generator (mulberry32). */
export const seeded = (seed: number) => {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
};

type Connect = Parameters<IngestControl['connect']>[0];

/**
 * Records commands; complains about a second connection for a host. `hooks.disconnected` may report the end within
 * the call, as an ingest side in the same thread does.
 */
export const fakeIngest = () => {
  const live = new Map<number, Connect>();
  const connects: Connect[] = [];
  const disconnects: number[] = [];
  const limits = new Map<number, unknown>();
  const hooks: { disconnected: ((hostId: number) => void) | null } = { disconnected: null };
  const control: IngestControl = {
    connect(command) {
      if (live.has(command.hostId)) throw new Error(`second connection for host ${command.hostId}`);
      live.set(command.hostId, command);
      connects.push(command);
    },
    disconnect(hostId) {
      if (!live.has(hostId)) throw new Error(`no connection to end for host ${hostId}`);
      disconnects.push(hostId);
      hooks.disconnected?.(hostId);
    },
    setLimits(hostId, next) {
      limits.set(hostId, next);
    },
  };
  return { control, live, connects, disconnects, limits, hooks };
};

export const fakeState = (firstId = 1) => {
  let nextId = firstId;
  const rows: HostRow[] = [];
  const domains: { domain: string; banned: boolean }[] = [];
  const state: Pick<State, 'insertHost' | 'setDomainBan'> = {
    async insertHost(host) {
      const row = { ...host, hostId: nextId++ };
      rows.push(row);
      return row;
    },
    async setDomainBan(domain, banned) {
      domains.push({ domain, banned });
    },
  };
  return { state, rows, domains };
};

export const row = (hostId: number, over: Partial<HostRow> = {}): HostRow => ({
  hostId,
  hostname: `host${hostId}.pds.net`,
  secure: true,
  source: 'upstream',
  banned: false,
  status: 'active',
  cursor: 0,
  ahead: [],
  accountCount: 0,
  expectedAccounts: 0,
  accountLimit: null,
  eventsPerSecondLimit: null,
  validation: null,
  createdAtMs: Date.UTC(2026, 9, 1),
  lastEventAtMs: Date.UTC(2026, 10, 1) - 60_000,
  connectedUntilMs: null,
  failures: 0,
  ...over,
});

const encoder = new TextEncoder();

export const answer = (
  body: unknown,
  over: { status?: number; headers?: Record<string, string> } = {},
): FetchResult => ({
  ok: true,
  status: over.status ?? 200,
  headers: over.headers ?? {},
  body: encoder.encode(typeof body === 'string' ? body : JSON.stringify(body)),
});

export const PDS_ANSWER = answer({ did: 'did:web:pds.net', availableUserDomains: ['.pds.net'] });

export const rosterWith = (over: Partial<RosterDeps> & { rows?: readonly HostRow[]; seed?: number } = {}) => {
  const time = fakeClock();
  const ingest = fakeIngest();
  const storage = fakeState(1_000_000);
  const fetch: GuardedFetch = async () => PDS_ANSWER;
  const roster: HostRoster = createRoster({
    rows: [],
    domainBans: [],
    state: storage.state,
    ingest: ingest.control,
    clock: time.clock,
    random: seeded(over.seed ?? 1),
    fetch,
    ...over,
    config: {
      trustedDomains: ['*.host.bsky.network'],
      validation: 'strict',
      allowInsecureHosts: false,
      hostAccountLimit: 100,
      newHostsPerDay: 50,
      userAgent: 'weir/test',
      ...over.config,
    },
  });
  const close = (hostId: number, outcome: CloseOutcome): void => {
    ingest.live.delete(hostId);
    roster.closed(hostId, outcome);
  };
  return { roster, time, ingest, storage, close };
};
