/** What an admin may ask for over HTTP: the same as in a terminal, without files. */
import * as v from 'valibot';
import { isDid, isNsid } from '../repo/syntax.ts';
import { DEFAULT_SAMPLE, MAX_REQUESTS_PER_WINDOW, MAX_SAMPLE } from './options.ts';
import type { BackfillSpec } from './types.ts';

/** Bodies are small; long lists are for the command line. */
const MAX_NAMES = 1_000;

const nsid = v.pipe(v.string(), v.check(isNsid, 'collections must be NSIDs'));
const requests = v.optional(
  v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(MAX_REQUESTS_PER_WINDOW)),
);
const collections = v.optional(v.pipe(v.array(nsid), v.maxLength(MAX_NAMES)), []);

const schema = v.variant(
  'from',
  [
    v.object({
      from: v.literal('relay'),
      requests,
      url: v.pipe(
        v.string(),
        v.url('url must be an http(s) URL'),
        v.regex(/^https?:\/\/[^@?#]+$/i, 'url must be an http(s) URL'),
      ),
      collections,
      only: v.optional(v.boolean(), false),
    }),
    v.object({
      from: v.literal('hosts'),
      requests,
      hosts: v.optional(v.pipe(v.array(v.pipe(v.string(), v.maxLength(260))), v.maxLength(MAX_NAMES)), []),
    }),
    v.object({
      from: v.literal('dids'),
      requests,
      dids: v.pipe(
        v.array(v.pipe(v.string(), v.check(isDid, 'dids must be DIDs'))),
        v.minLength(1, 'dids must not be empty'),
        v.maxLength(MAX_NAMES),
      ),
    }),
    v.object({
      from: v.literal('verify'),
      requests,
      collections,
      /** null: all. */
      sample: v.optional(
        v.nullable(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(MAX_SAMPLE))),
        DEFAULT_SAMPLE,
      ),
    }),
  ],
  'from must be relay, hosts, dids or verify',
);

/** Reads the body of a start. Never throws. */
export const parseAdminSpec = (
  body: unknown,
): { readonly ok: true; readonly spec: BackfillSpec } | { readonly ok: false; readonly message: string } => {
  const parsed = v.safeParse(schema, body, { abortEarly: true });
  if (!parsed.success) return { ok: false, message: parsed.issues[0].message };
  const { from, requests: requestsPerWindow, ...rest } = parsed.output;
  if ('only' in rest && rest.only && rest.collections.length === 0)
    return { ok: false, message: 'only goes with collections' };
  return {
    ok: true,
    spec: {
      kind: from,
      ...rest,
      ...(requestsPerWindow === undefined ? {} : { requestsPerWindow }),
    } as BackfillSpec,
  };
};
