/**
 * The context of the package zstd-napi, whose native code is optional: `bun run zstd` builds it where there is a C++
 * compiler, and nothing waits for it where there is none. Its interface is documented, so where it is there it comes
 * before the handle of context.ts.
 */
import { createRequire } from 'node:module';
import type { WriteFrame } from './context.ts';

type Package = typeof import('zstd-napi');

const load = (): Package | null => {
  try {
    return createRequire(import.meta.url)('zstd-napi') as Package;
  } catch {
    return null;
  }
};
let loaded: Package | null | undefined;

/** Whether the package's native code is there. */
export const hasPackagedZstd = (): boolean => {
  loaded ??= load();
  return loaded !== null;
};

/** A context for frames at `level` with `dictionary`, or without when null. null: the package was not built here. */
export const openPackagedContext = (dictionary: Uint8Array | null, level: number): WriteFrame | null => {
  if (!hasPackagedZstd()) return null;
  const compressor = new loaded!.Compressor();
  compressor.setParameters({ compressionLevel: level, contentSizeFlag: true, checksumFlag: false });
  if (dictionary !== null) compressor.loadDictionary(dictionary);
  return (bytes, target) => {
    try {
      const frame = compressor.compress(bytes);
      if (frame.length > target.length) return -1;
      target.set(frame);
      return frame.length;
    } catch {
      // A dictionary is looked at no sooner than here.
      return -1;
    }
  };
};
