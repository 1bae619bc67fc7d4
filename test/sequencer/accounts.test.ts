import { describe, expect, setDefaultTimeout, test } from 'bun:test';
import {
  accountRow,
  createAccounts,
  MAX_CACHED_ACCOUNTS,
  newAccount,
  shownRow,
} from '../../src/sequencer/accounts.ts';
import { account as row, tid } from '../state/samples.ts';
import { memoryState } from './support.ts';

// To make the cache forget takes many accounts.
setDefaultTimeout(60_000);

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';

const accountsWith = (...rows: Parameters<typeof memoryState>[1] & object[]) => {
  const state = memoryState([], rows as never);
  const accounts = createAccounts(state, (hostId) => (hostId === 1 ? 'host1.pds.net' : undefined));
  /** Makes the cache forget everything that is not dirty. */
  const forgetAll = (): void => {
    for (let index = 0; index < MAX_CACHED_ACCOUNTS + 1; index++)
      accounts.add({ ...filler, did: `did:web:filler${index}.com` });
  };
  return { state, accounts, forgetAll };
};
const filler = newAccount('');

describe('an account', () => {
  test('comes out of the database as it was stored', async () => {
    const stored = row(DID, { ownStatus: 'takendown', upstreamStatus: 'deactivated', desynchronized: true });
    const { accounts } = accountsWith(stored);
    expect(accounts.get(DID)).toBeUndefined();
    await accounts.load([DID, 'did:plc:unknown']);
    const account = accounts.get(DID)!;
    expect(account).toMatchObject({ known: true, pds: 'host1.pds.net', hostId: 1 });
    const again = accountRow(account);
    expect({
      ...again,
      commit: [...again.commit!],
      data: [...again.data!],
      key: [...again.key!],
    }).toEqual({ ...stored, commit: [...stored.commit!], data: [...stored.data!], key: [...stored.key!] });
    expect(accounts.get('did:plc:unknown')).toBeUndefined();
  });

  test('whose host is gone, or whose identity must be asked for, comes without a PDS', async () => {
    for (const over of [{ hostId: 7 }, { identityAtMs: 0 }]) {
      const { accounts } = accountsWith(row(DID, over));
      await accounts.load([DID]);
      expect(accounts.get(DID)).toMatchObject({ pds: null, identityAtMs: 0, pdsIsHost: false });
    }
  });

  test('whose PDS we do not follow is stored as one to be asked for again, not as living on its old host', () => {
    const account = { ...newAccount(DID), known: true, hostId: 1, pds: 'elsewhere.net', identityAtMs: 5 };
    expect(accountRow(account).identityAtMs).toBe(0);
    expect(accountRow({ ...account, pds: 'host1.pds.net', pdsIsHost: true }).identityAtMs).toBe(5);
  });

  test('of which nothing but a listing told is shown, and counts as one of which nothing was taken', async () => {
    const stored = row(DID, { rev: null, upstreamStatus: 'deactivated', identityAtMs: 0, known: false });
    const { accounts } = accountsWith(stored);
    await accounts.load([DID]);
    expect(accounts.get(DID)).toMatchObject({ known: false, hostId: 1, pds: null });
    expect(shownRow(accounts.get(DID))).toMatchObject({ did: DID, rev: null, upstreamStatus: 'deactivated' });
    expect(shownRow(newAccount(DID))).toBeNull();
    expect(shownRow(undefined)).toBeNull();
    expect(shownRow({ ...newAccount(DID), known: true })).toMatchObject({ did: DID });
  });

  test('of which nothing was taken is never stored', () => {
    const { accounts } = accountsWith();
    const account = newAccount(DID);
    accounts.add(account);
    accounts.markDirty(account);
    expect(accounts.dirtyCount).toBe(0);
    account.known = true;
    accounts.markDirty(account);
    expect(accounts.takeDirty()).toEqual([account]);
  });
});

describe('the cache', () => {
  test('forgets what is stored, never what is changed or being stored', async () => {
    const { state, accounts, forgetAll } = accountsWith(row(DID));
    await accounts.load([DID]);
    const account = accounts.get(DID)!;
    account.rev = tid(9);
    accounts.markDirty(account);
    forgetAll();
    expect(accounts.get(DID)).toBe(account);
    expect(accounts.takeDirty()).toContain(account);
    forgetAll();
    await accounts.load([DID]);
    expect(accounts.get(DID)).toBe(account);
    accounts.giveBack();
    forgetAll();
    expect(accounts.get(DID)!.rev).toBe(tid(9));
    accounts.takeDirty();
    state.accounts.set(DID, accountRow(account));
    accounts.stored();
    forgetAll();
    expect(accounts.get(DID)).toBeUndefined();
    await accounts.load([DID]);
    expect(accounts.get(DID)!.rev).toBe(tid(9));
    expect(accounts.size).toBeLessThanOrEqual(MAX_CACHED_ACCOUNTS);
  });

  test('a failed flush gives accounts back with what was changed meanwhile', async () => {
    const { accounts } = accountsWith(row(DID));
    await accounts.load([DID]);
    const account = accounts.get(DID)!;
    accounts.markDirty(account);
    accounts.takeDirty();
    account.rev = tid(20);
    accounts.markDirty(account);
    expect(accounts.dirtyCount).toBe(2);
    accounts.giveBack();
    expect(accounts.dirtyCount).toBe(1);
    expect(accounts.takeDirty().map(({ rev }) => rev)).toEqual([tid(20)]);
  });

  test('two loads of one account give one account, and the later answer changes nothing', async () => {
    const { state, accounts } = accountsWith(row(DID));
    const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    state.gate = gates[0]!.promise;
    const first = accounts.load([DID]);
    state.gate = gates[1]!.promise;
    const second = accounts.load([DID]);
    gates[1]!.resolve();
    await second;
    const account = accounts.get(DID)!;
    account.rev = tid(30);
    gates[0]!.resolve();
    await first;
    expect(accounts.get(DID)).toBe(account);
    expect(account.rev).toBe(tid(30));
  });

  test('an answer from before a change is not taken, though the account was stored and forgotten meanwhile', async () => {
    const { state, accounts, forgetAll } = accountsWith(row(DID));
    const late = Promise.withResolvers<void>();
    state.gate = late.promise;
    const slow = accounts.load([DID]);
    state.gate = null;
    await accounts.load([DID]);
    const account = accounts.get(DID)!;
    account.rev = tid(40);
    accounts.markDirty(account);
    accounts.takeDirty();
    state.accounts.set(DID, accountRow(account));
    accounts.stored();
    forgetAll();
    expect(accounts.get(DID)).toBeUndefined();
    late.resolve();
    await slow;
    expect(accounts.get(DID)!.rev).toBe(tid(40));
  });

  test('a load that fails leaves everything as it was', async () => {
    const { state, accounts } = accountsWith(row(DID));
    state.errors.push(new Error('away'));
    expect(accounts.load([DID])).rejects.toThrow('away');
    await Bun.sleep(1);
    await accounts.load([DID]);
    expect(accounts.get(DID)).toBeDefined();
  });
});
