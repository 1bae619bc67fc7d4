/**
 * Array literals in PostgreSQL's text form, for `unnest` over a whole batch: one parameter per column instead of one
 * per value. Written flat because every changed account passes through here.
 * Source: PostgreSQL documentation, "Arrays", array input and output syntax.
 */

const NEEDS_ESCAPE = /["\\]/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: it is the one character PostgreSQL text cannot hold
const NUL = /\u0000/g;

/** Text as PostgreSQL can hold it: without U+0000, which it refuses, and at most `maxChars` long. */
export const storableText = (text: string, maxChars: number): string => {
  const short = text.length > maxChars ? text.slice(0, maxChars) : text;
  return short.includes('\u0000') ? short.replace(NUL, '\ufffd') : short;
};

/** A seq or a time as `bigint` can hold it and be read again: within 0 and 2^53 - 1; what is no number is 0. */
export const storableNumber = (value: number): number =>
  value > 0 ? Math.min(value, Number.MAX_SAFE_INTEGER) : 0;

/** `text[]` (or anything whose elements are given as text). Elements must not hold U+0000. */
export const textArray = (values: readonly (string | null)[]): string => {
  let out = '{';
  for (let i = 0; i < values.length; i++) {
    if (i > 0) out += ',';
    const value = values[i]!;
    if (value === null) out += 'NULL';
    else if (NEEDS_ESCAPE.test(value)) out += `"${value.replace(/["\\]/g, '\\$&')}"`;
    else out += `"${value}"`;
  }
  return `${out}}`;
};

/** `integer[]` or `bigint[]`; fractions are cut off. @throws for a number that is not a safe integer: our own mistake */
export const integerArray = (values: readonly (number | null)[]): string => {
  let out = '{';
  for (let i = 0; i < values.length; i++) {
    if (i > 0) out += ',';
    const value = values[i]!;
    if (value === null) out += 'NULL';
    else {
      const whole = Math.trunc(value);
      if (!Number.isSafeInteger(whole)) throw new Error(`${value} cannot be stored as a whole number`);
      out += whole;
    }
  }
  return `${out}}`;
};

/** `double precision[]`. */
export const numberArray = (values: readonly (number | null)[]): string =>
  `{${values.map((value) => (value === null ? 'NULL' : String(value))).join(',')}}`;

/** `boolean[]`. */
export const booleanArray = (values: readonly boolean[]): string => {
  let out = '{';
  for (let i = 0; i < values.length; i++) out += values[i] ? (i > 0 ? ',t' : 't') : i > 0 ? ',f' : 'f';
  return `${out}}`;
};

/** `bytea[]`, in the hex form. */
export const bytesArray = (values: readonly (Uint8Array | null)[]): string => {
  let out = '{';
  for (let i = 0; i < values.length; i++) {
    if (i > 0) out += ',';
    const value = values[i]!;
    out += value === null ? 'NULL' : `"\\\\x${value.toHex()}"`;
  }
  return `${out}}`;
};

/** Reads what PostgreSQL gives for a one-dimensional `bigint[]` without nulls. */
export const parseIntegerArray = (text: string): number[] =>
  text === '{}' ? [] : text.slice(1, -1).split(',').map(parseBigint);

/** Reads a `bigint`. @throws beyond 2^53 - 1: such a number was not written by us */
export const parseBigint = (text: string): number => {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new Error(`${text} in the database is not a safe integer`);
  return value;
};
