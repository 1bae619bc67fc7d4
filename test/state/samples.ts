import type { AccountRow, Flush, HostRow } from '../../src/state/types.ts';

/** A 13-character TID whose order is that of `n`. */
export const tid = (n: number): string => {
  const digits = '234567abcdefghijklmnopqrstuvwxyz';
  let text = '';
  for (let i = 0, rest = n; i < 13; i++, rest = Math.floor(rest / 32)) text = digits[rest % 32] + text;
  return text;
};

export const digest = (n: number): Uint8Array => new Uint8Array(32).fill(n % 256);

export const account = (did: string, fields: Partial<AccountRow> = {}): AccountRow => ({
  did,
  hostId: 1,
  ownStatus: null,
  upstreamStatus: null,
  rev: tid(1),
  commit: digest(1),
  data: digest(2),
  desynchronized: false,
  keyType: 'k256',
  key: new Uint8Array(33).fill(3),
  handle: 'alice.example.com',
  identityAtMs: 1_700_000_000_000,
  known: true,
  ...fields,
});

export const newHost = (hostname: string, fields: Partial<HostRow> = {}): Omit<HostRow, 'hostId'> => ({
  hostname,
  secure: true,
  source: 'config',
  banned: false,
  status: 'active',
  cursor: 0,
  ahead: [],
  accountCount: 0,
  expectedAccounts: 0,
  accountLimit: null,
  eventsPerSecondLimit: null,
  validation: null,
  createdAtMs: 1_700_000_000_000,
  lastEventAtMs: 0,
  connectedUntilMs: null,
  failures: 0,
  ...fields,
});

export const flushOf = (position: number, fields: Partial<Flush> = {}): Flush => ({
  position,
  accounts: [],
  hosts: [],
  rejections: [],
  gaps: [],
  ...fields,
});
