import type { HostView } from '../../hosts/types.ts';

/** The words of listHosts that mean trouble, worst first; anything else comes after them. */
const TROUBLE = ['offline', 'throttled', 'banned', 'idle'];

/** Share of its account limit from which on a host is shown as near it. */
export const NEAR_LIMIT = 0.9;

export const statusOf = (view: HostView): string => (view.row.banned ? 'banned' : view.row.status);

export const isNearLimit = (view: HostView): boolean =>
  view.accountLimit > 0 && view.row.accountCount >= view.accountLimit * NEAR_LIMIT;

export const rejectionCount = (view: HostView): number => {
  let count = 0;
  for (const reason in view.rejectionsSinceStart) {
    count += view.rejectionsSinceStart[reason as keyof typeof view.rejectionsSinceStart] ?? 0;
  }
  return count;
};

const severity = (view: HostView): number => {
  const trouble = TROUBLE.indexOf(statusOf(view));
  if (trouble >= 0) return trouble;
  if (!view.connected) return TROUBLE.length;
  if (isNearLimit(view)) return TROUBLE.length + 1;
  return view.pausedFor === null ? TROUBLE.length + 3 : TROUBLE.length + 2;
};

/** How the list can be sorted: by trouble (the default), or by one column. */
export const SORTS = ['problems', 'status', 'hostname', 'accounts', 'events', 'rejections', 'id'] as const;
export type Sort = (typeof SORTS)[number];

const compare: Record<Sort, (a: HostView, b: HostView) => number> = {
  problems: (a, b) => severity(a) - severity(b),
  status: (a, b) => (statusOf(a) < statusOf(b) ? -1 : statusOf(a) > statusOf(b) ? 1 : 0),
  hostname: (a, b) => (a.row.hostname < b.row.hostname ? -1 : 1),
  accounts: (a, b) => b.row.accountCount - a.row.accountCount,
  events: (a, b) => b.eventsSinceStart - a.eventsSinceStart,
  rejections: (a, b) => rejectionCount(b) - rejectionCount(a),
  id: (a, b) => a.row.hostId - b.row.hostId,
};

/** A sorted copy; equal ones oldest first. */
export const sortHosts = (views: readonly HostView[], sort: Sort): HostView[] =>
  [...views].sort((a, b) => compare[sort](a, b) || a.row.hostId - b.row.hostId);
