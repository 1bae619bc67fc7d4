/** The bounds of the collection index, each with its reason. */

/** Collections with a number: names are made up freely by anyone who has an account. The network has some 20,000. */
export const MAX_COLLECTIONS = 250_000;
/** From so many on, numbers of collections that nobody has any more are given away first. */
export const CROWDED_COLLECTIONS = 125_000;
/** And where there are none of those: a repo that has as many collections brings no new names. Real ones rarely do. */
export const MAX_COLLECTIONS_TO_BRING_NAMES = 200;
/** Collections that the prefixes of one query may match: each is a list to be opened for each page, some 10 µs. */
export const MAX_COLLECTIONS_MATCHED = 1_000;
/** Of one repo, hidden or not: its record in the index is read and written as a whole. The busiest have hundreds. */
export const MAX_COLLECTIONS_PER_REPO = 2_000;
/** Places of removed pairs that a repo keeps (see placesStart in account.ts). */
export const MAX_LEFT_PER_REPO = 16;
/** Places of removed pairs in one collection: what a page over several collections may have to step over. */
export const MAX_LEFT_PER_COLLECTION = 10_000;
/** Repos waiting for a check: some 60 bytes each. */
export const MAX_SCHEDULED_CHECKS = 1_000_000;
/** Repos watched at once while their PDSes are asked, by all processes. */
export const MAX_WATCHES = 20_000;
/** A PDS that has not answered by then does not answer. */
export const MAX_WATCH_MS = 3_600_000;
/** What a writer waits for another one; the longest transactions take tenths of a second. */
export const BUSY_TIMEOUT_MS = 30_000;
/** Pairs in one call of a writer: a transaction that others wait for. */
export const MAX_PAIRS_PER_CALL = 100_000;
/** Pairs remembered as seen, 24 bytes each. */
export const SEEN_PAIRS = 1_048_576;
/** Of a DID that is no did:plc, as text. */
export const MAX_OTHER_DID_LENGTH = 2_048;
