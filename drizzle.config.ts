import { defineConfig } from 'drizzle-kit';

/** `bunx drizzle-kit generate --name what_changed` writes the next migration; weir applies it at its next start. */
export default defineConfig({
  dialect: 'postgresql',
  schema: './src/state/schema.ts',
  out: './migrations',
  casing: 'snake_case',
});
