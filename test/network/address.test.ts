import { describe, expect, test } from 'bun:test';
import { isIPv4, isIPv6 } from 'node:net';
import fc from 'fast-check';
import { forbiddenAddress, parseIpv4, parseIpv6 } from '../../src/network/address.ts';

const forbidden: readonly (readonly [string, string])[] = [
  ['0.0.0.0', 'unspecified'],
  ['0.1.2.3', 'unspecified'],
  ['10.0.0.0', 'private'],
  ['10.255.255.255', 'private'],
  ['100.64.0.0', 'carrier-grade NAT'],
  ['100.127.255.255', 'carrier-grade NAT'],
  ['127.0.0.1', 'loopback'],
  ['127.255.255.255', 'loopback'],
  ['169.254.169.254', 'link-local'],
  ['172.16.0.0', 'private'],
  ['172.31.255.255', 'private'],
  ['192.0.0.8', 'reserved'],
  ['192.0.2.1', 'documentation'],
  ['192.88.99.1', 'reserved'],
  ['192.168.1.1', 'private'],
  ['198.18.0.0', 'benchmark'],
  ['198.19.255.255', 'benchmark'],
  ['198.51.100.7', 'documentation'],
  ['203.0.113.9', 'documentation'],
  ['224.0.0.1', 'multicast'],
  ['239.255.255.255', 'multicast'],
  ['240.0.0.1', 'reserved'],
  ['255.255.255.254', 'reserved'],
  ['255.255.255.255', 'broadcast'],
  ['::', 'not global unicast'],
  ['::1', 'not global unicast'],
  ['::ffff:8.8.8.8', 'not global unicast'],
  ['::ffff:7f00:1', 'not global unicast'],
  ['::8.8.8.8', 'not global unicast'],
  ['64:ff9b::8.8.8.8', 'not global unicast'],
  ['64:ff9b:1::1', 'not global unicast'],
  ['100::1', 'not global unicast'],
  ['fc00::1', 'not global unicast'],
  ['fd12:3456::1', 'not global unicast'],
  ['fe80::1', 'not global unicast'],
  ['fec0::1', 'not global unicast'],
  ['ff02::1', 'not global unicast'],
  ['4000::1', 'not global unicast'],
  ['2001::1', 'Teredo'],
  ['2001:2::1', 'reserved'],
  ['2001:10::1', 'ORCHID'],
  ['2001:2f::1', 'ORCHID'],
  ['2001:1ff::1', 'reserved'],
  ['2001:db8::1', 'documentation'],
  ['2002:7f00:1::', '6to4 of loopback'],
  ['2002:0a00:1::', '6to4 of private'],
  ['2002:c0a8:101::1', '6to4 of private'],
  ['3fff::1', 'documentation'],
  ['3fff:fff::1', 'documentation'],
];

const allowed = [
  '1.1.1.1',
  '8.8.8.8',
  '9.255.255.255',
  '11.0.0.0',
  '100.63.255.255',
  '100.128.0.0',
  '126.255.255.255',
  '128.0.0.0',
  '172.15.255.255',
  '172.32.0.0',
  '192.167.255.255',
  '192.169.0.0',
  '198.17.255.255',
  '198.20.0.0',
  '223.255.255.255',
  '2001:200::1',
  '2001:4860:4860::8888',
  '2002:0808:0808::1',
  '2606:4700::1111',
  '2a01:4f8::1',
  '3fff:1000::1',
];

const octet = fc.integer({ min: 0, max: 255 });
const group = fc.integer({ min: 0, max: 0xffff }).map((value) => value.toString(16));

describe('the address guard', () => {
  test.each(forbidden)('refuses %s as %s', (address, why) => {
    expect(forbiddenAddress(address)).toBe(why);
  });

  test.each(allowed)('lets %s pass', (address) => {
    expect(forbiddenAddress(address)).toBeNull();
  });

  test.each([
    '',
    'example.com',
    '1.2.3',
    '1.2.3.4.5',
    '01.2.3.4',
    '256.1.1.1',
    '0x7f.0.0.1',
    '2130706433',
    ' 8.8.8.8',
    '8.8.8.8 ',
    '[2606:4700::1111]',
    'fe80::1%eth0',
    '2606:4700::1111%1',
    ':::',
    '1:2:3:4:5:6:7:8:9',
    '1::2::3',
  ])('refuses %p as no address', (text) => {
    expect(forbiddenAddress(text)).toBe('not an address');
  });

  test('agrees with the platform on what an address is', () => {
    const nearly = fc.oneof(
      fc.string({ maxLength: 50 }),
      fc.stringMatching(/^[0-9a-f:.]{0,45}$/),
      fc.ipV4(),
      fc.ipV4Extended(),
      fc.ipV6(),
    );
    fc.assert(
      fc.property(nearly, (text) => {
        expect(parseIpv4(text) !== null).toBe(isIPv4(text));
        if (!text.includes('%')) expect(parseIpv6(text) !== null).toBe(isIPv6(text));
      }),
      { numRuns: 3000 },
    );
  });

  test('refuses every IPv4 address again in each way IPv6 can carry it', () => {
    fc.assert(
      fc.property(octet, octet, octet, octet, (a, b, c, d) => {
        const ipv4 = `${a}.${b}.${c}.${d}`;
        const hex = [(a << 8) | b, (c << 8) | d].map((value) => value.toString(16)).join(':');
        for (const carried of [`::ffff:${ipv4}`, `::${ipv4}`, `64:ff9b::${ipv4}`, `::ffff:0:${hex}`]) {
          expect(forbiddenAddress(carried)).not.toBeNull();
        }
        expect(forbiddenAddress(`2002:${hex}::1`) === null).toBe(forbiddenAddress(ipv4) === null);
      }),
    );
  });

  test('lets nothing pass outside 2000::/3', () => {
    fc.assert(
      fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (groups) => {
        const first = Number.parseInt(groups[0]!, 16);
        const why = forbiddenAddress(groups.join(':'));
        if (first < 0x2000 || first > 0x3fff) expect(why).toBe('not global unicast');
      }),
    );
  });

  test('judges an IPv6 address the same however it is written', () => {
    fc.assert(
      fc.property(fc.ipV6(), (text) => {
        const groups = parseIpv6(text)!;
        const written = groups.map((value) => value.toString(16).padStart(4, '0').toUpperCase()).join(':');
        expect(parseIpv6(written)).toEqual(groups);
        expect(forbiddenAddress(written)).toBe(forbiddenAddress(text));
      }),
    );
  });
});
