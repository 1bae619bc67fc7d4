/** What the encoding room counts, since the process began. */
export const encodeCounters = {
  /** Messages built, of either version. */
  encoded: 0,
  /** Ops left out because their record is not one canonical DAG-CBOR map. Each op counts once. */
  undecodableRecords: 0,
  /** Ops left out because their commit does not hold the block of their record. Each op counts once. */
  missingRecords: 0,
  /** Log records whose frame cannot be read: none of their events is given out. */
  unreadableFrames: 0,
  /** Ops without a repository path: no event. Strict verification lets none into the log. */
  invalidPaths: 0,
};
