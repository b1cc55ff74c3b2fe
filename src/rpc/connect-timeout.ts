import { subscribe } from 'node:diagnostics_channel';
import type { Socket } from 'node:net';

/** For each port how long a connection may take, in ms, once for each that asked for it. */
const limits = new Map<number, readonly number[]>();
let isWatching = false;

/**
 * From now on TCP connections of this process to `port` that are not there after `timeoutMs` fail, until the returned
 * function is called. grpc-js opens them itself, with no limit but the system's: where packets vanish that is two
 * minutes, with tries ever further apart, so that a server that is back would not be noticed for long.
 */
export function limitConnecting(port: number, timeoutMs: number): () => void {
  if (!isWatching) {
    isWatching = true;
    subscribe('net.client.socket', (message) => watch((message as { readonly socket: Socket }).socket));
  }
  limits.set(port, [...(limits.get(port) ?? []), timeoutMs]);
  let isOver = false;
  return () => {
    if (isOver) return;
    isOver = true;
    const left = [...(limits.get(port) ?? [])];
    left.splice(left.indexOf(timeoutMs), 1);
    if (left.length === 0) limits.delete(port);
    else limits.set(port, left);
  };
}

function watch(socket: Socket): void {
  socket.once('connectionAttempt', (_ip: string, port: number) => {
    const timeouts = limits.get(port);
    if (timeouts === undefined) return;
    const timer = setTimeout(
      () => socket.destroy(new Error('no answer to the connection attempt in time')),
      Math.min(...timeouts),
    );
    timer.unref();
    const done = () => clearTimeout(timer);
    socket.once('connect', done).once('close', done);
  });
}
