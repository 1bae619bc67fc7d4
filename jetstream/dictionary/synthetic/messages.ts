/**
 * Made-up messages as clients get them, of both versions. Their fields and the order of these are what
 * jetstream/encode writes; a test holds the two together.
 */
import { createRandom, type Random } from '../../../simulator/random.ts';
import type { Version } from '../../types.ts';
import { madeRecord } from './records.ts';
import { base64, clientTime, didPlc, digits, instantMs, letters, recordCid, tid } from './shapes.ts';

export interface MadeMessage {
  readonly version: Version;
  readonly kind: 'commit' | 'identity' | 'account' | 'sync';
  readonly json: string;
}

const PAYLOAD = 'network.bsky.jetstream.subscribeEvents#';

/** Shares of a thousand events. */
const IDENTITY_SHARE = 6;
const ACCOUNT_SHARE = 6;
const SYNC_SHARE = 2;
const DELETE_SHARE = 70;

const handleOf = (random: Random): string =>
  random.chance(0.85) ? `${letters(random, 5 + random.below(12))}.bsky.social` : `${letters(random, 8)}.com`;
const didOf = (random: Random): string =>
  random.chance(0.997) ? didPlc(random) : `did:web:${letters(random, 9)}.com`;

const madeMessage = (random: Random, version: Version): MadeMessage => {
  const ms = instantMs(random);
  const did = didOf(random);
  const seq = Number(digits(random, 7 + random.below(5)));
  const time_us = ms * 1000 + random.below(1000);
  const time = `${new Date(ms).toISOString().slice(0, -1)}${String(1000 + (time_us % 1000)).slice(1)}Z`;
  const upstreamTime = clientTime(random, ms);
  const head = (kind: string): object =>
    version === 'v1' ? { did, time_us, kind } : { $type: `${PAYLOAD}${kind}`, seq, did, time };
  const wrap = (payload: object): string =>
    JSON.stringify(version === 'v1' ? payload : { $type: 'message', payload });
  const point = random.below(1000);

  let kind: MadeMessage['kind'];
  let body: object;
  if (point < IDENTITY_SHARE) {
    kind = 'identity';
    body = {
      identity: { did, ...(random.chance(0.9) ? { handle: handleOf(random) } : {}), seq, time: upstreamTime },
    };
  } else if (point < IDENTITY_SHARE + ACCOUNT_SHARE) {
    kind = 'account';
    const active = random.chance(0.7);
    const status = random.pick(['deleted', 'deactivated', 'takendown', 'suspended']);
    body = { account: { active, did, seq, ...(active ? {} : { status }), time: upstreamTime } };
  } else if (version === 'v2' && point < IDENTITY_SHARE + ACCOUNT_SHARE + SYNC_SHARE) {
    kind = 'sync';
    const blocks = { $bytes: `OqJlcm9vdHOB2CpYJQABcRIg${base64(random, 240)}` };
    body = { sync: { blocks, did, rev: tid(random, ms), seq, time: upstreamTime } };
  } else {
    kind = 'commit';
    const { collection, rkey, record } = madeRecord(random, ms);
    // What there is one of is updated, and everything else made.
    const written = rkey === 'self' && random.chance(0.8) ? 'update' : 'create';
    const operation = point >= 1000 - DELETE_SHARE ? 'delete' : written;
    const rev = tid(random, ms);
    const cid = recordCid(random);
    const op = { rev, operation, collection, rkey };
    if (version === 'v1') body = { commit: operation === 'delete' ? op : { ...op, record, cid } };
    else body = operation === 'delete' ? op : { ...op, cid, record };
  }
  return { version, kind, json: wrap({ ...head(kind), ...body }) };
};

/** `count` messages, of the versions in turn; the same for the same seed. */
export const madeMessages = (
  count: number,
  seed: number,
  versions: readonly Version[] = ['v1', 'v2'],
): MadeMessage[] => {
  const random = createRandom(seed);
  return Array.from({ length: count }, (_, i) => madeMessage(random, versions[i % versions.length]!));
};
