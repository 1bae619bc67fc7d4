/**
 * Import from PDSes: one source per host, page by page of its listRepos, then each repo's own answer.
 *
 * Who may say what: a host speaks for the accounts whose DID documents name it. Hosts that the operator trusts are
 * believed about active accounts that the relay does not know at another host, which spares the directory millions of
 * questions; everything else is looked up, so that no host can add, hide or describe another's accounts. And whatever
 * a host says, what the relay itself holds against an account, or has no room for, is not listed.
 * Source: the lexicon com.atproto.sync.listRepos.
 */
import { parseHostEntry } from '../../hosts/crawl.ts';
import { hostGroup } from '../../network/politeness.ts';
import { type ListedPage, type ListedRepo, parseListedPage } from '../answers.ts';
import { type Asker, hostUrl } from '../ask.ts';
import { hiddenAs, type KnownAccount } from '../known-accounts.ts';
import type { ListedAccount } from '../listed-accounts.ts';
import { watchPaging } from '../paging.ts';
import { type BackfillFailure, failed } from '../reasons.ts';
import { hiddenReason } from '../repos.ts';
import { PlanError, type ReadingDeps, readRepoIntoIndex, type Sources } from '../run.ts';
import { addCounters, type BackfillTask, countFailure, noCounters } from '../types.ts';

/** Repos per page: what a kill lets be asked again. A page of 1,000 takes minutes at a polite pace. */
const PAGE_LIMIT = 200;
/** Repos per page where they are only counted, and pages: a host has half a million. */
const COUNT_LIMIT = 1_000;
const MAX_COUNT_PAGES = 2_000;
const MAX_PAGE_BYTES = 2 * 1024 * 1024;
const TIMEOUT_MS = 30_000;
/** Hosts under way: the network has thousands, and most are slow rather than busy. */
const MAX_ACTIVE = 48;
/** Of hosts behind one rate limit, more at once would only wait for each other. */
const MAX_PER_GROUP = 4;
/** Repos of one host at once; the group's own bound is over all its hosts. */
const MAX_REPOS_PER_HOST = 8;
/**
 * So many of a page fail one after the other: it is the host that fails. Later, when waiting has not helped: some of
 * its repos do, and those that go well should not wait for them.
 */
const HOST_FAILS_AFTER = 5;
const HOST_FAILS_AFTER_LATER = 100;
const LATER_ATTEMPTS = 2;

/** So many of a page cannot be looked up: it is the directory that fails, and the page is read again later. */
const UNRESOLVED_MOST = 20;

/** A host as the relay's table has it. */
export interface KnownHost {
  readonly hostname: string;
  /** null: the relay does not know it; its accounts have no place in the account list. */
  readonly hostId: number | null;
  readonly accountCount: number;
  readonly trusted: boolean;
  /** How many accounts the relay would take from it. */
  readonly accountLimit: number;
}

export interface HostDeps extends ReadingDeps {
  readonly ask: Asker;
  /** All that may be asked: neither banned nor under a domain ban. */
  readonly knownHosts: () => Promise<readonly KnownHost[]>;
  readonly isTrusted: (hostname: string) => boolean;
  /** Accounts of a host in the account list. */
  readonly countAccounts: (hostId: number) => Promise<number>;
  /** Writes listed accounts; null: not this time. */
  readonly writeAccounts: (rows: readonly ListedAccount[]) => Promise<number | null>;
  readonly allowInsecure: boolean;
  readonly nowMs: () => number;
  readonly notice: (line: string) => void;
}

export const hostSources = (spec: Extract<BackfillTask, { kind: 'hosts' }>, deps: HostDeps): Sources => {
  const { index, repos } = deps;
  let hosts: Map<string, KnownHost> | null = null;

  const hostOf = async (hostname: string): Promise<KnownHost> => {
    hosts ??= new Map((await deps.knownHosts()).map((host) => [host.hostname, host]));
    return (
      hosts.get(hostname) ?? {
        hostname,
        hostId: null,
        accountCount: 0,
        trusted: deps.isTrusted(hostname),
        accountLimit: 0,
      }
    );
  };

  /** Without those that would be over the host's account limit; the relay would throttle them. */
  const admitted = async (
    { hostId, accountLimit }: KnownHost,
    own: readonly OwnRepo[],
    known: ReadonlyMap<string, KnownAccount>,
  ): Promise<readonly OwnRepo[]> => {
    const isHere = ({ did }: OwnRepo): boolean => known.get(did)?.hostId === hostId;
    if (hostId === null || own.every(isHere)) return own;
    let room = accountLimit - (await deps.countAccounts(hostId));
    return own.filter((repo) => isHere(repo) || room-- > 0);
  };

  const list = async (
    host: KnownHost,
    cursor: string | null,
    limit: number,
  ): Promise<ListedPage | BackfillFailure> => {
    const query = new URLSearchParams({ limit: String(limit) });
    if (cursor !== null) query.set('cursor', cursor);
    const answer = await deps.ask.get({
      url: `${hostUrl(host.hostname, deps.allowInsecure)}/xrpc/com.atproto.sync.listRepos?${query}`,
      timeoutMs: TIMEOUT_MS,
      maxBytes: MAX_PAGE_BYTES,
    });
    if (!answer.ok) return answer;
    return (
      parseListedPage(answer.body, { allowInsecure: deps.allowInsecure, nowMs: deps.nowMs() }) ??
      failed('bad_answer', 'not a listRepos answer')
    );
  };

  /**
   * How many repos the host lists, for the time left: one request for a thousand that are read one by one. Where the
   * list breaks off, those counted so far.
   */
  const countFrom = async (host: KnownHost, first: ListedPage, before: number): Promise<number> => {
    let total = before + first.repos.length;
    let { cursor } = first;
    const watch = watchPaging(cursor);
    for (let pages = 1; cursor !== null && pages <= MAX_COUNT_PAGES; pages++) {
      const page = await list(host, cursor, COUNT_LIMIT);
      if ('ok' in page || watch.judge(page.cursor, page.repos.length, pages) !== null) break;
      total += page.repos.length;
      cursor = page.cursor;
    }
    return total;
  };

  type Judged =
    | { readonly kind: 'its_own' }
    | { readonly kind: 'gone' }
    | { readonly kind: 'not_its_own'; readonly failure: BackfillFailure };

  const judge = async (
    host: KnownHost,
    repo: ListedRepo,
    known: KnownAccount | undefined,
  ): Promise<Judged> => {
    const isElsewhere = known !== undefined && known.hostId !== host.hostId;
    if (host.trusted && repo.status === null && !isElsewhere) return { kind: 'its_own' };
    const located = await repos.locate(repo.did);
    if (!located.ok) return { kind: 'not_its_own', failure: located };
    if (!('hostname' in located)) return { kind: 'gone' };
    return located.hostname === host.hostname
      ? { kind: 'its_own' }
      : { kind: 'not_its_own', failure: failed('wrong_host', 'its DID document names another host') };
  };

  return {
    maxActive: MAX_ACTIVE,
    maxPerGroup: MAX_PER_GROUP,

    async plan() {
      const known = await deps.knownHosts();
      if (spec.hosts.length === 0 && known.length === 0)
        throw new PlanError('the relay knows no hosts yet: let it run first, or name some');
      const names =
        spec.hosts.length > 0
          ? spec.hosts.map((text) => {
              const entry = parseHostEntry(text, deps.allowInsecure);
              if (!entry.ok) throw new PlanError(`${text}: ${entry.error}`);
              return entry.hostname;
            })
          : known.map(({ hostname }) => hostname);
      const counts = new Map(known.map((host) => [host.hostname, host.accountCount]));
      const sources = names.map((name) => {
        const total = counts.get(name) ?? 0;
        return { name, group: hostGroup(name), total: total > 0 ? total : null };
      });
      return { sources, repos: [] };
    },

    async readPage(source, report) {
      const host = await hostOf(source.name);
      const page = await list(host, source.cursor, PAGE_LIMIT);
      if ('ok' in page) return page;
      // The relay knows what the upstream counted, or those it has heard of; the host knows all. Beside the reading,
      // where what stops or breaks the counting shows as well.
      if (source.pages === 0 || source.total === null)
        countFrom(host, page, source.done).then(report.total, () => {});

      const counters = noCounters();
      counters.invalid = page.invalid;
      const failures: { did: string; failure: BackfillFailure }[] = [];
      const known = await deps.knownAccounts(page.repos.map(({ did }) => did));
      const found: OwnRepo[] = [];
      let unresolved = 0;
      await inParallel(page.repos, async (repo) => {
        const judged = await judge(host, repo, known.get(repo.did));
        if (judged.kind === 'not_its_own' && judged.failure.reason === 'did_unresolved') unresolved++;
        if (judged.kind !== 'not_its_own') {
          found.push({ ...repo, status: judged.kind === 'gone' ? 'deleted' : repo.status });
        } else if (judged.failure.reason !== 'wrong_host') {
          failures.push({ did: repo.did, failure: judged.failure });
        } else if (repo.status === null) {
          // A foreign account is no trouble of ours: counted, and not tried again. One that has moved away is still
          // listed, as deactivated: that is how it should be.
          countFailure(counters, 'wrong_host');
        }
        if (judged.kind !== 'its_own' || repo.status !== null) report.entryDone();
        return unresolved < UNRESOLVED_MOST;
      });
      if (unresolved >= UNRESOLVED_MOST) return failed('did_unresolved', 'the directory does not answer');
      const own = await admitted(host, found, known);
      const left = found.length - own.length;
      if (left > 0) {
        countFailure(counters, 'account_limit', left);
        for (const repo of found) if (repo.status === null && !own.includes(repo)) report.entryDone();
      }
      // Before the repos are asked: what they answer is newer than the list. The relay's own word first, then it stands.
      const held = own.flatMap(({ did }) => hiddenAs(did, known)).filter(({ isTold }) => isTold);
      await index.setStatus([
        ...held,
        ...own.map(({ did, status }) => ({
          did,
          status: status === null ? null : hiddenReason(status),
          hostId: host.hostId ?? 0,
        })),
      ]);
      counters.hidden += own.filter(({ status }) => status !== null).length;

      const most = source.attempts < LATER_ATTEMPTS ? HOST_FAILS_AFTER : HOST_FAILS_AFTER_LATER;
      const place = { hostname: host.hostname, hostId: host.hostId ?? 0 };
      let failedInRow = 0;
      let hostFails: BackfillFailure | null = null as BackfillFailure | null;
      await inParallel(
        own.filter(({ status }) => status === null),
        async ({ did }) => {
          const result = await readRepoIntoIndex(deps, did, place);
          report.entryDone();
          if (!('ok' in result)) {
            addCounters(counters, result);
            failedInRow = 0;
            return true;
          }
          failures.push({ did, failure: result });
          failedInRow = HOST_TROUBLES.has(result.reason) ? failedInRow + 1 : 0;
          if (failedInRow >= most) hostFails = result;
          return hostFails === null;
        },
      );
      // The page is read again when the host is well; what was read of it is in the index and costs nothing twice.
      if (hostFails !== null) return hostFails;
      const written = await deps.writeAccounts(listedOf(host, own));
      if (written === null)
        deps.notice(`${host.hostname}: the account list was busy; a page of it was left out`);
      else counters.accounts = written;
      return { ok: true, cursor: page.cursor, entries: page.repos.length, counters, failures };
    },
  };
};

/** An account that the host speaks for; `status` as it is now. */
type OwnRepo = ListedRepo;

/** Does `work` for all, several at once, until one says false. */
const inParallel = async <T>(items: readonly T[], work: (item: T) => Promise<boolean>): Promise<void> => {
  let next = 0;
  let goesOn = true;
  const worker = async (): Promise<void> => {
    while (next < items.length && goesOn) if (!(await work(items[next++]!))) goesOn = false;
  };
  await Promise.all(Array.from({ length: MAX_REPOS_PER_HOST }, worker));
};

/** What of a page can stand in the account list. */
const listedOf = (host: KnownHost, own: readonly OwnRepo[]): ListedAccount[] =>
  own.flatMap(({ did, status, rev, commit }) =>
    host.hostId === null || rev === null || commit === null
      ? []
      : [{ did, hostId: host.hostId, status, rev, commit }],
  );

const HOST_TROUBLES: ReadonlySet<string> = new Set([
  'timeout',
  'unreachable',
  'rate_limited',
  'http_server_error',
  'bad_answer',
  'bad_redirect',
  'bad_encoding',
  'forbidden_address',
  'not_supported',
]);
