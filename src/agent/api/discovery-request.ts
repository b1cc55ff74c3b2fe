import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { AppError, errorText } from '../../runtime/error.ts';
import { foreignText } from './foreign-text.ts';
import { decodeProxyNode, type ProxyNode } from './proxy-node.ts';
import type { SdsLimits, SdsRequest } from './sds-session.ts';

/** A DiscoveryRequest, with what the agent uses of it. */
export interface DiscoveryRequest extends SdsRequest {
  /** For logs only. */
  readonly versionInfo: string;
  /** May be empty: on a stream of secrets it is implied. */
  readonly typeUrl: string;
  /** Undefined when there was none or it was skipped. */
  readonly node: ProxyNode | undefined;
}

interface Fields {
  readonly names: string[];
  versionInfo: string;
  nonce: string;
  typeUrl: string;
  error: string | undefined;
  node: ProxyNode | undefined;
}

interface Options {
  /** False: the node is skipped, undecoded. */
  readonly readNode: boolean;
  readonly limits: SdsLimits;
}

/** Envoy never repeats a name, others hardly do. */
const repetitionsPerName = 2;

/**
 * Decodes one `envoy.service.discovery.v3.DiscoveryRequest`. By hand, for one reason: the first request of each
 * stream carries Envoy's node of 61 KB, which must cost nothing but its length. It is also stricter than generated
 * code: wrong wire types, groups and malformed UTF-8 are refused. Throws AppError `invalid-argument`, or
 * `resource-exhausted` when names are too many.
 */
export function decodeDiscoveryRequest(bytes: Uint8Array, options: Options): DiscoveryRequest {
  const fields: Fields = {
    names: [],
    versionInfo: '',
    nonce: '',
    typeUrl: '',
    error: undefined,
    node: undefined,
  };
  try {
    const reader = new BinaryReader(bytes);
    while (reader.pos < reader.len) readField(reader, fields, options);
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('invalid-argument', `malformed DiscoveryRequest: ${errorText(error)}`, {
      cause: error,
    });
  }
  return fields;
}

function readField(reader: BinaryReader, fields: Fields, { readNode, limits }: Options): void {
  const [field, wireType] = reader.tag();
  switch (field) {
    case 1:
      fields.versionInfo = foreignText(readText(reader, wireType, 'version_info'));
      return;
    case 2:
      if (readNode) fields.node = decodeProxyNode(readBytes(reader, wireType, 'node'));
      else readBytes(reader, wireType, 'node');
      return;
    case 3:
      // Bounded here too, so that a message full of empty names does not become a million strings first.
      if (fields.names.length >= limits.maxNames * repetitionsPerName) throw tooManyNames(limits);
      fields.names.push(readText(reader, wireType, 'resource_names'));
      return;
    case 4:
      fields.typeUrl = readText(reader, wireType, 'type_url');
      return;
    case 5:
      fields.nonce = readText(reader, wireType, 'response_nonce');
      return;
    case 6:
      fields.error = readErrorDetail(readBytes(reader, wireType, 'error_detail'));
      return;
    default:
      skipUnknown(reader, field, wireType);
  }
}

/** The message of a `google.rpc.Status`, fit to print; empty when it has none. */
function readErrorDetail(bytes: Uint8Array): string {
  const reader = new BinaryReader(bytes);
  let message = '';
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 2) message = readText(reader, wireType, 'error_detail.message');
    else skipUnknown(reader, field, wireType);
  }
  return foreignText(message);
}

function readBytes(reader: BinaryReader, wireType: WireType, name: string): Uint8Array {
  if (wireType !== WireType.LengthDelimited) throw malformed(`field ${name} has wire type ${wireType}`);
  return reader.bytes();
}

function readText(reader: BinaryReader, wireType: WireType, name: string): string {
  if (wireType !== WireType.LengthDelimited) throw malformed(`field ${name} has wire type ${wireType}`);
  return reader.string(true);
}

/** Newer clients send newer fields; groups are no part of proto3. */
function skipUnknown(reader: BinaryReader, field: number, wireType: WireType): void {
  if (wireType === WireType.StartGroup || wireType === WireType.EndGroup) {
    throw malformed(`field ${field} is a group`);
  }
  reader.skip(wireType, field);
}

function malformed(text: string): AppError {
  return new AppError('invalid-argument', `malformed DiscoveryRequest: ${text}`);
}

function tooManyNames(limits: SdsLimits): AppError {
  return new AppError(
    'resource-exhausted',
    `the request names more than ${limits.maxNames} secrets; at most that many are allowed on one stream`,
  );
}
