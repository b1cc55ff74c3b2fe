import { createPrivateKey, createPublicKey } from 'node:crypto';
import type { DataSource } from '../../gen/envoy/config/core/v3/base.ts';
import type {
  CertificateValidationContext,
  TlsCertificate,
} from '../../gen/envoy/extensions/transport_sockets/tls/v3/common.ts';
import { Secret } from '../../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { SPIFFECertValidatorConfig } from '../../gen/envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.ts';
import { errorText } from '../../runtime/error.ts';
import { isSelfSigned } from '../../spiffe/bundle-remarks.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { type Certificate, parsePemCertificates } from '../../x509/certificate.ts';
import { parsePem } from '../../x509/pem.ts';
import { describeKey, keyTypeOfSpki, keyTypes } from '../../x509/signature.ts';
import type { HeldSvid } from '../workload-view.ts';
import type { ServedResource, TrustAnchors, TrustResource } from './resource.ts';
import { spiffeValidatorName, spiffeValidatorTypeUrl } from './secrets.ts';

/**
 * What is wrong with an encoded Secret that is to mean this resource; undefined when nothing is. It reads the very
 * bytes that would be sent, because Envoy acknowledges an empty context, a secret without body and one of another type,
 * and then authenticates nobody (envoy-sds.md §1.7, §1.15). The text never has anything of a key.
 */
export function secretProblem(value: Uint8Array, name: string, resource: ServedResource): string | undefined {
  try {
    const secret = Secret.decode(value);
    if (secret.name !== name) return 'the secret is encoded under another name than it is sent';
    if (resource.kind === 'certificate') {
      if (secret.type?.$case !== 'tlsCertificate') return otherType('a TLS certificate', secret);
      return certificateProblem(secret.type.value, resource.held);
    }
    if (secret.type?.$case !== 'validationContext') return otherType('a validation context', secret);
    return contextProblem(secret.type.value, resource);
  } catch (error) {
    return `it cannot be read back: ${errorText(error)}`;
  }
}

function otherType(expected: string, { type }: Secret): string {
  return `expected ${expected}, got ${type?.$case ?? 'a secret without body'}`;
}

function certificateProblem(
  { certificateChain, privateKey }: TlsCertificate,
  held: HeldSvid,
): string | undefined {
  const { leaf, chain } = held.svid;
  return (
    pemProblem('certificate chain', certificateChain, chain) ??
    keyKindProblem(leaf) ??
    (isKeyOf(leaf, textOf(privateKey))
      ? undefined
      : 'the private key is not the one of the leaf, in PKCS#8 PEM')
  );
}

/** Envoy takes some more (envoy-sds.md §1.7), but our keys are of these kinds, and another one is a mistake. */
function keyKindProblem({ spki }: Certificate): string | undefined {
  if (keyTypeOfSpki(spki) !== undefined) return undefined;
  return `the leaf has a key of kind ${describeKey(spki)}; expected one of ${keyTypes.join(', ')}`;
}

function isKeyOf(leaf: Certificate, pem: string): boolean {
  try {
    const [block, ...more] = parsePem(pem);
    if (block?.label !== 'PRIVATE KEY' || more.length > 0) return false;
    const key = createPrivateKey({ key: block.der, format: 'der', type: 'pkcs8' });
    return createPublicKey(key).export({ format: 'der', type: 'spki' }).equals(leaf.spki);
  } catch {
    // OpenSSL's words on a key are nobody's business.
    return false;
  }
}

function contextProblem(
  context: CertificateValidationContext,
  { flavour, domains }: TrustResource,
): string | undefined {
  const { trustedCa, customValidatorConfig: custom, maxVerifyDepth } = context;
  const [first, ...more] = domains;
  if (first !== undefined && maxVerifyDepth !== undefined) return 'expected no bound on the length of chains';
  if (flavour === 'x509' && first !== undefined) {
    if (more.length > 0)
      return 'several trust domains in one plain pool, in which each could forge the others';
    if (custom !== undefined) return 'expected plain anchors, got a validator too';
    return pemProblem('anchors', trustedCa, first.certificates);
  }
  if (trustedCa !== undefined) return 'expected the SPIFFE validator alone, got plain anchors too';
  if (custom?.name !== spiffeValidatorName || custom.typedConfig?.typeUrl !== spiffeValidatorTypeUrl) {
    return 'expected the SPIFFE validator of Envoy, got none or another';
  }
  return validatorProblem(SPIFFECertValidatorConfig.decode(custom.typedConfig.value), domains);
}

function validatorProblem(
  config: SPIFFECertValidatorConfig,
  domains: readonly TrustAnchors[],
): string | undefined {
  const { trustDomains } = config;
  if (trustDomains.length !== domains.length) {
    return `expected ${domains.length} trust domains, got ${trustDomains.length}`;
  }
  if (new Set(trustDomains.map(({ name }) => name)).size < domains.length)
    return 'a trust domain is in it twice';
  for (const [index, { trustDomain, certificates }] of domains.entries()) {
    const encoded = trustDomains[index];
    // Throws for what is no name: with a prefix, for instance, Envoy would trust nobody.
    if (encoded?.name !== TrustDomain.parse(trustDomain).name)
      return `expected trust domain "${trustDomain}"`;
    const problem = pemProblem(`anchors of "${trustDomain}"`, encoded.trustBundle, certificates);
    if (problem !== undefined) return problem;
    const other = certificates.find((certificate) => !isSelfSigned(certificate));
    if (other !== undefined) {
      return `anchor "${other.subjectText}" of "${trustDomain}" is not self-signed; Envoy's SPIFFE validator cannot use it`;
    }
  }
  return undefined;
}

/** Each block must hold one certificate and nothing more: of a second one Envoy takes no notice, or refuses the chain. */
function pemProblem(
  what: string,
  source: DataSource | undefined,
  expected: readonly Certificate[],
): string | undefined {
  if (expected.length === 0) return `the ${what} would be empty`;
  let found: readonly Certificate[];
  try {
    found = parsePemCertificates(textOf(source));
  } catch (error) {
    return `${what}: ${errorText(error)}`;
  }
  const isSame =
    found.length === expected.length && found.every(({ der }, i) => expected[i]?.der.equals(der));
  return isSame ? undefined : `${what}: expected ${expected.length} certificates, got others`;
}

function textOf(source: DataSource | undefined): string {
  return source?.specifier?.value.toString('latin1') ?? '';
}
