/**
 * One question to another server: guarded, polite, bounded, and with a reason when it is not answered. A stop ends
 * waiting at once; the answer of what is under way then is not waited for, and its work is done again when resumed.
 */

import { parseHostEntry } from '../hosts/crawl.ts';
import type { FetchFailure, GuardedFetch } from '../network/fetch.ts';
import type { Politeness } from '../network/politeness.ts';
import { errorNameOf } from './answers.ts';
import { type BackfillFailure, failed } from './reasons.ts';

/** Thrown where a stop cuts work short. */
export class StoppedError extends Error {}

export interface Answer {
  readonly ok: true;
  readonly body: Uint8Array;
}

/** A refusal of the other server by its own words. */
export interface Refusal extends BackfillFailure {
  /** HTTP status; 0: it did not come to that. */
  readonly status: number;
  /** `error` of its JSON; '' = none. */
  readonly error: string;
}

export interface Question {
  /** An http or https URL. */
  readonly url: string;
  readonly timeoutMs: number;
  readonly maxBytes: number;
  /** Named by the operator: private addresses are accepted, but not where it redirects to. */
  readonly ours?: boolean;
  /** Called right before the request is sent, each time it is. */
  readonly onSend?: () => Promise<void>;
}

export interface Asker {
  /** @throws StoppedError */
  get(question: Question): Promise<Answer | Refusal>;
  readonly counters: { requests: number; bytes: number };
}

const refusal = (failure: BackfillFailure, status = 0, error = ''): Refusal => ({
  ...failure,
  status,
  error,
});

const REASON_OF_STATUS = (status: number) =>
  status === 429 ? 'rate_limited' : status >= 500 ? 'http_server_error' : 'http_client_error';

/** Words of fetch failures are a subset of ours. */
const reasonOf = (kind: FetchFailure): FetchFailure => kind;

/** For tests and resumption alike: rejects when the signal fires, whatever the work does. */
export const orStopped = async <T>(signal: AbortSignal, work: Promise<T>): Promise<T> => {
  if (signal.aborted) {
    work.catch(() => {});
    throw new StoppedError();
  }
  let onAbort = (): void => {};
  const stopped = new Promise<never>((_, reject) => {
    onAbort = () => reject(new StoppedError());
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([work, stopped]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    work.catch(() => {});
  }
};

export const createAsker = (deps: {
  readonly fetch: GuardedFetch;
  readonly politeness: Politeness;
  readonly signal: AbortSignal;
  readonly userAgent: string;
  readonly allowPrivateAddresses: boolean;
  /** Shortens every question's own. */
  readonly maxTimeoutMs?: number;
}): Asker => {
  const counters = { requests: 0, bytes: 0 };
  return {
    counters,
    async get(question) {
      let host: string;
      try {
        host = new URL(question.url).host;
      } catch {
        return refusal(failed('bad_url', 'not a URL'));
      }
      const outcome = await orStopped(
        deps.signal,
        deps.politeness.run(host, deps.signal, async () => {
          await question.onSend?.();
          counters.requests++;
          return deps.fetch(question.url, {
            timeoutMs: Math.min(question.timeoutMs, deps.maxTimeoutMs ?? Number.POSITIVE_INFINITY),
            maxBytes: question.maxBytes,
            allowPrivateAddresses: deps.allowPrivateAddresses || (question.ours === true && 'named_origin'),
            userAgent: deps.userAgent,
            redirects: 2,
            keepAlive: true,
            headers: { accept: 'application/json, */*;q=0.5' },
          });
        }),
      );
      if (!outcome.ok) {
        if (outcome.why === 'aborted') throw new StoppedError();
        const detail =
          outcome.why === 'told_to_wait' ? 'told to wait' : 'too many questions wait for this group of hosts';
        return refusal(failed('rate_limited', detail, outcome.retryAtMs), 429);
      }
      const { answer } = outcome;
      if (!answer.ok) return refusal(failed(reasonOf(answer.kind), answer.detail));
      counters.bytes += answer.body.length;
      if (answer.status === 200) return { ok: true, body: answer.body };
      const error = errorNameOf(answer.body);
      const words = error === '' ? `HTTP status ${answer.status}` : `HTTP status ${answer.status}, ${error}`;
      return refusal(failed(REASON_OF_STATUS(answer.status), plainWords(words)), answer.status, error);
    },
  };
};

/** What a server says of itself ends up in terminals and tables. */
const plainWords = (text: string): string => text.replace(/[^ -~]/g, '?').slice(0, 200);

/** Base URL of a host as the relay names it: https, but for what only development allows. */
export const hostUrl = (hostname: string, allowInsecure: boolean): string => {
  const entry = parseHostEntry(hostname, allowInsecure);
  return `${entry.ok && !entry.secure ? 'http' : 'https'}://${hostname}`;
};
