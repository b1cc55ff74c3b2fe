import { createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto';
import type { X509BundlesResponse, X509SVID, X509SVIDResponse } from '../gen/workloadapi.ts';
import { AppError } from '../runtime/error.ts';
import { Bundle } from '../spiffe/bundle.ts';
import { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { X509Svid } from '../spiffe/x509-svid.ts';
import { parseCertificates } from '../x509/certificate.ts';
import { DerReader, tags } from '../x509/der-reader.ts';

/** An identity of this process, with what it needs to use it. */
export interface WorkloadX509Svid {
  readonly svid: X509Svid;
  /** PKCS#8 PEM; belongs to the leaf. */
  readonly privateKeyPem: string;
  /** The trust bundle of the identity's own trust domain. */
  readonly bundle: Bundle;
  /** Empty when there is none. */
  readonly hint: string;
}

/** All that the agent grants at one moment; it replaces what came before (SPIFFE Workload API §4.4). */
export interface WorkloadX509Update {
  /** The first is the default identity. Empty once the agent has taken all of them away. */
  readonly svids: readonly WorkloadX509Svid[];
  /** Own and federated trust domains, by name. For X.509-SVIDs only. */
  readonly bundles: ReadonlyMap<string, Bundle>;
}

/** Checks a FetchX509SVID message; throws `internal` when anything mandatory is missing or does not fit together. */
export function parseX509Update(message: X509SVIDResponse): WorkloadX509Update {
  return checked('FetchX509SVID', () => {
    if (message.svids.length === 0) throw invalid('there is no SVID in it');
    const svids = firstOfEachHint(message.svids).map(parseSvid);
    const own = svids.map(({ bundle }) => bundle).reverse();
    const federated = parseBundles(message.federatedBundles);
    return {
      svids,
      bundles: new Map([...federated, ...own].map((bundle) => [bundle.trustDomain.name, bundle])),
    };
  });
}

/** Checks a FetchX509Bundles message: bundles by trust domain name. Throws `internal`. */
export function parseX509Bundles(message: X509BundlesResponse): ReadonlyMap<string, Bundle> {
  return checked('FetchX509Bundles', () => {
    const bundles = parseBundles(message.bundles);
    if (bundles.length === 0) throw invalid('there is no bundle in it');
    return new Map(bundles.map((bundle) => [bundle.trustDomain.name, bundle]));
  });
}

function parseSvid(wire: X509SVID): WorkloadX509Svid {
  const missing = (['spiffeId', 'x509Svid', 'x509SvidKey', 'bundle'] as const).find(
    (field) => wire[field].length === 0,
  );
  if (missing !== undefined) throw invalid(`field ${missing} is empty`);
  const id = SpiffeId.parse(wire.spiffeId);
  const svid = X509Svid.parse(parseCertificates(wire.x509Svid));
  if (!svid.id.equals(id)) throw invalid(`the certificate of "${id}" is for "${svid.id}"`);
  const key = privateKey(wire.x509SvidKey);
  if (!createPublicKey(key).equals(createPublicKey({ key: svid.leaf.spki, format: 'der', type: 'spki' }))) {
    throw invalid(`the private key does not belong to the certificate of "${id}"`);
  }
  return {
    svid,
    privateKeyPem: key.export({ type: 'pkcs8', format: 'pem' }).toString(),
    bundle: bundleOf(id.trustDomain, wire.bundle),
    hint: wire.hint,
  };
}

/** Of SVIDs with the same hint the first counts (SPIFFE Workload API §5.2.1); those without one all do. */
function firstOfEachHint(svids: readonly X509SVID[]): readonly X509SVID[] {
  return svids.filter(
    ({ hint }, index) => hint === '' || svids.findIndex((other) => other.hint === hint) === index,
  );
}

/** Unencrypted PKCS#8 and nothing else: OpenSSL would overlook bytes behind it. */
function privateKey(der: Buffer): KeyObject {
  const reader = new DerReader(der);
  reader.take(tags.sequence, 'private key');
  reader.end('private key');
  try {
    return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
  } catch {
    // Without the cause: nobody should look for the key in a log.
    throw invalid('the private key is not PKCS#8');
  }
}

function parseBundles(bundles: Readonly<Record<string, Uint8Array>>): readonly Bundle[] {
  return Object.entries(bundles).map(([name, der]) => bundleOf(TrustDomain.parseNameOrId(name), der));
}

function bundleOf(trustDomain: TrustDomain, der: Uint8Array): Bundle {
  const x509Authorities = parseCertificates(der).map((certificate) => ({ certificate, tainted: false }));
  return new Bundle({ trustDomain, x509Authorities, sequence: 0, refreshHintSeconds: 0 });
}

function checked<T>(method: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    throw new AppError('internal', `the Workload API sent an unusable answer to ${method}: ${error.message}`);
  }
}

function invalid(message: string): AppError {
  return new AppError('invalid-argument', message);
}
