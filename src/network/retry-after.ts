/**
 * How long Retry-After says to wait, in ms: seconds or an HTTP date (RFC 9110, section 10.2.3). null: it is absent or
 * neither. Never negative; not bounded above, which is the caller's business.
 */
export const readRetryAfter = (value: string | null | undefined, nowMs: number): number | null => {
  const text = (value ?? '').trim();
  // Some servers send fractions.
  if (/^\d{1,12}(\.\d+)?$/.test(text)) return Math.ceil(Number(text) * 1_000);
  // Date.parse makes a date of nearly anything.
  if (!/^[A-Za-z]{3},? /.test(text)) return null;
  const at = Date.parse(text);
  return Number.isNaN(at) ? null : Math.max(0, at - nowMs);
};
