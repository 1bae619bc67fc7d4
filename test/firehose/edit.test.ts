import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import {
  type EditedFrame,
  encodedText,
  maxSequencedBytes,
  mend,
  removeField,
  setAccountStatus,
  setField,
} from '../../src/firehose/edit.ts';
import { accountFrame, errorFrame, infoFrame } from '../../src/firehose/encode.ts';
import { KIND } from '../../src/firehose/types.ts';
import { withSeq } from '../log/helpers.ts';
import { cidOf, frameOf, framesFixture, scanned } from '../repo/support.ts';

const DID = 'did:plc:weirweirweirweirweirweir';
const TIME = '2026-11-21T00:00:00.000Z';
const account = { seq: 7, did: DID, time: TIME, active: true };

const extraFields = fc.dictionary(
  fc.string({ maxLength: 12 }).filter((name) => !(name in account) && name !== 'status'),
  fc.oneof(
    fc.string(),
    fc.integer(),
    fc.uint8Array({ maxLength: 300 }),
    fc.constant(null),
    fc.array(fc.integer(), { maxLength: 3 }),
    fc.double({ noNaN: true, noDefaultInfinity: true }).filter((number) => !Number.isInteger(number)),
  ),
  { maxKeys: 30, noNullPrototype: true },
);
const seqs = fc.oneof(
  fc.integer({ min: 1, max: 70_000 }),
  fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
  fc.constantFrom(23, 24, 255, 256, 65_535, 65_536, 4_294_967_295, 4_294_967_296, Number.MAX_SAFE_INTEGER),
);

/** The edited frame must be what the scanner accepts, with its seq where the edit says. */
function checked(edited: EditedFrame) {
  const frame = scanned(edited.bytes);
  expect([edited.seqStart, edited.seqEnd]).toEqual([frame.seqStart, frame.seqEnd]);
  return frame;
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('an edit gives the same bytes as encoding anew', () => {
  test('with another seq', () => {
    fc.assert(
      fc.property(extraFields, seqs, seqs, (extra, before, after) => {
        const frame = scanned(frameOf('#account', { ...extra, ...account, seq: before }));
        const expected = frameOf('#account', { ...extra, ...account, seq: after });
        const edited = withSeq(frame, after);
        expect(hex(edited.bytes)).toBe(hex(expected));
        expect(checked(edited).seq).toBe(after);
        expect(maxSequencedBytes(frame)).toBe(withSeq(frame, Number.MAX_SAFE_INTEGER).bytes.length);
      }),
      { numRuns: 400, seed: 1 },
    );
  });

  test('with a field set or removed, whether it was there or not', () => {
    fc.assert(
      fc.property(
        extraFields,
        fc.string({ maxLength: 12 }),
        fc.string({ maxLength: 300 }),
        (extra, name, text) => {
          if (name === 'seq') return;
          const before = { ...extra, ...account };
          // The judge cannot say `did` is another text, only the encoding counts here: a type nobody knows.
          const frame = scanned(frameOf('#later', before));
          const set = setField(frame, name, encodedText(text));
          expect(hex(set.bytes)).toBe(hex(frameOf('#later', { ...before, [name]: text })));
          checked(set);
          const removed = removeField({ ...set, bodyStart: frame.bodyStart }, name);
          const { [name]: _, ...rest } = before as Record<string, unknown>;
          expect(hex(removed.bytes)).toBe(hex(frameOf('#later', rest)));
          checked(removed);
        },
      ),
      { numRuns: 400, seed: 2 },
    );
  });

  test('with the status that the relay holds', () => {
    fc.assert(
      fc.property(
        extraFields,
        fc.boolean(),
        fc.option(fc.string({ minLength: 1, maxLength: 20 })),
        fc.boolean(),
        fc.option(fc.constantFrom('takendown', 'deactivated')),
        (extra, wasActive, hadStatus, active, status) => {
          const of = (isActive: boolean, text: string | null) =>
            frameOf('#account', {
              ...extra,
              ...account,
              active: isActive,
              ...(text === null ? {} : { status: text }),
            });
          const edited = setAccountStatus(scanned(of(wasActive, hadStatus)), active, status);
          expect(hex(edited.bytes)).toBe(hex(of(active, status)));
          expect(checked(edited)).toMatchObject({ active, status });
        },
      ),
      { numRuns: 200, seed: 3 },
    );
  });

  test('with deprecated fields filled in, any of them missing', () => {
    const link = cidOf(Buffer.from('a block'));
    const full = {
      seq: 700,
      repo: DID,
      rev: '3n2rtptxs6f2e',
      since: null,
      time: TIME,
      commit: link,
      blocks: new Uint8Array(400),
      ops: [],
      blobs: [],
      tooBig: false,
      rebase: false,
      prevData: link,
      later: 'unknown',
      zzzzzzzzzzzz: 1.5,
    };
    for (const missing of [
      [],
      ['tooBig'],
      ['rebase'],
      ['blobs'],
      ['tooBig', 'rebase'],
      ['tooBig', 'rebase', 'blobs'],
    ]) {
      const sent = Object.fromEntries(Object.entries(full).filter(([name]) => !missing.includes(name)));
      const frame = scanned(frameOf('#commit', sent));
      const edited = mend(frame);
      expect(hex(edited.bytes)).toBe(hex(frameOf('#commit', full)));
      expect(checked(edited).missing).toEqual({ tooBig: false, rebase: false, blobs: false });
      if (missing.length === 0) expect(edited.bytes).toBe(frame.bytes);
    }
  });

  test('of the body head when the number of fields needs a longer one', () => {
    const many = Object.fromEntries(Array.from({ length: 19 }, (_, at) => [`field${at}`, at]));
    const frame = scanned(frameOf('#account', { ...many, ...account }));
    const set = setField(frame, 'status', encodedText('x'));
    expect(hex(set.bytes)).toBe(hex(frameOf('#account', { ...many, ...account, status: 'x' })));
    checked(set);
    const removed = removeField({ ...set, bodyStart: frame.bodyStart }, 'status');
    expect(hex(removed.bytes)).toBe(hex(frame.bytes));
    checked(removed);
  });

  test('on recorded frames, there and back', () => {
    const frames = framesFixture('realframes/frames.lp.bin');
    if (frames === null) return;
    for (const bytes of frames) {
      const frame = scanned(bytes);
      if (frame.seq === 0) continue;
      const there = withSeq(frame, 9_000_000_000);
      expect(checked(there).seq).toBe(9_000_000_000);
      expect(hex(withSeq(there, frame.seq).bytes)).toBe(hex(bytes));
    }
  });
});

describe('frames of our own', () => {
  test('are frames that we would accept', () => {
    expect(scanned(errorFrame('FutureCursor', 'ahead of us'))).toMatchObject({
      kind: KIND.error,
      name: 'FutureCursor',
      message: 'ahead of us',
    });
    expect(scanned(infoFrame('OutdatedCursor', 'behind the window'))).toMatchObject({
      kind: KIND.info,
      name: 'OutdatedCursor',
    });
    expect(
      scanned(accountFrame({ seq: 3, did: DID, time: TIME, active: false, status: 'takendown' })),
    ).toMatchObject({ kind: KIND.account, seq: 3, did: DID, active: false, status: 'takendown' });
    expect(scanned(accountFrame({ seq: 3, did: DID, time: TIME, active: true, status: null }))).toMatchObject(
      {
        active: true,
        status: null,
      },
    );
  });
});
