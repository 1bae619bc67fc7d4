import { describe, expect, test } from 'bun:test';
import * as dagCbor from '@ipld/dag-cbor';
import { decodeFirst } from 'cborg';
import fc from 'fast-check';
import { CID } from 'multiformats/cid';
import { MAX_NESTING, skipItem } from '../../src/firehose/cbor.ts';
import { scanFrame } from '../../src/firehose/scan.ts';
import { KIND, MAX_FRAME_BYTES, MAX_OPS, type ScannedFrame } from '../../src/firehose/types.ts';
import { cidOf, concat, frameOf, framesFixture, jsonFixture, scanned } from '../repo/support.ts';

const DID = 'did:plc:weirweirweirweirweirweir';
const REV = '3n2rtptxs6f2e';
const TIME = '2026-11-21T00:00:00.000Z';
const link = cidOf(Buffer.from('a block'));
const rawLink = cidOf(Buffer.from('a blob'), 0x55);

const commitBody = {
  seq: 7,
  repo: DID,
  rev: REV,
  since: null as string | null,
  time: TIME,
  commit: link,
  blocks: Uint8Array.of(1, 2, 3),
  ops: [{ action: 'create', path: 'app.bsky.feed.post/3k', cid: link }] as unknown,
  blobs: [] as unknown,
  tooBig: false as unknown,
  rebase: false as unknown,
  prevData: link as unknown,
};
const accountBody = { seq: 7, did: DID, time: TIME, active: true };

/** Splits a frame as @ipld/dag-cbor reads it, and says whether it writes it back the same. */
function judge(bytes: Uint8Array): { items: unknown[]; same: boolean } | null {
  try {
    const [header, rest] = decodeFirst(bytes, dagCbor.decodeOptions as never) as [unknown, Uint8Array];
    const body = dagCbor.decode(rest);
    const again = concat(dagCbor.encode(header), dagCbor.encode(body));
    return { items: [header, body], same: Buffer.from(again).equals(bytes) };
  } catch {
    return null;
  }
}

const refusal = (bytes: Uint8Array): string => {
  const result = scanFrame(bytes);
  return result.ok ? 'accepted' : `${result.reason}${result.detail ? `: ${result.detail}` : ''}`;
};
const body = (type: string, change: object): string => refusal(frameOf(type, change));

describe('a frame is read', () => {
  test('with every known field of a commit in its place', () => {
    const ops = [
      { action: 'create', path: 'app.bsky.feed.post/3k', cid: link },
      { action: 'update', path: 'app.bsky.feed.post/3l', cid: link, prev: link },
      { action: 'delete', path: 'app.bsky.feed.post/3m', cid: null, prev: link },
    ];
    const bytes = frameOf('#commit', { ...commitBody, since: REV, seq: 70_000, ops, later: { a: [1] } });
    const frame = scanned(bytes);
    const digest = new Uint8Array(link.multihash.digest);
    const at = (offset: number): Uint8Array => bytes.slice(offset, offset + 32);
    expect(frame).toMatchObject({ kind: KIND.commit, type: '#commit', seq: 70_000, did: DID, rev: REV });
    expect(frame).toMatchObject({ since: REV, time: TIME, tooBig: false, rebase: false });
    expect(frame.missing).toEqual({ tooBig: false, rebase: false, blobs: false });
    expect(bytes.slice(frame.blocksStart, frame.blocksEnd)).toEqual(commitBody.blocks);
    expect(at(frame.commitDigestAt)).toEqual(digest);
    expect(at(frame.prevDataDigestAt)).toEqual(digest);
    expect(dagCbor.decode<number>(bytes.slice(frame.seqStart, frame.seqEnd))).toBe(70_000);
    expect(dagCbor.decode<{ seq: number }>(bytes.slice(frame.bodyStart)).seq).toBe(70_000);
    expect(frame.ops.map((op) => [op.action, op.path, op.cid !== null, op.prev !== null])).toEqual([
      ['create', 'app.bsky.feed.post/3k', true, false],
      ['update', 'app.bsky.feed.post/3l', true, true],
      ['delete', 'app.bsky.feed.post/3m', false, true],
    ]);
    expect(new Uint8Array(frame.ops[1]!.prev!)).toEqual(digest);
  });

  test('of the other kinds', () => {
    const sync = { seq: 1, did: DID, rev: REV, time: TIME, blocks: new Uint8Array(3) };
    expect(scanned(frameOf('#sync', sync))).toMatchObject({ kind: KIND.sync, did: DID, rev: REV });
    expect(scanned(frameOf('#identity', { seq: 1, did: DID, time: TIME }))).toMatchObject({
      kind: KIND.identity,
      handle: null,
    });
    expect(scanned(frameOf('#identity', { seq: 1, did: DID, time: TIME, handle: 'a.test' }))).toMatchObject({
      handle: 'a.test',
    });
    expect(scanned(frameOf('#account', accountBody))).toMatchObject({
      kind: KIND.account,
      active: true,
      status: null,
    });
    expect(
      scanned(frameOf('#account', { ...accountBody, active: false, status: 'a new word' })),
    ).toMatchObject({ active: false, status: 'a new word' });
    expect(scanned(frameOf('#info', { name: 'OutdatedCursor', message: 'old' }))).toMatchObject({
      kind: KIND.info,
      seq: 0,
      name: 'OutdatedCursor',
      message: 'old',
    });
    const error = concat(dagCbor.encode({ op: -1 }), dagCbor.encode({ error: 'FutureCursor' }));
    expect(scanned(error)).toMatchObject({ kind: KIND.error, type: '', name: 'FutureCursor', message: '' });
  });

  test('of a type nobody knows, with seq and did where they are well formed', () => {
    const unknown = (change: object): ScannedFrame => scanned(frameOf('#later', change));
    expect(unknown({ seq: 5, did: DID })).toMatchObject({
      kind: KIND.unknown,
      type: '#later',
      seq: 5,
      did: DID,
    });
    expect(unknown({ seq: 5, repo: DID })).toMatchObject({ seq: 5, did: DID });
    expect(unknown({})).toMatchObject({ seq: 0, seqStart: 0, seqEnd: 0, did: '' });
    expect(unknown({ seq: 'five', did: 7 })).toMatchObject({ seq: 0, seqEnd: 0, did: '' });
    expect(unknown({ seq: -1, did: 'not a did' })).toMatchObject({ seq: 0, did: '' });
    expect(unknown({ did: DID, repo: DID })).toMatchObject({ did: DID });
    expect(unknown({ did: DID, repo: 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb' })).toMatchObject({ did: '' });
    expect(unknown({ did: DID, repo: 7 })).toMatchObject({ did: '' });
    expect(unknown({ did: 'not a did', repo: DID })).toMatchObject({ did: '' });
  });

  test('with optional fields that say nothing, and noted', () => {
    for (const nothing of [null, '']) {
      expect(scanned(frameOf('#account', { ...accountBody, status: nothing }))).toMatchObject({
        active: true,
        status: null,
        blank: 'status',
      });
      const identity = { seq: 1, did: DID, time: TIME, handle: nothing };
      expect(scanned(frameOf('#identity', identity))).toMatchObject({ handle: null, blank: 'handle' });
    }
    expect(scanned(frameOf('#account', accountBody)).blank).toBeNull();
  });

  test('with deprecated fields missing, and noted', () => {
    const { tooBig: _, rebase: __, blobs: ___, ...rest } = commitBody;
    expect(scanned(frameOf('#commit', rest)).missing).toEqual({ tooBig: true, rebase: true, blobs: true });
    expect(scanned(frameOf('#commit', { ...rest, blobs: [rawLink] })).missing).toEqual({
      tooBig: true,
      rebase: true,
      blobs: false,
    });
  });

  test('with more fields than fit a short map head', () => {
    const many = Object.fromEntries(Array.from({ length: 40 }, (_, at) => [`field${at}`, at]));
    expect(scanned(frameOf('#account', { ...many, ...accountBody }))).toMatchObject({ seq: 7, active: true });
  });

  test('with the largest seq there can be, and not one above', () => {
    const largest = Number.MAX_SAFE_INTEGER;
    expect(scanned(frameOf('#account', { ...accountBody, seq: largest })).seq).toBe(largest);
    expect(body('#account', { ...accountBody, seq: BigInt(largest) + 1n })).toBe('frame_field_invalid: seq');
    expect(body('#account', { ...accountBody, seq: 0 })).toBe('frame_field_invalid: seq');
  });

  test('whatever kind of byte array it comes in', () => {
    const bytes = frameOf('#commit', commitBody);
    const shifted = concat([1, 2, 3], bytes).subarray(3);
    const { bytes: _, ops, ...expected } = scanned(bytes);
    for (const form of [Buffer.from(bytes), shifted]) {
      const { bytes: __, ops: otherOps, ...other } = scanned(form);
      expect(other).toEqual(expected);
      expect(otherOps.map((op) => [op.path, [...op.cid!]])).toEqual(ops.map((op) => [op.path, [...op.cid!]]));
    }
  });
});

describe('a frame is refused', () => {
  test('for a field it needs', () => {
    for (const field of ['seq', 'repo', 'rev', 'since', 'time', 'commit', 'blocks', 'ops'] as const) {
      const { [field]: _, ...rest } = commitBody;
      expect(body('#commit', rest)).toBe(`frame_field_missing: ${field}`);
      expect(body('#commit', { ...commitBody, [field]: { odd: true } })).toBe(
        `frame_field_invalid: ${field}`,
      );
    }
    for (const field of ['blobs', 'tooBig', 'rebase', 'prevData'] as const) {
      expect(body('#commit', { ...commitBody, [field]: { odd: true } })).toBe(
        `frame_field_invalid: ${field}`,
      );
    }
    for (const field of ['seq', 'did', 'time', 'active'] as const) {
      const { [field]: _, ...rest } = accountBody;
      expect(body('#account', rest)).toBe(`frame_field_missing: ${field}`);
      expect(body('#account', { ...accountBody, [field]: [] })).toBe(`frame_field_invalid: ${field}`);
    }
    for (const field of ['did', 'rev', 'blocks'] as const) {
      const { [field]: _, ...rest } = { seq: 1, did: DID, rev: REV, time: TIME, blocks: new Uint8Array(1) };
      expect(body('#sync', rest)).toBe(`frame_field_missing: ${field}`);
    }
    expect(body('#account', { ...accountBody, status: 5 })).toBe('frame_field_invalid: status');
    expect(body('#account', { ...accountBody, status: 'x'.repeat(65) })).toBe('frame_field_invalid: status');
    expect(body('#identity', { seq: 1, did: DID, time: TIME, handle: 5 })).toBe(
      'frame_field_invalid: handle',
    );
    expect(body('#info', {})).toBe('frame_field_missing: name');
    expect(refusal(concat(dagCbor.encode({ op: -1 }), dagCbor.encode({})))).toBe(
      'frame_field_missing: error',
    );
  });

  test('for the form of what stands in a field', () => {
    const commit = (change: object): string => body('#commit', { ...commitBody, ...change });
    expect(commit({ repo: 'did:plc' })).toBe('frame_field_invalid: repo');
    expect(commit({ rev: 'not a tid' })).toBe('rev_invalid: not a TID');
    expect(commit({ since: 'not a tid' })).toBe('frame_field_invalid: since');
    expect(commit({ commit: rawLink })).toBe('frame_field_invalid: commit');
    expect(commit({ prevData: rawLink })).toBe('frame_field_invalid: prevData');
    expect(commit({ blobs: [rawLink, link] })).toBe('accepted');
    expect(commit({ blobs: [rawLink, 'text'] })).toBe('frame_field_invalid: blobs');
    expect(commit({ time: 'x'.repeat(65) })).toBe('frame_field_invalid: time');
  });

  test('for its ops', () => {
    const op = { action: 'create', path: 'app.bsky.feed.post/3k', cid: link as unknown };
    const ops = (...list: unknown[]): string => body('#commit', { ...commitBody, ops: list });
    expect(ops(...Array.from({ length: MAX_OPS }, () => op))).toBe('accepted');
    expect(ops(...Array.from({ length: MAX_OPS + 1 }, () => op))).toBe('ops_too_many: 201 ops');
    expect(ops(op, 7)).toBe('frame_field_invalid: ops');
    expect(ops({ ...op, later: 1 })).toBe('accepted');
    expect(ops({ ...op, action: 'replace' })).toBe('op_invalid: action');
    expect(ops({ ...op, action: 'creates' })).toBe('op_invalid: action');
    expect(ops({ ...op, action: 7 })).toBe('frame_field_invalid: ops.action');
    expect(ops({ ...op, path: 7 })).toBe('frame_field_invalid: ops.path');
    expect(ops({ path: op.path, cid: link })).toBe('frame_field_missing: ops.action');
    expect(ops({ action: 'create', cid: link })).toBe('frame_field_missing: ops.path');
    expect(ops({ action: 'create', path: op.path })).toBe('frame_field_missing: ops.cid');
    expect(ops({ ...op, cid: rawLink })).toBe('op_invalid: cid is not CIDv1 dag-cbor sha-256');
    expect(ops({ ...op, cid: 'text' })).toBe('op_invalid: cid is not CIDv1 dag-cbor sha-256');
    expect(ops({ ...op, prev: rawLink })).toBe('op_invalid: prev is not CIDv1 dag-cbor sha-256');
  });

  test('for its header', () => {
    const header = (value: unknown): string => refusal(concat(dagCbor.encode(value), dagCbor.encode({})));
    expect(header([])).toBe('frame_header_invalid: not a map');
    expect(header({ t: '#commit' })).toBe('frame_header_invalid: no op');
    expect(header({ op: 2, t: '#commit' })).toBe('frame_header_invalid: op neither 1 nor -1');
    expect(header({ op: '1', t: '#commit' })).toBe('frame_header_invalid: op neither 1 nor -1');
    expect(header({ op: 1 })).toBe('frame_header_invalid: no t');
    expect(header({ op: 1, t: 5 })).toBe('frame_header_invalid: no t');
    expect(header({ op: 1, t: '' })).toBe('frame_header_invalid: length of t');
    expect(header({ op: 1, t: 'x'.repeat(65) })).toBe('frame_header_invalid: length of t');
    // Consumers take both for the same type; we would have taken the long one for a type we need not verify.
    for (const t of ['com.atproto.sync.subscribeRepos#commit', 'commit', ' #commit'])
      expect(header({ op: 1, t })).toBe('frame_header_invalid: t is not in its short form');
    expect(header({ op: 1, t: '#later', more: [1] })).toBe('accepted');
  });

  test('unless it is exactly two maps', () => {
    const good = frameOf('#account', accountBody);
    expect(refusal(good)).toBe('accepted');
    expect(refusal(concat(good, [0xf6]))).toMatch(/^frame_not_canonical/);
    for (let length = 0; length < good.length; length++) {
      expect(refusal(good.slice(0, length))).toMatch(/^frame_not_canonical/);
    }
    const header = dagCbor.encode({ op: 1, t: '#account' });
    expect(refusal(concat(header, dagCbor.encode([1])))).toBe('frame_field_invalid: body');
    expect(refusal(concat(header, dagCbor.encode('x'), [0]))).toMatch(/^frame_not_canonical/);
  });

  test('when the fields of its body are not unique and in order, known or not', () => {
    const field = (name: string, value: unknown): Uint8Array =>
      concat(dagCbor.encode(name), dagCbor.encode(value));
    const fields = [
      field('did', DID),
      field('seq', 7),
      field('zzz', 1),
      field('time', TIME),
      field('xxxxx', 1),
      field('xxxxy', 1),
      field('active', true),
    ];
    const of = (list: Uint8Array[]): string =>
      refusal(concat(dagCbor.encode({ op: 1, t: '#account' }), [0xa0 + list.length], ...list));
    expect(of(fields)).toBe('accepted');
    for (let at = 0; at < fields.length; at++) {
      const twice = [...fields.slice(0, at + 1), ...fields.slice(at)];
      expect(of(twice)).toBe('frame_not_canonical: map keys not unique and in order');
      if (at === 0) continue;
      const swapped = [...fields.slice(0, at - 1), fields[at]!, fields[at - 1]!, ...fields.slice(at + 1)];
      expect(of(swapped)).toBe('frame_not_canonical: map keys not unique and in order');
    }
  });

  test('when it is over the limit', () => {
    expect(refusal(new Uint8Array(MAX_FRAME_BYTES + 1))).toBe('frame_too_large: 5000001 bytes');
  });

  // Each stands in a field nobody knows, alone and inside a list inside a map.
  const notCanonical: [string, number[]][] = [
    ['an integer that is not minimal', [0x18, 0x17]],
    ['a two-byte integer that is not minimal', [0x19, 0x00, 0xff]],
    ['a four-byte integer that is not minimal', [0x1a, 0x00, 0x00, 0xff, 0xff]],
    ['an eight-byte integer that is not minimal', [0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]],
    ['a length that is not minimal', [0x78, 0x01, 0x61]],
    ['an indefinite list', [0x9f, 0xff]],
    ['an indefinite map', [0xbf, 0xff]],
    ['an indefinite text', [0x7f, 0x61, 0x61, 0xff]],
    ['an indefinite byte string', [0x5f, 0x41, 0x61, 0xff]],
    ['a break', [0xff]],
    ['undefined', [0xf7]],
    ['a simple value', [0xe0]],
    ['a simple value of two bytes', [0xf8, 0x20]],
    ['a half float', [0xf9, 0x3c, 0x00]],
    ['a single float', [0xfa, 0x3f, 0x80, 0, 0]],
    ['a float that is no number', [0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0]],
    ['an infinite float', [0xfb, 0xff, 0xf0, 0, 0, 0, 0, 0, 0]],
    ['a text with a byte that begins nothing', [0x61, 0x80]],
    ['a text with an overlong form', [0x62, 0xc0, 0x80]],
    ['a text with an overlong form of three', [0x63, 0xe0, 0x80, 0x80]],
    ['a text with a surrogate', [0x63, 0xed, 0xa0, 0x80]],
    ['a text above U+10FFFF', [0x64, 0xf4, 0x90, 0x80, 0x80]],
    ['a text that ends inside a character', [0x62, 0x61, 0xc3]],
    ['a map with a key that is no text', [0xa1, 0x01, 0x01]],
    ['a map with the same key twice', [0xa2, 0x61, 0x61, 0x01, 0x61, 0x61, 0x01]],
    ['a map with keys out of order by bytes', [0xa2, 0x61, 0x62, 0x01, 0x61, 0x61, 0x01]],
    ['a map with keys out of order by length', [0xa2, 0x62, 0x61, 0x61, 0x01, 0x61, 0x62, 0x01]],
    ['another tag', [0xc1, 0x01]],
    ['a link without the zero byte', [0xd8, 0x2a, 0x58, 0x24, ...link.bytes]],
    ['a link that is a text', [0xd8, 0x2a, 0x61, 0x61]],
    ['a link to nothing', [0xd8, 0x2a, 0x41, 0x00]],
    ['a link with a byte too many', [0xd8, 0x2a, 0x58, 0x26, 0x00, ...link.bytes, 0x00]],
    ['a link to a CID that is cut', [0xd8, 0x2a, 0x58, 0x24, 0x00, ...link.bytes.subarray(0, 35)]],
    ['a link to a CID of version 2', [0xd8, 0x2a, 0x58, 0x25, 0x00, 2, ...link.bytes.subarray(1)]],
    [
      'a link with a varint that is not minimal',
      [0xd8, 0x2a, 0x58, 0x26, 0x00, 1, 0xf1, 0, ...link.bytes.subarray(2)],
    ],
    ['a tag that is not minimal', [0xd9, 0x00, 0x2a, 0x58, 0x25, 0x00, ...link.bytes]],
    ['a list longer than what follows', [0x9a, 0xff, 0xff, 0xff, 0xff]],
    ['a map longer than what follows', [0xbb, 0x10, 0, 0, 0, 0, 0, 0, 0]],
    ['a byte string longer than what follows', [0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
  ];
  const canonical: [string, number[]][] = [
    ['a float', [0xfb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]],
    ['the smallest integer', [0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
    ['a link to a blob', [0xd8, 0x2a, 0x58, 0x25, 0x00, ...rawLink.bytes]],
    ['a link of version 0', [0xd8, 0x2a, 0x58, 0x23, 0x00, 0x12, 0x20, ...link.multihash.digest]],
    ['a text of all widths', [0x6a, ...Buffer.from('aä€😀')]],
    ['an empty key', [0xa1, 0x60, 0x01]],
  ];
  for (const [expected, cases] of [
    ['frame_not_canonical', notCanonical],
    ['accepted', canonical],
  ] as const) {
    for (const [what, value] of cases) {
      test(`${expected === 'accepted' ? 'not ' : ''}for ${what} in an unknown field`, () => {
        const good = dagCbor.encode({ ...accountBody, zzzzzzzzzz: null });
        const bytes = (inside: number[]): Uint8Array =>
          concat(dagCbor.encode({ op: 1, t: '#account' }), good.subarray(0, -1), inside);
        expect(refusal(bytes(value))).toStartWith(expected);
        expect(refusal(bytes([0xa1, 0x61, 0x61, 0x82, 0x01, ...value]))).toStartWith(expected);
      });
    }
  }

  test('for nesting without end, and not for what is within the bound', () => {
    const nested = (depth: number): Uint8Array => concat(new Uint8Array(depth).fill(0x81), [0x80]);
    expect(skipItem(nested(MAX_NESTING - 1), 0, MAX_NESTING, 0)).toBe(MAX_NESTING);
    expect(skipItem(nested(MAX_NESTING), 0, MAX_NESTING + 1, 0)).toBe(-1);
    const million = nested(1_000_000);
    expect(skipItem(million, 0, million.length, 0)).toBe(-1);
  });
});

describe('the scanner agrees with @ipld/dag-cbor', () => {
  test('on every recorded frame', () => {
    const frames = framesFixture('realframes/frames.lp.bin');
    if (frames === null) return;
    expect(frames.length).toBeGreaterThan(500);
    for (const bytes of frames) {
      const frame = scanned(bytes);
      const [header, decoded] = judge(bytes)!.items as [{ t: string }, Record<string, unknown>];
      expect(frame.type).toBe(header.t);
      expect(frame.seq).toBe(decoded.seq as number);
      expect(frame.did).toBe((decoded.repo ?? decoded.did) as string);
      expect(frame.time).toBe(decoded.time as string);
      expect(frame.rev).toBe((decoded.rev ?? '') as string);
      expect(frame.since).toBe((decoded.since ?? null) as string | null);
      if (decoded.blocks !== undefined) {
        expect(bytes.slice(frame.blocksStart, frame.blocksEnd)).toEqual(
          new Uint8Array(decoded.blocks as Uint8Array),
        );
      }
      const ops = (decoded.ops ?? []) as { action: string; path: string; cid: CID | null; prev?: CID }[];
      expect(
        frame.ops.map(({ action, path, cid, prev }) => [action, path, cid && [...cid], prev && [...prev]]),
      ).toEqual(
        ops.map(({ action, path, cid, prev }) => [
          action as 'create',
          path,
          cid && [...cid.multihash.digest],
          prev ? [...prev.multihash.digest] : null,
        ]),
      );
    }
  });

  test('on the interop data model vectors', () => {
    const vectors = jsonFixture<{ cbor_base64: string; cid: string }[]>(
      'interop/data-model/data-model-fixtures.json',
    );
    if (vectors === null) return;
    expect(vectors.length).toBeGreaterThan(2);
    for (const vector of vectors) {
      const bytes = new Uint8Array(Buffer.from(vector.cbor_base64, 'base64'));
      expect(skipItem(bytes, 0, bytes.length, 0)).toBe(bytes.length);
      expect(cidOf(bytes).toString()).toBe(vector.cid);
    }
  });

  const value = fc.letrec((tie) => ({
    leaf: fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.integer(),
      fc.bigInt({ min: -(2n ** 64n), max: 2n ** 64n - 1n }),
      fc.boolean(),
      fc.constant(null),
      fc.uint8Array({ maxLength: 40 }),
      fc.double({ noNaN: true, noDefaultInfinity: true }).filter((number) => !Number.isInteger(number)),
      fc.constantFrom(link, rawLink),
    ),
    any: fc.oneof(
      { depthSize: 'small' },
      tie('leaf'),
      fc.array(tie('any'), { maxLength: 4 }),
      fc.dictionary(fc.string(), tie('any'), { maxKeys: 4, noNullPrototype: true }),
    ),
  })).any;

  test('on generated frames with unknown fields of any shape', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), value, { maxKeys: 6, noNullPrototype: true }), (extra) => {
        const bytes = frameOf('#account', { ...extra, ...accountBody, status: 'x' });
        expect(refusal(bytes)).toBe('accepted');
        expect(judge(bytes)?.same).toBe(true);
      }),
      { numRuns: 400, seed: 1 },
    );
  });

  test('on frames with any byte changed, one left out or one put in', () => {
    let accepted = 0;
    let refused = 0;
    fc.assert(
      fc.property(
        fc.dictionary(fc.string({ maxLength: 3 }), value, { maxKeys: 4, noNullPrototype: true }),
        fc.nat(),
        fc.integer({ min: 0, max: 255 }),
        fc.constantFrom('change', 'remove', 'insert'),
        (extra, where, byte, kind) => {
          // A type nobody knows, so that only the encoding can be at fault.
          const good = frameOf('#later', extra);
          const start = dagCbor.encode({ op: 1, t: '#later' }).length;
          const at = start + (where % (good.length - start));
          const bytes =
            kind === 'change'
              ? concat(good.subarray(0, at), [byte], good.subarray(at + 1))
              : kind === 'remove'
                ? concat(good.subarray(0, at), good.subarray(at + 1))
                : concat(good.subarray(0, at), [byte], good.subarray(at));
          const ours = scanFrame(bytes);
          const theirs = judge(bytes);
          if (ours.ok) {
            accepted++;
            // A float that holds a whole number, and minus zero, are canonical; JavaScript has no way to write
            // them back. A byte order mark is a character like any other; the judge swallows it.
            const lossy = Buffer.from(bytes).includes(0xfb) || Buffer.from(bytes).includes('efbbbf', 'hex');
            expect(theirs === null ? 'refused' : theirs.same || lossy).toBe(true);
          } else if (theirs?.same) {
            // What it accepts beyond the canonical form: CIDs with varints that are longer than they need be,
            // and a body that is no map.
            const isMap = bytes[start]! >> 5 === 5;
            expect(!isMap || /link not a CID/.test(ours.detail ?? '')).toBe(true);
          } else refused++;
        },
      ),
      { numRuns: 4000, seed: 2 },
    );
    expect(accepted).toBeGreaterThan(200);
    expect(refused).toBeGreaterThan(1000);
  });

  test('and never throws, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(typeof scanFrame(bytes).ok).toBe('boolean');
        const headed = concat(dagCbor.encode({ op: 1, t: '#commit' }), bytes);
        expect(typeof scanFrame(headed).ok).toBe('boolean');
      }),
      { numRuns: 3000, seed: 3 },
    );
    const good = frameOf('#commit', commitBody);
    for (let at = 0; at < good.length; at++) {
      for (let byte = 0; byte < 256; byte++) {
        const changed = good.slice();
        changed[at] = byte;
        expect(typeof scanFrame(changed).ok).toBe('boolean');
      }
    }
  });

  test('CIDs in links are those that multiformats reads', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.boolean(), (random, prefixed) => {
        const cid = prefixed ? concat(link.bytes.subarray(0, 4), random) : random;
        const bytes = concat([0xd8, 0x2a, 0x58, cid.length + 1, 0], cid);
        if (cid.length < 24) return;
        let theirs = true;
        try {
          CID.decode(cid);
        } catch {
          theirs = false;
        }
        const ours = skipItem(bytes, 0, bytes.length, 0) === bytes.length;
        if (ours) expect(theirs).toBe(true);
        if (theirs && prefixed) expect(ours).toBe(true);
      }),
      { numRuns: 2000, seed: 4 },
    );
  });
});
