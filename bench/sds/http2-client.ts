import { connect, type Socket } from 'node:net';
import { flag, frameType, grpcHeaders, http2Frame, preface } from '../../e2e/support/http2-frames.ts';

const headBytes = 9;
/** RFC 9113 §6.5.2 and §6.9.2: what holds until the other side says otherwise. */
const initialWindow = 65_535;
const maxFrameBytes = 16_384;
const largestWindow = 2 ** 31 - 1;
const initialWindowSetting = 4;

/** What comes on a stream. */
export interface StreamListener {
  /** One message, without its five bytes of gRPC framing; `atMs` is when it was read, by `nowMs`. */
  message(bytes: Buffer, atMs: number): void;
  /** The other side has ended the stream, or the connection is gone. */
  end(): void;
}

interface Stream {
  readonly listener: StreamListener;
  window: number;
  /** Of a message that is not complete. */
  rest: Buffer;
}

/** Milliseconds of a clock that all processes of the machine share. */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/**
 * gRPC streams on one connection to a Unix socket, by hand: response headers are not decoded, nothing is allocated
 * per stream but one record. grpc-js as a client costs as much as the agent that it is to measure.
 */
export class Http2Client {
  readonly #socket: Socket;
  readonly #headers: Buffer;
  readonly #streams = new Map<number, Stream>();
  #lastStream = -1;
  #window = initialWindow;
  #streamWindow = initialWindow;
  #rest: Buffer = Buffer.alloc(0);
  #out: Buffer[] = [];
  /** What the other side gives no window for yet. */
  readonly #blocked: { readonly stream: number; readonly frame: Buffer; readonly bytes: number }[] = [];

  private constructor(socket: Socket, path: string) {
    this.#socket = socket;
    this.#headers = grpcHeaders(path);
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      for (const id of [...this.#streams.keys()]) this.#end(id);
    });
  }

  /** `path` is the method that all streams call. */
  static async connect(socketPath: string, path: string): Promise<Http2Client> {
    const socket = connect(socketPath);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const client = new Http2Client(socket, path);
    // Windows so large that they are never used up: nothing needs to be given back.
    const setting = Buffer.alloc(6);
    setting.writeUInt16BE(initialWindowSetting, 0);
    setting.writeUInt32BE(largestWindow, 2);
    const increment = Buffer.alloc(4);
    increment.writeUInt32BE(largestWindow - initialWindow);
    client.#write(preface);
    client.#write(http2Frame({ type: frameType.settings, payload: setting }));
    client.#write(http2Frame({ type: frameType.windowUpdate, payload: increment }));
    return client;
  }

  /** Opens a stream and returns its id. */
  open(listener: StreamListener): number {
    this.#lastStream += 2;
    const stream = this.#lastStream;
    this.#streams.set(stream, { listener, window: this.#streamWindow, rest: Buffer.alloc(0) });
    const { endHeaders } = flag;
    this.#write(http2Frame({ type: frameType.headers, flags: endHeaders, stream, payload: this.#headers }));
    return stream;
  }

  /** Sends a message, which comes with its gRPC framing. */
  send(stream: number, message: Buffer): void {
    for (let start = 0; start < message.length; start += maxFrameBytes) {
      const payload = message.subarray(start, start + maxFrameBytes);
      const frame = http2Frame({ type: frameType.data, stream, payload });
      this.#blocked.push({ stream, frame, bytes: payload.length });
    }
    this.#unblock();
  }

  close(): void {
    this.#socket.destroy();
  }

  /** In order, also where another stream could go on: nobody here sends so much. */
  #unblock(): void {
    for (let next = this.#blocked[0]; next !== undefined; next = this.#blocked[0]) {
      const stream = this.#streams.get(next.stream);
      if (stream !== undefined) {
        if (this.#window < next.bytes || stream.window < next.bytes) return;
        this.#window -= next.bytes;
        stream.window -= next.bytes;
        this.#write(next.frame);
      }
      this.#blocked.shift();
    }
  }

  /** All that is written in one turn leaves in one go. */
  #write(frame: Buffer): void {
    if (this.#out.length === 0) process.nextTick(() => this.#flush());
    this.#out.push(frame);
  }

  #flush(): void {
    const out = this.#out;
    this.#out = [];
    if (!this.#socket.destroyed) this.#socket.write(Buffer.concat(out));
  }

  #take(chunk: Buffer): void {
    const atMs = nowMs();
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    let at = 0;
    while (bytes.length - at >= headBytes) {
      const end = at + headBytes + bytes.readUIntBE(at, 3);
      if (end > bytes.length) break;
      this.#frame({
        type: bytes.readUInt8(at + 3),
        flags: bytes.readUInt8(at + 4),
        id: bytes.readUInt32BE(at + 5),
        payload: bytes.subarray(at + headBytes, end),
        atMs,
      });
      at = end;
    }
    this.#rest = bytes.subarray(at);
  }

  #frame(frame: { type: number; flags: number; id: number; payload: Buffer; atMs: number }): void {
    const { type, flags, id, payload } = frame;
    if (type === frameType.data) this.#data(frame);
    else if (type === frameType.windowUpdate) this.#widen(id, payload.readUInt32BE(0));
    else if (type === frameType.rstStream) this.#end(id);
    else if ((flags & flag.ack) === 0 && type === frameType.settings) this.#settings(payload);
    else if ((flags & flag.ack) === 0 && type === frameType.ping) {
      this.#write(http2Frame({ type, flags: flag.ack, payload }));
    }
    const mayEndStream = type === frameType.data || type === frameType.headers;
    if (mayEndStream && (flags & flag.endStream) !== 0) this.#end(id);
  }

  #data({ id, payload, atMs }: { id: number; payload: Buffer; atMs: number }): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) return;
    let bytes = stream.rest.length === 0 ? payload : Buffer.concat([stream.rest, payload]);
    while (bytes.length >= 5 && bytes.length >= 5 + bytes.readUInt32BE(1)) {
      const end = 5 + bytes.readUInt32BE(1);
      stream.listener.message(bytes.subarray(5, end), atMs);
      bytes = bytes.subarray(end);
    }
    // A copy: what is left must not keep the whole chunk.
    stream.rest = bytes.length === 0 ? bytes : Buffer.from(bytes);
  }

  #settings(payload: Buffer): void {
    for (let at = 0; at + 6 <= payload.length; at += 6) {
      if (payload.readUInt16BE(at) !== initialWindowSetting) continue;
      const window = payload.readUInt32BE(at + 2);
      for (const stream of this.#streams.values()) stream.window += window - this.#streamWindow;
      this.#streamWindow = window;
    }
    this.#write(http2Frame({ type: frameType.settings, flags: flag.ack }));
    this.#unblock();
  }

  #widen(id: number, increment: number): void {
    const stream = this.#streams.get(id);
    if (id === 0) this.#window += increment;
    else if (stream !== undefined) stream.window += increment;
    this.#unblock();
  }

  #end(id: number): void {
    const stream = this.#streams.get(id);
    this.#streams.delete(id);
    stream?.listener.end();
  }
}
