/**
 * Accounts that we hold as inactive while events of them keep coming: their PDS is asked what is true, so that
 * nobody stays shut out because of one status event that got lost.
 */
import { TTLCache } from '@isaacs/ttlcache';
import type { GuardedFetch } from '../network/fetch.ts';

/** An account is asked about at most this often. */
export const ASK_EVERY_MS = 60_000;
const MAX_REMEMBERED = 20_000;
const MAX_IN_FLIGHT = 8;
const MAX_QUEUED = 1_000;
/** A host that answers slowly, or makes up suspects, takes neither all turns nor all places. */
const MAX_IN_FLIGHT_PER_HOST = 2;
const MAX_QUEUED_PER_HOST = 100;
const TIMEOUT_MS = 10_000;
const MAX_ANSWER_BYTES = 16 * 1024;

export interface Healer {
  /** An event of an inactive account came. Asks its PDS, unless asked lately; over the bounds the next event asks. */
  suspect(did: string, origin: { readonly hostname: string; readonly secure: boolean }): void;
  /** Asks nothing more, and does not tell what is still answered: the log may be closed by then. */
  stop(): void;
  readonly counters: Readonly<
    Record<'suspected' | 'asked' | 'healed' | 'confirmed' | 'failed' | 'dropped', number>
  >;
}

/**
 * @param found told what the PDS says (null = active, else its status), which PDS that was, and when it was asked
 */
export const createHealer = (deps: {
  readonly fetch: GuardedFetch;
  readonly userAgent: string;
  readonly allowPrivateAddresses: boolean;
  readonly found: (
    did: string,
    status: string | null,
    asked: { readonly hostname: string; readonly atMs: number },
  ) => void;
  readonly nowMs: () => number;
}): Healer => {
  const counters = { suspected: 0, asked: 0, healed: 0, confirmed: 0, failed: 0, dropped: 0 };
  const askedLately = new TTLCache<string, true>({ max: MAX_REMEMBERED, ttl: ASK_EVERY_MS });
  const queue: { did: string; hostname: string; url: string }[] = [];
  /** Hosts with anything queued or in flight. */
  const hosts = new Map<string, { queued: number; inFlight: number }>();
  let inFlight = 0;
  let stopped = false;

  const ask = async (did: string, hostname: string, url: string): Promise<void> => {
    counters.asked++;
    const asked = { hostname, atMs: deps.nowMs() };
    const answer = await deps.fetch(url, {
      timeoutMs: TIMEOUT_MS,
      maxBytes: MAX_ANSWER_BYTES,
      allowPrivateAddresses: deps.allowPrivateAddresses,
      userAgent: deps.userAgent,
    });
    if (stopped) return;
    if (!answer.ok || answer.status !== 200) {
      counters.failed++;
      return;
    }
    let body: unknown;
    try {
      body = JSON.parse(new TextDecoder().decode(answer.body));
    } catch {
      body = null;
    }
    if (
      typeof body !== 'object' ||
      body === null ||
      !('active' in body) ||
      !('did' in body) ||
      body.did !== did
    ) {
      counters.failed++;
      return;
    }
    if (body.active === true) {
      counters.healed++;
      deps.found(did, null, asked);
    } else if (body.active === false) {
      counters.confirmed++;
      const status =
        'status' in body && typeof body.status === 'string' ? body.status.slice(0, 64) : 'deactivated';
      deps.found(did, status, asked);
    } else {
      counters.failed++;
    }
  };

  const next = (): void => {
    while (inFlight < MAX_IN_FLIGHT) {
      const at = queue.findIndex(({ hostname }) => hosts.get(hostname)!.inFlight < MAX_IN_FLIGHT_PER_HOST);
      if (at === -1) return;
      const [{ did, hostname, url }] = queue.splice(at, 1) as [(typeof queue)[number]];
      const host = hosts.get(hostname)!;
      host.queued--;
      host.inFlight++;
      inFlight++;
      ask(did, hostname, url).finally(() => {
        inFlight--;
        host.inFlight--;
        if (host.inFlight === 0 && host.queued === 0) hosts.delete(hostname);
        next();
      });
    }
  };

  return {
    suspect(did, origin) {
      counters.suspected++;
      if (stopped || askedLately.has(did)) return;
      const host = hosts.get(origin.hostname) ?? { queued: 0, inFlight: 0 };
      if (queue.length >= MAX_QUEUED || host.queued >= MAX_QUEUED_PER_HOST) {
        counters.dropped++;
        return;
      }
      hosts.set(origin.hostname, host);
      host.queued++;
      askedLately.set(did, true);
      const url = `${origin.secure ? 'https' : 'http'}://${origin.hostname}/xrpc/com.atproto.sync.getRepoStatus?did=${encodeURIComponent(did)}`;
      queue.push({ did, hostname: origin.hostname, url });
      next();
    },
    stop() {
      stopped = true;
      queue.length = 0;
    },
    counters,
  };
};
