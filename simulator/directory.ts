/** The simulated PLC directory: DID documents, and a listHosts so that the directory can stand in for an upstream relay. */
import type { Server } from 'bun';
import type { Account } from './account.ts';
import { keyOf } from './account.ts';

/** What can go wrong at the directory; each a probability per request except the last two. */
export interface DirectoryFaults {
  /** 500. */
  error: number;
  /** 429 with Retry-After: 1. */
  limited: number;
  /** An answer after `delayMs`. */
  delay: number;
  /** No answer until the client gives up or `stallMs` is over. */
  stall: number;
  /** A document that is not JSON, or of another DID. */
  garbage: number;
  delayMs: number;
  stallMs: number;
}

export const noDirectoryFaults = (): DirectoryFaults => ({
  error: 0,
  limited: 0,
  delay: 0,
  stall: 0,
  garbage: 0,
  delayMs: 500,
  stallMs: 30_000,
});

export interface DirectoryHost {
  readonly hostname: string;
  readonly seq: number;
  readonly accountCount: number;
}

export interface DirectoryOptions {
  readonly port: number;
  readonly seed: number;
  /** Read on every request, so they can be changed while it runs. */
  readonly faults: DirectoryFaults;
  find(did: string): Account | undefined;
  hostnameOf(hostIndex: number): string;
  hosts(): readonly DirectoryHost[];
  /** Draws the faults of one request. */
  chance(probability: number): boolean;
  onFault(fault: string, did: string): void;
}

export interface Directory {
  readonly url: string;
  readonly port: number;
  readonly counters: { requests: number; faults: number };
  /** Answers all who wait for a late or stalled answer, now. */
  release(): void;
  stop(): Promise<void>;
}

const DEFAULT_PAGE = 200;
const MAX_PAGE = 1000;

/** The DID document of an account (spec: DID; W3C did-core), in the current or the legacy form. */
export const documentOf = (account: Account, seed: number, hostname: string): object => {
  const key = keyOf(account, seed);
  const legacy = account.legacyDocument;
  const legacyType =
    key.type === 'k256' ? 'EcdsaSecp256k1VerificationKey2019' : 'EcdsaSecp256r1VerificationKey2019';
  return {
    '@context': [
      'https://www.w3.org/ns/did/v1',
      ...(legacy ? [] : ['https://w3id.org/security/multikey/v1']),
      'https://w3id.org/security/suites/secp256k1-2019/v1',
    ],
    id: account.did,
    alsoKnownAs: [`at://${account.handle}`],
    verificationMethod: [
      {
        id: legacy ? '#atproto' : `${account.did}#atproto`,
        type: legacy ? legacyType : 'Multikey',
        controller: account.did,
        publicKeyMultibase: legacy ? key.legacyMultibase : key.multikey,
      },
    ],
    service: [
      {
        id: '#atproto_pds',
        type: 'AtprotoPersonalDataServer',
        serviceEndpoint: `http://${hostname}`,
      },
    ],
  };
};

/** Starts the directory on `port` (0: any) of localhost. */
export const startDirectory = (options: DirectoryOptions): Directory => {
  const { faults } = options;
  const counters = { requests: 0, faults: 0 };
  const waiting = new Set<() => void>();
  const wait = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      waiting.add(done);
    });

  const answer = (did: string): Response => {
    const account = options.find(did);
    if (account === undefined) {
      return Response.json({ message: `DID not registered: ${did}` }, { status: 404 });
    }
    if (account.tombstoned) return Response.json({ message: `DID not available: ${did}` }, { status: 410 });
    return Response.json(documentOf(account, options.seed, options.hostnameOf(account.hostIndex)), {
      headers: { 'content-type': 'application/did+ld+json' },
    });
  };

  const listHosts = (url: URL): Response => {
    const limit = Math.min(MAX_PAGE, Math.max(1, Number(url.searchParams.get('limit') ?? DEFAULT_PAGE) || 1));
    const from = Number(url.searchParams.get('cursor') ?? 0) || 0;
    const hosts = options.hosts();
    const page = hosts.slice(from, from + limit).map((host) => ({ ...host, status: 'active' }));
    const next = from + limit;
    return Response.json(next < hosts.length ? { hosts: page, cursor: String(next) } : { hosts: page });
  };

  const handle = async (request: Request): Promise<Response> => {
    counters.requests++;
    const url = new URL(request.url);
    if (url.pathname === '/xrpc/com.atproto.sync.listHosts') return listHosts(url);
    if (url.pathname === '/_health') return Response.json({ version: 'simulator' });
    const did = decodeURIComponent(url.pathname.slice(1).split('/')[0] ?? '');
    const fault = (name: string): void => {
      counters.faults++;
      options.onFault(name, did);
    };
    if (options.chance(faults.error)) {
      fault('plc-error');
      return Response.json({ message: 'Internal Server Error' }, { status: 500 });
    }
    if (options.chance(faults.limited)) {
      fault('plc-limited');
      return Response.json(
        { message: 'Too Many Requests' },
        { status: 429, headers: { 'retry-after': '1' } },
      );
    }
    if (options.chance(faults.garbage)) {
      fault('plc-garbage');
      return new Response('<html>bad gateway</html>', { headers: { 'content-type': 'application/json' } });
    }
    if (options.chance(faults.stall)) {
      fault('plc-stall');
      await wait(faults.stallMs);
    } else if (options.chance(faults.delay)) {
      fault('plc-delay');
      await wait(faults.delayMs);
    }
    return answer(did);
  };

  const release = (): void => {
    for (const done of [...waiting]) done();
  };

  const server: Server<undefined> = Bun.serve({
    port: options.port,
    hostname: 'localhost',
    idleTimeout: 60,
    fetch: handle,
  });
  return {
    url: `http://localhost:${server.port}`,
    port: server.port!,
    counters,
    release,
    stop: async () => {
      release();
      await server.stop(true);
    },
  };
};
