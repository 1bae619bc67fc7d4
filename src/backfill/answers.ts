/**
 * What other servers answer, read strictly where it matters and kindly where it does not: an answer that is not what
 * the lexicon says is null, an entry that is not is left out and counted. Pure; never throws.
 * Sources: the lexicons com.atproto.sync.listReposByCollection, com.atproto.sync.listRepos,
 * com.atproto.repo.describeRepo; collectiondir's /v1/listCollections.
 */
import { parseDid } from '../identity/did.ts';
import { isDid, isNsid, isTid, tidMicroseconds } from '../repo/syntax.ts';
import { MAX_NAMED_COLLECTIONS } from './collection-list.ts';

/** The lexicon's maximum is 2,000, some servers give what they like: more of one page is not looked at. */
export const MAX_PAGE_ENTRIES = 10_000;
/** Collections of one repo: the busiest known have some hundred. */
export const MAX_COLLECTIONS_OF_ANSWER = 5_000;
/** Stored with every page. */
export const MAX_CURSOR_CHARS = 1_000;
const MAX_STATUS_CHARS = 64;
const MAX_ERROR_CHARS = 100;
/** A rev further ahead of now is nonsense, and would keep a true one out. */
const MAX_REV_AHEAD_MS = 5 * 60_000;

const decoder = new TextDecoder('utf-8', { fatal: true });

const parseObject = (body: Uint8Array): Record<string, unknown> | null => {
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(body));
  } catch {
    return null;
  }
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : null;
};

/** undefined: there is one that we cannot store or send back. */
const cursorOf = (value: unknown): string | null | undefined => {
  if (value === undefined || value === null || value === '') return null;
  if (typeof value === 'number' && Number.isSafeInteger(value)) return String(value);
  if (typeof value !== 'string' || value.length > MAX_CURSOR_CHARS || value.includes('\u0000'))
    return undefined;
  // A half of a pair has no UTF-8: it could be neither stored nor sent.
  return value.isWellFormed() ? value : undefined;
};

export interface DidPage {
  readonly dids: readonly string[];
  readonly cursor: string | null;
  /** Entries that name no DID we could ever resolve. */
  readonly invalid: number;
}

/** A page of listReposByCollection. null: it is not one. */
export const parseDidPage = (
  body: Uint8Array,
  rules: { readonly allowInsecure: boolean },
): DidPage | null => {
  const page = parseObject(body);
  const cursor = cursorOf(page?.cursor);
  if (page === null || !Array.isArray(page.repos) || cursor === undefined) return null;
  const dids = new Set<string>();
  let invalid = Math.max(0, page.repos.length - MAX_PAGE_ENTRIES);
  for (const entry of page.repos.slice(0, MAX_PAGE_ENTRIES) as unknown[]) {
    const did = typeof entry === 'object' && entry !== null ? (entry as { did?: unknown }).did : entry;
    const parsed = parseDid(did, rules);
    if (parsed === null) invalid++;
    else dids.add(parsed.did);
  }
  return { dids: [...dids], cursor, invalid };
};

export interface CountsPage {
  readonly counts: ReadonlyMap<string, number>;
  readonly cursor: string | null;
}

const countOf = (value: unknown): number | null =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : null;

/**
 * A page of counts per collection: `{collections: {nsid: count}}` as collectiondir has it, or a list of objects that
 * name the collection and perhaps a count. null: it is not one.
 */
export const parseCountsPage = (body: Uint8Array): CountsPage | null => {
  const page = parseObject(body);
  const cursor = cursorOf(page?.cursor);
  if (page === null || cursor === undefined) return null;
  const counts = new Map<string, number>();
  const { collections } = page;
  if (Array.isArray(collections)) {
    for (const entry of collections.slice(0, MAX_NAMED_COLLECTIONS) as unknown[]) {
      const { collection, nsid, name, count, dids, repos } = (
        typeof entry === 'object' && entry !== null ? entry : { collection: entry }
      ) as Record<string, unknown>;
      const id = collection ?? nsid ?? name;
      if (typeof id === 'string' && isNsid(id)) counts.set(id, countOf(count ?? dids ?? repos) ?? 0);
    }
    return { counts, cursor };
  }
  if (typeof collections !== 'object' || collections === null) return null;
  for (const [id, count] of Object.entries(collections)) {
    if (counts.size >= MAX_NAMED_COLLECTIONS) break;
    if (isNsid(id)) counts.set(id, countOf(count) ?? 0);
  }
  return { counts, cursor };
};

/** One entry of listRepos. */
export interface ListedRepo {
  readonly did: string;
  /** null = active. */
  readonly status: string | null;
  /** null: not a rev that we could keep. */
  readonly rev: string | null;
  /** Digest of `head`, a CIDv1 of dag-cbor and sha-256; null: it is not one. */
  readonly commit: Uint8Array | null;
}

export interface ListedPage {
  readonly repos: readonly ListedRepo[];
  readonly cursor: string | null;
  readonly invalid: number;
}

const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';
/** CIDv1, dag-cbor, sha-256, 32 bytes. */
const CID_HEAD = [0x01, 0x71, 0x12, 0x20] as const;

/** The digest in the text form of a commit's CID (multibase base32, "b…"); null for any other CID or text. */
export const commitDigestOf = (text: unknown): Uint8Array | null => {
  if (typeof text !== 'string' || text.length !== 59 || text[0] !== 'b') return null;
  const bytes = new Uint8Array(36);
  let bits = 0;
  let value = 0;
  let at = 0;
  for (let index = 1; index < text.length; index++) {
    const digit = BASE32.indexOf(text[index]!);
    if (digit === -1) return null;
    value = (value << 5) | digit;
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      bytes[at++] = (value >>> bits) & 0xff;
      value &= (1 << bits) - 1;
    }
  }
  // The two bits left over must be zero, or the text would be a second name of the same CID.
  if (value !== 0 || CID_HEAD.some((byte, index) => bytes[index] !== byte)) return null;
  return bytes.slice(4);
};

/** A page of listRepos. null: it is not one. */
export const parseListedPage = (
  body: Uint8Array,
  rules: { readonly allowInsecure: boolean; readonly nowMs: number },
): ListedPage | null => {
  const page = parseObject(body);
  const cursor = cursorOf(page?.cursor);
  if (page === null || !Array.isArray(page.repos) || cursor === undefined) return null;
  const repos = new Map<string, ListedRepo>();
  let invalid = Math.max(0, page.repos.length - MAX_PAGE_ENTRIES);
  for (const entry of page.repos.slice(0, MAX_PAGE_ENTRIES) as unknown[]) {
    if (typeof entry !== 'object' || entry === null) {
      invalid++;
      continue;
    }
    const { did, rev, head, active, status } = entry as Record<string, unknown>;
    const parsed = parseDid(did, rules);
    if (parsed === null) {
      invalid++;
      continue;
    }
    const text = typeof status === 'string' && status !== '' ? status.slice(0, MAX_STATUS_CHARS) : null;
    const goodRev =
      typeof rev === 'string' && isTid(rev) && tidMicroseconds(rev) / 1000 <= rules.nowMs + MAX_REV_AHEAD_MS;
    repos.set(parsed.did, {
      did: parsed.did,
      // `active` came later than the lexicon: without it, a repo that is listed is there.
      status: active === false ? (text ?? 'deactivated') : null,
      rev: goodRev ? rev : null,
      commit: commitDigestOf(head),
    });
  }
  return { repos: [...repos.values()], cursor, invalid };
};

/**
 * The collections of a repo, out of describeRepo's answer. null: it is not such an answer, or about another repo, or
 * it names more than MAX_COLLECTIONS_OF_ANSWER: taking a part of it for the whole would take the others out.
 */
export const parseDescription = (
  body: Uint8Array,
  did: string,
): { readonly collections: readonly string[]; readonly invalid: number } | null => {
  const answer = parseObject(body);
  if (answer === null || answer.did !== did || !Array.isArray(answer.collections)) return null;
  if (answer.collections.length > MAX_COLLECTIONS_OF_ANSWER) return null;
  const collections = new Set<string>();
  let invalid = 0;
  for (const collection of answer.collections as unknown[]) {
    if (typeof collection === 'string' && isNsid(collection)) collections.add(collection);
    else invalid++;
  }
  return { collections: [...collections], invalid };
};

/** The `error` of an XRPC failure; '' when there is none. */
export const errorNameOf = (body: Uint8Array): string => {
  const error = parseObject(body)?.error;
  return typeof error === 'string' ? error.slice(0, MAX_ERROR_CHARS) : '';
};

/** DIDs of a file, one a line; what follows a space, a comma or `#` is a comment. */
export const parseDidList = (
  text: string,
  maxDids: number,
): { readonly dids: string[]; readonly invalid: number; readonly isWhole: boolean } => {
  const dids = new Set<string>();
  let invalid = 0;
  let from = 0;
  while (from < text.length) {
    let end = text.indexOf('\n', from);
    if (end === -1) end = text.length;
    const word = /^[^\s,#;"]*/.exec(
      text
        .slice(from, Math.min(end, from + 4_096))
        .trim()
        .replace(/^"/, ''),
    )![0];
    from = end + 1;
    if (word === '') continue;
    if (!isDid(word)) invalid++;
    else if (dids.size >= maxDids && !dids.has(word)) return { dids: [...dids], invalid, isWhole: false };
    else dids.add(word);
  }
  return { dids: [...dids], invalid, isWhole: true };
};
