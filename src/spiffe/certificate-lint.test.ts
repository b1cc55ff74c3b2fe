import { generateKeyPairSync } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { isAppError } from '../runtime/error.ts';
import { testStartMs } from '../testing/certificates.ts';
import { newSigner } from '../testing/test-authority.ts';
import { Certificate } from '../x509/certificate.ts';
import { contextTag } from '../x509/der-reader.ts';
import { booleanTrue, element, namedBits, sequence } from '../x509/der-writer.ts';
import {
  authorityKeyIdentifier,
  basicConstraints,
  encodeExtension,
  extendedKeyUsage,
  extensionOids,
  keyUsage,
  subjectAltName,
  subjectKeyIdentifier,
} from '../x509/extensions.ts';
import { type CertificateTemplate, issueCertificate, newSerial } from '../x509/issue.ts';
import { nameConstraints } from '../x509/name-constraints.ts';
import { encodeName } from '../x509/names.ts';
import type { Signer } from '../x509/signature.ts';
import { lintCertificate } from './certificate-lint.ts';
import { TrustDomain } from './spiffe-id.ts';
import { issuedLeafRules, signingCertificateRules } from './x509-svid.ts';

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
const uncriticalConstraints = () => {
  // GeneralSubtrees with one URI (RFC 5280 §4.2.1.10).
  const uri = element(contextTag(6), Buffer.from('example.org'));
  const value = sequence(element(contextTag(0, true), sequence(uri)));
  return encodeExtension(extensionOids.nameConstraints, false, value);
};
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
  /** Demands of the X509-SVID standard on issuers that it breaks: ids of the SPIFFE conformance checklist. */
  readonly breaks?: string;
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
  { name: 'no name', breaks: 'X509-01', change: { extensions: { names: undefined } }, rule: 'ONE_URI_NAME' },
  {
    name: 'two identities',
    breaks: 'X509-01',
    change: { extensions: { names: san(['spiffe://example.org/a', 'spiffe://example.org/b']) } },
    rule: 'ONE_URI_NAME',
  },
  {
    name: 'a web address',
    breaks: 'X509-01',
    change: { extensions: { names: san(['https://example.org/web']) } },
    rule: 'LEAF_ID',
  },
  {
    name: 'the ID of the trust domain',
    breaks: 'X509-06',
    change: { extensions: { names: san(['spiffe://example.org']) } },
    rule: 'LEAF_ID',
  },
  {
    name: 'the CA flag',
    breaks: 'X509-15',
    change: { extensions: { constraints: basicConstraints({ ca: true }) } },
    rule: 'LEAF_IS_NOT_A_CA',
  },
  {
    name: 'no right to sign',
    breaks: 'X509-25',
    change: { extensions: { usage: keyUsage(['keyAgreement']) } },
    rule: 'LEAF_DIGITAL_SIGNATURE',
  },
  {
    name: 'the right to sign certificates',
    breaks: 'X509-27',
    change: { extensions: { usage: keyUsage(['digitalSignature', 'keyCertSign']) } },
    rule: 'LEAF_SIGNS_NO_CERTIFICATES',
  },
  {
    name: 'the right to sign CRLs',
    breaks: 'X509-27',
    change: { extensions: { usage: keyUsage(['digitalSignature', 'cRLSign']) } },
    rule: 'LEAF_SIGNS_NO_CERTIFICATES',
  },
  {
    name: 'a key usage that may be ignored',
    breaks: 'X509-21',
    change: { extensions: { usage: uncriticalUsage(0) } },
    rule: 'CRITICAL_KEY_USAGE',
  },
  {
    name: 'no key purposes',
    breaks: 'X509-31',
    change: { extensions: { purposes: undefined } },
    rule: 'LEAF_KEY_PURPOSES',
  },
  {
    name: 'the purpose of servers only',
    breaks: 'X509-32',
    change: { extensions: { purposes: extendedKeyUsage(['serverAuth']) } },
    rule: 'LEAF_KEY_PURPOSES',
  },
  {
    name: 'neither subject nor critical names',
    breaks: 'X509-08',
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
  {
    name: 'no key usage',
    breaks: 'X509-20',
    change: { extensions: { usage: undefined } },
    rule: 'LEAF_DIGITAL_SIGNATURE',
  },
  {
    name: 'the purpose of clients only',
    breaks: 'X509-32',
    change: { extensions: { purposes: extendedKeyUsage(['clientAuth']) } },
    rule: 'LEAF_KEY_PURPOSES',
  },
  {
    name: 'name constraints',
    breaks: 'X509-19',
    change: { extensions: { constrained: nameConstraints({ permittedUris: ['example.org'] }) } },
    rule: 'NAME_CONSTRAINTS',
  },
];

const rootCases: readonly Case[] = [
  ...sharedCases,
  {
    name: 'no CA flag',
    breaks: 'X509-14',
    change: { extensions: { constraints: basicConstraints({ ca: false }) } },
    rule: 'CA_FLAG',
  },
  { name: 'no name', breaks: 'X509-10', change: { extensions: { names: undefined } }, rule: 'CA_ID' },
  {
    name: 'two names',
    breaks: 'X509-10',
    change: { extensions: { names: san(['spiffe://example.org', 'spiffe://example.org']) } },
    rule: 'CA_ID',
  },
  {
    name: 'the ID of a workload',
    breaks: 'X509-11',
    change: { extensions: { names: san(['spiffe://example.org/web']) } },
    rule: 'CA_ID',
  },
  {
    name: 'a name that is no SPIFFE ID',
    change: { extensions: { names: san(['spiffe://Example.org']) } },
    rule: 'CA_ID',
  },
  {
    name: 'no key usage',
    breaks: 'X509-20',
    change: { extensions: { usage: undefined } },
    rule: 'CRITICAL_KEY_USAGE',
  },
  {
    name: 'a key usage that may be ignored',
    breaks: 'X509-21',
    change: { extensions: { usage: uncriticalUsage(5) } },
    rule: 'CRITICAL_KEY_USAGE',
  },
  {
    name: 'no right to sign certificates',
    breaks: 'X509-23',
    change: { extensions: { usage: keyUsage(['cRLSign']) } },
    rule: 'CA_KEY_USAGE',
  },
  {
    name: 'the right to authenticate',
    breaks: 'X509-30',
    change: { extensions: { usage: keyUsage(['keyCertSign', 'digitalSignature']) } },
    rule: 'CA_KEY_USAGE',
  },
  {
    name: 'key purposes',
    breaks: 'X509-34',
    change: { extensions: { purposes: extendedKeyUsage(['serverAuth']) } },
    rule: 'CA_NO_KEY_PURPOSES',
  },
  {
    name: 'another trust domain',
    breaks: 'X509-12',
    change: { extensions: { names: san(['spiffe://other.org']) } },
    rule: 'ID_IN_TRUST_DOMAIN',
  },
  {
    name: 'a CA flag that may be ignored',
    breaks: 'X509-14',
    change: {
      extensions: {
        constraints: encodeExtension(extensionOids.basicConstraints, false, sequence(booleanTrue)),
      },
    },
    rule: 'CRITICAL_CA_FLAG',
  },
  {
    name: 'name constraints that may be ignored',
    breaks: 'X509-19',
    change: { extensions: { constrained: uncriticalConstraints() } },
    rule: 'NAME_CONSTRAINTS',
  },
  {
    name: 'key agreement',
    breaks: 'X509-30',
    change: { extensions: { usage: keyUsage(['keyCertSign', 'keyAgreement']) } },
    rule: 'CA_KEY_USAGE',
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

  it('refuses every violation that the standard knows of an issuer', () => {
    const demands =
      'X509-01 X509-06 X509-08 X509-10 X509-11 X509-12 X509-14 X509-15 X509-19 X509-20 X509-21 X509-23 ' +
      'X509-25 X509-27 X509-30 X509-31 X509-32 X509-34';
    const tested = new Set([...leafCases, ...rootCases].map(({ breaks }) => breaks));
    expect(demands.split(' ').filter((demand) => !tested.has(demand))).toEqual([]);
  });

  it('never takes a leaf for a signing certificate or the other way round', async () => {
    expect(brokenRule(await leaf(), 'signing-certificate')).toBe('CA_FLAG');
    expect(brokenRule(await root(), 'leaf')).toBeDefined();
  });
});

function spkiOf(key: typeof rsa1024): Buffer {
  return key.export({ format: 'der', type: 'spki' });
}
