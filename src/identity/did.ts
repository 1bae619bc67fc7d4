/** DID syntax that a relay can resolve. Source: atproto spec, DID (blessed methods did:plc and did:web). */
import { parseHostname } from '../network/hostname.ts';

/** 'did:web:' and a host name with an encoded port. */
const MAX_DID_CHARS = 8 + 253 + 8;
const PLC = /^did:plc:[a-z2-7]{24}$/;
const WEB_PREFIX = 'did:web:';

export type ParsedDid =
  | { readonly method: 'plc'; readonly did: string }
  | {
      readonly method: 'web';
      readonly did: string;
      /** hostname, in development also hostname:port. */
      readonly hostname: string;
      /** Where its document is. */
      readonly url: string;
    };

/**
 * Reads a did:plc (exactly 24 base32 characters) or a did:web (a host name only; no path).
 * @param rules.allowInsecure development: hosts with an encoded port (`localhost%3A2583`), fetched by http
 * @returns null for every other text; never throws
 */
export const parseDid = (did: unknown, rules: { readonly allowInsecure: boolean }): ParsedDid | null => {
  if (typeof did !== 'string' || did.length > MAX_DID_CHARS) return null;
  if (PLC.test(did)) return { method: 'plc', did };
  if (!did.startsWith(WEB_PREFIX)) return null;
  const encoded = did.slice(WEB_PREFIX.length);
  if (!/^[a-z0-9.-]+(?:%3[aA]\d{1,5})?$/.test(encoded)) return null;
  const parsed = parseHostname(encoded.replace(/%3a/i, ':'), { allowLocalhost: rules.allowInsecure });
  if (!parsed.ok) return null;
  const { hostname } = parsed;
  const isLocal = hostname.includes(':') || hostname === 'localhost';
  return {
    method: 'web',
    did,
    hostname,
    url: `${isLocal ? 'http' : 'https'}://${hostname}/.well-known/did.json`,
  };
};
