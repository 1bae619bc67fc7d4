/**
 * Record bodies as the network has them: posts with facets and embeds, likes, follows, reposts, and a long
 * tail of other applications' records. A body is a pure function of its seed, so a repo need not keep it.
 */
import { encode, Link, type Value } from './cbor.ts';
import { createRandom, createZipf, mixSeed, type Random } from './random.ts';
import { formatTid } from './tid.ts';

/** How often records of a collection are made: shares of a thousand, near what the live network shows. */
const COLLECTION_SHARES: readonly (readonly [collection: string, share: number])[] = [
  ['app.bsky.feed.like', 480],
  ['app.bsky.feed.post', 220],
  ['app.bsky.graph.follow', 130],
  ['app.bsky.feed.repost', 100],
  ['app.bsky.graph.block', 15],
  ['app.bsky.actor.profile', 10],
  ['app.bsky.graph.listitem', 8],
  ['app.bsky.feed.threadgate', 5],
  ['app.bsky.feed.postgate', 4],
  ['app.bsky.graph.list', 2],
  ['app.bsky.feed.generator', 1],
  ['chat.bsky.actor.declaration', 1],
];

const OTHER_COLLECTIONS: readonly string[] = [
  'fm.teal.alpha.feed.play',
  'sh.tangled.feed.star',
  'com.whtwnd.blog.entry',
  'blue.flashes.feed.post',
  'social.psky.feed.post',
  'app.rocksky.scrobble',
  'events.smokesignal.calendar.rsvp',
  'pub.leaflet.document',
  'place.stream.chat.message',
  'sh.tangled.repo.issue',
  'blue.linkat.board',
  'xyz.statusphere.status',
];

const WORDS =
  'the a of to and in that it is was for on with as at by this but from they we say her she will one all would there their what so up out if about who get which go me when make can like time no just him know take people into year your good some could them see other than then now look only come its over think also back after use two how our work first well way even new want because any these give day most us morning coffee train weather garden protocol relay sky photo draft reading night music thread friends bread cat'.split(
    ' ',
  );
const EXTRAS = ['☕', '🌧️', 'schön', 'naïve', '日本語', '🧵', 'café'];
const LANGUAGES = ['en', 'en', 'en', 'ja', 'pt', 'de', 'es', 'fr'];

const totalShare = COLLECTION_SHARES.reduce((sum, [, share]) => sum + share, 0);
const TAIL_SHARE = 1000 - totalShare;
const otherZipf = createZipf(OTHER_COLLECTIONS.length, 1.1);

/** The collection of a new record. */
export const drawCollection = (random: Random): string => {
  let point = random.unit() * (totalShare + TAIL_SHARE);
  for (const [collection, share] of COLLECTION_SHARES) {
    point -= share;
    if (point < 0) return collection;
  }
  return OTHER_COLLECTIONS[otherZipf(random)]!;
};

/** DIDs of the simulated network, for records that point to others. */
export interface People {
  readonly count: number;
  didAt(index: number): string;
}

const isoTime = (ms: number): string => new Date(ms).toISOString();

const sentence = (random: Random, words: number): string => {
  let text = '';
  for (let i = 0; i < words; i++) text += `${i === 0 ? '' : ' '}${random.pick(WORDS)}`;
  return random.chance(0.3) ? `${text} ${random.pick(EXTRAS)}` : text;
};

const blobOf = (random: Random): Value => ({
  ref: new Link(random.bytes(32), 0x55),
  size: 10_000 + random.below(900_000),
  $type: 'blob',
  mimeType: 'image/jpeg',
});

const strongRef = (random: Random, people: People, timeMs: number): { cid: string; uri: string } => {
  const did = people.didAt(random.below(people.count));
  const rkey = formatTid((timeMs - random.below(86_400_000)) * 1000 + random.below(1000), random.below(1024));
  return { cid: linkText(random.bytes(32)), uri: `at://${did}/app.bsky.feed.post/${rkey}` };
};

const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';

/** Multibase base32 of bytes, without padding. */
export const base32 = (bytes: Uint8Array): string => {
  let text = '';
  let bits = 0;
  let held = 0;
  for (const byte of bytes) {
    held = ((held << 8) | byte) & 0xffff;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += BASE32[(held >>> bits) & 31]!;
    }
  }
  return bits > 0 ? text + BASE32[(held << (5 - bits)) & 31]! : text;
};

const linkText = (digest: Uint8Array): string => {
  const bytes = new Uint8Array(36);
  bytes.set([1, 0x71, 0x12, 0x20]);
  bytes.set(digest, 4);
  return `b${base32(bytes)}`;
};

/** The text of a dag-cbor CID by its sha-256. */
export const cidText = linkText;

const post = (random: Random, people: People, timeMs: number): Value => {
  const text = sentence(random, 12 + random.below(34));
  const facets: Value[] = [];
  if (random.chance(0.35)) {
    facets.push({
      index: { byteEnd: 9, byteStart: 0 },
      features: [
        random.chance(0.5)
          ? { did: people.didAt(random.below(people.count)), $type: 'app.bsky.richtext.facet#mention' }
          : {
              uri: `https://example.org/${random.pick(WORDS)}/${random.below(1e6)}`,
              $type: 'app.bsky.richtext.facet#link',
            },
      ],
    });
  }
  let embed: Value | undefined;
  const kind = random.unit();
  if (kind < 0.25) {
    const images: Value[] = [];
    for (let i = random.below(3); i >= 0; i--) {
      images.push({
        alt: sentence(random, random.below(12)),
        image: blobOf(random),
        aspectRatio: { width: 1000 + random.below(1000), height: 1000 },
      });
    }
    embed = { $type: 'app.bsky.embed.images', images };
  } else if (kind < 0.35) {
    embed = {
      $type: 'app.bsky.embed.external',
      external: {
        uri: `https://example.org/${random.below(1e6)}`,
        thumb: blobOf(random),
        title: sentence(random, 6),
        description: sentence(random, 20),
      },
    };
  } else if (kind < 0.42) {
    embed = { $type: 'app.bsky.embed.record', record: strongRef(random, people, timeMs) };
  }
  return {
    text,
    $type: 'app.bsky.feed.post',
    embed,
    langs: [random.pick(LANGUAGES)],
    reply: random.chance(0.4)
      ? { root: strongRef(random, people, timeMs), parent: strongRef(random, people, timeMs) }
      : undefined,
    facets: facets.length > 0 ? facets : undefined,
    createdAt: isoTime(timeMs),
  };
};

const recordOf = (random: Random, collection: string, people: People, timeMs: number): Value => {
  const createdAt = isoTime(timeMs);
  const $type = collection;
  switch (collection) {
    case 'app.bsky.feed.post':
    case 'blue.flashes.feed.post':
      return post(random, people, timeMs);
    case 'app.bsky.feed.like':
    case 'app.bsky.feed.repost':
      return { $type, subject: strongRef(random, people, timeMs), createdAt };
    case 'app.bsky.graph.follow':
    case 'app.bsky.graph.block':
      return { $type, subject: people.didAt(random.below(people.count)), createdAt };
    case 'app.bsky.actor.profile':
      return {
        $type,
        avatar: blobOf(random),
        createdAt,
        description: sentence(random, 20),
        displayName: sentence(random, 2),
      };
    case 'app.bsky.graph.listitem':
      return {
        list: `at://${people.didAt(random.below(people.count))}/app.bsky.graph.list/3kbmr6eyplq2n`,
        $type,
        subject: people.didAt(random.below(people.count)),
        createdAt,
      };
    default:
      return {
        $type,
        note: sentence(random, 4 + random.below(40)),
        createdAt,
        score: random.below(10_000) - 5000,
        weight: random.chance(0.2) ? random.unit() + 0.5 : undefined,
        pinned: random.chance(0.5),
        parent: random.chance(0.3) ? null : undefined,
      };
  }
};

/** The canonical bytes of a record: the same for the same seed, scope, counter, collection, people and time. */
export const makeRecord = (
  seed: number,
  scope: number,
  counter: number,
  collection: string,
  people: People,
  timeMs: number,
): Uint8Array => encode(recordOf(createRandom(mixSeed(seed, scope, counter)), collection, people, timeMs));

/** The record key for a new record: `self` where the lexicon says so, else a TID. */
export const recordKey = (collection: string, micros: number, clockId: number): string =>
  collection === 'app.bsky.actor.profile' || collection === 'chat.bsky.actor.declaration'
    ? 'self'
    : formatTid(micros, clockId);
