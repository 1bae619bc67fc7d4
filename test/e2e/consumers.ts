/**
 * The two consumers of the test, which share no code with weir: one that decodes frames itself, and
 * @atproto/sync's Firehose client, which verifies every commit and handle.
 */
import { IdResolver } from '@atproto/identity';
import { Firehose } from '@atproto/sync';
import * as dagCbor from '@ipld/dag-cbor';
import { decodeFirst } from 'cborg';
import type { CID } from 'multiformats/cid';
import type { Ledger, NetworkEvent } from './ledger.ts';
import { sortOps } from './ledger.ts';
import type { Pds } from './network.ts';
import { xrpc } from './xrpc.ts';

/** One message as it came. */
export interface SeenFrame {
  readonly seq: number;
  readonly did: string;
  readonly event: NetworkEvent;
  /** sha-256 of the whole frame with seq set to 0: equal frames of two hosts differ in their seq alone. */
  readonly digest: string;
}

export interface RawConsumer {
  readonly frames: readonly SeenFrame[];
  /** Everything that must not be: bad encoding, a seq that does not grow, error and info frames. */
  readonly faults: readonly string[];
  /** Close codes of connections that had opened. */
  readonly closes: readonly number[];
  readonly opened: number;
  of(did: string): NetworkEvent[];
  stop(): void;
}

const RECONNECT_MS = 150;

const cidText = (value: unknown): string | null => (value == null ? null : (value as CID).toString());

const eventOf = (type: string, body: Record<string, unknown>): { did: string; event: NetworkEvent } => {
  const did = (type === '#commit' ? body.repo : body.did) as string;
  switch (type) {
    case '#commit': {
      const ops = (body.ops as { action: string; path: string; cid: unknown }[]).map((op) => ({
        action: op.action,
        path: op.path,
        cid: cidText(op.cid),
      }));
      const event = {
        kind: 'commit',
        rev: body.rev as string,
        commit: cidText(body.commit)!,
        ops: sortOps(ops),
      } as const;
      return { did, event };
    }
    case '#sync': {
      // The root stands in the CAR's own header: a length below 128 and then dag-cbor.
      const blocks = body.blocks as Uint8Array;
      const header = dagCbor.decode(blocks.subarray(1, 1 + blocks[0]!)) as { roots: CID[] };
      return { did, event: { kind: 'sync', rev: body.rev as string, commit: header.roots[0]!.toString() } };
    }
    case '#identity':
      return { did, event: { kind: 'identity', handle: (body.handle as string | undefined) ?? null } };
    case '#account': {
      const status = (body.status as string | undefined) ?? null;
      return { did, event: { kind: 'account', active: body.active as boolean, status } };
    }
    default:
      throw new Error(`unknown type ${type}`);
  }
};

/**
 * Subscribes to `service` (http://…) from `cursor` (null = live), reconnecting from its last seq for as long as it is not stopped.
 */
export const startRawConsumer = (service: string, cursor: number | null): RawConsumer => {
  const frames: SeenFrame[] = [];
  const byDid = new Map<string, NetworkEvent[]>();
  const faults: string[] = [];
  const closes: number[] = [];
  let position = cursor;
  let stopped = false;
  let opened = 0;
  let socket: WebSocket | null = null;

  const take = (bytes: Uint8Array) => {
    const [header, rest] = decodeFirst(bytes, dagCbor.decodeOptions) as [
      { op: number; t?: string },
      Uint8Array,
    ];
    const body = dagCbor.decode(rest) as Record<string, unknown>;
    if (header.op !== 1 || header.t === undefined || header.t === '#info') {
      faults.push(`frame ${JSON.stringify(header)} ${JSON.stringify(body)}`);
      return;
    }
    const again = Buffer.concat([dagCbor.encode(header), dagCbor.encode(body)]);
    if (!again.equals(bytes)) faults.push(`seq ${body.seq}: not canonical DAG-CBOR`);
    const seq = body.seq as number;
    if (!Number.isSafeInteger(seq) || seq <= (position ?? 0)) faults.push(`seq ${seq} after ${position}`);
    position = seq;
    const { did, event } = eventOf(header.t, body);
    const hash = new Bun.CryptoHasher('sha256').update(dagCbor.encode(header));
    const digest = hash.update(dagCbor.encode({ ...body, seq: 0 })).digest('hex');
    frames.push({ seq, did, event, digest });
    const list = byDid.get(did) ?? [];
    byDid.set(did, list);
    list.push(event);
  };

  const connect = () => {
    if (stopped) return;
    const query = position === null ? '' : `?cursor=${position}`;
    const current = new WebSocket(
      `${service.replace('http', 'ws')}/xrpc/com.atproto.sync.subscribeRepos${query}`,
    );
    socket = current;
    current.binaryType = 'arraybuffer';
    let wasOpen = false;
    current.onopen = () => {
      wasOpen = true;
      opened++;
    };
    current.onmessage = (message) => {
      if (stopped) return;
      try {
        take(new Uint8Array(message.data as ArrayBuffer));
      } catch (error) {
        faults.push(`undecodable frame: ${error}`);
      }
    };
    current.onclose = (close) => {
      if (wasOpen) closes.push(close.code);
      setTimeout(connect, RECONNECT_MS);
    };
  };
  connect();
  return {
    frames,
    faults,
    closes,
    get opened() {
      return opened;
    },
    of: (did) => byDid.get(did) ?? [],
    stop: () => {
      stopped = true;
      socket?.close();
    },
  };
};

/** Subscribes and answers the first frame with the code of the close that follows it. */
export const firstFrame = (
  service: string,
  cursor: number,
): Promise<{ header: unknown; body: unknown; closeCode: number }> =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(
      `${service.replace('http', 'ws')}/xrpc/com.atproto.sync.subscribeRepos?cursor=${cursor}`,
    );
    socket.binaryType = 'arraybuffer';
    let frame: { header: unknown; body: unknown } | null = null;
    const timer = setTimeout(() => {
      socket.close();
      reject(new Error(frame === null ? 'no frame came' : `no close came after ${JSON.stringify(frame)}`));
    }, 5000);
    socket.onmessage = (message) => {
      const bytes = new Uint8Array(message.data as ArrayBuffer);
      const [header, rest] = decodeFirst(bytes, dagCbor.decodeOptions) as [unknown, Uint8Array];
      frame ??= { header, body: dagCbor.decode(rest) };
    };
    socket.onclose = ({ code }) => {
      clearTimeout(timer);
      if (frame === null) reject(new Error(`closed with ${code} before any frame`));
      else resolve({ ...frame, closeCode: code });
    };
  });

/** What the Firehose client hands to its handler, one per op of a commit. */
export type ClientEvent =
  | {
      readonly kind: string;
      readonly path: string;
      readonly cid: string | null;
      readonly rev: string;
      readonly commit: string;
      readonly record: unknown;
    }
  | Exclude<NetworkEvent, { kind: 'commit' }>;

export interface Client {
  readonly errors: readonly string[];
  /** Events handed to the handler. */
  readonly count: number;
  of(did: string): ClientEvent[];
  stop(): Promise<void>;
}

/** What the client must have handed over, given the messages it was to get. */
export const clientEvents = (events: readonly NetworkEvent[], ledger: Ledger): ClientEvent[] =>
  events.flatMap((event): ClientEvent[] =>
    event.kind !== 'commit'
      ? [event]
      : event.ops.map((op) => ({
          kind: op.action,
          path: op.path,
          cid: op.cid,
          rev: event.rev,
          commit: event.commit,
          record: op.cid === null ? null : ledger.record(op.cid),
        })),
  );

const path = (event: ClientEvent): string => ('path' in event ? event.path : '');

/**
 * Starts the Firehose client on `service`, from the beginning of what it holds. Commits are verified against the keys
 * in the PLC directory, handles against the PDSes; the client reconnects by itself from the last event it handled.
 */
export const startClient = (service: string, plcUrl: string, pdses: readonly Pds[]): Client => {
  const byDid = new Map<string, ClientEvent[]>();
  const errors: string[] = [];
  let count = 0;
  let cursor = 0;
  // The plain fetch, since the default one refuses the addresses of this machine.
  const idResolver = new IdResolver({ plcUrl, fetch: globalThis.fetch });
  // The handles here are in no public DNS: the PDSes themselves answer for them, though not while the account is
  // deactivated, hence the memory.
  const resolved = new Map<string, string>();
  idResolver.handle.resolve = async (handle: string) => {
    const pds = pdses.find((one) => handle.endsWith(one.handleDomain));
    if (pds === undefined) return undefined;
    const nsid = 'com.atproto.identity.resolveHandle';
    const answer = await xrpc<{ did: string }>(pds.url, nsid, { params: { handle } }).catch(() => null);
    if (answer !== null) resolved.set(handle, answer.did);
    return resolved.get(handle);
  };
  const firehose = new Firehose({
    idResolver,
    service: service.replace('http', 'ws'),
    getCursor: () => cursor,
    maxReconnectSeconds: 1,
    subscriptionReconnectDelay: 300,
    onError: (error) => {
      const cause = error.cause instanceof Error ? `: ${error.cause.message}` : '';
      errors.push(`${error.message}${cause}`);
    },
    handleEvent: (event) => {
      const list = byDid.get(event.did) ?? [];
      byDid.set(event.did, list);
      cursor = event.seq;
      count++;
      switch (event.event) {
        case 'identity':
          list.push({ kind: 'identity', handle: event.handle ?? null });
          return;
        case 'account':
          list.push({ kind: 'account', active: event.active, status: event.status ?? null });
          return;
        case 'sync':
          list.push({ kind: 'sync', rev: event.rev, commit: event.cid.toString() });
          return;
        default: {
          const written = event.event !== 'delete';
          list.push({
            kind: event.event,
            path: `${event.collection}/${event.rkey}`,
            cid: written ? event.cid.toString() : null,
            rev: event.rev,
            commit: event.commit.toString(),
            record: written ? event.record : null,
          });
        }
      }
    },
  });
  void firehose.start();
  return {
    errors,
    get count() {
      return count;
    },
    of: (did) => {
      // Ops of one commit come in the commit's order; the ledger holds them by path.
      const list = [...(byDid.get(did) ?? [])];
      for (let start = 0; start < list.length; ) {
        const first = list[start]!;
        let end = start + 1;
        while ('path' in first && end < list.length) {
          const next = list[end]!;
          if (!('path' in next) || next.rev !== first.rev) break;
          end++;
        }
        const sorted = list
          .slice(start, end)
          .sort((a, b) => (path(a) < path(b) ? -1 : path(a) > path(b) ? 1 : 0));
        list.splice(start, end - start, ...sorted);
        start = end;
      }
      return list;
    },
    stop: () => firehose.destroy(),
  };
};
