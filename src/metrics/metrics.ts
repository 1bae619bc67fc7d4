/**
 * The metrics: prom-client text made from the plain counters of the rooms, at scrape time only. No room knows
 * prom-client, and nothing here runs on a hot path. Names are relay_*, with units; series are few: none per host,
 * account or address.
 */
import { Counter, Gauge, Registry } from './prometheus.ts';
import type { MetricsSources, Totals } from './types.ts';

type Labels = Readonly<Record<string, string>>;
type Samples = Iterable<readonly [labels: Labels, value: number]>;

const one = (value: number): Samples => [[{}, value]];

function* by(label: string, totals: Totals, more: Labels = {}): Samples {
  for (const [name, value] of Object.entries(totals)) yield [{ ...more, [label]: name }, value];
}

/** bytesInFlight → bytes_in_flight. */
const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

function* roomTotals(rooms: Readonly<Record<string, Totals>>): Samples {
  for (const [room, totals] of Object.entries(rooms)) {
    for (const [name, value] of Object.entries(totals)) yield [{ room, what: snake(name) }, value];
  }
}

/** Builds the registry. Each scrape reads every source once per metric; the sources only read numbers. */
export const createMetrics = (sources: MetricsSources): Registry => {
  const registry = new Registry();

  const gauge = (name: string, help: string, labelNames: readonly string[], read: () => Samples): void => {
    const metric: Gauge = new Gauge({
      name,
      help,
      labelNames: [...labelNames],
      registers: [registry],
      collect() {
        metric.reset();
        for (const [labels, value] of read()) metric.set(labels, value);
      },
    });
  };
  const counter = (name: string, help: string, labelNames: readonly string[], read: () => Samples): void => {
    const metric: Counter = new Counter({
      name,
      help,
      labelNames: [...labelNames],
      registers: [registry],
      collect() {
        // The total lives in the room; this is only its picture.
        metric.reset();
        for (const [labels, value] of read()) metric.inc(labels, value);
      },
    });
  };

  counter('relay_events_total', 'Events written to the log.', ['host_group', 'kind'], () =>
    sources.events().map(({ hostGroup, kind, count }) => [{ host_group: hostGroup, kind }, count] as const),
  );
  counter('relay_rejections_total', 'Events refused, by reason.', ['host_group', 'reason'], () =>
    sources
      .rejections()
      .map(({ hostGroup, reason, count }) => [{ host_group: hostGroup, reason }, count] as const),
  );

  gauge('relay_ingest_lag_seconds', 'From the time an event carries to its place in the log.', [], () =>
    one(sources.ingest().lagSeconds),
  );
  gauge('relay_ingest_in_flight_bytes', 'Bytes received and not yet in the log.', [], () =>
    one(sources.ingest().bytesInFlight),
  );
  gauge('relay_ingest_in_flight_max_bytes', 'Above this, sockets are paused.', [], () =>
    one(sources.ingest().maxBytesInFlight),
  );
  gauge(
    'relay_ingest_pending_identities',
    'DIDs whose identity is being resolved while events wait.',
    [],
    () => one(sources.ingest().pendingIdentities),
  );
  gauge('relay_ingest_pending_events', 'Events that wait for an identity.', [], () =>
    one(sources.ingest().pendingEvents),
  );
  gauge('relay_ingest_paused_hosts', 'Hosts whose socket is not being read.', ['why'], () =>
    by('why', sources.ingest().pausedHosts),
  );

  gauge('relay_hosts', 'Hosts by status.', ['status'], () => by('status', sources.hosts().byStatus));
  gauge('relay_hosts_connected', 'Hosts with a live connection.', [], () => one(sources.hosts().connected));

  gauge('relay_log_seq', 'Newest durable seq.', [], () => one(sources.log().lastSeq));
  gauge('relay_log_oldest_seq', 'Oldest seq in the replay window.', [], () => one(sources.log().oldestSeq));
  gauge('relay_log_bytes', 'Bytes of the log on disk.', [], () => one(sources.log().stats.bytes));
  gauge('relay_log_segments', 'Segments of the log on disk.', [], () => one(sources.log().stats.segments));
  gauge('relay_log_pending_bytes', 'Bytes appended and not yet durable.', [], () =>
    one(sources.log().stats.pendingBytes),
  );
  counter('relay_log_records_total', 'Records appended.', [], () => one(sources.log().stats.appendedRecords));
  counter('relay_log_fsyncs_total', 'Group commits made durable.', [], () => one(sources.log().stats.fsyncs));
  counter('relay_log_fsync_seconds_total', 'Time spent making group commits durable.', [], () =>
    one(sources.log().stats.totalFsyncMs / 1000),
  );
  gauge('relay_log_last_fsync_seconds', 'Time of the last group commit.', [], () =>
    one(sources.log().stats.lastFsyncMs / 1000),
  );
  counter('relay_log_reads_total', 'Reads of the log, by where they were served from.', ['from'], () => [
    [{ from: 'tail' }, sources.log().stats.tailReads],
    [{ from: 'disk' }, sources.log().stats.diskReads],
  ]);
  gauge('relay_log_disk_pressure', '1 while the window is kept short because the disk is full.', [], () =>
    one(sources.log().stats.diskPressure ? 1 : 0),
  );

  gauge('relay_consumers', 'Consumers connected.', ['edge'], () =>
    sources.edges().map((edge) => [{ edge: edge.edge }, edge.consumers] as const),
  );
  gauge('relay_consumers_lagging', 'Consumers that catch up or do not take more.', ['edge'], () =>
    sources.edges().map((edge) => [{ edge: edge.edge }, edge.laggingConsumers] as const),
  );
  gauge('relay_consumer_queued_bytes', "Bytes in the queues of consumers' sockets.", ['edge'], () =>
    sources.edges().map((edge) => [{ edge: edge.edge }, edge.queuedBytes] as const),
  );
  const ofEdges = (name: string) => () =>
    sources.edges().map((edge) => [{ edge: edge.edge }, edge.totals[name] ?? 0] as const);
  counter('relay_deliveries_total', 'Events handed to consumers.', ['edge'], ofEdges('deliveries'));
  counter('relay_delivered_bytes_total', 'Bytes handed to consumers.', ['edge'], ofEdges('deliveredBytes'));
  counter('relay_backpressure_total', 'Times a consumer took no more.', ['edge'], ofEdges('backpressure'));
  counter('relay_replay_reads_total', 'Reads for consumers that catch up.', ['edge'], ofEdges('replayReads'));
  counter(
    'relay_replay_events_total',
    'Events read for consumers that catch up.',
    ['edge'],
    ofEdges('replayRecords'),
  );
  counter('relay_consumers_too_slow_total', 'Consumers given up.', ['edge'], ofEdges('tooSlow'));

  const jetstream = sources.jetstream?.bind(sources);
  if (jetstream !== undefined) {
    const byFormat = (what: 'clients' | 'events' | 'bytes') => () =>
      jetstream().formats.map(
        (format) => [{ endpoint: format.version, compression: format.compression }, format[what]] as const,
      );
    const labels = ['endpoint', 'compression'];
    gauge('relay_jetstream_clients', 'Jetstream clients connected.', labels, byFormat('clients'));
    counter('relay_jetstream_events_total', 'Events sent to Jetstream clients.', labels, byFormat('events'));
    counter('relay_jetstream_bytes_total', 'Bytes sent to Jetstream clients.', labels, byFormat('bytes'));
    counter('relay_jetstream_filtered_total', 'Events not sent because of a filter, over clients.', [], () =>
      one(jetstream().filtered),
    );
    counter(
      'relay_jetstream_oversize_total',
      'Events not sent because of their size, over clients.',
      [],
      () => one(jetstream().oversize),
    );
    counter(
      'relay_jetstream_encodes_total',
      'Messages made: v1 and v2 encoded, zstd compressed; undecodable came to nothing.',
      ['what'],
      () => by('what', jetstream().encodes),
    );
    counter('relay_jetstream_cursors_total', 'Where clients began, by kind of cursor.', ['kind'], () =>
      by('kind', jetstream().cursors),
    );
    counter('relay_jetstream_disconnects_total', 'Clients gone, by reason.', ['reason'], () =>
      by('reason', jetstream().disconnects),
    );
  }

  counter('relay_resolver_total', 'What the identity resolver did.', ['what'], function* () {
    for (const [name, value] of Object.entries(sources.resolver())) yield [{ what: snake(name) }, value];
  });

  gauge('relay_state_seq', 'Log seq that the database reflects.', [], () => one(sources.state().position));
  gauge('relay_state_lag_events', 'Events in the log that the database does not reflect yet.', [], () =>
    one(Math.max(0, sources.log().lastSeq - sources.state().position)),
  );
  gauge('relay_state_last_flush_seconds', 'Time of the last flush to the database.', [], () =>
    one(sources.state().lastFlushMs / 1000),
  );
  gauge('relay_state_failing', '1 while flushes to the database fail.', [], () =>
    one(sources.state().failing ? 1 : 0),
  );

  const collections = sources.collections?.bind(sources);
  if (collections !== undefined) {
    const status = () => collections().status;
    gauge('relay_collections_seq', 'Log seq that the collection index reflects.', [], () =>
      one(status().position),
    );
    gauge(
      'relay_collections_lag_events',
      'Events in the log that the collection index does not reflect yet.',
      [],
      () => one(Math.max(0, status().lastSeq - status().position)),
    );
    gauge(
      'relay_collections_lag_seconds',
      'From the newest event it reflects to the newest in the log.',
      [],
      () => one(status().lagMs / 1000),
    );
    gauge('relay_collections_failing', '1 while the collection index does not go on.', [], () =>
      one(status().problem === '' ? 0 : 1),
    );
    gauge('relay_collections_rows', 'Pairs of repo and collection that are held.', [], () =>
      one(status().rows),
    );
    gauge('relay_collections_repos', 'Repos that have a row.', [], () => one(status().repos));
    gauge('relay_collections_known', 'Collections ever seen.', [], () => one(status().collections));
    gauge('relay_collections_hidden_repos', 'Repos that are not told, by reason.', ['reason'], () =>
      by('reason', status().hiddenRepos),
    );
    gauge('relay_collections_checks_scheduled', 'Repos to be checked with their PDS.', ['reason'], () =>
      by('reason', status().checks),
    );
    gauge('relay_collections_checks_given_up', 'Repos whose check failed too often.', ['why'], () =>
      by('why', status().givenUp),
    );
    counter('relay_collections_total', 'What the collection index did.', ['what'], function* () {
      for (const [name, value] of Object.entries(collections().totals)) yield [{ what: snake(name) }, value];
    });
    counter('relay_collections_checks_total', 'What became of checks.', ['what'], function* () {
      for (const [name, value] of Object.entries(collections().checks)) yield [{ what: snake(name) }, value];
    });
  }

  gauge('relay_event_loop_lag_max_seconds', 'Longest delay of the event loop lately.', [], () =>
    one(sources.eventLoop().maxMs / 1000),
  );
  gauge('relay_event_loop_lag_seconds', 'Delay of the event loop, by quantile.', ['quantile'], () => {
    const lag = sources.eventLoop();
    return [
      [{ quantile: '0.5' }, lag.p50Ms / 1000],
      [{ quantile: '0.99' }, lag.p99Ms / 1000],
    ];
  });
  gauge('relay_resident_memory_bytes', 'Resident memory of the process.', [], () =>
    one(process.memoryUsage.rss()),
  );
  counter('relay_cpu_seconds_total', 'CPU time of the process.', ['mode'], () => {
    const { user, system } = process.cpuUsage();
    return [
      [{ mode: 'user' }, user / 1e6],
      [{ mode: 'system' }, system / 1e6],
    ];
  });

  gauge(
    'relay_room',
    'Every other number that a room keeps, totals and present values.',
    ['room', 'what'],
    () =>
      roomTotals({
        ingest: sources.ingest().totals,
        state: sources.state().totals,
        ...Object.fromEntries(sources.edges().map((edge) => [edge.edge, edge.totals])),
        ...sources.rooms?.(),
      }),
  );

  return registry;
};
