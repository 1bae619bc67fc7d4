import { describe, expect, test } from 'bun:test';
import { WriteOpAction } from '@atproto/repo';
import { headBytes, headValue, skipItem, text } from '../../src/firehose/cbor.ts';
import { scanFrame } from '../../src/firehose/scan.ts';
import { KIND, type ScannedFrame } from '../../src/firehose/types.ts';
import type { SigningKey } from '../../src/repo/types.ts';
import { verifyCommit } from '../../src/repo/verify.ts';
import { commitFrame, commitOf, newRepo, post, scanned } from './support.ts';

const soonMs = Date.now() + 60_000;

/**
 * What of the envelope a flip may change without being noticed, and why that is harmless. Everything else must be
 * noticed.
 */
const UNCOVERED: Record<string, string> = {
  'header t': 'becomes a message of an unknown type: it is no commit any more, and is judged as unknown',
  seq: 'the relay replaces it; within a connection it must grow',
  time: 'the word of the host, not signed by the account; nothing is decided by it',
  since: 'the word of the host; held against the stored rev by the sequencer',
  'name of blobs':
    'an unknown field then, and blobs counts as left out; it is deprecated and nothing reads it',
  blobs: 'deprecated; nothing reads it',
  'name of tooBig': 'an unknown field then, and tooBig counts as left out, which is false as it was',
  'name of rebase': 'an unknown field then, and rebase counts as left out, which is false as it was',
};

/** For every byte of the frame, the part of it that it belongs to. */
function partsOf(frame: ScannedFrame): string[] {
  const { bytes, bodyStart } = frame;
  const parts = new Array<string>(bytes.length).fill('header');
  parts.fill('header t', 3, 3 + 8);
  let at = bodyStart;
  parts.fill('body map head', at, at + headBytes(bytes, at));
  at += headBytes(bytes, at);
  for (let left = headValue(bytes, bodyStart); left > 0; left--) {
    const start = at + headBytes(bytes, at);
    const value = start + headValue(bytes, at);
    const name = text(bytes, start, value);
    const end = skipItem(bytes, value, bytes.length, 0);
    parts.fill(`name of ${name}`, at, value);
    parts.fill(name, value, end);
    at = end;
  }
  return parts;
}

interface Sweep {
  readonly blocks: number;
  readonly envelope: Map<string, number>;
}

/** Flips every bit of the frame, one at a time; tells where the frame was still accepted. */
function sweep(bytes: Uint8Array, key: SigningKey): Sweep {
  const frame = scanned(bytes);
  const options = { nowMs: soonMs, validation: 'strict', firstCommit: false } as const;
  expect(verifyCommit(frame, key, options).ok).toBe(true);
  const parts = partsOf(frame);
  const flipped = bytes.slice();
  const envelope = new Map<string, number>();
  let blocks = 0;
  for (let at = 0; at < bytes.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      flipped[at]! ^= 1 << bit;
      const other = scanFrame(flipped);
      if (other.ok && (other.kind !== KIND.commit || verifyCommit(other, key, options).ok)) {
        if (at >= frame.blocksStart && at < frame.blocksEnd) blocks++;
        else envelope.set(parts[at]!, (envelope.get(parts[at]!) ?? 0) + 1);
      }
      flipped[at]! ^= 1 << bit;
    }
  }
  return { blocks, envelope };
}

describe('flipping each bit of a commit frame', () => {
  for (const type of ['k256', 'p256'] as const) {
    test(`${type}: never passes in blocks, and in the envelope only where it is harmless`, async () => {
      const made = await newRepo(
        Array.from({ length: 50 }, (_, at) => post(`3k${at}`, `text ${at}`)),
        type,
      );
      const commits = [
        await commitOf(made, [post('3z', 'a new one')]),
        await commitOf(made, [
          post('3y', 'a new one'),
          { ...post('3k7', 'again'), action: WriteOpAction.Update },
          { action: WriteOpAction.Delete, collection: 'app.bsky.feed.post', rkey: '3k9' },
        ]),
      ];
      const unnoticed = new Map<string, number>();
      for (const parts of commits) {
        const { blocks, envelope } = sweep(commitFrame(parts), made.key);
        expect(blocks).toBe(0);
        for (const [part, count] of envelope) unnoticed.set(part, (unnoticed.get(part) ?? 0) + count);
      }
      for (const [part, count] of unnoticed) {
        console.info(`${type}: ${count} flips unnoticed in ${part}: ${UNCOVERED[part]}`);
      }
      expect([...unnoticed.keys()].filter((part) => UNCOVERED[part] === undefined)).toEqual([]);
      // The sweep itself must be able to see something.
      expect(unnoticed.get('time')).toBeGreaterThan(0);
    }, 30_000);
  }
});
