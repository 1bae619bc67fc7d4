/** Made-up records of the lexicons that the network uses most, with the fields that its applications write. */
import type { Random } from '../../../simulator/random.ts';
import { base64, blobCid, clientTime, didPlc, digits, instantMs, letters, recordCid, tid } from './shapes.ts';
import { madeText, madeWord } from './words.ts';

export interface MadeRecord {
  readonly collection: string;
  readonly rkey: string;
  readonly record: Readonly<Record<string, unknown>>;
}

type Fields = Record<string, unknown>;
type Make = (random: Random, ms: number) => Fields | { readonly rkey: string; readonly fields: Fields };

const maybe = (random: Random, probability: number, make: () => Fields): Fields =>
  random.chance(probability) ? make() : {};

const uriOf = (random: Random, collection: string): string =>
  `at://${didPlc(random)}/${collection}/${tid(random, instantMs(random))}`;
const strongRef = (random: Random, collection: string): Fields => ({
  cid: recordCid(random),
  uri: uriOf(random, collection),
});
const blob = (random: Random, mimeType: string): Fields => ({
  $type: 'blob',
  ref: { $link: blobCid(random) },
  mimeType,
  size: Number(digits(random, 4 + random.below(3))),
});
const photo = (random: Random): Fields =>
  blob(random, random.chance(0.85) ? 'image/jpeg' : random.pick(['image/png', 'image/webp']));
const sides = [1080, 1920, 2000, 1500, 1200, 1350, 800, 1125, 1284, 2778, 720, 1280, 1440, 1000, 2048, 1536];
const aspectRatio = (random: Random): Fields => ({ width: random.pick(sides), height: random.pick(sides) });

const linkOf = (random: Random): string => {
  const path = Array.from({ length: 1 + random.below(4) }, () => madeWord(random).toLowerCase()).join('-');
  return random.pick([
    () => `https://www.youtube.com/watch?v=${letters(random, 11)}`,
    () => `https://youtu.be/${letters(random, 11)}`,
    () =>
      `https://media.tenor.com/${letters(random, 16)}/${path}.gif?hh=${digits(random, 3)}&ww=${digits(random, 3)}`,
    () => `https://www.${letters(random, 7)}.com/${path}`,
    () => `https://${letters(random, 9)}.com/2026/${path}/`,
    () => `https://www.${letters(random, 6)}.org/news/${digits(random, 7)}/${path}.html`,
    () => `https://bsky.app/profile/${letters(random, 9)}.bsky.social/post/${tid(random, instantMs(random))}`,
  ])();
};

const images = (random: Random): Fields => ({
  $type: 'app.bsky.embed.images',
  images: Array.from({ length: 1 + random.below(3) }, () => ({
    alt: random.chance(0.5) ? '' : madeText(random, 10 + random.below(60)).text,
    image: photo(random),
    ...maybe(random, 0.85, () => ({ aspectRatio: aspectRatio(random) })),
  })),
});
const external = (random: Random): Fields => ({
  $type: 'app.bsky.embed.external',
  external: {
    uri: linkOf(random),
    title: madeText(random, 40).text,
    description: madeText(random, 80).text,
    ...maybe(random, 0.8, () => ({ thumb: blob(random, 'image/jpeg') })),
  },
});
const quoted = (random: Random): Fields => ({
  $type: 'app.bsky.embed.record',
  record: strongRef(random, 'app.bsky.feed.post'),
});
const video = (random: Random): Fields => ({
  $type: 'app.bsky.embed.video',
  video: blob(random, 'video/mp4'),
  aspectRatio: aspectRatio(random),
  ...maybe(random, 0.3, () => ({ alt: madeText(random, 30).text })),
});
const withMedia = (random: Random): Fields => ({
  $type: 'app.bsky.embed.recordWithMedia',
  media: random.chance(0.7) ? images(random) : external(random),
  record: quoted(random),
});

const facets = (random: Random, text: string): Fields[] => {
  const index = { byteEnd: 10 + random.below(290), byteStart: random.below(Math.max(text.length, 1)) };
  const feature = random.pick([
    { $type: 'app.bsky.richtext.facet#link', uri: linkOf(random) },
    { $type: 'app.bsky.richtext.facet#tag', tag: madeWord(random) },
    { $type: 'app.bsky.richtext.facet#mention', did: didPlc(random) },
  ]);
  return [
    {
      index,
      features: [feature],
      ...maybe(random, 0.15, () => ({ $type: 'app.bsky.richtext.facet' })),
    },
  ];
};

const post: Make = (random, ms) => {
  const { text, language } = madeText(random, Math.floor(8 + random.unit() * random.unit() * 280));
  const isReply = random.chance(0.45);
  const embed = random.unit();
  const makeEmbed = [
    [0.2, images],
    [0.34, external],
    [0.42, quoted],
    [0.46, video],
    [0.48, withMedia],
  ] as const;
  const parent = strongRef(random, 'app.bsky.feed.post');
  return {
    text,
    $type: 'app.bsky.feed.post',
    ...(isReply
      ? { reply: { root: random.chance(0.4) ? parent : strongRef(random, 'app.bsky.feed.post'), parent } }
      : {}),
    ...(embed < (isReply ? 0.1 : 0.48) ? { embed: makeEmbed.find(([to]) => embed < to)![1](random) } : {}),
    ...maybe(random, 0.9, () => ({ langs: [random.chance(0.05) ? 'pt-BR' : language] })),
    ...maybe(random, 0.25, () => ({ facets: facets(random, text) })),
    ...maybe(random, 0.03, () => ({
      labels: {
        $type: 'com.atproto.label.defs#selfLabels',
        values: [{ val: random.pick(['porn', 'sexual', 'nudity', 'graphic-media']) }],
      },
    })),
    ...maybe(random, 0.02, () => ({ tags: [madeWord(random)] })),
    ...maybe(random, 0.02, () => ({ via: madeWord(random) })),
    createdAt: clientTime(random, ms),
  };
};

const VIA = 'app.bsky.feed.repost';
const subjectOfPost =
  ($type: string): Make =>
  (random, ms) => ({
    $type,
    subject: strongRef(
      random,
      $type.endsWith('like') && random.chance(0.02) ? 'app.bsky.feed.generator' : 'app.bsky.feed.post',
    ),
    createdAt: clientTime(random, ms),
    ...maybe(random, 0.2, () => ({ via: strongRef(random, VIA) })),
  });
const subjectOfAccount =
  ($type: string): Make =>
  (random, ms) => ({ $type, subject: didPlc(random), createdAt: clientTime(random, ms) });

const profile: Make = (random, ms) => ({
  rkey: 'self',
  fields: {
    $type: 'app.bsky.actor.profile',
    ...maybe(random, 0.9, () => ({ avatar: photo(random) })),
    ...maybe(random, 0.6, () => ({ banner: blob(random, 'image/jpeg') })),
    ...maybe(random, 0.7, () => ({ createdAt: clientTime(random, ms) })),
    ...maybe(random, 0.3, () => ({ pinnedPost: strongRef(random, 'app.bsky.feed.post') })),
    description: madeText(random, random.below(150)).text,
    displayName: madeWord(random),
  },
});
/** Gates have the record key of their post. */
const gate =
  ($type: string, fields: (random: Random) => Fields): Make =>
  (random, ms) => {
    const rkey = tid(random, ms);
    return {
      rkey,
      fields: {
        $type,
        post: `at://${didPlc(random)}/app.bsky.feed.post/${rkey}`,
        createdAt: clientTime(random, ms),
        ...fields(random),
      },
    };
  };
const self =
  (fields: (random: Random, ms: number) => Fields): Make =>
  (random, ms) => ({ rkey: 'self', fields: fields(random, ms) });

/** Collections with their shares of a hundred thousand creations. */
const RECORDS: readonly (readonly [collection: string, share: number, make: Make])[] = [
  ['app.bsky.feed.like', 46_000, subjectOfPost('app.bsky.feed.like')],
  ['app.bsky.feed.post', 21_000, post],
  ['app.bsky.graph.follow', 13_000, subjectOfAccount('app.bsky.graph.follow')],
  ['app.bsky.feed.repost', 8_500, subjectOfPost('app.bsky.feed.repost')],
  ['app.bsky.graph.block', 2_500, subjectOfAccount('app.bsky.graph.block')],
  ['app.bsky.actor.profile', 1_500, profile],
  [
    'app.bsky.graph.listitem',
    1_500,
    (random, ms) => ({
      $type: 'app.bsky.graph.listitem',
      list: uriOf(random, 'app.bsky.graph.list'),
      subject: didPlc(random),
      createdAt: clientTime(random, ms),
    }),
  ],
  [
    'app.bsky.feed.threadgate',
    900,
    gate('app.bsky.feed.threadgate', (random) => ({
      allow: random.pick([
        [],
        [{ $type: 'app.bsky.feed.threadgate#mentionRule' }],
        [{ $type: 'app.bsky.feed.threadgate#followingRule' }],
        [
          { $type: 'app.bsky.feed.threadgate#mentionRule' },
          { $type: 'app.bsky.feed.threadgate#followerRule' },
        ],
      ]),
      hiddenReplies: [],
    })),
  ],
  [
    'app.bsky.feed.postgate',
    800,
    gate('app.bsky.feed.postgate', () => ({
      embeddingRules: [{ $type: 'app.bsky.feed.postgate#disableRule' }],
      detachedEmbeddingUris: [],
    })),
  ],
  [
    'app.bsky.graph.list',
    200,
    (random, ms) => ({
      $type: 'app.bsky.graph.list',
      name: madeWord(random),
      purpose: random.pick([
        'app.bsky.graph.defs#curatelist',
        'app.bsky.graph.defs#modlist',
        'app.bsky.graph.defs#referencelist',
      ]),
      createdAt: clientTime(random, ms),
      description: madeText(random, 60).text,
    }),
  ],
  [
    'app.bsky.graph.starterpack',
    60,
    (random, ms) => ({
      $type: 'app.bsky.graph.starterpack',
      list: uriOf(random, 'app.bsky.graph.list'),
      name: madeText(random, 20).text,
      feeds: [],
      createdAt: clientTime(random, ms),
      description: madeText(random, 60).text,
    }),
  ],
  [
    'app.bsky.graph.listblock',
    150,
    (random, ms) => ({
      $type: 'app.bsky.graph.listblock',
      subject: uriOf(random, 'app.bsky.graph.list'),
      createdAt: clientTime(random, ms),
    }),
  ],
  [
    'app.bsky.graph.verification',
    40,
    (random, ms) => ({
      $type: 'app.bsky.graph.verification',
      handle: `${letters(random, 8)}.bsky.social`,
      subject: didPlc(random),
      createdAt: clientTime(random, ms),
      displayName: madeWord(random),
    }),
  ],
  [
    'app.bsky.feed.generator',
    60,
    (random, ms) => ({
      $type: 'app.bsky.feed.generator',
      did: `did:web:${letters(random, 8)}.com`,
      avatar: photo(random),
      createdAt: clientTime(random, ms),
      description: madeText(random, 60).text,
      displayName: madeWord(random),
      contentMode: 'app.bsky.feed.defs#contentModeUnspecified',
    }),
  ],
  [
    'app.bsky.actor.status',
    120,
    self((random, ms) => ({
      $type: 'app.bsky.actor.status',
      embed: {
        $type: 'app.bsky.embed.external',
        external: { uri: linkOf(random), title: madeText(random, 30).text, description: '' },
      },
      status: 'app.bsky.actor.status#live',
      createdAt: clientTime(random, ms),
      durationMinutes: 60 + random.below(180),
    })),
  ],
  [
    'chat.bsky.actor.declaration',
    350,
    self((random) => ({
      $type: 'chat.bsky.actor.declaration',
      allowIncoming: random.pick(['all', 'following', 'none']),
    })),
  ],
  [
    'app.bsky.notification.declaration',
    250,
    self((random) => ({
      $type: 'app.bsky.notification.declaration',
      allowSubscriptions: random.pick(['followers', 'mutuals', 'none']),
    })),
  ],
  [
    'app.bsky.labeler.service',
    5,
    self((random, ms) => ({
      $type: 'app.bsky.labeler.service',
      policies: { labelValues: [], labelValueDefinitions: [] },
      createdAt: clientTime(random, ms),
    })),
  ],
  [
    'fm.teal.alpha.feed.play',
    700,
    (random, ms) => ({
      $type: 'fm.teal.alpha.feed.play',
      artists: [{ artistName: madeWord(random) }],
      duration: 100 + random.below(300),
      originUrl: `https://open.spotify.com/track/${letters(random, 22)}`,
      trackName: madeText(random, 14).text,
      playedTime: clientTime(random, ms),
      releaseName: madeText(random, 14).text,
      submissionClientAgent: madeWord(random),
      musicServiceBaseDomain: 'spotify.com',
    }),
  ],
  [
    'app.rocksky.scrobble',
    400,
    (random, ms) => ({
      $type: 'app.rocksky.scrobble',
      album: madeText(random, 14).text,
      title: madeText(random, 14).text,
      artist: madeWord(random),
      albumArtist: madeWord(random),
      duration: Number(digits(random, 6)),
      createdAt: clientTime(random, ms),
      spotifyLink: `https://open.spotify.com/track/${letters(random, 22)}`,
      trackNumber: 1 + random.below(15),
      discNumber: 1,
    }),
  ],
  [
    'place.stream.chat.message',
    300,
    (random, ms) => ({
      $type: 'place.stream.chat.message',
      text: madeText(random, 25).text,
      streamer: didPlc(random),
      createdAt: clientTime(random, ms),
    }),
  ],
  [
    'place.stream.segment',
    200,
    (random, ms) => ({
      $type: 'place.stream.segment',
      id: `${letters(random, 8)}-${letters(random, 4)}-${letters(random, 4)}`,
      creator: didPlc(random),
      duration: Number(digits(random, 10)),
      startTime: clientTime(random, ms),
      signingKey: `did:key:z${letters(random, 48)}`,
      video: [{ codec: 'h264', width: 1920, height: 1080, framerate: { den: 1, num: 60 } }],
      audio: [{ codec: 'opus', rate: 48_000, channels: 2 }],
    }),
  ],
  [
    'sh.tangled.feed.star',
    150,
    (random, ms) => ({
      $type: 'sh.tangled.feed.star',
      subject: uriOf(random, 'sh.tangled.repo'),
      createdAt: clientTime(random, ms),
    }),
  ],
  [
    'sh.tangled.repo',
    60,
    (random, ms) => ({
      $type: 'sh.tangled.repo',
      knot: `${letters(random, 6)}.com`,
      name: madeWord(random),
      owner: didPlc(random),
      createdAt: clientTime(random, ms),
    }),
  ],
  ['sh.tangled.graph.follow', 60, subjectOfAccount('sh.tangled.graph.follow')],
  [
    'com.whtwnd.blog.entry',
    80,
    (random, ms) => ({
      $type: 'com.whtwnd.blog.entry',
      theme: 'github-light',
      title: madeText(random, 20).text,
      content: madeText(random, 400).text,
      createdAt: clientTime(random, ms),
      visibility: 'public',
    }),
  ],
  [
    'pub.leaflet.document',
    80,
    (random, ms) => ({
      $type: 'pub.leaflet.document',
      pages: [
        {
          $type: 'pub.leaflet.pages.linearDocument',
          blocks: Array.from({ length: 1 + random.below(5) }, () => ({
            $type: 'pub.leaflet.pages.linearDocument#block',
            block: { $type: 'pub.leaflet.blocks.text', facets: [], plaintext: madeText(random, 90).text },
          })),
        },
      ],
      title: madeText(random, 20).text,
      author: didPlc(random),
      publication: uriOf(random, 'pub.leaflet.publication'),
      publishedAt: clientTime(random, ms),
      description: '',
    }),
  ],
  [
    'site.standard.document',
    80,
    (random, ms) => ({
      $type: 'site.standard.document',
      path: `/${madeWord(random)}`,
      site: uriOf(random, 'site.standard.publication'),
      tags: [madeWord(random)],
      title: madeText(random, 20).text,
      publishedAt: clientTime(random, ms),
      textContent: madeText(random, 200).text,
    }),
  ],
  [
    'events.smokesignal.calendar.rsvp',
    50,
    (random, ms) => ({
      $type: 'events.smokesignal.calendar.rsvp',
      status: 'events.smokesignal.calendar.rsvp#going',
      subject: strongRef(random, 'events.smokesignal.calendar.event'),
      createdAt: clientTime(random, ms),
    }),
  ],
  [
    'community.lexicon.calendar.event',
    30,
    (random, ms) => ({
      $type: 'community.lexicon.calendar.event',
      mode: 'community.lexicon.calendar.event#inperson',
      name: madeText(random, 20).text,
      status: 'community.lexicon.calendar.event#scheduled',
      startsAt: clientTime(random, ms),
      createdAt: clientTime(random, ms),
      description: madeText(random, 80).text,
    }),
  ],
  [
    'blue.flashes.feed.post',
    40,
    (random, ms) => ({
      text: madeText(random, 30).text,
      $type: 'blue.flashes.feed.post',
      embed: images(random),
      langs: ['en'],
      createdAt: clientTime(random, ms),
    }),
  ],
  [
    'blue.linkat.board',
    40,
    self((random) => ({
      $type: 'blue.linkat.board',
      cards: [{ url: linkOf(random), text: madeWord(random), emoji: '✨' }],
    })),
  ],
  [
    'xyz.statusphere.status',
    30,
    (random, ms) => ({
      $type: 'xyz.statusphere.status',
      status: random.pick(['👍', '🔥', '😭']),
      createdAt: clientTime(random, ms),
    }),
  ],
  [
    'social.psky.feed.post',
    20,
    (random) => ({ $type: 'social.psky.feed.post', text: madeText(random, 30).text }),
  ],
  [
    'com.germnetwork.declaration',
    40,
    self((random) => ({
      $type: 'com.germnetwork.declaration',
      version: '1.1.0',
      messageMe: { messageMeUrl: `https://${letters(random, 8)}.com/newUser`, showButtonTo: 'everyone' },
      currentKey: { $bytes: base64(random, 44) },
    })),
  ],
];
const SHARES = RECORDS.reduce((sum, [, share]) => sum + share, 0);

const utf8 = (text: string): Buffer => Buffer.from(text);
/** Keys of maps come in the order of DAG-CBOR, shorter ones first (DAG-CBOR specification: Strictness). */
const byLength = (a: string, b: string): number => a.length - b.length || Buffer.compare(utf8(a), utf8(b));

/** The same value with its maps' keys in the order in which a record's JSON has them. */
const ordered = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(ordered);
  if (typeof value !== 'object' || value === null) return value;
  const fields = value as Fields;
  return Object.fromEntries(
    Object.keys(fields)
      .sort(byLength)
      .map((key) => [key, ordered(fields[key])]),
  );
};

/** A record, of a collection drawn by its share of the network. */
export const madeRecord = (random: Random, ms: number): MadeRecord => {
  let point = random.unit() * SHARES;
  const [collection, , make] =
    RECORDS.find(([, share]) => {
      point -= share;
      return point < 0;
    }) ?? RECORDS[0]!;
  const made = make(random, ms);
  const [rkey, fields] =
    'rkey' in made && 'fields' in made
      ? [made.rkey as string, made.fields as Fields]
      : [tid(random, ms), made as Fields];
  return { collection, rkey, record: ordered(fields) as Fields };
};

/** Every collection that is made up here. */
export const MADE_COLLECTIONS: readonly string[] = RECORDS.map(([collection]) => collection);
