/** Between the rows of the contract (types.ts) and what the database gives. */

import type { hosts } from './schema.ts';
import type { AccountRow, HostRow, HostSource } from './types.ts';

const KEY_TYPES = [null, 'p256', 'k256'] as const;

/** The number under which a key type is stored; null = no key. */
export const keyTypeNumber = (keyType: AccountRow['keyType']): number | null =>
  keyType === null ? null : keyType === 'p256' ? 1 : 2;

/** How `identity_at_ms` is stored: 0 is left to rows that only the backfill wrote. */
export const identityNumber = (row: Pick<AccountRow, 'identityAtMs' | 'known'>): number =>
  row.known && row.identityAtMs === 0 ? -1 : row.identityAtMs;

/** A row of `accounts` as the driver gives it, by column names. */
export const accountFromRecord = (record: Record<string, unknown>): AccountRow => ({
  did: record.did as string,
  hostId: record.host_id as number,
  ownStatus: record.own_status as string | null,
  upstreamStatus: record.upstream_status as string | null,
  rev: record.rev as string | null,
  commit: record.commit_digest as Uint8Array | null,
  data: record.data_digest as Uint8Array | null,
  desynchronized: record.desynchronized as boolean,
  keyType: KEY_TYPES[(record.key_type as number | null) ?? 0] ?? null,
  key: record.key as Uint8Array | null,
  handle: record.handle as string | null,
  identityAtMs: Math.max(0, record.identity_at_ms as number),
  // Older versions did not write -1: of those rows it shows where nothing was listed.
  known: record.rev !== null || record.identity_at_ms !== 0 || record.listed_rev === null,
});

/** A row of `hosts` as drizzle gives it. */
export const hostFromRecord = (record: typeof hosts.$inferSelect): HostRow => ({
  hostId: record.hostId,
  hostname: record.hostname,
  secure: record.secure,
  source: record.source as HostSource,
  banned: record.banned,
  status: record.status,
  cursor: record.cursor,
  ahead: record.ahead,
  accountCount: record.accountCount,
  expectedAccounts: record.expectedAccounts,
  accountLimit: record.accountLimit,
  eventsPerSecondLimit: record.eventsPerSecondLimit,
  validation: record.validation as HostRow['validation'],
  createdAtMs: record.createdAtMs,
  lastEventAtMs: record.lastEventAtMs,
  connectedUntilMs: record.connectedUntilMs,
  failures: record.failures,
});
