/** Real Jetstream clients on a relay that is killed, and the collection index it keeps: judged by its own firehose. */
import { afterAll, expect, setDefaultTimeout, test } from 'bun:test';
import { readCar } from '@atproto/repo';
import { decode } from '@ipld/dag-cbor';
import { CID } from 'multiformats/cid';
import type { Seen } from '../../simulator/consumer.ts';
import type { Network } from '../../simulator/network.ts';
import { walkLeaves } from '../../simulator/tree.ts';
import { listByCollection } from '../e2e/collections.ts';
import { jsonEvents, startJetstreamClients } from '../e2e/jetstream.ts';
import { difference, type NetworkEvent, sortOps } from '../e2e/ledger.ts';
import { createChild } from './child.ts';
import {
  allConnected,
  dataDirectory,
  eventually,
  readAll,
  removeDirectories,
  settle,
  startNetwork,
} from './harness.ts';

setDefaultTimeout(120_000);
afterAll(removeDirectories);

const KILLS = 4;

/** A decoded record as its JSON form has it. */
const plain = (value: unknown): unknown => {
  const cid = CID.asCID(value);
  if (cid !== null) return { $link: cid.toString() };
  if (value instanceof Uint8Array)
    return { $bytes: Buffer.from(value).toString('base64').replace(/=+$/, '') };
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]));
  return value;
};

/** The events of the firehose by DID, and every record that was in it. */
const truthOf = async (seen: readonly Seen[]) => {
  const byDid = new Map<string, NetworkEvent[]>();
  const records = new Map<string, unknown>();
  const cidText = (value: unknown): string | null => (value == null ? null : String(value));
  for (const { type, did, rev, body } of seen) {
    const events = byDid.get(did!) ?? [];
    byDid.set(did!, events);
    switch (type) {
      case '#commit': {
        const ops = (body.ops as { action: string; path: string; cid: unknown }[]).map((op) => ({
          action: op.action,
          path: op.path,
          cid: cidText(op.cid),
        }));
        const { blocks } = await readCar(body.blocks as Uint8Array);
        for (const { cid } of ops)
          if (cid !== null) {
            const bytes = blocks.get(CID.parse(cid) as never);
            records.set(cid, plain(decode(bytes!)));
          }
        events.push({ kind: 'commit', rev: rev!, commit: cidText(body.commit)!, ops: sortOps(ops) });
        break;
      }
      case '#sync':
        events.push({ kind: 'sync', rev: rev!, commit: '' });
        break;
      case '#identity':
        events.push({ kind: 'identity', handle: (body.handle as string | undefined) ?? null });
        break;
      case '#account':
        events.push({
          kind: 'account',
          active: body.active as boolean,
          status: (body.status as string | undefined) ?? null,
        });
        break;
      default:
        throw new Error(`${type} in a run without oddities`);
    }
  }
  return { byDid, records: { record: (cid: string) => records.get(cid) } };
};

/**
 * Collection → DIDs that the index has to list: accounts that are active and hold a record in it now, where the
 * relay was told of that collection of theirs by a commit. It may list others that hold one: those it asked for.
 */
const expectedIndex = (network: Network, byDid: ReadonlyMap<string, readonly NetworkEvent[]>) => {
  const index = new Map<string, { readonly must: Set<string>; readonly may: Set<string> }>();
  for (const [did, events] of byDid) {
    const told = new Set<string>();
    let isActive = true;
    for (const event of events) {
      if (event.kind === 'commit') for (const { path } of event.ops) told.add(path.split('/')[0]!);
      if (event.kind === 'account') isActive = event.active;
    }
    const held = new Set<string>();
    if (isActive) walkLeaves(network.find(did)!.tree, (key) => held.add(key.split('/')[0]!));
    for (const collection of new Set([...told, ...held])) {
      const entry = index.get(collection) ?? { must: new Set(), may: new Set() };
      index.set(collection, entry);
      if (!held.has(collection)) continue;
      entry.may.add(did);
      if (told.has(collection)) entry.must.add(did);
    }
  }
  return index;
};

test('through kills and restarts, the Jetstream clients that people use miss nothing, and the index lists who has records', async () => {
  const network = await startNetwork({
    hosts: 3,
    accounts: 60,
    mix: {
      sync: 0.02,
      identity: 0.04,
      account: 0.03,
      handle: 0.02,
      status: 0.04,
      newAccount: 0.03,
      migration: 0,
      rotation: 0,
    },
  });
  const weir = await createChild(network, await dataDirectory());
  await weir.start();
  const clients = await startJetstreamClients({ service: weir.url, chromium: null });
  try {
    await allConnected(weir, network);
    await settle(weir, network, null);
    network.ratePerSecond = 120;
    for (let kill = 1; kill <= KILLS; kill++) {
      await Bun.sleep(600 + Math.random() * 1_200);
      if (kill === 2) expect(await weir.stop()).toBe(0);
      else await weir.kill();
      await weir.start();
    }
    await Bun.sleep(1_000);
    await settle(weir, network, null, 60_000);
    const cold = await readAll(weir);
    const { byDid, records } = await truthOf(cold.seen);
    await cold.close();
    expect(cold.seen.length).toBeGreaterThan(200);

    for (const client of clients) {
      await eventually(() => {
        for (const [did, events] of byDid) {
          const gap = difference(jsonEvents(events, records, client), client.of(did));
          if (gap !== null) return `${client.name}, ${did}: ${gap}`;
        }
        return null;
      }, 15_000);
      expect(client.faults.slice(0, 5)).toEqual([]);
      expect(client.opened).toBeGreaterThan(1);
    }

    const index = expectedIndex(network, byDid);
    expect(index.size).toBeGreaterThan(2);
    await eventually(async () => {
      for (const [collection, { must, may }] of index) {
        const listed = new Set(await listByCollection(weir.url, [collection], 7));
        const missing = [...must].filter((did) => !listed.has(did));
        const ghosts = [...listed].filter((did) => !may.has(did));
        if (missing.length > 0 || ghosts.length > 0)
          return `${collection}: ${listed.size} listed, missing ${missing}, ghosts ${ghosts}`;
      }
      return null;
    }, 15_000);
  } finally {
    for (const client of clients) await client.stop();
    await weir.kill();
    await network.stop();
  }
});
