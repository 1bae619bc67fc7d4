/** A Huffman code of all byte values, and its description (RFC 8878, section 4.2.1). */
import { codeInTurn, describeTable, normalize } from './fse.ts';

/** Longest code that zstd takes. */
const MAX_CODE_BITS = 11;
/** The finest that weights may be described with. */
const WEIGHTS_ACCURACY_LOG = 6;

/** Lengths in bits of the best code of at most `maxBits` bits, by package-merge. Every count must be positive. */
export const codeLengths = (counts: readonly number[], maxBits: number): number[] => {
  interface Package {
    readonly weight: number;
    readonly symbols: readonly number[];
  }
  const leaves: Package[] = counts
    .map((weight, symbol) => ({ weight, symbols: [symbol] }))
    .sort((a, b) => a.weight - b.weight || a.symbols[0]! - b.symbols[0]!);
  let level: Package[] = leaves;
  for (let bits = 1; bits < maxBits; bits++) {
    const pairs: Package[] = [];
    for (let i = 0; i + 1 < level.length; i += 2) {
      const [left, right] = [level[i]!, level[i + 1]!];
      pairs.push({ weight: left.weight + right.weight, symbols: [...left.symbols, ...right.symbols] });
    }
    level = [...leaves, ...pairs].sort((a, b) => a.weight - b.weight);
  }
  const lengths = new Array<number>(counts.length).fill(0);
  for (const { symbols } of level.slice(0, 2 * counts.length - 2))
    for (const symbol of symbols) lengths[symbol]!++;
  return lengths;
};

/**
 * The description of the best code for these 256 counts. Bytes that never occur are taken to occur once: only a table
 * that has all of them is used for any message without a look at it.
 */
export const describeHuffman = (counts: readonly number[]): Uint8Array => {
  const positive = counts.map((count) => Math.max(count, 1));
  let lengths = codeLengths(positive, MAX_CODE_BITS);
  if (lengths.every((length) => length === lengths[0])) {
    // Weights that are all the same cannot be described for so many bytes, so one byte gets a shorter code.
    positive[0x20] = 4 * Math.max(...positive);
    lengths = codeLengths(positive, MAX_CODE_BITS);
  }
  const longest = Math.max(...lengths);
  // The weight of the last byte value follows from the others.
  const weights = lengths.slice(0, -1).map((length) => longest + 1 - length);
  const weightCounts = new Array<number>(longest + 1).fill(0);
  for (const weight of weights) weightCounts[weight]!++;
  while (weightCounts.at(-1) === 0) weightCounts.pop();
  const probabilities = normalize(weightCounts, WEIGHTS_ACCURACY_LOG);
  const table = describeTable(probabilities, WEIGHTS_ACCURACY_LOG);
  const coded = codeInTurn(weights, probabilities, WEIGHTS_ACCURACY_LOG);
  const length = table.length + coded.length;
  if (length > 127) throw new Error(`the Huffman table takes ${length} bytes`);
  return Uint8Array.from([length, ...table, ...coded]);
};
