/**
 * How the edges compress: for version 1 with the operator's dictionary or none, for version 2 with a dictionary that
 * the client names.
 */
import type { Dictionaries } from '../dictionary/registry.ts';
import type { Dictionary } from '../dictionary/types.ts';
import { type Compressor, createCompressor } from './compressor.ts';

export interface MessageCompression {
  readonly v1: Compressor;
  /** null: there is no such dictionary here. */
  byId(dictionaryId: string): Compressor | null;
  readonly currentId: string | null;
}

export interface CompressionOptions {
  /** For version 1; null: frames without a dictionary, which its clients read just as well. */
  readonly v1Dictionary: Dictionary | null;
  readonly dictionaries: Dictionaries;
  readonly level?: number;
}

export const createCompression = (options: CompressionOptions): MessageCompression => {
  const { v1Dictionary, dictionaries } = options;
  const level = options.level === undefined ? {} : { level: options.level };
  const v1 = createCompressor({ dictionary: v1Dictionary, ...level });
  const named = new Map<number, Compressor>();
  return {
    v1,
    byId(dictionaryId) {
      const dictionary = dictionaries.byId(dictionaryId);
      if (dictionary === null) return null;
      let compressor = named.get(dictionary.id);
      if (compressor === undefined) {
        compressor = createCompressor({ dictionary, ...level });
        named.set(dictionary.id, compressor);
      }
      return compressor;
    },
    currentId: dictionaries.current === null ? null : String(dictionaries.current.id),
  };
};
