import { createPrivateKey } from 'node:crypto';
import { AppError, errorText } from '../../runtime/error.ts';
import { readPrivateFile } from '../../runtime/private-file.ts';
import { isSelfSigned } from '../../spiffe/bundle-remarks.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { findForbiddenName } from '../../x509/name-constraints.ts';
import { validatePath } from '../../x509/path-validation.ts';
import { createSoftwareSigner, type Signer } from '../../x509/signature.ts';
import type { DiskUpstreamConfig } from './disk-config.ts';

/** What the files held when they fitted together. */
export interface DiskMaterial {
  readonly signer: Signer;
  /** From the certificate that signs ours to its root, both included; one certificate when that is the root. */
  readonly path: readonly [issuer: Certificate, ...above: Certificate[]];
  readonly roots: readonly Certificate[];
}

/** Starts errors. */
export const setting = (name: keyof DiskUpstreamConfig): string => `upstreamAuthority.disk.${name}`;

/** The key in a file that nobody else may read; throws `failed-precondition` without a word of what it holds. */
export async function readSigner(path: string): Promise<Signer> {
  const pem = await readPrivateFile(path);
  if (pem === undefined) throw unusable('keyFile', `there is no file "${path}"`);
  try {
    return createSoftwareSigner(createPrivateKey(pem));
  } catch (error) {
    // Texts of OpenSSL may quote what it has read.
    const why = error instanceof AppError ? error.message : 'it holds no private key as unencrypted PEM';
    throw unusable('keyFile', `cannot use "${path}": ${why}`);
  }
}

/** Puts together what was read, and refuses what no peer would accept below it. Throws `failed-precondition`. */
export function checkMaterial(options: {
  readonly signer: Signer;
  readonly certificates: readonly Certificate[];
  /** Undefined: the root is among the certificates. */
  readonly roots: readonly Certificate[] | undefined;
  readonly trustDomain: TrustDomain;
  readonly nowMs: number;
}): DiskMaterial {
  const { signer, certificates, trustDomain, nowMs } = options;
  const [issuer, ...intermediates] = certificates;
  if (issuer === undefined || Buffer.compare(issuer.spki, signer.publicKey) !== 0) {
    throw unusable('keyFile', 'it is not the key of the first certificate in certFile');
  }
  const roots = options.roots ?? certificates.filter(isSelfSigned);
  requireRoots(roots, options.roots !== undefined);
  const path = pathOf(issuer, intermediates, { roots, nowMs });
  for (const [height, certificate] of path.entries()) requireFit(certificate, height, trustDomain);
  return { signer, path: [issuer, ...path.slice(1)], roots };
}

function requireRoots(roots: readonly Certificate[], isFromFile: boolean): void {
  if (roots.length === 0) {
    throw unusable(
      'bundleFile',
      'it is needed: certFile does not hold the self-signed root of its certificate',
    );
  }
  const other = roots.find((root) => !isSelfSigned(root));
  if (other === undefined || !isFromFile) return;
  throw unusable(
    'bundleFile',
    `certificate "${other.subjectText}" is not self-signed, and Envoy's SPIFFE validator accepts no other anchors; put the root in its place that stands above it, and the certificate itself behind its own in certFile`,
  );
}

function pathOf(
  issuer: Certificate,
  intermediates: readonly Certificate[],
  { roots, nowMs }: { readonly roots: readonly Certificate[]; readonly nowMs: number },
): readonly Certificate[] {
  if (roots.some(({ fingerprint }) => fingerprint === issuer.fingerprint)) return [issuer];
  try {
    return validatePath({ leaf: issuer, intermediates, anchors: roots, nowMs });
  } catch (error) {
    throw unusable('certFile', `there is no path from its first certificate to a root: ${errorText(error)}`);
  }
}

/** `height` 0: directly above ours. */
function requireFit(certificate: Certificate, height: number, trustDomain: TrustDomain): void {
  const name = `certificate "${certificate.subjectText}"`;
  const { isCa, keyUsage, pathLength, nameConstraints } = certificate;
  if (!isCa) throw unusable('certFile', `${name} is no CA certificate (basicConstraints CA:TRUE)`);
  if (keyUsage?.has('keyCertSign') === false) {
    throw unusable('certFile', `${name} may not sign certificates: it lacks key usage keyCertSign`);
  }
  // Ours stands below it, and those between.
  const below = height + 1;
  if (pathLength !== undefined && pathLength < below) {
    throw unusable(
      'certFile',
      `${name} allows ${pathLength} CA certificates below it, and there will be ${below}; it needs a path length of at least ${below}, or none`,
    );
  }
  if (nameConstraints === undefined) return;
  const forbidden = findForbiddenName(nameConstraints, {
    uris: [trustDomain.id],
    dnsNames: [],
    nameKinds: new Set(['uniformResourceIdentifier']),
    hasEmptySubject: true,
  });
  if (forbidden === undefined) return;
  throw unusable('certFile', `name constraints of ${name} forbid identities of "${trustDomain}"`);
}

function unusable(name: keyof DiskUpstreamConfig, problem: string): AppError {
  return new AppError('failed-precondition', `${setting(name)}: ${problem}`);
}
