/**
 * Collections out of whatever lists them: a line each, commas, JSON, Markdown, a page for language models, HTML. Pure;
 * linear in the length of the text, whatever it holds.
 *
 * What reads like an NSID is taken for one. A host name in a text may read like one too: asking for a collection that
 * nobody has costs one request, and missing one costs its repos. What stands where only a host can (after `//` or
 * `@`) is left out.
 */
import { isNsid, MAX_NSID_LENGTH } from '../repo/syntax.ts';

/** The largest published lists are some 100 KB. */
export const MAX_LIST_BYTES = 16 * 1024 * 1024;
/** Collections of one run: the network has some thousands. */
export const MAX_NAMED_COLLECTIONS = 50_000;

const WORD = /[A-Za-z0-9.-]+/g;
const DOT = 0x2e;
const HYPHEN = 0x2d;

/** Whether text[start] begins the host part of a URL or of an address. */
const isHostAt = (text: string, start: number): boolean => {
  if (start >= 1 && text[start - 1] === '@') return true;
  if (start >= 2 && text[start - 1] === '/' && text[start - 2] === '/') return true;
  return start >= 8 && text.startsWith('did:web:', start - 8);
};

/** `com.example.*` names a family, not a collection. */
const isFamily = (text: string, end: number): boolean => text[end] === '*' && text[end - 1] === '.';

/**
 * The collections that a text names, each once, in the order they come.
 * @returns at most MAX_NAMED_COLLECTIONS
 */
export const parseCollectionList = (text: string): string[] => {
  const found = new Set<string>();
  for (const match of text.matchAll(WORD)) {
    let start = match.index;
    let end = start + match[0].length;
    if (isFamily(text, end) || isHostAt(text, start) || text[end] === '@') continue;
    while (end > start && (text.charCodeAt(end - 1) === DOT || text.charCodeAt(end - 1) === HYPHEN)) end--;
    while (start < end && (text.charCodeAt(start) === DOT || text.charCodeAt(start) === HYPHEN)) start++;
    if (end - start > MAX_NSID_LENGTH) continue;
    const word = text.slice(start, end);
    if (!isNsid(word)) continue;
    found.add(word);
    if (found.size >= MAX_NAMED_COLLECTIONS) break;
  }
  return [...found];
};
