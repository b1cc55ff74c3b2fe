import type { DeltaRequest } from './delta-requests.ts';
import { type AnyRequest, type DecodeOptions, readNode } from './discovery-request.ts';
import type { ProxyNode } from './proxy-node.ts';
import { readBytes, readErrorDetail, readFields, readName, readText, skipUnknown } from './request-fields.ts';

/** A DeltaDiscoveryRequest, with what the agent uses of it. */
export type DeltaDiscoveryRequest = AnyRequest & DeltaRequest;

/**
 * Decodes one `envoy.service.discovery.v3.DeltaDiscoveryRequest`. Throws AppError `invalid-argument`, or
 * `resource-exhausted` when names are too many. `initial_resource_versions` are skipped: see `DeltaRequests`.
 */
export function decodeDeltaDiscoveryRequest(
  bytes: Uint8Array,
  options: DecodeOptions,
): DeltaDiscoveryRequest {
  const subscribe: string[] = [];
  const unsubscribe: string[] = [];
  let [nonce, typeUrl] = ['', ''];
  let error: string | undefined;
  let node: ProxyNode | undefined;
  readFields(bytes, 'DeltaDiscoveryRequest', (reader, field, type) => {
    if (field === 1) node = readNode(readBytes(reader, type), options);
    else if (field === 2) typeUrl = readText(reader, type);
    else if (field === 3) readName(reader, type, subscribe, options.limits);
    else if (field === 4) readName(reader, type, unsubscribe, options.limits);
    else if (field === 5) readBytes(reader, type);
    else if (field === 6) nonce = readText(reader, type);
    else if (field === 7) error = readErrorDetail(reader, type);
    else skipUnknown(reader, field, type);
  });
  return { subscribe, unsubscribe, nonce, typeUrl, error, node };
}
