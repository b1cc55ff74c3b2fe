import type { Duplex } from 'node:stream';
import { gzipSync } from 'node:zlib';
import {
  emptySettings,
  flag,
  frameType,
  grpcCall,
  grpcHeaders,
  headerBlock,
  hpackText,
  http2Frame,
  preface,
} from './http2-frames.ts';
import { frame } from './plain-grpc.ts';

/** Numbers that are the same for the same seed. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  /** A whole number from 0 to below `end`. */
  below(end: number): number {
    // mulberry32
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * end);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)));
  }

  /** The bytes with some of them changed, doubled or left out. */
  mutate(bytes: Buffer): Buffer {
    let mutated = Buffer.from(bytes);
    for (let i = 1 + this.below(8); i > 0; i -= 1) {
      const at = this.below(mutated.length);
      const parts = this.pick([
        () => [mutated.subarray(0, at), this.bytes(1), mutated.subarray(at + 1)],
        () => [mutated.subarray(0, at), this.bytes(this.below(20)), mutated.subarray(at)],
        () => [mutated.subarray(0, at), mutated.subarray(at + this.below(20))],
        () => [mutated.subarray(0, at), mutated.subarray(at, at + 40), mutated.subarray(at)],
      ])();
      mutated = Buffer.concat(parts);
    }
    return mutated;
  }
}

/** What an attack is aimed at: a gRPC method that takes one request, and one that takes a stream. */
export interface AttackedMethods {
  readonly unary: string;
  readonly stream: string;
}

/** Bytes for one connection that speaks HTTP/2 or tries to; `dice` decides what is left open. */
type Attack = (dice: Dice, methods: AttackedMethods) => Buffer;

const opening = Buffer.concat([preface, emptySettings]);
const repeat = (count: number, make: (i: number) => Buffer) =>
  Buffer.concat(Array.from({ length: count }, (_, i) => make(i)));
/** The odd numbers, as clients count their streams. */
const streamOf = (i: number) => 2 * i + 1;
const data = (stream: number, payload: Uint8Array, flags = 0) =>
  http2Frame({ type: frameType.data, flags, stream, payload });
const reset = (stream: number) =>
  http2Frame({ type: frameType.rstStream, stream, payload: Buffer.of(0, 0, 0, 8) });
const setting = (id: number, value: number) => {
  const payload = Buffer.alloc(6);
  payload.writeUInt16BE(id, 0);
  payload.writeUInt32BE(value, 2);
  return http2Frame({ type: frameType.settings, payload });
};

/** Bytes that are wrong from the first one, or soon. */
export const garbage: Readonly<Record<string, Attack>> = {
  'random bytes': (dice) => dice.bytes(1 + dice.below(4_000)),
  'HTTP/1.1': () => Buffer.from('POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\nx'),
  'half a preface': (dice) => preface.subarray(0, 1 + dice.below(preface.length - 1)),
  'a damaged preface': (dice) => Buffer.concat([dice.mutate(preface), emptySettings]),
  'garbage after the preface': (dice) => Buffer.concat([preface, dice.bytes(2_000)]),
  'no settings': (_, { unary }) => Buffer.concat([preface, grpcCall(1, unary)]),
  'random frames': (dice) => Buffer.concat([opening, repeat(50, () => randomFrame(dice))]),
  'damaged calls': (dice, methods) =>
    Buffer.concat([opening, dice.mutate(Buffer.concat([opening, wholeCall(dice, methods)]))]),
  'damaged headers': (dice, { unary }) => {
    const payload = dice.mutate(grpcHeaders(unary));
    const flags = flag.endHeaders | dice.pick([0, flag.endStream]);
    return Buffer.concat([opening, http2Frame({ type: frameType.headers, flags, stream: 1, payload })]);
  },
  'frames that lie about their length': (dice) =>
    Buffer.concat([
      opening,
      http2Frame({
        type: dice.below(10),
        stream: 1,
        payload: dice.bytes(30),
        length: dice.pick([0, 2 ** 24 - 1]),
      }),
    ]),
};

/** Calls that are none, or not to their end. */
export const badCalls: Readonly<Record<string, Attack>> = {
  'random messages': (dice, methods) =>
    Buffer.concat([
      opening,
      repeat(4, (i) =>
        call(streamOf(i), dice.pick(Object.values(methods)), frame(dice.bytes(dice.below(300)))),
      ),
    ]),
  'messages that lie about their length': (dice, { unary, stream }) =>
    Buffer.concat([
      opening,
      call(1, unary, Buffer.of(0, 0xff, 0xff, 0xff, 0xff, 1)),
      call(3, stream, Buffer.of(0, 0, 0, 1, 0, ...dice.bytes(20))),
    ]),
  // What costs a receiver most that keeps the pieces.
  'messages in single bytes': (_, { unary }) =>
    Buffer.concat([opening, grpcCall(1, unary), repeat(2_000, () => data(1, Buffer.of(0)))]),
  'thousands of messages in one': (_, { unary, stream }) =>
    Buffer.concat([opening, call(1, unary, Buffer.alloc(15_000)), call(3, stream, Buffer.alloc(15_000))]),
  'compressed garbage': (dice, { unary, stream }) =>
    Buffer.concat([
      opening,
      ...['gzip', 'deflate', 'snappy', '\x80'].flatMap((encoding, i) => [
        grpcCall(streamOf(i), dice.pick([unary, stream]), { 'grpc-encoding': encoding }),
        data(streamOf(i), compressed(dice.bytes(100)), flag.endStream),
      ]),
    ]),
  'a bomb of 60 MiB in 60 KiB': (_, { unary }) => {
    const bomb = compressed(gzipSync(Buffer.alloc(60 * 1024 * 1024)));
    return Buffer.concat([
      opening,
      grpcCall(1, unary, { 'grpc-encoding': 'gzip' }),
      ...chunks(bomb, 16_000).map((part) => data(1, part)),
    ]);
  },
  'groups nested 20,000 times': (_, { unary, stream }) =>
    Buffer.concat([
      opening,
      call(1, unary, frame(Buffer.alloc(14_000, 0x0b))),
      call(3, stream, frame(Buffer.alloc(14_000, 0x0b))),
    ]),
  'deadlines that are none': (dice, { unary }) =>
    Buffer.concat([
      opening,
      ...['99999999H', '0n', '-1S', '1e9H', 'H', '4294967296m', '21474836S'].map((timeout, i) =>
        call(streamOf(i), unary, frame(dice.bytes(3)), { 'grpc-timeout': timeout }),
      ),
    ]),
  'headers that are none': (dice, { unary }) =>
    Buffer.concat([
      opening,
      ...[
        { 'x-bin': '%%%', 'grpc-status-details-bin': '====' },
        { connection: 'close' },
        { 'content-length': '7' },
        { 'X-Upper': 'x' },
        { 'grpc-encoding': dice.bytes(20).toString('latin1') },
        { host: '\0', 'grpc-accept-encoding': 'x'.repeat(5_000) },
      ].map((headers, i) => call(streamOf(i), unary, frame(Buffer.alloc(0)), headers)),
    ]),
  'other methods': (_, { unary }) =>
    Buffer.concat([
      opening,
      ...['CONNECT', 'OPTIONS', 'GET', 'PRI', ''].map((method, i) =>
        http2Frame({
          type: frameType.headers,
          flags: flag.endHeaders | flag.endStream,
          stream: streamOf(i),
          payload: headerBlock({ ':method': method, ':scheme': 'https', ':path': unary, ':authority': 'x' }),
        }),
      ),
    ]),
  'trailers and more after the end': (_, { unary }) =>
    Buffer.concat([
      opening,
      call(1, unary, frame(Buffer.alloc(0))),
      data(1, frame(Buffer.alloc(0))),
      grpcCall(1, unary),
    ]),
};

/** Much of the same. */
export const floods: Readonly<Record<string, Attack>> = {
  'streams opened and reset': (_, { stream }) =>
    Buffer.concat([
      opening,
      repeat(5_000, (i) => Buffer.concat([grpcCall(streamOf(i), stream), reset(streamOf(i))])),
    ]),
  'streams that are only opened': (_, { stream }) =>
    Buffer.concat([opening, repeat(5_000, (i) => grpcCall(streamOf(i), stream))]),
  'half a message on each stream': (_, { unary }) =>
    Buffer.concat([
      opening,
      repeat(1_000, (i) =>
        Buffer.concat([grpcCall(streamOf(i), unary), data(streamOf(i), Buffer.of(0, 0, 0, 255, 255))]),
      ),
    ]),
  pings: () =>
    Buffer.concat([
      opening,
      repeat(20_000, () => http2Frame({ type: frameType.ping, payload: Buffer.alloc(8) })),
    ]),
  settings: () => Buffer.concat([opening, repeat(20_000, (i) => setting(1 + (i % 6), i))]),
  'empty data': (_, { stream }) =>
    Buffer.concat([opening, grpcCall(1, stream), repeat(20_000, () => data(1, Buffer.alloc(0)))]),
  'priorities and window updates': () =>
    Buffer.concat([
      opening,
      repeat(10_000, (i) =>
        http2Frame({ type: frameType.priority, stream: streamOf(i), payload: Buffer.alloc(5) }),
      ),
      repeat(10_000, () => http2Frame({ type: frameType.windowUpdate, payload: Buffer.of(0, 0, 0, 1) })),
    ]),
  continuations: (_, { unary }) =>
    Buffer.concat([
      opening,
      http2Frame({ type: frameType.headers, stream: 1, payload: grpcHeaders(unary) }),
      repeat(20_000, (i) =>
        http2Frame({ type: frameType.continuation, stream: 1, payload: headerBlock({ [`x-${i}`]: 'x' }) }),
      ),
    ]),
  // One header of 4,000 bytes goes into the table, and is named again by single bytes.
  'a bomb of headers': (_, { unary }) => {
    const entry = Buffer.concat([Buffer.of(0x40), hpackText('x-bomb'), hpackText('x'.repeat(4_000))]);
    const again = Buffer.alloc(12_000, 0x80 | 62);
    const payload = Buffer.concat([grpcHeaders(unary), entry, again]);
    return Buffer.concat([
      opening,
      repeat(20, (i) =>
        http2Frame({ type: frameType.headers, flags: flag.endHeaders, stream: streamOf(i), payload }),
      ),
    ]);
  },
  // Answers that can never leave.
  'a window of nothing': (_, { unary }) =>
    Buffer.concat([
      opening,
      setting(4, 0),
      repeat(2_000, (i) => call(streamOf(i), unary, frame(Buffer.alloc(0)))),
    ]),
};

/** Writes the bytes in pieces, and goes soon, in one of the ways one can go. */
export async function assault(connection: Duplex, bytes: Buffer, dice: Dice): Promise<void> {
  const closed = new Promise<void>((resolve) => connection.once('close', () => resolve()));
  connection.on('error', () => undefined);
  connection.resume();
  const pieceSize = dice.pick([1 + dice.below(64), 65_536, 1_048_576]);
  // The first pieces are small ones at times, the bulk never is.
  for (let start = 0; start < bytes.length && !connection.destroyed; ) {
    const end = start < 2_000 ? start + pieceSize : bytes.length;
    const written = new Promise<void>((resolve) =>
      connection.write(bytes.subarray(start, end), () => resolve()),
    );
    await Promise.race([written, closed]);
    start = end;
  }
  if (dice.below(2) === 0) connection.end();
  const late = setTimeout(() => connection.destroy(), 20 + dice.below(80));
  await closed;
  clearTimeout(late);
}

function call(
  stream: number,
  path: string,
  message: Buffer,
  headers: Readonly<Record<string, string>> = {},
): Buffer {
  return Buffer.concat([grpcCall(stream, path, headers), data(stream, message, flag.endStream)]);
}

function wholeCall(dice: Dice, methods: AttackedMethods): Buffer {
  return call(1, dice.pick(Object.values(methods)), frame(dice.bytes(20)));
}

function randomFrame(dice: Dice): Buffer {
  const payload = dice.bytes(dice.pick([0, 4, 5, 8, dice.below(100)]));
  const stream = dice.pick([0, 1, 1, 3, 5, dice.below(2 ** 31)]);
  return http2Frame({ type: dice.below(11), flags: dice.below(256), stream, payload });
}

/** A gRPC message that says it is compressed. */
function compressed(bytes: Uint8Array): Buffer {
  const message = frame(bytes);
  message[0] = 1;
  return message;
}

function chunks(bytes: Buffer, size: number): Buffer[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
    bytes.subarray(i * size, (i + 1) * size),
  );
}
