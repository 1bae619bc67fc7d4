import zlib from 'node:zlib';
import type { Dictionary } from '../dictionary/types.ts';
import { readFrameHeader } from './frame-header.ts';

export type Decompressed =
  | { readonly ok: true; readonly bytes: Uint8Array }
  /** `needs`: the ID of the dictionary that is missing. */
  | { readonly ok: false; readonly problem: string; readonly needs?: number };

/**
 * What one zstd frame holds. Never throws.
 * @param dictionary used only when the frame names it, so that one may be given for a mixed stream
 * @param maxBytes a frame that says, or turns out, to hold more is refused without making more
 */
export const decompress = (
  frame: Uint8Array,
  dictionary: Dictionary | null,
  maxBytes: number,
): Decompressed => {
  const header = readFrameHeader(frame);
  if (header === null) return { ok: false, problem: 'not a zstd frame' };
  const { dictionaryId: needs, contentSize } = header;
  if (needs !== 0 && dictionary?.id !== needs) {
    return { ok: false, problem: `compressed with dictionary ${needs}, which is not at hand`, needs };
  }
  if (contentSize !== null && contentSize > maxBytes) {
    return { ok: false, problem: `holds ${contentSize} bytes, more than ${maxBytes}` };
  }
  try {
    const bytes = zlib.zstdDecompressSync(frame, {
      maxOutputLength: Math.max(maxBytes, 1),
      ...(needs === 0 || dictionary === null ? {} : { dictionary: dictionary.bytes }),
    });
    if (contentSize !== null && bytes.length !== contentSize) {
      return { ok: false, problem: `holds ${bytes.length} bytes and says ${contentSize}` };
    }
    return { ok: true, bytes };
  } catch (error) {
    return { ok: false, problem: `cannot be decompressed (${(error as Error).message})` };
  }
};
