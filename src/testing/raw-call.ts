import {
  type ClientChannel,
  type ClientMethod,
  callServerStream,
  callUnary,
  openBidi,
} from '../rpc/grpc-client.ts';
import { isAppError } from '../runtime/error.ts';
import type { ServiceMethod } from './service-definitions.ts';

/** Calls a method of any kind with one empty message; the error, or undefined when an answer comes. */
export async function refusalOf(channel: ClientChannel, { path, ...kind }: ServiceMethod) {
  const same = (bytes: Buffer): Buffer => bytes;
  const method: ClientMethod<Buffer, Buffer> = { path, requestSerialize: same, responseDeserialize: same };
  const empty = Buffer.alloc(0);
  try {
    if (kind.requestStream) {
      const call = openBidi(channel, method, { timeoutMs: 20_000 });
      call.send(empty);
      await call.next();
      call.cancel();
    } else if (kind.responseStream) {
      for await (const _ of callServerStream(channel, method, empty, { timeoutMs: 20_000 })) break;
    } else {
      await callUnary(channel, method, empty, { timeoutMs: 20_000 });
    }
    return undefined;
  } catch (error) {
    if (isAppError(error)) return error;
    throw error;
  }
}
