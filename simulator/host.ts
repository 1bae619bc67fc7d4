/** One simulated PDS: its HTTP endpoints and its firehose on a port of localhost. */
import type { Server, WebSocketHandler } from 'bun';
import type { Account } from './account.ts';
import { cidText } from './records.ts';
import {
  createMemoryStore,
  createStream,
  MAX_SUBSCRIBERS,
  type SocketData,
  type Stream,
  type StreamCounters,
} from './stream.ts';
import { walkLeaves } from './tree.ts';

export interface Host {
  readonly index: number;
  /** `localhost:PORT`; set once started. */
  hostname: string;
  port: number;
  readonly stream: Stream;
  /** Its accounts by index, in the order they came. */
  readonly accounts: Account[];
  /** Accounts that moved away: the host still knows them as deactivated. */
  readonly departed: Map<string, Account>;
  /** HTTP and upgrades answer 503. */
  refusing: boolean;
  /** Every HTTP answer and upgrade waits this long. */
  slowMs: number;
  server: Server<SocketData> | null;
}

export interface HostSurroundings {
  find(did: string): Account | undefined;
  /** Makes sure the account has a first commit. */
  settle(account: Account): void;
  carOf(account: Account): Uint8Array;
  documentOf(account: Account): object;
}

/** The did:web of a host's own name, with the port that only localhost may have (atproto spec: DID). */
export const webDidOf = (host: Host): string => `did:web:${encodeURIComponent(host.hostname)}`;

const DEFAULT_PAGE = 500;
const MAX_PAGE = 1000;

export const createHost = (index: number, windowEvents: number, counters: StreamCounters): Host => ({
  index,
  hostname: '',
  port: 0,
  stream: createStream(createMemoryStore(windowEvents), counters),
  accounts: [],
  departed: new Map(),
  refusing: false,
  slowMs: 0,
  server: null,
});

const failure = (status: number, error: string, message: string): Response =>
  Response.json({ error, message }, { status });

/** Each inactive status has its own error name (lexicon com.atproto.sync.getRepo). */
const INACTIVE_ERRORS: Record<string, string> = {
  deactivated: 'RepoDeactivated',
  suspended: 'RepoSuspended',
  takendown: 'RepoTakendown',
  deleted: 'RepoNotFound',
};

const websocket: WebSocketHandler<SocketData> = {
  perMessageDeflate: false,
  maxPayloadLength: 1024,
  sendPings: true,
  idleTimeout: 120,
  open: (socket) => socket.data.stream.open(socket),
  message: () => {},
  drain: (socket) => socket.data.stream.drain(socket),
  close: (socket) => socket.data.stream.closed(socket),
};

type Route = (host: Host, url: URL, around: HostSurroundings) => Response;

const accountAt = (host: Host, url: URL, around: HostSurroundings): Account | Response => {
  const did = url.searchParams.get('did') ?? url.searchParams.get('repo') ?? '';
  const account = around.find(did);
  if (account === undefined || account.hostIndex !== host.index) {
    return failure(400, 'RepoNotFound', `Could not find repo for DID: ${did}`);
  }
  return account;
};

const statusOf = (account: Account): { active: boolean; status?: string } =>
  account.status === 'active' ? { active: true } : { active: false, status: account.status };

const activeAt = (host: Host, url: URL, around: HostSurroundings): Account | Response => {
  const account = accountAt(host, url, around);
  if (account instanceof Response || account.status === 'active') return account;
  return failure(400, INACTIVE_ERRORS[account.status]!, `Repo is not available: ${account.status}`);
};

const routes: Record<string, Route> = {
  'com.atproto.server.describeServer': () =>
    Response.json({
      did: 'did:web:localhost',
      availableUserDomains: ['.test'],
      inviteCodeRequired: false,
    }),
  'com.atproto.sync.listRepos': (host, url, around) => {
    const limit = Math.min(MAX_PAGE, Math.max(1, Number(url.searchParams.get('limit') ?? DEFAULT_PAGE) || 1));
    const from = Number(url.searchParams.get('cursor') ?? 0) || 0;
    const repos = host.accounts.slice(from, from + limit).map((account) => {
      around.settle(account);
      return {
        did: account.did,
        head: cidText(account.commitDigest!),
        rev: account.rev,
        ...statusOf(account),
      };
    });
    const next = from + limit;
    return Response.json(next < host.accounts.length ? { repos, cursor: String(next) } : { repos });
  },
  'com.atproto.sync.getRepoStatus': (host, url, around) => {
    const did = url.searchParams.get('did') ?? '';
    if (host.departed.has(did) && around.find(did)?.hostIndex !== host.index) {
      return Response.json({ did, active: false, status: 'deactivated' });
    }
    const account = accountAt(host, url, around);
    if (account instanceof Response) return account;
    around.settle(account);
    const status = statusOf(account);
    return Response.json(status.active ? { did, ...status, rev: account.rev } : { did, ...status });
  },
  'com.atproto.sync.getLatestCommit': (host, url, around) => {
    const account = activeAt(host, url, around);
    if (account instanceof Response) return account;
    around.settle(account);
    return Response.json({ cid: cidText(account.commitDigest!), rev: account.rev });
  },
  'com.atproto.sync.getRepo': (host, url, around) => {
    const account = activeAt(host, url, around);
    if (account instanceof Response) return account;
    around.settle(account);
    return new Response(around.carOf(account) as Uint8Array<ArrayBuffer>, {
      headers: { 'content-type': 'application/vnd.ipld.car' },
    });
  },
  'com.atproto.repo.describeRepo': (host, url, around) => {
    const account = activeAt(host, url, around);
    if (account instanceof Response) return account;
    const collections = new Set<string>();
    walkLeaves(account.tree, (path) => collections.add(path.slice(0, path.indexOf('/'))));
    return Response.json({
      handle: account.handle,
      did: account.did,
      didDoc: {},
      collections: [...collections],
      handleIsCorrect: true,
    });
  },
};

const SUBSCRIBE = '/xrpc/com.atproto.sync.subscribeRepos';

/**
 * Ports of hosts that have none given: below the range that systems take for outgoing connections, so that a host that
 * stopped finds its port free when it starts again.
 */
const LOWEST_PORT = 12_000;
const PORTS = 18_000;
const PORT_TRIES = 100;

/** Starts the host on `port` (0: any) of localhost. Throws when the port is taken. */
export const startHost = (host: Host, port: number, around: HostSurroundings): void => {
  const handle = (request: Request, server: Server<SocketData>): Response | undefined => {
    if (host.refusing) return failure(503, 'ServiceUnavailable', 'The host refuses connections for now');
    const url = new URL(request.url);
    if (url.pathname === SUBSCRIBE) {
      const text = url.searchParams.get('cursor');
      const cursor = text === null ? null : Number(text);
      if (cursor !== null && !(Number.isSafeInteger(cursor) && cursor >= 0)) {
        return failure(400, 'InvalidRequest', 'cursor must be a whole number');
      }
      if (host.stream.subscribers.size >= MAX_SUBSCRIBERS) {
        return failure(429, 'RateLimitExceeded', 'too many subscribers');
      }
      const data: SocketData = { stream: host.stream, cursor, subscriber: null };
      if (server.upgrade(request, { data })) return undefined;
      return failure(426, 'UpgradeRequired', 'this endpoint speaks WebSocket only');
    }
    if (url.pathname === '/.well-known/did.json') {
      const account = around.find(webDidOf(host));
      if (account === undefined || account.tombstoned) return failure(404, 'NotFound', 'no such account');
      return Response.json(around.documentOf(account));
    }
    if (url.pathname === '/xrpc/_health') return Response.json({ version: 'simulator' });
    const route = url.pathname.startsWith('/xrpc/') ? routes[url.pathname.slice(6)] : undefined;
    if (route === undefined) return failure(404, 'MethodNotImplemented', 'no such method');
    return route(host, url, around);
  };
  const listen = (on: number): Server<SocketData> =>
    Bun.serve<SocketData>({
      port: on,
      hostname: 'localhost',
      websocket,
      fetch: (request, server) => {
        if (host.slowMs === 0) return handle(request, server);
        return Bun.sleep(host.slowMs).then(() => handle(request, server));
      },
    });
  host.server = port === 0 ? listenAnywhere(listen) : listen(port);
  host.port = host.server.port!;
  host.hostname = `localhost:${host.port}`;
};

const listenAnywhere = <T>(listen: (port: number) => T): T => {
  for (let tries = 1; ; tries++) {
    try {
      return listen(LOWEST_PORT + Math.floor(Math.random() * PORTS));
    } catch (error) {
      if (tries >= PORT_TRIES || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    }
  }
};

/** Cuts all connections and frees the port. */
export const stopHost = async (host: Host): Promise<void> => {
  const { server } = host;
  host.server = null;
  if (server !== null) await server.stop(true);
};
