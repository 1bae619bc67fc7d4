/** Timestamp identifiers (atproto spec: TID): 53 bits of microseconds, 10 bits of clock id, base32-sortable. */

const ALPHABET = '234567abcdefghijklmnopqrstuvwxyz';

/** Two characters for ten bits. */
const PAIRS: readonly string[] = Array.from(
  { length: 1024 },
  (_, bits) => ALPHABET[bits >>> 5]! + ALPHABET[bits & 31]!,
);

/** Formats microseconds since 1970 and a clock id 0…1023 as the 13 characters of a TID. */
export const formatTid = (micros: number, clockId: number): string => {
  const middle = Math.floor(micros / 0x10_0000);
  const high = Math.floor(middle / 0x10_0000);
  return (
    ALPHABET[Math.floor(high / 1024)]! +
    PAIRS[high % 1024]! +
    PAIRS[(middle >>> 10) & 1023]! +
    PAIRS[middle & 1023]! +
    PAIRS[Math.floor(micros / 1024) % 1024]! +
    PAIRS[micros % 1024]! +
    PAIRS[clockId]!
  );
};

/** The microseconds of a TID made by `formatTid`. */
export const tidMicros = (tid: string): number => {
  let micros = 0;
  for (let i = 0; i < 11; i++) micros = micros * 32 + ALPHABET.indexOf(tid[i]!);
  return micros;
};
