import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppError } from '../../runtime/error.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { opensslCsr } from '../../testing/openssl.ts';
import { newSigner } from '../../testing/test-authority.ts';
import { buildCsr } from '../../x509/csr.ts';
import { tags } from '../../x509/der-reader.ts';
import { element, oid, sequence, setOf } from '../../x509/der-writer.ts';
import { encodeName } from '../../x509/names.ts';
import { readMintRequest } from './mint-request.ts';

const trustDomain = TrustDomain.parse('example.org');
const web = 'spiffe://example.org/web';
const signer = await newSigner();

interface Fields {
  readonly uris?: readonly string[];
  readonly dnsNames?: readonly string[];
  readonly subject?: Uint8Array;
}

async function read(fields: Fields) {
  return readMintRequest(await buildCsr({ signer, uris: [web], ...fields }), trustDomain);
}

async function refusal(work: () => unknown): Promise<string> {
  try {
    await work();
    return 'accepted';
  } catch (error) {
    if (error instanceof AppError && error.code === 'invalid-argument') return error.message;
    throw error;
  }
}

describe('a request to mint', () => {
  it('says identity, names and key', async () => {
    const { id, dnsNames, spki, subject } = await read({ dnsNames: ['web', '*.web.example.org'] });
    expect(id.toString()).toBe(web);
    expect(dnsNames).toEqual(['web', '*.web.example.org']);
    expect(Buffer.from(spki)).toEqual(Buffer.from(signer.publicKey));
    expect(subject).toBeUndefined();
  });

  it.each<Fields & { name: string; says: string }>([
    { name: 'no identity', uris: [], says: 'CSR URI SAN is required' },
    { name: 'two identities', uris: [web, `${web}2`], says: 'only one URI SAN is expected' },
    { name: 'one identity twice', uris: [web, web], says: 'only one URI SAN is expected' },
    {
      name: 'a web address',
      uris: ['https://example.org/web'],
      says: 'CSR URI SAN is invalid: invalid SPIFFE ID "https://example.org/web": must start with "spiffe://"',
    },
    {
      name: 'an identity with dots',
      uris: ['spiffe://example.org/web/../spire/server'],
      says: 'CSR URI SAN is invalid: invalid SPIFFE ID "spiffe://example.org/web/../spire/server": path must not contain "." or ".." segments',
    },
    {
      name: 'another trust domain',
      uris: ['spiffe://other.org/web'],
      says: 'CSR URI SAN is invalid: "spiffe://other.org/web" is not a member of trust domain "example.org"',
    },
    {
      name: 'the trust domain itself',
      uris: ['spiffe://example.org'],
      says: 'CSR URI SAN is invalid: "spiffe://example.org" is not a workload in trust domain "example.org"; path is empty',
    },
    ...['/spire', '/spire/server', '/spire/agent/join_token/x'].map((path) => ({
      name: `the reserved ${path}`,
      uris: [`spiffe://example.org${path}`],
      says: `CSR URI SAN is invalid: "spiffe://example.org${path}" is not a workload in trust domain "example.org"; path is in the reserved namespace`,
    })),
    ...['a b', 'a..b', '*', '*.*.example.org', 'a.*.example.org', '-a', 'a'.repeat(254)].map((dnsName) => ({
      name: `the DNS name ${dnsName.slice(0, 20)}`,
      dnsNames: [dnsName],
      says: `CSR DNS name is invalid: dns name "${dnsName.slice(0, 80)}" is not a host name`,
    })),
    {
      name: 'a wildcard and what it covers',
      dnsNames: ['a.b.org', '*.Example.org', 'WEB.example.org'],
      says: 'CSR DNS name contains a wildcard that covers another non-wildcard name: "WEB.example.org"',
    },
    {
      name: 'an organization of 65 characters',
      subject: sequence(
        setOf(sequence(oid('2.5.4.10'), element(tags.utf8String, Buffer.from('a'.repeat(65))))),
      ),
      says: 'CSR subject is invalid: organization of a name: expected 1 to 64 characters, got 65',
    },
    {
      name: 'an organization that moves the cursor',
      subject: sequence(setOf(sequence(oid('2.5.4.10'), element(tags.utf8String, Buffer.from('a\x1b[2J'))))),
      says: 'CSR subject is invalid: organization: not plain text',
    },
  ])('is answered as SPIRE answers: $name', async ({ says, name: _, ...fields }) => {
    expect(await refusal(() => read(fields))).toBe(says);
  });

  it('may have wildcards that cover none of its names', async () => {
    const dnsNames = ['*.example.org', 'example.org', 'a.web.example.org', 'web'];
    expect((await read({ dnsNames })).dnsNames).toEqual(dnsNames);
  });

  it.each([
    { name: 'nothing', csr: Buffer.alloc(0), says: /^missing CSR$/ },
    { name: 'something else', csr: Buffer.from('hello'), says: /^malformed CSR: / },
    {
      name: 'a weak key',
      csr: opensslCsr(['-newkey', 'rsa:1024', '-addext', `subjectAltName=URI:${web}`]),
      says: /^failed to verify CSR signature: csr has an RSA-1024 key; at least 2048 bits are required$/,
    },
  ])('is refused: $name', async ({ csr, says }) => {
    expect(await refusal(() => readMintRequest(csr, trustDomain))).toMatch(says);
  });

  it('is refused without the key that it is for', async () => {
    const other = await newSigner();
    const csr = await buildCsr({ signer: { ...signer, sign: (data) => other.sign(data) }, uris: [web] });
    expect(await refusal(() => readMintRequest(csr, trustDomain))).toBe(
      'failed to verify CSR signature: invalid CSR signature',
    );
  });
});

describe('the subject of a request to mint', () => {
  it('is taken over attribute by attribute', async () => {
    const subject = {
      country: ['DE'],
      organization: ['Example', 'Web'],
      organizationalUnit: ['Ops'],
      locality: ['Berlin'],
      province: ['BE'],
      commonName: ['web'],
      serialNumber: ['7'],
    };
    expect((await read({ subject: encodeName(subject) })).subject).toEqual(subject);
  });

  it('is as openssl writes it', async () => {
    const args = [
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-addext',
      `subjectAltName=URI:${web}`,
    ];
    const csr = opensslCsr([...args, '-subj', '/C=DE/ST=BE/L=Berlin/O=Example/DC=org/CN=first/CN=web']);
    expect(readMintRequest(csr, trustDomain).subject).toMatchObject({
      country: ['DE'],
      province: ['BE'],
      locality: ['Berlin'],
      organization: ['Example'],
      commonName: ['web'],
    });
  });

  it('does not count when it has only attributes that are dropped', async () => {
    const subject = sequence(setOf(sequence(oid('2.5.4.65'), element(tags.utf8String, Buffer.from('x')))));
    expect((await read({ subject })).subject).toBeUndefined();
  });

  it('is plain text whatever was sent', async () => {
    const attribute = fc.tuple(
      fc.constantFrom('2.5.4.3', '2.5.4.5', '2.5.4.6', '2.5.4.7', '2.5.4.8', '2.5.4.10', '2.5.4.11'),
      fc.constantFrom(...Object.values(tags)),
      fc.oneof(fc.string({ unit: 'grapheme' }).map(Buffer.from), fc.uint8Array().map(Buffer.from)),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(attribute, { maxLength: 4 }), async (attributes) => {
        const rdns = attributes.map(([type, tag, value]) => setOf(sequence(oid(type), element(tag, value))));
        const text = await refusal(async () => {
          const { subject = {} } = await read({ subject: sequence(...rdns) });
          for (const values of Object.values(subject)) expect(String(values)).not.toMatch(/\p{C}/u);
        });
        expect(text).toMatch(/^accepted$|^malformed CSR: |^CSR subject is invalid: /);
      }),
      { numRuns: 300 },
    );
  });
});
