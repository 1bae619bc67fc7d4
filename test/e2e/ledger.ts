/**
 * What was really done at the PDSes, in order per account, taken from the PDSes' own answers: the truth that every
 * consumer is compared with.
 */

/** One op of a commit. Ops of one commit are held sorted by path. */
export interface Op {
  readonly action: string;
  /** collection/rkey */
  readonly path: string;
  /** null for a delete. */
  readonly cid: string | null;
}

export type NetworkEvent =
  | { readonly kind: 'commit'; readonly rev: string; readonly commit: string; readonly ops: readonly Op[] }
  | { readonly kind: 'sync'; readonly rev: string; readonly commit: string }
  | { readonly kind: 'identity'; readonly handle: string | null }
  | { readonly kind: 'account'; readonly active: boolean; readonly status: string | null };

export interface Entry {
  readonly hostname: string;
  readonly event: NetworkEvent;
  /** Why a verifying relay must not pass this on; null = it must. */
  readonly dropped: string | null;
}

export interface Ledger {
  add(did: string, hostname: string, event: NetworkEvent, dropped?: string | null): void;
  /** The content of a record, by its CID. */
  addRecord(cid: string, record: unknown): void;
  record(cid: string): unknown;
  readonly dids: readonly string[];
  /** In order; entries of all hosts. */
  entries(did: string): readonly Entry[];
}

export const createLedger = (): Ledger => {
  const byDid = new Map<string, Entry[]>();
  const records = new Map<string, unknown>();
  return {
    add: (did, hostname, event, dropped = null) => {
      const list = byDid.get(did) ?? [];
      byDid.set(did, list);
      list.push({ hostname, event, dropped });
    },
    addRecord: (cid, record) => {
      records.set(cid, record);
    },
    record: (cid) => records.get(cid),
    get dids() {
      return [...byDid.keys()];
    },
    entries: (did) => byDid.get(did) ?? [],
  };
};

/** Picks what one subscription must show of the ledger. */
export type View = (entries: readonly Entry[]) => NetworkEvent[];

/** A PDS's own stream: everything done at it. */
export const viewOfHost =
  (hostname: string): View =>
  (entries) =>
    entries.filter((entry) => entry.hostname === hostname).map((entry) => entry.event);

/**
 * A relay's stream: everything but what it must drop, and without a `#sync` that repeats the rev that the account
 * already stands at (PDSes send one beside every new account's first commit and on every reactivation).
 */
export const viewOfRelay: View = (entries) => {
  const passed: NetworkEvent[] = [];
  let rev = '';
  for (const { event, dropped } of entries) {
    if (dropped !== null) continue;
    if (event.kind === 'sync' && event.rev === rev) continue;
    if (event.kind === 'commit' || event.kind === 'sync') rev = event.rev;
    passed.push(event);
  }
  return passed;
};

/** Path → CID of an account's records after `events`. */
export const recordsAfter = (events: readonly NetworkEvent[]): Map<string, string> => {
  const records = new Map<string, string>();
  for (const event of events) {
    if (event.kind !== 'commit') continue;
    for (const op of event.ops) {
      if (op.cid === null) records.delete(op.path);
      else records.set(op.path, op.cid);
    }
  }
  return records;
};

/** The first difference between two lists in words, or null. */
export const difference = (expected: readonly unknown[], seen: readonly unknown[]): string | null => {
  for (let index = 0; index < Math.max(expected.length, seen.length); index++) {
    const want = expected[index];
    const got = seen[index];
    if (Bun.deepEquals(want, got, true)) continue;
    const show = (value: unknown) => (value === undefined ? 'nothing' : JSON.stringify(value));
    return `event ${index + 1} of ${expected.length}: expected ${show(want)}, got ${show(got)}`;
  }
  return null;
};

/** Sorts a commit's ops the way the ledger holds them. */
export const sortOps = (ops: Op[]): Op[] =>
  ops.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
