/**
 * The rules of accounts: what becomes of one verified event, given what we hold of its account and host. Pure but
 * for the account it updates. Sources: atproto specs Sync ("Firehose Event Validation"), Account ("Hosting status").
 */
import { KIND } from '../firehose/types.ts';
import type { VerifiedEvent } from '../ingest/types.ts';
import type { Reason } from '../reasons.ts';
import type { Account } from './accounts.ts';

/** What is to be done with an event that is taken. */
export interface Taken {
  readonly ok: true;
  /** The frame's own words have to change before it is passed on. */
  readonly rewrite: null | 'drop_handle' | 'own_status';
  /** It does not follow on what we hold, though consistent in itself. */
  readonly discontinuity: boolean;
  /** Lenient mode: a rule it broke that only the sequencer can see. */
  readonly lenient: Reason | null;
}

export type Decision = Taken | { readonly ok: false; readonly reason: Reason; readonly detail: string };

const no = (reason: Reason, detail = ''): Decision => ({ ok: false, reason, detail });
const PASS: Taken = { ok: true, rewrite: null, discontinuity: false, lenient: null };

const MAX_STATUS_CHARACTERS = 64;

/** The status to show: the relay's own first; null = active. */
export const effectiveStatus = (account: {
  readonly ownStatus: string | null;
  readonly upstreamStatus: string | null;
}): string | null => account.ownStatus ?? account.upstreamStatus;

/** What a commit or sync leaves an account with. Answers whether it does not follow on what we held. */
export const takeRev = (
  account: Account,
  event: {
    readonly kind: number;
    readonly rev: string;
    readonly since: string | null;
    readonly commit: string | null;
    readonly data: string | null;
    readonly prevData: string | null;
  },
): boolean => {
  const discontinuity =
    event.kind === KIND.commit &&
    account.rev !== null &&
    (event.since !== account.rev || (event.prevData !== null && event.prevData !== account.data));
  account.desynchronized = discontinuity;
  account.rev = event.rev;
  account.commit = event.commit;
  account.data = event.data;
  return discontinuity;
};

/**
 * Decides on an event of a known account of the sending host, and updates the account when it is taken.
 *
 * @param account the account, whose PDS is the sending host
 * @param validation strict refuses a commit without prevData once the repo is known; lenient counts it
 */
export const decide = (
  account: Account,
  event: VerifiedEvent,
  validation: 'strict' | 'lenient',
): Decision => {
  if (event.kind === KIND.account) {
    account.upstreamStatus = event.active
      ? null
      : (event.status ?? 'deactivated').slice(0, MAX_STATUS_CHARACTERS);
    return account.ownStatus === null ? PASS : { ...PASS, rewrite: 'own_status' };
  }
  if (account.ownStatus !== null) {
    return account.ownStatus === 'throttled'
      ? no('account_limit', 'its host is over its account limit')
      : no('account_takendown', account.ownStatus);
  }
  if (event.kind === KIND.identity) {
    // Without a document (it has to be asked for again) a handle cannot be checked.
    return event.handle !== null && account.identityAtMs > 0 && event.handle.toLowerCase() !== account.handle
      ? { ...PASS, rewrite: 'drop_handle' }
      : PASS;
  }
  if (account.upstreamStatus !== null) return no('account_inactive', account.upstreamStatus);
  if (event.kind !== KIND.commit && event.kind !== KIND.sync) return PASS;

  if (account.rev !== null && event.rev <= account.rev) return no('rev_stale', `we hold ${account.rev}`);
  let lenient: Reason | null = null;
  if (event.kind === KIND.commit && account.rev !== null && event.prevData === null) {
    if (validation === 'strict') return no('prev_data_missing');
    lenient = 'prev_data_missing';
  }
  const discontinuity = takeRev(account, event);
  return discontinuity || lenient !== null ? { ok: true, rewrite: null, discontinuity, lenient } : PASS;
};
