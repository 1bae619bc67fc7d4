/** A seeded source of randomness: same seed, same draws, on every machine. */
export interface Random {
  /** Uniform in [0, 1). */
  unit(): number;
  /** Uniform integer in [0, bound). */
  below(bound: number): number;
  /** True with this probability. */
  chance(probability: number): boolean;
  /** One of the items, uniformly; the list must not be empty. */
  pick<T>(items: readonly T[]): T;
  /** `length` bytes. */
  bytes(length: number): Uint8Array;
  /** A gap of a Poisson process with this rate, in the unit of 1/rate. */
  gap(rate: number): number;
}

/** Mixes numbers into one 32-bit seed (murmur3's finalizer, folded), so that streams can be named by their parts. */
export const mixSeed = (...parts: readonly number[]): number => {
  let h = 0x9e3779b9;
  for (const part of parts) {
    h = Math.imul(h ^ (part >>> 0), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    h ^= h >>> 16;
    h = (h + Math.floor(part / 0x1_0000_0000)) | 0;
  }
  return h >>> 0;
};

/** sfc32 seeded by one 32-bit number. Fast and of good quality; not for secrets. */
export const createRandom = (seed: number): Random => {
  let a = seed | 0;
  let b = 0x6c078965;
  let c = Math.imul(seed ^ 0x5bd1e995, 0x1b873593);
  let counter = 1;
  const next = (): number => {
    const t = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + t) | 0;
    return t >>> 0;
  };
  for (let i = 0; i < 8; i++) next();
  const unit = (): number => next() / 0x1_0000_0000;
  const below = (bound: number): number => Math.floor(unit() * bound);
  return {
    unit,
    below,
    chance: (probability) => probability > 0 && unit() < probability,
    pick: (items) => items[below(items.length)]!,
    bytes: (length) => {
      const out = new Uint8Array(length);
      for (let i = 0; i < length; i++) out[i] = next() & 0xff;
      return out;
    },
    gap: (rate) => -Math.log(1 - unit()) / rate,
  };
};

/** Draws indexes 0…count−1 with Zipf weights 1/(i+1)^exponent, by binary search in the cumulated weights. */
export const createZipf = (count: number, exponent: number): ((random: Random) => number) => {
  const cumulated = new Float64Array(count);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum += 1 / (i + 1) ** exponent;
    cumulated[i] = sum;
  }
  return (random) => {
    const point = random.unit() * sum;
    let low = 0;
    let high = count - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (cumulated[middle]! > point) high = middle;
      else low = middle + 1;
    }
    return low;
  };
};
