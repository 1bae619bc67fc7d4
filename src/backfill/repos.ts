/**
 * One repo, asked of its PDS: which collections it has, or why it is not to be shown. describeRepo first; where a
 * host has none, the repo itself if it is tiny; where its words are unclear, getRepoStatus decides.
 * Sources: the lexicons com.atproto.repo.describeRepo, com.atproto.sync.getRepo, com.atproto.sync.getRepoStatus.
 */
import type { IdentityResult } from '../identity/types.ts';
import { parseDescription } from './answers.ts';
import { type Asker, hostUrl, orStopped, type Refusal } from './ask.ts';
import type { GoneReason } from './index-port.ts';
import { type BackfillFailure, failed } from './reasons.ts';
import { collectionsOfRepo, MAX_TINY_REPO_BYTES } from './repo-collections.ts';

const TIMEOUT_MS = 20_000;
const REPO_TIMEOUT_MS = 60_000;
/** A description holds the DID document, too. */
const MAX_DESCRIPTION_BYTES = 1024 * 1024;
const MAX_STATUS_BYTES = 16 * 1024;

export type RepoAnswer =
  | {
      readonly ok: true;
      readonly did: string;
      /** What its PDS says it has. */
      readonly collections: readonly string[];
      readonly invalid: number;
    }
  | HiddenRepo;

/** Its PDS or the directory says that it is not to be shown. */
export interface HiddenRepo {
  readonly ok: true;
  readonly did: string;
  readonly hidden: GoneReason;
}

export interface RepoReader {
  /**
   * Reads one repo.
   * @param hostname where it is
   * @param onSend called right before its PDS is asked; what it says is from after that
   * @throws StoppedError
   */
  read(did: string, hostname: string, onSend: () => Promise<void>): Promise<RepoAnswer | BackfillFailure>;
  /** The PDS that the account's DID document names. @throws StoppedError */
  locate(
    did: string,
  ): Promise<{ readonly ok: true; readonly hostname: string } | HiddenRepo | BackfillFailure>;
}

const HIDDEN_STATUSES: readonly GoneReason[] = [
  'deleted',
  'takendown',
  'deactivated',
  'suspended',
  'desynchronized',
  'throttled',
];

/** The reason to hide an account for, out of a status text. */
export const hiddenReason = (status: string): GoneReason =>
  HIDDEN_STATUSES.find((known) => known === status) ?? 'unknown_status';

/** Error names of the sync lexicons. */
const HIDDEN_ERRORS: ReadonlyMap<string, GoneReason> = new Map([
  ['RepoNotFound', 'deleted'],
  ['RepoDeactivated', 'deactivated'],
  ['RepoTakendown', 'takendown'],
  ['RepoSuspended', 'suspended'],
]);

export const createRepoReader = (deps: {
  readonly ask: Asker;
  /** Asks the directory; at its own polite pace. Rejects only when stopped. */
  readonly resolve: (did: string) => Promise<IdentityResult>;
  readonly signal: AbortSignal;
  readonly allowInsecure: boolean;
  readonly nowMs: () => number;
}): RepoReader => {
  const { ask, allowInsecure } = deps;
  const hidden = (did: string, reason: GoneReason): HiddenRepo => ({ ok: true, did, hidden: reason });

  const locate: RepoReader['locate'] = async (did) => {
    const result = await orStopped(deps.signal, deps.resolve(did));
    if (result.ok) {
      const { pds } = result.identity;
      return pds === null
        ? failed('did_no_pds', 'no usable PDS in its document')
        : { ok: true, hostname: pds };
    }
    if (result.passing)
      return failed(
        'did_unresolved',
        result.detail,
        result.retryAfterMs === undefined ? undefined : deps.nowMs() + result.retryAfterMs,
      );
    switch (result.reason) {
      case 'did_tombstoned':
        return hidden(did, 'deleted');
      case 'did_not_found':
        return failed('did_not_found', result.detail);
      case 'did_no_pds':
        return failed('did_no_pds', result.detail);
      default:
        return failed('did_invalid', `${result.reason}: ${result.detail}`);
    }
  };

  const ownStatus = async (
    base: string,
    did: string,
    before: Refusal,
  ): Promise<RepoAnswer | BackfillFailure> => {
    const answer = await ask.get({
      url: `${base}/xrpc/com.atproto.sync.getRepoStatus?did=${encodeURIComponent(did)}`,
      timeoutMs: TIMEOUT_MS,
      maxBytes: MAX_STATUS_BYTES,
    });
    if (!answer.ok) {
      const reason = HIDDEN_ERRORS.get(answer.error);
      return reason === undefined ? before : hidden(did, reason);
    }
    let body: unknown;
    try {
      body = JSON.parse(new TextDecoder().decode(answer.body));
    } catch {
      return before;
    }
    const { did: named, active, status } = (body ?? {}) as Record<string, unknown>;
    if (named !== did || active !== false) return before;
    return hidden(did, typeof status === 'string' ? hiddenReason(status) : 'deactivated');
  };

  const wholeRepo = async (base: string, did: string): Promise<RepoAnswer | BackfillFailure> => {
    const answer = await ask.get({
      url: `${base}/xrpc/com.atproto.sync.getRepo?did=${encodeURIComponent(did)}`,
      timeoutMs: REPO_TIMEOUT_MS,
      maxBytes: MAX_TINY_REPO_BYTES,
    });
    if (!answer.ok) {
      const reason = HIDDEN_ERRORS.get(answer.error);
      if (reason !== undefined) return hidden(did, reason);
      if (answer.reason === 'too_large')
        return failed('repo_unreadable', 'no describeRepo, and not a tiny repo');
      return answer.status === 404 || answer.status === 501
        ? failed('not_supported', 'neither describeRepo nor getRepo')
        : answer;
    }
    const collections = collectionsOfRepo(answer.body, did);
    return collections === null
      ? failed('repo_unreadable', 'its CAR is damaged, or of another account')
      : { ok: true, did, collections, invalid: 0 };
  };

  return {
    locate,
    async read(did, hostname, onSend) {
      const base = hostUrl(hostname, allowInsecure);
      const answer = await ask.get({
        url: `${base}/xrpc/com.atproto.repo.describeRepo?repo=${encodeURIComponent(did)}`,
        timeoutMs: TIMEOUT_MS,
        maxBytes: MAX_DESCRIPTION_BYTES,
        onSend,
      });
      if (answer.ok) {
        const description = parseDescription(answer.body, did);
        return description === null
          ? failed('bad_answer', 'not a describeRepo answer of this repo')
          : { ok: true, did, ...description };
      }
      const reason = HIDDEN_ERRORS.get(answer.error);
      if (reason !== undefined) return hidden(did, reason);
      if (answer.status === 404 || answer.status === 501) return wholeRepo(base, did);
      if (answer.status === 400) return ownStatus(base, did, answer);
      return answer;
    },
  };
};
