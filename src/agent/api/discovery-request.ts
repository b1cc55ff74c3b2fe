import { foreignText } from './foreign-text.ts';
import { decodeProxyNode, type ProxyNode } from './proxy-node.ts';
import { readBytes, readErrorDetail, readFields, readName, readText, skipUnknown } from './request-fields.ts';
import type { SdsLimits } from './sds-session.ts';
import type { SotwRequest } from './sotw-requests.ts';

/** How much of a request is read. */
export interface DecodeOptions {
  /** False: the node is skipped, undecoded. */
  readonly readNode: boolean;
  readonly limits: SdsLimits;
}

/** What requests of all variants have. */
export interface AnyRequest {
  /** May be empty: on a stream of secrets it is implied. */
  readonly typeUrl: string;
  /** Undefined when there was none or it was skipped. */
  readonly node: ProxyNode | undefined;
}

/** A DiscoveryRequest, with what the agent uses of it. */
export interface DiscoveryRequest extends AnyRequest, SotwRequest {
  /** For logs only. */
  readonly versionInfo: string;
}

/**
 * Decodes one `envoy.service.discovery.v3.DiscoveryRequest`. Throws AppError `invalid-argument`, or
 * `resource-exhausted` when names are too many.
 */
export function decodeDiscoveryRequest(bytes: Uint8Array, options: DecodeOptions): DiscoveryRequest {
  const names: string[] = [];
  let [versionInfo, nonce, typeUrl] = ['', '', ''];
  let error: string | undefined;
  let node: ProxyNode | undefined;
  readFields(bytes, 'DiscoveryRequest', (reader, field, type) => {
    if (field === 1) versionInfo = foreignText(readText(reader, type));
    else if (field === 2) node = readNode(readBytes(reader, type), options);
    else if (field === 3) readName(reader, type, names, options.limits);
    else if (field === 4) typeUrl = readText(reader, type);
    else if (field === 5) nonce = readText(reader, type);
    else if (field === 6) error = readErrorDetail(reader, type);
    else skipUnknown(reader, field, type);
  });
  return { names, versionInfo, nonce, typeUrl, error, node };
}

/** What the bytes say of the proxy; nothing when that is known already. */
export function readNode(bytes: Uint8Array, options: DecodeOptions): ProxyNode | undefined {
  return options.readNode ? decodeProxyNode(bytes) : undefined;
}
