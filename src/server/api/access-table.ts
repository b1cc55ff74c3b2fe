/**
 * Kinds of callers that a method may be open to: `local` = the admin socket, `admin` = named by an entry with `admin`
 * or by `adminIds`, `agent` = attested and in good standing, `downstream` = named by an entry with `downstream`,
 * `any` = everybody, also without a certificate.
 */
export type CallerKind = 'any' | 'local' | 'admin' | 'agent' | 'downstream';

const anybody = ['any'] as const;
const administration = ['local', 'admin'] as const;
const localOnly = ['local'] as const;
const agents = ['agent'] as const;
const downstream = ['downstream'] as const;

/**
 * Who may call which method of the server: SPIRE's default policy (SPIRE `policy_data.json`), and ours for the rest.
 * A method that is not here is refused to everybody.
 */
export const accessTable = {
  '/spire.api.server.agent.v1.Agent/AttestAgent': anybody,
  '/spire.api.server.agent.v1.Agent/RenewAgent': agents,
  '/spire.api.server.agent.v1.Agent/PostStatus': agents,
  '/spire.api.server.agent.v1.Agent/CountAgents': administration,
  '/spire.api.server.agent.v1.Agent/ListAgents': administration,
  '/spire.api.server.agent.v1.Agent/GetAgent': administration,
  '/spire.api.server.agent.v1.Agent/DeleteAgent': administration,
  '/spire.api.server.agent.v1.Agent/BanAgent': administration,
  '/spire.api.server.agent.v1.Agent/CreateJoinToken': administration,

  '/spire.api.server.bundle.v1.Bundle/GetBundle': anybody,
  '/spire.api.server.bundle.v1.Bundle/GetFederatedBundle': ['local', 'admin', 'agent'],
  '/spire.api.server.bundle.v1.Bundle/AppendBundle': administration,
  '/spire.api.server.bundle.v1.Bundle/CountBundles': administration,
  '/spire.api.server.bundle.v1.Bundle/ListFederatedBundles': administration,
  '/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle': administration,
  '/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle': administration,
  '/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle': administration,
  '/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle': administration,
  '/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority': downstream,
  '/spire.api.server.bundle.v1.Bundle/PublishWITAuthority': downstream,

  '/spire.api.server.debug.v1.Debug/GetInfo': localOnly,

  '/spire.api.server.entry.v1.Entry/GetAuthorizedEntries': agents,
  '/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries': agents,
  '/spire.api.server.entry.v1.Entry/CountEntries': administration,
  '/spire.api.server.entry.v1.Entry/ListEntries': administration,
  '/spire.api.server.entry.v1.Entry/GetEntry': administration,
  '/spire.api.server.entry.v1.Entry/BatchCreateEntry': administration,
  '/spire.api.server.entry.v1.Entry/BatchUpdateEntry': administration,
  '/spire.api.server.entry.v1.Entry/BatchDeleteEntry': administration,

  '/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority': administration,
  '/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority': administration,

  '/spire.api.server.logger.v1.Logger/GetLogger': localOnly,
  '/spire.api.server.logger.v1.Logger/SetLogLevel': localOnly,
  '/spire.api.server.logger.v1.Logger/ResetLogLevel': localOnly,

  '/spire.api.server.svid.v1.SVID/MintX509SVID': administration,
  '/spire.api.server.svid.v1.SVID/MintJWTSVID': administration,
  '/spire.api.server.svid.v1.SVID/MintWITSVID': administration,
  '/spire.api.server.svid.v1.SVID/BatchNewX509SVID': agents,
  '/spire.api.server.svid.v1.SVID/NewJWTSVID': agents,
  '/spire.api.server.svid.v1.SVID/BatchNewWITSVID': agents,
  '/spire.api.server.svid.v1.SVID/NewDownstreamX509CA': downstream,

  '/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships': administration,
  '/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship': administration,
  '/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship': administration,
  '/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship': administration,
  '/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship': administration,
  '/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle': administration,

  '/grpc.health.v1.Health/Check': localOnly,
  '/grpc.health.v1.Health/List': localOnly,
  '/grpc.health.v1.Health/Watch': localOnly,
  '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo': localOnly,
  '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo': localOnly,
  '/signet.authority.v1.Authorities/GetX509Authorities': administration,
  '/signet.authority.v1.Authorities/PrepareX509Authority': administration,
  '/signet.authority.v1.Authorities/RevokeX509Authority': administration,
  '/signet.authority.v1.Authorities/PruneKeys': administration,
  '/signet.health.v1.Health/GetHealth': localOnly,
} as const satisfies Record<string, readonly CallerKind[]>;
