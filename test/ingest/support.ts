/** Ingest with nothing real around it: sockets, time, answers and the sequencer are the test's. Frames are real. */
import {
  type Account,
  applyCommit,
  commitMessage,
  prepareCommit,
  syncMessage,
} from '../../simulator/account.ts';
import { encodeMessage } from '../../simulator/frames.ts';
import { createKey, type Key } from '../../simulator/keys.ts';
import { emptyTree } from '../../simulator/tree.ts';
import type {
  CloseOutcome,
  HostLimits,
  SubscribeOptions,
  SubscriptionEvents,
} from '../../src/hosts/types.ts';
import { createIngest, type IngestOptions } from '../../src/ingest/ingest.ts';
import type {
  IdentityAnswer,
  IdentityRequest,
  IngestBatch,
  IngestRejection,
  PausedFor,
  VerifiedEvent,
} from '../../src/ingest/types.ts';

export const START_MS = Date.UTC(2026, 10, 21);
export const NO_LIMITS: HostLimits = { perSecond: 1e9, perHour: 1e9, perDay: 1e9 };

let accounts = 0;

/** An account with a repo and a key of its own. */
export const newAccount = (type: 'k256' | 'p256' = 'k256'): Account & { key: Key } => {
  const index = accounts++;
  const name = index
    .toString(32)
    .replaceAll('0', 'w')
    .replaceAll('1', 'x')
    .replaceAll('8', 'y')
    .replaceAll('9', 'z');
  return {
    index,
    did: `did:plc:${name.padStart(24, 'a')}`,
    keyType: type,
    legacyDocument: false,
    handle: `user${index}.example.com`,
    hostIndex: 0,
    status: 'active',
    tombstoned: false,
    keyGeneration: 0,
    key: createKey(type, Buffer.alloc(32, index + 1)),
    tree: emptyTree(),
    rev: '',
    revMicros: 0,
    commitDigest: null,
    commitBytes: null,
    recordCounter: 0,
    lastEventMs: 0,
  };
};

export interface CommitOptions {
  /** Bytes of text in the record. */
  readonly textBytes?: number;
  readonly sign?: (message: Uint8Array) => Uint8Array;
  readonly atMs?: number;
  /** Changes what the message says, after all is signed. */
  readonly change?: (body: Record<string, unknown>) => Record<string, unknown>;
}

/** The next commit of the account, as a frame. */
export const commitFrame = (account: Account, seq: number, options: CommitOptions = {}): Uint8Array => {
  const path = `app.bsky.feed.post/r${account.recordCounter++}`;
  const record = { $type: 'app.bsky.feed.post', text: 'x'.repeat(options.textBytes ?? 10) };
  const prepared = prepareCommit(
    account,
    0,
    options.atMs ?? START_MS - 60_000,
    [{ action: 'create', path, record }],
    options.sign === undefined ? {} : { sign: options.sign },
  );
  const message = commitMessage(account, prepared, seq, START_MS);
  if (options.sign === undefined) applyCommit(account, prepared);
  const body = options.change === undefined ? message.body : options.change(message.body);
  return encodeMessage({ type: message.type, body: body as typeof message.body });
};

/** A #sync of what the account last committed. */
export const syncFrame = (account: Account, seq: number): Uint8Array =>
  encodeMessage(
    syncMessage(
      account,
      { commitBytes: account.commitBytes!, commitDigest: account.commitDigest!, rev: account.rev },
      seq,
      START_MS,
    ),
  );

const time = new Date(START_MS).toISOString();

export const identityFrame = (did: string, seq: number, handle = 'alice.example.com'): Uint8Array =>
  encodeMessage({ type: '#identity', body: { did, seq, time, handle } });

/** Small, and needs no repo: for tests of order and bounds. */
export const accountFrame = (did: string, seq: number, more: object = {}): Uint8Array =>
  encodeMessage({ type: '#account', body: { did, seq, time, active: true, ...more } });

export interface FakeSocket {
  readonly options: SubscribeOptions;
  readonly events: SubscriptionEvents;
  paused: boolean;
  /** Set when it ended, by whom ever. */
  outcome: CloseOutcome | null;
  frame(bytes: Uint8Array): void;
  close(outcome?: CloseOutcome): void;
}

type Note =
  | { readonly kind: 'opened'; readonly hostId: number }
  | { readonly kind: 'closed'; readonly hostId: number; readonly outcome: CloseOutcome }
  | { readonly kind: 'batch'; readonly batch: IngestBatch }
  | { readonly kind: 'info'; readonly hostId: number; readonly name: string }
  | { readonly kind: 'paused'; readonly hostId: number; readonly pausedFor: PausedFor | null };

export const hostnameOf = (hostId: number): string => `host${hostId}.pds.net`;

/** An ingest whose doings are recorded in `notes`, in order. */
export const ingestWith = (over: Partial<IngestOptions> = {}) => {
  let nowMs = START_MS;
  const sockets: FakeSocket[] = [];
  const notes: Note[] = [];
  const requests: IdentityRequest[] = [];
  const unacknowledged: number[] = [];

  const ingest = createIngest(
    {
      subscribe(options, events) {
        const socket: FakeSocket = {
          options,
          events,
          paused: false,
          outcome: null,
          frame(bytes) {
            if (socket.outcome !== null) throw new Error('a frame of a socket that ended');
            events.frame(bytes);
          },
          close(outcome = { kind: 'closed', code: 1000, reason: '' }) {
            if (socket.outcome !== null) return;
            socket.outcome = outcome;
            events.closed(outcome);
          },
        };
        sockets.push(socket);
        return {
          get paused() {
            return socket.paused;
          },
          pause() {
            socket.paused = true;
          },
          resume() {
            socket.paused = false;
          },
          // As real ones do, it reports its end within the call.
          end: (outcome) => socket.close(outcome),
        };
      },
      userAgent: 'weir/test',
      allowPrivateAddresses: false,
      handshakeTimeoutMs: 1_000,
      pingIntervalMs: 1_000,
      maxFrameBytes: 8_000_000,
      maxBytesInFlight: 1_000_000,
      nowMs: () => nowMs,
      ...over,
    },
    {
      opened: (hostId) => notes.push({ kind: 'opened', hostId }),
      closed: (hostId, outcome) => notes.push({ kind: 'closed', hostId, outcome }),
      batch(batch) {
        notes.push({ kind: 'batch', batch });
        unacknowledged.push(batch.bytes);
      },
      identify: (asked) => requests.push(...asked),
      info: (hostId, name) => notes.push({ kind: 'info', hostId, name }),
      paused: (hostId, pausedFor) => notes.push({ kind: 'paused', hostId, pausedFor }),
    },
  );

  const batches = (): IngestBatch[] => notes.flatMap((note) => (note.kind === 'batch' ? [note.batch] : []));
  const self = {
    ingest,
    sockets,
    notes,
    requests,
    /** Bytes of batches that nobody acknowledged yet. */
    unacknowledged,
    batches,
    get nowMs() {
      return nowMs;
    },
    advance(ms: number) {
      nowMs += ms;
    },
    connect(hostId: number, command: Partial<Parameters<typeof ingest.connect>[0]> = {}): FakeSocket {
      ingest.connect({
        hostId,
        hostname: hostnameOf(hostId),
        secure: true,
        cursor: null,
        skip: [],
        limits: NO_LIMITS,
        validation: 'strict',
        ...command,
      });
      const socket = sockets[sockets.length - 1]!;
      socket.events.opened('');
      return socket;
    },
    /** Lets ingest do all the work it has. */
    async settle() {
      for (let turn = 0; turn < 5; turn++) await new Promise<void>((resolve) => setImmediate(resolve));
    },
    acknowledgeAll() {
      for (const bytes of unacknowledged.splice(0)) ingest.acknowledge(bytes);
    },
    answer(request: IdentityRequest, over: Partial<IdentityAnswer> = {}): IdentityAnswer {
      return {
        did: request.did,
        hostname: request.hostname,
        fresh: request.fresh,
        pds: request.hostname,
        keyType: null,
        key: null,
        reason: null,
        atMs: nowMs,
        again: false,
        ...over,
      };
    },
    /** Answers all open questions: the account lives on the host that asks, if `of` does not say otherwise. */
    answerAll(of: (request: IdentityRequest) => Partial<IdentityAnswer> = () => ({})) {
      const asked = requests.splice(0);
      ingest.identified(asked.map((request) => self.answer(request, of(request))));
    },
    handedOn: (): VerifiedEvent[] => batches().flatMap(({ events }) => [...events]),
    refused: (): IngestRejection[] => batches().flatMap(({ rejections }) => [...rejections]),
    closes: (): CloseOutcome[] => notes.flatMap((note) => (note.kind === 'closed' ? [note.outcome] : [])),
    /** The last cursor reported for a host; 0 = none. */
    cursorOf(hostId: number): number {
      let cursor = 0;
      for (const { progress } of batches())
        for (const step of progress) if (step.hostId === hostId) cursor = step.cursor;
      return cursor;
    },
  };
  return self;
};

/** What the directory says of the account's key. */
export const keyOf = (account: { readonly key: Key | null }): Pick<IdentityAnswer, 'keyType' | 'key'> => ({
  keyType: account.key!.type,
  key: Buffer.from(account.key!.publicKey).toString('latin1'),
});
