import { describe, expect, test } from 'bun:test';
import { CID } from 'multiformats/cid';
import { TYPES } from '../../../jetstream/dictionary/structure.ts';
import { type MadeMessage, madeMessages } from '../../../jetstream/dictionary/synthetic/messages.ts';
import { MADE_COLLECTIONS } from '../../../jetstream/dictionary/synthetic/records.ts';
import { readEvents } from '../../../jetstream/encode/events.ts';
import { encodeV1, encodeV2 } from '../../../jetstream/encode/message.ts';
import { isDid, isNsid, isRecordKey, isTid } from '../../../src/repo/syntax.ts';
import { frameOf } from '../../repo/support.ts';
import { commitOfOps, jsonOf, logRecord } from '../encode/support.ts';

type Fields = Record<string, unknown>;

const fieldsOf = ({ version, json }: MadeMessage): Fields => {
  const message = JSON.parse(json) as Fields;
  return (version === 'v1' ? message : message.payload) as Fields;
};
/** The upstream event of an identity, account or sync; the commit's fields otherwise. */
const bodyOf = (made: MadeMessage): Fields => {
  const fields = fieldsOf(made);
  return made.version === 'v2' && made.kind === 'commit' ? fields : (fields[made.kind] as Fields);
};

/** JSON as a record holds it: links and bytes are what they stand for. */
const recordOf = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(recordOf);
  if (typeof value !== 'object' || value === null) return value;
  const fields = value as Fields;
  if (typeof fields.$link === 'string') return CID.parse(fields.$link);
  if (typeof fields.$bytes === 'string') return new Uint8Array(Buffer.from(fields.$bytes, 'base64'));
  return Object.fromEntries(Object.entries(fields).map(([key, each]) => [key, recordOf(each)]));
};

/** A frame from which the made-up message could have come, but for its identifiers. */
const frameFor = (made: MadeMessage): Uint8Array => {
  const body = bodyOf(made);
  if (made.kind !== 'commit') return frameOf(`#${made.kind}`, recordOf(body) as object);
  const { operation, collection, rkey, record } = body as { [key: string]: string };
  const action = operation as 'create' | 'update' | 'delete';
  return commitOfOps([
    { action, path: `${collection}/${rkey}`, ...(record === undefined ? {} : { record: recordOf(record) }) },
  ]);
};

/** Names, order and types of fields; the values of those that are constants, and the whole record. */
const skeleton = (value: unknown, key = ''): unknown => {
  if (['$type', 'kind', 'operation', 'collection', 'rkey', 'record', 'active', 'status'].includes(key))
    return value;
  if (typeof value !== 'object' || value === null) return typeof value;
  return Object.entries(value).map(([name, each]) => [name, skeleton(each, name)]);
};

describe('a made-up message', () => {
  const made = madeMessages(4_000, 31);

  test('is of every kind and version, with every collection and operation', () => {
    const seen = new Set(made.map(({ version, kind }) => `${version} ${kind}`));
    expect([...seen].sort()).toEqual([
      'v1 account',
      'v1 commit',
      'v1 identity',
      'v2 account',
      'v2 commit',
      'v2 identity',
      'v2 sync',
    ]);
    const commits = madeMessages(40_000, 32, ['v1'])
      .filter(({ kind }) => kind === 'commit')
      .map(bodyOf);
    expect(new Set(commits.map(({ operation }) => operation))).toEqual(
      new Set(['create', 'update', 'delete']),
    );
    expect(new Set(commits.map(({ collection }) => collection))).toEqual(new Set(MADE_COLLECTIONS));
  });

  test('has the very form that the encoder gives to such an event', () => {
    for (const each of made) {
      const events = readEvents(logRecord(frameFor(each)));
      expect(events.length).toBe(1);
      const encoded = jsonOf((each.version === 'v1' ? encodeV1 : encodeV2)(events[0]!));
      expect(JSON.stringify(skeleton(JSON.parse(each.json)))).toBe(
        JSON.stringify(skeleton(JSON.parse(encoded))),
      );
      // Down to the order of fields within the record.
      const record = bodyOf(each).record;
      if (record !== undefined) expect(encoded).toContain(`"record":${JSON.stringify(record)}`);
    }
  });

  test('has identifiers of valid syntax', () => {
    for (const each of made) {
      expect(isDid(fieldsOf(each).did as string)).toBe(true);
      if (each.kind !== 'commit') continue;
      const { rev, collection, rkey, cid } = bodyOf(each) as { [key: string]: string };
      expect(isTid(rev!)).toBe(true);
      expect(isNsid(collection!)).toBe(true);
      expect(isRecordKey(rkey!)).toBe(true);
      if (cid !== undefined) expect(CID.parse(cid).toString()).toBe(cid);
    }
  });

  test('is the same for the same seed, and another for another', () => {
    expect(madeMessages(50, 7)).toEqual(madeMessages(50, 7));
    expect(madeMessages(50, 7)).not.toEqual(madeMessages(50, 8));
  });

  test('is of a collection that scrubbing keeps', () => {
    for (const collection of MADE_COLLECTIONS) expect(TYPES.has(collection) ? '' : collection).toBe('');
  });
});
