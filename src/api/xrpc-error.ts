import type { Context } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';

/**
 * An answer of the form every XRPC error has: {error, message}.
 * Source: atproto spec: HTTP API (XRPC), error responses.
 */
export const xrpcError = (
  c: Context,
  status: ContentfulStatusCode,
  error: string,
  message: string,
  headers: Record<string, string> = {},
): Response => c.json({ error, message }, status, headers);

/** 429 with Retry-After in whole seconds, at least one. */
export const tooMany = (c: Context, message: string, waitMs: number): Response =>
  xrpcError(c, 429, 'RateLimitExceeded', message, {
    'retry-after': String(Math.max(1, Math.ceil(waitMs / 1000))),
  });
