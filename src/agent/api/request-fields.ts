import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { AppError, errorText } from '../../runtime/error.ts';
import { foreignText } from './foreign-text.ts';
import type { SdsLimits } from './sds-session.ts';

/** Reads the field that the reader stands before. */
export type ReadField = (reader: BinaryReader, field: number, wireType: WireType) => void;

/** Envoy never repeats a name, others hardly do. */
const repetitionsPerName = 2;

/**
 * Walks the fields of one request. By hand, for one reason: the first request of each stream carries Envoy's node of
 * 61 KB, which must cost nothing but its length. It is also stricter than generated code: wrong wire types, groups and
 * malformed UTF-8 are refused. Throws AppError `invalid-argument` and what `readField` throws.
 */
export function readFields(bytes: Uint8Array, message: string, readField: ReadField): void {
  try {
    const reader = new BinaryReader(bytes);
    while (reader.pos < reader.len) {
      const [field, wireType] = reader.tag();
      readField(reader, field, wireType);
    }
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('invalid-argument', `malformed ${message}: ${errorText(error)}`, { cause: error });
  }
}

/** Adds a name to the list. Bounded here too, so that a message of empty names does not become a million strings first. */
export function readName(reader: BinaryReader, wireType: WireType, names: string[], limits: SdsLimits): void {
  if (names.length >= limits.maxNames * repetitionsPerName) {
    throw new AppError(
      'resource-exhausted',
      `the request names more than ${limits.maxNames} secrets; at most that many are allowed on one stream`,
    );
  }
  names.push(readText(reader, wireType));
}

/** The message of a `google.rpc.Status`, fit to print; empty when it has none. */
export function readErrorDetail(reader: BinaryReader, wireType: WireType): string {
  const status = new BinaryReader(readBytes(reader, wireType));
  let message = '';
  while (status.pos < status.len) {
    const [field, type] = status.tag();
    if (field === 2) message = readText(status, type);
    else skipUnknown(status, field, type);
  }
  return foreignText(message);
}

/** Throws for another wire type. */
export function readBytes(reader: BinaryReader, wireType: WireType): Uint8Array {
  requireLengthDelimited(wireType);
  return reader.bytes();
}

/** Throws for another wire type and for what is no UTF-8. */
export function readText(reader: BinaryReader, wireType: WireType): string {
  requireLengthDelimited(wireType);
  return reader.string(true);
}

/** Newer clients send newer fields; groups are no part of proto3. */
export function skipUnknown(reader: BinaryReader, field: number, wireType: WireType): void {
  if (wireType === WireType.StartGroup || wireType === WireType.EndGroup) {
    throw new Error(`field ${field} is a group`);
  }
  reader.skip(wireType, field);
}

function requireLengthDelimited(wireType: WireType): void {
  if (wireType !== WireType.LengthDelimited) {
    throw new Error(`expected bytes (wire type 2), got wire type ${wireType}`);
  }
}
