/** Records and log records for the tests of the encoding room; the judges are libraries, not the code under test. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as dagCbor from '@ipld/dag-cbor';
import { decode as decodeCbor } from 'cborg';
import fc from 'fast-check';
import { base32 } from 'multiformats/bases/base32';
import { base64 } from 'multiformats/bases/base64';
import { CID } from 'multiformats/cid';
import { identity } from 'multiformats/hashes/identity';
import { makeRecording, openRecording, type RecordedOptions } from '../../../simulator/recording.ts';
import { scanFrame } from '../../../src/firehose/scan.ts';
import type { Kind } from '../../../src/firehose/types.ts';
import type { LogRecord } from '../../../src/log/types.ts';
import { block, type CommitParts, cidOf, commitFrame } from '../../repo/support.ts';

export const DID = 'did:plc:weirweirweirweirweirweir';
export const REV = '3n2rtptxs6f2e';
export const TIME = '2026-11-21T00:00:00.000Z';
/** 2026-11-21T04:33:55.123456Z. */
export const TIME_US = 1_795_235_635_123_456;

/** A log record around a frame; its kind is that of the frame, if it can be read. */
export function logRecord(frame: Uint8Array, change: Partial<LogRecord> = {}): LogRecord {
  const scanned = scanFrame(frame);
  const kind: Kind = scanned.ok ? scanned.kind : 1;
  const opCount = scanned.ok ? scanned.ops.length : 0;
  return {
    seq: 7,
    timeUs: TIME_US,
    hostId: 1,
    upstreamSeq: 3,
    kind,
    opCount,
    didHash: 0,
    frame,
    ...change,
  };
}

export interface TestOp {
  readonly action: 'create' | 'update' | 'delete';
  readonly path: string;
  /** Given as a value, or as bytes that stand for whatever they are. */
  readonly record?: unknown;
  /** Left out of the CAR. */
  readonly missing?: boolean;
}

/** A commit of these ops as it would be in a log. Signature and tree are left out: nobody here looks at them. */
export function commitOfOps(ops: readonly TestOp[], others: readonly Uint8Array[] = []): Uint8Array {
  const blocks: { cid: CID; bytes: Uint8Array }[] = others.map((bytes) => ({ cid: cidOf(bytes), bytes }));
  const root = block({ did: DID, version: 3, rev: REV });
  const written = ops.map(({ action, path, record, missing }) => {
    if (action === 'delete') return { action, path, cid: null };
    const bytes = record instanceof Uint8Array ? record : dagCbor.encode(record);
    const cid = cidOf(bytes);
    if (missing !== true) blocks.push({ cid, bytes });
    return { action, path, cid };
  });
  const parts: CommitParts = {
    body: {
      seq: 7,
      repo: DID,
      rev: REV,
      since: null,
      time: TIME,
      tooBig: false,
      rebase: false,
      blobs: [],
      ops: written,
    },
    commit: { did: DID, version: 3, rev: REV, prev: null, data: root.cid },
    root: root.cid,
    blocks: [root, ...blocks],
  };
  return commitFrame(parts);
}

/** Any Unicode text; every code point may occur, those with escapes and at the seams of UTF-8 often. */
export const anyText = fc.oneof(
  { weight: 3, arbitrary: fc.string({ maxLength: 24 }) },
  { weight: 3, arbitrary: fc.string({ unit: 'binary', maxLength: 24 }) },
  {
    weight: 2,
    arbitrary: fc.string({
      unit: fc.constantFrom(
        ...['"', '\\', '/', '\b', '\t', '\n', '\f', '\r', '\0', '\x1f', '\x7f', '\x80'],
        ...['߿', 'ࠀ', '\ud7ff', '\ue000', '\u2028', '\u2029', '\uffff', '\u{10000}', '\u{10ffff}', 'é'],
      ),
      maxLength: 24,
    }),
  },
  { weight: 1, arbitrary: fc.string({ unit: 'grapheme', minLength: 20, maxLength: 400 }) },
);

/** Links to records, to blobs, of version 0, and with digests that are not sha-256. */
export const anyLink = fc.oneof(
  fc.uint8Array({ minLength: 32, maxLength: 32 }).map((digest) => cidOf(digest)),
  fc.uint8Array({ minLength: 32, maxLength: 32 }).map((digest) => cidOf(digest, 0x55)),
  fc
    .uint8Array({ minLength: 32, maxLength: 32 })
    .map((digest) => CID.decode(Uint8Array.of(0x12, 0x20, ...digest))),
  fc.uint8Array({ maxLength: 40 }).map((bytes) => CID.createV1(0x55, identity.digest(bytes))),
);

export const anyInteger = fc.oneof(
  fc.maxSafeInteger(),
  fc.integer({ min: -300, max: 300 }),
  fc.constantFrom(0, -1, 23, 24, -24, -25, 255, 256, -256, -257, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32),
  fc.constantFrom(Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, -(2 ** 32), -(2 ** 32) - 1),
);

export const anyFloat = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.constantFrom(0.1, 1e21, 1e-7, 5e-324, Number.MAX_VALUE, Number.MIN_VALUE, -1.5, 1e300),
);

const blob = fc.record({
  $type: fc.constant('blob'),
  ref: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((digest) => cidOf(digest, 0x55)),
  mimeType: fc.constantFrom('image/jpeg', 'video/mp4'),
  size: fc.nat(),
});

/** Maps keep what they hold, whatever the key. */
export const { value: anyValue, map: anyRecord } = fc.letrec<{ value: unknown; map: object }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    anyText,
    fc.constantFrom(null, true, false),
    anyInteger,
    anyFloat,
    fc.uint8Array({ maxLength: 40 }),
    anyLink,
    blob,
    fc.array(tie('value'), { maxLength: 6 }),
    tie('map'),
  ),
  map: fc.dictionary(fc.oneof(anyText, fc.string({ minLength: 1, maxLength: 6 })), tie('value'), {
    maxKeys: 6,
    noNullPrototype: true,
  }),
}));

/**
 * The JSON of a record as the atproto data model says, from what cborg reads: maps as Map, because objects of
 * JavaScript would put keys that look like integers first.
 */
export function judgedJson(bytes: Uint8Array): string {
  return stringify(decodeCbor(bytes, { ...dagCbor.decodeOptions, useMaps: true } as never));
}

function stringify(value: unknown): string {
  if (value instanceof Map) {
    return `{${[...value].map(([key, held]) => `${JSON.stringify(key)}:${stringify(held)}`).join(',')}}`;
  }
  if (Array.isArray(value)) return `[${value.map(stringify).join(',')}]`;
  if (value instanceof Uint8Array) return `{"$bytes":"${base64.encode(value).slice(1)}"}`;
  const cid = CID.asCID(value);
  if (cid !== null) return `{"$link":"${cid.version === 0 ? cid.toString() : cid.toString(base32)}"}`;
  return typeof value === 'bigint' ? String(value) : JSON.stringify(value);
}

/** Frames of a small simulated network, as its hosts would send them. */
export async function simulatedFrames(events: number, seed: number): Promise<Uint8Array[]> {
  const directory = mkdtempSync(join(tmpdir(), 'weir-encode-'));
  try {
    const path = join(directory, 'recording');
    const options: RecordedOptions = { hosts: 2, accounts: 40, seed, largeRepoRecords: 200 };
    await makeRecording(path, { ...options, events });
    const recording = openRecording(path);
    return Array.from({ length: recording.events }, (_, event) => recording.frameAt(event).slice());
  } finally {
    rmSync(directory, { recursive: true });
  }
}

export const jsonOf = (message: Uint8Array | null): string => {
  if (message === null) throw new Error('no message');
  return new TextDecoder('utf-8', { fatal: true }).decode(message);
};
