/**
 * A whole AT Protocol network on one machine: a PLC directory and many PDSes on ports of localhost, with
 * accounts that sign real commits. It owns the accounts and their repos, makes events happen (by a seeded
 * traffic or one at a time), and writes into its ledger what a relay must make of each.
 *
 * It promises: the same options give the same accounts, keys, records and the same order of events per host;
 * with a fixed clock the same bytes. Only times (revs, record keys, `time`) come from the clock. Faults of the
 * directory and of connections depend on when others ask, and are not part of that promise.
 * It shares no code with the relay, so that it can be its judge.
 */
import {
  type Account,
  type AccountStatus,
  applyCommit,
  commitMessage,
  keyOf,
  nextRevMicros,
  prepareCommit,
  repoCar,
  revText,
  signCommit,
  syncMessage,
  type Write,
} from './account.ts';
import { sha256 } from './cbor.ts';
import {
  type Directory,
  type DirectoryFaults,
  documentOf,
  noDirectoryFaults,
  startDirectory,
} from './directory.ts';
import {
  EVENT_FAULTS,
  type FaultTools,
  type FrameAbout,
  faultsNamed,
  HOST_FAULTS,
  type HostFault,
  type PlcFault,
} from './faults.ts';
import { encodeMessage, type Message } from './frames.ts';
import { createHost, type Host, type HostSurroundings, startHost, stopHost, webDidOf } from './host.ts';
import { createLedger, type Ledger, type LedgerEntry, type LedgerLine } from './ledger.ts';
import { createPopulation } from './population.ts';
import { createRandom, mixSeed } from './random.ts';
import type { MemoryStore, StreamCounters } from './stream.ts';
import { createTraffic, LIVE_MIX, type Mix } from './traffic.ts';

export interface NetworkOptions {
  readonly hosts: number;
  readonly accounts: number;
  readonly seed?: number;
  /** Events per second over all hosts, as a Poisson process; 0 (default): only what is asked for. */
  readonly ratePerSecond?: number;
  /** First port of the hosts; 0 (default): any free ports. */
  readonly basePort?: number;
  /** 0 (default): any free port. */
  readonly plcPort?: number;
  readonly largeRepoRecords?: number;
  /** Share of accounts with a large repo, 0…1. */
  readonly largeRepoShare?: number;
  /** Events each host keeps for cursors; a subscriber that is further behind loses some, so at least about 100. */
  readonly windowEvents?: number;
  /** Bytes all hosts together keep for cursors; beyond it the oldest events of all are forgotten. */
  readonly windowMaxBytes?: number;
  readonly p256Share?: number;
  readonly legacyDocumentShare?: number;
  /** How uneven hosts are: weight of host i is 1/(i+1)^exponent. */
  readonly hostZipfExponent?: number;
  readonly mix?: Mix;
  /** Probabilities by fault or group name, as `setFault` takes them. */
  readonly faults?: Readonly<Record<string, number>>;
  /** Milliseconds since 1970. */
  readonly clock?: () => number;
  readonly ledgerEntries?: number;
  readonly ledgerPath?: string | undefined;
  /** Takes every event instead of the hosts' windows and the ledger: for recordings. */
  readonly onEmitted?: (event: Emitted) => void;
}

/** One event as it leaves a host. */
export interface Emitted {
  readonly hostIndex: number;
  readonly seq: number;
  readonly frame: Uint8Array | string;
  /** No event of the stream: who connects later does not get it. */
  readonly isLiveOnly?: boolean;
  readonly line: LedgerLine;
}

export interface NetworkCounters extends StreamCounters {
  events: number;
  eventBytes: number;
  windowBytes: number;
}

export interface Network {
  /** Empty until started. */
  readonly plcUrl: string;
  readonly hosts: readonly Host[];
  readonly accounts: readonly Account[];
  readonly ledger: Ledger;
  readonly counters: NetworkCounters;
  /** Settable while it runs. */
  readonly directoryFaults: DirectoryFaults;
  ratePerSecond: number;

  /** Opens the directory and all hosts, and starts the traffic if there is a rate. Throws when a port is taken. */
  start(): Promise<void>;
  /** Closes everything; the network can be started again. */
  stop(): Promise<void>;
  find(did: string): Account | undefined;
  /** The whole repo of an account as a CAR. */
  carOf(account: Account): Uint8Array;
  /** Makes the next `count` events of the traffic happen now. */
  generate(count: number): void;

  /** A new account: #identity, #account, an empty first #commit, and its #sync, as a PDS sends them. */
  createAccount(hostIndex: number): Account;
  /** The same with the did:web of the host's name, whose document the host serves: one a host, which must run. */
  createWebAccount(hostIndex: number): Account;
  /** Commits these writes, or drawn ones; returns the ledger's entry. Throws on an impossible write. */
  commit(account: Account, writes?: readonly Write[]): LedgerEntry;
  /** A new commit of the unchanged repo, announced by #sync only. */
  sync(account: Account): LedgerEntry;
  /** #identity with nothing changed. */
  identity(account: Account): LedgerEntry;
  changeHandle(account: Account, handle: string): LedgerEntry;
  /** A new signing key: the directory first, then #identity. */
  rotateKey(account: Account): LedgerEntry;
  /** #account with this status. */
  setStatus(account: Account, status: AccountStatus): LedgerEntry;
  /** #account deleted; with `tombstone` the directory answers 410 from now on. */
  deleteAccount(account: Account, options?: { tombstone?: boolean }): LedgerEntry;
  /** Moves an account: directory, then the new host's #identity, #account and #sync, then the old host's #account. */
  migrate(account: Account, toHostIndex: number): void;

  /**
   * Makes a fault happen by itself from now on: an event fault after that share of the traffic's events, a host
   * fault that often a second, a directory fault at that share of requests. A group's name sets all its faults.
   * A directory that no longer stalls answers those it has let wait.
   * Throws on an unknown name or a probability outside 0…1.
   */
  setFault(name: string, probability: number): void;
  /** Makes an event fault happen now, by this account; returns its ledger entries. Throws on an unknown name. */
  inject(name: string, account: Account): LedgerEntry[];

  /** Cuts all subscribers of a host, without a closing handshake. */
  dropConnections(hostIndex: number): void;
  /** While stalled a host keeps its sockets open and sends nothing. */
  stallHost(hostIndex: number, stalled: boolean): void;
  /** While refusing a host answers 503 to everything; open sockets stay. */
  refuseHost(hostIndex: number, refusing: boolean): void;
  /** Every HTTP answer and upgrade of the host waits this long. */
  slowHost(hostIndex: number, delayMs: number): void;
  /** Closes the host's port: connections are refused by the system. */
  closeHost(hostIndex: number): Promise<void>;
  /** Opens it again on the same port. */
  reopenHost(hostIndex: number): void;
  /** The host forgets all its events: older cursors get OutdatedCursor. */
  loseWindow(hostIndex: number): void;
  /** The host starts its seqs over: cursors held by others lie in the future. */
  resetSeq(hostIndex: number): void;
}

const DEFAULT_WINDOW_EVENTS = 10_000;
const DEFAULT_WINDOW_MAX_BYTES = 256 * 1024 * 1024;
const PLC_FAULT_FIELDS = {
  'plc-error': 'error',
  'plc-limited': 'limited',
  'plc-delay': 'delay',
  'plc-stall': 'stall',
  'plc-garbage': 'garbage',
} as const satisfies Record<PlcFault, keyof DirectoryFaults>;
/** So that a burst does not run out of a small window before subscribers had it. */
const PUMP_EVENTS = 64;
/** Entries of the windows' order that may mean nothing before it is tidied. */
const ORDER_SLACK = 65_536;
const TICK_MS = 10;
/** After a pause of the process, the traffic makes up for at most this much. */
const MAX_CATCH_UP_MS = 1000;
/** An account's directory entry changes only after it was quiet: a relay that lags may look it up late. */
const QUIET_BEFORE_CHANGE_MS = 5000;
/** How long a fault of a whole host lasts. */
const HOST_FAULT_MS = 3000;
const HOST_SLOW_MS = 2000;

/** Builds the network; nothing listens until `start`. */
export const createNetwork = async (options: NetworkOptions): Promise<Network> => {
  if (!(options.hosts >= 1) || !(options.accounts >= 1)) {
    throw new Error('a network needs at least one host and one account');
  }
  const seed = options.seed ?? 1;
  const clock = options.clock ?? Date.now;
  const mix = options.mix ?? LIVE_MIX;
  const windowEvents = options.windowEvents ?? DEFAULT_WINDOW_EVENTS;
  const windowMaxBytes = options.windowMaxBytes ?? DEFAULT_WINDOW_MAX_BYTES;
  const hostZipfExponent = options.hostZipfExponent ?? 1;
  const counters: NetworkCounters = {
    connected: 0,
    framesSent: 0,
    bytesSent: 0,
    backpressure: 0,
    events: 0,
    eventBytes: 0,
    windowBytes: 0,
  };
  const population = createPopulation({
    seed,
    hosts: options.hosts,
    accounts: options.accounts,
    largeRepoRecords: options.largeRepoRecords ?? 20_000,
    largeRepoShare: options.largeRepoShare ?? 0.01,
    p256Share: options.p256Share ?? 0.1,
    legacyDocumentShare: options.legacyDocumentShare ?? 0.3,
    hostZipfExponent,
    startMs: clock(),
  });
  const traffic = createTraffic(seed, options.hosts, hostZipfExponent, population);
  const directoryRandom = createRandom(mixSeed(seed, 3));
  const ledger = createLedger({
    ...(options.ledgerEntries === undefined ? {} : { maxEntries: options.ledgerEntries }),
    path: options.ledgerPath,
  });
  const hosts: Host[] = [];
  for (let i = 0; i < options.hosts; i++) {
    const host = createHost(i, windowEvents, counters);
    // Hosts have a past: their first seq here is not their first ever.
    host.stream.lastSeq = createRandom(mixSeed(seed, 4, i)).below(1_000_000);
    hosts.push(host);
  }
  for (const account of population.accounts) hosts[account.hostIndex]!.accounts.push(account);

  // The order in which events entered the windows, to forget the oldest of all hosts when bytes run out.
  // A host's own window may have forgotten some first: that many of its entries here mean nothing any more.
  let order: number[] = [];
  let orderStart = 0;
  let emptyEntries = 0;
  const alreadyForgotten = new Uint32Array(options.hosts);
  const memoryOf = (hostIndex: number): MemoryStore => hosts[hostIndex]!.stream.store as MemoryStore;
  const leaveEmpty = (hostIndex: number, entries: number): void => {
    alreadyForgotten[hostIndex] = alreadyForgotten[hostIndex]! + entries;
    emptyEntries += entries;
  };
  const isEmptyEntry = (hostIndex: number): boolean => {
    if (alreadyForgotten[hostIndex] === 0) return false;
    alreadyForgotten[hostIndex]!--;
    emptyEntries--;
    return true;
  };
  const shrinkWindow = (): void => {
    while (counters.windowBytes > windowMaxBytes && orderStart < order.length) {
      const hostIndex = order[orderStart++]!;
      if (!isEmptyEntry(hostIndex)) counters.windowBytes -= memoryOf(hostIndex).dropOldest();
    }
    if ((orderStart + emptyEntries) * 2 > order.length + ORDER_SLACK) {
      order = order.slice(orderStart).filter((hostIndex) => !isEmptyEntry(hostIndex));
      orderStart = 0;
    }
  };

  const touched = new Set<Host>();
  let isBatching = false;
  const pumpTouched = (): void => {
    for (const host of touched) host.stream.pump();
    touched.clear();
  };

  const publish = (event: Emitted): LedgerEntry => {
    const host = hosts[event.hostIndex]!;
    if (!('append' in host.stream.store)) {
      throw new Error('a network that plays a recording has no other events');
    }
    counters.events++;
    counters.eventBytes += event.frame.length;
    counters.windowBytes += event.frame.length;
    const freed = memoryOf(event.hostIndex).append(event.seq, event.frame, event.isLiveOnly);
    if (freed > 0) {
      counters.windowBytes -= freed;
      leaveEmpty(event.hostIndex, 1);
    }
    order.push(event.hostIndex);
    shrinkWindow();
    touched.add(host);
    const entry = ledger.record(event.line);
    if (!isBatching) pumpTouched();
    return entry;
  };

  const { onEmitted } = options;
  const sink =
    onEmitted === undefined
      ? publish
      : (event: Emitted): LedgerEntry => {
          onEmitted(event);
          return { n: 0, ...event.line };
        };

  type About = Omit<LedgerLine, 'timeMs' | 'host' | 'seq' | 'expectation'> & {
    readonly expectation?: string;
  };

  const emit = (hostIndex: number, message: (seq: number) => Message, about: About): LedgerEntry => {
    const { stream, hostname } = hosts[hostIndex]!;
    const seq = ++stream.lastSeq;
    return sink({
      hostIndex,
      seq,
      frame: encodeMessage(message(seq)),
      line: { timeMs: clock(), host: hostname, seq, expectation: 'deliver', ...about },
    });
  };

  const settle = (account: Account): void => {
    if (account.commitDigest !== null) return;
    // The state an account had before the run: one commit over the tree it starts with.
    account.revMicros = nextRevMicros(account, clock() - 3_600_000);
    account.rev = revText(account, account.revMicros);
    account.commitBytes = signCommit(
      account.did,
      account.rev,
      account.tree.digest,
      keyOf(account, seed).sign,
    );
    account.commitDigest = sha256(account.commitBytes);
  };

  const note = (account: Account): void => {
    account.lastEventMs = clock();
  };

  const identityOn = (hostIndex: number, account: Account, about: Partial<About> = {}): LedgerEntry => {
    note(account);
    return emit(
      hostIndex,
      (seq) => ({
        type: '#identity',
        body: {
          did: account.did,
          seq,
          time: new Date(clock()).toISOString(),
          handle: account.handle,
        },
      }),
      { kind: 'identity', did: account.did, rev: null, ...about },
    );
  };

  const accountOn = (
    hostIndex: number,
    account: Account,
    status: AccountStatus,
    about: Partial<About> = {},
  ): LedgerEntry => {
    note(account);
    return emit(
      hostIndex,
      (seq) => ({
        type: '#account',
        body: {
          did: account.did,
          seq,
          time: new Date(clock()).toISOString(),
          active: status === 'active',
          status: status === 'active' ? undefined : status,
        },
      }),
      { kind: 'account', did: account.did, rev: null, ...about },
    );
  };

  const commit = (account: Account, writes?: readonly Write[]): LedgerEntry => {
    settle(account);
    const nowMs = clock();
    const prepared = prepareCommit(account, seed, nowMs, writes ?? traffic.drawWrites(account, nowMs));
    applyCommit(account, prepared);
    note(account);
    return emit(account.hostIndex, (seq) => commitMessage(account, prepared, seq, nowMs), {
      kind: 'commit',
      did: account.did,
      rev: prepared.rev,
    });
  };

  const sync = (account: Account): LedgerEntry => {
    settle(account);
    const nowMs = clock();
    applyCommit(account, prepareCommit(account, seed, nowMs, []));
    return syncOn(account.hostIndex, account);
  };

  const syncOn = (hostIndex: number, account: Account, about: Partial<About> = {}): LedgerEntry => {
    note(account);
    const { commitBytes, commitDigest, rev } = account;
    return emit(
      hostIndex,
      (seq) =>
        syncMessage(account, { commitBytes: commitBytes!, commitDigest: commitDigest!, rev }, seq, clock()),
      { kind: 'sync', did: account.did, rev, ...about },
    );
  };

  const createAccount = (hostIndex: number, did?: string): Account => {
    const account = population.add(hostIndex, did);
    hosts[hostIndex]!.accounts.push(account);
    identityOn(hostIndex, account);
    accountOn(hostIndex, account, 'active');
    const nowMs = clock();
    const prepared = prepareCommit(account, seed, nowMs, []);
    applyCommit(account, prepared);
    emit(hostIndex, (seq) => commitMessage(account, prepared, seq, nowMs), {
      kind: 'commit',
      did: account.did,
      rev: prepared.rev,
    });
    // Says again what the commit said: same rev, same data.
    syncOn(hostIndex, account, { expectation: 'rev_stale', note: 'same rev and data as the commit' });
    return account;
  };

  const setStatus = (account: Account, status: AccountStatus): LedgerEntry => {
    account.status = status;
    return accountOn(account.hostIndex, account, status);
  };

  const rotateKey = (account: Account): LedgerEntry => {
    settle(account);
    account.keyGeneration++;
    account.key = null;
    return identityOn(account.hostIndex, account);
  };

  const changeHandle = (account: Account, handle: string): LedgerEntry => {
    account.handle = handle;
    return identityOn(account.hostIndex, account);
  };

  const migrate = (account: Account, toHostIndex: number): void => {
    settle(account);
    const from = hosts[account.hostIndex]!;
    const to = hosts[toHostIndex];
    if (to === undefined || to === from)
      throw new Error('an account migrates to another host of the network');
    from.accounts.splice(from.accounts.indexOf(account), 1);
    from.departed.set(account.did, account);
    to.departed.delete(account.did);
    to.accounts.push(account);
    account.hostIndex = toHostIndex;
    account.status = 'active';
    identityOn(toHostIndex, account);
    accountOn(toHostIndex, account, 'active');
    sync(account);
    accountOn(from.index, account, 'deactivated', {
      expectation: 'wrong_host',
      // A relay that has not yet heard of the move takes the old host at its word.
      alternatives: ['deliver'],
      note: 'the old host after a migration',
    });
  };

  const faultRandom = createRandom(mixSeed(seed, 7));
  const eventFaults = new Map<string, number>();
  const hostFaults = new Map<HostFault, number>();
  let injected: LedgerEntry[] = [];
  let injecting = '';
  let ghosts = 0;

  const tools: FaultTools = {
    seed,
    random: faultRandom,
    nowMs: clock,
    settle,
    stranger: (hostIndex) => {
      const { accounts } = population;
      const start = faultRandom.below(accounts.length);
      for (let i = 0; i < accounts.length; i++) {
        const account = accounts[(start + i) % accounts.length]!;
        if (account.hostIndex !== hostIndex && account.status === 'active') return account;
      }
      return null;
    },
    ghost: (hostIndex, tombstoned) => population.ghost(hostIndex, ghosts++, tombstoned),
    setStatus: (account, status) => {
      setStatus(account, status);
    },
    send: (hostIndex, build, about) => sendFaulty(hostIndex, build, about),
    sendAs: (hostIndex, seq, frame, about) => {
      const entry = sink(faulty(hostIndex, seq, frame, about));
      injected.push(entry);
      return entry;
    },
    sendLive: (hostIndex, frame, about) => {
      const event = faulty(hostIndex, hosts[hostIndex]!.stream.lastSeq, frame, about);
      const entry = sink({ ...event, isLiveOnly: true });
      injected.push(entry);
      return entry;
    },
    lastSeq: (hostIndex) => hosts[hostIndex]!.stream.lastSeq,
    skipSeqs: (hostIndex, count) => {
      hosts[hostIndex]!.stream.lastSeq += count;
    },
  };

  const faulty = (
    hostIndex: number,
    seq: number,
    frame: Uint8Array | string,
    about: FrameAbout,
  ): Emitted => ({
    hostIndex,
    seq,
    frame,
    line: { timeMs: clock(), host: hosts[hostIndex]!.hostname, seq, fault: injecting, ...about },
  });

  const sendFaulty: FaultTools['send'] = (hostIndex, build, about) => {
    const seq = ++hosts[hostIndex]!.stream.lastSeq;
    const entry = sink(faulty(hostIndex, seq, build(seq), about));
    injected.push(entry);
    return entry;
  };

  const inject = (name: string, account: Account): LedgerEntry[] => {
    const fault = Object.hasOwn(EVENT_FAULTS, name) ? EVENT_FAULTS[name] : undefined;
    if (fault === undefined) throw new Error(`there is no event fault named ${name}`);
    injected = [];
    injecting = name;
    note(account);
    fault(tools, account);
    return injected;
  };

  const setFault = (name: string, probability: number): void => {
    const names = faultsNamed(name);
    if (names.length === 0) throw new Error(`there is no fault named ${name}`);
    if (!(probability >= 0 && probability <= 1)) {
      throw new Error(`fault ${name}: a probability from 0 to 1 is needed`);
    }
    for (const single of names) {
      if (single in EVENT_FAULTS) eventFaults.set(single, probability);
      else if (HOST_FAULTS.includes(single as HostFault)) hostFaults.set(single as HostFault, probability);
      else wantedFaults[PLC_FAULT_FIELDS[single as PlcFault]] = probability;
      if (single === 'plc-stall' && probability === 0) directory?.release();
    }
  };

  /** One event of the traffic, and the faults that come with it. */
  const happen = (): void => {
    const account = happenRightly();
    for (const [name, probability] of eventFaults) {
      if (faultRandom.chance(probability) && account.status === 'active') inject(name, account);
    }
  };

  const happenRightly = (): Account => {
    const { random } = traffic;
    const hostIndex = traffic.drawHost((index) => hosts[index]!.accounts.length > 0);
    const host = hosts[hostIndex]!;
    // Squared: a host's first accounts are its busiest.
    const account = host.accounts[Math.floor(random.unit() ** 2 * host.accounts.length)]!;
    let happening = traffic.drawHappening(mix);
    if (account.status !== 'active') {
      if (account.status === 'deactivated') setStatus(account, 'active');
      else return createAccount(hostIndex);
      return account;
    }
    const isQuiet = clock() - account.lastEventMs >= QUIET_BEFORE_CHANGE_MS;
    if ((happening === 'migration' || happening === 'rotation') && !isQuiet) happening = 'commit';
    if (happening === 'migration' && hosts.length === 1) happening = 'commit';
    switch (happening) {
      case 'commit':
        commit(account);
        break;
      case 'sync':
        sync(account);
        break;
      case 'identity':
        identityOn(hostIndex, account);
        break;
      case 'account':
        accountOn(hostIndex, account, 'active');
        break;
      case 'handle':
        changeHandle(account, `user${account.index}-${random.below(1_000_000)}.test`);
        break;
      case 'status':
        setStatus(account, 'deactivated');
        break;
      case 'newAccount':
        createAccount(hostIndex);
        break;
      case 'migration':
        migrate(account, (hostIndex + 1 + random.below(hosts.length - 1)) % hosts.length);
        break;
      case 'rotation':
        rotateKey(account);
        break;
    }
    return account;
  };

  const generate = (count: number): void => {
    isBatching = true;
    try {
      for (let i = 0; i < count; i++) {
        happen();
        if (i % PUMP_EVENTS === 0) pumpTouched();
      }
    } finally {
      isBatching = false;
    }
    pumpTouched();
  };

  const carOf = (account: Account): Uint8Array => {
    settle(account);
    return repoCar(account, (path, leaf) => population.bytesOf(path, leaf.body));
  };

  const around: HostSurroundings = {
    find: population.find,
    settle,
    carOf,
    documentOf: (account) => documentOf(account, seed, hosts[account.hostIndex]!.hostname),
  };
  const wantedFaults = noDirectoryFaults();
  let directory: Directory | null = null;
  let timer: Timer | null = null;
  let hostFaultTimer: Timer | null = null;
  let nextMs = 0;
  const pace = createRandom(mixSeed(seed, 5));

  const tick = (): void => {
    const nowMs = performance.now();
    const rate = network.ratePerSecond / 1000;
    if (!(rate > 0)) {
      nextMs = 0;
      return;
    }
    if (nextMs === 0 || nowMs - nextMs > MAX_CATCH_UP_MS) nextMs = nowMs;
    let due = 0;
    while (nextMs <= nowMs) {
      due++;
      nextMs += pace.gap(rate);
    }
    if (due > 0) generate(due);
  };

  const hostFault = (hostIndex: number, fault: string): void => {
    ledger.record({
      timeMs: clock(),
      host: hosts[hostIndex]!.hostname,
      seq: null,
      did: null,
      rev: null,
      kind: 'host',
      expectation: 'none',
      fault,
    });
  };

  /** Ends of host faults that are going on: at most one per host. */
  const endings = new Set<() => void>();
  const troubled = new Set<number>();

  const troubleHost = (hostIndex: number, fault: HostFault): void => {
    const lasting = (begin: () => void, end: () => void): void => {
      if (troubled.has(hostIndex)) return;
      troubled.add(hostIndex);
      begin();
      const ending = (): void => {
        clearTimeout(timeout);
        endings.delete(ending);
        troubled.delete(hostIndex);
        end();
      };
      const timeout = setTimeout(ending, HOST_FAULT_MS);
      endings.add(ending);
    };
    const whole = (): void => {
      network.stallHost(hostIndex, false);
      network.refuseHost(hostIndex, false);
      network.slowHost(hostIndex, 0);
      if (directory !== null) network.reopenHost(hostIndex);
    };
    switch (fault) {
      case 'host-drop':
        network.dropConnections(hostIndex);
        break;
      case 'host-stall':
        lasting(() => network.stallHost(hostIndex, true), whole);
        break;
      case 'host-refuse':
        lasting(() => {
          network.refuseHost(hostIndex, true);
          hosts[hostIndex]!.stream.terminateAll();
        }, whole);
        break;
      case 'host-slow':
        lasting(() => {
          network.slowHost(hostIndex, HOST_SLOW_MS);
          hosts[hostIndex]!.stream.terminateAll();
        }, whole);
        break;
      case 'host-close':
        lasting(() => void network.closeHost(hostIndex), whole);
        break;
      case 'host-lose-window':
        hosts[hostIndex]!.stream.terminateAll();
        network.loseWindow(hostIndex);
        break;
      case 'host-reset-seq':
        network.resetSeq(hostIndex);
        break;
    }
  };

  const drawHostFaults = (): void => {
    for (const [fault, probability] of hostFaults) {
      if (faultRandom.chance(probability)) troubleHost(faultRandom.below(hosts.length), fault);
    }
  };

  const network: Network = {
    get plcUrl() {
      return directory?.url ?? '';
    },
    hosts,
    accounts: population.accounts,
    ledger,
    counters,
    directoryFaults: wantedFaults,
    ratePerSecond: options.ratePerSecond ?? 0,
    start: async () => {
      if (directory !== null) return;
      try {
        directory = startDirectory({
          port: options.plcPort ?? 0,
          seed,
          faults: wantedFaults,
          find: population.find,
          hostnameOf: (hostIndex) => hosts[hostIndex]!.hostname,
          hosts: () =>
            hosts.map(({ hostname, stream, accounts }) => ({
              hostname,
              seq: stream.lastSeq,
              accountCount: accounts.length,
            })),
          chance: directoryRandom.chance,
          onFault: (fault, did) => {
            ledger.record({
              timeMs: clock(),
              host: '',
              seq: null,
              did,
              rev: null,
              kind: 'plc',
              expectation: 'none',
              fault,
            });
          },
        });
        const basePort = options.basePort ?? 0;
        for (const host of hosts) startHost(host, basePort === 0 ? host.port : basePort + host.index, around);
      } catch (error) {
        await network.stop();
        throw error;
      }
      timer = setInterval(tick, TICK_MS);
      hostFaultTimer = setInterval(drawHostFaults, 1000);
    },
    stop: async () => {
      if (timer !== null) clearInterval(timer);
      timer = null;
      if (hostFaultTimer !== null) clearInterval(hostFaultTimer);
      hostFaultTimer = null;
      // Whatever was broken is whole again when the network starts anew.
      for (const ending of [...endings]) ending();
      await Promise.all(hosts.map(stopHost));
      await directory?.stop();
      directory = null;
      ledger.flush();
    },
    find: population.find,
    carOf,
    generate,
    createAccount: (hostIndex) => createAccount(hostIndex),
    createWebAccount: (hostIndex) => createAccount(hostIndex, webDidOf(hosts[hostIndex]!)),
    commit,
    sync,
    identity: (account) => identityOn(account.hostIndex, account),
    changeHandle,
    rotateKey,
    setStatus,
    deleteAccount: (account, { tombstone = false } = {}) => {
      const entry = setStatus(account, 'deleted');
      account.tombstoned = tombstone;
      return entry;
    },
    migrate,
    setFault,
    inject,
    dropConnections: (hostIndex) => {
      hostFault(hostIndex, 'host-drop');
      hosts[hostIndex]!.stream.terminateAll();
    },
    stallHost: (hostIndex, stalled) => {
      const { stream } = hosts[hostIndex]!;
      if (stalled) hostFault(hostIndex, 'host-stall');
      stream.stalled = stalled;
      if (!stalled) stream.pump();
    },
    refuseHost: (hostIndex, refusing) => {
      if (refusing) hostFault(hostIndex, 'host-refuse');
      hosts[hostIndex]!.refusing = refusing;
    },
    slowHost: (hostIndex, delayMs) => {
      if (delayMs > 0) hostFault(hostIndex, 'host-slow');
      hosts[hostIndex]!.slowMs = delayMs;
    },
    closeHost: async (hostIndex) => {
      hostFault(hostIndex, 'host-close');
      await stopHost(hosts[hostIndex]!);
    },
    reopenHost: (hostIndex) => {
      const host = hosts[hostIndex]!;
      if (host.server === null) startHost(host, host.port, around);
    },
    loseWindow: (hostIndex) => {
      hostFault(hostIndex, 'host-lose-window');
      forget(hostIndex, false);
    },
    resetSeq: (hostIndex) => {
      hostFault(hostIndex, 'host-reset-seq');
      forget(hostIndex, true);
      const { stream } = hosts[hostIndex]!;
      stream.lastSeq = 0;
      stream.terminateAll();
    },
  };

  const forget = (hostIndex: number, startOver: boolean): void => {
    const memory = memoryOf(hostIndex);
    leaveEmpty(hostIndex, memory.end - memory.first);
    counters.windowBytes -= memory.clear(startOver);
    for (const subscriber of hosts[hostIndex]!.stream.subscribers) subscriber.position = memory.end;
  };

  for (const [name, probability] of Object.entries(options.faults ?? {})) setFault(name, probability);
  return network;
};
