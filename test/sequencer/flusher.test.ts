import { describe, expect, test } from 'bun:test';
import { accountFrame, commitFrame, newAccount } from '../ingest/support.ts';
import { eventOf, give, identify, worldOf } from './support.ts';

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';

const worldWithOne = async () => {
  const world = worldOf();
  await identify(world, DID, 1);
  await give(world, eventOf(1, accountFrame(DID, 5)));
  return world;
};

describe('a flush', () => {
  test('stores accounts, hosts, rejections and the position they reflect, in one', async () => {
    const world = await worldWithOne();
    await identify(world, 'did:plc:bbbbbbbbbbbbbbbbbbbbbbbb', 2);
    await give(world, eventOf(1, accountFrame('did:plc:bbbbbbbbbbbbbbbbbbbbbbbb', 6)));
    await world.flusher.flush();
    expect(world.state.flushes).toHaveLength(1);
    const [flush] = world.state.flushes;
    expect(flush!.position).toBe(1);
    expect(flush!.accounts.map(({ did }) => did)).toEqual([DID]);
    expect(flush!.hosts).toMatchObject([{ hostId: 1, cursor: 6, accountCount: 1 }]);
    expect(flush!.rejections).toMatchObject([{ reason: 'wrong_host', upstreamSeq: 6 }]);
    expect(world.flusher.stats).toMatchObject({ position: 1, flushes: 1 });
  });

  test('waits until the log is durable up to its position, and holds the state of when it began', async () => {
    const world = await worldWithOne();
    const disk = Promise.withResolvers<void>();
    world.log.gate = disk.promise;
    const flushed = world.flusher.flush();
    await Bun.sleep(5);
    expect(world.state.flushes).toEqual([]);
    const account = newAccount();
    await identify(world, account.did, 1);
    await give(world, eventOf(1, commitFrame(account, 8)));
    disk.resolve();
    await flushed;
    expect(world.state.flushes).toMatchObject([{ position: 1 }]);
    expect(world.state.accounts.has(account.did)).toBe(false);
    expect(world.state.hosts.get(1)!.cursor).toBe(5);
    await world.flusher.flush();
    expect(world.state.position).toBe(2);
    expect(world.state.accounts.get(account.did)!.rev).toBe(account.rev);
    expect(world.state.hosts.get(1)!.cursor).toBe(8);
  });

  test('that fails gives everything back, newer changes on top, and says since when', async () => {
    const world = await worldWithOne();
    await give(world, eventOf(1, accountFrame('did:plc:bbbbbbbbbbbbbbbbbbbbbbbb', 6)));
    world.state.errors.push(new Error('away'));
    world.clock.nowMs += 1_000;
    const failed = world.flusher.flush();
    await give(world, eventOf(1, accountFrame(DID, 7, { active: false, status: 'deactivated' })));
    await expect(failed).rejects.toThrow('away');
    expect(world.flusher.failingSinceMs).toBe(world.clock.nowMs);
    expect(world.flusher.stats).toMatchObject({ position: 0, failures: 1, flushes: 0 });
    await world.flusher.flush();
    expect(world.flusher.failingSinceMs).toBeNull();
    expect(world.state.accounts.get(DID)!.upstreamStatus).toBe('deactivated');
    expect(world.state.hosts.get(1)).toMatchObject({ cursor: 7 });
    expect(world.state.flushes[0]!.rejections).toHaveLength(0);
  });

  test('of nothing new writes nothing', async () => {
    const world = await worldWithOne();
    await world.flusher.flush();
    await world.flusher.flush();
    expect(world.state.flushes).toHaveLength(1);
  });

  test('amid a rebuild stores the position that was reached, not the end of the log', async () => {
    const world = await worldWithOne();
    await give(world, eventOf(1, accountFrame(DID, 6)), eventOf(1, accountFrame(DID, 7)));
    expect(world.log.appendedSeq).toBe(3);
    await world.flusher.flush(2);
    expect(world.state.position).toBe(2);
  });

  test('runs alone: the next one waits for it', async () => {
    const world = await worldWithOne();
    const database = Promise.withResolvers<void>();
    world.state.gate = database.promise;
    const first = world.flusher.flush();
    await give(world, eventOf(1, accountFrame(DID, 6)));
    const second = world.flusher.flush();
    database.resolve();
    await Promise.all([first, second]);
    expect(world.state.flushes.map(({ position }) => position)).toEqual([1, 2]);
  });

  test('comes last when it is stopped', async () => {
    const world = await worldWithOne();
    world.flusher.start();
    await world.flusher.stop();
    expect(world.state.position).toBe(1);
    expect(world.state.accounts.size).toBe(1);
  });
});
