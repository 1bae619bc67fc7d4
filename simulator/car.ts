/** CAR v1 (atproto spec: Repository, CAR file serialization): blocks in, one file out. */
import { Link, Writer } from './cbor.ts';

export interface Block {
  readonly digest: Uint8Array;
  readonly bytes: Uint8Array;
}

const out = new Writer();
const header = new Writer();

const varint = (value: number): void => {
  let rest = value;
  while (rest >= 0x80) {
    out.byte((rest & 0x7f) | 0x80);
    rest >>>= 7;
  }
  out.byte(rest);
};

/** A CAR with one root and the blocks in the order given. */
export const writeCar = (root: Uint8Array, blocks: Iterable<Block>): Uint8Array => {
  header.length = 0;
  header.map({ roots: [new Link(root)], version: 1 });
  out.length = 0;
  varint(header.length);
  out.raw(header.buffer.subarray(0, header.length));
  for (const { digest, bytes } of blocks) {
    varint(36 + bytes.length);
    out.reserve(36);
    out.byte(1);
    out.byte(0x71);
    out.byte(0x12);
    out.byte(0x20);
    out.raw(digest);
    out.raw(bytes);
  }
  return out.take();
};
