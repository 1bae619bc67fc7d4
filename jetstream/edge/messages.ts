/**
 * The messages of items: made when the first client wants them, then shared. Each is encoded at most once per version
 * and compressed at most once per compressor, as long as its block is held.
 */

import type { Blocks } from './blocks.ts';
import type { Format } from './client.ts';
import { Encoded, type Item } from './item.ts';
import type { Codec, JetstreamCounters } from './types.ts';

/** Of an Encoded and what hangs on it, rounded up. */
const ENCODED_OVERHEAD_BYTES = 256;

// Fewer microseconds than TextDecoder; messages are valid UTF-8. A text of ASCII only becomes one byte a character,
// which is also what goes out fastest: 0.22 µs for half a kilobyte against 0.35 for other texts.
const { utf8Slice } = Buffer.prototype as unknown as { utf8Slice(from: number, to: number): string };

/** What a text takes in memory: two bytes a character, unless all of them are ASCII. */
const textBytes = (text: string, utf8Bytes: number): number =>
  text.length === utf8Bytes ? utf8Bytes : text.length * 2;

const textOf = (json: Uint8Array): string => utf8Slice.call(json, 0, json.length);

export interface Messages {
  /** null: the event has no message in this version. */
  encoded(item: Item, format: Format): Encoded | null;
  /** The text of a message, which is ours and so valid UTF-8. */
  textOf(json: Uint8Array): string;
  text(item: Item, encoded: Encoded): string;
  compressed(item: Item, encoded: Encoded, format: Format): Uint8Array;
}

export const createMessages = (
  codec: Codec,
  blocks: Pick<Blocks, 'grow'>,
  counters: JetstreamCounters,
): Messages => {
  const wrap = (item: Item, json: Uint8Array | null): Encoded | null => {
    if (json === null) {
      counters.undecodable++;
      return null;
    }
    blocks.grow(item.block, json.length + ENCODED_OVERHEAD_BYTES);
    return new Encoded(json);
  };

  return {
    textOf,
    encoded(item, format) {
      if (format.version === 'v1') {
        if (item.v1 === undefined) {
          counters.encodesV1++;
          item.v1 = wrap(item, codec.encodeV1(item.event));
        }
        return item.v1;
      }
      if (item.v2 === undefined) {
        counters.encodesV2++;
        item.v2 = wrap(item, codec.encodeV2(item.event));
      }
      return item.v2;
    },
    text(item, encoded) {
      if (encoded.text !== null) return encoded.text;
      const { json } = encoded;
      const text = textOf(json);
      encoded.text = text;
      blocks.grow(item.block, textBytes(text, json.length));
      return text;
    },
    compressed(item, encoded, { compressor, slot }) {
      encoded.zstd ??= [];
      const held = encoded.zstd[slot];
      if (held !== undefined) return held;
      counters.compressions++;
      const bytes = compressor!.compress(encoded.json);
      encoded.zstd[slot] = bytes;
      blocks.grow(item.block, bytes.length);
      return bytes;
    },
  };
};
