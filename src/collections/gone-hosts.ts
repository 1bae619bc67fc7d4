/** Which hosts are gone for good. Pure. */
import type { HostView } from '../hosts/types.ts';

/**
 * A host that nobody could reach for so long is gone, and with it what its accounts had. It is still tried: once it
 * answers, its accounts are shown again.
 */
export const GONE_AFTER_MS = 30 * 24 * 3_600_000;

/** @returns host ids, ascending */
export const goneHosts = (hosts: readonly HostView[], nowMs: number): number[] =>
  hosts
    .filter(
      ({ row, connected }) =>
        !connected &&
        row.status === 'offline' &&
        row.failures > 0 &&
        nowMs - Math.max(row.lastEventAtMs, row.createdAtMs) > GONE_AFTER_MS,
    )
    .map(({ row }) => row.hostId)
    .sort((one, other) => one - other);
