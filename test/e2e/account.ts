/** One real account at a real PDS: each act is done there first and then written into the ledger. */
import { Secp256k1Keypair } from '@atproto/crypto';
import * as dagCbor from '@ipld/dag-cbor';
import { CID } from 'multiformats/cid';
import { create as createDigest } from 'multiformats/hashes/digest';
import { type Ledger, sortOps } from './ledger.ts';
import type { Pds } from './network.ts';
import { basic, bearer, xrpc } from './xrpc.ts';

interface CommitAnswer {
  readonly commit: { readonly cid: string; readonly rev: string };
}
interface RecordAnswer extends CommitAnswer {
  readonly uri: string;
  readonly cid: string;
}
export interface Written {
  readonly uri: string;
  readonly rkey: string;
  readonly cid: string;
}
export type Write =
  | {
      readonly action: 'create' | 'update';
      readonly collection: string;
      readonly rkey: string;
      readonly record: object;
    }
  | { readonly action: 'delete'; readonly collection: string; readonly rkey: string };

export interface Account {
  readonly did: string;
  readonly pds: Pds;
  readonly handle: string;
  createRecord(collection: string, record: object): Promise<Written>;
  /** Replaces a record, or creates it when `exists` is false. */
  putRecord(collection: string, rkey: string, record: object, exists: boolean): Promise<Written>;
  deleteRecord(collection: string, rkey: string): Promise<void>;
  applyWrites(writes: readonly Write[]): Promise<void>;
  updateHandle(handle: string): Promise<void>;
  /** `dropped`: why a relay must not pass this on. */
  deactivate(dropped?: string): Promise<void>;
  activate(): Promise<void>;
  /** By the PDS's admin; the PDS then forgets the account's earlier events too. */
  delete(): Promise<void>;
  /** Moves to another PDS up to and including the activation there; the old account is still to be deactivated. */
  migrate(target: Pds, plcUrl: string): Promise<Account>;
}

const PASSWORD = 'correct horse battery staple';

const withType = (collection: string, record: object): object => ({ $type: collection, ...record });

/** Signs and sends a PLC operation that changes fields of the last one. */
const updatePlc = async (
  plcUrl: string,
  did: string,
  rotationKeyHex: string,
  changes: Record<string, unknown>,
): Promise<void> => {
  const last = (await (await fetch(`${plcUrl}/${did}/log/last`)).json()) as Record<string, unknown>;
  const digest = new Bun.CryptoHasher('sha256').update(dagCbor.encode(last)).digest();
  const prev = CID.createV1(dagCbor.code, createDigest(0x12, new Uint8Array(digest))).toString();
  const { sig: _, ...unsigned } = { ...last, ...changes, prev } as Record<string, unknown>;
  const key = await Secp256k1Keypair.import(rotationKeyHex);
  const sig = Buffer.from(await key.sign(dagCbor.encode(unsigned))).toString('base64url');
  const response = await fetch(`${plcUrl}/${did}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...unsigned, sig }),
  });
  if (!response.ok) throw new Error(`PLC refused the operation: ${response.status} ${await response.text()}`);
};

const accountAt = (pds: Pds, ledger: Ledger, did: string, firstHandle: string, token: string): Account => {
  let handle = firstHandle;
  const call = <T>(nsid: string, body: unknown): Promise<T> =>
    xrpc<T>(pds.url, nsid, { body, authorization: bearer(token) });
  const latest = () =>
    xrpc<{ cid: string; rev: string }>(pds.url, 'com.atproto.sync.getLatestCommit', { params: { did } });
  const committed = (answer: CommitAnswer, ops: { action: string; path: string; cid: string | null }[]) =>
    ledger.add(did, pds.hostname, {
      kind: 'commit',
      rev: answer.commit.rev,
      commit: answer.commit.cid,
      ops: sortOps(ops),
    });

  return {
    did,
    pds,
    get handle() {
      return handle;
    },
    createRecord: async (collection, content) => {
      const record = withType(collection, content);
      const answer = await call<RecordAnswer>('com.atproto.repo.createRecord', {
        repo: did,
        collection,
        record,
      });
      const rkey = answer.uri.split('/').at(-1)!;
      ledger.addRecord(answer.cid, record);
      committed(answer, [{ action: 'create', path: `${collection}/${rkey}`, cid: answer.cid }]);
      return { uri: answer.uri, rkey, cid: answer.cid };
    },
    putRecord: async (collection, rkey, content, exists) => {
      const record = withType(collection, content);
      const answer = await call<RecordAnswer>('com.atproto.repo.putRecord', {
        repo: did,
        collection,
        rkey,
        record,
      });
      ledger.addRecord(answer.cid, record);
      const action = exists ? 'update' : 'create';
      committed(answer, [{ action, path: `${collection}/${rkey}`, cid: answer.cid }]);
      return { uri: answer.uri, rkey, cid: answer.cid };
    },
    deleteRecord: async (collection, rkey) => {
      const answer = await call<CommitAnswer>('com.atproto.repo.deleteRecord', {
        repo: did,
        collection,
        rkey,
      });
      committed(answer, [{ action: 'delete', path: `${collection}/${rkey}`, cid: null }]);
    },
    applyWrites: async (writes) => {
      const answer = await call<CommitAnswer & { results: { cid?: string }[] }>(
        'com.atproto.repo.applyWrites',
        {
          repo: did,
          writes: writes.map((write) => ({
            $type: `com.atproto.repo.applyWrites#${write.action}`,
            collection: write.collection,
            rkey: write.rkey,
            ...(write.action === 'delete' ? {} : { value: withType(write.collection, write.record) }),
          })),
        },
      );
      const ops = writes.map((write, index) => {
        const path = `${write.collection}/${write.rkey}`;
        if (write.action === 'delete') return { action: 'delete', path, cid: null };
        const cid = answer.results[index]?.cid;
        if (cid === undefined) throw new Error('applyWrites answered without a cid');
        ledger.addRecord(cid, withType(write.collection, write.record));
        return { action: write.action, path, cid };
      });
      committed(answer, ops);
    },
    updateHandle: async (wanted) => {
      await call('com.atproto.identity.updateHandle', { handle: wanted });
      handle = wanted;
      ledger.add(did, pds.hostname, { kind: 'identity', handle });
    },
    deactivate: async (dropped) => {
      await call('com.atproto.server.deactivateAccount', {});
      ledger.add(did, pds.hostname, { kind: 'account', active: false, status: 'deactivated' }, dropped);
    },
    activate: async () => {
      await xrpc(pds.url, 'com.atproto.server.activateAccount', { body: null, authorization: bearer(token) });
      ledger.add(did, pds.hostname, { kind: 'account', active: true, status: null });
      ledger.add(did, pds.hostname, { kind: 'identity', handle });
      const { cid, rev } = await latest();
      ledger.add(did, pds.hostname, { kind: 'sync', rev, commit: cid });
    },
    delete: async () => {
      await xrpc(pds.url, 'com.atproto.admin.deleteAccount', {
        body: { did },
        authorization: basic('admin', pds.adminPassword),
      });
      ledger.add(did, pds.hostname, { kind: 'account', active: false, status: 'deleted' });
    },
    migrate: async (target, plcUrl) => {
      const service = await xrpc<{ token: string }>(pds.url, 'com.atproto.server.getServiceAuth', {
        params: { aud: target.did, lxm: 'com.atproto.server.createAccount' },
        authorization: bearer(token),
      });
      const newHandle = handle.replace(pds.handleDomain, target.handleDomain);
      const created = await xrpc<{ accessJwt: string }>(target.url, 'com.atproto.server.createAccount', {
        body: { did, handle: newHandle, email: `${newHandle.split('.')[0]}@example.com`, password: PASSWORD },
        authorization: bearer(service.token),
      });
      const authorization = bearer(created.accessJwt);
      const repo = await fetch(`${pds.url}/xrpc/com.atproto.sync.getRepo?did=${did}`);
      await xrpc(target.url, 'com.atproto.repo.importRepo', {
        body: new Uint8Array(await repo.arrayBuffer()),
        authorization,
      });
      const credentials = await xrpc<Record<string, unknown>>(
        target.url,
        'com.atproto.identity.getRecommendedDidCredentials',
        { authorization },
      );
      await updatePlc(plcUrl, did, pds.rotationKeyHex, credentials);
      const moved = accountAt(target, ledger, did, newHandle, created.accessJwt);
      await xrpc(target.url, 'com.atproto.server.activateAccount', { body: null, authorization });
      ledger.add(did, target.hostname, { kind: 'account', active: true, status: null });
      ledger.add(did, target.hostname, { kind: 'identity', handle: newHandle });
      const { cid, rev } = await xrpc<{ cid: string; rev: string }>(
        target.url,
        'com.atproto.sync.getLatestCommit',
        {
          params: { did },
        },
      );
      ledger.add(
        did,
        target.hostname,
        { kind: 'sync', rev, commit: cid },
        'the imported commit is still signed by the key of the old PDS',
      );
      return moved;
    },
  };
};

/** Creates an account named `name` at `pds`. */
export const createAccount = async (pds: Pds, ledger: Ledger, name: string): Promise<Account> => {
  const handle = `${name}${pds.handleDomain}`;
  const created = await xrpc<{ did: string; accessJwt: string }>(
    pds.url,
    'com.atproto.server.createAccount',
    {
      body: { handle, email: `${name}@example.com`, password: PASSWORD },
    },
  );
  const { did } = created;
  const { cid, rev } = await xrpc<{ cid: string; rev: string }>(pds.url, 'com.atproto.sync.getLatestCommit', {
    params: { did },
  });
  ledger.add(did, pds.hostname, { kind: 'identity', handle });
  ledger.add(did, pds.hostname, { kind: 'account', active: true, status: null });
  ledger.add(did, pds.hostname, { kind: 'commit', rev, commit: cid, ops: [] });
  ledger.add(did, pds.hostname, { kind: 'sync', rev, commit: cid });
  return accountAt(pds, ledger, did, handle, created.accessJwt);
};
