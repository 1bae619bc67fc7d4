/**
 * What the relay itself holds of accounts, from its own table: whether it has them as active, and at which host. Other
 * relays and hosts are not to show an account that the relay has taken down, throttled, or heard to be gone.
 */
import type { ListedStatus } from '../collections/types.ts';
import type { Pool } from '../state/connections.ts';
import { textArray } from '../state/literals.ts';
import type { GoneReason } from './index-port.ts';
import { hiddenReason } from './repos.ts';

export interface KnownAccount {
  readonly hostId: number;
  /** Why it is not active, the relay's own reason first; null = active. */
  readonly hidden: GoneReason | null;
  /** The operator or the firehose said so. False: an earlier listing of a host did, and a later one may say otherwise. */
  readonly isTold: boolean;
}

/** Those of the accounts that the relay knows. Rejects only for a failure of the database. */
export type KnownAccounts = (dids: readonly string[]) => Promise<ReadonlyMap<string, KnownAccount>>;

/** Nothing but a listing wrote a row without rev and identity (listed-accounts.ts). */
const BY_DID = `
select did, host_id, coalesce(own_status, upstream_status) as status,
  own_status is not null or rev is not null or identity_at_ms > 0 as told
from accounts where did = any($1::text[])`;

/** One query at a time: who asks meanwhile is in the next one, whether for a page or for one repo of many. */
export const createKnownAccounts = (query: Pool['query']): KnownAccounts => {
  type Answer = ReadonlyMap<string, KnownAccount>;
  let waiting: {
    dids: readonly string[];
    resolve: (answer: Answer) => void;
    reject: (error: unknown) => void;
  }[] = [];
  let isAsking = false;
  const ask = async (): Promise<void> => {
    isAsking = true;
    while (waiting.length > 0) {
      const batch = waiting;
      waiting = [];
      try {
        const found = new Map<string, KnownAccount>();
        for (const row of await query(BY_DID, [textArray([...new Set(batch.flatMap(({ dids }) => dids))])]))
          found.set(row.did as string, {
            hostId: row.host_id as number,
            hidden: row.status === null ? null : hiddenReason(row.status as string),
            isTold: row.told as boolean,
          });
        for (const { dids, resolve } of batch)
          resolve(new Map(dids.flatMap((did) => (found.has(did) ? [[did, found.get(did)!]] : []))));
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    isAsking = false;
  };
  return (dids) =>
    new Promise((resolve, reject) => {
      waiting.push({ dids, resolve, reject });
      if (!isAsking) void ask();
    });
};

/** The account as the index takes it, if the relay has it hidden. */
export const hiddenAs = (did: string, known: ReadonlyMap<string, KnownAccount>): ListedStatus[] => {
  const account = known.get(did);
  if (account === undefined || account.hidden === null) return [];
  return [{ did, status: account.hidden, hostId: account.hostId, isTold: account.isTold }];
};
