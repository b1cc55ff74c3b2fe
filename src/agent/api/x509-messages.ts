import { createPrivateKey } from 'node:crypto';
import { X509BundlesResponse, type X509SVID, X509SVIDResponse } from '../../gen/workloadapi.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { HeldSvid, Identity, WorkloadView } from '../workload-view.ts';

/** An encoded X509SVIDResponse. */
export interface X509SvidMessage {
  /** The SPIFFE ID of the first SVID, which clients take as their default identity. */
  readonly defaultId: string;
  readonly bytes: Buffer;
}

/**
 * The full state of a workload's X.509 identities: what is signed, in the stable order of the view, but
 * `defaultId` first. Undefined when there is nothing, since the list is never empty (WAPI-18), no field but the hint
 * is (WAPI-19); and while `defaultId` is in the view but not signed: without it, the next one would become the
 * client's default.
 */
export function x509SvidResponse(view: WorkloadView, defaultId?: string): X509SvidMessage | undefined {
  const { bundle, federatedBundles } = view;
  if (bundle === undefined || bundle.certificates().length === 0) return undefined;
  const identities = defaultId === undefined ? view.identities : withFirst(view.identities, defaultId);
  if (identities === undefined) return undefined;
  const svids = identities.map((identity) => svidOf(identity, bundle)).filter((svid) => svid !== undefined);
  const [first] = svids;
  if (first === undefined) return undefined;
  const response = { svids, crl: [], federatedBundles: bundleMap(federatedBundles) };
  return { defaultId: first.spiffeId, bytes: Buffer.from(X509SVIDResponse.encode(response).finish()) };
}

/** As they are when none has the SPIFFE ID `id`; undefined when none that has it is signed. */
function withFirst(identities: readonly Identity[], id: string): readonly Identity[] | undefined {
  const named = identities.filter(({ entry }) => entry.spiffeId.toString() === id);
  if (named.length === 0) return identities;
  const first = named.find(({ svid }) => svid !== undefined);
  return first === undefined ? undefined : [first, ...identities.filter((identity) => identity !== first)];
}

/** All bundles of a workload as an encoded X509BundlesResponse; undefined without the own one (WAPI-26). */
export function x509BundlesResponse(view: WorkloadView): Buffer | undefined {
  const { bundle, federatedBundles } = view;
  if (bundle === undefined || bundle.certificates().length === 0) return undefined;
  const response = { crl: [], bundles: bundleMap([bundle, ...federatedBundles]) };
  return Buffer.from(X509BundlesResponse.encode(response).finish());
}

function svidOf({ svid, hint }: Identity, bundle: Bundle): X509SVID | undefined {
  if (svid === undefined) return undefined;
  return {
    spiffeId: svid.svid.id.toString(),
    x509Svid: Buffer.concat(svid.svid.chain.map((certificate) => certificate.der)),
    x509SvidKey: pkcs8Of(svid),
    bundle: bundle.concatenatedDer(),
    hint,
  };
}

/** Unencrypted PKCS#8, DER (WAPI-16). */
function pkcs8Of({ privateKeyPem }: HeldSvid): Buffer {
  return createPrivateKey(privateKeyPem).export({ format: 'der', type: 'pkcs8' });
}

/** By trust domain ID; a domain without authorities is left out, which means that nobody of it is trusted. */
function bundleMap(bundles: readonly Bundle[]): Record<string, Buffer> {
  const usable = bundles.filter((bundle) => bundle.certificates().length > 0);
  return Object.fromEntries(usable.map((bundle) => [bundle.trustDomain.id, bundle.concatenatedDer()]));
}
