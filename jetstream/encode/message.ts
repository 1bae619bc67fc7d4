/**
 * Events as the messages that clients read: UTF-8 JSON, without white space.
 *
 * Contract: a message is a pure function of its log record. The order of keys never changes. Where a record is
 * missing or has no JSON form, that op has no message, which is counted once; the rest of its commit has.
 * Messages of version 1:
 *
 *     {did, time_us, kind: "commit", commit: {rev, operation, collection, rkey, record, cid}}
 *     {did, time_us, kind: "identity", identity: {did, handle?, seq, time}}
 *     {did, time_us, kind: "account", account: {active, did, seq, status?, time}}
 *
 * and of version 2, as the payload of {$type: "message", payload} (lexicon network.bsky.jetstream.subscribeEvents):
 *
 *     {$type: "…#commit", seq, did, time, rev, operation, collection, rkey, cid, record}
 *     {$type: "…#identity", seq, did, time, identity: {did, handle?, seq, time}}
 *     {$type: "…#account", seq, did, time, account: {active, did, seq, status?, time}}
 *     {$type: "…#sync", seq, did, time, sync: {blocks, did, rev, seq, time}}
 *
 * `record` and `cid` are absent for a delete. `time_us` and the outer `time` of version 2 are the same instant: when
 * this relay put the event into its log, plus the op's index in microseconds; it serves as a cursor. The inner `time`
 * is what the host said, the inner `seq` the relay's. `handle` and `status` are present where the host sent them.
 */
import { KIND } from '../../src/firehose/types.ts';
import type { JetstreamEvent } from '../types.ts';
import { encodeCounters } from './counters.ts';
import { JSON_FOUND, JSON_NONE, JSON_UNKNOWN, LocatedEvent, locateRecords } from './events.ts';
import { writeRecord } from './record-json.ts';
import { out } from './scratch.ts';
import { writeBase64, writeCid } from './text-forms.ts';
import { timeText } from './time.ts';

export const NSID = 'network.bsky.jetstream.subscribeEvents';

/** How each message of version 2 begins, up to the kind. */
const PAYLOAD = `{"$type":"message","payload":{"$type":"${NSID}#`;
/** The bytes of a CID before its digest, which stand before every digest of a scanned op. */
const CID_PREFIX_BYTES = 4;

/** Writes the JSON of the event's record: once from its bytes, after that from the message it stands in. */
function writeJson(event: LocatedEvent): boolean {
  const start = out.at;
  if (event.jsonState === JSON_FOUND) {
    const { message, jsonStart, jsonEnd } = event;
    out.reserve(jsonEnd - jsonStart);
    out.bytes.set(message.subarray(jsonStart, jsonEnd), start);
    out.at += jsonEnd - jsonStart;
    return true;
  }
  if (!writeRecord(event.source.frame, event.recordStart, event.recordEnd)) {
    event.jsonState = JSON_NONE;
    encodeCounters.undecodableRecords++;
    return false;
  }
  event.jsonStart = start;
  event.jsonEnd = out.at;
  return true;
}

/** Whether the event has a message at all, as far as is known before its record is read. */
function hasRecord(event: LocatedEvent): boolean {
  if (event.operation === 'delete') return true;
  if (event.jsonState !== JSON_UNKNOWN) return event.jsonState === JSON_FOUND;
  if (!event.located) locateRecords(event.siblings);
  if (event.recordStart > 0) return true;
  event.jsonState = JSON_NONE;
  encodeCounters.missingRecords++;
  return false;
}

function writeRecordCid(event: LocatedEvent): void {
  const { bytes } = event.frame;
  const digestAt = event.cid!.byteOffset - bytes.byteOffset;
  writeCid(bytes, digestAt - CID_PREFIX_BYTES, digestAt + event.cid!.length);
}

/** The finished message, in which the event's record can be found again. */
function finish(event: LocatedEvent): Uint8Array {
  const message = out.take();
  encodeCounters.encoded++;
  if (event.kind === KIND.commit && event.operation !== 'delete' && event.jsonState === JSON_UNKNOWN) {
    event.jsonState = JSON_FOUND;
    event.message = message;
  }
  return message;
}

/** The finished message in memory that the next one is written into. */
function lend(): Uint8Array {
  encodeCounters.encoded++;
  return out.view();
}

const quoted = (text: string): string => JSON.stringify(text);

/** The upstream event's fields with the relay's seq, keys in alphabetical order as version 1 always had them. */
function identityFields({ frame, did, seq }: LocatedEvent): string {
  const handle = frame.handle === null ? '' : `"handle":${quoted(frame.handle)},`;
  return `{"did":"${did}",${handle}"seq":${seq},"time":${quoted(frame.time)}}`;
}

function accountFields({ frame, did, seq }: LocatedEvent): string {
  const status = frame.status === null ? '' : `"status":${quoted(frame.status)},`;
  return `{"active":${frame.active},"did":"${did}","seq":${seq},${status}"time":${quoted(frame.time)}}`;
}

const own = (event: JetstreamEvent): LocatedEvent => {
  if (event instanceof LocatedEvent) return event;
  throw new TypeError('not an event of readEvents');
};

/** Writes the event as version 1 has it; whether it has one. */
function writeV1(located: LocatedEvent): boolean {
  const { kind, did, timeUs } = located;
  out.reset();
  if (kind === KIND.commit) {
    if (!hasRecord(located)) return false;
    const { operation, collection, rkey } = located;
    // All of these are ASCII, and nothing in them needs an escape: their syntax was checked.
    out.ascii(
      `{"did":"${did}","time_us":${timeUs},"kind":"commit","commit":{"rev":"${located.frame.rev}","operation":"${operation}","collection":"${collection}","rkey":"${rkey}"`,
    );
    if (operation !== 'delete') {
      out.ascii(',"record":');
      if (!writeJson(located)) return false;
      out.ascii(',"cid":"');
      writeRecordCid(located);
      out.ascii('"');
    }
    out.ascii('}}');
  } else if (kind === KIND.identity) {
    out.text(`{"did":"${did}","time_us":${timeUs},"kind":"identity","identity":${identityFields(located)}}`);
  } else if (kind === KIND.account) {
    out.text(`{"did":"${did}","time_us":${timeUs},"kind":"account","account":${accountFields(located)}}`);
  } else return false;
  return true;
}

/** The same for version 2. */
function writeV2(located: LocatedEvent): boolean {
  const { kind, did, seq } = located;
  out.reset();
  const start = `","seq":${seq},"did":"${did}","time":"${timeText(located.timeUs)}",`;
  if (kind === KIND.commit) {
    if (!hasRecord(located)) return false;
    const { operation, collection, rkey } = located;
    out.ascii(
      `${PAYLOAD}commit${start}"rev":"${located.frame.rev}","operation":"${operation}","collection":"${collection}","rkey":"${rkey}"`,
    );
    if (operation !== 'delete') {
      out.ascii(',"cid":"');
      writeRecordCid(located);
      out.ascii('","record":');
      if (!writeJson(located)) return false;
    }
  } else if (kind === KIND.identity) {
    out.text(`${PAYLOAD}identity${start}"identity":${identityFields(located)}`);
  } else if (kind === KIND.account) {
    out.text(`${PAYLOAD}account${start}"account":${accountFields(located)}`);
  } else {
    const { bytes, blocksStart, blocksEnd, rev, time } = located.frame;
    out.ascii(`${PAYLOAD}sync${start}"sync":{"blocks":{"$bytes":"`);
    writeBase64(bytes, blocksStart, blocksEnd);
    out.text(`"},"did":"${did}","rev":"${rev}","seq":${seq},"time":${quoted(time)}}`);
  }
  out.ascii('}}');
  return true;
}

/**
 * The event as version 1 has it, in memory of its own, which is for reading alone: the event keeps it, and takes the
 * record's JSON from it when it is encoded again. null: version 1 does not have this kind (#sync), or the op's
 * record is missing or undecodable.
 */
export function encodeV1(event: JetstreamEvent): Uint8Array | null {
  const located = own(event);
  return writeV1(located) ? finish(located) : null;
}

/** The event as version 2 has it; as with `encodeV1`. null: the op's record is missing or undecodable. */
export function encodeV2(event: JetstreamEvent): Uint8Array | null {
  const located = own(event);
  return writeV2(located) ? finish(located) : null;
}

/** The same bytes as `encodeV1`, valid only until anything is encoded again: for messages that nobody keeps. */
export function lendV1(event: JetstreamEvent): Uint8Array | null {
  return writeV1(own(event)) ? lend() : null;
}

/** The same bytes as `encodeV2`, as with `lendV1`. */
export function lendV2(event: JetstreamEvent): Uint8Array | null {
  return writeV2(own(event)) ? lend() : null;
}
