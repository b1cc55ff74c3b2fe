import type { AppError } from '../runtime/error.ts';
import type { SpiffeId } from '../spiffe/spiffe-id.ts';
import type { Certificate } from '../x509/certificate.ts';
import type { TrackedPeer } from './peer-process.ts';

/** One connection, the same object for all its calls: a key for WeakMaps. */
export interface Connection {
  /** Aborts when the connection has closed. */
  readonly closed: AbortSignal;
}

/** Who makes a call, as the kernel or TLS has proved it; never what the caller says of itself. */
export type Caller =
  /** Came through a socket whose file permissions are the access control. */
  | { readonly kind: 'local' }
  | { readonly kind: 'process'; readonly peer: TrackedPeer; readonly connection: Connection }
  /** TLS without a client certificate. */
  | { readonly kind: 'anonymous'; readonly address: string }
  | {
      readonly kind: 'svid';
      readonly id: SpiffeId;
      readonly certificate: Certificate;
      readonly address: string;
    }
  /** TLS with a client certificate that is not accepted: each call is refused with the reason. */
  | { readonly kind: 'refused'; readonly refusal: AppError; readonly address: string };

/** The caller for logs. */
export function callerText(caller: Caller): string {
  switch (caller.kind) {
    case 'local':
      return 'local';
    case 'process':
      return `pid ${caller.peer.pid}, uid ${caller.peer.uid}`;
    case 'anonymous':
    case 'refused':
      return caller.address;
    case 'svid':
      return `${caller.id} at ${caller.address}`;
  }
}
