/** Messages of both versions as one shape, checked where it matters: any host may have sent them. */

export interface ShownEvent {
  readonly what: 'event';
  /** create, update, delete, identity, account or sync; another word for what we do not know. */
  readonly action: string;
  readonly did: string;
  /** ms since the epoch; null when the message does not say. */
  readonly atMs: number | null;
  /** version 1: time_us; version 2: seq. null: it moves no cursor. */
  readonly position: number | null;
  readonly collection: string;
  readonly rkey: string;
  readonly record: Readonly<Record<string, unknown>> | null;
  /** identity. */
  readonly handle: string | null;
  /** account: null when not said. */
  readonly active: boolean | null;
  readonly status: string | null;
}

export type Message =
  | ShownEvent
  /** Where the stream is, when there is nothing to send: a cursor to come back with. */
  | { readonly what: 'heartbeat'; readonly position: number }
  /** A notice, or the reason why the stream ends. */
  | { readonly what: 'notice'; readonly isError: boolean; readonly name: string; readonly text: string }
  | { readonly what: 'unknown' };

type Fields = Readonly<Record<string, unknown>>;

const fields = (value: unknown): Fields | null =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : null;
const text = (value: unknown): string => (typeof value === 'string' ? value : '');
const textOrNull = (value: unknown): string | null => (typeof value === 'string' ? value : null);
const position = (value: unknown): number | null =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : null;

const UNKNOWN: Message = { what: 'unknown' };

const shown = (
  kind: string,
  message: Fields,
  commit: Fields | null,
  at: { readonly atMs: number | null; readonly position: number | null },
): ShownEvent => {
  const identity = fields(message.identity);
  const account = fields(message.account);
  return {
    what: 'event',
    action: commit === null ? kind : text(commit.operation) || kind,
    did: text(message.did),
    ...at,
    collection: text(commit?.collection),
    rkey: text(commit?.rkey),
    record: fields(commit?.record),
    handle: textOrNull(identity?.handle),
    active: typeof account?.active === 'boolean' ? account.active : null,
    status: textOrNull(account?.status),
  };
};

const readV1 = (message: Fields): Message => {
  const timeUs = position(message.time_us);
  const kind = text(message.kind);
  if (kind === 'heartbeat') {
    const cursor = position(message.cursor);
    return cursor === null ? UNKNOWN : { what: 'heartbeat', position: cursor };
  }
  if (kind === '' || text(message.did) === '') return UNKNOWN;
  const atMs = timeUs === null ? null : timeUs / 1000;
  return shown(kind, message, fields(message.commit), { atMs, position: timeUs });
};

const readV2 = (message: Fields): Message => {
  if (message.$type === 'error') {
    return { what: 'notice', isError: true, name: text(message.error), text: text(message.message) };
  }
  const payload = fields(message.payload);
  if (payload === null) return UNKNOWN;
  const type = text(payload.$type);
  const kind = type.slice(type.indexOf('#') + 1);
  if (kind === 'info') {
    return { what: 'notice', isError: false, name: text(payload.name), text: text(payload.message) };
  }
  if (kind === 'heartbeat') {
    const cursor = position(payload.cursor);
    return cursor === null ? UNKNOWN : { what: 'heartbeat', position: cursor };
  }
  if (kind === '' || text(payload.did) === '') return UNKNOWN;
  const atMs = Date.parse(text(payload.time));
  return shown(kind, payload, kind === 'commit' ? payload : null, {
    atMs: Number.isNaN(atMs) ? null : atMs,
    position: position(payload.seq),
  });
};

/** Reads one message of either version. null: it is not JSON. Never throws. */
export const readMessage = (json: string): Message | null => {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch {
    return null;
  }
  const message = fields(parsed);
  if (message === null) return UNKNOWN;
  return '$type' in message ? readV2(message) : readV1(message);
};
