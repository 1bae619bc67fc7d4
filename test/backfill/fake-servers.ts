/** Other relays, PDSes and a PLC directory that do as a test tells them, on ports of localhost. */
import { createHash } from 'node:crypto';
import { commitDigestOf } from '../../src/backfill/answers.ts';

/** A did:plc made of a number. */
export const didOf = (n: number): string => {
  const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';
  let text = '';
  const hash = createHash('sha256').update(String(n)).digest();
  for (let index = 0; index < 24; index++) text += alphabet[hash[index]! % 32]!;
  return `did:plc:${text}`;
};

/** The text of a commit's CID made of a number. */
export const cidOf = (n: number): string => {
  const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';
  const bytes = [0x01, 0x71, 0x12, 0x20, ...createHash('sha256').update(`cid ${n}`).digest()];
  let text = 'b';
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = (value << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += alphabet[(value >>> bits) & 31]!;
      value &= (1 << bits) - 1;
    }
  }
  if (bits > 0) text += alphabet[(value << (5 - bits)) & 31]!;
  if (commitDigestOf(text) === null) throw new Error(`${text} is not a CID`);
  return text;
};

/** Told of each request before it is answered; a response replaces the answer. */
export type Fault = (url: URL, nth: number) => Response | null | Promise<Response | null>;

export interface FakeServer {
  readonly url: string;
  /** localhost:PORT */
  readonly hostname: string;
  readonly requests: { readonly path: string; readonly query: URLSearchParams }[];
  fault: Fault | null;
  stop(): Promise<void>;
}

const serve = (answer: (url: URL) => Response): FakeServer => {
  const requests: { path: string; query: URLSearchParams }[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: 'localhost',
    idleTimeout: 60,
    fetch: async (request) => {
      const url = new URL(request.url);
      requests.push({ path: url.pathname, query: url.searchParams });
      return (await fake.fault?.(url, requests.length)) ?? answer(url);
    },
  });
  const fake: FakeServer = {
    url: `http://localhost:${server.port}`,
    hostname: `localhost:${server.port}`,
    requests,
    fault: null,
    stop: async () => {
      await server.stop(true);
    },
  };
  return fake;
};

const xrpcError = (status: number, error: string): Response =>
  Response.json({ error, message: error }, { status });

/** A relay with an index: collection → DIDs in the order of the index. */
export const fakeRelay = (
  collections: ReadonlyMap<string, readonly string[]>,
  options: { readonly counts?: boolean; readonly maxLimit?: number } = {},
): FakeServer =>
  serve((url) => {
    if (url.pathname === '/v1/listCollections' && options.counts !== false) {
      const limit = Number(url.searchParams.get('limit') ?? 50);
      const names = [...collections.keys()].sort();
      const from = url.searchParams.has('cursor') ? names.indexOf(url.searchParams.get('cursor')!) + 1 : 0;
      const some = names.slice(from, from + limit);
      return Response.json({
        collections: Object.fromEntries(some.map((name) => [name, collections.get(name)!.length])),
        cursor: from + limit < names.length ? some[some.length - 1] : '',
      });
    }
    if (url.pathname !== '/xrpc/com.atproto.sync.listReposByCollection') return xrpcError(404, 'NotFound');
    const limit = Number(url.searchParams.get('limit') ?? 500);
    if (limit > 1_000) return xrpcError(400, 'InvalidRequest');
    const dids = collections.get(url.searchParams.get('collection') ?? '') ?? [];
    const from = Number(url.searchParams.get('cursor') ?? 0);
    const to = from + Math.min(limit, options.maxLimit ?? limit);
    const repos = dids.slice(from, to).map((did) => ({ did }));
    return Response.json(to < dids.length ? { repos, cursor: String(to) } : { repos });
  });

export interface FakeRepo {
  readonly did: string;
  collections: readonly string[];
  /** null = active. */
  status: string | null;
  rev?: string;
  car?: Uint8Array;
}

/** A PDS with some repos. */
export const fakePds = (repos: FakeRepo[], options: { readonly describes?: boolean } = {}): FakeServer =>
  serve((url) => {
    const method = url.pathname.slice('/xrpc/'.length);
    if (method === 'com.atproto.sync.listRepos') {
      const limit = Number(url.searchParams.get('limit') ?? 500);
      const from = Number(url.searchParams.get('cursor') ?? 0);
      const some = repos.slice(from, from + limit).map((repo, index) => ({
        did: repo.did,
        head: cidOf(from + index),
        rev: repo.rev ?? '3kabcdefgh222',
        active: repo.status === null,
        ...(repo.status === null ? {} : { status: repo.status }),
      }));
      return Response.json(
        from + limit < repos.length ? { repos: some, cursor: String(from + limit) } : { repos: some },
      );
    }
    const did = url.searchParams.get('repo') ?? url.searchParams.get('did');
    const repo = repos.find((one) => one.did === did);
    if (method === 'com.atproto.repo.describeRepo' && options.describes === false)
      return xrpcError(501, 'MethodNotImplemented');
    if (repo === undefined) return xrpcError(400, 'RepoNotFound');
    if (method === 'com.atproto.sync.getRepoStatus')
      return Response.json({
        did,
        active: repo.status === null,
        ...(repo.status === null ? {} : { status: repo.status }),
      });
    if (repo.status !== null)
      return xrpcError(400, `Repo${repo.status[0]!.toUpperCase()}${repo.status.slice(1)}`);
    if (method === 'com.atproto.repo.describeRepo')
      return Response.json({
        did,
        handle: 'a.test',
        didDoc: {},
        collections: repo.collections,
        handleIsCorrect: true,
      });
    if (method === 'com.atproto.sync.getRepo' && repo.car !== undefined)
      return new Response(repo.car as Uint8Array<ArrayBuffer>);
    return xrpcError(404, 'MethodNotImplemented');
  });

/** A PLC directory: DID → PDS, or 'tombstoned'. */
export const fakeDirectory = (pdsOf: ReadonlyMap<string, string>): FakeServer =>
  serve((url) => {
    const did = decodeURIComponent(url.pathname.slice(1));
    const pds = pdsOf.get(did);
    if (pds === undefined) return Response.json({ message: 'DID not registered' }, { status: 404 });
    if (pds === 'tombstoned') return Response.json({ message: 'DID not available' }, { status: 410 });
    return Response.json({
      '@context': ['https://www.w3.org/ns/did/v1'],
      id: did,
      alsoKnownAs: ['at://a.test'],
      verificationMethod: [
        {
          id: `${did}#atproto`,
          type: 'Multikey',
          controller: did,
          publicKeyMultibase: 'zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme',
        },
      ],
      service: [{ id: '#atproto_pds', type: 'AtprotoPersonalDataServer', serviceEndpoint: pds }],
    });
  });
