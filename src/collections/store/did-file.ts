/**
 * The did:plc of each account by its slot: a flat file of 15 bytes each beside the SQLite file, mapped into memory,
 * so that a page of a thousand repos is a thousand looks into memory and not into a tree.
 *
 * Contract: slots are given out, and written, inside the transaction that holds the write lock of the SQLite file,
 * and are on disk before it commits; a slot that was committed never changes. What a killed transaction wrote behind
 * the last committed slot is written over. The file grows in steps; readers map it anew when they meet a slot that
 * they do not have. A file that does not belong to its SQLite file stops us.
 */
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { PLC_BYTES, plcText } from './did.ts';
import { CollectionIndexError, rebuildHint } from './problem.ts';

const MAGIC = 'weirdid1';
/** Magic, and the 16 bytes that the SQLite file knows itself by. */
const HEADER_BYTES = 24;
/** The file is given length in such steps; what is not written yet takes no room on disk. */
const STEP_BYTES = 4 * 1024 * 1024;

export const didFilePath = (path: string): string => `${path}.dids`;

const header = (identity: Uint8Array): Uint8Array => {
  const bytes = new Uint8Array(HEADER_BYTES);
  bytes.set(new TextEncoder().encode(MAGIC));
  bytes.set(identity, MAGIC.length);
  return bytes;
};

const check = (fd: number, path: string, identity: Uint8Array): void => {
  const found = new Uint8Array(HEADER_BYTES);
  const length = readSync(fd, found, 0, HEADER_BYTES, 0);
  if (length < HEADER_BYTES || Buffer.compare(found, header(identity)) !== 0)
    throw new CollectionIndexError(
      `${didFilePath(path)} does not belong to the collection index beside it: ${rebuildHint(path)}`,
    );
};

const open = (path: string, mode: 'r' | 'r+'): number => {
  try {
    return openSync(didFilePath(path), mode);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new CollectionIndexError(`${didFilePath(path)} is missing: ${rebuildHint(path)}`);
  }
};

export interface DidReader {
  /** The DID in a slot that was committed. */
  text(slot: number): string;
  close(): void;
}

/** Maps the file of the index at `path`. @throws CollectionIndexError when it is not its file */
export const openDidReader = (path: string, identity: Uint8Array): DidReader => {
  const file = didFilePath(path);
  const fd = open(path, 'r');
  try {
    check(fd, path, identity);
  } finally {
    closeSync(fd);
  }
  let bytes = Bun.mmap(file);
  const offset = (slot: number): number => {
    const at = HEADER_BYTES + slot * PLC_BYTES;
    if (at + PLC_BYTES > bytes.length) {
      bytes = Bun.mmap(file);
      if (at + PLC_BYTES > bytes.length)
        throw new CollectionIndexError(`${file} ends before account ${slot}: ${rebuildHint(path)}`);
    }
    return at;
  };
  return {
    // `offset` may map anew, so it goes first.
    text: (slot) => {
      const at = offset(slot);
      return plcText(bytes, at);
    },
    close: () => {
      bytes = new Uint8Array(0);
    },
  };
};

export interface DidWriter extends DidReader {
  /** Writes the DIDs of consecutive slots. */
  write(firstSlot: number, packed: Uint8Array): void;
  /** What was written is on disk. */
  sync(): void;
  /** Bytes of the file that hold something. */
  usedBytes(slots: number): number;
}

/** Begins the file of an index that is being made: inside the transaction that makes it. */
export const createDidFile = (path: string, identity: Uint8Array): void => {
  const file = didFilePath(path);
  // One that was left behind may still be mapped by somebody: it is taken away, not cut.
  rmSync(file, { force: true });
  const fd = openSync(file, 'wx+');
  try {
    ftruncateSync(fd, STEP_BYTES);
    writeSync(fd, header(identity), 0, HEADER_BYTES, 0);
    fdatasyncSync(fd);
  } finally {
    closeSync(fd);
  }
};

/** Opens the file for writing. @throws CollectionIndexError when it is missing or not its file */
export const openDidWriter = (path: string, identity: Uint8Array): DidWriter => {
  const fd = open(path, 'r+');
  let size: number;
  try {
    check(fd, path, identity);
    size = fstatSync(fd).size;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  const reader = openDidReader(path, identity);
  let dirty = false;
  return {
    text: reader.text,
    write(firstSlot, packed) {
      const at = HEADER_BYTES + firstSlot * PLC_BYTES;
      const end = at + packed.length;
      if (end > size) {
        // Another process may have made it longer meanwhile.
        size = fstatSync(fd).size;
        if (end > size) {
          size = Math.ceil(end / STEP_BYTES) * STEP_BYTES;
          ftruncateSync(fd, size);
        }
      }
      for (let written = 0; written < packed.length; )
        written += writeSync(fd, packed, written, packed.length - written, at + written);
      dirty = true;
    },
    sync() {
      if (dirty) fdatasyncSync(fd);
      dirty = false;
    },
    usedBytes: (slots) => HEADER_BYTES + slots * PLC_BYTES,
    close() {
      reader.close();
      closeSync(fd);
    },
  };
};
