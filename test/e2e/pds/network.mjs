/**
 * Starts a real PLC directory (in memory) and real PDSes, under Node.
 *
 * Its working directory is where their packages are installed. The one argument is JSON:
 * {plcPort, pds: [{port, directory, handleDomain, rotationKeyHex, adminPassword}]}.
 * Prints one line of JSON, {"ready": true, "pds": [{"did"}]}, when everything answers, and lives until its stdin
 * ends, so that it never outlives the test that started it.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(`${process.cwd()}/`);
const { PlcServer, Database } = require('@did-plc/server');
const { PDS, envToCfg, envToSecrets } = require('@atproto/pds');

const options = JSON.parse(process.argv[2]);

const plc = PlcServer.create({ db: Database.mock(), port: options.plcPort });
await plc.start();

const servers = [];
for (const wanted of options.pds) {
  const blobs = join(wanted.directory, 'blobs');
  mkdirSync(blobs, { recursive: true });
  const env = {
    port: wanted.port,
    hostname: 'localhost',
    // Two PDSes on one machine differ by port, so the service DID must hold it.
    serviceDid: `did:web:localhost%3A${wanted.port}`,
    devMode: true,
    disableSsrfProtection: true,
    dataDirectory: wanted.directory,
    blobstoreDiskLocation: blobs,
    didPlcUrl: `http://localhost:${options.plcPort}`,
    serviceHandleDomains: [wanted.handleDomain],
    jwtSecret: randomBytes(16).toString('hex'),
    adminPassword: wanted.adminPassword,
    plcRotationKeyK256PrivateKeyHex: wanted.rotationKeyHex,
    inviteRequired: false,
    rateLimitsEnabled: false,
    crawlers: [],
  };
  const server = await PDS.create(envToCfg(env), envToSecrets(env));
  await server.start();
  servers.push(server);
}

let stopping = false;
const stop = async () => {
  if (stopping) return;
  stopping = true;
  setTimeout(() => process.exit(0), 3000).unref();
  await Promise.allSettled([...servers.map((server) => server.destroy()), plc.destroy()]);
  process.exit(0);
};
process.stdin.resume();
process.stdin.on('end', stop);
process.stdin.on('error', stop);
process.on('SIGTERM', stop);

console.log(
  JSON.stringify({ ready: true, pds: servers.map((server) => ({ did: server.ctx.cfg.service.did })) }),
);
