import { describe, expect, test } from 'bun:test';
import { createECDH, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { P256Keypair, parseDidKey, parseMultikey, Secp256k1Keypair } from '@atproto/crypto';
import { getKey, getPds } from '@atproto/identity';
import fc from 'fast-check';
import { base58btc } from 'multiformats/bases/base58';
import secp256k1 from 'secp256k1';
import { decodeBase58 } from '../../src/identity/base58.ts';
import { compressKey, parseDidDocument, parseSigningKey } from '../../src/identity/document.ts';
import type { Identity } from '../../src/identity/types.ts';
import { fixture } from './fixture.ts';

const DID = 'did:plc:ewvi7nxzyoun6zhxrhs64oiz';
const strict = { allowInsecure: false };

const keyOf = (didKey: string): string => didKey.slice('did:key:'.length);
const p256 = await P256Keypair.create();
const k256 = await Secp256k1Keypair.create();

const document = (changes: Record<string, unknown> = {}): Record<string, unknown> => ({
  '@context': ['https://www.w3.org/ns/did/v1'],
  id: DID,
  alsoKnownAs: ['at://alice.example.com'],
  verificationMethod: [
    { id: `${DID}#atproto`, type: 'Multikey', controller: DID, publicKeyMultibase: keyOf(k256.did()) },
  ],
  service: [
    { id: '#atproto_pds', type: 'AtprotoPersonalDataServer', serviceEndpoint: 'https://pds.example.com' },
  ],
  ...changes,
});

const identityOf = (json: unknown, did = DID, rules = strict): Identity => {
  const result = parseDidDocument(did, json, rules);
  if (!result.ok) throw new Error(result.detail);
  return result.identity;
};

describe('base58btc', () => {
  test('decodes what an independent library encodes, and refuses what it refuses', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 70 }), (bytes) => {
        expect(decodeBase58(base58btc.baseEncode(bytes), 200)).toEqual(bytes);
      }),
      { numRuns: 1000 },
    );
    for (const text of ['0', 'O', 'I', 'l', 'é', ' ', '1 1', '+', '\u{1F600}']) {
      expect(decodeBase58(text, 200)).toBeNull();
    }
  });

  test('refuses text over the bound without looking at it', () => {
    expect(decodeBase58('1'.repeat(97), 96)).toBeNull();
    expect(decodeBase58('1'.repeat(96), 96)).toEqual(new Uint8Array(96));
  });
});

describe('a signing key', () => {
  test('is read from a Multikey of either curve as the independent library reads it', async () => {
    for (const pair of [p256, k256]) {
      const key = parseSigningKey('Multikey', keyOf(pair.did()));
      expect(key?.type).toBe(pair === p256 ? 'p256' : 'k256');
      expect(parseMultikey(keyOf(pair.did())).keyBytes.length).toBe(65);
      expect(key?.compressed.length).toBe(33);
      expect(compressKey(key!.type, parseMultikey(keyOf(pair.did())).keyBytes)).toEqual(key);
    }
  });

  test('is read from both legacy types, compressed and uncompressed, as the same key', () => {
    fc.assert(
      fc.property(fc.constant(0), () => {
        const curve = createECDH('prime256v1');
        curve.generateKeys();
        let secret = randomBytes(32);
        while (!secp256k1.privateKeyVerify(secret)) secret = randomBytes(32);
        const keys = [
          [
            'EcdsaSecp256r1VerificationKey2019',
            'p256',
            curve.getPublicKey(),
            curve.getPublicKey(null, 'compressed'),
          ],
          [
            'EcdsaSecp256k1VerificationKey2019',
            'k256',
            secp256k1.publicKeyCreate(secret, false),
            secp256k1.publicKeyCreate(secret, true),
          ],
        ] as const;
        for (const [type, name, long, short] of keys) {
          const expected = { type: name, compressed: Uint8Array.from(short) };
          expect(parseSigningKey(type, base58btc.encode(Uint8Array.from(long)))).toEqual(expected);
          expect(parseSigningKey(type, base58btc.encode(Uint8Array.from(short)))).toEqual(expected);
        }
      }),
      { numRuns: 50 },
    );
  });

  test('is refused when it is not a point on the curve', () => {
    const curve = createECDH('prime256v1');
    curve.generateKeys();
    const offP256 = Uint8Array.from(curve.getPublicKey());
    offP256[64]! ^= 1;
    const offK256 = Uint8Array.from(
      secp256k1.publicKeyConvert(
        compressKey('k256', parseMultikey(keyOf(k256.did())).keyBytes)!.compressed,
        false,
      ),
    );
    offK256[64]! ^= 1;
    const wrongCurve = Uint8Array.from(curve.getPublicKey());
    expect(compressKey('p256', offP256)).toBeNull();
    expect(compressKey('k256', offK256)).toBeNull();
    expect(compressKey('k256', wrongCurve)).toBeNull();
    expect(compressKey('p256', new Uint8Array(33).fill(0xff, 1).fill(2, 0, 1))).toBeNull();
    expect(compressKey('k256', new Uint8Array(33).fill(0xff, 1).fill(2, 0, 1))).toBeNull();
  });

  test('is refused with another length, prefix, encoding or type', () => {
    const multikey = keyOf(k256.did());
    const bytes = base58btc.decode(multikey);
    for (const [type, text] of [
      ['Multikey', base58btc.encode(bytes.subarray(2))],
      ['Multikey', base58btc.encode(bytes.subarray(0, 34))],
      ['Multikey', base58btc.encode(Uint8Array.from([0xed, 0x01, ...bytes.subarray(2)]))],
      ['Multikey', multikey.slice(1)],
      ['Multikey', `u${multikey.slice(1)}`],
      ['Multikey', 'z'],
      ['Multikey', ''],
      ['Multikey', null],
      ['Multikey', `z${'1'.repeat(100_000)}`],
      ['EcdsaSecp256k1VerificationKey2019', multikey],
      ['EcdsaSecp256r1VerificationKey2019', base58btc.encode(new Uint8Array(33))],
      ['Ed25519VerificationKey2020', multikey],
      ['JsonWebKey2020', multikey],
      [undefined, multikey],
    ] as const) {
      expect(parseSigningKey(type, text)).toBeNull();
    }
  });

  test('hybrid and infinity encodings are refused', () => {
    const curve = createECDH('prime256v1');
    curve.generateKeys();
    const hybrid = Uint8Array.from(curve.getPublicKey());
    hybrid[0] = 6 + (hybrid[64]! & 1);
    expect(compressKey('p256', hybrid)).toBeNull();
    const k256Hybrid = Uint8Array.from(parseMultikey(keyOf(k256.did())).keyBytes);
    k256Hybrid[0] = 6 + (k256Hybrid[64]! & 1);
    expect(compressKey('k256', k256Hybrid)).toBeNull();
    expect(compressKey('k256', Uint8Array.of(0))).toBeNull();
    expect(compressKey('p256', new Uint8Array(0))).toBeNull();
  });
});

describe('a DID document', () => {
  test('gives key, PDS and handle', () => {
    expect(identityOf(document())).toEqual({
      did: DID,
      pds: 'pds.example.com',
      signingKey: parseSigningKey('Multikey', keyOf(k256.did())),
      handle: 'alice.example.com',
    });
  });

  test('takes relative and absolute ids', () => {
    const method = { type: 'Multikey', publicKeyMultibase: keyOf(p256.did()) };
    const service = { type: 'AtprotoPersonalDataServer', serviceEndpoint: 'https://a.example.com' };
    for (const prefix of ['', DID]) {
      const identity = identityOf(
        document({
          verificationMethod: [{ ...method, id: `${prefix}#atproto` }],
          service: [{ ...service, id: `${prefix}#atproto_pds` }],
        }),
      );
      expect(identity.signingKey?.type).toBe('p256');
      expect(identity.pds).toBe('a.example.com');
    }
  });

  test('does not take another id, nor a later entry in place of a broken first', () => {
    const good = { id: '#atproto', type: 'Multikey', publicKeyMultibase: keyOf(p256.did()) };
    for (const verificationMethod of [
      [{ ...good, id: 'atproto' }],
      [{ ...good, id: '#atproto_label' }],
      [{ ...good, id: 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa#atproto' }],
      [{ ...good, type: 'Unknown' }, good],
      [{ ...good, publicKeyMultibase: 'zzz' }, good],
      good,
      'x',
      null,
    ]) {
      expect(identityOf(document({ verificationMethod })).signingKey).toBeNull();
    }
    const pds = { id: '#atproto_pds', type: 'AtprotoPersonalDataServer', serviceEndpoint: 'https://a.bc' };
    for (const service of [
      [{ ...pds, type: 'AtprotoLabeler' }, pds],
      [{ ...pds, id: '#atproto_labeler' }],
      [{ ...pds, serviceEndpoint: 'https://10.0.0.1' }, pds],
      [{ ...pds, serviceEndpoint: { uri: 'https://a.bc' } }],
    ]) {
      expect(identityOf(document({ service })).pds).toBeNull();
    }
  });

  test('looks past foreign entries, up to a bound', () => {
    const good = { id: '#atproto', type: 'Multikey', publicKeyMultibase: keyOf(p256.did()) };
    const foreign = [null, 7, 'x', [], {}, { id: '#other' }];
    expect(identityOf(document({ verificationMethod: [...foreign, good] })).signingKey?.type).toBe('p256');
    const many = new Array(1_000).fill({ id: '#other' });
    expect(identityOf(document({ verificationMethod: [...many, good] })).signingKey).toBeNull();
  });

  test('takes the first valid handle, in lower case', () => {
    const handleOf = (alsoKnownAs: unknown) => identityOf(document({ alsoKnownAs })).handle;
    expect(
      handleOf(['https://x.example.com', 'at://not_valid.com', 'at://Bob.Example.COM', 'at://c.com']),
    ).toBe('bob.example.com');
    for (const none of [
      [],
      null,
      'at://a.com',
      ['at://'],
      ['at://com'],
      ['at://a.com/x'],
      ['AT://a.com'],
      [7],
    ]) {
      expect(handleOf(none)).toBeNull();
    }
    expect(handleOf([`at://${'a.'.repeat(200)}com`])).toBeNull();
  });

  test('of another DID, or that is no object, is refused for good', () => {
    for (const json of [
      document({ id: 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa' }),
      document({ id: undefined }),
      null,
      [],
      'x',
      1,
    ]) {
      const result = parseDidDocument(DID, json, strict);
      expect(result).toMatchObject({ ok: false, passing: false, reason: 'did_document_invalid' });
    }
  });

  test('may lack everything but its id', () => {
    expect(identityOf({ id: DID })).toEqual({ did: DID, pds: null, signingKey: null, handle: null });
  });

  test('takes a local PDS only in development', () => {
    const local = document({
      service: [
        { id: '#atproto_pds', type: 'AtprotoPersonalDataServer', serviceEndpoint: 'http://localhost:2583' },
      ],
    });
    expect(identityOf(local).pds).toBeNull();
    expect(identityOf(local, DID, { allowInsecure: true }).pds).toBe('localhost:2583');
  });

  test('never throws, whatever JSON it is', () => {
    const field = fc.oneof(
      fc.jsonValue(),
      fc.constantFrom(
        '#atproto',
        '#atproto_pds',
        'Multikey',
        'AtprotoPersonalDataServer',
        'https://a.bc',
        'at://a.bc',
      ),
      fc.constant(keyOf(k256.did())),
      fc.stringMatching(/^z[1-9A-HJ-NP-Za-km-z]{0,100}$/),
    );
    const entry = fc.record(
      { id: field, type: field, publicKeyMultibase: field, serviceEndpoint: field },
      { requiredKeys: [] },
    );
    const list = fc.oneof(field, fc.array(fc.oneof(entry, field), { maxLength: 5 }));
    const anything = fc.record(
      { id: fc.constant(DID), alsoKnownAs: list, verificationMethod: list, service: list },
      { requiredKeys: ['id'] },
    );
    fc.assert(
      fc.property(fc.oneof(anything, fc.jsonValue()), (json) => {
        const result = parseDidDocument(DID, JSON.parse(JSON.stringify(json)), strict);
        if (!result.ok) expect(result.reason).toBe('did_document_invalid');
        else if (result.identity.signingKey !== null) {
          expect(result.identity.signingKey.compressed.length).toBe(33);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('documents and keys from elsewhere', () => {
  test('documents recorded from a real directory give what the independent library reads', () => {
    const path = fixture('realframes/diddocs.json');
    if (path === null) return;
    const documents = JSON.parse(readFileSync(path, 'utf8')) as Record<string, never>;
    expect(Object.keys(documents).length).toBeGreaterThan(0);
    for (const [did, json] of Object.entries(documents)) {
      const identity = identityOf(json, did, { allowInsecure: true });
      const expected = parseDidKey(getKey(json)!);
      expect(identity.signingKey).toEqual(
        compressKey(expected.jwtAlg === 'ES256' ? 'p256' : 'k256', expected.keyBytes),
      );
      expect(`http://${identity.pds}`).toBe(getPds(json)!);
      expect(identity.handle).not.toBeNull();
    }
  });

  test('the interop keys are read, in legacy and did:key form, as one key', () => {
    const path = fixture('interop/crypto');
    if (path === null) return;
    const vectors = JSON.parse(readFileSync(join(path, 'signature-fixtures.json'), 'utf8')) as {
      didDocSuite: string;
      publicKeyDid: string;
      publicKeyMultibase: string;
    }[];
    expect(vectors.length).toBeGreaterThan(0);
    for (const { didDocSuite, publicKeyDid, publicKeyMultibase } of vectors) {
      const key = parseSigningKey(didDocSuite, publicKeyMultibase);
      expect(key).not.toBeNull();
      expect(parseSigningKey('Multikey', keyOf(publicKeyDid))).toEqual(key);
    }
    for (const name of ['w3c_didkey_K256.json', 'w3c_didkey_P256.json']) {
      const keys = JSON.parse(readFileSync(join(path, name), 'utf8')) as { publicDidKey: string }[];
      for (const { publicDidKey } of keys) {
        expect(parseSigningKey('Multikey', keyOf(publicDidKey))?.type).toBe(
          name.includes('K256') ? 'k256' : 'p256',
        );
      }
    }
  });

  test('handles are valid exactly as the interop lists say', () => {
    const path = fixture('interop/syntax');
    if (path === null) return;
    for (const [name, isValid] of [
      ['handle_syntax_valid.txt', true],
      ['handle_syntax_invalid.txt', false],
    ] as const) {
      const lines = readFileSync(join(path, name), 'utf8')
        .split('\n')
        .filter((line) => line !== '' && !line.startsWith('#'));
      expect(lines.length).toBeGreaterThan(0);
      for (const line of lines) {
        const { handle } = identityOf(document({ alsoKnownAs: [`at://${line}`] }));
        expect([line, handle]).toEqual([line, isValid ? line.toLowerCase() : null]);
      }
    }
  });
});
