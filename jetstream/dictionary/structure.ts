/**
 * What of a message may stand in a dictionary as it is: names of fields, types, collections and other constants that
 * lexicons and protocol have, and that say nothing of anybody. A closed list: whatever is not in it is replaced, see
 * scrub.ts. To have the fields of another application in dictionaries, add them here.
 */

const listed = (text: string): ReadonlySet<string> =>
  new Set(text.split(/\s+/).filter((word) => word !== ''));

/** Names of fields. */
export const KEYS = listed(`
  did time_us kind commit identity account sync rev operation collection rkey record cid handle seq time active status
  payload blocks $type $link $bytes
  text langs facets reply embed createdAt labels tags via root parent uri subject features index byteStart byteEnd tag
  images image alt aspectRatio width height ref mimeType size external title description thumb media video captions
  lang file values val list post allow hiddenReplies embeddingRules detachedEmbeddingUris purpose name avatar banner
  displayName descriptionFacets pinnedPost joinedViaStarterPack feeds allowIncoming allowSubscriptions contentMode
  acceptsInteractions durationMinutes policies labelValues labelValueDefinitions pronouns website presentation
  bridgyOriginalText bridgyOriginalUrl entities value type start end
  artists artistName artistMbId duration originUrl trackName trackMbId playedTime releaseName releaseMbId recordingMbId
  submissionClientAgent musicServiceBaseDomain isrc album artist albumArtist albumArt spotifyLink trackNumber discNumber
  releaseDate genres
  streamer creator startTime signingKey codec framerate den num audio rate channels id segment
  knot owner theme content visibility pages block plaintext author publication publishedAt path site textContent
  startsAt endsAt mode locations rsvp cards url emoji version messageMe messageMeUrl showButtonTo currentKey
`);

/** Values, and parts of at:// URIs and record keys. */
export const VALUES = listed(`
  commit identity account sync message create update delete deleted deactivated takendown suspended desynchronized
  throttled self blob all following followers mutuals none public everyone github-light
  h264 opus 1.1.0 spotify.com porn sexual nudity graphic-media !no-unauthenticated
  image/jpeg image/png image/webp image/gif video/mp4 text/vtt application/octet-stream
  en ja pt es de fr ko it nl tr ru uk pl id th vi zh ar sv da no fi cs el he hi ca en-US en-GB pt-BR pt-PT es-ES ja-JP
  de-DE fr-FR ko-KR zh-CN zh-TW zh-Hans zh-Hant
`);

/** NSIDs of collections and types; with a fragment where lexicons have one. */
export const TYPES = listed(`
  network.bsky.jetstream.subscribeEvents#commit network.bsky.jetstream.subscribeEvents#identity
  network.bsky.jetstream.subscribeEvents#account network.bsky.jetstream.subscribeEvents#sync
  app.bsky.feed.like app.bsky.feed.post app.bsky.feed.repost app.bsky.feed.threadgate app.bsky.feed.postgate
  app.bsky.feed.generator app.bsky.graph.follow app.bsky.graph.block app.bsky.graph.list app.bsky.graph.listitem
  app.bsky.graph.listblock app.bsky.graph.starterpack app.bsky.graph.verification app.bsky.actor.profile
  app.bsky.actor.status app.bsky.actor.status#live app.bsky.labeler.service app.bsky.notification.declaration
  chat.bsky.actor.declaration
  app.bsky.embed.images app.bsky.embed.external app.bsky.embed.record app.bsky.embed.recordWithMedia
  app.bsky.embed.video app.bsky.embed.video#caption app.bsky.embed.defs#aspectRatio app.bsky.embed.images#image
  app.bsky.richtext.facet app.bsky.richtext.facet#link app.bsky.richtext.facet#tag app.bsky.richtext.facet#mention
  app.bsky.richtext.facet#byteSlice app.bsky.feed.post#replyRef com.atproto.repo.strongRef
  com.atproto.label.defs#selfLabels com.atproto.label.defs#selfLabel
  app.bsky.feed.threadgate#mentionRule app.bsky.feed.threadgate#followingRule app.bsky.feed.threadgate#followerRule
  app.bsky.feed.threadgate#listRule app.bsky.feed.postgate#disableRule
  app.bsky.graph.defs#curatelist app.bsky.graph.defs#modlist app.bsky.graph.defs#referencelist
  app.bsky.feed.defs#contentModeUnspecified app.bsky.feed.defs#contentModeVideo
  fm.teal.alpha.feed.play fm.teal.alpha.actor.status app.rocksky.scrobble app.rocksky.like
  place.stream.chat.message place.stream.segment place.stream.livestream place.stream.chat.profile
  sh.tangled.repo sh.tangled.feed.star sh.tangled.graph.follow sh.tangled.repo.issue sh.tangled.repo.pull
  sh.tangled.actor.profile com.whtwnd.blog.entry pub.leaflet.document pub.leaflet.publication
  pub.leaflet.pages.linearDocument pub.leaflet.pages.linearDocument#block pub.leaflet.blocks.text
  site.standard.document site.standard.publication
  events.smokesignal.calendar.rsvp events.smokesignal.calendar.rsvp#going events.smokesignal.calendar.event
  community.lexicon.calendar.event community.lexicon.calendar.rsvp community.lexicon.calendar.event#inperson
  community.lexicon.calendar.event#scheduled
  blue.flashes.feed.post blue.linkat.board xyz.statusphere.status social.psky.feed.post com.germnetwork.declaration
`);

/** How links of many people begin, up to where each is another: the end of a host, of a folder, or a `=`. */
export const LINK_STARTS: readonly string[] = [
  'https://www.youtube.com/watch?v=',
  'https://youtu.be/',
  'https://bsky.app/profile/',
  'https://media.tenor.com/',
  'https://open.spotify.com/track/',
  'https://en.wikipedia.org/wiki/',
  'https://github.com/',
  'https://www.twitch.tv/',
  'https://www.instagram.com/p/',
  'https://www.nytimes.com/',
  'https://www.theguardian.com/',
  'https://www.bbc.com/news/',
];

/** What handles of many people end with. */
export const HANDLE_ENDINGS: readonly string[] = ['.bsky.social', '.com', '.net', '.org', '.de', '.jp'];

/** Whether this string may stay as it is, wherever it stands as a value. */
export const isStructure = (text: string): boolean => VALUES.has(text) || TYPES.has(text);
