import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { Node } from '../gen/envoy/config/core/v3/base.ts';
import { DiscoveryRequest } from '../gen/envoy/service/discovery/v3/discovery.ts';

/** The bytes of a Node like Envoy's own: a little of ours, and some 61 KB of extensions that our definition lacks. */
export function envoyNode(fields: Partial<Node> = {}): Uint8Array {
  const version = { majorNumber: 1, minorNumber: 40, patch: 0 };
  const writer = Node.encode({
    id: 'proxy-1',
    cluster: 'front',
    metadata: undefined,
    userAgentName: 'envoy',
    userAgentVersionType: { $case: 'userAgentBuildVersion', value: { version } },
    ...fields,
  });
  for (let i = 0; i < 516; i += 1) {
    const extension = new BinaryWriter()
      .tag(1, WireType.LengthDelimited)
      .string(`envoy.extension.${i}.`.padEnd(110, 'x'));
    writer.tag(9, WireType.LengthDelimited).bytes(extension.finish());
  }
  return writer.finish();
}

/** The bytes of a DiscoveryRequest as Envoy sends it; `node` as made by `envoyNode`. */
export function discoveryRequest(
  fields: {
    readonly names?: readonly string[];
    readonly versionInfo?: string;
    readonly nonce?: string;
    readonly typeUrl?: string;
    /** Makes it a NACK. */
    readonly error?: string;
    readonly node?: Uint8Array;
  } = {},
): Buffer {
  const writer = new BinaryWriter();
  if (fields.node !== undefined) writer.tag(2, WireType.LengthDelimited).bytes(fields.node);
  const { names = [], versionInfo = '', nonce = '', error } = fields;
  return Buffer.from(
    DiscoveryRequest.encode(
      {
        versionInfo,
        node: undefined,
        resourceNames: [...names],
        typeUrl: fields.typeUrl ?? 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret',
        responseNonce: nonce,
        errorDetail: error === undefined ? undefined : { code: 13, message: error, details: [] },
      },
      writer,
    ).finish(),
  );
}
