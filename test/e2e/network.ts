/** The real network of the test as a child process: one PLC directory, two PDSes. */
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { Installed } from './install.ts';

/** One real PDS. */
export interface Pds {
  /** As a relay names it. */
  readonly hostname: string;
  readonly url: string;
  /** The DID of the service itself, the audience of service auth. */
  readonly did: string;
  /** With its leading dot. */
  readonly handleDomain: string;
  readonly adminPassword: string;
  /** Private key that this PDS puts into the rotation keys of its accounts. */
  readonly rotationKeyHex: string;
}

export interface Network {
  readonly plcUrl: string;
  readonly pds: readonly [Pds, Pds];
  stop(): Promise<void>;
}

/** A TCP port that was free a moment ago. */
export const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => {
        if (address !== null && typeof address === 'object') resolve(address.port);
        else reject(new Error('no port'));
      });
    });
  });

const START_TIMEOUT_MS = 60_000;

/** Starts PLC and PDSes with their data under `directory`; resolves when all answer. */
export const startNetwork = async (installed: Installed, directory: string): Promise<Network> => {
  const plcPort = await freePort();
  const wanted = await Promise.all(
    ['one', 'two'].map(async (name) => ({
      port: await freePort(),
      directory: join(directory, `pds-${name}`),
      handleDomain: `.${name}.test`,
      rotationKeyHex: randomBytes(32).toString('hex'),
      adminPassword: randomBytes(16).toString('hex'),
    })),
  );
  const child = Bun.spawn(
    [installed.node, join(import.meta.dir, 'pds', 'network.mjs'), JSON.stringify({ plcPort, pds: wanted })],
    {
      cwd: installed.directory,
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: Bun.file(join(directory, 'network.stderr')),
    },
  );
  const timer = setTimeout(() => child.kill('SIGKILL'), START_TIMEOUT_MS);
  let text = '';
  let dids: string[] | null = null;
  const reader = child.stdout.getReader();
  const decoder = new TextDecoder();
  while (dids === null) {
    const { value, done } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
    for (const line of text.split('\n')) {
      if (!line.startsWith('{"ready"')) continue;
      const answer = JSON.parse(line) as { pds: { did: string }[] };
      dids = answer.pds.map((pds) => pds.did);
    }
  }
  clearTimeout(timer);
  if (dids === null)
    throw new Error(`PLC and PDS did not start: ${await Bun.file(join(directory, 'network.stderr')).text()}`);
  const pds = wanted.map((one, index) => ({
    hostname: `localhost:${one.port}`,
    url: `http://localhost:${one.port}`,
    did: dids[index]!,
    handleDomain: one.handleDomain,
    adminPassword: one.adminPassword,
    rotationKeyHex: one.rotationKeyHex,
  }));
  return {
    plcUrl: `http://localhost:${plcPort}`,
    pds: [pds[0]!, pds[1]!],
    stop: async () => {
      await child.stdin.end();
      const hard = setTimeout(() => child.kill('SIGKILL'), 5000);
      await child.exited;
      clearTimeout(hard);
    },
  };
};
