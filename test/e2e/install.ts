/**
 * Installs the real PLC directory and PDS, and a Node to run them, into a cache directory; does nothing when they are
 * already there in these versions. Packages come from npm through `bun install` with a frozen lockfile; no install
 * script of a package runs, and the one native part (better-sqlite3) is compiled here from its own source.
 */
import { cp, mkdir, readdir, realpath, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';

const PDS_DIRECTORY = join(import.meta.dir, 'pds');
/** The Node major that this PDS and its better-sqlite3 are made for. */
const NODE_MAJOR = 20;
/** Installed from npm when the machine has no such Node, or has it without its headers. */
const NODE_VERSION = '20.20.2';

/** Where the test finds what was installed. */
export interface Installed {
  /** The node binary. */
  readonly node: string;
  /** Working directory for pds/network.mjs: its packages are in node_modules below. */
  readonly directory: string;
}

/** Runs a command to its end; throws with the end of its output when it fails. */
const run = async (command: string[], cwd: string, env: Record<string, string> = {}): Promise<string> => {
  const child = Bun.spawn(command, {
    cwd,
    env: { ...process.env, ...env },
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'pipe',
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0)
    throw new Error(`\`${command.join(' ')}\` failed with ${code}:\n${(out + err).slice(-3000)}`);
  return out;
};

const exists = (path: string): Promise<boolean> => Bun.file(path).exists();

/** A usable Node of this machine: right major, with its headers beside it. */
const systemNode = async (): Promise<{ node: string; prefix: string } | null> => {
  const found = Bun.which('node');
  if (found === null) return null;
  const version = await run([found, '--version'], '/').catch(() => '');
  if (!version.startsWith(`v${NODE_MAJOR}.`)) return null;
  const prefix = dirname(dirname(await realpath(found)));
  return (await exists(join(prefix, 'include', 'node', 'node_api.h'))) ? { node: found, prefix } : null;
};

/** Node with its headers from npm. */
const packagedNode = async (cache: string): Promise<{ node: string; prefix: string }> => {
  const name = `node-${process.platform}-${process.arch}`;
  const directory = join(cache, `node-${NODE_VERSION}`);
  const prefix = join(directory, 'node_modules', name);
  const node = join(prefix, 'bin', 'node');
  if (!(await exists(node))) {
    console.log(
      `  no Node ${NODE_MAJOR} with headers on this machine: installing ${name}@${NODE_VERSION} from npm`,
    );
    await mkdir(directory, { recursive: true });
    await Bun.write(
      join(directory, 'package.json'),
      JSON.stringify({ private: true, dependencies: { [name]: NODE_VERSION } }),
    );
    await run([process.execPath, 'install', '--ignore-scripts', '--no-save'], directory);
  }
  if (!(await exists(join(prefix, 'include', 'node', 'node_api.h'))))
    throw new Error(`${name}@${NODE_VERSION} has no headers under include/node`);
  return { node, prefix };
};

const missingTools = (): string[] => {
  const missing: string[] = [];
  if (Bun.which('python3') === null) missing.push('python3');
  if (Bun.which('make') === null) missing.push('make');
  if (Bun.which('c++') === null && Bun.which('g++') === null && Bun.which('clang++') === null)
    missing.push('a C++ compiler');
  return missing;
};

/**
 * Makes sure everything is installed under `cache`. Throws an error that says what is missing when this machine
 * cannot build or run a PDS.
 */
export const install = async (cache: string): Promise<Installed> => {
  await mkdir(cache, { recursive: true });
  const { node, prefix } = (await systemNode()) ?? (await packagedNode(cache));
  const nodeVersion = (await run([node, '--version'], '/')).trim();
  const manifest = await Bun.file(join(PDS_DIRECTORY, 'package.json')).text();
  const lock = await Bun.file(join(PDS_DIRECTORY, 'bun.lock')).text();
  const key = new Bun.CryptoHasher('sha256')
    .update(`${manifest}\n${lock}\n${nodeVersion}`)
    .digest('hex')
    .slice(0, 12);
  const directory = join(cache, `pds-${key}`);
  const marker = join(directory, '.installed');
  if (await exists(marker)) return { node, directory };

  const missing = missingTools();
  if (missing.length > 0)
    throw new Error(
      `better-sqlite3, which the PDS stores its data in, must be compiled: ${missing.join(', ')} not found`,
    );
  for (const old of await readdir(cache))
    if (old.startsWith('pds-')) await rm(join(cache, old), { recursive: true, force: true });
  console.log(`  installing the PDS and the PLC directory into ${directory} (once, about two minutes)`);
  await mkdir(directory, { recursive: true });
  for (const file of ['package.json', 'bun.lock']) await cp(join(PDS_DIRECTORY, file), join(directory, file));
  await run([process.execPath, 'install', '--frozen-lockfile', '--ignore-scripts'], directory);
  await run(
    [
      node,
      join(directory, 'node_modules/node-gyp/bin/node-gyp.js'),
      'rebuild',
      '--release',
      `--nodedir=${prefix}`,
    ],
    join(directory, 'node_modules/better-sqlite3'),
    { PATH: `${dirname(node)}:${process.env.PATH ?? ''}` },
  );
  await run(
    [node, '-e', "require('better-sqlite3')(':memory:').close(); require('@atproto/pds')"],
    directory,
  );
  await Bun.write(marker, `${nodeVersion}\n`);
  return { node, directory };
};
