/**
 * The index against the network. The world here has repos that change, whether anybody tells or not, and knows nothing
 * of the index's rules: what the index holds is compared with what is so.
 */
import { expect, test } from 'bun:test';
import fc from 'fast-check';
import { openCollectionReader } from '../../src/collections/store/reader.ts';
import { type IndexedEvent, openStore, type Store } from '../../src/collections/store/store.ts';
import type { CheckOutcome } from '../../src/collections/types.ts';
import { COLLECTIONS, didOf, makeDirectory, query, walk } from './samples.ts';

const REPOS = 3;
/** Few of each, so that much happens to each. A widespread one, and others. */
const NAMES = [COLLECTIONS[0]!, COLLECTIONS[3]!, COLLECTIONS[4]!];
const HOSTS = [1, 2, 3];
const GONE_HOST = 3;
const HIDDEN = ['deleted', 'takendown', 'deactivated', 'suspended'] as const;
const NOW = 1_000;
const FOREVER = Number.MAX_SAFE_INTEGER;

interface Repo {
  readonly did: string;
  host: number;
  status: (typeof HIDDEN)[number] | null;
  collections: Set<string>;
  /** Its status changed and no event said so: the index cannot know before it asks. */
  isSilent: boolean;
  /** Of the last event that the index has read; 0 = none. */
  readHost: number;
  /** Hidden by a sweep since. */
  isSwept: boolean;
}

interface Asked {
  readonly did: string;
  readonly watch: number;
  readonly answer: Answer;
}
type Answer = Extract<CheckOutcome, { kind: 'collections' | 'gone' }>;

/** Copied before each transaction, and put back when that fails. */
class World {
  repos: Repo[] = Array.from({ length: REPOS }, (_, index) => ({
    did: didOf(index),
    host: HOSTS[index % HOSTS.length]!,
    status: null,
    collections: new Set(),
    isSilent: false,
    readHost: 0,
    isSwept: false,
  }));
  /** What the relay has logged and the index has not read. It begins with the making of each repo. */
  log: { readonly repo: number; readonly event: IndexedEvent }[] = this.repos.map(({ did, host }, repo) => ({
    repo,
    event: { kind: 'account', hostId: host, did, status: null },
  }));

  clone(): World {
    const world = new World();
    world.repos = this.repos.map((repo) => ({ ...repo, collections: new Set(repo.collections) }));
    world.log = [...this.log];
    return world;
  }
}

/** What a PDS says of a repo. */
const answerOf = ({ status, collections }: Repo): Answer =>
  status === null
    ? { kind: 'collections', collections: [...collections].sort() }
    : { kind: 'gone', reason: status };

const repo = fc.nat(REPOS - 1);
const some = fc.uniqueArray(fc.constantFrom(...NAMES), { maxLength: 2 });
const status = fc.option(fc.constantFrom(...HIDDEN), { freq: 1 });
const of = <Kind extends string, Fields extends object>(
  kind: Kind,
  weight: number,
  fields: { [Key in keyof Fields]: fc.Arbitrary<Fields[Key]> },
) => ({
  weight,
  arbitrary: fc.record({ kind: fc.constant(kind), ...fields }) as unknown as fc.Arbitrary<
    { kind: Kind } & Fields
  >,
});

/** What happens in the network, of which the log may tell. */
const happening = fc.oneof(
  // A commit; `lost` is what the one before it did, which did not come through.
  of('commit', 8, {
    repo,
    created: some,
    deleted: some,
    unproven: fc.boolean(),
    lost: fc.oneof({ weight: 5, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: some }),
    incomplete: fc.boolean(),
  }),
  of('sync', 1, { repo, some }),
  of('account', 3, { repo, status: fc.constantFrom(...HIDDEN) }),
  of('back', 4, { repo }),
  // While it is not active, as an event said, nobody passes its commits on.
  of('unseen', 4, { repo, some }),
  of('silent', 1, { repo, status }),
  of('moved', 1, { repo, host: fc.constantFrom(...HOSTS) }),
);
/** What the thread of the index does. */
const indexing = fc.oneof(
  of('read', 8, { events: fc.integer({ min: 1, max: 6 }) }),
  of('ask', 4, {}),
  of('answer', 4, { which: fc.nat(), fails: fc.boolean() }),
  of('sweep', 1, { gone: fc.boolean() }),
);
/** What a backfill beside it does. */
const beside = fc.oneof(
  of('tell', 3, { repo, some }),
  of('list', 2, { repo, host: fc.constantFrom(...HOSTS), lie: status }),
  of('watch', 3, { repo }),
  of('truth', 4, { which: fc.nat() }),
  of('lie', 3, { repo, host: fc.constantFrom(...HOSTS), some, lie: status }),
  of('verify', 1, { repo }),
);
const fate = fc.oneof(
  { weight: 12, arbitrary: fc.constant('stored' as const) },
  { weight: 2, arbitrary: fc.constant('failed' as const) },
  { weight: 1, arbitrary: fc.constant('killed' as const) },
);
const step = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      what: fc.constant('network' as const),
      happens: fc.array(happening, { minLength: 1, maxLength: 4 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      what: fc.constant('index' as const),
      does: fc.array(indexing, { minLength: 1, maxLength: 4 }),
      fate,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      what: fc.constant('beside' as const),
      does: fc.array(beside, { minLength: 1, maxLength: 4 }),
      fate,
    }),
  },
);
type Happening = typeof happening extends fc.Arbitrary<infer Value> ? Value : never;
type Indexing = typeof indexing extends fc.Arbitrary<infer Value> ? Value : never;
type Beside = typeof beside extends fc.Arbitrary<infer Value> ? Value : never;

const happen = (world: World, what: Happening): void => {
  const repo = world.repos[what.repo]!;
  const { did, collections } = repo;
  const log = (event: IndexedEvent): void => {
    world.log.push({ repo: what.repo, event });
    repo.isSilent = false;
  };
  switch (what.kind) {
    case 'commit': {
      if (repo.status !== null) return;
      const isLost = what.lost !== null;
      for (const name of what.lost ?? []) if (!collections.delete(name)) collections.add(name);
      // Other records of some of those that it deletes from are left.
      const left = what.unproven
        ? what.deleted.filter((name, index) => index > 0 && collections.has(name))
        : [];
      for (const name of what.created) collections.add(name);
      const gone = what.deleted.filter((name) => !what.created.includes(name) && !left.includes(name));
      for (const name of gone) collections.delete(name);
      log({
        kind: 'commit',
        hostId: repo.host,
        discontinuity: isLost && !what.incomplete,
        changes: {
          did,
          present: what.created,
          removed: what.unproven ? [] : gone,
          unproven: what.unproven ? [...gone, ...left] : [],
          ...(isLost && what.incomplete ? { incomplete: true } : {}),
        },
      });
      return;
    }
    case 'sync':
      if (repo.status !== null) return;
      repo.collections = new Set(what.some);
      log({ kind: 'sync', did, hostId: repo.host });
      return;
    case 'account':
      repo.status = what.status;
      if (what.status === 'deleted') collections.clear();
      log({ kind: 'account', did, hostId: repo.host, status: what.status });
      return;
    case 'back':
      repo.status = null;
      log({ kind: 'account', did, hostId: repo.host, status: null });
      return;
    case 'unseen':
      if (repo.status !== null && !repo.isSilent) repo.collections = new Set(what.some);
      return;
    case 'silent':
      if (repo.status === what.status) return;
      repo.status = what.status;
      repo.isSilent = true;
      return;
    case 'moved':
      repo.host = what.host;
      repo.status = null;
      log({ kind: 'account', did, hostId: repo.host, status: null });
  }
};

const doIndexing = (world: World, store: Store, asked: Asked[], what: Indexing): void => {
  switch (what.kind) {
    case 'read':
      for (const { repo, event } of world.log.splice(0, what.events)) {
        store.applyEvent(event, NOW);
        world.repos[repo]!.readHost = event.hostId;
        world.repos[repo]!.isSwept = false;
      }
      return;
    case 'ask': {
      const [check] = store.nextChecks(FOREVER, 1);
      if (check === undefined) return;
      store.beginCheck(check.did, NOW);
      const repo = world.repos.find(({ did }) => did === check.did)!;
      asked.push({ did: check.did, watch: 0, answer: answerOf(repo) });
      return;
    }
    case 'answer': {
      const [ended] = asked.splice(what.which % Math.max(1, asked.length), 1);
      if (ended === undefined) return;
      const outcome: CheckOutcome = what.fails
        ? { kind: 'failed', why: 'timeout', retryAtMs: NOW, isGivenUp: false }
        : ended.answer;
      const isApplied = store.applyCheck(ended.did, outcome, NOW) === 'applied';
      const repo = world.repos.find(({ did }) => did === ended.did)!;
      if (isApplied && outcome.kind === 'collections') repo.isSwept = false;
      return;
    }
    case 'sweep': {
      const hosts = new Set(what.gone ? [GONE_HOST] : []);
      for (let after: number | null = -1; after !== null; ) after = store.sweep(hosts, after, () => true);
      for (const repo of world.repos) repo.isSwept = hosts.has(repo.readHost);
    }
  }
};

const doBeside = (world: World, store: Store, watched: Asked[], what: Beside): void => {
  const saidOf = ({ kind, ...answer }: Answer, hostId: number) =>
    'reason' in answer ? { hidden: answer.reason, hostId } : { ...answer, hostId };
  if (what.kind === 'truth') {
    const [ended] = watched.splice(what.which % Math.max(1, watched.length), 1);
    if (ended === undefined) return;
    const repo = world.repos.find(({ did }) => did === ended.did)!;
    const { touched } = store.apply(ended.did, ended.watch, saidOf(ended.answer, repo.host), NOW);
    if (!touched && ended.answer.kind === 'collections') repo.isSwept = false;
    return;
  }
  const repo = world.repos[what.repo]!;
  const { did } = repo;
  switch (what.kind) {
    case 'tell':
      store.add([{ did, collections: what.some.filter((name) => repo.collections.has(name)) }]);
      return;
    case 'list':
      if (what.host === repo.host) store.setStatus([{ did, status: repo.status, hostId: repo.host }], NOW);
      else if (repo.readHost > 0 && what.host !== repo.readHost)
        expect(store.setStatus([{ did, status: what.lie, hostId: what.host }], NOW)).toBe(0);
      return;
    case 'watch':
      watched.push({ did, watch: store.begin(did, NOW), answer: answerOf(repo) });
      return;
    case 'lie': {
      if (repo.readHost === 0 || [repo.host, repo.readHost].includes(what.host)) return;
      const lie = saidOf(
        what.lie === null
          ? { kind: 'collections', collections: what.some }
          : { kind: 'gone', reason: what.lie },
        what.host,
      );
      expect(store.apply(did, store.begin(did, NOW), lie, NOW).touched).toBe(true);
      return;
    }
    case 'verify':
      store.scheduleChecks([did], 'verify', NOW);
  }
};

const didsOf = (store: Store): Set<string> => new Set(store.nextChecks(FOREVER, 1_000).map(({ did }) => did));

test('after any history the index equals the truth, but for repos with a check, which are counted', () => {
  let judged = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 60, maxLength: 100, size: 'max' }), (steps) => {
      const directory = makeDirectory();
      const open = () => openStore(directory.path, { seenPairs: 16, crowdedCollections: 0 });
      let follower = open();
      let backfill = open();
      const reader = openCollectionReader(directory.path);
      let world = new World();
      const asked: Asked[] = [];
      const watched: Asked[] = [];
      const run = (
        store: Store,
        open: Asked[],
        fate: 'stored' | 'failed' | 'killed',
        work: () => void,
      ): boolean => {
        const before = world.clone();
        const openBefore = open.length === 0 ? [] : [...open];
        if (fate === 'stored') {
          store.transaction(work);
          return false;
        }
        expect(() =>
          store.transaction(() => {
            work();
            throw new Error('the disk is full');
          }),
        ).toThrow('the disk is full');
        world = before;
        // Whoever asked in it was refused; whoever ended something in it does so once.
        const left = open.filter((each) => openBefore.includes(each));
        open.splice(0, open.length, ...(fate === 'killed' ? [] : left));
        if (fate === 'killed') store.close();
        return fate === 'killed';
      };
      /**
       * What the index holds of the repos that it answers for: of which it has read all, without a check, and with a
       * status that an event has told.
       */
      const judge = (excepted: ReadonlySet<string>): void => {
        const listed = new Map(
          [...NAMES, null].map((name) => [name, walk(reader, query(name === null ? [] : [name]))]),
        );
        for (const [name, dids] of listed) {
          expect(dids.length).toBe(new Set(dids).size);
          expect(name === null ? reader.repoCount() : (reader.count(name)?.dids ?? 0)).toBe(dids.length);
        }
        for (const [
          index,
          { did, status, collections, isSilent, isSwept, readHost },
        ] of world.repos.entries()) {
          if (isSilent || excepted.has(did) || world.log.some(({ repo }) => repo === index)) continue;
          judged++;
          const isShown = status === null && !isSwept;
          for (const name of NAMES)
            expect([did, name, listed.get(name)!.includes(did)]).toEqual([
              did,
              name,
              isShown && collections.has(name),
            ]);
          if (readHost > 0) expect([did, listed.get(null)!.includes(did)]).toEqual([did, isShown]);
        }
      };
      try {
        for (const each of steps) {
          if (each.what === 'network') for (const what of each.happens) happen(world, what);
          else if (each.what === 'index') {
            const isDead = run(follower, asked, each.fate, () => {
              for (const what of each.does) doIndexing(world, follower, asked, what);
            });
            if (isDead) follower = open();
          } else {
            const isDead = run(backfill, watched, each.fate, () => {
              for (const what of each.does) doBeside(world, backfill, watched, what);
            });
            if (isDead) backfill = open();
          }
          // Whoever judges has begun no check.
          judge(didsOf(backfill));
        }
        follower.transaction(() => doIndexing(world, follower, asked, { kind: 'read', events: FOREVER }));
        const scheduled = didsOf(backfill);
        expect(backfill.totals().byName.get('checks') ?? 0).toBe(scheduled.size);
        judge(scheduled);
        // Every check is given out and ends, and then nothing is excepted.
        const underWay = new Set(asked.map(({ did }) => did));
        expect(didsOf(follower)).toEqual(new Set([...scheduled].filter((did) => !underWay.has(did))));
        while (asked.length > 0)
          follower.transaction(() =>
            doIndexing(world, follower, asked, { kind: 'answer', which: 0, fails: true }),
          );
        for (let rounds = 0; didsOf(follower).size > 0; rounds++) {
          expect(rounds).toBeLessThan(REPOS + 1);
          follower.transaction(() => {
            doIndexing(world, follower, asked, { kind: 'ask' });
            doIndexing(world, follower, asked, { kind: 'answer', which: 0, fails: false });
          });
        }
        expect(follower.totals().byName.get('checks') ?? 0).toBe(0);
        judge(new Set());
      } finally {
        reader.close();
        follower.close();
        backfill.close();
        directory.remove();
      }
    }),
    { numRuns: Number(process.env.WEIR_RUNS ?? 60) },
  );
  expect(judged).toBeGreaterThan(0);
}, 120_000);
