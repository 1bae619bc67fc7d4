import { afterAll, describe, expect, test } from 'bun:test';
import { createConnection } from 'node:net';
import { createEventLoopSampler } from '../../src/metrics/event-loop.ts';
import { createHostGroups } from '../../src/metrics/host-groups.ts';
import { createMetrics } from '../../src/metrics/metrics.ts';
import { startMetricsServer } from '../../src/metrics/server.ts';
import type { MetricsSources } from '../../src/metrics/types.ts';

let deliveries = 5;
const sources: MetricsSources = {
  events: () => [
    { hostGroup: '*.host.bsky.network', kind: 'commit', count: 10 },
    { hostGroup: 'other', kind: 'identity', count: 2 },
  ],
  rejections: () => [{ hostGroup: 'other', reason: 'rev_stale', count: 3 }],
  ingest: () => ({
    bytesInFlight: 100,
    maxBytesInFlight: 1000,
    pendingIdentities: 4,
    pendingEvents: 9,
    lagSeconds: 0.25,
    pausedHosts: { rate_limit: 1 },
    totals: { textMessages: 6 },
  }),
  log: () => ({
    lastSeq: 500,
    oldestSeq: 20,
    stats: {
      segments: 2,
      bytes: 4096,
      pendingBytes: 0,
      appendedRecords: 480,
      fsyncs: 50,
      lastFsyncMs: 0.5,
      totalFsyncMs: 25,
      diskReads: 7,
      tailReads: 8,
      diskPressure: false,
      truncatedTailBytes: 0,
    },
  }),
  edges: () => [
    {
      edge: 'firehose',
      consumers: 3,
      laggingConsumers: 1,
      queuedBytes: 0,
      totals: {
        deliveries,
        deliveredBytes: 900,
        backpressure: 1,
        replayReads: 2,
        replayRecords: 20,
        tooSlow: 0,
      },
    },
  ],
  jetstream: () => ({
    formats: [
      { version: 'v1', compression: 'none', clients: 4, events: 40, bytes: 4000 },
      { version: 'v2', compression: 'zstd', clients: 1, events: 10, bytes: 100 },
    ],
    filtered: 7,
    oversize: 2,
    encodes: { v1: 30, v2: 10, zstd: 11, undecodable: 1 },
    cursors: { live: 3, time: 2 },
    disconnects: { client: 5, too_slow: 1 },
  }),
  eventLoop: () => ({ maxMs: 30, p50Ms: 1, p99Ms: 12 }),
  hosts: () => ({ byStatus: { active: 7, offline: 1 }, connected: 7 }),
  resolver: () => ({ plcRequests: 11 }),
  collections: () => ({
    status: {
      position: 480,
      lastSeq: 500,
      lagMs: 1500,
      rows: 1000,
      repos: 400,
      hiddenRepos: { takendown: 2 },
      collections: 30,
      checks: { sync_event: 5 },
      givenUp: { timeout: 1 },
      gaps: 1,
      refusedPairs: 2_345,
      checksRefused: 6,
      placesDropped: 78,
      problem: '',
    },
    totals: { pairsAdded: 12 },
    checks: { failed_timeout: 3 },
  }),
  state: () => ({ position: 490, lastFlushMs: 12, failing: false, totals: { flushes: 3 } }),
};

const noError = (error: unknown): never => {
  throw error;
};
const server = startMetricsServer({ host: '127.0.0.1', port: 0, sources, onError: noError });
afterAll(() => server.close());
const scrape = async () => (await fetch(server.url)).text();

describe('metrics', () => {
  test('are the counters of the rooms, with units in their names', async () => {
    const text = await scrape();
    for (const line of [
      'relay_events_total{host_group="*.host.bsky.network",kind="commit"} 10',
      'relay_rejections_total{host_group="other",reason="rev_stale"} 3',
      'relay_ingest_lag_seconds 0.25',
      'relay_ingest_in_flight_bytes 100',
      'relay_ingest_pending_identities 4',
      'relay_hosts{status="offline"} 1',
      'relay_log_seq 500',
      'relay_log_bytes 4096',
      'relay_log_fsync_seconds_total 0.025',
      'relay_consumers{edge="firehose"} 3',
      'relay_deliveries_total{edge="firehose"} 5',
      'relay_jetstream_clients{endpoint="v1",compression="none"} 4',
      'relay_jetstream_events_total{endpoint="v2",compression="zstd"} 10',
      'relay_jetstream_bytes_total{endpoint="v1",compression="none"} 4000',
      'relay_jetstream_filtered_total 7',
      'relay_jetstream_oversize_total 2',
      'relay_jetstream_encodes_total{what="v1"} 30',
      'relay_jetstream_cursors_total{kind="time"} 2',
      'relay_jetstream_disconnects_total{reason="too_slow"} 1',
      'relay_backpressure_total{edge="firehose"} 1',
      'relay_replay_reads_total{edge="firehose"} 2',
      'relay_resolver_total{what="plc_requests"} 11',
      'relay_state_lag_events 10',
      'relay_collections_seq 480',
      'relay_collections_lag_events 20',
      'relay_collections_lag_seconds 1.5',
      'relay_collections_failing 0',
      'relay_collections_rows 1000',
      'relay_collections_hidden_repos{reason="takendown"} 2',
      'relay_collections_checks_scheduled{reason="sync_event"} 5',
      'relay_collections_checks_given_up{why="timeout"} 1',
      'relay_collections_total{what="pairs_added"} 12',
      'relay_collections_checks_total{what="failed_timeout"} 3',
      'relay_event_loop_lag_max_seconds 0.03',
      'relay_room{room="ingest",what="text_messages"} 6',
    ]) {
      expect(text.split('\n')).toContain(line);
    }
    expect(text).toMatch(/^relay_resident_memory_bytes \d{7,}$/m);
    const names = [...text.matchAll(/^# TYPE (\S+)/gm)].map((match) => match[1]!);
    expect(names.length).toBeGreaterThan(30);
    for (const name of names) expect(name).toStartWith('relay_');
  });

  test('show totals as they are, however often they are scraped', async () => {
    await scrape();
    deliveries = 8;
    await scrape();
    expect(await scrape()).toContain('relay_deliveries_total{edge="firehose"} 8\n');
  });

  test('of the collection index are not there without one', async () => {
    const { collections: _, ...others } = sources;
    expect(await createMetrics(others).metrics()).not.toContain('relay_collections');
  });

  test('that cannot be told are a failed scrape, and the operator is told why', async () => {
    const told: unknown[] = [];
    const broken = startMetricsServer({
      host: '127.0.0.1',
      port: 0,
      sources: {
        ...sources,
        state: () => {
          throw new Error('a room does not answer');
        },
      },
      onError: (error) => void told.push(error),
    });
    const { status } = await fetch(broken.url);
    await broken.close();
    expect(status).toBe(500);
    expect(String(told)).toContain('a room does not answer');
  });

  test('stand at /metrics only, and take only GET', async () => {
    expect((await fetch(new URL('/', server.url))).status).toBe(404);
    expect((await fetch(new URL('/metrics/x', server.url))).status).toBe(404);
    expect((await fetch(server.url, { method: 'POST' })).status).toBe(405);
    expect((await fetch(server.url, { method: 'HEAD' })).status).toBe(200);
  });

  test('are given to whoever names no host, and not to whoever names none that can be', async () => {
    const statusOf = (head: string) =>
      new Promise<string>((resolve, reject) => {
        const socket = createConnection({ port: server.port, host: '127.0.0.1' }, () => socket.write(head));
        socket.on('error', reject);
        socket.once('data', (bytes) => {
          socket.destroy();
          resolve(bytes.toString().slice(9, 12));
        });
      });
    expect(await statusOf('GET /metrics HTTP/1.0\r\n\r\n')).toBe('200');
    expect(await statusOf('GET /metrics HTTP/1.1\r\nHost:\r\n\r\n')).toBe('200');
    expect(await statusOf('GET /metrics HTTP/1.1\r\nHost: foo:99999\r\n\r\n')).toBe('404');
  });
});

describe('host groups', () => {
  test('are the trusted patterns and other', () => {
    const group = createHostGroups(['*.host.bsky.network', 'pds.example.com']);
    expect(group('morel.us-east.host.bsky.network')).toBe('*.host.bsky.network');
    expect(group('pds.example.com')).toBe('pds.example.com');
    expect(group('host.bsky.network')).toBe('other');
    expect(group('evil-host.bsky.network')).toBe('other');
    expect(group('x.pds.example.com')).toBe('other');
  });
});

describe('the event-loop sampler', () => {
  test('keeps a spike for one whole window, then forgets it', () => {
    let tick = () => {};
    const histogram = {
      max: 0,
      enable() {},
      disable() {},
      reset() {
        this.max = 0;
      },
      percentile: (percentile: number) => (percentile === 99 ? 4e6 : 1e6),
    };
    const sampler = createEventLoopSampler({
      histogram,
      setInterval: (run) => {
        tick = run;
        return {};
      },
      clearInterval: () => {},
    });
    histogram.max = 250e6;
    expect(sampler.lag.maxMs).toBe(250);
    tick();
    expect(sampler.lag).toEqual({ maxMs: 250, p50Ms: 1, p99Ms: 4 });
    histogram.max = 5e6;
    tick();
    expect(sampler.lag.maxMs).toBe(5);
    sampler.stop();
  });

  test('sees a real stall', async () => {
    const sampler = createEventLoopSampler();
    await Bun.sleep(60);
    const end = performance.now() + 120;
    while (performance.now() < end);
    for (let turn = 0; turn < 200 && sampler.lag.maxMs < 50; turn++) await Bun.sleep(5);
    expect(sampler.lag.maxMs).toBeGreaterThan(50);
    sampler.stop();
  });
});
