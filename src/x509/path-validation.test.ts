import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppError } from '../runtime/error.ts';
import { opensslVerdict } from '../testing/openssl.ts';
import { newSigner, TestAuthority, type TestCertificateOptions } from '../testing/test-authority.ts';
import { Certificate } from './certificate.ts';
import { contextTag } from './der-reader.ts';
import { element, octetString, sequence } from './der-writer.ts';
import { encodeExtension } from './extensions.ts';
import { nameConstraints } from './name-constraints.ts';
import { type PathRefusal, type PathRequest, validatePath } from './path-validation.ts';
import type { Signer } from './signature.ts';

const nowMs = Date.UTC(2030, 0, 15);
const hour = 3_600_000;
const expired = { notBeforeMs: nowMs - 3 * hour, notAfterMs: nowMs - 2 * hour };
const notYetValid = { notBeforeMs: nowMs + 2 * hour, notAfterMs: nowMs + 3 * hour };
const critical = { extraExtensions: [encodeExtension('1.2.3.4', true, octetString(Buffer.from('x')))] };

const harmless = encodeExtension('1.2.3.4', false, octetString(Buffer.from('x')));

const rootKey = await newSigner();
const rootOf = (options: TestCertificateOptions = {}) =>
  TestAuthority.root({ nowMs, signer: rootKey, ...options });
const root = await rootOf();

type Parts = Omit<PathRequest, 'nowMs'>;

/** leaf ← intermediate ← root, each with its own deviations. */
async function three(
  options: {
    root?: TestCertificateOptions;
    middle?: TestCertificateOptions;
    leaf?: TestCertificateOptions;
  } = {},
): Promise<Parts> {
  const anchor = await rootOf(options.root);
  const middle = await anchor.authority({ nowMs, ...options.middle });
  const leaf = await middle.leaf({ nowMs, ...options.leaf });
  return { leaf, intermediates: [middle.certificate], anchors: [anchor.certificate] };
}

/** leaf ← root. */
async function two(
  options: { root?: TestCertificateOptions; leaf?: TestCertificateOptions } = {},
): Promise<Parts> {
  const anchor = await rootOf(options.root);
  return {
    leaf: await anchor.leaf({ nowMs, ...options.leaf }),
    intermediates: [],
    anchors: [anchor.certificate],
  };
}

/** `names` below a root with these constraints. */
function constrained(
  subtrees: Parameters<typeof nameConstraints>[0],
  leaf: TestCertificateOptions,
): () => Promise<Parts> {
  return () => three({ root: { extraExtensions: [nameConstraints(subtrees)] }, leaf });
}

/** The certificate with one byte of its signature changed. */
function withBrokenSignature(certificate: Certificate): Certificate {
  const der = Buffer.from(certificate.der);
  der[der.length - 1] = (der.at(-1) ?? 0) ^ 1;
  return Certificate.parse(der);
}

/** The certificate with its algorithm called ecdsa-with-SHA224. */
function withSha224(certificate: Certificate): Certificate {
  const hex = certificate.der.toString('hex').replaceAll('06082a8648ce3d040302', '06082a8648ce3d040301');
  return Certificate.parse(Buffer.from(hex, 'hex'));
}

/** Authorities above one another, `count` of them with the root. */
async function tower(count: number): Promise<Parts> {
  let top = root;
  const intermediates: Certificate[] = [];
  for (let level = 1; level < count; level += 1) {
    top = await top.authority({ nowMs, name: `level ${level}` });
    intermediates.push(top.certificate);
  }
  return { leaf: await top.leaf({ nowMs }), intermediates, anchors: [root.certificate] };
}

const emailConstraint = encodeExtension(
  '2.5.29.30',
  true,
  sequence(element(contextTag(0, true), sequence(element(contextTag(1), Buffer.from('example.test'))))),
);
const emailName = encodeExtension(
  '2.5.29.17',
  true,
  sequence(
    element(contextTag(6), Buffer.from('spiffe://a.test/w')),
    element(contextTag(1), Buffer.from('a@evil.test')),
  ),
);

/** How openssl words the same refusals. */
const opensslTexts: Record<PathRefusal, RegExp> = {
  CERTIFICATE_NOT_YET_VALID: /not yet valid/,
  CERTIFICATE_EXPIRED: /expired/,
  UNKNOWN_CRITICAL_EXTENSION: /unhandled critical extension/,
  UNSUPPORTED_SIGNATURE_ALGORITHM: /signature failure/,
  ISSUER_IS_NOT_A_CA: /invalid CA/,
  ISSUER_MAY_NOT_SIGN_CERTIFICATES: /invalid CA|key usage/,
  PATH_TOO_LONG: /path length/,
  NAME_NOT_PERMITTED: /subtree/,
  BAD_SIGNATURE: /signature failure/,
  NO_TRUSTED_ISSUER: /unable to get|self-signed/,
  TOO_MANY_CANDIDATES: /chain too long/,
};

interface Case {
  readonly name: string;
  readonly parts: () => Promise<Parts>;
  readonly refusal?: PathRefusal;
  /** Why `openssl verify` decides otherwise; left out where it agrees. */
  readonly opensslDiffers?: string;
}

const cases: readonly Case[] = [
  { name: 'a leaf signed by the anchor', parts: two },
  { name: 'a leaf below an intermediate', parts: three },
  { name: 'an anchor that is not self-signed', parts: async () => ({ ...(await intermediateAnchor()) }) },
  { name: 'key types mixed along the path', parts: mixedKeys },
  { name: 'duplicate, unsorted and unrelated intermediates', parts: disorderly },
  {
    name: 'a second anchor of the same name when the first has another key',
    parts: rolledOver,
    opensslDiffers: 'it does not go back to the other anchor after a bad signature',
  },
  {
    name: 'an unknown extension that is not critical',
    parts: () => two({ leaf: { extraExtensions: [harmless] } }),
  },
  { name: 'an anchor without key usage', parts: () => two({ root: { usage: null } }) },

  { name: 'an expired leaf', parts: () => two({ leaf: expired }), refusal: 'CERTIFICATE_EXPIRED' },
  {
    name: 'an expired intermediate',
    parts: () => three({ middle: expired }),
    refusal: 'CERTIFICATE_EXPIRED',
  },
  { name: 'an expired anchor', parts: () => two({ root: expired }), refusal: 'CERTIFICATE_EXPIRED' },
  {
    name: 'a leaf of tomorrow',
    parts: () => two({ leaf: notYetValid }),
    refusal: 'CERTIFICATE_NOT_YET_VALID',
  },
  {
    name: 'an intermediate of tomorrow',
    parts: () => three({ middle: notYetValid }),
    refusal: 'CERTIFICATE_NOT_YET_VALID',
  },

  {
    name: 'a leaf that issues',
    parts: () => three({ middle: { ca: false, usage: ['keyCertSign'] } }),
    refusal: 'ISSUER_IS_NOT_A_CA',
  },
  {
    name: 'an anchor that is no authority',
    parts: () => two({ root: { ca: false, usage: ['keyCertSign'] } }),
    refusal: 'ISSUER_IS_NOT_A_CA',
  },
  {
    name: 'an intermediate without keyCertSign',
    parts: () => three({ middle: { usage: ['cRLSign'] } }),
    refusal: 'ISSUER_MAY_NOT_SIGN_CERTIFICATES',
  },
  {
    name: 'an anchor without keyCertSign',
    parts: () => two({ root: { usage: ['cRLSign'] } }),
    refusal: 'ISSUER_MAY_NOT_SIGN_CERTIFICATES',
  },
  {
    name: 'an intermediate without key usage',
    parts: () => three({ middle: { usage: null } }),
    refusal: 'ISSUER_MAY_NOT_SIGN_CERTIFICATES',
    opensslDiffers: 'it takes an absent key usage for all usages (RFC 5280 §6.1.4 n)',
  },

  { name: 'a path length of 0 on the issuer of the leaf', parts: () => two({ root: { pathLength: 0 } }) },
  { name: 'a path length of 1 with one intermediate', parts: () => three({ root: { pathLength: 1 } }) },
  {
    name: 'a path length of 0 with one intermediate',
    parts: () => three({ root: { pathLength: 0 } }),
    refusal: 'PATH_TOO_LONG',
  },
  {
    name: 'a path length of 0 with a self-issued intermediate',
    parts: () => three({ root: { pathLength: 0 }, middle: { name: 'root' } }),
  },
  { name: 'a path length of an intermediate', parts: narrowMiddle, refusal: 'PATH_TOO_LONG' },
  { name: '8 certificates', parts: () => tower(7) },
  {
    name: '9 certificates',
    parts: () => tower(8),
    refusal: 'PATH_TOO_LONG',
    opensslDiffers: 'its limit is 100',
  },

  {
    name: 'a damaged signature on the leaf',
    parts: async () => mapLeaf(await two(), withBrokenSignature),
    refusal: 'BAD_SIGNATURE',
  },
  { name: 'a damaged signature on an intermediate', parts: damagedIntermediate, refusal: 'BAD_SIGNATURE' },
  { name: 'an impostor of the same name and key identifier', parts: impostor, refusal: 'BAD_SIGNATURE' },
  {
    name: 'a hash that is not accepted',
    parts: async () => mapLeaf(await two(), withSha224),
    refusal: 'UNSUPPORTED_SIGNATURE_ALGORITHM',
  },

  {
    name: 'an unknown critical extension on the leaf',
    parts: () => two({ leaf: critical }),
    refusal: 'UNKNOWN_CRITICAL_EXTENSION',
  },
  {
    name: 'an unknown critical extension on an intermediate',
    parts: () => three({ middle: critical }),
    refusal: 'UNKNOWN_CRITICAL_EXTENSION',
  },
  {
    name: 'an unknown critical extension on the anchor',
    parts: () => two({ root: critical }),
    refusal: 'UNKNOWN_CRITICAL_EXTENSION',
  },

  {
    name: 'an anchor of another name',
    parts: () => withAnchor(TestAuthority.root({ nowMs, name: 'other' })),
    refusal: 'NO_TRUSTED_ISSUER',
  },
  {
    name: 'an anchor with another key and key identifier',
    parts: () => withAnchor(TestAuthority.root({ nowMs })),
    refusal: 'NO_TRUSTED_ISSUER',
  },
  {
    name: 'a missing intermediate',
    parts: async () => ({ ...(await three()), intermediates: [] }),
    refusal: 'NO_TRUSTED_ISSUER',
  },
  { name: 'a self-signed leaf of a stranger', parts: selfSignedLeaf, refusal: 'NO_TRUSTED_ISSUER' },
  {
    name: 'an anchor in the place of the leaf',
    parts: async () => ({ leaf: root.certificate, intermediates: [], anchors: [root.certificate] }),
    refusal: 'NO_TRUSTED_ISSUER',
    opensslDiffers: 'it takes an anchor for a path of its own',
  },
  {
    name: 'authorities that signed each other, without an anchor',
    parts: () => crossSigned([root.certificate]),
    refusal: 'NO_TRUSTED_ISSUER',
  },
  { name: 'authorities that signed each other, one of them an anchor', parts: () => crossSigned() },

  {
    name: 'a URI within a permitted host',
    parts: constrained({ permittedUris: ['a.test'] }, { uris: ['spiffe://a.test/w'] }),
  },
  {
    name: 'a URI outside a permitted host',
    parts: constrained({ permittedUris: ['a.test'] }, { uris: ['spiffe://b.test/w'] }),
    refusal: 'NAME_NOT_PERMITTED',
  },
  {
    name: 'a URI below an excluded domain',
    parts: constrained({ excludedUris: ['.evil.test'] }, { uris: ['spiffe://a.evil.test/w'] }),
    refusal: 'NAME_NOT_PERMITTED',
  },
  {
    name: 'a DNS name below a permitted one',
    parts: constrained({ permittedDnsNames: ['a.test'] }, { dnsNames: ['x.a.test'] }),
  },
  {
    name: 'a DNS name outside a permitted one',
    parts: constrained({ permittedDnsNames: ['a.test'] }, { dnsNames: ['xa.test'] }),
    refusal: 'NAME_NOT_PERMITTED',
  },
  {
    name: 'constraints on a kind of name that does not occur',
    parts: constrained({ permittedDnsNames: ['a.test'] }, {}),
  },
  {
    name: 'constraints that a self-issued intermediate does not meet',
    parts: () =>
      three({
        root: { extraExtensions: [nameConstraints({ permittedUris: ['a.test'] })] },
        middle: { name: 'root', uris: ['spiffe://b.test'] },
        leaf: { uris: ['spiffe://a.test/w'] },
      }),
  },
  {
    name: 'constraints that another intermediate does not meet',
    parts: () =>
      three({
        root: { extraExtensions: [nameConstraints({ permittedUris: ['a.test'] })] },
        middle: { uris: ['spiffe://b.test'] },
        leaf: { uris: ['spiffe://a.test/w'] },
      }),
    refusal: 'NAME_NOT_PERMITTED',
  },
  {
    name: 'constraints that only an intermediate has',
    parts: () => three({ middle: { extraExtensions: [nameConstraints({ permittedUris: ['a.test'] })] } }),
    refusal: 'NAME_NOT_PERMITTED',
  },
  {
    name: 'names that cannot be compared under a constraint on them',
    parts: () =>
      two({ root: { extraExtensions: [emailConstraint] }, leaf: { uris: [], extraExtensions: [emailName] } }),
    refusal: 'NAME_NOT_PERMITTED',
  },
  {
    name: 'a constraint on names of a kind the leaf lacks',
    parts: () => two({ root: { extraExtensions: [emailConstraint] } }),
  },
];

async function intermediateAnchor(): Promise<Parts> {
  const { leaf, intermediates } = await three();
  return { leaf, intermediates: [], anchors: intermediates };
}

async function mixedKeys(): Promise<Parts> {
  const anchor = await TestAuthority.root({ nowMs, type: 'rsa-2048' });
  const middle = await anchor.authority({ nowMs, type: 'ec-p384' });
  return {
    leaf: await middle.leaf({ nowMs }),
    intermediates: [middle.certificate],
    anchors: [anchor.certificate],
  };
}

async function disorderly(): Promise<Parts> {
  const parts = await tower(4);
  const stranger = await TestAuthority.root({ nowMs, name: 'level 2' });
  const reversed = parts.intermediates.toReversed();
  return { ...parts, intermediates: [stranger.certificate, ...reversed, ...reversed, root.certificate] };
}

async function rolledOver(): Promise<Parts> {
  const old = await TestAuthority.root({ nowMs, withoutKeyIds: true });
  const next = await TestAuthority.root({ nowMs, withoutKeyIds: true });
  const leaf = await next.leaf({ nowMs, withoutKeyIds: true });
  return { leaf, intermediates: [], anchors: [old.certificate, next.certificate] };
}

async function narrowMiddle(): Promise<Parts> {
  const upper = await root.authority({ nowMs, name: 'upper', pathLength: 0 });
  const lower = await upper.authority({ nowMs, name: 'lower' });
  const intermediates = [upper.certificate, lower.certificate];
  return { leaf: await lower.leaf({ nowMs }), intermediates, anchors: [root.certificate] };
}

function mapLeaf(parts: Parts, change: (leaf: Certificate) => Certificate): Parts {
  return { ...parts, leaf: change(parts.leaf) };
}

async function damagedIntermediate(): Promise<Parts> {
  const parts = await three();
  return { ...parts, intermediates: parts.intermediates.map(withBrokenSignature) };
}

async function impostor(): Promise<Parts> {
  const signer: Signer = { ...(await newSigner()), publicKey: rootKey.publicKey };
  const forger = new TestAuthority(root.certificate, signer);
  return { leaf: await forger.leaf({ nowMs }), intermediates: [], anchors: [root.certificate] };
}

async function withAnchor(authority: Promise<TestAuthority>): Promise<Parts> {
  return { ...(await two()), anchors: [(await authority).certificate] };
}

async function selfSignedLeaf(): Promise<Parts> {
  const leaf = await TestAuthority.root({
    nowMs,
    name: 'leaf',
    ca: false,
    uris: ['spiffe://example.test/w'],
  });
  return { leaf: leaf.certificate, intermediates: [leaf.certificate], anchors: [root.certificate] };
}

async function crossSigned(anchors?: Certificate[]): Promise<Parts> {
  const a = await TestAuthority.root({ nowMs, name: 'a' });
  const b = await TestAuthority.root({ nowMs, name: 'b' });
  const aByB = await b.authority({ nowMs, name: 'a', signer: a.signer });
  const bByA = await a.authority({ nowMs, name: 'b', signer: b.signer });
  const intermediates = [bByA.certificate, aByB.certificate];
  return { leaf: await a.leaf({ nowMs }), intermediates, anchors: anchors ?? [b.certificate] };
}

/** The refusal, or undefined with the path found. */
function verdict(request: PathRequest): { refusal?: string; path?: readonly Certificate[] } {
  try {
    return { path: validatePath(request) };
  } catch (error) {
    if (!(error instanceof AppError) || error.code !== 'unauthenticated') throw error;
    return { refusal: String(error.reason) };
  }
}

describe('validatePath', () => {
  it.each(cases.filter(({ refusal }) => refusal === undefined))('accepts $name', async ({ parts }) => {
    const request = { ...(await parts()), nowMs };
    const { path } = verdict(request);
    expect(path?.[0]).toBe(request.leaf);
    expect(request.anchors).toContain(path?.at(-1));
  });

  it.each(cases.filter(({ refusal }) => refusal !== undefined))(
    'refuses $name',
    async ({ parts, refusal }) => {
      expect(verdict({ ...(await parts()), nowMs }).refusal).toBe(refusal);
    },
  );

  it.each(cases)('decides on $name like openssl, or we know why not', async (testCase) => {
    const { parts, refusal, opensslDiffers } = testCase;
    const said = opensslVerdict({ ...(await parts()), nowMs });
    if (opensslDiffers !== undefined) expect(said === 'OK').toBe(refusal !== undefined);
    else expect(said).toMatch(refusal === undefined ? /^OK$/ : opensslTexts[refusal]);
  });

  it('counts the first and the last second of the validity in', async () => {
    const parts = await two({ leaf: { notBeforeMs: nowMs, notAfterMs: nowMs + 1000 } });
    const at = (ms: number) => verdict({ ...parts, nowMs: ms }).refusal;
    expect([at(nowMs - 1), at(nowMs), at(nowMs + 1000), at(nowMs + 1001)]).toEqual([
      'CERTIFICATE_NOT_YET_VALID',
      undefined,
      undefined,
      'CERTIFICATE_EXPIRED',
    ]);
  });

  it('refuses a time that is not a number', async () => {
    expect(verdict({ ...(await two()), nowMs: Number.NaN }).refusal).toBe('CERTIFICATE_NOT_YET_VALID');
  });

  it('refuses everything when there are no anchors', async () => {
    expect(verdict({ ...(await three()), anchors: [], nowMs }).refusal).toBe('NO_TRUSTED_ISSUER');
  });

  it('refuses a signature by a key that is too weak', async () => {
    const { generateKeyPairSync, sign } = await import('node:crypto');
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 1024 });
    const signer: Signer = {
      type: 'rsa-2048',
      publicKey: publicKey.export({ format: 'der', type: 'spki' }),
      sign: async (data) => sign('sha256', data, privateKey),
    };
    expect(verdict({ ...(await two({ root: { signer } })), nowMs }).refusal).toBe('BAD_SIGNATURE');
  });

  it('gives up on intermediates of one name that could be ordered in very many ways', async () => {
    const names = Array.from({ length: 30 }, () =>
      TestAuthority.root({ nowMs, name: 'x', withoutKeyIds: true }),
    );
    const crowd = await Promise.all(names);
    const leaf = await crowd[0]!.leaf({ nowMs, withoutKeyIds: true });
    const intermediates = crowd.map(({ certificate }) => certificate);
    const request = { leaf, intermediates, anchors: [root.certificate], nowMs };
    expect(verdict(request).refusal).toBe('TOO_MANY_CANDIDATES');
    expect(verdict({ ...request, intermediates: [...intermediates, ...intermediates] }).refusal).toBe(
      'TOO_MANY_CANDIDATES',
    );
  });

  it('takes no more than 32 intermediates, even those it does not need', async () => {
    const { leaf, anchors } = await two();
    const intermediates = Array<Certificate>(33).fill(leaf);
    expect(verdict({ leaf, intermediates, anchors, nowMs }).refusal).toBe('TOO_MANY_CANDIDATES');
    expect(verdict({ leaf, intermediates: intermediates.slice(1), anchors, nowMs }).path).toHaveLength(2);
  });

  it('bounds the signatures it checks', async () => {
    const crowd = await Promise.all(
      Array.from({ length: 40 }, () => TestAuthority.root({ nowMs, withoutKeyIds: true })),
    );
    const leaf = await (await TestAuthority.root({ nowMs })).leaf({ nowMs, withoutKeyIds: true });
    const anchors = crowd.map(({ certificate }) => certificate);
    expect(verdict({ leaf, intermediates: [], anchors, nowMs }).refusal).toBe('TOO_MANY_CANDIDATES');
    expect(verdict({ leaf, intermediates: [], anchors: anchors.slice(0, 9), nowMs }).refusal).toBe(
      'BAD_SIGNATURE',
    );
  });

  it('never accepts a certificate in which one bit was changed', async () => {
    const parts = await two();
    const bits = parts.leaf.der.length * 8;
    fc.assert(
      fc.property(fc.integer({ min: 0, max: bits - 1 }), (bit) => {
        const der = Buffer.from(parts.leaf.der);
        der[bit >> 3] = (der[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        expect(() => validatePath({ ...parts, leaf: Certificate.parse(der), nowMs })).toThrow(AppError);
      }),
      { numRuns: 2000 },
    );
  });
});
