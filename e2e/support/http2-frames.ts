/** What a client of HTTP/2 sends first (RFC 9113 §3.4). */
export const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

/** Frame types of RFC 9113 §6. */
export const frameType = {
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;

/** Flags, as each frame type has them. */
export const flag = { endStream: 1, ack: 1, endHeaders: 4 } as const;

/** One frame; `length` lies about the payload when given. */
export function http2Frame(fields: {
  readonly type: number;
  readonly flags?: number;
  readonly stream?: number;
  readonly payload?: Uint8Array;
  readonly length?: number;
}): Buffer {
  const { type, flags = 0, stream = 0, payload = Buffer.alloc(0), length = payload.length } = fields;
  const head = Buffer.alloc(9);
  head.writeUIntBE(length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** The frame that must follow the preface. */
export const emptySettings = http2Frame({ type: frameType.settings });

/** A header block of literals without an index or Huffman code (RFC 7541 §6.2.2). */
export function headerBlock(headers: Readonly<Record<string, string>>): Buffer {
  return Buffer.concat(
    Object.entries(headers).flatMap(([name, value]) => [Buffer.of(0), hpackText(name), hpackText(value)]),
  );
}

/** The header block of a gRPC call. */
export function grpcHeaders(path: string, more: Readonly<Record<string, string>> = {}): Buffer {
  return headerBlock({
    ':method': 'POST',
    ':scheme': 'https',
    ':path': path,
    ':authority': 'signet',
    'content-type': 'application/grpc',
    te: 'trailers',
    ...more,
  });
}

/** The HEADERS frame of a gRPC call. */
export function grpcCall(stream: number, path: string, more: Readonly<Record<string, string>> = {}): Buffer {
  const payload = grpcHeaders(path, more);
  return http2Frame({ type: frameType.headers, flags: flag.endHeaders, stream, payload });
}

/** A string literal with its length as an integer of a 7-bit prefix (RFC 7541 §5). */
export function hpackText(text: string): Buffer {
  const bytes = Buffer.from(text, 'latin1');
  if (bytes.length < 127) return Buffer.concat([Buffer.of(bytes.length), bytes]);
  const size = [127];
  let rest = bytes.length - 127;
  for (; rest >= 128; rest >>= 7) size.push((rest & 127) | 128);
  return Buffer.concat([Buffer.of(...size, rest), bytes]);
}
