import { beforeAll, describe, expect, it } from 'vitest';
import { TestAuthority } from '../testing/test-authority.ts';
import { bundleOf } from '../testing/trust-domain.ts';
import type { Certificate } from '../x509/certificate.ts';
import { bundleRemarks, isSelfSigned } from './bundle-remarks.ts';

const now = Date.now();
const hourMs = 3_600_000;
let root: TestAuthority;

beforeAll(async () => {
  root = await TestAuthority.root({ uris: ['spiffe://td'], nowMs: now });
});

const remarks = (...certificates: readonly Certificate[]) => bundleRemarks(bundleOf('td', certificates), now);

describe('the remarks on a bundle', () => {
  it('are none for good roots, with or without their trust domain as name', async () => {
    expect(remarks(root.certificate, (await TestAuthority.root()).certificate)).toEqual([]);
  });

  it.each<{ name: string; make: () => Promise<Certificate>; says: RegExp }>([
    {
      name: 'an intermediate',
      make: async () => (await root.authority()).certificate,
      says: /^1 of 2 X.509 authorities are not self-signed: Envoy/,
    },
    {
      name: 'a leaf',
      make: () => root.leaf({ uris: ['spiffe://td'] }),
      says: /^1 of 2 X.509 authorities are no CA/,
    },
    {
      name: 'one that has expired',
      make: async () => (await TestAuthority.root({ notAfterMs: now - hourMs / 2 })).certificate,
      says: /^1 of 2 X.509 authorities have expired \("CN=root"\)/,
    },
    {
      name: 'one from the future',
      make: async () => (await TestAuthority.root({ notBeforeMs: now + hourMs / 2 })).certificate,
      says: /^1 of 2 X.509 authorities are not valid yet/,
    },
    {
      name: 'the root of another trust domain',
      make: async () => (await TestAuthority.root({ uris: ['spiffe://other'] })).certificate,
      says: /^1 of 2 X.509 authorities name another trust domain than "td"/,
    },
  ])('say of $name what will surprise', async ({ make, says }) => {
    expect(remarks(root.certificate, await make()).join('\n')).toMatch(new RegExp(says.source, 'm'));
  });

  it('say of a bundle without authorities that nobody is trusted', () => {
    expect(remarks()).toEqual(['it has no X.509 authorities: no X.509-SVID of "td" is trusted']);
  });
});

describe('a certificate is self-signed', () => {
  it('not by its names alone: a root that was cross-signed is not', async () => {
    const twin = await TestAuthority.root({ name: 'root' });
    const crossSigned = await twin.authority({ name: 'root' });
    expect(crossSigned.certificate.isSelfIssued).toBe(true);
    expect([root.certificate, crossSigned.certificate].map(isSelfSigned)).toEqual([true, false]);
  });
});
