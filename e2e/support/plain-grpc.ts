// A gRPC client made of nothing but HTTP/2, which can say things that no gRPC library would. It runs on its own, as a
// process of another user that cannot read the checkout: so no imports but Node's. Reads its calls as JSON from the
// file that is its argument, makes one after the other, each on a connection of its own, and prints what came.
import { readFileSync } from 'node:fs';
import { connect, constants } from 'node:http2';
import { createConnection } from 'node:net';

/** One call: `send` of each step is written, then `until` messages in all are waited for. */
export interface PlainCall {
  readonly name: string;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Bytes to write, base64: whole frames of gRPC, made by `frame`, or anything else. */
  readonly steps: readonly { readonly send: string; readonly until?: number }[];
  /** True: the request stays open, and what came after the last step is all there is. */
  readonly isStream?: boolean;
}

/** What came of it. */
export interface PlainAnswer {
  readonly name: string;
  /** gRPC messages, base64, without their frames. */
  readonly messages: readonly string[];
  /** The gRPC status, such as 7; undefined while the stream was open, and when the connection ended. */
  readonly status?: number;
  readonly text?: string;
  /** How the connection or stream broke, if it did. */
  readonly error?: string;
}

/** A gRPC frame: not compressed, with its length. */
export function frame(message: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** Longer than this nothing may take: the call then fails with `error: 'no answer'`. */
const patienceMs = 5_000;

async function make(socket: string, call: PlainCall): Promise<PlainAnswer> {
  const session = connect('http://localhost', { createConnection: () => createConnection(socket) });
  const answer: { messages: string[]; status?: number; text?: string; error?: string } = { messages: [] };
  let received = Buffer.alloc(0);
  let isOver = false;
  let wake = () => {};
  const end = (error?: Error) => {
    if (error !== undefined) answer.error ??= error.message;
    isOver = true;
    wake();
  };
  session.on('error', end);
  const stream = session.request({
    ':method': 'POST',
    ':path': call.path,
    'content-type': 'application/grpc',
    te: 'trailers',
    ...call.headers,
  });
  const takeStatus = (headers: Record<string, unknown>) => {
    if (headers['grpc-status'] === undefined) return;
    answer.status = Number(headers['grpc-status']);
    answer.text = decodeURIComponent(String(headers['grpc-message'] ?? ''));
  };
  stream.on('response', (headers) => {
    takeStatus(headers);
    if (headers[':status'] !== 200) answer.error = `HTTP ${headers[':status']}`;
  });
  stream.on('trailers', takeStatus);
  stream.on('data', (bytes: Buffer) => {
    received = Buffer.concat([received, bytes]);
    for (let size = sizeOf(received); size !== undefined; size = sizeOf(received)) {
      answer.messages.push(received.subarray(5, 5 + size).toString('base64'));
      received = received.subarray(5 + size);
    }
    wake();
  });
  stream.on('error', end);
  stream.on('close', () => end());
  const timer = setTimeout(() => end(new Error('no answer')), patienceMs);
  for (const { send, until = 0 } of call.steps) {
    if (isOver) break;
    if (send !== '') stream.write(Buffer.from(send, 'base64'));
    while (!isOver && answer.messages.length < until) await new Promise<void>((done) => (wake = done));
  }
  if (call.isStream !== true && !isOver) {
    stream.end();
    while (!isOver) await new Promise<void>((done) => (wake = done));
  }
  clearTimeout(timer);
  stream.close(constants.NGHTTP2_CANCEL);
  session.destroy();
  return { name: call.name, ...answer };
}

/** Length of the first message when all of it is there. */
function sizeOf(bytes: Buffer): number | undefined {
  if (bytes.length < 5) return undefined;
  const size = bytes.readUInt32BE(1);
  return bytes.length < 5 + size ? undefined : size;
}

const [, , file] = process.argv;
if (import.meta.main && file !== undefined) {
  const { socket, calls } = JSON.parse(readFileSync(file, 'utf8')) as { socket: string; calls: PlainCall[] };
  const answers: PlainAnswer[] = [];
  for (const call of calls) answers.push(await make(socket, call));
  process.stdout.write(`${JSON.stringify(answers)}\n`);
}
