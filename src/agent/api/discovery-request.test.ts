import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isAppError } from '../../runtime/error.ts';
import { discoveryRequest, envoyNode } from '../../testing/envoy-node.ts';
import { decodeDiscoveryRequest } from './discovery-request.ts';

const limits = { maxBytesOfNames: 131_072, maxNames: 4, maxNameBytes: 2_304 };

function decode(bytes: Uint8Array, readNode = true) {
  return decodeDiscoveryRequest(bytes, { readNode, limits });
}

function codeOf(run: () => unknown): string | undefined {
  try {
    run();
  } catch (error) {
    return isAppError(error) ? error.code : `not an AppError: ${error}`;
  }
  return undefined;
}

function field(
  number: number,
  wireType: WireType,
  write: (writer: BinaryWriter) => BinaryWriter,
): Uint8Array {
  return write(new BinaryWriter().tag(number, wireType)).finish();
}

describe('a request', () => {
  test('is read with all that steers a stream', () => {
    const bytes = discoveryRequest({ names: ['a', 'b'], versionInfo: 'v1', nonce: '7', error: 'no good' });
    expect(decode(bytes)).toEqual({
      names: ['a', 'b'],
      versionInfo: 'v1',
      nonce: '7',
      typeUrl: 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret',
      error: 'no good',
      node: undefined,
    });
  });

  test('is a NACK even when its error has no text', () => {
    expect(decode(discoveryRequest({ error: '' })).error).toBe('');
    expect(decode(discoveryRequest({})).error).toBeUndefined();
  });

  test('may have a version and a nonce of any length: the first of a stream brings old ones along', () => {
    const long = 'x'.repeat(100_000);
    expect(decode(discoveryRequest({ versionInfo: long, nonce: long })).nonce).toBe(long);
  });

  test('has its error text made fit to print', () => {
    expect(decode(discoveryRequest({ error: 'a\u001b[2Jb' })).error).toBe('a\\u{1b}[2Jb');
  });

  test('may have fields that are newer than our definition', () => {
    const newer = field(99, WireType.LengthDelimited, (writer) => writer.string('new'));
    expect(decode(Buffer.concat([discoveryRequest({ names: ['a'] }), newer])).names).toEqual(['a']);
  });
});

describe("the proxy's node", () => {
  const request = discoveryRequest({ names: ['a'], node: envoyNode() });

  test('is read once for a connection', () => {
    expect(request.length).toBeGreaterThan(55_000);
    expect(decode(request).node).toEqual({
      id: 'proxy-1',
      cluster: 'front',
      version: 'envoy 1.40.0',
      validator: undefined,
    });
  });

  test('is skipped afterwards, whatever is in it', () => {
    expect(decode(request, false)).toMatchObject({ node: undefined, names: ['a'] });
    const garbage = discoveryRequest({ names: ['a'], node: Buffer.alloc(61_000, 0xff) });
    expect(decode(garbage, false).names).toEqual(['a']);
    expect(codeOf(() => decode(garbage, true))).toBe('invalid-argument');
  });

  test('has only text that is fit to print', () => {
    const node = envoyNode({ id: `\u0007${'i'.repeat(10_000)}`, cluster: 'a\nb' });
    const decoded = decode(discoveryRequest({ node })).node;
    expect(decoded?.id.startsWith('\\u{7}iii')).toBe(true);
    expect(Buffer.byteLength(decoded?.id ?? '')).toBe(256);
    expect(decoded?.cluster).toBe('a\\u{a}b');
  });

  test.each([
    { value: true, validator: 'x509' },
    { value: 'true', validator: 'x509' },
    { value: false, validator: 'spiffe' },
    { value: 'no idea', validator: undefined },
    { value: null, validator: undefined },
  ])("chooses the validator by SPIRE's metadata: $value", ({ value, validator }) => {
    const node = envoyNode({ metadata: { disable_spiffe_cert_validation: value, other: { deep: [1] } } });
    expect(decode(discoveryRequest({ node })).node?.validator).toBe(validator);
  });

  test('may give its version as a text', () => {
    const node = envoyNode({
      userAgentName: 'grpc',
      userAgentVersionType: { $case: 'userAgentVersion', value: '1.2' },
    });
    expect(decode(discoveryRequest({ node })).node?.version).toBe('grpc 1.2');
  });
});

describe('what is refused', () => {
  const emptyName = field(3, WireType.LengthDelimited, (writer) => writer.string(''));
  test.each([
    { name: 'a length beyond the end', bytes: Uint8Array.of(0x1a, 0x05, 0x61), code: 'invalid-argument' },
    { name: 'a skipped length beyond the end', bytes: Uint8Array.of(0x12, 0x7f), code: 'invalid-argument' },
    { name: 'a cut tag', bytes: Uint8Array.of(0x80), code: 'invalid-argument' },
    { name: 'field 0', bytes: Uint8Array.of(0x02, 0x00), code: 'invalid-argument' },
    {
      name: 'names as a number',
      bytes: field(3, WireType.Varint, (w) => w.uint32(1)),
      code: 'invalid-argument',
    },
    {
      name: 'a node as a number',
      bytes: field(2, WireType.Varint, (w) => w.uint32(1)),
      code: 'invalid-argument',
    },
    { name: 'a group', bytes: Uint8Array.of((9 << 3) | 3, (9 << 3) | 4), code: 'invalid-argument' },
    { name: 'a name that is not UTF-8', bytes: Uint8Array.of(0x1a, 0x01, 0xff), code: 'invalid-argument' },
    {
      name: 'a million empty names',
      bytes: Buffer.concat(Array.from({ length: 1_000 }, () => emptyName)),
      code: 'resource-exhausted',
    },
  ])('$name: $code', ({ bytes, code }) => {
    expect(codeOf(() => decode(bytes))).toBe(code);
    expect(codeOf(() => decode(bytes, false))).toBe(code);
  });

  test('never is anything but an AppError, whatever the bytes', () => {
    const mutated = fc
      .tuple(fc.constant(discoveryRequest({ names: ['a'], error: 'x', nonce: '1' })), fc.nat(), fc.nat(255))
      .map(([bytes, at, value]) => {
        const copy = Buffer.from(bytes);
        copy[at % copy.length] = value;
        return copy;
      });
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated), fc.boolean(), (bytes, readNode) => {
        const code = codeOf(() => decode(bytes, readNode));
        return code === undefined || code === 'invalid-argument' || code === 'resource-exhausted';
      }),
      { numRuns: 2_000 },
    );
  });
});
