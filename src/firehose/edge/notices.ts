import { encode } from '@ipld/dag-cbor';

const frame = (header: object, body: object): Uint8Array => {
  const head = encode(header);
  const rest = encode(body);
  const bytes = new Uint8Array(head.length + rest.length);
  bytes.set(head);
  bytes.set(rest, head.length);
  return bytes;
};

/** An error frame: {op: -1} and {error, message}. */
export const encodeErrorFrame = (error: string, message: string): Uint8Array =>
  frame({ op: -1 }, { error, message });

/** An #info frame. */
export const encodeInfoFrame = (name: string, message: string): Uint8Array =>
  frame({ op: 1, t: '#info' }, { name, message });
