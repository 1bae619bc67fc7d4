import { existsSync } from 'node:fs';
import { join } from 'node:path';

const root = process.env.WEIR_FIXTURES ?? join(import.meta.dir, '../../../shared/fixtures');

/** The path of a recorded fixture; null, with a loud warning, when this checkout has none beside it. */
export const fixture = (name: string): string | null => {
  const path = join(root, name);
  if (existsSync(path)) return path;
  console.warn(`FIXTURE MISSING: ${name} (set WEIR_FIXTURES); what this test checks is NOT checked`);
  return null;
};
