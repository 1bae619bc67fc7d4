/** Events as lines for people. Pure. Whatever a record holds, a line is one line and moves nothing on a terminal. */
import type { ShownEvent } from './event.ts';

/** Shown of any one text: what comes after it tells nothing more. */
const MAX_SHOWN_CHARS = 400;

/** Line breaks and what terminals take for commands become a space. */
const BREAKS = /[\p{Cc}\p{Zl}\p{Zp}\s]+/gu;
/** What turns the direction of a line around, and lone surrogates: gone. */
const UNSEEN = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\p{Cs}]/gu;

/** One line without control characters. */
export const plain = (text: string): string =>
  text
    .slice(0, MAX_SHOWN_CHARS * 4)
    .replace(UNSEEN, '')
    .replace(BREAKS, ' ')
    .trim();

/** The same JSON without a raw control character, so that it is one line. */
export const jsonLine = (json: string): string => {
  if (!/[\p{Cc}\p{Zl}\p{Zp}]/u.test(json)) return json;
  let compact: string;
  try {
    compact = JSON.stringify(JSON.parse(json));
  } catch {
    return JSON.stringify(json);
  }
  return compact.replace(
    /[\p{Cc}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
};

/** At most so many columns, with an ellipsis where something was cut off. */
export const cut = (text: string, columns: number): string => {
  if (Bun.stringWidth(text) <= columns) return text;
  let shown = '';
  let width = 0;
  for (const { segment } of new Intl.Segmenter().segment(text)) {
    width += Bun.stringWidth(segment);
    if (width > columns - 1) break;
    shown += segment;
  }
  return `${shown}…`;
};

const texts = (record: Readonly<Record<string, unknown>>): string | null => {
  for (const name of ['text', 'displayName', 'name', 'title', 'description']) {
    const value = record[name];
    if (typeof value === 'string' && value !== '') return value;
  }
  return null;
};

const about = (record: Readonly<Record<string, unknown>>): string | null => {
  const { subject } = record;
  if (typeof subject === 'string') return subject;
  if (typeof subject === 'object' && subject !== null) {
    const { uri, did } = subject as { uri?: unknown; did?: unknown };
    if (typeof uri === 'string') return uri;
    if (typeof did === 'string') return did;
  }
  return null;
};

/** What an event says, in a few words. */
export const summary = (event: ShownEvent): string => {
  if (event.action === 'identity') return event.handle ?? '';
  if (event.action === 'account') {
    return event.active === true ? 'active' : (event.status ?? (event.active === false ? 'inactive' : ''));
  }
  const { record } = event;
  if (record === null) return '';
  const text = texts(record);
  if (text !== null) return text;
  const subject = about(record);
  if (subject !== null) return `→ ${subject}`;
  const names = Object.keys(record).filter((name) => name !== '$type' && name !== 'createdAt');
  return names.length === 0 ? '' : `{${names.slice(0, 8).join(', ')}}`;
};

/** SGR numbers; a word that is not there is shown as it is. */
const COLOURS: Readonly<Record<string, number>> = {
  create: 32,
  update: 33,
  delete: 31,
  identity: 36,
  account: 35,
  sync: 34,
};
const DIM = 2;

const painter =
  (on: boolean) =>
  (sgr: number | undefined, text: string): string =>
    on && sgr !== undefined && text !== '' ? `\u001b[${sgr}m${text}\u001b[0m` : text;

const ACTION_COLUMNS = 8;
const ACTOR_COLUMNS = 32;

const pad = (text: string, columns: number): string =>
  text + ' '.repeat(Math.max(0, columns - Bun.stringWidth(text)));

/** UTC; the date is left out. */
const clock = (atMs: number | null): string =>
  atMs === null || !(Math.abs(atMs) < 8.64e15) ? '--:--:--.---' : new Date(atMs).toISOString().slice(-13, -1);

/**
 * Time, what happened, who, where, and a summary.
 * @param options.handle of the account, when it is known; else its DID is shown
 * @param options.columns of the terminal; null: no limit but MAX_SHOWN_CHARS for the summary
 */
export const eventLine = (
  event: ShownEvent,
  options: { readonly handle: string | null; readonly columns: number | null; readonly colours: boolean },
): string => {
  const paint = painter(options.colours);
  const time = clock(event.atMs);
  const action = cut(plain(event.action), ACTION_COLUMNS);
  const actor = plain(options.handle ?? event.did);
  const place = plain(event.collection === '' ? '' : `${event.collection}/${event.rkey}`);
  const said = plain(summary(event));
  const parts = [
    paint(DIM, time),
    paint(COLOURS[action], pad(action, ACTION_COLUMNS)),
    pad(cut(actor, ACTOR_COLUMNS), ACTOR_COLUMNS),
  ];
  let used = time.length + 1 + ACTION_COLUMNS + 1 + ACTOR_COLUMNS;
  if (place !== '') {
    const room = options.columns === null ? Number.MAX_SAFE_INTEGER : options.columns - used - 1;
    const shown = cut(place, Math.max(20, room));
    parts.push(paint(DIM, shown));
    used += 1 + Bun.stringWidth(shown);
  }
  if (said !== '') {
    const room = options.columns === null ? MAX_SHOWN_CHARS : options.columns - used - 1;
    if (room > 1) parts.push(cut(said, room));
  }
  return parts.join(' ').trimEnd();
};
