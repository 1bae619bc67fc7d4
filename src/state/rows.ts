/** Between the rows of the contract (types.ts) and what the database gives. */

import type { AccountRow, GapRow, HostRow, HostSource, RejectionRow } from './types.ts';

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

/** A row of `hosts` as the driver gives it, by column names. */
export const hostFromRecord = (record: Record<string, unknown>): HostRow => ({
  hostId: record.host_id as number,
  hostname: record.hostname as string,
  secure: record.secure as boolean,
  source: record.source as HostSource,
  banned: record.banned as boolean,
  status: record.status as string,
  cursor: record.cursor as number,
  ahead: record.ahead as number[],
  accountCount: record.account_count as number,
  expectedAccounts: record.expected_accounts as number,
  accountLimit: record.account_limit as number | null,
  eventsPerSecondLimit: record.events_per_second_limit as number | null,
  validation: record.validation as HostRow['validation'],
  createdAtMs: record.created_at_ms as number,
  lastEventAtMs: record.last_event_at_ms as number,
  connectedUntilMs: record.connected_until_ms as number | null,
  failures: record.failures as number,
});

/** A row of `rejections` as the driver gives it, by column names. */
export const rejectionFromRecord = (record: Record<string, unknown>): RejectionRow => ({
  hostId: record.host_id as number,
  did: record.did as string,
  reason: record.reason as string,
  detail: record.detail as string,
  upstreamSeq: record.upstream_seq as number,
  rev: record.rev as string,
  atMs: record.at_ms as number,
});

/** A row of `gaps` as the driver gives it, by column names. */
export const gapFromRecord = (record: Record<string, unknown>): GapRow => ({
  hostId: record.host_id as number,
  fromSeq: record.from_seq as number,
  toSeq: record.to_seq as number,
  why: record.why as string,
  atMs: record.at_ms as number,
});
