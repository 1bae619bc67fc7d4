import type { Reason } from '../reasons.ts';

/** The parts of a DID document that a relay needs. */
export interface Identity {
  readonly did: string;
  /** PDS host as hostname, or hostname:port when not the default port; lower case. null: none usable. */
  readonly pds: string | null;
  /** null: none usable. */
  readonly signingKey: { readonly type: 'p256' | 'k256'; readonly compressed: Uint8Array } | null;
  /** The first at:// alias, lower case; null: none. */
  readonly handle: string | null;
}

export type IdentityResult =
  | { readonly ok: true; readonly identity: Identity }
  /** `passing`: try again later (timeout, 5xx, 429, network, overload); otherwise the DID is unusable as it stands. */
  | {
      readonly ok: false;
      readonly passing: boolean;
      readonly reason: Reason;
      readonly detail: string;
      /** Passing failures: how long from now the same question will be answered from memory. Ask again after that. */
      readonly retryAfterMs?: number;
    };

export interface ResolveOptions {
  /** Passes by the cache. */
  readonly fresh?: boolean;
  /** The host whose event asks. Look-ups take turns between hosts, so that one host's flood delays only itself. */
  readonly forHost?: string;
}

export interface Resolver {
  /**
   * Coalesced, bounded, with timeouts and negative caching. `fresh` passes by the cache; asked too often for one
   * DID by one host, it is a passing failure that says when to come back.
   * Never rejects. Overload (queue full) is a passing failure.
   */
  resolve(did: string, options?: ResolveOptions): Promise<IdentityResult>;
  readonly counters: Readonly<Record<string, number>>;
  close(): void;
}
