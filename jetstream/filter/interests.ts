/**
 * Who wants which event, on the live path. Clients with equal filters share a group, so that each event is judged
 * once for all of them; it owns the groups and the indexes over them, and promises that `route` says of every group
 * exactly what `matches` says of its filter. An event costs a few look-ups: one by its DID, one by its collection,
 * one for each dot of it while someone wants prefixes; groups that do not want it cost nothing, however many they are
 * and however many DIDs they name. Not for replays, where each client reads for itself: those use `matches`.
 */
import { KIND } from '../../src/firehose/types.ts';
import type { Filter, JetstreamEvent } from '../types.ts';
import { wantsSort } from './match.ts';

/** Clients with equal filters, maxMessageSizeBytes included. */
export interface Group<Attachment = unknown> {
  /** Use this one instead of an equal filter: only one of them need stay in memory. */
  readonly filter: Filter;
  /** How many joined and did not leave. */
  readonly members: number;
  /** What it wants of the events of the last `route`, in their order. Valid until the next one. */
  readonly batch: readonly JetstreamEvent[];
  /** For whoever uses the group; gone with its last member. */
  attachment: Attachment | undefined;
}

export interface Interests<Attachment = unknown> {
  /**
   * The group of a filter, with one member more. null when all filters together would take more memory than is
   * allowed: the client has to be refused. A filter without DIDs is never refused.
   */
  join(filter: Filter): Group<Attachment> | null;
  /** One member less. The group ends with its last one. Throws when it has none: our own mistake. */
  leave(group: Group<Attachment>): void;
  /** The groups that want at least one of the events, each with its `batch`. Valid until the next call. */
  route(events: readonly JetstreamEvent[]): readonly Group<Attachment>[];
  readonly stats: InterestStats;
}

export interface InterestStats {
  readonly groups: number;
  /** DIDs of all groups, those that several name counted for each. */
  readonly dids: number;
  /** Different DIDs. */
  readonly distinctDids: number;
  /** What the DIDs take, about. */
  readonly bytes: number;
}

/** Of the DIDs of all filters together, by the estimates below: about 100 full filters that have nothing in common. */
export const MAX_INTEREST_BYTES = 256 * 1024 * 1024;
/** What a DID takes in each filter that names it; measured, with room. */
export const BYTES_PER_INTEREST = 80;
/** What a DID takes beside its characters, however many filters name it; measured, with room. */
export const BYTES_PER_DID = 130;

interface OwnGroup<Attachment> extends Group<Attachment> {
  members: number;
  batch: JetstreamEvent[];
  readonly key: string;
}

/** A DID and who names it. Most are named by one group: a list for each would cost more than the DID. */
class Named<G> {
  /** The one string that all filters hold. */
  readonly did: string;
  groups: G | G[];
  constructor(did: string, group: G) {
    this.did = did;
    this.groups = group;
  }
}

const removeFrom = <T>(list: T[], item: T): void => {
  const at = list.indexOf(item);
  const last = list.pop()!;
  if (at < list.length) list[at] = last;
};

const addTo = <T>(lists: Map<string, T[]>, key: string, item: T): void => {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [item]);
  else list.push(item);
};

const dropFrom = <T>(lists: Map<string, T[]>, key: string, item: T): void => {
  const list = lists.get(key)!;
  removeFrom(list, item);
  if (list.length === 0) lists.delete(key);
};

/** A number that does not depend on the order. */
const hashOf = (texts: Iterable<string>): number => {
  let sum = 0;
  for (const text of texts) sum = (sum + Bun.hash.xxHash32(text)) | 0;
  return sum;
};

/** The same for equal filters; rarely the same for others, which sameFilter tells apart. */
const keyOf = ({ kinds, maxMessageSizeBytes, collections, dids }: Filter): string => {
  const ofDids = dids === null ? '' : `${dids.size}:${hashOf(dids)}`;
  const ofCollections =
    collections === null ? '' : `${hashOf(collections.exact)}:${hashOf(new Set(collections.prefixes))}`;
  return `${kinds} ${maxMessageSizeBytes} ${ofDids} ${ofCollections}`;
};

const sameSet = (a: ReadonlySet<string> | null, b: ReadonlySet<string> | null): boolean => {
  if (a === null || b === null) return a === b;
  if (a.size !== b.size) return false;
  for (const text of a) if (!b.has(text)) return false;
  return true;
};

const sameCollections = (a: Filter['collections'], b: Filter['collections']): boolean =>
  a === null || b === null
    ? a === b
    : sameSet(a.exact, b.exact) && sameSet(new Set(a.prefixes), new Set(b.prefixes));

const sameFilter = (a: Filter, b: Filter): boolean =>
  a.kinds === b.kinds &&
  a.maxMessageSizeBytes === b.maxMessageSizeBytes &&
  sameCollections(a.collections, b.collections) &&
  sameSet(a.dids, b.dids);

/** Without any group at first. */
export const createInterests = <Attachment = unknown>(
  options: { readonly maxBytes?: number } = {},
): Interests<Attachment> => {
  type Own = OwnGroup<Attachment>;
  const maxBytes = options.maxBytes ?? MAX_INTEREST_BYTES;
  const byKey = new Map<string, Own[]>();
  const byDid = new Map<string, Named<Own>>();
  // Groups without DIDs: all of them for what is no commit; for commits, by what they say of collections.
  const open: Own[] = [];
  const openToAll: Own[] = [];
  const byCollection = new Map<string, Own[]>();
  /** Prefixes that end with a dot, as all do that clients can ask for. */
  const byPrefix = new Map<string, Own[]>();
  /** Groups that have any other prefix. */
  const byHand: Own[] = [];
  const touched: Own[] = [];
  let groupCount = 0;
  let didCount = 0;
  let bytes = 0;

  /** What a new group would take. */
  const costOf = (dids: ReadonlySet<string>): number => {
    let sum = dids.size * BYTES_PER_INTEREST;
    for (const did of dids) if (!byDid.has(did)) sum += BYTES_PER_DID + did.length;
    return sum;
  };

  /** The same DIDs, as the strings that are there already. */
  const share = (dids: ReadonlySet<string>): ReadonlySet<string> => {
    const shared = new Set<string>();
    for (const did of dids) shared.add(byDid.get(did)?.did ?? did);
    return shared;
  };

  /** Calls `place` for each list that the group belongs into, but for the index by DID. */
  const places = (
    { filter }: Own,
    inList: (list: Own[]) => void,
    inLists: (lists: Map<string, Own[]>, key: string) => void,
  ): void => {
    inList(open);
    if (filter.collections === null) {
      inList(openToAll);
      return;
    }
    for (const collection of filter.collections.exact) inLists(byCollection, collection);
    const prefixes = new Set(filter.collections.prefixes);
    let isOdd = false;
    for (const prefix of prefixes) {
      if (prefix.endsWith('.')) inLists(byPrefix, prefix);
      else isOdd = true;
    }
    if (isOdd) inList(byHand);
  };

  const add = (group: Own): void => {
    const { dids } = group.filter;
    addTo(byKey, group.key, group);
    groupCount++;
    if (dids === null) {
      places(
        group,
        (list) => list.push(group),
        (lists, key) => addTo(lists, key, group),
      );
      return;
    }
    didCount += dids.size;
    bytes += dids.size * BYTES_PER_INTEREST;
    for (const did of dids) {
      const named = byDid.get(did);
      if (named === undefined) {
        byDid.set(did, new Named(did, group));
        bytes += BYTES_PER_DID + did.length;
      } else if (Array.isArray(named.groups)) named.groups.push(group);
      else named.groups = [named.groups, group];
    }
  };

  const remove = (group: Own): void => {
    const { dids } = group.filter;
    dropFrom(byKey, group.key, group);
    groupCount--;
    if (dids === null) {
      places(
        group,
        (list) => removeFrom(list, group),
        (lists, key) => dropFrom(lists, key, group),
      );
      return;
    }
    didCount -= dids.size;
    bytes -= dids.size * BYTES_PER_INTEREST;
    for (const did of dids) {
      const named = byDid.get(did)!;
      if (Array.isArray(named.groups)) {
        removeFrom(named.groups, group);
        if (named.groups.length === 1) named.groups = named.groups[0]!;
      } else {
        byDid.delete(did);
        bytes -= BYTES_PER_DID + did.length;
      }
    }
  };

  /** A group may be found in several ways: an event is given to it once. */
  const give = (group: Own, event: JetstreamEvent): void => {
    const { batch } = group;
    if (batch.length === 0) touched.push(group);
    else if (batch[batch.length - 1] === event) return;
    batch.push(event);
  };

  const giveAll = (groups: readonly Own[] | undefined, event: JetstreamEvent): void => {
    if (groups === undefined) return;
    for (const group of groups) if ((group.filter.kinds & (1 << event.kind)) !== 0) give(group, event);
  };

  const giveByHand = (groups: readonly Own[], event: JetstreamEvent): void => {
    for (const group of groups) if (wantsSort(group.filter, event)) give(group, event);
  };

  const routeOne = (event: JetstreamEvent): void => {
    if (byDid.size > 0) {
      const named = byDid.get(event.did);
      if (named !== undefined) {
        const { groups } = named;
        if (Array.isArray(groups)) giveByHand(groups, event);
        else if (wantsSort(groups.filter, event)) give(groups, event);
      }
    }
    if (event.kind !== KIND.commit) {
      giveAll(open, event);
      return;
    }
    giveAll(openToAll, event);
    const { collection } = event;
    if (byCollection.size > 0) giveAll(byCollection.get(collection), event);
    if (byPrefix.size > 0) {
      for (let dot = collection.indexOf('.'); dot >= 0; dot = collection.indexOf('.', dot + 1)) {
        giveAll(byPrefix.get(collection.slice(0, dot + 1)), event);
      }
    }
    if (byHand.length > 0) giveByHand(byHand, event);
  };

  return {
    join(filter) {
      const key = keyOf(filter);
      const equal = byKey.get(key)?.find((group) => sameFilter(group.filter, filter));
      if (equal !== undefined) {
        equal.members++;
        return equal;
      }
      if (filter.dids !== null && filter.dids.size > 0 && bytes + costOf(filter.dids) > maxBytes) return null;
      const group: Own = {
        filter: filter.dids === null ? filter : { ...filter, dids: share(filter.dids) },
        members: 1,
        batch: [],
        attachment: undefined,
        key,
      };
      add(group);
      return group;
    },
    leave(group) {
      const own = group as Own;
      if (own.members < 1) throw new Error('a group was left by more members than joined it');
      own.members--;
      if (own.members > 0) return;
      remove(own);
      own.attachment = undefined;
    },
    route(events) {
      for (const group of touched) group.batch = [];
      touched.length = 0;
      for (const event of events) routeOne(event);
      return touched;
    },
    get stats() {
      return { groups: groupCount, dids: didCount, distinctDids: byDid.size, bytes };
    },
  };
};
