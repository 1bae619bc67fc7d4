/** Event stream messages (atproto spec: Event Stream; lexicon com.atproto.sync.subscribeRepos). */
import { encode, type Value, Writer } from './cbor.ts';

/** One message before it is bytes. `body.seq` is a plain member, so that faults can change anything. */
export interface Message {
  readonly type: string;
  readonly body: { readonly [key: string]: Value | undefined };
}

const headers = new Map<string, Uint8Array>();
const MAX_HEADERS = 64;

const headerOf = (type: string): Uint8Array => {
  const known = headers.get(type);
  if (known !== undefined) return known;
  const bytes = encode({ t: type, op: 1 });
  if (headers.size < MAX_HEADERS) headers.set(type, bytes);
  return bytes;
};

const out = new Writer();

/** Header and body, nothing after. */
export const encodeMessage = (message: Message): Uint8Array => {
  out.length = 0;
  out.raw(headerOf(message.type));
  out.map(message.body);
  return out.take();
};

/** An error frame: header `{op: -1}`, body `{error, message}`. */
export const encodeError = (error: string, message: string): Uint8Array => {
  out.length = 0;
  out.map({ op: -1 });
  out.map({ error, message });
  return out.take();
};
