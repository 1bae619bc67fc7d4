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
const TIMEOUT_MS = 10_000;
const MAX_ANSWER_BYTES = 16 * 1024;

export interface Healer {
  /** An event of an inactive account came. Asks its PDS, unless asked lately; over the bounds the next event asks. */
  suspect(did: string, origin: { readonly hostname: string; readonly secure: boolean }): void;
  readonly counters: Readonly<
    Record<'suspected' | 'asked' | 'healed' | 'confirmed' | 'failed' | 'dropped', number>
  >;
}

/**
 * @param found told what the PDS says: null = active, else its status
 */
export const createHealer = (deps: {
  readonly fetch: GuardedFetch;
  readonly userAgent: string;
  readonly allowPrivateAddresses: boolean;
  readonly found: (did: string, status: string | null) => void;
}): Healer => {
  const counters = { suspected: 0, asked: 0, healed: 0, confirmed: 0, failed: 0, dropped: 0 };
  const asked = new TTLCache<string, true>({ max: MAX_REMEMBERED, ttl: ASK_EVERY_MS });
  const queue: { did: string; url: string }[] = [];
  let inFlight = 0;

  const ask = async (did: string, url: string): Promise<void> => {
    counters.asked++;
    const answer = await deps.fetch(url, {
      timeoutMs: TIMEOUT_MS,
      maxBytes: MAX_ANSWER_BYTES,
      allowPrivateAddresses: deps.allowPrivateAddresses,
      userAgent: deps.userAgent,
    });
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
      deps.found(did, null);
    } else if (body.active === false) {
      counters.confirmed++;
      const status =
        'status' in body && typeof body.status === 'string' ? body.status.slice(0, 64) : 'deactivated';
      deps.found(did, status);
    } else {
      counters.failed++;
    }
  };

  const next = (): void => {
    while (inFlight < MAX_IN_FLIGHT) {
      const item = queue.shift();
      if (item === undefined) return;
      inFlight++;
      ask(item.did, item.url).finally(() => {
        inFlight--;
        next();
      });
    }
  };

  return {
    suspect(did, origin) {
      counters.suspected++;
      if (asked.has(did)) return;
      if (queue.length >= MAX_QUEUED) {
        counters.dropped++;
        return;
      }
      asked.set(did, true);
      const url = `${origin.secure ? 'https' : 'http'}://${origin.hostname}/xrpc/com.atproto.sync.getRepoStatus?did=${encodeURIComponent(did)}`;
      queue.push({ did, url });
      next();
    },
    counters,
  };
};
