import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { envoyNode } from '../../src/testing/envoy-node.ts';

const secretType = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret';
const sds = '/envoy.service.secret.v3.SecretDiscoveryService';
const ads = '/envoy.service.discovery.v3.AggregatedDiscoveryService';

/** What a stream asks for. */
export const names = ['default', 'ALL'] as const;

/** The ways to ask for secrets. Field numbers are those of the requests; a response has its nonce in 5 in all. */
const variants = {
  sotw: { path: `${sds}/StreamSecrets`, isDelta: false },
  delta: { path: `${sds}/DeltaSecrets`, isDelta: true },
  'ads-sotw': { path: `${ads}/StreamAggregatedResources`, isDelta: false },
  'ads-delta': { path: `${ads}/DeltaAggregatedResources`, isDelta: true },
} as const;

export type Variant = keyof typeof variants;

/** Throws for any other text. */
export function parseVariant(text: string): Variant {
  if (text in variants) return text as Variant;
  throw new Error(`"${text}" is no variant; expected one of ${Object.keys(variants).join(', ')}`);
}

/** The gRPC method of the variant. */
export function methodOf(variant: Variant): string {
  return variants[variant].path;
}

/** Whose first request says how much of itself: little, or the 61 KB of a real Envoy. */
export type NodeSize = 'small' | 'envoy';

/** The first request of a stream, with its gRPC framing. */
export function firstRequest(variant: Variant, size: NodeSize): Buffer {
  const node = size === 'envoy' ? envoyNode() : new BinaryWriter().uint32(0x0a).string('bench').finish();
  const writer = new BinaryWriter();
  if (variants[variant].isDelta) {
    text(writer.tag(1, WireType.LengthDelimited).bytes(node), 2, secretType);
    for (const name of names) text(writer, 3, name);
  } else {
    writer.tag(2, WireType.LengthDelimited).bytes(node);
    for (const name of names) text(writer, 3, name);
    text(writer, 4, secretType);
  }
  return framed(writer);
}

/** What Envoy answers to a response that it accepts, with its gRPC framing: no node from the second request on. */
export function acknowledgement(variant: Variant, response: Buffer): Buffer {
  const { version, nonce } = headOf(response);
  const writer = new BinaryWriter();
  if (variants[variant].isDelta) {
    text(text(writer, 2, secretType), 6, nonce);
  } else {
    text(writer, 1, version);
    for (const name of names) text(writer, 3, name);
    text(text(writer, 4, secretType), 5, nonce);
  }
  return framed(writer);
}

/** The two fields that an acknowledgement needs; the secret itself is skipped. */
function headOf(response: Buffer): { version: string; nonce: string } {
  const reader = new BinaryReader(response);
  const head = { version: '', nonce: '' };
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1) head.version = reader.string();
    else if (field === 5) head.nonce = reader.string();
    else reader.skip(wireType, field);
  }
  return head;
}

function text(writer: BinaryWriter, field: number, value: string): BinaryWriter {
  return writer.tag(field, WireType.LengthDelimited).string(value);
}

function framed(writer: BinaryWriter): Buffer {
  const message = writer.finish();
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}
