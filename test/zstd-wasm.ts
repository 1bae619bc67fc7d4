/** zstd as WebAssembly, an independent judge: set up once a process, since setting it up again breaks what it gave before. */
import { init } from '@bokuweb/zstd-wasm';

let ready: Promise<void> | undefined;

/** Resolves when its functions may be called. */
export const initZstdWasm = (): Promise<void> => {
  ready ??= init();
  return ready;
};
