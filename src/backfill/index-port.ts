/** What the backfill needs of the collection index: its writer, and a few readings. */
import type { CollectionReader, CollectionWriter, HiddenReason } from '../collections/types.ts';

/** What a PDS can say of an account that is not to be shown. */
export type GoneReason = Exclude<HiddenReason, 'pds_gone'>;

export interface BackfillIndex
  extends Pick<CollectionWriter, 'add' | 'setStatus' | 'locate' | 'begin' | 'apply' | 'forget'> {
  /** Collections that the index has ever seen, at most `limit`. */
  collections(limit: number): Promise<readonly string[]>;
  /** A page of the repos of one collection; null = of all. @throws for a cursor that is not of this index */
  page(
    collection: string | null,
    cursor: string | null,
    limit: number,
  ): Promise<{ readonly dids: readonly string[]; readonly cursor: string | null }>;
  /** How many repos reading it page by page will give. */
  count(collection: string | null): Promise<number>;
  close(): Promise<void>;
}

const NAMES_PER_CALL = 1_000;

/** The index of a data directory as the backfill sees it; closing it closes both. */
export const backfillIndex = (
  writer: CollectionWriter,
  reader: Pick<CollectionReader, 'page' | 'count' | 'repoCount' | 'close'>,
): BackfillIndex => ({
  add: (repos) => writer.add(repos),
  setStatus: (accounts) => writer.setStatus(accounts),
  locate: (accounts) => writer.locate(accounts),
  begin: (did) => writer.begin(did),
  apply: (did, watch, truth) => writer.apply(did, watch, truth),
  forget: (watch) => writer.forget(watch),
  async collections(limit) {
    const names: string[] = [];
    for (let after: string | null = null; names.length < limit; ) {
      const some: readonly string[] = await writer.collections(
        after,
        Math.min(NAMES_PER_CALL, limit - names.length),
      );
      if (some.length === 0) break;
      names.push(...some);
      after = some[some.length - 1]!;
    }
    return names;
  },
  async page(collection, cursor, limit) {
    const page = reader.page({
      collections: collection === null ? [] : [collection],
      prefixes: [],
      cursor,
      limit,
    });
    if ('bad' in page)
      throw new Error(`the index does not take its own cursor back (${page.bad}); was it made anew?`);
    return page;
  },
  async count(collection) {
    return collection === null ? reader.repoCount() : (reader.count(collection)?.dids ?? 0);
  },
  async close() {
    reader.close();
    await writer.close();
  },
});
