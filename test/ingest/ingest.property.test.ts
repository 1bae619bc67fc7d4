import { expect, test } from 'bun:test';
import fc from 'fast-check';
import { accountFrame, hostnameOf, ingestWith } from './support.ts';

/**
 * Random hosts, frames, answers, closes and acknowledgements. Whatever the order: events of a DID come in the order
 * they were sent, none twice; the cursor never passes a frame that is neither handed on nor refused; and when all is
 * answered, acknowledged and closed, nothing is left in flight.
 */

const HOSTS = [1, 2, 3];
const DIDS = Array.from({ length: 5 }, (_, index) => `did:plc:${'abcde'[index]!.repeat(24)}`);

type Step =
  | { readonly kind: 'frame'; readonly host: number; readonly did: number; readonly gap: number }
  | { readonly kind: 'regress' | 'bad' | 'text' | 'close' | 'disconnect'; readonly host: number }
  | { readonly kind: 'answer'; readonly which: number; readonly how: 'here' | 'again' | 'elsewhere' | 'gone' }
  | { readonly kind: 'acknowledge' }
  | { readonly kind: 'wait'; readonly ms: number };

const host = fc.integer({ min: 0, max: HOSTS.length - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      kind: fc.constant('frame' as const),
      host,
      did: fc.nat(DIDS.length - 1),
      gap: fc.nat(2),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        'regress' as const,
        'bad' as const,
        'text' as const,
        'close' as const,
        'disconnect' as const,
      ),
      host,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('answer' as const),
      which: fc.nat(10),
      how: fc.constantFrom(
        'here' as const,
        'here' as const,
        'again' as const,
        'elsewhere' as const,
        'gone' as const,
      ),
    }),
  },
  { weight: 3, arbitrary: fc.constant({ kind: 'acknowledge' as const }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.nat(20_000) }) },
);

test('order, cursors and accounts of bytes hold whatever comes in whatever order', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 10, maxLength: 150, size: 'max' }),
      fc.constantFrom(1_500, 4_000, 1e6),
      async (steps, max) => {
        const made = ingestWith({ maxBytesInFlight: max });
        /** By host: what it has said so far, to be said again from a cursor. */
        const said = HOSTS.map(() => [] as { seq: number; did: string }[]);
        const sockets = HOSTS.map((hostId) => made.connect(hostId));
        /** What the next connection resumes from: the cursor and what is logged beyond it. */
        const cursors = HOSTS.map(() => 0);
        const done = HOSTS.map(() => new Set<number>());
        let seen = 0;

        const look = (): void => {
          for (const note of made.notes.slice(seen)) {
            seen++;
            if (note.kind !== 'batch') continue;
            for (const { hostId, upstreamSeq, did } of note.batch.events) {
              const mine = done[hostId - 1]!;
              expect(mine.has(upstreamSeq)).toBe(false);
              expect(said[hostId - 1]!.find(({ seq }) => seq === upstreamSeq)?.did).toBe(did);
              // Nothing of the same DID was passed over: it was handed on, or refused.
              for (const earlier of said[hostId - 1]!)
                if (earlier.did === did && earlier.seq < upstreamSeq)
                  expect(mine.has(earlier.seq)).toBe(true);
              mine.add(upstreamSeq);
            }
            for (const { hostId, upstreamSeq, reason } of note.batch.rejections)
              if (upstreamSeq > 0 && reason !== 'seq_not_increasing') done[hostId - 1]!.add(upstreamSeq);
            for (const { hostId, cursor, held } of note.batch.progress) {
              expect(held).toBeGreaterThanOrEqual(0);
              if (cursor === 0) continue;
              const last = said[hostId - 1]!.at(-1)?.seq ?? 0;
              expect(cursor).toBeLessThanOrEqual(last);
              for (const { seq } of said[hostId - 1]!)
                if (seq <= cursor) expect(done[hostId - 1]!.has(seq)).toBe(true);
              expect(cursor).toBeGreaterThanOrEqual(cursors[hostId - 1]!);
              cursors[hostId - 1] = cursor;
            }
          }
          expect(made.ingest.counters.heldBytes).toBeLessThanOrEqual(made.ingest.counters.bytesInFlight);
        };

        /** Opens it again where its cursor is, and the host says again what came after. */
        const reopen = async (which: number): Promise<void> => {
          await made.settle();
          look();
          const hostId = HOSTS[which]!;
          const cursor = cursors[which]!;
          const skip = [...done[which]!].filter((seq) => seq > cursor);
          const socket = made.connect(hostId, { cursor: cursor === 0 ? null : cursor, skip });
          sockets[which] = socket;
          for (const { seq, did } of said[which]!) {
            if (seq <= cursor) continue;
            if (socket.outcome !== null) return;
            socket.frame(accountFrame(did, seq));
            await made.settle();
            look();
          }
        };
        const ready = async (which: number): Promise<void> => {
          for (let tries = 0; sockets[which]!.outcome !== null; tries++) {
            if (tries > 3) {
              // It does not fit because nobody acknowledges.
              made.acknowledgeAll();
              made.answerAll();
            }
            await reopen(which);
          }
        };

        for (const what of steps) {
          switch (what.kind) {
            case 'frame': {
              await ready(what.host);
              const list = said[what.host]!;
              const seq = (list.at(-1)?.seq ?? 0) + 1 + what.gap;
              const did = DIDS[what.did]!;
              list.push({ seq, did });
              sockets[what.host]!.frame(accountFrame(did, seq));
              break;
            }
            case 'regress': {
              await ready(what.host);
              const last = said[what.host]!.at(-1);
              if (last !== undefined) sockets[what.host]!.frame(accountFrame(last.did, last.seq));
              break;
            }
            case 'bad':
              await ready(what.host);
              sockets[what.host]!.frame(Uint8Array.of(1, 2, 3));
              break;
            case 'text':
              await ready(what.host);
              sockets[what.host]!.events.text();
              break;
            case 'close':
              sockets[what.host]!.close();
              break;
            case 'disconnect':
              made.ingest.disconnect(HOSTS[what.host]!);
              break;
            case 'answer': {
              const [request] = made.requests.splice(what.which % (made.requests.length || 1), 1);
              if (request === undefined) break;
              const over =
                what.how === 'again'
                  ? { again: true }
                  : what.how === 'elsewhere'
                    ? { pds: 'elsewhere.net' }
                    : what.how === 'gone'
                      ? { pds: null, reason: 'did_not_found' as const }
                      : {};
              made.ingest.identified([made.answer(request, over)]);
              break;
            }
            case 'acknowledge': {
              const bytes = made.unacknowledged.shift();
              if (bytes !== undefined) made.ingest.acknowledge(bytes);
              break;
            }
            case 'wait':
              made.advance(what.ms);
          }
          if (what.kind === 'answer' || what.kind === 'wait') await made.settle();
          look();
          // At most one question per host and DID at a time.
          const asked = made.requests.map(({ did, hostname }) => `${did} ${hostname}`);
          expect(new Set(asked).size).toBe(asked.length);
        }

        // The directory and the sequencer get well, and every host says the rest.
        for (let round = 0; round < 50; round++) {
          for (const which of HOSTS.keys()) await ready(which);
          await made.settle();
          made.answerAll();
          made.acknowledgeAll();
          await made.settle();
          look();
          const isDone = HOSTS.every((_, which) => said[which]!.every(({ seq }) => done[which]!.has(seq)));
          if (isDone && made.requests.length === 0) break;
        }
        for (const which of HOSTS.keys()) {
          for (const { seq } of said[which]!) expect(done[which]!.has(seq)).toBe(true);
          expect(cursors[which]!).toBe(said[which]!.at(-1)?.seq ?? 0);
          if (sockets[which]!.outcome === null) expect(sockets[which]!.paused).toBe(false);
        }
        made.acknowledgeAll();
        expect(made.ingest.counters).toMatchObject({
          bytesInFlight: 0,
          heldBytes: 0,
          heldFrames: 0,
          heldDids: 0,
        });

        // And once more with things in flight when it ends.
        for (const which of HOSTS.keys()) {
          await ready(which);
          sockets[which]!.frame(accountFrame(`did:web:new${which}.com`, 1e6));
          if (which === 0) await made.settle();
        }
        await made.ingest.stop();
        made.acknowledgeAll();
        expect(made.ingest.counters).toMatchObject({
          bytesInFlight: 0,
          heldBytes: 0,
          heldFrames: 0,
          heldDids: 0,
        });
        expect(made.notes.filter((note) => note.kind === 'opened')).toHaveLength(made.sockets.length);
        expect(made.closes()).toHaveLength(made.sockets.length);
        expect(hostnameOf(1)).toBe(made.sockets[0]!.options.hostname);
      },
    ),
    { numRuns: 150 },
  );
}, 60_000);
