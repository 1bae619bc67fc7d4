import { CID } from 'multiformats/cid';
import { create } from 'multiformats/hashes/digest';

const DAG_CBOR = 0x71;
const SHA_256 = 0x12;

/** The text of a CIDv1 dag-cbor link with this 32-byte sha-256 digest. */
export const cidText = (digest: Uint8Array): string =>
  CID.createV1(DAG_CBOR, create(SHA_256, digest)).toString();
