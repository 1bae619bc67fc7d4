/**
 * The end-to-end test: a real PLC directory, two real PDSes, weir as its users run it, and consumers that share no
 * code with it. Run with `bun test/e2e/run.ts`; exit code 0 when every step passed.
 *
 *   --direct       let the consumers follow the first PDS itself instead of weir (tests the test)
 *   --cache DIR    where the PDS is installed (default .e2e/ in the repository)
 *   --seed N       seed of the writers and of the moments of the kills
 *   --keep         keep the data directories
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { IdResolver } from '@atproto/identity';
import { verifyRepoCar } from '@atproto/repo';
import { type Account, createAccount, type Write } from './account.ts';
import { checkApi } from './api.ts';
import { findChromium } from './chromium.ts';
import { checkCounts, lastRecord, refusesBadQueries, settleCollections } from './collections.ts';
import { type Client, clientEvents, type RawConsumer, startClient, startRawConsumer } from './consumers.ts';
import { install } from './install.ts';
import { type JetstreamClient, jsonEvents, startJetstreamClients } from './jetstream.ts';
import { createLedger, difference, recordsAfter, viewOfHost, viewOfRelay } from './ledger.ts';
import { type Network, startNetwork } from './network.ts';
import { createSteps, must, settle } from './steps.ts';
import { createProxy, createWeir, type Target, type Weir } from './target.ts';

const POST = 'app.bsky.feed.post';
const LIKE = 'app.bsky.feed.like';
const PROFILE = 'app.bsky.actor.profile';
/** A collection that no one has a lexicon for. */
const NOTE = 'com.example.weir.note';

/** The whole run, installation excluded. */
const RUN_TIMEOUT_MS = 240_000;
const KILLS = 5;
const WRITERS = 3;

const { values: options } = parseArgs({
  options: {
    direct: { type: 'boolean', default: false },
    cache: { type: 'string', default: join(import.meta.dir, '..', '..', '.e2e') },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    keep: { type: 'boolean', default: false },
  },
});

/** mulberry32: a number in [0, 1) from a seed. */
const createRandom = (seed: number) => {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
};

const random = createRandom(Number(options.seed));
const between = (low: number, high: number) => low + random() * (high - low);
const now = () => new Date().toISOString();
const post = (text: string) => ({ text, createdAt: now() });

const { step, ...steps } = (() => {
  const all = createSteps();
  return { step: all.step, total: all };
})();

const ledger = createLedger();
const cleanUps: (() => Promise<unknown> | unknown)[] = [];
let cleaned: Promise<void> | null = null;
const cleanUp = () => {
  cleaned ??= (async () => {
    for (const act of cleanUps.reverse())
      await Promise.resolve(act()).catch((error) => console.error(String(error)));
  })();
  return cleaned;
};

const finish = async (code: number): Promise<never> => {
  await cleanUp();
  console.log(`${steps.total.passed} passed, ${steps.total.failed} failed`);
  process.exit(code);
};

/** Writes at random until told to stop; every act is awaited, so an account's acts have one order. */
const startWriter = (account: Account, seed: number) => {
  const own = createRandom(seed);
  const rkeys: string[] = [];
  let stopping = false;
  let acts = 0;
  const act = async () => {
    const dice = own();
    const known = rkeys.length > 0 ? rkeys[Math.floor(own() * rkeys.length)]! : null;
    if (dice < 0.1 && known !== null) {
      await account.putRecord(NOTE, known, post(`edit ${acts}`), true);
    } else if (dice < 0.2 && known !== null) {
      await account.deleteRecord(NOTE, known);
      rkeys.splice(rkeys.indexOf(known), 1);
    } else if (dice < 0.3) {
      const writes: Write[] = [];
      for (let index = 0; index < 2 + Math.floor(own() * 4); index++) {
        const rkey = `n${acts}-${index}`;
        writes.push({ action: 'create', collection: NOTE, rkey, record: post(`batch ${acts} ${index}`) });
        rkeys.push(rkey);
      }
      if (known !== null) {
        writes.push({ action: 'delete', collection: NOTE, rkey: known });
        rkeys.splice(rkeys.indexOf(known), 1);
      }
      await account.applyWrites(writes);
    } else if (dice < 0.315) {
      await account.deactivate();
      await account.activate();
    } else {
      const written = await account.createRecord(NOTE, post(`note ${acts}`));
      rkeys.push(written.rkey);
    }
    acts++;
  };
  let failure: unknown = null;
  const done = (async () => {
    while (!stopping) {
      await act();
      await Bun.sleep(15 + own() * 30);
    }
  })().catch((error) => {
    failure = error;
  });
  return {
    stop: async () => {
      stopping = true;
      await done;
      if (failure !== null) throw failure;
      return acts;
    },
  };
};

const describe = (did: string, accounts: ReadonlyMap<string, string>) => `${accounts.get(did) ?? '?'} ${did}`;

/** What weir's page for people says of an account, as one line of text. */
const explanation = async (weir: Weir, did: string): Promise<string> => {
  const page = await fetch(`${weir.url}/accounts/${did}`).then(
    (response) => response.text(),
    (error) => String(error),
  );
  const text = page.replace(/<(style|script)[\s\S]*?<\/\1>/g, '').replace(/<[^>]*>/g, ' ');
  return text.replace(/\s+/g, ' ').slice(0, 1500);
};

const main = async () => {
  console.log(`seed ${options.seed}${options.direct ? ', direct: the consumers follow the PDS itself' : ''}`);
  const installed = await install(options.cache);
  const startedAt = performance.now();
  const overtime = setTimeout(async () => {
    await step('the whole run ends in time', () => {
      throw new Error(`still running after ${RUN_TIMEOUT_MS / 1000} s`);
    });
    await finish(1);
  }, RUN_TIMEOUT_MS);

  const directory = await mkdtemp(join(tmpdir(), 'weir-e2e-'));
  let weirLog: string | null = null;
  cleanUps.push(async () => {
    if (steps.total.failed > 0 && weirLog !== null) {
      const lines = (
        await Bun.file(weirLog)
          .text()
          .catch(() => '')
      )
        .trimEnd()
        .split('\n');
      console.log(
        `--- the last lines of weir's log (${lines.length} in all) ---\n${lines.slice(-40).join('\n')}\n---`,
      );
    }
    if (options.keep) console.log(`kept: ${directory}`);
    else await rm(directory, { recursive: true, force: true });
  });

  let network!: Network;
  const networkUp = await step('a real PLC directory and two real PDSes start', async () => {
    network = await startNetwork(installed, directory);
    cleanUps.push(network.stop);
    return `PLC ${network.plcUrl}, PDS ${network.pds.map((pds) => pds.hostname).join(' and ')}`;
  });
  if (!networkUp) return;
  const [one, two] = network.pds;

  const weir: Weir | null = options.direct ? null : await createWeir(network, directory, [one.hostname]);
  weirLog = weir?.logFile ?? null;
  const target: Target = weir ?? (await createProxy(one));
  cleanUps.push(target.cleanUp);
  const view = weir === null ? viewOfHost(one.hostname) : viewOfRelay;

  const up = await step(weir === null ? 'the proxy starts' : 'weir starts with RELAY_HOSTS', async () => {
    const from = performance.now();
    await target.start();
    return `${Math.round(performance.now() - from)} ms`;
  });
  if (!up) return;

  if (weir !== null) {
    await step('weir refuses the admin route without the password', async () => {
      const response = await fetch(`${weir.url}/admin/pds/requestCrawl`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ hostname: two.hostname }),
      });
      must(response.status === 401, `expected 401, got ${response.status} ${await response.text()}`);
      return undefined;
    });
    await step('weir takes the second PDS by POST /admin/pds/requestCrawl', async () => {
      const response = await fetch(`${weir.url}/admin/pds/requestCrawl`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: weir.adminAuthorization },
        body: JSON.stringify({ hostname: two.hostname }),
      });
      const text = await response.text();
      must(response.status === 200, `expected 200, got ${response.status} ${text}`);
      return undefined;
    });
    await step('weir is connected to both PDSes', async () => {
      await settle(async () => {
        const response = await fetch(`${weir.url}/admin/pds/list`, {
          headers: { authorization: weir.adminAuthorization },
        });
        const text = await response.text();
        if (!response.ok) return `GET /admin/pds/list: ${response.status} ${text}`;
        const rows = JSON.parse(text) as { Host: string; HasActiveConnection: boolean }[];
        const connected = rows.filter((row) => row.HasActiveConnection).map((row) => row.Host);
        const waiting = [one, two].filter((pds) => !connected.includes(pds.hostname));
        return waiting.length === 0
          ? null
          : `not connected: ${waiting.map((pds) => pds.hostname).join(', ')}`;
      });
      return undefined;
    });
  }

  const raw: RawConsumer = startRawConsumer(target.url, 0);
  const client: Client = startClient(target.url, network.plcUrl, network.pds);
  // What the PDSes themselves send, for a comparison byte by byte.
  const sources = new Map([one, two].map((pds) => [pds.hostname, startRawConsumer(pds.url, 0)]));
  cleanUps.push(
    () => client.stop(),
    () => {
      for (const consumer of [raw, ...sources.values()]) consumer.stop();
    },
  );
  const jetstream: JetstreamClient[] =
    weir === null
      ? []
      : await startJetstreamClients({
          service: weir.url,
          chromium: await findChromium(),
        });
  cleanUps.push(async () => {
    for (const one of jetstream) await one.stop();
  });
  const names = new Map<string, string>();

  /** What failed a step already is not waited for again in the later ones. */
  const reported = new Set<string>();
  const reportedErrors = new Set<string>();
  /** Everything in which a consumer has not seen exactly what the ledger says: by DID. */
  const mismatches = (): Map<string, string> => {
    const found = new Map<string, string>();
    for (const did of ledger.dids) {
      const expected = view(ledger.entries(did));
      const inRaw = difference(expected, raw.of(did));
      const inClient = difference(clientEvents(expected, ledger), client.of(did));
      if (inRaw !== null) found.set(did, `raw consumer, ${describe(did, names)}: ${inRaw}`);
      else if (inClient !== null) found.set(did, `Firehose client, ${describe(did, names)}: ${inClient}`);
      for (const one of jetstream) {
        const gap = difference(jsonEvents(expected, ledger, one), one.of(did));
        if (gap !== null && !found.has(did)) found.set(did, `${one.name}, ${describe(did, names)}: ${gap}`);
      }
    }
    return found;
  };
  const seesAll = (timeoutMs: number) => {
    const problems = () => {
      const found = mismatches();
      for (const did of reported) found.delete(did);
      const errors = [
        ...raw.faults,
        ...client.errors,
        ...jetstream.flatMap((one) => one.faults.map((fault) => `${one.name}: ${fault}`)),
      ].filter((error) => !reportedErrors.has(error));
      return { found, errors };
    };
    return settle(() => {
      if (weir !== null && weir.death !== null) throw new Error(weir.death);
      const { found, errors } = problems();
      return found.size === 0 && errors.length === 0
        ? null
        : [...found.values(), ...errors].slice(0, 5).join('\n');
    }, timeoutMs).catch(async (error: Error) => {
      const { found, errors } = problems();
      for (const did of found.keys()) reported.add(did);
      for (const error of errors) reportedErrors.add(error);
      const [first] = found.keys();
      if (weir === null || weir.death !== null || first === undefined) throw error;
      throw new Error(`${error.message}\nweir on ${first}: ${await explanation(weir, first)}`);
    });
  };
  /** The PDSes' own streams have caught up with the ledger (they forget events of deleted accounts). */
  const settleSources = () =>
    settle(() => {
      for (const [hostname, source] of sources)
        for (const did of ledger.dids) {
          const gap = difference(viewOfHost(hostname)(ledger.entries(did)), source.of(did));
          if (gap !== null) return `${hostname} itself, ${describe(did, names)}: ${gap}`;
        }
      return null;
    });
  const acted = async (name: string, act: () => Promise<unknown>) => {
    const ok = await step(name, async () => {
      await act();
      await settleSources();
      const from = performance.now();
      await seesAll(20_000);
      const tookMs = Math.round(performance.now() - from);
      if (weir !== null) await settleCollections(weir, accounts, collectionsSeen);
      return `seen ${tookMs} ms after the PDS had sent it`;
    });
    if (weir !== null && weir.death !== null)
      await step('weir, which had ended by itself, starts again and has lost nothing', async () => {
        await weir.start();
        await seesAll(20_000);
        return undefined;
      });
    return ok;
  };

  /** Every collection that any repo ever had: what the index is asked for. */
  const collectionsSeen = new Set<string>();
  const accounts: Account[] = [];
  let alice!: Account;
  let bob!: Account;
  let carol!: Account;
  const create = async (pds: typeof one, name: string) => {
    const account = await createAccount(pds, ledger, name);
    names.set(account.did, name);
    accounts.push(account);
    return account;
  };

  const created = await acted('accounts are created', async () => {
    alice = await create(one, 'alice');
    bob = await create(one, 'bobby');
    carol = await create(one, 'carol');
  });
  if (alice === undefined || bob === undefined || carol === undefined) return;
  if (!created && raw.frames.length === 0) return;

  let first!: { uri: string; rkey: string; cid: string };
  await acted('posts, likes and a profile are created', async () => {
    first = await alice.createRecord(POST, post('hello world'));
    await bob.createRecord(POST, post('grüße, 世界 🌍'));
    await bob.createRecord(LIKE, { subject: { uri: first.uri, cid: first.cid }, createdAt: now() });
    await alice.putRecord(PROFILE, 'self', { displayName: 'Alice', description: 'the first' }, false);
    await carol.createRecord(NOTE, { anything: { nested: [1, 'two', null, true] }, createdAt: now() });
    for (let index = 0; index < 25; index++) await carol.createRecord(POST, post(`post ${index}`));
  });
  await acted('a profile and a post are edited (putRecord)', async () => {
    await alice.putRecord(PROFILE, 'self', { displayName: 'Alice A.' }, true);
    await alice.putRecord(POST, first.rkey, post('hello again, world'), true);
  });
  await acted('records are deleted, several at once with other writes (applyWrites)', async () => {
    await alice.deleteRecord(POST, first.rkey);
    const create = (rkey: string): Write => ({
      action: 'create',
      collection: NOTE,
      rkey,
      record: post(rkey),
    });
    await bob.applyWrites(['x', 'y', 'z', 'a/b'.replace('/', '-')].map(create));
    await bob.applyWrites([
      { action: 'update', collection: NOTE, rkey: 'y', record: post('y, edited') },
      { action: 'delete', collection: NOTE, rkey: 'x' },
      create('w'),
    ]);
    await bob.deleteRecord(NOTE, 'z');
  });
  if (weir !== null)
    await acted('the only record of a collection is created, found by collection, and deleted', () =>
      lastRecord(alice, 'com.example.weir.single', () => settleCollections(weir, accounts, collectionsSeen)),
    );
  await acted('a handle is changed', () => alice.updateHandle(`alice-two${one.handleDomain}`));
  await acted('an account is deactivated', () => bob.deactivate());
  let deactivated!: Account;
  await acted('another account is created', async () => {
    deactivated = await create(one, 'erika');
    await deactivated.createRecord(POST, post('before leaving'));
  });
  await acted('another account is deactivated for good', () => deactivated.deactivate());
  await acted('the first one is reactivated and posts', async () => {
    await bob.activate();
    await bob.createRecord(POST, post('back again'));
  });

  let moved: Account | null = null;
  await acted('an account is created on the second PDS', async () => {
    const dora = await create(two, 'doris');
    await dora.createRecord(POST, post('from the second PDS'));
  });
  await acted('an account migrates to the second PDS', async () => {
    moved = await carol.migrate(two, network.plcUrl);
    accounts[accounts.indexOf(carol)] = moved;
  });
  const migrated = moved as Account | null;
  if (migrated !== null) {
    await acted('it posts from its new PDS', () => migrated.createRecord(POST, post('moved in')));
    await acted('its old account is deactivated, which must not reach anyone behind the relay', async () => {
      await carol.deactivate('from a PDS that is no longer the account’s');
      await migrated.createRecord(POST, post('still here'));
    });
  }

  let deleted!: Account;
  await acted('an account is created to be deleted', async () => {
    deleted = await create(one, 'frank');
    await deleted.createRecord(POST, post('short-lived'));
  });
  await acted('an account is deleted', () => deleted.delete());
  accounts.splice(accounts.indexOf(deleted), 1);

  if (weir !== null)
    await checkApi(step, weir, network, {
      active: accounts.filter((account) => account !== deactivated),
      deactivated,
      deleted,
    });

  // SIGKILL amid traffic.
  const writerAccounts: Account[] = [];
  await acted('writers’ accounts are created', async () => {
    for (let index = 0; index < WRITERS; index++)
      writerAccounts.push(await create(index < 2 ? one : two, `writer${index}`));
  });
  const writers = writerAccounts.map((account, index) =>
    startWriter(account, Number(options.seed) + 1 + index),
  );
  let stopped = false;
  const stopWriters = async () => {
    stopped = true;
    return Promise.all(writers.map((writer) => writer.stop()));
  };
  cleanUps.push(() => (stopped ? undefined : stopWriters()));
  let orphans = 0;
  for (let kill = 1; kill <= KILLS; kill++) {
    const early = kill === 3;
    const withChildren = kill === 4;
    const title = `killed with SIGKILL amid traffic, ${kill} of ${KILLS}${early ? ', again while it was starting' : ''}${withChildren ? ', together with its database' : ''}: starts again and goes on`;
    const ok = await step(title, async () => {
      await Bun.sleep(between(1200, 3200));
      await target.kill(withChildren);
      if (early) {
        await Bun.sleep(between(100, 500));
        await target.spawn();
        await Bun.sleep(between(200, 2200));
        await target.kill(false);
      }
      const seenBefore = raw.frames.length;
      const left = weir === null || withChildren ? [] : await weir.leftOver();
      orphans = Math.max(orphans, left.length);
      await Bun.sleep(between(0, 1500));
      const from = performance.now();
      await target.start();
      const startMs = Math.round(performance.now() - from);
      await settle(() => (raw.frames.length > seenBefore ? null : 'no event after the restart'), 20_000);
      return `start ${startMs} ms, ${seenBefore} events seen before, ${left.length} processes had outlived it`;
    });
    if (!ok && weir !== null && weir.death !== null) {
      const again = await step('weir, which had ended by itself, starts at the second attempt', async () => {
        await Bun.sleep(2000);
        await weir.start();
        return undefined;
      });
      if (!again) break;
    }
  }
  await step('the writers have written all along', async () => {
    const acts = (await stopWriters()).reduce((sum, count) => sum + count, 0);
    must(acts > 50, `only ${acts} acts`);
    return `${acts} acts by ${WRITERS} writers, ${KILLS} kills`;
  });
  await step('all consumers, resuming from their cursors, have seen every event exactly once', async () => {
    await settleSources();
    await seesAll(40_000);
    must(
      reported.size === 0,
      `differences reported above: ${[...reported].map((did) => describe(did, names)).join(', ')}`,
    );
    const opened = raw.opened;
    must(opened > KILLS, `the raw consumer connected only ${opened} times`);
    for (const one of jetstream) must(one.opened > 1, `${one.name} connected only ${one.opened} times`);
    return `${raw.frames.length} events, ${opened} connections; ${jetstream.map((one) => `${one.name} ${one.count} events, ${one.opened} connections`).join('; ')}`;
  });
  await step('each seq once and growing, each (did, rev) once', () => {
    const seqs = new Set<number>();
    const revs = new Set<string>();
    let last = 0;
    for (const frame of raw.frames) {
      must(frame.seq > last && !seqs.has(frame.seq), `seq ${frame.seq} after ${last}`);
      last = frame.seq;
      seqs.add(frame.seq);
      if (frame.event.kind !== 'commit') continue;
      const key = `${frame.did} ${frame.event.rev}`;
      must(!revs.has(key), `${key} twice`);
      revs.add(key);
    }
    return `${seqs.size} seqs, ${revs.size} commits`;
  });
  await step('every frame is a PDS’s frame byte for byte, its seq aside', () => {
    const sent = new Set(
      [...sources.values()].flatMap((source) => source.frames.map((frame) => frame.digest)),
    );
    for (const frame of raw.frames)
      must(sent.has(frame.digest), `seq ${frame.seq}: ${JSON.stringify(frame.event)}`);
    return undefined;
  });
  await step('the records that the events add up to are those of the PDSes’ repos', async () => {
    const idResolver = new IdResolver({ plcUrl: network.plcUrl, fetch: globalThis.fetch });
    let count = 0;
    for (const account of accounts.filter((one) => one !== deactivated)) {
      if (weir === null && account.pds !== one) continue;
      const response = await fetch(`${account.pds.url}/xrpc/com.atproto.sync.getRepo?did=${account.did}`);
      must(response.ok, `getRepo ${account.did}: ${response.status}`);
      const key = await idResolver.did.resolveAtprotoKey(account.did);
      const repo = await verifyRepoCar(new Uint8Array(await response.arrayBuffer()), account.did, key);
      const held = new Map(
        repo.creates.map((record) => [`${record.collection}/${record.rkey}`, record.cid.toString()]),
      );
      const seen = recordsAfter(raw.of(account.did));
      const gap = difference([...held].sort(), [...seen].sort());
      must(gap === null, `${describe(account.did, names)}: ${gap}`);
      count += held.size;
    }
    return `${count} records`;
  });

  if (weir !== null) {
    await step('cold consumers from cursor 0 and from the middle get the same events', async () => {
      const middle = raw.frames[Math.floor(raw.frames.length * between(0.2, 0.8))]!.seq;
      for (const cursor of [0, middle]) {
        const cold = startRawConsumer(weir.url, cursor);
        const expected = raw.frames
          .filter((frame) => frame.seq > cursor)
          .map(({ seq, digest }) => ({ seq, digest }));
        try {
          await settle(
            () =>
              difference(
                expected,
                cold.frames.map(({ seq, digest }) => ({ seq, digest })),
              ),
            15_000,
          );
          must(cold.faults.length === 0, cold.faults.join('; '));
        } finally {
          cold.stop();
        }
      }
      return `cursors 0 and ${middle}`;
    });
    await checkApi(step, weir, network, {
      active: accounts.filter((account) => account !== deactivated),
      deactivated,
      deleted,
    });
    await step('the collection index, after all kills, is what the PDSes say', async () => {
      await settleCollections(weir, accounts, collectionsSeen);
      await refusesBadQueries(weir);
      return checkCounts(weir, collectionsSeen);
    });
    const backfill = async (...args: string[]) => {
      const { code, output } = await weir.command(['backfill', ...args]);
      must(code === 0 && /failures\s+none/.test(output), `exit code ${code}: ${output.slice(-1500)}`);
      await settleCollections(weir, accounts, collectionsSeen);
      return output;
    };
    await step(
      'backfill --from-hosts beside the running relay reads both PDSes and changes nothing',
      async () => {
        const output = await backfill('--from-hosts');
        must(/new\s+0\b/.test(output), output);
        return undefined;
      },
    );
    await step('backfill --did reads single accounts from their PDSes', async () => {
      const output = await backfill('--did', alice.did, bob.did);
      must(/2 repos asked/.test(output), output);
      return undefined;
    });
    await step('backfill --verify --all finds no ghost and no gap', async () => {
      const output = await backfill('--verify', '--all');
      must(/new\s+0\b/.test(output) && /ghosts\s+0 taken out; 0 accounts hidden/.test(output), output);
      return undefined;
    });
    await step('/metrics answers', async () => {
      const response = await fetch(weir.metricsUrl);
      const text = await response.text();
      must(response.ok && text.includes('relay_'), `${response.status} ${text.slice(0, 200)}`);
      return undefined;
    });
    await step(
      'SIGTERM ends it cleanly, leaves no process behind and says 1001 to its consumers',
      async () => {
        const closesBefore = raw.closes.length;
        const from = performance.now();
        const code = await weir.stop();
        const tookMs = Math.round(performance.now() - from);
        must(code === 0, code === null ? 'it did not end in time' : `exit code ${code}`);
        const left = await weir.leftOver();
        must(left.length === 0, `left: ${left.map(({ pid, command }) => `${pid} ${command}`).join('; ')}`);
        const close = raw.closes[closesBefore];
        must(close === 1001, `close code ${close}`);
        return `${tookMs} ms; after a SIGKILL up to ${orphans} processes had outlived it until the next start`;
      },
    );
    await step('started again, it goes on with the next event and repeats none', async () => {
      await weir.start();
      await alice.createRecord(POST, post('after the clean restart'));
      await settleSources();
      await seesAll(20_000);
      return undefined;
    });
    await step('it ends cleanly again', async () => {
      const code = await weir.stop();
      must(code === 0, code === null ? 'it did not end in time' : `exit code ${code}`);
      const left = await weir.leftOver();
      must(left.length === 0, `left: ${left.map(({ pid, command }) => `${pid} ${command}`).join('; ')}`);
      return undefined;
    });
  }
  clearTimeout(overtime);
  console.log(`${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
};

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => void finish(1));
process.on('unhandledRejection', (error) => {
  console.error(error);
  void step('no unhandled error in the test itself', () => {
    throw error;
  }).then(() => finish(1));
});

try {
  await main();
} catch (error) {
  await step('the test itself runs to its end', () => {
    throw error;
  });
}
await finish(steps.total.failed === 0 && steps.total.passed > 0 ? 0 : 1);
