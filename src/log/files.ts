import fs from 'node:fs';
import { lockDirectory } from './lock.ts';

/**
 * All that the log asks of a file system. Everything but the syncs is synchronous: a write only copies into the
 * page cache, a sync waits for the disk and must not hold the thread. Errors are thrown (or rejected) with the
 * `code` of node:fs. Tests replace it to run out of space, write short, and lose power.
 */
export interface LogFiles {
  /** Names in the directory, in no particular order. */
  list(dir: string): string[];
  makeDirectory(dir: string): void;
  /** 'read': must exist. 'write': read and write, created when absent, never truncated. Returns a descriptor. */
  open(path: string, mode: 'read' | 'write'): number;
  close(fd: number): void;
  size(fd: number): number;
  /** Bytes read, 0 at the end of the file. */
  read(fd: number, into: Uint8Array, at: number, length: number, position: number): number;
  /** Bytes written, which may be fewer than asked. */
  write(fd: number, bytes: Uint8Array, at: number, length: number, position: number): number;
  truncate(fd: number, bytes: number): void;
  /** fdatasync: resolves when what was written is durable. */
  syncData(fd: number): Promise<void>;
  /** fsync of the directory: creations and removals are durable. */
  syncDirectory(dir: string): Promise<void>;
  remove(path: string): void;
  /** Bytes an unprivileged process may still write. */
  freeBytes(dir: string): number;
  /** Takes the directory for this process; throws when another one holds it. Returns the release. */
  lock(dir: string): () => void;
}

const settle =
  (resolve: () => void, reject: (error: Error) => void) =>
  (error: Error | null): void => {
    if (error === null || error === undefined) resolve();
    else reject(error);
  };

/** The real file system. */
export const diskFiles: LogFiles = {
  list: (dir) => fs.readdirSync(dir),
  makeDirectory: (dir) => {
    fs.mkdirSync(dir, { recursive: true });
  },
  open: (path, mode) =>
    fs.openSync(
      path,
      mode === 'read' ? fs.constants.O_RDONLY : fs.constants.O_RDWR | fs.constants.O_CREAT,
      0o644,
    ),
  close: (fd) => fs.closeSync(fd),
  size: (fd) => fs.fstatSync(fd).size,
  read: (fd, into, at, length, position) => fs.readSync(fd, into, at, length, position),
  write: (fd, bytes, at, length, position) => fs.writeSync(fd, bytes, at, length, position),
  truncate: (fd, bytes) => fs.ftruncateSync(fd, bytes),
  syncData: (fd) => new Promise((resolve, reject) => fs.fdatasync(fd, settle(resolve, reject))),
  syncDirectory: async (dir) => {
    const fd = fs.openSync(dir, fs.constants.O_RDONLY);
    try {
      await new Promise<void>((resolve, reject) => fs.fsync(fd, settle(resolve, reject)));
    } finally {
      fs.closeSync(fd);
    }
  },
  remove: (path) => fs.unlinkSync(path),
  freeBytes: (dir) => {
    const { bavail, bsize } = fs.statfsSync(dir);
    return bavail * bsize;
  },
  lock: lockDirectory,
};

/** Whether an error says that the disk (or a quota) is full: the one failure of a write that passes. */
export const isDiskFull = (error: unknown): boolean => {
  const code = (error as { code?: unknown } | null)?.code;
  return code === 'ENOSPC' || code === 'EDQUOT';
};

/** Reads exactly `length` bytes, or fewer at the end of the file. Returns the bytes read. */
export const readFully = (
  files: LogFiles,
  fd: number,
  into: Uint8Array,
  length: number,
  position: number,
): number => {
  let done = 0;
  while (done < length) {
    const count = files.read(fd, into, done, length - done, position + done);
    if (count === 0) break;
    done += count;
  }
  return done;
};
