/**
 * Heights of keys, many at a time: by our own code where the machine can run it (`heights/compiled.ts`), elsewhere by the
 * SHA-256 of Bun (`heights/hashed.ts`). They are the same either way.
 */
import { compileHeights } from './heights/compiled.ts';
import { hashedHeights, type KeyHeights } from './heights/hashed.ts';

export { heightAt, type KeyHeights, keyHeight } from './heights/hashed.ts';

let opened: KeyHeights | null = null;

/** The best way that this thread has. */
export const keyHeights = (): KeyHeights => {
  opened ??= compileHeights() ?? hashedHeights;
  return opened;
};
