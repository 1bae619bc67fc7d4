import { KIND } from '../../src/firehose/types.ts';
import type { Filter, JetstreamEvent } from '../types.ts';

/** Whether a collection is among those that are wanted; null = all are. */
export const wantsCollection = (collections: Filter['collections'], collection: string): boolean => {
  if (collections === null || collections.exact.has(collection)) return true;
  for (const prefix of collections.prefixes) if (collection.startsWith(prefix)) return true;
  return false;
};

/** The same as `matches` but for the DID. Collections constrain commits only. */
export const wantsSort = (filter: Filter, event: Pick<JetstreamEvent, 'kind' | 'collection'>): boolean =>
  (filter.kinds & (1 << event.kind)) !== 0 &&
  (event.kind !== KIND.commit || wantsCollection(filter.collections, event.collection));

/**
 * Whether a client with this filter gets the event; its size is not looked at. The cost does not depend on the
 * number of DIDs.
 */
export const matches = (filter: Filter, event: JetstreamEvent): boolean =>
  wantsSort(filter, event) && (filter.dids === null || filter.dids.has(event.did));
