/**
 * Takes people out of messages, so that a dictionary can be trained on what is left.
 *
 * Promises: of the strings and numbers of a message nothing stays but what structure.ts lists; every other string is
 * made up anew, with its shape and about its length, and so is every number of four digits or more. Names of fields
 * are strings, too. What comes out is JSON as compact as what went in, with the fields in the same order.
 */
import type { Random } from '../../simulator/random.ts';
import { HANDLE_ENDINGS, isStructure, KEYS, LINK_STARTS, TYPES } from './structure.ts';
import {
  base32,
  base64,
  blobCid,
  didPlc,
  digits,
  instantMs,
  letters,
  recordCid,
  tid,
} from './synthetic/shapes.ts';
import { madeText } from './synthetic/words.ts';

/** As deep as messages are scrubbed; what is deeper is left out. Records may not be deeper (see jetstream/encode). */
const MAX_DEPTH = 64;
/** Numbers below this say little: widths, heights, counts. */
const KEPT_BELOW = 1_000;
/** Numbers that are taken for microseconds since the epoch, of 2017 to 2033. */
const MICROSECONDS = { from: 1.5e15, to: 2e15 };
const MAX_KEY_LENGTH = 24;

const BLOB_CID = /^bafkrei[a-z2-7]{52}$/;
const CID = /^b[a-z2-7]{20,}$/;
const TID = /^[2-7a-j][2-7a-z]{12}$/;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)$/;
const HANDLE = /^(?:[a-z0-9-]{1,63}\.)+[a-z][a-z0-9-]{1,62}$/i;
const BASE64 = /^[A-Za-z0-9+/]{24,}={0,2}$/;

interface Scrubbing {
  readonly random: Random;
  /** When the made-up message happens. */
  readonly ms: number;
  /** What strings of this message became. */
  readonly made: Map<string, string>;
}

/** Letters and digits made up anew; what stands between them stays. */
const likeThis = (random: Random, text: string): string =>
  text.replace(/[^\x21-\x7e]|[A-Za-z]+|\d+/g, (part) => {
    if (/^\d/.test(part)) return digits(random, part.length);
    return /^[A-Za-z]/.test(part) ? letters(random, part.length) : '_';
  });

const did = (random: Random, text: string): string =>
  text.startsWith('did:plc:')
    ? didPlc(random)
    : text.startsWith('did:web:')
      ? `did:web:${likeThis(random, text.slice(8).toLowerCase())}`
      : `did:${likeThis(random, text.slice(4))}`;

const handle = (random: Random, text: string): string => {
  const ending = HANDLE_ENDINGS.find((each) => text.endsWith(each)) ?? '';
  return likeThis(random, text.slice(0, text.length - ending.length)) + ending;
};

const url = (random: Random, text: string): string => {
  const start =
    LINK_STARTS.find((each) => text.startsWith(each)) ?? (text.startsWith('https:') ? 'https://' : 'http://');
  const rest = text.slice(start.length);
  const www = !start.endsWith('://') || !rest.startsWith('www.') ? '' : 'www.';
  return start + www + likeThis(random, rest.slice(www.length));
};

/** Points elsewhere, so its record key is of another instant. */
const atUri = (scrubbing: Scrubbing, text: string): string => {
  const parts = text.slice('at://'.length).split('/');
  const elsewhere = { ...scrubbing, ms: instantMs(scrubbing.random) };
  return `at://${parts.map((part) => string(elsewhere, part)).join('/')}`;
};

const time = ({ random, ms }: Scrubbing, text: string): string => {
  const [, fraction = '', zone = 'Z'] = TIME.exec(text)!;
  // Milliseconds are the instant's own, what is finer is drawn.
  const places = fraction === '' ? '' : `.${new Date(ms).toISOString().slice(20, 23)}${digits(random, 9)}`;
  return `${new Date(ms).toISOString().slice(0, 19)}${places.slice(0, fraction.length)}${zone === 'Z' ? 'Z' : '+00:00'}`;
};

/** Text of people: so many characters of ours, in another script where it is not ASCII. */
const text = (random: Random, given: string): string => {
  const isForeign = [...given].some((character) => character.charCodeAt(0) > 0x2ff);
  const made = madeText(random, given.length, isForeign ? 'ja' : null).text;
  return [...made].slice(0, [...given].length).join('');
};

const replacement = (scrubbing: Scrubbing, given: string): string => {
  const { random, ms } = scrubbing;
  if (given.startsWith('did:')) return did(random, given);
  if (given.startsWith('at://')) return atUri(scrubbing, given);
  if (/^https?:\/\//.test(given)) return url(random, given);
  if (TIME.test(given)) return time(scrubbing, given);
  if (TID.test(given)) return tid(random, ms);
  if (BLOB_CID.test(given)) return blobCid(random);
  if (CID.test(given))
    return given.startsWith('bafyrei') ? recordCid(random) : `b${base32(random, given.length - 1)}`;
  // A lexicon that the list does not know may be one person's alone.
  if (HANDLE.test(given)) return handle(random, given);
  if (BASE64.test(given)) return base64(random, given.length);
  return text(random, given);
};

/** The same for the same, within a message: what repeats in the real one has to repeat in the made-up one. */
function string(scrubbing: Scrubbing, given: string): string {
  if (given === '' || isStructure(given)) return given;
  let made = scrubbing.made.get(given);
  if (made === undefined) {
    made = replacement(scrubbing, given);
    scrubbing.made.set(given, made);
  }
  return made;
}

const number = ({ random, ms }: Scrubbing, given: number): number => {
  if (!Number.isInteger(given)) {
    const [whole, fraction = ''] = String(given).split('.');
    return Number(
      `${digits(random, Math.min(whole!.length, 9))}.${digits(random, Math.min(fraction.length, 6))}`,
    );
  }
  if (Math.abs(given) < KEPT_BELOW) return given;
  if (given >= MICROSECONDS.from && given < MICROSECONDS.to) return ms * 1000 + random.below(1000);
  return Math.sign(given) * Number(digits(random, Math.min(String(Math.abs(given)).length, 15)));
};

const value = (scrubbing: Scrubbing, given: unknown, depth: number): unknown => {
  if (typeof given === 'string') return string(scrubbing, given);
  if (typeof given === 'number') return number(scrubbing, given);
  if (typeof given !== 'object' || given === null) return given;
  if (depth >= MAX_DEPTH) return null;
  if (Array.isArray(given)) return given.map((each) => value(scrubbing, each, depth + 1));
  return Object.fromEntries(
    Object.entries(given).map(([key, each]) => [
      KEYS.has(key) || TYPES.has(key) ? key : letters(scrubbing.random, Math.min(key.length, MAX_KEY_LENGTH)),
      value(scrubbing, each, depth + 1),
    ]),
  );
};

/** A message (or a bare record) without its people; null when the line is not a JSON object. */
export const scrub = (line: string, random: Random): string | null => {
  let message: unknown;
  try {
    message = JSON.parse(line);
  } catch {
    return null;
  }
  if (typeof message !== 'object' || message === null || Array.isArray(message)) return null;
  return JSON.stringify(value({ random, ms: instantMs(random), made: new Map() }, message, 0));
};
