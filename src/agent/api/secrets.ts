import { hash } from 'node:crypto';
import type { DataSource } from '../../gen/envoy/config/core/v3/base.ts';
import type { CertificateValidationContext } from '../../gen/envoy/extensions/transport_sockets/tls/v3/common.ts';
import { Secret } from '../../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { SPIFFECertValidatorConfig } from '../../gen/envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.ts';
import { DeltaDiscoveryResponse, DiscoveryResponse } from '../../gen/envoy/service/discovery/v3/discovery.ts';
import { AppError } from '../../runtime/error.ts';
import type { Certificate } from '../../x509/certificate.ts';
import type { HeldSvid } from '../workload-view.ts';
import type { ServedResource, TrustResource } from './resource.ts';

const tlsPackage = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3';
/** The one resource type of SDS. */
export const secretTypeUrl = `${tlsPackage}.Secret`;
/** What the SPIFFE validator of Envoy is configured with. */
export const spiffeValidatorTypeUrl = `${tlsPackage}.SPIFFECertValidatorConfig`;
/** The name under which Envoy knows its SPIFFE validator. */
export const spiffeValidatorName = 'envoy.tls.cert_validator.spiffe';

/** Envoy's bound on `max_verify_depth`, by which secrets that trust nobody are told apart. */
const maxSalt = 100;

/** How responses are written: state of the world or Delta; over ADS they are the same. */
export type Dialect = 'sotw' | 'delta';

/** A secret, encoded once for all streams that get it. */
export interface EncodedSecret {
  /** A hash of the content, name included: 16 hex digits, the same on every stream and after every restart. */
  readonly version: string;
  readonly name: string;
  readonly kind: ServedResource['kind'];
  /** Size of the encoded Secret. */
  readonly bytes: number;
  /** An encoded response with this one secret that lacks only its nonce: see `withNonce`. The same object each time. */
  response(dialect: Dialect): Buffer;
}

/**
 * An encoded Secret. With a `salt` above 0 it means the same in other bytes, because Envoy acknowledges bytes that it
 * has just refused and uses nothing of them (envoy-sds.md §1.7). Throws AppError `internal` for a salt out of range.
 */
export function secretBytes(name: string, resource: ServedResource, salt = 0): Buffer {
  if (!Number.isInteger(salt) || salt < 0 || salt > maxSalt) {
    throw new AppError('internal', `expected a salt from 0 to ${maxSalt}, got ${salt}`);
  }
  const type = resource.kind === 'certificate' ? tlsCertificate(resource.held, salt) : trust(resource, salt);
  return Buffer.from(Secret.encode({ name, type }).finish());
}

/** Wraps an encoded Secret, responses made when they are first asked for. `identifier` names this control plane to Envoy. */
export function encodedSecret(
  { name, kind }: { readonly name: string; readonly kind: ServedResource['kind'] },
  value: Buffer,
  identifier: string,
): EncodedSecret {
  const version = hash('sha256', value, 'hex').slice(0, 16);
  const made = new Map<Dialect, Buffer>();
  return {
    version,
    name,
    kind,
    bytes: value.length,
    response(dialect) {
      const known = made.get(dialect);
      if (known !== undefined) return known;
      const response = encodeResponse[dialect]({ name, version, value, identifier });
      made.set(dialect, response);
      return response;
    },
  };
}

/** An encoded Delta response, but for its nonce, that says that there is no secret of this name. */
export function removalResponse(name: string, identifier: string): Buffer {
  const response = DeltaDiscoveryResponse.encode({
    systemVersionInfo: '',
    resources: [],
    typeUrl: secretTypeUrl,
    nonce: '',
    removedResources: [name],
    controlPlane: { identifier },
  });
  return Buffer.from(response.finish());
}

/** The bytes of a response with its nonce, whose field has the same number in both dialects and may come last. */
export function withNonce(response: Buffer, nonce: string): Buffer {
  const tag = (5 << 3) | 2;
  const text = Buffer.from(nonce, 'latin1');
  return Buffer.concat([response, Buffer.from([tag, text.length]), text]);
}

interface ResponseParts {
  readonly name: string;
  readonly version: string;
  readonly value: Buffer;
  readonly identifier: string;
}

const encodeResponse: Readonly<Record<Dialect, (parts: ResponseParts) => Buffer>> = {
  sotw({ version, value, identifier }) {
    const response = DiscoveryResponse.encode({
      versionInfo: version,
      resources: [{ typeUrl: secretTypeUrl, value }],
      typeUrl: secretTypeUrl,
      nonce: '',
      controlPlane: { identifier },
    });
    return Buffer.from(response.finish());
  },
  delta({ name, version, value, identifier }) {
    const response = DeltaDiscoveryResponse.encode({
      // What Envoy's statistics show as the version of the secret (envoy-sds.md §1.5).
      systemVersionInfo: version,
      resources: [{ name, version, resource: { typeUrl: secretTypeUrl, value } }],
      typeUrl: secretTypeUrl,
      nonce: '',
      removedResources: [],
      controlPlane: { identifier },
    });
    return Buffer.from(response.finish());
  },
};

/** The certificate chain, leaf first, with its key. */
function tlsCertificate({ svid, privateKeyPem }: HeldSvid, salt: number): Secret['type'] {
  const value = {
    certificateChain: inlinePem(pemOf(svid.chain, salt)),
    privateKey: inlinePem(privateKeyPem),
  };
  return { $case: 'tlsCertificate', value };
}

/**
 * Plain anchors, or a configuration of the SPIFFE validator. Nobody is trusted by the validator without domains: an
 * empty context would make Envoy authenticate nobody and let everybody in (envoy-sds.md §1.15).
 */
function trust({ flavour, domains }: TrustResource, salt: number): Secret['type'] {
  const [only] = domains;
  if (flavour === 'x509' && only !== undefined) {
    return context({ trustedCa: inlinePem(pemOf(only.certificates, salt)) });
  }
  const trustDomains = domains.map(({ trustDomain, certificates }, index) => ({
    name: trustDomain,
    trustBundle: inlinePem(pemOf(certificates, index === 0 ? salt : 0)),
  }));
  const config = Buffer.from(SPIFFECertValidatorConfig.encode({ trustDomains }).finish());
  return context({
    customValidatorConfig: {
      name: spiffeValidatorName,
      typedConfig: { typeUrl: spiffeValidatorTypeUrl, value: config },
    },
    // Where there is no PEM to add a line to. No chain is ever verified, so its length does not matter.
    ...(only === undefined && salt > 0 ? { maxVerifyDepth: salt } : {}),
  });
}

function context(fields: Partial<CertificateValidationContext>): Secret['type'] {
  const value = {
    trustedCa: undefined,
    customValidatorConfig: undefined,
    maxVerifyDepth: undefined,
    ...fields,
  };
  return { $case: 'validationContext', value };
}

/** One certificate per block: of several in one block Envoy refuses the chain, or silently takes the first as anchor. */
function pemOf(certificates: readonly Certificate[], salt: number): string {
  return certificates.map((certificate) => certificate.toPem()).join('') + '\n'.repeat(salt);
}

function inlinePem(pem: string): DataSource {
  return { specifier: { $case: 'inlineBytes', value: Buffer.from(pem, 'latin1') } };
}
