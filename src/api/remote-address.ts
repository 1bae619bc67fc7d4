import { parseIpv6 } from '../network/address.ts';

/** Whether an address is this machine: 127.0.0.0/8, ::1, and IPv4 in IPv6 notation. */
export const isLoopback = (address: string): boolean =>
  address === '::1' || /^(::ffff:)?127\./i.test(address) || address === '';

/**
 * The address that limits apply to. A peer on this machine may be a reverse proxy: then the last entry of its
 * X-Forwarded-For, the one the proxy itself added, counts. From any other peer the header is ignored, since
 * anyone can write it.
 */
export const remoteAddressOf = (peer: string, headers: Headers): string => {
  if (!isLoopback(peer)) return peer;
  const forwarded = headers.get('x-forwarded-for');
  if (forwarded === null) return peer;
  const last = forwarded.slice(forwarded.lastIndexOf(',') + 1).trim();
  return /^[0-9a-fA-F.:]{2,45}$/.test(last) ? last : peer;
};

/**
 * The key by which an address is counted: IPv4 whole, IPv6 by its /64, since whoever has one address there has
 * all of them; IPv4 in IPv6 notation as IPv4.
 */
export const addressKey = (address: string): string => {
  if (!address.includes(':')) return address;
  const groups = parseIpv6(address);
  if (groups === null) return address;
  const isMapped = groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff;
  if (isMapped) return [groups[6]! >>> 8, groups[6]! & 255, groups[7]! >>> 8, groups[7]! & 255].join('.');
  return groups
    .slice(0, 4)
    .map((group) => group.toString(16))
    .join(':');
};
