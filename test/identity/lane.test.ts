import { describe, expect, test } from 'bun:test';
import { createLane } from '../../src/identity/lane.ts';
import { createFakeClock, settle } from '../network/fake-clock.ts';

const bounds = {
  maxInFlight: 4,
  maxInFlightPerGroup: 2,
  maxQueued: 10,
  maxQueuedPerGroup: 6,
  maxWaitMs: 30_000,
};

const setUp = () => {
  const clock = createFakeClock();
  const lane = createLane(bounds, clock);
  const started: string[] = [];
  const givenUp: string[] = [];
  const releases = new Map<string, () => void>();
  const submit = (group: string, name: string) =>
    lane.submit(
      group,
      () => {
        started.push(name);
        return new Promise<void>((resolve) => releases.set(name, resolve));
      },
      () => givenUp.push(name),
    );
  const release = async (name: string) => {
    releases.get(name)!();
    await settle(5);
  };
  return { clock, lane, started, givenUp, submit, release };
};

describe('a lane', () => {
  test('runs no more than its bound, and no more than the bound per group', () => {
    const { lane, started, submit } = setUp();
    for (const name of ['a1', 'a2', 'a3', 'b1', 'b2', 'b3', 'c1']) submit(name[0]!, name);
    expect(started).toEqual(['a1', 'a2', 'b1', 'b2']);
    expect([lane.inFlight, lane.queued]).toEqual([4, 3]);
  });

  test('gives groups turns', async () => {
    const { started, submit, release } = setUp();
    for (const name of ['x1', 'x2', 'y1', 'y2']) submit(name[0]!, name);
    for (const name of ['a1', 'a2', 'a3', 'a4', 'b1', 'c1']) submit(name[0]!, name);
    for (const name of ['x1', 'x2', 'y1', 'y2']) await release(name);
    expect(started.slice(4)).toEqual(['a1', 'b1', 'c1', 'a2']);
  });

  test('a group that never answers holds only its own places', async () => {
    const { started, submit, release } = setUp();
    for (let index = 0; index < 6; index++) submit('dead', `dead${index}`);
    for (let index = 0; index < 4; index++) {
      submit('alive', `alive${index}`);
    }
    for (let index = 0; index < 4; index++) await release(`alive${index}`);
    expect(started.filter((name) => name.startsWith('dead')).length).toBe(2);
    expect(started.filter((name) => name.startsWith('alive')).length).toBe(4);
  });

  test('refuses what is over the bound of the group or of all', () => {
    const { lane, submit } = setUp();
    const taken = Array.from({ length: 20 }, (_, index) => submit('a', `a${index}`)).filter(Boolean);
    expect(taken.length).toBe(2 + 6);
    const others = Array.from({ length: 20 }, (_, index) => submit(`g${index}`, `g${index}`)).filter(Boolean);
    expect(others.length).toBe(2 + 4);
    expect(lane.queued).toBe(10);
  });

  test('gives up what has waited too long, and only that', async () => {
    const { clock, lane, givenUp, submit } = setUp();
    for (const name of ['a1', 'a2', 'a3']) submit('a', name);
    await clock.advance(20_000);
    submit('a', 'a4');
    await clock.advance(11_000);
    expect(givenUp).toEqual(['a3']);
    await clock.advance(20_000);
    expect(givenUp).toEqual(['a3', 'a4']);
    expect(lane.queued).toBe(0);
    expect(clock.timers).toBe(0);
  });

  test('starts nothing while paused, and goes on by itself', async () => {
    const { clock, lane, started, submit } = setUp();
    lane.pause(10_000);
    lane.pause(5_000);
    submit('a', 'a1');
    await clock.advance(9_999);
    expect(started).toEqual([]);
    await clock.advance(1);
    expect(started).toEqual(['a1']);
  });

  test('refuses at once while paused for longer than anyone may wait', async () => {
    const { clock, lane, started, submit } = setUp();
    lane.pause(31_000);
    expect(submit('a', 'a1')).toBe(false);
    await clock.advance(2_000);
    expect(submit('a', 'a2')).toBe(true);
    await clock.advance(29_000);
    expect(started).toEqual(['a2']);
  });

  test('work that rejects frees its place', async () => {
    const { lane } = setUp();
    for (let index = 0; index < 8; index++) {
      lane.submit(
        'a',
        () => Promise.reject(new Error('x')),
        () => {},
      );
    }
    await settle();
    expect([lane.inFlight, lane.queued]).toEqual([0, 0]);
  });

  test('closed, gives up what waits and takes nothing more', () => {
    const { clock, lane, givenUp, submit } = setUp();
    for (const name of ['a1', 'a2', 'a3', 'a4']) submit('a', name);
    lane.close();
    expect(givenUp).toEqual(['a3', 'a4']);
    expect(submit('b', 'b1')).toBe(false);
    expect(clock.timers).toBe(0);
  });
});
