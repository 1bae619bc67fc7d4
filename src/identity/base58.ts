const ALPHABET = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';
const NOT_A_DIGIT = 255;

const digitOf = new Uint8Array(128).fill(NOT_A_DIGIT);
for (let digit = 0; digit < ALPHABET.length; digit++) digitOf[ALPHABET.charCodeAt(digit)] = digit;

/**
 * Decodes base58btc (IETF draft-msporny-base58).
 * @param text without multibase prefix
 * @param maxChars refuses longer text: the work grows with its square
 * @returns null for text that is too long or has other characters
 */
export const decodeBase58 = (text: string, maxChars: number): Uint8Array | null => {
  if (text.length > maxChars) return null;
  let zeros = 0;
  while (zeros < text.length && text[zeros] === '1') zeros++;
  // Little-endian while it grows; log(58) / log(256) is 0.7322.
  const bytes = new Uint8Array(Math.ceil((text.length - zeros) * 0.7323) + 1);
  let length = 0;
  for (let index = zeros; index < text.length; index++) {
    const code = text.charCodeAt(index);
    const digit = code < 128 ? digitOf[code]! : NOT_A_DIGIT;
    if (digit === NOT_A_DIGIT) return null;
    let carry = digit;
    for (let at = 0; at < length; at++) {
      carry += bytes[at]! * 58;
      bytes[at] = carry & 0xff;
      carry >>= 8;
    }
    while (carry > 0) {
      bytes[length++] = carry & 0xff;
      carry >>= 8;
    }
  }
  const decoded = new Uint8Array(zeros + length);
  for (let at = 0; at < length; at++) decoded[zeros + at] = bytes[length - 1 - at]!;
  return decoded;
};
