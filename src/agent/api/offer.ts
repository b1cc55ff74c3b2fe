import type { ServedResource } from './resource.ts';
import type { EncodedSecret } from './secrets.ts';

/** A secret that a proxy may be sent. */
export interface Offer {
  readonly secret: EncodedSecret;
  readonly resource: ServedResource;
  /** The version of its plain bytes, by which the quarantine knows it. */
  readonly content: string;
  readonly salt: number;
}
