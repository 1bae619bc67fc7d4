/**
 * The events of a log record, located and not encoded.
 *
 * Contract: the same record gives the same events with the same time, wherever and whenever it is read: one for each
 * op of a #commit in the ops' order, one for each #sync, #identity and #account, none for other kinds. The frame is
 * checked once more as it was when it came in; one that cannot be read gives no events and is counted, and so does
 * an op without a repository path (which only lenient verification lets through), whose index stays its own.
 *
 * Nothing is copied but the words that filters look at. The blocks of a commit are searched when the first of its
 * records is asked for, all its ops in one pass, by digest and without hashing: they were hashed when they came in.
 */
import { scanFrame } from '../../src/firehose/scan.ts';
import { KIND, type Kind, type Op, type ScannedFrame } from '../../src/firehose/types.ts';
import type { LogRecord } from '../../src/log/types.ts';
import { equalDigests } from '../../src/repo/car.ts';
import { isPath } from '../../src/repo/syntax.ts';
import type { JetstreamEvent } from '../types.ts';
import { encodeCounters } from './counters.ts';

/** State of the record's JSON: not asked for yet, found, or found to be missing or undecodable. */
export const JSON_UNKNOWN = 0;
export const JSON_FOUND = 1;
export const JSON_NONE = 2;

/** A located event, and what encoding it needs to know. Made by `readEvents` alone. */
export class LocatedEvent implements JetstreamEvent {
  readonly kind: Kind;
  readonly seq: number;
  readonly opIndex: number;
  readonly timeUs: number;
  readonly did: string;
  readonly collection: string;
  readonly rkey: string;
  readonly operation: JetstreamEvent['operation'];
  readonly source: LogRecord;
  readonly frame: ScannedFrame;
  /** The record's digest; null for a delete, other kinds, and an op that lacks it. */
  readonly cid: Uint8Array | null;
  /** All events of the commit, this one too. */
  readonly siblings: readonly LocatedEvent[];
  /** The record is source.frame[recordStart, recordEnd) once `locateRecords` ran; recordStart 0 = its block is missing. */
  recordStart = 0;
  recordEnd = 0;
  /** Whether `locateRecords` ran. */
  located = false;
  /** Of the record's JSON, so that two messages share it: message[jsonStart, jsonEnd) when jsonState is JSON_FOUND. */
  jsonState: number = JSON_UNKNOWN;
  message: Uint8Array = NO_BYTES;
  jsonStart = 0;
  jsonEnd = 0;

  constructor(
    source: LogRecord,
    frame: ScannedFrame,
    opIndex: number,
    op: Op | null,
    slash: number,
    siblings: readonly LocatedEvent[],
  ) {
    this.kind = source.kind;
    this.seq = source.seq;
    this.opIndex = opIndex;
    this.timeUs = source.timeUs + opIndex;
    this.did = frame.did;
    this.source = source;
    this.frame = frame;
    this.siblings = siblings;
    if (op === null) {
      this.collection = '';
      this.rkey = '';
      this.operation = '';
      this.cid = null;
    } else {
      this.collection = op.path.slice(0, slash);
      this.rkey = op.path.slice(slash + 1);
      this.operation = op.action;
      this.cid = op.action === 'delete' ? null : op.cid;
    }
  }
}

const NO_BYTES = new Uint8Array(0);
const NO_EVENTS: readonly LocatedEvent[] = [];

/** The events of a record of our own log, in order; never throws. */
export function readEvents(record: LogRecord): readonly JetstreamEvent[] {
  const kind = record.kind;
  if (kind > KIND.account) return NO_EVENTS;
  const frame = scanFrame(record.frame);
  if (!frame.ok || frame.kind !== kind) {
    encodeCounters.unreadableFrames++;
    return NO_EVENTS;
  }
  if (kind !== KIND.commit) return [new LocatedEvent(record, frame, 0, null, 0, NO_EVENTS)];
  const events: LocatedEvent[] = [];
  const ops = frame.ops;
  for (let index = 0; index < ops.length; index++) {
    const op = ops[index]!;
    if (!isPath(op.path)) {
      encodeCounters.invalidPaths++;
      continue;
    }
    events.push(new LocatedEvent(record, frame, index, op, op.path.indexOf('/'), events));
  }
  return events;
}

/** Bytes of the CID before the digest: version 1, dag-cbor, sha-256, 32 bytes. */
const CID_PREFIX_BYTES = 4;

/** Open addressing: number of the event + 1, 0 = free. At least twice the ops a frame may have. */
const slots = new Int32Array(512);
/** Of the part that is in use, a power of two: most commits have one op. */
let slotMask = 0;

const slotOf = (bytes: Uint8Array, at: number): number => (bytes[at]! | (bytes[at + 1]! << 8)) & slotMask;

/** The offset after the varint at `at`, whose value is left in `varint`; −1 when it runs over the end. */
let varint = 0;
function readVarint(bytes: Uint8Array, at: number, end: number): number {
  varint = 0;
  for (let shift = 0; shift <= 21 && at < end; shift += 7) {
    const byte = bytes[at++]!;
    varint |= (byte & 0x7f) << shift;
    if (byte < 0x80) return at;
  }
  return -1;
}

/**
 * Finds the records of all of a commit's events in its blocks, in one pass. A CAR that ends early or has blocks of
 * other CIDs is searched as far as it goes.
 */
export function locateRecords(events: readonly LocatedEvent[]): void {
  let wanted = 0;
  let size = 8;
  while (size < events.length * 2) size *= 2;
  slots.fill(0, 0, size);
  slotMask = size - 1;
  for (let number = 0; number < events.length; number++) {
    const event = events[number]!;
    event.located = true;
    if (event.cid === null) continue;
    wanted++;
    let slot = slotOf(event.cid, 0);
    while (slots[slot] !== 0) slot = (slot + 1) & slotMask;
    slots[slot] = number + 1;
  }
  if (wanted === 0) return;
  const { bytes, blocksStart, blocksEnd } = events[0]!.frame;
  let at = readVarint(bytes, blocksStart, blocksEnd);
  if (at < 0) return;
  at += varint;
  while (at < blocksEnd) {
    at = readVarint(bytes, at, blocksEnd);
    if (at < 0) return;
    const next = at + varint;
    if (next > blocksEnd) return;
    const digestAt = at + CID_PREFIX_BYTES;
    at = next;
    if (digestAt + 32 > next || bytes[digestAt - 4] !== 0x01 || bytes[digestAt - 3] !== 0x71) continue;
    if (bytes[digestAt - 2] !== 0x12 || bytes[digestAt - 1] !== 0x20) continue;
    let slot = slotOf(bytes, digestAt);
    while (slots[slot] !== 0) {
      const event = events[slots[slot]! - 1]!;
      slot = (slot + 1) & slotMask;
      // Ops may share a record: all of them are looked at.
      if (event.recordStart !== 0 || !equalDigests(event.cid!, 0, bytes, digestAt)) continue;
      event.recordStart = digestAt + 32;
      event.recordEnd = next;
      if (--wanted === 0) return;
    }
  }
}
