import { AppError, errorText, isAppError } from '../runtime/error.ts';
import type { Certificate } from '../x509/certificate.ts';
import { extensionOids, type KeyUsage, keyPurposes } from '../x509/extensions.ts';
import { validatePath } from '../x509/path-validation.ts';
import type { Bundle } from './bundle.ts';
import { SpiffeId, type TrustDomain } from './spiffe-id.ts';

/** One demand of the X509-SVID standard on a certificate. */
export interface ProfileRule {
  /** Also the `reason` of the error when the rule is broken. */
  readonly name: string;
  readonly citation: string;
  /** What is wrong, as a sentence about "it", or undefined. */
  readonly check: (certificate: Certificate) => string | undefined;
}

const digitalSignature: ProfileRule = {
  name: 'LEAF_DIGITAL_SIGNATURE',
  citation: 'X509-SVID §4.3',
  check: (certificate) =>
    has(certificate, 'digitalSignature') ? undefined : 'it lacks key usage digitalSignature',
};

const criticalKeyUsage: ProfileRule = {
  name: 'CRITICAL_KEY_USAGE',
  citation: 'X509-SVID §4.3',
  check: ({ keyUsage, keyUsageIsCritical }) => {
    if (keyUsage === undefined) return 'it has no key usage extension';
    return keyUsageIsCritical ? undefined : 'its key usage extension is not critical';
  },
};

/** What a leaf of any issuer must satisfy to be an identity (X509-SVID §5.2, and the parts of §4.3 that all issuers keep). */
export const acceptedLeafRules: readonly ProfileRule[] = [
  {
    name: 'ONE_URI_NAME',
    citation: 'X509-SVID §2',
    check: ({ uris }) =>
      uris.length === 1 ? undefined : `it has ${uris.length} URI names; exactly one is required`,
  },
  {
    name: 'LEAF_ID',
    citation: 'X509-SVID §3.1',
    check: (certificate) => {
      const id = idOf(certificate);
      if (typeof id === 'string') return id;
      return id.path === '' ? `its SPIFFE ID "${id}" has no path` : undefined;
    },
  },
  {
    name: 'LEAF_IS_NOT_A_CA',
    citation: 'X509-SVID §4.1',
    check: ({ isCa }) => (isCa ? 'it is a CA certificate' : undefined),
  },
  digitalSignature,
  {
    name: 'LEAF_SIGNS_NO_CERTIFICATES',
    citation: 'X509-SVID §4.3',
    check: (certificate) => {
      const found = (['keyCertSign', 'cRLSign'] as const).filter((usage) => has(certificate, usage));
      return found.length === 0 ? undefined : `it has key usage ${found.join(' and ')}`;
    },
  },
];

/** What a leaf must satisfy besides before we sign it (X509-SVID §4). */
export const issuedLeafRules: readonly ProfileRule[] = [
  ...acceptedLeafRules,
  criticalKeyUsage,
  {
    name: 'LEAF_KEY_PURPOSES',
    citation: 'X509-SVID §4.4',
    check: ({ extendedKeyUsage }) => {
      const { serverAuth, clientAuth } = keyPurposes;
      const isBoth = extendedKeyUsage?.includes(serverAuth) && extendedKeyUsage.includes(clientAuth);
      return isBoth ? undefined : 'it lacks extended key usage serverAuth or clientAuth';
    },
  },
  {
    name: 'CRITICAL_NAMES_WITHOUT_SUBJECT',
    citation: 'X509-SVID §3.1, RFC 5280 §4.1.2.6',
    check: ({ hasEmptySubject, extensions }) => {
      if (!hasEmptySubject || extensions.get(extensionOids.subjectAltName)?.isCritical) return undefined;
      return 'its subject is empty and its subject alternative name extension is not critical';
    },
  },
];

/** What a CA certificate must satisfy before we sign it (X509-SVID §3.2, §4). */
export const signingCertificateRules: readonly ProfileRule[] = [
  {
    name: 'CA_FLAG',
    citation: 'X509-SVID §4.1',
    check: ({ isCa }) => (isCa ? undefined : 'it is not a CA certificate'),
  },
  {
    name: 'CA_ID',
    citation: 'X509-SVID §3.2',
    check: (certificate) => {
      if (certificate.uris.length !== 1)
        return `it has ${certificate.uris.length} URI names; exactly one is required`;
      const id = idOf(certificate);
      if (typeof id === 'string') return id;
      return id.path === '' ? undefined : `its SPIFFE ID "${id}" has a path`;
    },
  },
  criticalKeyUsage,
  {
    name: 'CA_KEY_USAGE',
    citation: 'X509-SVID §4.3, appendix A',
    check: ({ keyUsage = new Set() }) => {
      if (!keyUsage.has('keyCertSign')) return 'it lacks key usage keyCertSign';
      const others = [...keyUsage].filter((usage) => usage !== 'keyCertSign' && usage !== 'cRLSign');
      return others.length === 0 ? undefined : `it has key usage ${others.join(', ')}`;
    },
  },
  {
    name: 'CA_NO_KEY_PURPOSES',
    citation: 'X509-SVID §4.4: verifiers differ in how they nest them',
    check: ({ extendedKeyUsage }) =>
      extendedKeyUsage === undefined ? undefined : 'it has an extended key usage',
  },
];

/** A SPIFFE ID with the certificate chain that carries it (X509-SVID). Its leaf meets the profile; its path is not verified. */
export class X509Svid {
  readonly id: SpiffeId;
  /** Leaf first, then intermediates; never the root. */
  readonly chain: readonly Certificate[];
  readonly leaf: Certificate;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;

  private constructor(chain: readonly Certificate[], leaf: Certificate, id: SpiffeId) {
    this.id = id;
    this.chain = chain;
    this.leaf = leaf;
    this.notBeforeMs = leaf.notBeforeMs;
    this.notAfterMs = leaf.notAfterMs;
  }

  /** Checks the leaf against the profile; throws `invalid-argument` with the name of the broken rule as reason. */
  static parse(chain: readonly Certificate[]): X509Svid {
    const leaf = chain[0];
    if (leaf === undefined) throw new AppError('invalid-argument', 'X.509-SVID has no certificate');
    for (const { name, citation, check } of acceptedLeafRules) {
      const problem = check(leaf);
      if (problem === undefined) continue;
      throw new AppError('invalid-argument', `not an X.509-SVID: ${problem} (${citation})`, { reason: name });
    }
    return new X509Svid(chain, leaf, SpiffeId.parse(leaf.uris[0] ?? ''));
  }
}

/**
 * Verifies a peer's chain (X509-SVID §5): first the leaf's profile, then the path to the bundle of the leaf's own
 * trust domain and no other, since any authority could write any name. Throws `unauthenticated`.
 */
export function verifyX509Svid(options: {
  readonly chain: readonly Certificate[];
  readonly bundles: (trustDomain: TrustDomain) => Bundle | undefined;
  readonly nowMs: number;
}): X509Svid {
  const { chain, bundles, nowMs } = options;
  const svid = parsePeer(chain);
  const bundle = bundles(svid.id.trustDomain);
  // The caller's mistake would be a forgery across trust domains, so it is checked here once for all.
  if (bundle === undefined || !bundle.trustDomain.equals(svid.id.trustDomain)) {
    throw new AppError('unauthenticated', `no bundle of trust domain "${svid.id.trustDomain.name}"`, {
      reason: 'NO_BUNDLE',
    });
  }
  validatePath({ leaf: svid.leaf, intermediates: chain.slice(1), anchors: bundle.certificates(), nowMs });
  return svid;
}

function parsePeer(chain: readonly Certificate[]): X509Svid {
  try {
    return X509Svid.parse(chain);
  } catch (error) {
    if (!isAppError(error)) throw error;
    throw new AppError(
      'unauthenticated',
      error.message,
      error.reason === undefined ? {} : { reason: error.reason },
    );
  }
}

function has(certificate: Certificate, usage: KeyUsage): boolean {
  return certificate.keyUsage?.has(usage) ?? false;
}

/** The SPIFFE ID, or why there is none. */
function idOf(certificate: Certificate): SpiffeId | string {
  try {
    return SpiffeId.parse(certificate.uris[0] ?? '');
  } catch (error) {
    return `its URI name is not a SPIFFE ID: ${errorText(error)}`;
  }
}
