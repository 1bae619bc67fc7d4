/** Whole repos as an independent library writes them. */
import { Secp256k1Keypair } from '@atproto/crypto';
import { blocksToCarFile, MemoryBlockstore, Repo, WriteOpAction } from '@atproto/repo';

/** The CAR of a repo with `perCollection` records in each of these collections. */
export const repoCar = async (
  did: string,
  collections: readonly string[],
  perCollection = 40,
): Promise<Uint8Array> => {
  const storage = new MemoryBlockstore();
  const writes = collections.flatMap((collection) =>
    Array.from({ length: perCollection }, (_, n) => ({
      action: WriteOpAction.Create as const,
      collection: collection as `${string}.${string}.${string}`,
      rkey: `record${n}`,
      record: { $type: collection, n },
    })),
  );
  const repo = await Repo.create(
    storage,
    did as `did:plc:${string}`,
    await Secp256k1Keypair.create(),
    writes,
  );
  return blocksToCarFile(repo.cid, storage.blocks);
};
