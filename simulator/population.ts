/** The accounts of a simulated network, all drawn from the seed: DIDs, key types, hosts, and the repos they start with. */
import type { Account, Body, Tree } from './account.ts';
import { sha256 } from './cbor.ts';
import { createRandom, createZipf, mixSeed, type Random } from './random.ts';
import { base32, drawCollection, makeRecord, type People, recordKey } from './records.ts';
import { emptyTree, put } from './tree.ts';

export interface PopulationOptions {
  readonly seed: number;
  readonly hosts: number;
  readonly accounts: number;
  readonly largeRepoRecords: number;
  /** Share of accounts that start with `largeRepoRecords` records, 0…1. */
  readonly largeRepoShare: number;
  readonly p256Share: number;
  readonly legacyDocumentShare: number;
  readonly hostZipfExponent: number;
  readonly startMs: number;
}

/** The sizes ordinary repos start with, and how common each is. Accounts of one size share one tree. */
const STARTING_SIZES: readonly (readonly [records: number, share: number])[] = [
  [0, 0.1],
  [20, 0.2],
  [150, 0.25],
  [800, 0.25],
  [3000, 0.2],
];

const HOUR_MS = 3_600_000;
/** Scopes of shared trees lie above any account's index. */
const SHARED_SCOPE = 0x4000_0000;
const GHOST_INDEX = 0x2000_0000;
/** Tombstoned accounts the directory remembers; a relay asks about each once, soon. */
const MAX_GHOSTS = 10_000;

export interface Population extends People {
  readonly accounts: Account[];
  find(did: string): Account | undefined;
  /** A new account of this host, with an empty repo. @param did default: a did:plc of its own */
  add(hostIndex: number, did?: string): Account;
  /** An account on no host's lists: unknown to the directory, or tombstoned there. */
  ghost(hostIndex: number, number: number, tombstoned: boolean): Account;
  /** The bytes of a record that was made from its seed. */
  bytesOf(path: string, body: Body): Uint8Array;
}

/** The DID of the account with this index. */
export const didOf = (seed: number, index: number): string =>
  `did:plc:${base32(sha256(Buffer.from(`did ${seed} ${index}`))).slice(0, 24)}`;

/** Builds all accounts. The same options give the same accounts. */
export const createPopulation = (options: PopulationOptions): Population => {
  const { seed } = options;
  const accounts: Account[] = [];
  const byDid = new Map<string, Account>();
  const ghosts: string[] = [];
  const people: People = { count: options.accounts, didAt: (index) => accounts[index]!.did };
  const trees = new Map<number, Tree>();

  const treeOf = (records: number): Tree => {
    const known = trees.get(records);
    if (known !== undefined) return known;
    const scope = SHARED_SCOPE + records;
    const random = createRandom(mixSeed(seed, scope));
    let tree: Tree = emptyTree<Body>();
    const profile = 'app.bsky.actor.profile/self';
    for (let counter = 0; counter < records; counter++) {
      const timeMs = options.startMs - HOUR_MS - (records - counter) * 60_000;
      const drawn = drawCollection(random);
      let path = `${drawn}/${recordKey(drawn, timeMs * 1000 + random.below(1000), random.below(1024))}`;
      if (counter === 0) path = profile;
      else if (path.endsWith('/self')) continue;
      const collection = path.slice(0, path.indexOf('/'));
      const bytes = makeRecord(seed, scope, counter, collection, people, timeMs);
      tree = put(tree, path, { digest: sha256(bytes), body: { scope, counter, timeMs } });
    }
    trees.set(records, tree);
    return tree;
  };

  const draw = (index: number, hostIndex: number, random: Random, did = didOf(seed, index)): Account => ({
    index,
    did,
    keyType: random.chance(options.p256Share) ? 'p256' : 'k256',
    legacyDocument: random.chance(options.legacyDocumentShare),
    handle: `user${index}.test`,
    hostIndex,
    status: 'active',
    tombstoned: false,
    keyGeneration: 0,
    key: null,
    tree: emptyTree<Body>(),
    rev: '',
    revMicros: 0,
    commitDigest: null,
    commitBytes: null,
    recordCounter: 0,
    lastEventMs: 0,
  });

  const make = (hostIndex: number, random: Random, did?: string): Account => {
    const account = draw(accounts.length, hostIndex, random, did);
    accounts.push(account);
    byDid.set(account.did, account);
    return account;
  };

  const startingSize = (random: Random): number => {
    if (random.chance(options.largeRepoShare)) return options.largeRepoRecords;
    let point = random.unit();
    for (const [records, share] of STARTING_SIZES) {
      point -= share;
      if (point < 0) return records;
    }
    return 0;
  };

  const hostZipf = createZipf(options.hosts, options.hostZipfExponent);
  const sizes: number[] = [];
  for (let i = 0; i < options.accounts; i++) {
    const random = createRandom(mixSeed(seed, 1, i));
    const hostIndex = i < options.hosts ? i : hostZipf(random);
    sizes.push(startingSize(random));
    make(hostIndex, random);
  }
  // Records speak of accounts, so the trees come after all DIDs are known.
  for (const account of accounts) account.tree = treeOf(sizes[account.index]!);

  return {
    accounts,
    count: people.count,
    didAt: people.didAt,
    find: (did) => byDid.get(did),
    add: (hostIndex, did) => make(hostIndex, createRandom(mixSeed(seed, 1, accounts.length)), did),
    ghost: (hostIndex, number, tombstoned) => {
      const index = GHOST_INDEX + number;
      const account = draw(index, hostIndex, createRandom(mixSeed(seed, 1, index)));
      account.tombstoned = tombstoned;
      if (tombstoned) {
        byDid.set(account.did, account);
        ghosts.push(account.did);
        if (ghosts.length > MAX_GHOSTS) byDid.delete(ghosts.shift()!);
      }
      return account;
    },
    bytesOf: (path, body) =>
      body instanceof Uint8Array
        ? body
        : makeRecord(seed, body.scope, body.counter, path.slice(0, path.indexOf('/')), people, body.timeMs),
  };
};
