import * as v from 'valibot';

/** Why a request was refused, in words for the caller, or its checked parameters. */
export type Checked<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly message: string };

/** atproto spec: DID. Syntax only; at most 2,048 characters. */
export const didSchema = v.pipe(
  v.string('did is required'),
  v.maxLength(2048, 'did is too long'),
  v.regex(/^did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]$/, 'did is not a valid DID'),
);

/** As written by the caller; the roster judges what it means. 253 characters of a name and a port. */
export const hostnameSchema = v.pipe(
  v.string('hostname is required'),
  v.trim(),
  v.minLength(1, 'hostname is required'),
  v.maxLength(260, 'hostname is too long'),
  v.toLowerCase(),
);

/** A page size between 1 and max. */
export const limitSchema = (preset: number, max: number) => {
  const message = `limit must be an integer between 1 and ${max}`;
  return v.optional(
    v.pipe(
      v.string(),
      v.regex(/^[0-9]{1,10}$/, message),
      v.transform(Number),
      v.minValue(1, message),
      v.maxValue(max, message),
    ),
    String(preset),
  );
};

/**
 * A cursor that an earlier page gave: the decimal id of its last row. Absent: the beginning; so is an empty one, which
 * clients of some languages send where they have none.
 */
export const cursorSchema = v.optional(
  v.pipe(
    v.string(),
    v.regex(/^[0-9]{0,16}$/, 'cursor is not one of ours'),
    v.transform(Number),
    v.safeInteger('cursor is not one of ours'),
  ),
  '0',
);

/** The first complaint, for people. */
const complaint = (issues: readonly v.BaseIssue<unknown>[]): string => {
  const issue = issues[0];
  if (issue === undefined) return 'invalid request';
  const name = issue.path?.[0]?.key;
  // valibot's own words for an absent key name types; ours name the parameter.
  return issue.received === 'undefined' && name !== undefined ? `${name} is required` : issue.message;
};

/** Checks the query string. A parameter of the schema that is given twice is refused; others are ignored. */
export const checkQuery = <Schema extends v.ObjectSchema<v.ObjectEntries, undefined>>(
  url: string,
  schema: Schema,
): Checked<v.InferOutput<Schema>> => {
  const params = new URL(url).searchParams;
  const given: Record<string, string> = {};
  for (const name of Object.keys(schema.entries)) {
    const values = params.getAll(name);
    if (values.length > 1) return { ok: false, message: `${name} must be given once` };
    if (values.length === 1) given[name] = values[0]!;
  }
  const parsed = v.safeParse(schema, given, { abortEarly: true });
  return parsed.success
    ? { ok: true, value: parsed.output }
    : { ok: false, message: complaint(parsed.issues) };
};

/** Checks a JSON body. Anything that is not JSON is refused in the same way. */
export const checkBody = async <Schema extends v.ObjectSchema<v.ObjectEntries, undefined>>(
  request: Request,
  schema: Schema,
): Promise<Checked<v.InferOutput<Schema>>> => {
  let body: unknown;
  try {
    body = await request.json();
  } catch {
    return { ok: false, message: 'the body must be JSON' };
  }
  const parsed = v.safeParse(schema, body, { abortEarly: true });
  return parsed.success
    ? { ok: true, value: parsed.output }
    : { ok: false, message: complaint(parsed.issues) };
};
