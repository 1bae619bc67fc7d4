/**
 * The one place that says what a host's name looks like: requestCrawl, the configured host list, the PDS endpoint
 * of DID documents and did:web all go through it, so that one host has one spelling everywhere.
 *
 * Contract: pure; the answer is lower case, a real domain name of at least two labels without port, never an IP
 * address in any spelling. With `allowLocalhost` (development and private deployments) also single labels,
 * reserved top-level domains and `:port`; IP addresses not even then.
 */

const MAX_HOSTNAME_CHARS = 253; // RFC 1035
const MAX_PORT_CHARS = 6; // ':65535'
const MAX_ENDPOINT_CHARS = MAX_HOSTNAME_CHARS + MAX_PORT_CHARS + 'https:///'.length;

/** Top-level domains that cannot name a public host: RFC 6761, 6762, 7686, 8375, 9476, ICANN's .internal, and common private ones. */
const RESERVED_TOP_LEVEL: ReadonlySet<string> = new Set([
  'alt',
  'arpa',
  'corp',
  'example',
  'home',
  'internal',
  'intranet',
  'invalid',
  'lan',
  'local',
  'localdomain',
  'localhost',
  'mail',
  'onion',
  'private',
  'test',
]);

export interface HostnameRules {
  /** Accept localhost, single labels, reserved top-level domains and ports. */
  readonly allowLocalhost: boolean;
}

export type HostnameResult =
  | { readonly ok: true; readonly hostname: string }
  /** `error`: one sentence for people, without the input in it. */
  | { readonly ok: false; readonly error: string };

const refuse = (error: string): HostnameResult => ({ ok: false, error });

const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const PORT = /^[1-9]\d{0,4}$/;

/**
 * Checks and normalizes a host name that came from outside.
 * @param text a host name, ASCII (punycode for the rest); with `allowLocalhost` optionally `name:port`
 * @returns the name in lower case, or one sentence that says what is wrong with it; never throws
 */
export const parseHostname = (text: unknown, rules: HostnameRules): HostnameResult => {
  if (typeof text !== 'string' || text === '') return refuse('hostname is missing');
  if (text.length > MAX_HOSTNAME_CHARS + MAX_PORT_CHARS) return refuse('hostname is too long');
  let name = text.toLowerCase();
  let port = '';
  if (name.includes('://')) return refuse('hostname must not be a URL');
  if (name.startsWith('[') || name.indexOf(':') !== name.lastIndexOf(':')) {
    return refuse('hostname must not be an IP address');
  }
  const colon = name.indexOf(':');
  if (colon !== -1) {
    if (!rules.allowLocalhost) return refuse('hostname must not have a port');
    port = name.slice(colon + 1);
    name = name.slice(0, colon);
    if (!PORT.test(port) || Number(port) > 65535) return refuse('hostname has an invalid port');
  }
  if (name.length > MAX_HOSTNAME_CHARS) return refuse('hostname is too long');
  const labels = name.split('.');
  for (const label of labels) {
    if (!LABEL.test(label)) return refuse('hostname is not a domain name');
  }
  const topLevel = labels[labels.length - 1]!;
  // A name whose last label starts with a digit is read as an IPv4 address by some parser: dotted, decimal, octal or hex.
  if (!/^[a-z]/.test(topLevel)) return refuse('hostname must not be an IP address');
  if (!rules.allowLocalhost) {
    if (labels.length < 2) return refuse('hostname must have at least two labels');
    if (topLevel.length < 2) return refuse('hostname is not a domain name');
    if (RESERVED_TOP_LEVEL.has(topLevel)) return refuse('hostname is under a reserved top-level domain');
  }
  return { ok: true, hostname: port === '' ? name : `${name}:${port}` };
};

export interface PdsEndpoint {
  /** hostname, or hostname:port when the port is not the scheme's default. */
  readonly hostname: string;
  /** https. */
  readonly secure: boolean;
}

export interface EndpointRules {
  /** Accept http, ports and everything that `allowLocalhost` of parseHostname accepts. */
  readonly allowInsecure: boolean;
}

/**
 * The host behind a `serviceEndpoint` of a DID document (atproto spec: DID, "the URL must not have a path").
 * @param endpoint an https URL: no userinfo, no path but '/', no query or fragment
 * @returns null when it is not such a URL; never throws
 */
export const pdsHostOfEndpoint = (endpoint: unknown, rules: EndpointRules): PdsEndpoint | null => {
  if (typeof endpoint !== 'string' || endpoint.length > MAX_ENDPOINT_CHARS) return null;
  const match = /^(https?):\/\/([A-Za-z0-9.-]+)(?::(\d{1,5}))?\/?$/i.exec(endpoint);
  if (match === null) return null;
  const secure = match[1]!.toLowerCase() === 'https';
  if (!secure && !rules.allowInsecure) return null;
  const isDefaultPort = match[3] === undefined || Number(match[3]) === (secure ? 443 : 80);
  const parsed = parseHostname(isDefaultPort ? match[2] : `${match[2]}:${match[3]}`, {
    allowLocalhost: rules.allowInsecure,
  });
  return parsed.ok ? { hostname: parsed.hostname, secure } : null;
};
