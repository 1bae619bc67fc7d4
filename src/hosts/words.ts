import type { CloseOutcome } from './types.ts';

const seconds = (ms: number): string => `${Math.max(1, Math.round(ms / 1_000))} s`;

/** How a connection ended, in words for pages and logs. */
export const closeInWords = (outcome: CloseOutcome): string => {
  switch (outcome.kind) {
    case 'unreachable':
      return `unreachable: ${outcome.detail}`;
    case 'forbidden_address':
      return `forbidden address: ${outcome.detail}`;
    case 'http_status': {
      const after = outcome.retryAfterMs === null ? '' : `, retry after ${seconds(outcome.retryAfterMs)}`;
      return `HTTP status ${outcome.status} instead of a WebSocket${after}`;
    }
    case 'closed':
      return outcome.reason === ''
        ? `closed (${outcome.code})`
        : `closed (${outcome.code}): ${outcome.reason}`;
    case 'error_frame':
      return outcome.message === ''
        ? `error frame ${outcome.error}`
        : `error frame ${outcome.error}: ${outcome.message}`;
    case 'silent':
      return 'silent: no answer to pings';
    case 'malformed':
      return 'kept sending malformed frames';
    case 'throttled':
      return `over its rate limit, coming back in ${seconds(outcome.waitMs)}`;
    case 'stopped':
      return 'stopped by us';
  }
};

/** The mark in a `Server` header by which relays know each other, so that they do not follow each other in a loop. */
export const isRelayServer = (server: string): boolean => server.toLowerCase().includes('atproto-relay');
