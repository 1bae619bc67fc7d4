import manifest from '../../package.json' with { type: 'json' };

/** Of package.json. */
export const VERSION: string = manifest.version;

/**
 * The Server header of every answer. "atproto-relay" is the word by which relays know each other, so that they
 * do not follow one another in a circle.
 */
export const SERVER_HEADER = `weir/${VERSION} (atproto-relay)`;
