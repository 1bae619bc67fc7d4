/** DIDs, collections and a model of the index for its tests. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CollectionReader, PageQuery } from '../../src/collections/types.ts';

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz234567';

/** Every tenth is a did:web. */
export const didOf = (index: number): string => {
  if (index % 10 === 9) return `did:web:host${index}.example.com`;
  let rest = index;
  let text = '';
  for (let at = 0; at < 24; at++) {
    text += ALPHABET[(rest + at * 7) % 32];
    rest = Math.floor(rest / 32);
  }
  return `did:plc:${text}`;
};

export const COLLECTIONS = [
  'app.bsky.feed.post',
  'app.bsky.feed.like',
  'app.bsky.graph.follow',
  'com.example.one',
  'com.example.two',
  'com.example.three',
  'org.example.thing',
];

export const makeDirectory = (): { readonly path: string; readonly dir: string; remove(): void } => {
  const dir = mkdtempSync(join(tmpdir(), 'weir-collections-'));
  return {
    dir,
    path: join(dir, 'collections.sqlite'),
    remove: () => rmSync(dir, { recursive: true, force: true }),
  };
};

export const query = (collections: readonly string[], prefixes: readonly string[] = []) => ({
  collections,
  prefixes,
});

/** All pages of a query; fails on an empty page that is not the last. */
export const walk = (
  reader: CollectionReader,
  wanted: Pick<PageQuery, 'collections' | 'prefixes'>,
  limit = 3,
): string[] => {
  const dids: string[] = [];
  let cursor: string | null = null;
  do {
    const page = reader.page({ ...wanted, cursor, limit });
    if ('bad' in page) throw new Error(page.bad);
    if (page.dids.length === 0 && page.cursor !== null) throw new Error('an empty page before the end');
    if (page.dids.length > limit) throw new Error('too many on a page');
    dids.push(...page.dids);
    cursor = page.cursor;
  } while (cursor !== null);
  return dids;
};

interface ModelRepo {
  shown: boolean;
  deleted: boolean;
  told: boolean;
  status: string | null;
  hostId: number;
  readonly collections: Set<string>;
}

/** What the index ought to hold, as plainly as can be said. */
export class Model {
  repos = new Map<string, ModelRepo>();
  /** Called after each single change. */
  changed: () => void = () => {};

  repo(did: string): ModelRepo {
    let repo = this.repos.get(did);
    if (repo === undefined) {
      repo = { shown: true, deleted: false, told: false, status: null, hostId: 0, collections: new Set() };
      this.repos.set(did, repo);
      this.changed();
    }
    return repo;
  }
  setStatus(repo: ModelRepo, status: string | null): void {
    repo.status = status;
    if (status === 'deleted') repo.collections.clear();
    this.changed();
  }
  add(repo: ModelRepo, collection: string): boolean {
    if (repo.status === 'deleted' || repo.collections.has(collection)) return false;
    repo.collections.add(collection);
    this.changed();
    return true;
  }
  remove(repo: ModelRepo, collection: string): void {
    if (repo.collections.delete(collection)) this.changed();
  }
  members(matches: (collections: ReadonlySet<string>) => boolean): Set<string> {
    const dids = new Set<string>();
    for (const [did, repo] of this.repos)
      if (repo.status === null && matches(repo.collections)) dids.add(did);
    return dids;
  }
  clone(): Map<string, ModelRepo> {
    return new Map(
      [...this.repos].map(([did, repo]) => [did, { ...repo, collections: new Set(repo.collections) }]),
    );
  }
}

export const matcher =
  ({ collections, prefixes }: Pick<PageQuery, 'collections' | 'prefixes'>) =>
  (held: ReadonlySet<string>): boolean =>
    (collections.length === 0 && prefixes.length === 0) ||
    collections.some((each) => held.has(each)) ||
    prefixes.some((prefix) => [...held].some((each) => each.startsWith(prefix)));
