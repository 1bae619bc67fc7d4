/**
 * `bun run backfill`: composes a run out of the settings, works until it ends, and says how it went. May run beside
 * a relay on the same data directory, and be killed at any moment.
 */
import { SERVER_HEADER } from '../api/version.ts';
import { collectionsPath } from '../collections/collections.ts';
import { openCollectionReader } from '../collections/store/reader.ts';
import { openCollectionWriter } from '../collections/writer.ts';
import { type Config, readConfig } from '../config.ts';
import { accountLimitFor, isTrusted } from '../hosts/limits.ts';
import { createResolver } from '../identity/resolver.ts';
import type { IdentityResult } from '../identity/types.ts';
import { systemClock } from '../network/clock.ts';
import { type GuardedFetch, guardedFetch } from '../network/fetch.ts';
import { createPoliteness } from '../network/politeness.ts';
import { k256 } from '../repo/k256.ts';
import {
  BACKFILL_LOCK,
  createWriter,
  DatabaseInUseError,
  type Pool,
  type Writer,
} from '../state/connections.ts';
import type { StateLog } from '../state/embedded.ts';
import type { HostSource } from '../state/types.ts';
import { createAsker, StoppedError } from './ask.ts';
import { type BackfillDatabase, openBackfillDatabase } from './database.ts';
import { type BackfillIndex, backfillIndex } from './index-port.ts';
import { createKnownAccounts } from './known-accounts.ts';
import { writeListedAccounts } from './listed-accounts.ts';
import {
  BACKFILL_HELP,
  type Command,
  DEFAULT_REQUESTS_PER_WINDOW,
  parseCommand,
  specOf,
  WishError,
  type WishReader,
} from './options.ts';
import {
  cancelIdleRun,
  createProgress,
  isBackfillRunning,
  type Progress,
  readStatus,
  wantOfRun,
} from './progress.ts';
import { createRepoReader } from './repos.ts';
import { PlanError, type ReadingDeps, type RunEnd, type Sources, startRun } from './run.ts';
import { hostSources, type KnownHost } from './sources/hosts.ts';
import { relaySources } from './sources/relay.ts';
import { verifySources } from './sources/verify.ts';
import { createRates, line, type Shown, screen, summary } from './terminal.ts';
import type { RunRow } from './types.ts';

/** Requests of one group at once. */
const CONCURRENT_PER_GROUP = 8;
/** The PLC directory answers all relays of the network: well below what the relay itself may ask at once. */
const PLC_CONCURRENT = 8;
const PLC_REQUESTS_PER_WINDOW = 15_000;
const LOCK_WAIT_MS = 2_000;
const RESUMED_LOCK_WAIT_MS = 30_000;
/** A relay that restarts takes the embedded database with it for some seconds. */
const DATABASE_GONE_MS = 3 * 60_000;
const DATABASE_RETRY_MS = 3_000;
const SCREEN_EVERY_MS = 500;
const LINE_EVERY_MS = 60_000;
/** Rates are of the last half minute, so they are looked at more often than told. */
const LOOK_EVERY_MS = 5_000;
const MAX_NOTICES = 4;
const LIST_TIMEOUT_MS = 60_000;
const HOST_IDS_AGAIN_MS = 60_000;
/** How long `--cancel` waits for the process that works on the run. */
const OBEY_WAIT_MS = 15_000;

/** What is told apart for tests. */
export interface BackfillParts {
  readonly openIndex: (config: Config) => Promise<BackfillIndex>;
  readonly fetch?: GuardedFetch;
  readonly environment?: Readonly<Record<string, string | undefined>>;
  readonly sourceRetryMs?: readonly number[];
  readonly repoRetryMs?: readonly number[];
  readonly maxTimeoutMs?: number;
}

/** The index of the data directory, to be written beside whoever else writes it. */
export const openIndexOf = async (config: Config): Promise<BackfillIndex> => {
  const path = collectionsPath(config.dataDir);
  const writer = await openCollectionWriter(path);
  return backfillIndex(writer, openCollectionReader(path));
};

/** Runs the command; the answer is the exit code. */
export const backfillCommand = async (
  args: readonly string[],
  out: (line: string) => void,
  parts: BackfillParts = { openIndex: openIndexOf },
): Promise<number> => {
  const parsed = parseCommand(args);
  if (!parsed.ok) {
    process.stderr.write(`${parsed.message}\n`);
    return 2;
  }
  if (parsed.command.kind === 'help') {
    out(BACKFILL_HELP);
    return 0;
  }
  const config = readConfig(parts.environment ?? process.env);
  const say = (text: string): void => {
    process.stderr.write(`${text}\n`);
  };
  const log: StateLog = (level, message) => {
    if (level === 'warn' || level === 'error') say(message);
  };
  let database: BackfillDatabase;
  try {
    // Without it no identity could be read.
    k256();
    database = await openBackfillDatabase(config, log);
  } catch (error) {
    say(messageOf(error));
    return 1;
  }
  const session: Session = {
    config,
    parts,
    out,
    say,
    log,
    database,
    requestsPerWindow: parsed.requestsPerWindow,
    supervised: parsed.supervised,
  };
  try {
    return await obey(session, parsed.command);
  } catch (error) {
    if (!(error instanceof WishError || error instanceof PlanError || error instanceof DatabaseInUseError))
      throw error;
    say(error.message);
    return error instanceof WishError ? 2 : 1;
  } finally {
    await session.database.close().catch(() => {});
  }
};

interface Session {
  readonly config: Config;
  readonly parts: BackfillParts;
  readonly out: (line: string) => void;
  readonly say: (line: string) => void;
  readonly log: StateLog;
  /** Replaced when it was lost. */
  database: BackfillDatabase;
  /** Of the command line; null = as the run has it. */
  readonly requestsPerWindow: number | null;
  readonly supervised: boolean;
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const obey = async (session: Session, command: Command): Promise<number> => {
  const { out, database } = session;
  switch (command.kind) {
    case 'help':
      return 0;
    case 'status': {
      const status = await readStatus(database.pool.query);
      for (const text of status === null
        ? ['there was no backfill yet; see --help']
        : summary(status, Date.now()))
        out(text);
      return 0;
    }
    case 'pause':
    case 'cancel':
      return end(session, command.kind);
    case 'start':
    case 'resume':
    case 'retry':
      return work(session, command);
  }
};

/** Has the process that works on the run end it; or ends it when there is none. */
const end = async ({ database, out }: Session, wanted: 'pause' | 'cancel'): Promise<number> => {
  const { query } = database.pool;
  if (await isBackfillRunning(query)) {
    const runId = await wantOfRun(query, wanted);
    const untilMs = performance.now() + OBEY_WAIT_MS;
    while (runId !== null && (await isBackfillRunning(query)) && performance.now() < untilMs)
      await Bun.sleep(200);
  } else if (wanted === 'cancel') await cancelIdleRun(query, Date.now());
  const status = await readStatus(query);
  if (status === null) {
    out('there was no backfill yet');
    return 1;
  }
  for (const text of summary(status, Date.now())) out(text);
  return 0;
};

/** A run in this process, over as many connections to the database as it takes. */
const work = async (session: Session, command: Command): Promise<number> => {
  const { out, say, config, parts } = session;
  const stopping = new AbortController();
  const release = onStop(stopping, session.supervised);
  let goneSinceMs: number | null = null;
  let begun: Command = command;
  try {
    for (;;) {
      const writer = createWriter(
        session.database.address,
        session.log,
        begun === command ? LOCK_WAIT_MS : RESUMED_LOCK_WAIT_MS,
        BACKFILL_LOCK,
      );
      try {
        const progress = createProgress(writer);
        const run = await chooseRun(session, begun, progress);
        if (run === null) return 2;
        // From here on, whatever happens to the connection, it is this run that goes on.
        begun = { kind: 'resume' };
        const index = await parts.openIndex(config);
        try {
          await workOn(session, run, progress, writer, index, stopping.signal);
          goneSinceMs = null;
          const status = await readStatus(session.database.pool.query);
          if (status !== null) for (const text of summary(status, Date.now())) out(text);
          return 0;
        } finally {
          await index.close();
        }
      } catch (error) {
        if (!isDatabaseTrouble(error) || stopping.signal.aborted || session.database.isOurs) throw error;
        goneSinceMs ??= performance.now();
        if (performance.now() - goneSinceMs > DATABASE_GONE_MS) {
          say(`the database is away (${messageOf(error)}); go on later with: bun run backfill`);
          return 1;
        }
        say(`the database is away (${messageOf(error)}); waiting for it`);
      } finally {
        await writer.close().catch(() => {});
      }
      if (!(await reconnect(session, stopping.signal))) {
        say('stopped; go on later with: bun run backfill');
        return 1;
      }
    }
  } finally {
    release();
  }
};

/** Waits for the database to be back. False: asked to stop, or it stays away. */
const reconnect = async (session: Session, signal: AbortSignal): Promise<boolean> => {
  await session.database.pool.close().catch(() => {});
  const untilMs = performance.now() + DATABASE_GONE_MS;
  while (!signal.aborted && performance.now() < untilMs) {
    await Bun.sleep(DATABASE_RETRY_MS);
    try {
      // Never starts it: the relay that owns it may be restarting, and would find it taken.
      session.database = await openBackfillDatabase(session.config, session.log, false);
      return true;
    } catch {
      // Not yet.
    }
  }
  return false;
};

/** PostgreSQL that is gone, restarting, or unreachable: its own words, the driver's, or the system's. */
const isDatabaseTrouble = (error: unknown): boolean => {
  if (error instanceof DatabaseInUseError) return false;
  const { name, code } = error as { name?: string; code?: unknown };
  if (name === 'ConnectionLostError' || (error as Error).constructor.name === 'ConnectionLostError')
    return true;
  return typeof code === 'string' && /^(08|57P|ECONN|ENOENT|EPIPE|CONNECTION_|CONNECT_TIMEOUT)/.test(code);
};

const chooseRun = async (session: Session, command: Command, progress: Progress): Promise<RunRow | null> => {
  const unfinished = await progress.unfinished();
  if (command.kind === 'start') {
    if (unfinished !== null)
      throw new WishError(
        `backfill ${unfinished.runId} has not ended: \`bun run backfill\` goes on with it, \`bun run backfill --cancel\` ends it`,
      );
    const spec = await specOf(command.wish, wishReader(session));
    const { requestsPerWindow } = session;
    return progress.create(
      requestsPerWindow === null ? spec : { ...spec, requestsPerWindow },
      'terminal',
      Date.now(),
    );
  }
  if (command.kind === 'retry') {
    const last = unfinished ?? (await progress.last());
    if (last === null || (await progress.retryFailed(last.runId, Date.now())) === 0) {
      session.say('nothing of the last backfill was given up');
      if (unfinished === null) return null;
    }
    return progress.unfinished();
  }
  if (unfinished === null) session.say(`there is no backfill to go on with\n\n${BACKFILL_HELP}`);
  return unfinished;
};

const wishReader = ({ config, parts, say }: Session): WishReader => ({
  allowInsecure: config.allowInsecureHosts,
  notice: say,
  async file(name, maxBytes) {
    const file = Bun.file(name);
    if (!(await file.exists())) return null;
    if (file.size > maxBytes) throw new WishError(`${name} has more than ${maxBytes} bytes`);
    return file.text();
  },
  async url(url, maxBytes) {
    const answer = await (parts.fetch ?? guardedFetch)(url, {
      timeoutMs: LIST_TIMEOUT_MS,
      maxBytes,
      allowPrivateAddresses: config.allowInsecureHosts || 'named_origin',
      redirects: 3,
      userAgent: SERVER_HEADER,
    });
    if (!answer.ok) throw new WishError(`${url}: ${answer.kind} (${answer.detail})`);
    if (answer.status !== 200) throw new WishError(`${url}: HTTP status ${answer.status}`);
    return new TextDecoder().decode(answer.body);
  },
});

/** Ctrl-C, SIGTERM, and for a supervised process the end of its supervisor. Twice: at once. */
const onStop = (stopping: AbortController, supervised: boolean): (() => void) => {
  let firstAtMs: number | null = null;
  const onSignal = (): void => {
    // `bun run` passes a Ctrl-C on that the terminal has sent already.
    if (firstAtMs !== null && performance.now() - firstAtMs > 1_000) process.exit(130);
    firstAtMs ??= performance.now();
    stopping.abort();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  if (supervised) {
    process.stdin.on('end', () => stopping.abort());
    process.stdin.on('error', () => stopping.abort());
    process.stdin.resume();
  }
  return () => {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    if (supervised) process.stdin.destroy();
  };
};

const workOn = async (
  session: Session,
  run: RunRow,
  progress: Progress,
  writer: Writer,
  index: BackfillIndex,
  asked: AbortSignal,
): Promise<RunEnd> => {
  const { config, parts, out } = session;
  const stopper = new AbortController();
  const stop = (): void => stopper.abort();
  if (asked.aborted) stop();
  asked.addEventListener('abort', stop, { once: true });
  const { signal } = stopper;
  const nowMs = (): number => Date.now();
  const fetch = parts.fetch ?? guardedFetch;
  const notices: string[] = [];
  const isTerminal = process.stdout.isTTY === true && !session.supervised;
  const notice = (text: string): void => {
    if (!isTerminal) out(text);
    notices.push(text);
    if (notices.length > MAX_NOTICES) notices.shift();
  };

  const politeness = createPoliteness({
    maxConcurrentPerGroup: CONCURRENT_PER_GROUP,
    requestsPerWindow: session.requestsPerWindow ?? run.spec.requestsPerWindow ?? DEFAULT_REQUESTS_PER_WINDOW,
    nowMs,
    sleep: Bun.sleep,
  });
  const directoryPoliteness = createPoliteness({
    groupOf: () => 'directory',
    maxConcurrentPerGroup: PLC_CONCURRENT,
    requestsPerWindow: PLC_REQUESTS_PER_WINDOW,
    nowMs,
    sleep: Bun.sleep,
  });
  const resolver = createResolver({
    plcUrl: config.plcUrl,
    allowInsecure: config.allowInsecureHosts,
    userAgent: SERVER_HEADER,
  });
  const resolve = async (did: string): Promise<IdentityResult> => {
    const outcome = await directoryPoliteness.run('directory', signal, async () => ({
      ok: true,
      result: await resolver.resolve(did, { forHost: 'backfill' }),
    }));
    if (outcome.ok) return outcome.answer.result;
    if (outcome.why === 'aborted') throw new StoppedError();
    return { ok: false, passing: true, reason: 'did_unresolved', detail: 'too many questions wait' };
  };
  const ask = createAsker({
    fetch,
    politeness,
    signal,
    userAgent: SERVER_HEADER,
    allowPrivateAddresses: config.allowInsecureHosts,
    ...(parts.maxTimeoutMs === undefined ? {} : { maxTimeoutMs: parts.maxTimeoutMs }),
  });
  const repos = createRepoReader({ ask, resolve, signal, allowInsecure: config.allowInsecureHosts, nowMs });
  const { query } = session.database.pool;
  const reading: ReadingDeps = {
    index,
    repos,
    knownAccounts: createKnownAccounts(query),
    hostIdOf: createHostIds(query, nowMs),
  };
  const sources = sourcesOf(run, { ...reading, session, ask, writer, notice });
  const running = startRun(run, {
    ...reading,
    progress,
    sources,
    clock: systemClock,
    random: Math.random,
    signal,
    stop,
    notice,
    ...(parts.sourceRetryMs === undefined ? {} : { sourceRetryMs: parts.sourceRetryMs }),
    ...(parts.repoRetryMs === undefined ? {} : { repoRetryMs: parts.repoRetryMs }),
  });
  const startedAtMs = nowMs();
  const rates = createRates();
  const hide = show(isTerminal, out, () => ({
    runId: run.runId,
    spec: run.spec,
    view: running.view,
    groups: politeness.groups(20),
    startedAtMs,
    nowMs: nowMs(),
    rates,
    notices,
  }));
  try {
    return await running.ended;
  } finally {
    hide();
    asked.removeEventListener('abort', stop);
    resolver.close();
  }
};

/** Keeps the terminal, or the log, up to date. Returns what ends it. */
const show = (isTerminal: boolean, out: (line: string) => void, shown: () => Shown): (() => void) => {
  if (!isTerminal) {
    let looks = 0;
    const timer = setInterval(() => {
      const text = line(shown());
      if ((++looks * LOOK_EVERY_MS) % LINE_EVERY_MS === 0) out(text);
    }, LOOK_EVERY_MS);
    return () => clearInterval(timer);
  }
  let height = 0;
  const draw = (): void => {
    const { columns = 100, rows = 30 } = process.stdout;
    const lines = screen(shown(), columns).slice(0, Math.max(1, rows - 1));
    const up = height > 0 ? `\u001b[${height}A` : '';
    process.stdout.write(`${up}\u001b[J${lines.join('\n')}\n`);
    height = lines.length;
  };
  draw();
  const timer = setInterval(draw, SCREEN_EVERY_MS);
  return () => {
    clearInterval(timer);
    draw();
  };
};

const sourcesOf = (
  { spec }: RunRow,
  deps: ReadingDeps & {
    readonly session: Session;
    readonly ask: ReturnType<typeof createAsker>;
    readonly writer: Writer;
    readonly notice: (line: string) => void;
  },
): Sources => {
  const { config } = deps.session;
  const allowInsecure = config.allowInsecureHosts;
  const { query } = deps.session.database.pool;
  switch (spec.kind) {
    case 'relay':
      return relaySources(spec, { ...deps, allowInsecure });
    case 'hosts':
      return hostSources(spec, {
        ...deps,
        allowInsecure,
        nowMs: Date.now,
        knownHosts: () => readKnownHosts(query, config),
        isTrusted: (hostname) => isTrusted(withoutPort(hostname), config.trustedDomains),
        countAccounts: async (hostId) => {
          const [row] = await query('select count(*) as accounts from accounts where host_id = $1', [hostId]);
          return row!.accounts as number;
        },
        writeAccounts: (rows) => writeListedAccounts(deps.writer, rows),
      });
    case 'dids':
      return {
        maxActive: 1,
        maxPerGroup: 1,
        plan: async () => ({ sources: [], repos: [] }),
        readPage: async () => ({ ok: false, reason: 'bad_answer', detail: 'no pages here' }),
      };
    case 'verify':
      return verifySources(spec, {
        ...deps,
        random: Math.random,
        breathe: () => Bun.sleep(0),
      });
  }
};

const withoutPort = (hostname: string): string => hostname.replace(/:\d+$/, '');

/** The numbers of hosts, read again for a host that is not among them: the relay meets new ones every day. */
const createHostIds = (query: Pool['query'], nowMs: () => number): ReadingDeps['hostIdOf'] => {
  let hostIds: Promise<ReadonlyMap<string, number>> | null = null;
  let readAtMs = 0;
  return async (hostname) => {
    const hostId = (await hostIds)?.get(hostname);
    if (hostId !== undefined) return hostId;
    if (hostIds === null || nowMs() - readAtMs > HOST_IDS_AGAIN_MS) {
      readAtMs = nowMs();
      hostIds = query('select hostname, host_id from hosts').then(
        (rows) => new Map(rows.map((row) => [row.hostname as string, row.host_id as number])),
      );
    }
    return (await hostIds).get(hostname) ?? 0;
  };
};

/** The hosts that the relay follows, without banned ones. */
const readKnownHosts = async (query: Pool['query'], config: Config): Promise<KnownHost[]> => {
  const rows = await query(
    `select host_id, hostname, source, account_count, account_limit from hosts
     where not banned and not exists (select from domain_bans
       where hostname = domain or hostname like '%.' || domain)
     order by host_id`,
  );
  return rows.map((row) => {
    const hostname = row.hostname as string;
    const trusted = isTrusted(withoutPort(hostname), config.trustedDomains);
    const accountCount = row.account_count as number;
    return {
      hostname,
      hostId: row.host_id as number,
      accountCount,
      trusted,
      accountLimit: accountLimitFor({
        override: row.account_limit as number | null,
        trusted,
        source: row.source as HostSource,
        expectedAccounts: accountCount,
        crawlDefault: config.hostAccountLimit,
      }),
    };
  });
};
