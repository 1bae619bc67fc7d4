/** weir's collection index against what the PDSes themselves say of their repos. */
import type { Account } from './account.ts';
import { must, settle } from './steps.ts';
import type { Weir } from './target.ts';
import { send } from './xrpc.ts';

const LIST = 'com.atproto.sync.listReposByCollection';
const SMALL_PAGE = 2;

/** All pages of one query, in order; fails when a page is empty before the end or a repo comes twice. */
export const listByCollection = async (
  service: string,
  collections: readonly string[],
  limit: number,
): Promise<string[]> => {
  const dids: string[] = [];
  let cursor: string | undefined;
  do {
    const params = new URLSearchParams(
      collections.map((collection): [string, string] => ['collection', collection]),
    );
    params.set('limit', String(limit));
    if (cursor !== undefined) params.set('cursor', cursor);
    const response = await fetch(`${service}/xrpc/${LIST}?${params}`);
    const text = await response.text();
    must(response.ok, `${LIST}?${params}: ${response.status} ${text}`);
    const page = JSON.parse(text) as { repos: { did: string }[]; cursor?: string };
    must(page.repos.length > 0 || page.cursor === undefined, `an empty page before the end, at ${cursor}`);
    must(page.repos.length <= limit, `${page.repos.length} repos on a page of ${limit}`);
    dids.push(...page.repos.map(({ did }) => did));
    must(dids.length < 1000, 'the pages do not end');
    must(new Set(dids).size === dids.length, `a repo twice in ${dids.join(' ')}`);
    cursor = page.cursor;
  } while (cursor !== undefined);
  return dids;
};

/** DID → collections as its PDS has it; repos that the PDS does not give out are absent. */
const truthOf = async (accounts: readonly Account[]): Promise<Map<string, ReadonlySet<string>>> => {
  const truth = new Map<string, ReadonlySet<string>>();
  for (const account of accounts) {
    const response = await send(account.pds.url, 'com.atproto.repo.describeRepo', {
      params: { repo: account.did },
    });
    const text = await response.text();
    if (!response.ok) continue;
    truth.set(account.did, new Set((JSON.parse(text) as { collections: string[] }).collections));
  }
  return truth;
};

/**
 * Waits until every collection ever seen lists exactly the repos that have records in it, in pages of two and of a
 * thousand alike, and no collection lists all of them. `seen` grows by what is found, so that a collection which
 * nobody has any more is asked for, too.
 */
export const settleCollections = (weir: Weir, accounts: readonly Account[], seen: Set<string>) =>
  settle(async () => {
    const truth = await truthOf(accounts);
    for (const collections of truth.values()) for (const collection of collections) seen.add(collection);
    for (const collection of seen) {
      const expected = [...truth].filter(([, held]) => held.has(collection)).map(([did]) => did);
      const small = await listByCollection(weir.url, [collection], SMALL_PAGE);
      const whole = await listByCollection(weir.url, [collection], 1000);
      if (small.join() !== whole.join()) return `${collection}: pages of 2 and of 1,000 differ`;
      if ([...expected].sort().join() !== [...whole].sort().join())
        return `${collection}: expected ${expected.sort().join(' ')}, got ${whole.sort().join(' ')}`;
    }
    const several = [...seen].slice(0, 10);
    for (const collections of several.length > 0 ? [[], several] : [[]]) {
      const listed = await listByCollection(weir.url, collections, SMALL_PAGE);
      const expected = [...truth]
        .filter(([, held]) => collections.length === 0 || collections.some((one) => held.has(one)))
        .map(([did]) => did);
      if (expected.sort().join() !== listed.sort().join())
        return `${collections.length} collections: expected ${expected.length} repos, got ${listed.length}`;
    }
    return null;
  }, 20_000);

/** The counts that the index gives agree with its own pages. */
export const checkCounts = async (weir: Weir, seen: ReadonlySet<string>): Promise<string> => {
  const { collections } = await fetch(`${weir.url}/v1/listCollections?limit=1000`).then(
    (response) => response.json() as Promise<{ collections: Record<string, number> }>,
  );
  for (const collection of seen) {
    const listed = await listByCollection(weir.url, [collection], 1000);
    must(
      (collections[collection] ?? 0) === listed.length,
      `${collection}: count ${collections[collection]}, but ${listed.length} repos`,
    );
  }
  return `${Object.keys(collections).length} collections`;
};

/** Creates a repo's only record of a collection and deletes it again. */
export const lastRecord = async (account: Account, collection: string, during: () => Promise<unknown>) => {
  const { rkey } = await account.createRecord(collection, { createdAt: new Date().toISOString() });
  await during();
  await account.deleteRecord(collection, rkey);
};

export const refusesBadQueries = async (weir: Weir) => {
  for (const query of [
    'collection=nope',
    'collection=app.bsky.feed.post&limit=0',
    'collection=app.bsky.feed.post&limit=2001',
    'collection=app.bsky.feed.post&limit=x',
    'collection=app.bsky.feed.post&cursor=~~~',
  ]) {
    const response = await fetch(`${weir.url}/xrpc/${LIST}?${query}`);
    const text = await response.text();
    const { error } = JSON.parse(text) as { error?: string };
    must(
      response.status === 400 && error === 'InvalidRequest',
      `${query}: expected 400 InvalidRequest, got ${response.status} ${text}`,
    );
  }
};
