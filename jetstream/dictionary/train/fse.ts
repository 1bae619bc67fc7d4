/**
 * FSE tables as zstd has them (RFC 8878, sections 4.1.1 and 4.1.2): counts to probabilities, probabilities to their
 * description in bytes, and symbols coded by two states in turn, which is how Huffman weights are written.
 */
import { createBitWriter, highBit } from './bits.ts';

/**
 * Probabilities of symbols in 1/2^accuracyLog, which add up to 1, as near to the counts as they come. -1 stands for
 * "less than 1", which takes a place of its own. A symbol whose count is 0 gets 0.
 */
export const normalize = (counts: readonly number[], accuracyLog: number): number[] => {
  const size = 1 << accuracyLog;
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) throw new Error('no counts to normalize');
  const share = counts.map((count) => (count * size) / total);
  const places = share.map((each, symbol) =>
    counts[symbol] === 0 ? 0 : each < 1 ? -1 : Math.max(1, Math.floor(each)),
  );
  let left = size - places.reduce((sum, each) => sum + Math.abs(each), 0);
  // What is over goes where a further place saves most; what is missing comes from where it costs least.
  while (left !== 0) {
    let best = -1;
    let bestGain = Number.NEGATIVE_INFINITY;
    for (let symbol = 0; symbol < places.length; symbol++) {
      const now = places[symbol]!;
      if (left > 0 ? now === 0 : now < 2) continue;
      const before = Math.abs(now);
      const after = before + Math.sign(left);
      const gain = share[symbol]! * Math.log2(after / before);
      if (gain > bestGain) {
        best = symbol;
        bestGain = gain;
      }
    }
    if (best < 0) throw new Error(`${counts.length} symbols do not fit into 2^${accuracyLog} places`);
    // -1 has one place already; with a second it counts as 2.
    places[best] = Math.abs(places[best]!) + Math.sign(left);
    left -= Math.sign(left);
  }
  return places;
};

/** The description of a table by its probabilities (RFC 8878, section 4.1.1). */
export const describeTable = (probabilities: readonly number[], accuracyLog: number): Uint8Array => {
  const bits = createBitWriter();
  bits.write(accuracyLog - 5, 4);
  /** Places that are not given yet. */
  let left = 1 << accuracyLog;
  for (let symbol = 0; left > 0; symbol++) {
    const probability = probabilities[symbol]!;
    // A value is 0…left+1, and the small ones of them take one bit less.
    const value = probability + 1;
    const width = highBit(left + 1) + 1;
    const shortValues = (1 << width) - 1 - (left + 1);
    const half = 1 << (width - 1);
    if (value < shortValues) bits.write(value, width - 1);
    else bits.write(value < half ? value : value + shortValues, width);
    left -= Math.abs(probability);
    if (probability !== 0) continue;
    // After a zero, two bits say how many more follow; 3 says that two more bits do.
    let zeros = 0;
    while (probabilities[symbol + 1 + zeros] === 0) zeros++;
    symbol += zeros;
    for (; zeros >= 3; zeros -= 3) bits.write(3, 2);
    bits.write(zeros, 2);
  }
  return bits.bytes();
};

interface State {
  readonly symbol: number;
  readonly bits: number;
  /** The next state is this plus the bits read. */
  readonly baseline: number;
}

/** The states of a decoder (RFC 8878, section 4.1.1, "from normalized distribution to decoding tables"). */
export const decodingStates = (probabilities: readonly number[], accuracyLog: number): State[] => {
  const size = 1 << accuracyLog;
  const symbols = new Array<number>(size).fill(-1);
  let high = size;
  probabilities.forEach((probability, symbol) => {
    if (probability === -1) symbols[--high] = symbol;
  });
  const step = (size >> 1) + (size >> 3) + 3;
  let at = 0;
  probabilities.forEach((probability, symbol) => {
    for (let i = 0; i < probability; i++) {
      symbols[at] = symbol;
      do at = (at + step) & (size - 1);
      while (at >= high);
    }
  });
  const next = probabilities.map(Math.abs);
  return symbols.map((symbol) => {
    const number = next[symbol]!++;
    const bits = accuracyLog - highBit(number);
    return { symbol, bits, baseline: (number << bits) - size };
  });
};

/** Symbols coded by two states in turn, to be read from the end (RFC 8878, section 4.2.1.2). At least two symbols. */
export const codeInTurn = (
  symbols: readonly number[],
  probabilities: readonly number[],
  accuracyLog: number,
): Uint8Array => {
  const states = decodingStates(probabilities, accuracyLog);
  const chosen = new Array<number>(symbols.length);
  for (let i = symbols.length - 1; i >= 0; i--) {
    const after = chosen[i + 2];
    let best = -1;
    states.forEach(({ symbol, bits, baseline }, state) => {
      if (symbol !== symbols[i]) return;
      // The last two lead nowhere; a reader sees the end by their wanting bits that are not there, so they must.
      const fits =
        after === undefined
          ? bits > (states[best]?.bits ?? 0)
          : after >= baseline && after < baseline + (1 << bits);
      if (fits) best = state;
    });
    if (best < 0) throw new Error(`symbol ${symbols[i]} cannot be coded`);
    chosen[i] = best;
  }
  const fields: [value: number, bits: number][] = [
    [chosen[0]!, accuracyLog],
    [chosen[1]!, accuracyLog],
  ];
  for (let i = 0; i + 2 < symbols.length; i++) {
    const { bits, baseline } = states[chosen[i]!]!;
    fields.push([chosen[i + 2]! - baseline, bits]);
  }
  const writer = createBitWriter();
  for (const [value, bits] of fields.reverse()) writer.write(value, bits);
  // Where the stream begins, for who reads it from its end.
  writer.write(1, 1);
  return writer.bytes();
};
