import type { Kind } from '../firehose/types.ts';
import type { CloseOutcome, IngestControl } from '../hosts/types.ts';
import type { Reason } from '../reasons.ts';

/**
 * One frame that ingest is done with: verified, to be decided on by the sequencer. Digests are 32 bytes as
 * latin1 text: half the memory of a typed array, and compared by value.
 */
export interface VerifiedEvent {
  readonly hostId: number;
  readonly kind: Kind;
  readonly upstreamSeq: number;
  readonly did: string;
  /** The frame, deprecated fields already filled in; its seq value stands at [seqStart, seqEnd). */
  readonly frame: Uint8Array;
  readonly seqStart: number;
  readonly seqEnd: number;
  readonly opCount: number;
  /** commit and sync; '' otherwise. */
  readonly rev: string;
  readonly since: string | null;
  /** commit and sync: digest of the commit block. */
  readonly commit: string | null;
  /** commit and sync: digest of the MST root. */
  readonly data: string | null;
  /** commit: digest of the MST root before; null when the host did not send it. */
  readonly prevData: string | null;
  /** Lenient mode: the rule it broke. */
  readonly lenient: Reason | null;
  /** account. */
  readonly active: boolean;
  readonly status: string | null;
  /** identity. */
  readonly handle: string | null;
}

/** One frame that ingest refused. */
export interface IngestRejection {
  readonly hostId: number;
  readonly did: string;
  readonly upstreamSeq: number;
  readonly rev: string;
  /** By what was known of its account then: it must not be judged again, by what is known later. */
  readonly judged: boolean;
  readonly reason: Reason;
  readonly detail: string;
}

/** Everything at or below `cursor` of that host is in this batch, an earlier one, or was dropped on purpose. */
export interface HostProgress {
  readonly hostId: number;
  /** 0: nothing yet. */
  readonly cursor: number;
  /** Frames of that host that wait for an identity now. */
  readonly held: number;
}

export interface IngestBatch {
  readonly events: readonly VerifiedEvent[];
  readonly rejections: readonly IngestRejection[];
  readonly progress: readonly HostProgress[];
  /** Bytes, of refused frames too, to give back by `acknowledge` once the batch is sequenced. */
  readonly bytes: number;
}

/** A question to the core: whose key, which PDS. `fresh`: what is stored may be out of date, ask the directory. */
export interface IdentityRequest {
  readonly did: string;
  readonly fresh: boolean;
  /** The host whose event asks. */
  readonly hostname: string;
}

/** The answer; exactly one per request. */
export interface IdentityAnswer {
  readonly did: string;
  /** hostname[:port] of its PDS. */
  readonly pds: string | null;
  readonly keyType: 'p256' | 'k256' | null;
  /** 33-byte compressed key as latin1 text. */
  readonly key: string | null;
  /** Why the DID is unusable for good as it stands; null = usable. */
  readonly reason: Reason | null;
  /** When the look-up behind this answer was made, ms. */
  readonly atMs: number;
  /** The look-up failed for a passing reason, and the pause after it is over: ask again if anyone still waits. */
  readonly again: boolean;
  /** As it was asked. */
  readonly fresh: boolean;
  /** As it was asked. */
  readonly hostname: string;
}

export type PausedFor = 'rate_limit' | 'pending_identities';

/** What ingest tells the core. Calls of one ingest thread arrive in order. */
export interface IngestEvents {
  opened(hostId: number, server: string): void;
  closed(hostId: number, outcome: CloseOutcome): void;
  batch(batch: IngestBatch): void;
  identify(requests: readonly IdentityRequest[]): void;
  /** An #info frame of the host (OutdatedCursor: events were missed). */
  info(hostId: number, name: string, message: string): void;
  paused(hostId: number, pausedFor: PausedFor | null): void;
}

/** Numbers for the metrics, cumulative but for those that say otherwise. */
export interface IngestCounters {
  frames: number;
  bytes: number;
  /** Now. */
  bytesInFlight: number;
  /** Now: frames waiting for the identity of their DID. */
  heldFrames: number;
  /** Now. */
  heldBytes: number;
  /** Now: identities asked for, by host and DID. */
  heldDids: number;
  /** Frames already in the log that a host sent again. */
  skippedFrames: number;
  textMessages: number;
  pauses: number;
  identityHits: number;
  identityMisses: number;
  /** Frames thrown away with a connection, to be sent again by the host. */
  discardedFrames: number;
}

/** One ingest thread, seen from the core. */
export interface Ingest extends IngestControl {
  identified(answers: readonly IdentityAnswer[]): void;
  /** Another thread learned something new about the DID: it is asked for again when it is needed. */
  forget(did: string): void;
  /** Gives back the bytes of a batch that is sequenced: once for each, in their order; its frames are not read again. */
  acknowledge(bytes: number): void;
  readonly counters: Readonly<IngestCounters>;
  /** Ends all connections; resolves when nothing more will be called. */
  stop(): Promise<void>;
}
