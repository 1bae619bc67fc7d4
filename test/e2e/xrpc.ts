/** XRPC over plain HTTP: as little as the test needs. */

/** An answer other than 2xx. */
export class XrpcError extends Error {
  readonly status: number;
  readonly error: string;
  constructor(nsid: string, status: number, error: string, message: string) {
    super(`${nsid}: ${status} ${error}: ${message}`);
    this.status = status;
    this.error = error;
  }
}

export interface Call {
  readonly params?: Readonly<Record<string, string | number>>;
  /** JSON, or bytes sent as a CAR, or null for nothing. Its presence makes the call a POST. */
  readonly body?: unknown;
  /** The whole Authorization header. */
  readonly authorization?: string;
}

const TIMEOUT_MS = 20_000;

/** Sends one call and answers the Response, whatever its status; redirects are not followed. */
export const send = (service: string, nsid: string, call: Call = {}): Promise<Response> => {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(call.params ?? {})) query.set(name, String(value));
  const headers: Record<string, string> = {};
  if (call.authorization !== undefined) headers.authorization = call.authorization;
  let body: Uint8Array<ArrayBuffer> | string | null = null;
  if (call.body instanceof Uint8Array) {
    headers['content-type'] = 'application/vnd.ipld.car';
    body = new Uint8Array(call.body);
  } else if (call.body != null) {
    headers['content-type'] = 'application/json';
    body = JSON.stringify(call.body);
  }
  const suffix = query.size > 0 ? `?${query}` : '';
  return fetch(`${service}/xrpc/${nsid}${suffix}`, {
    method: call.body === undefined ? 'GET' : 'POST',
    headers,
    body,
    redirect: 'manual',
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
};

/** Sends one call; answers its JSON ({} when empty), or throws XrpcError. */
export const xrpc = async <T>(service: string, nsid: string, call: Call = {}): Promise<T> => {
  const response = await send(service, nsid, call);
  const text = await response.text();
  if (response.ok) return (text === '' ? {} : JSON.parse(text)) as T;
  let error = 'Unknown';
  let message = text.slice(0, 200);
  try {
    const parsed = JSON.parse(text) as { error?: string; message?: string };
    error = parsed.error ?? error;
    message = parsed.message ?? message;
  } catch {
    // Not JSON: the text itself is the message.
  }
  throw new XrpcError(nsid, response.status, error, message);
};

export const bearer = (token: string): string => `Bearer ${token}`;
export const basic = (user: string, password: string): string => `Basic ${btoa(`${user}:${password}`)}`;
