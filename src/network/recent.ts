/** A bounded map that forgets what was written longest ago. */
export interface Recent<K, V> {
  get(key: K): V | undefined;
  /** Writes and makes it the newest; over the bound the oldest goes. */
  set(key: K, value: V): void;
  delete(key: K): void;
  readonly size: number;
}

/**
 * Makes a bounded map. Whether an entry is too old is the caller's to judge by its own clock (a library cache
 * would bring its own time, and runs could not be replayed).
 * @param maxEntries the bound, at least 1
 */
export const createRecent = <K, V>(maxEntries: number): Recent<K, V> => {
  const entries = new Map<K, V>();
  return {
    get: (key) => entries.get(key),
    set: (key, value) => {
      entries.delete(key);
      entries.set(key, value);
      if (entries.size > maxEntries) {
        for (const oldest of entries.keys()) {
          entries.delete(oldest);
          break;
        }
      }
    },
    delete: (key) => {
      entries.delete(key);
    },
    get size() {
      return entries.size;
    },
  };
};
