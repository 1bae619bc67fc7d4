/**
 * HTTP requests to hosts that were named from outside.
 *
 * Contract: never throws or rejects; one deadline over everything (DNS, connect, TLS, redirects, body); the body is
 * read whole and bounded, or its connection is destroyed, so that no response is ever left open; every hop's
 * address and port pass the guard, and the socket goes to the address that was checked.
 */
import http from 'node:http';
import https from 'node:https';
import { brotliDecompressSync, unzipSync } from 'node:zlib';
import { forbiddenAddress } from './address.ts';
import { FORBIDDEN_ADDRESS_CODE, type GuardedLookup, guardedLookup } from './lookup.ts';

/** Kept-alive connections per host: enough for the identity resolver's look-ups in flight at one PLC directory. */
const MAX_KEPT_CONNECTIONS = 32;
/** A kept connection idle for longer is closed: middleboxes forget it silently, and the next request would hang. */
const KEEP_IDLE_MS = 15_000;
const MAX_URL_CHARS = 4096;
const MAX_HEADER_BYTES = 16 * 1024;

export interface FetchOptions {
  /** Deadline of the whole call. */
  readonly timeoutMs: number;
  /** Bound on the body, as received and again after decompression. */
  readonly maxBytes: number;
  /**
   * Private addresses and any port. Default false: public addresses, ports 80 and 443. named_origin: for the origin
   * of the URL, which an operator named, and not for where it redirects to.
   */
  readonly allowPrivateAddresses?: boolean | 'named_origin';
  readonly headers?: Readonly<Record<string, string>>;
  /** How many redirects may be followed. Default 0: a redirect is a failure. */
  readonly redirects?: number;
  readonly userAgent?: string;
  /** Keep the connection for the next request to the same host. Default false. */
  readonly keepAlive?: boolean;
  /** Default GET. */
  readonly method?: 'GET' | 'POST';
  /** Request body, with POST; not sent on over redirects. */
  readonly body?: string;
}

export type FetchFailure =
  | 'timeout'
  | 'too_large'
  | 'forbidden_address' // the guard refused the address or the port
  | 'unreachable' // DNS, TCP, TLS, broken HTTP, connection lost
  | 'bad_redirect' // too many, no usable Location, or from https to http
  | 'bad_url'
  | 'bad_encoding'; // a Content-Encoding that is unknown or broken

export type FetchResult =
  | {
      readonly ok: true;
      /** Any final HTTP status; judging it is the caller's. */
      readonly status: number;
      /** Names in lower case; repeated headers joined by ', '. */
      readonly headers: Readonly<Record<string, string>>;
      readonly body: Uint8Array;
    }
  | { readonly ok: false; readonly kind: FetchFailure; readonly detail: string };

export type GuardedFetch = (url: string, options: FetchOptions) => Promise<FetchResult>;

export interface FetchSettings {
  /** Which look-up to use for public (false) and private (true) calls. Default: the process's own. */
  readonly lookupFor?: (allowPrivateAddresses: boolean) => GuardedLookup;
  /** Certificate authorities, PEM. Default: the system's. */
  readonly ca?: string;
  /** Ports that public calls may use. Default: 80 and 443. */
  readonly publicPorts?: readonly number[];
  /** How long a kept connection may be idle. */
  readonly keepIdleMs?: number;
}

const fail = (kind: FetchFailure, detail: string): FetchResult => ({ ok: false, kind, detail });

const parseUrl = (text: string, base?: URL): URL | null => {
  if (text.length > MAX_URL_CHARS) return null;
  try {
    const url = new URL(text, base);
    const isHttp = url.protocol === 'https:' || url.protocol === 'http:';
    return isHttp && url.username === '' && url.password === '' && url.hostname !== '' ? url : null;
  } catch {
    return null;
  }
};

/** Why the guard refuses this URL before any connection; null: it does not. */
const forbiddenUrl = (url: URL, ports: readonly number[]): string | null => {
  const defaultPort = url.protocol === 'https:' ? 443 : 80;
  if (!ports.includes(url.port === '' ? defaultPort : Number(url.port))) return 'the port is not allowed';
  // A literal address never reaches the look-up; URL parsing has already turned every spelling into these two.
  const isIpv6 = url.hostname.startsWith('[');
  if (!isIpv6 && !/^[\d.]+$/.test(url.hostname)) return null;
  const why = forbiddenAddress(isIpv6 ? url.hostname.slice(1, -1) : url.hostname);
  return why === null ? null : `the URL leads to a ${why} address`;
};

const decode = (body: Buffer, encoding: string, maxBytes: number): FetchResult | Buffer => {
  if (encoding === '' || encoding === 'identity') return body;
  try {
    if (encoding === 'gzip' || encoding === 'x-gzip' || encoding === 'deflate') {
      return unzipSync(body, { maxOutputLength: maxBytes });
    }
    if (encoding === 'br') return brotliDecompressSync(body, { maxOutputLength: maxBytes });
    return fail('bad_encoding', 'unknown content encoding');
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE'
      ? fail('too_large', `more than ${maxBytes} bytes when decompressed`)
      : fail('bad_encoding', 'the body does not decompress');
  }
};

/** Of one hop: a right that holds for the named origin only is taken away before another one is asked. */
const mayBePrivate = ({ allowPrivateAddresses = false }: FetchOptions): boolean =>
  allowPrivateAddresses !== false;

const isRedirect = (status: number): boolean =>
  status === 301 || status === 302 || status === 303 || status === 307 || status === 308;

type Hop = FetchResult | { readonly redirect: string };

/** Makes a fetch with its own connection pools; `guardedFetch` is the one of the process. */
export const createGuardedFetch = (settings: FetchSettings = {}): GuardedFetch => {
  const { lookupFor = guardedLookup, ca, publicPorts = [80, 443], keepIdleMs = KEEP_IDLE_MS } = settings;

  const poolOptions = {
    keepAlive: true,
    timeout: keepIdleMs,
    maxSockets: MAX_KEPT_CONNECTIONS,
    maxFreeSockets: MAX_KEPT_CONNECTIONS,
  };
  // A connection that was opened under the looser rule must not serve a request under the stricter one.
  const poolsFor = () => ({ http: new http.Agent(poolOptions), https: new https.Agent(poolOptions) });
  const pools = { public: poolsFor(), private: poolsFor() };

  /** One request without redirects. Settles exactly once, by the deadline at the latest; then nothing is left open. */
  const hop = (url: URL, options: FetchOptions, deadlineMs: number, maySendAgain: boolean): Promise<Hop> =>
    new Promise((resolve) => {
      const { maxBytes, keepAlive = false, method = 'GET' } = options;
      const allowPrivateAddresses = mayBePrivate(options);
      const secure = url.protocol === 'https:';
      const pool = pools[allowPrivateAddresses ? 'private' : 'public'];
      let settled = false;
      let request: http.ClientRequest | null = null;
      let response: http.IncomingMessage | null = null;
      const settle = (result: Hop): void => {
        if (settled) return;
        settled = true;
        clearTimeout(timer);
        resolve(result);
      };
      const abort = (result: Hop): void => {
        settle(result);
        response?.destroy();
        request?.destroy();
      };
      const timer = setTimeout(
        () => abort(fail('timeout', `no complete answer within ${options.timeoutMs} ms`)),
        Math.max(0, deadlineMs - performance.now()),
      );

      const onError = (error: NodeJS.ErrnoException): void => {
        if (settled) return;
        if (error.code === FORBIDDEN_ADDRESS_CODE) {
          abort(fail('forbidden_address', error.message));
          return;
        }
        // The other end may close a kept connection at the very moment it is used again: that says nothing about it.
        if (maySendAgain && response === null && request?.reusedSocket === true && method === 'GET') {
          settled = true;
          clearTimeout(timer);
          request.destroy();
          void hop(url, options, deadlineMs, false).then(resolve);
          return;
        }
        abort(fail('unreachable', String(error.code ?? error.message).slice(0, 100)));
      };

      const onResponse = (incoming: http.IncomingMessage): void => {
        response = incoming;
        incoming.on('error', onError);
        if (settled) {
          incoming.destroy();
          return;
        }
        const status = incoming.statusCode ?? 0;
        if (isRedirect(status)) {
          abort({ redirect: incoming.headers.location ?? '' });
          return;
        }
        if (Number(incoming.headers['content-length'] ?? 0) > maxBytes) {
          abort(fail('too_large', `more than ${maxBytes} bytes`));
          return;
        }
        const chunks: Buffer[] = [];
        let received = 0;
        incoming.on('data', (chunk: Buffer) => {
          if (settled) return;
          received += chunk.length;
          if (received > maxBytes) abort(fail('too_large', `more than ${maxBytes} bytes`));
          else chunks.push(chunk);
        });
        incoming.on('aborted', () => abort(fail('unreachable', 'the connection was lost')));
        incoming.on('close', () => {
          if (!settled) abort(fail('unreachable', 'the connection was lost'));
        });
        incoming.on('end', () => {
          if (settled) return;
          const headers: Record<string, string> = {};
          for (const [name, value] of Object.entries(incoming.headers)) {
            if (value !== undefined) headers[name] = Array.isArray(value) ? value.join(', ') : value;
          }
          const encoding = (headers['content-encoding'] ?? '').trim().toLowerCase();
          const body = decode(Buffer.concat(chunks), encoding, maxBytes);
          settle(body instanceof Uint8Array ? { ok: true, status, headers, body } : body);
        });
      };

      try {
        request = (secure ? https : http).request(
          url,
          {
            method,
            lookup: lookupFor(allowPrivateAddresses).lookup as never,
            agent: keepAlive ? (secure ? pool.https : pool.http) : false,
            maxHeaderSize: MAX_HEADER_BYTES,
            headers: {
              'accept-encoding': 'identity',
              ...(options.userAgent === undefined ? {} : { 'user-agent': options.userAgent }),
              ...options.headers,
            },
            ...(ca === undefined ? {} : { ca }),
          },
          onResponse,
        );
        request.on('error', onError);
        request.on('close', () => {
          if (response === null && !settled) onError(new Error('the connection was lost'));
        });
        request.end(method === 'POST' ? options.body : undefined);
      } catch (error) {
        abort(fail('bad_url', (error as Error).message.slice(0, 100)));
      }
    });

  return async (text, options) => {
    const deadlineMs = performance.now() + options.timeoutMs;
    let url = parseUrl(text);
    if (url === null) return fail('bad_url', 'not an http or https URL');
    let hopOptions = options;
    for (let redirects = options.redirects ?? 0; ; redirects--) {
      if (!mayBePrivate(hopOptions)) {
        const why = forbiddenUrl(url, publicPorts);
        if (why !== null) return fail('forbidden_address', why);
      }
      const result: Hop = await hop(url, hopOptions, deadlineMs, true);
      if (!('redirect' in result)) return result;
      if (redirects <= 0) return fail('bad_redirect', 'a redirect, or one too many');
      const target = parseUrl(result.redirect, url);
      if (target === null || result.redirect === '') return fail('bad_redirect', 'no usable Location');
      if (target.origin !== url.origin) {
        // Headers and rights that the caller meant for one host are not for another.
        const { headers: _, body: __, ...rest } = options;
        hopOptions = { ...rest, allowPrivateAddresses: options.allowPrivateAddresses === true };
      }
      if (url.protocol === 'https:' && target.protocol === 'http:' && !mayBePrivate(hopOptions)) {
        return fail('bad_redirect', 'from https to http');
      }
      hopOptions = { ...hopOptions, method: 'GET' };
      url = target;
    }
  };
};

/** The fetch of this process (each worker thread has its own). */
export const guardedFetch: GuardedFetch = createGuardedFetch();
