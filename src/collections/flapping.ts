/**
 * Accounts whose status goes back and forth. Nobody signs an #account event, and each that hides or shows an account
 * costs work for every collection it has: of those in a row within a batch, only what leaves a trace counts.
 */
import type { IndexedEvent } from './store/store.ts';

const didOf = (event: IndexedEvent): string => (event.kind === 'commit' ? event.changes.did : event.did);

/**
 * The events of a batch, but of statuses in a row, with no other event of the account in between, only the last, and
 * before it, when it shows the account, the last that hid it: who was hidden has to be checked. Deletions stay, since
 * nothing undoes them.
 */
export const withoutFlapping = (events: readonly IndexedEvent[]): IndexedEvent[] => {
  /** By account, of the row that is walked back through: whether one that hides it is still wanted. */
  const wantsHiding = new Map<string, boolean>();
  const kept: IndexedEvent[] = [];
  for (let index = events.length - 1; index >= 0; index--) {
    const event = events[index]!;
    if (event.kind !== 'account') {
      if (wantsHiding.size > 0) wantsHiding.delete(didOf(event));
      kept.push(event);
      continue;
    }
    const isShown = event.status === null;
    const wanted = wantsHiding.get(event.did);
    const isLast = wanted === undefined;
    if (isLast || (wanted && !isShown) || event.status === 'deleted') kept.push(event);
    wantsHiding.set(event.did, isShown && (isLast || wanted));
  }
  return kept.reverse();
};
