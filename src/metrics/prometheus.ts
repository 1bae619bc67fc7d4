/**
 * The three parts of prom-client that are used here. Its index loads the push gateway, the aggregation over a cluster
 * and the default metrics as well: 2 MB that nobody asks.
 */
import { createRequire } from 'node:module';
import type * as Prometheus from 'prom-client';

const load = createRequire(import.meta.url);

export const Registry = load('prom-client/lib/registry.js') as typeof Prometheus.Registry;
export const Counter = load('prom-client/lib/counter.js') as typeof Prometheus.Counter;
export const Gauge = load('prom-client/lib/gauge.js') as typeof Prometheus.Gauge;
export type Registry = Prometheus.Registry;
export type Counter = Prometheus.Counter;
export type Gauge = Prometheus.Gauge;
