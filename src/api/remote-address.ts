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
 * all of them.
 */
export const addressKey = (address: string): string => {
  if (!address.includes(':')) return address;
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped !== null) return mapped[1]!;
  const halves = address.toLowerCase().split('::');
  const head = halves[0] === '' ? [] : halves[0]!.split(':');
  if (halves.length === 1) return head.slice(0, 4).join(':');
  const tail = halves[1] === '' ? [] : halves[1]!.split(':');
  const zeros = Math.max(0, 8 - head.length - tail.length);
  const groups = [...head, ...Array.from({ length: zeros }, () => '0'), ...tail];
  return groups.slice(0, 4).join(':');
};
