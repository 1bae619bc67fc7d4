/**
 * Which IP addresses weir may open a connection to when the name came from outside.
 *
 * Contract: pure; an address that is not plainly a public unicast one is refused, and what cannot be parsed is
 * refused too. Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and successors).
 */

const MAX_ADDRESS_CHARS = 45; // the longest textual IPv6 address

/** [first address, prefix length, what it is] */
const FORBIDDEN_IPV4: readonly (readonly [string, number, string])[] = [
  ['0.0.0.0', 8, 'unspecified'],
  ['10.0.0.0', 8, 'private'],
  ['100.64.0.0', 10, 'carrier-grade NAT'],
  ['127.0.0.0', 8, 'loopback'],
  ['169.254.0.0', 16, 'link-local'],
  ['172.16.0.0', 12, 'private'],
  ['192.0.0.0', 24, 'reserved'],
  ['192.0.2.0', 24, 'documentation'],
  ['192.31.196.0', 24, 'reserved'],
  ['192.52.193.0', 24, 'reserved'],
  ['192.88.99.0', 24, 'reserved'],
  ['192.168.0.0', 16, 'private'],
  ['192.175.48.0', 24, 'reserved'],
  ['198.18.0.0', 15, 'benchmark'],
  ['198.51.100.0', 24, 'documentation'],
  ['203.0.113.0', 24, 'documentation'],
  ['224.0.0.0', 4, 'multicast'],
  ['255.255.255.255', 32, 'broadcast'],
  ['240.0.0.0', 4, 'reserved'],
];

/**
 * Parses a dotted-decimal IPv4 address: exactly four numbers 0–255 without leading zeros.
 * @returns the address as an unsigned 32-bit number, or null
 */
export const parseIpv4 = (text: string): number | null => {
  if (text.length > 15) return null;
  const parts = text.split('.');
  if (parts.length !== 4) return null;
  let value = 0;
  for (const part of parts) {
    if (!/^(?:0|[1-9]\d{0,2})$/.test(part)) return null;
    const byte = Number(part);
    if (byte > 255) return null;
    value = value * 256 + byte;
  }
  return value;
};

/**
 * Parses an IPv6 address in any RFC 4291 text form, the one with an IPv4 tail included; no zone, no brackets.
 * @returns eight 16-bit groups, or null
 */
export const parseIpv6 = (text: string): number[] | null => {
  if (text.length > MAX_ADDRESS_CHARS || !text.includes(':')) return null;
  const halves = text.split('::');
  if (halves.length > 2) return null;
  const groupsOf = (half: string, isLast: boolean): number[] | null => {
    if (half === '') return [];
    const groups: number[] = [];
    const parts = half.split(':');
    for (const [index, part] of parts.entries()) {
      if (part.includes('.')) {
        const embedded = isLast && index === parts.length - 1 ? parseIpv4(part) : null;
        if (embedded === null) return null;
        groups.push(embedded >>> 16, embedded & 0xffff);
      } else {
        if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return null;
        groups.push(Number.parseInt(part, 16));
      }
    }
    return groups;
  };
  const head = groupsOf(halves[0]!, halves.length === 1);
  if (head === null) return null;
  if (halves.length === 1) return head.length === 8 ? head : null;
  const tail = groupsOf(halves[1]!, true);
  if (tail === null || head.length + tail.length > 7) return null;
  return [...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail];
};

const forbiddenIpv4Ranges = FORBIDDEN_IPV4.map(([first, prefixBits, what]) => ({
  first: parseIpv4(first)!,
  size: 2 ** (32 - prefixBits),
  what,
}));

const forbiddenIpv4 = (value: number): string | null => {
  for (const { first, size, what } of forbiddenIpv4Ranges) {
    if (value >= first && value < first + size) return what;
  }
  return null;
};

const forbiddenIpv6 = (groups: readonly number[]): string | null => {
  const first = groups[0]!;
  const second = groups[1]!;
  // Loopback, link-local, unique local, multicast, v4-mapped and NAT64 all lie outside the global unicast block.
  if (first >>> 13 !== 1) return 'not global unicast';
  if (first === 0x2001) {
    if (second === 0x0db8) return 'documentation';
    if (second === 0) return 'Teredo';
    if (second >= 0x10 && second <= 0x2f) return 'ORCHID';
    if (second < 0x200) return 'reserved';
  }
  if (first === 0x2002) {
    const embedded = forbiddenIpv4(second * 0x10000 + groups[2]!);
    if (embedded !== null) return `6to4 of ${embedded}`;
  }
  if (first === 0x3fff && second < 0x1000) return 'documentation';
  return null;
};

/**
 * Says why an address may not be connected to.
 * @param ip textual IPv4 or IPv6 address as a resolver gives it: no brackets, no zone
 * @returns null when it is a public unicast address, otherwise what it is ('private', 'loopback', …);
 * 'not an address' when it cannot be parsed
 */
export const forbiddenAddress = (ip: string): string | null => {
  const ipv4 = parseIpv4(ip);
  if (ipv4 !== null) return forbiddenIpv4(ipv4);
  const ipv6 = parseIpv6(ip);
  return ipv6 === null ? 'not an address' : forbiddenIpv6(ipv6);
};
