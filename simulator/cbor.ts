/**
 * The simulator's own DAG-CBOR writer (atproto spec: Data Model): canonical by construction, fast enough to
 * make traffic ahead of any reader. Its tests compare it with @ipld/dag-cbor byte for byte.
 */

const MAX_DEPTH = 64;
const encoder = new TextEncoder();

/** A CID link: CIDv1, sha-256; codec 0x71 (dag-cbor) or 0x55 (raw, for blobs). */
export class Link {
  readonly digest: Uint8Array;
  readonly codec: number;
  constructor(digest: Uint8Array, codec = 0x71) {
    this.digest = digest;
    this.codec = codec;
  }
}

/** Bytes that go into the output as they are, for values that must be broken on purpose. */
export class Raw {
  readonly bytes: Uint8Array;
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
}

/** Whatever the writer knows: text, numbers, booleans, null, bytes, Link, foreign CIDs (by `.bytes`), lists, maps. */
export type Value =
  | string
  | number
  | boolean
  | null
  | Uint8Array
  | Link
  | Raw
  | { readonly bytes: Uint8Array; readonly multihash: unknown }
  | readonly Value[]
  | { readonly [key: string]: Value | undefined };

export const sha256 = (bytes: Uint8Array): Uint8Array =>
  Bun.SHA256.hash(bytes as Uint8Array<ArrayBuffer>) as Uint8Array;

const keyOrder = (a: string, b: string): number => {
  const x = encoder.encode(a);
  const y = encoder.encode(b);
  return x.length - y.length || Buffer.compare(x, y);
};

/** Whether ASCII keys stand in canonical order already: the common case, as the simulator's maps are written so. */
const isOrdered = (keys: readonly string[]): boolean => {
  for (let i = 1; i < keys.length; i++) {
    const a = keys[i - 1]!;
    const b = keys[i]!;
    if (a.length > b.length || (a.length === b.length && a > b)) return false;
  }
  return true;
};

/** A growing buffer that CBOR items are appended to. `take` copies out what was written and empties it. */
export class Writer {
  buffer: Uint8Array = new Uint8Array(64 * 1024);
  length = 0;

  reserve(bytes: number): void {
    const needed = this.length + bytes;
    if (needed <= this.buffer.length) return;
    const grown = new Uint8Array(Math.max(needed, this.buffer.length * 2));
    grown.set(this.buffer.subarray(0, this.length));
    this.buffer = grown;
  }

  byte(value: number): void {
    this.reserve(1);
    this.buffer[this.length++] = value;
  }

  raw(bytes: Uint8Array): void {
    this.reserve(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** The head of an item: major type 0…7 and its argument, in the shortest form. */
  head(major: number, argument: number): void {
    this.reserve(9);
    const { buffer } = this;
    const type = major << 5;
    if (argument < 24) {
      buffer[this.length++] = type | argument;
    } else if (argument < 0x100) {
      buffer[this.length++] = type | 24;
      buffer[this.length++] = argument;
    } else if (argument < 0x1_0000) {
      buffer[this.length++] = type | 25;
      buffer[this.length++] = argument >>> 8;
      buffer[this.length++] = argument & 0xff;
    } else {
      const high = Math.floor(argument / 0x1_0000_0000);
      buffer[this.length++] = type | (high > 0 ? 27 : 26);
      if (high > 0) this.uint32(high);
      this.uint32(argument >>> 0);
    }
  }

  private uint32(value: number): void {
    const { buffer } = this;
    buffer[this.length++] = value >>> 24;
    buffer[this.length++] = (value >>> 16) & 0xff;
    buffer[this.length++] = (value >>> 8) & 0xff;
    buffer[this.length++] = value & 0xff;
  }

  text(text: string): void {
    const { length } = text;
    this.reserve(length * 3 + 9);
    const start = this.length;
    this.head(3, length);
    const { buffer } = this;
    let at = this.length;
    for (let i = 0; i < length; i++) {
      const code = text.charCodeAt(i);
      if (code > 0x7f) {
        const bytes = encoder.encode(text);
        this.length = start;
        this.head(3, bytes.length);
        this.raw(bytes);
        return;
      }
      buffer[at++] = code;
    }
    this.length = at;
  }

  bytes(bytes: Uint8Array): void {
    this.head(2, bytes.length);
    this.raw(bytes);
  }

  link(digest: Uint8Array, codec = 0x71): void {
    this.reserve(41);
    const { buffer } = this;
    let at = this.length;
    buffer[at++] = 0xd8;
    buffer[at++] = 42;
    buffer[at++] = 0x58;
    buffer[at++] = 37;
    buffer[at++] = 0;
    buffer[at++] = 1;
    buffer[at++] = codec;
    buffer[at++] = 0x12;
    buffer[at++] = 0x20;
    buffer.set(digest, at);
    this.length = at + 32;
  }

  number(value: number): void {
    if (Number.isSafeInteger(value)) {
      if (value >= 0) this.head(0, value);
      else this.head(1, -1 - value);
      return;
    }
    this.reserve(9);
    this.buffer[this.length] = 0xfb;
    new DataView(this.buffer.buffer).setFloat64(this.length + 1, value);
    this.length += 9;
  }

  value(value: Value, depth = 0): void {
    if (depth > MAX_DEPTH) throw new Error('value is nested too deeply');
    if (typeof value === 'string') this.text(value);
    else if (typeof value === 'number') this.number(value);
    else if (value === null) this.byte(0xf6);
    else if (typeof value === 'boolean') this.byte(value ? 0xf5 : 0xf4);
    else if (value instanceof Link) this.link(value.digest, value.codec);
    else if (value instanceof Uint8Array) this.bytes(value);
    else if (Array.isArray(value)) {
      this.head(4, value.length);
      for (const item of value) this.value(item, depth + 1);
    } else if (value instanceof Raw) this.raw(value.bytes);
    else this.map(value as { readonly [key: string]: Value | undefined }, depth);
  }

  /** A map with its keys in canonical order; keys whose value is undefined are left out. */
  map(map: { readonly [key: string]: Value | undefined }, depth = 0): void {
    if ('multihash' in map && map.bytes instanceof Uint8Array) {
      const cid = map.bytes;
      this.raw(Uint8Array.of(0xd8, 42));
      this.head(2, cid.length + 1);
      this.byte(0);
      this.raw(cid);
      return;
    }
    const keys = Object.keys(map);
    let count = 0;
    for (const key of keys) if (map[key] !== undefined) count++;
    if (!isOrdered(keys)) keys.sort(keyOrder);
    this.head(5, count);
    for (const key of keys) {
      const item = map[key];
      if (item === undefined) continue;
      this.text(key);
      this.value(item, depth + 1);
    }
  }

  take(): Uint8Array {
    const out = this.buffer.slice(0, this.length);
    this.length = 0;
    return out;
  }
}

const shared = new Writer();

/** The canonical bytes of one value. */
export const encode = (value: Value): Uint8Array => {
  shared.length = 0;
  shared.value(value);
  return shared.take();
};
