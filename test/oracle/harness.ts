/** What the whole runs share: a real relay in this process on a temporary data directory, and a simulated network. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Consumer, createConsumer } from '../../simulator/consumer.ts';
import { createNetwork, type Network, type NetworkOptions } from '../../simulator/network.ts';
import { readConfig } from '../../src/config.ts';
import { createLogger } from '../../src/logger.ts';
import { startRelay } from '../../src/relay.ts';
import { copyServerFiles } from '../state/postgres.ts';
import type { Refused } from './judge.ts';

/** What a host's page says, as JSON. */
export interface HostPage {
  readonly hostname: string;
  readonly status: string;
  readonly connected: boolean;
  readonly connectedSinceMs: number | null;
  readonly nextAttemptAtMs: number | null;
  readonly lastClose: string;
  readonly cursor: number;
  readonly accountCount: number;
  readonly accountLimit: number;
  readonly pausedFor: string | null;
  readonly rejectionsSinceStart: Readonly<Record<string, number>>;
  readonly gaps: readonly { readonly fromSeq: number; readonly toSeq: number; readonly why: string }[];
}

export interface Weir {
  readonly url: string;
  readonly metricsUrl: string;
  host(hostname: string): Promise<HostPage>;
  json(path: string): Promise<Record<string, unknown>>;
  stop(): Promise<void>;
}

/** A directory with a ready database inside, removed by `removeDirectories`. */
const directories: string[] = [];
export const dataDirectory = async (): Promise<string> => {
  const dir = mkdtempSync(join(tmpdir(), 'weir-oracle-'));
  directories.push(dir);
  await copyServerFiles(dir);
  return dir;
};
export const removeDirectories = (): void => {
  for (const dir of directories.splice(0)) rmSync(dir, { recursive: true, force: true });
};

/** The settings of a relay that follows simulated hosts. */
export const environmentOf = (
  network: Network,
  dataDir: string,
  more: Readonly<Record<string, string>> = {},
): Record<string, string> => ({
  RELAY_API_BIND: '127.0.0.1:0',
  RELAY_METRICS_LISTEN: '127.0.0.1:0',
  RELAY_DATA_DIR: dataDir,
  RELAY_PLC_HOST: network.plcUrl,
  RELAY_UPSTREAM: '',
  RELAY_HOSTS: network.hosts.map(({ hostname }) => hostname).join(','),
  RELAY_ALLOW_INSECURE_HOSTS: 'true',
  RELAY_TRUSTED_DOMAINS: 'localhost',
  RELAY_INGEST_WORKERS: '0',
  RELAY_ADMIN_PASSWORD: 'oracle-password',
  LOG_LEVEL: process.env.WEIR_ORACLE_LOG ?? 'error',
  ...more,
});

/** The pages of a relay at `url`. */
export const pagesOf = (url: string) => {
  const json = async (path: string): Promise<Record<string, unknown>> => {
    const response = await fetch(`${url}${path}`);
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    return (await response.json()) as Record<string, unknown>;
  };
  return {
    json,
    host: async (hostname: string) =>
      (await json(`/hosts/${encodeURIComponent(hostname)}?format=json`)) as unknown as HostPage,
  };
};

/** Starts the real relay in this process. Throws what it could not go on with when it is stopped. */
export const startWeir = async (
  network: Network,
  more: Readonly<Record<string, string>> = {},
  dataDir?: string,
): Promise<Weir> => {
  const config = readConfig(environmentOf(network, dataDir ?? (await dataDirectory()), more));
  const fatal: unknown[] = [];
  const relay = await startRelay(config, createLogger(config), (error) => fatal.push(error));
  return {
    url: relay.url,
    metricsUrl: relay.metricsUrl,
    ...pagesOf(relay.url),
    async stop() {
      await relay.stop();
      if (fatal.length > 0) throw fatal[0];
    },
  };
};

/** A started network with small repos. */
export const startNetwork = async (options: NetworkOptions): Promise<Network> => {
  const network = await createNetwork({ seed: 21, largeRepoShare: 0, windowEvents: 50_000, ...options });
  await network.start();
  return network;
};

/** Waits until `test` holds. Throws with what `test` last said is missing. */
export const eventually = async (
  test: () => Promise<string | null> | string | null,
  timeoutMs = 20_000,
  everyMs = 50,
): Promise<void> => {
  const until = performance.now() + timeoutMs;
  for (;;) {
    const missing = await test();
    if (missing === null) return;
    if (performance.now() > until) throw new Error(`not within ${timeoutMs} ms: ${missing}`);
    await Bun.sleep(everyMs);
  }
};

/** Waits until the relay is connected to all these hosts. */
export const allConnected = (weir: Pick<Weir, 'host'>, network: Network, timeoutMs?: number): Promise<void> =>
  eventually(async () => {
    for (const { hostname, stream } of network.hosts) {
      const page = await weir.host(hostname).catch(() => null);
      if (page?.connected !== true) return `${hostname} is not connected: ${page?.lastClose}`;
      if (stream.subscribers.size === 0) return `${hostname} has no subscriber`;
    }
    return null;
  }, timeoutMs);

/**
 * Ends the traffic: each host sends one more good event, and the relay is given time until its cursors are past
 * those, which says that nothing before is waiting, and until its newest event is what `consumer` saw last.
 */
export const settle = async (
  weir: Pick<Weir, 'host' | 'json'>,
  network: Network,
  consumer: Consumer | null,
  timeoutMs = 30_000,
): Promise<void> => {
  network.ratePerSecond = 0;
  const marks = network.hosts.map(({ hostname, index }) => {
    const account = network.hosts[index]!.accounts.find(({ status }) => status === 'active');
    return { hostname, seq: network.identity(account ?? network.createAccount(index)).seq! };
  });
  await eventually(async () => {
    for (const { hostname, seq } of marks) {
      const { cursor, ...page } = await weir.host(hostname);
      if (cursor < seq)
        return `${hostname} at ${cursor} of ${seq}, connected ${page.connected}, paused for ${page.pausedFor}, ${page.lastClose}`;
    }
    return null;
  }, timeoutMs);
  // What is decided is not durable at once: the newest seq has to have stood for a while.
  let before: unknown = null;
  await eventually(
    async () => {
      const { lastSeq } = await weir.json('/?format=json');
      const stands = lastSeq === before;
      before = lastSeq;
      if (!stands) return `the newest seq is ${lastSeq}, and was another`;
      return consumer === null || consumer.lastSeq === lastSeq
        ? null
        : `consumer at ${consumer.lastSeq} of ${lastSeq}`;
    },
    timeoutMs,
    150,
  );
};

/** Refusals by host and reason, from the hosts' pages. */
export const refusedOf = async (weir: Pick<Weir, 'host'>, network: Network): Promise<Refused> => {
  const refused = new Map<string, Readonly<Record<string, number>>>();
  for (const { hostname } of network.hosts)
    refused.set(hostname, (await weir.host(hostname)).rejectionsSinceStart);
  return refused;
};

/** Everything the relay serves, from its first event. */
export const readAll = async (weir: Pick<Weir, 'url' | 'json'>): Promise<Consumer> => {
  const consumer = createConsumer({ url: weir.url, cursor: 0, maxSeen: 1_000_000 });
  await consumer.opened;
  const { lastSeq } = await weir.json('/?format=json');
  if (Number(lastSeq) > 0) await consumer.until(() => consumer.lastSeq === lastSeq, 20_000);
  return consumer;
};

export { createConsumer };
