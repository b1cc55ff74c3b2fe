import { createHash } from 'node:crypto';
import type { DataSource } from '../../gen/envoy/config/core/v3/base.ts';
import type { CertificateValidationContext } from '../../gen/envoy/extensions/transport_sockets/tls/v3/common.ts';
import { Secret } from '../../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { SPIFFECertValidatorConfig } from '../../gen/envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.ts';
import { DiscoveryResponse } from '../../gen/envoy/service/discovery/v3/discovery.ts';
import type { Certificate } from '../../x509/certificate.ts';
import type { HeldSvid } from '../workload-view.ts';

const tlsPackage = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3';
/** The one resource type of SDS. */
export const secretTypeUrl = `${tlsPackage}.Secret`;

/** A secret, encoded once for all streams that get it. */
export interface EncodedSecret {
  /** A hash of the content: 16 hex digits, the same on every stream and after every restart. */
  readonly version: string;
  /** An encoded DiscoveryResponse with this one secret that lacks only its nonce: see `withNonce`. */
  readonly response: Buffer;
}

/** Anchors of one trust domain; at least one. */
export interface TrustAnchors {
  readonly trustDomain: string;
  readonly certificates: readonly [Certificate, ...Certificate[]];
}

/** The certificate chain, leaf first, with its key, as Envoy's `TlsCertificate`. */
export function certificateSecret(name: string, { svid, privateKeyPem }: HeldSvid): Secret {
  const value = { certificateChain: inlinePem(pemOf(svid.chain)), privateKey: inlinePem(privateKeyPem) };
  return { name, type: { $case: 'tlsCertificate', value } };
}

/** A validation context for Envoy's SPIFFE validator: each trust domain is trusted for its own names only. */
export function spiffeTrustSecret(name: string, domains: readonly [TrustAnchors, ...TrustAnchors[]]): Secret {
  const trustDomains = domains.map(({ trustDomain, certificates }) => ({
    name: trustDomain,
    trustBundle: inlinePem(pemOf(certificates)),
  }));
  const config = SPIFFECertValidatorConfig.encode({ trustDomains }).finish();
  return validationContext(name, {
    trustedCa: undefined,
    customValidatorConfig: {
      name: 'envoy.tls.cert_validator.spiffe',
      typedConfig: { typeUrl: `${tlsPackage}.SPIFFECertValidatorConfig`, value: Buffer.from(config) },
    },
  });
}

/** A plain validation context. One trust domain only: in a pool of several each could forge the others' names. */
export function x509TrustSecret(name: string, { certificates }: TrustAnchors): Secret {
  return validationContext(name, {
    trustedCa: inlinePem(pemOf(certificates)),
    customValidatorConfig: undefined,
  });
}

/** Encodes a secret into the response that carries it. `identifier` names this control plane to Envoy. */
export function encodeSecret(secret: Secret, identifier: string): EncodedSecret {
  const value = Buffer.from(Secret.encode(secret).finish());
  const version = createHash('sha256').update(value).digest('hex').slice(0, 16);
  const response = DiscoveryResponse.encode({
    versionInfo: version,
    resources: [{ typeUrl: secretTypeUrl, value }],
    typeUrl: secretTypeUrl,
    nonce: '',
    controlPlane: { identifier },
  });
  return { version, response: Buffer.from(response.finish()) };
}

/** The bytes of a response with its nonce, which fields may follow in any order in protobuf. */
export function withNonce(response: Buffer, nonce: string): Buffer {
  const tag = (5 << 3) | 2;
  const text = Buffer.from(nonce, 'latin1');
  return Buffer.concat([response, Buffer.from([tag, text.length]), text]);
}

function validationContext(name: string, value: CertificateValidationContext): Secret {
  return { name, type: { $case: 'validationContext', value } };
}

/** One certificate per block: of several in one block Envoy refuses the chain, or silently takes the first as anchor. */
function pemOf(certificates: readonly Certificate[]): string {
  return certificates.map((certificate) => certificate.toPem()).join('');
}

function inlinePem(pem: string): DataSource {
  return { specifier: { $case: 'inlineBytes', value: Buffer.from(pem, 'latin1') } };
}
