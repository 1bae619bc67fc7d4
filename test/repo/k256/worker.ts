/** A thread of compiled.test.ts: verifies good and bad signatures of some keys, and counts the right answers. */
import secp256k1 from 'secp256k1';
import { compileK256 } from '../../../src/repo/k256/compiled.ts';

declare const self: Worker;

self.onmessage = ({ data }: { data: { from: number; keys: number; rounds: number } }) => {
  const library = compileK256()!;
  const counts = { right: 0, wrong: 0 };
  const signed = Array.from({ length: data.keys }, (_, at) => {
    const secret = Bun.SHA256.hash(`secret ${data.from + at}`) as Uint8Array;
    const digest = Bun.SHA256.hash(`digest ${data.from + at}`) as Uint8Array;
    const { signature } = secp256k1.ecdsaSign(digest, secret);
    return { digest, signature, point: library.parse(secp256k1.publicKeyCreate(secret, true))! };
  });
  for (let round = 0; round < data.rounds; round++)
    for (const [at, { digest, signature, point }] of signed.entries()) {
      const other = signed[(at + 1) % signed.length]!.point;
      counts[library.verify(signature, digest, point) ? 'right' : 'wrong']++;
      counts[library.verify(signature, digest, other) ? 'wrong' : 'right']++;
    }
  self.postMessage(counts);
};
