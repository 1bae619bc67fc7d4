/**
 * com.atproto.sync.listReposByCollection, and the counts at /v1/listCollections.
 *
 * Contract: reads only, through the index's reader; a page is never empty while more repos follow, and no cursor
 * means the end. Answers may be cached for CACHE_MAX_AGE_S and carry an ETag, so that an edge cache can serve them
 * and ask again for the price of a 304.
 *
 * Beyond the lexicon, and compatible with it: several `collection` parameters are an OR without duplicates, one that
 * ends in `.*` is a prefix, none at all means every active repo. The query is brought into one form first, so
 * that a cursor does not depend on the order in which the parameters were given.
 *
 * Sources: lexicon com.atproto.sync.listReposByCollection; the collectiondir service of the reference relay
 * (listCollections: {collections: {nsid: count}, cursor?}).
 */
import type { Context, Hono } from 'hono';
import * as v from 'valibot';
import { MAX_COLLECTIONS_MATCHED } from '../collections/store/bounds.ts';
import type { BadQuery, CollectionReader, Page, PageQuery } from '../collections/types.ts';
import { isNsid, MAX_NSID_LENGTH } from '../repo/syntax.ts';
import type { ApiEnv } from './api.ts';
import { type Checked, checkQuery, limitSchema } from './params.ts';
import { xrpcError } from './xrpc-error.ts';

/** Lexicon listReposByCollection: default and maximum. */
export const LIST_BY_COLLECTION_LIMIT = { preset: 500, max: 2000 } as const;
/** collectiondir listCollections: what is outside is moved to the nearer end, as it does. */
export const LIST_COLLECTIONS_LIMIT = { min: 50, preset: 500, max: 1000 } as const;
/** Collections and prefixes of one query: each is a list to be merged. */
export const MAX_COLLECTIONS_PER_QUERY = 50;
/** Names whose counts one request may ask for. */
export const MAX_COUNTED_COLLECTIONS = 100;
/** How long an answer may be told again without asking: an account that is taken down is gone that soon everywhere. */
export const CACHE_MAX_AGE_S = 10;
/** Of a cursor, as we make them and longer. */
const MAX_CURSOR_CHARS = 512;

const REFUSALS: Readonly<Record<BadQuery['bad'], string>> = {
  cursor_invalid: 'cursor is not one of ours',
  cursor_of_another_query: 'cursor is of another query: the collections must stay the same',
  too_many_collections: `the prefixes match more than ${MAX_COLLECTIONS_MATCHED} collections: give longer ones, or names`,
};

const invalid = (c: Context, message: string): Response => xrpcError(c, 400, 'InvalidRequest', message);

/** The collections and prefixes of a query in one form: unique, sorted, none that another one covers. */
export const parseCollections = (
  given: readonly string[],
): Checked<Pick<PageQuery, 'collections' | 'prefixes'>> => {
  if (given.length > MAX_COLLECTIONS_PER_QUERY) {
    return { ok: false, message: `at most ${MAX_COLLECTIONS_PER_QUERY} collections` };
  }
  const collections = new Set<string>();
  const prefixes = new Set<string>();
  for (const text of given) {
    if (text.endsWith('.*')) {
      const prefix = text.slice(0, -1);
      // What a prefix begins is an NSID, so it has at least a whole domain authority.
      if (!isNsid(`${prefix}x`)) return { ok: false, message: 'collection is not a valid NSID prefix' };
      prefixes.add(prefix);
    } else {
      if (!isNsid(text)) return { ok: false, message: 'collection is not a valid NSID' };
      collections.add(text);
    }
  }
  const isCovered = (name: string): boolean => {
    for (const prefix of prefixes) if (name !== prefix && name.startsWith(prefix)) return true;
    return false;
  };
  const bare = (names: Set<string>): string[] => [...names].filter((name) => !isCovered(name)).sort();
  return { ok: true, value: { collections: bare(collections), prefixes: bare(prefixes) } };
};

/** Whether If-None-Match names this tag (weak comparison, RFC 9110 section 13.1.2). */
export const isNoneMatch = (header: string | undefined, etag: string): boolean => {
  if (header === undefined) return false;
  if (header.trim() === '*') return true;
  return header.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag);
};

/** JSON with ETag and Cache-Control, or 304. */
const send = (c: Context, value: unknown): Response => {
  const body = JSON.stringify(value);
  const etag = `"${Bun.hash(body).toString(36)}"`;
  const headers = { etag, 'cache-control': `public, max-age=${CACHE_MAX_AGE_S}` };
  if (isNoneMatch(c.req.header('if-none-match'), etag)) return c.body(null, 304, headers);
  return c.body(body, 200, { ...headers, 'content-type': 'application/json' });
};

const pageParams = v.object({
  limit: limitSchema(LIST_BY_COLLECTION_LIMIT.preset, LIST_BY_COLLECTION_LIMIT.max),
  cursor: v.optional(v.pipe(v.string(), v.maxLength(MAX_CURSOR_CHARS, 'cursor is not one of ours')), ''),
});

const countLimit = (text: string): number =>
  Math.min(LIST_COLLECTIONS_LIMIT.max, Math.max(LIST_COLLECTIONS_LIMIT.min, Number(text)));
const countParams = v.object({
  limit: v.optional(
    v.pipe(v.string(), v.regex(/^\d{1,10}$/, 'limit must be an integer'), v.transform(countLimit)),
    String(LIST_COLLECTIONS_LIMIT.preset),
  ),
  cursor: v.optional(
    v.pipe(v.string(), v.maxLength(MAX_NSID_LENGTH, 'cursor must be the name of a collection')),
    '',
  ),
});

/** Adds the routes to the app. */
export const addCollectionRoutes = (app: Hono<ApiEnv>, reader: CollectionReader): void => {
  app.get('/xrpc/com.atproto.sync.listReposByCollection', async (c) => {
    const wanted = parseCollections(new URL(c.req.url).searchParams.getAll('collection'));
    if (!wanted.ok) return invalid(c, wanted.message);
    const query = checkQuery(c.req.url, pageParams);
    if (!query.ok) return invalid(c, query.message);
    const { limit, cursor } = query.value;
    const read = (from: string | null) => reader.page({ ...wanted.value, cursor: from, limit });
    // Clients of some languages send an empty cursor where they have none.
    let page = read(cursor === '' ? null : cursor);
    if ('bad' in page) {
      return invalid(c, REFUSALS[page.bad]);
    }
    // A client that sees an empty page believes that it has seen all. The index gives one, after a bounded piece of
    // work, where many repos were told of at an earlier place; others get their turn in between.
    while (page.dids.length === 0 && page.cursor !== null) {
      await Bun.sleep(0);
      page = read(page.cursor) as Page;
    }
    return send(c, {
      ...(page.cursor === null ? {} : { cursor: page.cursor }),
      repos: page.dids.map((did) => ({ did })),
    });
  });

  app.get('/v1/listCollections', (c) => {
    const names = new URL(c.req.url).searchParams.getAll('c');
    if (names.length > MAX_COUNTED_COLLECTIONS) {
      return invalid(c, `at most ${MAX_COUNTED_COLLECTIONS} collections`);
    }
    const query = checkQuery(c.req.url, countParams);
    if (!query.ok) return invalid(c, query.message);
    const collections: Record<string, number> = {};
    if (names.length > 0) {
      for (const name of names) {
        if (!isNsid(name)) return invalid(c, 'c is not a valid NSID');
        const counted = reader.count(name);
        if (counted !== null) collections[name] = counted.dids;
      }
      return send(c, { collections });
    }
    const { limit, cursor } = query.value;
    const rows = reader.counts(cursor === '' ? null : cursor, limit + 1);
    const shown = rows.slice(0, limit);
    for (const { collection, dids } of shown) collections[collection] = dids;
    return send(c, {
      collections,
      ...(rows.length > limit ? { cursor: shown[shown.length - 1]!.collection } : {}),
    });
  });
};
