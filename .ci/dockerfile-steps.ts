#!/usr/bin/env bun
/**
 * Does what the Dockerfile says, without a container engine: each stage becomes a folder, COPY copies what
 * .dockerignore leaves, RUN runs, and the last stage is started as another user where that is possible. Then the
 * health check must pass, and the stop signal must end it with exit code 0.
 *
 *   bun .ci/dockerfile-steps.ts [--keep]
 *
 * It reads the Dockerfile itself, so it changes with it; an instruction it does not know is a failure. What it cannot
 * show: that the base image is there and holds what its name says. Absolute paths are put below the stage's folder,
 * and the image's user `bun` is `nobody` when this runs as root, otherwise the user who runs it.
 */
import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';

const REPO = path.resolve(import.meta.dir, '..');
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 25_000;

const fail = (why: string): never => {
  throw new Error(why);
};

interface Stage {
  readonly name: string;
  readonly base: string;
  readonly root: string;
  workdir: string;
  user: string;
  readonly env: Record<string, string>;
  readonly exposed: string[];
  readonly volumes: string[];
  stopSignal: string;
  health: readonly string[];
  entrypoint: readonly string[];
  cmd: readonly string[];
}

const root = mkdtempSync(path.join(tmpdir(), 'weir-image-'));
chmodSync(root, 0o755);
const asRoot = process.getuid?.() === 0;
const user = asRoot ? 'nobody' : spawnSync('id', ['-un']).stdout.toString().trim();
const group = spawnSync('id', ['-gn', user]).stdout.toString().trim();

// Only Bun, as in the base image: a node that happens to be installed here must not help.
const binDir = path.join(root, 'bin');
mkdirSync(binDir);
cpSync(process.execPath, path.join(binDir, 'bun'), { dereference: true });
chmodSync(path.join(binDir, 'bun'), 0o755);
symlinkSync('bun', path.join(binDir, 'bunx'));
for (const tool of ['sh', 'mkdir', 'chown', 'unshare', 'env', 'rm', 'rmdir', 'sleep', 'cat', 'kill']) {
  const found = Bun.which(tool);
  if (found !== null) symlinkSync(found, path.join(binDir, tool));
}

/** The lines of a Dockerfile as [instruction, rest], comments left out and continued lines joined. */
const instructionsOf = (text: string): [string, string][] =>
  text
    .replace(/\\\n/g, ' ')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const space = line.indexOf(' ');
      return [line.slice(0, space).toUpperCase(), line.slice(space + 1).trim()];
    });

/** What .dockerignore leaves of the top folder. Knows only `*` and `!name`, which is all that ours uses. */
const allowed = new Set<string>();
{
  const lines = readFileSync(path.join(REPO, '.dockerignore'), 'utf8')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
  if (lines.shift() !== '*') fail('.dockerignore must begin with *');
  for (const line of lines) {
    if (!/^![\w.-]+$/.test(line)) fail(`.dockerignore: ${line} is not understood here`);
    allowed.add(line.slice(1));
  }
}

const execForm = (text: string): string[] => {
  const words: unknown = JSON.parse(text);
  if (!Array.isArray(words) || !words.every((word) => typeof word === 'string'))
    fail(`not in exec form: ${text}`);
  return words as string[];
};

const run = (stage: Stage, command: string): void => {
  const here = command
    .replaceAll('bun:bun', `${user}:${group}`)
    .replace(/(^|\s)\/(?=[a-z])/g, `$1${stage.root}/`);
  const home = path.join(root, 'home');
  mkdirSync(home, { recursive: true });
  const { status, stdout, stderr } = spawnSync('/bin/sh', ['-c', here], {
    cwd: stage.workdir,
    env: { ...stage.env, PATH: binDir, HOME: home, ...registryEnvironment() },
  });
  if (status !== 0) fail(`RUN ${command} ended with ${status}:\n${stdout}${stderr}`);
};

/** How packages are reached from here is not the image's business. */
function registryEnvironment(): Record<string, string> {
  const passed: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env))
    if (
      /^(npm_config_|bun_config_|bun_install_cache|https?_proxy|no_proxy|ssl_cert|node_extra_ca)/i.test(name)
    )
      passed[name] = value ?? '';
  const home = process.env.HOME ?? '';
  const cache = path.join(home, '.bun', 'install', 'cache');
  if (home !== '' && existsSync(cache)) passed.BUN_INSTALL_CACHE_DIR ??= cache;
  for (const file of ['.npmrc', '.bunfig.toml'])
    if (home !== '' && existsSync(path.join(home, file)))
      cpSync(path.join(home, file), path.join(root, 'home', file));
  return passed;
}

const copy = (stage: Stage, stages: readonly Stage[], rest: string): void => {
  const words = rest.split(/\s+/);
  let from: Stage | null = null;
  while (words[0]?.startsWith('--')) {
    const option = words.shift()!;
    const name = /^--from=(.+)$/.exec(option)?.[1];
    if (name === undefined) fail(`COPY ${option} is not understood here`);
    from = stages.find((other) => other.name === name) ?? fail(`COPY from an unknown stage ${name}`);
  }
  const target = words.pop() ?? fail('COPY without a target');
  const targetPath = target.startsWith('/')
    ? path.join(stage.root, target)
    : path.resolve(stage.workdir, target);
  for (const source of words) {
    if (/[*?[]/.test(source)) fail(`COPY ${source}: patterns are not understood here`);
    if (from === null && !allowed.has(source)) fail(`COPY ${source}: .dockerignore leaves it out`);
    const sourcePath = from === null ? path.join(REPO, source) : path.join(from.root, source);
    if (!existsSync(sourcePath)) fail(`COPY ${source}: there is no such thing`);
    const into = target.endsWith('/') ? path.join(targetPath, path.basename(source)) : targetPath;
    cpSync(sourcePath, into, { recursive: true, verbatimSymlinks: true });
  }
};

const build = (): Stage => {
  const stages: Stage[] = [];
  for (const [instruction, rest] of instructionsOf(readFileSync(path.join(REPO, 'Dockerfile'), 'utf8'))) {
    if (instruction === 'FROM') {
      const [, base, name] = /^(\S+)(?:\s+AS\s+(\S+))?$/i.exec(rest) ?? fail(`FROM ${rest}`);
      if (base !== `oven/bun:${Bun.version}-slim`)
        fail(`the base ${base} is not the Bun that runs this (${Bun.version})`);
      const stageRoot = path.join(root, name ?? 'image');
      mkdirSync(stageRoot);
      stages.push({
        name: name ?? 'image',
        base: base!,
        root: stageRoot,
        workdir: stageRoot,
        user: 'root',
        env: {},
        exposed: [],
        volumes: [],
        stopSignal: 'SIGTERM',
        health: [],
        entrypoint: [],
        cmd: [],
      });
      continue;
    }
    const stage = stages.at(-1) ?? fail(`${instruction} before FROM`);
    switch (instruction) {
      case 'WORKDIR':
        stage.workdir = path.join(stage.root, rest);
        mkdirSync(stage.workdir, { recursive: true });
        break;
      case 'COPY':
        copy(stage, stages, rest);
        break;
      case 'RUN':
        run(stage, rest);
        break;
      case 'USER':
        stage.user = rest;
        break;
      case 'ENV': {
        const [, name, value] = /^(\w+)=(\S+)$/.exec(rest) ?? fail(`ENV ${rest} is not understood here`);
        stage.env[name!] = value!.startsWith('/') ? path.join(stage.root, value!) : value!;
        break;
      }
      case 'VOLUME':
        stage.volumes.push(rest);
        break;
      case 'EXPOSE':
        stage.exposed.push(...rest.split(/\s+/));
        break;
      case 'STOPSIGNAL':
        stage.stopSignal = rest;
        break;
      case 'HEALTHCHECK':
        stage.health = execForm(rest.replace(/^(--\S+\s+)*CMD\s+/, ''));
        break;
      case 'ENTRYPOINT':
        stage.entrypoint = execForm(rest);
        break;
      case 'CMD':
        stage.cmd = execForm(rest);
        break;
      default:
        fail(`${instruction} is not understood here: teach .ci/dockerfile-steps.ts about it`);
    }
  }
  return stages.at(-1) ?? fail('the Dockerfile has no stage');
};

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });

/** The command as the image's user, in an environment that holds only what is given. */
const asUser = (command: readonly string[], env: Record<string, string>): string[] => {
  const pairs = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const plain = [Bun.which('env') ?? '/usr/bin/env', '-i', ...pairs, ...command];
  if (!asRoot) return plain;
  const setpriv = Bun.which('setpriv') ?? fail('setpriv is needed to leave root behind');
  const id = (flag: string): string => spawnSync('id', [flag, user]).stdout.toString().trim();
  return [setpriv, `--reuid=${id('-u')}`, `--regid=${id('-g')}`, '--clear-groups', '--', ...plain];
};

const start = async (image: Stage): Promise<void> => {
  if (image.user !== 'bun') fail(`the image runs as ${image.user}`);
  if (image.exposed.join() !== '2470,2471') fail(`the image exposes ${image.exposed.join()}`);
  if (image.volumes.join() !== '/data') fail(`the image's volumes are ${image.volumes.join()}`);
  if (image.health.length === 0) fail('the image has no health check');
  const unneeded = ['typescript', 'drizzle-kit', 'fast-check'].filter((name) =>
    existsSync(path.join(image.workdir, 'node_modules', name)),
  );
  if (unneeded.length > 0) fail(`the image holds ${unneeded.join()}`);

  const port = await freePort();
  const env = {
    ...image.env,
    PATH: binDir,
    HOME: path.join(image.root, 'data'),
    // Other ports and no hosts: this machine may run a relay of its own, and may be without a network.
    RELAY_API_BIND: `127.0.0.1:${port}`,
    RELAY_METRICS_LISTEN: `127.0.0.1:${await freePort()}`,
    RELAY_UPSTREAM: '',
  };
  const [program, ...args] = asUser([...image.entrypoint, ...image.cmd], env);
  const child = spawn(program!, args, { cwd: image.workdir, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  const keep = (data: Buffer): void => {
    output = (output + data.toString()).slice(-20_000);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  const ended = new Promise<number>((resolve) => child.once('exit', (code) => resolve(code ?? -1)));

  const isHealthy = (): boolean => {
    const [check, ...checkArgs] = asUser(image.health, env);
    return spawnSync(check!, checkArgs, { cwd: image.workdir, timeout: 10_000 }).status === 0;
  };
  try {
    if (isHealthy()) fail('the health check passes before anything runs');
    const until = performance.now() + START_TIMEOUT_MS;
    while (!isHealthy()) {
      if (child.exitCode !== null) fail(`it ended with ${child.exitCode}:\n${output}`);
      if (performance.now() > until) fail(`it does not become healthy:\n${output}`);
      await Bun.sleep(250);
    }
    child.kill(image.stopSignal as NodeJS.Signals);
    const code = await Promise.race([ended, Bun.sleep(STOP_TIMEOUT_MS).then(() => null)]);
    if (code === null) fail(`${image.stopSignal} does not end it:\n${output}`);
    if (code !== 0) fail(`${image.stopSignal} ended it with ${code}:\n${output}`);
  } finally {
    if (child.exitCode === null) child.kill('SIGKILL');
  }
};

const startedAt = performance.now();
try {
  await start(build());
  console.log(
    `the Dockerfile's steps work: built, healthy as ${user}, stopped, in ${Math.round((performance.now() - startedAt) / 1000)} s`,
  );
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  if (process.argv.includes('--keep')) console.log(root);
  else rmSync(root, { recursive: true, force: true });
}
// Without waiting for the timer that lost its race.
process.exit();
