import { logVerbosity, setLogVerbosity } from '@grpc/grpc-js';

/**
 * Keeps grpc-js from writing to stderr past our log: a line for every header that a peer sends wrong, with what it
 * says in it. What matters reaches us as the status of a call. `GRPC_VERBOSITY` brings the lines back.
 */
export function silenceGrpc(): void {
  const { GRPC_VERBOSITY, GRPC_NODE_VERBOSITY } = process.env;
  if ((GRPC_NODE_VERBOSITY ?? GRPC_VERBOSITY) === undefined) setLogVerbosity(logVerbosity.NONE);
}
