import type { Selector } from './selector.ts';
import type { SpiffeId, TrustDomain } from './spiffe-id.ts';

/** Which workloads, found by their selectors below a parent, hold which identity. Times are Unix seconds. */
export interface RegistrationEntry {
  readonly id: string;
  readonly spiffeId: SpiffeId;
  readonly parentId: SpiffeId;
  /** In canonical order, without duplicates. */
  readonly selectors: readonly Selector[];
  /** 0 = the server's default. */
  readonly x509SvidTtlSeconds: number;
  readonly jwtSvidTtlSeconds: number;
  readonly federatesWith: readonly TrustDomain[];
  readonly dnsNames: readonly string[];
  readonly admin: boolean;
  readonly downstream: boolean;
  readonly storeSvid: boolean;
  readonly hint: string;
  /** 0 = never. */
  readonly expiresAt: number;
  readonly createdAt: number;
  /** 0 when created; one more with each change. */
  readonly revision: number;
  readonly disableX509SvidPrefetch: boolean;
  readonly jwtSvidIncludeJti: boolean;
}

/** An entry before the store has given it its revision and creation time. */
export type NewEntry = Omit<RegistrationEntry, 'revision' | 'createdAt'>;

/** An entry with the server's defaults, no rights and no names besides its ID, for all that is not given. */
export function newEntry(
  fields: Partial<NewEntry> & Pick<NewEntry, 'spiffeId' | 'parentId' | 'selectors'>,
): NewEntry {
  return {
    id: '',
    x509SvidTtlSeconds: 0,
    jwtSvidTtlSeconds: 0,
    federatesWith: [],
    dnsNames: [],
    admin: false,
    downstream: false,
    storeSvid: false,
    hint: '',
    expiresAt: 0,
    disableX509SvidPrefetch: false,
    jwtSvidIncludeJti: false,
    ...fields,
  };
}
