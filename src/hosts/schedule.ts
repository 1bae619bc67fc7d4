/** A binary heap of members by due time, each in it at most once: moving or removing one costs O(log n). */
export interface Schedule<T extends object> {
  /** Sets, moves or (null) removes the member's due time. */
  set(member: T, dueAtMs: number | null): void;
  /** The earliest due time; null when empty. */
  readonly earliestMs: number | null;
  /** Takes out the earliest member if it is due; null otherwise. */
  takeDue(nowMs: number): T | null;
  readonly size: number;
}

export const createSchedule = <T extends object>(): Schedule<T> => {
  const heap: T[] = [];
  const due: number[] = [];
  const place = new Map<T, number>();

  const put = (index: number, member: T, dueAtMs: number): void => {
    heap[index] = member;
    due[index] = dueAtMs;
    place.set(member, index);
  };
  const rise = (from: number, member: T, dueAtMs: number): number => {
    let index = from;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (due[parent]! <= dueAtMs) break;
      put(index, heap[parent]!, due[parent]!);
      index = parent;
    }
    put(index, member, dueAtMs);
    return index;
  };
  const sink = (from: number, member: T, dueAtMs: number): void => {
    let index = from;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && due[child + 1]! < due[child]!) child++;
      if (due[child]! >= dueAtMs) break;
      put(index, heap[child]!, due[child]!);
      index = child;
    }
    put(index, member, dueAtMs);
  };
  const removeAt = (index: number): void => {
    place.delete(heap[index]!);
    const last = heap.pop()!;
    const lastDue = due.pop()!;
    if (index === heap.length) return;
    if (rise(index, last, lastDue) === index) sink(index, last, lastDue);
  };
  return {
    set(member, dueAtMs) {
      const index = place.get(member);
      if (index !== undefined) {
        if (due[index] === dueAtMs) return;
        removeAt(index);
      }
      if (dueAtMs === null) return;
      heap.push(member);
      due.push(dueAtMs);
      rise(heap.length - 1, member, dueAtMs);
    },
    get earliestMs() {
      return due[0] ?? null;
    },
    takeDue(nowMs) {
      if (heap.length === 0 || due[0]! > nowMs) return null;
      const member = heap[0]!;
      removeAt(0);
      return member;
    },
    get size() {
      return heap.length;
    },
  };
};
