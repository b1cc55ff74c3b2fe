import { type Client, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import fc from 'fast-check';

/** What a call must never end with: our own faults. */
export const faultCodes: readonly number[] = [status.INTERNAL, status.UNKNOWN, status.DATA_LOSS];

/** A field of a message, of any number and type. */
type Field =
  | { readonly number: number; readonly varint: bigint }
  | { readonly number: number; readonly bytes: Uint8Array }
  | { readonly number: number; readonly message: readonly Field[] };

/**
 * Bytes in the form of protobuf, whatever the message: fields that exist and others, of right and wrong types, and
 * `values` in the places of texts and bytes. Some are damaged.
 */
export function protoBytes(values: readonly (string | Uint8Array)[]): fc.Arbitrary<Buffer> {
  const known = values.map((value) => Buffer.from(value as string));
  const bytes = fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom(...known) },
    { weight: 2, arbitrary: fc.constantFrom(...known).chain(damaged) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 40 }) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 20 }).map((text) => Buffer.from(text)) },
  );
  const number = fc.oneof(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 18 }));
  const varint = fc.oneof(fc.constantFrom(0n, 1n, 2n, 500n, 2n ** 31n, 2n ** 63n, 2n ** 64n - 1n));
  const { fields } = fc.letrec<{ fields: Field[]; field: Field }>((tie) => ({
    field: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      fc.record({ number, bytes }),
      fc.record({ number, varint }),
      fc.record({ number, message: tie('fields') }),
    ) as fc.Arbitrary<Field>,
    fields: fc.array(tie('field'), { maxLength: 6 }),
  }));
  const whole = fields.map(encode);
  return fc.oneof({ weight: 9, arbitrary: whole }, { weight: 1, arbitrary: whole.chain(damaged) });
}

/** How a call ended, and the messages that came before. */
export interface Answer {
  readonly code: status;
  readonly text: string;
  readonly messages: readonly Buffer[];
}

/** Sends the bytes as messages of one call, and takes what comes until it ends or the time is up. */
export function sendBytes(
  client: Client,
  request: { readonly path: string; readonly messages: readonly Buffer[]; readonly timeoutMs: number },
): Promise<Answer> {
  const { path, messages, timeoutMs } = request;
  const asIs = (bytes: Buffer) => bytes;
  const options = { deadline: Date.now() + timeoutMs };
  const metadata = new Metadata();
  // Else the Workload API would not look at it (SPIFFE Workload Endpoint §5).
  metadata.set('workload.spiffe.io', 'true');
  const call = client.makeBidiStreamRequest(path, asIs, asIs, metadata, options);
  const received: Buffer[] = [];
  return new Promise((resolve) => {
    const end = (code: status, text: string) => resolve({ code, text, messages: received });
    call.on('data', (bytes: Buffer) => received.push(bytes));
    call.on('error', ({ code, details }: ServiceError) => {
      // What gRPC says of bytes that are no message, in Go as in Node, before anybody looks at them.
      const isUnreadable = details === 'Error deserializing request';
      end(isUnreadable ? status.INVALID_ARGUMENT : code, details);
    });
    call.on('end', () => end(status.OK, ''));
    for (const message of messages) call.write(message);
    call.end();
  });
}

/** With one byte changed, or cut off somewhere. */
function damaged(bytes: Uint8Array): fc.Arbitrary<Buffer> {
  return fc
    .record({ at: fc.nat(Math.max(0, bytes.length - 1)), byte: fc.integer({ min: 0, max: 256 }) })
    .map(({ at, byte }) => {
      if (byte === 256) return Buffer.from(bytes.subarray(0, at));
      const changed = Buffer.from(bytes);
      if (changed.length > 0) changed[at] = byte;
      return changed;
    });
}

function encode(fields: readonly Field[]): Buffer {
  return Buffer.concat(
    fields.flatMap((field) => {
      if ('varint' in field) return [varintOf(BigInt(field.number << 3)), varintOf(field.varint)];
      const content = 'bytes' in field ? field.bytes : encode(field.message);
      return [varintOf(BigInt((field.number << 3) | 2)), varintOf(BigInt(content.length)), content];
    }),
  );
}

function varintOf(value: bigint): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  return Buffer.from([...bytes, Number(rest)]);
}
