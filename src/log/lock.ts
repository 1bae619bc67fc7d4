import { Database } from 'bun:sqlite';
import fs from 'node:fs';
import path from 'node:path';

/** Held by locks of the operating system through SQLite; always empty. */
const LOCK_FILE = 'lock';
/** Only for the message that another process gets. */
const OWNER_FILE = 'lock.owner';

/**
 * Takes the directory for one writer. The lock is an exclusive SQLite transaction on an empty file, that is, a
 * lock of the operating system: it ends with the process, however that dies, and needs no guess about process ids.
 * Throws one clear line when another process (or another log of this one) holds it. Returns the release.
 */
export const lockDirectory = (dir: string): (() => void) => {
  const database = new Database(path.join(dir, LOCK_FILE), { create: true, readwrite: true });
  const ownerFile = path.join(dir, OWNER_FILE);
  try {
    database.run('PRAGMA busy_timeout = 0');
    database.run('BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    if ((error as { code?: string }).code !== 'SQLITE_BUSY') throw error;
    let owner = '';
    try {
      owner = ` (process ${fs.readFileSync(ownerFile, 'utf8').trim()})`;
    } catch {
      // The owner has not written its number yet: the message does without.
    }
    throw new Error(
      `the log in ${dir} is in use by another weir${owner}: stop it, or use another data directory`,
    );
  }
  fs.writeFileSync(ownerFile, `${process.pid}\n`);
  return () => {
    fs.rmSync(ownerFile, { force: true });
    database.close();
  };
};
