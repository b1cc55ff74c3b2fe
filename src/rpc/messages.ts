import type { JWTKey, Bundle as WireBundle, X509Certificate } from '../gen/spire/api/types/bundle.ts';
import type { Entry as WireEntry } from '../gen/spire/api/types/entry.ts';
import type { Selector as WireSelector } from '../gen/spire/api/types/selector.ts';
import type { SPIFFEID } from '../gen/spire/api/types/spiffeid.ts';
import { AppError } from '../runtime/error.ts';
import { Bundle, type X509Authority } from '../spiffe/bundle.ts';
import { checkJwtAuthority, type JwtAuthority } from '../spiffe/jwt-authority.ts';
import type { NewEntry, RegistrationEntry } from '../spiffe/registration-entry.ts';
import { canonicalSelectors, checkSelector, type Selector } from '../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { type Certificate, parseCertificates } from '../x509/certificate.ts';

/** `spire.api.types.SPIFFEID`: the bare trust domain name, and the path with its leading slash. */
export function spiffeIdToWire(id: SpiffeId): SPIFFEID {
  return { trustDomain: id.trustDomain.name, path: id.path };
}

/** Throws `invalid-argument`. */
export function spiffeIdFromWire(wire: SPIFFEID): SpiffeId {
  return SpiffeId.of(TrustDomain.parse(wire.trustDomain), wire.path);
}

export function selectorToWire(selector: Selector): WireSelector {
  return { type: selector.type, value: selector.value };
}

/** In canonical order, each once. Throws `invalid-argument`. */
export function selectorsFromWire(wire: readonly WireSelector[]): readonly Selector[] {
  return canonicalSelectors(wire.map(({ type, value }) => checkSelector({ type, value })));
}

/** `spire.api.types.Entry`, with all fields. */
export function entryToWire(entry: RegistrationEntry | NewEntry): WireEntry {
  const { revision, createdAt } = { revision: 0, createdAt: 0, ...entry };
  return {
    id: entry.id,
    spiffeId: spiffeIdToWire(entry.spiffeId),
    parentId: spiffeIdToWire(entry.parentId),
    selectors: entry.selectors.map(selectorToWire),
    x509SvidTtl: entry.x509SvidTtlSeconds,
    federatesWith: entry.federatesWith.map((trustDomain) => trustDomain.name),
    admin: entry.admin,
    downstream: entry.downstream,
    expiresAt: BigInt(entry.expiresAt),
    dnsNames: [...entry.dnsNames],
    revisionNumber: BigInt(revision),
    storeSvid: entry.storeSvid,
    jwtSvidTtl: entry.jwtSvidTtlSeconds,
    hint: entry.hint,
    createdAt: BigInt(createdAt),
    additionalAttributes: {
      disableX509SvidPrefetch: entry.disableX509SvidPrefetch,
      jwtSvidIncludeJti: entry.jwtSvidIncludeJti,
    },
  };
}

/** Throws `invalid-argument` with the field that is wrong. What only the registry can judge is not checked. */
export function entryFromWire(wire: WireEntry): RegistrationEntry {
  return {
    id: wire.id,
    spiffeId: requiredId(wire.spiffeId, 'SPIFFE ID'),
    parentId: requiredId(wire.parentId, 'parent ID'),
    selectors: selectorsFromWire(wire.selectors),
    x509SvidTtlSeconds: wire.x509SvidTtl,
    jwtSvidTtlSeconds: wire.jwtSvidTtl,
    federatesWith: wire.federatesWith.map((name) => TrustDomain.parseNameOrId(name)),
    dnsNames: wire.dnsNames,
    admin: wire.admin,
    downstream: wire.downstream,
    storeSvid: wire.storeSvid,
    hint: wire.hint,
    expiresAt: wholeNumber(wire.expiresAt, 'expires_at'),
    createdAt: wholeNumber(wire.createdAt, 'created_at'),
    revision: wholeNumber(wire.revisionNumber, 'revision_number'),
    disableX509SvidPrefetch: wire.additionalAttributes?.disableX509SvidPrefetch ?? false,
    jwtSvidIncludeJti: wire.additionalAttributes?.jwtSvidIncludeJti ?? false,
  };
}

/** `spire.api.types.Bundle`, but for WIT authorities. */
export function bundleToWire(bundle: Bundle): WireBundle {
  return {
    trustDomain: bundle.trustDomain.name,
    x509Authorities: bundle.x509Authorities.map(({ certificate, tainted }) => ({
      asn1: certificate.der,
      tainted,
    })),
    jwtAuthorities: bundle.jwtAuthorities.map(({ keyId, publicKey, expiresAt, tainted }) => ({
      keyId,
      publicKey: Buffer.from(publicKey),
      expiresAt: BigInt(expiresAt),
      tainted,
    })),
    refreshHint: BigInt(bundle.refreshHintSeconds),
    sequenceNumber: bundle.sequence,
    witAuthorities: [],
  };
}

/** All but WIT authorities. Throws `invalid-argument`. */
export function bundleFromWire(wire: WireBundle): Bundle {
  return new Bundle({
    trustDomain: TrustDomain.parse(wire.trustDomain),
    x509Authorities: x509AuthoritiesFromWire(wire.x509Authorities),
    jwtAuthorities: jwtAuthoritiesFromWire(wire.jwtAuthorities),
    refreshHintSeconds: wholeNumber(wire.refreshHint, 'refresh_hint'),
    sequence: wire.sequenceNumber,
  });
}

/** One authority may carry several certificates (SPIRE parses both forms). Throws `invalid-argument`. */
export function x509AuthoritiesFromWire(wire: readonly X509Certificate[]): readonly X509Authority[] {
  return wire.flatMap(({ asn1, tainted }) =>
    parseCertificates(asn1).map((certificate) => ({ certificate, tainted })),
  );
}

/** Throws `invalid-argument`. */
export function jwtAuthoritiesFromWire(wire: readonly JWTKey[]): readonly JwtAuthority[] {
  return wire.map(({ keyId, publicKey, expiresAt, tainted }) =>
    checkJwtAuthority({ keyId, publicKey, expiresAt: wholeNumber(expiresAt, 'expires_at'), tainted }),
  );
}

/** A certificate chain, leaf first, one certificate in each element. Throws `invalid-argument`. */
export function chainFromWire(wire: readonly Uint8Array[]): readonly Certificate[] {
  if (wire.length === 0) throw new AppError('invalid-argument', 'certificate chain is empty');
  return wire.flatMap((der) => parseCertificates(der));
}

/** A 64-bit integer as a number; throws `invalid-argument` for one that is negative or not exact. */
export function wholeNumber(value: bigint, field: string): number {
  if (value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  throw new AppError('invalid-argument', `${field} is ${value}; expected a whole number from 0 to 2^53-1`);
}

function requiredId(wire: SPIFFEID | undefined, what: string): SpiffeId {
  if (wire === undefined) throw new AppError('invalid-argument', `missing ${what}`);
  return spiffeIdFromWire(wire);
}
