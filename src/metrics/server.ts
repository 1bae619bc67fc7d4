import { createMetrics } from './metrics.ts';
import type { MetricsSources } from './types.ts';

export interface MetricsServer {
  readonly port: number;
  readonly url: string;
  close(): Promise<void>;
}

/**
 * Serves GET /metrics in the Prometheus text format on a listener of its own, so that it can be kept from the
 * public. Everything else is 404. Throws when the address is taken.
 *
 * @param options.onError told of a scrape that failed, which its caller gets as 500
 */
export const startMetricsServer = (options: {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly sources: MetricsSources;
  readonly onError: (error: unknown) => void;
}): MetricsServer => {
  const registry = createMetrics(options.sources);
  const server = Bun.serve({
    hostname: options.host,
    port: options.port,
    development: false,
    async fetch(request, self) {
      // Without a Host there is no more than a path.
      const isMetrics = URL.parse(request.url, self.url.href)?.pathname === '/metrics';
      if (!isMetrics) return Response.json({ error: 'NotFound', message: 'try /metrics' }, { status: 404 });
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        return Response.json(
          { error: 'InvalidRequest', message: 'use GET' },
          { status: 405, headers: { allow: 'GET' } },
        );
      }
      return new Response(await registry.metrics(), { headers: { 'content-type': registry.contentType } });
    },
    error(error) {
      options.onError(error);
      return Response.json({ error: 'InternalServerError', message: 'the scrape failed' }, { status: 500 });
    },
  });
  const hostname = server.hostname ?? options.host;
  const port = server.port ?? options.port;
  return {
    port,
    url: `http://${hostname.includes(':') ? `[${hostname}]` : hostname}:${port}/metrics`,
    close: async () => {
      await server.stop(true);
    },
  };
};
