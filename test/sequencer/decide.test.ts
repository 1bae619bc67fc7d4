import { describe, expect, test } from 'bun:test';
import { KIND } from '../../src/firehose/types.ts';
import type { VerifiedEvent } from '../../src/ingest/types.ts';
import { type Account, newAccount } from '../../src/sequencer/accounts.ts';
import { decide, effectiveStatus } from '../../src/sequencer/decide.ts';

const DATA = 'd'.repeat(32);

const accountWith = (over: Partial<Account> = {}): Account => ({
  ...newAccount('did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'),
  known: true,
  hostId: 1,
  pds: 'host1.pds.net',
  identityAtMs: 1,
  handle: 'alice.example.com',
  rev: '3l2222222222a',
  commit: 'c'.repeat(32),
  data: DATA,
  ...over,
});

const eventWith = (over: Partial<VerifiedEvent> = {}): VerifiedEvent => ({
  hostId: 1,
  kind: KIND.commit,
  upstreamSeq: 1,
  did: 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa',
  frame: new Uint8Array(),
  seqStart: 0,
  seqEnd: 0,
  opCount: 1,
  rev: '3l2222222222b',
  since: '3l2222222222a',
  commit: 'n'.repeat(32),
  data: 'e'.repeat(32),
  prevData: DATA,
  lenient: null,
  active: true,
  status: null,
  handle: null,
  ...over,
});

const PASSES = { ok: true, rewrite: null, discontinuity: false, lenient: null } as const;
const KINDS = ['commit', 'sync', 'identity', 'account', 'unknown'] as const;
type KindName = (typeof KINDS)[number];

/** own status × upstream status → what becomes of each kind: what a consumer gets, or why not. */
const STATUS_RULES: readonly [string | null, string | null, Readonly<Record<KindName, string>>][] = [
  [null, null, { commit: 'pass', sync: 'pass', identity: 'pass', account: 'pass', unknown: 'pass' }],
  ...['deactivated', 'deleted', 'suspended', 'takendown', 'throttled', 'desynchronized', 'odd'].map(
    (status): [null, string, Record<KindName, string>] => [
      null,
      status,
      {
        commit: 'account_inactive',
        sync: 'account_inactive',
        identity: 'pass',
        account: 'pass',
        unknown: 'account_inactive',
      },
    ],
  ),
  ...([null, 'deactivated'] as const).flatMap((upstream) =>
    ['takendown', 'suspended'].map((own): [string, string | null, Record<KindName, string>] => [
      own,
      upstream,
      {
        commit: 'account_takendown',
        sync: 'account_takendown',
        identity: 'account_takendown',
        account: 'own_status',
        unknown: 'account_takendown',
      },
    ]),
  ),
  [
    'throttled',
    null,
    {
      commit: 'account_limit',
      sync: 'account_limit',
      identity: 'account_limit',
      account: 'own_status',
      unknown: 'account_limit',
    },
  ],
];

describe('by status', () => {
  for (const [ownStatus, upstreamStatus, rules] of STATUS_RULES) {
    for (const kind of KINDS) {
      test(`#${kind} of an account with own status ${ownStatus} and upstream status ${upstreamStatus}: ${rules[kind]}`, () => {
        const account = accountWith({ ownStatus, upstreamStatus });
        const before = { ...account };
        const decision = decide(account, eventWith({ kind: KIND[kind] }), 'strict');
        if (rules[kind] === 'pass') expect(decision).toEqual(PASSES);
        else if (rules[kind] === 'own_status') expect(decision).toEqual({ ...PASSES, rewrite: 'own_status' });
        else {
          expect(decision).toMatchObject({ ok: false, reason: rules[kind] });
          expect(account).toEqual(before);
        }
      });
    }
  }

  test('what is shown is our own status first, then the one from upstream', () => {
    expect(effectiveStatus({ ownStatus: null, upstreamStatus: null })).toBeNull();
    expect(effectiveStatus({ ownStatus: null, upstreamStatus: 'deleted' })).toBe('deleted');
    expect(effectiveStatus({ ownStatus: 'takendown', upstreamStatus: null })).toBe('takendown');
    expect(effectiveStatus({ ownStatus: 'takendown', upstreamStatus: 'deleted' })).toBe('takendown');
  });
});

describe('#account', () => {
  const said: readonly [boolean, string | null, string | null][] = [
    [true, null, null],
    [true, 'deactivated', null],
    [false, 'deleted', 'deleted'],
    [false, null, 'deactivated'],
    [false, 'something new', 'something new'],
    [false, 'x'.repeat(200), 'x'.repeat(64)],
  ];
  for (const [active, status, held] of said) {
    test(`active ${active} with status ${status?.slice(0, 20)} is held as ${held?.slice(0, 20)}, under a takedown too`, () => {
      for (const ownStatus of [null, 'takendown']) {
        const account = accountWith({ ownStatus, upstreamStatus: 'suspended' });
        expect(decide(account, eventWith({ kind: KIND.account, active, status }), 'strict').ok).toBe(true);
        expect(account.upstreamStatus).toBe(held);
        expect(account.ownStatus).toBe(ownStatus);
      }
    });
  }
});

describe('#identity', () => {
  const cases: readonly [string | null, Partial<Account>, 'drop_handle' | null][] = [
    ['alice.example.com', {}, null],
    ['Alice.Example.COM', {}, null],
    [null, {}, null],
    ['mallory.example.com', {}, 'drop_handle'],
    ['alice.example.com', { handle: null }, 'drop_handle'],
    ['alice.example.com', { handle: null, identityAtMs: 0 }, null],
  ];
  for (const [handle, over, rewrite] of cases) {
    test(`with handle ${handle}, where the document says ${'handle' in over ? over.handle : 'alice.example.com'}${over.identityAtMs === 0 ? ' as far as we know' : ''}: ${rewrite ?? 'as it is'}`, () => {
      expect(decide(accountWith(over), eventWith({ kind: KIND.identity, handle }), 'strict')).toEqual({
        ...PASSES,
        rewrite,
      });
    });
  }
});

describe('revs', () => {
  const OTHER = 'o'.repeat(32);
  type Outcome =
    | 'pass'
    | 'discontinuity'
    | 'rev_stale'
    | 'prev_data_missing'
    | 'lenient'
    | 'lenient discontinuity';
  const cases: readonly [string, Partial<Account>, Partial<VerifiedEvent>, Outcome, Outcome][] = [
    ['a commit that follows', {}, {}, 'pass', 'pass'],
    ['a commit of the rev we hold', {}, { rev: '3l2222222222a' }, 'rev_stale', 'rev_stale'],
    ['an older commit', {}, { rev: '3l22222222222' }, 'rev_stale', 'rev_stale'],
    ['a commit with another prevData', {}, { prevData: OTHER }, 'discontinuity', 'discontinuity'],
    ['a commit with another since', {}, { since: '3l22222222222' }, 'discontinuity', 'discontinuity'],
    ['a commit without since', {}, { since: null }, 'discontinuity', 'discontinuity'],
    ['a commit without prevData', {}, { prevData: null }, 'prev_data_missing', 'lenient'],
    [
      'a commit without prevData and with another since',
      {},
      { prevData: null, since: null },
      'prev_data_missing',
      'lenient discontinuity',
    ],
    [
      'a first commit',
      { rev: null, commit: null, data: null },
      { since: null, prevData: null },
      'pass',
      'pass',
    ],
    ['a first commit of a repo that has a past', { rev: null, commit: null, data: null }, {}, 'pass', 'pass'],
    ['a sync that is newer', {}, { kind: KIND.sync, since: null, prevData: null }, 'pass', 'pass'],
    ['a sync of the rev we hold', {}, { kind: KIND.sync, rev: '3l2222222222a' }, 'rev_stale', 'rev_stale'],
    ['an older sync', {}, { kind: KIND.sync, rev: '3l22222222222' }, 'rev_stale', 'rev_stale'],
  ];
  for (const [name, over, event, strict, lenient] of cases) {
    for (const [validation, outcome] of [
      ['strict', strict],
      ['lenient', lenient],
    ] as const) {
      test(`${name}, ${validation}: ${outcome}`, () => {
        for (const desynchronized of [false, true]) {
          const account = accountWith({ ...over, desynchronized });
          const before = { ...account };
          const given = eventWith(event);
          const decision = decide(account, given, validation);
          if (outcome === 'rev_stale' || outcome === 'prev_data_missing') {
            expect(decision).toMatchObject({ ok: false, reason: outcome });
            expect(account).toEqual(before);
            continue;
          }
          const discontinuity = outcome.includes('discontinuity');
          expect(decision).toEqual({
            ...PASSES,
            discontinuity,
            lenient: outcome.startsWith('lenient') ? 'prev_data_missing' : null,
          });
          expect(account).toEqual({
            ...before,
            rev: given.rev,
            commit: given.commit,
            data: given.data,
            desynchronized: discontinuity,
          });
        }
      });
    }
  }
});
