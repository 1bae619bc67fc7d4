/** The dictionaries that clients of version 2 may name and fetch: network.bsky.jetstream.getZstdDictionary. */
import type { Dictionary } from './types.ts';

export interface Dictionaries {
  /** What is given to those who name none, and named to those who ask for another; null: there is none. */
  readonly current: Dictionary | null;
  /** By the ID as text, as it stands in a query; null: not one of these. */
  byId(id: string): Dictionary | null;
  /**
   * Answers a request for one.
   * @param id the query parameter `id`; null: the current one
   * @param ifNoneMatch the header of that name
   */
  getZstdDictionary(id: string | null, ifNoneMatch: string | null): Response;
}

/** The bytes of an ID never change. */
const CACHE_CONTROL = 'public, max-age=31536000, immutable';
/** Without an ID the answer may be another after an upgrade. */
const CACHE_CONTROL_OF_CURRENT = 'public, max-age=300';

const refusal = (status: number, error: string, message: string): Response =>
  Response.json({ error, message }, { status });

/** Whether an If-None-Match names this tag (RFC 9110, section 13.1.2: weak comparison). */
const matches = (ifNoneMatch: string, etag: string): boolean =>
  ifNoneMatch.split(',').some((each) => {
    const tag = each.trim();
    return tag === '*' || tag.replace(/^W\//, '') === etag;
  });

/** The first is the current one. Throws when two different ones have one ID. */
export const createDictionaries = (list: readonly Dictionary[]): Dictionaries => {
  const known = new Map<string, Dictionary>();
  for (const dictionary of list) {
    const id = String(dictionary.id);
    const other = known.get(id);
    if (other !== undefined && other.sha256 !== dictionary.sha256)
      throw new Error(`two different dictionaries have the ID ${id}`);
    known.set(id, dictionary);
  }
  const current = list[0] ?? null;
  return {
    current,
    byId: (id) => known.get(id) ?? null,
    getZstdDictionary(id, ifNoneMatch) {
      if (id !== null && !/^\d{1,10}$/.test(id)) return refusal(400, 'InvalidRequest', 'id must be a number');
      const dictionary = id === null ? current : (known.get(String(Number(id))) ?? null);
      if (dictionary === null) {
        const hint =
          current === null ? 'there is no dictionary here' : `the current dictionary is ${current.id}`;
        return refusal(404, 'DictionaryNotFound', hint);
      }
      const etag = `"${dictionary.sha256}"`;
      const headers = {
        etag,
        'cache-control': id === null ? CACHE_CONTROL_OF_CURRENT : CACHE_CONTROL,
      };
      if (ifNoneMatch !== null && matches(ifNoneMatch, etag))
        return new Response(null, { status: 304, headers });
      return new Response(dictionary.bytes as Uint8Array<ArrayBuffer>, {
        headers: { ...headers, 'content-type': 'application/octet-stream' },
      });
    },
  };
};
