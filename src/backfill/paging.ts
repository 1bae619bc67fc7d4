/**
 * Telling a list that ends from one that never will. Pure. A server that repeats its cursors, in a circle of any
 * length, would otherwise be read for ever; so would one that makes up new ones without end.
 */
import { type BackfillFailure, failed } from './reasons.ts';

/** A billion entries at 1,000 a page: beyond the network's accounts, whatever the collection. */
export const MAX_PAGES_PER_SOURCE = 1_000_000;
/** An empty page with a cursor is legal now and then. */
export const MAX_EMPTY_PAGES = 100;

export interface PagingWatch {
  /** Judges the page that followed: its cursor, how many entries it had. null: go on. */
  judge(cursor: string | null, entries: number, pagesSoFar: number): BackfillFailure | null;
}

/**
 * Brent's algorithm: remembers one cursor, a later one each time the distance has doubled. Any circle is found
 * within about three of its rounds, in constant memory.
 * @param cursor where the reading (re)begins
 */
export const watchPaging = (cursor: string | null): PagingWatch => {
  let anchor = cursor;
  let power = 1;
  let distance = 0;
  let empty = 0;
  return {
    judge(next, entries, pagesSoFar) {
      if (next === null) return null;
      if (next === anchor)
        return failed('cursor_repeats', `the same cursor again after ${distance + 1} pages`);
      if (++distance === power) {
        anchor = next;
        power *= 2;
        distance = 0;
      }
      empty = entries === 0 ? empty + 1 : 0;
      if (empty >= MAX_EMPTY_PAGES) return failed('empty_pages', `${MAX_EMPTY_PAGES} empty pages in a row`);
      if (pagesSoFar >= MAX_PAGES_PER_SOURCE)
        return failed('too_many_pages', `more than ${MAX_PAGES_PER_SOURCE} pages`);
      return null;
    },
  };
};
