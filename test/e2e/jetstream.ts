/**
 * Real Jetstream clients beside the firehose ones: the two libraries that most programs use, a browser page, and
 * plain sockets that ask for zstd. Each keeps its own cursor its own way and reconnects by itself; what all of them
 * must have seen comes from the same ledger.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { JetstreamSubscription } from '@atcute/jetstream';
import { createDCtx, decompressUsingDict } from '@bokuweb/zstd-wasm';
import { Jetstream } from '@skyware/jetstream';
import { initZstdWasm } from '../zstd-wasm.ts';
import type { Ledger, NetworkEvent } from './ledger.ts';

/** What a Jetstream client hands over: one per op of a commit. */
export type JsonEvent =
  | {
      readonly kind: 'commit';
      readonly operation: string;
      readonly path: string;
      readonly rev: string;
      readonly cid: string | null;
      readonly record: unknown;
    }
  | { readonly kind: 'identity'; readonly handle: string | null }
  | { readonly kind: 'account'; readonly active: boolean; readonly status: string | null }
  | { readonly kind: 'sync'; readonly rev: string };

export interface JetstreamClient {
  readonly name: string;
  /** Whether it is told of #sync events. */
  readonly sync: boolean;
  /** It does not hand over an identity without a handle. */
  readonly needsHandle?: true;
  readonly count: number;
  readonly opened: number;
  /** Everything that must not be. */
  readonly faults: readonly string[];
  of(did: string): JsonEvent[];
  stop(): Promise<void> | void;
}

const RECONNECT_MS = 200;

/** What a client must have handed over, from the messages of the firehose. Ops of one commit sorted by path. */
export const jsonEvents = (
  events: readonly NetworkEvent[],
  ledger: Pick<Ledger, 'record'>,
  client: Pick<JetstreamClient, 'sync' | 'needsHandle'>,
): JsonEvent[] =>
  events.flatMap((event): JsonEvent[] => {
    switch (event.kind) {
      case 'commit':
        return event.ops.map((op) => ({
          kind: 'commit',
          operation: op.action,
          path: op.path,
          rev: event.rev,
          cid: op.cid,
          record: op.cid === null ? null : ledger.record(op.cid),
        }));
      case 'sync':
        return client.sync ? [{ kind: 'sync', rev: event.rev }] : [];
      case 'identity':
        return client.needsHandle && event.handle === null ? [] : [event];
      default:
        return [event];
    }
  });

/** Collects events by DID; ops of one commit come one after the other and are put in the ledger's order. */
const createShelf = () => {
  const byDid = new Map<string, JsonEvent[]>();
  let count = 0;
  const revOf = (event: JsonEvent | undefined) => (event?.kind === 'commit' ? event.rev : null);
  return {
    get count() {
      return count;
    },
    add: (did: string, event: JsonEvent) => {
      count++;
      const list = byDid.get(did) ?? [];
      byDid.set(did, list);
      list.push(event);
      if (event.kind !== 'commit') return;
      let at = list.length - 1;
      while (at > 0 && revOf(list[at - 1]) === event.rev) {
        const before = list[at - 1] as typeof event;
        if (before.path <= event.path) break;
        list[at] = before;
        list[at - 1] = event;
        at--;
      }
    },
    of: (did: string) => byDid.get(did) ?? [],
  };
};

type Shelf = ReturnType<typeof createShelf>;

interface V1Message {
  readonly did: string;
  readonly time_us: number;
  readonly kind: 'commit' | 'identity' | 'account';
  readonly commit?: {
    readonly rev: string;
    readonly operation: string;
    readonly collection: string;
    readonly rkey: string;
    readonly cid?: string;
    readonly record?: unknown;
  };
  readonly identity?: { readonly did: string; readonly handle?: string; readonly seq: number };
  readonly account?: { readonly did: string; readonly active: boolean; readonly status?: string };
}

const fromV1 = (message: V1Message): JsonEvent => {
  const { commit, identity, account } = message;
  if (message.kind === 'commit' && commit !== undefined)
    return {
      kind: 'commit',
      operation: commit.operation,
      path: `${commit.collection}/${commit.rkey}`,
      rev: commit.rev,
      cid: commit.cid ?? null,
      record: commit.record ?? null,
    };
  if (message.kind === 'identity' && identity !== undefined)
    return { kind: 'identity', handle: identity.handle ?? null };
  if (message.kind === 'account' && account !== undefined)
    return { kind: 'account', active: account.active, status: account.status ?? null };
  throw new Error(`not a v1 event: ${JSON.stringify(message).slice(0, 200)}`);
};

/** Takes v1 messages in, faults for everything that is not in order. `repeats`: a library may be given events again. */
const createV1Intake = (shelf: Shelf, faults: string[], repeats: boolean) => {
  const seen = new Map<number, string>();
  let last = 0;
  return {
    get last() {
      return last;
    },
    take: (message: V1Message) => {
      const { time_us: timeUs } = message;
      const text = JSON.stringify(message);
      const before = seen.get(timeUs);
      if (before !== undefined) {
        if (!repeats) faults.push(`time_us ${timeUs} twice`);
        else if (before !== text) faults.push(`time_us ${timeUs} means two events: ${before} and ${text}`);
        return;
      }
      if (!Number.isSafeInteger(timeUs) || timeUs <= last) faults.push(`time_us ${timeUs} after ${last}`);
      last = Math.max(last, timeUs);
      seen.set(timeUs, text);
      shelf.add(message.did, fromV1(message));
    },
  };
};

/** A client over the shelf that it fills. */
const clientOf = ({
  shelf,
  opened,
  ...rest
}: Omit<JetstreamClient, 'count' | 'opened' | 'of'> & {
  readonly shelf: ReturnType<typeof createShelf>;
  readonly opened: () => number;
}): JetstreamClient => ({
  ...rest,
  get count() {
    return shelf.count;
  },
  get opened() {
    return opened();
  },
  of: shelf.of,
});

/** @skyware/jetstream as its readme shows it; on a reconnect it asks for the last event it had once more. */
const startSkyware = (service: string): JetstreamClient => {
  const shelf = createShelf();
  const faults: string[] = [];
  let opened = 0;
  const intake = createV1Intake(shelf, faults, true);
  const client = new Jetstream({ endpoint: `${service}/subscribe`, cursor: 1 });
  client.on('open', () => {
    opened++;
  });
  for (const kind of ['commit', 'identity', 'account'] as const)
    client.on(kind, (message: unknown) => {
      try {
        intake.take(structuredClone(message) as V1Message);
      } catch (error) {
        faults.push(String(error));
      }
    });
  client.start();
  return clientOf({
    name: '@skyware/jetstream',
    sync: false,
    faults,
    shelf,
    opened: () => opened,
    stop: () => client.close(),
  });
};

/** @atcute/jetstream with two names of one relay: a switch of host makes it step back ten seconds. */
const startAtcute = (services: string[]): JetstreamClient => {
  const shelf = createShelf();
  const faults: string[] = [];
  let opened = 0;
  let stopped = false;
  const intake = createV1Intake(shelf, faults, true);
  const subscription = new JetstreamSubscription({
    url: services,
    cursor: 0,
    onConnectionOpen: () => {
      opened++;
    },
    onError: (error: unknown) => {
      if (!String(error).includes('"handle"')) faults.push(`refused by its validation: ${error}`);
    },
  });
  const iterator = subscription[Symbol.asyncIterator]();
  void (async () => {
    for (;;) {
      const next = await iterator.next();
      if (next.done || stopped) return;
      try {
        intake.take(next.value as unknown as V1Message);
      } catch (error) {
        faults.push(String(error));
      }
    }
  })();
  return clientOf({
    name: '@atcute/jetstream',
    sync: false,
    needsHandle: true,
    faults,
    shelf,
    opened: () => opened,
    stop: () => {
      stopped = true;
      void iterator.return?.();
    },
  });
};

interface SocketOptions {
  readonly url: (cursor: string | null) => string;
  readonly headers?: Record<string, string>;
  readonly take: (data: string | Uint8Array) => void;
  readonly cursor: () => string | null;
  readonly faults: string[];
}

const startSocket = (options: SocketOptions) => {
  let stopped = false;
  let opened = 0;
  let socket: WebSocket | null = null;
  const connect = () => {
    if (stopped) return;
    const current = new WebSocket(options.url(options.cursor()), { headers: options.headers ?? {} });
    current.binaryType = 'arraybuffer';
    socket = current;
    current.onopen = () => {
      opened++;
    };
    current.onmessage = ({ data }) => {
      try {
        options.take(typeof data === 'string' ? data : new Uint8Array(data as ArrayBuffer));
      } catch (error) {
        options.faults.push(String(error));
      }
    };
    current.onclose = () => void setTimeout(connect, RECONNECT_MS);
  };
  connect();
  return {
    get opened() {
      return opened;
    },
    stop: () => {
      stopped = true;
      socket?.close();
    },
  };
};

/** `Socket-Encoding: zstd`, as the Go client asks; goes on one µs behind its last event, so nothing may come twice. */
const startZstd = (service: string, decompress: (bytes: Uint8Array) => Uint8Array): JetstreamClient => {
  const shelf = createShelf();
  const faults: string[] = [];
  const intake = createV1Intake(shelf, faults, false);
  const socket = startSocket({
    url: (cursor) => `${service}/subscribe?maxSize=0&cursor=${cursor}`,
    headers: { 'socket-encoding': 'zstd' },
    cursor: () => String(intake.last === 0 ? 0 : intake.last + 1),
    take: (data) => {
      if (typeof data === 'string') throw new Error('a text frame where zstd was asked for');
      intake.take(JSON.parse(new TextDecoder().decode(decompress(data))) as V1Message);
    },
    faults,
  });
  return clientOf({
    name: 'a client that asks for zstd by header',
    sync: false,
    faults,
    shelf,
    opened: () => socket.opened,
    stop: socket.stop,
  });
};

interface V2Payload {
  readonly $type: string;
  readonly seq: number;
  readonly did: string;
  readonly rev?: string;
  readonly operation?: string;
  readonly collection?: string;
  readonly rkey?: string;
  readonly cid?: string;
  readonly record?: unknown;
  readonly identity?: { readonly handle?: string };
  readonly account?: { readonly active: boolean; readonly status?: string };
  readonly sync?: { readonly rev: string };
}

const V2 = 'network.bsky.jetstream.subscribeEvents';

const fromV2 = (payload: V2Payload): JsonEvent => {
  switch (payload.$type) {
    case `${V2}#commit`:
      return {
        kind: 'commit',
        operation: payload.operation!,
        path: `${payload.collection}/${payload.rkey}`,
        rev: payload.rev!,
        cid: payload.cid ?? null,
        record: payload.record ?? null,
      };
    case `${V2}#identity`:
      return { kind: 'identity', handle: payload.identity!.handle ?? null };
    case `${V2}#account`:
      return { kind: 'account', active: payload.account!.active, status: payload.account!.status ?? null };
    case `${V2}#sync`:
      return { kind: 'sync', rev: payload.sync!.rev };
    default:
      throw new Error(`not a v2 event: ${JSON.stringify(payload).slice(0, 200)}`);
  }
};

/** v2; comes back with its last seq, of whose events it counts how many it had. */
const startV2 = (
  service: string,
  dictionary: { id: number; decompress: (bytes: Uint8Array) => Uint8Array } | null,
): JetstreamClient => {
  const shelf = createShelf();
  const faults: string[] = [];
  let lastSeq = 0;
  let hadOfLast = 0;
  let toSkip = 0;
  const query = dictionary === null ? '' : `&zstdDictionary=${dictionary.id}`;
  const socket = startSocket({
    url: (cursor) => `${service}/xrpc/${V2}?cursor=${cursor}${query}`,
    cursor: () => {
      toSkip = hadOfLast;
      return String(Math.max(1, lastSeq));
    },
    take: (data) => {
      if ((typeof data === 'string') !== (dictionary === null)) throw new Error('the wrong sort of frame');
      const text = typeof data === 'string' ? data : new TextDecoder().decode(dictionary!.decompress(data));
      const { $type, payload } = JSON.parse(text) as { $type: string; payload: V2Payload };
      if ($type !== 'message') throw new Error(text.slice(0, 200));
      if (payload.seq === lastSeq && toSkip > 0) {
        toSkip--;
        return;
      }
      if (toSkip > 0) faults.push(`${toSkip} events of seq ${lastSeq} were not given again`);
      toSkip = 0;
      if (!Number.isSafeInteger(payload.seq) || payload.seq < lastSeq)
        faults.push(`seq ${payload.seq} after ${lastSeq}`);
      hadOfLast = payload.seq === lastSeq ? hadOfLast + 1 : 1;
      lastSeq = payload.seq;
      shelf.add(payload.did, fromV2(payload));
    },
    faults,
  });
  return clientOf({
    name: dictionary === null ? 'a v2 client' : 'a v2 client with a dictionary',
    sync: true,
    faults,
    shelf,
    opened: () => socket.opened,
    stop: socket.stop,
  });
};

const pageText = (service: string) => `<!doctype html><title>weir</title><script>
let last = 0;
let queue = [];
const post = async () => {
  if (queue.length > 0) {
    const body = JSON.stringify(queue);
    queue = [];
    await fetch('/report', { method: 'POST', body });
  }
  setTimeout(post, 50);
};
post();
const connect = () => {
  const socket = new WebSocket(${JSON.stringify(service)} + '/subscribe?cursor=' + (last === 0 ? 0 : last + 1));
  socket.onopen = () => queue.push({ opened: true, extensions: socket.extensions });
  socket.onmessage = (message) => {
    const event = JSON.parse(message.data);
    last = event.time_us;
    queue.push({ event });
  };
  socket.onclose = () => setTimeout(connect, ${RECONNECT_MS});
};
connect();
</script>`;

/** The plain WebSocket of a page in a headless Chromium, which reports what it got to a server of this test. */
const startBrowser = async (service: string, program: string): Promise<JetstreamClient> => {
  const shelf = createShelf();
  const faults: string[] = [];
  const intake = createV1Intake(shelf, faults, false);
  let opened = 0;
  const server = Bun.serve({
    port: 0,
    hostname: '127.0.0.1',
    fetch: async (request) => {
      if (new URL(request.url).pathname !== '/report')
        return new Response(pageText(service), { headers: { 'content-type': 'text/html; charset=utf-8' } });
      const reports = (await request.json()) as { opened?: true; extensions?: string; event?: V1Message }[];
      for (const report of reports) {
        if (report.opened) opened++;
        if (report.extensions) faults.push(`the extension ${report.extensions} was agreed to`);
        try {
          if (report.event !== undefined) intake.take(report.event);
        } catch (error) {
          faults.push(String(error));
        }
      }
      return new Response();
    },
  });
  const profile = await mkdtemp(join(tmpdir(), 'weir-chromium-'));
  const child = Bun.spawn(
    [
      program,
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-dev-shm-usage',
      '--remote-debugging-port=0',
      `--user-data-dir=${profile}`,
      `http://127.0.0.1:${server.port}/`,
    ],
    { stdin: 'ignore', stdout: 'ignore', stderr: 'ignore' },
  );
  return clientOf({
    name: 'a page in Chromium',
    sync: false,
    faults,
    shelf,
    opened: () => opened,
    stop: async () => {
      child.kill('SIGTERM');
      const ended = await Promise.race([child.exited, Bun.sleep(5000).then(() => null)]);
      if (ended === null) child.kill('SIGKILL');
      await child.exited;
      await server.stop(true);
      await rm(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    },
  });
};

export interface JetstreamOptions {
  /** http://… of the relay. */
  readonly service: string;
  /** null: no browser on this machine. */
  readonly chromium: string | null;
}

/** A decoder that has the relay's current dictionary loaded, whichever frames it is given. */
const fetchDictionary = async (service: string) => {
  await initZstdWasm();
  const response = await fetch(`${service}/xrpc/network.bsky.jetstream.getZstdDictionary`);
  if (!response.ok) throw new Error(`getZstdDictionary: ${response.status} ${await response.text()}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const context = createDCtx();
  return {
    // Zstandard format, section 5: a magic number, then the ID.
    id: new DataView(bytes.buffer).getUint32(4, true),
    decompress: (frame: Uint8Array) => decompressUsingDict(context, frame, bytes),
  };
};

/** Starts all of them from the beginning of what the relay holds. */
export const startJetstreamClients = async (options: JetstreamOptions): Promise<JetstreamClient[]> => {
  const service = options.service.replace('http', 'ws');
  const dictionary = await fetchDictionary(options.service);
  const clients = [
    startSkyware(service),
    startAtcute([service, service.replace('127.0.0.1', 'localhost')]),
    startZstd(service, dictionary.decompress),
    startV2(service, null),
    startV2(service, dictionary),
  ];
  if (options.chromium !== null) clients.push(await startBrowser(service, options.chromium));
  return clients;
};
