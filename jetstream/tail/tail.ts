/**
 * Follows a Jetstream host and prints what it sends. Owns one connection at a time and where the stream is; promises
 * that after a break it goes on where it was, without repeating an event. The host may send anything.
 */
import WebSocket from 'ws';
import { VERSION } from '../../src/api/version.ts';
import type { Dictionary } from '../dictionary/types.ts';
import type { TailOptions } from './args.ts';
import { type Message, readMessage, type ShownEvent } from './event.ts';
import { eventLine, jsonLine, plain } from './line.ts';
import { createPosition } from './position.ts';
import { dictionaryUrl, streamUrl } from './url.ts';
import { decompress, MAX_MESSAGE_BYTES, openDictionary } from './zstd.ts';

/** Waits between attempts: the first, doubled up to the longest. */
export const BACKOFF = { firstMs: 1_000, longestMs: 30_000 } as const;
/** Proxies cut quiet sockets at about 100 s, and hosts ping every 30. */
export const PING_INTERVAL_MS = 30_000;
/** Without a message, a ping or a pong for so long the connection is dead. */
export const SILENCE_MS = 90_000;
const HANDSHAKE_TIMEOUT_MS = 15_000;
/** Handles learned from identity events; 10,000 are about 2 MB. */
export const MAX_HANDLES = 10_000;
/** Of an answer that is no WebSocket. */
const MAX_ANSWER_CHARS = 2_000;
/** The one that most hosts have takes 112,640. */
const MAX_DICTIONARY_BYTES = 4 * 1024 * 1024;

export interface TailTerminal {
  /** One line of output. false: wait for `drained` before giving more. */
  print(line: string): boolean;
  /** Resolves when `print` may be called again. */
  drained(): Promise<void>;
  /** One line about ourselves, for people. */
  note(line: string): void;
  /** null: not a terminal. */
  columns(): number | null;
  readonly colours: boolean;
}

export interface TailSettings {
  readonly options: TailOptions;
  /** From the file that was named. */
  readonly dictionary: Dictionary | null;
  readonly terminal: TailTerminal;
  /** Ends the tail, cleanly. */
  readonly signal: AbortSignal;
  /** 0 to 1. */
  readonly random?: () => number;
  readonly backoff?: { readonly firstMs: number; readonly longestMs: number };
}

type End =
  /** Ended by us: enough events, or told to stop. */
  | { readonly why: 'done' }
  /** The host answered with something else than a WebSocket. */
  | { readonly why: 'refused'; readonly status: number; readonly answer: string }
  | { readonly why: 'failed'; readonly detail: string }
  | { readonly why: 'closed'; readonly detail: string }
  /** No use in trying again. */
  | { readonly why: 'hopeless'; readonly detail: string };

/** Answers that will be others later. */
const isPassing = (status: number): boolean => status === 429 || status >= 500;

/** Resolves after the time, or at once when aborted. */
const wait = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener('abort', end);
  });

/** The most recent handles. */
const createHandles = () => {
  const handles = new Map<string, string>();
  return {
    get: (did: string): string | null => handles.get(did) ?? null,
    learn(event: ShownEvent): void {
      if (event.handle === null) return;
      handles.delete(event.did);
      handles.set(event.did, event.handle);
      if (handles.size > MAX_HANDLES) for (const oldest of handles.keys()) return void handles.delete(oldest);
    },
  };
};

/** The current dictionary of a host, or why there is none. */
const fetchDictionary = async (host: URL, signal: AbortSignal): Promise<Dictionary | string> => {
  const url = dictionaryUrl(host);
  try {
    const answer = await fetch(url, {
      redirect: 'error',
      signal: AbortSignal.any([signal, AbortSignal.timeout(HANDSHAKE_TIMEOUT_MS)]),
    });
    if (!answer.ok || answer.body === null) {
      await answer.body?.cancel();
      return `${url.pathname} answered ${answer.status}`;
    }
    const parts: Uint8Array[] = [];
    let size = 0;
    for await (const part of answer.body) {
      size += part.length;
      if (size > MAX_DICTIONARY_BYTES) return `${url.pathname}: the dictionary is too big`;
      parts.push(part);
    }
    return openDictionary(Buffer.concat(parts)) ?? `${url.pathname}: it is no dictionary`;
  } catch (error) {
    return `${url.pathname}: ${(error as Error).message}`;
  }
};

/** Runs until told to stop, or until there is no use in going on. Resolves to the exit code: 0 or 1. */
export const runTail = async (settings: TailSettings): Promise<number> => {
  const { options, terminal, signal } = settings;
  const backoff = settings.backoff ?? BACKOFF;
  const random = settings.random ?? Math.random;
  const position = createPosition(options.version, options.cursor);
  const handles = createHandles();
  let printed = 0;
  let dictionary = settings.dictionary;
  let hasEverOpened = false;
  /** The output takes no more for now. */
  let isWaiting = false;

  /** true: that was the last one. */
  const show = (message: Message, json: string): boolean => {
    if (message.what === 'heartbeat') position.reached(message.position);
    if (message.what === 'notice') {
      terminal.note(`the host says: ${plain(message.name)} ${plain(message.text)}`.trim());
    }
    if (message.what !== 'event') return false;
    handles.learn(message);
    if (message.position !== null && !position.take(message.position)) return false;
    const line = options.json
      ? jsonLine(json)
      : eventLine(message, {
          handle: handles.get(message.did),
          columns: terminal.columns(),
          colours: terminal.colours,
        });
    if (!terminal.print(line)) isWaiting = true;
    printed++;
    return printed === options.count;
  };
  const follow = (url: URL): Promise<End> => {
    const { promise, resolve } = Promise.withResolvers<End>();
    let end: End | null = null;
    let heardAtMs = performance.now();
    let isOpen = false;
    const socket = new WebSocket(url, {
      perMessageDeflate: false,
      maxPayload: MAX_MESSAGE_BYTES,
      handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
      headers: { 'user-agent': `weir-tail/${VERSION}` },
    });
    socket.binaryType = 'nodebuffer';
    const pulse = setInterval(() => {
      // While it waits for the output nothing is read, so nothing can be heard.
      if (isWaiting) heard();
      if (!isOpen) return;
      const silentMs = performance.now() - heardAtMs;
      if (silentMs > SILENCE_MS) finish({ why: 'closed', detail: 'nothing was heard from it' });
      else if (silentMs > PING_INTERVAL_MS / 2) socket.ping();
    }, PING_INTERVAL_MS);
    const stop = (): void => finish({ why: 'done' });
    signal.addEventListener('abort', stop);

    const finish = (how: End): void => {
      if (end !== null) return;
      end = how;
      clearInterval(pulse);
      signal.removeEventListener('abort', stop);
      // A goodbye where one can be said; whether it is heard does not matter.
      if (isOpen && !isWaiting) socket.close(1000);
      else socket.terminate();
      resolve(how);
    };
    const heard = (): void => {
      heardAtMs = performance.now();
    };

    const hold = async (): Promise<void> => {
      socket.pause();
      await terminal.drained();
      isWaiting = false;
      if (end === null) socket.resume();
    };

    socket.on('open', () => {
      isOpen = true;
      hasEverOpened = true;
      heard();
      terminal.note(`following ${plain(url.href)}`);
    });
    socket.on('ping', heard);
    socket.on('pong', heard);
    socket.on('message', (data: Buffer, isBinary: boolean) => {
      if (end !== null) return;
      heard();
      let json: string;
      if (isBinary) {
        const decompressed = decompress(data, dictionary);
        if (!decompressed.ok) {
          const advice =
            decompressed.needs === undefined
              ? ''
              : '; give its file with --dictionary, or leave --compress out';
          finish({ why: 'hopeless', detail: `a message from the host: ${decompressed.problem}${advice}` });
          return;
        }
        json = decompressed.text;
      } else {
        json = data.toString('utf8');
      }
      const message = readMessage(json);
      if (message === null) {
        finish({ why: 'hopeless', detail: 'the host sent a message that is not JSON: is it a Jetstream?' });
        return;
      }
      attempt = 0;
      const wasWaiting = isWaiting;
      if (show(message, json)) finish({ why: 'done' });
      else if (isWaiting && !wasWaiting) void hold();
    });
    socket.on('unexpected-response', (_request, response) => {
      const status: number = response.statusCode ?? 0;
      let answer = '';
      const refuse = (): void => finish({ why: 'refused', status, answer });
      response.on('data', (part: Buffer) => {
        if (answer.length < MAX_ANSWER_CHARS) answer += part.toString('utf8').slice(0, MAX_ANSWER_CHARS);
      });
      response.on('end', refuse);
      response.on('error', refuse);
      setTimeout(refuse, HANDSHAKE_TIMEOUT_MS).unref();
    });
    socket.on('error', (error: Error & { code?: string }) => {
      if (isOpen) finish({ why: 'closed', detail: error.message });
      // What is no WebSocket tells it by unexpected-response, with what it says.
      else setTimeout(() => finish({ why: 'failed', detail: error.message }), 50);
    });
    socket.on('close', (code: number, reason: Buffer) => {
      if (!isOpen) return;
      const said = plain(reason.toString('utf8'));
      finish({ why: 'closed', detail: `it was closed with ${code}${said === '' ? '' : `: ${said}`}` });
    });
    if (signal.aborted) stop();
    return promise;
  };

  /** What is to be done about an end: null: try again. */
  const judge = (how: End): { readonly code: number; readonly words: string } | null => {
    switch (how.why) {
      case 'done':
        return { code: 0, words: '' };
      case 'hopeless':
        return { code: 1, words: how.detail };
      case 'refused':
        if (isPassing(how.status) && hasEverOpened) return null;
        return { code: 1, words: `the host answered ${how.status}: ${plain(how.answer)}` };
      case 'failed':
        if (hasEverOpened) return null;
        return { code: 1, words: `cannot connect to ${plain(options.host.href)}: ${plain(how.detail)}` };
      case 'closed':
        return null;
    }
  };

  let attempt = 0;
  for (;;) {
    if (options.compress && options.version === 'v2' && settings.dictionary === null && !signal.aborted) {
      // Asked for each time: a host may have a new one by now.
      const found = await fetchDictionary(options.host, signal);
      dictionary = typeof found === 'string' ? null : found;
      if (typeof found === 'string' && !signal.aborted) terminal.note(`not compressed: ${plain(found)}`);
    }
    const how = await follow(streamUrl(options, position.resume(), dictionary?.id ?? null));
    const verdict = judge(how);
    if (verdict !== null) {
      if (verdict.words !== '') terminal.note(verdict.words);
      return verdict.code;
    }
    if (signal.aborted) return 0;
    const waitMs =
      Math.min(backoff.longestMs, backoff.firstMs * 2 ** Math.min(attempt, 20)) * (0.5 + random() / 2);
    attempt++;
    const detail =
      how.why === 'refused' ? `the host answered ${how.status}` : 'detail' in how ? how.detail : '';
    terminal.note(`disconnected (${plain(detail)}), again in ${Math.ceil(waitMs / 100) / 10} s`);
    await wait(waitMs, signal);
    if (signal.aborted) return 0;
  }
};
