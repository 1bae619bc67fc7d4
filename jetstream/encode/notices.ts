/** The messages that are not events: they have no seq and move no cursor back or forth by themselves. */
import { NSID } from './message.ts';
import { timeText } from './time.ts';

const utf8 = new TextEncoder();
const message = (value: object): Uint8Array => utf8.encode(JSON.stringify(value));

/** Version 2: a notice about the stream, such as OutdatedCursor, which does not end it. */
export const infoMessage = (name: string, text: string): Uint8Array =>
  message({ $type: 'message', payload: { $type: `${NSID}#info`, name, message: text } });

/** Version 2: why the stream ends, such as ConsumerTooSlow; the connection is closed after it. */
export const errorMessage = (error: string, text: string): Uint8Array =>
  message({ $type: 'error', error, message: text });

/**
 * Version 1, an extension that is sent only when asked for: `{"time_us":N,"kind":"heartbeat","cursor":N}`. Everything
 * up to N, in µs since the epoch, was given to this client or is not wanted by it: it may come back with `cursor=N`.
 * N stands where events have it, too, so that a client that keeps the last `time_us` it saw needs no change.
 */
export const heartbeatV1 = (timeUs: number): Uint8Array =>
  message({ time_us: timeUs, kind: 'heartbeat', cursor: timeUs });

/**
 * Version 2, the same extension: a payload `{$type: "…#heartbeat", cursor, time}`, cursor a seq, time that of the
 * event with this seq. It has no `seq`, as #info has none: it is no event, so nothing takes it for one.
 */
export const heartbeatV2 = (seq: number, timeUs: number): Uint8Array =>
  message({
    $type: 'message',
    payload: { $type: `${NSID}#heartbeat`, cursor: seq, time: timeText(timeUs) },
  });
