/** A cursor from the query string: a seq, null for live, or why it is refused. */
export type CursorParam =
  | { readonly ok: true; readonly cursor: number | null }
  | { readonly ok: false; readonly message: string };

/**
 * Reads the `cursor` parameter of subscribeRepos: absent (live), or one non-negative integer up to 2^53 − 1
 * written in decimal digits. Anything else is refused with a message for the consumer; never throws.
 * Source: lexicon com.atproto.sync.subscribeRepos; atproto spec: Event Stream, sequence numbers.
 */
export const parseCursorParam = (params: URLSearchParams): CursorParam => {
  const values = params.getAll('cursor');
  if (values.length === 0) return { ok: true, cursor: null };
  if (values.length > 1) return { ok: false, message: 'cursor must be given once' };
  const text = values[0]!;
  if (!/^[0-9]{1,20}$/.test(text)) return { ok: false, message: 'cursor must be a non-negative integer' };
  const cursor = Number(text);
  if (!Number.isSafeInteger(cursor)) return { ok: false, message: 'cursor must be at most 9007199254740991' };
  return { ok: true, cursor };
};
