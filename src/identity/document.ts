/**
 * DID document → what a relay needs of it.
 *
 * Contract: pure, never throws, looks at a bounded part of whatever JSON it is given. A document that lacks a
 * usable key, PDS or handle is still an identity, with null there; only one that is not this DID's is refused.
 * Sources: atproto spec, DID ("DID documents") and Cryptography ("public key encoding", legacy representations).
 */
import { ECDH } from 'node:crypto';
import { pdsHostOfEndpoint } from '../network/hostname.ts';
import { reject } from '../reasons.ts';
import { k256 } from '../repo/k256.ts';
import { decodeBase58 } from './base58.ts';
import type { Identity, IdentityResult } from './types.ts';

/** Real documents have one to three entries per list. */
const MAX_LIST_ENTRIES = 64;
/** A 65-byte key is at most 89 characters. */
const MAX_KEY_CHARS = 96;
const MAX_HANDLE_CHARS = 253;

const COMPRESSED_BYTES = 33;
const UNCOMPRESSED_BYTES = 65;
/** Multicodec p256-pub 0x1200 and secp256k1-pub 0xe7, as varints. */
const P256_PREFIX = [0x80, 0x24] as const;
const K256_PREFIX = [0xe7, 0x01] as const;

type SigningKey = NonNullable<Identity['signingKey']>;
type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const entriesOf = (list: unknown): readonly Fields[] =>
  Array.isArray(list) ? list.slice(0, MAX_LIST_ENTRIES).filter(isFields) : [];

/** The first entry with this fragment id, whatever else it says: a second one never stands in for a broken first. */
const entryById = (list: unknown, did: string, fragment: string): Fields | undefined =>
  entriesOf(list).find(({ id }) => id === fragment || id === did + fragment);

/**
 * Checks that a public key is a point on its curve.
 * @param bytes 33 bytes compressed or 65 uncompressed (SEC 1)
 * @returns the compressed key, or null
 */
export const compressKey = (type: 'p256' | 'k256', bytes: Uint8Array): SigningKey | null => {
  const isCompressed = bytes.length === COMPRESSED_BYTES && (bytes[0] === 2 || bytes[0] === 3);
  const isUncompressed = bytes.length === UNCOMPRESSED_BYTES && bytes[0] === 4;
  if (!isCompressed && !isUncompressed) return null;
  if (type === 'k256') {
    const point = k256().parse(bytes);
    return point === null ? null : { type, compressed: k256().compress(point) };
  }
  try {
    const compressed = ECDH.convertKey(bytes, 'prime256v1', undefined, undefined, 'compressed');
    return { type, compressed: Uint8Array.from(compressed as Uint8Array) };
  } catch {
    return null; // not on the curve
  }
};

/**
 * Reads the public key of one verification method: Multikey, or one of the two legacy types, whose multibase holds
 * the bare key without multicodec prefix.
 * @returns null when type, encoding or key are not usable
 */
export const parseSigningKey = (type: unknown, publicKeyMultibase: unknown): SigningKey | null => {
  if (typeof publicKeyMultibase !== 'string' || !publicKeyMultibase.startsWith('z')) return null;
  const bytes = decodeBase58(publicKeyMultibase.slice(1), MAX_KEY_CHARS);
  if (bytes === null) return null;
  switch (type) {
    case 'Multikey':
      if (bytes.length !== COMPRESSED_BYTES + 2) return null;
      if (bytes[0] === K256_PREFIX[0] && bytes[1] === K256_PREFIX[1]) {
        return compressKey('k256', bytes.subarray(2));
      }
      if (bytes[0] === P256_PREFIX[0] && bytes[1] === P256_PREFIX[1]) {
        return compressKey('p256', bytes.subarray(2));
      }
      return null;
    case 'EcdsaSecp256k1VerificationKey2019':
      return compressKey('k256', bytes);
    case 'EcdsaSecp256r1VerificationKey2019':
      return compressKey('p256', bytes);
    default:
      return null;
  }
};

/** atproto spec, Handle: the syntax only. */
const HANDLE = /^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

const parseHandle = (alias: unknown): string | null => {
  if (typeof alias !== 'string' || !alias.startsWith('at://')) return null;
  if (alias.length > MAX_HANDLE_CHARS + 'at://'.length) return null;
  const handle = alias.slice('at://'.length).toLowerCase();
  return HANDLE.test(handle) ? handle : null;
};

const handleOf = (alsoKnownAs: unknown): string | null => {
  if (!Array.isArray(alsoKnownAs)) return null;
  for (const alias of alsoKnownAs.slice(0, MAX_LIST_ENTRIES)) {
    const handle = parseHandle(alias);
    if (handle !== null) return handle;
  }
  return null;
};

/**
 * Reads a DID document.
 * @param did the DID that was asked for; the document's `id` must be it
 * @param json any parsed JSON
 * @param rules.allowInsecure development: http endpoints, ports, localhost
 * @returns the identity, or a lasting failure `did_document_invalid`
 */
export const parseDidDocument = (
  did: string,
  json: unknown,
  rules: { readonly allowInsecure: boolean },
): IdentityResult => {
  const invalid = (detail: string): IdentityResult => ({
    ...reject('did_document_invalid'),
    passing: false,
    detail,
  });
  if (!isFields(json)) return invalid('not a JSON object');
  if (json.id !== did) return invalid('the document is of another DID');
  const method = entryById(json.verificationMethod, did, '#atproto');
  const service = entryById(json.service, did, '#atproto_pds');
  const endpoint =
    service?.type === 'AtprotoPersonalDataServer' ? pdsHostOfEndpoint(service.serviceEndpoint, rules) : null;
  return {
    ok: true,
    identity: {
      did,
      pds: endpoint?.hostname ?? null,
      signingKey: method === undefined ? null : parseSigningKey(method.type, method.publicKeyMultibase),
      handle: handleOf(json.alsoKnownAs),
    },
  };
};
