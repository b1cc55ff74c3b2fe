import { beforeAll, describe, expect, it } from 'vitest';
import { TestIdentity } from '../testing/certificates.ts';
import { jwtKey } from '../testing/jwt-keys.ts';
import { type Certificate, parseCertificates, parsePemCertificates } from '../x509/certificate.ts';
import { Bundle } from './bundle.ts';
import { TrustDomain } from './spiffe-id.ts';

const td = TrustDomain.parse('td');
let a: Certificate;
let b: Certificate;
let rsa: Certificate;

beforeAll(async () => {
  const root = await TestIdentity.root('td');
  const second = await TestIdentity.root('td', { keyType: 'ec-p384' });
  [a, b] = [root.certificate, second.certificate];
  rsa = (await TestIdentity.root('td', { keyType: 'rsa-2048' })).certificate;
});

function bundleOf(certificates: readonly Certificate[], sequence = 1, refreshHintSeconds = 300): Bundle {
  const x509Authorities = certificates.map((certificate) => ({ certificate, tainted: false }));
  return new Bundle({ trustDomain: td, x509Authorities, sequence, refreshHintSeconds });
}

const base64 = (certificate: Certificate) => certificate.der.toString('base64');

describe('a bundle', () => {
  it('has each certificate once, in the order given, tainted if it is so anywhere', () => {
    const authorities = [
      { certificate: b, tainted: false },
      { certificate: a, tainted: false },
      { certificate: b, tainted: true },
    ];
    const bundle = new Bundle({
      trustDomain: td,
      x509Authorities: authorities,
      sequence: 0,
      refreshHintSeconds: 0,
    });
    expect(bundle.x509Authorities.map(({ certificate, tainted }) => [base64(certificate), tainted])).toEqual([
      [base64(b), true],
      [base64(a), false],
    ]);
  });

  it('is written as PEM and as DER that read back', () => {
    const bundle = bundleOf([a, b]);
    expect(parsePemCertificates(bundle.toPem()).map(base64)).toEqual([base64(a), base64(b)]);
    expect(parseCertificates(bundle.concatenatedDer()).map(base64)).toEqual([base64(a), base64(b)]);
    expect([bundleOf([]).toPem(), bundleOf([]).concatenatedDer().length]).toEqual(['', 0]);
  });

  it('equals another by content, whatever the order and the sequence', () => {
    expect(bundleOf([a, b], 1).equals(bundleOf([b, a], 2))).toBe(true);
  });

  it('differs from another by any part of its content', () => {
    const bundle = bundleOf([a]);
    const others = [
      bundleOf([]),
      bundleOf([b]),
      bundleOf([a, b]),
      bundleOf([a], 1, 60),
      new Bundle({ ...bundle, trustDomain: TrustDomain.parse('other') }),
      new Bundle({ ...bundle, x509Authorities: [{ certificate: a, tainted: true }] }),
      new Bundle({ ...bundle, jwtAuthorities: [jwtKey('k')] }),
    ];
    expect(others.map((other) => [bundle.equals(other), other.equals(bundle)])).toEqual(
      others.map(() => [false, false]),
    );
  });

  it('grows by an authority, with the next sequence', () => {
    const bundle = bundleOf([a], 7);
    const grown = bundle.withAuthority(b);
    expect([grown.certificates(), grown.sequence, grown.refreshHintSeconds]).toEqual([[a, b], 8n, 300]);
    expect(bundle.certificates()).toEqual([a]);
    expect(grown.withAuthority(a)).toBe(grown);
  });

  it('loses authorities by fingerprint, with the next sequence', () => {
    const bundle = bundleOf([a, b, rsa], 7);
    const shrunk = bundle.withoutAuthorities([a.fingerprint, rsa.fingerprint]);
    expect([shrunk.certificates(), shrunk.sequence]).toEqual([[b], 8n]);
    expect(shrunk.withoutAuthorities([a.fingerprint])).toBe(shrunk);
  });

  it('marks certificates as tainted once, with the next sequence, and leaves the others as they are', () => {
    const bundle = bundleOf([a, b], 7);
    const tainted = bundle.withTainted([b.fingerprint, rsa.fingerprint]);
    expect(tainted.x509Authorities.map((authority) => authority.tainted)).toEqual([false, true]);
    expect([tainted.sequence, tainted.equals(bundle)]).toEqual([8n, false]);
    expect(tainted.withTainted([b.fingerprint])).toBe(tainted);
    expect(bundle.withTainted([rsa.fingerprint])).toBe(bundle);
    expect(tainted.withAuthority(rsa).x509Authorities.map((authority) => authority.tainted)).toEqual([
      false,
      true,
      false,
    ]);
  });

  it('differs from another by any part of a JWT authority', () => {
    const known = jwtKey('k');
    const withKey = (changes: object) =>
      new Bundle({ ...bundleOf([a]), jwtAuthorities: [{ ...known, ...changes }] });
    const changes = [
      { keyId: 'l' },
      { publicKey: jwtKey('k').publicKey },
      { expiresAt: 1 },
      { tainted: true },
    ];
    expect(changes.map((change) => withKey(change).equals(withKey({})))).toEqual(changes.map(() => false));
    expect(withKey({}).equals(withKey({}))).toBe(true);
  });

  it('grows by what it lacks, and keeps what it has', () => {
    const [k, l] = [jwtKey('k'), jwtKey('l')];
    const bundle = new Bundle({ ...bundleOf([a], 7), jwtAuthorities: [{ ...k, tainted: true }] });
    const x509 = [a, b].map((certificate) => ({ certificate, tainted: false }));
    const grown = bundle.withAuthorities({ x509, jwt: [k, l] });
    expect(grown.certificates()).toEqual([a, b]);
    expect(grown.jwtAuthorities).toEqual([{ ...k, tainted: true }, l]);
    expect(grown.sequence).toBe(8n);
    expect(grown.withAuthorities({ x509, jwt: [k, l] })).toBe(grown);
    expect(grown.withAuthority(rsa).jwtAuthorities).toEqual(grown.jwtAuthorities);
    const taken = () => grown.withAuthorities({ x509: [], jwt: [jwtKey('k')] });
    expect(taken).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  it('loses JWT authorities by key id', () => {
    const bundle = new Bundle({ ...bundleOf([a], 7), jwtAuthorities: [jwtKey('k'), jwtKey('l')] });
    const shrunk = bundle.withoutAuthorities([], ['k', 'x']);
    expect(shrunk.jwtAuthorities.map(({ keyId }) => keyId)).toEqual(['l']);
    expect([shrunk.certificates(), shrunk.sequence]).toEqual([[a], 8n]);
    expect(shrunk.withoutAuthorities([], ['k'])).toBe(shrunk);
  });

  it('has one key for a key id, tainted if it is so anywhere', () => {
    const known = jwtKey('k');
    const twice = [known, { ...known, tainted: true }];
    expect(new Bundle({ ...bundleOf([]), jwtAuthorities: twice }).jwtAuthorities).toEqual([twice[1]]);
    const other = [known, jwtKey('k')];
    expect(() => new Bundle({ ...bundleOf([]), jwtAuthorities: other })).toThrow('"k"');
  });

  it('has a sequence of 64 bits, exactly', () => {
    const at = (sequence: bigint) => new Bundle({ ...bundleOf([a]), sequence });
    expect(at(2n ** 53n + 1n).withAuthority(b).sequence).toBe(2n ** 53n + 2n);
    expect(at(2n ** 64n - 1n).sequence).toBe(2n ** 64n - 1n);
    for (const sequence of [-1n, 2n ** 64n]) {
      expect(() => at(sequence)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
    }
  });

  it.each([-1, 0.5, Number.NaN, 2 ** 53])('refuses the sequence and the refresh hint %d', (number) => {
    expect(() => bundleOf([], number)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
    expect(() => bundleOf([], 0, number)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });
});
