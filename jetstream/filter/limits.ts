/** Bounds of what a client may ask for. The first three are the protocol's own. */

/** Collections and prefixes of one filter. */
export const MAX_WANTED_COLLECTIONS = 100;
/** DIDs of one filter. */
export const MAX_WANTED_DIDS = 10_000;
/** A message from a client; a longer one is ignored. Decimal, as the protocol has it. */
export const MAX_OPTIONS_UPDATE_BYTES = 10_000_000;
/** Of a query string: 10,000 percent-encoded did:plc take half of it. A longer one is refused before it is split. */
export const MAX_QUERY_CHARS = 1_000_000;
/** Values in one message, repeated ones included: parsed JSON takes up to fifty times its text. */
export const MAX_OPTIONS_UPDATE_VALUES = 100_000;
/** Characters of a refused value that its error repeats: an NSID has 317. */
export const MAX_REPEATED_CHARS = 512;
/** Bytes of a close frame's reason: 125 of a control frame less the code (RFC 6455, section 5.5). */
export const MAX_CLOSE_REASON_BYTES = 123;
/** From this on a cursor is µs since the epoch; below, a seq. As µs it is the year 2001. */
export const FIRST_CURSOR_US = 1_000_000_000_000_000;
