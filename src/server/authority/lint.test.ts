import { generateKeyPairSync } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { isAppError } from '../../runtime/error.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { issuedLeafRules, signingCertificateRules } from '../../spiffe/x509-svid.ts';
import { testStartMs } from '../../testing/certificates.ts';
import { newSigner } from '../../testing/test-authority.ts';
import { Certificate } from '../../x509/certificate.ts';
import { namedBits } from '../../x509/der-writer.ts';
import {
  authorityKeyIdentifier,
  basicConstraints,
  encodeExtension,
  extendedKeyUsage,
  extensionOids,
  keyUsage,
  subjectAltName,
  subjectKeyIdentifier,
} from '../../x509/extensions.ts';
import { type CertificateTemplate, issueCertificate, newSerial } from '../../x509/issue.ts';
import { encodeName } from '../../x509/names.ts';
import type { Signer } from '../../x509/signature.ts';
import { lintCertificate } from './lint.ts';

const trustDomain = TrustDomain.parse('example.org');
const name = encodeName({ organization: ['Signet'] });
const leafName = encodeName({ organization: ['Signet'], commonName: 'web' });
const ed25519 = generateKeyPairSync('ed25519').publicKey.export({ format: 'der', type: 'spki' });
const rsa1024 = generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey;

let signer: Signer;
beforeAll(async () => {
  signer = await newSigner();
});

type Extensions = Readonly<Record<string, Uint8Array | undefined>>;
interface Change {
  readonly template?: Partial<CertificateTemplate>;
  readonly extensions?: Extensions;
}

const san = (uris: readonly string[]) => subjectAltName({ uris, critical: false });
const uncriticalUsage = (bit: number) => encodeExtension(extensionOids.keyUsage, false, namedBits([bit]));

async function certificate(extensions: Extensions, change: Change): Promise<Certificate> {
  const encoded = { ...extensions, ...change.extensions };
  const template: CertificateTemplate = {
    serial: newSerial(),
    issuer: name,
    subject: name,
    notBeforeMs: testStartMs,
    notAfterMs: testStartMs + 3_600_000,
    spki: signer.publicKey,
    ...change.template,
    extensions: Object.values(encoded).filter((extension) => extension !== undefined),
  };
  return Certificate.parse(await issueCertificate(template, signer));
}

function leaf(change: Change = {}): Promise<Certificate> {
  return certificate(
    {
      constraints: basicConstraints({ ca: false }),
      usage: keyUsage(['digitalSignature']),
      purposes: extendedKeyUsage(['serverAuth', 'clientAuth']),
      subjectKeyId: subjectKeyIdentifier(signer.publicKey),
      authorityKeyId: authorityKeyIdentifier({ subjectKeyId: undefined, spki: signer.publicKey }),
      names: san(['spiffe://example.org/web']),
    },
    { ...change, template: { subject: leafName, ...change.template } },
  );
}

function root(change: Change = {}): Promise<Certificate> {
  return certificate(
    {
      constraints: basicConstraints({ ca: true, pathLength: 0 }),
      usage: keyUsage(['keyCertSign', 'cRLSign']),
      subjectKeyId: subjectKeyIdentifier(signer.publicKey),
      names: san(['spiffe://example.org']),
    },
    change,
  );
}

function brokenRule(subject: Certificate, profile: 'leaf' | 'signing-certificate'): string | undefined {
  try {
    lintCertificate(subject, profile, trustDomain);
    return undefined;
  } catch (error) {
    if (!isAppError(error, 'internal')) throw error;
    return error.reason;
  }
}

interface Case {
  readonly name: string;
  readonly change: Change;
  readonly rule: string;
}

/** What both kinds of certificates are refused for. */
const sharedCases: readonly Case[] = [
  { name: 'a key that is too weak', change: { template: { spki: spkiOf(rsa1024) } }, rule: 'ACCEPTED_KEY' },
  { name: 'a key of another kind', change: { template: { spki: ed25519 } }, rule: 'ACCEPTED_KEY' },
  {
    name: 'a serial number to guess',
    change: { template: { serial: Buffer.alloc(7, 1) } },
    rule: 'SERIAL_NUMBER',
  },
  { name: 'no time left', change: { template: { notAfterMs: testStartMs + 10_000 } }, rule: 'VALIDITY' },
  { name: 'no key identifier', change: { extensions: { subjectKeyId: undefined } }, rule: 'KEY_IDENTIFIERS' },
  {
    name: 'a critical extension that nobody knows',
    change: { extensions: { foreign: encodeExtension('1.3.6.1.4.1.1', true, Buffer.from([5, 0])) } },
    rule: 'KNOWN_CRITICAL_EXTENSIONS',
  },
];

const leafCases: readonly Case[] = [
  ...sharedCases,
  {
    name: 'the subject of its issuer',
    change: { template: { subject: name } },
    rule: 'LEAF_IS_NOT_ITS_ISSUER',
  },
  { name: 'no name', change: { extensions: { names: undefined } }, rule: 'ONE_URI_NAME' },
  {
    name: 'two identities',
    change: { extensions: { names: san(['spiffe://example.org/a', 'spiffe://example.org/b']) } },
    rule: 'ONE_URI_NAME',
  },
  {
    name: 'a web address',
    change: { extensions: { names: san(['https://example.org/web']) } },
    rule: 'LEAF_ID',
  },
  {
    name: 'the ID of the trust domain',
    change: { extensions: { names: san(['spiffe://example.org']) } },
    rule: 'LEAF_ID',
  },
  {
    name: 'the CA flag',
    change: { extensions: { constraints: basicConstraints({ ca: true }) } },
    rule: 'LEAF_IS_NOT_A_CA',
  },
  {
    name: 'no right to sign',
    change: { extensions: { usage: keyUsage(['keyAgreement']) } },
    rule: 'LEAF_DIGITAL_SIGNATURE',
  },
  {
    name: 'the right to sign certificates',
    change: { extensions: { usage: keyUsage(['digitalSignature', 'keyCertSign']) } },
    rule: 'LEAF_SIGNS_NO_CERTIFICATES',
  },
  {
    name: 'the right to sign CRLs',
    change: { extensions: { usage: keyUsage(['digitalSignature', 'cRLSign']) } },
    rule: 'LEAF_SIGNS_NO_CERTIFICATES',
  },
  {
    name: 'a key usage that may be ignored',
    change: { extensions: { usage: uncriticalUsage(0) } },
    rule: 'CRITICAL_KEY_USAGE',
  },
  { name: 'no key purposes', change: { extensions: { purposes: undefined } }, rule: 'LEAF_KEY_PURPOSES' },
  {
    name: 'the purpose of servers only',
    change: { extensions: { purposes: extendedKeyUsage(['serverAuth']) } },
    rule: 'LEAF_KEY_PURPOSES',
  },
  {
    name: 'neither subject nor critical names',
    change: { template: { subject: encodeName({}) } },
    rule: 'CRITICAL_NAMES_WITHOUT_SUBJECT',
  },
  {
    name: 'an identity elsewhere',
    change: { extensions: { names: san(['spiffe://other.org/web']) } },
    rule: 'ID_IN_TRUST_DOMAIN',
  },
  {
    name: "no identifier of its issuer's key",
    change: { extensions: { authorityKeyId: undefined } },
    rule: 'KEY_IDENTIFIERS',
  },
];

const rootCases: readonly Case[] = [
  ...sharedCases,
  {
    name: 'no CA flag',
    change: { extensions: { constraints: basicConstraints({ ca: false }) } },
    rule: 'CA_FLAG',
  },
  { name: 'no name', change: { extensions: { names: undefined } }, rule: 'CA_ID' },
  {
    name: 'two names',
    change: { extensions: { names: san(['spiffe://example.org', 'spiffe://example.org']) } },
    rule: 'CA_ID',
  },
  {
    name: 'the ID of a workload',
    change: { extensions: { names: san(['spiffe://example.org/web']) } },
    rule: 'CA_ID',
  },
  {
    name: 'a name that is no SPIFFE ID',
    change: { extensions: { names: san(['spiffe://Example.org']) } },
    rule: 'CA_ID',
  },
  { name: 'no key usage', change: { extensions: { usage: undefined } }, rule: 'CRITICAL_KEY_USAGE' },
  {
    name: 'a key usage that may be ignored',
    change: { extensions: { usage: uncriticalUsage(5) } },
    rule: 'CRITICAL_KEY_USAGE',
  },
  {
    name: 'no right to sign certificates',
    change: { extensions: { usage: keyUsage(['cRLSign']) } },
    rule: 'CA_KEY_USAGE',
  },
  {
    name: 'the right to authenticate',
    change: { extensions: { usage: keyUsage(['keyCertSign', 'digitalSignature']) } },
    rule: 'CA_KEY_USAGE',
  },
  {
    name: 'key purposes',
    change: { extensions: { purposes: extendedKeyUsage(['serverAuth']) } },
    rule: 'CA_NO_KEY_PURPOSES',
  },
  {
    name: 'another trust domain',
    change: { extensions: { names: san(['spiffe://other.org']) } },
    rule: 'ID_IN_TRUST_DOMAIN',
  },
];

describe('the lint before signing', () => {
  it('has nothing against a sound leaf and a sound signing certificate', async () => {
    expect(brokenRule(await leaf(), 'leaf')).toBeUndefined();
    expect(brokenRule(await root(), 'signing-certificate')).toBeUndefined();
  });

  it.each(leafCases)('refuses a leaf with $name', async ({ change, rule }) => {
    expect(brokenRule(await leaf(change), 'leaf')).toBe(rule);
  });

  it.each(rootCases)('refuses a signing certificate with $name', async ({ change, rule }) => {
    expect(brokenRule(await root(change), 'signing-certificate')).toBe(rule);
  });

  it.each([
    { profile: 'leaf', rules: issuedLeafRules, cases: leafCases },
    { profile: 'signing certificate', rules: signingCertificateRules, cases: rootCases },
  ])('is tested with each rule of the $profile profile', ({ rules, cases }) => {
    const tested = new Set(cases.map(({ rule }) => rule));
    expect(rules.map((rule) => rule.name).filter((rule) => !tested.has(rule))).toEqual([]);
  });

  it('never takes a leaf for a signing certificate or the other way round', async () => {
    expect(brokenRule(await leaf(), 'signing-certificate')).toBe('CA_FLAG');
    expect(brokenRule(await root(), 'leaf')).toBeDefined();
  });
});

function spkiOf(key: typeof rsa1024): Buffer {
  return key.export({ format: 'der', type: 'spki' });
}
