/** The database is a view of the log: it may die amid traffic, and nobody who consumes notices. */
import { afterAll, expect, setDefaultTimeout, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createConsumer } from '../../simulator/consumer.ts';
import {
  allConnected,
  dataDirectory,
  eventually,
  readAll,
  removeDirectories,
  settle,
  startNetwork,
  startWeir,
} from './harness.ts';
import { judge } from './judge.ts';
import { watch } from './witness.ts';

setDefaultTimeout(60_000);
afterAll(removeDirectories);

test('killed amid traffic, the database comes back by itself and holds what the events add up to', async () => {
  const network = await startNetwork({ hosts: 3, accounts: 60 });
  const witness = watch(network);
  const dataDir = await dataDirectory();
  const weir = await startWeir(network, { LOG_LEVEL: 'error' }, dataDir);
  try {
    await allConnected(weir, network);
    for (const account of network.accounts) network.commit(account);
    await settle(weir, network, null);
    const live = createConsumer({ url: weir.url });
    await live.opened;
    network.ratePerSecond = 100;
    await Bun.sleep(700);
    const pid = Number(readFileSync(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0]);
    process.kill(pid, 'SIGKILL');
    // Known accounts do not need it.
    const known = network.hosts[0]!.accounts.find(({ status }) => status === 'active')!;
    const entry = network.commit(known);
    await live.until(() => live.seen.some(({ rev, did }) => rev === entry.rev && did === entry.did));
    // The pages do.
    await eventually(
      () =>
        weir.host(network.hosts[0]!.hostname).then(
          () => null,
          (error: Error) => error.message,
        ),
      20_000,
      500,
    );
    await settle(weir, network, live, 40_000);
    const cold = await readAll(weir);
    expect(judge(witness.sent(), cold.seen).faults.slice(0, 10)).toEqual([]);
    await cold.close();
    await live.close();
    const revs = new Map<string, string>();
    for (const { did, rev } of cold.seen) if (rev !== null) revs.set(did!, rev);
    await eventually(async () => {
      const { repos } = await weir.json('/xrpc/com.atproto.sync.listRepos?limit=1000');
      const held = new Map((repos as { did: string; rev: string }[]).map(({ did, rev }) => [did, rev]));
      for (const [did, rev] of revs) if (held.get(did) !== rev) return `${did} at ${held.get(did)} of ${rev}`;
      return null;
    });
  } finally {
    await weir.stop();
    await network.stop();
  }
});
