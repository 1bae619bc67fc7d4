import type { LogFiles } from '../../src/log/files.ts';

/**
 * A file system in memory that can do what real ones do at their worst: run out of space, write short, fail a sync,
 * and lose power, after which only synced bytes are certain, and each unsynced sector or name may or may not be there.
 */
interface Inode {
  bytes: Uint8Array;
  size: number;
  /** As of the last sync. */
  durable: Uint8Array;
}

export interface MemoryFiles extends LogFiles {
  /** Bytes the disk holds; writes beyond it fail with ENOSPC. */
  capacity: number;
  /** The next write stores at most this many bytes; −1: no limit. Used up by one write. */
  shortWrite: number;
  /** Thrown by the next syncs of file data, one each. */
  syncErrors: Error[];
  /** While set, syncs of file data wait for it. */
  syncGate: Promise<void> | null;
  syncs: number;
  readonly used: number;
  /** Power loss: what a disk might hold afterwards. `random` gives numbers in [0, 1). All locks are gone. */
  losePower(random: () => number): MemoryFiles;
  /** The process dies, the machine lives: all that was written is there, synced or not. */
  killProcess(): MemoryFiles;
  contents(path: string): Uint8Array;
  replace(path: string, bytes: Uint8Array): void;
}

const SECTOR_BYTES = 512;

const failure = (code: string): Error => Object.assign(new Error(code), { code });

export const createMemoryFiles = (
  names: Map<string, Inode> = new Map(),
  directories: Set<string> = new Set(),
): MemoryFiles => {
  const durableNames = new Map(names);
  const open = new Map<number, Inode>();
  const locks = new Set<string>();
  let nextFd = 3;
  let dead = false;
  const alive = (): void => {
    if (dead) throw failure('EIO');
  };
  const inode = (fd: number): Inode => {
    alive();
    const found = open.get(fd);
    if (found === undefined) throw failure('EBADF');
    return found;
  };
  const used = (): number => {
    let sum = 0;
    for (const each of new Set(names.values())) sum += each.size;
    return sum;
  };
  const resize = (file: Inode, size: number): void => {
    if (size > file.bytes.length) {
      const larger = new Uint8Array(Math.max(size, file.bytes.length * 2, 256));
      larger.set(file.bytes.subarray(0, file.size));
      file.bytes = larger;
    }
    if (size > file.size) file.bytes.fill(0, file.size, size);
    file.size = size;
  };
  const copyOf = (bytes: Uint8Array): Inode => ({
    bytes: bytes.slice(),
    size: bytes.length,
    durable: bytes.slice(),
  });

  const files: MemoryFiles = {
    capacity: Number.POSITIVE_INFINITY,
    shortWrite: -1,
    syncErrors: [],
    syncGate: null,
    syncs: 0,
    get used() {
      return used();
    },
    list: (dir) => {
      alive();
      return [...names.keys()]
        .filter((name) => name.startsWith(`${dir}/`))
        .map((name) => name.slice(dir.length + 1));
    },
    makeDirectory: (dir) => {
      directories.add(dir);
    },
    open: (path, mode) => {
      alive();
      let file = names.get(path);
      if (file === undefined) {
        if (mode === 'read') throw failure('ENOENT');
        file = { bytes: new Uint8Array(0), size: 0, durable: new Uint8Array(0) };
        names.set(path, file);
      }
      open.set(nextFd, file);
      return nextFd++;
    },
    close: (fd) => {
      inode(fd);
      open.delete(fd);
    },
    size: (fd) => inode(fd).size,
    read: (fd, into, at, length, position) => {
      const file = inode(fd);
      const count = Math.max(0, Math.min(length, file.size - position));
      into.set(file.bytes.subarray(position, position + count), at);
      return count;
    },
    write: (fd, bytes, at, length, position) => {
      const file = inode(fd);
      let count = length;
      if (files.shortWrite >= 0) {
        count = Math.min(count, files.shortWrite);
        files.shortWrite = -1;
      }
      const growth = Math.max(0, position + count - file.size);
      const room = files.capacity - used();
      if (growth > room) {
        count -= growth - Math.max(0, room);
        if (count <= 0) throw failure('ENOSPC');
      }
      resize(file, Math.max(file.size, position + count));
      file.bytes.set(bytes.subarray(at, at + count), position);
      return count;
    },
    truncate: (fd, size) => resize(inode(fd), size),
    syncData: async (fd) => {
      const file = inode(fd);
      const written = file.bytes.slice(0, file.size);
      await (files.syncGate ?? Promise.resolve());
      alive();
      files.syncs++;
      const error = files.syncErrors.shift();
      if (error !== undefined) throw error;
      file.durable = written;
    },
    syncDirectory: async (dir) => {
      alive();
      await Promise.resolve();
      for (const name of durableNames.keys())
        if (name.startsWith(`${dir}/`) && !names.has(name)) durableNames.delete(name);
      for (const [name, file] of names) if (name.startsWith(`${dir}/`)) durableNames.set(name, file);
    },
    remove: (path) => {
      alive();
      if (!names.delete(path)) throw failure('ENOENT');
    },
    freeBytes: () => files.capacity - used(),
    lock: (dir) => {
      if (locks.has(dir)) throw new Error(`the log in ${dir} is in use by another weir`);
      locks.add(dir);
      return () => {
        locks.delete(dir);
      };
    },
    losePower: (random) => {
      dead = true;
      const after = new Map<string, Inode>();
      for (const name of new Set([...names.keys(), ...durableNames.keys()])) {
        const now = names.get(name);
        const before = durableNames.get(name);
        // A creation or removal that was not synced may have happened or not.
        const file = now === before ? now : random() < 0.5 ? now : before;
        if (file === undefined) continue;
        const size = random() < 0.3 ? file.durable.length : Math.max(file.durable.length, file.size);
        const bytes = new Uint8Array(size);
        bytes.set(file.durable.subarray(0, size));
        for (let at = 0; at < size; at += SECTOR_BYTES) {
          const end = Math.min(at + SECTOR_BYTES, size);
          if (random() < 0.5) bytes.set(file.bytes.subarray(at, Math.min(end, file.size)), at);
        }
        after.set(name, copyOf(bytes));
      }
      return createMemoryFiles(after, directories);
    },
    killProcess: () => {
      dead = true;
      const after = new Map<string, Inode>();
      for (const [name, file] of names)
        after.set(name, { bytes: file.bytes.slice(), size: file.size, durable: file.durable });
      return createMemoryFiles(after, directories);
    },
    contents: (path) => {
      const file = names.get(path);
      if (file === undefined) throw failure('ENOENT');
      return file.bytes.slice(0, file.size);
    },
    replace: (path, bytes) => {
      names.set(path, copyOf(bytes));
    },
  };
  return files;
};
