import type { Kind } from '../firehose/types.ts';
import type { CloseOutcome } from '../hosts/types.ts';
import type { Reason } from '../reasons.ts';

/**
 * One frame that the worker is done with: verified, to be decided on by the sequencer. Frames that the worker
 * refused itself arrive as `IngestRejection`. Both are in per-DID order.
 */
export interface VerifiedEvent {
  readonly hostId: number;
  readonly kind: Kind;
  readonly upstreamSeq: number;
  readonly did: string;
  /** The frame, deprecated fields already filled in. */
  readonly frame: Uint8Array;
  readonly seqStart: number;
  readonly seqEnd: number;
  readonly opCount: number;
  /** commit and sync; '' otherwise. */
  readonly rev: string;
  readonly since: string | null;
  readonly commit: Uint8Array | null;
  readonly data: Uint8Array | null;
  readonly prevData: Uint8Array | null;
  /** Lenient mode: the rule it broke. */
  readonly lenient: Reason | null;
  /** account. */
  readonly active: boolean;
  readonly status: string | null;
  /** identity. */
  readonly handle: string | null;
}

export interface IngestRejection {
  readonly hostId: number;
  readonly did: string;
  readonly kind: Kind | 0;
  readonly upstreamSeq: number;
  readonly rev: string;
  readonly reason: Reason;
  readonly detail: string;
}

/** Everything at or below `cursor` of that host is in this batch, an earlier one, or was dropped on purpose. */
export interface HostProgress {
  readonly hostId: number;
  readonly cursor: number;
}

export interface IngestBatch {
  readonly events: readonly VerifiedEvent[];
  readonly rejections: readonly IngestRejection[];
  readonly progress: readonly HostProgress[];
  /** Bytes to give back to the worker's bound once the batch is appended. */
  readonly bytes: number;
}

export interface IngestEvents {
  opened(hostId: number, server: string): void;
  closed(hostId: number, outcome: CloseOutcome): void;
  batch(batch: IngestBatch): void;
}
