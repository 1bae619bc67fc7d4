/**
 * The life of one host as a pure state machine: what to do when its connection opens, sends, closes, when it is
 * banned, asks to be crawled, or its time has come. Time and randomness come in as parameters.
 *
 * Promises: a host that is not banned always has a next attempt, at most MAX_BACKOFF_MS away (or
 * MAX_RETRY_AFTER_MS when the host itself asked for it) and at least MIN_RETRY_MS after the last one; there are
 * never two connections at a time; a cursor is given up only when it is too old, when the host says so, or when
 * a connection without it was seen to work where those with it failed.
 */
import type { CloseOutcome } from './types.ts';

/** No two attempts at one host are nearer than this, whatever asks for them. */
export const MIN_RETRY_MS = 1_000;
/** The backoff's first ceiling; it doubles with every failure in a row. */
export const BASE_BACKOFF_MS = 2_000;
/** Every host that is not banned is tried at least this often. */
export const MAX_BACKOFF_MS = 30 * 60_000;
/** A host's own Retry-After is honoured up to here: nobody may send us away for days. */
export const MAX_RETRY_AFTER_MS = 60 * 60_000;
/** requestCrawl reconnects at once, but anyone may call it: not more often than this per host. */
export const CRAWL_RETRY_MS = 10_000;
/** A connection that lasted this long forgives earlier failures. Longer than it takes to notice a silent one, at a ping every 30 s. */
export const STABLE_MS = 120_000;
/** So does one that brought this many events that were taken. */
export const STABLE_EVENTS = 100;
/** Closes for malformed frames are forgiven only by a connection that lasted this long. */
export const MALFORMED_FORGIVEN_MS = 60 * 60_000;
/**
 * While a connection lasts it is noted at least this often that it does: what a crash may add to the age of a cursor.
 * Each time after half of it to all of it, so that thousands of hosts, opened in one go, are not all stored in one go.
 */
const NOTE_EVERY_MS = 60 * 60_000;
/** A close this soon after opening, with a cursor and without progress, is held against the cursor. */
export const CURSOR_SUSPECT_MS = 30_000;
/** After this many of them in a row, over at least this long, one connection without the cursor is tried. */
export const MAX_CURSOR_FAILURES = 6;
export const MIN_CURSOR_SUSPECT_MS = 10 * 60_000;
/**
 * The oldest cursor we resume from, by the time we were last connected. Hosts keep one to three days of events,
 * so an older cursor brings little beyond a storm of replays; what may have been missed is recorded as a gap.
 */
export const MAX_CURSOR_AGE_MS = 72 * 3_600_000;

export type Phase = 'waiting' | 'connecting' | 'open' | 'closing' | 'banned' | 'stopped';

export interface Life {
  readonly phase: Phase;
  /** What listHosts shows, but for what the account limit adds. */
  readonly status: 'active' | 'idle' | 'offline' | 'throttled' | 'banned';
  /** Wanted: true while closing for a ban, too. */
  readonly banned: boolean;
  readonly stopping: boolean;
  /** Consecutive failures. */
  readonly failures: number;
  /** Consecutive closes for malformed frames. */
  readonly malformedCloses: number;
  /** Consecutive early closes held against the cursor, and since when. */
  readonly cursorFailures: number;
  readonly cursorSuspectSinceMs: number;
  /** This connection was opened without the cursor we hold, to see whether the cursor is the trouble. */
  readonly trial: boolean;
  /** Set in `waiting` and only there. */
  readonly nextAttemptAtMs: number | null;
  /** requestCrawl does not shorten the wait to before this. */
  readonly notBeforeMs: number;
  readonly lastAttemptAtMs: number;
  /** Set while open (and closing after open). */
  readonly openedAtMs: number | null;
  /** Set in `open` and only there: when it is noted next that the connection lasts. */
  readonly nextNoteAtMs: number | null;
  /**
   * When we were last known to be connected and to get all that is sent: the age of the cursor. null: not known, or
   * not since the cursor was given up.
   */
  readonly connectedUntilMs: number | null;
}

export type GapCause = 'cursor_too_old' | 'future_cursor' | 'cursor_fails';

export type LifeInput =
  /** The scheduler's: its time has come (`nextWakeMs`) and there is a free slot. */
  | { readonly kind: 'tick'; readonly hasCursor: boolean }
  | { readonly kind: 'opened' }
  /** The first event taken from this connection. */
  | { readonly kind: 'event' }
  | {
      readonly kind: 'closed';
      readonly outcome: CloseOutcome;
      /** Events taken from this connection. */
      readonly events: number;
      /** The cursor moved during this connection. */
      readonly progressed: boolean;
      /** It was opened with a cursor (so not in a trial). */
      readonly hasCursor: boolean;
    }
  | { readonly kind: 'ban' }
  | { readonly kind: 'unban' }
  | { readonly kind: 'crawl' }
  | { readonly kind: 'shutdown' };

export type LifeEffect =
  /** Connect with the cursor, if there is one. */
  | { readonly kind: 'connect' }
  /** Connect live and put the cursor aside. */
  | { readonly kind: 'connect_trial' }
  | { readonly kind: 'disconnect' }
  /** Give the cursor up: record the gap, start live. Comes before a `connect`. */
  | { readonly kind: 'reset_cursor'; readonly cause: GapCause }
  /** The trial worked: the cursor put aside is given up. */
  | { readonly kind: 'trial_kept' }
  /** The trial failed like the others: the cursor put aside is good again. */
  | { readonly kind: 'trial_ended' };

export interface Step {
  readonly life: Life;
  readonly effects: readonly LifeEffect[];
}

const NONE: readonly LifeEffect[] = [];
const CONNECT: readonly LifeEffect[] = [{ kind: 'connect' }];
const DISCONNECT: readonly LifeEffect[] = [{ kind: 'disconnect' }];

const clamp = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value));

/** Full jitter: anything between the least wait and a ceiling that doubles with every failure. `random` in [0, 1). */
export const backoffMs = (failures: number, random: number): number => {
  const ceiling = Math.min(MAX_BACKOFF_MS, BASE_BACKOFF_MS * 2 ** clamp(failures - 1, 0, 30));
  return MIN_RETRY_MS + Math.floor(random * (ceiling - MIN_RETRY_MS));
};

/** A host as it is loaded or learned. `firstAttemptAtMs` is the caller's: the start-up ramp spreads it. */
export const newLife = (initial: {
  readonly banned: boolean;
  readonly status: string;
  readonly failures: number;
  readonly firstAttemptAtMs: number;
  readonly connectedUntilMs: number | null;
}): Life => ({
  phase: initial.banned ? 'banned' : 'waiting',
  // Nobody is connected at the start: a host that was fine is idle until it is reached.
  status: initial.banned ? 'banned' : initial.status === 'offline' ? 'offline' : 'idle',
  banned: initial.banned,
  stopping: false,
  failures: Math.max(0, initial.failures),
  malformedCloses: 0,
  cursorFailures: 0,
  cursorSuspectSinceMs: 0,
  trial: false,
  nextAttemptAtMs: initial.banned ? null : initial.firstAttemptAtMs,
  notBeforeMs: 0,
  lastAttemptAtMs: Number.NEGATIVE_INFINITY,
  openedAtMs: null,
  nextNoteAtMs: null,
  connectedUntilMs: initial.connectedUntilMs,
});

/** When the machine wants its next `tick`; null: never. */
export const nextWakeMs = (life: Life): number | null =>
  life.phase === 'waiting' ? life.nextAttemptAtMs : life.phase === 'open' ? life.nextNoteAtMs : null;

const waiting = (life: Life, atMs: number): Life => ({
  ...life,
  phase: 'waiting',
  nextAttemptAtMs: atMs,
  openedAtMs: null,
});

const tick = (life: Life, hasCursor: boolean, nowMs: number, random: number): Step => {
  if (life.phase === 'open' && life.openedAtMs !== null && life.nextNoteAtMs !== null) {
    if (nowMs < life.nextNoteAtMs) return { life, effects: NONE };
    const lastedMs = nowMs - life.openedAtMs;
    const settled: Life = {
      ...life,
      failures: 0,
      cursorFailures: 0,
      malformedCloses: lastedMs >= MALFORMED_FORGIVEN_MS ? 0 : life.malformedCloses,
      trial: false,
      nextNoteAtMs: nowMs + Math.floor(((1 + random) * NOTE_EVERY_MS) / 2),
      connectedUntilMs: nowMs,
    };
    return { life: settled, effects: life.trial ? [{ kind: 'trial_kept' }] : NONE };
  }
  if (life.phase !== 'waiting' || life.nextAttemptAtMs === null || nowMs < life.nextAttemptAtMs)
    return { life, effects: NONE };
  const connecting: Life = {
    ...life,
    phase: 'connecting',
    nextAttemptAtMs: null,
    notBeforeMs: 0,
    lastAttemptAtMs: nowMs,
    openedAtMs: null,
    trial: false,
  };
  if (hasCursor && life.connectedUntilMs !== null && nowMs - life.connectedUntilMs > MAX_CURSOR_AGE_MS)
    return {
      life: { ...connecting, cursorFailures: 0, connectedUntilMs: null },
      effects: [{ kind: 'reset_cursor', cause: 'cursor_too_old' }, { kind: 'connect' }],
    };
  if (
    hasCursor &&
    life.cursorFailures >= MAX_CURSOR_FAILURES &&
    nowMs - life.cursorSuspectSinceMs >= MIN_CURSOR_SUSPECT_MS
  )
    return { life: { ...connecting, trial: true }, effects: [{ kind: 'connect_trial' }] };
  return { life: connecting, effects: CONNECT };
};

/** Whether this close speaks against the cursor: soon after opening, nothing gained, and not for a known other cause. */
const blamesCursor = (life: Life, input: LifeInput & { kind: 'closed' }, nowMs: number): boolean => {
  if (!input.hasCursor || input.progressed || input.events > 0) return false;
  const { outcome } = input;
  if (outcome.kind === 'http_status') return outcome.status === 400;
  if (life.openedAtMs === null || nowMs - life.openedAtMs >= CURSOR_SUSPECT_MS) return false;
  return outcome.kind === 'closed' || (outcome.kind === 'error_frame' && outcome.error !== 'ConsumerTooSlow');
};

const closed = (life: Life, input: LifeInput & { kind: 'closed' }, nowMs: number, random: number): Step => {
  if (life.phase !== 'connecting' && life.phase !== 'open' && life.phase !== 'closing')
    return { life, effects: NONE };
  const { outcome } = input;
  const lastedMs = life.openedAtMs === null ? 0 : nowMs - life.openedAtMs;
  const stable = life.openedAtMs !== null && (input.events >= STABLE_EVENTS || lastedMs >= STABLE_MS);

  const effects: LifeEffect[] = [];
  const after: { -readonly [K in keyof Life]: Life[K] } = {
    ...life,
    nextAttemptAtMs: null,
    nextNoteAtMs: null,
    trial: false,
  };
  // Of a short one without a cursor nobody knows whether it brought what was sent meanwhile.
  if (life.openedAtMs !== null && (input.hasCursor || input.progressed || input.events > 0 || stable))
    after.connectedUntilMs = nowMs;
  after.openedAtMs = null;
  if (life.trial) {
    after.cursorFailures = 0;
    const worked = input.progressed || input.events > 0 || stable;
    effects.push({ kind: worked ? 'trial_kept' : 'trial_ended' });
  }

  if (life.banned || life.stopping) {
    after.phase = life.banned ? 'banned' : 'stopped';
    after.status = life.banned ? 'banned' : 'idle';
    return { life: after, effects };
  }

  const blamed = blamesCursor(life, input, nowMs);
  if (blamed) {
    if (life.cursorFailures === 0) after.cursorSuspectSinceMs = nowMs;
    after.cursorFailures = life.cursorFailures + 1;
  } else if (stable || input.progressed || input.events > 0) after.cursorFailures = 0;

  const futureCursor = outcome.kind === 'error_frame' && outcome.error === 'FutureCursor' && input.hasCursor;
  if (futureCursor) {
    effects.push({ kind: 'reset_cursor', cause: 'future_cursor' });
    after.cursorFailures = 0;
    after.connectedUntilMs = null;
  }

  const forgiven = stable ? 0 : life.failures;
  if (outcome.kind === 'stopped') {
    after.failures = forgiven;
    after.status = 'idle';
    const atMs = nowMs + MIN_RETRY_MS + Math.floor(random * MIN_RETRY_MS);
    return { life: waiting(after, atMs), effects };
  }
  if (outcome.kind === 'throttled') {
    after.failures = forgiven;
    after.status = 'throttled';
    after.notBeforeMs = nowMs + clamp(Math.ceil(outcome.waitMs) || 0, MIN_RETRY_MS, MAX_BACKOFF_MS);
    return { life: waiting(after, after.notBeforeMs), effects };
  }

  after.failures = forgiven + 1;
  if (outcome.kind === 'malformed') after.malformedCloses = life.malformedCloses + 1;
  else if (lastedMs >= MALFORMED_FORGIVEN_MS) after.malformedCloses = 0;
  // A drop after a good connection is no outage yet: the host is offline when an attempt has failed.
  after.status = stable && outcome.kind !== 'malformed' ? 'idle' : 'offline';
  let delayMs = backoffMs(Math.max(after.failures, after.malformedCloses), random);
  if (outcome.kind === 'http_status' && outcome.retryAfterMs !== null) {
    delayMs = Math.max(delayMs, clamp(outcome.retryAfterMs, MIN_RETRY_MS, MAX_RETRY_AFTER_MS));
    if (outcome.status === 429) after.notBeforeMs = nowMs + delayMs;
  }
  return { life: waiting(after, nowMs + delayMs), effects };
};

/**
 * The machine's one step. Inputs that do not fit the phase (a late `opened`, a second `closed`) change nothing.
 * `random` in [0, 1) is used for the jitter of this step's wait, if there is one.
 */
export const step = (life: Life, input: LifeInput, nowMs: number, random: number): Step => {
  switch (input.kind) {
    case 'tick':
      return tick(life, input.hasCursor, nowMs, random);
    case 'opened':
      if (life.phase !== 'connecting') return { life, effects: NONE };
      return {
        life: {
          ...life,
          phase: 'open',
          status: 'active',
          openedAtMs: nowMs,
          nextNoteAtMs: nowMs + STABLE_MS,
        },
        effects: NONE,
      };
    case 'event':
      if (life.phase !== 'open' || !life.trial) return { life, effects: NONE };
      return { life: { ...life, trial: false, cursorFailures: 0 }, effects: [{ kind: 'trial_kept' }] };
    case 'closed':
      return closed(life, input, nowMs, random);
    case 'ban':
      if (life.phase === 'connecting' || life.phase === 'open')
        return { life: { ...life, phase: 'closing', status: 'banned', banned: true }, effects: DISCONNECT };
      if (life.phase === 'stopped' || life.phase === 'closing')
        return { life: { ...life, status: 'banned', banned: true }, effects: NONE };
      return {
        life: { ...life, phase: 'banned', status: 'banned', banned: true, nextAttemptAtMs: null },
        effects: NONE,
      };
    case 'unban': {
      if (!life.banned) return { life, effects: NONE };
      const free: Life = { ...life, banned: false, status: 'idle' };
      if (life.phase !== 'banned') return { life: free, effects: NONE };
      if (life.stopping) return { life: { ...free, phase: 'stopped' }, effects: NONE };
      return { life: waiting(free, Math.max(nowMs, life.lastAttemptAtMs + CRAWL_RETRY_MS)), effects: NONE };
    }
    case 'crawl': {
      if (life.phase !== 'waiting' || life.nextAttemptAtMs === null) return { life, effects: NONE };
      const soonestMs = Math.max(nowMs, life.notBeforeMs, life.lastAttemptAtMs + CRAWL_RETRY_MS);
      if (soonestMs >= life.nextAttemptAtMs) return { life, effects: NONE };
      return { life: { ...life, nextAttemptAtMs: soonestMs }, effects: NONE };
    }
    case 'shutdown':
      if (life.phase === 'connecting' || life.phase === 'open')
        return { life: { ...life, phase: 'closing', stopping: true }, effects: DISCONNECT };
      if (life.phase === 'closing' || life.phase === 'banned')
        return { life: { ...life, stopping: true }, effects: NONE };
      return { life: { ...life, phase: 'stopped', stopping: true, nextAttemptAtMs: null }, effects: NONE };
  }
};
