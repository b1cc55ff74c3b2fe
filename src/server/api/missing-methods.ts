const noJwt =
  'JWT functionality is disabled: Signet issues X.509-SVIDs only so far; use mTLS with SVID/BatchNewX509SVID';
const noWit = 'WIT-SVID functionality is not yet implemented; use X.509-SVIDs (SVID/BatchNewX509SVID)';
const noDownstream =
  'downstream authorities are not signed yet: run one server for the trust domain, and let the agents of all sites connect to it';
const noRelationships =
  'federation relationships are not kept yet: set the bundle of another trust domain with Bundle/BatchSetFederatedBundle (`signet bundle set`), again whenever it changes';
const noJwtAuthority = `${noJwt}; there is no JWT authority`;
const noWitAuthority = `${noWit}; there is no WIT authority`;

const service = {
  svid: '/spire.api.server.svid.v1.SVID',
  bundle: '/spire.api.server.bundle.v1.Bundle',
  trustDomain: '/spire.api.server.trustdomain.v1.TrustDomain',
  authority: '/spire.api.server.localauthority.v1.LocalAuthority',
} as const;

/**
 * Methods of SPIRE's server API that belong to later work, each with what it answers: what is missing and what to use
 * instead. Callers are told only once they have permission.
 */
export const missingMethods: Readonly<Record<string, string>> = {
  [`${service.svid}/MintJWTSVID`]: noJwt,
  [`${service.svid}/NewJWTSVID`]: noJwt,
  [`${service.svid}/MintWITSVID`]: noWit,
  [`${service.svid}/BatchNewWITSVID`]: noWit,
  [`${service.svid}/NewDownstreamX509CA`]: noDownstream,
  [`${service.bundle}/PublishJWTAuthority`]: noDownstream,
  [`${service.bundle}/PublishWITAuthority`]: noDownstream,
  [`${service.trustDomain}/ListFederationRelationships`]: noRelationships,
  [`${service.trustDomain}/GetFederationRelationship`]: noRelationships,
  [`${service.trustDomain}/BatchCreateFederationRelationship`]: noRelationships,
  [`${service.trustDomain}/BatchUpdateFederationRelationship`]: noRelationships,
  [`${service.trustDomain}/BatchDeleteFederationRelationship`]: noRelationships,
  [`${service.trustDomain}/RefreshBundle`]: noRelationships,
  [`${service.authority}/GetJWTAuthorityState`]: noJwtAuthority,
  [`${service.authority}/PrepareJWTAuthority`]: noJwtAuthority,
  [`${service.authority}/ActivateJWTAuthority`]: noJwtAuthority,
  [`${service.authority}/TaintJWTAuthority`]: noJwtAuthority,
  [`${service.authority}/RevokeJWTAuthority`]: noJwtAuthority,
  [`${service.authority}/GetWITAuthorityState`]: noWitAuthority,
  [`${service.authority}/PrepareWITAuthority`]: noWitAuthority,
  [`${service.authority}/ActivateWITAuthority`]: noWitAuthority,
  [`${service.authority}/TaintWITAuthority`]: noWitAuthority,
  [`${service.authority}/RevokeWITAuthority`]: noWitAuthority,
};
