/** Which hosts are gone for good. Pure. */
import { MAX_BACKOFF_MS } from '../hosts/lifecycle.ts';
import type { HostView } from '../hosts/types.ts';

/**
 * A host that nobody could reach for so long is gone, and with it what its accounts had. It is still tried: once it
 * answers, its accounts are shown again. That it says nothing means nothing: small hosts are quiet for months.
 */
export const GONE_AFTER_MS = 30 * 24 * 3_600_000;
/**
 * So often it is tried in that time, by waits of half of the longest on average. With fewer failures it was we who were
 * not there; and of a host whose cursor was given up, this alone tells how long it was not reached.
 */
export const MIN_GONE_FAILURES = GONE_AFTER_MS / (MAX_BACKOFF_MS / 2);

/** @returns host ids, ascending */
export const goneHosts = (hosts: readonly HostView[], nowMs: number): number[] =>
  hosts
    .filter(
      ({ row, connected }) =>
        !connected &&
        row.status === 'offline' &&
        row.failures >= MIN_GONE_FAILURES &&
        nowMs - Math.max(row.connectedUntilMs ?? 0, row.lastEventAtMs, row.createdAtMs) > GONE_AFTER_MS,
    )
    .map(({ row }) => row.hostId)
    .sort((one, other) => one - other);
