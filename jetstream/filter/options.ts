/**
 * What clients ask for: query strings of both endpoints and the messages of v1 become a Filter, or an error in the
 * protocol's own words. Pure; never throws, whatever the bytes; what it makes is bounded by limits.ts.
 * Sources: README of Jetstream, "Consuming Jetstream" and "Subscriber sourced messages" (v1); lexicon
 * network.bsky.jetstream.subscribeEvents (v2).
 */
import { KIND } from '../../src/firehose/types.ts';
import { isDid, isNsid, MAX_NSID_LENGTH } from '../../src/repo/syntax.ts';
import type { Filter } from '../types.ts';
import {
  MAX_CLOSE_REASON_BYTES,
  MAX_OPTIONS_UPDATE_BYTES,
  MAX_OPTIONS_UPDATE_VALUES,
  MAX_QUERY_CHARS,
  MAX_REPEATED_CHARS,
  MAX_WANTED_COLLECTIONS,
  MAX_WANTED_DIDS,
} from './limits.ts';

export interface V1Options {
  readonly filter: Filter;
  /** As it was given: µs since the epoch, or a seq below FIRST_CURSOR_US; may be negative. null: live. */
  readonly cursor: number | null;
  /** The client takes zstd frames. */
  readonly compress: boolean;
  /** Nothing is sent before the first valid options_update. */
  readonly requireHello: boolean;
  /** The extension: a message with the current cursor when the stream is quiet. */
  readonly heartbeat: boolean;
}

export interface V2Options {
  readonly filter: Filter;
  /** A seq, or µs since the epoch from FIRST_CURSOR_US on. null: live. */
  readonly cursor: number | null;
  /** A decimal number from 1 to 2^32 − 1, that no dictionary need have. null: no compression. */
  readonly zstdDictionary: string | null;
  readonly heartbeat: boolean;
}

export type V1Request =
  | { readonly ok: true; readonly options: V1Options }
  /** `text` is the body, plain text. */
  | { readonly ok: false; readonly status: 400; readonly text: string };

export type V2Request =
  | { readonly ok: true; readonly options: V2Options }
  /** The body is {error, message}, as every XRPC error's. */
  | { readonly ok: false; readonly status: 400; readonly error: 'InvalidRequest'; readonly message: string };

export type OptionsUpdate =
  | { readonly ok: true; readonly filter: Filter; readonly ignored?: undefined }
  /** Not for us: binary, too long, or of a type nobody knows. The connection stays. */
  | { readonly ignored: true; readonly ok?: undefined }
  /** To be closed with 1000 and this reason, which fits into a close frame. */
  | { readonly ok: false; readonly reason: string; readonly ignored?: undefined };

const kindBit = (kind: number): number => 1 << kind;

/** What v1 emits. */
export const V1_KINDS = kindBit(KIND.commit) | kindBit(KIND.identity) | kindBit(KIND.account);
/** What v2 emits. */
export const V2_KINDS = V1_KINDS | kindBit(KIND.sync);

/** A text for a close frame: at most 123 bytes of UTF-8, cut between characters. */
export const cutCloseReason = (text: string): string => {
  const bytes = new Uint8Array(MAX_CLOSE_REASON_BYTES);
  const { written } = new TextEncoder().encodeInto(text, bytes);
  return new TextDecoder().decode(bytes.subarray(0, written));
};

/** A value from outside as an error repeats it. */
const repeated = (value: string): string => value.slice(0, MAX_REPEATED_CHARS).toWellFormed();

type Wanted<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly problem: string };

const refuse = (problem: string): { readonly ok: false; readonly problem: string } => ({
  ok: false,
  problem,
});

/** `isHead`: whether the text before `.*` may be there; v1 takes any. */
const readCollections = (
  values: readonly string[],
  isHead: (head: string) => boolean,
): Wanted<Filter['collections']> => {
  if (values.length === 0) return { ok: true, value: null };
  const exact = new Set<string>();
  const prefixes = new Set<string>();
  /** Prefixes that are longer than any NSID match none: they count, but need not be kept. */
  let hopeless = 0;
  for (const value of values) {
    if (value.endsWith('.*') && isHead(value.slice(0, -2))) {
      if (value.length > MAX_NSID_LENGTH) hopeless++;
      else prefixes.add(value.slice(0, -1));
    } else if (isNsid(value)) {
      exact.add(value);
    } else {
      return refuse(`invalid collection: ${repeated(value)}`);
    }
    // One more than allowed is enough to know; whether the rest is valid is not.
    if (exact.size + prefixes.size + hopeless > MAX_WANTED_COLLECTIONS)
      return refuse('too many wanted collections');
  }
  return { ok: true, value: { exact, prefixes: [...prefixes] } };
};

const readDids = (values: readonly string[]): Wanted<ReadonlySet<string> | null> => {
  if (values.length === 0) return { ok: true, value: null };
  const dids = new Set<string>();
  for (const value of values) {
    if (!isDid(value)) return refuse(`invalid DID: ${repeated(value)}`);
    dids.add(value);
    if (dids.size > MAX_WANTED_DIDS) return refuse('too many wanted DIDs');
  }
  return { ok: true, value: dids };
};

const anyHead = (): boolean => true;

/** The head of a wildcard is right when a name after it makes an NSID. */
const isNsidHead = (head: string): boolean => isNsid(`${head}.x`);

/** v1: whatever is not a positive number of 32 bits means no cap. */
const readMaxMessageSize = (value: unknown): number => {
  const size =
    typeof value === 'number'
      ? value
      : typeof value === 'string' && /^\+?\d{1,15}$/.test(value)
        ? Number(value)
        : 0;
  return Number.isInteger(size) && size > 0 && size <= 0xffff_ffff ? size : 0;
};

const readV1Filter = (
  collections: readonly string[],
  dids: readonly string[],
  maxMessageSizeBytes: unknown,
): Wanted<Filter> => {
  const wantedCollections = readCollections(collections, anyHead);
  if (!wantedCollections.ok) return wantedCollections;
  const wantedDids = readDids(dids);
  if (!wantedDids.ok) return wantedDids;
  return {
    ok: true,
    value: {
      collections: wantedCollections.value,
      dids: wantedDids.value,
      kinds: V1_KINDS,
      maxMessageSizeBytes: readMaxMessageSize(maxMessageSizeBytes),
    },
  };
};

/**
 * A 64-bit signed integer in decimal digits, as a number (beyond 2^53 the nearest one, which as a cursor means the
 * same); null for any other text.
 */
const readInteger = (text: string): number | null => {
  if (!/^[+-]?\d{1,40}$/.test(text)) return null;
  const value = BigInt(text.startsWith('+') ? text.slice(1) : text);
  return BigInt.asIntN(64, value) === value ? Number(value) : null;
};

const badOptions = (problem: string): string => `invalid subscriber options: ${problem}`;

/**
 * Reads a request for `/subscribe`. Parameters that nobody knows are ignored; of one that is given twice but is no
 * list, the first counts.
 */
export const parseV1Request = (url: URL, headers: Headers): V1Request => {
  const bad = (text: string): V1Request => ({ ok: false, status: 400, text });
  if (url.search.length > MAX_QUERY_CHARS) return bad(badOptions('the query is too long'));
  const params = url.searchParams;

  const cursorText = params.get('cursor') ?? '';
  const cursor = cursorText === '' ? null : readInteger(cursorText);
  if (cursorText !== '' && cursor === null) return bad(`invalid cursor: ${repeated(cursorText)}`);

  const filter = readV1Filter(
    params.getAll('wantedCollections'),
    params.getAll('wantedDids'),
    params.get('maxMessageSizeBytes'),
  );
  if (!filter.ok) return bad(badOptions(filter.problem));
  return {
    ok: true,
    options: {
      filter: filter.value,
      cursor,
      compress:
        params.get('compress') === 'true' || (headers.get('socket-encoding')?.includes('zstd') ?? false),
      requireHello: params.get('requireHello') === 'true',
      heartbeat: params.get('heartbeat') === 'true',
    },
  };
};

const COMMA = 0x2c;
const OPEN_BRACKET = 0x5b;
const OPEN_BRACE = 0x7b;

/** Whether a JSON text may hold more values than MAX_OPTIONS_UPDATE_VALUES; commas inside of strings count, too. */
const hasTooManyValues = (text: string): boolean => {
  if (text.length <= MAX_OPTIONS_UPDATE_VALUES) return false;
  let count = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === COMMA || code === OPEN_BRACKET || code === OPEN_BRACE) count++;
  }
  return count > MAX_OPTIONS_UPDATE_VALUES;
};

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** null or absent: empty. undefined: not a list of texts. */
const readTexts = (value: unknown): readonly string[] | undefined => {
  if (value === undefined || value === null) return [];
  return Array.isArray(value) && value.every((item) => typeof item === 'string') ? value : undefined;
};

/** Reads a message that a v1 client sent: an options_update replaces all of its filter. */
export const parseOptionsUpdate = (message: string | Uint8Array): OptionsUpdate => {
  if (typeof message !== 'string') return { ignored: true };
  if (
    message.length > MAX_OPTIONS_UPDATE_BYTES ||
    (message.length * 3 > MAX_OPTIONS_UPDATE_BYTES && Buffer.byteLength(message) > MAX_OPTIONS_UPDATE_BYTES)
  ) {
    return { ignored: true };
  }
  const bad = (text: string): OptionsUpdate => ({ ok: false, reason: cutCloseReason(text) });
  if (hasTooManyValues(message)) return bad(badOptions('too many values'));

  let parsed: unknown;
  try {
    parsed = JSON.parse(message);
  } catch {
    return bad('invalid message: not JSON');
  }
  if (!isObject(parsed)) return bad('invalid message: not a JSON object');
  if (parsed.type !== 'options_update') return { ignored: true };
  const payload = parsed.payload;
  if (!isObject(payload)) return bad(badOptions('payload must be an object'));
  const collections = readTexts(payload.wantedCollections);
  if (collections === undefined) return bad(badOptions('wantedCollections must be a list of texts'));
  const dids = readTexts(payload.wantedDids);
  if (dids === undefined) return bad(badOptions('wantedDids must be a list of texts'));
  const filter = readV1Filter(collections, dids, payload.maxMessageSizeBytes);
  return filter.ok ? { ok: true, filter: filter.value } : bad(badOptions(filter.problem));
};

/** What v1 calls its parameters, and what to do instead. */
const V1_NAMES: Readonly<Record<string, string>> = {
  wantedCollections: 'use collections',
  wantedDids: 'use dids',
  compress: 'use zstdDictionary with the id of a dictionary from network.bsky.jetstream.getZstdDictionary',
  requireHello: 'clients send nothing here',
};

const KIND_BITS: Readonly<Record<string, number>> = {
  commit: kindBit(KIND.commit),
  identity: kindBit(KIND.identity),
  account: kindBit(KIND.account),
  sync: kindBit(KIND.sync),
};
const KIND_NAMES = Object.keys(KIND_BITS);

const readKinds = (values: readonly string[]): Wanted<number> => {
  if (values.length === 0) return { ok: true, value: V2_KINDS };
  if (values.length > KIND_NAMES.length) return refuse('too many kinds');
  let kinds = 0;
  for (const value of values) {
    if (!KIND_NAMES.includes(value)) {
      return refuse(`unknown kind: ${repeated(value)} (there are ${KIND_NAMES.join(', ')})`);
    }
    kinds |= KIND_BITS[value]!;
  }
  return { ok: true, value: kinds };
};

/** The value of a parameter that may be given once: null when absent or empty, undefined when repeated. */
const single = (params: URLSearchParams, name: string): string | null | undefined => {
  const values = params.getAll(name);
  return values.length > 1 ? undefined : values[0] || null;
};

/**
 * Reads a request for `network.bsky.jetstream.subscribeEvents`. Stricter than v1: what would silently match nothing
 * or everything is refused. Limits are on values as they were given, repeated ones included.
 */
export const parseV2Request = (url: URL): V2Request => {
  const bad = (message: string): V2Request => ({ ok: false, status: 400, error: 'InvalidRequest', message });
  if (url.search.length > MAX_QUERY_CHARS) return bad('the query is too long');
  const params = url.searchParams;

  for (const name in V1_NAMES) {
    if (params.has(name)) return bad(`${name} is a parameter of /subscribe; here ${V1_NAMES[name]}`);
  }

  const cursorText = single(params, 'cursor');
  if (cursorText === undefined) return bad('cursor must be given once');
  const cursor = cursorText === null ? null : readInteger(cursorText);
  if (cursorText !== null && (cursor === null || cursor < 0)) {
    return bad(`invalid cursor: ${repeated(cursorText)}`);
  }

  const kinds = readKinds(params.getAll('kinds'));
  if (!kinds.ok) return bad(kinds.problem);

  const givenCollections = params.getAll('collections');
  if (givenCollections.length > MAX_WANTED_COLLECTIONS) {
    return bad(`too many collections: at most ${MAX_WANTED_COLLECTIONS}`);
  }
  const collections = readCollections(givenCollections, isNsidHead);
  if (!collections.ok) return bad(collections.problem);
  if (collections.value !== null && (kinds.value & kindBit(KIND.commit)) === 0) {
    return bad('collections constrain commits only, and kinds excludes commit');
  }

  const givenDids = params.getAll('dids');
  if (givenDids.length > MAX_WANTED_DIDS) return bad(`too many dids: at most ${MAX_WANTED_DIDS}`);
  const dids = readDids(givenDids);
  if (!dids.ok) return bad(dids.problem);

  let maxMessageSizeBytes = 0;
  if (params.has('maxMessageSizeBytes')) {
    const text = single(params, 'maxMessageSizeBytes') ?? '';
    maxMessageSizeBytes = /^\d{1,10}$/.test(text) ? Number(text) : -1;
    if (maxMessageSizeBytes < 0 || maxMessageSizeBytes > 0xffff_ffff) {
      return bad('maxMessageSizeBytes must be given once, as an integer from 0 to 4294967295');
    }
  }

  const zstdDictionary = single(params, 'zstdDictionary');
  if (
    zstdDictionary === undefined ||
    (zstdDictionary !== null &&
      !(/^[1-9]\d{0,9}$/.test(zstdDictionary) && Number(zstdDictionary) <= 0xffff_ffff))
  ) {
    return bad('zstdDictionary must be given once, as the id of a dictionary');
  }

  return {
    ok: true,
    options: {
      filter: {
        collections: collections.value,
        dids: dids.value,
        kinds: kinds.value,
        maxMessageSizeBytes,
      },
      cursor,
      zstdDictionary,
      heartbeat: params.get('heartbeat') === 'true',
    },
  };
};
