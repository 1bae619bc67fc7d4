/**
 * The identity desk: ingest asks for the key and PDS of a DID; the answer comes from the account in memory, the
 * database, or the resolver. It writes what it learns to the account.
 *
 * Bounded by ingest, which asks once per host and DID, and only while frames wait for the answer.
 */
import type { HostState } from '../hosts/host.ts';
import type { HostRoster } from '../hosts/roster.ts';
import type { Identity, Resolver } from '../identity/types.ts';
import type { IdentityAnswer, IdentityRequest } from '../ingest/types.ts';
import { type Account, type AccountCache, newAccount } from './accounts.ts';

/** Pause before a question is asked again when the resolver does not say how long. */
const DEFAULT_RETRY_MS = 1_000;
const MAX_RETRY_MS = 60_000;

export interface IdentityDesk {
  /** Answers each request exactly once, in batches, whenever it is known. */
  ask(requests: readonly IdentityRequest[], answer: (answers: readonly IdentityAnswer[]) => void): void;
  readonly counters: Readonly<Record<'asked' | 'fromAccounts' | 'lookups' | 'waiting' | 'moved', number>>;
}

export interface IdentityDeskDeps {
  readonly accounts: AccountCache;
  readonly resolver: Resolver;
  readonly roster: Pick<HostRoster, 'hostByName' | 'host' | 'accountsChanged'>;
  readonly nowMs: () => number;
  readonly after: (delayMs: number, callback: () => void) => void;
}

/** Whether the account counts against its host's limit. */
export const isCounted = (account: Account): boolean =>
  account.known && account.upstreamStatus !== 'deleted' && account.ownStatus !== 'throttled';

/** Its PDS is this host from now on; where it counts, it counts there. */
export const moveTo = (
  account: Account,
  host: HostState,
  roster: Pick<HostRoster, 'host' | 'accountsChanged'>,
) => {
  if (isCounted(account)) {
    const old = roster.host(account.hostId);
    if (old !== undefined) roster.accountsChanged(old, -1);
    roster.accountsChanged(host, 1);
  }
  account.hostId = host.hostId;
};

/** Takes over what a fresh document says. The account moves when its PDS is another one that we follow. */
export const applyIdentity = (
  account: Account,
  identity: Identity,
  atMs: number,
  roster: IdentityDeskDeps['roster'],
): 'moved' | 'stayed' => {
  const host = identity.pds === null ? undefined : roster.hostByName(identity.pds);
  // The host's own string, where there is one: every account of the host has the same.
  account.pds = host?.hostname ?? identity.pds;
  account.keyType = identity.signingKey?.type ?? null;
  account.key =
    identity.signingKey === null ? null : Buffer.from(identity.signingKey.compressed).toString('latin1');
  account.handle = identity.handle;
  account.identityAtMs = atMs;
  account.pdsIsHost = host !== undefined;
  if (host === undefined || host.hostId === account.hostId) return 'stayed';
  const moved = account.known && account.hostId !== 0;
  moveTo(account, host, roster);
  return moved ? 'moved' : 'stayed';
};

export const createIdentityDesk = (deps: IdentityDeskDeps): IdentityDesk => {
  const { accounts, resolver, roster, nowMs } = deps;
  const counters = { asked: 0, fromAccounts: 0, lookups: 0, waiting: 0, moved: 0 };

  const answerFrom = (account: Account, request: IdentityRequest): IdentityAnswer => ({
    did: account.did,
    pds: account.pds,
    keyType: account.keyType,
    key: account.key,
    reason: null,
    atMs: account.identityAtMs,
    again: false,
    fresh: request.fresh,
    hostname: request.hostname,
  });

  const nothing = (request: IdentityRequest, atMs: number) => ({
    did: request.did,
    pds: null,
    keyType: null,
    key: null,
    reason: null,
    atMs,
    again: false,
    fresh: request.fresh,
    hostname: request.hostname,
  });

  const lookUp = async (request: IdentityRequest): Promise<IdentityAnswer> => {
    counters.lookups++;
    const askedAtMs = nowMs();
    const result = await resolver.resolve(request.did, { fresh: request.fresh, forHost: request.hostname });
    if (result.ok) {
      // It may have been forgotten meanwhile: what the database holds must not be taken for new.
      try {
        await accounts.load([request.did]);
      } catch {
        return { ...nothing(request, askedAtMs), again: true };
      }
      let account = accounts.get(request.did);
      if (account === undefined) {
        account = newAccount(request.did);
        accounts.add(account);
      }
      if (applyIdentity(account, result.identity, askedAtMs, roster) === 'moved') counters.moved++;
      accounts.markDirty(account);
      return answerFrom(account, request);
    }
    if (!result.passing) {
      const account = accounts.get(request.did);
      return {
        ...nothing(request, askedAtMs),
        pds: account?.known ? account.pds : null,
        reason: result.reason,
      };
    }
    const waitMs = Math.min(MAX_RETRY_MS, Math.max(result.retryAfterMs ?? 0, DEFAULT_RETRY_MS));
    return new Promise((resolve) =>
      deps.after(waitMs, () => resolve({ ...nothing(request, askedAtMs), again: true })),
    );
  };

  return {
    ask(requests, answer) {
      counters.asked += requests.length;
      counters.waiting += requests.length;
      const dids = requests.map(({ did }) => did);
      const settle = (answers: IdentityAnswer[]): void => {
        if (answers.length === 0) return;
        counters.waiting -= answers.length;
        answer(answers);
      };
      accounts.load(dids).then(
        () => {
          const ready: IdentityAnswer[] = [];
          for (const request of requests) {
            const account = accounts.get(request.did);
            if (!request.fresh && account !== undefined && account.identityAtMs > 0) {
              counters.fromAccounts++;
              ready.push(answerFrom(account, request));
            } else {
              lookUp(request).then((found) => settle([found]));
            }
          }
          settle(ready);
        },
        // The database is away: who still waits asks again.
        () =>
          deps.after(DEFAULT_RETRY_MS, () =>
            settle(requests.map((request) => ({ ...nothing(request, 0), again: true }))),
          ),
      );
    },
    counters,
  };
};
