/** What the environment says, validated: see docs in README ("Configuration"). */
export interface Config {
  readonly apiHost: string;
  readonly apiPort: number;
  readonly metricsHost: string;
  readonly metricsPort: number;
  readonly dataDir: string;
  /** null: embedded PostgreSQL in the data directory. */
  readonly databaseUrl: string | null;
  readonly plcUrl: string;
  /** null: none. */
  readonly upstreamUrl: string | null;
  readonly extraHosts: readonly string[];
  readonly replayWindowMs: number;
  readonly replayMaxBytes: number;
  /** Empty: admin routes off. Several secrets for rotation. */
  readonly adminPasswords: readonly string[];
  readonly trustedDomains: readonly string[];
  readonly validation: 'strict' | 'lenient';
  readonly allowInsecureHosts: boolean;
  readonly ingestWorkers: number;
  readonly hostAccountLimit: number;
  readonly newHostsPerDay: number;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
  readonly logFormat: 'text' | 'json';
}
