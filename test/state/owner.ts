/**
 * A process that owns an embedded server, to be killed by tests. Flushes one account, starts a process that outlives
 * it, prints {pid, serverPid, childPid} and waits.
 * Usage: bun owner.ts DATA_DIR
 */

import { startEmbeddedPostgres } from '../../src/state/embedded.ts';
import { openState } from '../../src/state/state.ts';
import { account, flushOf } from './samples.ts';

const embedded = await startEmbeddedPostgres({ dataDir: process.argv[2]! });
const state = await openState({ database: embedded.database });
await state.flush(flushOf(42, { accounts: [account('did:plc:survivor')] }));
// Inherits whatever is inheritable: the pipe to the supervisor must not be.
const child = Bun.spawn(['sleep', '600'], { detached: true, stdio: ['ignore', 'ignore', 'ignore'] });
console.log(JSON.stringify({ pid: process.pid, serverPid: embedded.pid(), childPid: child.pid }));
setInterval(() => {}, 1_000);
