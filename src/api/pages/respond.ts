import type { Context } from 'hono';
import { page } from './html.ts';

/** Whether the caller asked for JSON: `?format=json`, or an Accept header that has it and not HTML. */
export const wantsJson = (c: Context): boolean => {
  const format = c.req.query('format');
  if (format !== undefined) return format === 'json';
  const accept = c.req.header('accept') ?? '';
  return accept.includes('application/json') && !accept.includes('text/html');
};

/**
 * Answers with a page that loads nothing and runs nothing.
 * @param allowed what this page may do beyond that: more directives of a Content-Security-Policy
 */
export const send = (
  c: Context,
  title: string,
  body: unknown,
  allowed: readonly string[] = [],
): Response | Promise<Response> => {
  const policy = ["default-src 'none'", "style-src 'unsafe-inline'", "frame-ancestors 'none'", ...allowed];
  c.header('content-security-policy', policy.join('; '));
  c.header('x-content-type-options', 'nosniff');
  c.header('referrer-policy', 'no-referrer');
  return c.html(page(title, body));
};

/** Where WebSockets of this relay are, as the caller reached it: ws://host, or wss://host behind a proxy with TLS. */
export const socketOrigin = (c: Context): string => {
  const { protocol, host } = new URL(c.req.url);
  const isSecure = protocol === 'https:' || c.req.header('x-forwarded-proto') === 'https';
  return `${isSecure ? 'wss' : 'ws'}://${host}`;
};
