/** Microseconds since the epoch as RFC 3339. */

let lastSecond = -1;
let lastText = '';

/**
 * The time in UTC with microseconds, as `2026-11-21T04:33:55.123456Z`: read back as microseconds, it is the same
 * number. `timeUs`: 0…2^53−1.
 */
export function timeText(timeUs: number): string {
  const micros = timeUs % 1_000_000;
  const second = (timeUs - micros) / 1_000_000;
  if (second !== lastSecond) {
    lastSecond = second;
    lastText = new Date(second * 1000).toISOString().slice(0, -4);
  }
  return `${lastText}${String(1_000_000 + micros).slice(1)}Z`;
}
