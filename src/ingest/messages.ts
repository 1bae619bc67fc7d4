import type { CloseOutcome, HostLimits, IngestControl } from '../hosts/types.ts';
import type { IngestOptions } from './ingest.ts';
import type { IdentityAnswer, IdentityRequest, IngestCounters, PausedFor } from './types.ts';

export type WorkerOptions = Omit<IngestOptions, 'subscribe' | 'nowMs'>;

/** Core → ingest thread. */
export type ToWorker =
  | { readonly kind: 'start'; readonly options: WorkerOptions }
  | { readonly kind: 'connect'; readonly command: Parameters<IngestControl['connect']>[0] }
  | { readonly kind: 'disconnect'; readonly hostId: number }
  | { readonly kind: 'limits'; readonly hostId: number; readonly limits: HostLimits }
  | { readonly kind: 'identified'; readonly answers: readonly IdentityAnswer[] }
  | { readonly kind: 'forget'; readonly did: string }
  /** The oldest batch that is under way: its memory is the thread's again. */
  | { readonly kind: 'acknowledge'; readonly bytes: number }
  | { readonly kind: 'stop' };

/** Ingest thread → core. A batch that has memory of its own comes as a bare ArrayBuffer (see wire.ts). */
export type FromWorker =
  /** In the piece of that number, which comes with the first batch in it (see batch-memory.ts). */
  | { readonly kind: 'batch'; readonly number: number; readonly memory: SharedArrayBuffer | null }
  | { readonly kind: 'opened'; readonly hostId: number; readonly server: string }
  | { readonly kind: 'closed'; readonly hostId: number; readonly outcome: CloseOutcome }
  | { readonly kind: 'identify'; readonly requests: readonly IdentityRequest[] }
  | { readonly kind: 'info'; readonly hostId: number; readonly name: string; readonly message: string }
  | { readonly kind: 'paused'; readonly hostId: number; readonly pausedFor: PausedFor | null }
  | { readonly kind: 'counters'; readonly counters: IngestCounters }
  | { readonly kind: 'stopped' };
