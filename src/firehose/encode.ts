/**
 * Frames of our own making. They are rare, so a library encodes them.
 * Source: atproto spec, Event Stream ("Framing"); lexicon com.atproto.sync.subscribeRepos.
 */
import { encode } from '@ipld/dag-cbor';

function frame(header: object, body: object): Uint8Array {
  const first = encode(header);
  const second = encode(body);
  const bytes = new Uint8Array(first.length + second.length);
  bytes.set(first);
  bytes.set(second, first.length);
  return bytes;
}

/** An error frame: the last one before a close. */
export const errorFrame = (error: string, message: string): Uint8Array =>
  frame({ op: -1 }, { error, message });

/** An #info frame: it has no seq. */
export const infoFrame = (name: string, message: string): Uint8Array =>
  frame({ op: 1, t: '#info' }, { name, message });

/** An #account frame by which the relay itself tells a status. `time` is an ISO datetime; `status` null: absent. */
export function accountFrame(account: {
  readonly seq: number;
  readonly did: string;
  readonly time: string;
  readonly active: boolean;
  readonly status: string | null;
}): Uint8Array {
  const { seq, did, time, active, status } = account;
  const body = { seq, did, time, active };
  return frame({ op: 1, t: '#account' }, status === null ? body : { ...body, status });
}
