import { describe, expect, test } from 'bun:test';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { configHelp } from '../src/config.ts';
import { REASONS } from '../src/reasons.ts';

const root = path.resolve(import.meta.dir, '..');
const read = (name: string): string => readFileSync(path.join(root, name), 'utf8');
/** Line breaks of wrapped text are spaces. */
const flat = (text: string): string => text.replace(/\s+/g, ' ');

const documents = [
  'README.md',
  'CONTRIBUTING.md',
  ...readdirSync(path.join(root, 'docs')).map((f) => `docs/${f}`),
];

describe('the documents', () => {
  test('have a line in the table of reasons for every reason, in order, and for no other', () => {
    const listed = [...read('docs/invariants.md').matchAll(/^\| `([a-z_]+)` \|/gm)].map((match) => match[1]!);
    expect(listed).toEqual([...REASONS]);
  });

  test('have a line in the table of settings for every setting, and for no other, with its default', () => {
    const rows = new Map(
      [...read('README.md').matchAll(/^\| `([A-Z][A-Z_]+)` \| (.+?) \|/gm)].map((match) => [
        match[1]!,
        match[2]!,
      ]),
    );
    const settings = [...configHelp().matchAll(/^ {2}([A-Z_]+) .*\n.*\[(.*)\]$/gm)];
    expect(settings.length).toBeGreaterThan(10);
    expect([...rows.keys()]).toEqual(settings.map((match) => match[1]!));
    for (const [, name, shown] of settings) expect(rows.get(name!)!.replaceAll('`', '')).toBe(shown!);
  });

  test('name only files that exist', () => {
    let count = 0;
    for (const document of documents) {
      const text = read(document);
      for (const [, name] of text.matchAll(
        /`((?:src|jetstream|test|bench|simulator|docs|migrations|\.ci)\/[\w./-]+\.\w+)`/g,
      )) {
        expect(`${name}: ${existsSync(path.join(root, name!))}`).toBe(`${name}: true`);
        count++;
      }
      for (const [, link] of text.matchAll(/\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)/g)) {
        if (link !== '')
          expect(`${link}: ${existsSync(path.join(root, path.dirname(document), link!))}`).toBe(
            `${link}: true`,
          );
      }
    }
    expect(count).toBeGreaterThan(50);
  });

  test('name only constants that exist', () => {
    const sources = [...new Bun.Glob('{src,jetstream}/**/*.ts').scanSync({ cwd: root })].map(read).join('\n');
    const settings = new Set([...configHelp().matchAll(/^ {2}([A-Z_]+) /gm)].map((match) => match[1]!));
    for (const document of documents)
      for (const [, name] of read(document).matchAll(/`([A-Z][A-Z]*_[A-Z_]+)`/g))
        if (!settings.has(name!))
          expect(`${document} ${name}: ${new RegExp(`\\b${name}\\b`).test(sources)}`).toBe(
            `${document} ${name}: true`,
          );
  });

  test('give constants the values they have', () => {
    const values = new Map<string, number>();
    for (const file of new Bun.Glob('{src,jetstream}/**/*.ts').scanSync({ cwd: root }))
      for (const [, name, expression] of read(file).matchAll(/^(?:export )?const ([A-Z_]+) = ([\d_ *.]+);/gm))
        values.set(
          name!,
          expression!
            .replaceAll('_', '')
            .split('*')
            .reduce((product, factor) => product * Number(factor), 1),
        );
    const units: Record<string, number> = {
      KiB: 1024,
      MiB: 1024 ** 2,
      ms: 1,
      s: 1_000,
      min: 60_000,
      minutes: 60_000,
      hours: 3_600_000,
    };
    let count = 0;
    for (const document of documents)
      for (const [, name, number, unit] of flat(read(document)).matchAll(
        /`([A-Z]+_[A-Z_]+)`(?: of [a-z' ]+)?(?: \|)? \(?(\d[\d,]*)(?: (KiB|MiB|ms|s|min|minutes|hours)\b)?/g,
      )) {
        const value = values.get(name!);
        if (value === undefined) continue;
        expect(`${document}: ${name} ${Number(number!.replaceAll(',', '')) * (units[unit ?? ''] ?? 1)}`).toBe(
          `${document}: ${name} ${value}`,
        );
        count++;
      }
    expect(count).toBeGreaterThan(20);
  });

  test('name only tests that exist', () => {
    let count = 0;
    // `test/file.ts`: “name”, “name”
    for (const [, file, names] of flat(read('docs/invariants.md')).matchAll(
      /`(test\/[\w./-]+\.ts)`: (“[^”]*”(?:, “[^”]*”)*)/g,
    )) {
      const source = read(file!);
      for (const [, name] of names!.matchAll(/“([^”]*)”/g)) {
        expect(
          `${file}: ${name} ${source.includes(name!) || source.includes(name!.replaceAll("'", "\\'"))}`,
        ).toBe(`${file}: ${name} true`);
        count++;
      }
    }
    expect(count).toBeGreaterThan(80);
  });
});
