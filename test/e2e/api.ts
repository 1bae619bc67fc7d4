/** weir's public sync API against what the PDSes say. */
import type { Account } from './account.ts';
import { firstFrame } from './consumers.ts';
import { freePort, type Network } from './network.ts';
import { must, type Steps, settle } from './steps.ts';
import type { Weir } from './target.ts';
import { send, xrpc } from './xrpc.ts';

export interface Population {
  readonly active: readonly Account[];
  readonly deactivated: Account;
  readonly deleted: Account;
}

interface ListedRepo {
  readonly did: string;
  readonly head: string;
  readonly rev: string;
  readonly active?: boolean;
  readonly status?: string;
}

const SYNC = 'com.atproto.sync';

/** All pages of listRepos; no page but the last may be empty. */
const listRepos = async (service: string, limit: number): Promise<ListedRepo[]> => {
  const all: ListedRepo[] = [];
  let cursor: string | undefined;
  do {
    const page: { repos: ListedRepo[]; cursor?: string } = await xrpc(service, `${SYNC}.listRepos`, {
      params: cursor === undefined ? { limit } : { limit, cursor },
    });
    must(
      page.repos.length > 0 || page.cursor === undefined,
      `an empty page before the end, at cursor ${cursor}`,
    );
    must(page.repos.length <= limit, `${page.repos.length} repos on a page of ${limit}`);
    all.push(...page.repos);
    must(all.length < 1000, 'the pages do not end');
    cursor = page.cursor;
  } while (cursor !== undefined);
  return all;
};

const refuses = async (service: string, nsid: string, did: string, errors: readonly string[]) => {
  const response = await send(service, nsid, { params: { did } });
  const text = await response.text();
  const { error } = JSON.parse(text) as { error?: string };
  must(
    response.status === 400 && errors.includes(error ?? ''),
    `${nsid} of ${did}: expected 400 ${errors.join(' or ')}, got ${response.status} ${text}`,
  );
};

/** Runs the checks as steps. The network must be at rest and weir caught up. */
export const checkApi = async (
  step: Steps['step'],
  weir: Weir,
  network: Network,
  { active, deactivated, deleted }: Population,
): Promise<void> => {
  await step('API: _health, Server header, CORS', async () => {
    for (const path of ['/_health', '/xrpc/_health']) {
      const response = await fetch(`${weir.url}${path}`);
      const { version } = (await response.json()) as { version?: string };
      must(
        response.status === 200 && typeof version === 'string',
        `${path}: ${response.status}, version ${version}`,
      );
      const server = response.headers.get('server') ?? '';
      must(server.includes('atproto-relay'), `${path}: Server header "${server}"`);
      const origin = response.headers.get('access-control-allow-origin');
      must(origin === '*', `${path}: Access-Control-Allow-Origin ${origin}`);
    }
    return undefined;
  });
  await step('API: getLatestCommit and getRepoStatus agree with the PDS', async () => {
    for (const account of active) {
      const params = { did: account.did };
      const truth = await xrpc<{ cid: string; rev: string }>(account.pds.url, `${SYNC}.getLatestCommit`, {
        params,
      });
      const ours = await xrpc<{ cid: string; rev: string }>(weir.url, `${SYNC}.getLatestCommit`, { params });
      must(
        ours.cid === truth.cid && ours.rev === truth.rev,
        `getLatestCommit of ${account.did}: ${JSON.stringify(ours)} instead of ${JSON.stringify(truth)}`,
      );
      const status = await xrpc<{ did: string; active: boolean; status?: string; rev?: string }>(
        weir.url,
        `${SYNC}.getRepoStatus`,
        { params },
      );
      must(
        status.did === account.did &&
          status.active === true &&
          status.status === undefined &&
          status.rev === truth.rev,
        `getRepoStatus of ${account.did}: ${JSON.stringify(status)}, rev at the PDS ${truth.rev}`,
      );
    }
    return `${active.length} accounts`;
  });
  await step('API: deactivated and deleted accounts are shown as such', async () => {
    for (const [account, status] of [
      [deactivated, 'deactivated'],
      [deleted, 'deleted'],
    ] as const) {
      const answer = await xrpc<{ active: boolean; status?: string }>(weir.url, `${SYNC}.getRepoStatus`, {
        params: { did: account.did },
      });
      must(
        answer.active === false && answer.status === status,
        `getRepoStatus of the ${status} account: ${JSON.stringify(answer)}`,
      );
    }
    for (const nsid of [`${SYNC}.getLatestCommit`, `${SYNC}.getRepo`]) {
      await refuses(weir.url, nsid, deactivated.did, ['RepoDeactivated']);
      await refuses(weir.url, nsid, deleted.did, ['RepoNotFound', 'RepoDeleted']);
    }
    await refuses(weir.url, `${SYNC}.getRepoStatus`, 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa', ['RepoNotFound']);
    return undefined;
  });
  await step('API: listRepos agrees with the PDSes, also one by one', async () => {
    const truth = new Map<string, ListedRepo>();
    for (const account of active) {
      const { cid, rev } = await xrpc<{ cid: string; rev: string }>(
        account.pds.url,
        `${SYNC}.getLatestCommit`,
        {
          params: { did: account.did },
        },
      );
      truth.set(account.did, { did: account.did, head: cid, rev });
    }
    const compare = async () => {
      for (const limit of [500, 3, 1]) {
        const listed = await listRepos(weir.url, limit);
        const dids = new Set(listed.map((repo) => repo.did));
        must(dids.size === listed.length, `limit ${limit}: ${listed.length - dids.size} repos twice`);
        for (const repo of listed) {
          const expected = truth.get(repo.did);
          if (expected === undefined) {
            const known = [deactivated.did, deleted.did].includes(repo.did);
            must(known && repo.active === false, `limit ${limit}: unexpected ${JSON.stringify(repo)}`);
          } else {
            must(
              repo.head === expected.head && repo.rev === expected.rev && repo.active === true,
              `limit ${limit}: ${JSON.stringify(repo)} instead of ${JSON.stringify(expected)}`,
            );
          }
        }
        for (const did of truth.keys()) must(dids.has(did), `limit ${limit}: ${did} is missing`);
      }
    };
    // The list comes from the database, which trails the log by up to one flush.
    await settle(
      () =>
        compare().then(
          () => null,
          (error: Error) => error.message,
        ),
      5000,
    );
    return `${truth.size} active repos`;
  });
  await step('API: getRepo redirects to the account’s PDS', async () => {
    for (const account of active) {
      const response = await send(weir.url, `${SYNC}.getRepo`, {
        params: { did: account.did, since: '3jui7kd54zh2y' },
      });
      const location = response.headers.get('location') ?? '';
      const wanted = new URL(
        `${account.pds.url}/xrpc/${SYNC}.getRepo?did=${account.did}&since=3jui7kd54zh2y`,
      );
      must(response.status === 302, `${account.did}: status ${response.status} ${await response.text()}`);
      const given = new URL(location);
      must(
        given.origin === wanted.origin &&
          given.pathname === wanted.pathname &&
          given.searchParams.get('did') === account.did &&
          given.searchParams.get('since') === '3jui7kd54zh2y',
        `${account.did}: Location ${location}, expected ${wanted}`,
      );
    }
    const followed = await fetch(`${weir.url}/xrpc/${SYNC}.getRepo?did=${active[0]!.did}`);
    const bytes = (await followed.arrayBuffer()).byteLength;
    must(followed.ok && bytes > 100, `followed: ${followed.status}, ${bytes} bytes`);
    return undefined;
  });
  await step('API: listHosts and getHostStatus know both PDSes', async () => {
    interface Host {
      readonly hostname: string;
      readonly seq?: number;
      readonly accountCount?: number;
      readonly status?: string;
    }
    const { hosts } = await xrpc<{ hosts: Host[] }>(weir.url, `${SYNC}.listHosts`);
    for (const pds of network.pds) {
      const listed = hosts.find((host) => host.hostname === pds.hostname);
      must(listed !== undefined, `${pds.hostname} is not in ${JSON.stringify(hosts)}`);
      must(listed.status === 'active' && (listed.seq ?? 0) > 0, `listHosts: ${JSON.stringify(listed)}`);
      const least = active.filter((account) => account.pds === pds).length;
      const most = least + (pds === network.pds[0] ? 2 : 0);
      const count = listed.accountCount ?? -1;
      must(
        count >= least && count <= most,
        `${pds.hostname}: accountCount ${count}, expected ${least} to ${most}`,
      );
      const status = await xrpc<Host>(weir.url, `${SYNC}.getHostStatus`, {
        params: { hostname: pds.hostname },
      });
      must(
        status.hostname === pds.hostname && status.status === 'active',
        `getHostStatus: ${JSON.stringify(status)}`,
      );
    }
    must(hosts.length === network.pds.length, `${hosts.length} hosts: ${JSON.stringify(hosts)}`);
    return undefined;
  });
  await step(
    'API: requestCrawl takes a known host, refuses an address, an unknown host and weir itself',
    async () => {
      const crawl = async (hostname: string) => {
        const response = await send(weir.url, `${SYNC}.requestCrawl`, { body: { hostname } });
        return `${response.status} ${await response.text()}`;
      };
      const known = await crawl(network.pds[0].hostname);
      must(known.startsWith('200'), `a known host: ${known}`);
      const unused = await freePort();
      for (const hostname of ['203.0.113.7', `localhost:${unused}`, `localhost:${new URL(weir.url).port}`]) {
        const answer = await crawl(hostname);
        must(answer.startsWith('400'), `${hostname}: expected 400, got ${answer}`);
      }
      return undefined;
    },
  );
  await step('a cursor from the future gets the error frame FutureCursor and a close with 1008', async () => {
    const { header, body, closeCode } = await firstFrame(weir.url, 2 ** 50);
    must(Bun.deepEquals(header, { op: -1 }), `header ${JSON.stringify(header)}`);
    must((body as { error?: string }).error === 'FutureCursor', `body ${JSON.stringify(body)}`);
    must(closeCode === 1008, `close code ${closeCode}`);
    return undefined;
  });
};
