/** Timestamp identifiers (atproto spec: TID): 53 bits of microseconds, 10 bits of clock id, base32-sortable. */

const ALPHABET = '234567abcdefghijklmnopqrstuvwxyz';

/** Formats microseconds since 1970 and a clock id 0…1023 as the 13 characters of a TID. */
export const formatTid = (micros: number, clockId: number): string => {
  let out = '';
  let rest = micros;
  for (let i = 0; i < 11; i++) {
    out = ALPHABET[rest % 32]! + out;
    rest = Math.floor(rest / 32);
  }
  return out + ALPHABET[clockId >>> 5]! + ALPHABET[clockId & 31]!;
};

/** The microseconds of a TID made by `formatTid`. */
export const tidMicros = (tid: string): number => {
  let micros = 0;
  for (let i = 0; i < 11; i++) micros = micros * 32 + ALPHABET.indexOf(tid[i]!);
  return micros;
};
