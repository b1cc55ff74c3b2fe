import type { AppError } from '../../runtime/error.ts';
import type { ProxyProtocol } from '../proxy-book.ts';
import type { EncodedSecret } from './secrets.ts';

/** How a stream is told what happens elsewhere. */
export interface StreamListener {
  readonly protocol: ProxyProtocol;
  /**
   * `lookup` or `isAbsent` may answer otherwise for one of its names. Not called for changes of the caller's view, which
   * streams follow themselves, and never from within another call.
   */
  changed(): void;
  /** It has not answered in time and is to be ended with this `unavailable`. */
  stalled(error: AppError): void;
}

/** What one stream tells the books. Calls after `close` do nothing. */
export interface StreamBooks {
  /** All names that it asks for now; to be called with its first request, and whenever they change. */
  requested(names: readonly string[]): void;
  /** To be called in the turn of the `lookup` that gave the secret; throws `internal` for another one. */
  sent(name: string, secret: EncodedSecret): void;
  /** `error` is Envoy's text, and the mark of a NACK. */
  answered(name: string, version: string, error: string | undefined): void;
  close(): void;
}

/** What the streams of one connection share. */
export interface DeliveryConnection {
  streams: number;
  /** Streams that have not asked for anything yet. */
  silent: number;
}

/** A stream, as the books know it. */
export interface DeliveryStream {
  readonly listener: StreamListener;
  readonly connection: DeliveryConnection;
  isSilent: boolean;
  isClosed: boolean;
  /** Until it answers something: it is logged once. */
  isStalled: boolean;
}
