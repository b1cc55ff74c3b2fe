import { FileRoots } from '../agent/api/file-roots.ts';
import { defaultSdsNames, type SdsNames, type ValidatorFlavour } from '../agent/api/sds-names.ts';
import { SdsResources } from '../agent/api/sds-resources.ts';
import type { EncodedSecret } from '../agent/api/secrets.ts';
import { emptyView, type HeldSvid, type Identity, type WorkloadView } from '../agent/workload-view.ts';
import { Secret } from '../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { SPIFFECertValidatorConfig } from '../gen/envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.ts';
import { DiscoveryResponse } from '../gen/envoy/service/discovery/v3/discovery.ts';
import { type Logger, silentLogger } from '../runtime/log.ts';
import type { Clock } from '../runtime/time.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { FakeClock } from './fake-clock.ts';

/** The secrets of an agent, at the time of the test certificates unless told otherwise. */
export function newSdsResources(
  options: {
    readonly names?: SdsNames;
    readonly validator?: ValidatorFlavour;
    readonly clock?: Clock;
    readonly log?: Logger;
    readonly fileRoots?: FileRoots;
  } = {},
): SdsResources {
  const { clock = new FakeClock(), log = silentLogger } = options;
  return new SdsResources({
    names: defaultSdsNames,
    validator: 'spiffe',
    identifier: 'signet-agent/test',
    fileRoots: new FileRoots({ clock, log }),
    ...options,
    clock,
    log,
  });
}

/** The view of a workload that is entitled to these, signed or not, in this order. */
export function viewOf(
  identities: readonly (HeldSvid | RegistrationEntry | Identity)[],
  fields: Partial<WorkloadView> = {},
): WorkloadView {
  const full = identities.map((one): Identity => {
    if ('variants' in one) return one;
    const [entry, svid] = 'privateKeyPem' in one ? [one.entry, one] : [one, undefined];
    return { entry, svid, variants: new Map(), hint: entry.hint };
  });
  return { ...emptyView, isSynced: true, ...fields, identities: full };
}

/** The one Secret in what would be sent. */
export function secretIn(encoded: EncodedSecret): Secret {
  const { resources } = DiscoveryResponse.decode(encoded.response('sotw'));
  const [resource, ...more] = resources;
  if (resource === undefined || more.length > 0)
    throw new Error(`expected one secret, got ${resources.length}`);
  return Secret.decode(resource.value);
}

/** Whom Envoy would trust by this secret: trust domain → PEM, with plain anchors under "plain". */
export function trustIn(encoded: EncodedSecret): ReadonlyMap<string, string> {
  const { type } = secretIn(encoded);
  if (type?.$case !== 'validationContext')
    throw new Error(`expected a validation context, got ${type?.$case}`);
  const { trustedCa, customValidatorConfig } = type.value;
  const value = customValidatorConfig?.typedConfig?.value;
  if (value === undefined) {
    const pem = trustedCa?.specifier?.value.toString() ?? '';
    if (pem === '') throw new Error('an empty validation context: Envoy would let everybody in');
    return new Map([['plain', pem]]);
  }
  if (trustedCa !== undefined) throw new Error('plain anchors beside the SPIFFE validator');
  const domains = SPIFFECertValidatorConfig.decode(value).trustDomains;
  return new Map(
    domains.map(({ name, trustBundle }) => [name, trustBundle?.specifier?.value.toString() ?? '']),
  );
}
