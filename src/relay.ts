/**
 * One relay in one process: composes the rooms, those that take events in last, and takes them down in reverse. Decides
 * nothing itself.
 */
import path from 'node:path';
import { createCompression } from '../jetstream/compress/compression.ts';
import { loadOwnDictionary, loadV1Dictionary } from '../jetstream/dictionary/dictionary.ts';
import { createDictionaries } from '../jetstream/dictionary/registry.ts';
import type { Dictionary } from '../jetstream/dictionary/types.ts';
import { createJetstreamEdge, type JetstreamEdge } from '../jetstream/edge/edge.ts';
import { encodeCounters } from '../jetstream/encode/counters.ts';
import { createApi } from './api/api.ts';
import { createHealth } from './api/health.ts';
import { createPages } from './api/pages/create-pages.ts';
import { type RunningServer, startServer } from './api/server.ts';
import type { Accounts } from './api/types.ts';
import { SERVER_HEADER, VERSION } from './api/version.ts';
import { createBackfillControl } from './backfill/control.ts';
import type { PdsAnswer } from './collections/checker.ts';
import { type CollectionService, openCollectionService } from './collections/service.ts';
import type { Config } from './config.ts';
import { createFirehoseEdge, type FirehoseEdge } from './firehose/edge/edge.ts';
import { KIND_NAMES } from './firehose/types.ts';
import { newHostRow } from './hosts/host.ts';
import { createRoster, type HostRoster } from './hosts/roster.ts';
import type { IngestControl } from './hosts/types.ts';
import { createUpstream, type Upstream } from './hosts/upstream.ts';
import { createResolver } from './identity/resolver.ts';
import { createIngestPool, type IngestPool } from './ingest/pool.ts';
import { didHash } from './log/did-hash.ts';
import { openLog } from './log/log.ts';
import type { Log } from './log/types.ts';
import type { Logger } from './logger.ts';
import { createEventLoopSampler } from './metrics/event-loop.ts';
import { createHostGroups } from './metrics/host-groups.ts';
import { type MetricsServer, startMetricsServer } from './metrics/server.ts';
import type { MetricsSources } from './metrics/types.ts';
import { systemClock } from './network/clock.ts';
import { guardedFetch } from './network/fetch.ts';
import { guardedLookup } from './network/lookup.ts';
import { keyHeights } from './repo/heights.ts';
import { k256 } from './repo/k256.ts';
import { createAccounts, shownRow } from './sequencer/accounts.ts';
import { effectiveStatus } from './sequencer/decide.ts';
import { createFlusher } from './sequencer/flusher.ts';
import { createHealer, type Healer } from './sequencer/healer.ts';
import { createIdentityDesk } from './sequencer/identities.ts';
import { rebuild } from './sequencer/rebuild.ts';
import { createSequencer, type Sequencer } from './sequencer/sequencer.ts';
import { DatabaseInUseError } from './state/connections.ts';
import { startEmbeddedPostgres } from './state/embedded.ts';
import { openState } from './state/state.ts';
import type { HostRow, State } from './state/types.ts';

/** Frames received and not yet sequenced, over all threads: half a second at full speed. */
const MAX_BYTES_IN_FLIGHT = 32 * 1024 * 1024;
const HANDSHAKE_TIMEOUT_MS = 15_000;
const PING_INTERVAL_MS = 30_000;
/** Above the protocol's limit, so that a frame a little too large costs that frame and not the connection. */
const MAX_RECEIVED_FRAME_BYTES = 8_000_000;
/** The newest of the log in memory, for live readers: several ticks at full speed. Who is further behind reads the disk. */
const TAIL_BYTES = 3 * 1024 * 1024;

/** A stop tells consumers after this at the latest, also when a database or disk that hangs holds up what is in flight. */
const GOODBYE_AFTER_MS = 10_000;

/** How far behind the last stored seq a new log begins when the old one is lost: more than a flush ever trails by. */
const LOST_LOG_SEQS = 1_000_000;

export interface Relay {
  readonly url: string;
  readonly metricsUrl: string;
  readonly log: Log;
  readonly roster: HostRoster;
  readonly sequencer: Sequencer;
  readonly edge: FirehoseEdge;
  readonly jetstream: JetstreamEdge;
  readonly ingest: IngestPool;
  readonly collections: CollectionService;
  readonly sources: MetricsSources;
  /** Stops taking events in, stores everything, says goodbye to consumers. */
  stop(): Promise<void>;
}

/**
 * Resolves when the relay serves. Rejects, with what was started stopped again, when it cannot, and with the reason of
 * `signal` when that aborts before.
 */
export const startRelay = async (
  config: Config,
  logger: Logger,
  onFatal: (error: unknown) => void,
  signal: AbortSignal = new AbortController().signal,
): Promise<Relay> => {
  const stops: (() => Promise<void> | void)[] = [];
  const stopAll = async (): Promise<void> => {
    for (const stop of stops.reverse()) {
      try {
        await stop();
      } catch (error) {
        logger.error('something did not stop well', { error: String(error) });
      }
    }
    stops.length = 0;
  };
  try {
    return await compose(config, logger, onFatal, stops, stopAll, signal);
  } catch (error) {
    await stopAll();
    throw error;
  }
};

/** The stored hosts. Those that only the log knows (a database that was lost) are put back under their ids. */
const hostsOf = async (state: State, log: Log, logger: Logger): Promise<HostRow[]> => {
  const rows = await state.loadHosts();
  const byId = new Map(rows.map((row) => [row.hostId, row.hostname]));
  const names = new Set(byId.values());
  let added = 0;
  for (const [hostId, hostname] of log.hostNames) {
    const stored = byId.get(hostId);
    if (stored === hostname) continue;
    if (stored !== undefined || names.has(hostname))
      throw new Error(
        `the log knows host ${hostId} as ${hostname}, the database knows ${stored ?? 'that name under another id'}: ` +
          'point DATABASE_URL and RELAY_DATA_DIR at what belongs together',
      );
    // Development hosts stand with their port.
    const secure = !hostname.includes(':');
    await state.insertHost({
      ...newHostRow({ hostname, secure, source: 'upstream', createdAtMs: Date.now() }),
      hostId,
    });
    added++;
  }
  if (added === 0) return rows;
  logger.warn('hosts that only the log knew were put back into the database', { hosts: added });
  return state.loadHosts();
};

/**
 * How messages of the JSON view are compressed. Without our own dictionary it goes on without; an operator's that
 * cannot be used stops the start.
 */
const loadCompression = (v1Path: string | null, logger: Logger) => {
  const list: Dictionary[] = [];
  const own = loadOwnDictionary();
  if (own.ok) list.push(own.dictionary);
  else logger.warn('Jetstream version 2 is served without zstd', { problem: own.problem });
  let v1Dictionary: Dictionary | null = null;
  if (v1Path !== null) {
    const v1 = loadV1Dictionary(v1Path);
    if (!v1.ok) throw new Error(`JETSTREAM_ZSTD_DICTIONARY: ${v1.problem}`);
    // Not to be fetched here: it holds what people wrote.
    v1Dictionary = v1.dictionary;
  }
  const dictionaries = createDictionaries(list);
  const compression = createCompression({ v1Dictionary, dictionaries });
  if (!compression.v1.native)
    logger.warn('zstd keeps no context here, so compressing for Jetstream costs ten times as much', {
      remedy: 'bun run zstd',
    });
  return { dictionaries, compression };
};

const compose = async (
  config: Config,
  logger: Logger,
  onFatal: (error: unknown) => void,
  stops: (() => Promise<void> | void)[],
  stopAll: () => Promise<void>,
  signal: AbortSignal,
): Promise<Relay> => {
  logger.info('signatures of secp256k1 are verified', { by: k256().name });
  logger.info('heights of keys are hashed', { by: keyHeights().name });
  const nowMs = Date.now;
  const startedAtMs = nowMs();
  const { compression, dictionaries } = loadCompression(config.jetstreamZstdDictionary, logger);

  // --- what is kept: state and log ---
  let address: Parameters<typeof openState>[0]['database'];
  if (config.databaseUrl === null) {
    const embedded = await startEmbeddedPostgres({
      dataDir: config.dataDir,
      log: (level, message) => logger.log(level, message),
      signal,
    });
    stops.push(() => embedded.stop());
    address = embedded.database;
  } else {
    address = config.databaseUrl;
  }
  const state = await openState({
    database: address,
    log: (level, message) => logger.log(level, message),
    signal,
  });
  stops.push(() => state.close());

  const backfill = createBackfillControl({
    database: address,
    log: (level, message) => logger.log(level, message),
    nowMs,
  });
  stops.push(() => backfill.stop());

  const position = await state.position();
  const log = await openLog({
    dir: path.join(config.dataDir, 'log'),
    windowMs: config.replayWindowMs,
    maxBytes: config.replayMaxBytes,
    tailBytes: TAIL_BYTES,
    // Only a log that is gone begins there; the seqs it gave after the last flush are not known.
    ...(position > 0 ? { firstSeq: position + LOST_LOG_SEQS } : {}),
    warn: (message) => logger.warn(message),
    fatal: onFatal,
  });
  stops.push(() => log.close());
  if (position > 0 && log.appendedSeq === position + LOST_LOG_SEQS - 1)
    logger.warn('the log of earlier events is gone; seqs go on far behind them', {
      from: log.appendedSeq + 1,
    });
  const rows = await hostsOf(state, log, logger);
  const takendown = await state.takedowns();
  log.setSkippedDids(new Set(takendown.map(didHash)));

  // --- hosts and the one that decides ---
  const late: { ingest: IngestPool | null; healer: Healer | null } = { ingest: null, healer: null };
  const control: IngestControl = {
    connect: (command) => late.ingest!.connect(command),
    disconnect: (hostId) => late.ingest!.disconnect(hostId),
    setLimits: (hostId, limits) => late.ingest!.setLimits(hostId, limits),
  };
  const logFields = (level: 'info' | 'warn', message: string, fields: Record<string, string | number>) =>
    logger.log(level, message, fields);
  const roster = createRoster({
    rows,
    domainBans: await state.domainBans(),
    state,
    ingest: control,
    clock: systemClock,
    random: Math.random,
    fetch: guardedFetch,
    config: { ...config, userAgent: SERVER_HEADER },
    storeSoon: () => flusher.flush(),
    log: logFields,
  });
  const accounts = createAccounts(state, (hostId) => roster.host(hostId)?.hostname);
  const sequencer = createSequencer({
    log,
    roster,
    accounts,
    healer: () => late.healer!,
    validation: config.validation,
    hostGroupOf: createHostGroups(config.trustedDomains),
    nowMs,
    sleep: Bun.sleep,
    warn: (message, fields) => logger.warn(message, fields),
  });
  const flusher = createFlusher({
    state,
    log,
    accounts,
    roster,
    takeRejections: () => sequencer.takeRejections(),
    nowMs,
    warn: (message, fields) => logger.warn(message, fields),
    position,
    fatal: (error) => {
      if (!(error instanceof DatabaseInUseError)) return false;
      onFatal(error);
      return true;
    },
  });

  const remade = await rebuild(position, {
    log,
    roster,
    accounts,
    flush: (position) => flusher.flush(position),
    progress: (records) => logger.info('reading the log into the database', { records }),
    signal,
  });
  if (remade > 0) logger.info('brought the database up to the log', { records: remade });
  flusher.start();
  stops.push(() => flusher.stop());

  // --- identities ---
  const resolver = createResolver({
    plcUrl: config.plcUrl,
    allowInsecure: config.allowInsecureHosts,
    userAgent: SERVER_HEADER,
  });
  stops.push(() => resolver.close());
  const healer = createHealer({
    fetch: guardedFetch,
    userAgent: SERVER_HEADER,
    allowPrivateAddresses: config.allowInsecureHosts,
    found: (did, status, asked) => sequencer.healed(did, status, asked),
    nowMs,
  });
  late.healer = healer;
  stops.push(() => healer.stop());
  const collections = await openCollectionService({
    dataDir: config.dataDir,
    log,
    hosts: () => roster.list(),
    takendown,
    async pdsOf(did): Promise<PdsAnswer> {
      if (accounts.get(did) === undefined) await accounts.load([did]);
      let hostname = accounts.get(did)?.pds ?? null;
      if (hostname === null) {
        const found = await resolver.resolve(did, { forHost: 'collections' });
        if (!found.ok) return { kind: found.passing ? 'unresolved' : 'none' };
        hostname = found.identity.pds;
      }
      if (hostname === null) return { kind: 'none' };
      // Development hosts stand with their port.
      const secure = roster.get(hostname)?.row.secure ?? !hostname.includes(':');
      return { kind: 'pds', hostname, secure };
    },
    fetch: guardedFetch,
    userAgent: SERVER_HEADER,
    allowPrivateAddresses: config.allowInsecureHosts,
    warn: (message, fields) => logger.warn(message, fields),
    fatal: onFatal,
  });
  stops.push(() => collections.stop());
  signal.throwIfAborted();
  const desk = createIdentityDesk({
    accounts,
    resolver,
    roster,
    nowMs,
    after: (delayMs, callback) => {
      setTimeout(callback, delayMs).unref();
    },
  });
  /** All that has come in is sequenced; begins with the stop. */
  let takenIn = Promise.resolve();
  stops.push(() => takenIn);

  // --- what is served ---
  const eventLoop = createEventLoopSampler();
  stops.push(() => eventLoop.stop());
  const edge = createFirehoseEdge({ log, onLogFailure: onFatal });
  const jetstream = createJetstreamEdge({ log, compression, onLogFailure: onFatal });
  const accountsView: Accounts = {
    async lookup(did) {
      if (accounts.get(did) === undefined) await accounts.load([did]);
      return shownRow(accounts.get(did));
    },
    effective(row) {
      const status = effectiveStatus(row);
      return status === null ? { active: true } : { active: false, status };
    },
  };
  const health = createHealth({
    logProblem: () =>
      log.stats.diskPressure && log.stats.pendingBytes > 32 * 1024 * 1024 ? 'the disk is full' : null,
    stateFailingSinceMs: () => flusher.failingSinceMs,
    maxEventLoopLagMs: () => eventLoop.lag.maxMs,
    hosts: () => ({ wanted: roster.counters.wanted, connected: roster.counters.connected }),
  });
  const consumers = () => [...edge.consumers(), ...jetstream.consumers()];
  const app = createApi({
    roster,
    state,
    accounts: accountsView,
    pages: createPages({
      roster,
      state,
      accounts: accountsView,
      log,
      consumers,
      collections: () => collections.status(),
      backfill: () => backfill.recentStatus(),
    }),
    collections: collections.reader,
    consumers,
    health,
    backfill,
    zstdDictionary: dictionaries.getZstdDictionary,
    adminPasswords: config.adminPasswords,
    onError: (error, route) => logger.error('a request failed', { route, error: String(error) }),
  });
  const server: RunningServer = startServer({
    host: config.apiHost,
    port: config.apiPort,
    app,
    edges: { '/xrpc/com.atproto.sync.subscribeRepos': edge, ...jetstream.paths },
    onError: (error) => logger.error('a request failed', { error: String(error) }),
  });
  stops.push(() => server.close());

  const sources: MetricsSources = {
    events: () =>
      [...sequencer.groups].flatMap(([hostGroup, { events }]) =>
        KIND_NAMES.flatMap((kind, index) =>
          events[index]! > 0 ? [{ hostGroup, kind, count: events[index]! }] : [],
        ),
      ),
    rejections: () =>
      [...sequencer.groups].flatMap(([hostGroup, { rejections }]) =>
        [...rejections].map(([reason, count]) => ({ hostGroup, reason, count })),
      ),
    ingest() {
      const { bytesInFlight, heldFrames, heldDids, heldBytes, ...totals } = ingest.counters();
      const pausedHosts: Record<string, number> = {};
      for (const view of roster.list())
        if (view.pausedFor !== null) pausedHosts[view.pausedFor] = (pausedHosts[view.pausedFor] ?? 0) + 1;
      return {
        bytesInFlight,
        maxBytesInFlight: ingest.maxBytesInFlight,
        pendingIdentities: heldDids,
        pendingEvents: heldFrames,
        lagSeconds: sequencer.lagSeconds,
        pausedHosts,
        totals: { ...totals, heldBytes },
      };
    },
    log: () => ({ lastSeq: log.lastSeq, oldestSeq: log.oldestSeq, stats: log.stats }),
    edges: () =>
      [
        { edge: 'firehose', counters: edge.counters },
        { edge: 'jetstream', counters: jetstream.counters },
      ].map(({ edge, counters }) => ({
        edge,
        consumers: counters.liveConsumers + counters.laggingConsumers,
        laggingConsumers: counters.laggingConsumers,
        queuedBytes: counters.queuedBytes,
        totals: { ...counters },
      })),
    jetstream: () => jetstream.stats,
    eventLoop: () => eventLoop.lag,
    hosts() {
      const byStatus: Record<string, number> = {};
      for (const { row } of roster.list()) byStatus[row.status] = (byStatus[row.status] ?? 0) + 1;
      return { byStatus, connected: roster.counters.connected };
    },
    resolver: () => ({ ...resolver.counters }),
    state: () => ({
      position: flusher.stats.position,
      lastFlushMs: flusher.stats.lastFlushMs,
      failing: flusher.failingSinceMs !== null,
      totals: { ...state.counters, flushes: flusher.stats.flushes, flushFailures: flusher.stats.failures },
    }),
    collections: () => ({
      status: collections.status(),
      totals: collections.totals(),
      checks: collections.checkTotals(),
    }),
    rooms: () => ({
      sequencer: { ...sequencer.counters },
      accounts: { ...accounts.counters, cached: accounts.size, dirty: accounts.dirtyCount },
      identities: { ...desk.counters },
      healer: { ...healer.counters },
      roster: { ...roster.counters },
      crawl: { ...roster.crawlCounters },
      backfill: backfill.counters,
      lookup: { ...guardedLookup(config.allowInsecureHosts).counters },
      jetstream_encode: { ...encodeCounters },
    }),
  };
  const metrics: MetricsServer = startMetricsServer({
    host: config.metricsHost,
    port: config.metricsPort,
    sources,
    onError: (error) => logger.error('the metrics cannot be told', { error: String(error) }),
  });
  stops.push(() => metrics.close());

  // --- ingest: stopped before what is served, so that consumers get what is in flight ---
  const ingest = createIngestPool({
    workers: config.ingestWorkers,
    options: {
      userAgent: SERVER_HEADER,
      allowPrivateAddresses: config.allowInsecureHosts,
      handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS,
      pingIntervalMs: PING_INTERVAL_MS,
      maxFrameBytes: MAX_RECEIVED_FRAME_BYTES,
      maxBytesInFlight: MAX_BYTES_IN_FLIGHT,
    },
    lane: (thread) => ({
      ...sequencer.lane((bytes) => thread.acknowledge(bytes)),
      identify: (requests) => desk.ask(requests, (answers) => thread.identified(answers)),
    }),
    died: (detail) => onFatal(new Error(`an ingest thread died: ${detail}`)),
  });
  late.ingest = ingest;
  const stopTakingIn = async (): Promise<void> => {
    // Without it, a database that is away would hold up the reports that connections have ended.
    sequencer.drain();
    await roster.stop();
    await ingest.stop();
    await sequencer.idle();
  };
  stops.push(() => {
    takenIn = stopTakingIn();
    const visible = takenIn.then(() => log.whenDurable(log.appendedSeq));
    return Promise.race([visible, Bun.sleep(GOODBYE_AFTER_MS)]);
  });
  logger.info('serving', {
    version: VERSION,
    url: server.url,
    metrics: metrics.url,
    startMs: nowMs() - startedAtMs,
  });

  // --- now events may come ---
  roster.start();
  collections.start();
  backfill.resumeInterrupted().catch((error: unknown) => {
    logger.warn('cannot look for a backfill to go on with', { error: String(error) });
  });
  if (config.extraHosts.length > 0) {
    const result = await roster.addHosts(
      config.extraHosts.map((hostname) => ({ hostname })),
      'config',
    );
    if (result.refused > 0)
      logger.warn('some of RELAY_HOSTS cannot be followed', { refused: result.refused });
    logger.info('hosts of RELAY_HOSTS', result);
  }
  if (config.upstreamUrl !== null) {
    const upstream: Upstream = createUpstream({
      url: config.upstreamUrl,
      fetch: guardedFetch,
      clock: systemClock,
      random: Math.random,
      userAgent: SERVER_HEADER,
      addHosts: (hosts) => roster.addHosts(hosts, 'upstream'),
      log: logFields,
    });
    upstream.start();
    stops.push(() => upstream.stop());
  }

  return {
    url: server.url,
    metricsUrl: metrics.url,
    log,
    roster,
    sequencer,
    edge,
    jetstream,
    ingest,
    collections,
    sources,
    stop: stopAll,
  };
};
