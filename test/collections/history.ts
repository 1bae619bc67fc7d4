/** A log in memory with real commits of a few accounts, and what is true after each of its records. */
import {
  type Account,
  applyCommit,
  commitMessage,
  prepareCommit,
  syncMessage,
  type Write,
} from '../../simulator/account.ts';
import { encodeMessage } from '../../simulator/frames.ts';
import { createKey } from '../../simulator/keys.ts';
import { createRandom } from '../../simulator/random.ts';
import { emptyTree } from '../../simulator/tree.ts';
import { KIND, type Kind } from '../../src/firehose/types.ts';
import type { LogReader, LogRecord } from '../../src/log/types.ts';
import { didOf } from './samples.ts';

export const HISTORY_COLLECTIONS = [
  'app.bsky.feed.post',
  'app.bsky.feed.like',
  'com.example.one',
  'com.example.one.more',
  'com.example.two',
];

interface Repo {
  readonly account: Account;
  readonly paths: Set<string>;
  active: boolean;
}

const collectionOf = (path: string): string => path.slice(0, path.indexOf('/'));

/** DID → collections of active accounts. */
export type Truth = ReadonlyMap<string, ReadonlySet<string>>;

export interface History {
  readonly records: readonly LogRecord[];
  /** What is true after all of them. */
  readonly truth: Truth;
}

/** The same for the same numbers, in every process. */
export const makeHistory = (seed: number, events: number, accounts = 12): History => {
  const random = createRandom(seed);
  const repos: Repo[] = Array.from({ length: accounts }, (_, index) => ({
    account: {
      index,
      did: didOf(index),
      key: createKey('k256', new Uint8Array(32).fill(index + 1)),
      tree: emptyTree(),
      rev: '',
      revMicros: 0,
    } as unknown as Account,
    paths: new Set<string>(),
    active: true,
  }));
  const records: LogRecord[] = [];
  const startMs = 1_700_000_000_000;
  const push = (kind: Kind, frame: Uint8Array): void => {
    records.push({
      seq: records.length + 1,
      timeUs: (startMs + records.length) * 1000,
      hostId: 1 + (records.length % 2),
      upstreamSeq: records.length + 1,
      kind,
      opCount: 1,
      didHash: 0,
      frame,
    });
  };
  while (records.length < events) {
    const repo = random.pick(repos);
    const { account, paths } = repo;
    const seq = records.length + 1;
    const timeMs = startMs + seq;
    const draw = random.unit();
    if (draw < 0.08 || !repo.active) {
      repo.active = !repo.active;
      const status = random.pick(['deactivated', 'takendown', 'suspended']);
      const body = { did: account.did, seq, time: new Date(timeMs).toISOString() };
      push(
        KIND.account,
        encodeMessage({
          type: '#account',
          body: repo.active ? { ...body, active: true } : { ...body, active: false, status },
        }),
      );
      continue;
    }
    if (draw < 0.1 && account.rev !== '') {
      push(
        KIND.sync,
        encodeMessage(
          syncMessage(
            account,
            { commitBytes: account.commitBytes!, commitDigest: account.commitDigest!, rev: account.rev },
            seq,
            timeMs,
          ),
        ),
      );
      continue;
    }
    const changes = new Map<string, Write>();
    if (random.chance(0.35) && paths.size > 0) {
      const collection = collectionOf(random.pick([...paths]));
      for (const path of paths)
        if (collectionOf(path) === collection) changes.set(path, { action: 'delete', path });
    }
    for (let count = random.below(3); count > 0; count--) {
      const path = `${random.pick(HISTORY_COLLECTIONS)}/${random.below(40)}`;
      if (changes.has(path)) continue;
      if (!paths.has(path)) changes.set(path, { action: 'create', path, record: { seq } });
      else
        changes.set(
          path,
          random.chance(0.5) ? { action: 'delete', path } : { action: 'update', path, record: { seq } },
        );
    }
    if (changes.size === 0) continue;
    const prepared = prepareCommit(account, 1, timeMs, [...changes.values()]);
    push(KIND.commit, encodeMessage(commitMessage(account, prepared, seq, timeMs)));
    applyCommit(account, prepared);
    for (const { action, path } of changes.values())
      if (action === 'delete') paths.delete(path);
      else paths.add(path);
  }
  const truth = new Map<string, Set<string>>();
  for (const { account, active, paths } of repos)
    if (active) truth.set(account.did, new Set([...paths].map(collectionOf)));
  return { records, truth };
};

/** A log of these records, of which the first `length` are durable. */
export class MemoryLog
  implements Pick<LogReader, 'oldestSeq' | 'lastSeq' | 'lastTimeUs' | 'openCursor' | 'onDurable'>
{
  readonly #records: readonly LogRecord[];
  readonly #recordsPerRead: number;
  readonly #listeners = new Set<(lastSeq: number) => void>();
  oldestSeq = 1;
  lastSeq: number;

  constructor(records: readonly LogRecord[], length = records.length, recordsPerRead = 25) {
    this.#records = records;
    this.lastSeq = length;
    this.#recordsPerRead = recordsPerRead;
  }
  get lastTimeUs(): number {
    return this.lastSeq === 0 ? 0 : this.#records[this.lastSeq - 1]!.timeUs;
  }
  grow(length: number): void {
    this.lastSeq = length;
    for (const listener of this.#listeners) listener(length);
  }
  openCursor(seq: number) {
    const log = this;
    let at = seq;
    return {
      get seq() {
        return at;
      },
      inTail: true,
      next(): readonly LogRecord[] | 'behind' {
        if (at < log.oldestSeq - 1) return 'behind';
        const records = log.#records.slice(at, Math.min(log.lastSeq, at + log.#recordsPerRead));
        at += records.length;
        return records;
      },
      close() {},
    };
  }
  onDurable(listener: (lastSeq: number) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
