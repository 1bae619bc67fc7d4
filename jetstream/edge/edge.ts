/**
 * The Jetstream edge: `/subscribe` (v1) and `network.bsky.jetstream.subscribeEvents` (v2). It reads the log through
 * LogReader and nothing else, so that it can run in another process; sockets, turns and pulse are in
 * `src/api/edge/consumers.ts`, filters in `jetstream/filter/`, messages in `jetstream/encode/`.
 *
 * It promises:
 * - Every client gets every event after its cursor that its filter wants, exactly once and in order, whatever its
 *   speed, over the seam of replay and live, and from its cursor on again after a restart.
 * - A client is a place in the log, (seq, opIndex), not a queue. What a socket does not take is read again later.
 * - An event that nobody wants is not encoded. What is wanted is encoded once per version and compressed once per
 *   compressor, and shared by all, live or catching up, as long as its block is in the cache.
 * - Live clients share one reading position and are served by groups of equal filters. Those that catch up take
 *   turns, the furthest behind first; who leads a little lets the others come up, so that they share the same blocks.
 * - A client that catches up with nobody near it reads into memory of its own, and leaves nothing to share.
 * - Only who falls out of the window, or takes not a byte for minutes, is called too slow.
 */
import type { Server, ServerWebSocket } from 'bun';
import { createConsumers, realTimers } from '../../src/api/edge/consumers.ts';
import type { ConsumerData, Refuse, Timers } from '../../src/api/edge/types.ts';
import type { ConsumerView, Edge, EdgeSocketData, UpgradeContext } from '../../src/api/types.ts';
import type { LogReader, LogRecord } from '../../src/log/types.ts';
import { createCompressor } from '../compress/compressor.ts';
import { readEvents } from '../encode/events.ts';
import { encodeV1, encodeV2, lendV1, lendV2 } from '../encode/message.ts';
import { errorMessage, heartbeatV1, heartbeatV2, infoMessage } from '../encode/notices.ts';
import { createInterests, type Group } from '../filter/interests.ts';
import { matches } from '../filter/match.ts';
import { parseOptionsUpdate, parseV1Request, parseV2Request } from '../filter/options.ts';
import type { Filter, Version } from '../types.ts';
import { Alone } from './alone.ts';
import { createBlocks } from './blocks.ts';
import { type Ask, Audience, Client, type Format } from './client.ts';
import { type Place, placeOf } from './cursor.ts';
import type { Item } from './item.ts';
import { createJetstreamCounters, DEFAULT_JETSTREAM_LIMITS } from './limits.ts';
import { createMessages } from './messages.ts';
import type { Codec, Compression, JetstreamCounters, JetstreamLimits, MessageCompressor } from './types.ts';

export const V1_PATH = '/subscribe';
export const V2_PATH = '/xrpc/network.bsky.jetstream.subscribeEvents';
const V2_SUBPROTOCOL = 'xrpc.v1.json';

export interface JetstreamEdge {
  /** What to register with the server. */
  readonly paths: Readonly<Record<string, Edge>>;
  consumers(): ConsumerView[];
  readonly counters: JetstreamCounters;
  readonly stats: JetstreamStats;
  /** Says goodbye to every client; resolves when they are gone. */
  close(): Promise<void>;
}

/** Numbers by word; clients are now, all others totals since the start. */
export interface JetstreamStats {
  /** One for each endpoint and compression (none, zstd) that anyone asked for. */
  readonly formats: readonly {
    readonly version: Version;
    readonly compression: string;
    readonly clients: number;
    readonly events: number;
    readonly bytes: number;
  }[];
  readonly filtered: number;
  readonly oversize: number;
  readonly encodes: Readonly<Record<'v1' | 'v2' | 'zstd' | 'undecodable', number>>;
  /** live, seq, time, future, outdated. */
  readonly cursors: Readonly<Record<string, number>>;
  /** client, shutdown, too_slow, no_pong, data_frame, bad_options, too_many_options, too_many_dids, internal_error. */
  readonly disconnects: Readonly<Record<string, number>>;
}

export interface JetstreamEdgeOptions {
  readonly log: LogReader;
  /** When absent: zstd without a dictionary, for v1 only. */
  readonly compression?: Compression;
  /** ms since the epoch. */
  readonly clock?: () => number;
  readonly timers?: Timers;
  readonly limits?: Partial<JetstreamLimits>;
  /** Filled by the edge; fresh ones when absent. */
  readonly counters?: JetstreamCounters;
  /** The room of messages when absent. */
  readonly codec?: Codec;
  /**
   * Called when the log throws while it is read, which means that our own records are damaged. The client is closed
   * with 1011 first. By default the error is thrown, which stops the process.
   */
  readonly onLogFailure?: (error: unknown) => void;
}

const plainText: Refuse = (status, _, message, headers = {}) =>
  new Response(message, { status, headers: { 'content-type': 'text/plain; charset=utf-8', ...headers } });

const xrpc: Refuse = (status, error, message, headers = {}) =>
  Response.json({ error: status === 503 ? 'ServiceUnavailable' : error, message }, { status, headers });

/** zstd without a dictionary, which clients of v1 read as well. */
const plainZstd = (): Compression => ({
  v1: createCompressor({ dictionary: null }),
  byId: () => null,
  currentId: null,
});

const NOTHING: readonly Item[] = [];
const utf8 = new TextDecoder();

/** Builds the edge on a log. Register `paths` with the server. */
export const createJetstreamEdge = (options: JetstreamEdgeOptions): JetstreamEdge => {
  const { log } = options;
  const clock = options.clock ?? Date.now;
  const timers = options.timers ?? realTimers;
  const limits: JetstreamLimits = { ...DEFAULT_JETSTREAM_LIMITS, ...options.limits };
  const counters = options.counters ?? createJetstreamCounters();
  const compression = options.compression ?? plainZstd();
  const codec: Codec = options.codec ?? { readEvents, encodeV1, encodeV2, lendV1, lendV2 };
  const onLogFailure =
    options.onLogFailure ??
    ((error: unknown) => {
      throw error;
    });
  const blocks = createBlocks({ log, readEvents: codec.readEvents, limits, counters });
  const messages = createMessages(codec, blocks, counters);
  const interests = createInterests<Audience>();
  const cursorKinds = new Map<string, number>();
  const disconnects = new Map<string, number>();
  const count = (counts: Map<string, number>, word: string): void =>
    void counts.set(word, (counts.get(word) ?? 0) + 1);

  // --- formats: as many as there are versions and compressors ---
  const formats: Format[] = [];
  const compressors: MessageCompressor[] = [];
  const formatOf = (version: Version, compressor: MessageCompressor | null): Format => {
    let format = formats.find((each) => each.version === version && each.compressor === compressor);
    if (format === undefined) {
      let slot = -1;
      if (compressor !== null) {
        slot = compressors.indexOf(compressor);
        if (slot < 0) slot = compressors.push(compressor) - 1;
      }
      format = { version, compressor, slot, clients: 0, events: 0, bytes: 0 };
      formats.push(format);
    }
    return format;
  };

  // --- the live ones: all exactly at (liveSeq, 0), the next event of the log ---
  let liveSeq = 0;
  let liveCount = 0;
  /** Those that have begun and are not live. */
  const behind = new Set<Client>();
  let batchNumber = 0;
  let flushScheduled = false;
  let lastFlushMs = 0;
  let flushing = false;
  /** Groups left while the groups of a batch are gone through. */
  let left: Group<Audience>[] = [];

  // One cork callback for everyone: what to send is in these variables, and what came of it.
  let pumpItems: readonly Item[] = NOTHING;
  let pumpFormat: Format = formatOf('v1', null);
  let pumpMaxBytes = 0;
  let pumped = 0;
  let pumpedEvents = 0;
  let pumpedBytes = 0;
  let pressed = false;
  const pump = (socket: ServerWebSocket<ConsumerData>): void => {
    const items = pumpItems;
    const format = pumpFormat;
    const maxBytes = pumpMaxBytes;
    const isText = format.compressor === null;
    let index = 0;
    let events = 0;
    let bytes = 0;
    pressed = false;
    for (; index < items.length; index++) {
      const item = items[index]!;
      const encoded = messages.encoded(item, format);
      if (encoded === null) continue;
      if (maxBytes > 0 && encoded.json.length > maxBytes) {
        counters.oversize++;
        continue;
      }
      let written: number;
      let size: number;
      if (isText) {
        size = encoded.json.length;
        written = socket.sendText(messages.text(item, encoded), false);
      } else {
        const compressed = messages.compressed(item, encoded, format);
        size = compressed.length;
        written = socket.sendBinary(compressed as Uint8Array<ArrayBuffer>, false);
      }
      if (written <= 0) {
        pressed = true;
        // 0: not taken. −1: taken, but queued.
        if (written === 0) break;
        index++;
        events++;
        bytes += size;
        break;
      }
      events++;
      bytes += size;
    }
    pumped = index;
    pumpedEvents = events;
    pumpedBytes = bytes;
  };

  /** Sends items as far as the socket takes them. Leaves `pumped` and `pressed`. */
  const send = (client: Client, items: readonly Item[], nowMs: number): void => {
    const { format } = client;
    pumpItems = items;
    pumpFormat = format;
    pumpMaxBytes = client.group!.filter.maxMessageSizeBytes;
    client.socket.cork(pump);
    // Items hold parts of the log: keep none of them between batches.
    pumpItems = NOTHING;
    noteSent(client, nowMs);
  };

  /** Counts what was pumped. */
  const noteSent = (client: Client, nowMs: number): void => {
    if (pumpedEvents === 0) return;
    const { format } = client;
    client.lastSentMs = nowMs;
    client.eventsSent += pumpedEvents;
    client.bytesSent += pumpedBytes;
    format.events += pumpedEvents;
    format.bytes += pumpedBytes;
    counters.deliveries += pumpedEvents;
    counters.deliveredBytes += pumpedBytes;
  };

  /** A message that is no event. A socket that is full gets it after what is queued, if it ever takes that. */
  const say = (client: Client, json: Uint8Array): void => {
    const { compressor } = client.format;
    if (compressor === null) client.socket.sendText(utf8.decode(json), false);
    else client.socket.sendBinary(compressor.compress(json) as Uint8Array<ArrayBuffer>, false);
  };

  const leaveLive = (client: Client): void => {
    const index = client.liveIndex;
    if (index < 0) return;
    client.liveIndex = -1;
    liveCount--;
    behind.add(client);
    const { live } = client.group!.attachment!;
    const last = live.pop()!;
    if (last !== client) {
      live[index] = last;
      last.liveIndex = index;
    }
  };

  const leaveGroup = (group: Group<Audience>): void => {
    if (flushing) left.push(group);
    else interests.leave(group);
  };

  /** Gives the client another filter, from its place on. false: it had to be refused. */
  const setFilter = (client: Client, filter: Filter): boolean => {
    const group = interests.join(filter);
    if (group === null) {
      counters.refusedInterests++;
      consumers.goodbye(client, 1013, 'all filters together name too many DIDs', 'too_many_dids');
      return false;
    }
    group.attachment ??= new Audience(group.filter);
    const wasLive = client.liveIndex >= 0;
    leaveLive(client);
    if (client.group !== null) leaveGroup(client.group);
    client.group = group;
    if (wasLive) enterLive(client);
    return true;
  };

  const enterLive = (client: Client): void => {
    const { live } = client.group!.attachment!;
    client.liveIndex = live.push(client) - 1;
    liveCount++;
    behind.delete(client);
    leaveAlone(client);
  };

  /** Where a client stands that is not live any more. */
  const setPlace = (client: Client, seq: number, opIndex: number): void => {
    client.seq = seq;
    client.opIndex = opIndex;
    client.fromTimeUs = 0;
  };

  const flushLive = (): void => {
    if (flushing) return;
    flushing = true;
    try {
      flushBlocks();
    } finally {
      flushing = false;
      for (const group of left) interests.leave(group);
      left = [];
    }
  };

  const flushBlocks = (): void => {
    const startedMs = clock();
    lastFlushMs = startedMs;
    if (liveCount > 0) counters.liveFlushes++;
    while (liveCount > 0) {
      const block = blocks.at(liveSeq);
      if (block === 'behind') {
        // Only when the window is shorter than a tick. Each of them is judged when its turn comes.
        for (const client of consumers.all) {
          if (client.liveIndex < 0) continue;
          leaveLive(client);
          setPlace(client, liveSeq, 0);
          standInLine(client);
        }
        return;
      }
      if (block === null) {
        // Whatever else is durable is skipped for everyone.
        liveSeq = log.lastSeq + 1;
        return;
      }
      const items: Item[] = [];
      const { entries } = block;
      for (let index = block.indexOf(liveSeq); index < entries.length; index++)
        for (const item of blocks.items(block, entries[index]!)) items.push(item);
      liveSeq = block.toSeq + 1;
      counters.filtered += liveCount * items.length;
      batchNumber++;
      for (const group of interests.route(items)) {
        const live = group.attachment?.live;
        if (live === undefined || live.length === 0) continue;
        const batch = group.batch as readonly Item[];
        counters.filtered -= live.length * batch.length;
        // Downwards, so that who leaves is replaced by one that has had its share; the number guards the rest.
        for (let index = live.length - 1; index >= 0; index--) {
          const client = live[index];
          if (client === undefined || client.batch === batchNumber) continue;
          client.batch = batchNumber;
          send(client, batch, startedMs);
          if (!pressed) continue;
          const next = batch[pumped];
          leaveLive(client);
          if (next === undefined) setPlace(client, liveSeq, 0);
          else setPlace(client, next.seq, next.opIndex);
          rest(client);
        }
      }
      if (clock() - startedMs >= limits.liveBudgetMs) {
        scheduleFlush();
        return;
      }
    }
  };

  const runFlush = (): void => {
    flushScheduled = false;
    try {
      flushLive();
    } catch (error) {
      onLogFailure(error);
    }
  };

  const scheduleFlush = (): void => {
    if (flushScheduled || liveCount === 0) return;
    flushScheduled = true;
    const waitMs = lastFlushMs + limits.flushIntervalMs - clock();
    if (waitMs <= 0) timers.setImmediate(runFlush);
    else timers.setTimeout(runFlush, waitMs);
  };

  /** Everything durable before liveSeq has been handed to this client: it goes on with the others. */
  const joinLive = (client: Client): void => {
    if (liveCount === 0) liveSeq = client.seq;
    client.mode = 'live';
    enterLive(client);
    if (log.lastSeq >= liveSeq) scheduleFlush();
  };

  /** Whether the client's place lies behind events that the live ones have not been given yet. */
  const isBeyondLive = (client: Client): boolean =>
    liveCount > 0 &&
    (client.seq > liveSeq || (client.seq === liveSeq && (client.opIndex > 0 || client.fromTimeUs > 0)));

  /** A client that found the end of the log, which may be past what the live ones have been given so far. */
  const reachEnd = (client: Client): void => {
    setPlace(client, log.lastSeq + 1, 0);
    if (isBeyondLive(client)) standInLine(client);
    else joinLive(client);
  };

  const mayWant = (record: LogRecord, filter: Filter, didHashes: ReadonlySet<number> | null): boolean =>
    (filter.kinds & (1 << record.kind)) !== 0 && (didHashes === null || didHashes.has(record.didHash));

  /** The place of a client has left the window. */
  const fallBehind = (client: Client): void => {
    if (client.eventsSent > 0) {
      tooSlow(client, 'the consumer fell out of the replay window');
    } else {
      // The window moved between its arrival and its first turn.
      beginAt(client, { kind: 'outdated', seq: log.oldestSeq, fromTimeUs: 0 });
      standInLine(client);
    }
  };

  // --- those that catch up with nobody near them ---
  /** Whether nobody could use what is read for this client, and nobody has read it before. */
  const standsAlone = (client: Client): boolean => {
    const { seq } = client;
    const { aloneSeqs } = limits;
    if (log.lastSeq - seq < aloneSeqs || behind.size > limits.maxAlone) return false;
    for (const other of behind) if (other !== client && Math.abs(other.seq - seq) < aloneSeqs) return false;
    return !blocks.holds(seq);
  };

  const leaveAlone = (client: Client): void => {
    client.alone?.close();
    client.alone = null;
  };

  // As with `pump`: one callback, and what it is to send in variables.
  let aloneClient: Client | null = null;
  let aloneIndex = 0;
  let aloneEndSeq = 0;
  /** Sends from the client's place up to aloneEndSeq, and moves the place as far as that came. */
  const pumpAlone = (socket: ServerWebSocket<ConsumerData>): void => {
    const client = aloneClient!;
    const { format } = client;
    const { compressor } = format;
    const { filter, attachment } = client.group!;
    const didHashes = attachment!.didHashes;
    const { records } = client.alone!;
    const encode = format.version === 'v1' ? codec.lendV1 : codec.lendV2;
    let looked = 0;
    let wanted = 0;
    let encodes = 0;
    let events = 0;
    let bytes = 0;
    let seq = aloneEndSeq;
    let opIndex = 0;
    pressed = false;
    reading: for (let index = aloneIndex; index < records.length; index++) {
      const record = records[index]!;
      if (record.seq >= aloneEndSeq) break;
      if (!mayWant(record, filter, didHashes)) {
        looked += Math.max(1, record.opCount);
        continue;
      }
      let from = 0;
      if (record.seq === client.seq)
        from = client.fromTimeUs > 0 ? client.fromTimeUs - record.timeUs : client.opIndex;
      for (const event of codec.readEvents(record)) {
        if (event.opIndex < from) continue;
        looked++;
        if (!matches(filter, event)) continue;
        wanted++;
        encodes++;
        const json = encode(event);
        if (json === null) {
          counters.undecodable++;
          continue;
        }
        if (filter.maxMessageSizeBytes > 0 && json.length > filter.maxMessageSizeBytes) {
          counters.oversize++;
          continue;
        }
        let written: number;
        let size = json.length;
        if (compressor === null) {
          written = socket.sendText(messages.textOf(json), false);
        } else {
          counters.compressions++;
          const frame = compressor.lend(json);
          size = frame.length;
          written = socket.sendBinary(frame as Uint8Array<ArrayBuffer>, false);
        }
        pressed = written <= 0;
        if (written !== 0) {
          events++;
          bytes += size;
        }
        if (pressed) {
          // 0: not taken. −1: taken, but queued.
          seq = event.seq;
          opIndex = written === 0 ? event.opIndex : event.opIndex + 1;
          break reading;
        }
      }
    }
    setPlace(client, seq, opIndex);
    pumpedEvents = events;
    pumpedBytes = bytes;
    if (format.version === 'v1') counters.encodesV1 += encodes;
    else counters.encodesV2 += encodes;
    counters.replayRecords += looked;
    counters.filtered += looked - wanted;
  };

  /** One turn of a client that stands alone. */
  const readAlone = (client: Client): void => {
    client.alone ??= new Alone(log, limits.blockBytes, counters);
    const index = client.alone.read(client.seq);
    if (index === 'behind') {
      fallBehind(client);
      return;
    }
    if (index === null) {
      reachEnd(client);
      return;
    }
    const { toSeq } = client.alone;
    aloneEndSeq = liveCount > 0 && liveSeq <= toSeq ? liveSeq : toSeq + 1;
    aloneIndex = index;
    aloneClient = client;
    client.socket.cork(pumpAlone);
    aloneClient = null;
    noteSent(client, clock());
    if (pressed) rest(client);
    else if (client.mode === 'reading') {
      if (liveCount > 0 && client.seq === liveSeq) joinLive(client);
      else standInLine(client);
    }
  };

  const takeTurn = (client: Client): void => {
    if (isBeyondLive(client)) {
      flushLive();
      if (isBeyondLive(client)) {
        standInLine(client);
        return;
      }
    }
    if (liveCount > 0 && client.seq === liveSeq) {
      joinLive(client);
      return;
    }
    counters.replayReads++;
    if (standsAlone(client)) {
      readAlone(client);
      return;
    }
    leaveAlone(client);
    // Who leads a little, lets the others come up: else what it reads would be gone before they get there.
    if (
      client.lead < limits.aloneSeqs &&
      client.turnsWaited < limits.maxTurnsWaited &&
      !blocks.holds(client.seq)
    ) {
      client.turnsWaited++;
      standInLine(client);
      return;
    }
    client.turnsWaited = 0;
    // What is held already costs little: who comes behind others goes faster, until all of them share each block.
    for (let left = limits.maxBlocksPerTurn; left > 0; left--)
      if (!readShared(client) || !blocks.holds(client.seq)) return;
  };

  /** Sends what one block holds for the client; whether it may be given more at once. */
  const readShared = (client: Client): boolean => {
    const block = blocks.at(client.seq);
    if (block === 'behind') {
      fallBehind(client);
      return false;
    }
    if (block === null) {
      reachEnd(client);
      return false;
    }
    // What the live ones have not been given yet is left to the next flush, for all of them together.
    const endSeq = liveCount > 0 && liveSeq <= block.toSeq ? liveSeq : block.toSeq + 1;
    const { filter, attachment } = client.group!;
    const didHashes = attachment!.didHashes;
    const { entries } = block;
    const wanted: Item[] = [];
    let looked = 0;
    for (let index = block.indexOf(client.seq); index < entries.length; index++) {
      const entry = entries[index]!;
      const { record } = entry;
      if (record.seq >= endSeq) break;
      let from = 0;
      if (record.seq === client.seq)
        from = client.fromTimeUs > 0 ? client.fromTimeUs - record.timeUs : client.opIndex;
      if (!mayWant(record, filter, didHashes)) {
        looked += Math.max(1, record.opCount);
        continue;
      }
      for (const item of blocks.items(block, entry)) {
        if (item.opIndex < from) continue;
        looked++;
        if (matches(filter, item)) wanted.push(item);
      }
    }
    counters.replayRecords += looked;
    counters.filtered += looked - wanted.length;
    if (wanted.length > 0) {
      send(client, wanted, clock());
      if (pressed) {
        const next = wanted[pumped];
        if (next === undefined) setPlace(client, endSeq, 0);
        else setPlace(client, next.seq, next.opIndex);
        rest(client);
        return false;
      }
      if (client.mode !== 'reading') return false;
    }
    setPlace(client, endSeq, 0);
    if (liveCount > 0 && endSeq === liveSeq) {
      joinLive(client);
      return false;
    }
    standInLine(client);
    return true;
  };

  const beginAt = (client: Client, place: Place): void => {
    setPlace(client, place.seq, 0);
    client.fromTimeUs = place.fromTimeUs;
    count(cursorKinds, place.kind);
    if (place.kind === 'outdated' && client.format.version === 'v2') {
      const text = `the cursor is older than the replay window, which begins at ${log.oldestSeq}`;
      say(client, infoMessage('OutdatedCursor', text));
    }
  };

  const begin = (client: Client): void => {
    client.awaitsHello = false;
    behind.add(client);
    beginAt(client, placeOf(log, client.options.cursor));
    standInLine(client);
  };

  const start = (client: Client): void => {
    client.format.clients++;
    if (client.options.heartbeat) startHeartbeats();
    if (!setFilter(client, client.options.filter)) return;
    if (!client.awaitsHello) begin(client);
  };

  // --- what clients say ---
  const takeOptions = (client: Client, message: string | Uint8Array): void => {
    const nowMs = clock();
    if (nowMs - client.optionsSinceMs >= limits.optionsWindowMs) {
      client.optionsSinceMs = nowMs;
      client.optionsBytes = 0;
    }
    client.optionsBytes += message.length;
    if (client.optionsBytes > limits.maxOptionsBytesPerWindow) {
      consumers.goodbye(client, 1008, 'too many options updates', 'too_many_options');
      return;
    }
    const update = parseOptionsUpdate(message);
    if (update.ignored) {
      counters.ignoredMessages++;
    } else if (!update.ok) {
      counters.badOptionsUpdates++;
      consumers.goodbye(client, 1000, update.reason, 'bad_options');
    } else {
      counters.optionsUpdates++;
      if (setFilter(client, update.filter) && client.awaitsHello) begin(client);
    }
  };

  // --- heartbeats ---
  let heartbeatTimer: unknown = null;
  /** A time_us with everything before `seq` before it, and everything from `seq` on not. */
  const timeBefore = (seq: number): number => {
    const before = blocks.at(seq - 1);
    if (before !== 'behind' && before !== null) {
      const record = before.entries[before.indexOf(seq) - 1]?.record;
      if (record !== undefined) return record.timeUs + Math.max(1, record.opCount);
    }
    const after = blocks.at(seq);
    if (after !== 'behind' && after !== null) {
      const record = after.entries[after.indexOf(seq)]?.record;
      if (record !== undefined) return record.timeUs;
    }
    return log.lastTimeUs + 1;
  };

  const beat = (): void => {
    const nowMs = clock();
    let anyone = false;
    for (const client of consumers.all) {
      if (!client.options.heartbeat) continue;
      anyone = true;
      if (client.awaitsHello || (client.mode !== 'live' && client.mode !== 'reading')) continue;
      if (nowMs - client.lastSentMs < limits.heartbeatMs) continue;
      const seq = client.liveIndex >= 0 ? liveSeq : client.seq;
      // Amid the ops of a commit there is more to come: no need to say anything.
      if (client.liveIndex < 0 && (client.opIndex > 0 || client.fromTimeUs > 0)) continue;
      const timeUs = timeBefore(seq);
      client.lastSentMs = nowMs;
      counters.heartbeats++;
      say(client, client.format.version === 'v1' ? heartbeatV1(timeUs) : heartbeatV2(seq, timeUs));
    }
    heartbeatTimer = anyone ? timers.setTimeout(runBeat, limits.heartbeatCheckMs) : null;
  };
  const runBeat = (): void => {
    try {
      beat();
    } catch (error) {
      heartbeatTimer = null;
      onLogFailure(error);
    }
  };
  const startHeartbeats = (): void => {
    heartbeatTimer ??= timers.setTimeout(runBeat, limits.heartbeatCheckMs);
  };

  const consumers = createConsumers<Client, Ask>({
    clock,
    timers,
    limits,
    counters,
    // v1 ignores what is too long, and v2 has a close code of its own for whatever it is.
    maxMessageBytes: () => Number.POSITIVE_INFINITY,
    hooks: {
      create: (id, socket, ask, nowMs) => new Client(id, socket, ask, nowMs),
      start,
      takeTurn,
      leave: leaveLive,
      isOutOfWindow: (client) => client.seq < log.oldestSeq,
      sayTooSlow(client, message) {
        if (client.format.version === 'v2') say(client, errorMessage('ConsumerTooSlow', message));
      },
      sayFailure(client) {
        if (client.format.version === 'v2')
          say(client, errorMessage('InternalError', 'the log cannot be read'));
      },
      message(client, message) {
        if (client.format.version === 'v1') takeOptions(client, message);
        else consumers.goodbye(client, 1008, 'clients send nothing here', 'data_frame');
      },
      onGone(client) {
        client.format.clients--;
        count(disconnects, client.cause);
        if (client.group !== null) leaveGroup(client.group);
        client.group = null;
        behind.delete(client);
        leaveAlone(client);
        // Nobody is there to share anything with.
        if (consumers.all.size === 0) blocks.clear();
      },
      arrange(round) {
        round.sort((a, b) => a.seq - b.seq);
        let before = Number.NEGATIVE_INFINITY;
        let here = Number.NEGATIVE_INFINITY;
        for (const client of round) {
          if (client.seq !== here) {
            before = here;
            here = client.seq;
          }
          client.lead = here - before;
        }
      },
      beforeClose() {
        unsubscribe();
        flushLive();
        blocks.clear();
        if (heartbeatTimer !== null) timers.clearTimeout(heartbeatTimer);
      },
      fail: onLogFailure,
    },
  });
  const { standInLine, rest, tooSlow } = consumers;
  const unsubscribe = log.onDurable(scheduleFlush);

  // --- before the upgrade ---
  type Upgrade = Edge['upgrade'];
  const upgradeV1: Upgrade = (request, server, context = {}) => {
    const refused = consumers.checkRequest(request, V1_PATH, plainText);
    if (refused !== null) return refused;
    const parsed = parseV1Request(new URL(request.url), request.headers);
    if (!parsed.ok) {
      counters.refusedOptions++;
      return plainText(parsed.status, '', parsed.text);
    }
    const format = formatOf('v1', parsed.options.compress ? compression.v1 : null);
    return admit(request, server, context, { options: parsed.options, format }, plainText);
  };

  const upgradeV2: Upgrade = (request, server, context = {}) => {
    const refused = consumers.checkRequest(request, 'subscribeEvents', xrpc);
    if (refused !== null) return refused;
    const parsed = parseV2Request(new URL(request.url));
    if (!parsed.ok) {
      counters.refusedOptions++;
      return xrpc(parsed.status, parsed.error, parsed.message);
    }
    const { cursor, zstdDictionary } = parsed.options;
    let compressor: MessageCompressor | null = null;
    if (zstdDictionary !== null) {
      compressor = compression.byId(zstdDictionary);
      if (compressor === null) {
        counters.refusedDictionary++;
        const { currentId } = compression;
        return xrpc(
          400,
          'UnknownZstdDictionary',
          currentId === null ? 'there is no dictionary here' : `the current dictionary is ${currentId}`,
        );
      }
    }
    if (cursor !== null) {
      const place = placeOf(log, cursor);
      if (place.kind === 'outdated' && cursor < place.seq) {
        counters.refusedCursor++;
        return xrpc(400, 'CursorTooOld', `the oldest seq is ${place.seq}`);
      }
    }
    const format = formatOf('v2', compressor);
    return admit(request, server, context, { options: parsed.options, format }, xrpc);
  };

  const admit = (
    request: Request,
    server: Server<EdgeSocketData>,
    context: Partial<UpgradeContext>,
    ask: Ask,
    refuse: Refuse,
  ): Response | undefined => {
    const offered = request.headers.get('sec-websocket-protocol')?.split(',') ?? [];
    const isOffered =
      ask.format.version === 'v2' && offered.some((protocol) => protocol.trim() === V2_SUBPROTOCOL);
    return consumers.admit(request, server, context, {
      ask,
      ...(isOffered ? { headers: { 'sec-websocket-protocol': V2_SUBPROTOCOL } } : {}),
      refuse,
    });
  };

  const { websocket, close } = consumers;
  return {
    paths: {
      [V1_PATH]: { upgrade: upgradeV1, websocket, close },
      [V2_PATH]: { upgrade: upgradeV2, websocket, close },
    },
    consumers: () =>
      Array.from(consumers.all, (client): ConsumerView => {
        const seq = (client.liveIndex >= 0 ? liveSeq : client.seq) - 1;
        return consumers.view(client, seq, log.lastSeq, `jetstream ${client.format.version}`);
      }),
    get counters() {
      counters.liveConsumers = liveCount;
      counters.laggingConsumers = consumers.all.size - liveCount;
      counters.cachedBlocks = blocks.size;
      counters.cachedBytes = blocks.heldBytes;
      return counters;
    },
    get stats() {
      const sums = new Map<
        string,
        { version: Version; compression: string; clients: number; events: number; bytes: number }
      >();
      for (const { version, compressor, clients, events, bytes } of formats) {
        const compression = compressor === null ? 'none' : 'zstd';
        const sum = sums.get(version + compression) ?? {
          version,
          compression,
          clients: 0,
          events: 0,
          bytes: 0,
        };
        sum.clients += clients;
        sum.events += events;
        sum.bytes += bytes;
        sums.set(version + compression, sum);
      }
      return {
        formats: [...sums.values()],
        filtered: counters.filtered,
        oversize: counters.oversize,
        encodes: {
          v1: counters.encodesV1,
          v2: counters.encodesV2,
          zstd: counters.compressions,
          undecodable: counters.undecodable,
        },
        cursors: Object.fromEntries(cursorKinds),
        disconnects: Object.fromEntries(disconnects),
      };
    },
    close,
  };
};
