import type { Server, ServerWebSocket } from 'bun';
import type { BackfillStatus } from '../backfill/types.ts';
import type { CollectionsStatus } from '../collections/types.ts';
import type { HostView, Roster } from '../hosts/types.ts';
import type { AccountRow, GapRow, RejectionRow, State } from '../state/types.ts';

/** What every socket carries: who handles it. One Bun server has one websocket handler, which dispatches on this. */
export interface EdgeSocketData {
  readonly handlers: EdgeHandlers;
  /** Bytes of a message that it may send; more closes the socket with 1009. The server's default when absent. */
  readonly maxMessageBytes?: number;
}

/** A socket whose data an edge narrows itself. */
export type EdgeSocket = ServerWebSocket<EdgeSocketData>;

export interface EdgeHandlers {
  open(socket: EdgeSocket): void;
  message(socket: EdgeSocket, message: string | Uint8Array): void;
  drain(socket: EdgeSocket): void;
  close(socket: EdgeSocket, code: number, reason: string): void;
  pong(socket: EdgeSocket): void;
}

/** What the server knows about a request that the edge should use as its own. */
export interface UpgradeContext {
  /** The consumer's address, behind a local reverse proxy the one it forwards. */
  readonly remoteAddress: string;
  /** Headers for the answer to the upgrade. */
  readonly headers: Readonly<Record<string, string>>;
}

/** A room that tails the log and serves sockets on one or more paths. */
export interface Edge {
  /** undefined: upgraded. A response otherwise: why not. */
  upgrade(
    request: Request,
    server: Server<EdgeSocketData>,
    context?: Partial<UpgradeContext>,
  ): Response | undefined;
  readonly websocket: EdgeHandlers;
  /** Says goodbye to every consumer; resolves when they are gone. */
  close(): Promise<void>;
}

/** One consumer of an edge, as the admin route and the pages show it. */
export interface ConsumerView {
  readonly id: number;
  /** Which edge, or endpoint of one, serves it. */
  readonly edge?: string;
  readonly remoteAddress: string;
  readonly userAgent: string;
  /** Last seq handed to its socket. */
  readonly seq: number;
  /** How many seqs it is behind the newest durable one. */
  readonly behind: number;
  /** live: at the end; reading: catching up from the log; blocked: its socket does not take more right now. */
  readonly mode: 'live' | 'reading' | 'blocked' | 'closing';
  readonly eventsSent: number;
  readonly bytesSent: number;
  /** Bytes waiting in its socket's queue in this process. */
  readonly queuedBytes: number;
  readonly connectedAtMs: number;
}

/** Accounts as the sequencer holds them: newer than the database. */
export interface Accounts {
  /** null: unknown. Rejects only for a database failure. */
  lookup(did: string): Promise<AccountRow | null>;
  /** Own status first, then upstream. `status` is absent when active. */
  effective(row: AccountRow): { readonly active: boolean; readonly status?: string };
}

/** What a host's page shows. */
export interface HostPage {
  readonly view: HostView;
  readonly rejections: readonly RejectionRow[];
  readonly gaps: readonly GapRow[];
}

/** What an account's page shows. */
export interface AccountPage {
  readonly row: AccountRow;
  readonly active: boolean;
  readonly status: string | null;
  readonly host: HostView | null;
  readonly rejections: readonly RejectionRow[];
}

/** What the front page shows. */
export interface Summary {
  readonly hosts: number;
  readonly connectedHosts: number;
  readonly accounts: number;
  readonly consumers: number;
  readonly lastSeq: number;
  readonly oldestSeq: number;
}

/** What the pages for people read. */
export interface Pages {
  summary(): Promise<Summary>;
  hosts(): readonly HostView[];
  host(hostname: string): Promise<HostPage | null>;
  account(did: string): Promise<AccountPage | null>;
  /** Absent: this relay keeps no collection index. */
  readonly collections?: () => Promise<CollectionsPage>;
}

/** What the page of the collection index shows. */
export interface CollectionsPage {
  readonly status: CollectionsStatus;
  /** The last run; null: there was none. */
  readonly backfill: BackfillStatus | null;
}

/** The parts of the state that the API reads. */
export type ApiState = Pick<
  State,
  'listRepos' | 'firstActiveRepo' | 'rejectionsOfHost' | 'rejectionsOfAccount' | 'gapsOfHost' | 'counts'
>;

/** The parts of the roster that the API uses. */
export type ApiRoster = Pick<Roster, 'list' | 'get' | 'getById' | 'requestCrawl' | 'ban' | 'unban'>;
