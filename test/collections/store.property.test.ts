/** What readers are told beside writers, against a model of the store's own rules; truth.property.test.ts knows none of those. */
import { expect, test } from 'bun:test';
import fc from 'fast-check';
import { openCollectionReader } from '../../src/collections/store/reader.ts';
import { openStore, type Store } from '../../src/collections/store/store.ts';
import type { HiddenReason, PageQuery } from '../../src/collections/types.ts';
import { COLLECTIONS, didOf, Model, makeDirectory, matcher, query, walk } from './samples.ts';

const REPOS = 14;
const HIDDEN = ['deleted', 'takendown', 'deactivated', 'suspended'] as const;
const GONE_HOST = 3;

const did = fc.nat(REPOS - 1);
const some = fc.uniqueArray(fc.nat(COLLECTIONS.length - 1), { maxLength: 4 });
const operation = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('commit' as const),
      did,
      some,
      gone: some,
      host: fc.integer({ min: 1, max: 3 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('account' as const),
      did,
      status: fc.option(fc.nat(HIDDEN.length - 1)),
      host: fc.constant(1),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('sync' as const), did }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('add' as const), did, some }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('listed' as const),
      did,
      status: fc.option(fc.nat(HIDDEN.length - 1)),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('truth' as const), did, some }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('gone' as const), did, status: fc.nat(HIDDEN.length - 1) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('sweep' as const), gone: fc.boolean() }) },
);
type Operation = typeof operation extends fc.Arbitrary<infer Value> ? Value : never;
const step = fc.record({
  operations: fc.array(operation, { minLength: 1, maxLength: 6 }),
  fate: fc.oneof(
    { weight: 8, arbitrary: fc.constant('stored' as const) },
    { weight: 1, arbitrary: fc.constant('failed' as const) },
    { weight: 1, arbitrary: fc.constant('killed' as const) },
  ),
  writer: fc.nat(2),
});

const names = (some: readonly number[]): string[] => some.map((index) => COLLECTIONS[index]!);

const perform = (store: Store, model: Model, operation: Operation): void => {
  const nowMs = 0;
  if (operation.kind === 'sweep') {
    const hosts = new Set(operation.gone ? [GONE_HOST] : []);
    for (let after: number | null = -1; after !== null; ) after = store.sweep(hosts, after, () => true);
    for (const repo of model.repos.values())
      if (repo.status === null && hosts.has(repo.hostId)) model.setStatus(repo, 'pds_gone');
      else if (repo.status === 'pds_gone' && !hosts.has(repo.hostId)) model.setStatus(repo, null);
    return;
  }
  const did = didOf(operation.did);
  const active = (hostId: number) => {
    const repo = model.repo(did);
    if (hostId > 0) repo.hostId = hostId;
    repo.told = true;
    if (repo.status !== null) model.setStatus(repo, null);
    return repo;
  };
  switch (operation.kind) {
    case 'commit': {
      const present = names(operation.some);
      const removed = names(operation.gone).filter((name) => !present.includes(name));
      store.applyEvent(
        {
          kind: 'commit',
          hostId: operation.host,
          discontinuity: false,
          changes: { did, present, removed, unproven: [] },
        },
        nowMs,
      );
      const repo = active(operation.host);
      for (const name of present) model.add(repo, name);
      for (const name of removed) model.remove(repo, name);
      return;
    }
    case 'sync':
      store.applyEvent({ kind: 'sync', hostId: 1, did }, nowMs);
      active(1);
      return;
    case 'account': {
      const status = operation.status === null ? null : HIDDEN[operation.status]!;
      store.applyEvent({ kind: 'account', hostId: operation.host, did, status }, nowMs);
      if (status === null) active(operation.host);
      else {
        const repo = model.repos.get(did) ?? model.repo(did);
        repo.hostId = operation.host;
        repo.told = true;
        model.setStatus(repo, status);
      }
      return;
    }
    case 'add': {
      const collections = names(operation.some);
      const result = store.add([{ did, collections }]);
      const repo = model.repo(did);
      const isDeleted = repo.status === 'deleted';
      const added = collections.filter((name) => model.add(repo, name)).length;
      expect(result).toEqual({
        added,
        known: isDeleted ? 0 : collections.length - added,
        refused: isDeleted ? collections.length : 0,
      });
      return;
    }
    case 'listed': {
      const status = operation.status === null ? null : HIDDEN[operation.status]!;
      const taken = store.setStatus([{ did, status }], nowMs);
      const isTold = model.repos.get(did)?.told === true;
      expect(taken).toBe(isTold ? 0 : 1);
      if (!isTold) model.setStatus(model.repo(did), status);
      return;
    }
    case 'truth': {
      const watch = store.begin(did, nowMs);
      const collections = names(operation.some);
      const result = store.apply(did, watch, { collections }, nowMs);
      const repo = model.repo(did);
      if (repo.status !== null && (!repo.told || repo.status === 'pds_gone')) model.setStatus(repo, null);
      const before = repo.collections.size;
      for (const name of [...repo.collections]) if (!collections.includes(name)) model.remove(repo, name);
      const added = collections.filter((name) => model.add(repo, name)).length;
      expect(result).toMatchObject({
        added,
        removed: before + added - repo.collections.size,
        touched: false,
      });
      return;
    }
    case 'gone': {
      const hidden = HIDDEN[operation.status]!;
      const result = store.apply(did, store.begin(did, nowMs), { hidden }, nowMs);
      const repo = model.repos.get(did);
      expect(result.hidden).toBe(repo !== undefined && repo.status === null);
      if (repo !== undefined && (repo.status === null || !repo.told)) {
        repo.told = false;
        model.setStatus(repo, hidden as HiddenReason);
      }
      return;
    }
  }
};

const QUERIES: Pick<PageQuery, 'collections' | 'prefixes'>[] = [
  query([]),
  ...COLLECTIONS.map((name) => query([name])),
  query([COLLECTIONS[0]!, COLLECTIONS[1]!]),
  query([COLLECTIONS[0]!, COLLECTIONS[3]!]),
  query([COLLECTIONS[3]!, COLLECTIONS[4]!]),
  query([], ['com.example.']),
  query([COLLECTIONS[2]!], ['com.example.']),
  query(COLLECTIONS),
];

/** Somebody who reads pages while all this goes on, and knows by the model what it may be told. */
class Walker {
  readonly query: Pick<PageQuery, 'collections' | 'prefixes'>;
  readonly #matches: (held: ReadonlySet<string>) => boolean;
  cursor: string | null = null;
  /** DID → how often it came into the list so far. */
  #entered = new Map<string, number>();
  #members = new Set<string>();
  readonly #told = new Set<string>();

  constructor(wanted: Pick<PageQuery, 'collections' | 'prefixes'>) {
    this.query = wanted;
    this.#matches = matcher(wanted);
  }
  observe(model: Model): void {
    const members = model.members(this.#matches);
    for (const did of members)
      if (!this.#members.has(did)) this.#entered.set(did, (this.#entered.get(did) ?? 0) + 1);
    this.#members = members;
  }
  save(): () => void {
    const entered = new Map(this.#entered);
    const members = this.#members;
    return () => {
      this.#entered = entered;
      this.#members = members;
    };
  }
  /** Reads a page. @returns whether more follow */
  read(reader: ReturnType<typeof openCollectionReader>, limit: number): boolean {
    const page = reader.page({ ...this.query, cursor: this.cursor, limit });
    if ('bad' in page) throw new Error(page.bad);
    if (page.cursor !== null) expect(page.dids.length).toBeGreaterThan(0);
    for (const did of page.dids) {
      expect(`${did} ${this.#members.has(did)}`).toBe(`${did} true`);
      const told = `${did} ${this.#entered.get(did)}`;
      // A client that was told the end goes on from its last cursor and sees that page again.
      if (this.#seenAtEnd.has(told)) {
        if (page.cursor !== null) this.#seenAtEnd.delete(told);
        continue;
      }
      expect(this.#told.has(told) ? `${told} again` : told).toBe(told);
      this.#told.add(told);
      if (page.cursor === null) this.#seenAtEnd.add(told);
    }
    if (page.cursor === null) return false;
    this.cursor = page.cursor;
    return true;
  }
  readonly #seenAtEnd = new Set<string>();
  /** Everything that is in the list now was told since it came in. */
  expectComplete(): void {
    for (const did of this.#members)
      expect(`${did} ${this.#told.has(`${did} ${this.#entered.get(did)}`)}`).toBe(`${did} true`);
  }
}

test('walks beside any history never skip or repeat a repo, and counts are what they give', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.infiniteStream(fc.nat(4)), (steps, choices) => {
      const directory = makeDirectory();
      // Numbers of collections that nobody has any more are given away at once.
      const open = () => openStore(directory.path, { seenPairs: 16, crowdedCollections: 0 });
      // One is the thread that follows the log, the others are processes beside it.
      const stores = [open(), open(), open()];
      const choose = (): number => choices.next().value;
      // With 0 every doubt is settled by a look into the account.
      const openReader = () =>
        openCollectionReader(directory.path, { maxRareEntries: [0, 3, 100][choose() % 3]! });
      let reader = openReader();
      const model = new Model();
      const walkers = QUERIES.map((wanted) => new Walker(wanted));
      model.changed = () => {
        for (const walker of walkers) walker.observe(model);
      };
      try {
        let seq = 0;
        for (const { operations, fate, writer } of steps) {
          const before = model.clone();
          const undo = walkers.map((walker) => walker.save());
          const store = stores[writer]!;
          const work = (): void => {
            for (const operation of operations) perform(store, model, operation);
            store.setSeq(seq + 1);
            if (fate !== 'stored') throw new Error('the end');
          };
          if (fate === 'stored') {
            store.transaction(work);
            seq++;
          } else {
            expect(() => store.transaction(work)).toThrow('the end');
            model.repos = before;
            for (const each of undo) each();
            if (fate === 'killed') {
              store.close();
              stores[writer] = open();
              reader.close();
              reader = openReader();
            }
          }
          stores[writer]!.transaction(() => expect(stores[writer]!.seq ?? 0).toBe(seq));
          for (const walker of walkers) if (choose() === 0) walker.read(reader, 1 + choose());
        }
        for (const walker of walkers) {
          while (walker.read(reader, 2));
          walker.expectComplete();
        }
        for (const wanted of QUERIES) {
          const listed = walk(reader, wanted);
          expect(new Set(listed)).toEqual(model.members(matcher(wanted)));
          expect(listed.length).toBe(new Set(listed).size);
        }
        for (const name of COLLECTIONS)
          expect(reader.count(name)?.dids ?? 0).toBe(model.members((held) => held.has(name)).size);
        expect(reader.repoCount()).toBe(walk(reader, query([])).length);
        expect(reader.counts(null, 100)).toEqual(
          COLLECTIONS.map((collection) => ({
            collection,
            dids: model.members((held) => held.has(collection)).size,
          }))
            .filter(({ dids }) => dids > 0)
            .sort((one, other) => (one.collection < other.collection ? -1 : 1)),
        );
        const { rows, repos } = stores[0]!.totals();
        expect(repos).toBe(model.repos.size);
        let pairs = 0;
        for (const repo of model.repos.values()) pairs += repo.collections.size;
        expect(rows).toBe(pairs);
      } finally {
        reader.close();
        for (const store of stores) store.close();
        directory.remove();
      }
    }),
    { numRuns: Number(process.env.WEIR_RUNS ?? 60) },
  );
}, 60_000);
