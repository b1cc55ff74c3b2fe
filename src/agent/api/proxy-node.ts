import { type BuildVersion, Node } from '../../gen/envoy/config/core/v3/base.ts';
import { foreignText } from './foreign-text.ts';
import type { ValidatorFlavour } from './sds-names.ts';

/**
 * What a proxy says of itself. Nobody vouches for it: it may choose how something is presented, never what the
 * caller is entitled to. All texts are already fit to print.
 */
export interface ProxyNode {
  readonly id: string;
  readonly cluster: string;
  /** Such as `envoy 1.40.0`; empty when it says nothing. */
  readonly version: string;
  /** The form of validation contexts it wants, by SPIRE's metadata key; undefined when it does not say. */
  readonly validator: ValidatorFlavour | undefined;
}

/** Decodes `envoy.config.core.v3.Node`, whose 500 extensions are no part of our definition and are skipped. Throws. */
export function decodeProxyNode(bytes: Uint8Array): ProxyNode {
  const { id, cluster, metadata, userAgentName, userAgentVersionType: version } = Node.decode(bytes);
  const number = version?.$case === 'userAgentVersion' ? version.value : buildNumber(version?.value);
  return {
    id: foreignText(id),
    cluster: foreignText(cluster),
    version: foreignText(`${userAgentName} ${number}`.trim()),
    validator: wantedValidator(metadata?.['disable_spiffe_cert_validation']),
  };
}

function buildNumber(build: BuildVersion | undefined): string {
  const version = build?.version;
  return version === undefined ? '' : `${version.majorNumber}.${version.minorNumber}.${version.patch}`;
}

/** SPIRE takes a boolean, or a text that Go's ParseBool reads. */
function wantedValidator(disabled: unknown): ValidatorFlavour | undefined {
  const text = String(disabled);
  if (['true', 'True', 'TRUE', 't', 'T', '1'].includes(text)) return 'x509';
  if (['false', 'False', 'FALSE', 'f', 'F', '0'].includes(text)) return 'spiffe';
  return undefined;
}
