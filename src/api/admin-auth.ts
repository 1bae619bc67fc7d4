/**
 * Who may use the admin routes: Basic admin:PASSWORD, or Bearer with the same secret; several secrets are good
 * at the same time, so that they can be rotated. Without any secret the routes are off.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { MiddlewareHandler } from 'hono';
import type { ApiEnv } from './api.ts';
import type { RateLimiter } from './rate-limit.ts';
import { addressKey } from './remote-address.ts';
import { tooMany, xrpcError } from './xrpc-error.ts';

const digest = (text: string): Uint8Array => createHash('sha256').update(text).digest();

/** The secret that an Authorization header presents; null when there is none of a form we take. */
export const presentedSecret = (header: string | undefined): string | null => {
  const match = /^(Basic|Bearer) +([^ ]+) *$/i.exec(header ?? '');
  if (match === null) return null;
  if (match[1]!.toLowerCase() === 'bearer') return match[2]!;
  const text = Buffer.from(match[2]!, 'base64').toString('utf8');
  return text.startsWith('admin:') ? text.slice('admin:'.length) : null;
};

/** Whether `secret` is one of the good ones; takes the same time whatever it holds. */
export const createSecretCheck = (secrets: readonly string[]): ((secret: string) => boolean) => {
  const digests = secrets.filter((secret) => secret !== '').map(digest);
  return (secret) => {
    const given = digest(secret);
    let matches = 0;
    for (const good of digests) matches |= timingSafeEqual(good, given) ? 1 : 0;
    return matches === 1;
  };
};

/**
 * Whether a browser says that another site than ours makes it send the request; what is no browser says nothing.
 * Source: Fetch Metadata Request Headers, Sec-Fetch-Site; the Fetch standard, Origin header.
 */
const isFromAnotherSite = (headers: Headers): boolean => {
  const site = headers.get('sec-fetch-site');
  if (site !== null && site !== 'same-origin' && site !== 'none') return true;
  const origin = headers.get('origin');
  if (origin === null) return false;
  const from = URL.parse(origin);
  return from === null || from.host !== URL.parse(`${from.protocol}//${headers.get('host') ?? ''}`)?.host;
};

/** Lets only admins through. `failures` counts failed logins per address: over its limit, even a good one waits. */
export const adminAuth = (options: {
  readonly passwords: readonly string[];
  readonly failures: RateLimiter;
}): MiddlewareHandler<ApiEnv> => {
  const { failures } = options;
  const isGood = createSecretCheck(options.passwords);
  const off = options.passwords.every((password) => password === '');

  return async (c, next) => {
    if (off) {
      return xrpcError(c, 404, 'NotFound', 'the admin routes are off: RELAY_ADMIN_PASSWORD is not set');
    }
    const key = addressKey(c.env.remoteAddress);
    const waitMs = failures.peek(key);
    if (waitMs > 0) return tooMany(c, 'too many failed logins from this address', waitMs);
    const secret = presentedSecret(c.req.header('authorization'));
    if (secret === null || !isGood(secret)) {
      // Only a wrong secret counts: a request without one is how a browser asks for the prompt.
      if (secret !== null) failures.take(key);
      return xrpcError(c, 401, 'AuthenticationRequired', 'admin routes need the admin password', {
        'www-authenticate': 'Basic realm="weir admin", charset="UTF-8"',
      });
    }
    // A browser that remembers the password would send it along with a request that another site makes.
    if (c.req.method !== 'GET' && c.req.method !== 'HEAD' && isFromAnotherSite(c.req.raw.headers)) {
      return xrpcError(c, 403, 'Forbidden', 'admin routes do not take requests from other sites');
    }
    failures.forget(key);
    await next();
    return;
  };
};
