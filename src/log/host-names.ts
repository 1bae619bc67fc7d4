import path from 'node:path';
import { LogCorruption } from './corruption.ts';
import { type LogFiles, readFully } from './files.ts';

/**
 * Which host stands behind the host id of a record: a text file of lines `ID HOSTNAME`, only ever appended to, so that
 * a log can be read without the database. A later line of an id replaces an earlier one.
 */
export const HOST_NAMES_FILE = 'hosts.txt';

/** A hostname is at most 253 bytes (RFC 1035), with a port a few more. */
const MAX_HOSTNAME_BYTES = 300;
const LINE = /^(\d{1,10}) ([\x21-\x7e]{1,300})$/;

export interface HostNameLines {
  readonly names: Map<number, string>;
  /** Bytes of whole lines; what follows was never durable. */
  readonly bytes: number;
}

/**
 * Reads the lines. The last one may be torn; a bad line with a good one behind it is damage (LogCorruption).
 */
export const parseHostNames = (bytes: Uint8Array, file: string): HostNameLines => {
  const names = new Map<number, string>();
  const text = new TextDecoder('latin1').decode(bytes);
  let at = 0;
  let badAt = -1;
  while (at < text.length) {
    const end = text.indexOf('\n', at);
    const match = end < 0 ? null : LINE.exec(text.slice(at, end));
    if (match !== null && badAt >= 0) throw new LogCorruption(file, badAt, 'host names');
    if (match !== null) names.set(Number(match[1]), match[2]!);
    else if (badAt < 0) badAt = at;
    at = end < 0 ? text.length : end + 1;
  }
  return { names, bytes: badAt < 0 ? text.length : badAt };
};

/** Reads the file of a directory, also while it is being written; no names when there is none. */
export const readHostNames = (files: LogFiles, dir: string): HostNameLines => {
  const file = path.join(dir, HOST_NAMES_FILE);
  if (!files.list(dir).includes(HOST_NAMES_FILE)) return { names: new Map(), bytes: 0 };
  const fd = files.open(file, 'read');
  try {
    const bytes = new Uint8Array(files.size(fd));
    return parseHostNames(bytes.subarray(0, readFully(files, fd, bytes, bytes.length, 0)), file);
  } finally {
    files.close(fd);
  }
};

/** The line of one host. Throws on a name that could not be read back. */
export const hostNameLine = (hostId: number, hostname: string): string => {
  const line = `${hostId} ${hostname}`;
  if (!LINE.test(line))
    throw new Error(`not a hostname of at most ${MAX_HOSTNAME_BYTES} characters, or not an id`);
  return `${line}\n`;
};
