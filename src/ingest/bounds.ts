/**
 * Events of one host that may be handed on while an earlier one of it waits for an identity: the sequencer keeps
 * their seqs one by one, and stores them. Over the first bound the host is not read; a host that gets to the second
 * one all the same is cut.
 */
export const MAX_AHEAD_EVENTS = 8_192;
/** So a host's cursor is never further behind than this many logged events, which a rebuild relies on. */
export const HARD_AHEAD_EVENTS = 16_384;
