/** What keeps the collection index from working, with what to do about it. */
export class CollectionIndexError extends Error {}

/** How an operator makes the index anew. */
export const rebuildHint = (path: string): string =>
  `stop weir, delete ${path}, ${path}-wal, ${path}-shm and ${path}.dids, and start again: the index is built anew from ` +
  'the log, and `bun run backfill` brings what is older';

const CORRUPTION = /SQLITE_(CORRUPT|NOTADB|IOERR_SHORT_READ)|malformed|not a database/;

/** Makes of a failure of SQLite what an operator can act on; other errors stay what they are. */
export const explain = (error: unknown, path: string): Error => {
  if (error instanceof CollectionIndexError) return error;
  const message = error instanceof Error ? error.message : String(error);
  const code = String((error as { code?: unknown } | null)?.code ?? '');
  if (CORRUPTION.test(code) || CORRUPTION.test(message))
    return new CollectionIndexError(
      `the collection index ${path} is damaged (${message}): ${rebuildHint(path)}`,
    );
  return error instanceof Error ? error : new Error(message);
};
