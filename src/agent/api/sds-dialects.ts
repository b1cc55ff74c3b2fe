import { decodeDeltaDiscoveryRequest } from './delta-discovery-request.ts';
import { DeltaRequests } from './delta-requests.ts';
import { type AnyRequest, type DecodeOptions, decodeDiscoveryRequest } from './discovery-request.ts';
import type { SdsSession } from './sds-session.ts';
import type { Dialect } from './secrets.ts';
import { type Reception, SotwRequests } from './sotw-requests.ts';

/** One decoded request, which `apply` makes part of the session. */
export interface ReceivedRequest extends AnyRequest {
  /** The names it asks for. */
  readonly asked: readonly string[];
  /** Throws beyond the limits. */
  apply(): Reception;
}

/** Reads the requests of one stream; throws as the decoders do. */
export type ReadRequest = (bytes: Uint8Array, options: DecodeOptions) => ReceivedRequest;

/** What is special about a dialect. */
export interface SdsDialect {
  /** Whether it can say that a secret does not exist. */
  readonly tellsAbsence: boolean;
  /** For a new stream. */
  reader(session: SdsSession): ReadRequest;
}

/** State-of-the-World and Delta over the same session. */
export const sdsDialects = {
  sotw: {
    tellsAbsence: false,
    reader(session) {
      const requests = new SotwRequests(session);
      return (bytes, options) => {
        const request = decodeDiscoveryRequest(bytes, options);
        const { typeUrl, node, names: asked } = request;
        return { typeUrl, node, asked, apply: () => requests.receive(request) };
      };
    },
  },
  delta: {
    tellsAbsence: true,
    reader(session) {
      const requests = new DeltaRequests(session);
      return (bytes, options) => {
        const request = decodeDeltaDiscoveryRequest(bytes, options);
        const { typeUrl, node, subscribe: asked } = request;
        return { typeUrl, node, asked, apply: () => requests.receive(request) };
      };
    },
  },
} as const satisfies Record<Dialect, SdsDialect>;
