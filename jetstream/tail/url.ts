import type { TailOptions } from './args.ts';

export const V1_PATH = '/subscribe';
export const V2_PATH = '/xrpc/network.bsky.jetstream.subscribeEvents';
export const DICTIONARY_PATH = '/xrpc/network.bsky.jetstream.getZstdDictionary';

/**
 * Where to connect. A path that the host was given with is kept, parameters too. Heartbeats are asked for: who does
 * not know them ignores the parameter.
 * @param cursor where to begin; null: live
 * @param dictionaryId version 2, when the stream is to be compressed
 */
export const streamUrl = (
  options: Pick<TailOptions, 'host' | 'version' | 'collections' | 'dids' | 'kinds' | 'compress'>,
  cursor: string | null,
  dictionaryId: number | null,
): URL => {
  const isV1 = options.version === 'v1';
  const url = new URL(options.host);
  if (url.pathname === '/' || url.pathname === '') url.pathname = isV1 ? V1_PATH : V2_PATH;
  const params = url.searchParams;
  for (const collection of options.collections) {
    params.append(isV1 ? 'wantedCollections' : 'collections', collection);
  }
  for (const did of options.dids) params.append(isV1 ? 'wantedDids' : 'dids', did);
  for (const kind of options.kinds) params.append('kinds', kind);
  if (cursor !== null) params.set('cursor', cursor);
  if (options.compress && isV1) params.set('compress', 'true');
  if (options.compress && !isV1 && dictionaryId !== null) params.set('zstdDictionary', String(dictionaryId));
  params.set('heartbeat', 'true');
  return url;
};

/** Where the current dictionary of a host is. */
export const dictionaryUrl = (host: URL): URL => {
  const url = new URL(DICTIONARY_PATH, host);
  url.protocol = host.protocol === 'wss:' ? 'https:' : 'http:';
  return url;
};
