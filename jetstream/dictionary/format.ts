/** Numbers of the dictionary format (RFC 8878, section 5). */

export const DICTIONARY_MAGIC = 0xec30a437;

/** IDs that anyone may take; the ones around them are registered, or reserved for that. */
export const MIN_PRIVATE_ID = 32_768;
export const MAX_PRIVATE_ID = 2 ** 31 - 1;

/** The ID in a dictionary's header; null when the bytes are none. */
export const dictionaryIdOf = (bytes: Uint8Array): number | null => {
  if (bytes.length < 8) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, 8);
  return view.getUint32(0, true) === DICTIONARY_MAGIC ? view.getUint32(4, true) : null;
};
