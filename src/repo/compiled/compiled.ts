/**
 * Our own code in C and assembler, which the TinyCC inside Bun takes in at start: 12 ms a thread and 1.8 MB. It is one
 * text of all who have some (`k256/verify.c`, `heights/sha256.c`), as most of the memory is for a run of the compiler
 * and not for what it reads. For x86-64 on Linux; which of it the processor can run, each part says itself.
 *
 * C has no bounds: who calls checks every length.
 */
import { cc } from 'bun:ffi';
import path from 'node:path';

const compile = () =>
  cc({
    source: path.join(import.meta.dir, 'compiled.c'),
    // It needs no library of C, whose development files are on few machines and not in the image.
    flags: '-nostdlib',
    symbols: {
      is_supported: { args: [], returns: 'i32' },
      state_bytes: { args: [], returns: 'i32' },
      start: { args: ['ptr'], returns: 'void' },
      parse: { args: ['ptr', 'ptr', 'i32'], returns: 'i32' },
      verify: { args: ['ptr', 'ptr', 'ptr', 'ptr'], returns: 'i32' },
      has_lanes: { args: [], returns: 'i32' },
      first_words: { args: ['ptr', 'ptr', 'u32', 'ptr'], returns: 'void' },
    },
  }).symbols;

export type Compiled = ReturnType<typeof compile>;

/** undefined: not tried yet. */
let compiledHere: Compiled | null | undefined;

/** The functions, of this thread. null: not for this machine, or not to be compiled. */
export const compiled = (): Compiled | null => {
  if (compiledHere !== undefined) return compiledHere;
  compiledHere = null;
  if (process.platform !== 'linux' || process.arch !== 'x64') return null;
  try {
    compiledHere = compile();
  } catch {
    // Then everyone has another way.
  }
  return compiledHere;
};
