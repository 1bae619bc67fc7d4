import { afterEach, describe, expect, test } from 'bun:test';
import zlib from 'node:zlib';
import { parseTailArgs } from '../../../jetstream/tail/args.ts';
import { runTail } from '../../../jetstream/tail/tail.ts';
import { openDictionary } from '../../../jetstream/tail/zstd.ts';
import { type Connection, startFakeHost } from './fake-host.ts';

const DID = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa';
const T0 = 1_725_911_162_329_308;

const v1Post = (timeUs: number, text = `post ${timeUs}`): string =>
  JSON.stringify({
    did: DID,
    time_us: timeUs,
    kind: 'commit',
    commit: {
      rev: '3l3qo2vutsw2b',
      operation: 'create',
      collection: 'app.bsky.feed.post',
      rkey: '3l3qo2vuowo2b',
      record: { $type: 'app.bsky.feed.post', text },
      cid: 'bafyreidwaivazkwu67xztlmuobx35hs2lnfh3kolmgfmucldvhd3sgzcqi',
    },
  });
const v2Post = (seq: number, text: string): string =>
  JSON.stringify({
    $type: 'message',
    payload: {
      $type: 'network.bsky.jetstream.subscribeEvents#commit',
      seq,
      did: DID,
      time: '2024-09-09T19:46:02.329Z',
      rev: '3l3qo2vutsw2b',
      operation: 'create',
      collection: 'app.bsky.feed.post',
      rkey: '3l3qo2vuowo2b',
      record: { text },
    },
  });

const hosts: { close(): Promise<void> }[] = [];
const fakeHost = (behaviour: Parameters<typeof startFakeHost>[0]) => {
  const host = startFakeHost(behaviour);
  hosts.push(host);
  return host;
};
afterEach(async () => {
  await Promise.all(hosts.splice(0).map((host) => host.close()));
});

const startTail = (args: string[], more: { slow?: boolean } = {}) => {
  const parsed = parseTailArgs(args);
  if (parsed.ok !== true) throw new Error('bad arguments');
  const lines: string[] = [];
  const notes: string[] = [];
  const stopping = new AbortController();
  const ended = runTail({
    options: parsed.options,
    dictionary: null,
    signal: stopping.signal,
    backoff: { firstMs: 2, longestMs: 10 },
    random: () => 0.5,
    terminal: {
      print: (line) => {
        lines.push(line);
        return more.slow !== true;
      },
      drained: () => Bun.sleep(1),
      note: (line) => void notes.push(line),
      columns: () => null,
      colours: false,
    },
  });
  return { lines, notes, ended, stop: () => stopping.abort() };
};

const until = async (holds: () => boolean): Promise<void> => {
  for (let turn = 0; turn < 4000; turn++) {
    if (holds()) return;
    await Bun.sleep(2);
  }
  throw new Error('it never happened');
};

describe('tail', () => {
  test('prints a line for each event and ends after --count', async () => {
    const host = fakeHost({
      serve: ({ socket }) => {
        for (let i = 0; i < 5; i++) socket.send(v1Post(T0 + i));
      },
    });
    const tail = startTail([
      '--host',
      host.host,
      '--count',
      '3',
      '--collection',
      'app.bsky.feed.*',
      '--did',
      DID,
    ]);
    expect(await tail.ended).toBe(0);
    expect(tail.lines).toEqual(
      [0, 1, 2].map((i) => `19:46:02.329 create   ${DID} app.bsky.feed.post/3l3qo2vuowo2b post ${T0 + i}`),
    );
    const { url } = host.connections[0]!;
    expect(url.pathname).toBe('/subscribe');
    expect(url.searchParams.getAll('wantedCollections')).toEqual(['app.bsky.feed.*']);
    expect(url.searchParams.getAll('wantedDids')).toEqual([DID]);
    expect(url.searchParams.has('cursor')).toBe(false);
  });

  test('shows the handle of an account once it was told', async () => {
    const host = fakeHost({
      serve: ({ socket }) => {
        const identity = { did: DID, handle: 'alice.example.com', seq: 7, time: '2024-09-05T06:11:04.870Z' };
        socket.send(JSON.stringify({ did: DID, time_us: T0, kind: 'identity', identity }));
        socket.send(v1Post(T0 + 1, 'hello'));
      },
    });
    const tail = startTail(['--host', host.host, '--count', '2']);
    await tail.ended;
    expect(tail.lines[0]).toContain('identity alice.example.com');
    expect(tail.lines[1]).toMatch(/create {3}alice\.example\.com {2,}app\.bsky\.feed\.post\/\w+ hello$/);
  });

  test('with --json prints the messages themselves', async () => {
    const host = fakeHost({ serve: ({ socket }) => void socket.send(v1Post(T0, 'a\nb')) });
    const tail = startTail(['--host', host.host, '--count', '1', '--json']);
    await tail.ended;
    expect(tail.lines).toEqual([v1Post(T0, 'a\nb')]);
  });

  test('goes on where it was after every break, in v1: nothing twice, nothing missed', async () => {
    const events = Array.from({ length: 200 }, (_, i) => T0 + i * 3);
    const host = fakeHost({
      // As cursors are: inclusive.
      serve: ({ url, socket }) => {
        const cursor = Number(url.searchParams.get('cursor') ?? T0);
        for (const timeUs of events.filter((at) => at >= cursor).slice(0, 23)) socket.send(v1Post(timeUs));
        if (host.connections.length % 2 === 0) socket.terminate();
        else socket.close(1001, 'bye');
      },
    });
    const tail = startTail(['--host', host.host, '--count', '200']);
    expect(await tail.ended).toBe(0);
    expect(tail.lines.map((line) => Number(line.split(' ').at(-1)))).toEqual(events);
    expect(tail.notes.some((note) => note.includes('1001: bye'))).toBe(true);
  });

  test('goes on where it was in v2, amid the ops of one commit, too', async () => {
    const events = Array.from({ length: 120 }, (_, i) => ({ seq: 10 + Math.floor(i / 7), text: `op ${i}` }));
    let sent = 5;
    const host = fakeHost({
      serve: ({ url, socket }) => {
        expect(url.pathname).toBe('/xrpc/network.bsky.jetstream.subscribeEvents');
        const cursor = Number(url.searchParams.get('cursor') ?? 0);
        sent = (sent * 7) % 31;
        for (const { seq, text } of events.filter((event) => event.seq >= cursor).slice(0, 8 + sent)) {
          socket.send(v2Post(seq, text));
        }
        socket.close(1001);
      },
    });
    const tail = startTail(['--host', host.host, '--v2', '--count', '120']);
    expect(await tail.ended).toBe(0);
    expect(tail.lines.map((line) => line.slice(line.indexOf(' op ') + 1))).toEqual(
      events.map(({ text }) => text),
    );
  });

  test('comes back with the cursor of the last heartbeat, which it does not show', async () => {
    const cursors: (string | null)[] = [];
    const host = fakeHost({
      serve: ({ url, socket }) => {
        cursors.push(url.searchParams.get('cursor'));
        expect(url.searchParams.get('heartbeat')).toBe('true');
        if (cursors.length === 1) {
          socket.send(v1Post(T0));
          socket.send(JSON.stringify({ time_us: T0 + 50, kind: 'heartbeat', cursor: T0 + 50 }));
          socket.close(1001);
        } else {
          socket.send(v1Post(T0 + 60));
        }
      },
    });
    const tail = startTail(['--host', host.host, '--count', '2', '--cursor', '5']);
    await tail.ended;
    expect(cursors).toEqual(['5', String(T0 + 50)]);
    expect(tail.lines).toHaveLength(2);
  });

  test('reads compressed streams that need no dictionary', async () => {
    const host = fakeHost({
      serve: ({ url, socket }) => {
        expect(url.searchParams.get('compress')).toBe('true');
        socket.send(zlib.zstdCompressSync(v1Post(T0, 'hello')));
      },
    });
    const tail = startTail(['--host', host.host, '--compress', '--count', '1']);
    expect(await tail.ended).toBe(0);
    expect(tail.lines[0]).toEndWith('hello');
  });

  test('says which dictionary is missing', async () => {
    // A frame header that names dictionary 1612007021, single segment.
    const frame = Buffer.alloc(40);
    frame.writeUInt32LE(0xfd2fb528, 0);
    frame[4] = 0x23;
    frame.writeUInt32LE(1_612_007_021, 5);
    const host = fakeHost({ serve: ({ socket }) => void socket.send(frame) });
    const tail = startTail(['--host', host.host, '--compress']);
    expect(await tail.ended).toBe(1);
    expect(tail.notes.at(-1)).toContain(
      'dictionary 1612007021, which is not at hand; give its file with --dictionary',
    );
  });

  test('asks a v2 host for its dictionary, and follows it plain when it has none', async () => {
    const host = fakeHost({
      answer: (url) =>
        url.pathname.endsWith('getZstdDictionary') ? new Response('none', { status: 404 }) : undefined,
      serve: ({ url, socket }) => {
        expect(url.searchParams.has('zstdDictionary')).toBe(false);
        socket.send(v2Post(1, 'plain'));
      },
    });
    const tail = startTail(['--host', host.host, '--v2', '--compress', '--count', '1']);
    expect(await tail.ended).toBe(0);
    expect(tail.notes[0]).toContain('not compressed');
    expect(tail.lines[0]).toEndWith('plain');
  });

  test('connects with the id of the dictionary that a v2 host gave', async () => {
    const dictionary = Buffer.alloc(200, 7);
    dictionary.writeUInt32LE(0xec30a437, 0);
    dictionary.writeUInt32LE(77_777, 4);
    expect(openDictionary(dictionary)!.id).toBe(77_777);
    let asked: string | null = null;
    const host = fakeHost({
      answer: (url) => (url.pathname.endsWith('getZstdDictionary') ? new Response(dictionary) : undefined),
      serve: ({ url, socket }) => {
        asked = url.searchParams.get('zstdDictionary');
        socket.send(v2Post(1, 'plain'));
      },
    });
    const tail = startTail(['--host', host.host, '--v2', '--compress', '--count', '1']);
    expect(await tail.ended).toBe(0);
    expect(asked!).toBe('77777');
  });

  test('tells what a host refuses, and does not ask again', async () => {
    let asked = 0;
    const host = fakeHost({
      answer: () => {
        asked++;
        return new Response('invalid cursor: \u001b[31mx', { status: 400 });
      },
    });
    const tail = startTail(['--host', host.host]);
    expect(await tail.ended).toBe(1);
    expect(tail.notes).toEqual(['the host answered 400: invalid cursor: [31mx']);
    expect(asked).toBe(1);
  });

  test('tells that there is no host', async () => {
    const host = startFakeHost({});
    await host.close();
    const tail = startTail(['--host', host.host]);
    expect(await tail.ended).toBe(1);
    expect(tail.notes[0]).toStartWith(`cannot connect to ${host.host}`);
  });

  test('waits for a host that it knows to come back', async () => {
    let asked = 0;
    const host = fakeHost({
      answer: () => (++asked > 1 && asked < 4 ? new Response('starting', { status: 503 }) : undefined),
      serve: ({ socket }: Connection) => {
        socket.send(v1Post(T0 + asked));
        socket.close(1001);
      },
    });
    const tail = startTail(['--host', host.host, '--count', '2']);
    expect(await tail.ended).toBe(0);
    expect(asked).toBe(4);
    expect(tail.notes.filter((note) => note.includes('the host answered 503'))).toHaveLength(2);
  });

  test('tells that a host is no Jetstream', async () => {
    const host = fakeHost({ serve: ({ socket }) => void socket.send('hello') });
    const tail = startTail(['--host', host.host]);
    expect(await tail.ended).toBe(1);
    expect(tail.notes.at(-1)).toContain('not JSON');
    const binary = fakeHost({ serve: ({ socket }) => void socket.send(new Uint8Array([1, 2, 3])) });
    const other = startTail(['--host', binary.host]);
    expect(await other.ended).toBe(1);
    expect(other.notes.at(-1)).toContain('not a zstd frame');
  });

  test('shows notices and unknown messages move nothing', async () => {
    const host = fakeHost({
      serve: ({ socket }) => {
        socket.send(
          '{"$type":"message","payload":{"$type":"x#info","name":"OutdatedCursor","message":"older"}}',
        );
        for (const odd of ['null', '[]', '1', '{}', '{"kind":"commit"}', '{"$type":"message"}'])
          socket.send(odd);
        socket.send('{"$type":"error","error":"ConsumerTooSlow","message":"too slow"}');
        socket.send(v2Post(3, 'after'));
      },
    });
    const tail = startTail(['--host', host.host, '--v2', '--count', '1']);
    await tail.ended;
    expect(tail.notes).toContain('the host says: OutdatedCursor older');
    expect(tail.notes).toContain('the host says: ConsumerTooSlow too slow');
    expect(tail.lines).toHaveLength(1);
  });

  test('keeps the host waiting while its output is full, and loses nothing', async () => {
    const host = fakeHost({
      serve: ({ socket }) => {
        for (let i = 0; i < 60; i++) socket.send(v1Post(T0 + i));
      },
    });
    const tail = startTail(['--host', host.host, '--count', '60'], { slow: true });
    expect(await tail.ended).toBe(0);
    expect(tail.lines.map((line) => Number(line.split(' ').at(-1)))).toEqual(
      Array.from({ length: 60 }, (_, i) => T0 + i),
    );
  });

  test('ends when told to: connected, waiting, or not begun', async () => {
    const host = fakeHost({ serve: ({ socket }) => void socket.send(v1Post(T0)) });
    const tail = startTail(['--host', host.host]);
    await until(() => tail.lines.length > 0);
    tail.stop();
    expect(await tail.ended).toBe(0);

    const early = startTail(['--host', host.host]);
    early.stop();
    expect(await early.ended).toBe(0);
  });
});
