/** What happens next: draws events from the seed in the mix of the live network. */
import type { Account, Write } from './account.ts';
import { createRandom, createZipf, mixSeed, type Random } from './random.ts';
import { drawCollection, makeRecord, type People, recordKey } from './records.ts';
import { find, someKey } from './tree.ts';

/** Shares of events that are no commits, each 0…1; the rest are commits. */
export interface Mix {
  readonly sync: number;
  readonly identity: number;
  readonly account: number;
  readonly handle: number;
  readonly status: number;
  readonly newAccount: number;
  readonly migration: number;
  readonly rotation: number;
}

/** The live network, roughly: 98 % commits. */
export const LIVE_MIX: Mix = {
  sync: 0.002,
  identity: 0.004,
  account: 0.004,
  handle: 0.001,
  status: 0.002,
  newAccount: 0.001,
  migration: 0.0003,
  rotation: 0.0002,
};

/** Nothing that changes what the directory says: for recordings, which are played without their past. */
export const STEADY_MIX: Mix = {
  sync: 0.002,
  identity: 0.005,
  account: 0.005,
  handle: 0,
  status: 0,
  newAccount: 0,
  migration: 0,
  rotation: 0,
};

export type Happening = 'commit' | keyof Mix;

const DELETE_SHARE = 0.03;
const UPDATE_SHARE = 0.02;
const MULTI_OP_SHARE = 0.03;
const MAX_DRAWN_OPS = 10;

export interface Traffic {
  readonly random: Random;
  drawHost(hasAccounts: (hostIndex: number) => boolean): number;
  drawHappening(mix: Mix): Happening;
  /** The writes of a commit: about 95 % creates. Never empty. */
  drawWrites(account: Account, nowMs: number): Write[];
}

export const createTraffic = (seed: number, hosts: number, zipfExponent: number, people: People): Traffic => {
  const random = createRandom(mixSeed(seed, 2));
  const hostZipf = createZipf(hosts, zipfExponent);

  const drawWrite = (account: Account, nowMs: number, taken: Set<string>): Write | null => {
    const kind = random.unit();
    const counter = account.recordCounter++;
    if (kind < DELETE_SHARE + UPDATE_SHARE) {
      const path = someKey(account.tree, random.below);
      if (path !== null && !taken.has(path)) {
        taken.add(path);
        if (kind < DELETE_SHARE) return { action: 'delete', path };
        return withRecord('update', path, account, counter, nowMs);
      }
    }
    const collection = drawCollection(random);
    const micros = nowMs * 1000 + (counter % 1000);
    const path = `${collection}/${recordKey(collection, micros, random.below(1024))}`;
    if (taken.has(path)) return null;
    taken.add(path);
    return withRecord(find(account.tree, path) === null ? 'create' : 'update', path, account, counter, nowMs);
  };

  const withRecord = (
    action: 'create' | 'update',
    path: string,
    account: Account,
    counter: number,
    timeMs: number,
  ): Write => {
    const collection = path.slice(0, path.indexOf('/'));
    const scope = account.index;
    const bytes = makeRecord(seed, scope, counter, collection, people, timeMs);
    return { action, path, made: { bytes, body: { scope, counter, timeMs } } };
  };

  return {
    random,
    drawHost: (hasAccounts) => {
      const drawn = hostZipf(random);
      for (let i = 0; i < hosts; i++) {
        const index = (drawn + i) % hosts;
        if (hasAccounts(index)) return index;
      }
      throw new Error('no host has an account');
    },
    drawHappening: (mix) => {
      let point = random.unit();
      for (const name of Object.keys(mix) as (keyof Mix)[]) {
        point -= mix[name];
        if (point < 0) return name;
      }
      return 'commit';
    },
    drawWrites: (account, nowMs) => {
      const count = random.chance(MULTI_OP_SHARE) ? 2 + random.below(MAX_DRAWN_OPS - 1) : 1;
      const taken = new Set<string>();
      const writes: Write[] = [];
      while (writes.length < count) {
        const write = drawWrite(account, nowMs, taken);
        if (write !== null) writes.push(write);
        else if (writes.length > 0) break;
      }
      return writes;
    },
  };
};
