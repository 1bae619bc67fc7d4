/** Reads the header of a zstd frame (RFC 8878, section 3.1.1.1). Pure; anything may be given to it. */

/** What a frame says of itself before its first block. */
export interface FrameHeader {
  /** The ID of the dictionary that is needed to decode it; 0: none, or a dictionary without an ID. */
  readonly dictionaryId: number;
  /** Bytes of what it decodes to; null when it does not say. Above 2^53 rounded. */
  readonly contentSize: number | null;
  readonly hasChecksum: boolean;
  /** Where the first block begins. */
  readonly headerBytes: number;
}

const FRAME_MAGIC = 0xfd2fb528;
const DICTIONARY_ID_BYTES = [0, 1, 2, 4] as const;
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;

const littleEndian = (bytes: Uint8Array, at: number, length: number): number => {
  let value = 0;
  for (let i = length - 1; i >= 0; i--) value = value * 256 + bytes[at + i]!;
  return value;
};

/** The header of a frame; null when the bytes are no zstd frame, a skippable one, or end within the header. */
export const readFrameHeader = (frame: Uint8Array): FrameHeader | null => {
  if (frame.length < 6 || littleEndian(frame, 0, 4) !== FRAME_MAGIC) return null;
  const descriptor = frame[4]!;
  // The reserved bit: such a frame is of a later format.
  if ((descriptor & 0x08) !== 0) return null;
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const idBytes = DICTIONARY_ID_BYTES[(descriptor & 3) as 0 | 1 | 2 | 3];
  const sizeFlag = (descriptor >> 6) as 0 | 1 | 2 | 3;
  const sizeBytes = sizeFlag === 0 && isSingleSegment ? 1 : CONTENT_SIZE_BYTES[sizeFlag];
  const idAt = isSingleSegment ? 5 : 6;
  const sizeAt = idAt + idBytes;
  const headerBytes = sizeAt + sizeBytes;
  if (frame.length < headerBytes) return null;
  return {
    dictionaryId: littleEndian(frame, idAt, idBytes),
    // Two bytes count from 256, since less fits in one.
    contentSize:
      sizeBytes === 0 ? null : littleEndian(frame, sizeAt, sizeBytes) + (sizeBytes === 2 ? 256 : 0),
    hasChecksum: (descriptor & 0x04) !== 0,
    headerBytes,
  };
};
