/**
 * Judges a whole run: what the hosts sent and the ledger expects, against what a consumer of the relay saw from the
 * first event on and what the relay says it refused. Knows nothing of the relay's code: frames are read with
 * @ipld/dag-cbor and cborg alone.
 */
import { encode } from '@ipld/dag-cbor';
import { decodeFrame, type Seen } from '../../simulator/consumer.ts';
import type { Sent } from './witness.ts';

/** Reasons by host as the relay counts them. */
export type Refused = ReadonlyMap<string, Readonly<Record<string, number>>>;

export interface JudgeOptions {
  /** An event that may be missing all the same: in a gap that the relay recorded. */
  mayMiss?(sent: Sent): boolean;
  /**
   * Hosts came back from older cursors. What was refused above them is judged again by what holds then: a stale commit
   * may meet an account that has been deactivated since, and make the relay ask.
   */
  readonly comesAgain?: boolean;
}

export interface Judgement {
  /** What is wrong, in words; empty when all is right. */
  readonly faults: string[];
  /** Events that had to come and came. */
  delivered: number;
  /** Events that were excused by `mayMiss`. */
  missed: number;
  /** #account events that no host sent: the relay's own, after it asked a host for the account's status. */
  ownAccountEvents: Seen[];
  /** The sent event behind each seen one; null for the relay's own. */
  readonly origins: (Sent | null)[];
}

type Body = Readonly<Record<string, unknown>>;

const digest = (type: string | null, body: Body): string => {
  const { seq: _, ...rest } = body;
  return `${type} ${Bun.SHA256.hash(encode(rest), 'base64')}`;
};

const without = (body: Body, field: string): Body => {
  const { [field]: _, ...rest } = body;
  return rest;
};

const outcomesOf = ({ entry }: Sent): readonly string[] => [entry.expectation, ...(entry.alternatives ?? [])];

/** What a right relay may make of this frame's content; empty for a frame that cannot be read. */
const formsOf = ({ entry, frame }: Sent, handlesChange: boolean): string[] => {
  if (typeof frame === 'string') return [];
  let seen: Seen;
  try {
    seen = decodeFrame(frame);
  } catch {
    return [];
  }
  const { type, body } = seen;
  if (type === '#commit') {
    // Required but deprecated fields are filled in, because strict consumers fail without.
    return [digest(type, { tooBig: false, rebase: false, blobs: [], ...body })];
  }
  if (type === '#identity' && entry.fault === 'handle-of-another')
    return [digest(type, without(body, 'handle'))];
  if (type === '#identity' && handlesChange) {
    // When the directory is asked, the handle may be another one already.
    return [digest(type, body), digest(type, without(body, 'handle'))];
  }
  return [digest(type, body)];
};

const describe = ({ entry }: Sent): string =>
  `${entry.kind} n=${entry.n} host=${entry.host} seq=${entry.seq} did=${entry.did} rev=${entry.rev} fault=${entry.fault ?? '–'} expected ${entry.expectation}`;

const describeSeen = (seen: Seen): string =>
  `${seen.type} seq=${seen.seq} did=${seen.did} rev=${seen.rev} ${JSON.stringify({ status: seen.body.status, active: seen.body.active, handle: seen.body.handle, time: seen.body.time })}`;

/** Whether header and body are exactly what an independent codec writes. */
const isCanonical = ({ type, body, frame }: Seen): boolean =>
  Buffer.concat([encode(type === null ? { op: -1 } : { t: type, op: 1 }), encode(body)]).equals(frame);

/** Compares what was seen with what had to be seen: each once, in order per host and account, with the same content. */
export const judge = (
  sent: readonly Sent[],
  seen: readonly Seen[],
  options: JudgeOptions = {},
): Judgement => {
  const result: Judgement = { faults: [], delivered: 0, missed: 0, ownAccountEvents: [], origins: [] };
  const { faults } = result;

  const handles = new Map<string, Set<unknown>>();
  for (const { entry, frame } of sent) {
    if (entry.kind !== 'identity' || entry.fault === 'handle-of-another' || typeof frame === 'string')
      continue;
    const known = handles.get(entry.did!) ?? new Set();
    handles.set(entry.did!, known.add(decodeFrame(frame).body.handle));
  }
  const lines = new Map<string, { readonly sent: Sent; readonly forms: string[] }[]>();
  const linesOfDid = new Map<string, string[]>();
  const shutOut = new Set<string>();
  for (const one of sent) {
    const { did, host, expectation } = one.entry;
    if (did === null) continue;
    const isStatus = options.comesAgain === true && one.entry.kind === 'account';
    if (expectation === 'account_inactive' || isStatus) shutOut.add(did);
    const key = `${host} ${did}`;
    let line = lines.get(key);
    if (line === undefined) {
      line = [];
      lines.set(key, line);
      linesOfDid.set(did, [...(linesOfDid.get(did) ?? []), key]);
    }
    line.push({ sent: one, forms: formsOf(one, (handles.get(did)?.size ?? 0) > 1) });
  }

  const positions = new Map<string, number>();
  const came = new Set<Sent>();
  let lastSeq = 0;
  for (const one of seen) {
    if (one.seq === null) {
      faults.push(`a frame without seq: ${describeSeen(one)}`);
      result.origins.push(null);
      continue;
    }
    if (one.seq <= lastSeq) faults.push(`seq ${one.seq} comes after ${lastSeq}`);
    lastSeq = one.seq;
    if (!isCanonical(one)) faults.push(`not canonical: ${describeSeen(one)}`);
    const form = digest(one.type, one.body);
    let found: Sent | null = null;
    for (const key of linesOfDid.get(one.did ?? '') ?? []) {
      const line = lines.get(key)!;
      const start = positions.get(key) ?? 0;
      const at = line.findIndex(
        ({ sent: candidate, forms }, i) =>
          i >= start && forms.includes(form) && outcomesOf(candidate).includes('deliver'),
      );
      if (at === -1) continue;
      found = line[at]!.sent;
      positions.set(key, at + 1);
      break;
    }
    result.origins.push(found);
    if (found !== null) {
      came.add(found);
      continue;
    }
    if (one.type === '#account' && shutOut.has(one.did!)) {
      result.ownAccountEvents.push(one);
      continue;
    }
    const like = (linesOfDid.get(one.did ?? '') ?? [])
      .flatMap((key) => lines.get(key)!.filter(({ forms }) => forms.includes(form)))
      .map(({ sent: candidate }) => `${describe(candidate)}${came.has(candidate) ? ', came before' : ''}`);
    faults.push(
      `must not have come: ${describeSeen(one)}; the hosts sent: ${like.join(' | ') || 'nothing like it'}`,
    );
  }
  for (const one of sent) {
    const outcomes = outcomesOf(one);
    if (came.has(one)) {
      result.delivered++;
      continue;
    }
    if (!outcomes.every((outcome) => outcome === 'deliver')) continue;
    if (options.mayMiss?.(one) === true) result.missed++;
    else faults.push(`lost: ${describe(one)}`);
  }
  return result;
};

/**
 * Compares what the relay counted as refused, by host and reason, with the ledger. `exact`: each frame was received
 * once; otherwise (after reconnections) frames above the cursor came again and may be counted again.
 */
export const judgeRefused = (
  sent: readonly Sent[],
  judgement: Judgement,
  refused: Refused,
  exact: boolean,
  mayMiss: (sent: Sent) => boolean = () => false,
): string[] => {
  const came = new Set(judgement.origins);
  const faults: string[] = [];
  const hosts = new Map<string, { fixed: Map<string, number>; loose: string[][] }>();
  for (const hostname of refused.keys()) hosts.set(hostname, { fixed: new Map(), loose: [] });
  for (const one of sent) {
    const outcomes = outcomesOf(one).filter((outcome) => outcome !== 'deliver');
    if (outcomes.length === 0 || came.has(one) || mayMiss(one)) continue;
    const host = hosts.get(one.entry.host);
    if (host === undefined) {
      faults.push(`the relay does not know ${one.entry.host}`);
      continue;
    }
    if (outcomes.length === 1) host.fixed.set(outcomes[0]!, (host.fixed.get(outcomes[0]!) ?? 0) + 1);
    else host.loose.push(outcomes);
  }
  for (const [hostname, { fixed, loose }] of hosts) {
    const counted = refused.get(hostname)!;
    const reasons = new Set([...fixed.keys(), ...loose.flat(), ...Object.keys(counted)]);
    for (const reason of reasons) {
      const named = fixed.get(reason) ?? 0;
      const most = named + loose.filter((outcomes) => outcomes.includes(reason)).length;
      // An error frame is for those who are connected.
      const least = !exact && reason === 'host_error_frame' ? 0 : named;
      const count = counted[reason] ?? 0;
      if (
        count < least ||
        (exact && count > most) ||
        (most === 0 && count > 0 && (exact || reason !== 'account_inactive'))
      )
        faults.push(
          `${hostname} ${reason}: counted ${count}, expected ${least === most ? least : `${least} to ${most}`}`,
        );
    }
    const total = Object.values(counted).reduce((sum, count) => sum + count, 0);
    const expected = [...fixed.values()].reduce((sum, count) => sum + count, 0) + loose.length;
    if (exact && total !== expected)
      faults.push(`${hostname}: counted ${total} refusals in all, expected ${expected}`);
  }
  return faults;
};
