import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { KIND, type Kind } from '../../src/firehose/types.ts';
import type { IngestBatch, IngestRejection, VerifiedEvent } from '../../src/ingest/types.ts';
import { decodeBatch, encodeBatch } from '../../src/ingest/wire.ts';
import { REASONS } from '../../src/reasons.ts';

const seq = fc.oneof(
  fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
  fc.constantFrom(1, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER),
);
const hostId = fc.integer({ min: 1, max: 2 ** 31 - 1 });
const kind = fc.constantFrom(...Object.values(KIND)) as fc.Arbitrary<Kind>;
const did = fc.oneof(
  fc.constant('did:plc:abcdefghijklmnopqrstuvwx'),
  fc.integer({ min: 1, max: 2048 - 8 }).map((length) => `did:web:${'a'.repeat(length)}`),
);
const tid = fc.constantFrom('', '3l6oveex3ii2l', '2222222222222');
const digest = fc
  .uint8Array({ minLength: 32, maxLength: 32 })
  .map((bytes) => Buffer.from(bytes).toString('latin1'));
const text = fc.oneof(
  fc.string({ maxLength: 20 }),
  fc.string({ unit: 'grapheme', maxLength: 20 }),
  fc.constantFrom('', 'été', '日本語', '👩‍👩‍👧', 'x'.repeat(253)),
);
const digests = fc.option(fc.tuple(digest, digest, fc.option(digest)));

const event: fc.Arbitrary<VerifiedEvent> = fc
  .record({
    hostId,
    kind,
    upstreamSeq: seq,
    did,
    frame: fc.uint8Array({ maxLength: 300 }),
    seqStart: fc.nat(2 ** 31),
    seqEnd: fc.nat(2 ** 31),
    opCount: fc.nat(200),
    rev: tid,
    since: fc.option(tid),
    digests,
    lenient: fc.option(fc.constantFrom(...REASONS)),
    active: fc.boolean(),
    status: fc.option(text),
    handle: fc.option(text),
  })
  .map(({ digests, ...rest }) => ({
    ...rest,
    commit: digests === null ? null : digests[0],
    data: digests === null ? null : digests[1],
    prevData: digests === null ? null : digests[2],
  }));

const rejection: fc.Arbitrary<IngestRejection> = fc.record({
  hostId,
  did: fc.oneof(fc.constant(''), did),
  upstreamSeq: fc.oneof(seq, fc.constant(0)),
  rev: tid,
  judged: fc.boolean(),
  reason: fc.constantFrom(...REASONS),
  detail: text,
});

const batch: fc.Arbitrary<IngestBatch> = fc.record({
  events: fc.array(event, { maxLength: 6 }),
  rejections: fc.array(rejection, { maxLength: 4 }),
  progress: fc.array(fc.record({ hostId, cursor: fc.oneof(seq, fc.constant(0)), held: fc.nat(512) }), {
    maxLength: 5,
  }),
  bytes: seq,
});

const plain = (batch: IngestBatch) => ({
  ...batch,
  events: batch.events.map((event) => ({ ...event, frame: Array.from(event.frame) })),
});

describe('a batch on its way between threads', () => {
  test('comes out as it went in, whatever is in it', () => {
    fc.assert(
      fc.property(batch, (given) => {
        const memory = encodeBatch(given, (bytes) => new ArrayBuffer(bytes));
        expect(plain(decodeBatch(memory))).toEqual(plain(given));
      }),
      { numRuns: 300 },
    );
  });

  test('comes out as it went in from memory that held another one', () => {
    const memory = new SharedArrayBuffer(64 * 1024);
    fc.assert(
      fc.property(batch, batch, (before, given) => {
        encodeBatch(before, () => memory);
        encodeBatch(given, (bytes) => {
          expect(bytes).toBeLessThanOrEqual(memory.byteLength);
          return memory;
        });
        expect(plain(decodeBatch(memory))).toEqual(plain(given));
      }),
      { numRuns: 300 },
    );
  });

  test('has a number for every reason, apart from the one that stands for none', () => {
    expect(REASONS.length).toBeLessThan(255);
  });
});
