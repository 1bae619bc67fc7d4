/** `bun run jetstream train-dictionary`: trains a dictionary and writes it to a file. */
import { createReadStream, existsSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { createRandom } from '../../simulator/random.ts';
import { createCompressor } from '../compress/compressor.ts';
import type { Version } from '../types.ts';
import { V1_DICTIONARY } from './dictionary.ts';
import { MAX_PRIVATE_ID, MIN_PRIVATE_ID } from './format.ts';
import { scrub } from './scrub.ts';
import { madeMessages } from './synthetic/messages.ts';
import { chooseDictionary } from './train/choose.ts';
import { MIN_DICTIONARY_BYTES } from './train/train.ts';

const DEFAULT_SAMPLES = 20_000;
const DEFAULT_BYTES = 65_536;
/** What version 1's has, and where zstd's own trainer stops: more is not worth its memory. */
const MAX_BYTES = 112_640;
const DEFAULT_SEED = 1;
/** Samples are held in memory, all at once. */
const MAX_SAMPLES_BYTES = 64 * 1024 * 1024;
/** Fewer have nothing to choose from. */
const MIN_SAMPLES = 100;
const MAX_SAMPLES = 100_000;

const HELP = `Usage: bun run jetstream train-dictionary [--from FILE.ndjson | --synthetic N] [--size BYTES] [--id N] --out FILE

Trains a zstd dictionary for messages of the JSON view.

  --from FILE       messages, one JSON object per line, as \`tail --json\` prints them. Whatever people wrote or are
                    called in them is replaced before the training: names, texts, DIDs, handles, links, keys, times.
  --synthetic N     so many made-up messages (default ${DEFAULT_SAMPLES}, at most ${MAX_SAMPLES})
  --version V       of made-up messages: v1, v2 or both (default v2, whose clients can ask for the dictionary)
  --size BYTES      at most so large (default ${DEFAULT_BYTES}, at most ${MAX_BYTES})
  --id N            the ID, ${MIN_PRIVATE_ID} to ${MAX_PRIVATE_ID} (default: one that follows from the bytes)
  --seed N          for what is made up: same seed, same dictionary (default ${DEFAULT_SEED})
  --out FILE        where it is written; a file that is there is not replaced
`;

const OPTIONS = {
  from: { type: 'string' },
  synthetic: { type: 'string' },
  version: { type: 'string' },
  size: { type: 'string' },
  id: { type: 'string' },
  seed: { type: 'string' },
  out: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const;

const VERSIONS: Readonly<Record<string, readonly Version[]>> = { v1: ['v1'], v2: ['v2'], both: ['v1', 'v2'] };

interface Settings {
  readonly from: string | null;
  readonly synthetic: number;
  readonly versions: readonly Version[];
  readonly size: number;
  readonly id: number | null;
  readonly seed: number;
  readonly out: string;
}

class Wrong extends Error {}

const readNumber = (
  name: string,
  text: string | undefined,
  byDefault: number,
  from: number,
  to: number,
): number => {
  if (text === undefined) return byDefault;
  const value = Number(text);
  if (!/^\d{1,10}$/.test(text) || value < from || value > to) {
    throw new Wrong(`--${name}: ${text} is not a number from ${from} to ${to}`);
  }
  return value;
};

/** null: help is wanted. Throws Wrong. */
const readSettings = (args: readonly string[]): Settings | null => {
  let values: ReturnType<typeof parseArgs<{ options: typeof OPTIONS; args: string[] }>>['values'];
  try {
    ({ values } = parseArgs({ args: [...args], options: OPTIONS, strict: true, allowPositionals: false }));
  } catch (error) {
    throw new Wrong((error as Error).message);
  }
  if (values.help === true) return null;
  const { from, synthetic, out } = values;
  if (from !== undefined && synthetic !== undefined)
    throw new Wrong('--from and --synthetic exclude each other');
  if (out === undefined || out === '') throw new Wrong('--out is missing');
  if (existsSync(out)) throw new Wrong(`--out: ${out} is there already`);
  const id = values.id === undefined ? null : readNumber('id', values.id, 0, MIN_PRIVATE_ID, MAX_PRIVATE_ID);
  if (id === V1_DICTIONARY.id) throw new Wrong(`--id: ${id} is the dictionary of version 1 everywhere`);
  const versions = VERSIONS[values.version ?? 'v2'];
  if (versions === undefined) throw new Wrong(`--version: ${values.version} is not v1, v2 or both`);
  return {
    from: from ?? null,
    versions,
    synthetic: readNumber('synthetic', synthetic, DEFAULT_SAMPLES, MIN_SAMPLES, MAX_SAMPLES),
    size: readNumber('size', values.size, DEFAULT_BYTES, MIN_DICTIONARY_BYTES, MAX_BYTES),
    id,
    seed: readNumber('seed', values.seed, DEFAULT_SEED, 0, 2 ** 32 - 1),
    out,
  };
};

/** The scrubbed lines of a file, as far as there is room for them. */
const readSamples = async (
  file: string,
  seed: number,
): Promise<{ samples: Uint8Array[]; skipped: number }> => {
  const random = createRandom(seed);
  const samples: Uint8Array[] = [];
  let skipped = 0;
  let bytes = 0;
  const input = createReadStream(file);
  const failed = new Promise<never>((_, reject) => input.once('error', reject));
  const read = async (): Promise<void> => {
    for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
      if (line.trim() === '') continue;
      const scrubbed = scrub(line, random);
      if (scrubbed === null) {
        skipped++;
        continue;
      }
      const sample = Buffer.from(scrubbed);
      bytes += sample.length;
      if (bytes > MAX_SAMPLES_BYTES || samples.length === MAX_SAMPLES) break;
      samples.push(sample);
    }
  };
  await Promise.race([read(), failed]);
  input.destroy();
  return { samples, skipped };
};

const plainRatio = (samples: readonly Uint8Array[]): number => {
  const { compress, counters } = createCompressor({ dictionary: null });
  for (const sample of samples) compress(sample);
  return counters.bytesIn / counters.bytesOut;
};

/** Runs the command. Resolves to the exit code: 0, 1 when it did not work, 2 for arguments that make no sense. */
export const trainDictionaryCommand = async (args: string[]): Promise<number> => {
  let settings: Settings | null;
  try {
    settings = readSettings(args);
  } catch (error) {
    if (!(error instanceof Wrong)) throw error;
    process.stderr.write(`${error.message}\n\n${HELP}`);
    return 2;
  }
  if (settings === null) {
    process.stdout.write(HELP);
    return 0;
  }
  try {
    let samples: readonly Uint8Array[];
    if (settings.from === null) {
      samples = madeMessages(settings.synthetic, settings.seed, settings.versions).map(({ json }) =>
        Buffer.from(json),
      );
    } else {
      const read = await readSamples(settings.from, settings.seed);
      samples = read.samples;
      if (read.skipped > 0) console.warn(`${read.skipped} lines are no JSON objects and were left out`);
      if (samples.length < MIN_SAMPLES) {
        process.stderr.write(
          `${settings.from}: ${samples.length} messages are too few, at least ${MIN_SAMPLES} are needed\n`,
        );
        return 1;
      }
    }
    const { dictionary, best, trials } = chooseDictionary(samples, settings.size, settings.id);
    // Not over a file that came to be in the meantime.
    writeFileSync(settings.out, dictionary.bytes, { flag: 'wx' });
    console.log(
      `${settings.out}: ${dictionary.bytes.length} bytes, ID ${dictionary.id}, SHA-256 ${dictionary.sha256}`,
    );
    console.log(
      `${samples.length} samples, ${trials.length} dictionaries tried; ratio of samples kept apart: ` +
        `${best.ratio.toFixed(2)} with it, ${plainRatio(samples).toFixed(2)} without`,
    );
    return 0;
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    return 1;
  }
};
