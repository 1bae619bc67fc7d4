/**
 * Changes to a frame's own bytes. Every byte that is not part of the change is copied as it is, and the canonical
 * order of the body's fields is kept, so fields nobody knows come out as they went in.
 * The bytes given must be a frame that `scanFrame` accepted.
 */
import { headBytes, headBytesOf, headValue, MAJOR_MAP, MAJOR_TEXT, skipItem, writeHead } from './cbor.ts';
import type { ScannedFrame } from './types.ts';

/** A frame after a change, and where its seq now is (both 0 without one). */
export interface EditedFrame {
  readonly bytes: Uint8Array;
  readonly seqStart: number;
  readonly seqEnd: number;
}

/** The part of a scanned or edited frame that a change needs. `bodyStart` does not move: the header is not edited. */
export interface EditableFrame extends EditedFrame {
  readonly bodyStart: number;
}

/** The length of the frame with the largest seq there can be: no seq of ours makes it longer. */
export const maxSequencedBytes = ({ bytes, seqStart, seqEnd }: EditedFrame): number =>
  bytes.length - (seqEnd - seqStart) + headBytesOf(Number.MAX_SAFE_INTEGER);

const encoder = new TextEncoder();

/** Whether the encoded key `a` comes before the key at bytes[at, at + length). */
function isBefore(a: Uint8Array, bytes: Uint8Array, at: number, length: number): boolean {
  if (a.length !== length) return a.length < length;
  for (let index = 0; index < length; index++) {
    const difference = a[index]! - bytes[at + index]!;
    if (difference !== 0) return difference < 0;
  }
  return false;
}

function isKey(a: Uint8Array, bytes: Uint8Array, at: number, length: number): boolean {
  if (a.length !== length) return false;
  for (let index = 0; index < length; index++) if (a[index] !== bytes[at + index]) return false;
  return true;
}

interface Place {
  /** Where the field's key begins, or where it belongs. */
  readonly start: number;
  /** After its value; `start` when the field is absent. */
  readonly end: number;
  readonly present: boolean;
}

function placeOf(frame: EditableFrame, key: Uint8Array): Place {
  const { bytes, bodyStart } = frame;
  let at = bodyStart + headBytes(bytes, bodyStart);
  for (let left = headValue(bytes, bodyStart); left > 0; left--) {
    const length = headValue(bytes, at);
    const keyAt = at + headBytes(bytes, at);
    const end = skipItem(bytes, keyAt + length, bytes.length, 1);
    if (isKey(key, bytes, keyAt, length)) return { start: at, end, present: true };
    if (isBefore(key, bytes, keyAt, length)) break;
    at = end;
  }
  return { start: at, end: at, present: false };
}

/** Puts `field` in the place of bytes[place.start, place.end) and `count` into the body's head. */
function rebuild(frame: EditableFrame, place: Place, field: Uint8Array, count: number): EditedFrame {
  const { bytes, bodyStart, seqStart, seqEnd } = frame;
  const oldHead = headBytes(bytes, bodyStart);
  const newHead = headBytesOf(count);
  const result = new Uint8Array(
    bytes.length + (newHead - oldHead) + field.length - (place.end - place.start),
  );
  result.set(bytes.subarray(0, bodyStart));
  let at = writeHead(result, bodyStart, MAJOR_MAP, count);
  result.set(bytes.subarray(bodyStart + oldHead, place.start), at);
  at += place.start - (bodyStart + oldHead);
  result.set(field, at);
  result.set(bytes.subarray(place.end), at + field.length);
  if (seqEnd === 0) return { bytes: result, seqStart: 0, seqEnd: 0 };
  const moved = newHead - oldHead + (seqStart >= place.end ? field.length - (place.end - place.start) : 0);
  return { bytes: result, seqStart: seqStart + moved, seqEnd: seqEnd + moved };
}

/**
 * Sets a field of the body to an encoded canonical value, in its canonical place, whether it was there or not.
 * Not for `seq` itself: that is put in when the frame is written to the log.
 */
export function setField(frame: EditableFrame, name: string, value: Uint8Array): EditedFrame {
  const key = encoder.encode(name);
  const place = placeOf(frame, key);
  const field = new Uint8Array(headBytesOf(key.length) + key.length + value.length);
  const at = writeHead(field, 0, MAJOR_TEXT, key.length);
  field.set(key, at);
  field.set(value, at + key.length);
  const count = headValue(frame.bytes, frame.bodyStart) + (place.present ? 0 : 1);
  return rebuild(frame, place, field, count);
}

const NOTHING = new Uint8Array(0);

/** Removes a field of the body; a field that is absent leaves the frame as it is. Not for `seq`. */
export function removeField(frame: EditableFrame, name: string): EditedFrame {
  const place = placeOf(frame, encoder.encode(name));
  if (!place.present) return frame;
  return rebuild(frame, place, NOTHING, headValue(frame.bytes, frame.bodyStart) - 1);
}

const ENCODED_FALSE = Uint8Array.of(0xf4);
const ENCODED_TRUE = Uint8Array.of(0xf5);
const ENCODED_EMPTY_ARRAY = Uint8Array.of(0x80);

/** The encoded text, for `setField`. */
export function encodedText(value: string): Uint8Array {
  const bytes = encoder.encode(value);
  const result = new Uint8Array(headBytesOf(bytes.length) + bytes.length);
  result.set(bytes, writeHead(result, 0, MAJOR_TEXT, bytes.length));
  return result;
}

/** The encoded boolean, for `setField`. */
export const encodedBoolean = (value: boolean): Uint8Array => (value ? ENCODED_TRUE : ENCODED_FALSE);

/**
 * Mends what strict consumers break on: deprecated fields that the lexicon still requires and some hosts leave out
 * (tooBig and rebase false, blobs []) are filled in, an optional one that says nothing is taken out. A frame without
 * either is answered as it is.
 */
export function mend(frame: ScannedFrame): EditedFrame {
  const { missing, blank, bodyStart } = frame;
  if (blank !== null) return removeField(frame, blank);
  if (!missing.tooBig && !missing.rebase && !missing.blobs) return frame;
  let edited: EditedFrame = frame;
  if (missing.blobs) edited = setField({ ...edited, bodyStart }, 'blobs', ENCODED_EMPTY_ARRAY);
  if (missing.rebase) edited = setField({ ...edited, bodyStart }, 'rebase', ENCODED_FALSE);
  if (missing.tooBig) edited = setField({ ...edited, bodyStart }, 'tooBig', ENCODED_FALSE);
  return edited;
}

/** Rewrites a #account frame to the status the relay holds: `status` null removes the field. */
export function setAccountStatus(frame: EditableFrame, active: boolean, status: string | null): EditedFrame {
  const withActive = setField(frame, 'active', encodedBoolean(active));
  const next = { ...withActive, bodyStart: frame.bodyStart };
  return status === null ? removeField(next, 'status') : setField(next, 'status', encodedText(status));
}
