/**
 * DNS with the guard built in: a connection goes to an address that was checked, because the checked address is
 * what the socket is given (no second look-up in between, so no rebinding).
 *
 * Contract: look-ups never throw or reject; at most MAX_LOOKUPS_IN_FLIGHT run at once, so that thousands of hosts
 * at start do not starve the resolver; waiting ones and remembered ones are bounded; each has a deadline.
 */
import { type LookupAddress, type LookupOptions, lookup as systemLookup } from 'node:dns';
import { forbiddenAddress, parseIpv4, parseIpv6 } from './address.ts';
import { type Clock, systemClock } from './clock.ts';
import { createRecent } from './recent.ts';

/** Enough to resolve 3,000 hosts in some seconds, few enough for a small recursive resolver. */
const MAX_LOOKUPS_IN_FLIGHT = 32;
/** Look-ups given up by us but not yet by the system; beyond this they keep their place among those in flight. */
const MAX_ABANDONED_LOOKUPS = 64;
/** Three times the hosts of today's network. */
const MAX_LOOKUPS_WAITING = 10_000;
const MAX_REMEMBERED = 10_000;
/** Connections per host are rare; this only absorbs bursts (check, then connect). */
const REMEMBER_MS = 60_000;
const REMEMBER_FAILURE_MS = 5_000;
const LOOKUP_TIMEOUT_MS = 5_000;
/** A waiting look-up that has not had its turn by then fails. */
const WAIT_TIMEOUT_MS = 30_000;
/** How often the waiting ones are looked over for that. */
const SWEEP_INTERVAL_MS = 1_000;
/** A name may have many addresses; more are not looked at. */
const MAX_ADDRESSES = 16;

export type CheckedAddress = { readonly address: string; readonly family: 4 | 6 };

export type LookupResult =
  | { readonly ok: true; readonly addresses: readonly CheckedAddress[] }
  | {
      readonly ok: false;
      readonly kind: 'forbidden_address' | 'unreachable' | 'timeout';
      readonly detail: string;
    };

/** The `code` of the error that a socket gets when the guard refuses its host. */
export const FORBIDDEN_ADDRESS_CODE = 'FORBIDDEN_ADDRESS';

type LookupCallback = (
  error: NodeJS.ErrnoException | null,
  address: string | LookupAddress[],
  family?: number,
) => void;

/** node's dns.lookup signature. */
export type LookupFunction = (hostname: string, options: LookupOptions, callback: LookupCallback) => void;

export interface GuardedLookup {
  /** The addresses of a host that may be connected to, IPv4 first. */
  addresses(hostname: string): Promise<LookupResult>;
  /** For the `lookup` option of `ws`, node:https and node:net. A refusal is an error with FORBIDDEN_ADDRESS_CODE. */
  readonly lookup: LookupFunction;
  readonly counters: Readonly<Record<string, number>>;
}

export interface LookupSettings {
  /** Development and private deployments: every address is accepted. */
  readonly allowPrivateAddresses: boolean;
  /** The system's resolver, all addresses of a name; rejects when there are none. */
  readonly resolve?: (hostname: string) => Promise<readonly LookupAddress[]>;
  readonly clock?: Clock;
}

const resolveBySystem = (hostname: string): Promise<LookupAddress[]> =>
  new Promise((resolve, reject) => {
    systemLookup(hostname, { all: true }, (error, addresses) =>
      error === null || error === undefined ? resolve(addresses) : reject(error),
    );
  });

const literalAddress = (hostname: string): LookupAddress | null => {
  const bare = hostname.startsWith('[') && hostname.endsWith(']') ? hostname.slice(1, -1) : hostname;
  if (parseIpv4(bare) !== null) return { address: bare, family: 4 };
  return parseIpv6(bare) === null ? null : { address: bare, family: 6 };
};

/** Makes a look-up with its own cache and bounds; `guardedLookup` is the one of the process. */
export const createGuardedLookup = (settings: LookupSettings): GuardedLookup => {
  const { allowPrivateAddresses, resolve = resolveBySystem, clock = systemClock } = settings;
  const counters = {
    lookups: 0,
    cacheHits: 0,
    coalesced: 0,
    failures: 0,
    timeouts: 0,
    forbidden: 0,
    overloaded: 0,
    inFlight: 0,
    abandoned: 0,
    waiting: 0,
  };
  const remembered = createRecent<string, { result: LookupResult; untilMs: number }>(MAX_REMEMBERED);
  const pending = new Map<string, Promise<LookupResult>>();
  const waiting: { start: () => void; expire: () => void; untilMs: number }[] = [];

  const check = (addresses: readonly LookupAddress[]): LookupResult => {
    const allowed: CheckedAddress[] = [];
    let forbidden = '';
    for (const { address, family } of addresses.slice(0, MAX_ADDRESSES)) {
      const why = allowPrivateAddresses ? null : forbiddenAddress(address);
      if (why === null) allowed.push({ address, family: family === 6 ? 6 : 4 });
      else forbidden = why;
    }
    if (allowed.length > 0) {
      return { ok: true, addresses: allowed.sort((a, b) => a.family - b.family) };
    }
    if (forbidden === '') return { ok: false, kind: 'unreachable', detail: 'the name has no address' };
    counters.forbidden++;
    return { ok: false, kind: 'forbidden_address', detail: `the name leads to a ${forbidden} address` };
  };

  const startWaiting = (): void => {
    const nowMs = clock.nowMs();
    while (
      waiting.length > 0 &&
      (waiting[0]!.untilMs <= nowMs || counters.inFlight < MAX_LOOKUPS_IN_FLIGHT)
    ) {
      const next = waiting.shift()!;
      counters.waiting--;
      if (next.untilMs <= nowMs) next.expire();
      else next.start();
    }
  };

  let isSweeping = false;
  /** A resolver that never answers frees no place, so time alone must reach the waiting ones. */
  const sweep = (): void => {
    if (isSweeping || waiting.length === 0) return;
    isSweeping = true;
    clock.after(SWEEP_INTERVAL_MS, () => {
      isSweeping = false;
      startWaiting();
      sweep();
    });
  };

  const run = (hostname: string): Promise<LookupResult> =>
    new Promise((settle) => {
      counters.lookups++;
      counters.inFlight++;
      let timedOut = false;
      let holdsPlace = true;
      const leave = (): void => {
        if (!holdsPlace) return;
        holdsPlace = false;
        counters.inFlight--;
        startWaiting();
      };
      const cancel = clock.after(LOOKUP_TIMEOUT_MS, () => {
        timedOut = true;
        counters.timeouts++;
        counters.abandoned++;
        settle({ ok: false, kind: 'timeout', detail: 'DNS did not answer in time' });
        if (counters.abandoned <= MAX_ABANDONED_LOOKUPS) leave();
      });
      const finish = (result: LookupResult): void => {
        if (timedOut) counters.abandoned--;
        cancel();
        settle(result);
        leave();
      };
      resolve(hostname).then(
        (addresses) => finish(check(addresses)),
        (error: unknown) => {
          counters.failures++;
          const code = (error as NodeJS.ErrnoException | null)?.code;
          finish({ ok: false, kind: 'unreachable', detail: `DNS: ${code ?? 'failed'}` });
        },
      );
    });

  const enqueue = (hostname: string): Promise<LookupResult> => {
    if (counters.inFlight < MAX_LOOKUPS_IN_FLIGHT && waiting.length === 0) return run(hostname);
    if (waiting.length >= MAX_LOOKUPS_WAITING) {
      counters.overloaded++;
      return Promise.resolve({ ok: false, kind: 'timeout', detail: 'too many DNS look-ups are waiting' });
    }
    return new Promise((settle) => {
      counters.waiting++;
      waiting.push({
        start: () => void run(hostname).then(settle),
        expire: () => {
          counters.timeouts++;
          settle({ ok: false, kind: 'timeout', detail: 'DNS look-up waited too long for its turn' });
        },
        untilMs: clock.nowMs() + WAIT_TIMEOUT_MS,
      });
      sweep();
    });
  };

  const addresses = (hostname: string): Promise<LookupResult> => {
    const literal = literalAddress(hostname);
    if (literal !== null) return Promise.resolve(check([literal]));
    const known = remembered.get(hostname);
    if (known !== undefined && known.untilMs > clock.nowMs()) {
      counters.cacheHits++;
      return Promise.resolve(known.result);
    }
    const already = pending.get(hostname);
    if (already !== undefined) {
      counters.coalesced++;
      return already;
    }
    const promise = enqueue(hostname).then((result) => {
      pending.delete(hostname);
      remembered.set(hostname, {
        result,
        untilMs: clock.nowMs() + (result.ok ? REMEMBER_MS : REMEMBER_FAILURE_MS),
      });
      return result;
    });
    pending.set(hostname, promise);
    return promise;
  };

  const lookup: LookupFunction = (hostname, options, callback) => {
    void addresses(hostname).then((result) => {
      const wanted = options.family === 4 || options.family === 6 ? options.family : 0;
      const usable = result.ok
        ? result.addresses.filter(({ family }) => wanted === 0 || family === wanted)
        : [];
      const first = usable[0];
      if (first !== undefined) {
        if (options.all === true) callback(null, [...usable]);
        else callback(null, first.address, first.family);
        return;
      }
      const error: NodeJS.ErrnoException = new Error(result.ok ? 'no address of that family' : result.detail);
      if (!result.ok && result.kind === 'forbidden_address') error.code = FORBIDDEN_ADDRESS_CODE;
      else error.code = !result.ok && result.kind === 'timeout' ? 'ETIMEDOUT' : 'ENOTFOUND';
      callback(error, options.all === true ? [] : '', 0);
    });
  };

  return { addresses, lookup, counters };
};

const publicLookup = createGuardedLookup({ allowPrivateAddresses: false });
const privateLookup = createGuardedLookup({ allowPrivateAddresses: true });

/** The look-up of this process (each worker thread has its own). */
export const guardedLookup = (allowPrivateAddresses: boolean): GuardedLookup =>
  allowPrivateAddresses ? privateLookup : publicLookup;
